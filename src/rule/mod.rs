//! Rules: which events are offences, and what follows from an offence.

mod automaton;
mod bantime;
pub mod builtin;
mod count_by;
pub mod marks;
mod matcher;
pub mod merge;
mod responses;
mod seen_cache;
pub mod set;
pub mod spec;
mod spec_groups;
mod spec_origin;
mod spec_trigger;
mod standing;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

pub use bantime::{Bantime, BantimeSpec};
pub use count_by::{CountBy, NetworkSize};
pub use marks::Marks;
pub use set::RuleSet;
pub use standing::Standing;

use crate::client::{Client, Ipv6Prefix};
use crate::event::Scope;
use crate::geo::{Geo, OriginCondition};
use crate::list::Networks;
use crate::rule_id::RuleId;
use crate::table::Account;
use crate::time::Span;

/// A checked rule.
#[derive(Debug, Clone)]
pub struct Rule {
    pub id: RuleId,
    /// The name: 1 to 64 characters of `[a-z0-9-]`.
    pub name: Arc<str>,
    /// A sentence for people about what the rule catches.
    pub description: Arc<str>,
    pub trigger: Trigger,
    /// Number of offences within `findtime` that cause a ban, at least 1.
    pub maxretry: u32,
    /// Period in which offences add up, at most 49 days; see [`crate::table::Counter`].
    pub findtime: Span,
    pub bantime: Bantime,
    /// The services on which its bans refuse.
    pub scope: Scope,
    pub mode: Mode,
    /// How Exim refuses the clients that it bans.
    pub smtp: SmtpRefusal,
    /// Whether an offence is refused even if it does not cause a ban yet.
    pub refuses_offence: bool,
    /// Whether strikes are counted across all nodes of the fleet.
    pub fleet: bool,
    /// Of which part of a request different ones count once each.
    pub distinct: Option<Distinct>,
    /// Addresses that the rule never concerns.
    pub ignoreip: Networks,
    /// By where they belong, the clients that it concerns.
    pub origin: OriginCondition,
    /// Whom it counts, and what its bans are of.
    pub count_by: CountBy,
    /// Number of different clients of a network, or at an account, that must have offended within `findtime`, 1 to [`crate::table::MAX_MEMBERS`].
    pub members: u32,
}

/// A part of a request. A rule that counts different ones counts a repeat within `findtime` once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distinct {
    /// The path as sent.
    Path,
    /// The parameters of the query that match the rule, or the whole query.
    Query,
}

impl Rule {
    /// Whether the rule concerns `address`, of clients that are cut to `prefix`. What only the daemon can say holds as long as it is not asked.
    #[must_use]
    pub fn concerns(&self, address: IpAddr, prefix: Ipv6Prefix, geo: &Geo) -> bool {
        !self.ignoreip.contains(address)
            && (self.origin.is_empty() || geo.origin(Client::of(address, prefix)).is_none_or(|origin| self.origin.holds(origin)))
    }

    /// Whether only requests whose headers the server hands over can offend it.
    #[must_use]
    pub fn is_about_headers(&self) -> bool {
        matches!(&self.trigger, Trigger::Request(pattern) if pattern.header.is_some())
    }

    /// Whether it depends on where a client belongs.
    #[must_use]
    pub fn needs_geo(&self) -> bool {
        !self.origin.is_empty() || self.count_by == CountBy::Asn
    }

    /// Whether offences that repeat earlier ones must be told from new ones, and by which mark.
    #[must_use]
    pub fn mark(&self, marks: &Marks) -> Option<u32> {
        match (self.distinct, &self.trigger) {
            (Some(Distinct::Path), _) => Some(marks.path),
            (Some(Distinct::Query), _) => Some(marks.query),
            (None, Trigger::Response(pattern)) if pattern.is_cleared_by_area() => Some(marks.area),
            _ => None,
        }
    }

    /// Whether [`Rule::mark`] looks at the marks.
    #[must_use]
    pub fn needs_marks(&self) -> bool {
        self.distinct.is_some() || matches!(&self.trigger, Trigger::Response(pattern) if pattern.is_cleared_by_area())
    }
}

