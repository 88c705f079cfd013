//! The compiled rules. An innocent request costs one pass over each of its texts, however many rules there are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::automaton::PatternMatches;
use super::marks::parameters;
pub use super::matcher::Scratch;
use super::matcher::{FieldMatcher, HeaderMatcher, PathMatcher, has_method, has_source, push};
use super::responses::Responses;
use super::{Distinct, Marks, Rule, Trigger};
use crate::event::path::path_and_query;
use crate::event::{Header, Request};
use crate::rule_id::RuleId;

/// The id of the next [`RequestMatcher`].
static NEXT_MATCHER_ID: AtomicU64 = AtomicU64::new(1);

/// The compiled rules. Immutable: a reload compiles a new set.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Arc<Rule>>,
    by_id: HashMap<RuleId, Arc<Rule>>,
    /// The names of rules that are defined, but not in force.
    pub(super) off: HashSet<String>,
    requests: RequestMatcher,
    responses: Responses,
    request_rates: Vec<Arc<Rule>>,
    page_probes: Vec<Arc<Rule>>,
    connection_rates: Vec<Arc<Rule>>,
    simultaneous: Vec<(u32, Arc<Rule>)>,
    bans: Vec<Arc<Rule>>,
}

/// All request rules, with one automaton for each field.
#[derive(Debug)]
struct RequestMatcher {
    /// Unique in this process, as the owner of the entries in a [`SeenCache`](super::seen_cache::SeenCache).
    id: u64,
    rules: Vec<RequestRule>,
    path: PathMatcher,
    query: FieldMatcher,
    user_agent: FieldMatcher,
    url: FieldMatcher,
    header: HeaderMatcher,
    /// The patterns that must not match, apart: an innocent request is not asked about them.
    not_path: PathMatcher,
    not_query: FieldMatcher,
    /// The methods of rules that have no pattern.
    bare_methods: Vec<String>,
}

/// A request rule, with the number of its pattern in the automaton of each field.
#[derive(Debug)]
struct RequestRule {
    rule: Arc<Rule>,
    methods: Vec<String>,
    path: Option<usize>,
    query: Option<usize>,
    user_agent: Option<usize>,
    url: Option<usize>,
    header: Option<usize>,
    not_path: Option<usize>,
    not_query: Option<usize>,
    referer: Option<bool>,
}

impl RuleSet {
    /// Compiles `rules`, which have been checked one by one.
    ///
    /// # Errors
    /// The automaton of all patterns would be too large.
    pub fn new(rules: Vec<Rule>) -> Result<Self, String> {
        let mut rules: Vec<Arc<Rule>> = rules.into_iter().map(Arc::new).collect();
        rules.sort_by_key(|rule| (rule.mode == super::Mode::Shadow, rule.maxretry));
        let (mut request_rates, mut page_probes) = (Vec::new(), Vec::new());
        let (mut connection_rates, mut simultaneous, mut bans) = (Vec::new(), Vec::new(), Vec::new());
        for rule in &rules {
            match &rule.trigger {
                Trigger::RequestRate | Trigger::UnreferredRate => request_rates.push(Arc::clone(rule)),
                Trigger::PageProbe => page_probes.push(Arc::clone(rule)),
                Trigger::ConnectionRate => connection_rates.push(Arc::clone(rule)),
                Trigger::Simultaneous { limit } => simultaneous.push((*limit, Arc::clone(rule))),
                Trigger::Ban => bans.push(Arc::clone(rule)),
                Trigger::Request(_) | Trigger::Response(_) | Trigger::Incident | Trigger::Line(_) => {}
            }
        }
        let responses = Responses::new(&rules)?;
        let requests = RequestMatcher::new(&rules)?;
        let by_id = rules.iter().map(|rule| (rule.id, Arc::clone(rule))).collect();
        let off = HashSet::new();
        Ok(Self { rules, by_id, off, requests, responses, request_rates, page_probes, connection_rates, simultaneous, bans })
    }

    /// All rules, strictest (lowest `maxretry`) first, and shadow rules last.
    #[must_use]
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The rule with this id.
    #[must_use]
    pub fn get(&self, id: RuleId) -> Option<&Arc<Rule>> {
        self.by_id.get(&id)
    }

