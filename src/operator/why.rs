//! `strikeout why ADDRESS`: why a client is refused or is not, and the command that undoes it.

use std::fmt::Write;

use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::ask::{address, ask};
use super::fields::Fields;
use super::screen::{Colours, moment, now, span};
use super::{Asking, Failure, show};

/// Asks, and shows the answer.
///
/// # Errors
/// That is no address, or the resident cannot be asked.
pub fn run(text: &str, asking: &Asking) -> Result<(), Failure> {
    let address = address(text)?;
    let fields = Fields::of(&ask(asking, &format!("why {address}"))?.lines());
    let answer = Answer { fields, target: asking.again() };
    if asking.json { show(&format!("{}\n", answer.json())) } else { show(&answer.text(now(), &TimeZone::system(), Colours::of_stdout())) }
}

/// What the resident knows.
pub(super) struct Answer {
    fields: Fields,
    /// The arguments that name the same resident again.
    target: String,
}

const SURFACES: [(&str, &str); 2] = [("web", "on the web"), ("mail", "in mail")];

impl Answer {
    pub(super) fn new(fields: Fields, target: String) -> Self {
        Self { fields, target }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.fields.get(key)
    }

    /// What refuses on `surface`, if anything does.
    fn refused(&self, surface: &str) -> Option<Fields> {
        self.get(surface)?.strip_prefix("refused ").map(Fields::of_row)
    }

    pub(super) fn is_refused(&self) -> bool {
        SURFACES.iter().any(|(surface, _)| self.refused(surface).is_some())
    }

    /// Whether the story told is that of a ban that stands.
    fn stands(&self) -> bool {
        self.fields.number("stands") == 1
    }

    /// What makes the client be served again, in the order in which it has to be done.
    pub(super) fn undo(&self) -> Vec<String> {
        let by =
            |what: &str| SURFACES.iter().filter_map(|(surface, _)| self.refused(surface)).any(|refused| refused.get("by") == Some(what));
        let mut undo = Vec::new();
        if by("client") {
            undo.push(format!("strikeout unban {}{}", self.get("address").unwrap_or_default(), self.target));
        }
        if self.is_refused()
            && let Some(network) = self.network()
        {
            undo.push(format!("strikeout unban {}{}", network.0, self.target));
        }
        if self.is_refused()
            && let Some(listed) = self.get("denied")
        {
            undo.push(format!("remove {listed} from that list, then: strikeout reload{}", self.target));
        }
        undo
    }

    /// The banned network that the address is in.
    fn network(&self) -> Option<(&str, Fields)> {
        let (network, rest) = self.get("network")?.split_once(' ')?;
        Some((network, Fields::of_row(rest)))
    }

    /// For people.
    fn text(&self, now: i64, zone: &TimeZone, colours: Colours) -> String {
        let mut text = String::new();
        let who = match (self.get("address"), self.get("client")) {
            (Some(address), Some(client)) if address != client => format!("{address} (counted as {client})"),
            (address, _) => address.unwrap_or("?").to_owned(),
        };
        let places: Vec<&str> = SURFACES.iter().filter(|(surface, _)| self.refused(surface).is_some()).map(|(_, place)| *place).collect();
        // Writing to a string cannot fail.
        let _ = if places.is_empty() {
            writeln!(text, "{} is {}", colours.strong(&who), colours.good("not refused"))
        } else {
            writeln!(text, "{} is {} {}", colours.strong(&who), colours.bad("refused"), places.join(" and "))
        };
        let mut line = |title: &str, rest: &str| {
            let _ = writeln!(text, "  {} {rest}", colours.weak(&format!("{title:<9}")));
        };
        if !self.is_refused() && self.get("never_banned").is_none() && self.get("strikes").is_none() && !self.stands() {
            line("now", "no ban stands, no list names it, and no strikes are counted");
        }
        if let Some(reason) = self.get("never_banned") {
            line("never", &format!("it is never banned: {reason}"));
        }
        if let Some(listed) = self.get("denied") {
            line("deny list", &format!("{listed}: refused always"));
        }
        let ago =
            |seconds: i64| format!("{} ({} ago)", moment(now.saturating_sub(seconds), zone), span(u64::try_from(seconds).unwrap_or(0)));
        let ends = |remaining: Option<i64>| match remaining.unwrap_or(-1) {
            -1 => "for ever".to_owned(),
            left => format!("until {} (in {})", moment(now.saturating_add(left), zone), span(u64::try_from(left).unwrap_or(0))),
        };
        if let Some((network, ban)) = self.network() {
            let since = ban.signed("since_ago").map_or_else(String::new, |seconds| format!(" since {}", ago(seconds)));
            let by = match ban.get("rule") {
                Some("manual") => "by hand".to_owned(),
                rule => format!("by {}", rule.unwrap_or("?")),
            };
            line("network", &format!("{network} is banned {by}{since}, {}", ends(ban.signed("remaining"))));
            if let Some(reason) = self.get("network_reason") {
                line("reason", reason);
            }
            if let Some(node) = self.get("network_node") {
                line("machine", node);
            }
        }
        for (surface, place) in SURFACES {
            let Some(refused) = self.refused(surface) else { continue };
            let rule = refused.get("rule").unwrap_or("?");
            let is_told = self.stands() && self.get("rule") == Some(rule);
            if refused.get("by") == Some("client") && !is_told {
                line("ban", &format!("{place} by {rule} {}", ends(refused.signed("remaining"))));
            }
            if refused.get("unsaved").is_some() {
                line("unsaved", "the state file does not have this ban yet");
            }
        }
        self.story(&mut line, &ago, &ends);
        for shadow in self.fields.all("shadow") {
            let (surface, rest) = shadow.split_once(' ').unwrap_or((shadow, ""));
            let row = Fields::of_row(rest);
            let rule = row.get("rule").unwrap_or("?");
            line("shadow", &format!("{rule} would refuse it ({surface}) {}, were it not in shadow mode", ends(row.signed("remaining"))));
        }
        for strikes in self.fields.all("strikes") {
            let (counts, rest) = strikes.split_once(" rule=").unwrap_or((strikes, ""));
            let row = Fields::of_row(&format!("rule={rest}"));
            let shadow = if row.get("mode") == Some("shadow") { " (shadow mode)" } else { "" };
            let last = row.signed("last_ago").map_or_else(String::new, |seconds| format!(", the last {}", ago(seconds)));
            line("strikes", &format!("{counts} under {}{shadow}{last}", row.get("rule").unwrap_or("?")));
        }
        for undo in self.undo() {
            line("undo", &colours.strong(&undo));
        }
        text
    }

