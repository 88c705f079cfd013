//! The lines of a `follow` stream, both ways, in version 1 of its protocol.
//!
//! The resident sends its configuration and its bans whole, each between `begin` and `end`, and then every change. A configuration
//! that changes is sent whole again, with bans and answers between its lines: a long one holds nobody up. The follower sends offences, each answered once under its number, and counts of ordinary requests.
//! Times are seconds that remain, so the two clocks need not agree.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Ipv6Prefix, parse_address};
use crate::config::OnFailure;
use crate::event::Scope;
use crate::rule::{Bantime, Evidence, Mode, Names, Rule, SmtpRefusal, Trigger};
use crate::table::Until;
use crate::time::{Span, Time};
use crate::verdict::{Grounds, Innocence, Refusal, Verdict};

/// The version that this program speaks.
pub const VERSION: u32 = 1;

/// The most rules that one offence names.
const RULES_AT_MOST: usize = 32;

/// Which list a network is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// An own address of the machine.
    Own,
    /// A default gateway.
    Gateway,
    /// `ignoreip`.
    IgnoreIp,
    /// `trusted_proxies`.
    TrustedProxies,
    /// `deny`.
    Deny,
}

impl List {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Own, "own"),
        (Self::Gateway, "gateway"),
        (Self::IgnoreIp, "ignoreip"),
        (Self::TrustedProxies, "trusted_proxies"),
        (Self::Deny, "deny"),
    ];
}

/// A rule as the stream carries it: only what a follower needs to find offences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleLine {
    name: String,
    trigger: Trigger,
    maxretry: u32,
    scope: Scope,
    mode: Mode,
    smtp: SmtpRefusal,
    refuses_offence: bool,
}

impl RuleLine {
    /// What is sent of `rule`; `None` if no follower can meet it.
    #[must_use]
    pub fn of(rule: &Rule) -> Option<Self> {
        let met = matches!(rule.trigger, Trigger::Request(_) | Trigger::RequestRate | Trigger::Response { .. });
        met.then(|| Self {
            name: rule.name.to_string(),
            trigger: rule.trigger.clone(),
            maxretry: rule.maxretry,
            scope: rule.scope,
            mode: rule.mode,
            smtp: rule.smtp,
            refuses_offence: rule.refuses_offence,
        })
    }

    /// The rule. Its times are the resident's business.
    #[must_use]
    pub fn into_rule(self, names: &Names) -> Rule {
        Rule {
            id: names.intern(&self.name),
            name: self.name.into(),
            description: "".into(),
            trigger: self.trigger,
            maxretry: self.maxretry,
            findtime: Span::ZERO,
            bantime: Bantime { initial: None, increment: None },
            scope: self.scope,
            mode: self.mode,
            smtp: self.smtp,
            refuses_offence: self.refuses_offence,
            fleet: false,
        }
    }
}

/// A line from the resident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromResident {
    /// The first line: the protocol's version.
    Hello(u32),
    /// The configuration begins.
    BeginConfig {
        /// How IPv6 addresses are cut.
        prefix: Ipv6Prefix,
        /// What is answered when the resident cannot be asked.
        on_failure: OnFailure,
    },
    /// A rule.
    Rule(RuleLine),
    /// A network of a list.
    Listed(List, IpNet),
    /// The configuration is whole: it comes into force.
    EndConfig,
    /// The bans begin.
    BeginBans,
    /// A client is banned.
    Ban {
        /// Who.
        client: Client,
        /// Where.
        scope: Scope,
        /// The rule's name.
        rule: Arc<str>,
        /// How long it lasts; `None` for ever.
        remaining: Option<Span>,
    },
    /// A client's bans are lifted.
    Unban {
        /// Who.
        client: Client,
        /// Where.
        scope: Scope,
    },
    /// A network is banned.
    BanNetwork {
        /// The network.
        network: IpNet,
        /// How long it lasts; `None` for ever.
        remaining: Option<Span>,
    },
    /// A network's ban is lifted.
    UnbanNetwork(IpNet),
    /// All bans were sent: from now on changes come.
    EndBans,
    /// The answer to an offence.
    Answer {
        /// The offence's number.
        number: u64,
        /// The rule and remaining time of the refusal; `None`: serve the client.
        refusal: Option<(Arc<str>, Option<Span>, Grounds)>,
    },
    /// The resident refuses the stream, or a line of it.
    Error(String),
}

