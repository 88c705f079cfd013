//! The documentation is true: configurations are accepted by the programs that they are for, commands exist, links and named files and
//! functions lead somewhere. `tests/long/package` and `tests/long/neighbours` also run the commands and compare what they do with the page.
//!
//! A snippet's language says what it is: `toml`, `squid`, `exim` (main options), `exim-acl`, `sh`, or `text` for a program's output.
//! A comment in front of it may say `with FILE` (a list that the snippet names), `not run: WHY`, or on which machine a command is run.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use strikeout::internals::config::Config;
use strikeout::internals::rule_id::RuleNames;

#[path = "harness/mod.rs"]
mod harness;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A fenced block.
struct Snippet {
    /// `docs/tuning.md:12`.
    place: String,
    language: String,
    comment: Option<String>,
    text: String,
}

/// The pages in the top directory and in `docs`.
fn pages() -> BTreeMap<PathBuf, String> {
    let folders = [Path::new(ROOT).to_path_buf(), Path::new(ROOT).join("docs")];
    let pages = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    pages
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect()
}

fn snippets() -> Vec<Snippet> {
    let mut snippets = Vec::new();
    for (path, page) in pages() {
        let name = path.strip_prefix(ROOT).unwrap().display().to_string();
        let (mut open, mut before) = (None::<Snippet>, None);
        for (number, line) in page.lines().enumerate() {
            match (&mut open, line.strip_prefix("```")) {
                (None, Some(language)) => {
                    let place = format!("{name}:{}", number + 1);
                    open = Some(Snippet { place, language: language.to_owned(), comment: before.take(), text: String::new() });
                }
                (Some(_), Some(_)) => snippets.push(open.take().unwrap()),
                (Some(snippet), None) => snippet.text += &format!("{line}\n"),
                (None, None) => {
                    before = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")).map(ToOwned::to_owned);
                }
            }
        }
        assert!(open.is_none(), "{name}: a block is not closed");
    }
    assert!(snippets.len() > 20, "the pages are not found");
    snippets
}

fn of(language: &str) -> Vec<Snippet> {
    let snippets: Vec<_> = snippets().into_iter().filter(|snippet| snippet.language == language).collect();
    assert!(!snippets.is_empty(), "no {language} in the pages");
    snippets
}

/// The snippet with the file that it names put into `folder`.
fn with_its_file(snippet: &Snippet, folder: &Path) -> String {
    let Some(named) = snippet.comment.as_deref().and_then(|comment| comment.strip_prefix("with ")) else {
        return snippet.text.clone();
    };
    let file = folder.join(Path::new(named).file_name().unwrap());
    let filter = named.contains("filter.d");
    std::fs::write(&file, if filter { "[Definition]\nfailregex = ^\\s*refused <HOST>$\n" } else { "192.0.2.0/25\n2001:db8:cd::/48\n" })
        .unwrap();
    assert!(snippet.text.contains(named), "{}: does not name {named}", snippet.place);
    snippet.text.replace(named, file.to_str().unwrap())
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_snippet_has_a_language_that_is_tested() {
    for snippet in snippets() {
        let known = ["toml", "squid", "exim", "exim-acl", "sh", "text"];
        assert!(known.contains(&snippet.language.as_str()), "{}: found the language {:?}", snippet.place, snippet.language);
        if let Some(comment) = &snippet.comment {
            let known = ["with /", "not run: ", "elsewhere", "package", "removal"];
            assert!(known.iter().any(|known| comment.starts_with(known)), "{}: found the comment {comment:?}", snippet.place);
        }
    }
}

#[test]
fn every_configuration_of_ours_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    for snippet in of("toml") {
        if snippet.comment.as_deref().is_some_and(|comment| comment.starts_with("not run: ")) {
            continue;
        }
        let text = with_its_file(&snippet, folder.path());
        if let Err(error) = Config::parse(text.as_bytes(), Path::new(&snippet.place), &RuleNames::default()) {
            panic!("{error}");
        }
    }
}

