//! Compiles an expression for the right engine and matches.

use super::syntax::{self, Syntax};
use super::translate::{Form, is_comparable, is_linear, translate};
use super::tree::Node;
use std::fmt;

/// How many steps back the backtracking engine may take on one text before it gives up.
const BACKTRACK_LIMIT: usize = 100_000;

/// Largest compiled size of one expression, in bytes.
const SIZE_LIMIT: usize = 64 << 20;

/// A compiled expression.
pub struct Pattern {
    text: String,
    syntax: Syntax,
    engine: Engine,
    /// Which group of the engine is which of the expression.
    groups: Vec<usize>,
}

enum Engine {
    Linear(regex::Regex),
    /// Linear for the texts whose first match has equal pairs, which is then the right match: both engines try in the same order.
    Compared {
        linear: regex::Regex,
        equal: Vec<(usize, usize)>,
        linear_groups: Vec<usize>,
        exact: Box<fancy_regex::Regex>,
    },
    /// The gate matches wherever the exact expression does.
    Backtracking {
        gate: regex::Regex,
        exact: Box<fancy_regex::Regex>,
    },
}

/// Where the groups of a match are: byte offsets; entry 0 is the whole match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spans(Vec<Option<(usize, usize)>>);

impl Spans {
    /// Start and end of a group that took part.
    #[must_use]
    pub fn group(&self, index: usize) -> Option<(usize, usize)> {
        self.0.get(index).copied().flatten()
    }
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing.
    No,
    /// A match.
    Match(Spans),
    /// The backtracking engine reached its limit.
    GaveUp,
}