/// A line from a follower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromFollower {
    /// An offence, to be counted and answered.
    Offence {
        /// Its number: the answer carries it.
        number: u64,
        /// The full address.
        address: IpAddr,
        /// The names of the rules that it offends.
        rules: Vec<String>,
        /// What it was.
        evidence: Evidence,
    },
    /// Ordinary requests, for the rates.
    Requests {
        /// The full address.
        address: IpAddr,
        /// So many ordinary requests more.
        count: u32,
    },
    /// Queries that the follower answered by itself since it last said so.
    Answered {
        /// So many served the client.
        served: u64,
        /// So many others served it for a fault: nobody could be asked.
        failed_open: u64,
    },
    /// Queries that the follower refused by itself since it last said so.
    Refused {
        /// The name of the rule.
        rule: String,
        /// How many.
        count: u64,
    },
}

/// A line that is not part of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbled(String);

impl fmt::Display for Garbled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn garbled(line: &str, expected: &str) -> Garbled {
    let found: String = line.chars().take(60).flat_map(char::escape_default).collect();
    Garbled(format!("found {found:?}, expected {expected}"))
}

/// Whole seconds that remain, at least one (an end is kept as a whole second, rounded up already); `-1` for ever.
struct Remaining(Option<Span>);

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(span) => write!(f, "{}", span.secs().max(1)),
            None => f.write_str("-1"),
        }
    }
}

fn parse_remaining(text: &str) -> Option<Option<Span>> {
    // What is about to end has a second left: both ways.
    if text == "-1" { Some(None) } else { Some(Some(Span::from_secs(text.parse::<u64>().ok()?.max(1)))) }
}

const GROUNDS: [(Grounds, &str); 5] = [
    (Grounds::Banned, "banned"),
    (Grounds::Struck, "struck"),
    (Grounds::Offence, "offence"),
    (Grounds::DenyList, "deny-list"),
    (Grounds::Failure, "failure"),
];

impl fmt::Display for FromResident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(version) => write!(f, "strikeout {version}"),
            Self::BeginConfig { prefix, on_failure } => {
                let on_failure = if *on_failure == OnFailure::Allow { "allow" } else { "deny" };
                write!(f, "begin config {} {on_failure}", prefix.bits())
            }
            Self::Rule(rule) => write!(f, "rule {}", serde_json::to_string(rule).map_err(|_| fmt::Error)?),
            Self::Listed(list, network) => {
                let name = List::ALL.iter().find(|(known, _)| known == list).map_or("deny", |(_, name)| name);
                write!(f, "list {name} {network}")
            }
            Self::EndConfig => f.write_str("end config"),
            Self::BeginBans => f.write_str("begin bans"),
            Self::Ban { client, scope, rule, remaining } => write!(f, "ban {client} {} {rule} {}", scope.as_str(), Remaining(*remaining)),
            Self::Unban { client, scope } => write!(f, "unban {client} {}", scope.as_str()),
            Self::BanNetwork { network, remaining } => write!(f, "ban-network {network} {}", Remaining(*remaining)),
            Self::UnbanNetwork(network) => write!(f, "unban-network {network}"),
            Self::EndBans => f.write_str("end bans"),
            Self::Answer { number, refusal: None } => write!(f, "answer {number} accept"),
            Self::Answer { number, refusal: Some((rule, remaining, grounds)) } => {
                let grounds = GROUNDS.iter().find(|(known, _)| known == grounds).map_or("banned", |(_, name)| name);
                write!(f, "answer {number} deny {rule} {} {grounds}", Remaining(*remaining))
            }
            Self::Error(text) => write!(f, "error {text}"),
        }
    }
}

impl FromResident {
    /// The answer that `verdict` is.
    #[must_use]
    pub fn answer(number: u64, verdict: &Verdict, names: &Names, now: Time) -> Self {
        let refusal = verdict.refusal().map(|refusal| (names.name(refusal.rule), refusal.until.remaining(now), refusal.grounds));
        Self::Answer { number, refusal }
    }

    /// Reads a line without its newline.
    ///
    /// # Errors
    /// [`Garbled`] says what was found and expected.
    pub fn parse(line: &str) -> Result<Self, Garbled> {
        Self::read(line).ok_or_else(|| garbled(line, "a line of the follow protocol"))
    }