    /// The rule with this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| &*rule.name == name)
    }

    /// The rules that `request` offends, strictest first. For an innocent request this allocates nothing.
    #[must_use]
    pub fn offended_by_request(&self, request: &Request<'_>, scratch: &mut Scratch) -> Vec<Arc<Rule>> {
        if self.requests.may_match(request, scratch) { self.requests.offended(request, scratch) } else { Vec::new() }
    }

    /// The rules that a response with `status` to `request` offends, strictest first.
    #[must_use]
    pub fn offended_by_response(&self, status: u16, request: &Request<'_>, scratch: &mut Scratch) -> Vec<Arc<Rule>> {
        // A script may send HEAD to any site (Fetch standard, "CORS-safelisted method"), and its visitors are not to blame for that.
        let is_a_scripts = request.method == b"HEAD" && request.was_sent_by_a_page();
        // Most responses match no rule's status, so the path is only looked at when one does.
        self.responses.that_hold(request, scratch, |pattern| {
            !is_a_scripts && pattern.statuses.binary_search(&status).is_ok() && has_source(pattern.referer, request)
        })
    }

    /// The rules whose strikes against the client are cleared by a response with `status` to `request`.
    #[must_use]
    pub fn cleared_by_response(&self, status: u16, request: &Request<'_>, scratch: &mut Scratch) -> Vec<Arc<Rule>> {
        // Anybody may ask for OPTIONS: servers answer it without a login (Fetch standard, "CORS-preflight fetch").
        if request.method == b"OPTIONS" {
            return Vec::new();
        }
        self.responses.that_hold(request, scratch, |pattern| {
            pattern.cleared_by.binary_search(&status).is_ok() && pattern.statuses.binary_search(&status).is_err()
        })
    }

    /// What tells `request` from other offences under `rules`, if one of them needs that.
    #[must_use]
    pub fn marks(&self, rules: &[Arc<Rule>], request: &Request<'_>, scratch: &mut Scratch) -> Option<Marks> {
        if !rules.iter().any(|rule| rule.needs_marks()) {
            return None;
        }
        let judged_by_parameter = || {
            let known = |rule: &&RequestRule| rules.iter().any(|offended| offended.id == rule.rule.id);
            self.requests.rules.iter().filter(|rule| rule.is_judged_by_parameter()).filter(known)
        };
        Some(Marks::of(request, |parameter| {
            judged_by_parameter().any(|rule| self.requests.offends_by_parameter(rule, parameter, &mut scratch.decoded_query))
        }))
    }

    /// The header of `request` by which it offends one of `rules`, if one of them is over headers.
    #[must_use]
    pub fn offending_header<'a>(&self, rules: &[Arc<Rule>], request: &Request<'a>, scratch: &mut Scratch) -> Option<(&'a str, Header<'a>)> {
        if !rules.iter().any(|rule| rule.is_about_headers()) {
            return None;
        }
        let is_offended = |rule: &&RequestRule| rules.iter().any(|offended| offended.id == rule.rule.id);
        let patterns: Vec<usize> = self.requests.rules.iter().filter(is_offended).filter_map(|rule| rule.header).collect();
        self.requests.header.find(request, &patterns, &mut scratch.header_line)
    }

    /// The rules that count every request.
    #[must_use]
    pub fn request_rates(&self) -> &[Arc<Rule>] {
        &self.request_rates
    }

    /// The rules that count refused requests for which a page may be to blame.
    #[must_use]
    pub fn page_probes(&self) -> &[Arc<Rule>] {
        &self.page_probes
    }

    /// The rules that count every SMTP connection.
    #[must_use]
    pub fn connection_rates(&self) -> &[Arc<Rule>] {
        &self.connection_rates
    }

    /// The rules that count bans.
    #[must_use]
    pub fn over_bans(&self) -> &[Arc<Rule>] {
        &self.bans
    }

    /// The rules that a client with `open` open connections offends.
    pub fn offended_by_open_connections(&self, open: u32) -> impl Iterator<Item = &Arc<Rule>> {
        self.simultaneous.iter().filter(move |(limit, _)| open > *limit).map(|(_, rule)| rule)
    }
}

