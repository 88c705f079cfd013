//! The built-in rules against samples: every rule matches its samples, and no enforced rule matches what ordinary sites serve.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "samples/mod.rs"]
mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use samples::{BROWSER, DISGUISES, Rewrite, Sample, Samples, encoded, lines, method_and_url, mixed_case, samples, split_sample};
use strikeout::internals::config::Config;
use strikeout::internals::event::exim_kind::EximKind;
use strikeout::internals::event::headers::OwnedHeaders;
use strikeout::internals::event::{Header, Request};
use strikeout::internals::log::exim;
use strikeout::internals::log::time::Zone;
use strikeout::internals::rule::set::{RuleSet, Scratch};
use strikeout::internals::rule::{LinePattern, Mode, Rule, Trigger, builtin};
use strikeout::internals::rule_id::RuleNames;

/// All built-in rules, including those that are off by default.
fn every_rule() -> RuleSet {
    let off = builtin::specs().unwrap().into_iter().filter(|rule| rule.enabled == Some(false));
    let on: String = off.map(|rule| format!("[[rule]]\nname = {:?}\nenabled = true\n", rule.name.get_ref())).collect();
    Config::parse(on.as_bytes(), Path::new("test.toml"), &RuleNames::default()).unwrap().rules
}

fn default_rules() -> RuleSet {
    Config::parse(b"", Path::new("test.toml"), &RuleNames::default()).unwrap().rules
}

fn enforced(rules: Vec<std::sync::Arc<Rule>>) -> Vec<String> {
    rules.iter().filter(|rule| rule.mode == Mode::Enforce).map(|rule| rule.name.to_string()).collect()
}