/// Why an expression cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError(String);

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PatternError {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl Pattern {
    /// Compiles an expression in Python's syntax.
    ///
    /// # Errors
    /// If it is none, or too large.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let syntax = syntax::parse(text).map_err(|error| PatternError(error.to_string()))?;
        let names = syntax.names.len();
        let lost = || PatternError("not expressible".to_owned());
        let exact = translate(&syntax.node, names, Form::Exact).ok_or_else(lost)?;
        let engine = if is_linear(&syntax.node) {
            Engine::Linear(linear(&exact.text)?)
        } else {
            let fancy = fancy_regex::RegexBuilder::new(&exact.text)
                .backtrack_limit(BACKTRACK_LIMIT)
                .delegate_size_limit(SIZE_LIMIT)
                .build()
                .map_err(|error| PatternError(error.to_string()))?;
            let compared = is_comparable(&syntax.node).then(|| translate(&syntax.node, names, Form::Compared)).flatten();
            if let Some(compared) = compared {
                Engine::Compared {
                    linear: linear(&compared.text)?,
                    equal: compared.equal,
                    linear_groups: compared.groups,
                    exact: Box::new(fancy),
                }
            } else {
                let gate = translate(&syntax.node, names, Form::Gate).ok_or_else(lost)?;
                Engine::Backtracking { gate: linear(&gate.text)?, exact: Box::new(fancy) }
            }
        };
        Ok(Self { text: text.to_owned(), syntax, engine, groups: exact.groups })
    }

    /// A constant expression.
    pub(crate) fn constant(text: &'static str) -> Self {
        #[expect(clippy::expect_used, reason = "constants of this program, each compiled by a test")]
        Self::new(text).expect("a constant expression compiles")
    }

    /// Replaces every match by what `with` makes of its groups.
    pub fn replace_all<'t>(&self, text: &'t str, with: impl Fn(&dyn Fn(usize) -> &'t str) -> String) -> String {
        let mut result = String::new();
        let mut from = 0;
        let mut copied = 0;
        while let Outcome::Match(spans) = self.search(text, from) {
            let Some((start, end)) = spans.group(0) else { break };
            let group = |number| spans.group(number).and_then(|(start, end)| text.get(start..end)).unwrap_or_default();
            result.push_str(text.get(copied..start).unwrap_or_default());
            result.push_str(&with(&group));
            copied = end;
            // After an empty match the search goes on behind the next character.
            from = if end > start { end } else { boundary_from(text, end + 1) };
            if from > text.len() {
                break;
            }
        }
        result.push_str(text.get(copied..).unwrap_or_default());
        result
    }

    /// The expression as it was given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tree of the expression.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.syntax.node
    }

    /// The names of the groups; entry 0 stands for the whole match.
    #[must_use]
    pub fn names(&self) -> &[Option<String>] {
        &self.syntax.names
    }

    /// The number of the group of this name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<usize> {
        self.syntax.names.iter().position(|known| known.as_deref() == Some(name))
    }

    /// Whether it always takes linear time.
    #[must_use]
    pub fn is_linear(&self) -> bool {
        matches!(self.engine, Engine::Linear(_))
    }

    /// An expression for the linear engine that matches wherever this one does, and may match elsewhere.
    #[must_use]
    pub fn gate(&self) -> Option<String> {
        translate(&self.syntax.node, self.syntax.names.len(), Form::Gate).map(|gate| gate.text)
    }

    /// The first match that starts at byte `from` or later; what lies before is still looked at by `^`, `\b` and looks behind.
    #[must_use]
    pub fn search(&self, text: &str, from: usize) -> Outcome {
        if !text.is_char_boundary(from) {
            return Outcome::No;
        }
        match &self.engine {
            Engine::Linear(engine) => {
                if !engine.is_match_at(text, from) {
                    return Outcome::No;
                }
                engine.captures_at(text, from).map_or(Outcome::No, |found| Outcome::Match(spans(&found, &self.groups)))
            }
            Engine::Compared { linear, equal, linear_groups, exact } => {
                if !linear.is_match_at(text, from) {
                    return Outcome::No;
                }
                let Some(found) = linear.captures_at(text, from) else { return Outcome::No };
                let same = |&(one, other): &(usize, usize)| {
                    found.get(one).map(|m| m.as_str()).is_some_and(|one| found.get(other).is_some_and(|other| other.as_str() == one))
                };
                if equal.iter().all(same) {
                    return Outcome::Match(spans(&found, linear_groups));
                }
                self.backtrack(exact, text, from)
            }
            Engine::Backtracking { gate, exact } => {
                if gate.is_match_at(text, from) {
                    self.backtrack(exact, text, from)
                } else {
                    Outcome::No
                }
            }
        }
    }

    fn backtrack(&self, exact: &fancy_regex::Regex, text: &str, from: usize) -> Outcome {
        match exact.captures_from_pos(text, from) {
            Ok(Some(found)) => {
                Outcome::Match(Spans(self.groups.iter().map(|&group| found.get(group).map(|part| (part.start(), part.end()))).collect()))
            }
            Ok(None) => Outcome::No,
            Err(_) => Outcome::GaveUp,
        }
    }
}

/// The first boundary between characters at byte `at` or later.
pub(crate) fn boundary_from(text: &str, at: usize) -> usize {
    (at..text.len()).find(|place| text.is_char_boundary(*place)).unwrap_or_else(|| text.len().max(at))
}

/// The last boundary between characters at byte `at` or before.
pub(crate) fn boundary_until(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|place| text.is_char_boundary(*place)).unwrap_or(0)
}

fn spans(found: &regex::Captures<'_>, groups: &[usize]) -> Spans {
    Spans(groups.iter().map(|&group| found.get(group).map(|part| (part.start(), part.end()))).collect())
}