impl RequestMatcher {
    fn new(rules: &[Arc<Rule>]) -> Result<Self, String> {
        let (mut path, mut query, mut user_agent, mut url) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut header, mut not_path, mut not_query) = (Vec::new(), Vec::new(), Vec::new());
        let mut bare_methods: Vec<String> = Vec::new();
        let mut request_rules = Vec::new();
        for rule in rules {
            let Trigger::Request(pattern) = &rule.trigger else { continue };
            let request_rule = RequestRule {
                rule: Arc::clone(rule),
                methods: pattern.methods.clone(),
                path: pattern.path.as_deref().map(|text| push(&mut path, text)),
                query: pattern.query.as_deref().map(|text| push(&mut query, text)),
                user_agent: pattern.user_agent.as_deref().map(|text| push(&mut user_agent, text)),
                url: pattern.url.as_deref().map(|text| push(&mut url, text)),
                header: pattern.header.as_deref().map(|text| push(&mut header, text)),
                not_path: pattern.not_path.as_deref().map(|text| push(&mut not_path, text)),
                not_query: pattern.not_query.as_deref().map(|text| push(&mut not_query, text)),
                referer: pattern.referer,
            };
            if [&pattern.path, &pattern.query, &pattern.user_agent, &pattern.url, &pattern.header].iter().all(|text| text.is_none()) {
                bare_methods.extend(pattern.methods.iter().cloned());
            }
            request_rules.push(request_rule);
        }
        Ok(Self {
            id: NEXT_MATCHER_ID.fetch_add(1, Ordering::Relaxed),
            rules: request_rules,
            path: PathMatcher::new(&path)?,
            query: FieldMatcher::new(&query)?,
            user_agent: FieldMatcher::new(&user_agent)?,
            url: FieldMatcher::new(&url)?,
            header: HeaderMatcher::new(&header)?,
            not_path: PathMatcher::new(&not_path)?,
            not_query: FieldMatcher::new(&not_query)?,
            bare_methods,
        })
    }

    /// Whether any pattern of any rule matches: one pass over each text, or none if the text was found innocent before.
    fn may_match(&self, request: &Request<'_>, scratch: &mut Scratch) -> bool {
        self.url_matches(request.url, scratch)
            || self.agent_matches(request.user_agent, scratch)
            || self.header.is_match(self.id, request, scratch)
            || self.bare_methods.iter().any(|method| method.as_bytes() == request.method)
    }

    /// Whether any pattern matches the URL, its path or its query.
    fn url_matches(&self, url: &[u8], scratch: &mut Scratch) -> bool {
        if self.path.0.is_empty() && self.query.patterns.is_empty() && self.url.patterns.is_empty() {
            return false;
        }
        let Scratch { path_forms, decoded_query, innocent_urls, .. } = scratch;
        !innocent_urls.passes(self.id, &url, || {
            let (path, query) = path_and_query(url);
            !(self.path.is_match(path, path_forms) || self.query.is_match(query, decoded_query) || self.url.patterns.is_match(url))
        })
    }

    /// Whether any pattern matches the User-Agent. None does if it is unknown.
    fn agent_matches(&self, agent: Header<'_>, scratch: &mut Scratch) -> bool {
        if agent.is_empty() {
            return agent.is_known() && self.user_agent.matches_empty;
        }
        if self.user_agent.patterns.is_empty() {
            return false;
        }
        !scratch.innocent_agents.passes(self.id, &agent, || !self.user_agent.patterns.is_match(&agent.text()))
    }

    /// Whether a parameter of a query offends a rule that is about parameters.
    fn offends_by_parameter(&self, rule: &RequestRule, parameter: &[u8], decoded: &mut Vec<u8>) -> bool {
        rule.query.is_some_and(|pattern| self.query.matches(parameter, decoded).contains(pattern))
            && !rule.not_query.is_some_and(|pattern| self.not_query.matches(parameter, decoded).contains(pattern))
    }

    /// The rules whose patterns all match.
    fn offended(&self, request: &Request<'_>, scratch: &mut Scratch) -> Vec<Arc<Rule>> {
        let (sent_path, sent_query) = path_and_query(request.url);
        let path = self.path.matches(sent_path, &mut scratch.path_forms);
        let query = self.query.matches(sent_query, &mut scratch.decoded_query);
        let mut user_agent = self.user_agent.patterns.no_matches();
        if request.user_agent.is_known() {
            self.user_agent.patterns.add_matches(&request.user_agent.text(), &mut user_agent);
        }
        let mut url = self.url.patterns.no_matches();
        self.url.patterns.add_matches(request.url, &mut url);
        let header = self.header.matches(request, &mut scratch.header_line);
        let has = |matches: &PatternMatches, pattern: Option<usize>| pattern.is_none_or(|pattern| matches.contains(pattern));
        let Scratch { path_forms, decoded_query, .. } = scratch;
        let mut is_excepted = |rule: &RequestRule| {
            if rule.not_path.is_some_and(|pattern| self.not_path.matches_throughout(pattern, sent_path, path_forms)) {
                return true;
            }
            if rule.is_judged_by_parameter() {
                return !parameters(sent_query).any(|parameter| self.offends_by_parameter(rule, parameter, decoded_query));
            }
            rule.not_query.is_some_and(|pattern| self.not_query.matches(sent_query, decoded_query).contains(pattern))
        };
        self.rules
            .iter()
            .filter(|rule| has_method(&rule.methods, request) && has_source(rule.referer, request))
            .filter(|rule| has(&path, rule.path) && has(&query, rule.query) && has(&user_agent, rule.user_agent) && has(&url, rule.url))
            .filter(|rule| has(&header, rule.header))
            .filter(|rule| !is_excepted(rule))
            .map(|rule| Arc::clone(&rule.rule))
            .collect()
    }
}

impl RequestRule {
    /// Whether the rule is about single parameters of the query, so that the same attack beside another parameter is the same.
    fn is_judged_by_parameter(&self) -> bool {
        self.rule.distinct == Some(Distinct::Query) && self.query.is_some()
    }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
