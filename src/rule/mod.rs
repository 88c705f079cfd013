//! Rules: which events are an offence, and what follows from it.

pub mod automaton;
pub mod builtin;
mod memo;
pub mod names;
pub mod set;
pub mod spec;

use std::net::IpAddr;
use std::sync::Arc;

pub use names::{Names, RuleId};
pub use set::RuleSet;

use crate::event::Scope;
use crate::time::Span;

/// A rule, checked and ready.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The name as a number.
    pub id: RuleId,
    /// The name: `[a-z0-9-]`, 1 to 64 characters.
    pub name: Arc<str>,
    /// A sentence on what it catches, for people.
    pub description: Arc<str>,
    /// Which events are an offence.
    pub trigger: Trigger,
    /// So many offences within `findtime` make a ban; at least 1.
    pub maxretry: u32,
    /// See [`crate::table::Counter`]; at most 49 days.
    pub findtime: Span,
    /// How long a ban lasts.
    pub bantime: Bantime,
    /// Where its bans refuse.
    pub scope: Scope,
    /// Whether it is enforced.
    pub mode: Mode,
    /// How Exim refuses a client that it banned.
    pub smtp: SmtpRefusal,
    /// Whether the offence itself is refused although it does not ban yet.
    pub refuses_offence: bool,
    /// Whether its strikes are counted over all machines of a fleet.
    pub fleet: bool,
}

/// Which events are an offence.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Trigger {
    /// A request that matches; see [`RequestPattern`].
    Request(RequestPattern),
    /// Every request: a rate.
    RequestRate,
    /// A response with one of these status codes, on a path that matches, if there is a pattern.
    Response {
        /// The status codes, sorted.
        statuses: Vec<u16>,
        /// The pattern for the path.
        path: Option<String>,
    },
    /// Every SMTP connection, except on submission ports: a rate.
    ConnectionRate,
    /// An SMTP connection that finds more than `limit` open ones of its client, itself included.
    Simultaneous {
        /// So many may be open at once.
        limit: u32,
    },
    /// An incident that Exim reports by the rule's name (`strike ADDRESS RULE`).
    Incident,
    /// A log line of a log that names the rule.
    Line(LinePattern),
}

/// What a request must match: every part that is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct RequestPattern {
    /// The methods, as sent; empty for any.
    pub methods: Vec<String>,
    /// A regex over the path, as sent and once percent-decoded.
    pub path: Option<String>,
    /// A regex over the query string, as sent and once percent-decoded.
    pub query: Option<String>,
    /// A regex over the User-Agent.
    pub user_agent: Option<String>,
    /// A regex over the whole URL as sent.
    pub url: Option<String>,
}

/// Which log lines blame a client.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum LinePattern {
    /// Kinds of Exim log lines, by name (see [`crate::log::exim`]).
    Exim(Vec<String>),
    /// Regexes in fail2ban's language, with `<HOST>`.
    Regex {
        /// Any of these must match.
        failregex: Vec<String>,
        /// None of these may.
        ignoreregex: Vec<String>,
    },
    /// A fail2ban filter file.
    Filter {
        /// Its path.
        path: std::path::PathBuf,
        /// Its options, such as `mode`.
        options: Vec<(String, String)>,
    },
}

/// How long a ban lasts, in fail2ban's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Bantime {
    /// The first ban; `None` for ever (`-1`).
    pub initial: Option<Span>,
    /// Whether later bans of the same client last longer.
    pub increment: Option<Increment>,
}

/// `bantime.increment`: how later bans grow.
#[derive(Debug, Clone, PartialEq)]
pub struct Increment {
    /// `bantime.factor`: a further multiplier of the formula `initial * factor * 2^bans`.
    pub factor: f64,
    /// `bantime.multipliers`: instead of powers of two, the multiplier for each ban so far; the last one stays.
    pub multipliers: Vec<f64>,
    /// `bantime.maxtime`: no ban lasts longer.
    pub maxtime: Option<Span>,
    /// After so long without a ban the client's earlier bans are forgotten.
    pub forget: Span,
}

