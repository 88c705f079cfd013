//! The lines that the daemon sends to a subscriber.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::{RuleLine, StreamError, stream_error};
use crate::client::{Client, Ipv6Prefix, parse_address};
use crate::event::Scope;
use crate::geo::{Network, Origin, OriginEntry};
use crate::policy::OnFailure;
use crate::rule_id::RuleNames;
use crate::table::Until;
use crate::time::{Span, Time};
use crate::verdict::{AllowReason, DenyReason, Refusal, Verdict};

/// The list that a network is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// An own address of the machine.
    Own,
    /// A default gateway.
    Gateway,
    IgnoreIp,
    TrustedProxies,
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

/// A line from the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromDaemon {
    /// The first line: the version of the protocol.
    Hello(u32),
    BeginConfig {
        /// How many bits of an IPv6 address identify a client.
        prefix: Ipv6Prefix,
        /// What a helper answers while it cannot ask the daemon.
        on_failure: OnFailure,
    },
    Rule(Box<RuleLine>),
    /// A network of a list.
    Listed(List, IpNet),
    /// An entry of a deny list that is no network.
    DeniedOrigin(OriginEntry),
    /// A crawler: the daemon wants to know which clients say they are it.
    Crawler(String),
    /// The configuration is complete and takes effect.
    EndConfig,
    BeginBans,
    Ban {
        client: Client,
        scope: Scope,
        rule: Arc<str>,
        /// `None` if the ban is permanent.
        remaining: Option<Span>,
    },
    Unban {
        client: Client,
        /// The services on which it is unbanned.
        scope: Scope,
    },
    /// All bans of a rule end, except those of networks.
    UnbanRule(Arc<str>),
    BanNetwork {
        network: Network,
        scope: Scope,
        rule: Arc<str>,
        /// `None` if the ban is permanent.
        remaining: Option<Span>,
    },
    UnbanNetwork(Network),
    /// Everybody is served for so long, in place of an earlier pause.
    Pause(Span),
    /// The pause ends.
    Resume,
    /// All bans are sent; changes follow.
    EndBans,
    /// The answer to an offence.
    Answer {
        /// The number of the offence.
        number: u64,
        /// Rule, remaining time and reason of the refusal; `None` if the client is served.
        refusal: Option<(Arc<str>, Option<Span>, DenyReason)>,
    },
    /// Where a client belongs.
    Origin {
        client: Client,
        origin: Origin,
    },
    /// What was said of where clients belong may be wrong now.
    OriginsChanged,
    /// The daemon rejects the stream, or a line of it.
    Error(String),
}

/// Remaining whole seconds, at least one because ends are rounded up to a whole second; `-1` for a permanent ban.
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
    // At least one second, as in `Remaining`.
    if text == "-1" { Some(None) } else { Some(Some(Span::from_secs(text.parse::<u64>().ok()?.max(1)))) }
}

const REASONS: [(DenyReason, &str); 5] = [
    (DenyReason::Banned, "banned"),
    (DenyReason::Struck, "struck"),
    (DenyReason::Offence, "offence"),
    (DenyReason::DenyList, "deny-list"),
    (DenyReason::Failure, "failure"),
];

