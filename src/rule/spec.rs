//! Parses a `[[rule]]` table of the configuration and checks it into a [`Rule`].

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::bantime::BantimeSpec;
use super::count_by::{CountBySpec, NetworkSize};
use super::{Distinct, Mode, Rule, SmtpRefusal};
use crate::event::Scope;
use crate::list;
use crate::list::Networks;
use crate::list::file::ListedOrigin;
use crate::rule_id::{RESERVED, RULE_NAME, RuleNames, is_origin, is_rule_name};
use crate::table::counter::MAX_FINDTIME;
use crate::time::Span;

/// Maximum `maxretry` of a rule that counts different paths or queries: so many are remembered of each client.
const MAX_DISTINCT: u32 = 100;

/// Maximum number of networks in a rule's `ignoreip`, which goes to each helper with the rule, in one line.
pub const MAX_NETWORKS: usize = 1000;

/// An error in a rule, with its place in the configuration text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// Byte offset of the wrong value in the text.
    pub offset: usize,
    /// What was found, and what was expected.
    pub message: String,
}

impl SpecError {
    pub(super) fn at(span: &Range<usize>, message: impl Into<String>) -> Self {
        Self { offset: span.start, message: message.into() }
    }
}

/// A `[[rule]]` table. Missing keys are taken from the built-in rule of the same name, then from `[defaults]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// The name: 1 to 64 characters of `[a-z0-9-]`.
    pub name: Spanned<String>,
    /// A sentence about what the rule matches, and why ordinary use does not.
    pub description: Option<String>,
    /// Whether the rule is in force; missing means yes.
    pub enabled: Option<bool>,
    /// The kind of event to count, for a rule without a pattern.
    pub event: Option<EventSpec>,
    /// HTTP methods, case-sensitive.
    pub method: Option<OneOrMany<String>>,
    /// A regex for the path, in any of its forms: as sent, percent-decoded, canonical.
    pub path: Option<Spanned<String>>,
    /// A regex for the query string, as sent or percent-decoded once.
    pub query: Option<Spanned<String>>,
    /// A regex for the User-Agent.
    pub user_agent: Option<Spanned<String>>,
    /// A regex for the whole URL as sent.
    pub url: Option<Spanned<String>>,
    /// A regex for a header but the User-Agent, as `name: value` with the name in lower case.
    pub header: Option<Spanned<String>>,
    /// A regex for paths that never match, in any form.
    pub not_path: Option<Spanned<String>>,
    /// A regex for queries that never match, as sent or percent-decoded once.
    pub not_query: Option<Spanned<String>>,
    /// Whether the request must have a Referer or Sec-Fetch-Site of its own, or must not.
    pub referer: Option<bool>,
    /// HTTP status codes of responses.
    pub status: Option<Spanned<OneOrMany<u16>>>,
    /// Whether the request of the response must have carried a user's name and password, or must not.
    pub credentials: Option<bool>,
    /// HTTP status codes that clear the client's strikes.
    pub cleared_by_status: Option<Spanned<OneOrMany<u16>>>,
    /// The part of a request of which different ones count once each.
    pub distinct: Option<Spanned<Distinct>>,
    /// Addresses, networks and absolute paths of lists of them that the rule never concerns.
    #[serde(default)]
    pub ignoreip: Vec<Spanned<String>>,
    /// Autonomous systems of the clients that the rule concerns.
    pub asn: Option<Spanned<OneOrMany<u32>>>,
    /// Autonomous systems of clients that it does not concern.
    pub not_asn: Option<Spanned<OneOrMany<u32>>>,
    /// Countries of the clients that it concerns.
    pub country: Option<Spanned<OneOrMany<String>>>,
    /// Countries of clients that it does not concern.
    pub not_country: Option<Spanned<OneOrMany<String>>>,
    /// Maximum number of open SMTP connections of a client.
    pub simultaneous: Option<Spanned<u32>>,
    /// Kinds of Exim log lines.
    pub exim: Option<Spanned<OneOrMany<String>>>,
    /// Regexes for log lines, in fail2ban's dialect.
    pub failregex: Option<Spanned<OneOrMany<String>>>,
    /// Regexes for log lines that never count.
    pub ignoreregex: Option<Spanned<OneOrMany<String>>>,
    /// A fail2ban filter file.
    pub filter: Option<Spanned<PathBuf>>,
    /// Options of the filter, such as `mode = "aggressive"`.
    pub filter_options: Option<std::collections::BTreeMap<String, String>>,
    /// Number of offences within `findtime` that cause a ban.
    pub maxretry: Option<Spanned<u32>>,
    /// Period in which offences add up.
    pub findtime: Option<Spanned<Span>>,
    /// Duration of bans.
    pub bantime: Option<BantimeSpec>,
    /// Services on which its bans refuse.
    pub scope: Option<Scope>,
    pub mode: Option<Mode>,
    /// How Exim refuses the clients that the rule bans.
    pub smtp: Option<SmtpRefusal>,
    /// Whether an offence is refused even if it does not cause a ban yet.
    pub refuse: Option<RefuseSpec>,
    /// Whether strikes are counted across all nodes of the fleet.
    pub fleet: Option<bool>,
    /// Whom the rule counts; missing means each client.
    pub count_by: Option<Spanned<CountBySpec>>,
    /// The prefix lengths of the networks that it counts.
    pub network: Option<Spanned<NetworkSize>>,
    /// Number of different clients that must have offended.
    pub members: Option<Spanned<u32>>,
    /// Whether the patterns are known to compile: the tests compile those of the built-in rules. Compiling each pattern separately, only to
    /// check it, would take most of the start-up time.
    #[serde(skip)]
    pub is_tested: bool,
}

