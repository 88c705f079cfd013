//! `strikeout test LINE`: which rules of the configuration a URL or a log line offends, and what would follow.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::{Failure, show};
use crate::clock::Clock;
use crate::config::Config;
use crate::detector::Detector;
use crate::event::{Header, Request};
use crate::list::Lists;
use crate::log::rules::LogRules;
use crate::log::time::Zone;
use crate::rule::set::Scratch;
use crate::rule::{Mode, Names, Rule};
use crate::table::Bans;

/// What is tried.
#[derive(Debug, Clone, Copy)]
pub struct Trial<'a> {
    /// A URL, a path, or a line of any log.
    pub line: &'a str,
    /// The method of the request that a URL stands for.
    pub method: &'a str,
    /// Its User-Agent.
    pub user_agent: &'a str,
}

/// A rule that is offended; by whom and when, where the line says so.
struct Hit {
    rule: Arc<Rule>,
    client: Option<String>,
    time: Option<u64>,
}

/// Tries a line on the rules, and prints what it offends. False if nothing.
///
/// # Errors
/// The configuration cannot be used, or nothing can be printed.
pub fn run(config: Option<&Path>, trial: &Trial<'_>, as_json: bool) -> Result<bool, Failure> {
    let names = Names::default();
    let config = Config::load(config, &names).map_err(|fault| Failure::Usage(fault.to_string()))?;
    let hits = hits(&config, trial).map_err(Failure::Usage)?;
    show(&if as_json { in_json(&hits) } else { in_words(&hits) })?;
    Ok(!hits.is_empty())
}

fn hits(config: &Config, trial: &Trial<'_>) -> Result<Vec<Hit>, String> {
    let line = trial.line.trim_end_matches(['\r', '\n']);
    if is_url(line) {
        let request = Request {
            method: trial.method.as_bytes(),
            url: line.as_bytes(),
            user_agent: Header::plain(trial.user_agent.as_bytes()),
            ..Request::default()
        };
        let rules = config.rules.offended_by_request(&request, &mut Scratch::default());
        return Ok(rules.into_iter().map(|rule| Hit { rule, client: None, time: None }).collect());
    }
    // The question is what the rules say, not who is spared today.
    let (lists, bans) = (Lists::default(), Bans::new(1));
    let detector = Detector { rules: &config.rules, lists: &lists, bans: &bans, prefix: config.table.ipv6_prefix };
    let mut log = LogRules::new(config.rules.rules(), Zone::of_this_machine(), false)?;
    let mut hits = Vec::new();
    log.look(line.as_bytes(), Clock::start().now(), &detector, &mut |seen| {
        for rule in &seen.offence.rules {
            hits.push(Hit { rule: Arc::clone(rule), client: Some(seen.offence.address.to_string()), time: Some(seen.time.secs()) });
        }
    });
    Ok(hits)
}

/// A line of a log has spaces; a URL has none.
fn is_url(line: &str) -> bool {
    !line.contains(' ') && (line.starts_with('/') || line.contains("://"))
}

fn in_words(hits: &[Hit]) -> String {
    if hits.is_empty() {
        return "no rule is offended\n".to_owned();
    }
    let mut text = String::new();
    for hit in hits {
        let rule = &hit.rule;
        let length = rule.bantime.of(0).map_or_else(|| "for ever".to_owned(), |span| format!("for {span}"));
        let when = if rule.maxretry == 1 { "at once".to_owned() } else { format!("at offence {} within {}", rule.maxretry, rule.findtime) };
        let alone = if rule.refuses_offence { "refused" } else { "served until it bans" };
        let mode = if rule.mode == Mode::Shadow { "; in shadow mode, so nothing is refused" } else { "" };
        let client = hit.client.as_deref().map_or_else(String::new, |client| format!(" by {client}"));
        let _ = writeln!(text, "{}{client}: this is {alone}; bans {when}, {length}, on {}{mode}", rule.name, rule.scope.as_str());
    }
    text
}

fn in_json(hits: &[Hit]) -> String {
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
        let config = Config::parse(b"", Path::new("test.toml"), &Names::default()).unwrap();
        let trial = Trial { line, method: "GET", user_agent: "" };
        hits(&config, &trial).unwrap().into_iter().map(|hit| (hit.rule.name.to_string(), hit.client)).collect()
    }

    #[test]
    fn a_url_or_a_path_is_tried_as_a_request() {
        assert_eq!(names_of("/w00tw00t.at.ISC"), [("w00tw00t".to_owned(), None)]);
        assert_eq!(names_of("http://www.example.org/WootWoot?x=1"), [("w00tw00t".to_owned(), None)]);
        assert!(names_of("/index.html").is_empty());
    }

    #[test]
    fn a_log_line_is_tried_as_such_and_names_the_client() {
        let line = "2026-11-23 01:02:03 Connection from [203.0.113.9] refused: too many connections from that IP address";
        assert_eq!(names_of(line), [("exim-per-host".to_owned(), Some("203.0.113.9".to_owned()))]);
        let line = r#"203.0.113.9 - - [23/Nov/2026:01:02:03 +0000] "GET /w00tw00t HTTP/1.1" 404 0 "-" "x""#;
        assert!(names_of(line).contains(&("w00tw00t".to_owned(), Some("203.0.113.9".to_owned()))));
        assert!(names_of("nothing to see here").is_empty());
    }
}