    /// The ban that stands, or the one before.
    fn story(&self, line: &mut impl FnMut(&str, &str), ago: &impl Fn(i64) -> String, ends: &impl Fn(Option<i64>) -> String) {
        let Some(rule) = self.get("rule") else { return };
        let about = self.get("rule_is").map(Fields::of_row);
        let length = |row: &Fields, key: &str| {
            row.signed(key).and_then(|seconds| u64::try_from(seconds).ok()).map_or_else(|| "ever".to_owned(), span)
        };
        let about = match &about {
            None if rule == "manual" => " (by hand)".to_owned(),
            None => " (no longer in the configuration)".to_owned(),
            Some(row) => format!(
                " ({}, scope {}; {} in {} bans for {})",
                row.get("mode").unwrap_or("?"),
                row.get("scope").unwrap_or("?"),
                row.number("maxretry"),
                length(row, "findtime"),
                length(row, "bantime")
            ),
        };
        let title = if self.stands() { "rule" } else { "earlier" };
        line(title, &format!("{rule}{about}"));
        if let Some(description) = self.get("rule_description") {
            line("", description);
        }
        if let Some(node) = self.get("node") {
            line("machine", node);
        }
        let evidence = self.get("evidence").filter(|evidence| !evidence.is_empty());
        line(if rule == "manual" { "reason" } else { "evidence" }, evidence.unwrap_or("none was kept"));
        if rule != "manual" {
            line("first", &ago(self.fields.signed("first_ago").unwrap_or(0)));
        }
        line("since", &ago(self.fields.signed("since_ago").unwrap_or(0)));
        if self.stands() {
            line("until", ends(self.fields.signed("remaining")).trim_start_matches("until "));
        } else {
            // A second may be left of a ban that is over just now.
            let is_over = self.fields.signed("remaining").is_some_and(|left| (0..=1).contains(&left));
            line("until", if is_over { "it is over" } else { "it does not stand any more: lifted, or another one took its place" });
        }
        let (count, times) = (self.fields.number("count"), self.fields.number("times"));
        if rule != "manual" {
            line("count", &format!("{count} in all; its {} ban under this rule", ordinal(times)));
        }
    }

    /// The stable shape for programs: see `docs/operators.md`.
    fn json(&self) -> Value {
        let text = |key: &str| self.get(key).map_or(Value::Null, Value::from);
        let surfaces: Map<String, Value> = SURFACES
            .iter()
            .map(|(surface, _)| {
                let refused = self.refused(surface).map_or(Value::Null, |row| {
                    json!({
                        "rule": row.get("rule"), "by": row.get("by"), "until": row.signed("until"),
                        "remaining": row.signed("remaining"), "saved": row.get("unsaved").is_none(),
                    })
                });
                ((*surface).to_owned(), refused)
            })
            .collect();
        let ban = self.get("rule").map_or(Value::Null, |rule| {
            json!({
                "rule": rule, "stands": self.stands(), "scope": text("scope"), "evidence": text("evidence"),
                "first": text("first"), "since": text("since"), "until": text("until"),
                "remaining": self.fields.signed("remaining"),
                "count": self.fields.number("count"), "times": self.fields.number("times"), "node": text("node"),
                "rule_is": self.get("rule_is").map_or(Value::Null, |row| Value::Object(Fields::of_row(row).object())),
                "rule_description": text("rule_description"),
            })
        });
        let network = self.network().map_or(Value::Null, |(network, row)| {
            json!({
                "network": network, "rule": row.get("rule"), "node": text("network_node"), "since": row.get("since"),
                "until": row.signed("until"), "remaining": row.signed("remaining"), "reason": text("network_reason"),
            })
        });
        let strikes = self.fields.all("strikes").map(|line| {
            let (counts, rest) = line.split_once(" rule=").unwrap_or((line, ""));
            let (count, maxretry) = counts.split_once(" of ").unwrap_or((counts, ""));
            let row = Fields::of_row(&format!("rule={rest}"));
            let number = |text: &str| text.parse::<u64>().unwrap_or(0);
            json!({
                "rule": row.get("rule"), "count": number(count), "maxretry": number(maxretry),
                "last": row.get("last"), "shadow": row.get("mode") == Some("shadow"),
            })
        });
        let shadows = self.fields.all("shadow").map(|line| {
            let (surface, rest) = line.split_once(' ').unwrap_or((line, ""));
            let row = Fields::of_row(rest);
            json!({ "surface": surface, "rule": row.get("rule"), "until": row.signed("until"), "remaining": row.signed("remaining") })
        });
        json!({
            "address": text("address"), "client": text("client"), "refused": self.is_refused(), "surfaces": surfaces,
            "never_banned": text("never_banned"), "denied": text("denied"), "network": network, "ban": ban,
            "shadow": shadows.collect::<Vec<_>>(), "strikes": strikes.collect::<Vec<_>>(), "undo": self.undo(),
        })
    }
}

