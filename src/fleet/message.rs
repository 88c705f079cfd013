//! The messages that nodes publish, parsed from any bytes. Times are by Redis's clock.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::fleet::is_node;
use crate::event::Scope;
use crate::list::file::parse_network;
use crate::rule::Evidence;
use crate::time::Time;

/// Maximum length of a ban's record in bytes: a rule's name of 64 and evidence of 200, each byte of which may be escaped.
pub const MAX_RECORD: usize = 1024;
/// Maximum length of a message in bytes.
const MAX_MESSAGE: usize = MAX_RECORD + 256;

/// A message from the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A node made a ban.
    Ban {
        /// The process that published it: tells this node from another that was given the same name.
        instance: u64,
        ban: PublishedBan,
    },
    /// A node unbanned what was banned before `at`.
    Unban {
        /// The process that published it.
        instance: u64,
        at: Time,
        scope: Scope,
        /// An address or a network.
        target: IpNet,
    },
    /// Everything that a node published before `at` is dropped.
    Forget {
        node: String,
        /// When that was decided.
        at: Time,
    },
}

/// A ban of a node, as it is published and as Redis stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedBan {
    /// The node that made it.
    pub node: String,
    /// Where it refuses.
    pub scope: Scope,
    /// When it ends; `None` if it is permanent.
    pub until: Option<Time>,
    pub since: Time,
    /// When Redis accepted it.
    pub accepted: Time,
    /// An address or a network.
    pub target: IpNet,
    /// The part that Redis stores without interpreting it.
    pub record: StoredRecord,
}

/// The part of a ban that Redis stores without interpreting it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRecord {
    pub rule: String,
    /// Number of offences that made it.
    pub count: u32,
    /// Number of bans of the client so far, this one included.
    pub times: u32,
    pub evidence: String,
    /// `ipv6_prefix` of the node that made it, if it is the ban of an IPv6 client. Older versions leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_prefix: Option<u8>,
}

impl StoredRecord {
    /// Parses a record; `None` if no node would write it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() <= MAX_RECORD { serde_json::from_str(text).ok() } else { None }
    }

    /// The evidence, escaped and cut whatever the node sent.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        Evidence::restore(&self.evidence)
    }
}

/// The letters of a scope's services in Redis.
#[must_use]
pub fn letters(scope: Scope) -> &'static str {
    match scope {
        Scope::Web => "w",
        Scope::Mail => "m",
        Scope::All => "wm",
    }
}

/// The scope of these letters.
#[must_use]
pub fn scope_of(letters: &str) -> Option<Scope> {
    match letters {
        "w" => Some(Scope::Web),
        "m" => Some(Scope::Mail),
        "wm" | "mw" => Some(Scope::All),
        _ => None,
    }
}

/// Parses a time in milliseconds.
#[must_use]
pub fn parse_time(text: &str) -> Option<Time> {
    text.parse().ok().map(Time::from_millis)
}

/// Parses the end of a ban; the inner `None` is a permanent one.
#[must_use]
pub fn parse_until(text: &str) -> Option<Option<Time>> {
    if text == "-1" { Some(None) } else { parse_time(text).map(Some) }
}

/// Parses a message; `None` if no node would send it.
#[must_use]
pub fn parse(text: &str) -> Option<Message> {
    if text.len() > MAX_MESSAGE {
        return None;
    }
    let (verb, rest) = text.split_once(' ')?;
    match verb {
        "ban" => {
            let mut words = rest.splitn(8, ' ');
            let (node, instance, scope) = (words.next().filter(|node| is_node(node))?, parse_instance(words.next()?)?, words.next()?);
            let (until, since, accepted) = (parse_until(words.next()?)?, parse_time(words.next()?)?, parse_time(words.next()?)?);
            let ban = PublishedBan {
                node: node.to_owned(),
                scope: scope_of(scope)?,
                until,
                since,
                accepted,
                target: parse_network(words.next()?).ok()?,
                record: StoredRecord::parse(words.next()?)?,
            };
            Some(Message::Ban { instance, ban })
        }
        "unban" => {
            let mut words = rest.splitn(5, ' ');
            words.next().filter(|node| is_node(node))?;
            let (instance, scope, at) = (parse_instance(words.next()?)?, scope_of(words.next()?)?, parse_time(words.next()?)?);
            Some(Message::Unban { instance, at, scope, target: parse_network(words.next()?).ok()? })
        }
        "forget" => {
            let (node, at) = rest.split_once(' ')?;
            is_node(node).then_some(Message::Forget { node: node.to_owned(), at: parse_time(at)? })
        }
        _ => None,
    }
}

