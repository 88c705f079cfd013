//! Compiles an expression for the engine that suits it, and matches.

use super::reorder::{Order, reorder};
use super::syntax;
use super::syntax::Syntax;
use super::translate::{Form, is_comparable, is_linear, translate};
use super::tree::Node;
use std::fmt;

/// Maximum number of backtracking steps on one text.
const BACKTRACK_LIMIT: usize = 100_000;

/// Maximum compiled size of one expression, in bytes.
const SIZE_LIMIT: usize = 64 << 20;

/// A compiled expression.
pub struct Pattern {
    text: String,
    syntax: Syntax,
    strategy: Strategy,
    /// The engine's group for each group of the expression.
    groups: Vec<usize>,
}

/// How an expression is matched.
enum Strategy {
    Linear(regex::Regex),
    /// Linear for texts in whose first match all pairs are equal. It is then the exact match too, as both engines try in the same order.
    Compared {
        linear: regex::Regex,
        equal: Vec<(usize, usize)>,
        linear_groups: Vec<usize>,
        exact: Box<fancy_regex::Regex>,
    },
    /// The linear gate matches wherever the exact expression does, and keeps most texts from it.
    Backtracking {
        gate: regex::Regex,
        exact: Box<fancy_regex::Regex>,
    },
}

/// The byte offsets of the groups of a match; entry 0 is the whole match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spans(Vec<Option<(usize, usize)>>);