/// Which events are offences under a rule.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Trigger {
    /// Requests that match the pattern.
    Request(RequestPattern),
    /// Every request, to limit the rate.
    RequestRate,
    /// Every request without a source of its own ([`crate::event::Request::names_its_source`]), to limit the rate. A client of a network that
    /// also sends requests with a source is no member of a crowd.
    UnreferredRate,
    /// Requests that another rule refuses, and for which their client is not blamed because a page may have sent them
    /// ([`crate::event::Request::was_sent_by_a_page`]). One of them proves nothing; more than a page holds do.
    PageProbe,
    /// Responses that match the pattern.
    Response(ResponsePattern),
    /// Every SMTP connection, except on submission ports, to limit the rate.
    ConnectionRate,
    /// An SMTP connection that brings its client above `limit` open connections.
    Simultaneous {
        /// Maximum number of open connections, including the new one.
        limit: u32,
    },
    /// An incident that Exim reports under the rule's name (`strike ADDRESS RULE [account=TEXT]`).
    Incident,
    /// Lines of the logs whose configuration lists the rule.
    Line(LinePattern),
    /// Bans of clients by other rules of this machine.
    Ban,
}

impl Trigger {
    /// Whether the rule counts every request, or every one of a kind.
    #[must_use]
    pub fn is_request_rate(&self) -> bool {
        matches!(self, Self::RequestRate | Self::UnreferredRate)
    }

    /// Whether the rule counts ordinary behaviour: how many requests there are, or what a site answers. Any crawler may meet a hundred dead links.
    /// Logins, which a success clears, are none of a crawler's.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        self.is_request_rate() || matches!(self, Self::Response(pattern) if pattern.cleared_by.is_empty())
    }

    /// Whether requests or their responses can offend the rule: those that Squid's helper sees, and lines of an access log.
    #[must_use]
    pub fn is_about_requests(&self) -> bool {
        matches!(self, Self::Request(_) | Self::PageProbe | Self::Response(_)) || self.is_request_rate()
    }
}

/// Patterns for the parts of a request. All that are given must match.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct RequestPattern {
    /// The methods, case-sensitive; empty for any.
    pub methods: Vec<String>,
    /// A regex for the path, in any of its forms: as sent, percent-decoded, canonical.
    pub path: Option<String>,
    /// A regex for the query string, as sent or percent-decoded once.
    pub query: Option<String>,
    /// A regex for the User-Agent.
    pub user_agent: Option<String>,
    /// A regex for the whole URL as sent.
    pub url: Option<String>,
    /// A regex for a header but the User-Agent, as `name: value` with the name in lower case; one that matches is enough.
    pub header: Option<String>,
    /// A regex for paths that never match, in any form.
    pub not_path: Option<String>,
    /// A regex for queries that never match.
    pub not_query: Option<String>,
    /// Whether the request must name its source, or must not; see [`crate::event::Request::names_its_source`].
    pub referer: Option<bool>,
}

/// Which responses are offences, and which clear them. All conditions that are given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ResponsePattern {
    /// The status codes, sorted.
    pub statuses: Vec<u16>,
    /// The methods, case-sensitive; empty for any.
    pub methods: Vec<String>,
    /// A regex for the path, in any of its forms; `None` for any path.
    pub path: Option<String>,
    /// A regex for the query string, as sent or percent-decoded once.
    pub query: Option<String>,
    /// A regex for paths that never match, in any form.
    pub not_path: Option<String>,
    /// A regex for queries that never match.
    pub not_query: Option<String>,
    /// Whether the request must name its source, or must not; see [`crate::event::Request::names_its_source`].
    pub referer: Option<bool>,
    /// Whether the request must carry a user's name and password, or must not.
    pub credentials: Option<bool>,
    /// The status codes, sorted, with which a response clears the client's strikes, if the other conditions hold except `referer`.
    pub cleared_by: Vec<u16>,
}

