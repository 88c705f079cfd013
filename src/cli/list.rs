//! `strikeout list`: the bans, filtered by the daemon, sorted and printed here.

use std::cmp::Ordering;

use clap::ValueEnum;
use jiff::tz::TimeZone;
use serde_json::json;

use super::ask::{ask_list, block, scope};
use super::list_format::Format;
use super::terminal::{Align, Colours, columns, counted, moment, now, span};
use super::{DaemonArguments, Failure, print, print_json};
use crate::control::admin::{AdminRequest, BanFilter};
use crate::control::bans::ListedBan;
use crate::list::file::parse_network;
use crate::rule_id::{RULE_NAME, is_rule_name};

/// The arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct ListArguments {
    /// Only bans by this rule; "manual" for those made by hand.
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Only clients and networks in this network, such as 192.0.2.0/24.
    #[arg(long, value_name = "CIDR")]
    network: Option<String>,
    /// Only bans that refuse on this service: web, mail, or all for those that refuse everywhere.
    #[arg(long)]
    scope: Option<String>,
    /// Show the evidence of each ban: the last offence, or the operator's reason.
    #[arg(long)]
    evidence: bool,
    /// Show the bans that rules in shadow mode would have made, instead of those in force.
    #[arg(long)]
    shadow: bool,
    /// What to sort by.
    #[arg(long, value_enum, default_value_t = Sort::Client)]
    sort: Sort,
    /// Print only the number of bans.
    #[arg(long)]
    count: bool,
    /// Print a form for other programs.
    #[arg(long, value_enum, conflicts_with_all = ["json", "count", "evidence"])]
    format: Option<Format>,
    #[command(flatten)]
    daemon: DaemonArguments,
}

/// What bans are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The ban that ends soonest comes first.
    Until,
    /// By address, networks among the clients.
    Client,
    /// By the rule's name.
    Rule,
    /// The oldest ban comes first, bans of unknown age last.
    Since,
}

/// `strikeout list`.
///
/// # Errors
/// An argument cannot be used, or the daemon cannot be asked.
pub fn run(arguments: &ListArguments) -> Result<(), Failure> {
    if let Some(rule) = arguments.rule.as_deref().filter(|rule| !is_rule_name(rule)) {
        return Err(Failure::Usage(format!("found the rule name {rule:?}, expected {RULE_NAME}")));
    }
    let filter = BanFilter {
        rule: arguments.rule.clone(),
        network: arguments.network.as_deref().map(block).transpose()?,
        scope: arguments.scope.as_deref().map(scope).transpose()?,
        evidence: arguments.evidence,
        shadow: arguments.shadow,
    };
    let mut bans: Vec<ListedBan> = ask_list(&arguments.daemon, &AdminRequest::List(filter))?;
    sort(&mut bans, arguments.sort);
    if let Some(format) = arguments.format {
        return print(&format.text(&bans));
    }
    match (arguments.count, arguments.daemon.json) {
        (true, true) => print_json(&json!({ "bans": bans.len() })),
        (true, false) => print(&format!("{}\n", bans.len())),
        (false, true) => print_json(&bans),
        (false, false) => print(&text(&bans, arguments.evidence, now(), &TimeZone::system(), Colours::of_stdout())),
    }
}

fn sort(bans: &mut [ListedBan], by: Sort) {
    let end = |ban: &ListedBan| if ban.until < 0 { i64::MAX } else { ban.until };
    let compare = |one: &ListedBan, other: &ListedBan| match by {
        Sort::Client => Ordering::Equal,
        Sort::Until => end(one).cmp(&end(other)),
        Sort::Rule => one.rule.cmp(&other.rule),
        Sort::Since => one.since.unwrap_or(i64::MAX).cmp(&other.since.unwrap_or(i64::MAX)),
    };
    bans.sort_by_cached_key(|ban| parse_network(&ban.client).ok());
    // Stable: bans that are equal stay sorted by client.
    bans.sort_by(compare);
}