fn parse_instance(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{ShortNetwork, is_single};
    use proptest::prelude::*;

    #[test]
    fn a_ban_is_parsed_with_its_record() {
        let text = r#"ban mx1 ab wm 3600000 5 6 203.0.113.7 {"rule":"w00tw00t","count":1,"times":1,"evidence":"GET /x y"}"#;
        let Some(Message::Ban { instance, ban }) = parse(text) else { panic!() };
        assert_eq!((ban.node.as_str(), instance, ban.scope), ("mx1", 0xab, Scope::All));
        assert_eq!((ban.until, ban.since, ban.accepted), (Some(Time::from_secs(3600)), Time::from_millis(5), Time::from_millis(6)));
        assert_eq!(ShortNetwork(ban.target).to_string(), "203.0.113.7");
        assert_eq!(ban.record.evidence().as_str(), "GET /x y");
    }

    #[test]
    fn unbans_and_forgets_are_parsed_and_nonsense_is_not() {
        let at = Time::from_millis(7);
        assert_eq!(
            parse("unban mx1 1 m 7 2001:db8::/32"),
            Some(Message::Unban { instance: 1, at, scope: Scope::Mail, target: "2001:db8::/32".parse().unwrap() })
        );
        assert_eq!(parse("forget mx1 7"), Some(Message::Forget { node: "mx1".into(), at }));
        for text in [
            "",
            "ban",
            "ban MX 1 wm 1 1 1 203.0.113.7 {}",
            "unban mx1 1 x 1 203.0.113.7",
            "unban mx1 1 w 1 host",
            "unban mx1 1 w x 203.0.113.7",
            "unban mx1 1 w 1 203.0.113.7 more",
            "forget mx1",
            "forget a b",
            "hello world",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_permanent_ban_ends_never_and_a_network_keeps_its_length() {
        let text = r#"ban mx1 1 w -1 4 5 2001:db8::/32 {"rule":"manual","count":1,"times":1,"evidence":""}"#;
        let Some(Message::Ban { ban, .. }) = parse(text) else { panic!() };
        assert_eq!(
            (ban.until, ban.accepted, ShortNetwork(ban.target).to_string()),
            (None, Time::from_millis(5), "2001:db8::/32".to_owned())
        );
        assert!(!is_single(ban.target) && is_single("2001:db8::/128".parse().unwrap()));
        assert_eq!(parse(&text.replace("-1", "-2")), None);
    }

    #[test]
    fn a_scope_is_written_and_read_by_the_letters_of_its_services() {
        for scope in [Scope::Web, Scope::Mail, Scope::All] {
            assert_eq!(scope_of(letters(scope)), Some(scope));
        }
        assert_eq!([scope_of("mw"), scope_of(""), scope_of("ww")], [Some(Scope::All), None, None]);
    }

    #[test]
    fn longer_records_and_messages_than_nodes_write_are_not_read() {
        let record = |length: usize| {
            let text = r#"{"rule":"manual","count":1,"times":1,"evidence":""}"#;
            format!("{text}{}", " ".repeat(length - text.len()))
        };
        assert!(StoredRecord::parse(&record(1024)).is_some());
        assert_eq!(StoredRecord::parse(&record(1025)), None);
        let message = |length: usize| {
            let (start, end) = ("unban mx1 ", "1 w 1 203.0.113.7");
            format!("{start}{}{end}", "0".repeat(length - start.len() - end.len()))
        };
        assert!(parse(&message(1280)).is_some());
        assert_eq!(parse(&message(1281)), None);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_evidence_stays_bounded(evidence in ".{0,400}", text in "(ban|unban|forget) .{0,100}") {
            let _ = parse(&text);
            let record = StoredRecord { rule: "b".into(), count: 1, times: 1, evidence, ipv6_prefix: None };
            prop_assert!(record.evidence().as_str().len() <= Evidence::MAX);
            let evidence = record.evidence().as_str().to_owned();
            let longest = StoredRecord { rule: "r".repeat(64), count: u32::MAX, times: u32::MAX, evidence, ipv6_prefix: Some(128) };
            prop_assert_eq!(StoredRecord::parse(&serde_json::to_string(&longest).unwrap()), Some(longest));
        }
    }
}