#[test]
fn requests_for_what_ordinary_sites_serve_offend_no_enforced_rule() {
    let rules = default_rules();
    let mut scratch = Scratch::default();
    let paths: Vec<&str> = lines(include_str!("data/ordinary.txt")).collect();
    assert!(paths.len() >= 500, "{} paths", paths.len());
    let mut failures = Vec::new();
    for line in paths {
        let (method, url) = method_and_url(line);
        for url in [url.to_owned(), format!("http://site.example{url}"), format!("https://site.example:8443{url}")] {
            let request = Request {
                method: method.as_bytes(),
                url: url.as_bytes(),
                user_agent: Header::plain(BROWSER.as_bytes()),
                sec_fetch_site: b"",
                ..Request::default()
            };
            let offended = enforced(rules.offended_by_request(&request, &mut scratch));
            if !offended.is_empty() {
                failures.push(format!("{method} {url}: {}", offended.join(", ")));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn programs_that_visit_ordinary_sites_offend_no_rule() {
    let rules = default_rules();
    let mut scratch = Scratch::default();
    let mut failures = Vec::new();
    // Some programs send no User-Agent at all.
    for agent in lines(include_str!("data/user-agents.txt")).chain([""]) {
        let request = Request {
            method: b"GET",
            url: b"http://site.example/",
            user_agent: Header::plain(agent.as_bytes()),
            sec_fetch_site: b"",
            ..Request::default()
        };
        failures.extend(rules.offended_by_request(&request, &mut scratch).iter().map(|rule| format!("{agent}: {}", rule.name)));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What a sample is about.
trait Judged {
    /// The names of the rules that the sample offends.
    fn offends(&self, rules: &RuleSet) -> BTreeSet<String>;
    /// The kind of the Exim log line.
    fn kind(&self) -> EximKind;
}

impl Judged for Sample {
    fn offends(&self, rules: &RuleSet) -> BTreeSet<String> {
        let (text, agent, status, referer, credentials, headers) = match self {
            Self::Text(text) => (text, BROWSER, None, "", None, &[][..]),
            Self::Table { url, user_agent, status, referer, credentials, headers } => {
                (url, user_agent.as_deref().unwrap_or(BROWSER), *status, referer.as_deref().unwrap_or_default(), *credentials, &**headers)
            }
        };
        let (method, url) = method_and_url(text);
        let headers = OwnedHeaders::new(headers.iter().map(String::as_str)).unwrap();
        let request = Request {
            method: method.as_bytes(),
            url: url.as_bytes(),
            user_agent: Header::plain(agent.as_bytes()),
            referer: Header::plain(referer.as_bytes()),
            credentials,
            headers: headers.as_headers(),
            ..Request::default()
        };
        let mut scratch = Scratch::default();
        let offended = match status {
            Some(status) => rules.offended_by_response(status, &request, &mut scratch),
            None => rules.offended_by_request(&request, &mut scratch),
        };
        offended.iter().map(|rule| rule.name.to_string()).collect()
    }

    fn kind(&self) -> EximKind {
        let Self::Text(line) = self else { panic!("{self:?} is not a log line") };
        exim::parse(line.as_bytes(), &mut Zone::utc()).kind
    }
}

/// Whether `sample` offends `rule`.
fn hits(rule: &Rule, sample: &Sample, rules: &RuleSet) -> bool {
    match &rule.trigger {
        Trigger::Line(LinePattern::Exim(kinds)) => kinds.iter().any(|kind| EximKind::from_name(kind).unwrap() == sample.kind()),
        _ => sample.offends(rules).contains(&*rule.name),
    }
}

#[test]
fn every_rule_matches_its_samples_and_not_its_counterexamples() {
    let rules = every_rule();
    let samples = samples();
    let mut failures = Vec::new();
    for rule in rules.rules() {
        if matches!(
            rule.trigger,
            Trigger::PageProbe | Trigger::ConnectionRate | Trigger::Simultaneous { .. } | Trigger::Incident | Trigger::Ban
        ) || rule.trigger.is_request_rate()
        {
            continue; // They do not look at text.
        }
        let Some(Samples { strike, spare }) = samples.get(&*rule.name).filter(|samples| !samples.strike.is_empty()) else {
            failures.push(format!("{} has no sample", rule.name));
            continue;
        };
        failures
            .extend(strike.iter().filter(|sample| !hits(rule, sample, &rules)).map(|sample| format!("{} misses {sample:?}", rule.name)));
        failures.extend(spare.iter().filter(|sample| hits(rule, sample, &rules)).map(|sample| format!("{} matches {sample:?}", rule.name)));
    }
    failures
        .extend(samples.keys().filter(|name| rules.by_name(name).is_none()).map(|name| format!("samples for {name}, which is not a rule")));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn at_least_a_hundred_rules_over_requests_with_five_hundred_samples_are_enforced() {
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

#[test]
fn a_probe_is_recognised_however_its_path_is_encoded() {
    let rules = every_rule();
    let mut failures = Vec::new();
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
                    failures.push(format!("{name} misses {text} with {kind} letters encoded: {url}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn no_disguise_hides_a_probe() {
    let rules = every_rule();
    let (mut tried, mut missed) = (BTreeMap::<&str, usize>::new(), Vec::new());
    for (name, samples) in samples() {
        let rule = rules.by_name(&name).unwrap();
        let pattern = match &rule.trigger {
            Trigger::Request(pattern) => pattern.path.as_deref(),
            Trigger::Response(pattern) => pattern.path.as_deref(),
            _ => None,
        };
        let Some(pattern) = pattern else { continue };
        let case = pattern.trim_start().starts_with("(?i").then_some(("mixed case", mixed_case as Rewrite));
        for sample in &samples.strike {
            let (text, user_agent, status) = match sample {
                // What is in a header cannot be disguised by the URL.
                Sample::Table { headers, .. } if !headers.is_empty() => continue,
                Sample::Text(text) => (text, None, None),
                Sample::Table { url, user_agent, status, .. } => (url, user_agent.clone(), *status),
            };
            let Some((method, path, query)) = split_sample(text) else { continue };
            for (disguise, disguised) in DISGUISES.into_iter().chain(case) {
                let Some(url) = disguised(path) else { continue };
                if name == "null-byte" && disguise == "letters encoded twice" {
                    continue; // Encoded twice, it may be part of a name, such as that of a page about zero bytes.
                }
                *tried.entry(disguise).or_default() += 1;
                let url = format!("{method} {url}{query}");
                let sample =
                    Sample::Table { url, user_agent: user_agent.clone(), status, referer: None, credentials: None, headers: Vec::new() };
                // A disguised path may belong to another rule, such as those over `..`; what counts is that it is an offence.
                if !sample.offends(&rules).iter().any(|name| rules.by_name(name).unwrap().mode == rule.mode) {
                    missed.push(format!("{name}: {disguise}: {sample:?}"));
                }
            }
        }
    }
    println!("{} tried, {} missed; {tried:?}", tried.values().sum::<usize>(), missed.len());
    assert!(tried.values().all(|tried| *tried >= 300), "{tried:?}");
    assert!(missed.is_empty(), "{} missed:\n{}", missed.len(), missed.join("\n"));
}

#[test]
fn a_disguise_makes_no_ordinary_path_an_offence() {
    let rules = default_rules();
    let (mut tried, mut wrong) = (0, Vec::new());
    for line in lines(include_str!("data/ordinary.txt")) {
        let Some((method, path, query)) = split_sample(line) else { continue };
        for (disguise, disguised) in DISGUISES {
            let Some(url) = disguised(path) else { continue };
            let url = format!("{url}{query}");
            let request = Request { method: method.as_bytes(), url: url.as_bytes(), ..Request::default() };
            tried += 1;
            if url == "/goform/" {
                continue; // Everything below this directory is an offence, in any disguise.
            }
            // An encoded `..`, or one before such a name, is an offence by itself.
            let rules_over_disguises = ["traversal-encoded", "traversal-one-up", "tomcat-semicolon", "actuator-hidden"];
            let offended = enforced(rules.offended_by_request(&request, &mut Scratch::default()));
            if offended.iter().any(|name| !rules_over_disguises.contains(&name.as_str())) {
                wrong.push(format!("{disguise}: {method} {url}: {}", offended.join(", ")));
            }
        }
    }
    println!("{tried} tried, {} blamed", wrong.len());
    assert!(tried >= 10_000, "{tried}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_single_request_or_failure_of_ordinary_use_is_enough_for_a_ban() {
    let rules = default_rules();
    let mut scratch = Scratch::default();
    for line in lines(include_str!("data/ordinary.txt")) {
        let (method, url) = method_and_url(line);
        for status in [400, 401, 403, 404, 405, 429, 500, 503] {
            let request = Request { method: method.as_bytes(), url: url.as_bytes(), ..Request::default() };
            for rule in rules.offended_by_response(status, &request, &mut scratch) {
                assert!(rule.maxretry >= if rule.mode == Mode::Shadow { 3 } else { 8 }, "{line} {status}: {}", rule.name);
            }
        }
    }
    for rule in rules.rules() {
        match &rule.trigger {
            Trigger::RequestRate | Trigger::UnreferredRate => assert_eq!(rule.mode, Mode::Shadow, "{}", rule.name),
            // A page that embeds what is missing names itself and does not use HEAD, and who logs in succeeds in the end.
            Trigger::Response(pattern) => {
                let is_no_page = pattern.referer == Some(false) && (rule.distinct.is_some() || pattern.methods == ["POST"]);
                let is_no_page = is_no_page || (rule.distinct.is_some() && pattern.methods == ["HEAD"]);
                assert!(rule.mode == Mode::Shadow || is_no_page || !pattern.cleared_by.is_empty(), "{}", rule.name);
            }
            Trigger::Request(pattern)
                if pattern.query.is_some() || pattern.user_agent.is_some() || pattern.url.is_some() || pattern.header.is_some() =>
            {
                assert!(rule.maxretry >= 2, "{}", rule.name);
            }
            _ => {}
        }
    }
}

/// At a forward proxy, pages decide what browsers ask other people's sites for, mostly without a Sec-Fetch-Site.
#[test]
fn the_forward_proxys_configuration_enforces_no_rule_under_which_a_page_can_put_its_visitor() {
    let text = include_bytes!("../conf-examples/forward-proxy.toml");
    let rules = Config::parse(text, Path::new("forward-proxy.toml"), &RuleNames::default()).unwrap().rules;
    // "Forbidden methods" and "port blocking" in the Fetch standard.
    let can_be_sent = |method: &str, url: &str| match method {
        "TRACE" | "TRACK" => false,
        "CONNECT" => !url.ends_with(":25") && url != "error:method-not-allowed",
        _ => url != "error:method-not-allowed",
    };
    let (mut tried, mut scratch, mut wrong) = (0, Scratch::default(), Vec::new());
    let samples = samples();
    for sample in samples.values().flat_map(|samples| samples.strike.iter().chain(&samples.spare)) {
        let (text, agent) = match sample {
            Sample::Text(text) => (text, BROWSER),
            Sample::Table { url, user_agent, .. } => (url, user_agent.as_deref().unwrap_or(BROWSER)),
        };
        let (method, url) = method_and_url(text);
        if !can_be_sent(method, url) {
            continue;
        }
        let request = Request {
            method: method.as_bytes(),
            url: url.as_bytes(),
            user_agent: Header::plain(agent.as_bytes()),
            sec_fetch_site: b"",
            ..Request::default()
        };
        let offended = enforced(rules.offended_by_request(&request, &mut scratch));
        let statuses = [400, 401, 403, 404, 405].map(|status| enforced(rules.offended_by_response(status, &request, &mut scratch)));
        tried += 1;
        if !offended.is_empty() || statuses.iter().any(|offended| !offended.is_empty()) {
            wrong.push(format!("{text}: {offended:?} {statuses:?}"));
        }
    }
    println!("{tried} tried, {} blamed", wrong.len());
    assert!(tried > 1000, "{tried}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let connect = Request { method: b"CONNECT", url: b"mail.example.org:25", ..Request::default() };
    assert_eq!(enforced(rules.offended_by_request(&connect, &mut scratch)), ["proxy-mail-relay"]);
}
