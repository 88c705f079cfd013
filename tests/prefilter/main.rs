//! What Squid never asks about offends no rule: samples in all disguises, and random rules with random URLs.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]

mod model;
#[path = "../samples/mod.rs"]
mod samples;

use std::path::Path;

use model::Model;
use proptest::prelude::*;
use samples::{BROWSER, each_in_every_disguise, lines, method_and_url};
use strikeout::internals::config::Config;
use strikeout::internals::event::{Header, Request};
use strikeout::internals::prefilter::Prefilter;
use strikeout::internals::rule::builtin;
use strikeout::internals::rule::set::{RuleSet, Scratch};
use strikeout::internals::rule::spec::RuleDefaults;
use strikeout::internals::rule_id::RuleNames;

fn rules(text: &str) -> RuleSet {
    Config::parse(text.as_bytes(), Path::new("test.toml"), &RuleNames::default()).unwrap_or_else(|error| panic!("{error}\n{text}")).rules
}

/// All built-in rules, including those that are off by default, except the one that matches every CONNECT.
fn every_rule() -> RuleSet {
    let off = builtin::specs().unwrap().into_iter().filter(|rule| rule.enabled == Some(false));
    rules(&off.map(|rule| format!("[[rule]]\nname = {:?}\nenabled = true\n", rule.name.get_ref())).collect::<String>())
}

fn request<'a>(method: &'a str, url: &'a str, agent: &'a str) -> Request<'a> {
    Request { method: method.as_bytes(), url: url.as_bytes(), user_agent: Header::plain(agent.as_bytes()), ..Request::default() }
}

/// An absolute URL, as Squid has it.
fn absolute(url: &str) -> String {
    if url.starts_with('/') { format!("http://www.example.org{url}") } else { url.to_owned() }
}

#[test]
fn every_sample_is_asked_about_in_every_disguise() {
    let rules = every_rule();
    let prefilter = Prefilter::of(rules.rules());
    assert_eq!(prefilter.unexpressed, []);
    let (model, mut scratch) = (Model::new(&prefilter), Scratch::default());
    let (mut tried, mut missed) = (0, Vec::new());
    let mut check = |method: &str, url: &str, agent: &str| {
        let url = absolute(url);
        let request = request(method, &url, agent);
        // Squid asks about no URL without a scheme but that of a CONNECT.
        let offended = if url.contains("://") { rules.offended_by_request(&request, &mut scratch) } else { Vec::new() };
        tried += usize::from(!offended.is_empty());
        if !offended.is_empty() && !model.asks(&request) {
            missed.push(format!("{method} {url} {agent}: {}", offended[0].name));
        }
    };
    each_in_every_disguise(&mut check);
    println!("{tried} offences tried, {} missed", missed.len());
    assert!(tried > 20_000, "{tried}");
    assert!(missed.is_empty(), "{} missed:\n{}", missed.len(), missed.join("\n"));
}

#[test]
fn few_ordinary_requests_are_asked_about() {
    let model = Model::new(&Prefilter::of(rules("").rules()));
    let (mut asked, mut all) = (Vec::new(), 0);
    for line in lines(include_str!("../data/ordinary.txt")) {
        let (method, url) = method_and_url(line);
        let url = absolute(url);
        if method == "GET" {
            all += 1;
            asked.extend(model.asks(&request(method, &url, BROWSER)).then_some(url));
        }
    }
    println!("{} of {all} ordinary URLs are asked about:\n{}", asked.len(), asked.join("\n"));
    // The list holds what might be mistaken for an attack.
    assert!(asked.len() * 2 < all, "{} of {all}", asked.len());
    let agents: Vec<&str> = lines(include_str!("../data/user-agents.txt")).collect();
    let asked: Vec<&&str> = agents.iter().filter(|agent| model.asks(&request("GET", "http://www.example.org/", agent))).collect();
    println!("{} of {} ordinary User-Agents are asked about: {asked:?}", asked.len(), agents.len());
    assert!(asked.len() * 10 < agents.len(), "{asked:?}");
    for url in [
        "/",
        "/index.html",
        "/blog/2024/05/a-page/",
        "/css/style.css?v=3",
        "/search?q=red+shoes&page=2",
        "/images/photo%20with%20a%20long%20name.jpg",
        "/wiki/%D0%9C%D0%B8%D1%80",
    ] {
        let url = absolute(url);
        assert!(!model.asks(&request("GET", &url, BROWSER)), "{url}");
    }
}