    fn read(line: &str) -> Option<Self> {
        let (verb, rest) = line.split_once(' ')?;
        let mut words = rest.split(' ');
        let parsed = match verb {
            "strikeout" => Self::Hello(words.next()?.parse().ok()?),
            "begin" if rest == "bans" => return Some(Self::BeginBans),
            "begin" => {
                (words.next()? == "config").then_some(())?;
                let prefix = Ipv6Prefix::new(words.next()?.parse().ok()?)?;
                let on_failure = match words.next()? {
                    "allow" => OnFailure::Allow,
                    "deny" => OnFailure::Deny,
                    _ => return None,
                };
                Self::BeginConfig { prefix, on_failure }
            }
            "rule" => return serde_json::from_str(rest).ok().map(Self::Rule),
            "list" => {
                let name = words.next()?;
                let (list, _) = List::ALL.into_iter().find(|(_, known)| *known == name)?;
                Self::Listed(list, words.next()?.parse().ok()?)
            }
            "end" => match rest {
                "config" => return Some(Self::EndConfig),
                "bans" => return Some(Self::EndBans),
                _ => return None,
            },
            "ban" => Self::Ban {
                client: client(words.next()?)?,
                scope: Scope::from_name(words.next()?)?,
                rule: words.next()?.into(),
                remaining: parse_remaining(words.next()?)?,
            },
            "unban" => Self::Unban { client: client(words.next()?)?, scope: Scope::from_name(words.next()?)? },
            "ban-network" => Self::BanNetwork { network: words.next()?.parse().ok()?, remaining: parse_remaining(words.next()?)? },
            "unban-network" => Self::UnbanNetwork(words.next()?.parse().ok()?),
            "answer" => {
                let number = words.next()?.parse().ok()?;
                let refusal = match words.next()? {
                    "accept" => None,
                    "deny" => {
                        let (rule, remaining, name) = (words.next()?.into(), parse_remaining(words.next()?)?, words.next()?);
                        let (grounds, _) = GROUNDS.into_iter().find(|(_, known)| *known == name)?;
                        Some((rule, remaining, grounds))
                    }
                    _ => return None,
                };
                Self::Answer { number, refusal }
            }
            "error" => return Some(Self::Error(rest.to_owned())),
            _ => return None,
        };
        words.next().is_none().then_some(parsed)
    }
}

/// The client is sent cut already: whatever the prefix, it is read back as it is.
fn client(text: &str) -> Option<Client> {
    Some(Client::of(parse_address(text).ok()?, Ipv6Prefix::new(128)?))
}

/// The verdict that an answer is, on `now` of the follower's clock.
#[must_use]
pub fn verdict(refusal: Option<(Arc<str>, Option<Span>, Grounds)>, names: &Names, now: Time) -> Verdict {
    match refusal {
        None => Verdict::Allow(Innocence::NothingFound),
        Some((rule, remaining, grounds)) => {
            let until = remaining.map_or(Until::NEVER, |remaining| Until::at(now.after(remaining)));
            Verdict::Deny(Refusal { rule: names.intern(&rule), until, grounds })
        }
    }
}

impl fmt::Display for FromFollower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offence { number, address, rules, evidence } => {
                write!(f, "offence {number} {address} {} {}", rules.join(","), evidence.as_str())
            }
            Self::Requests { address, count } => write!(f, "requests {address} {count}"),
            Self::Answered { served, failed_open } => write!(f, "answered {served} {failed_open}"),
            Self::Refused { rule, count } => write!(f, "refused {rule} {count}"),
        }
    }
}

impl FromFollower {
    /// Reads a line without its newline.
    ///
    /// # Errors
    /// [`Garbled`] says what was found and expected.
    pub fn parse(line: &str) -> Result<Self, Garbled> {
        Self::read(line).ok_or_else(|| {
            garbled(line, "offence NUMBER ADDRESS RULE,… EVIDENCE, requests ADDRESS NUMBER, answered NUMBER NUMBER or refused RULE NUMBER")
        })
    }