impl Spans {
    /// Start and end of a group; none if it took no part.
    #[must_use]
    pub fn group(&self, index: usize) -> Option<(usize, usize)> {
        self.0.get(index).copied().flatten()
    }
}

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MatchResult {
    /// No match.
    No,
    /// A match.
    Match(Spans),
    /// The backtracking engine reached its step limit.
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
    /// The expression is invalid, or too large when compiled.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        Self::compile(text, false)
    }

    /// Compiles an expression with Python's flag `MULTILINE`: `^` matches at the start of each line.
    ///
    /// # Errors
    /// Like [`Pattern::new`].
    pub fn multi_line(text: &str) -> Result<Self, PatternError> {
        Self::compile(text, true)
    }

    fn compile(text: &str, multi_line: bool) -> Result<Self, PatternError> {
        let syntax = syntax::parse_with(text, multi_line).map_err(|error| PatternError(error.to_string()))?;
        Self::from_syntax(text, syntax)
    }

    /// The expression with its matches in another order: [`reorder`].
    ///
    /// # Errors
    /// It is too large when compiled.
    pub fn reordered(&self, order: Order, kept: &[&str], quotes_hold_anything: bool) -> Result<Self, PatternError> {
        let node = reorder(&self.syntax.node, order, kept, quotes_hold_anything);
        Self::from_syntax(&self.text, Syntax { node, names: self.syntax.names.clone() })
    }

    fn from_syntax(text: &str, syntax: Syntax) -> Result<Self, PatternError> {
        let names = syntax.names.len();
        let untranslatable = || PatternError("the expression cannot be translated".to_owned());
        let exact = translate(&syntax.node, names, Form::Exact).ok_or_else(untranslatable)?;
        let strategy = if is_linear(&syntax.node) {
            Strategy::Linear(linear(&exact.text)?)
        } else {
            let fancy = fancy_regex::RegexBuilder::new(&exact.text)
                .backtrack_limit(BACKTRACK_LIMIT)
                .delegate_size_limit(SIZE_LIMIT)
                .build()
                .map_err(|error| PatternError(error.to_string()))?;
            let compared = is_comparable(&syntax.node).then(|| translate(&syntax.node, names, Form::Compared)).flatten();
            if let Some(compared) = compared {
                Strategy::Compared {
                    linear: linear(&compared.text)?,
                    equal: compared.equal,
                    linear_groups: compared.groups,
                    exact: Box::new(fancy),
                }
            } else {
                let gate = translate(&syntax.node, names, Form::Gate).ok_or_else(untranslatable)?;
                Strategy::Backtracking { gate: linear(&gate.text)?, exact: Box::new(fancy) }
            }
        };
        Ok(Self { text: text.to_owned(), syntax, strategy, groups: exact.groups })
    }

    /// Compiles an expression of this program's own.
    pub(crate) fn constant(text: &'static str) -> Self {
        #[expect(clippy::expect_used, reason = "each of them is compiled by a test")]
        Self::new(text).expect("a constant expression compiles")
    }

    /// Replaces every match by the text that `with` makes of its groups.
    pub fn replace_all<'t>(&self, text: &'t str, with: impl Fn(&dyn Fn(usize) -> &'t str) -> String) -> String {
        let mut result = String::new();
        let mut from = 0;
        let mut copied = 0;
        while let MatchResult::Match(spans) = self.search(text, from) {
            let Some((start, end)) = spans.group(0) else { break };
            let group = |number| spans.group(number).and_then(|(start, end)| text.get(start..end)).unwrap_or_default();
            result.push_str(text.get(copied..start).unwrap_or_default());
            result.push_str(&with(&group));
            copied = end;
            // After an empty match the search continues behind the next character, as Python's `re.sub` does.
            from = if end > start { end } else { boundary_from(text, end + 1) };
            if from > text.len() {
                break;
            }
        }
        result.push_str(text.get(copied..).unwrap_or_default());
        result
    }

    /// The text of the expression.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The syntax tree.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.syntax.node
    }

    /// The names of the groups; entry 0 is the whole match.
    #[must_use]
    pub fn names(&self) -> &[Option<String>] {
        &self.syntax.names
    }

    /// The number of the group with this name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<usize> {
        self.syntax.names.iter().position(|known| known.as_deref() == Some(name))
    }

    /// Whether matching always takes linear time.
    #[must_use]
    pub fn is_linear(&self) -> bool {
        matches!(self.strategy, Strategy::Linear(_))
    }

    /// An expression for the linear engine that matches wherever this one does, and perhaps elsewhere.
    #[must_use]
    pub fn gate(&self) -> Option<String> {
        translate(&self.syntax.node, self.syntax.names.len(), Form::Gate).map(|gate| gate.text)
    }

    /// The first match that starts at byte `from` or later. `^`, `\b` and lookbehind still see the text before `from`.
    #[must_use]
    pub fn search(&self, text: &str, from: usize) -> MatchResult {
        if !text.is_char_boundary(from) {
            return MatchResult::No;
        }
        match &self.strategy {
            Strategy::Linear(engine) => {
                if !engine.is_match_at(text, from) {
                    return MatchResult::No;
                }
                engine.captures_at(text, from).map_or(MatchResult::No, |found| MatchResult::Match(spans(&found, &self.groups)))
            }
            Strategy::Compared { linear, equal, linear_groups, exact } => {
                if !linear.is_match_at(text, from) {
                    return MatchResult::No;
                }
                let Some(found) = linear.captures_at(text, from) else { return MatchResult::No };
                let same = |&(one, other): &(usize, usize)| {
                    found.get(one).map(|m| m.as_str()).is_some_and(|one| found.get(other).is_some_and(|other| other.as_str() == one))
                };
                if equal.iter().all(same) {
                    return MatchResult::Match(spans(&found, linear_groups));
                }
                self.backtrack(exact, text, from)
            }
            Strategy::Backtracking { gate, exact } => {
                if gate.is_match_at(text, from) {
                    self.backtrack(exact, text, from)
                } else {
                    MatchResult::No
                }
            }
        }
    }

    fn backtrack(&self, exact: &fancy_regex::Regex, text: &str, from: usize) -> MatchResult {
        match exact.captures_from_pos(text, from) {
            Ok(Some(found)) => MatchResult::Match(Spans(
                self.groups.iter().map(|&group| found.get(group).map(|part| (part.start(), part.end()))).collect(),
            )),
            Ok(None) => MatchResult::No,
            // At run time fancy-regex only fails at its step limit or its stack limit.
            Err(_) => MatchResult::GaveUp,
        }
    }
}

