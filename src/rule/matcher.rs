//! One automaton for each part of a request, and the buffers that matching needs.

use super::automaton::{Automaton, PatternMatches};
use super::seen_cache::SeenCache;
use crate::event::headers::write_line;
use crate::event::path::{PathForms, decode_into};
use crate::event::{Header, Request};

/// A thread's reusable buffers and caches. With them, an innocent request allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) path_forms: PathForms,
    pub(super) decoded_query: Vec<u8>,
    pub(super) innocent_agents: SeenCache<4096>,
    /// Larger, because a site has more pages and pictures than its visitors have browsers.
    pub(super) innocent_urls: SeenCache<16384>,
    pub(super) innocent_headers: SeenCache<16384>,
    pub(super) header_line: Vec<u8>,
}

/// Whether a rule for `methods`, or if they are empty for any, is about `request`.
pub(super) fn has_method(methods: &[String], request: &Request<'_>) -> bool {
    methods.is_empty() || methods.iter().any(|method| method.as_bytes() == request.method)
}

/// Whether a rule for requests with (true) or without (false) a source of their own is about `request`.
pub(super) fn has_source(wanted: Option<bool>, request: &Request<'_>) -> bool {
    wanted.is_none_or(|wanted| request.names_its_source() == Some(wanted))
}

/// The patterns of all rules for one field.
#[derive(Debug)]
pub(super) struct FieldMatcher {
    pub(super) patterns: Automaton,
    /// Whether a pattern matches a field that is empty or missing. Most fields are.
    pub(super) matches_empty: bool,
}

impl FieldMatcher {
    pub(super) fn new(patterns: &[&str]) -> Result<Self, String> {
        let patterns = Automaton::new(patterns).map_err(|error| error.to_string())?;
        Ok(Self { matches_empty: patterns.is_match(b""), patterns })
    }

    /// Whether any pattern matches `text` as sent or percent-decoded once.
    pub(super) fn is_match(&self, text: &[u8], decoded: &mut Vec<u8>) -> bool {
        if text.is_empty() {
            return self.matches_empty;
        }
        self.patterns.is_match(text) || (decode_into(text, decoded) && self.patterns.is_match(decoded))
    }

    /// The patterns that match `text` as sent or percent-decoded once.
    pub(super) fn matches(&self, text: &[u8], decoded: &mut Vec<u8>) -> PatternMatches {
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
pub(super) struct PathMatcher(pub(super) Automaton);

impl PathMatcher {
    pub(super) fn new(patterns: &[&str]) -> Result<Self, String> {
        Automaton::new(patterns).map(Self).map_err(|error| error.to_string())
    }

    /// Whether any pattern matches a form of `path`; see [`PathForms::any`].
    pub(super) fn is_match(&self, path: &[u8], forms: &mut PathForms) -> bool {
        !self.0.is_empty() && forms.any(path, |form| self.0.is_match(form))
    }

    /// The patterns that match a form of `path`.
    pub(super) fn matches(&self, path: &[u8], forms: &mut PathForms) -> PatternMatches {
        let mut matches = self.0.no_matches();
        forms.any(path, |form| {
            self.0.add_matches(form, &mut matches);
            false
        });
        matches
    }

    /// Whether `pattern` matches every form of `path`. So no detour within a path (`/api/../admin`) makes it an exception.
    pub(super) fn matches_throughout(&self, pattern: usize, path: &[u8], forms: &mut PathForms) -> bool {
        !forms.any(path, |form| {
            let mut matches = self.0.no_matches();
            self.0.add_matches(form, &mut matches);
            !matches.contains(pattern)
        })
    }
}

/// The patterns of all rules for headers.
#[derive(Debug)]
pub(super) struct HeaderMatcher(Automaton);

impl HeaderMatcher {
    pub(super) fn new(patterns: &[&str]) -> Result<Self, String> {
        Automaton::new(patterns).map(Self).map_err(|error| error.to_string())
    }

    /// Whether any pattern matches a header of `request`. Most headers are those of the client's request before: they are matched once. `owner`
    /// is that of the cache.
    pub(super) fn is_match(&self, owner: u64, request: &Request<'_>, scratch: &mut Scratch) -> bool {
        let Scratch { innocent_headers, header_line, .. } = scratch;
        !self.0.is_empty()
            && request.header_lines().any(|(name, value)| {
                !innocent_headers.passes(owner, &(name, value), || {
                    write_line(name, value, header_line);
                    !self.0.is_match(header_line)
                })
            })
    }

    /// The patterns that match a header of `request`.
    pub(super) fn matches(&self, request: &Request<'_>, line: &mut Vec<u8>) -> PatternMatches {
        let mut matches = self.0.no_matches();
        if !self.0.is_empty() {
            for (name, value) in request.header_lines() {
                write_line(name, value, line);
                self.0.add_matches(line, &mut matches);
            }
        }
        matches
    }

    /// The first header of `request` that one of `patterns` matches.
    pub(super) fn find<'a>(&self, request: &Request<'a>, patterns: &[usize], line: &mut Vec<u8>) -> Option<(&'a str, Header<'a>)> {
        request.header_lines().find(|(name, value)| {
            let mut matches = self.0.no_matches();
            write_line(name, *value, line);
            self.0.add_matches(line, &mut matches);
            patterns.iter().any(|pattern| matches.contains(*pattern))
        })
    }
}

/// Appends a pattern and returns its number.
pub(super) fn push<'a>(patterns: &mut Vec<&'a str>, pattern: &'a str) -> usize {
    patterns.push(pattern);
    patterns.len() - 1
}
