//! The lines that a subscriber sends to the daemon.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::from_daemon::client;
use super::{StreamError, stream_error};
use crate::client::{Client, parse_address};
use crate::prefilter::Stamp;
use crate::prefilter::files::LoadedPrefilter;
use crate::rule::{Evidence, Marks};

/// Rules of a prefilter in one line, which has at most 8 KiB.
const RULES_PER_LINE: usize = 200;

/// Maximum number of rules that one offence names.
pub const MAX_RULES: usize = 32;

/// A line from a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromSubscriber {
    /// An offence, to be counted and answered.
    Offence {
        /// The number of its answer.
        number: u64,
        /// The full address.
        address: IpAddr,
        /// The names of the rules that it offends.
        rules: Vec<String>,
        marks: Option<Marks>,
        evidence: Evidence,
    },
    /// A success of a client, which clears its strikes.
    Clear {
        /// The full address.
        address: IpAddr,
        /// The names of the rules whose strikes it clears.
        rules: Vec<String>,
        marks: Option<Marks>,
    },
    /// Offences of one client that are answered already, to be counted.
    Strike {
        /// How many; at least one.
        count: u32,
        /// The full address.
        address: IpAddr,
        /// The names of the rules that it offends.
        rules: Vec<String>,
        marks: Option<Marks>,
        evidence: Evidence,
    },
    /// The question where a client belongs.
    Origin(Client),
    /// Ordinary requests, which count towards rates.
    Requests {
        /// The full address.
        address: IpAddr,
        /// Requests since the last report.
        count: u32,
        /// How many of them had no source of their own.
        unreferred: u32,
    },
    /// A client that says it is a crawler, sent before what it does and again each minute.
    Crawler {
        /// The full address.
        address: IpAddr,
        /// The crawler's name.
        crawler: String,
    },
    /// Queries that the subscriber answered without asking the daemon since the last report.
    Stats {
        /// Queries whose client was served.
        served: u64,
        /// Further queries whose client was served because the daemon could not be asked.
        failed_open: u64,
    },
    /// Offences that the daemon could not take when they happened, so that the subscriber answered them itself.
    Overflow {
        /// Offences that were reported later, as strikes, since the last report.
        deferred: u64,
        /// Offences that were given up since the last report: they are never reported.
        dropped: u64,
    },
    /// The prefilter that the subscriber's Squid has loaded, or more of the rules that it covers.
    Prefilter(Box<LoadedPrefilter>),
    /// Queries that the subscriber refused without asking the daemon since the last report.
    Refused {
        /// The name of the rule.
        rule: String,
        count: u64,
    },
}

impl fmt::Display for FromSubscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offence { number, address, rules, marks, evidence } => {
                write!(f, "offence {number} {address} {} {}", Rules(rules, *marks), evidence.as_str())
            }
            Self::Strike { count, address, rules, marks, evidence } => {
                write!(f, "strike {count} {address} {} {}", Rules(rules, *marks), evidence.as_str())
            }
            Self::Clear { address, rules, marks } => write!(f, "clear {address} {}", Rules(rules, *marks)),
            Self::Origin(client) => write!(f, "origin {client}"),
            Self::Requests { address, count, unreferred: 0 } => write!(f, "requests {address} {count}"),
            Self::Requests { address, count, unreferred } => write!(f, "requests {address} {count} {unreferred}"),
            Self::Crawler { address, crawler } => write!(f, "crawler {address} {crawler}"),
            Self::Stats { served, failed_open } => write!(f, "stats {served} {failed_open}"),
            Self::Overflow { deferred, dropped } => write!(f, "overflow {deferred} {dropped}"),
            Self::Refused { rule, count } => write!(f, "refused {rule} {count}"),
            Self::Prefilter(prefilter) => {
                let json = serde_json::to_string(&PrefilterLine::of(prefilter)).map_err(|_| fmt::Error)?;
                write!(f, "prefilter {json}")
            }
        }
    }
}

/// The rules of an offence and its marks, if it has any: `RULE,…@MARKS`.
struct Rules<'a>(&'a [String], Option<Marks>);