/// An operator who follows a page puts its snippet beside the packaged file.
#[test]
fn every_configuration_of_ours_works_as_a_piece_beside_the_packaged_one() {
    let packaged = std::fs::read_to_string(Path::new(ROOT).join("conf-examples/strikeout.toml")).unwrap();
    for snippet in of("toml") {
        if snippet.comment.as_deref().is_some_and(|comment| comment.starts_with("not run: ")) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("strikeout.toml");
        std::fs::write(&main, &packaged).unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        std::fs::write(folder.path().join("conf.d/snippet.toml"), with_its_file(&snippet, folder.path())).unwrap();
        if let Err(error) = Config::load(Some(&main), &RuleNames::default()) {
            panic!("{}: {error}", snippet.place);
        }
    }
}

#[test]
fn squid_accepts_every_configuration_for_it() {
    if !harness::has("squid", "squid") {
        return;
    }
    let squid = harness::program("squid").unwrap();
    let folder = tempfile::tempdir().unwrap();
    for snippet in of("squid") {
        let file = folder.path().join("squid.conf");
        let text = with_its_file(&snippet, folder.path());
        std::fs::write(&file, format!("{text}\ncache_log {0}/cache.log\npid_filename {0}/squid.pid\n", folder.path().display())).unwrap();
        let output = Command::new(&squid).args(["-k", "parse", "-f"]).arg(&file).output().unwrap();
        let printed = printed(&output);
        assert!(output.status.success() && !printed.contains("ERROR") && !printed.contains("WARNING"), "{}: {printed}", snippet.place);
    }
}

fn exim_reads(exim: &Path, configuration: &str) -> Result<(), String> {
    let folder = tempfile::Builder::new().prefix("strikeout-docs").tempdir().unwrap();
    let file = folder.path().join("exim.conf");
    std::fs::write(&file, configuration).unwrap();
    let output = Command::new(exim).arg("-C").arg(&file).arg("-bV").output().unwrap();
    if output.status.success() { Ok(()) } else { Err(printed(&output)) }
}

#[test]
fn exim_accepts_every_configuration_for_it() {
    if !harness::has("exim4", "exim4-daemon-heavy") {
        return;
    }
    let exim = harness::program("exim4").unwrap();
    for snippet in of("exim") {
        exim_reads(&exim, &format!("{}\nlocal_interfaces = 127.0.0.1\n", snippet.text))
            .unwrap_or_else(|printed| panic!("{}: {printed}", snippet.place));
    }
    for snippet in of("exim-acl") {
        let configuration = format!("acl_smtp_connect = strikeout\nbegin acl\nstrikeout:\n{}", snippet.text);
        exim_reads(&exim, &configuration).unwrap_or_else(|printed| panic!("{}: {printed}", snippet.place));
    }
    assert!(exim_reads(&exim, "no_such_option = 1\n").is_err(), "this Exim accepts everything");
}

#[test]
fn every_command_exists() {
    let mut commands = 0;
    for snippet in of("sh") {
        let output = Command::new("bash").args(["-n", "-c", &snippet.text]).output().unwrap();
        assert!(output.status.success(), "{}: {}", snippet.place, printed(&output));
        for line in snippet.text.lines().filter(|line| line.starts_with("strikeout ")) {
            let line = line.split(" > ").next().unwrap();
            let output = Command::new("bash").arg("-c").arg(format!("printf '%s\\n' {line}")).output().unwrap();
            let words = String::from_utf8(output.stdout).unwrap();
            if let Err(error) = strikeout::internals::cli::command().try_get_matches_from(words.lines()) {
                assert!(!error.use_stderr(), "{}: {line}: {error}", snippet.place);
            }
            commands += 1;
        }
        for line in snippet.text.lines() {
            let Some(test) = line.split("--test ").nth(1).and_then(|rest| rest.split(' ').next()) else { continue };
            let exists =
                [format!("tests/{test}.rs"), format!("tests/{test}/main.rs")].iter().any(|file| Path::new(ROOT).join(file).exists());
            assert!(exists, "{}: there is no test program {test}", snippet.place);
        }
    }
    assert!(commands > 10, "found {commands} commands of ours");
}

