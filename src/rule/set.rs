//! The compiled rules. An innocent request costs one pass over each of its texts, however many rules there are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::automaton::{Automaton, PatternMatches};
use super::seen_cache::SeenCache;
use super::{Rule, Trigger};
use crate::event::path::{PathForms, decode_into, path_and_query};
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
    response_paths: PathMatcher,
    responses: Vec<ResponseRule>,
    request_rates: Vec<Arc<Rule>>,
    page_probes: Vec<Arc<Rule>>,
    connection_rates: Vec<Arc<Rule>>,
    simultaneous: Vec<(u32, Arc<Rule>)>,
}

/// A thread's reusable buffers and caches. With them, an innocent request allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    path_forms: PathForms,
    decoded_query: Vec<u8>,
    innocent_agents: SeenCache<4096>,
    /// Larger, because a site has more pages and pictures than its visitors have browsers.
    innocent_urls: SeenCache<16384>,
}

#[derive(Debug)]
struct ResponseRule {
    rule: Arc<Rule>,
    statuses: Vec<u16>,
    path: Option<usize>,
}

/// All request rules, with one automaton for each field.
#[derive(Debug)]
struct RequestMatcher {
    /// Unique in this process, as the owner of the entries in a [`SeenCache`].
    id: u64,
    rules: Vec<RequestRule>,
    path: PathMatcher,
    query: FieldMatcher,
    user_agent: FieldMatcher,
    url: FieldMatcher,
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
}

/// The patterns of all rules for one field.
#[derive(Debug)]
struct FieldMatcher {
    patterns: Automaton,
    /// Whether a pattern matches a field that is empty or missing. Most fields are.
    matches_empty: bool,
}

impl FieldMatcher {
    fn new(patterns: &[&str]) -> Result<Self, String> {
        let patterns = Automaton::new(patterns).map_err(|error| error.to_string())?;
        Ok(Self { matches_empty: patterns.is_match(b""), patterns })
    }

    /// Whether any pattern matches `text` as sent or percent-decoded once.
    fn is_match(&self, text: &[u8], decoded: &mut Vec<u8>) -> bool {
        if text.is_empty() {
            return self.matches_empty;
        }
        self.patterns.is_match(text) || (decode_into(text, decoded) && self.patterns.is_match(decoded))
    }

    /// The patterns that match `text` as sent or percent-decoded once.
    fn matches(&self, text: &[u8], decoded: &mut Vec<u8>) -> PatternMatches {
        let mut matches = self.patterns.no_matches();
        self.patterns.add_matches(text, &mut matches);
        if decode_into(text, decoded) {
            self.patterns.add_matches(decoded, &mut matches);
        }
        matches
    }
}

/// The patterns of all rules for the path.
#[derive(Debug)]
struct PathMatcher(Automaton);

impl PathMatcher {
    fn new(patterns: &[&str]) -> Result<Self, String> {
        Automaton::new(patterns).map(Self).map_err(|error| error.to_string())
    }

    /// Whether any pattern matches a form of `path`; see [`PathForms::any`].
    fn is_match(&self, path: &[u8], forms: &mut PathForms) -> bool {
        !self.0.is_empty() && forms.any(path, |form| self.0.is_match(form))
    }

    /// The patterns that match a form of `path`.
    fn matches(&self, path: &[u8], forms: &mut PathForms) -> PatternMatches {
        let mut matches = self.0.no_matches();
        forms.any(path, |form| {
            self.0.add_matches(form, &mut matches);
            false
        });
        matches
    }
}

