//! An expression as a tree.

/// One node of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Matches nothing, always.
    Empty,
    /// One character.
    Literal(char),
    /// `.`: any character, a line feed only if `newline`.
    Any {
        /// Whether a line feed matches too (the flag `s`).
        newline: bool,
    },
    /// A character class, or a class escape outside of brackets.
    Class(Class),
    /// A place without width.
    Assert(Assert),
    /// A group that captures.
    Capture {
        /// Its number, from 1.
        index: usize,
        /// Its name, if it has one.
        name: Option<String>,
        /// What is inside.
        node: Box<Node>,
    },
    /// A group that sets or clears "ignore case" for what is inside.
    Case {
        /// Whether case is ignored inside.
        insensitive: bool,
        /// What is inside.
        node: Box<Node>,
    },
    /// A look ahead or behind.
    Look {
        /// Ahead, or else behind.
        ahead: bool,
        /// Whether it must not match.
        negative: bool,
        /// What is looked for.
        node: Box<Node>,
    },
    /// `(?>…)`: no way back into it.
    Atomic(Box<Node>),
    /// One after the other.
    Concat(Vec<Node>),
    /// The first that leads to a match.
    Alternate(Vec<Node>),
    /// Several times.
    Repeat {
        /// What is repeated.
        node: Box<Node>,
        /// At least.
        min: u32,
        /// At most, without a bound if none.
        max: Option<u32>,
        /// In which order the counts are tried.
        kind: RepeatKind,
    },
    /// The text of a group again.
    Backreference(usize),
    /// `(?(group)yes|no)`.
    Conditional {
        /// The group that must have taken part.
        group: usize,
        /// Matched if it has.
        yes: Box<Node>,
        /// Matched if it has not.
        no: Box<Node>,
    },
}

/// The order in which a repetition tries its counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepeatKind {
    /// Most first.
    Greedy,
    /// Fewest first.
    Lazy,
    /// Most, and nothing else.
    Possessive,
}

/// A place without width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assert {
    /// The start of the text.
    TextStart,
    /// The start of any line (`^` with the flag `m`).
    LineStart,
    /// `$`: the end, or before a final line feed.
    LineEnd,
    /// `\Z`: the very end.
    TextEnd,
    /// `\b`.
    Word,
    /// `\B`.
    NotWord,
}

/// A set of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Whether it matches what is not listed.
    pub negated: bool,
    /// What is listed.
    pub items: Vec<ClassItem>,
}

/// A part of a character class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassItem {
    /// From one character to another, both included.
    Range(char, char),
    /// `\w`, `\d`, `\s` and their negations.
    Perl {
        /// Which.
        kind: Perl,
        /// Upper case: what is not of the kind.
        negated: bool,
        /// ASCII only (the flag `a`).
        ascii: bool,
    },
}

/// The kinds of class escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Perl {
    /// Letters, numbers and the underscore.
    Word,
    /// Decimal digits.
    Digit,
    /// White space.
    Space,
}
