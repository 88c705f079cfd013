//! The fast form on the real Squid: an innocent request never reaches the helper.

mod expressions;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{STRIKEOUT, Stage, wait_until};
use crate::rig::{Origin, Squid, get, request};
use crate::samples::BROWSER;

/// Writes the prefilter for these rules, and returns its directory.
fn prefilter(stage: &Stage, rules: &str) -> PathBuf {
    let directory = stage.make("prefilter", None);
    let config = stage.write("prefilter.toml", rules);
    let output = Command::new(STRIKEOUT).arg("prefilter").arg("--config").arg(config).arg("--output").arg(&directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("warning"), "{text}");
    directory
}

/// The example with the prefilter in `directory`.
fn example(stage: &Stage, directory: &std::path::Path) -> String {
    stage.squid_example("squid-fast.conf").replace("/etc/squid/strikeout", directory.to_str().unwrap())
}

/// A connection that stays open for many requests.
struct Browser {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
    /// Number of connections that were opened: one, as long as Squid keeps it.
    connections: usize,
}

impl Browser {
    fn new(port: u16) -> Self {
        Self { port, stream: None, connections: 0 }
    }

    /// Sends a request and returns the status.
    fn send(&mut self, method: &str, url: &str, headers: &str) -> u16 {
        self.try_send(method, url, headers).or_else(|_| self.try_send(method, url, headers)).unwrap()
    }

    fn try_send(&mut self, method: &str, url: &str, headers: &str) -> io::Result<u16> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                self.connections += 1;
                BufReader::new(stream)
            }
        };
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        stream.get_mut().write_all(format!("{method} {url} HTTP/1.1\r\nHost: example.test\r\n{length}{headers}\r\n").as_bytes())?;
        let (mut status, mut length, mut closes) = (0, 0, false);
        for number in 0.. {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            match (number, line.split_once(": ")) {
                (0, _) => status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0),
                (_, Some(("content-length", text))) => length = text.parse().unwrap(),
                (_, Some(("connection", "close"))) => closes = true,
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        if method != "HEAD" {
            stream.read_exact(&mut vec![0; length])?;
        }
        self.stream = (!closes).then_some(stream);
        Ok(status)
    }
}

#[test]
fn an_innocent_request_never_leaves_squid_and_a_probe_is_refused_all_the_same() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let daemon = stage.daemon("");
    let directory = prefilter(&stage, "");
    let mut squid = Squid::start(&stage, &origin, &example(&stage, &directory));
    let (mut innocent, mut scanner) = (Browser::new(squid.port()), Browser::new(squid.port()));
    let from = |client: &str| format!("X-Forwarded-For: {client}\r\nUser-Agent: {BROWSER}\r\n");
    assert_eq!(innocent.send("GET", "/", &from("203.0.113.9")), 200);
    let before = squid.helper_requests();
    for number in 0..300 {
        let url = ["/", "/index.html", "/blog/2024/a-page/", "/search?q=red%20shoes&page=2"][number % 4];
        assert_eq!(innocent.send("GET", url, &from("203.0.113.9")), 200, "{url}");
    }
    let lookups = squid.helper_requests() - before;
    assert!(lookups < 100, "{lookups} lookups: the address is looked up once a second, and the cache manager's page is a request as well");
    assert_eq!(scanner.send("GET", "/", &from("198.51.100.1")), 200);
    assert_eq!(scanner.send("GET", "/w00tw00t.at.ISC.SANS.DFind:)", &from("198.51.100.1")), 429);
    assert_eq!(scanner.send("GET", "/", &from("198.51.100.1")), 429, "at once on the same connection");
    wait_until("the client is refused on other connections", || get(squid.port(), "198.51.100.1", "/") == 429);
    assert_eq!(get(squid.port(), "198.51.100.1", "/%77ootwoot"), 429);
    assert_eq!(innocent.send("GET", "/", &from("203.0.113.9")), 200);
    for (client, method, url, headers) in
        [("198.51.100.2", "GET", "/", "User-Agent: sqlmap/1.7\r\n"), ("198.51.100.3", "GET", "/a/%252e%252e/.env", "")]
    {
        let status = Browser::new(squid.port()).send(method, url, &format!("X-Forwarded-For: {client}\r\n{headers}"));
        assert_eq!(status, 429, "{method} {url} {headers}");
    }
    // An unban takes as long as the address is cached.
    assert!(stage.strikeout(&["unban", "198.51.100.1"]).status.success());
    wait_until("the client is served again", || get(squid.port(), "198.51.100.1", "/") == 200);
    assert!(daemon.number("bans") >= 1);
    squid.assert_running();
    squid.assert_clean_log();
}

/// Squid keeps an answer about an address while it is not older than a second, in whole seconds; the rest is for a busy machine.
const KNOWN_EVERYWHERE: Duration = Duration::from_secs(2 + 4);

