//! Writes a Python expression in the syntax of Rust's engines, with the same meaning.
//!
//! The languages differ in ways that no error would show: in Python, `\w` and `\s` are other sets, `$` matches before a final line feed,
//! `\<` is a plain character, and `[`, `&&`, `--` and `~~` have no meaning in a character set.

use super::tree::{Assert, Class, ClassItem, Node, Perl, RepeatKind};
use std::fmt::Write as _;

/// The variants of a translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The expression itself; the linear engine accepts it only if [`is_linear`].
    Exact,
    /// A linear expression without groups that matches wherever the expression does, and sometimes elsewhere.
    Gate,
    /// A linear expression in which each back-reference is a second group with the first one's pattern, to be compared afterwards.
    Compared,
}

/// A translated expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// The text for the engine.
    pub text: String,
    /// The engine's group for each group of the expression; entry 0 is the whole match.
    pub groups: Vec<usize>,
    /// Pairs of the engine's groups that must hold the same text, for [`Form::Compared`].
    pub equal: Vec<(usize, usize)>,
}

/// Translates an expression with `names` groups, the whole match included; none if the form cannot express it.
#[must_use]
pub fn translate(node: &Node, names: usize, form: Form) -> Option<Translation> {
    let mut translator = Translator { form, text: String::new(), next: 1, groups: vec![0; names], equal: Vec::new(), root: node };
    translator.node(node)?;
    Some(Translation { text: translator.text, groups: translator.groups, equal: translator.equal })
}

/// Whether the linear engine can run the whole expression.
#[must_use]
pub fn is_linear(node: &Node) -> bool {
    !contains_node(node, &|node| match node {
        Node::Look { .. } => half_boundary(node).is_none(),
        Node::Atomic(_) | Node::Backreference(_) | Node::Conditional { .. } => true,
        Node::Repeat { kind, .. } => *kind == RepeatKind::Possessive,
        _ => false,
    })
}

/// Whether back-references to groups without groups inside are all that keeps the expression from being linear.
#[must_use]
pub fn is_comparable(node: &Node) -> bool {
    !contains_node(node, &|part| match part {
        Node::Look { .. } => half_boundary(part).is_none(),
        Node::Atomic(_) | Node::Conditional { .. } => true,
        Node::Repeat { kind: RepeatKind::Possessive, .. } => true,
        // Groups that may be missing or repeated are left to the backtracking engine.
        Node::Repeat { node, .. } => contains_node(node, &|inner| matches!(inner, Node::Backreference(_))),
        Node::Backreference(group) => {
            let Some(body) = node.group(*group) else { return true };
            contains_node(body, &|inner| matches!(inner, Node::Capture { .. } | Node::Backreference(_))) || !always_there(node, *group)
        }
        _ => false,
    })
}

/// Whether `test` holds for the node or any node below it. A lookahead that is a mere word boundary is not entered.
pub fn contains_node(node: &Node, test: &dyn Fn(&Node) -> bool) -> bool {
    if test(node) {
        return true;
    }
    if half_boundary(node).is_some() {
        return false;
    }
    match node {
        Node::Empty | Node::Literal(_) | Node::Any { .. } | Node::Class(_) | Node::Assert(_) | Node::Backreference(_) => false,
        Node::Capture { node, .. } | Node::Case { node, .. } | Node::Look { node, .. } | Node::Repeat { node, .. } | Node::Atomic(node) => {
            contains_node(node, test)
        }
        Node::Concat(all) | Node::Alternate(all) => all.iter().any(|node| contains_node(node, test)),
        Node::Conditional { yes, no, .. } => contains_node(yes, test) || contains_node(no, test),
    }
}

/// Whether all its matches are empty.
fn has_no_width(node: &Node) -> bool {
    match node {
        Node::Empty | Node::Assert(_) | Node::Look { .. } => true,
        Node::Literal(_) | Node::Any { .. } | Node::Class(_) | Node::Backreference(_) => false,
        Node::Capture { node, .. } | Node::Case { node, .. } | Node::Atomic(node) => has_no_width(node),
        Node::Repeat { node, max, .. } => *max == Some(0) || has_no_width(node),
        Node::Concat(all) | Node::Alternate(all) => all.iter().all(has_no_width),
        Node::Conditional { yes, no, .. } => has_no_width(yes) && has_no_width(no),
    }
}

