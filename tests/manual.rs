//! The manual pages and completions in `docs` are what the programs' own descriptions of their arguments make of them, and the
//! page of the configuration describes every option. `STRIKEOUT_WRITE_DOCS=1 cargo test --test manual` writes them anew.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");

/// What clap does not know of the operator's program.
const EXIT_STATUS: &str = ".SH \"EXIT STATUS\"\n0: done.  1: failed.  2: the arguments or the configuration cannot be used.\n";
const SEE_ALSO: &str = ".SH \"SEE ALSO\"\n\
    .BR strikeout (8),\n.BR strikeout.toml (5),\n.BR ext_strikeout_acl (8),\n.BR exim_strikeout_acl (8),\n.I /usr/share/doc/strikeout\n";

/// The programs, as they describe their arguments.
fn programs() -> [Command; 3] {
    [strikeout::operator::command(), strikeout::squid::helper::command(), strikeout::exim::command()]
}

/// The pages of a program and of its subcommands: file name and text.
fn pages(program: &Command) -> BTreeMap<String, String> {
    let mut program = program.clone().disable_help_subcommand(true);
    program.build();
    let subcommands = program.get_subcommands().cloned();
    std::iter::once(program.clone())
        .chain(subcommands)
        .map(|command| {
            // The page of `strikeout why` is strikeout-why(8).
            let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
            // No date: a page changes when what it says does.
            let page = clap_mangen::Man::new(command).section("8").source("Strikeout").manual("System Administration").date("");
            let mut text = Vec::new();
            page.render(&mut text).unwrap();
            let text = String::from_utf8(text).unwrap() + if name.starts_with("strikeout") { EXIT_STATUS } else { "" } + SEE_ALSO;
            (format!("man/{name}.8"), tidy(&text))
        })
        .collect()
}

/// Without blanks at line ends.
fn tidy(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn completions(program: &Command) -> BTreeMap<String, String> {
    let name = program.get_name().to_owned();
    [(Shell::Bash, format!("{name}.bash")), (Shell::Zsh, format!("_{name}")), (Shell::Fish, format!("{name}.fish"))]
        .into_iter()
        .map(|(shell, file)| {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut program.clone(), &name, &mut text);
            (format!("completions/{file}"), tidy(&String::from_utf8(text).unwrap()))
        })
        .collect()
}

/// Everything that is generated. Completions are for the program that people type.
fn generated() -> BTreeMap<String, String> {
    let mut files: BTreeMap<_, _> = programs().iter().flat_map(pages).collect();
    files.extend(completions(&strikeout::operator::command()));
    files
}

#[test]
fn pages_and_completions_are_those_of_the_arguments() {
    let docs = Path::new(DOCS);
    let generated = generated();
    if std::env::var_os("STRIKEOUT_WRITE_DOCS").is_some() {
        for (file, text) in &generated {
            std::fs::write(docs.join(file), text).unwrap();
        }
    }
    for (file, text) in &generated {
        let committed = std::fs::read_to_string(docs.join(file)).unwrap_or_default();
        assert!(committed == *text, "docs/{file} is not what the arguments say: STRIKEOUT_WRITE_DOCS=1 cargo test --test manual");
    }
    for folder in ["man", "completions"] {
        for entry in std::fs::read_dir(docs.join(folder)).unwrap() {
            let file = format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap());
            assert!(generated.contains_key(&file) || file == "man/strikeout.toml.5", "docs/{file} belongs to nothing");
        }
    }
}

/// What `key = 1` in this place of a configuration is answered with: the keys that there are.
fn keys(place: &str) -> Vec<String> {
    let names = strikeout::rule::Names::default();
    let error = strikeout::config::Config::parse(format!("{place}no_such_key = 1").as_bytes(), Path::new("x"), &names).unwrap_err();
    let (_, known) = error.message.split_once("expected").unwrap();
    let keys: Vec<String> = known.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect();
    assert!(!keys.is_empty(), "{error}");
    keys
}

#[test]
fn the_page_of_the_configuration_describes_every_option() {
    let page = std::fs::read_to_string(Path::new(DOCS).join("man/strikeout.toml.5")).unwrap();
    let sections: BTreeMap<&str, &str> = page
        .split(".SH ")
        .filter_map(|section| section.split_once('\n'))
        .map(|(title, text)| (title.trim_matches(|c: char| "\"[]".contains(c)), text))
        .collect();
    for table in keys("") {
        let text = sections.get(table.as_str()).unwrap_or_else(|| panic!("strikeout.toml.5 has no section for [{table}]"));
        // A table that comes several times is written so.
        let places = [format!("[{table}]\n"), format!("[[{table}]]\n")];
        let place = if page.contains(&format!(".SH \"[[{table}]]\"")) { &places[1] } else { &places[0] };
        for key in keys(place) {
            let words = text.lines().filter(|line| line.starts_with(".B"));
            let described = words.flat_map(|line| line.split_whitespace()).any(|word| word.trim_matches(',') == key);
            assert!(described, "strikeout.toml.5 does not describe {key} of [{table}]");
        }
    }
}

#[test]
fn a_reader_of_manual_pages_finds_no_fault_in_ours() {
    if std::process::Command::new("man").arg("--version").output().is_err() {
        assert!(std::env::var_os("STRIKEOUT_REQUIRE_SERVERS").is_none(), "no man here");
        return;
    }
    for entry in std::fs::read_dir(Path::new(DOCS).join("man")).unwrap() {
        let path = entry.unwrap().path();
        let output = std::process::Command::new("man")
            .args(["--warnings", "-l"])
            .arg(&path)
            .env("MANWIDTH", "100")
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.is_empty(), "{}: {told}", path.display());
        assert!(output.stdout.len() > 500, "{}: {}", path.display(), String::from_utf8_lossy(&output.stdout));
    }
}
