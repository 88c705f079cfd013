//! `strikeout why NETWORK`: what refuses a network as a whole, and what is banned inside it.

use std::fmt::Write;

use serde::Serialize;

use super::printer::Printer;
use super::terminal::counted;
use crate::control::explanation::{BannedInside, NetworkExplanation};
use crate::geo::OriginEntry;

/// The daemon's explanation, and the commands that this program knows.
#[derive(Debug, Serialize)]
pub struct ExplainedNetwork {
    #[serde(flatten)]
    explanation: NetworkExplanation,
    /// The commands that end the bans, in this order.
    pub undo: Vec<String>,
}

impl ExplainedNetwork {
    /// `daemon` holds the arguments that name this daemon.
    pub fn of(explanation: NetworkExplanation, daemon: &str) -> Self {
        let NetworkExplanation { network, bans, inside, denied, .. } = &explanation;
        let mut undo: Vec<String> = bans.iter().map(|ban| format!("strikeout unban {}{daemon}", ban.network)).collect();
        if inside.clients + inside.networks > 0 {
            let targets = if has_addresses(network) { format!("{network} --inside") } else { names(inside) };
            undo.push(format!("strikeout unban {targets}{daemon}"));
        }
        if let Some(entry) = denied {
            undo.push(format!("remove {entry} from that list, then: strikeout reload{daemon}"));
        }
        Self { undo, explanation }
    }
}

/// Whether the clients of this network are known by their addresses, and not by a database.
fn has_addresses(network: &str) -> bool {
    network.parse::<OriginEntry>().is_err()
}

/// The first clients inside, as arguments.
fn names(inside: &BannedInside) -> String {
    inside.first.iter().map(|ban| ban.client.as_str()).collect::<Vec<_>>().join(" ")
}

impl Printer {
    pub(super) fn explain_network(mut self, explained: &ExplainedNetwork) -> String {
        let NetworkExplanation { network, refused, paused, bans, inside, never_banned, denied } = &explained.explanation;
        let colours = self.colours;
        let state = if let Some(pause) = paused {
            colours.bad(&format!("served because of a pause {}", self.end(pause.remaining)))
        } else if *refused {
            colours.bad("refused as a whole")
        } else {
            colours.good("not refused as a whole")
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{} is {state}", colours.strong(network));
        for ban in bans {
            self.network(ban);
        }
        if let Some(entry) = denied {
            self.line("deny list", &format!("{entry}: always refused"));
        }
        if let Some(reason) = never_banned {
            self.line("never", &format!("not all of it can be banned: {reason}"));
        }
        let (clients, networks) = (counted(inside.clients, "client"), counted(inside.networks, "network"));
        self.line("inside", &format!("{clients} and {networks} banned"));
        for ban in &inside.first {
            let text = format!("{} by {} {}", ban.client, ban.rule, self.end(ban.remaining));
            self.line("", &text);
        }
        let others = (inside.clients + inside.networks).saturating_sub(inside.first.len());
        if others > 0 && has_addresses(network) {
            self.line("", &format!("and more: strikeout list --network {network}"));
        } else if others > 0 {
            self.line("", &format!("and {others} more"));
        }
        for command in &explained.undo {
            let command = colours.strong(command);
            self.line("undo", &command);
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::terminal::Colours;
    use jiff::tz::TimeZone;
    use serde_json::json;

    #[test]
    fn a_network_is_explained_with_what_is_banned_around_and_inside_it() {
        let ban =
            json!({"network": "198.51.0.0/16", "rule": "manual", "since": 1_799_999_995, "since_ago": 5, "until": -1, "remaining": -1});
        let client = json!({"client": "198.51.100.7", "scope": "web", "rule": "helo", "until": 1_800_000_600, "remaining": 600});
        let explanation = json!({
            "network": "198.51.100.0/24", "refused": true, "bans": [ban], "inside": {"clients": 12, "networks": 0, "first": [client]},
            "never_banned": "ignored network 198.51.100.9 (ignoreip)",
        });
        let explained = ExplainedNetwork::of(serde_json::from_value(explanation).unwrap(), " --table /s");
        let text = Printer::new(1_800_000_000, TimeZone::UTC, Colours::NONE).explain_network(&explained);
        for expected in [
            "198.51.100.0/24 is refused as a whole\n",
            "198.51.0.0/16 is banned by hand since 2027-01-15 07:59:55 (5 s ago), forever\n",
            "not all of it can be banned: ignored network 198.51.100.9 (ignoreip)\n",
            "12 clients and 0 networks banned\n",
            "198.51.100.7 by helo until 2027-01-15 08:10:00 (in 10 min)\n",
            "and more: strikeout list --network 198.51.100.0/24\n",
            "undo      strikeout unban 198.51.0.0/16 --table /s\n",
            "undo      strikeout unban 198.51.100.0/24 --inside --table /s\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }
    #[test]
    fn the_clients_of_a_country_are_unbanned_by_their_names() {
        let listed = |client| json!({"client": client, "scope": "web", "rule": "helo", "until": 1_800_000_600, "remaining": 600});
        let inside = json!({"clients": 3, "networks": 0, "first": [listed("198.18.0.1"), listed("198.18.0.2")]});
        let explanation = json!({"network": "country:DE", "refused": false, "bans": [], "inside": inside});
        let explained = ExplainedNetwork::of(serde_json::from_value(explanation).unwrap(), "");
        let text = Printer::new(1_800_000_000, TimeZone::UTC, Colours::NONE).explain_network(&explained);
        assert!(text.contains("and 1 more\n") && text.contains("strikeout unban 198.18.0.1 198.18.0.2\n"), "{text}");
    }
}