/// Whether every match passes through group `wanted` exactly once.
fn always_there(node: &Node, wanted: usize) -> bool {
    match node {
        Node::Capture { index, node, .. } => *index == wanted || always_there(node, wanted),
        Node::Case { node, .. } => always_there(node, wanted),
        Node::Concat(all) => all.iter().any(|node| always_there(node, wanted)),
        _ => false,
    }
}

/// The linear equivalent of fail2ban's word boundaries around dates, `(?=^|\b|\W)` and `(?=\b|\W|$)`.
///
/// The first only fails between two word characters, so it equals "no word character before, or a boundary"; the second likewise.
fn half_boundary(node: &Node) -> Option<&'static str> {
    let Node::Look { ahead: true, negative: false, node } = node else { return None };
    let Node::Alternate(all) = node.as_ref() else { return None };
    let not_word = |node: &Node| {
        matches!(node, Node::Class(Class { negated: false, items })
            if matches!(items.as_slice(), [ClassItem::Perl { kind: Perl::Word, negated: true, .. }]))
    };
    match all.as_slice() {
        [Node::Assert(Assert::TextStart), Node::Assert(Assert::Word), third] if not_word(third) => Some(r"(?:\b{start-half}|\b)"),
        [Node::Assert(Assert::Word), second, Node::Assert(Assert::LineEnd)] if not_word(second) => Some(r"(?:\b{end-half}|\b)"),
        _ => None,
    }
}

struct Translator<'n> {
    form: Form,
    text: String,
    next: usize,
    groups: Vec<usize>,
    equal: Vec<(usize, usize)>,
    root: &'n Node,
}