/// The kind of event that a rule without a pattern counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventSpec {
    /// Every request.
    Request,
    /// Every request that another rule refuses without blaming its client, because a page may have sent it.
    PageProbe,
    /// Every SMTP connection.
    Connection,
    /// An incident that Exim reports under the rule's name.
    Incident,
    /// Every ban of a client by another rule.
    Ban,
}

/// Which requests or connections a rule refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefuseSpec {
    /// Every offence, and everything during a ban.
    Offence,
    /// Only the offence that causes a ban, and everything during the ban.
    Ban,
}

/// One value, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(value) => vec![value],
            Self::Many(values) => values,
        }
    }
}

/// The values of `[defaults]`, for rules that do not set them.
#[derive(Debug, Clone)]
pub struct RuleDefaults {
    /// Number of offences within `findtime` that cause a ban.
    pub maxretry: u32,
    /// Period in which offences add up.
    pub findtime: Span,
    /// Duration of bans.
    pub bantime: BantimeSpec,
}

impl Default for RuleDefaults {
    fn default() -> Self {
        let bantime = BantimeSpec::fixed(Some(Span::from_secs(3600)));
        Self { maxretry: 3, findtime: Span::from_secs(600), bantime }
    }
}

impl RuleSpec {
    /// Takes missing keys from the built-in rule of the same name.
    ///
    /// The keys that select events are taken together or not at all: if this rule has any of them, the built-in rule's pattern is dropped.
    #[must_use]
    pub fn inheriting(self, builtin: &Self) -> Self {
        let builtin = builtin.clone();
        let own_pattern = self.has_pattern();
        macro_rules! pattern {
            ($field:ident) => {
                if own_pattern { self.$field } else { builtin.$field }
            };
        }
        // These may be added to the built-in rule's pattern.
        macro_rules! condition {
            ($field:ident) => {
                if own_pattern { self.$field } else { self.$field.or(builtin.$field) }
            };
        }
        Self {
            event: pattern!(event),
            method: pattern!(method),
            path: pattern!(path),
            query: pattern!(query),
            user_agent: pattern!(user_agent),
            url: pattern!(url),
            header: pattern!(header),
            not_path: condition!(not_path),
            not_query: condition!(not_query),
            referer: condition!(referer),
            status: pattern!(status),
            credentials: condition!(credentials),
            cleared_by_status: condition!(cleared_by_status),
            distinct: condition!(distinct),
            simultaneous: pattern!(simultaneous),
            exim: pattern!(exim),
            failregex: pattern!(failregex),
            ignoreregex: pattern!(ignoreregex),
            filter: pattern!(filter),
            filter_options: pattern!(filter_options),
            name: self.name,
            description: self.description.or(builtin.description),
            enabled: self.enabled.or(builtin.enabled),
            maxretry: self.maxretry.or(builtin.maxretry),
            findtime: self.findtime.or(builtin.findtime),
            bantime: self.bantime.or(builtin.bantime),
            scope: self.scope.or(builtin.scope),
            mode: self.mode.or(builtin.mode),
            smtp: self.smtp.or(builtin.smtp),
            refuse: self.refuse.or(builtin.refuse),
            fleet: self.fleet.or(builtin.fleet),
            count_by: self.count_by.or(builtin.count_by),
            network: self.network.or(builtin.network),
            members: self.members.or(builtin.members),
            asn: self.asn.or(builtin.asn),
            not_asn: self.not_asn.or(builtin.not_asn),
            country: self.country.or(builtin.country),
            not_country: self.not_country.or(builtin.not_country),
            ignoreip: if self.ignoreip.is_empty() { builtin.ignoreip } else { self.ignoreip },
            is_tested: builtin.is_tested && !own_pattern,
        }
    }

