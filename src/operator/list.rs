//! `strikeout list`: the bans, filtered by the resident, sorted and shown here.

use std::cmp::Ordering;

use clap::ValueEnum;
use ipnet::IpNet;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::ask::{ask, scope, target, word};
use super::fields::Fields;
use super::screen::{Align, Colours, columns, counted, moment, now, span};
use super::{Asking, Failure, show};
use crate::list::file::parse_network;

/// Which bans, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only bans by this rule; "manual" for those made by hand.
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Only clients and networks in this network, such as 192.0.2.0/24.
    #[arg(long, value_name = "CIDR")]
    network: Option<String>,
    /// Only bans that refuse there: web, mail, or all for those that refuse everywhere.
    #[arg(long)]
    scope: Option<String>,
    /// Which ban comes first.
    #[arg(long, value_enum, default_value_t = Sort::Client)]
    sort: Sort,
    /// Say only how many bans there are.
    #[arg(long)]
    count: bool,
    #[command(flatten)]
    asking: Asking,
}

/// What bans are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The one that ends soonest.
    Until,
    /// The lowest address; networks among them.
    Client,
    /// By the name of the rule.
    Rule,
    /// The oldest; those whose beginning is not known at the end.
    Since,
}

/// One ban. -1 is for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    client: String,
    scope: String,
    rule: String,
    until: i64,
    remaining: i64,
    since: Option<i64>,
}

impl Row {
    fn of(line: &str) -> Self {
        let fields = Fields::of_row(line);
        let text = |key| fields.get(key).unwrap_or("-").to_owned();
        Self {
            client: line.split(' ').next().unwrap_or_default().to_owned(),
            scope: text("scope"),
            rule: text("rule"),
            until: fields.signed("until").unwrap_or(-1),
            remaining: fields.signed("remaining").unwrap_or(-1),
            since: fields.signed("since"),
        }
    }

    fn network(&self) -> Option<IpNet> {
        parse_network(&self.client).ok()
    }

    fn json(&self) -> Value {
        json!({
            "client": self.client, "scope": self.scope, "rule": self.rule,
            "until": self.until, "remaining": self.remaining, "since": self.since,
        })
    }
}

/// Asks, and shows the bans.
///
/// # Errors
/// An argument cannot be used, or the resident cannot be asked.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut request = "list".to_owned();
    if let Some(rule) = &args.rule {
        request.push_str(&format!(" rule={}", word(rule)));
    }
    if let Some(network) = &args.network {
        request.push_str(&format!(" network={}", target(network)?));
    }
    if let Some(name) = &args.scope {
        request.push_str(&format!(" scope={}", scope(name)?));
    }
    let answer = ask(&args.asking, &request)?;
    let mut rows: Vec<Row> = answer.lines().iter().map(|line| Row::of(line)).collect();
    sort(&mut rows, args.sort);
    if args.asking.json {
        let list = if args.count { json!({ "bans": rows.len() }) } else { rows.iter().map(Row::json).collect() };
        return show(&format!("{list}\n"));
    }
    if args.count {
        return show(&format!("{}\n", rows.len()));
    }
    show(&text(&rows, now(), &TimeZone::system(), Colours::of_stdout()))
}

fn sort(rows: &mut [Row], by: Sort) {
    let ends = |row: &Row| if row.until < 0 { i64::MAX } else { row.until };
    let compare = |one: &Row, other: &Row| match by {
        Sort::Client => Ordering::Equal,
        Sort::Until => ends(one).cmp(&ends(other)),
        Sort::Rule => one.rule.cmp(&other.rule),
        Sort::Since => one.since.unwrap_or(i64::MAX).cmp(&other.since.unwrap_or(i64::MAX)),
    };
    rows.sort_by_cached_key(Row::network);
    rows.sort_by(compare);
}

fn text(rows: &[Row], now: i64, zone: &TimeZone, colours: Colours) -> String {
    if rows.is_empty() {
        return "no bans\n".into();
    }
    let heading = [
        ("CLIENT", Align::Left),
        ("SCOPE", Align::Left),
        ("RULE", Align::Left),
        ("SINCE", Align::Left),
        ("UNTIL", Align::Left),
        ("LEFT", Align::Right),
    ];
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let (until, left) = match u64::try_from(row.remaining) {
                // By what is left: the clock of this screen may have been set since.
                Ok(left) => (moment(now.saturating_add(row.remaining), zone), span(left)),
                Err(_) => ("for ever".to_owned(), "-".to_owned()),
            };
            let since = row.since.map_or_else(|| "-".to_owned(), |since| moment(since, zone));
            vec![row.client.clone(), row.scope.clone(), row.rule.clone(), since, until, left]
        })
        .collect();
    let number = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    columns(&heading, &cells, colours) + &colours.weak(&counted(number, "ban")) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        [
            "198.51.100.10 scope=web rule=b until=1800000600 remaining=600 since=1800000000",
            "198.51.100.9 scope=all rule=c until=-1 remaining=-1",
            "203.0.113.0/24 scope=all rule=a until=1800000060 remaining=60 since=1799999000",
        ]
        .map(Row::of)
        .into()
    }

    #[track_caller]
    fn assert_order(by: Sort, expected: [&str; 3]) {
        let mut rows = rows();
        sort(&mut rows, by);
        assert_eq!(rows.iter().map(|row| row.client.as_str()).collect::<Vec<_>>(), expected, "{by:?}");
    }

    #[test]
    fn bans_are_sorted_as_asked_for() {
        let (ten, nine, network) = ("198.51.100.10", "198.51.100.9", "203.0.113.0/24");
        assert_order(Sort::Client, [nine, ten, network]);
        assert_order(Sort::Until, [network, ten, nine]);
        assert_order(Sort::Rule, [network, ten, nine]);
        assert_order(Sort::Since, [network, ten, nine]);
    }

    #[test]
    fn people_see_columns_and_programs_a_stable_shape() {
        let text = text(&rows(), 1_800_000_000, &TimeZone::UTC, Colours::NONE);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["CLIENT", "SCOPE", "RULE", "SINCE", "UNTIL", "LEFT"]);
        assert!(lines[1].contains("2027-01-15 08:10:00") && lines[1].ends_with("10 min"), "{text}");
        assert!(lines[2].contains("for ever"), "{text}");
        assert_eq!(lines[4], "3 bans");
        assert_eq!(
            rows()[1].json(),
            json!({"client": "198.51.100.9", "scope": "all", "rule": "c", "until": -1, "remaining": -1, "since": null})
        );
    }
}
