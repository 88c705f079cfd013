//! The structure of the library: the map in `src/lib.rs` names every module, and a module imports only modules above it in that map.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// The path of a module within the crate: `["daemon", "conn", "peer"]`.
type Module = Vec<String>;

fn source_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn module_of(file: &Path) -> Module {
    let mut module: Module =
        file.strip_prefix(SRC).unwrap().with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// The code of a file without comments, because a link in documentation is not an import.
fn code(file: &Path) -> String {
    fs::read_to_string(file).unwrap().lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// All paths in `code` that start at the crate or at a parent module, as absolute paths. `use` trees are expanded.
fn paths(code: &str, module: &Module) -> BTreeSet<Module> {
    let uses = Regex::new(r"(?s)\buse\s+([^;]+);").unwrap();
    let inline = Regex::new(r"\b(?:crate|super)(?:::\w+)+").unwrap();
    let mut written: Vec<String> = inline.find_iter(code).map(|found| found.as_str().to_owned()).collect();
    for tree in uses.captures_iter(code) {
        expand("", &tree[1].split_whitespace().collect::<Vec<_>>().join(" "), &mut written);
    }
    written.iter().filter_map(|path| absolute(path, module)).collect()
}

/// Expands the tree of a `use`: `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn expand(prefix: &str, tree: &str, out: &mut Vec<String>) {
    let Some(open) = tree.find('{') else { return out.push(format!("{prefix}{}", tree.trim())) };
    let prefix = format!("{prefix}{}", tree[..open].trim());
    let (mut depth, mut start) = (0, open + 1);
    for (at, c) in tree.char_indices().skip(open) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || (c == '}' && depth == 0) {
            expand(&prefix, &tree[start..at], out);
            start = at + 1;
        }
    }
}

fn absolute(path: &str, module: &Module) -> Option<Module> {
    let path = path.split(" as ").next()?.trim();
    let mut parts: Vec<&str> = path.split("::").collect();
    let mut base: Module = match parts.first()? {
        &"crate" => Module::new(),
        &"super" | &"self" => module.clone(),
        _ => return None,
    };
    while let Some(first) = parts.first() {
        match *first {
            "crate" | "self" => {}
            "super" => drop(base.pop()),
            _ => break,
        }
        parts.remove(0);
    }
    base.extend(parts.iter().map(|part| (*part).to_owned()));
    Some(base)
}

/// The modules that each module imports, also in its tests.
fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let files: Vec<PathBuf> =
        source_files(Path::new(SRC)).into_iter().filter(|file| !file.starts_with(Path::new(SRC).join("bin"))).collect();
    let modules: BTreeSet<Module> = files.iter().map(|file| module_of(file)).collect();
    files
        .iter()
        .filter(|file| !["lib.rs", "internals.rs"].iter().any(|name| file.ends_with(Path::new("src").join(name))))
        .map(|file| {
            let module = module_of(file);
            let found = paths(&code(file), &module);
            let found = found.into_iter().filter_map(|mut path| {
                while !path.is_empty() && !modules.contains(&path) {
                    path.pop();
                }
                (!path.is_empty()).then_some(path)
            });
            (module, found.collect())
        })
        .collect()
}

/// The modules in the order of the map in `lib.rs`. Lower modules come first.
fn map() -> Vec<String> {
    let text = fs::read_to_string(Path::new(SRC).join("lib.rs")).unwrap();
    let names = Regex::new(r"`(\w+)`").unwrap();
    let rows = text.lines().filter(|line| line.starts_with("//! | `"));
    rows.flat_map(|row| names.captures_iter(row.split('|').nth(1).unwrap()).map(|name| name[1].to_owned()).collect::<Vec<_>>()).collect()
}

#[test]
fn the_map_names_every_module_once() {
    let text = fs::read_to_string(Path::new(SRC).join("lib.rs")).unwrap();
    let declared = Regex::new(r"(?m)^(?:pub )?mod (\w+);").unwrap();
    let mut declared: Vec<String> =
        declared.captures_iter(&text).map(|name| name[1].to_owned()).filter(|name| name != "internals").collect();
    let mut mapped = map();
    declared.sort();
    mapped.sort();
    assert_eq!(mapped, declared);
}

#[test]
fn a_module_imports_only_modules_above_it_in_the_map() {
    let map = map();
    let position = |module: &Module| map.iter().position(|name| *name == module[0]).unwrap();
    let mut upward = Vec::new();
    for (module, imported) in imports() {
        for other in imported.iter().filter(|other| position(other) > position(&module)) {
            upward.push(format!("{} imports {}", module.join("::"), other.join("::")));
        }
    }
    assert!(upward.is_empty(), "upward imports:\n{}", upward.join("\n"));
}

#[test]
fn no_imports_inside_a_folder_form_a_circle() {
    // For each folder, which of its direct children import which others.
    let mut folders: BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (module, imported) in imports() {
        for other in imported {
            let shared = module.iter().zip(&other).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (module.get(shared), other.get(shared)) {
                folders.entry(module[..shared].to_vec()).or_default().entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    let mut circles = Vec::new();
    for (folder, mut edges) in folders {
        // Repeatedly removes the modules that import none of the remaining ones. What remains is in a circle or leads to one.
        loop {
            let names: BTreeSet<String> = edges.keys().cloned().collect();
            edges.values_mut().for_each(|others| others.retain(|other| names.contains(other)));
            let before = edges.len();
            edges.retain(|_, others| !others.is_empty());
            if edges.len() == before {
                break;
            }
        }
        for (name, others) in edges {
            circles.push(format!("{}::{name} imports {others:?}", folder.join("::")));
        }
    }
    assert!(circles.is_empty(), "circles:\n{}", circles.join("\n"));
}
