//! A `[[rule]]` as configuration writes it, and its way to a checked [`Rule`].

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::names::RESERVED;
use super::{Bantime, Increment, LinePattern, Mode, Names, RequestPattern, Rule, SmtpRefusal, Trigger, automaton};
use crate::event::Scope;
use crate::table::counter::MAX_FINDTIME;
use crate::time::Span;

/// A fault in a configuration text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The byte in the text at which the faulty value starts.
    pub offset: usize,
    /// What was found, and what was expected.
    pub message: String,
}

impl Fault {
    fn at(span: &Range<usize>, message: impl Into<String>) -> Self {
        Self { offset: span.start, message: message.into() }
    }
}

/// A `[[rule]]` table. What is not given comes from the built-in rule of that name, then from `[defaults]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// `[a-z0-9-]`, 1 to 64 characters.
    pub name: Spanned<String>,
    /// A sentence on what it catches and why that cannot hit ordinary use.
    pub description: Option<String>,
    /// False switches the rule off.
    pub enabled: Option<bool>,
    /// What kind of event it counts, where no pattern says so: a rate of `request` or `connection`, or an SMTP `incident`.
    pub event: Option<EventSpec>,
    /// HTTP methods, as sent.
    pub method: Option<OneOrMany<String>>,
    /// A regex over the path, as sent and once decoded.
    pub path: Option<Spanned<String>>,
    /// A regex over the query string, as sent and once decoded.
    pub query: Option<Spanned<String>>,
    /// A regex over the User-Agent.
    pub user_agent: Option<Spanned<String>>,
    /// A regex over the whole URL as sent.
    pub url: Option<Spanned<String>>,
    /// HTTP status codes of responses.
    pub status: Option<Spanned<OneOrMany<u16>>>,
    /// More open SMTP connections than this at once are an offence.
    pub simultaneous: Option<Spanned<u32>>,
    /// Kinds of Exim log lines.
    pub exim: Option<Spanned<OneOrMany<String>>>,
    /// Regexes over log lines, in fail2ban's language.
    pub failregex: Option<Spanned<OneOrMany<String>>>,
    /// Log lines that match one of these never count.
    pub ignoreregex: Option<Spanned<OneOrMany<String>>>,
    /// A fail2ban filter file.
    pub filter: Option<Spanned<PathBuf>>,
    /// Its options, such as `mode = "aggressive"`.
    pub filter_options: Option<std::collections::BTreeMap<String, String>>,
    /// So many offences within `findtime` make a ban.
    pub maxretry: Option<Spanned<u32>>,
    /// The time in which offences add up.
    pub findtime: Option<Spanned<Span>>,
    /// How long a ban lasts.
    pub bantime: Option<BantimeSpec>,
    /// Where its bans refuse.
    pub scope: Option<Scope>,
    /// Whether it is enforced.
    pub mode: Option<Mode>,
    /// How Exim refuses a client that it banned.
    pub smtp: Option<SmtpRefusal>,
    /// Whether the offence itself is refused before it bans.
    pub refuse: Option<RefuseSpec>,
    /// Whether its strikes are counted over a fleet.
    pub fleet: Option<bool>,
    /// Whether its patterns are known to compile, as the tests have seen of the built-in ones: compiling each by itself once more would be
    /// the longest part of a start.
    #[serde(skip)]
    pub is_proven: bool,
}

/// What kind of event a rule without a pattern counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventSpec {
    /// Every request.
    Request,
    /// Every SMTP connection.
    Connection,
    /// An incident that Exim reports by the rule's name.
    Incident,
}

/// What a rule refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefuseSpec {
    /// Every offence, and everything while a ban lasts.
    Offence,
    /// Only what comes once a ban is made, the offence that makes it included.
    Ban,
}

