//! `conf-examples/strikeout-lists` against a web server that misbehaves, and what `status` says of lists.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::harness::{Daemon, STRIKEOUT, has};
use crate::web::{Request, Web, send};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf-examples/strikeout-lists");
const OLD: &str = "198.51.100.0/24\n";
const GOOD: &str = "# a list\n192.0.2.0/24 ; SBL1\n203.0.113.7-203.0.113.9\n";

/// Fetched lists in a folder of their own.
struct Lists {
    folder: TempDir,
}

impl Lists {
    /// Where `name` is to be fetched from `url`.
    fn of(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lists")).unwrap();
        let lists = Self { folder };
        lists.configure(&format!("# feeds\n\nfeed {url} unencrypted\n"));
        lists
    }

    fn configure(&self, text: &str) {
        fs::write(self.folder.path().join("lists.conf"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("lists").join(name)
    }

    fn fetch(&self) -> Output {
        let [config, folder] = ["lists.conf", "lists"].map(|name| self.folder.path().join(name));
        let mut command = Command::new("sh");
        command.args([Path::new(SCRIPT), &config, &folder]).envs([("STRIKEOUT", STRIKEOUT), ("MAX_SECONDS", "2"), ("MAX_BYTES", "100000")]);
        command.env_remove("http_proxy").output().unwrap()
    }

    fn list(&self) -> Option<String> {
        fs::read_to_string(self.path("feed.list")).ok()
    }

    fn is_changed(&self) -> bool {
        self.path("changed").exists()
    }
}

fn is_missing() -> bool {
    !has("curl", "curl")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_list_is_fetched_once_and_then_only_if_it_has_changed() {
    if is_missing() {
        return;
    }
    let web = Web::start(|request, stream| match request.header("If-None-Match") {
        Some("\"v1\"") => send(stream, "304 Not Modified", "ETag: \"v1\"\r\n", ""),
        _ => send(stream, "200 OK", "ETag: \"v1\"\r\n", GOOD),
    });
    let lists = Lists::of(&web.url("/list"));
    let output = lists.fetch();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!((lists.list().as_deref(), lists.is_changed()), (Some(GOOD), true));

    fs::File::options().write(true).open(lists.path("feed.list")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let output = lists.fetch();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!((lists.list().as_deref(), lists.is_changed()), (Some(GOOD), false), "nothing new");
    let modified = fs::metadata(lists.path("feed.list")).unwrap().modified().unwrap();
    assert!(modified.elapsed().unwrap().as_secs() < 600, "what is still true is not old");

    // Whoever removes the list gets it again, whatever the server believes.
    fs::remove_file(lists.path("feed.list")).unwrap();
    assert!(lists.fetch().status.success());
    assert_eq!(lists.list().as_deref(), Some(GOOD));
    assert_eq!(web.requests().len(), 3);
    let left: Vec<_> = fs::read_dir(lists.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| ["feed.list", ".feed.etag", "changed"].contains(&name.as_str())), "{left:?}");
}

/// Each way to misbehave, by its path.
fn misbehave(request: &Request, stream: &mut TcpStream) {
    let endless = |stream: &mut TcpStream, part: &str| while stream.write_all(part.as_bytes()).is_ok() {};
    match request.path.as_str() {
        "/missing" => send(stream, "404 Not Found", "", GOOD),
        "/broken" => send(stream, "500 Internal Server Error", "", GOOD),
        "/page" => send(stream, "200 OK", "Content-Type: text/html\r\n", "<!DOCTYPE html><title>Checking your browser</title>"),
        "/empty" => send(stream, "200 OK", "", ""),
        "/comments" => send(stream, "200 OK", "", "# no data today\n"),
        "/everybody" => send(stream, "200 OK", "", &format!("{GOOD}0.0.0.0/0\n")),
        "/ranges" => send(stream, "200 OK", "", "0.0.0.1-255.255.255.254\n"),
        "/cut" => drop(write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{GOOD}")),
        "/endless" => {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            endless(stream, GOOD);
        }
        "/declared" => {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            endless(stream, GOOD);
        }
        "/headers" => {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n");
            endless(stream, "X-More: and more\r\n");
        }
        "/silent" => {
            // Until the script gives up.
            let _ = std::io::Read::read(stream, &mut [0; 1]);
        }
        "/loop" => send(stream, "302 Found", "Location: /loop\r\n", ""),
        "/elsewhere" => send(stream, "302 Found", "Location: file:///etc/passwd\r\n", ""),
        "/garbage" => drop(stream.write_all(&[0xff; 3000])),
        "/binary" => send(stream, "200 OK", "", "\0\u{1}\u{2}192.0.2.1\0"),
        "/unasked" => send(stream, "304 Not Modified", "", ""),
        "/partial" => send(stream, "206 Partial Content", "", GOOD),
        "/error" => send(stream, "200 OK", "", &format!("{GOOD}Error: rate limit exceeded\n")),
        "/json" => send(stream, "200 OK", "", r#"{"error": "quota exceeded", "prefixes": []}"#),
        other => panic!("{other}"),
    }
}

#[test]
fn a_server_that_misbehaves_changes_no_list_and_the_others_are_fetched() {
    if is_missing() {
        return;
    }
    let web = Web::start(|request, stream| match request.path.as_str() {
        "/good" => send(stream, "200 OK", "", GOOD),
        _ => misbehave(request, stream),
    });
    for path in [
        "missing",
        "broken",
        "page",
        "empty",
        "comments",
        "everybody",
        "ranges",
        "cut",
        "endless",
        "declared",
        "headers",
        "silent",
        "loop",
        "elsewhere",
        "garbage",
        "binary",
        "partial",
        "error",
        "json",
    ] {
        let lists = Lists::of("");
        lists.configure(&format!("feed {} unencrypted\nother {} unencrypted\n", web.url(&format!("/{path}")), web.url("/good")));
        fs::write(lists.path("feed.list"), OLD).unwrap();
        let output = lists.fetch();
        assert_eq!(lists.list().as_deref(), Some(OLD), "{path}: {}", text(&output));
        assert!(!output.status.success() && text(&output).contains("the old list stays"), "{path}: {}", text(&output));
        assert_eq!(fs::read_to_string(lists.path("other.list")).unwrap(), GOOD, "{path}");
    }
    // Without an old list there is none afterwards.
    let lists = Lists::of(&web.url("/unasked"));
    assert!(!lists.fetch().status.success());
    assert_eq!(lists.list(), None);
}

#[test]
fn a_url_that_anybody_on_the_way_can_change_must_be_meant() {
    if is_missing() {
        return;
    }
    let is_asked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_asked);
    let web = Web::start(move |_, _| asked.store(true, Ordering::Relaxed));
    let lists = Lists::of("");
    lists.configure(&format!("feed {}\n../feed https://127.0.0.1/\nx file:///etc/passwd\n", web.url("/")));
    let output = lists.fetch();
    let text = text(&output);
    assert!(!output.status.success() && !is_asked.load(Ordering::Relaxed), "{text}");
    for expected in ["expected https://", "found the name ../feed", "found file:///etc/passwd"] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn status_shows_each_list_with_its_entries_and_age_and_keeps_the_warning_of_one_that_shrank() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("deny.txt");
    let write = |entries: usize| fs::write(&list, (0..entries).map(|number| format!("198.51.{number}.1\n")).collect::<String>()).unwrap();
    write(100);
    let config = format!("[defaults]\nignoreip = ['192.0.2.1']\ndeny = ['file:{}']\n", list.display());
    let daemon = Daemon::start(&config);
    let status = daemon.text(&["status"]);
    assert!(status.contains(&format!("deny, {}: 100 entries, ", list.display())), "{status}");
    assert!(status.contains("ignoreip, ignoreip in "), "{status}");
    assert_eq!(daemon.text(&["why", "198.51.7.1"]).lines().next(), Some("198.51.7.1 is refused on the web and in mail"));

    write(30);
    let (reload, _, _) = daemon.run(&["reload"]);
    assert!(reload.contains("has lost more than half of its entries: it had 100 and has 30"), "{reload}");
    let warning = "it had 100 before a reload";
    assert!(daemon.text(&["status"]).contains(warning));
    assert_eq!(daemon.run(&["why", "198.51.77.1"]).2, Some(0), "the new list is in force");
    daemon.run(&["reload"]);
    assert!(daemon.text(&["status"]).contains(warning), "until the list has grown again");
    write(90);
    daemon.run(&["reload"]);
    assert!(!daemon.text(&["status"]).contains(warning));

    fs::write(&list, "192.0.2.0/24\n128.0.0.0/1\n").unwrap();
    let (_, error, code) = daemon.run(&["reload"]);
    assert!(error.contains("found 128.0.0.0/1 in a deny list") && code == Some(1), "{error}");
    assert_eq!(daemon.run(&["why", "198.51.7.1"]).2, Some(3), "what was in force stays");
}