    fn has_pattern(&self) -> bool {
        self.event.is_some()
            || self.has_request_pattern()
            || self.status.is_some()
            || self.simultaneous.is_some()
            || self.exim.is_some()
            || self.failregex.is_some()
            || self.filter.is_some()
    }

    pub(super) fn has_request_pattern(&self) -> bool {
        let patterns = [&self.path, &self.query, &self.user_agent, &self.url, &self.header];
        self.method.is_some() || patterns.iter().any(|pattern| pattern.is_some())
    }

    /// Checks the rule and interns its name.
    ///
    /// # Errors
    /// The first error found.
    pub fn check(self, names: &RuleNames, defaults: &RuleDefaults) -> Result<Rule, SpecError> {
        let name_span = self.name.span();
        let name = self.name.get_ref().clone();
        if !is_rule_name(&name) {
            return Err(SpecError::at(&name_span, format!("found the rule name {name:?}, expected {RULE_NAME}")));
        }
        if RESERVED.contains(&name.as_str()) || is_origin(&name) {
            return Err(SpecError::at(&name_span, format!("found the rule name {name:?}, which is reserved; expected another")));
        }
        // Any page can make its visitors' browsers send any query string, so a single such request must not ban anybody.
        let is_page_probe = matches!(self.event, Some(EventSpec::PageProbe));
        let is_forgeable =
            self.query.is_some() || self.user_agent.is_some() || self.url.is_some() || self.header.is_some() || is_page_probe;
        let (maxretry, maxretry_at) = match &self.maxretry {
            Some(maxretry) => (*maxretry.get_ref(), maxretry.span()),
            None => (defaults.maxretry, name_span.clone()),
        };
        if maxretry == 0 {
            return Err(SpecError::at(&maxretry_at, "found maxretry = 0, expected 1 or more"));
        }
        let mode = self.mode.unwrap_or_default();
        if is_forgeable && maxretry == 1 && mode == Mode::Enforce {
            return Err(SpecError::at(
                &maxretry_at,
                format!(
                    "found maxretry = 1 in rule {name:?} over a query string, URL or header, expected 2 or more: any page can make its visitors send such a request"
                ),
            ));
        }
        let findtime = match &self.findtime {
            Some(findtime) if *findtime.get_ref() > MAX_FINDTIME || *findtime.get_ref() == Span::ZERO => {
                return Err(SpecError::at(
                    &findtime.span(),
                    format!("found findtime = {}, expected 1 ms to {MAX_FINDTIME}", findtime.get_ref()),
                ));
            }
            Some(findtime) => *findtime.get_ref(),
            None => defaults.findtime,
        };
        let bantime = self.bantime.as_ref().unwrap_or(&defaults.bantime).resolve(&defaults.bantime);
        let refuses_offence = match self.refuse {
            Some(RefuseSpec::Offence) => true,
            Some(RefuseSpec::Ban) => false,
            // Another rule has refused a page's probe, and what was answered is too late to be refused.
            None => {
                (is_forgeable && !is_page_probe && self.status.is_none())
                    || (maxretry == 1 && !self.counts_bans())
                    || self.simultaneous.is_some()
            }
        };
        let (scope, smtp, fleet) = (self.scope.unwrap_or_default(), self.smtp.unwrap_or_default(), self.fleet.unwrap_or_default());
        if fleet && matches!(self.event, Some(EventSpec::Request | EventSpec::PageProbe | EventSpec::Ban)) {
            return Err(SpecError::at(
                &name_span,
                format!(
                    "found fleet = true in rule {name:?} over a number of requests or bans, which each node counts separately; expected no fleet"
                ),
            ));
        }
        let description: Arc<str> = self.description.as_deref().unwrap_or_default().into();
        let distinct = self.check_distinct(maxretry, &maxretry_at)?;
        let ignoreip = networks(&self.ignoreip)?;
        let origin = self.check_origin()?;
        let (count_by, members) = self.check_count_by(&name, maxretry)?;
        let trigger = self.trigger(&name)?;
        Ok(Rule {
            id: names.intern(&name),
            name: name.into(),
            description,
            trigger,
            maxretry,
            findtime,
            bantime,
            scope,
            mode,
            smtp,
            refuses_offence,
            fleet,
            distinct,
            ignoreip,
            origin,
            count_by,
            members,
        })
    }