impl fmt::Display for Rules<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))?;
        self.1.map_or(Ok(()), |marks| write!(f, "@{marks}"))
    }
}

impl FromSubscriber {
    /// The lines that report a prefilter, each with a part of its rules.
    pub fn prefilter(prefilter: &LoadedPrefilter) -> impl Iterator<Item = Self> {
        let parts = prefilter.stamp.parts(RULES_PER_LINE);
        parts.into_iter().map(|stamp| Self::Prefilter(Box::new(LoadedPrefilter { stamp, ..prefilter.clone() })))
    }

    /// Parses a line without its newline.
    ///
    /// # Errors
    /// The line is not part of the protocol.
    pub fn parse(line: &str) -> Result<Self, StreamError> {
        Self::read(line).ok_or_else(|| {
            stream_error(
                line,
                "offence NUMBER ADDRESS RULE,… EVIDENCE, strike NUMBER ADDRESS RULE,… EVIDENCE, clear ADDRESS RULE,…, origin CLIENT, requests ADDRESS NUMBER, crawler ADDRESS NAME, stats NUMBER NUMBER, overflow NUMBER NUMBER, refused RULE NUMBER or prefilter JSON",
            )
        })
    }

    fn read(line: &str) -> Option<Self> {
        let (verb, rest) = line.split_once(' ')?;
        match verb {
            "offence" => {
                let (number, rest) = rest.split_once(' ')?;
                let (address, rules, marks, evidence) = offence(rest)?;
                Some(Self::Offence { number: number.parse().ok()?, address, rules, marks, evidence })
            }
            "clear" => {
                let (address, rules, marks, _) = offence(rest)?;
                Some(Self::Clear { address, rules, marks })
            }
            "strike" => {
                let (count, rest) = rest.split_once(' ')?;
                let (address, rules, marks, evidence) = offence(rest)?;
                Some(Self::Strike { count: count.parse().ok().filter(|count| *count > 0)?, address, rules, marks, evidence })
            }
            "origin" => client(rest).map(Self::Origin),
            "requests" => {
                let (address, counts) = rest.split_once(' ')?;
                let (count, unreferred) = counts.split_once(' ').unwrap_or((counts, "0"));
                Some(Self::Requests {
                    address: parse_address(address).ok()?,
                    count: count.parse().ok()?,
                    unreferred: unreferred.parse().ok()?,
                })
            }
            "crawler" => {
                let (address, crawler) = rest.split_once(' ')?;
                Some(Self::Crawler { address: parse_address(address).ok()?, crawler: crawler.to_owned() })
            }
            "stats" => {
                let (served, failed_open) = rest.split_once(' ')?;
                Some(Self::Stats { served: served.parse().ok()?, failed_open: failed_open.parse().ok()? })
            }
            "overflow" => {
                let (deferred, dropped) = rest.split_once(' ')?;
                Some(Self::Overflow { deferred: deferred.parse().ok()?, dropped: dropped.parse().ok()? })
            }
            "prefilter" => {
                serde_json::from_str::<PrefilterLine>(rest).ok()?.into_prefilter().map(|prefilter| Self::Prefilter(Box::new(prefilter)))
            }
            "refused" => {
                let (rule, count) = rest.split_once(' ')?;
                Some(Self::Refused { rule: rule.to_owned(), count: count.parse().ok()? })
            }
            _ => None,
        }
    }
}

/// A part of a [`LoadedPrefilter`].
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PrefilterLine {
    directory: PathBuf,
    rules: String,
    fault: Option<String>,
}

impl PrefilterLine {
    fn of(prefilter: &LoadedPrefilter) -> Self {
        let rules = prefilter.stamp.lines(RULES_PER_LINE).next().unwrap_or_default();
        Self { directory: prefilter.directory.clone(), rules, fault: prefilter.fault.clone() }
    }

    fn into_prefilter(self) -> Option<LoadedPrefilter> {
        let mut stamp = Stamp::default();
        let is_printable = |text: &str| !text.chars().any(char::is_control);
        let is_good = (self.rules.is_empty() || stamp.add(&self.rules))
            && self.directory.to_str().is_some_and(is_printable)
            && self.fault.as_deref().is_none_or(is_printable);
        is_good.then_some(LoadedPrefilter { directory: self.directory, stamp, fault: self.fault })
    }
}