fn linear(text: &str) -> Result<regex::Regex, PatternError> {
    regex::RegexBuilder::new(text).size_limit(SIZE_LIMIT).build().map_err(|error| PatternError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups<'t>(pattern: &str, text: &'t str) -> Option<Vec<Option<&'t str>>> {
        let compiled = Pattern::new(pattern).expect(pattern);
        match compiled.search(text, 0) {
            Outcome::Match(spans) => Some((0..compiled.names().len()).map(|i| spans.group(i).map(|(s, e)| &text[s..e])).collect()),
            Outcome::No => None,
            Outcome::GaveUp => panic!("{pattern} gave up"),
        }
    }

    fn whole<'t>(pattern: &str, text: &'t str) -> Option<&'t str> {
        groups(pattern, text).map(|all| all[0].expect("a match has a span"))
    }

    #[test]
    fn plain_expressions_are_linear_and_others_are_not() {
        for (text, expected) in [
            ("a+b", true),
            (r"(?=^|\b|\W)a(?=\b|\W|$)", true),
            ("(?!a)b", false),
            (r"(a)\1", false),
            ("(a)?(?(1)b|c)", false),
            ("a++", false),
        ] {
            assert_eq!(Pattern::new(text).expect(text).is_linear(), expected, "{text}");
        }
    }

    #[test]
    fn the_dollar_sign_matches_before_a_final_line_feed() {
        assert_eq!(whole("b$", "ab\n"), Some("b"));
        assert_eq!(whole(r"b\s$", "ab\n"), Some("b\n"));
        assert_eq!(whole(r"b\Z", "ab\n"), None);
    }

    #[test]
    fn word_and_space_are_pythons_sets() {
        assert_eq!(whole(r"^\w$", "\u{b2}"), Some("\u{b2}"), "superscript two is a word character in Python, not in Rust");
        assert_eq!(whole(r"^\w$", "\u{203f}"), None, "the undertie is one in Rust, not in Python");
        assert_eq!(whole(r"^\s$", "\u{1c}"), Some("\u{1c}"));
        assert_eq!(whole(r"^[^\W\d]+$", "añ"), Some("añ"));
        assert_eq!(whole(r"^[\w\-.]+$", "a-b.c"), Some("a-b.c"));
    }

    #[test]
    fn classes_hold_plain_characters() {
        assert_eq!(whole("^[[a&&b]+$", "[&ab"), Some("[&ab"));
        assert_eq!(whole("[+--]+", ",-"), Some(",-"));
        assert_eq!(whole(r"\<a\>", "<a>"), Some("<a>"));
        assert_eq!(whole("{a}", "{a}"), Some("{a}"));
    }

    #[test]
    fn references_find_the_match_that_python_finds() {
        assert_eq!(groups(r"(?P<s>[-/])b(?P=s)", "-b/ /b/"), Some(vec![Some("/b/"), Some("/")]));
        assert_eq!(groups("(?P<q>\"?)a(?P=q)", "\"a"), Some(vec![Some("a"), Some("")]));
        assert_eq!(whole(r"(a|ab)c\1", "abcab"), Some("abcab"));
    }

    #[test]
    fn conditionals_and_looks_work() {
        assert_eq!(whole(r"^(?P<a>x)?(?(a)y|z)$", "xy"), Some("xy"));
        assert_eq!(whole(r"^(?P<a>x)?(?(a)y|z)$", "z"), Some("z"));
        assert_eq!(whole(r"^(?P<a>x)?(?(a)y|z)$", "xz"), None);
        assert_eq!(whole(r"^(x)?(?(1)y)$", ""), Some(""));
        assert_eq!(whole(r"(?<=\ba\()b", "a(b"), Some("b"));
        assert_eq!(whole(r"(?i:A)(?!b).(?-i:c)", "aXc"), Some("aXc"));
        assert_eq!(whole(r"^(?>a+)ab", "aaab"), None);
        assert_eq!(whole(r"^a++b", "aaab"), Some("aaab"));
        assert_eq!(whole(r"^(?!b){2,3}(?:)*(?=a)*?a(?!b)", "ac"), Some("a"), "what has no width may be repeated");
    }

    #[test]
    fn a_search_can_start_later_and_sees_what_is_before() {
        let pattern = Pattern::new(r"\bb").expect("compiles");
        assert_eq!(pattern.search("ab b", 1), Outcome::Match(Spans(vec![Some((3, 4))])));
        assert_eq!(Pattern::new("^b").expect("compiles").search("ab", 1), Outcome::No);
        assert_eq!(pattern.search("ü", 1), Outcome::No);
    }

    #[test]
    fn a_hopeless_expression_gives_up() {
        let pattern = Pattern::new(r"^(?:(a|aa)+)+(?!b)$").expect("compiles");
        assert_eq!(pattern.search(&format!("{}!", "a".repeat(60)), 0), Outcome::No, "the gate keeps it out");
        let pattern = Pattern::new(r"^((a|aa)+)+(?<!a)$").expect("compiles");
        assert_eq!(pattern.search(&"a".repeat(60), 0), Outcome::GaveUp);
    }
}
