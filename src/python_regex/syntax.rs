//! The syntax of Python's `re` (3.11), read into a tree.

use super::tree::{Assert, Class, ClassItem, Node, Perl, RepeatKind};
use std::fmt;

/// Why a text is not an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where, in characters from 0.
    pub position: usize,
    /// What was found or is missing.
    pub message: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at position {}", self.message, self.position)
    }
}

impl std::error::Error for SyntaxError {}

/// An expression: its tree and its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syntax {
    /// The tree.
    pub node: Node,
    /// The names of the groups; the first entry stands for the whole match.
    pub names: Vec<Option<String>>,
}

/// Groups deeper than this are refused: the readers of the tree go down by recursion.
const DEEPEST: usize = 150;

/// Reads an expression.
///
/// Where Python 3.11 refuses a flag group such as `(?i)` in the middle, it counts for the whole expression, as it did in older versions.
///
/// # Errors
/// The place and the reason.
pub fn parse(text: &str) -> Result<Syntax, SyntaxError> {
    let characters: Vec<char> = text.chars().collect();
    let mut flags = Flags::default();
    // A global flag can stand anywhere and counts everywhere: read again with the flags found, until there are no new ones.
    for _ in 0..8 {
        let mut parser = Parser { text: &characters, at: 0, names: vec![None], open: Vec::new(), found: flags, depth: 0 };
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
    Err(SyntaxError { position: 0, message: "flags that contradict each other".to_owned() })
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Flags {
    insensitive: bool,
    multi_line: bool,
    dot_all: bool,
    verbose: bool,
    ascii: bool,
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

struct Parser<'t> {
    text: &'t [char],
    at: usize,
    names: Vec<Option<String>>,
    /// Groups that are still open: a reference to them is an error.
    open: Vec<usize>,
    found: Flags,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn peek_after(&self, offset: usize) -> Option<char> {
        self.text.get(self.at + offset).copied()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += 1;
        Some(character)
    }

    fn take(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        self.at += usize::from(found);
        found
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { position: self.at, message: message.into() }
    }

    fn alternatives(&mut self, flags: Flags) -> Result<Node, SyntaxError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.error(format!("groups nested deeper than {DEEPEST}")));
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

    /// A repetition count at this place, if there is one: `{` that begins none is a character.
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

    fn escape(&mut self, flags: Flags) -> Result<Node, SyntaxError> {
        let Some(character) = self.next() else { return Err(self.error("bad escape (end of pattern)")) };
        if let Some(item) = perl(character, flags) {
            return Ok(Node::Class(Class { negated: false, items: vec![item] }));
        }
        Ok(match character {
            'A' => Node::Assert(Assert::TextStart),
            'Z' => Node::Assert(Assert::TextEnd),
            'b' => Node::Assert(Assert::Word),
            'B' => Node::Assert(Assert::NotWord),
            '0' => Node::Literal(self.octal(0, 2)),
            '1'..='9' => {
                let first = character.to_digit(10).unwrap_or(0);
                let digits = [self.peek(), self.peek_after(1)];
                if let [Some(second @ '0'..='7'), Some('0'..='7')] = digits
                    && first < 4
                {
                    let _ = second;
                    return Ok(Node::Literal(self.octal(first, 2)));
                }
                let mut group = first as usize;
                if let Some(second) = self.peek().and_then(|c| c.to_digit(10)) {
                    self.at += 1;
                    group = group * 10 + second as usize;
                }
                if group >= self.names.len() || self.open.contains(&group) {
                    return Err(self.error(format!("invalid group reference {group}")));
                }
                Node::Backreference(group)
            }
            other => Node::Literal(self.character_escape(other)?),
        })
    }

    /// The value so far and up to `most` more octal digits.
    fn octal(&mut self, first: u32, most: usize) -> char {
        let mut value = first;
        for _ in 0..most {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
            value = value * 8 + digit;
            self.at += 1;
        }
        char::from_u32(value & 0xff).unwrap_or('\0')
    }

    fn character_escape(&mut self, character: char) -> Result<char, SyntaxError> {
        Ok(match character {
            'a' => '\u{7}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            'x' => self.hexadecimal(2)?,
            'u' => self.hexadecimal(4)?,
            'U' => self.hexadecimal(8)?,
            letter if letter.is_ascii_alphanumeric() => return Err(self.error(format!("bad escape \\{letter}"))),
            other => other,
        })
    }

    fn hexadecimal(&mut self, digits: usize) -> Result<char, SyntaxError> {
        let mut value = 0_u32;
        for _ in 0..digits {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else { return Err(self.error("incomplete escape")) };
            value = value.wrapping_mul(16).wrapping_add(digit);
            self.at += 1;
        }
        char::from_u32(value).ok_or_else(|| self.error("an escape that is no character"))
    }

    fn class(&mut self, flags: Flags) -> Result<Node, SyntaxError> {
        let negated = self.take('^');
        let mut items = Vec::new();
        let first = self.at;
        loop {
            let Some(character) = self.next() else { return Err(self.error("unterminated character set")) };
            if character == ']' && self.at > first + 1 {
                break;
            }
            let low = self.class_item(character, flags)?;
            if self.peek() != Some('-') || self.peek_after(1).is_none_or(|c| c == ']') {
                items.push(low);
                continue;
            }
            self.at += 1;
            let Some(character) = self.next() else { return Err(self.error("unterminated character set")) };
            let high = self.class_item(character, flags)?;
            match (low, high) {
                (ClassItem::Range(low, _), ClassItem::Range(high, _)) if low <= high => items.push(ClassItem::Range(low, high)),
                _ => return Err(self.error("bad character range")),
            }
        }
        Ok(Node::Class(Class { negated, items }))
    }

    fn class_item(&mut self, character: char, flags: Flags) -> Result<ClassItem, SyntaxError> {
        let single = |c| ClassItem::Range(c, c);
        if character != '\\' {
            return Ok(single(character));
        }
        let Some(escaped) = self.next() else { return Err(self.error("bad escape (end of pattern)")) };
        if let Some(item) = perl(escaped, flags) {
            return Ok(item);
        }
        Ok(single(match escaped {
            'b' => '\u{8}',
            '0'..='7' => self.octal(escaped.to_digit(8).unwrap_or(0), 2),
            other => self.character_escape(other)?,
        }))
    }
}

fn perl(letter: char, flags: Flags) -> Option<ClassItem> {
    let kind = match letter.to_ascii_lowercase() {
        'w' => Perl::Word,
        'd' => Perl::Digit,
        's' => Perl::Space,
        _ => return None,
    };
    Some(ClassItem::Perl { kind, negated: letter.is_ascii_uppercase(), ascii: flags.ascii })
}

fn is_name(name: &str) -> bool {
    name.chars().next().is_some_and(|c| c == '_' || c.is_alphabetic()) && name.chars().all(|c| c == '_' || c.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn a_brace_that_is_no_count_is_a_character() {
        assert_eq!(parse("{").expect("one character").node, Node::Literal('{'));
        assert!(matches!(parse("a{,3}").expect("a count").node, Node::Repeat { min: 0, max: Some(3), .. }));
        assert!(matches!(parse("a{x}").expect("characters").node, Node::Concat(all) if all.len() == 4));
    }

    #[test]
    fn a_bracket_that_opens_a_class_may_stand_in_it_first() {
        let Node::Class(class) = parse("[]a-]").expect("a class").node else { panic!("no class") };
        assert_eq!(class.items, [ClassItem::Range(']', ']'), ClassItem::Range('a', 'a'), ClassItem::Range('-', '-')]);
    }

    #[test]
    fn faults_are_named_with_their_place() {
        assert_eq!(message("(a"), "missing ), unterminated group at position 2");
        assert_eq!(message("a)"), "unbalanced parenthesis at position 1");
        assert_eq!(message("*a"), "nothing to repeat at position 0");
        assert_eq!(message("a**"), "multiple repeat at position 2");
        assert_eq!(message(r"\q"), r"bad escape \q at position 2");
        assert_eq!(message("(?P<a>x)(?P<a>y)"), "redefinition of group name \"a\" at position 14");
        assert_eq!(message("[a"), "unterminated character set at position 2");
    }

    #[test]
    fn flags_count_for_the_whole_expression_or_for_their_group() {
        assert!(matches!(parse("a(?i)b").expect("read").node, Node::Case { insensitive: true, .. }));
        assert!(matches!(parse("(?i:b)").expect("read").node, Node::Case { insensitive: true, .. }));
        assert!(matches!(parse("(?s).").expect("read").node, Node::Any { newline: true }));
        assert!(matches!(parse("(?x) a # no\n b").expect("read").node, Node::Concat(all) if all.len() == 2));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(message(&deep).starts_with("groups nested deeper than"));
    }
}