#[test]
fn every_command_is_run_by_a_test() {
    let package = std::fs::read_to_string(Path::new(ROOT).join("tests/long/package")).unwrap();
    for snippet in of("sh") {
        let (page, _) = snippet.place.split_once(':').unwrap();
        let run = match snippet.comment.as_deref() {
            // conf-examples/try, which tests/servers runs, and tests/run itself.
            None => {
                ["README.md", "CONTRIBUTING.md"].contains(&page)
                    || package.lines().any(|line| line.contains("run_page") && line.contains(page))
            }
            Some(comment) if comment.starts_with("not run: ") => true,
            Some(comment) => {
                let marked = [format!("{page} {comment}"), format!("{page} \"{comment}\"")];
                marked.iter().any(|marked| package.contains(marked))
            }
        };
        assert!(run, "{}: tests/long/package does not run these commands", snippet.place);
    }
}

#[test]
fn every_file_that_a_command_takes_from_the_package_is_in_it() {
    let manifest = std::fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    assert!(manifest.contains("[\"conf-examples/*.*\", \"usr/share/doc/strikeout/examples/\""), "the examples are packaged elsewhere");
    for snippet in of("sh") {
        for word in snippet.text.split_whitespace().filter_map(|word| word.strip_prefix("/usr/share/doc/strikeout/examples/")) {
            let found = ["conf-examples", "conf-examples/debian"].iter().any(|folder| Path::new(ROOT).join(folder).join(word).exists());
            assert!(found, "{}: there is no example {word}", snippet.place);
        }
    }
}

#[test]
fn every_page_is_reached_from_the_front_page() {
    let pages = pages();
    let mut reached = std::collections::BTreeSet::new();
    let mut next = vec![Path::new(ROOT).join("README.md")];
    while let Some(path) = next.pop() {
        let Some(page) = pages.get(&path).filter(|_| reached.insert(path.clone())) else { continue };
        let links = page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link.split('#').next().unwrap());
        next.extend(links.filter(|link| link.ends_with(".md")).map(|link| path.parent().unwrap().join(link)));
    }
    for path in pages.keys() {
        assert!(reached.contains(path), "no link leads to {}", path.display());
    }
}

#[test]
fn every_link_leads_somewhere() {
    for (path, page) in pages() {
        for link in page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.starts_with("https://") {
                continue;
            }
            // The Debian package has docs/*.md and nothing around them.
            assert!(!path.starts_with(Path::new(ROOT).join("docs")) || !link.starts_with(".."), "{}: {link} leaves docs", path.display());
            let target = path.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{}: the link {link} leads nowhere", path.display());
        }
    }
}

/// The function or method `name` is defined in `source`.
fn defines(source: &str, name: &str) -> bool {
    source.split("fn ").skip(1).any(|rest| rest.split(|next: char| !next.is_alphanumeric() && next != '_').next() == Some(name))
}

/// ARCHITECTURE.md names files as `src/….rs` and functions as `src/….rs: function, function`.
#[test]
fn every_file_and_function_that_the_architecture_names_exists() {
    let page = std::fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    let mut functions = 0;
    for name in page.split('`').skip(1).step_by(2).filter(|name| name.starts_with("src/") || name.starts_with("tests/")) {
        let (file, named) = name.split_once(": ").unwrap_or((name, ""));
        assert!(Path::new(ROOT).join(file).exists(), "there is no {file}");
        for function in named.split(", ").filter(|function| !function.is_empty()) {
            let source = std::fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
            assert!(defines(&source, function), "{file} has no function {function}");
            functions += 1;
        }
    }
    assert!(functions > 20, "found {functions} functions in ARCHITECTURE.md");
}

/// Each folder of the library has a row in ARCHITECTURE.md.
#[test]
fn the_architecture_names_every_module() {
    let page = std::fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    let library = std::fs::read_to_string(Path::new(ROOT).join("src/lib.rs")).unwrap();
    let modules = library.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    for module in modules.filter(|module| *module != "internals") {
        assert!(page.contains(&format!("`src/{module}")), "ARCHITECTURE.md does not name src/{module}");
    }
}