impl Bantime {
    /// How long a ban lasts of a client that was banned `earlier` times before; `None` for ever.
    ///
    /// fail2ban's `ObserverThread.calcBanTime`: `initial * factor * 2^earlier` (its default formula, the exponent 20 at most), or
    /// `initial * factor * multipliers[earlier]`, and `maxtime` at most.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "spans are far below 2^53 ms, and the cast saturates"
    )]
    pub fn of(&self, earlier: u32) -> Option<Span> {
        let initial = self.initial?;
        let Some(increment) = &self.increment else { return Some(initial) };
        let index = usize::try_from(earlier).unwrap_or(usize::MAX);
        let multiplier = match increment.multipliers.get(index).or(increment.multipliers.last()) {
            Some(multiplier) => *multiplier,
            None => 2_f64.powi(i32::try_from(earlier.min(20)).unwrap_or(20)),
        };
        let grown =
            if earlier == 0 { initial } else { Span::from_millis((initial.millis() as f64 * multiplier * increment.factor) as u64) };
        Some(increment.maxtime.map_or(grown, |maxtime| grown.min(maxtime)))
    }
}

/// Whether a rule refuses, or only shows what it would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It refuses.
    #[default]
    Enforce,
    /// Counted, logged, shown, never enforced.
    Shadow,
}

/// How Exim refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpRefusal {
    /// For now (421): a legitimate server comes back.
    #[default]
    Defer,
    /// For good (554).
    Deny,
}

/// What the offence of a client was, bounded and escaped: for logs and `why`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence(String);

impl Evidence {
    /// The longest evidence in bytes, after escaping.
    pub const MAX: usize = 200;

    /// Escapes what is not printable ASCII, and cuts.
    #[must_use]
    pub fn new(parts: &[&[u8]]) -> Self {
        let mut text = String::with_capacity(parts.iter().map(|part| part.len() + 1).sum::<usize>().min(Self::MAX));
        'parts: for (number, part) in parts.iter().enumerate() {
            if number > 0 {
                text.push(' ');
            }
            for byte in *part {
                let escaped = std::ascii::escape_default(*byte);
                if text.len() + escaped.len() > Self::MAX - 3 {
                    text.push_str("...");
                    break 'parts;
                }
                text.extend(escaped.map(char::from));
            }
        }
        Self(text)
    }

    /// Evidence that is already escaped and cut, as a state file or a peer kept it; anything else is escaped again.
    #[must_use]
    pub fn restore(text: &str) -> Self {
        let is_clean = text.len() <= Self::MAX && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if is_clean { Self(text.to_owned()) } else { Self::new(&[text.as_bytes()]) }
    }

    /// The text: printable ASCII, at most [`Evidence::MAX`] bytes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An event that a rule calls an offence. The table says what follows from it.
#[derive(Debug, Clone)]
pub struct Offence {
    /// The full address, before the prefix cut.
    pub address: IpAddr,
    /// Who is blamed.
    pub client: crate::client::Client,
    /// The rules that it offends, strictest first; never empty.
    pub rules: Vec<Arc<Rule>>,
    /// What it was.
    pub evidence: Evidence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_increment_every_ban_lasts_the_same() {
        let bantime = Bantime { initial: Some(Span::from_secs(600)), increment: None };
        assert_eq!((bantime.of(0), bantime.of(9)), (Some(Span::from_secs(600)), Some(Span::from_secs(600))));
        assert_eq!(Bantime { initial: None, increment: None }.of(3), None);
    }

    #[test]
    fn bans_double_up_to_maxtime() {
        let increment =
            Increment { factor: 1.0, multipliers: Vec::new(), maxtime: Some(Span::from_secs(5000)), forget: Span::from_secs(86_400) };
        let bantime = Bantime { initial: Some(Span::from_secs(600)), increment: Some(increment) };
        let seconds: Vec<u64> = (0..5).filter_map(|earlier| bantime.of(earlier)).map(Span::secs).collect();
        assert_eq!(seconds, [600, 1200, 2400, 4800, 5000]);
    }

    #[test]
    fn multipliers_stay_at_their_last() {
        let increment = Increment { factor: 1.0, multipliers: vec![1.0, 5.0, 30.0], maxtime: None, forget: Span::from_secs(1) };
        let bantime = Bantime { initial: Some(Span::from_secs(10)), increment: Some(increment) };
        let seconds: Vec<u64> = (0..5).filter_map(|earlier| bantime.of(earlier)).map(Span::secs).collect();
        assert_eq!(seconds, [10, 50, 300, 300, 300]);
    }

    #[test]
    fn evidence_is_printable_and_short_whatever_is_in_it() {
        let evidence = Evidence::new(&[b"GET", b"/\x00\xff\n\"", &[0xff; 1000]]);
        assert!(evidence.as_str().len() <= Evidence::MAX);
        assert!(evidence.as_str().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        assert!(evidence.as_str().starts_with("GET /\\x00\\xff\\n\\\""));
        assert_eq!(Evidence::restore(evidence.as_str()), evidence);
    }
}