impl fmt::Display for FromDaemon {
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
            Self::DeniedOrigin(entry) => write!(f, "list deny {entry}"),
            Self::Crawler(name) => write!(f, "crawler {name}"),
            Self::EndConfig => f.write_str("end config"),
            Self::BeginBans => f.write_str("begin bans"),
            Self::Ban { client, scope, rule, remaining } => write!(f, "ban {client} {} {rule} {}", scope.as_str(), Remaining(*remaining)),
            Self::Unban { client, scope } => write!(f, "unban {client} {}", scope.as_str()),
            Self::UnbanRule(rule) => write!(f, "unban-rule {rule}"),
            Self::BanNetwork { network, scope, rule, remaining } => {
                write!(f, "ban-network {network} {} {rule} {}", scope.as_str(), Remaining(*remaining))
            }
            Self::UnbanNetwork(network) => write!(f, "unban-network {network}"),
            Self::Pause(remaining) => write!(f, "pause {}", remaining.secs_ceil()),
            Self::Resume => f.write_str("resume"),
            Self::EndBans => f.write_str("end bans"),
            Self::Answer { number, refusal: None } => write!(f, "answer {number} accept"),
            Self::Answer { number, refusal: Some((rule, remaining, reason)) } => {
                let reason = REASONS.iter().find(|(known, _)| known == reason).map_or("banned", |(_, name)| name);
                write!(f, "answer {number} deny {rule} {} {reason}", Remaining(*remaining))
            }
            Self::Origin { client, origin: Origin { asn, country } } => {
                let asn = asn.map_or_else(|| "-".to_owned(), |asn| asn.to_string());
                let country = country.map_or_else(|| "-".to_owned(), |country| country.to_string());
                write!(f, "origin {client} {asn} {country}")
            }
            Self::OriginsChanged => f.write_str("origins-changed"),
            Self::Error(text) => write!(f, "error {text}"),
        }
    }
}

impl FromDaemon {
    #[must_use]
    pub fn answer(number: u64, verdict: &Verdict, names: &RuleNames, now: Time) -> Self {
        let refusal = verdict.refusal().map(|refusal| (names.name(refusal.rule), refusal.until.remaining(now), refusal.reason));
        Self::Answer { number, refusal }
    }

    /// Parses a line without its newline.
    ///
    /// # Errors
    /// The line is not part of the protocol.
    pub fn parse(line: &str) -> Result<Self, StreamError> {
        Self::read(line).ok_or_else(|| stream_error(line, "a line of the subscribe protocol"))
    }

    fn read(line: &str) -> Option<Self> {
        match line {
            "resume" => return Some(Self::Resume),
            "origins-changed" => return Some(Self::OriginsChanged),
            _ => {}
        }
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
                let entry = words.next()?;
                match (list, entry.parse()) {
                    (List::Deny, Ok(origin)) => Self::DeniedOrigin(origin),
                    _ => Self::Listed(list, entry.parse().ok()?),
                }
            }
            "crawler" => Self::Crawler(words.next()?.to_owned()),
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
            "unban-rule" => Self::UnbanRule(words.next()?.into()),
            "ban-network" => Self::BanNetwork {
                network: words.next()?.parse().ok()?,
                scope: Scope::from_name(words.next()?)?,
                rule: words.next()?.into(),
                remaining: parse_remaining(words.next()?)?,
            },
            "unban-network" => Self::UnbanNetwork(words.next()?.parse().ok()?),
            "pause" => Self::Pause(Span::from_secs(words.next()?.parse().ok()?)),
            "answer" => {
                let number = words.next()?.parse().ok()?;
                let refusal = match words.next()? {
                    "accept" => None,
                    "deny" => {
                        let (rule, remaining, name) = (words.next()?.into(), parse_remaining(words.next()?)?, words.next()?);
                        let (reason, _) = REASONS.into_iter().find(|(_, known)| *known == name)?;
                        Some((rule, remaining, reason))
                    }
                    _ => return None,
                };
                Self::Answer { number, refusal }
            }
            "origin" => {
                let client = client(words.next()?)?;
                let (asn, country) = (known(words.next()?)?, known(words.next()?)?);
                Self::Origin { client, origin: Origin { asn, country } }
            }
            "error" => return Some(Self::Error(rest.to_owned())),
            _ => return None,
        };
        words.next().is_none().then_some(parsed)
    }
}

/// Parses a client unchanged, because the daemon has already cut it to its prefix.
pub(super) fn client(text: &str) -> Option<Client> {
    Some(Client::of(parse_address(text).ok()?, Ipv6Prefix::new(128)?))
}

/// Parses what may be known: `-` if it is not.
fn known<T: std::str::FromStr>(text: &str) -> Option<Option<T>> {
    if text == "-" { Some(None) } else { text.parse().ok().map(Some) }
}