fn text(bans: &[ListedBan], with_evidence: bool, now: i64, zone: &TimeZone, colours: Colours) -> String {
    if bans.is_empty() {
        return "no bans\n".into();
    }
    let mut heading = vec![
        ("CLIENT", Align::Left),
        ("SCOPE", Align::Left),
        ("RULE", Align::Left),
        ("SINCE", Align::Left),
        ("UNTIL", Align::Left),
        ("LEFT", Align::Right),
    ];
    if with_evidence {
        heading.push(("EVIDENCE", Align::Left));
    }
    let cells: Vec<Vec<String>> = bans
        .iter()
        .map(|ban| {
            let (until, left) = match u64::try_from(ban.remaining) {
                // Computed from what remains, which does not depend on the wall clock that the daemon started with.
                Ok(left) => (moment(now.saturating_add(ban.remaining), zone), span(left)),
                Err(_) => ("forever".to_owned(), "-".to_owned()),
            };
            let since = ban.since.map_or_else(|| "-".to_owned(), |since| moment(since, zone));
            let mut row = vec![ban.client.clone(), ban.scope.as_str().to_owned(), ban.rule.clone(), since, until, left];
            if with_evidence {
                row.push(ban.evidence.clone().filter(|evidence| !evidence.is_empty()).unwrap_or_else(|| "-".to_owned()));
            }
            row
        })
        .collect();
    let number = u64::try_from(bans.len()).unwrap_or(u64::MAX);
    columns(&heading, &cells, colours) + &colours.weak(&counted(number, "ban")) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bans() -> Vec<ListedBan> {
        [
            r#"{"client":"198.51.100.10","scope":"web","rule":"b","until":1800000600,"remaining":600,"since":1800000000,"news":1}"#,
            r#"{"client":"198.51.100.9","scope":"all","rule":"c","until":-1,"remaining":-1}"#,
            r#"{"client":"203.0.113.0/24","scope":"all","rule":"a","until":1800000060,"remaining":60,"since":1799999000}"#,
        ]
        .map(|line| serde_json::from_str(line).unwrap())
        .into()
    }

    #[track_caller]
    fn assert_order(by: Sort, expected: [&str; 3]) {
        let mut bans = bans();
        sort(&mut bans, by);
        assert_eq!(bans.iter().map(|ban| ban.client.as_str()).collect::<Vec<_>>(), expected, "{by:?}");
    }

    #[test]
    fn bans_are_sorted_by_the_key_that_is_asked_for() {
        let (ten, nine, network) = ("198.51.100.10", "198.51.100.9", "203.0.113.0/24");
        assert_order(Sort::Client, [nine, ten, network]);
        assert_order(Sort::Until, [network, ten, nine]);
        assert_order(Sort::Rule, [network, ten, nine]);
        assert_order(Sort::Since, [network, ten, nine]);
    }

    #[test]
    fn bans_are_shown_in_columns_and_as_json_with_every_key() {
        let text = |with_evidence| text(&bans(), with_evidence, 1_800_000_000, &TimeZone::UTC, Colours::NONE);
        assert!(
            text(true).lines().next().unwrap().ends_with("LEFT  EVIDENCE") && text(true).lines().nth(1).unwrap().ends_with("10 min  -")
        );
        let text = text(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["CLIENT", "SCOPE", "RULE", "SINCE", "UNTIL", "LEFT"]);
        assert!(lines[1].contains("2027-01-15 08:10:00") && lines[1].ends_with("10 min"), "{text}");
        assert!(lines[2].contains("forever"), "{text}");
        assert_eq!(lines[4], "3 bans");
        assert_eq!(
            serde_json::to_value(&bans()[1]).unwrap(),
            json!({"client": "198.51.100.9", "scope": "all", "rule": "c", "until": -1, "remaining": -1, "since": null})
        );
    }
}