impl Translator<'_> {
    /// Writes a node as an atom, in a group of its own where needed.
    fn atom(&mut self, node: &Node) -> Option<()> {
        let bare = matches!(node, Node::Literal(_) | Node::Any { .. } | Node::Class(_) | Node::Capture { .. });
        if bare && self.form != Form::Gate {
            return self.node(node);
        }
        self.text.push_str("(?:");
        self.node(node)?;
        self.text.push(')');
        Some(())
    }

    fn node(&mut self, node: &Node) -> Option<()> {
        match node {
            Node::Empty => {}
            Node::Literal(character) => self.literal(*character),
            Node::Any { newline } => self.text.push_str(if *newline { "(?s:.)" } else { "." }),
            Node::Class(class) => self.class(class),
            Node::Assert(assert) => self.text.push_str(match assert {
                Assert::TextStart => r"\A",
                Assert::LineStart => "(?m:^)",
                Assert::LineEnd => "(?m:$)",
                Assert::TextEnd => r"\z",
                Assert::Word => r"\b",
                Assert::NotWord => r"\B",
            }),
            Node::Capture { index, node, .. } => {
                if self.form == Form::Gate {
                    return self.atom(node);
                }
                if let Some(group) = self.groups.get_mut(*index) {
                    *group = self.next;
                }
                self.next += 1;
                self.text.push('(');
                self.node(node)?;
                self.text.push(')');
            }
            Node::Case { insensitive, node } => {
                self.text.push_str(if *insensitive { "(?i:" } else { "(?-i:" });
                self.node(node)?;
                self.text.push(')');
            }
            Node::Look { ahead, negative, node: inside } => match (half_boundary(node), self.form) {
                // fancy-regex does not know the half boundaries.
                (Some(boundary), Form::Gate | Form::Compared) => self.text.push_str(boundary),
                (Some(boundary), Form::Exact) if is_linear(self.root) => self.text.push_str(boundary),
                (_, Form::Gate) => {}
                (None, Form::Compared) => return None,
                (_, Form::Exact) => {
                    self.text.push_str(match (ahead, negative) {
                        (true, false) => "(?=",
                        (true, true) => "(?!",
                        (false, false) => "(?<=",
                        (false, true) => "(?<!",
                    });
                    self.node(inside)?;
                    self.text.push(')');
                }
            },
            Node::Atomic(node) => {
                self.text.push_str(if self.form == Form::Exact { "(?>" } else { "(?:" });
                self.node(node)?;
                self.text.push(')');
            }
            Node::Concat(all) => {
                for node in all {
                    if matches!(node, Node::Alternate(_)) {
                        self.atom(node)?;
                    } else {
                        self.node(node)?;
                    }
                }
            }
            Node::Alternate(all) => {
                for (number, node) in all.iter().enumerate() {
                    if number > 0 {
                        self.text.push('|');
                    }
                    self.node(node)?;
                }
            }
            // fancy-regex does not repeat what has no width. Once is as good as many times, and a greedy repetition tries it first.
            Node::Repeat { node, min, max, kind } if self.form == Form::Exact && has_no_width(node) => {
                if *max == Some(0) {
                    return Some(());
                }
                self.text.push_str(if *min == 0 && *kind == RepeatKind::Lazy { "(?:|" } else { "(?:" });
                self.node(node)?;
                self.text.push_str(if *min == 0 && *kind != RepeatKind::Lazy { "|)" } else { ")" });
            }
            Node::Repeat { node, min, max, kind } => {
                let atomic = *kind == RepeatKind::Possessive && self.form == Form::Exact;
                if atomic {
                    self.text.push_str("(?>");
                }
                self.atom(node)?;
                match (min, max) {
                    (0, None) => self.text.push('*'),
                    (1, None) => self.text.push('+'),
                    (0, Some(1)) => self.text.push('?'),
                    (min, None) => write!(self.text, "{{{min},}}").ok()?,
                    (min, Some(max)) => write!(self.text, "{{{min},{max}}}").ok()?,
                }
                if *kind == RepeatKind::Lazy {
                    self.text.push('?');
                }
                if atomic {
                    self.text.push(')');
                }
            }
            Node::Backreference(group) => match self.form {
                Form::Exact => write!(self.text, r"(?:\{group})").ok()?,
                Form::Gate => self.text.push_str("(?s:.*)"),
                Form::Compared => {
                    let body = self.root.group(*group)?;
                    self.equal.push((*self.groups.get(*group)?, self.next));
                    self.next += 1;
                    self.text.push('(');
                    self.node(body)?;
                    self.text.push(')');
                }
            },
            Node::Conditional { group, yes, no } => {
                if self.form == Form::Exact {
                    write!(self.text, "(?({group})").ok()?;
                } else {
                    self.text.push_str("(?:");
                }
                self.text.push_str("(?:");
                self.node(yes)?;
                self.text.push_str(")|(?:");
                self.node(no)?;
                self.text.push_str("))");
            }
        }
        Some(())
    }

    fn literal(&mut self, character: char) {
        match character {
            '\n' => self.text.push_str(r"\n"),
            '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' => {
                self.text.push('\\');
                self.text.push(character);
            }
            other => self.text.push(other),
        }
    }

    fn class(&mut self, class: &Class) {
        self.text.push_str(if class.negated { "[^" } else { "[" });
        for item in &class.items {
            match *item {
                ClassItem::Range(low, high) => {
                    self.class_character(low);
                    if low != high {
                        self.text.push('-');
                        self.class_character(high);
                    }
                }
                ClassItem::Perl { kind, negated, ascii } => {
                    let set = match (kind, ascii) {
                        (Perl::Word, false) => r"\p{L}\p{N}_",
                        (Perl::Word, true) => "a-zA-Z0-9_",
                        (Perl::Digit, false) => r"\d",
                        (Perl::Digit, true) => "0-9",
                        (Perl::Space, false) => r"\s\x1c-\x1f",
                        (Perl::Space, true) => r" \t-\r",
                    };
                    if negated {
                        self.text.push_str("[^");
                        self.text.push_str(set);
                        self.text.push(']');
                    } else {
                        self.text.push_str(set);
                    }
                }
            }
        }
        self.text.push(']');
    }

    fn class_character(&mut self, character: char) {
        match character {
            '\n' => self.text.push_str(r"\n"),
            '\\' | '[' | ']' | '^' | '-' | '&' | '~' => {
                self.text.push('\\');
                self.text.push(character);
            }
            other => self.text.push(other),
        }
    }
}