    fn read(line: &str) -> Option<Self> {
        let (verb, rest) = line.split_once(' ')?;
        match verb {
            "offence" => {
                let mut words = rest.splitn(4, ' ');
                let (number, address, rules) = (words.next()?.parse().ok()?, parse_address(words.next()?).ok()?, words.next()?);
                let rules: Vec<String> = rules.split(',').map(str::to_owned).collect();
                (rules.len() <= RULES_AT_MOST).then_some(())?;
                Some(Self::Offence { number, address, rules, evidence: Evidence::restore(words.next().unwrap_or_default()) })
            }
            "requests" => {
                let (address, count) = rest.split_once(' ')?;
                Some(Self::Requests { address: parse_address(address).ok()?, count: count.parse().ok()? })
            }
            "answered" => {
                let (served, failed_open) = rest.split_once(' ')?;
                Some(Self::Answered { served: served.parse().ok()?, failed_open: failed_open.parse().ok()? })
            }
            "refused" => {
                let (rule, count) = rest.split_once(' ')?;
                Some(Self::Refused { rule: rule.to_owned(), count: count.parse().ok()? })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::RequestPattern;
    use proptest::prelude::*;

    fn lines() -> Vec<FromResident> {
        let client = Client::of("2001:db8:1:2::".parse().unwrap(), Ipv6Prefix::default());
        let trigger = Trigger::Request(RequestPattern { path: Some("/a b\\s\"é".into()), ..RequestPattern::default() });
        let rule = RuleLine {
            name: "x".into(),
            trigger,
            maxretry: 3,
            scope: Scope::Web,
            mode: Mode::Shadow,
            smtp: SmtpRefusal::Deny,
            refuses_offence: false,
        };
        let hour = Some(Span::from_secs(3600));
        vec![
            FromResident::Hello(1),
            FromResident::BeginConfig { prefix: Ipv6Prefix::default(), on_failure: OnFailure::Deny },
            FromResident::Rule(rule),
            FromResident::Listed(List::TrustedProxies, "192.0.2.0/24".parse().unwrap()),
            FromResident::EndConfig,
            FromResident::BeginBans,
            FromResident::Ban { client, scope: Scope::All, rule: "w00tw00t".into(), remaining: hour },
            FromResident::Ban { client, scope: Scope::Mail, rule: "manual".into(), remaining: None },
            FromResident::Unban { client, scope: Scope::All },
            FromResident::BanNetwork { network: "2001:db8::/32".parse().unwrap(), remaining: hour },
            FromResident::UnbanNetwork("2001:db8::/32".parse().unwrap()),
            FromResident::EndBans,
            FromResident::Answer { number: 7, refusal: None },
            FromResident::Answer { number: u64::MAX, refusal: Some(("w00tw00t".into(), hour, Grounds::Struck)) },
            FromResident::Error("found version 9, expected 1".into()),
        ]
    }

    #[test]
    fn every_line_of_the_resident_is_read_back_as_it_was() {
        for line in lines() {
            let text = line.to_string();
            assert!(!text.contains('\n'));
            assert_eq!(FromResident::parse(&text), Ok(line), "{text}");
        }
    }

    #[test]
    fn every_line_of_a_follower_is_read_back_as_it_was() {
        for line in [
            FromFollower::Offence {
                number: 9,
                address: "192.0.2.1".parse().unwrap(),
                rules: vec!["a".into(), "b-2".into()],
                evidence: Evidence::new(&[b"GET", b"/x y\n"]),
            },
            FromFollower::Offence {
                number: 0,
                address: "2001:db8::1".parse().unwrap(),
                rules: vec!["a".into()],
                evidence: Evidence::new(&[]),
            },
            FromFollower::Requests { address: "192.0.2.1".parse().unwrap(), count: 42 },
            FromFollower::Answered { served: 7, failed_open: 0 },
            FromFollower::Refused { rule: "w00tw00t".into(), count: u64::MAX },
        ] {
            assert_eq!(FromFollower::parse(&line.to_string()), Ok(line));
        }
    }

    #[test]
    fn a_garbled_line_says_what_was_found_and_expected() {
        let error = FromResident::parse("ban nobody all x 5").unwrap_err();
        assert_eq!(error.to_string(), "found \"ban nobody all x 5\", expected a line of the follow protocol");
        for line in [
            "",
            "strikeout",
            "strikeout x",
            "strikeout 1 2",
            "end",
            "begin config 64",
            "begin config 0 allow",
            "rule {}",
            "answer 1 maybe",
            "list x 1.2.3.0/24",
        ] {
            assert!(FromResident::parse(line).is_err(), "{line}");
        }
        for line in [
            "",
            "offence",
            "offence x 1.2.3.4 a b",
            "offence 1 host a b",
            "requests 1.2.3.4",
            "requests 1.2.3.4 -1",
            "check 1.2.3.4",
            "answered 1",
            "refused 1",
        ] {
            assert!(FromFollower::parse(line).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_evidence_stays_bounded(text in ".{0,300}", words in "(offence|requests|answered|refused|ban|answer|list|rule) .{0,300}") {
            for line in [text, words] {
                let _ = FromResident::parse(&line);
                if let Ok(FromFollower::Offence { evidence, .. }) = FromFollower::parse(&line) {
                    prop_assert!(evidence.as_str().len() <= Evidence::MAX);
                }
            }
        }
    }
}
