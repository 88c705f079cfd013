//! Parses the syntax of Python's `re` (3.11) into a tree: alternatives, repetitions and groups.

use super::tree::{Assert, Node, RepeatKind};
use std::fmt;

/// Why a text is not a valid expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// The place of the fault, in characters from 0.
    pub position: usize,
    /// What was found or is missing, in the words of Python's `re.error`.
    pub message: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at position {}", self.message, self.position)
    }
}

impl std::error::Error for SyntaxError {}

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syntax {
    /// The syntax tree.
    pub node: Node,
    /// The names of the groups; entry 0 is the whole match.
    pub names: Vec<Option<String>>,
}

/// Maximum nesting of groups: everything that reads the tree is recursive.
const MAX_DEPTH: usize = 150;

/// Parses an expression.
///
/// Python 3.11 rejects a flag group such as `(?i)` in the middle of an expression; here it applies to the whole, as in older versions.
///
/// # Errors
/// The first fault and its place.
#[cfg(test)]
pub fn parse(text: &str) -> Result<Syntax, SyntaxError> {
    parse_with(text, false)
}

/// Parses an expression. With `multi_line`, the flag `m` is set from the start.
///
/// # Errors
/// The first fault and its place.
pub fn parse_with(text: &str, multi_line: bool) -> Result<Syntax, SyntaxError> {
    let characters: Vec<char> = text.chars().collect();
    let mut flags = Flags { multi_line, ..Flags::default() };
    // A global flag may come late but applies from the start: parse again with the flags found until there are no new ones.
    for _ in 0..8 {
        let mut parser = RegexParser { text: &characters, at: 0, names: vec![None], open: Vec::new(), found: flags, depth: 0 };
        let node = parser.alternatives(flags)?;
        if parser.at < characters.len() {
            return Err(parser.error("unbalanced parenthesis"));
        }
        if parser.found == flags {
            let node = if flags.insensitive { Node::Case { insensitive: true, node: Box::new(node) } } else { node };
            return Ok(Syntax { node, names: parser.names });
        }
        flags = parser.found;
    }
    Err(SyntaxError { position: 0, message: "contradictory flags".to_owned() })
}

/// The flags `i`, `m`, `s`, `x` and `a`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flags {
    insensitive: bool,
    multi_line: bool,
    dot_all: bool,
    verbose: bool,
    pub(super) ascii: bool,
}

impl Flags {
    fn set(&mut self, letter: char, on: bool) -> bool {
        match letter {
            'i' => self.insensitive = on,
            'm' => self.multi_line = on,
            's' => self.dot_all = on,
            'x' => self.verbose = on,
            'a' => self.ascii = on,
            'u' => self.ascii = false,
            'L' => {}
            _ => return false,
        }
        true
    }
}

/// A recursive-descent parser.
pub(super) struct RegexParser<'t> {
    text: &'t [char],
    pub(super) at: usize,
    pub(super) names: Vec<Option<String>>,
    /// Groups that are still open: a reference to one is an error.
    pub(super) open: Vec<usize>,
    /// Global flags, those of later flag groups included.
    found: Flags,
    depth: usize,
}

