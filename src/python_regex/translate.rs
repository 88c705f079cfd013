//! Writes a Python expression in the syntax of Rust's engines, so that it means the same.
//!
//! Where the two languages differ in silence: `\w` and `\s` are other sets, `$` matches before a final line feed,
//! `\<` is a plain character, and `[`, `&&`, `--` and `~~` have no meaning in a class.

use super::tree::{Assert, Class, ClassItem, Node, Perl, RepeatKind};
use std::fmt::Write as _;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The expression as it is; for the linear engine only if [`is_linear`].
    Exact,
    /// Linear, without groups: matches wherever the expression matches, and sometimes elsewhere.
    Gate,
    /// Linear, with groups: a back-reference is a second group with the pattern of the first, to be compared afterwards.
    Compared,
}

/// A translated expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// The text for the engine.
    pub text: String,
    /// Which group of the engine is which group of the expression (entry 0: the whole match).
    pub groups: Vec<usize>,
    /// Pairs of groups of the engine that must hold the same text ([`Form::Compared`]).
    pub equal: Vec<(usize, usize)>,
}

/// Translates; nothing if the form cannot express it.
#[must_use]
pub fn translate(node: &Node, names: usize, form: Form) -> Option<Translation> {
    let mut writer = Writer { form, text: String::new(), next: 1, groups: vec![0; names], equal: Vec::new(), root: node };
    writer.node(node)?;
    Some(Translation { text: writer.text, groups: writer.groups, equal: writer.equal })
}

/// Whether the linear engine understands all of it.
#[must_use]
pub fn is_linear(node: &Node) -> bool {
    !any(node, &|node| match node {
        Node::Look { .. } => half_boundary(node).is_none(),
        Node::Atomic(_) | Node::Backreference(_) | Node::Conditional { .. } => true,
        Node::Repeat { kind, .. } => *kind == RepeatKind::Possessive,
        _ => false,
    })
}

/// Whether the only thing that is not linear is a back-reference to a group without groups inside.
#[must_use]
pub fn is_comparable(node: &Node) -> bool {
    !any(node, &|part| match part {
        Node::Look { .. } => half_boundary(part).is_none(),
        Node::Atomic(_) | Node::Conditional { .. } => true,
        Node::Repeat { kind: RepeatKind::Possessive, .. } => true,
        // A group or its copy that may be missing or repeated would need more care than it is worth.
        Node::Repeat { node, .. } => any(node, &|inner| matches!(inner, Node::Backreference(_))),
        Node::Backreference(group) => {
            let Some(body) = find_group(node, *group) else { return true };
            any(body, &|inner| matches!(inner, Node::Capture { .. } | Node::Backreference(_))) || !always_there(node, *group)
        }
        _ => false,
    })
}

/// Whether `test` holds for the node or any below it. A look that is a mere word boundary is not entered.
pub fn any(node: &Node, test: &dyn Fn(&Node) -> bool) -> bool {
    if test(node) {
        return true;
    }
    if half_boundary(node).is_some() {
        return false;
    }
    match node {
        Node::Empty | Node::Literal(_) | Node::Any { .. } | Node::Class(_) | Node::Assert(_) | Node::Backreference(_) => false,
        Node::Capture { node, .. } | Node::Case { node, .. } | Node::Look { node, .. } | Node::Repeat { node, .. } | Node::Atomic(node) => {
            any(node, test)
        }
        Node::Concat(all) | Node::Alternate(all) => all.iter().any(|node| any(node, test)),
        Node::Conditional { yes, no, .. } => any(yes, test) || any(no, test),
    }
}

/// The inside of group `wanted`.
fn find_group(node: &Node, wanted: usize) -> Option<&Node> {
    match node {
        Node::Capture { index, node, .. } if *index == wanted => Some(node),
        Node::Capture { node, .. } | Node::Case { node, .. } | Node::Look { node, .. } | Node::Repeat { node, .. } | Node::Atomic(node) => {
            find_group(node, wanted)
        }
        Node::Concat(all) | Node::Alternate(all) => all.iter().find_map(|node| find_group(node, wanted)),
        Node::Conditional { yes, no, .. } => find_group(yes, wanted).or_else(|| find_group(no, wanted)),
        _ => None,
    }
}

/// Whether whatever it matches is empty.
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

/// Whether every match goes through group `wanted` exactly once.
fn always_there(node: &Node, wanted: usize) -> bool {
    match node {
        Node::Capture { index, node, .. } => *index == wanted || always_there(node, wanted),
        Node::Case { node, .. } => always_there(node, wanted),
        Node::Concat(all) => all.iter().any(|node| always_there(node, wanted)),
        _ => false,
    }
}

/// fail2ban's word boundaries around dates, `(?=^|\b|\W)` and `(?=\b|\W|$)`, without looking ahead.
///
/// The first only fails between two word characters, which is what "no word character before, or a boundary" says; the second likewise.
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

struct Writer<'n> {
    form: Form,
    text: String,
    next: usize,
    groups: Vec<usize>,
    equal: Vec<(usize, usize)>,
    root: &'n Node,
}

impl Writer<'_> {
    /// A node as one atom.
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
                // The backtracking engine is given what it knows.
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
            // The backtracking engine repeats nothing without width. Once is as good as often, and trying comes before leaving out.
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
                    let body = find_group(self.root, *group)?;
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
