//! How often the rule over attacks in the query matches attacks, and how often ordinary queries.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use strikeout::internals::config::Config;
use strikeout::internals::event::Request;
use strikeout::internals::rule::set::{RuleSet, Scratch};
use strikeout::internals::rule_id::RuleNames;

/// The queries of a file by their kind.
fn by_kind(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (kind, query) in text.lines().filter(|line| !line.starts_with("# ")).filter_map(|line| line.split_once('\t')) {
        kinds.entry(kind).or_default().push(query);
    }
    kinds
}

fn rules() -> RuleSet {
    Config::parse(b"", Path::new("test.toml"), &RuleNames::default()).unwrap().rules
}

/// The mark of the query if it offends `query-attacks`.
fn offends(rules: &RuleSet, query: &str) -> Option<u32> {
    let (url, mut scratch) = (format!("/page?{query}"), Scratch::default());
    let request = Request { method: b"GET", url: url.as_bytes(), ..Request::default() };
    let offended = rules.offended_by_request(&request, &mut scratch);
    let rule = offended.iter().find(|rule| &*rule.name == "query-attacks")?;
    rules.marks(&offended, &request, &mut scratch).and_then(|marks| rule.mark(&marks))
}

/// The number of queries that match, and of all, by kind.
fn matched(text: &str) -> BTreeMap<&str, (usize, usize)> {
    let rules = rules();
    let hits = |queries: &[&str]| queries.iter().filter(|query| offends(&rules, query).is_some()).count();
    by_kind(text).into_iter().map(|(kind, queries)| (kind, (hits(&queries), queries.len()))).collect()
}

#[test]
fn nineteen_of_twenty_attacks_match() {
    let counts = matched(include_str!("data/queries-attack.tsv"));
    println!("{counts:?}");
    assert!(counts.values().map(|(_, all)| all).sum::<usize>() >= 400);
    for (kind, (hits, all)) in counts {
        // wapiti sends harmless values as well, to compare with.
        let least = if kind == "wapiti" { 90 } else { 95 };
        assert!(hits * 100 >= all * least, "{kind}: {hits} of {all}");
    }
}

#[test]
fn a_scanner_has_sent_eight_different_attacks_after_a_few_requests() {
    let rules = rules();
    for (kind, most) in [("sqlmap", 12), ("wapiti", 20)] {
        let queries = &by_kind(include_str!("data/queries-attack.tsv"))[kind];
        let (mut seen, mut sent) = (BTreeSet::new(), 0);
        while seen.len() < 8 {
            seen.extend(offends(&rules, queries.get(sent).unwrap()));
            sent += 1;
        }
        println!("{kind}: eight attacks in {sent} requests");
        assert!(sent <= most, "{kind}: {sent}");
    }
}

#[test]
fn ordinary_tools_stay_below_eight_matches_however_many_of_their_queries_are_sent() {
    let counts = matched(include_str!("data/queries-ordinary.tsv"));
    println!("{counts:?}");
    assert!(counts.values().map(|(_, all)| all).sum::<usize>() >= 400);
    for (kind, (hits, _)) in counts {
        // Nobody searches for two dozen attacks within ten minutes.
        assert!(hits < 8 || kind == "search", "{kind}: {hits}");
    }
}

#[test]
fn a_query_that_is_sent_again_with_another_time_is_the_same() {
    let rules = rules();
    let mark = |query: &str| offends(&rules, query).unwrap();
    assert_eq!(mark("query=a'+or+'1'%3D'1&start=1&end=2"), mark("start=3&query=a%27+or+%271%27=%271&end=4"));
    assert_ne!(mark("id=1'+or+'1'='1"), mark("id=2'+or+'1'='1"));
}