    /// Checks that the rule can count different paths or queries: each is remembered until the ban.
    fn check_distinct(&self, maxretry: u32, maxretry_at: &Range<usize>) -> Result<Option<Distinct>, SpecError> {
        let Some(distinct) = &self.distinct else { return Ok(None) };
        if !self.has_request_pattern() && self.status.is_none() {
            return Err(SpecError::at(
                &distinct.span(),
                "found distinct in a rule that is not about requests, expected a pattern or status",
            ));
        }
        if self.cleared_by_status.is_some() && self.path.is_none() {
            return Err(SpecError::at(
                &distinct.span(),
                "found distinct together with cleared_by_status but without path, expected a path",
            ));
        }
        if maxretry > MAX_DISTINCT {
            return Err(SpecError::at(maxretry_at, format!("found maxretry = {maxretry} with distinct, expected at most {MAX_DISTINCT}")));
        }
        Ok(Some(*distinct.get_ref()))
    }
}

/// Reads a rule's `ignoreip`.
fn networks(entries: &[Spanned<String>]) -> Result<Networks, SpecError> {
    let mut networks = Vec::new();
    for entry in entries {
        let value = entry.get_ref();
        if let Some(path) = list::file::path_of(value) {
            let list = list::file::read(path).map_err(|error| SpecError::at(&entry.span(), format!("{value}: {error}")))?;
            if let Some(ListedOrigin { line, entry: origin }) = list.origins.first() {
                let message =
                    format!("{value}:{line}: found {origin} in ignoreip, expected networks: systems and countries stand in deny alone");
                return Err(SpecError::at(&entry.span(), message));
            }
            networks.extend(list.networks);
        } else {
            networks.push(list::file::parse_network(value).map_err(|_| {
                let expected = "an IP address, a network such as 192.0.2.0/24 or the absolute path of a list; host names stand in the ignoreip of [defaults]";
                SpecError::at(&entry.span(), format!("found {value:?} in ignoreip, expected {expected}"))
            })?);
        }
    }
    let networks = Networks::new(networks);
    if networks.len() > MAX_NETWORKS {
        let offset = entries.first().map_or(0, |entry| entry.span().start);
        let message =
            format!("found {} networks in a rule's ignoreip, expected at most {MAX_NETWORKS}: [defaults] takes more", networks.len());
        return Err(SpecError { offset, message });
    }
    Ok(networks)
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