#[test]
fn a_rule_that_no_expression_covers_makes_squid_ask_about_everything() {
    for (rule, because) in [
        ("path = '.'", "nothing is certain to be in what its pattern matches"),
        ("path = '^/[^/]*$'", "half of all requests have what its pattern is certain to hold"),
        ("query = 'e'\nmaxretry = 2", "nothing is certain to be in what its pattern matches"),
        ("path = 's'", "half of all requests have what its pattern is certain to hold"),
        ("user_agent = '^$'\nmaxretry = 2", "nothing is certain to be in what its pattern matches"),
        ("method = ['GET', 'PUT']", "it matches an ordinary method whatever the request is"),
        ("status = 401\ncredentials = false", "whether an unasked request carried no password is not in Squid's log"),
    ] {
        let rules = rules(&format!("[defaults]\nfamilies = []\n[[rule]]\nname = 'own'\n{rule}"));
        let prefilter = Prefilter::of(rules.rules());
        let texts: Vec<String> = prefilter.unexpressed.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [format!("rule own: {because}")], "{rule}");
        assert!(Model::new(&prefilter).asks(&request("GET", "http://www.example.org/", BROWSER)), "{rule}");
    }
}

#[test]
fn too_many_rules_make_squid_ask_about_everything() {
    let number = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let rules = rules(&(0..3000).map(|n| format!("[[rule]]\nname = 'r{n}'\npath = '^/{:016x}$'\n", number(n))).collect::<String>());
    let prefilter = Prefilter::of(rules.rules());
    assert!(prefilter.unexpressed[0].to_string().starts_with("the rules are too many"), "{:?}", prefilter.unexpressed);
    assert_eq!(prefilter.path, ["."]);
}

/// Patterns of few letters, so that random URLs match them.
fn pattern() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        4 => "[abz/_.]{1,3}".prop_map(|text| regex::escape(&text)),
        2 => proptest::sample::select(vec!["%2e", "%2f", "%6", "%", "%25", "%61", "%00", "%3b", ";", "\\\\", "#", "'", "\\x00", "\\n", "é"]).prop_map(str::to_owned),
        2 => proptest::sample::select(vec![".", "[ab]", "[^/]", "[a-f0-9]", "\\s", "\\b", "[^a]", "\\w", "[%;]", "[[:^alpha:]]"]).prop_map(str::to_owned),
        1 => proptest::sample::select(vec!["^", "$", "(?:)"]).prop_map(str::to_owned),
    ];
    let tree = atom.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|branches| format!("(?:{})", branches.join("|"))),
            (inner, proptest::sample::select(vec!["?", "*", "+", "{2}", "{1,3}", "{2,}"]))
                .prop_map(|(part, times)| format!("(?:{part}){times}")),
        ]
    });
    (proptest::sample::select(vec!["", "^", "^/+"]), tree, proptest::sample::select(vec!["", "$"]), any::<bool>())
        .prop_map(|(start, tree, end, folds)| format!("{}{start}{tree}{end}", if folds { "(?i)" } else { "" }))
}

/// URLs of the same letters, also encoded.
fn url() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => "[abzABZ/_.]{1,3}",
        3 => "%(2e|2F|61|62|7a|3f|41|25|00|3b|5c|0a|c3|2|zz|%)",
        1 => "[;\\\\#?'é ]",
        1 => "/\\.\\./|//|/\\./|\\./",
    ];
    (proptest::sample::select(vec!["h/", "zab/", "a.b/", "b:80/", "z_b/"]), prop::collection::vec(part, 0..12))
        .prop_map(|(start, parts)| format!("http://{start}{}", parts.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn a_request_that_offends_a_random_rule_is_asked_about(
        patterns in prop::collection::vec((proptest::sample::select(vec!["path", "query", "url", "user_agent"]), pattern()), 1..3),
        urls in prop::collection::vec(url(), 30),
        agents in prop::collection::vec("[abz/_.AB%26 ]{0,6}", 30),
    ) {
        let mut text = "[[rule]]\nname = 'own'\nmaxretry = 2\n".to_owned();
        for (number, (field, pattern)) in patterns.iter().enumerate() {
            if patterns.iter().position(|(other, _)| other == field) == Some(number) {
                text += &format!("{field} = {}\n", toml::Value::String(pattern.clone()));
            }
        }
        let checked = builtin::family("random", &text)
            .and_then(|specs| specs.into_iter().map(|spec| spec.check(&RuleNames::default(), &RuleDefaults::default()).map_err(|error| error.message)).collect())
            .and_then(RuleSet::new);
        let rules = checked.map_err(TestCaseError::reject)?;
        let prefilter = Prefilter::of(rules.rules());
        let (model, mut scratch) = (Model::new(&prefilter), Scratch::default());
        for (url, agent) in urls.iter().zip(&agents) {
            let request = request("GET", url, agent);
            if !rules.offended_by_request(&request, &mut scratch).is_empty() {
                prop_assert!(model.asks(&request), "{url:?} {agent:?} offends\n{text}, not asked by {:?}", (&prefilter.path, &prefilter.agent));
            }
        }
    }
}
