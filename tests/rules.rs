//! The built-in rules against samples: every rule strikes what it is for, and no enforced one touches what ordinary sites serve.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use strikeout::config::Config;
use strikeout::event::{Header, Request};
use strikeout::log::exim::{self, Kind};
use strikeout::log::time::Zone;
use strikeout::rule::set::{RuleSet, Scratch};
use strikeout::rule::spec::RuleDefaults;
use strikeout::rule::{LinePattern, Mode, Names, Rule, Trigger, builtin};

const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0";

/// All built-in rules, those switched off included.
fn every_rule() -> RuleSet {
    let off = builtin::specs().unwrap().into_iter().filter(|rule| rule.enabled == Some(false));
    let on: String = off.map(|rule| format!("[[rule]]\nname = {:?}\nenabled = true\n", rule.name.get_ref())).collect();
    Config::parse(on.as_bytes(), Path::new("test.toml"), &Names::default()).unwrap().rules
}

fn default_rules() -> RuleSet {
    Config::parse(b"", Path::new("test.toml"), &Names::default()).unwrap().rules
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("# "))
}

/// `POST /path` or `/path`.
fn method_and_url(line: &str) -> (&str, &str) {
    match line.split_once(' ') {
        Some((method, url)) if method.bytes().all(|byte| byte.is_ascii_uppercase()) => (method, url),
        _ => ("GET", line),
    }
}

fn enforced(rules: Vec<std::sync::Arc<Rule>>) -> Vec<String> {
    rules.iter().filter(|rule| rule.mode == Mode::Enforce).map(|rule| rule.name.to_string()).collect()
}

