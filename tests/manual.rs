//! The manual pages and completions in `docs` are generated from the programs' arguments, and strikeout.toml(5) describes every option.
//! `STRIKEOUT_WRITE_DOCS=1 cargo test --test manual` generates them again.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

#[path = "harness/mod.rs"]
mod harness;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");

/// What clap cannot know: the exit codes of each page.
fn exit_status(page: &str) -> &'static str {
    match page {
        "ext_strikeout_acl" => "0: Squid has closed the input. A fault of configuration, state or socket ends no helper.",
        "exim_strikeout_acl" => "0, whatever the answer is and whatever has failed.",
        "strikeout-why" => {
            "0: the address is served.  1: the daemon cannot be asked.  2: the arguments or the configuration cannot be used.  3: it is refused."
        }
        "strikeout-unban" => {
            "0: done, and all are served.  1: failed.  2: the arguments or the configuration cannot be used.  3: something still refuses one."
        }
        "strikeout-check" => {
            "0: the configuration can be used.  1: a log has a fault.  2: the arguments or the configuration cannot be used."
        }
        "strikeout-doctor" => "0: there is no fault; there may be warnings.  1: there is a fault.  2: the arguments cannot be used.",
        "strikeout-test" => "0: something matches.  1: nothing does.  2: the arguments or the configuration cannot be used.",
        "strikeout" => {
            "0: done.  1: failed.  2: the arguments or the configuration cannot be used.  3 (of why and unban alone): done, and a client that was asked about is refused."
        }
        _ => "0: done.  1: failed.  2: the arguments or the configuration cannot be used.",
    }
}

const FILES: &str = ".SH FILES\n\
    .TP\n.I /etc/strikeout/strikeout.toml\nThe configuration; the pieces beside it are\n.IR /etc/strikeout/conf.d/*.toml .\n\
    .TP\n.I /run/strikeout/strikeout.sock\nThe daemon's socket.\n\
    .TP\n.I /var/lib/strikeout/strikeout.db\nThe state file, in which bans outlive the daemon.\n";

/// The pages beside one, and the documentation.
fn see_also(page: &str) -> String {
    let others = [("strikeout", 8), ("strikeout.toml", 5), ("ext_strikeout_acl", 8), ("exim_strikeout_acl", 8)];
    let others = others.iter().filter(|(name, _)| *name != page).map(|(name, section)| format!(".BR {name} ({section}),\n"));
    format!(".SH \"SEE ALSO\"\n{}.I /usr/share/doc/strikeout\n", others.collect::<String>())
}

fn programs() -> [Command; 3] {
    [strikeout::internals::cli::command(), strikeout::internals::squid::helper::command(), strikeout::internals::exim::command()]
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
            let file = format!("man/{name}.8");
            let text = dated(&file, |date| page(&command, &name, date));
            (file, text)
        })
        .collect()
}

/// One page. Its name is that of the page, its description the first sentence of the program's.
fn page(command: &Command, name: &str, date: &str) -> String {
    let source = concat!("Strikeout ", env!("CARGO_PKG_VERSION"));
    let page = clap_mangen::Man::new(command.clone()).section("8").source(source).manual("System Administration").date(date);
    let mut text = Vec::new();
    page.render(&mut text).unwrap();
    let text = tidy(&String::from_utf8(text).unwrap());
    let (before, rest) = text.split_once(".SH NAME\n").unwrap();
    let (line, rest) = rest.split_once('\n').unwrap();
    let line = line.split([':', ';']).next().unwrap().split(". ").next().unwrap();
    // The version stands in the page's foot.
    let body = rest.split(".SH VERSION\n").next().unwrap();
    format!("{before}.SH NAME\n{line}\n{body}.SH \"EXIT STATUS\"\n{}\n{FILES}{}", exit_status(name), see_also(name))
}

/// The page with the date of its last change: the one that it has, unless something else in it has changed.
fn dated(file: &str, page: impl Fn(&str) -> String) -> String {
    let committed = std::fs::read_to_string(Path::new(DOCS).join(file)).unwrap_or_default();
    let today = jiff::Zoned::now().date().to_string();
    let same = page(&date_of(&committed).unwrap_or_else(|| today.clone()));
    if same == committed { same } else { page(&today) }
}

/// The date in a page's title line.
fn date_of(page: &str) -> Option<String> {
    let title = page.lines().find(|line| line.starts_with(".TH "))?;
    title.split([' ', '"']).find(|word| word.parse::<jiff::civil::Date>().is_ok()).map(str::to_owned)
}

/// Removes blanks at line ends.
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

/// Every generated file. Completions are for the program that people type.
fn generated() -> BTreeMap<String, String> {
    let mut files: BTreeMap<_, _> = programs().iter().flat_map(pages).collect();
    files.extend(completions(&strikeout::internals::cli::command()));
    files
}

#[test]
fn pages_and_completions_match_the_arguments() {
    let docs = Path::new(DOCS);
    let generated = generated();
    if std::env::var_os("STRIKEOUT_WRITE_DOCS").is_some() {
        for (file, text) in &generated {
            std::fs::write(docs.join(file), text).unwrap();
        }
    }
    for (file, text) in &generated {
        let committed = std::fs::read_to_string(docs.join(file)).unwrap_or_default();
        assert!(committed == *text, "docs/{file} differs from the arguments: STRIKEOUT_WRITE_DOCS=1 cargo test --test manual");
    }
    for folder in ["man", "completions"] {
        for entry in std::fs::read_dir(docs.join(folder)).unwrap() {
            let file = format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap());
            assert!(generated.contains_key(&file) || file == "man/strikeout.toml.5", "docs/{file} is generated by nothing");
        }
    }
}

/// The keys of a table, taken from the error for an unknown key.
fn keys(place: &str) -> Vec<String> {
    let names = strikeout::internals::rule_id::RuleNames::default();
    let error =
        strikeout::internals::config::Config::parse(format!("{place}no_such_key = 1").as_bytes(), Path::new("x"), &names).unwrap_err();
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
        // An array of tables has double brackets.
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
fn every_page_has_its_section_a_date_and_the_sections_of_a_manual_page() {
    for entry in std::fs::read_dir(Path::new(DOCS).join("man")).unwrap() {
        let path = entry.unwrap().path();
        let (page, file) = (std::fs::read_to_string(&path).unwrap(), path.file_name().unwrap().to_str().unwrap().to_owned());
        let (name, section) = file.rsplit_once('.').unwrap();
        assert!(page.contains(&format!(".TH {name} {section} ")), "{file}: another name or section in its title");
        assert!(date_of(&page).is_some(), "{file} has no date");
        let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).map(|line| line.trim_matches('"')).collect();
        let mut last = 0;
        let order = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "FILES", "SEE ALSO"];
        for heading in order.iter().filter(|heading| section == "8" || !["OPTIONS", "EXIT STATUS"].contains(heading)) {
            let at = headings.iter().position(|found| found == heading).unwrap_or_else(|| panic!("{file} has no {heading}"));
            assert!(at >= last, "{file}: {heading} stands before {}", headings[last]);
            last = at;
        }
        let described = page.split_once(".SH NAME\n").unwrap().1.lines().next().unwrap();
        assert!(described.contains("\\- ") && described.len() <= 160, "{file}: {described}");
    }
}

#[test]
fn man_renders_every_page_without_a_warning() {
    if !harness::has("man", "man-db") {
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
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && warnings.is_empty(), "{}: {warnings}", path.display());
        assert!(output.stdout.len() > 500, "{}: {}", path.display(), String::from_utf8_lossy(&output.stdout));
    }
}
