//! `strikeout why ADDRESS`: why a client is refused or not, and the commands that end the refusal.

use std::fmt::Write;

use jiff::tz::TimeZone;
use serde::Serialize;

use super::ask::{ask, target};
use super::printer::Printer;
use super::terminal::{Colours, now, span};
use super::why_network::ExplainedNetwork;
use super::{DaemonArguments, Failure, print, print_json};
use crate::control::admin::AdminRequest;
use crate::control::explanation::{ActiveRefusal, ClientBan, Explanation, NetworkExplanation, RefusedBy, StrikeCount};
use crate::event::Service;
use crate::rule::Mode;
use crate::rule_id::is_origin;

/// The answer about a network, or about a client.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Answer {
    Network(NetworkExplanation),
    Client(Box<Explanation>),
}

/// `strikeout why`.
///
/// # Errors
/// The argument is no address or network, the daemon cannot be asked, or the client is refused: that is told by the exit code alone.
pub fn run(text: &str, daemon: &DaemonArguments) -> Result<(), Failure> {
    let answer: Answer = ask(daemon, &AdminRequest::Why(target(text)?))?;
    let printer = Printer::new(now(), TimeZone::system(), Colours::of_stdout());
    let is_refused = match answer {
        Answer::Client(explanation) => {
            let (is_refused, explained) = (explanation.refused, Explained::of(*explanation, daemon));
            if daemon.json {
                print_json(&explained)?
            } else {
                print(&printer.explain(&explained))?
            }
            is_refused
        }
        Answer::Network(explanation) => {
            let (is_refused, explained) = (explanation.refused, ExplainedNetwork::of(explanation, &daemon.repeated()));
            if daemon.json {
                print_json(&explained)?
            } else {
                print(&printer.explain_network(&explained))?
            }
            is_refused
        }
    };
    if is_refused { Err(Failure::Refused(String::new())) } else { Ok(()) }
}

/// The daemon's explanation, and what only this program knows: how to reach that daemon.
#[derive(Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    explanation: Explanation,
    /// The commands that end the refusal, in this order.
    undo: Vec<String>,
}

impl Explained {
    fn of(explanation: Explanation, daemon: &DaemonArguments) -> Self {
        Self { undo: undo(&explanation, &daemon.repeated()), explanation }
    }
}

/// The commands after which the client is served again, in the order in which they have to be run. `daemon` holds the arguments that name
/// this daemon.
pub(super) fn undo(explanation: &Explanation, daemon: &str) -> Vec<String> {
    let mut undo = Vec::new();
    if explanation.services.refusals().next().is_none() {
        return undo;
    }
    if explanation.services.refusals().any(|(_, refusal)| refusal.by == RefusedBy::Client) {
        undo.push(format!("strikeout unban {}{daemon}", explanation.address));
    }
    for ban in &explanation.networks {
        undo.push(format!("strikeout unban {}{daemon}", ban.network));
    }
    if let Some(entry) = &explanation.denied {
        undo.push(format!("remove {entry} from that list, then: strikeout reload{daemon}"));
    }
    undo
}

/// The service in words, as in "refused on the web".
fn place(service: Service) -> &'static str {
    match service {
        Service::Web => "on the web",
        Service::Mail => "in mail",
    }
}

impl Printer {
    fn explain(mut self, explained: &Explained) -> String {
        let explanation = &explained.explanation;
        self.heading(explanation);
        let is_banned = explanation.ban.as_ref().is_some_and(|ban| ban.active);
        if explanation.services.refusals().next().is_none()
            && explanation.never_banned.is_none()
            && explanation.strikes.is_empty()
            && !is_banned
        {
            self.line("now", "it has no active ban, no entry in a list and no strikes");
        }
        let origin: Vec<&str> = [&explanation.asn, &explanation.country].into_iter().flatten().map(String::as_str).collect();
        if !origin.is_empty() {
            self.line("belongs to", &origin.join(", "));
        }
        if let Some(reason) = &explanation.never_banned {
            self.line("never", &format!("it is never banned: {reason}"));
        }
        if let Some(entry) = &explanation.denied {
            self.line("deny list", &format!("{entry}: always refused"));
        }
        for ban in &explanation.networks {
            self.network(ban);
        }
        for (service, refusal) in explanation.services.refusals() {
            self.refusal(service, refusal, explanation.ban.as_ref());
        }
        if let Some(ban) = &explanation.ban {
            self.client_ban(ban);
        }
        if let Some(unbanned) = &explanation.unbanned {
            let at = self.ago(unbanned.at_ago);
            self.line("unbanned", &format!("{at} by {} ({})", unbanned.by, unbanned.what));
        }
        for ban in &explanation.shadow {
            let end = self.end(ban.remaining);
            self.line("shadow", &format!("{} would refuse it ({}) {end} if it were not in shadow mode", ban.rule, ban.service));
        }
        for ban in &explanation.shadow_networks {
            let end = self.end(ban.remaining);
            self.line("shadow", &format!("{} would refuse {} {end} if it were not in shadow mode", ban.rule, ban.network));
            if let Some(reason) = &ban.reason {
                self.line("", reason);
            }
        }
        for strikes in &explanation.strikes {
            self.strikes(strikes);
        }
        for heavy in &explanation.heaviest {
            self.line("traffic", &heavy.to_string());
        }
        for command in &explained.undo {
            let command = self.colours.strong(command);
            self.line("undo", &command);
        }
        self.text
    }