#[test]
fn what_ordinary_sites_serve_offends_no_enforced_rule() {
    let rules = default_rules();
    let mut scratch = Scratch::default();
    let paths: Vec<&str> = lines(include_str!("data/ordinary.txt")).collect();
    assert!(paths.len() >= 500, "{} paths", paths.len());
    let mut wrong = Vec::new();
    for line in paths {
        let (method, url) = method_and_url(line);
        for url in [url.to_owned(), format!("http://site.example{url}"), format!("https://site.example:8443{url}")] {
            let request = Request {
                method: method.as_bytes(),
                url: url.as_bytes(),
                user_agent: Header::plain(BROWSER.as_bytes()),
                sec_fetch_site: b"",
            };
            let offended = enforced(rules.offended_by_request(&request, &mut scratch));
            if !offended.is_empty() {
                wrong.push(format!("{method} {url}: {}", offended.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn programs_that_visit_ordinary_sites_offend_no_rule() {
    let rules = default_rules();
    let mut scratch = Scratch::default();
    let mut wrong = Vec::new();
    for agent in lines(include_str!("data/user-agents.txt")) {
        let request =
            Request { method: b"GET", url: b"http://site.example/", user_agent: Header::plain(agent.as_bytes()), sec_fetch_site: b"" };
        wrong.extend(rules.offended_by_request(&request, &mut scratch).iter().map(|rule| format!("{agent}: {}", rule.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A sample: a URL, `POST /url`, or a table; for a rule over log lines, a line.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Sample {
    Text(String),
    Table { url: String, user_agent: Option<String>, status: Option<u16> },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Samples {
    strike: Vec<Sample>,
    spare: Vec<Sample>,
}

fn samples() -> BTreeMap<String, Samples> {
    toml::from_str(include_str!("data/probes.toml")).unwrap()
}

impl Sample {
    /// The names of the rules that this offends.
    fn offends(&self, rules: &RuleSet) -> BTreeSet<String> {
        let (text, agent, status) = match self {
            Self::Text(text) => (text, BROWSER, None),
            Self::Table { url, user_agent, status } => (url, user_agent.as_deref().unwrap_or(BROWSER), *status),
        };
        let (method, url) = method_and_url(text);
        let request =
            Request { method: method.as_bytes(), url: url.as_bytes(), user_agent: Header::plain(agent.as_bytes()), sec_fetch_site: b"" };
        let mut scratch = Scratch::default();
        let offended = match status {
            Some(status) => rules.offended_by_response(status, &request, &mut scratch),
            None => rules.offended_by_request(&request, &mut scratch),
        };
        offended.iter().map(|rule| rule.name.to_string()).collect()
    }

    /// The kind of Exim line that this is.
    fn kind(&self) -> Kind {
        let Self::Text(line) = self else { panic!("{self:?} is no line") };
        exim::parse(line.as_bytes(), &mut Zone::utc()).kind
    }
}

/// Whether `sample` offends `rule`.
fn hits(rule: &Rule, sample: &Sample, rules: &RuleSet) -> bool {
    match &rule.trigger {
        Trigger::Line(LinePattern::Exim(kinds)) => kinds.iter().any(|kind| Kind::from_name(kind).unwrap() == sample.kind()),
        _ => sample.offends(rules).contains(&*rule.name),
    }
}

#[test]
fn every_rule_strikes_its_samples_and_spares_its_counterexamples() {
    let rules = every_rule();
    let samples = samples();
    let mut wrong = Vec::new();
    for rule in rules.rules() {
        if matches!(rule.trigger, Trigger::RequestRate | Trigger::ConnectionRate | Trigger::Simultaneous { .. } | Trigger::Incident) {
            continue; // They look at no text.
        }
        let Some(Samples { strike, spare }) = samples.get(&*rule.name).filter(|samples| !samples.strike.is_empty()) else {
            wrong.push(format!("{} has no sample", rule.name));
            continue;
        };
        wrong.extend(strike.iter().filter(|sample| !hits(rule, sample, &rules)).map(|sample| format!("{} misses {sample:?}", rule.name)));
        wrong.extend(spare.iter().filter(|sample| hits(rule, sample, &rules)).map(|sample| format!("{} strikes {sample:?}", rule.name)));
    }
    wrong.extend(samples.keys().filter(|name| rules.by_name(name).is_none()).map(|name| format!("samples for {name}, which is no rule")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_are_at_least_a_hundred_known_probes_and_each_is_refused_or_banned() {
    let rules = default_rules();
    let mut probes = 0;
    for (name, samples) in samples() {
        let Some(rule) = rules.by_name(&name) else { continue };
        if rule.mode == Mode::Enforce && matches!(rule.trigger, Trigger::Request(_)) {
            probes += samples.strike.len();
        }
    }
    assert!(probes >= 500, "{probes} probes");
    let enforced = rules.rules().iter().filter(|rule| rule.mode == Mode::Enforce && matches!(rule.trigger, Trigger::Request(_))).count();
    assert!(enforced >= 100, "{enforced} rules");
}

/// `text` with the path's letters and digits that `which` picks percent-encoded; what is encoded already stays.
fn encoded(url: &str, which: impl Fn(usize) -> bool) -> String {
    let end = url.find('?').unwrap_or(url.len());
    let (path, rest) = url.split_at(end);
    let mut out = String::new();
    let mut escape = 0_u8;
    for (at, byte) in path.bytes().enumerate() {
        if byte == b'%' {
            escape = 3;
        }
        if escape == 0 && byte.is_ascii_alphanumeric() && which(at) {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push(char::from(byte));
        }
        escape = escape.saturating_sub(1);
    }
    out + rest
}

#[test]
fn encoding_hides_no_probe() {
    let rules = every_rule();
    let mut wrong = Vec::new();
    for (name, samples) in samples() {
        let rule = rules.by_name(&name).unwrap();
        let Trigger::Request(pattern) = &rule.trigger else { continue };
        if pattern.path.is_none() {
            continue;
        }
        for sample in &samples.strike {
            let Sample::Text(text) = sample else { continue };
            let (method, url) = method_and_url(text);
            if !url.is_ascii() || !url.starts_with('/') {
                continue;
            }
            for (kind, url) in
                [("all", encoded(url, |_| true)), ("odd", encoded(url, |at| at % 2 == 1)), ("first", encoded(url, |at| at < 3))]
            {
                let sample = Sample::Text(format!("{method} {url}"));
                let offended = sample.offends(&rules);
                if !offended.iter().any(|name| rules.by_name(name).unwrap().mode == rule.mode) {
                    wrong.push(format!("{name} misses {text} with {kind} letters encoded: {url}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_everybody_uses_is_never_one_strike() {
    let rules = default_rules();
    let mut scratch = Scratch::default();
    for line in lines(include_str!("data/ordinary.txt")) {
        let (method, url) = method_and_url(line);
        for status in [400, 401, 403, 404, 405, 429, 500, 503] {
            let request = Request { method: method.as_bytes(), url: url.as_bytes(), ..Request::default() };
            for rule in rules.offended_by_response(status, &request, &mut scratch) {
                assert!(rule.mode == Mode::Shadow && rule.maxretry >= 3, "{line} {status}: {}", rule.name);
            }
        }
    }
    for rule in rules.rules() {
        match &rule.trigger {
            Trigger::Response { .. } | Trigger::RequestRate => assert_eq!(rule.mode, Mode::Shadow, "{}", rule.name),
            Trigger::Request(pattern) if pattern.query.is_some() || pattern.user_agent.is_some() || pattern.url.is_some() => {
                assert!(rule.maxretry >= 2, "{}", rule.name);
            }
            _ => {}
        }
    }
}

#[test]
fn the_built_in_rules_compile_quickly() {
    let names = Names::default();
    let rules: Vec<Rule> =
        builtin::specs().unwrap().into_iter().map(|spec| spec.check(&names, &RuleDefaults::default()).unwrap()).collect();
    let fastest = (0..5).map(|_| rules.clone()).map(|rules| {
        let start = std::time::Instant::now();
        RuleSet::new(rules).unwrap();
        start.elapsed()
    });
    let fastest = fastest.min().unwrap();
    println!("{} rules compile in {fastest:?}", rules.len());
    assert!(fastest < std::time::Duration::from_millis(250), "{fastest:?}");
}