/// The first character boundary at byte `at` or later; `at` itself beyond the end. `str::ceil_char_boundary` needs Rust 1.91.
pub(crate) fn boundary_from(text: &str, at: usize) -> usize {
    (at..text.len()).find(|place| text.is_char_boundary(*place)).unwrap_or_else(|| text.len().max(at))
}

/// The last character boundary at byte `at` or before. `str::floor_char_boundary` needs Rust 1.91.
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
            MatchResult::Match(spans) => Some((0..compiled.names().len()).map(|i| spans.group(i).map(|(s, e)| &text[s..e])).collect()),
            MatchResult::No => None,
            MatchResult::GaveUp => panic!("{pattern} gave up"),
        }
    }

    fn whole<'t>(pattern: &str, text: &'t str) -> Option<&'t str> {
        groups(pattern, text).map(|all| all[0].expect("a match has a span"))
    }

    #[test]
    fn only_lookaround_references_and_possessive_repeats_are_not_linear() {
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
    fn rusts_set_operators_are_plain_characters_in_a_set() {
        assert_eq!(whole("^[[a&&b]+$", "[&ab"), Some("[&ab"));
        assert_eq!(whole("[+--]+", ",-"), Some(",-"));
        assert_eq!(whole(r"\<a\>", "<a>"), Some("<a>"));
        assert_eq!(whole("{a}", "{a}"), Some("{a}"));
    }

    #[test]
    fn a_back_reference_finds_the_match_that_python_finds() {
        assert_eq!(groups(r"(?P<s>[-/])b(?P=s)", "-b/ /b/"), Some(vec![Some("/b/"), Some("/")]));
        assert_eq!(groups("(?P<q>\"?)a(?P=q)", "\"a"), Some(vec![Some("a"), Some("")]));
        assert_eq!(whole(r"(a|ab)c\1", "abcab"), Some("abcab"));
    }

    #[test]
    fn conditionals_lookaround_and_atomic_groups_work() {
        assert_eq!(whole(r"^(?P<a>x)?(?(a)y|z)$", "xy"), Some("xy"));
        assert_eq!(whole(r"^(?P<a>x)?(?(a)y|z)$", "z"), Some("z"));
        assert_eq!(whole(r"^(?P<a>x)?(?(a)y|z)$", "xz"), None);
        assert_eq!(whole(r"^(x)?(?(1)y)$", ""), Some(""));
        assert_eq!(whole(r"(?<=\ba\()b", "a(b"), Some("b"));
        assert_eq!(whole(r"(?i:A)(?!b).(?-i:c)", "aXc"), Some("aXc"));
        assert_eq!(whole(r"^(?>a+)ab", "aaab"), None);
        assert_eq!(whole(r"^a++b", "aaab"), Some("aaab"));
        assert_eq!(whole(r"^(?!b){2,3}(?:)*(?=a)*?a(?!b)", "ac"), Some("a"), "a zero-width item may be repeated");
    }

    #[test]
    fn a_search_that_starts_later_sees_the_text_before() {
        let pattern = Pattern::new(r"\bb").expect("compiles");
        assert_eq!(pattern.search("ab b", 1), MatchResult::Match(Spans(vec![Some((3, 4))])));
        assert_eq!(Pattern::new("^b").expect("compiles").search("ab", 1), MatchResult::No);
        assert_eq!(pattern.search("ü", 1), MatchResult::No);
    }

    #[test]
    fn an_expression_that_backtracks_too_much_gives_up() {
        let pattern = Pattern::new(r"^(?:(a|aa)+)+(?!b)$").expect("compiles");
        assert_eq!(pattern.search(&format!("{}!", "a".repeat(60)), 0), MatchResult::No, "the gate does not match");
        let pattern = Pattern::new(r"^((a|aa)+)+(?<!a)$").expect("compiles");
        assert_eq!(pattern.search(&"a".repeat(60), 0), MatchResult::GaveUp);
    }
}
