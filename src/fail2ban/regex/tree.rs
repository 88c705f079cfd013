//! The syntax tree of an expression.

/// One node of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// The empty expression, which matches everywhere.
    Empty,
    /// One character.
    Literal(char),
    /// `.`: any character; a line feed only if `newline`.
    Any {
        /// Whether a line feed matches too (flag `s`).
        newline: bool,
    },
    /// A character set, or a class escape outside of brackets.
    Class(Class),
    /// A zero-width assertion.
    Assert(Assert),
    /// A capturing group.
    Capture {
        /// The group's number, from 1.
        index: usize,
        /// The group's name, if any.
        name: Option<String>,
        /// The content.
        node: Box<Node>,
    },
    /// A group that sets or clears the flag `i` for its content.
    Case {
        /// Whether case is ignored.
        insensitive: bool,
        /// The content.
        node: Box<Node>,
    },
    /// A lookahead or lookbehind.
    Look {
        /// Whether it looks ahead; behind otherwise.
        ahead: bool,
        /// Whether the content must not match.
        negative: bool,
        /// The content.
        node: Box<Node>,
    },
    /// `(?>…)`: once matched, never retried.
    Atomic(Box<Node>),
    /// A sequence.
    Concat(Vec<Node>),
    /// Alternatives, tried in order.
    Alternate(Vec<Node>),
    /// A repetition.
    Repeat {
        /// The content.
        node: Box<Node>,
        /// Minimum count.
        min: u32,
        /// Maximum count; unbounded if none.
        max: Option<u32>,
        /// The order in which counts are tried.
        kind: RepeatKind,
    },
    /// The text of the group with this number, again.
    Backreference(usize),
    /// `(?(group)yes|no)`.
    Conditional {
        /// The number of the group that decides.
        group: usize,
        /// Matched if the group took part.
        yes: Box<Node>,
        /// Matched if it did not.
        no: Box<Node>,
    },
}

impl Node {
    /// The content of the capturing group with this number.
    #[must_use]
    pub fn group(&self, wanted: usize) -> Option<&Self> {
        match self {
            Self::Capture { index, node, .. } if *index == wanted => Some(node),
            Self::Capture { node, .. }
            | Self::Case { node, .. }
            | Self::Look { node, .. }
            | Self::Repeat { node, .. }
            | Self::Atomic(node) => node.group(wanted),
            Self::Concat(all) | Self::Alternate(all) => all.iter().find_map(|node| node.group(wanted)),
            Self::Conditional { yes, no, .. } => yes.group(wanted).or_else(|| no.group(wanted)),
            Self::Empty | Self::Literal(_) | Self::Any { .. } | Self::Class(_) | Self::Assert(_) | Self::Backreference(_) => None,
        }
    }
}

/// The order in which a repetition tries its counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepeatKind {
    /// Longest first.
    Greedy,
    /// Shortest first.
    Lazy,
    /// Longest only.
    Possessive,
}

/// A zero-width assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assert {
    /// The start of the text.
    TextStart,
    /// The start of any line (`^` with the flag `m`).
    LineStart,
    /// `$`: the end of the text, or before a final line feed.
    LineEnd,
    /// `\Z`: the end of the text.
    TextEnd,
    /// `\b`.
    Word,
    /// `\B`.
    NotWord,
}

/// A set of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Whether it matches the characters that are not listed.
    pub negated: bool,
    /// The listed characters.
    pub items: Vec<ClassItem>,
}

/// The openings of text that a program puts in brackets or quotes.
pub const QUOTES: [char; 6] = ['(', '[', '{', '<', '"', '\''];

impl Class {
    /// Whether a character belongs to the set.
    #[must_use]
    pub fn contains(&self, character: char) -> bool {
        let listed = self.items.iter().any(|item| match *item {
            ClassItem::Range(low, high) => (low..=high).contains(&character),
            ClassItem::Perl { kind, negated, .. } => {
                let is = match kind {
                    Perl::Word => character.is_alphanumeric() || character == '_',
                    Perl::Digit => character.is_ascii_digit(),
                    Perl::Space => character.is_whitespace(),
                };
                is != negated
            }
        });
        listed != self.negated
    }

    /// Whether it is meant for text, and not only for numbers or words.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        "a/:=".chars().all(|character| self.contains(character))
    }
}

/// An item of a character set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassItem {
    /// From the first character to the last, both included.
    Range(char, char),
    /// `\w`, `\d`, `\s` and their negations.
    Perl {
        /// The class.
        kind: Perl,
        /// Whether it is an upper-case escape: all other characters.
        negated: bool,
        /// Whether only ASCII characters belong to the class (flag `a`).
        ascii: bool,
    },
}

/// The classes of `\w`, `\d` and `\s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Perl {
    /// Letters, numbers and the underscore.
    Word,
    /// Decimal digits.
    Digit,
    /// White space.
    Space,
}
