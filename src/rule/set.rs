//! All rules in force, compiled once: an innocent request costs one pass over each text, however many rules there are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memchr::{memchr, memchr3};

use super::automaton::{Automaton, Found};
use super::memo::Memo;
use super::{Rule, RuleId, Trigger};
use crate::event::{Header, Request};
use crate::percent::decode_onto;

/// The number of the next [`RequestMatcher`].
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// The rules in force. Immutable: a reload makes a new one.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Arc<Rule>>,
    by_id: HashMap<RuleId, Arc<Rule>>,
    requests: RequestMatcher,
    response_paths: FieldMatcher,
    responses: Vec<ResponseRule>,
    request_rates: Vec<Arc<Rule>>,
    connection_rates: Vec<Arc<Rule>>,
    simultaneous: Vec<(u32, Arc<Rule>)>,
}

/// Buffers that one thread uses again and again, so that an innocent request allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    decoded: Vec<u8>,
    /// Browsers are few.
    innocent_agents: Memo<4096>,
    /// The pages and pictures of a site are more, and most requests ask for the same ones again.
    innocent_urls: Memo<16384>,
}

#[derive(Debug)]
struct ResponseRule {
    rule: Arc<Rule>,
    statuses: Vec<u16>,
    path: Option<usize>,
}

/// Request rules: which patterns of which field each needs.
#[derive(Debug)]
struct RequestMatcher {
    /// Different for each one that this process makes: what a [`Memo`] remembers is true of one of them.
    number: u64,
    rules: Vec<RequestRule>,
    path: FieldMatcher,
    query: FieldMatcher,
    user_agent: FieldMatcher,
    url: FieldMatcher,
    /// Methods that some rule asks for alone, without any pattern.
    bare_methods: Vec<String>,
}

#[derive(Debug)]
struct RequestRule {
    rule: Arc<Rule>,
    methods: Vec<String>,
    path: Option<usize>,
    query: Option<usize>,
    user_agent: Option<usize>,
    url: Option<usize>,
}

/// The patterns over one field.
#[derive(Debug)]
struct FieldMatcher(Automaton);

impl FieldMatcher {
    fn new(patterns: &[&str]) -> Result<Self, String> {
        Automaton::new(patterns).map(Self).map_err(|error| error.to_string())
    }

    /// Whether any pattern matches `text` as sent or once percent-decoded.
    fn hits(&self, text: &[u8], decoded: &mut Vec<u8>) -> bool {
        self.0.is_match(text) || (decode_into(text, decoded) && self.0.is_match(decoded))
    }

    fn which(&self, text: &[u8], scratch: &mut Scratch) -> Found {
        let mut found = self.0.nothing_found();
        self.0.which(text, &mut found);
        if decode_into(text, &mut scratch.decoded) {
            self.0.which(&scratch.decoded, &mut found);
        }
        found
    }
}

/// Percent-decodes `text` once into `decoded`, and says whether that changed anything. A `%` without two hex digits stays.
fn decode_into(text: &[u8], decoded: &mut Vec<u8>) -> bool {
    decoded.clear();
    if memchr::memchr(b'%', text).is_none() {
        return false;
    }
    decode_onto(text, decoded);
    decoded.len() != text.len()
}

/// The path and the query of a URL as sent: absolute, or from its path on. A CONNECT target has neither.
#[must_use]
pub fn path_and_query(url: &[u8]) -> (&[u8], &[u8]) {
    let rest = if url.first() == Some(&b'/') {
        url
    } else if let Some(authority) = url.strip_prefix(b"http://").or_else(|| url.strip_prefix(b"https://")) {
        behind_authority(authority)
    } else {
        // Only what comes before the first `/` can be a scheme: a `://` in the query is not one.
        let first_slash = memchr(b'/', url);
        let authority = first_slash.and_then(|slash| {
            let before = url.get(..slash)?;
            let after = url.get(slash..)?.strip_prefix(b"//")?;
            let scheme = before.strip_suffix(b":")?;
            scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')).then_some(after)
        });
        let Some(authority) = authority else { return (b"", b"") };
        behind_authority(authority)
    };
    match memchr(b'?', rest) {
        Some(mark) => (rest.get(..mark).unwrap_or_default(), rest.get(mark + 1..).unwrap_or_default()),
        None => (rest, b""),
    }
}

fn behind_authority(authority: &[u8]) -> &[u8] {
    let end = memchr3(b'/', b'?', b'#', authority).unwrap_or(authority.len());
    authority.get(end..).unwrap_or_default()
}

