//! `strikeout test LINE`: which rules of the configuration a URL or a log line offends, and what they would do.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::{Failure, print};
use crate::clock::Clock;
use crate::config::Config;
use crate::detector::Detector;
use crate::event::headers::OwnedHeaders;
use crate::event::{Header, Request};
use crate::geo::watch::GeoWatch;
use crate::list::Lists;
use crate::log::judge::LogJudge;
use crate::log::offence::Received;
use crate::log::time::Zone;
use crate::rule::set::Scratch;
use crate::rule::{Mode, Rule};
use crate::rule_id::RuleNames;
use crate::table::Bans;

/// What is tested against the rules.
#[derive(Debug, Clone)]
pub struct TestInput<'a> {
    /// A URL, a path, or a line of any log.
    pub line: &'a str,
    /// The method of the request, if the line is a URL.
    pub method: &'a str,
    pub user_agent: Option<&'a str>,
    /// Other headers, such as `Cookie: a=b`.
    pub headers: &'a [String],
    /// The zone of times without an offset.
    pub zone: Zone,
}

/// A rule that the line offends, with the client and the time if the line is one of a log.
struct OffendedRule {
    rule: Arc<Rule>,
    client: Option<String>,
    time: Option<u64>,
}

/// Tests a line against the rules and prints the rules that it offends. False if there are none.
///
/// # Errors
/// The configuration cannot be used, or the result cannot be printed.
pub fn run(config: Option<&Path>, input: &TestInput<'_>, as_json: bool) -> Result<bool, Failure> {
    let names = RuleNames::default();
    let config = Config::load(config, &names).map_err(|fault| Failure::Usage(fault.to_string()))?;
    let hits = hits(&config, input).map_err(Failure::Usage)?;
    print(&if as_json { json_text(&hits) } else { text(&hits) })?;
    Ok(!hits.is_empty())
}

fn hits(config: &Config, input: &TestInput<'_>) -> Result<Vec<OffendedRule>, String> {
    let line = input.line.trim_end_matches(['\r', '\n']);
    if is_url(line) {
        let is_referer = |header: &&String| header.to_ascii_lowercase().starts_with("referer:");
        let referer = input.headers.iter().find(is_referer).and_then(|header| header.split_once(':'));
        let headers = OwnedHeaders::new(input.headers.iter().filter(|header| !is_referer(header)).map(String::as_str))
            .map_err(|error| format!("--header: {error}"))?;
        let request = Request {
            method: input.method.as_bytes(),
            url: line.as_bytes(),
            user_agent: input.user_agent.map(|text| Header::plain(text.as_bytes())).unwrap_or_default(),
            referer: referer.map(|(_, value)| Header::plain(value.trim().as_bytes())).unwrap_or_default(),
            headers: headers.as_headers(),
            ..Request::default()
        };
        let rules = config.rules.offended_by_request(&request, &mut Scratch::default());
        return Ok(rules.into_iter().map(|rule| OffendedRule { rule, client: None, time: None }).collect());
    }
    // Empty lists: a rule is tested even on a line whose client is never banned.
    let geo = GeoWatch::new(&config.geo).geo();
    let (lists, bans) = (Lists::default(), Bans::new(1));
    let detector = Detector {
        rules: &config.rules,
        lists: &lists,
        bans: &bans,
        prefix: config.table.ipv6_prefix,
        geo: &geo,
        crawlers: &config.crawlers,
    };
    let mut judge = LogJudge::new(config.rules.rules(), &input.zone, false)?;
    let mut hits = Vec::new();
    judge.judge(line.as_bytes(), Received::late(Clock::start().now()), &detector, &mut |seen| {
        for rule in seen.offence.rules.iter().filter(|rule| rule.concerns(seen.offence.address, detector.prefix, &geo)) {
            hits.push(OffendedRule {
                rule: Arc::clone(rule),
                client: Some(seen.offence.address.to_string()),
                time: Some(seen.time.secs()),
            });
        }
    });
    Ok(hits)
}

/// Lines of logs contain spaces, URLs do not.
fn is_url(line: &str) -> bool {
    !line.contains(' ') && (line.starts_with('/') || line.contains("://"))
}

fn text(hits: &[OffendedRule]) -> String {
    if hits.is_empty() {
        return "no rule is offended\n".to_owned();
    }
    let mut text = String::new();
    for hit in hits {
        let rule = &hit.rule;
        let length = rule.bantime.of(0).map_or_else(|| "forever".to_owned(), |span| format!("for {span}"));
        let when = if rule.maxretry == 1 { "at once".to_owned() } else { format!("at offence {} within {}", rule.maxretry, rule.findtime) };
        let response = if rule.refuses_offence { "refused" } else { "served until it bans" };
        let mode = if rule.mode == Mode::Shadow { "; in shadow mode, so nothing is refused" } else { "" };
        let client = hit.client.as_deref().map_or_else(String::new, |client| format!(" by {client}"));
        let _ = writeln!(text, "{}{client}: this is {response}; bans {when}, {length}, on {}{mode}", rule.name, rule.scope.as_str());
    }
    text
}