    fn heading(&mut self, explanation: &Explanation) {
        let (address, client, colours) = (&explanation.address, &explanation.client, self.colours);
        let who = colours.strong(&if address == client { address.clone() } else { format!("{address} (counted as {client})") });
        let places: Vec<&str> = explanation.services.refusals().map(|(service, _)| place(service)).collect();
        let _ = if places.is_empty() {
            writeln!(self.text, "{who} is {}", colours.good("not refused"))
        } else if let Some(pause) = &explanation.paused {
            let would = format!("without it, it would be refused {}", places.join(" and "));
            writeln!(self.text, "{who} is {}: {would}", colours.bad(&format!("served because of a pause {}", self.end(pause.remaining))))
        } else {
            writeln!(self.text, "{who} is {} {}", colours.bad("refused"), places.join(" and "))
        };
    }

    /// What refuses on one service, unless it is the ban that is shown in full.
    fn refusal(&mut self, service: Service, refusal: &ActiveRefusal, shown: Option<&ClientBan>) {
        let is_shown = shown.is_some_and(|ban| ban.active && ban.rule == refusal.rule);
        if refusal.by == RefusedBy::Client && !is_shown {
            let end = self.end(refusal.remaining);
            self.line("ban", &format!("{} by {} {end}", place(service), refusal.rule));
        }
        if !refusal.saved {
            self.line("unsaved", "the state file does not have this ban yet");
        }
    }

    /// The active ban, or the latest one.
    fn client_ban(&mut self, ban: &ClientBan) {
        let is_manual = ban.rule == "manual";
        let length = |seconds: i64| u64::try_from(seconds).map_or_else(|_| "ever".to_owned(), span);
        let settings = match &ban.rule_settings {
            None if is_manual => " (by hand)".to_owned(),
            None if is_origin(&ban.rule) => " (another program's ban)".to_owned(),
            None => " (no longer in the configuration)".to_owned(),
            Some(settings) => format!(
                " ({}, scope {}; {} in {} bans for {})",
                if settings.mode == Mode::Shadow { "shadow" } else { "enforce" },
                settings.scope.as_str(),
                settings.maxretry,
                span(settings.findtime),
                length(settings.bantime)
            ),
        };
        self.line(if ban.active { "rule" } else { "earlier" }, &format!("{}{settings}", ban.rule));
        if let Some(description) = &ban.rule_description {
            self.line("", description);
        }
        if let Some(node) = &ban.node {
            self.line("machine", node);
        }
        if let Some(by) = &ban.by {
            self.line("by", by);
        }
        let evidence = if ban.evidence.is_empty() { "none recorded" } else { &ban.evidence };
        self.line(if is_manual { "reason" } else { "evidence" }, evidence);
        if !is_manual {
            let first = self.ago(ban.first_ago);
            self.line("first", &first);
        }
        let since = self.ago(ban.since_ago);
        self.line("since", &since);
        if ban.active {
            let end = self.end(ban.remaining);
            self.line("until", end.trim_start_matches("until "));
        } else {
            // The daemon rounds what remains up to a whole second.
            let is_over = (0..=1).contains(&ban.remaining);
            self.line(
                "until",
                if is_over { "it is over" } else { "it is no longer active: the client was unbanned, or the ban replaced by another" },
            );
        }
        if !is_manual {
            self.line("count", &format!("{} in all; its {} ban under this rule", ban.count, ordinal(ban.times)));
        }
    }

