//! The fast form on the real Squid: what its own expressions match, and that an innocent request never reaches the helper.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use regex_syntax::hir::{Class, Hir, HirKind};
use strikeout::internals::config::Config;
use strikeout::internals::event::{Header, Request};
use strikeout::internals::rule::builtin;
use strikeout::internals::rule::set::{RuleSet, Scratch};
use strikeout::internals::rule_id::RuleNames;

use crate::harness::{STRIKEOUT, Stage, wait_until};
use crate::rig::{Origin, Squid, get, request};
use crate::samples::{BROWSER, each_in_every_disguise};

/// The rules that are off by default, switched on.
fn every_rule() -> String {
    let off = builtin::specs().unwrap().into_iter().filter(|rule| rule.enabled == Some(false));
    off.map(|rule| format!("[[rule]]\nname = {:?}\nenabled = true\n", rule.name.get_ref())).collect()
}

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

/// Squid that answers 403 wherever the fast form asks the helper, by the same lines.
fn deciding(stage: &Stage, origin: &Origin, directory: &std::path::Path) -> Squid {
    let example = example(stage, directory);
    let acls = ["strikeout_method", "strikeout_post", "strikeout_agent", "strikeout_escape", "strikeout_escape_host", "strikeout_path"];
    let line = |acl: &str| example.lines().find(|line| line.starts_with(&format!("acl {acl} "))).unwrap_or_else(|| panic!("{acl}"));
    let acls: Vec<&str> = acls.map(line).to_vec();
    Squid::start(
        stage,
        origin,
        &format!(
            "{}\nhttp_access deny !strikeout_method !strikeout_post\nhttp_access deny strikeout_agent\nhttp_access deny strikeout_escape\n\
             http_access deny strikeout_escape_host\nhttp_access deny strikeout_path\n",
            acls.join("\n")
        ),
    )
}

#[test]
fn no_sample_in_any_disguise_slips_by_the_real_squid() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let directory = prefilter(&stage, &every_rule());
    let mut squid = deciding(&stage, &origin, &directory);
    let rules: RuleSet = Config::parse(every_rule().as_bytes(), std::path::Path::new("test.toml"), &RuleNames::default()).unwrap().rules;
    let (mut browser, mut scratch) = (Browser::new(squid.port()), Scratch::default());
    let (mut tried, mut asked, mut refused, mut missed) = (0, 0, 0, Vec::new());
    let mut seen = BTreeSet::new();
    let mut check = |method: &str, url: &str, agent: &str| {
        let absolute = format!("http://example.test{url}");
        let request = Request {
            method: method.as_bytes(),
            url: absolute.as_bytes(),
            user_agent: Header::plain(agent.as_bytes()),
            ..Request::default()
        };
        // Squid itself removes blanks from a URL. Other methods are asked about by their name.
        let is_sent = url.starts_with('/') && url.bytes().all(|byte| byte.is_ascii_graphic()) && ["GET", "HEAD", "POST"].contains(&method);
        if !is_sent || !seen.insert(format!("{method} {url} {agent}")) {
            return;
        }
        let offended = rules.offended_by_request(&request, &mut scratch);
        if offended.is_empty() {
            return;
        }
        tried += 1;
        match browser.send(method, url, &format!("User-Agent: {agent}\r\n")) {
            403 => asked += 1,
            // Squid has refused it before anybody could be asked.
            400 | 411 | 414 | 501 => refused += 1,
            status => missed.push(format!("{status}: {method} {url} {agent}: {}", offended[0].name)),
        }
    };
    each_in_every_disguise(&mut check);
    println!("{tried} offences sent: {asked} asked about, {refused} refused by Squid itself, {} missed", missed.len());
    assert!(asked > 10_000, "{asked}");
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    squid.assert_running();
    for warning in ["WARNING", "ERROR"] {
        let log = squid.cache_log();
        assert!(!log.lines().any(|line| line.contains(warning) && line.contains("expression")), "{log}");
    }
}

/// The expressions of a file, with an escape for each byte that is not ASCII.
fn lines_of(file: &std::path::Path) -> Vec<String> {
    let escaped = |byte: &u8| if byte.is_ascii() { char::from(*byte).to_string() } else { format!("\\x{byte:02x}") };
    let text: String = fs::read(file).unwrap().iter().map(escaped).collect();
    text.lines().filter(|line| line.starts_with('^')).map(str::to_owned).collect()
}