fn json_text(hits: &[OffendedRule]) -> String {
    let hits: Vec<_> = hits
        .iter()
        .map(|hit| {
            let rule = &hit.rule;
            json!({
                "rule": &*rule.name,
                "client": hit.client,
                "time": hit.time,
                "maxretry": rule.maxretry,
                "findtime": rule.findtime.secs(),
                "bantime": rule.bantime.of(0).map_or(-1, |span| i64::try_from(span.secs()).unwrap_or(i64::MAX)),
                "scope": rule.scope.as_str(),
                "mode": if rule.mode == Mode::Shadow { "shadow" } else { "enforce" },
                "refused": rule.refuses_offence && rule.mode == Mode::Enforce,
            })
        })
        .collect();
    format!("{}\n", serde_json::Value::from(hits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(line: &str) -> Vec<(String, Option<String>)> {
        names_with("", line, None)
    }

    fn names_with(config: &str, line: &str, user_agent: Option<&str>) -> Vec<(String, Option<String>)> {
        let config = Config::parse(config.as_bytes(), Path::new("test.toml"), &RuleNames::default()).unwrap();
        let input = TestInput { line, method: "GET", user_agent, headers: &[], zone: Zone::utc() };
        hits(&config, &input).unwrap().into_iter().map(|hit| (hit.rule.name.to_string(), hit.client)).collect()
    }

    #[test]
    fn a_url_or_a_path_is_tested_as_a_request() {
        assert_eq!(names_of("/w00tw00t.at.ISC"), [("w00tw00t".to_owned(), None)]);
        assert_eq!(names_of("http://www.example.org/WootWoot?x=1"), [("w00tw00t".to_owned(), None)]);
        assert!(names_of("/index.html").is_empty());
    }

    #[test]
    fn headers_of_the_request_are_tested() {
        let config = "[[rule]]\nname = 'no-bash'\nheader = '^[a-z-]+: \\(\\) \\{'\nmethod = 'GET'";
        let config = Config::parse(config.as_bytes(), Path::new("test.toml"), &RuleNames::default()).unwrap();
        let matches = |headers: &[&str]| {
            let headers: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
            let input = TestInput { line: "/x", method: "GET", user_agent: None, headers: &headers, zone: Zone::utc() };
            hits(&config, &input).map(|hits| hits.iter().any(|hit| &*hit.rule.name == "no-bash"))
        };
        assert_eq!(matches(&["Cookie: () { :; }; id"]), Ok(true));
        assert_eq!(matches(&["Referer: () { :; }; id"]), Ok(true));
        assert_eq!(matches(&["Cookie: a=() {", "Referer: http://h/"]), Ok(false));
        assert_eq!(matches(&["Cookie"]), Err("--header: found \"Cookie\", expected NAME: VALUE".to_owned()));
    }

    #[test]
    fn a_missing_user_agent_matches_where_the_line_could_say_so() {
        let rule = "[[rule]]\nname = 'no-agent'\nuser_agent = '^$'";
        let matches = |line: &str, user_agent| names_with(rule, line, user_agent).iter().any(|(name, _)| name == "no-agent");
        assert!(!matches("/x", None) && matches("/x", Some("")) && !matches("/x", Some("curl")));
        let combined = |agent| format!(r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET /x HTTP/1.1" 200 9 "-" "{agent}""#);
        assert!(matches(&combined("-"), None) && matches(&combined(""), None) && !matches(&combined("curl"), None));
        let ours = |rest: &str| matches(&format!("1795932767.058 192.0.2.1 403 TCP_DENIED GET http://site/x -{rest}"), None);
        assert!(ours(" - - -") && !ours(" curl - -") && !ours(""));
        for line in [
            r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET /x HTTP/1.1" 200 9"#,
            "1795932767.058 4 192.0.2.1 TCP_MISS/200 4099 GET http://site/x - HIER_DIRECT/192.0.2.9 text/html",
        ] {
            assert!(!matches(line, None), "{line}");
        }
    }

    #[test]
    fn a_log_line_is_tested_as_such_and_names_the_client() {
        let line = "2026-11-23 01:02:03 Connection from [203.0.113.9] refused: too many connections from that IP address";
        assert_eq!(names_of(line), [("exim-per-host".to_owned(), Some("203.0.113.9".to_owned()))]);
        let line = r#"203.0.113.9 - - [23/Nov/2026:01:02:03 +0000] "GET /w00tw00t HTTP/1.1" 404 0 "-" "x""#;
        assert!(names_of(line).contains(&("w00tw00t".to_owned(), Some("203.0.113.9".to_owned()))));
        assert!(names_of("nothing to see here").is_empty());
    }

    #[test]
    fn a_time_without_an_offset_is_in_the_zone_that_is_asked_for() {
        let config = Config::parse(b"", Path::new("test.toml"), &RuleNames::default()).unwrap();
        let line = "2026-11-23 01:02:03 Connection from [203.0.113.9] refused: too many connections from that IP address";
        let time = |zone: &str| {
            let input = TestInput { line, method: "GET", user_agent: None, headers: &[], zone: Zone::parse(zone).unwrap() };
            hits(&config, &input).unwrap().first().and_then(|hit| hit.time)
        };
        assert_eq!((time("UTC"), time("+05:30")), (Some(1_795_395_723), Some(1_795_395_723 - 19_800)));
    }
}