impl RegexParser<'_> {
    pub(super) fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    pub(super) fn peek_after(&self, offset: usize) -> Option<char> {
        self.text.get(self.at + offset).copied()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += 1;
        Some(character)
    }

    pub(super) fn take(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        self.at += usize::from(found);
        found
    }

    pub(super) fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { position: self.at, message: message.into() }
    }

    fn alternatives(&mut self, flags: Flags) -> Result<Node, SyntaxError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(format!("groups nested deeper than {MAX_DEPTH}")));
        }
        let mut all = vec![self.sequence(flags)?];
        while self.take('|') {
            all.push(self.sequence(flags)?);
        }
        self.depth -= 1;
        Ok(match (all.pop(), all.is_empty()) {
            (Some(only), true) => only,
            (Some(last), false) => {
                all.push(last);
                Node::Alternate(all)
            }
            (None, _) => Node::Empty,
        })
    }

    fn sequence(&mut self, flags: Flags) -> Result<Node, SyntaxError> {
        let mut all = Vec::new();
        while let Some(character) = self.peek() {
            if character == '|' || character == ')' {
                break;
            }
            if flags.verbose {
                if matches!(character, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}') {
                    self.at += 1;
                    continue;
                }
                if character == '#' {
                    while self.next().is_some_and(|c| c != '\n') {}
                    continue;
                }
            }
            let start = self.at;
            let Some(atom) = self.atom(flags)? else { continue };
            let atom = self.repetition(atom, start)?;
            all.push(atom);
        }
        Ok(match all.len() {
            0 => Node::Empty,
            1 => all.pop().unwrap_or(Node::Empty),
            _ => Node::Concat(all),
        })
    }

    fn repetition(&mut self, atom: Node, start: usize) -> Result<Node, SyntaxError> {
        let Some((min, max)) = self.count()? else { return Ok(atom) };
        if matches!(atom, Node::Assert(_)) {
            self.at = start;
            return Err(self.error("nothing to repeat"));
        }
        let kind = if self.take('?') {
            RepeatKind::Lazy
        } else if self.take('+') {
            RepeatKind::Possessive
        } else {
            RepeatKind::Greedy
        };
        let before = self.at;
        if self.count()?.is_some() {
            self.at = before;
            return Err(self.error("multiple repeat"));
        }
        Ok(Node::Repeat { node: Box::new(atom), min, max, kind })
    }

    /// The repetition count at this place, if any. A `{` that begins none is a plain character.
    fn count(&mut self) -> Result<Option<(u32, Option<u32>)>, SyntaxError> {
        let found = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                let mut at = self.at + 1;
                let number = |at: &mut usize| {
                    let start = *at;
                    while self.text.get(*at).is_some_and(char::is_ascii_digit) {
                        *at += 1;
                    }
                    self.text.get(start..*at).unwrap_or_default().iter().collect::<String>()
                };
                let low = number(&mut at);
                let high = if self.text.get(at) == Some(&',') {
                    at += 1;
                    number(&mut at)
                } else {
                    low.clone()
                };
                let any = at > self.at + 1;
                if !any || self.text.get(at) != Some(&'}') {
                    return Ok(None);
                }
                let read = |digits: &str| digits.parse::<u32>().map_err(|_| self.error("the repetition number is too large"));
                let min = if low.is_empty() { 0 } else { read(&low)? };
                let max = if high.is_empty() { None } else { Some(read(&high)?) };
                if max.is_some_and(|max| max < min) {
                    return Err(self.error("min repeat greater than max repeat"));
                }
                self.at = at + 1;
                return Ok(Some((min, max)));
            }
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(found))
    }

    fn atom(&mut self, flags: Flags) -> Result<Option<Node>, SyntaxError> {
        let Some(character) = self.next() else { return Ok(None) };
        Ok(Some(match character {
            '.' => Node::Any { newline: flags.dot_all },
            '^' => Node::Assert(if flags.multi_line { Assert::LineStart } else { Assert::TextStart }),
            '$' => Node::Assert(Assert::LineEnd),
            '[' => self.class(flags)?,
            '(' => return self.group(flags),
            '*' | '+' | '?' => {
                self.at -= 1;
                return Err(self.error("nothing to repeat"));
            }
            '\\' => self.escape(flags)?,
            other => Node::Literal(other),
        }))
    }

    fn group(&mut self, flags: Flags) -> Result<Option<Node>, SyntaxError> {
        let start = self.at;
        if !self.take('?') {
            return self.capture(None, flags).map(Some);
        }
        let Some(character) = self.next() else { return Err(self.error("unexpected end of pattern")) };
        let node = match character {
            ':' => self.closed(flags)?,
            '=' => Node::Look { ahead: true, negative: false, node: Box::new(self.closed(flags)?) },
            '!' => Node::Look { ahead: true, negative: true, node: Box::new(self.closed(flags)?) },
            '>' => Node::Atomic(Box::new(self.closed(flags)?)),
            '#' => {
                while self.next().is_some_and(|c| c != ')') {}
                return Ok(None);
            }
            '<' => match self.next() {
                Some('=') => Node::Look { ahead: false, negative: false, node: Box::new(self.closed(flags)?) },
                Some('!') => Node::Look { ahead: false, negative: true, node: Box::new(self.closed(flags)?) },
                _ => return Err(self.error("unknown extension, expected (?<=…) or (?<!…)")),
            },
            'P' => match self.next() {
                Some('<') => {
                    let name = self.until('>')?;
                    if !is_name(&name) {
                        return Err(self.error(format!("bad group name {name:?}")));
                    }
                    return self.capture(Some(name), flags).map(Some);
                }
                Some('=') => {
                    let name = self.until(')')?;
                    Node::Backreference(self.closed_group(&name)?)
                }
                _ => return Err(self.error("unknown extension, expected (?P<name>…) or (?P=name)")),
            },
            '(' => {
                let name = self.until(')')?;
                let group = match name.parse::<usize>() {
                    Ok(number) if number > 0 && number < self.names.len() => number,
                    Ok(_) => return Err(self.error(format!("invalid group reference {name}"))),
                    Err(_) => self.group_of(&name)?,
                };
                let yes = self.sequence(flags)?;
                let no = if self.take('|') { self.sequence(flags)? } else { Node::Empty };
                if self.peek() == Some('|') {
                    return Err(self.error("conditional with more than two branches"));
                }
                if !self.take(')') {
                    return Err(self.error("missing ), unterminated group"));
                }
                Node::Conditional { group, yes: Box::new(yes), no: Box::new(no) }
            }
            _ => {
                self.at = start + 1;
                return self.flag_group(flags);
            }
        };
        Ok(Some(node))
    }

    fn flag_group(&mut self, flags: Flags) -> Result<Option<Node>, SyntaxError> {
        let mut inner = flags;
        let mut global = self.found;
        let mut on = true;
        loop {
            match self.next() {
                Some('-') if on => on = false,
                Some(')') if on => {
                    self.found = global;
                    return Ok(None);
                }
                Some(':') => break,
                Some(letter) if inner.set(letter, on) => {
                    global.set(letter, on);
                }
                _ => return Err(self.error("unknown extension or flag")),
            }
        }
        let node = self.closed(inner)?;
        Ok(Some(if inner.insensitive == flags.insensitive {
            node
        } else {
            Node::Case { insensitive: inner.insensitive, node: Box::new(node) }
        }))
    }

    fn capture(&mut self, name: Option<String>, flags: Flags) -> Result<Node, SyntaxError> {
        if name.is_some() && self.names.contains(&name) {
            return Err(self.error(format!("redefinition of group name {:?}", name.unwrap_or_default())));
        }
        let index = self.names.len();
        self.names.push(name.clone());
        self.open.push(index);
        let node = Box::new(self.closed(flags)?);
        self.open.pop();
        Ok(Node::Capture { index, name, node })
    }

    fn closed(&mut self, flags: Flags) -> Result<Node, SyntaxError> {
        let node = self.alternatives(flags)?;
        if self.take(')') { Ok(node) } else { Err(self.error("missing ), unterminated group")) }
    }

    fn until(&mut self, end: char) -> Result<String, SyntaxError> {
        let start = self.at;
        while let Some(character) = self.next() {
            if character == end {
                return Ok(self.text.get(start..self.at - 1).unwrap_or_default().iter().collect());
            }
        }
        Err(self.error(format!("missing {end}, unterminated name")))
    }

    fn group_of(&self, name: &str) -> Result<usize, SyntaxError> {
        self.names.iter().position(|known| known.as_deref() == Some(name)).ok_or_else(|| self.error(format!("unknown group name {name:?}")))
    }

    fn closed_group(&self, name: &str) -> Result<usize, SyntaxError> {
        let group = self.group_of(name)?;
        if self.open.contains(&group) { Err(self.error("cannot refer to an open group")) } else { Ok(group) }
    }
}