impl ResponsePattern {
    /// Whether a response clears the strikes only of the site and the first directory where they happened: the rule has no path that says
    /// where a login is.
    #[must_use]
    pub fn is_cleared_by_area(&self) -> bool {
        !self.cleared_by.is_empty() && self.path.is_none()
    }
}

/// Which log lines are offences.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum LinePattern {
    /// Kinds of Exim log lines, by name; see [`crate::event::exim_kind`].
    Exim(Vec<String>),
    /// Regexes in fail2ban's dialect, with `<HOST>`.
    Regex {
        /// At least one of these must match.
        failregex: Vec<String>,
        /// None of these may match.
        ignoreregex: Vec<String>,
    },
    /// A fail2ban filter.
    Filter {
        /// The path of the filter file.
        path: std::path::PathBuf,
        /// Options of the filter, such as `mode`.
        options: Vec<(String, String)>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Its bans are enforced.
    #[default]
    Enforce,
    /// Its bans are counted, logged and shown, but never enforced.
    Shadow,
}

/// How Exim refuses a banned client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpRefusal {
    /// Temporarily (421), so that a legitimate server tries again.
    #[default]
    Defer,
    /// Permanently (554).
    Deny,
}

/// The text of an offence, or an operator's reason, escaped and truncated, for logs and `strikeout why`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Printable ASCII. Offences are frequent and evidence is rarely shown, so it is converted to a `str` only when it is shown.
    text: Vec<u8>,
    /// The operator whose reason this is.
    by: Option<Arc<str>>,
}

/// Appends `part`, escaped, to evidence. Returns false if it did not fit and was truncated.
fn append(text: &mut Vec<u8>, part: &[u8]) -> bool {
    let room = (Evidence::MAX - 3).saturating_sub(text.len());
    let head = part.get(..room).unwrap_or(part);
    // Nearly all text is plain. Because this loop has no early exit, it is compiled to vector instructions.
    if head.iter().fold(true, |plain, byte| plain & is_plain(*byte)) {
        text.extend_from_slice(head);
        return head.len() == part.len();
    }
    for byte in part {
        let escaped = std::ascii::escape_default(*byte);
        if text.len() + escaped.len() > Evidence::MAX - 3 {
            return false;
        }
        text.extend(escaped);
    }
    true
}

/// Whether [`std::ascii::escape_default`] leaves the byte unchanged.
fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\'') & (byte != b'\\')
}

impl Evidence {
    /// Maximum length in bytes, after escaping.
    pub const MAX: usize = 200;

    /// Joins `parts` with spaces. Escapes everything but printable ASCII, and truncates at [`Evidence::MAX`].
    #[must_use]
    pub fn new(parts: &[&[u8]]) -> Self {
        let capacity = parts.iter().map(|part| part.len() + 1).sum::<usize>().min(Self::MAX);
        let mut evidence = Self { text: Vec::with_capacity(capacity), by: None };
        evidence.replace(parts);
        evidence
    }

    /// Becomes what [`Evidence::new`] returns for `parts`, in the same memory.
    pub fn replace(&mut self, parts: &[&[u8]]) {
        let text = &mut self.text;
        text.clear();
        for (number, part) in parts.iter().enumerate() {
            let separator: &[u8] = if number > 0 { b" " } else { b"" };
            if !append(text, separator) || !append(text, part) {
                text.extend(b"...");
                break;
            }
        }
    }

    /// Evidence from a state file or another node, which is already escaped and truncated. Any other text is escaped again.
    #[must_use]
    pub fn restore(text: &str) -> Self {
        let is_clean = text.len() <= Self::MAX && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if is_clean { Self { text: text.as_bytes().to_vec(), by: None } } else { Self::new(&[text.as_bytes()]) }
    }

    /// The same as the reason of an operator, who is named in words such as "user root (uid 0)".
    #[must_use]
    pub fn signed(self, by: &str) -> Self {
        Self { by: Some(Self::new(&[by.as_bytes()]).as_str().into()), ..self }
    }

    /// The operator whose reason it is.
    #[must_use]
    pub fn by(&self) -> Option<&str> {
        self.by.as_deref()
    }

