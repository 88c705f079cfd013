//! Rewrites an expression so that it finds another of its matches first.

use super::translate::contains_node;
use super::tree::{Node, QUOTES, RepeatKind};
use std::cell::Cell;

/// The match that is found first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It starts as early as possible, and every repetition takes as little as possible.
    Shortest,
    /// It starts as late as possible, and every repetition takes as much as possible.
    Longest,
}

/// The expression with its repetitions in another order. Groups with a name in `kept`, and all that surrounds them, stay as they are.
///
/// With `quotes_hold_anything`, text in brackets or quotes before those groups may hold any character: a program often logs there what a
/// client sent, whatever the expression expects. Exim logs `H=(HELO)`, and under `helo_accept_junk_hosts` the HELO may hold blanks and brackets.
/// Square brackets at the very start hold the date, which no client writes.
#[must_use]
pub fn reorder(node: &Node, order: Order, kept: &[&str], quotes_hold_anything: bool) -> Node {
    let reordered = Reorder { order, kept, quotes_hold_anything: Cell::new(quotes_hold_anything), is_at_start: Cell::new(true) };
    let reordered = reordered.node(node, false);
    match order {
        Order::Shortest => reordered,
        Order::Longest => {
            let anything = Node::Repeat { node: Box::new(Node::Any { newline: true }), min: 0, max: None, kind: RepeatKind::Greedy };
            Node::Concat(vec![anything, reordered])
        }
    }
}

struct Reorder<'k> {
    order: Order,
    kept: &'k [&'k str],
    /// False behind the first of the kept groups.
    quotes_hold_anything: Cell<bool>,
    /// Whether nothing but assertions and blanks came before.
    is_at_start: Cell<bool>,
}

impl Reorder<'_> {
    /// With `is_quoted`, the node stands behind an opening bracket or quote.
    fn node(&self, node: &Node, is_quoted: bool) -> Node {
        let is_kept = |node: &Node| matches!(node, Node::Capture { name: Some(name), .. } if self.kept.contains(&name.as_str()));
        let again = |node: &Node| Box::new(self.node(node, is_quoted));
        if matches!(node, Node::Literal(character) if !character.is_whitespace()) || matches!(node, Node::Class(_) | Node::Any { .. }) {
            self.is_at_start.set(false);
        }
        match node {
            node if is_kept(node) => {
                self.quotes_hold_anything.set(false);
                node.clone()
            }
            Node::Repeat { node, min, max, kind } => {
                let kind = match (kind, self.order) {
                    (RepeatKind::Possessive, _) => RepeatKind::Possessive,
                    // An optional address is tried first or last as the expression says.
                    (kind, _) if contains_node(node, &is_kept) => *kind,
                    (_, Order::Shortest) => RepeatKind::Lazy,
                    (_, Order::Longest) => RepeatKind::Greedy,
                };
                let node = match node.as_ref() {
                    Node::Class(class) if is_quoted && self.quotes_hold_anything.get() && max.is_none() && class.is_wide() => {
                        Box::new(Node::Any { newline: false })
                    }
                    node => again(node),
                };
                Node::Repeat { node, min: *min, max: *max, kind }
            }
            Node::Alternate(all) => {
                let mut all: Vec<Node> = all.iter().map(|node| self.node(node, is_quoted)).collect();
                if self.order == Order::Longest && !contains_node(node, &is_kept) {
                    all.reverse();
                }
                Node::Alternate(all)
            }
            Node::Concat(all) => {
                let mut is_quoted = is_quoted;
                let mut reordered = Vec::with_capacity(all.len());
                for node in all {
                    let is_at_start = self.is_at_start.get();
                    reordered.push(self.node(node, is_quoted));
                    is_quoted =
                        matches!(node, Node::Literal(character) if QUOTES.contains(character) && !(is_at_start && *character == '['));
                }
                Node::Concat(reordered)
            }
            Node::Capture { index, name, node } => Node::Capture { index: *index, name: name.clone(), node: again(node) },
            Node::Case { insensitive, node } => Node::Case { insensitive: *insensitive, node: again(node) },
            Node::Conditional { group, yes, no } => Node::Conditional { group: *group, yes: again(yes), no: again(no) },
            // Atomic groups and lookarounds have one match only.
            Node::Atomic(_)
            | Node::Look { .. }
            | Node::Empty
            | Node::Literal(_)
            | Node::Any { .. }
            | Node::Class(_)
            | Node::Assert(_)
            | Node::Backreference(_) => node.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fail2ban::regex::{MatchResult, Pattern};

    fn kept(expression: &str, order: Order, text: &str) -> Option<(usize, usize)> {
        let pattern = Pattern::new(expression).expect(expression);
        let group = pattern.group("k").expect("a group");
        match pattern.reordered(order, &["k"], true).expect(expression).search(text, 0) {
            MatchResult::Match(spans) => spans.group(group),
            MatchResult::No | MatchResult::GaveUp => None,
        }
    }

    #[test]
    fn the_first_and_the_last_possible_place_of_a_group_are_found() {
        let text = "a 11 b 22 a 33";
        for expression in [r"a.* (?P<k>\d+)", r"a.*? (?P<k>\d+)", r"a[^x]* (?P<k>\d+)", r"(?:a|b) (?P<k>\d+)", r"(?P<k>\d+)"] {
            assert_eq!(kept(expression, Order::Shortest, text), Some((2, 4)), "{expression}");
            assert_eq!(kept(expression, Order::Longest, text).map(|(_, end)| end), Some(14), "{expression}");
        }
        for order in [Order::Shortest, Order::Longest] {
            assert_eq!(kept(r"^a (?P<k>\d+)", order, text), Some((2, 4)), "anchored");
            assert_eq!(kept(r"^a .*(?<=b )(?P<k>\d+) a", order, text), Some((7, 9)), "with a lookbehind");
            assert_eq!(kept(r"(?P<l>[ab]) (?P<k>\d+) .*(?P=l) ", order, text), Some((2, 4)), "with a back-reference");
        }
        assert_eq!(kept(r"^a \((?:x|(\S+))\) (?P<k>\d+)", Order::Longest, "a (x) 11) 22"), Some((10, 12)), "quoted text may hold blanks");
        assert_eq!(kept(r"a(?: (?P<k>\d+))?", Order::Shortest, text), Some((2, 4)), "an optional group is tried as written");
    }
}