    fn strikes(&mut self, strikes: &StrikeCount) {
        let shadow = if strikes.shadow { " (shadow mode)" } else { "" };
        let last = self.ago(strikes.last_ago);
        self.line("strikes", &format!("{} of {} under {}{shadow}, the last {last}", strikes.count, strikes.maxretry, strikes.rule));
    }
}

fn ordinal(number: u32) -> String {
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
    use serde_json::{Value, json};

    fn text(explanation: &Explained) -> String {
        Printer::new(1_800_000_000, TimeZone::UTC, Colours::NONE).explain(explanation)
    }

    /// The explanation of an unknown client, with these keys added.
    fn explanation(keys: Value) -> Explained {
        let mut json = json!({ "address": "198.51.100.7", "client": "198.51.100.7", "refused": false, "services": {} });
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let explanation = serde_json::from_value(json).unwrap();
        Explained { undo: undo(&explanation, " --table /s"), explanation }
    }

    fn banned() -> Explained {
        explanation(json!({
            "refused": true,
            "services": { "web": { "rule": "probe", "by": "client", "until": 1_800_000_600, "remaining": 600, "saved": true } },
            "ban": {
                "rule": "probe", "active": true, "scope": "web", "evidence": "GET /w00tw00t = x", "first": 1_799_996_400, "first_ago": 3600,
                "since": 1_799_999_940, "since_ago": 60, "until": 1_800_000_600, "remaining": 600, "count": 2, "times": 1,
                "rule_settings": { "mode": "enforce", "scope": "web", "maxretry": 2, "findtime": 600, "bantime": 3600 },
            },
        }))
    }

    #[test]
    fn a_ban_is_shown_with_rule_evidence_timeline_and_the_command_that_undoes_it() {
        let text = text(&banned());
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
    fn a_client_that_is_served_is_explained_too() {
        let free = explanation(json!({}));
        assert!(text(&free).contains("it has no active ban, no entry in a list"));
        assert!(free.undo.is_empty());
        let counted = explanation(json!({
            "strikes": [{ "rule": "helo", "count": 2, "maxretry": 5, "last": 1_799_999_939, "last_ago": 61, "shadow": false }],
        }));
        assert!(text(&counted).contains("2 of 5 under helo, the last 2027-01-15 07:58:59 (1 min 1 s ago)"), "{}", text(&counted));
        let never = explanation(json!({ "address": "127.0.0.1", "never_banned": "loopback 127.0.0.0/8" }));
        assert!(text(&never).contains("never banned: loopback 127.0.0.0/8"));
    }

    #[test]
    fn a_network_and_a_deny_list_are_undone_where_they_were_made() {
        let refusal = json!({ "rule": "manual", "by": "network", "until": -1, "remaining": -1, "saved": true });
        let both = explanation(json!({
            "refused": true,
            "services": { "web": refusal, "mail": refusal },
            "networks": [
                { "network": "198.51.100.0/24", "rule": "manual", "since": 1_799_999_995, "since_ago": 5, "until": -1, "remaining": -1 },
                { "network": "198.51.0.0/16", "rule": "helo", "since": 1_799_999_995, "since_ago": 5, "until": -1, "remaining": -1 },
            ],
            "denied": "198.51.100.7 (/etc/strikeout/deny)",
        }));
        assert_eq!(
            both.undo,
            [
                "strikeout unban 198.51.100.0/24 --table /s",
                "strikeout unban 198.51.0.0/16 --table /s",
                "remove 198.51.100.7 (/etc/strikeout/deny) from that list, then: strikeout reload --table /s"
            ]
        );
        assert!(text(&both).contains("198.51.100.0/24 is banned by hand since 2027-01-15 07:59:55 (5 s ago), forever"));
    }

    #[test]
    fn the_json_has_every_key_whether_there_is_a_value_or_not() {
        let json = serde_json::to_value(banned()).unwrap();
        assert_eq!(json["services"]["web"]["by"], "client");
        assert_eq!(json["services"].as_object().unwrap()["mail"], Value::Null);
        assert_eq!(json["ban"]["rule_settings"]["maxretry"], 2);
        assert_eq!((&json["networks"], &json["strikes"]), (&json!([]), &json!([])));
    }

    #[test]
    fn ordinals_are_english() {
        assert_eq!([1, 2, 3, 4, 11, 21, 112].map(ordinal), ["1st", "2nd", "3rd", "4th", "11th", "21st", "112th"]);
    }
}
