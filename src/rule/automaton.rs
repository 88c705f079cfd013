//! Many regexes as one automaton: whether any of them matches costs one pass over the text, however many there are.

use regex_automata::meta::{BuildError, Regex};
use regex_automata::util::syntax;
use regex_automata::{Input, MatchKind, PatternSet};

/// A number of patterns over one kind of text, numbered from 0.
#[derive(Debug)]
pub struct Automaton {
    regex: Regex,
    patterns: usize,
}

impl Automaton {
    /// Compiles `patterns`: byte-oriented and without Unicode classes, since what clients send need not be UTF-8.
    ///
    /// # Errors
    /// What is wrong with the first pattern that does not compile, with its number where it is the pattern's fault.
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> Result<Self, Box<BuildError>> {
        let regex = Regex::builder()
            .configure(Regex::config().match_kind(MatchKind::All).utf8_empty(false).auto_prefilter(false))
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .build_many(patterns)?;
        Ok(Self { regex, patterns: patterns.len() })
    }

    /// Whether there are no patterns at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns == 0
    }

    /// Whether any pattern matches.
    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.patterns > 0 && self.regex.search_half(&Input::new(text).earliest(true)).is_some()
    }

    /// Adds the numbers of all patterns that match to `found`. Slower: to be asked after [`Automaton::is_match`].
    pub fn which(&self, text: &[u8], found: &mut Found) {
        self.regex.which_overlapping_matches(&Input::new(text), &mut found.0);
    }

    /// An empty set of this automaton's pattern numbers.
    #[must_use]
    pub fn nothing_found(&self) -> Found {
        Found(PatternSet::new(self.patterns))
    }
}

/// The numbers of patterns that matched.
#[derive(Debug)]
pub struct Found(PatternSet);

impl Found {
    /// Whether pattern `number` matched.
    #[must_use]
    pub fn contains(&self, number: usize) -> bool {
        regex_automata::PatternID::new(number).is_ok_and(|pattern| self.0.contains(pattern))
    }
}

/// Checks one pattern as [`Automaton::new`] will compile it.
///
/// # Errors
/// The syntax error, in one line.
pub fn check(pattern: &str) -> Result<(), String> {
    Automaton::new(&[pattern]).map(|_| ()).map_err(|error| one_line(&*error))
}

/// The innermost cause: the layers around it only say "error building NFA".
fn one_line(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    // regex-syntax draws the pattern with a caret under the fault; its last line says what it is.
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or(&text).trim().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_all_patterns_that_match_and_no_others() {
        let automaton = Automaton::new(&["(?i)/w[o0]{2}t", "^/admin$", "t$"]).unwrap();
        assert!(automaton.is_match(b"/W00t"));
        assert!(!automaton.is_match(b"/index.html"));
        let mut found = automaton.nothing_found();
        automaton.which(b"/x/w0ot", &mut found);
        assert_eq!([0, 1, 2, 99].map(|number| found.contains(number)), [true, false, true, false]);
    }

    #[test]
    fn no_patterns_match_nothing() {
        let none: [&str; 0] = [];
        assert!(!Automaton::new(&none).unwrap().is_match(b""));
    }

    #[test]
    fn a_faulty_pattern_is_explained_in_one_line() {
        assert_eq!(check("/a(b"), Err("unclosed group".to_owned()));
        assert_eq!(check(r"/(a)\1"), Err("backreferences are not supported".to_owned()));
        assert_eq!(check("/ok"), Ok(()));
    }
}