fn ordinal(number: u64) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(lines: &[&str]) -> Answer {
        Answer::new(Fields::of(lines), " --table /s".into())
    }

    fn text(answer: &Answer) -> String {
        answer.text(1_800_000_000, &TimeZone::UTC, Colours::NONE)
    }

    const REFUSED: &[&str] = &[
        "address=198.51.100.7",
        "client=198.51.100.7",
        "web=refused rule=probe until=1800000600 remaining=600 by=client",
        "mail=served",
        "rule=probe",
        "evidence=GET /w00tw00t = x",
        "stands=1",
        "first_ago=3600",
        "since_ago=60",
        "remaining=600",
        "count=2",
        "times=1",
        "rule_is=mode=enforce scope=web maxretry=2 findtime=600 bantime=3600",
    ];

    #[test]
    fn a_ban_is_told_with_rule_evidence_timeline_and_the_command_that_undoes_it() {
        let text = text(&answer(REFUSED));
        for expected in [
            "198.51.100.7 is refused on the web\n",
            "probe (enforce, scope web; 2 in 10 min bans for 1 h)",
            "GET /w00tw00t = x",
            "2027-01-15 07:00:00 (1 h ago)",
            "2027-01-15 08:10:00 (in 10 min)",
            "2 in all; its 1st ban",
            "strikeout unban 198.51.100.7 --table /s\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }

    #[test]
    fn who_is_not_refused_is_told_why_not() {
        let free = answer(&["address=198.51.100.7", "client=198.51.100.7", "web=served", "mail=served"]);
        assert!(text(&free).contains("no ban stands, no list names it"));
        assert!(free.undo().is_empty());
        let counted = answer(&["address=198.51.100.7", "web=served", "mail=served", "strikes=2 of 5 rule=helo last=x last_ago=61"]);
        assert!(text(&counted).contains("2 of 5 under helo, the last 2027-01-15 07:58:59 (1 min 1 s ago)"), "{}", text(&counted));
        let never = answer(&["address=127.0.0.1", "web=served", "mail=served", "never_banned=loopback 127.0.0.0/8"]);
        assert!(text(&never).contains("never banned: loopback 127.0.0.0/8"));
    }

    #[test]
    fn a_network_and_a_deny_list_are_undone_where_they_were_made() {
        let both = answer(&[
            "address=198.51.100.7",
            "web=refused rule=manual until=-1 remaining=-1 by=network",
            "mail=refused rule=manual until=-1 remaining=-1 by=network",
            "network=198.51.100.0/24 rule=manual since=x since_ago=5 until=-1 remaining=-1",
            "denied=198.51.100.7 (/etc/strikeout/deny)",
        ]);
        assert_eq!(
            both.undo(),
            [
                "strikeout unban 198.51.100.0/24 --table /s",
                "remove 198.51.100.7 (/etc/strikeout/deny) from that list, then: strikeout reload --table /s"
            ]
        );
        assert!(text(&both).contains("198.51.100.0/24 is banned by hand since 2027-01-15 07:59:55 (5 s ago), for ever"));
    }

    #[test]
    fn programs_find_every_key_whether_there_is_something_or_not() {
        let json = answer(REFUSED).json();
        assert_eq!(json["surfaces"]["web"]["by"], "client");
        assert_eq!(json["surfaces"]["mail"], Value::Null);
        assert_eq!(json["ban"]["rule_is"]["maxretry"], 2);
        assert_eq!((&json["network"], &json["strikes"]), (&Value::Null, &json!([])));
    }

    #[test]
    fn ordinals_are_english() {
        assert_eq!([1, 2, 3, 4, 11, 21, 112].map(ordinal), ["1st", "2nd", "3rd", "4th", "11th", "21st", "112th"]);
    }
}