/// The verdict of an answer, at `now` of the subscriber's clock.
#[must_use]
pub fn verdict(refusal: Option<(Arc<str>, Option<Span>, DenyReason)>, names: &RuleNames, now: Time) -> Verdict {
    match refusal {
        None => Verdict::Allow(AllowReason::NothingFound),
        Some((rule, remaining, reason)) => {
            let until = remaining.map_or(Until::NEVER, |remaining| Until::at(now.after(remaining)));
            Verdict::Deny(Refusal { rule: names.intern(&rule), until, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Distinct, Mode, RequestPattern, SmtpRefusal, Trigger};
    use proptest::prelude::*;

    fn lines() -> Vec<FromDaemon> {
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
            distinct: Some(Distinct::Path),
            ignoreip: vec!["2001:db8::/32".into(), "192.0.2.7/32".into()],
            origin: serde_json::from_str(r#"{"asn":[64496],"not_country":["DE"]}"#).unwrap(),
        };
        let hour = Some(Span::from_secs(3600));
        vec![
            FromDaemon::Hello(1),
            FromDaemon::BeginConfig { prefix: Ipv6Prefix::default(), on_failure: OnFailure::Deny },
            FromDaemon::Rule(Box::new(rule)),
            FromDaemon::Listed(List::TrustedProxies, "192.0.2.0/24".parse().unwrap()),
            FromDaemon::DeniedOrigin("AS64496".parse().unwrap()),
            FromDaemon::DeniedOrigin("country:XX".parse().unwrap()),
            FromDaemon::Origin { client, origin: Origin { asn: "AS64496".parse().ok(), country: None } },
            FromDaemon::Origin { client, origin: Origin { asn: None, country: "DE".parse().ok() } },
            FromDaemon::OriginsChanged,
            FromDaemon::EndConfig,
            FromDaemon::BeginBans,
            FromDaemon::Ban { client, scope: Scope::All, rule: "w00tw00t".into(), remaining: hour },
            FromDaemon::Ban { client, scope: Scope::Mail, rule: "manual".into(), remaining: None },
            FromDaemon::Unban { client, scope: Scope::All },
            FromDaemon::UnbanRule("w00tw00t".into()),
            FromDaemon::BanNetwork { network: "2001:db8::/32".parse().unwrap(), scope: Scope::Web, rule: "crowd".into(), remaining: hour },
            FromDaemon::UnbanNetwork("2001:db8::/32".parse().unwrap()),
            FromDaemon::BanNetwork { network: "AS64496".parse().unwrap(), scope: Scope::All, rule: "crowd".into(), remaining: None },
            FromDaemon::UnbanNetwork("AS64496".parse().unwrap()),
            FromDaemon::Pause(Span::from_secs(3600)),
            FromDaemon::Resume,
            FromDaemon::EndBans,
            FromDaemon::Answer { number: 7, refusal: None },
            FromDaemon::Answer { number: u64::MAX, refusal: Some(("w00tw00t".into(), hour, DenyReason::Struck)) },
            FromDaemon::Error("found version 9, expected 1".into()),
        ]
    }

    #[test]
    fn every_line_survives_a_round_trip() {
        for line in lines() {
            let text = line.to_string();
            assert!(!text.contains('\n'));
            assert_eq!(FromDaemon::parse(&text), Ok(line), "{text}");
        }
    }

    #[test]
    fn an_error_says_what_was_found_and_expected() {
        let error = FromDaemon::parse("ban nobody all x 5").unwrap_err();
        assert_eq!(error.to_string(), "found \"ban nobody all x 5\", expected a line of the subscribe protocol");
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
            "list ignoreip AS64496",
            "origin 1.2.3.4 AS64496",
            "origin 1.2.3.4 64496 DE",
        ] {
            assert!(FromDaemon::parse(line).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_without_a_panic(text in ".{0,300}", words in "(ban|answer|list|rule) .{0,300}") {
            for line in [text, words] {
                let _ = FromDaemon::parse(&line);
            }
        }
    }
}
