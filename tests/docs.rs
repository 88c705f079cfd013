//! Every snippet of the documentation holds: configurations are read by the programs that they are for, commands are ones that
//! there are, and links lead somewhere. That commands also do what the page says is shown by `tests/long/package`.
//!
//! A snippet's language says what it is: `toml`, `squid`, `exim` (main options), `exim-acl`, `sh`, or `text` for what a program says.
//! A comment in front of it may say `with FILE` (a list that the snippet names), `not run: WHY`, or where a command is run.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use strikeout::config::Config;
use strikeout::rule::Names;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A fenced block.
struct Snippet {
    /// `docs/tuning.md:12`.
    place: String,
    language: String,
    comment: Option<String>,
    text: String,
}

/// The front page and all pages in `docs`.
fn pages() -> BTreeMap<PathBuf, String> {
    let folder = Path::new(ROOT).join("docs");
    let pages = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    pages
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .chain([Path::new(ROOT).join("README.md")])
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

/// The program, or nothing where servers are not required and it is missing.
fn server(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).chain(["/usr/sbin".into()]).map(|folder| folder.join(name)).find(|path| path.exists());
    assert!(found.is_some() || std::env::var_os("STRIKEOUT_REQUIRE_SERVERS").is_none(), "no {name} here");
    found
}

fn said(output: &Output) -> String {
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
        if let Err(error) = Config::parse(text.as_bytes(), Path::new(&snippet.place), &Names::default()) {
            panic!("{error}");
        }
    }
}

#[test]
fn squid_accepts_every_configuration_for_it() {
    let Some(squid) = server("squid") else { return };
    let folder = tempfile::tempdir().unwrap();
    for snippet in of("squid") {
        let file = folder.path().join("squid.conf");
        let text = with_its_file(&snippet, folder.path());
        std::fs::write(&file, format!("{text}\ncache_log {0}/cache.log\npid_filename {0}/squid.pid\n", folder.path().display())).unwrap();
        let output = Command::new(&squid).args(["-k", "parse", "-f"]).arg(&file).output().unwrap();
        let said = said(&output);
        assert!(output.status.success() && !said.contains("ERROR") && !said.contains("WARNING"), "{}: {said}", snippet.place);
    }
}

/// Exim reads a configuration for the whole process, so each has its own; the user is whom Exim trusts with its file.
fn exim_reads(exim: &Path, configuration: &str) -> Result<(), String> {
    let folder = tempfile::Builder::new().prefix("strikeout-docs").tempdir().unwrap();
    let file = folder.path().join("exim.conf");
    std::fs::write(&file, configuration).unwrap();
    let output = Command::new(exim).arg("-C").arg(&file).arg("-bV").output().unwrap();
    if output.status.success() { Ok(()) } else { Err(said(&output)) }
}

#[test]
fn exim_accepts_every_configuration_for_it() {
    let Some(exim) = server("exim4") else { return };
    for snippet in of("exim") {
        exim_reads(&exim, &format!("{}\nlocal_interfaces = 127.0.0.1\n", snippet.text))
            .unwrap_or_else(|said| panic!("{}: {said}", snippet.place));
    }
    for snippet in of("exim-acl") {
        let configuration = format!("acl_smtp_connect = strikeout\nbegin acl\nstrikeout:\n{}", snippet.text);
        exim_reads(&exim, &configuration).unwrap_or_else(|said| panic!("{}: {said}", snippet.place));
    }
    assert!(exim_reads(&exim, "no_such_option = 1\n").is_err(), "this Exim says yes to everything");
}

#[test]
fn every_command_is_one_that_there_is() {
    let mut commands = 0;
    for snippet in of("sh") {
        let output = Command::new("bash").args(["-n", "-c", &snippet.text]).output().unwrap();
        assert!(output.status.success(), "{}: {}", snippet.place, said(&output));
        for line in snippet.text.lines().filter(|line| line.starts_with("strikeout ")) {
            let line = line.split(" > ").next().unwrap();
            let output = Command::new("bash").arg("-c").arg(format!("printf '%s\\n' {line}")).output().unwrap();
            let words = String::from_utf8(output.stdout).unwrap();
            if let Err(error) = strikeout::operator::command().try_get_matches_from(words.lines()) {
                assert!(!error.use_stderr(), "{}: {line}: {error}", snippet.place);
            }
            commands += 1;
        }
    }
    assert!(commands > 10, "found {commands} commands of ours");
}

/// Which commands are run is a matter of the page and of the mark in front of them.
#[test]
fn every_command_is_run_by_a_test() {
    let package = std::fs::read_to_string(Path::new(ROOT).join("tests/long/package")).unwrap();
    for snippet in of("sh") {
        let (page, _) = snippet.place.split_once(':').unwrap();
        let run = match snippet.comment.as_deref() {
            // The front page's are conf-examples/try, which tests/servers runs, and tests/run itself.
            None => page == "README.md" || package.lines().any(|line| line.contains("as_told") && line.contains(page)),
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
            let target = path.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{}: the link {link} leads nowhere", path.display());
        }
    }
}
