//! Lines that an expression matches, made from its tree: short ones, with the places marked where a client could write.

use crate::python_regex::tree::{Class, ClassItem, Node, Perl};

/// A part of a sample line.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text that the expression asks for.
    Text(String),
    /// Who is blamed; IPv6 if true.
    Host(bool),
    /// Where a prefregex hands on to the failregexes.
    Content,
    /// Any number of characters of a set.
    Slot(Slot),
}

/// A place for any number of characters of a set.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    class: Option<Class>,
    /// The least that it must hold.
    filler: String,
}

impl Slot {
    /// Whether a text can stand here.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        text.chars().all(|c| self.class.as_ref().map_or(c != '\n', |class| contains(class, c)))
    }

    /// The least that must stand here.
    #[must_use]
    pub fn filler(&self) -> &str {
        &self.filler
    }
}

/// A sample of an expression. `generous`: what may be left out is put in.
#[must_use]
pub fn pieces(node: &Node, generous: bool) -> Vec<Piece> {
    let mut sampler = Sampler { root: node, generous, pieces: Vec::new(), steps: 0 };
    sampler.node(node);
    sampler.pieces
}

/// Samples are bounded: an expression can ask for very long texts.
const MOST_STEPS: u32 = 20_000;

struct Sampler<'n> {
    root: &'n Node,
    generous: bool,
    pieces: Vec<Piece>,
    steps: u32,
}

impl Sampler<'_> {
    fn text(&mut self, character: char) {
        if let Some(Piece::Text(text)) = self.pieces.last_mut() {
            text.push(character);
        } else {
            self.pieces.push(Piece::Text(character.to_string()));
        }
    }

    fn node(&mut self, node: &Node) {
        self.steps += 1;
        if self.steps > MOST_STEPS {
            return;
        }
        match node {
            Node::Empty | Node::Assert(_) | Node::Look { .. } => {}
            Node::Literal(character) => self.text(*character),
            Node::Any { .. } => self.text('x'),
            Node::Class(class) => self.text(member(class)),
            Node::Capture { name, node, .. } => match name.as_deref() {
                Some("ip4") => self.pieces.push(Piece::Host(false)),
                Some("ip6") => self.pieces.push(Piece::Host(true)),
                Some("content") => self.pieces.push(Piece::Content),
                _ => self.node(node),
            },
            Node::Case { node, .. } | Node::Atomic(node) => self.node(node),
            Node::Concat(all) => all.iter().for_each(|node| self.node(node)),
            Node::Alternate(all) => {
                // An address rather than a name.
                let host = all.iter().find(|node| crate::python_regex::translate::any(node, &is_address));
                if let Some(node) = host.or_else(|| all.first()) {
                    self.node(node);
                }
            }
            Node::Repeat { node, min, max, .. } => {
                let class = match node.as_ref() {
                    Node::Any { .. } => Some(None),
                    Node::Class(class) => Some(Some(class.clone())),
                    _ => None,
                };
                if let Some(class) = class
                    && max.is_none_or(|max| max >= 8)
                {
                    let filler = class.as_ref().map_or('x', member).to_string().repeat((*min).min(1000) as usize);
                    self.pieces.push(Piece::Slot(Slot { class, filler }));
                    return;
                }
                let generous = self.generous && !is_dress(node);
                let times = if *min == 0 && (generous || crate::python_regex::translate::any(node, &is_address)) { 1 } else { *min };
                for _ in 0..times.min(1000) {
                    self.node(node);
                }
            }
            Node::Backreference(group) => {
                if let Some(body) = group_body(self.root, *group) {
                    self.node(body);
                }
            }
            // Deciding what took part is left to the trial of the line.
            Node::Conditional { yes, no, .. } => self.node(if self.generous { yes } else { no }),
        }
    }
}

/// What `<HOST>` lets stand around an address: brackets, and `::ffff:`.
fn is_dress(node: &Node) -> bool {
    match node {
        Node::Literal('[' | ']') => true,
        Node::Concat(all) => {
            matches!(all.as_slice(), [Node::Literal(':'), Node::Literal(':'), Node::Repeat { node, .. }, ..] if **node == Node::Literal('f'))
        }
        _ => false,
    }
}

fn is_address(node: &Node) -> bool {
    matches!(node, Node::Capture { name: Some(name), .. } if name == "ip4" || name == "ip6")
}

fn group_body(node: &Node, wanted: usize) -> Option<&Node> {
    match node {
        Node::Capture { index, node, .. } if *index == wanted => Some(node),
        Node::Capture { node, .. } | Node::Case { node, .. } | Node::Look { node, .. } | Node::Repeat { node, .. } | Node::Atomic(node) => {
            group_body(node, wanted)
        }
        Node::Concat(all) | Node::Alternate(all) => all.iter().find_map(|node| group_body(node, wanted)),
        Node::Conditional { yes, no, .. } => group_body(yes, wanted).or_else(|| group_body(no, wanted)),
        _ => None,
    }
}

fn contains(class: &Class, character: char) -> bool {
    let listed = class.items.iter().any(|item| match *item {
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
    listed != class.negated
}

/// A character of a class, a plain one if there is one.
fn member(class: &Class) -> char {
    let plain = "x1a0 -./_:\"=,@A[(".chars().find(|c| contains(class, *c));
    plain.or_else(|| ('\u{1}'..='\u{2ff}').find(|c| contains(class, *c))).unwrap_or('x')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python_regex::{Outcome, Pattern};

    fn sample(expression: &str, generous: bool) -> String {
        let pattern = Pattern::new(expression).expect(expression);
        let line: String = pieces(pattern.node(), generous)
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Host(_) => "192.0.2.1".to_owned(),
                Piece::Content => String::new(),
                Piece::Slot(slot) => slot.filler().to_owned(),
            })
            .collect();
        assert!(matches!(pattern.search(&line, 0), Outcome::Match(_)), "{expression} does not match its own sample {line:?}");
        line
    }

    #[test]
    fn a_sample_matches_its_expression() {
        for expression in [
            r"^a\d+(?:b|c)*[^\s\w]+ x{3}.*$",
            r"^(?P<ip4>(?:\d{1,3}\.){3}\d{1,3})|b$",
            r"^(?P<q>[^\w])x(?P=q)\S{2}$",
            r"^(?P<a>y)?(?(a)b|c)$",
            r"^[\x00-\x1f]+$",
        ] {
            sample(expression, false);
        }
        assert_eq!(sample("^a(?:bc)?d*$", true), "abcd");
        assert_eq!(sample("^a(?:bc)?d*$", false), "a");
    }

    #[test]
    fn a_slot_holds_what_its_set_holds() {
        let pattern = Pattern::new(r"^\S+[^\[]*$").expect("compiles");
        let all = pieces(pattern.node(), false);
        let [Piece::Slot(first), Piece::Slot(second)] = all.as_slice() else { panic!("{all:?}") };
        assert!(first.holds("a[b") && !first.holds("a b"));
        assert!(second.holds("a b") && !second.holds("a[b"));
    }
}