/// `ADDRESS RULE,… EVIDENCE` or `ADDRESS RULE,…@MARKS EVIDENCE`
fn offence(text: &str) -> Option<(IpAddr, Vec<String>, Option<Marks>, Evidence)> {
    let mut words = text.splitn(3, ' ');
    let (address, rules) = (parse_address(words.next()?).ok()?, words.next()?);
    let (rules, marks) = match rules.split_once('@') {
        Some((rules, marks)) => (rules, Some(Marks::parse(marks)?)),
        None => (rules, None),
    };
    let rules: Vec<String> = rules.split(',').map(str::to_owned).collect();
    (rules.len() <= MAX_RULES).then(|| (address, rules, marks, Evidence::restore(words.next().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_line_survives_a_round_trip() {
        for line in [
            FromSubscriber::Offence {
                number: 9,
                address: "192.0.2.1".parse().unwrap(),
                rules: vec!["a".into(), "b-2".into()],
                marks: Some(Marks { path: 0, query: u32::MAX, area: 7 }),
                evidence: Evidence::new(&[b"GET", b"/x y\n"]),
            },
            FromSubscriber::Offence {
                number: 0,
                address: "2001:db8::1".parse().unwrap(),
                rules: vec!["a".into()],
                marks: None,
                evidence: Evidence::new(&[]),
            },
            FromSubscriber::Clear {
                address: "192.0.2.1".parse().unwrap(),
                rules: vec!["a".into(), "b".into()],
                marks: Some(Marks { path: 1, query: 2, area: 3 }),
            },
            FromSubscriber::Strike {
                count: 3,
                address: "192.0.2.1".parse().unwrap(),
                rules: vec!["a".into(), "b".into()],
                marks: None,
                evidence: Evidence::new(&[b"GET", b"/x"]),
            },
            FromSubscriber::Origin(client("2001:db8:1:2::").unwrap()),
            FromSubscriber::Requests { address: "192.0.2.1".parse().unwrap(), count: 42, unreferred: 0 },
            FromSubscriber::Requests { address: "192.0.2.1".parse().unwrap(), count: 42, unreferred: 7 },
            FromSubscriber::Stats { served: 7, failed_open: 0 },
            FromSubscriber::Overflow { deferred: 5, dropped: 2 },
            FromSubscriber::Refused { rule: "w00tw00t".into(), count: u64::MAX },
        ] {
            assert_eq!(FromSubscriber::parse(&line.to_string()), Ok(line));
        }
    }

    #[test]
    fn an_error_says_what_was_found_and_expected() {
        let error = FromSubscriber::parse("requests nobody 5").unwrap_err().to_string();
        assert!(error.starts_with("found \"requests nobody 5\", expected offence NUMBER ADDRESS RULE,"), "{error}");
        for line in [
            "",
            "offence",
            "offence x 1.2.3.4 a b",
            "offence 1 host a b",
            "strike",
            "strike 1 host a b",
            "strike 1 1.2.3.4",
            "strike 0 1.2.3.4 a b",
            "strike 1.2.3.4 a b",
            "offence 1 1.2.3.4 a@1.2 b",
            "clear",
            "clear host a",
            "clear 1.2.3.4",
            "overflow 1",
            "origin",
            "origin 1.2.3.4 5",
            "requests 1.2.3.4",
            "requests 1.2.3.4 -1",
            "check 1.2.3.4",
            "stats 1",
            "refused 1",
        ] {
            assert!(FromSubscriber::parse(line).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_without_a_panic_and_evidence_stays_bounded(
            text in ".{0,300}",
            words in "(offence|strike|clear|requests|stats|overflow|refused) .{0,300}",
            evidence in "\\PC{0,300}",
        ) {
            for line in [text, words, format!("offence 1 192.0.2.1 x {evidence}")] {
                if let Ok(FromSubscriber::Offence { evidence, .. }) = FromSubscriber::parse(&line) {
                    prop_assert!(evidence.as_str().len() <= Evidence::MAX);
                }
            }
        }
    }
}
