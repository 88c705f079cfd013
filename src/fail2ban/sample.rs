//! Builds short lines that an expression matches from its syntax tree, and marks where a client's text could be.

use super::regex::translate::contains_node;
use super::regex::tree::{Class, Node};

/// A part of a sample line.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text that the expression requires.
    Text(String),
    /// The address to blame; IPv6 if true.
    Host(bool),
    /// Where the content of a prefregex goes, which the failregexes match.
    Content,
    /// Any number of characters of a set.
    FreeText(FreeText),
}

/// A repetition of any character of a set, where a client's text could be.
#[derive(Debug, Clone, PartialEq)]
pub struct FreeText {
    /// The allowed characters; none for any but a line feed.
    class: Option<Class>,
    /// The shortest text that satisfies the repetition.
    filler: String,
}

impl FreeText {
    /// Whether `text` satisfies the set.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        text.chars().all(|c| self.class.as_ref().map_or(c != '\n', |class| class.contains(c)))
    }

    /// Whether a program could log ordinary text of a client here, and not only numbers or words.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.class.as_ref().is_none_or(Class::is_wide)
    }

    #[must_use]
    pub fn filler(&self) -> &str {
        &self.filler
    }
}

/// Which of the lines that match an expression a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Whether optional parts are included.
    pub generous: bool,
    /// Whether the last of several alternatives is taken; the first otherwise.
    pub last: bool,
}

/// The pieces of a sample line for an expression.
#[must_use]
pub fn pieces(node: &Node, shape: Shape) -> Vec<Piece> {
    let mut sampler = Sampler { root: node, shape, pieces: Vec::new(), steps: 0 };
    sampler.node(node);
    sampler.pieces
}

/// Maximum number of nodes visited for one sample: nested repetitions can require very long texts.
const MAX_STEPS: u32 = 20_000;

struct Sampler<'n> {
    root: &'n Node,
    shape: Shape,
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
        if self.steps > MAX_STEPS {
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
                // Prefer an address to a host name.
                let host = all.iter().find(|node| contains_node(node, &is_address));
                if let Some(node) = host.or_else(|| if self.shape.last { all.last() } else { all.first() }) {
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
                    self.pieces.push(Piece::FreeText(FreeText { class, filler }));
                    return;
                }
                let generous = self.shape.generous && !is_address_decoration(node);
                let times = if *min == 0 && (generous || contains_node(node, &is_address)) { 1 } else { *min };
                for _ in 0..times.min(1000) {
                    self.node(node);
                }
            }
            Node::Backreference(group) => {
                if let Some(body) = self.root.group(*group) {
                    self.node(body);
                }
            }
            // Whether the group took part is not tracked: a wrong guess only makes a sample that does not match.
            Node::Conditional { yes, no, .. } => self.node(if self.shape.generous { yes } else { no }),
        }
    }
}

/// Whether the node is something optional around an address in `<HOST>`: brackets, or `::ffff:`.
fn is_address_decoration(node: &Node) -> bool {
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

/// A character of a class, an ordinary one if possible.
fn member(class: &Class) -> char {
    let plain = "x1a0 -./_:\"=,@A[(".chars().find(|c| class.contains(*c));
    plain.or_else(|| ('\u{1}'..='\u{2ff}').find(|c| class.contains(*c))).unwrap_or('x')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fail2ban::regex::{MatchResult, Pattern};

    fn sample(expression: &str, generous: bool) -> String {
        let pattern = Pattern::new(expression).expect(expression);
        let line: String = pieces(pattern.node(), Shape { generous, last: false })
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Host(_) => "192.0.2.1".to_owned(),
                Piece::Content => String::new(),
                Piece::FreeText(free) => free.filler().to_owned(),
            })
            .collect();
        assert!(matches!(pattern.search(&line, 0), MatchResult::Match(_)), "{expression} does not match its own sample {line:?}");
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
    fn free_text_holds_the_characters_of_its_set() {
        let pattern = Pattern::new(r"^\S+[^\[]*$").expect("compiles");
        let all = pieces(pattern.node(), Shape { generous: false, last: false });
        let [Piece::FreeText(first), Piece::FreeText(second)] = all.as_slice() else { panic!("{all:?}") };
        assert!(first.holds("a[b") && !first.holds("a b"));
        assert!(second.holds("a b") && !second.holds("a[b"));
    }
}