/// One value, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values in their order.
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(value) => vec![value],
            Self::Many(values) => values,
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a length of time: seconds, or text such as \"10m\" or \"1d 12h\"")
            }

            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Span, E> {
                Span::parse(&seconds.to_string()).map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// `bantime`: a length of time, `-1` for ever, or a table in fail2ban's words.
#[derive(Debug, Clone, PartialEq)]
pub struct BantimeSpec {
    initial: Option<Option<Span>>,
    increment: Option<bool>,
    factor: Option<f64>,
    multipliers: Option<Vec<f64>>,
    maxtime: Option<Span>,
    forget: Option<Span>,
}

impl BantimeSpec {
    /// A plain length of time; `None` for ever.
    #[must_use]
    pub fn plain(initial: Option<Span>) -> Self {
        Self { initial: Some(initial), increment: None, factor: None, multipliers: None, maxtime: None, forget: None }
    }
}

impl<'de> Deserialize<'de> for BantimeSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            initial: Option<Initial>,
            increment: Option<bool>,
            factor: Option<f64>,
            multipliers: Option<Vec<f64>>,
            maxtime: Option<Span>,
            forget: Option<Span>,
        }
        struct Initial(Option<Span>);
        impl<'de> Deserialize<'de> for Initial {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Visitor).map(|spec| Self(spec.initial.flatten()))
            }
        }
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = BantimeSpec;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a length of time such as \"1h\", -1 for ever, or { initial, increment, factor, multipliers, maxtime, forget }")
            }

            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<BantimeSpec, E> {
                self.visit_str(&seconds.to_string())
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<BantimeSpec, E> {
                if text.trim() == "-1" {
                    return Ok(BantimeSpec::plain(None));
                }
                Span::parse(text).map(|span| BantimeSpec::plain(Some(span))).map_err(|error| E::custom(format!("{error}, or -1 for ever")))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<BantimeSpec, A::Error> {
                let table = Table::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(BantimeSpec {
                    initial: table.initial.map(|initial| initial.0),
                    increment: table.increment,
                    factor: table.factor,
                    multipliers: table.multipliers,
                    maxtime: table.maxtime,
                    forget: table.forget,
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What `[defaults]` gives to rules that say nothing themselves.
#[derive(Debug, Clone)]
pub struct RuleDefaults {
    /// Offences within `findtime` that make a ban.
    pub maxretry: u32,
    /// The time in which offences add up.
    pub findtime: Span,
    /// How long a ban lasts.
    pub bantime: BantimeSpec,
}

impl Default for RuleDefaults {
    fn default() -> Self {
        Self { maxretry: 3, findtime: Span::from_secs(600), bantime: BantimeSpec::plain(Some(Span::from_secs(3600))) }
    }
}

impl RuleSpec {
    /// This rule, with everything that it does not say taken from the built-in rule of the same name.
    ///
    /// A pattern of its own replaces the whole pattern of the built-in rule.
    #[must_use]
    pub fn over(self, builtin: &Self) -> Self {
        let builtin = builtin.clone();
        let own_pattern = self.has_pattern();
        macro_rules! pattern {
            ($field:ident) => {
                if own_pattern { self.$field } else { builtin.$field }
            };
        }
        Self {
            event: pattern!(event),
            method: pattern!(method),
            path: pattern!(path),
            query: pattern!(query),
            user_agent: pattern!(user_agent),
            url: pattern!(url),
            status: pattern!(status),
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
            is_proven: builtin.is_proven && !own_pattern,
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

    fn has_request_pattern(&self) -> bool {
        self.method.is_some() || self.path.is_some() || self.query.is_some() || self.user_agent.is_some() || self.url.is_some()
    }

    /// Checks the rule whole.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn check(self, names: &Names, defaults: &RuleDefaults) -> Result<Rule, Fault> {
        let here = self.name.span();
        let name = self.name.get_ref().clone();
        let is_name =
            (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !is_name {
            return Err(Fault::at(&here, format!("found the rule name {name:?}, expected 1 to 64 characters of a-z, 0-9 and \"-\"")));
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(Fault::at(&here, format!("found the rule name {name:?}, which Strikeout keeps for itself; expected another")));
        }
        let request_text_is_free = self.query.is_some() || self.user_agent.is_some() || self.url.is_some();
        let (maxretry, maxretry_at) = match &self.maxretry {
            Some(maxretry) => (*maxretry.get_ref(), maxretry.span()),
            None => (defaults.maxretry, here.clone()),
        };
        if maxretry == 0 {
            return Err(Fault::at(&maxretry_at, "found maxretry = 0, expected 1 or more"));
        }
        let mode = self.mode.unwrap_or_default();
        if request_text_is_free && maxretry == 1 && mode == Mode::Enforce {
            return Err(Fault::at(
                &maxretry_at,
                format!(
                    "found maxretry = 1 in rule {name:?} over a query string, URL or header, expected 2 or more: anybody can put such a link into a page that innocents visit"
                ),
            ));
        }
        let findtime = match &self.findtime {
            Some(findtime) if *findtime.get_ref() > MAX_FINDTIME || *findtime.get_ref() == Span::ZERO => {
                return Err(Fault::at(
                    &findtime.span(),
                    format!("found findtime = {}, expected 1 ms to {MAX_FINDTIME}", findtime.get_ref()),
                ));
            }
            Some(findtime) => *findtime.get_ref(),
            None => defaults.findtime,
        };
        let bantime = bantime(self.bantime.as_ref(), &defaults.bantime);
        let refuses_offence = match self.refuse {
            Some(RefuseSpec::Offence) => true,
            Some(RefuseSpec::Ban) => false,
            None => request_text_is_free || maxretry == 1 || self.simultaneous.is_some(),
        };
        let (scope, smtp, fleet) = (self.scope.unwrap_or_default(), self.smtp.unwrap_or_default(), self.fleet.unwrap_or_default());
        if fleet && matches!(self.event, Some(EventSpec::Request)) {
            return Err(Fault::at(
                &here,
                format!(
                    "found fleet = true in rule {name:?} over the rate of requests, which each machine counts by itself; expected no fleet"
                ),
            ));
        }
        let description: Arc<str> = self.description.as_deref().unwrap_or_default().into();
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
        })
    }

    fn trigger(self, name: &str) -> Result<Trigger, Fault> {
        let here = self.name.span();
        let kinds = [
            ("event", self.event.is_some()),
            ("status", self.status.is_some()),
            ("simultaneous", self.simultaneous.is_some()),
            ("exim", self.exim.is_some()),
            ("failregex", self.failregex.is_some()),
            ("filter", self.filter.is_some()),
            ("method, path, query, user_agent or url", self.has_request_pattern() && self.status.is_none()),
        ];
        let given: Vec<&str> = kinds.into_iter().filter_map(|(kind, given)| given.then_some(kind)).collect();
        if given.len() != 1 {
            let found = if given.is_empty() { "nothing that says what it matches".to_owned() } else { given.join(" beside ") };
            return Err(Fault::at(
                &here,
                format!(
                    "found {found} in rule {name:?}, expected one of: path, query, user_agent, url and method; status (with path); event; simultaneous; exim; failregex; filter"
                ),
            ));
        }
        if let Some(ignoreregex) = &self.ignoreregex
            && self.failregex.is_none()
        {
            return Err(Fault::at(
                &ignoreregex.span(),
                format!("found ignoreregex without failregex in rule {name:?}, expected both or neither"),
            ));
        }
        if self.filter_options.is_some() && self.filter.is_none() {
            return Err(Fault::at(&here, format!("found filter_options without filter in rule {name:?}, expected both or neither")));
        }
        let is_proven = self.is_proven;
        let checked = |pattern| checked(pattern, is_proven);
        let path = checked(self.path)?;
        if let Some(status) = self.status {
            if self.method.is_some() || self.query.is_some() || self.user_agent.is_some() || self.url.is_some() {
                return Err(Fault::at(
                    &status.span(),
                    format!("found status beside method, query, user_agent or url in rule {name:?}, expected status alone or with path"),
                ));
            }
            let span = status.span();
            let mut statuses = status.into_inner().into_vec();
            if let Some(status) = statuses.iter().find(|status| !(100..=999).contains(*status)) {
                return Err(Fault::at(&span, format!("found status {status}, expected 100 to 999")));
            }
            statuses.sort_unstable();
            statuses.dedup();
            return Ok(Trigger::Response { statuses, path });
        }
        if let Some(event) = self.event {
            return Ok(match event {
                EventSpec::Request => Trigger::RequestRate,
                EventSpec::Connection => Trigger::ConnectionRate,
                EventSpec::Incident => Trigger::Incident,
            });
        }
        if let Some(limit) = self.simultaneous {
            if *limit.get_ref() == 0 {
                return Err(Fault::at(&limit.span(), "found simultaneous = 0, expected 1 or more"));
            }
            return Ok(Trigger::Simultaneous { limit: limit.into_inner() });
        }
        if let Some(kinds) = self.exim {
            let span = kinds.span();
            let kinds = kinds.into_inner().into_vec();
            if let Some(unknown) = kinds.iter().find(|kind| crate::log::exim::Kind::from_name(kind).is_none()) {
                return Err(Fault::at(&span, crate::log::rules::unknown_kind(unknown)));
            }
            return Ok(Trigger::Line(LinePattern::Exim(kinds)));
        }
        if let Some(failregex) = self.failregex {
            let ignoreregex = self.ignoreregex.map(|ignoreregex| ignoreregex.into_inner().into_vec()).unwrap_or_default();
            return Ok(Trigger::Line(LinePattern::Regex { failregex: failregex.into_inner().into_vec(), ignoreregex }));
        }
        if let Some(path) = self.filter {
            let options = self.filter_options.unwrap_or_default().into_iter().collect();
            return Ok(Trigger::Line(LinePattern::Filter { path: path.into_inner(), options }));
        }
        let methods = self.method.map(OneOrMany::into_vec).unwrap_or_default();
        Ok(Trigger::Request(RequestPattern {
            methods,
            path,
            query: checked(self.query)?,
            user_agent: checked(self.user_agent)?,
            url: checked(self.url)?,
        }))
    }
}

fn checked(pattern: Option<Spanned<String>>, is_proven: bool) -> Result<Option<String>, Fault> {
    let Some(pattern) = pattern else { return Ok(None) };
    if is_proven {
        return Ok(Some(pattern.into_inner()));
    }
    match automaton::check(pattern.get_ref()) {
        Ok(()) => Ok(Some(pattern.into_inner())),
        Err(error) => {
            Err(Fault::at(&pattern.span(), format!("found the pattern '{}', expected a regular expression: {error}", pattern.get_ref())))
        }
    }
}

fn bantime(own: Option<&BantimeSpec>, defaults: &BantimeSpec) -> Bantime {
    let pick = |field: fn(&BantimeSpec) -> Option<Option<Span>>| own.and_then(field).or_else(|| field(defaults));
    let initial = pick(|spec| spec.initial).unwrap_or(Some(Span::from_secs(3600)));
    let increment = own.and_then(|spec| spec.increment).or(defaults.increment).unwrap_or(false);
    let increment = increment.then(|| Increment {
        factor: own.and_then(|spec| spec.factor).or(defaults.factor).unwrap_or(1.0),
        multipliers: own.and_then(|spec| spec.multipliers.clone()).or_else(|| defaults.multipliers.clone()).unwrap_or_default(),
        maxtime: own.and_then(|spec| spec.maxtime).or(defaults.maxtime),
        // fail2ban forgets what its database purges: `dbpurgeage`, a day.
        forget: own.and_then(|spec| spec.forget).or(defaults.forget).unwrap_or(Span::from_secs(86_400)),
    });
    Bantime { initial, increment }
}