impl RuleSet {
    /// Compiles `rules`, which have been checked one by one.
    ///
    /// # Errors
    /// The automaton of all patterns would be too large.
    pub fn new(rules: Vec<Rule>) -> Result<Self, String> {
        let mut rules: Vec<Arc<Rule>> = rules.into_iter().map(Arc::new).collect();
        rules.sort_by_key(|rule| (rule.mode == super::Mode::Shadow, rule.maxretry));
        let mut responses = Vec::new();
        let mut response_paths = Vec::new();
        let (mut request_rates, mut page_probes) = (Vec::new(), Vec::new());
        let (mut connection_rates, mut simultaneous) = (Vec::new(), Vec::new());
        for rule in &rules {
            match &rule.trigger {
                Trigger::Response { statuses, path } => {
                    let path = path.as_deref().map(|path| push(&mut response_paths, path));
                    responses.push(ResponseRule { rule: Arc::clone(rule), statuses: statuses.clone(), path });
                }
                Trigger::RequestRate => request_rates.push(Arc::clone(rule)),
                Trigger::PageProbe => page_probes.push(Arc::clone(rule)),
                Trigger::ConnectionRate => connection_rates.push(Arc::clone(rule)),
                Trigger::Simultaneous { limit } => simultaneous.push((*limit, Arc::clone(rule))),
                Trigger::Request(_) | Trigger::Incident | Trigger::Line(_) => {}
            }
        }
        let response_paths = PathMatcher::new(&response_paths)?;
        let requests = RequestMatcher::new(&rules)?;
        let by_id = rules.iter().map(|rule| (rule.id, Arc::clone(rule))).collect();
        let off = HashSet::new();
        Ok(Self { rules, by_id, off, requests, response_paths, responses, request_rates, page_probes, connection_rates, simultaneous })
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
        // Most responses match no rule's status, so the path is only looked at when one does.
        let mut matches = None;
        self.responses
            .iter()
            .filter(|response| response.statuses.binary_search(&status).is_ok())
            .filter(|response| {
                response.path.is_none_or(|pattern| {
                    let (path, _) = path_and_query(request.url);
                    matches.get_or_insert_with(|| self.response_paths.matches(path, &mut scratch.path_forms)).contains(pattern)
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

    /// The rules that a client with `open` open connections offends.
    pub fn offended_by_open_connections(&self, open: u32) -> impl Iterator<Item = &Arc<Rule>> {
        self.simultaneous.iter().filter(move |(limit, _)| open > *limit).map(|(_, rule)| rule)
    }
}

impl RequestMatcher {
    fn new(rules: &[Arc<Rule>]) -> Result<Self, String> {
        let (mut path, mut query, mut user_agent, mut url) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
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
            };
            if pattern.path.is_none() && pattern.query.is_none() && pattern.user_agent.is_none() && pattern.url.is_none() {
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
            bare_methods,
        })
    }

    /// Whether any pattern of any rule matches: one pass over each text, or none if the text was found innocent before.
    fn may_match(&self, request: &Request<'_>, scratch: &mut Scratch) -> bool {
        self.url_matches(request.url, scratch)
            || self.agent_matches(request.user_agent, scratch)
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

    /// The rules whose patterns all match.
    fn offended(&self, request: &Request<'_>, scratch: &mut Scratch) -> Vec<Arc<Rule>> {
        let (path, query) = path_and_query(request.url);
        let path = self.path.matches(path, &mut scratch.path_forms);
        let query = self.query.matches(query, &mut scratch.decoded_query);
        let mut user_agent = self.user_agent.patterns.no_matches();
        if request.user_agent.is_known() {
            self.user_agent.patterns.add_matches(&request.user_agent.text(), &mut user_agent);
        }
        let mut url = self.url.patterns.no_matches();
        self.url.patterns.add_matches(request.url, &mut url);
        let has = |matches: &PatternMatches, pattern: Option<usize>| pattern.is_none_or(|pattern| matches.contains(pattern));
        self.rules
            .iter()
            .filter(|rule| rule.methods.is_empty() || rule.methods.iter().any(|method| method.as_bytes() == request.method))
            .filter(|rule| has(&path, rule.path) && has(&query, rule.query) && has(&user_agent, rule.user_agent) && has(&url, rule.url))
            .map(|rule| Arc::clone(&rule.rule))
            .collect()
    }
}

/// Appends a pattern and returns its number.
fn push<'a>(patterns: &mut Vec<&'a str>, pattern: &'a str) -> usize {
    patterns.push(pattern);
    patterns.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::spec::{RuleDefaults, RuleSpec};
    use crate::rule_id::RuleNames;
    use proptest::prelude::*;

    /// Compiles the `[[rule]]` tables of `text`, without the built-in rules.
    fn rules(text: &str) -> RuleSet {
        #[derive(serde::Deserialize)]
        struct Tables {
            rule: Vec<RuleSpec>,
        }
        let names = RuleNames::default();
        let tables: Tables = toml::from_str(text).unwrap();
        RuleSet::new(tables.rule.into_iter().map(|spec| spec.check(&names, &RuleDefaults::default()).unwrap()).collect()).unwrap()
    }

    fn names<'a>(rules: impl IntoIterator<Item = &'a Arc<Rule>>) -> Vec<&'a str> {
        rules.into_iter().map(|rule| &*rule.name).collect()
    }

    fn get<'a>(url: &'a str, agent: &'a str) -> Request<'a> {
        Request { method: b"GET", url: url.as_bytes(), user_agent: Header::plain(agent.as_bytes()), sec_fetch_site: b"" }
    }

    fn offended(rules: &RuleSet, request: &Request<'_>) -> Vec<String> {
        names(&rules.offended_by_request(request, &mut Scratch::default())).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn rules_are_in_order_of_strictness_with_shadow_rules_last_and_found_by_id_and_name() {
        let rules = rules(
            "[[rule]]\nname = 'five'\nevent = 'incident'\nmaxretry = 5\n[[rule]]\nname = 'shadow'\nevent = 'incident'\nmaxretry = 1\nmode = 'shadow'\n\
             [[rule]]\nname = 'two'\nevent = 'incident'\nmaxretry = 2",
        );
        assert_eq!(names(rules.rules()), ["two", "five", "shadow"]);
        for name in ["two", "five", "shadow"] {
            let rule = rules.by_name(name).unwrap();
            assert_eq!((&*rule.name, rules.get(rule.id).map(|rule| &*rule.name)), (name, Some(name)));
        }
        assert!(rules.by_name("other").is_none());
    }

    #[test]
    fn a_pattern_matches_in_its_own_field_only_also_as_the_only_rule() {
        let fields =
            [("path", "http://h/evil", ""), ("query", "http://h/?evil", ""), ("user_agent", "http://h/", "evil"), ("url", "evil:1", "")];
        let text = |field: &str| format!("[[rule]]\nname = '{}'\n{field} = 'evil'\n", field.replace('_', "-"));
        let all = rules(&fields.map(|(field, _, _)| text(field)).concat());
        for (field, url, agent) in fields {
            let name = field.replace('_', "-");
            // A path or query is part of the URL, so the rule over the URL matches there, too.
            let also = if field == "path" || field == "query" { vec![name.clone(), "url".to_owned()] } else { vec![name.clone()] };
            assert_eq!(offended(&all, &get(url, agent)), also, "{field}");
            assert_eq!(offended(&rules(&text(field)), &get(url, agent)), [name], "{field} alone");
        }
        assert!(offended(&all, &get("http://h/?x", "y")).is_empty());
    }

    #[test]
    fn a_rule_with_a_method_alone_matches_every_request_with_it() {
        let rules = rules("[[rule]]\nname = 'track'\nmethod = ['TRACK', 'DEBUG']");
        for (method, is_offence) in [("TRACK", true), ("DEBUG", true), ("track", false), ("GET", false)] {
            let request = Request { method: method.as_bytes(), ..get("http://h/", "") };
            assert_eq!(!offended(&rules, &request).is_empty(), is_offence, "{method}");
        }
    }

    #[test]
    fn a_rule_with_several_patterns_matches_only_if_all_of_them_do() {
        let rules = rules("[[rule]]\nname = 'all'\nmethod = 'POST'\npath = '/p$'\nquery = 'q'\nuser_agent = 'a'\nurl = '^http:'");
        let hit = Request { method: b"POST", ..get("http://h/p?q", "a") };
        assert_eq!(offended(&rules, &hit), ["all"]);
        for (field, miss) in [
            ("method", Request { method: b"GET", ..hit }),
            ("path", Request { url: b"http://h/other?q", ..hit }),
            ("query", Request { url: b"http://h/p?x", ..hit }),
            ("user_agent", Request { user_agent: Header::plain(b"b"), ..hit }),
            ("url", Request { url: b"https://h/p?q", ..hit }),
        ] {
            assert!(offended(&rules, &miss).is_empty(), "{field}");
        }
    }

    #[test]
    fn a_pattern_for_the_empty_text_matches_a_field_that_is_missing_but_none_that_is_unknown() {
        for (rule, missing, present) in [
            ("user_agent = '^$'", get("http://h/x?q", ""), get("http://h/x?q", "a")),
            ("user_agent = '^(?:|evil)$'", get("http://h/x?q", ""), get("http://h/x?q", "a")),
            ("query = '^$'", get("http://h/x", "a"), get("http://h/x?q", "a")),
            ("query = '^$'", get("http://h/x?", "a"), get("http://h/x?q", "a")),
            ("query = '^$'\nuser_agent = '^$'", get("http://h/x", ""), get("http://h/x", "a")),
        ] {
            for more in ["", "[[rule]]\nname = 'other'\npath = '^/x$'\n"] {
                let rules = rules(&format!("[[rule]]\nname = 'empty'\n{rule}\n{more}"));
                let has = |request: &Request<'_>| offended(&rules, request).contains(&"empty".to_owned());
                assert_eq!((has(&missing), has(&present)), (true, false), "{rule} {more}");
                let unknown = Request { user_agent: Header::default(), ..missing };
                assert_eq!(has(&unknown), !rule.contains("user_agent"), "{rule} {more}");
            }
        }
        let any = rules("[[rule]]\nname = 'any'\nuser_agent = '(?s).*'\n[[rule]]\nname = 'x'\npath = '^/x$'");
        assert_eq!(offended(&any, &Request { user_agent: Header::default(), ..get("/x", "") }), ["x"]);
    }

    #[test]
    fn a_query_is_matched_as_sent_and_decoded_once() {
        let rules = rules("[[rule]]\nname = 'sent'\nquery = '%41'\n[[rule]]\nname = 'decoded'\nquery = 'A'");
        assert_eq!(offended(&rules, &get("/?%41", "")), ["sent", "decoded"]);
        assert_eq!(offended(&rules, &get("/?A", "")), ["decoded"]);
        assert_eq!(offended(&rules, &get("/?%2541", "")), ["sent"]);
        assert!(offended(&rules, &get("/?%2542", "")).is_empty());
    }

    #[test]
    fn a_response_offends_the_rules_that_list_its_status_if_their_path_matches() {
        let rules = rules(
            "[[rule]]\nname = 'any'\nstatus = [404, 410]\n[[rule]]\nname = 'login'\nstatus = 404\npath = '/login'\n\
             [[rule]]\nname = 'admin'\nstatus = 404\npath = '/admin'",
        );
        let offended = |status, url| {
            let offended = rules.offended_by_response(status, &get(url, ""), &mut Scratch::default());
            names(&offended).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(offended(404, "/login"), ["any", "login"]);
        assert_eq!(offended(404, "/admin"), ["any", "admin"]);
        assert_eq!(offended(410, "/login"), ["any"]);
        assert!(offended(200, "/login").is_empty());
    }

    #[test]
    fn rates_and_open_connections_have_rules_of_their_own() {
        let rules = rules(
            "[[rule]]\nname = 'requests'\nevent = 'request'\n[[rule]]\nname = 'connections'\nevent = 'connection'\n\
             [[rule]]\nname = 'ten'\nsimultaneous = 10\n[[rule]]\nname = 'twenty'\nsimultaneous = 20",
        );
        assert_eq!(names(rules.request_rates()), ["requests"]);
        assert_eq!(names(rules.connection_rates()), ["connections"]);
        let open = [0, 10, 11, 20, 21].map(|open| names(rules.offended_by_open_connections(open)));
        assert_eq!(open, [vec![], vec![], vec!["ten"], vec!["ten"], vec!["ten", "twenty"]]);
    }

    proptest! {
        #[test]
        fn neither_the_first_pass_nor_the_caches_change_which_rules_a_request_offends(
            requests in proptest::collection::vec(("/[abx%.]{0,3}(\\?[aqx]{0,2})?", "[aux]{0,2}|x", prop_oneof![Just("GET"), Just("PUT")]), 1..60),
        ) {
            let text = "[[rule]]\nname = 'path'\npath = 'a'\n[[rule]]\nname = 'query'\nquery = 'q'\n[[rule]]\nname = 'agent'\nuser_agent = 'u'\n\
                        [[rule]]\nname = 'url'\nurl = 'b.*x'\n[[rule]]\nname = 'method'\nmethod = 'PUT'\n\
                        [[rule]]\nname = 'both'\npath = 'x'\nuser_agent = 'a'";
            let empty = "\n[[rule]]\nname = 'no-agent'\nuser_agent = '^$'\n[[rule]]\nname = 'no-query'\nquery = '^$'\npath = 'a'";
            for text in [text, &format!("{text}{empty}"), empty] {
                let rules = rules(text);
                let mut scratch = Scratch::default();
                for (url, agent, method) in &requests {
                    let user_agent = if *agent == "x" { Header::default() } else { Header::plain(agent.as_bytes()) };
                    let request = Request { method: method.as_bytes(), user_agent, ..get(url, agent) };
                    let expected = rules.requests.offended(&request, &mut Scratch::default());
                    let found = rules.offended_by_request(&request, &mut scratch);
                    prop_assert_eq!(names(&found), names(&expected));
                }
            }
        }
    }
}
