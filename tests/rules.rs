//! The built-in rules against samples: every rule strikes what it is for, and no enforced one touches what ordinary sites serve.

#![expect(clippy::unwrap_used, reason = "tests may")]

use std::path::Path;

use strikeout::config::Config;
use strikeout::event::Request;
use strikeout::rule::set::{RuleSet, Scratch};
use strikeout::rule::{Mode, Names, Rule};

const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0";

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
            let request = Request { method: method.as_bytes(), url: url.as_bytes(), user_agent: BROWSER.as_bytes(), sec_fetch_site: b"" };
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
        let request = Request { method: b"GET", url: b"http://site.example/", user_agent: agent.as_bytes(), sec_fetch_site: b"" };
        wrong.extend(rules.offended_by_request(&request, &mut scratch).iter().map(|rule| format!("{agent}: {}", rule.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
