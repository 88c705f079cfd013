//! Checks which events a rule matches.

use toml::Spanned;

use super::spec::{EventSpec, OneOrMany, RuleSpec, SpecError};
use super::{LinePattern, RequestPattern, ResponsePattern, Trigger, automaton};
use crate::event::exim_kind::{EximKind, unknown_kind};

impl RuleSpec {
    /// Determines which events the rule matches. Exactly one kind of trigger must be given.
    pub(super) fn trigger(self, name: &str) -> Result<Trigger, SpecError> {
        let name_span = self.name.span();
        let triggers = [
            ("event", self.event.is_some()),
            ("status", self.status.is_some()),
            ("simultaneous", self.simultaneous.is_some()),
            ("exim", self.exim.is_some()),
            ("failregex", self.failregex.is_some()),
            ("filter", self.filter.is_some()),
            ("method, path, query, user_agent, url or header", self.has_request_pattern() && self.status.is_none()),
        ];
        let given: Vec<&str> = triggers.into_iter().filter_map(|(keys, is_given)| is_given.then_some(keys)).collect();
        if given.len() != 1 {
            let found = if given.is_empty() { "nothing that says what it matches".to_owned() } else { given.join(" together with ") };
            return Err(SpecError::at(
                &name_span,
                format!(
                    "found {found} in rule {name:?}, expected one of: path, query, user_agent, url, header and method; status (with path); event; simultaneous; exim; failregex; filter"
                ),
            ));
        }
        if let Some(ignoreregex) = &self.ignoreregex
            && self.failregex.is_none()
        {
            return Err(SpecError::at(
                &ignoreregex.span(),
                format!("found ignoreregex without failregex in rule {name:?}, expected both or neither"),
            ));
        }
        if self.filter_options.is_some() && self.filter.is_none() {
            return Err(SpecError::at(
                &name_span,
                format!("found filter_options without filter in rule {name:?}, expected both or neither"),
            ));
        }
        if self.status.is_none() && (self.credentials.is_some() || self.cleared_by_status.is_some()) {
            return Err(SpecError::at(
                &name_span,
                format!("found credentials or cleared_by_status without status in rule {name:?}, expected status as well"),
            ));
        }
        let is_unreferred_rate = self.event == Some(EventSpec::Request) && self.referer == Some(false);
        let has_condition = self.not_path.is_some() || self.not_query.is_some() || (self.referer.is_some() && !is_unreferred_rate);
        if self.status.is_none() && !self.has_request_pattern() && has_condition {
            return Err(SpecError::at(
                &name_span,
                format!(
                    "found not_path, not_query or referer in rule {name:?}, expected path, query, user_agent, url, header, method or status as well, or event = \"request\" with referer = false alone"
                ),
            ));
        }
        let is_tested = self.is_tested;
        let checked = |pattern| check_pattern(pattern, is_tested);
        let (path, not_path) = (checked(self.path)?, checked(self.not_path)?);
        let (query, not_query) = (checked(self.query)?, checked(self.not_query)?);
        let methods = self.method.map(OneOrMany::into_vec).unwrap_or_default();
        if let Some(status) = self.status {
            if [&self.user_agent, &self.url, &self.header].iter().any(|pattern| pattern.is_some()) {
                return Err(SpecError::at(
                    &status.span(),
                    format!(
                        "found status together with user_agent, url or header in rule {name:?}, expected status alone or with method, path, query, not_path, not_query, referer and credentials"
                    ),
                ));
            }
            return Ok(Trigger::Response(ResponsePattern {
                statuses: statuses(Some(status))?,
                methods,
                path,
                query,
                not_path,
                not_query,
                referer: self.referer,
                credentials: self.credentials,
                cleared_by: statuses(self.cleared_by_status)?,
            }));
        }
        if let Some(event) = self.event {
            return Ok(match event {
                EventSpec::Request if self.referer == Some(false) => Trigger::UnreferredRate,
                EventSpec::Request => Trigger::RequestRate,
                EventSpec::PageProbe => Trigger::PageProbe,
                EventSpec::Connection => Trigger::ConnectionRate,
                EventSpec::Incident => Trigger::Incident,
                EventSpec::Ban => Trigger::Ban,
            });
        }
        if let Some(limit) = self.simultaneous {
            if *limit.get_ref() == 0 {
                return Err(SpecError::at(&limit.span(), "found simultaneous = 0, expected 1 or more"));
            }
            return Ok(Trigger::Simultaneous { limit: limit.into_inner() });
        }
        if let Some(kinds) = self.exim {
            let span = kinds.span();
            let kinds = kinds.into_inner().into_vec();
            if let Some(unknown) = kinds.iter().find(|kind| EximKind::from_name(kind).is_none()) {
                return Err(SpecError::at(&span, unknown_kind(unknown)));
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
        Ok(Trigger::Request(RequestPattern {
            methods,
            path,
            query,
            user_agent: checked(self.user_agent)?,
            url: checked(self.url)?,
            header: checked(self.header)?,
            not_path,
            not_query,
            referer: self.referer,
        }))
    }
}

/// Status codes, sorted, each once.
fn statuses(codes: Option<Spanned<OneOrMany<u16>>>) -> Result<Vec<u16>, SpecError> {
    let Some(codes) = codes else { return Ok(Vec::new()) };
    let span = codes.span();
    let mut statuses = codes.into_inner().into_vec();
    if let Some(status) = statuses.iter().find(|status| !(100..=999).contains(*status)) {
        return Err(SpecError::at(&span, format!("found status {status}, expected 100 to 999")));
    }
    statuses.sort_unstable();
    statuses.dedup();
    Ok(statuses)
}

fn check_pattern(pattern: Option<Spanned<String>>, is_tested: bool) -> Result<Option<String>, SpecError> {
    let Some(pattern) = pattern else { return Ok(None) };
    if is_tested {
        return Ok(Some(pattern.into_inner()));
    }
    match automaton::check(pattern.get_ref()) {
        Ok(()) => Ok(Some(pattern.into_inner())),
        Err(error) => Err(SpecError::at(
            &pattern.span(),
            format!("found the pattern '{}', expected a regular expression: {error}", pattern.get_ref()),
        )),
    }
}