fn is_name(name: &str) -> bool {
    name.chars().next().is_some_and(|c| c == '_' || c.is_alphabetic()) && name.chars().all(|c| c == '_' || c.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::super::tree::ClassItem;
    use super::*;

    fn message(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn a_brace_that_begins_no_count_is_a_character() {
        assert_eq!(parse("{").expect("one character").node, Node::Literal('{'));
        assert!(matches!(parse("a{,3}").expect("a count").node, Node::Repeat { min: 0, max: Some(3), .. }));
        assert!(matches!(parse("a{x}").expect("characters").node, Node::Concat(all) if all.len() == 4));
    }

    #[test]
    fn a_bracket_is_a_character_at_the_start_of_a_set() {
        let Node::Class(class) = parse("[]a-]").expect("a class").node else { panic!("no class") };
        assert_eq!(class.items, [ClassItem::Range(']', ']'), ClassItem::Range('a', 'a'), ClassItem::Range('-', '-')]);
    }

    #[test]
    fn an_error_names_its_place() {
        assert_eq!(message("(a"), "missing ), unterminated group at position 2");
        assert_eq!(message("a)"), "unbalanced parenthesis at position 1");
        assert_eq!(message("*a"), "nothing to repeat at position 0");
        assert_eq!(message("a**"), "multiple repeat at position 2");
        assert_eq!(message(r"\q"), r"bad escape \q at position 2");
        assert_eq!(message("(?P<a>x)(?P<a>y)"), "redefinition of group name \"a\" at position 14");
        assert_eq!(message("[a"), "unterminated character set at position 2");
    }

    #[test]
    fn a_flag_applies_to_the_whole_expression_or_to_its_group() {
        assert!(matches!(parse("a(?i)b").expect("read").node, Node::Case { insensitive: true, .. }));
        assert!(matches!(parse("(?i:b)").expect("read").node, Node::Case { insensitive: true, .. }));
        assert!(matches!(parse("(?s).").expect("read").node, Node::Any { newline: true }));
        assert!(matches!(parse("(?x) a # no\n b").expect("read").node, Node::Concat(all) if all.len() == 2));
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let deep = format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(message(&deep).starts_with("groups nested deeper than"));
    }
}
