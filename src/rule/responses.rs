//! The rules over responses: which ones are offences, and which clear the strikes for others.

use std::sync::Arc;

use super::automaton::PatternMatches;
use super::matcher::{FieldMatcher, PathMatcher, Scratch, has_method, push};
use super::{ResponsePattern, Rule, Trigger};
use crate::event::Request;
use crate::event::path::path_and_query;

/// All response rules, strictest first, with one automaton for their paths and one for their queries.
#[derive(Debug)]
pub(super) struct Responses {
    rules: Vec<ResponseRule>,
    paths: PathMatcher,
    queries: FieldMatcher,
}

impl Responses {
    /// Takes the response rules among `rules`.
    ///
    /// # Errors
    /// An automaton would be too large.
    pub fn new(rules: &[Arc<Rule>]) -> Result<Self, String> {
        let (mut paths, mut queries, mut responses) = (Vec::new(), Vec::new(), Vec::new());
        for rule in rules {
            let Trigger::Response(pattern) = &rule.trigger else { continue };
            responses.push(ResponseRule {
                rule: Arc::clone(rule),
                pattern: pattern.clone(),
                path: pattern.path.as_deref().map(|path| push(&mut paths, path)),
                not_path: pattern.not_path.as_deref().map(|path| push(&mut paths, path)),
                query: pattern.query.as_deref().map(|query| push(&mut queries, query)),
                not_query: pattern.not_query.as_deref().map(|query| push(&mut queries, query)),
            });
        }
        Ok(Self { rules: responses, paths: PathMatcher::new(&paths)?, queries: FieldMatcher::new(&queries)? })
    }

    /// The rules that `is_meant` accepts and whose conditions over the request hold, except that over its source.
    pub fn that_hold(&self, request: &Request<'_>, scratch: &mut Scratch, is_meant: impl Fn(&ResponsePattern) -> bool) -> Vec<Arc<Rule>> {
        let mut matches = ResponseMatches { set: self, request, scratch, paths: None, queries: None };
        self.rules
            .iter()
            .filter(|response| is_meant(&response.pattern) && matches.hold(response))
            .map(|response| Arc::clone(&response.rule))
            .collect()
    }
}

/// A response rule, with the numbers of its patterns.
#[derive(Debug)]
struct ResponseRule {
    rule: Arc<Rule>,
    pattern: ResponsePattern,
    path: Option<usize>,
    not_path: Option<usize>,
    query: Option<usize>,
    not_query: Option<usize>,
}

/// The patterns that match a response, looked for when the first rule needs them.
struct ResponseMatches<'a> {
    set: &'a Responses,
    request: &'a Request<'a>,
    scratch: &'a mut Scratch,
    paths: Option<PatternMatches>,
    queries: Option<PatternMatches>,
}

impl ResponseMatches<'_> {
    fn path(&mut self, pattern: usize) -> bool {
        let (path, _) = path_and_query(self.request.url);
        let Self { set, scratch, paths, .. } = self;
        paths.get_or_insert_with(|| set.paths.matches(path, &mut scratch.path_forms)).contains(pattern)
    }

    fn is_exception(&mut self, pattern: usize) -> bool {
        let (path, _) = path_and_query(self.request.url);
        self.set.paths.matches_throughout(pattern, path, &mut self.scratch.path_forms)
    }

    fn query(&mut self, pattern: usize) -> bool {
        let (_, query) = path_and_query(self.request.url);
        let Self { set, scratch, queries, .. } = self;
        queries.get_or_insert_with(|| set.queries.matches(query, &mut scratch.decoded_query)).contains(pattern)
    }

    /// Whether all conditions of `rule` hold but those over the status and the source.
    fn hold(&mut self, rule: &ResponseRule) -> bool {
        has_method(&rule.pattern.methods, self.request)
            && rule.pattern.credentials.is_none_or(|wanted| self.request.credentials == Some(wanted))
            && rule.path.is_none_or(|pattern| self.path(pattern))
            && rule.not_path.is_none_or(|pattern| !self.is_exception(pattern))
            && rule.query.is_none_or(|pattern| self.query(pattern))
            && rule.not_query.is_none_or(|pattern| !self.query(pattern))
    }
}