    /// As it is saved: with the operator on a line before it.
    #[must_use]
    pub fn to_saved(&self) -> Cow<'_, str> {
        self.by().map_or(Cow::Borrowed(self.as_str()), |by| Cow::Owned(format!("{by}\n{}", self.as_str())))
    }

    /// Evidence that [`Evidence::to_saved`] has written.
    #[must_use]
    pub fn from_saved(text: &str) -> Self {
        text.split_once('\n').map_or_else(|| Self::restore(text), |(by, text)| Self::restore(text).signed(by))
    }

    /// Printable ASCII, at most [`Evidence::MAX`] bytes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }
}

/// An offence by a client. The engine counts it.
#[derive(Debug, Clone)]
pub struct Offence {
    /// The full address, before the prefix cut.
    pub address: IpAddr,
    pub client: Client,
    /// The offended rules, strictest first; never empty.
    pub rules: Vec<Arc<Rule>>,
    pub evidence: Evidence,
    /// What tells it from other offences, if one of the rules needs that.
    pub marks: Option<Marks>,
    /// The account at which the client guessed, if the server names it.
    pub account: Option<Account>,
}

/// A success of a client: the strikes of these rules no longer count.
#[derive(Debug, Clone)]
pub struct Cleared {
    /// Never empty.
    pub rules: Vec<Arc<Rule>>,
    /// Where the success happened, if one of the rules needs that.
    pub marks: Option<Marks>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The reference: escapes byte by byte, and truncates early enough for the dots that mark the truncation.
    fn naive(parts: &[&[u8]]) -> String {
        let escaped: Vec<String> = parts.iter().map(|part| part.escape_ascii().to_string()).collect();
        let whole = escaped.join(" ");
        if whole.len() <= Evidence::MAX - 3 {
            return whole;
        }
        let pieces = parts.join(&b' ').into_iter().map(|byte| std::ascii::escape_default(byte).to_string());
        let mut text = String::new();
        for piece in pieces {
            if text.len() + piece.len() > Evidence::MAX - 3 {
                break;
            }
            text.push_str(&piece);
        }
        text + "..."
    }

    proptest! {
        #[test]
        fn evidence_equals_the_text_escaped_byte_by_byte(
            parts in proptest::collection::vec("([ -~]{0,90}|[\\x00-\\x7f]{0,9}|[\"'\\\\]{0,3}|[a-z]{190,199}){0,4}", 0..4)
        ) {
            let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
            let evidence = Evidence::new(&parts);
            prop_assert_eq!(evidence.as_str(), naive(&parts));
        }
    }

    #[test]
    fn every_byte_is_escaped_as_the_standard_library_escapes_it() {
        for byte in 0..=u8::MAX {
            assert_eq!(Evidence::new(&[&[byte]]).as_str(), std::ascii::escape_default(byte).to_string());
        }
    }

    #[test]
    fn restored_evidence_that_is_too_long_or_not_printable_is_escaped_and_truncated_again() {
        let longest = "x".repeat(Evidence::MAX);
        assert_eq!(Evidence::restore(&longest).as_str(), longest);
        assert_eq!(Evidence::restore(&"x".repeat(Evidence::MAX + 1)).as_str(), "x".repeat(Evidence::MAX - 3) + "...");
        assert_eq!(Evidence::restore("a\u{1b}[31mb").as_str(), "a\\x1b[31mb");
        assert_eq!(Evidence::restore("\u{e9}").as_str(), "\\xc3\\xa9");
    }

    #[test]
    fn evidence_of_any_bytes_is_printable_and_short() {
        let evidence = Evidence::new(&[b"GET", b"/\x00\xff\n\"", &[0xff; 1000]]);
        assert!(evidence.as_str().len() <= Evidence::MAX);
        assert!(evidence.as_str().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        assert!(evidence.as_str().starts_with("GET /\\x00\\xff\\n\\\""));
        assert_eq!(Evidence::restore(evidence.as_str()), evidence);
    }
}
