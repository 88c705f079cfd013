//! Compiles many regexes into one automaton, which tests for all of them in one pass over the text.

use regex_automata::meta::{BuildError, Regex};
use regex_automata::util::syntax;
use regex_automata::{Input, MatchKind, PatternSet};

/// A compiled set of patterns, numbered from 0.
#[derive(Debug)]
pub struct Automaton {
    regex: Regex,
    pattern_count: usize,
}

impl Automaton {
    /// Compiles `patterns` for bytes and without Unicode classes, because clients may send any bytes.
    ///
    /// # Errors
    /// A pattern does not compile, or the automaton as a whole is too large.
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> Result<Self, Box<BuildError>> {
        let regex = Regex::builder()
            .configure(Regex::config().match_kind(MatchKind::All).utf8_empty(false).auto_prefilter(false))
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .build_many(patterns)?;
        Ok(Self { regex, pattern_count: patterns.len() })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pattern_count == 0
    }

    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.pattern_count > 0 && self.regex.search_half(&Input::new(text).earliest(true)).is_some()
    }

    /// Adds all patterns that match to `matches`. Slower than [`Automaton::is_match`], so call that first.
    pub fn add_matches(&self, text: &[u8], matches: &mut PatternMatches) {
        self.regex.which_overlapping_matches(&Input::new(text), &mut matches.0);
    }

    /// An empty set, for [`Automaton::add_matches`].
    #[must_use]
    pub fn no_matches(&self) -> PatternMatches {
        PatternMatches(PatternSet::new(self.pattern_count))
    }
}

/// The set of patterns of one [`Automaton`] that matched.
#[derive(Debug)]
pub struct PatternMatches(PatternSet);

impl PatternMatches {
    #[must_use]
    pub fn contains(&self, number: usize) -> bool {
        regex_automata::PatternID::new(number).is_ok_and(|pattern| self.0.contains(pattern))
    }
}

/// Checks that [`Automaton::new`] can compile `pattern`.
///
/// # Errors
/// The syntax error, on one line.
pub fn check(pattern: &str) -> Result<(), String> {
    Automaton::new(&[pattern]).map(|_| ()).map_err(|error| one_line(&*error))
}

/// The innermost cause of a build error; the outer ones only say "error building NFA".
fn one_line(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    // regex-syntax prints the pattern with a caret under the error; the message is on the last line.
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or(&text).trim().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_patterns_that_match_are_reported() {
        let automaton = Automaton::new(&["(?i)/w[o0]{2}t", "^/admin$", "t$"]).unwrap();
        assert!(!automaton.is_empty());
        assert!(automaton.is_match(b"/W00t"));
        assert!(!automaton.is_match(b"/index.html"));
        let mut matches = automaton.no_matches();
        automaton.add_matches(b"/x/w0ot", &mut matches);
        assert_eq!([0, 1, 2, 99].map(|number| matches.contains(number)), [true, false, true, false]);
    }

    #[test]
    fn an_empty_automaton_matches_nothing() {
        let none: [&str; 0] = [];
        let automaton = Automaton::new(&none).unwrap();
        assert!(automaton.is_empty() && !automaton.is_match(b""));
    }

    #[test]
    fn a_syntax_error_is_explained_on_one_line() {
        assert_eq!(check("/a(b"), Err("unclosed group".to_owned()));
        assert_eq!(check(r"/(a)\1"), Err("backreferences are not supported".to_owned()));
        assert_eq!(check("/ok"), Ok(()));
    }
}