#[test]
fn a_ban_and_its_end_reach_a_kept_connection_and_one_that_a_load_balancer_shares() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let _daemon = stage.daemon("");
    let directory = prefilter(&stage, "");
    let squid = Squid::start(&stage, &origin, &example(&stage, &directory));
    let (mut balancer, mut kept) = (Browser::new(squid.port()), Browser::new(squid.port()));
    let from = |client: &str| format!("X-Forwarded-For: {client}\r\nUser-Agent: {BROWSER}\r\n");
    let (banned, innocent) = (from("198.51.100.7"), from("203.0.113.9"));
    for browser in [&mut balancer, &mut kept] {
        assert_eq!(browser.send("GET", "/", &banned), 200);
    }
    assert!(stage.strikeout(&["ban", "198.51.100.7"]).status.success());
    let since = Instant::now();
    wait_until("the client is refused on its kept connection", || kept.send("GET", "/", &banned) == 429);
    assert!(since.elapsed() < KNOWN_EVERYWHERE, "{:?}", since.elapsed());
    assert_eq!(get(squid.port(), "198.51.100.7", "/"), 429, "at once on a new one");
    for number in 0..50 {
        assert_eq!(balancer.send("GET", "/", &innocent), 200, "{number}");
        assert_eq!(balancer.send("GET", "/index.html", &banned), 429, "{number}");
    }
    assert!(stage.strikeout(&["unban", "198.51.100.7"]).status.success());
    let since = Instant::now();
    for browser in [&mut balancer, &mut kept] {
        wait_until("the client is served on the same connection", || browser.send("GET", "/", &banned) == 200);
        assert!(since.elapsed() < KNOWN_EVERYWHERE, "{:?}", since.elapsed());
        assert_eq!(browser.connections, 1);
    }
}

/// The lines of Squid's log for the daemon, without the time.
fn told(stage: &Stage) -> Vec<String> {
    let log = fs::read_to_string(stage.squid_log()).unwrap_or_default();
    log.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect()
}

#[test]
fn only_answers_that_say_something_are_written_to_the_log() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let directory = prefilter(&stage, "");
    let squid = Squid::start(&stage, &origin, &example(&stage, &directory));
    let mut browser = Browser::new(squid.port());
    let header = "X-Forwarded-For: 203.0.113.9\r\n";
    for (method, url, headers) in [
        ("GET", "/", ""),
        ("POST", "/form", ""),
        ("HEAD", "/", ""),
        ("GET", "/private", "Authorization: Basic YTpi\r\n"),
        ("POST", "/admin.php?x=$y", ""),
        ("GET", "/index.html", ""),
    ] {
        browser.send(method, url, &format!("{header}{headers}"));
    }
    wait_until("the lines are there", || told(&stage).len() >= 3);
    let lines = told(&stage);
    let seen: Vec<String> = lines.iter().map(|line| line.split(' ').skip(3).take(3).collect::<Vec<_>>().join(" ")).collect();
    let expected =
        ["POST http://example.test/form -", "GET http://example.test/private password", "POST http://example.test/admin.php?x=$y yes"];
    assert_eq!(seen, expected, "{lines:?}");
}

#[test]
fn a_helper_that_is_missing_refuses_nobody() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let directory = prefilter(&stage, "");
    let fragment = example(&stage, &directory).replace(stage.program("ext_strikeout_acl").to_str().unwrap(), "/nowhere/ext_strikeout_acl");
    let squid = Squid::start(&stage, &origin, &fragment);
    assert_eq!(get(squid.port(), "203.0.113.9", "/"), 200);
    assert_ne!(get(squid.port(), "203.0.113.9", "/w00tw00t"), 429);
}

#[test]
fn a_prefilter_older_than_the_rules_is_named_with_the_commands_that_mend_it() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let daemon = stage.daemon("");
    let directory = prefilter(&stage, "");
    let squid = Squid::start(&stage, &origin, &example(&stage, &directory));
    // The helper is started by the first request that is asked about.
    assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t"), 429);
    let stale = || daemon.object("status")["prefilters"].clone();
    wait_until("the helper has said which prefilter it is", || stale()[0]["directory"] == directory.to_str().unwrap());
    assert!(stale()[0]["stale"].is_null(), "{}", stale());
    assert!(daemon.text(&["metrics"]).contains("strikeout_prefilters_stale 0\n"), "{}", daemon.text(&["metrics"]));
    let rule = "[[rule]]\nname = 'secret-place'\npath = '^/secret-place$'\nmaxretry = 1\n";
    stage.configure("mode = '0666'", rule);
    let reloaded = String::from_utf8(stage.strikeout(&["reload"]).stdout).unwrap();
    let commands = format!("strikeout prefilter --output {} && squid -k reconfigure", directory.display());
    assert!(reloaded.contains("older than the rule secret-place") && reloaded.contains(&commands), "{reloaded}");
    assert_eq!(get(squid.port(), "198.51.100.2", "/secret-place"), 200, "as the warning says");
    assert!(stale()[0]["stale"].as_str().unwrap().contains("secret-place"), "{}", stale());
    assert!(daemon.text(&["metrics"]).contains("strikeout_prefilters_stale 1\n"), "{}", daemon.text(&["metrics"]));
    wait_until("the helper says so in cache.log", || squid.cache_log().contains("older than the rule secret-place"));
    // What the commands do.
    prefilter(&stage, rule);
    squid.control("reconfigure");
    // Meanwhile Squid closes its port.
    wait_until("Squid has loaded it", || {
        request(squid.port(), "198.51.100.3", "GET", "/secret-place", "").is_ok_and(|reply| reply.status == 429)
    });
    wait_until("it is current", || stale().as_array().unwrap().iter().all(|prefilter| prefilter["stale"].is_null()));
}
