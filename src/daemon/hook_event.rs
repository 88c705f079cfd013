//! What the hook's program is told of a ban or unban: in words as arguments, and as a JSON object on its standard input.

use serde::Serialize;

use crate::client::Ipv6Prefix;
use crate::control::bans::{epoch, seconds};
use crate::engine::Change;
use crate::event::Scope;

/// A ban or unban. Keys that are not known are left out; times are in seconds since 1970, and `until` is -1 for ever.
#[derive(Debug, Serialize)]
pub struct HookEvent<'a> {
    event: &'static str,
    /// The client or network.
    client: String,
    scope: Scope,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    /// When it was banned or unbanned.
    at: i64,
    /// How many offences led to the ban, and the number of this ban among the client's under the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u32>,
    /// The last offence, or the operator's reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<&'a str>,
    /// Who banned by hand, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    /// The machine of the fleet that made the ban, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
}

/// Says that bans and unbans were dropped because too many waited.
#[derive(Debug, Serialize)]
pub struct DroppedEvent {
    event: &'static str,
    number: u64,
}

impl DroppedEvent {
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self { event: "dropped", number }
    }
}

impl<'a> HookEvent<'a> {
    /// `None` for a change that the program is not run for.
    #[must_use]
    pub fn of(change: &'a Change, prefix: Ipv6Prefix) -> Option<Self> {
        let given = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        let unban = |client, scope, at| Self {
            event: "unban",
            client,
            scope,
            rule: None,
            until: None,
            at: seconds(at),
            count: None,
            times: None,
            evidence: None,
            by: None,
            node: None,
        };
        Some(match change {
            Change::Banned(record) => Self {
                event: "ban",
                client: record.client.display(prefix).to_string(),
                scope: record.scope,
                rule: Some(&record.rule),
                until: Some(epoch(record.until)),
                at: seconds(record.since),
                count: Some(record.count),
                times: Some(record.times),
                evidence: given(record.evidence.as_str()),
                by: record.evidence.by(),
                node: given(&record.node),
            },
            Change::NetworkBanned(record) => Self {
                event: "ban",
                rule: Some(&record.rule),
                until: Some(epoch(record.until)),
                evidence: given(record.reason.as_str()),
                by: record.reason.by(),
                ..unban(record.network.to_string(), record.scope, record.since)
            },
            Change::Unbanned { client, scope, at, .. } => unban(client.display(prefix).to_string(), *scope, *at),
            Change::NetworkUnbanned { network, at, .. } => unban(network.to_string(), Scope::All, *at),
            Change::NetworkEvicted { .. } | Change::Forgotten(_) | Change::RuleLifted { .. } | Change::Paused(_) | Change::Resumed => {
                return None;
            }
        })
    }

    /// `ban TARGET RULE UNTIL` or `unban TARGET`.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![self.event.to_owned(), self.client.clone()];
        words.extend(self.rule.map(str::to_owned));
        words.extend(self.until.map(|until| until.to_string()));
        words
    }

    /// The client or network.
    #[must_use]
    pub fn client(&self) -> &str {
        &self.client
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::engine::Reach;
    use crate::engine::fixtures::record;
    use crate::rule::Evidence;
    use crate::time::Time;
    use std::net::Ipv4Addr;

    #[test]
    fn a_ban_and_an_unban_are_told_in_words_and_as_json() {
        let (client, at) = (Client::from(Ipv4Addr::new(192, 0, 2, 1)), Time::from_secs(1_800_000_000));
        let mut ban = record(client, at);
        ban.evidence = Evidence::new(&[b"spam"]).signed("user root (uid 0)");
        let ban = Change::Banned(ban);
        let event = HookEvent::of(&ban, Ipv6Prefix::default()).unwrap();
        assert_eq!(event.words(), ["ban", "192.0.2.1", "w00tw00t", "-1"]);
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"ban","client":"192.0.2.1","scope":"all","rule":"w00tw00t","until":-1,"at":1800000000,"count":1,"times":1,"evidence":"spam","by":"user root (uid 0)"}"#
        );
        let unban = Change::NetworkUnbanned { network: "2001:db8::/32".parse().unwrap(), at, forgets: true, reach: Reach::Everywhere };
        let event = HookEvent::of(&unban, Ipv6Prefix::default()).unwrap();
        assert_eq!(event.words(), ["unban", "2001:db8::/32"]);
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"event":"unban","client":"2001:db8::/32","scope":"all","at":1800000000}"#);
        assert!(HookEvent::of(&Change::Resumed, Ipv6Prefix::default()).is_none());
    }
}