/// A text that `hir` matches: the first or the last one of each choice.
fn word(hir: &Hir, last: bool, out: &mut Vec<u8>) {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.extend_from_slice(&literal.0),
        HirKind::Class(class) => {
            let class = match class {
                Class::Bytes(class) => class.clone(),
                Class::Unicode(class) => class.to_byte_class().unwrap(),
            };
            let printable = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'/' || *byte == b'.';
            let mut bytes: Vec<u8> = class.iter().flat_map(|range| range.start()..=range.end()).collect();
            bytes.sort_unstable_by_key(|byte| !printable(byte));
            let printable = bytes.iter().filter(|byte| printable(byte)).count().max(1);
            out.push(bytes[if last { printable - 1 } else { 0 }]);
        }
        HirKind::Repetition(repetition) => (0..repetition.min).for_each(|_| word(&repetition.sub, last, out)),
        HirKind::Capture(capture) => word(&capture.sub, last, out),
        HirKind::Concat(parts) => parts.iter().for_each(|part| word(part, last, out)),
        HirKind::Alternation(branches) => word(if last { branches.last() } else { branches.first() }.unwrap(), last, out),
    }
}

/// Percent-encodes what may not stand in a URL.
fn in_url(word: &[u8]) -> String {
    word.iter()
        .copied()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() || b"/.-_?=&".contains(&byte) {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02x}")
                }
            },
        )
        .collect()
}

#[test]
fn squid_cuts_and_joins_no_expression() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let directory = prefilter(&stage, "");
    let squid = Squid::start(
        &stage,
        &origin,
        &format!(
            "acl path url_regex {:?}\nacl agent browser {:?}\nhttp_access deny agent\nhttp_access deny path\n",
            directory.join("path.regex"),
            directory.join("agent.regex")
        ),
    );
    let mut browser = Browser::new(squid.port());
    assert_eq!(browser.send("GET", "/", "User-Agent: Mozilla/5.0\r\n"), 200);
    let mut expressions = 0;
    for (name, is_agent) in [("path.regex", false), ("agent.regex", true)] {
        for line in lines_of(&directory.join(name)) {
            expressions += 1;
            let hir = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(&line).unwrap();
            for last in [false, true] {
                let mut found = Vec::new();
                word(&hir, last, &mut found);
                let status = if is_agent {
                    browser.send("GET", "/", &format!("User-Agent: x{}\r\n", String::from_utf8(found.clone()).unwrap()))
                } else {
                    // The first slash of the scheme comes before it.
                    browser.send("GET", &format!("/x{}", in_url(&found[1..])), "User-Agent: Mozilla/5.0\r\n")
                };
                assert_eq!(status, 403, "{:?} of {line}", String::from_utf8_lossy(&found));
            }
        }
    }
    assert!(expressions >= 2, "{expressions}");
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

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() / 1024
}

#[test]
fn hostile_urls_do_not_make_squids_expressions_grow_without_end() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let directory = prefilter(&stage, "");
    let example = example(&stage, &directory);
    let line = example.lines().find(|line| line.starts_with("acl strikeout_path ")).unwrap();
    // All is denied, so that nothing but the expressions takes memory.
    let squid = Squid::start(&stage, &origin, &format!("{line}\nhttp_access deny strikeout_path\nhttp_access deny all"));
    let expressions = lines_of(&directory.join("path.regex"));
    let letters: Vec<u8> = expressions.concat().bytes().filter(u8::is_ascii_alphanumeric).collect();
    let mut browser = Browser::new(squid.port());
    assert_eq!(browser.send("GET", "/", "User-Agent: x\r\n"), 403);
    let before = resident(squid.pid());
    // Pieces of the expressions, so that many of their states are met.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let urls = std::env::var("STRIKEOUT_HOSTILE_URLS").map_or(5_000, |text| text.parse().unwrap());
    for number in 0..urls {
        let mut url = "/".to_owned();
        while url.len() < if number % 8 == 0 { 600 } else { 60 } {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let start = usize::try_from(random >> 33).unwrap() % (letters.len() - 5);
            url.extend(letters[start..start + 5].iter().map(|byte| char::from(*byte)));
            url.push(['/', '-', '.', '='][usize::try_from(random >> 20).unwrap() % 4]);
            url.push('x');
        }
        browser.send("HEAD", &url, "User-Agent: x\r\n");
    }
    let grown = resident(squid.pid()).saturating_sub(before);
    println!("{} expressions, {grown} MiB more after {urls} URLs", expressions.len());
    assert!(grown <= 8 * expressions.len(), "{grown} MiB for {} expressions", expressions.len());
}
