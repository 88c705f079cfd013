//! What the expressions of the fast form match on the real Squid, and what they cost it.

use std::collections::BTreeSet;
use std::fs;

use regex_syntax::hir::{Class, Hir, HirKind};
use strikeout::internals::config::Config;
use strikeout::internals::event::{Header, Request};
use strikeout::internals::rule::builtin;
use strikeout::internals::rule::set::{RuleSet, Scratch};
use strikeout::internals::rule_id::RuleNames;

use super::{Browser, example, prefilter};
use crate::harness::{Stage, free_port};
use crate::rig::{Origin, Squid};
use crate::samples::each_in_every_disguise;

/// The rules that are off by default, switched on.
fn every_rule() -> String {
    let off = builtin::specs().unwrap().into_iter().filter(|rule| rule.enabled == Some(false));
    off.map(|rule| format!("[[rule]]\nname = {:?}\nenabled = true\n", rule.name.get_ref())).collect()
}

/// What Squid sees of a URL.
#[derive(Clone, Copy)]
enum Sees {
    /// Path and host, as in the example.
    Parts,
    /// The whole URL, as the example did at first.
    Whole,
}

/// Squid that answers 403 wherever the fast form asks the helper, by the same lines.
fn deciding(stage: &Stage, origin: &Origin, directory: &std::path::Path, sees: Sees) -> Squid {
    let example = example(stage, directory);
    let line = |start: &str| example.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}")).to_owned();
    let mut lines = vec![line("acl strikeout_method "), line("acl strikeout_scheme ")];
    match sees {
        Sees::Parts => lines.push(line("include ")),
        Sees::Whole => lines.extend([
            format!("acl strikeout_path url_regex {:?}", directory.join("path.regex")),
            format!("acl strikeout_agent browser {:?}", directory.join("agent.regex")),
            "acl strikeout_host dstdom_regex -n %".to_owned(),
            "acl strikeout_escape urlpath_regex %\nhttp_access deny strikeout_escape".to_owned(),
        ]),
    }
    Squid::start(
        stage,
        origin,
        &format!(
            "{}\nhttp_access deny !strikeout_method\nhttp_access deny !strikeout_scheme\nhttp_access deny strikeout_agent\nhttp_access deny strikeout_host\n\
             http_access deny strikeout_path\n",
            lines.join("\n")
        ),
    )
}

#[test]
fn no_sample_in_any_disguise_slips_by_the_real_squid() {
    println!("{}", try_all_samples(Sees::Parts));
}

#[test]
fn nor_does_one_slip_by_a_configuration_that_looks_at_whole_urls() {
    println!("{}", try_all_samples(Sees::Whole));
}

/// Sends all samples that offend a rule, and returns how many were asked about.
fn try_all_samples(sees: Sees) -> String {
    let Some(stage) = Stage::with_squid() else { return "skipped".to_owned() };
    let origin = Origin::start();
    let directory = prefilter(&stage, &every_rule());
    let mut squid = deciding(&stage, &origin, &directory, sees);
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
    assert!(asked > 10_000, "{asked}");
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    squid.assert_running();
    for warning in ["WARNING", "ERROR"] {
        let log = squid.cache_log();
        assert!(!log.lines().any(|line| line.contains(warning) && line.contains("expression")), "{log}");
    }
    format!("{tried} offences sent: {asked} asked about, {refused} refused by Squid itself")
}

/// The expressions of a file of them or of the acl with this name, with an escape for each byte that is not ASCII.
fn expressions_of(file: &std::path::Path, acl: &str) -> Vec<String> {
    let escaped = |byte: &u8| if byte.is_ascii() { char::from(*byte).to_string() } else { format!("\\x{byte:02x}") };
    let text: String = fs::read(file).unwrap().iter().map(escaped).collect();
    let acl = format!("acl {acl} ");
    let expressions = text.lines().map(|line| if line.starts_with(&acl) { line.rsplit(' ').next().unwrap() } else { line });
    expressions.filter(|line| line.starts_with('^')).map(str::to_owned).collect()
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
    let (acls, path, agent) = (directory.join("acls.conf"), directory.join("path.regex"), directory.join("agent.regex"));
    let included = format!("include {}", acls.display());
    let read = format!("acl strikeout_path urlpath_regex {path:?}\nacl strikeout_agent browser {agent:?}");
    for (lines, path, agent) in [(included, &acls, &acls), (read, &path, &agent)] {
        let squid = Squid::start(&stage, &origin, &format!("{lines}\nhttp_access deny strikeout_agent\nhttp_access deny strikeout_path\n"));
        let mut browser = Browser::new(squid.port());
        assert_eq!(browser.send("GET", "/", "User-Agent: Mozilla/5.0\r\n"), 200);
        for (file, acl) in [(path, "strikeout_path"), (agent, "strikeout_agent")] {
            let expressions = expressions_of(file, acl);
            assert!(!expressions.is_empty(), "{acl} {file:?}");
            for line in expressions {
                first_and_last_are_denied(&mut browser, &line, acl == "strikeout_agent");
            }
        }
    }
}

/// Sends the first and the last text that an expression matches.
fn first_and_last_are_denied(browser: &mut Browser, line: &str, is_agent: bool) {
    let hir = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(line).unwrap();
    for last in [false, true] {
        let mut found = Vec::new();
        word(&hir, last, &mut found);
        let status = if is_agent {
            browser.send("GET", "/", &format!("User-Agent: x{}\r\n", String::from_utf8(found.clone()).unwrap()))
        } else {
            // Also where it begins the path.
            let before = if last && found.starts_with(b"/") { "" } else { "/x" };
            browser.send("GET", &format!("{before}{}", in_url(&found)), "User-Agent: Mozilla/5.0\r\n")
        };
        assert_eq!(status, 403, "{:?} of {line}", String::from_utf8_lossy(&found));
    }
}

#[test]
fn a_host_that_a_rule_names_is_asked_about_whatever_the_path_is() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let directory = prefilter(&stage, "");
    let acls = format!("include {}", directory.join("acls.conf").display());
    let port = free_port();
    let listens = format!("http_port 127.0.0.1:{port} accel vhost\n");
    let _squid = Squid::start(&stage, &origin, &format!("{listens}{acls}\nhttp_access deny strikeout_host\n"));
    for (host, status) in [
        ("www.example.org", 200),
        ("example.org:8080", 200),
        ("192.0.2.1", 200),
        ("www.AZENV.net", 403),
        ("azenv.net:80", 403),
        ("a%2eb", 403),
    ] {
        assert_eq!(Browser::new(port).send("GET", &format!("http://{host}/"), "User-Agent: x\r\n"), status, "{host}");
    }
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
    let acls = directory.join("acls.conf");
    // All is denied, so that nothing but the expressions takes memory.
    let lines = format!("include {}\nhttp_access deny strikeout_path\nhttp_access deny all", acls.display());
    let squid = Squid::start(&stage, &origin, &lines);
    let expressions = expressions_of(&acls, "strikeout_path");
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