impl RuleSet {
    /// Compiles `rules`, which were checked one by one. The strictest come first in every answer.
    ///
    /// # Errors
    /// What is wrong when patterns that compile alone do not compile together: their automaton would be too large.
    pub fn new(rules: Vec<Rule>) -> Result<Self, String> {
        let mut rules: Vec<Arc<Rule>> = rules.into_iter().map(Arc::new).collect();
        rules.sort_by_key(|rule| (rule.mode == super::Mode::Shadow, rule.maxretry));
        let mut responses = Vec::new();
        let mut response_paths = Vec::new();
        let (mut request_rates, mut connection_rates, mut simultaneous) = (Vec::new(), Vec::new(), Vec::new());
        for rule in &rules {
            match &rule.trigger {
                Trigger::Response { statuses, path } => {
                    let path = path.as_deref().map(|path| push(&mut response_paths, path));
                    responses.push(ResponseRule { rule: Arc::clone(rule), statuses: statuses.clone(), path });
                }
                Trigger::RequestRate => request_rates.push(Arc::clone(rule)),
                Trigger::ConnectionRate => connection_rates.push(Arc::clone(rule)),
                Trigger::Simultaneous { limit } => simultaneous.push((*limit, Arc::clone(rule))),
                Trigger::Request(_) | Trigger::Incident | Trigger::Line(_) => {}
            }
        }
        let response_paths = FieldMatcher::new(&response_paths)?;
        let requests = RequestMatcher::new(&rules)?;
        let by_id = rules.iter().map(|rule| (rule.id, Arc::clone(rule))).collect();
        Ok(Self { rules, by_id, requests, response_paths, responses, request_rates, connection_rates, simultaneous })
    }

    /// All rules, strictest first, shadow rules last.
    #[must_use]
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The rule with this id, if it is in force.
    #[must_use]
    pub fn get(&self, id: RuleId) -> Option<&Arc<Rule>> {
        self.by_id.get(&id)
    }

    /// The rule with this name, if it is in force.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| &*rule.name == name)
    }

    /// The rules that `request` offends, strictest first. Empty, and without an allocation, for an innocent one.
    #[must_use]
    pub fn offended_by_request(&self, request: &Request<'_>, scratch: &mut Scratch) -> Vec<Arc<Rule>> {
        if self.requests.may_match(request, scratch) { self.requests.matching(request, scratch) } else { Vec::new() }
    }

    /// The rules that a response with `status` to `request` offends, strictest first.
    #[must_use]
    pub fn offended_by_response(&self, status: u16, request: &Request<'_>, scratch: &mut Scratch) -> Vec<Arc<Rule>> {
        let mut found = None;
        self.responses
            .iter()
            .filter(|response| response.statuses.binary_search(&status).is_ok())
            .filter(|response| {
                response.path.is_none_or(|pattern| {
                    let (path, _) = path_and_query(request.url);
                    found.get_or_insert_with(|| self.response_paths.which(path, scratch)).contains(pattern)
                })
            })
            .map(|response| Arc::clone(&response.rule))
            .collect()
    }

    /// The rules that count every request.
    #[must_use]
    pub fn request_rates(&self) -> &[Arc<Rule>] {
        &self.request_rates
    }

    /// The rules that count every SMTP connection.
    #[must_use]
    pub fn connection_rates(&self) -> &[Arc<Rule>] {
        &self.connection_rates
    }

    /// The rules that a client offends with `open` connections at once.
    pub fn offended_by_open(&self, open: u32) -> impl Iterator<Item = &Arc<Rule>> {
        self.simultaneous.iter().filter(move |(limit, _)| open > *limit).map(|(_, rule)| rule)
    }

    /// Whether open connections must be known at all.
    #[must_use]
    pub fn watches_open(&self) -> bool {
        !self.simultaneous.is_empty()
    }
}

impl RequestMatcher {
    fn new(rules: &[Arc<Rule>]) -> Result<Self, String> {
        let (mut path, mut query, mut user_agent, mut url) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut bare_methods: Vec<String> = Vec::new();
        let mut request_rules = Vec::new();
        for rule in rules {
            let Trigger::Request(pattern) = &rule.trigger else { continue };
            let own = RequestRule {
                rule: Arc::clone(rule),
                methods: pattern.methods.clone(),
                path: pattern.path.as_deref().map(|text| push(&mut path, text)),
                query: pattern.query.as_deref().map(|text| push(&mut query, text)),
                user_agent: pattern.user_agent.as_deref().map(|text| push(&mut user_agent, text)),
                url: pattern.url.as_deref().map(|text| push(&mut url, text)),
            };
            if own.path.is_none() && own.query.is_none() && own.user_agent.is_none() && own.url.is_none() {
                bare_methods.extend(own.methods.iter().cloned());
            }
            request_rules.push(own);
        }
        Ok(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            rules: request_rules,
            path: FieldMatcher::new(&path)?,
            query: FieldMatcher::new(&query)?,
            user_agent: FieldMatcher::new(&user_agent)?,
            url: FieldMatcher::new(&url)?,
            bare_methods,
        })
    }

    /// Whether any pattern of any rule matches: one pass over each text, and for what was found innocent lately not even that.
    fn may_match(&self, request: &Request<'_>, scratch: &mut Scratch) -> bool {
        self.url_hits(request.url, scratch)
            || self.agent_hits(request.user_agent, scratch)
            || self.bare_methods.iter().any(|method| method.as_bytes() == request.method)
    }

    /// Whether any pattern matches this URL, its path or its query.
    fn url_hits(&self, url: &[u8], scratch: &mut Scratch) -> bool {
        if self.path.0.is_empty() && self.query.0.is_empty() && self.url.0.is_empty() {
            return false;
        }
        let Scratch { decoded, innocent_urls, .. } = scratch;
        !innocent_urls.holds(self.number, &url, || {
            let (path, query) = path_and_query(url);
            !(self.path.hits(path, decoded) || (!query.is_empty() && self.query.hits(query, decoded)) || self.url.0.is_match(url))
        })
    }

    /// Whether any pattern matches this User-Agent.
    fn agent_hits(&self, agent: Header<'_>, scratch: &mut Scratch) -> bool {
        if agent.is_empty() || self.user_agent.0.is_empty() {
            return false;
        }
        !scratch.innocent_agents.holds(self.number, &agent, || !self.user_agent.0.is_match(&agent.text()))
    }

    fn matching(&self, request: &Request<'_>, scratch: &mut Scratch) -> Vec<Arc<Rule>> {
        let (path, query) = path_and_query(request.url);
        let path = self.path.which(path, scratch);
        let query = self.query.which(query, scratch);
        let mut user_agent = self.user_agent.0.nothing_found();
        self.user_agent.0.which(&request.user_agent.text(), &mut user_agent);
        let mut url = self.url.0.nothing_found();
        self.url.0.which(request.url, &mut url);
        let has = |found: &Found, pattern: Option<usize>| pattern.is_none_or(|pattern| found.contains(pattern));
        self.rules
            .iter()
            .filter(|rule| rule.methods.is_empty() || rule.methods.iter().any(|method| method.as_bytes() == request.method))
            .filter(|rule| has(&path, rule.path) && has(&query, rule.query) && has(&user_agent, rule.user_agent) && has(&url, rule.url))
            .map(|rule| Arc::clone(&rule.rule))
            .collect()
    }
}

fn push<'a>(patterns: &mut Vec<&'a str>, pattern: &'a str) -> usize {
    patterns.push(pattern);
    patterns.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_query_are_found_in_every_form_of_a_url() {
        for (url, path, query) in [
            ("http://host/a/b?c=d", "/a/b", "c=d"),
            ("/a?b?c", "/a", "b?c"),
            ("https://user@host:8443/", "/", ""),
            ("HTTP://host/a?b", "/a", "b"),
            ("ftp://host/a", "/a", ""),
            ("http://host", "", ""),
            ("http://host?x=http://y/z", "", "x=http://y/z"),
            ("host:443", "", ""),
            ("", "", ""),
            ("*", "", ""),
            ("/x://y", "/x://y", ""),
            ("//double/slash", "//double/slash", ""),
            ("x?y=a://b/c", "", ""),
        ] {
            assert_eq!(path_and_query(url.as_bytes()), (path.as_bytes(), query.as_bytes()), "{url}");
        }
    }

    #[test]
    fn a_path_is_decoded_once_and_only_once() {
        let mut decoded = Vec::new();
        assert!(decode_into(b"/%77%2530%zz%4", &mut decoded));
        assert_eq!(decoded, b"/w%30%zz%4");
        assert!(!decode_into(b"/plain", &mut decoded));
        assert!(!decode_into(b"/100%", &mut decoded));
    }
}
