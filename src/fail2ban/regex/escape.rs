//! Parses escapes and character sets.

use super::syntax::{Flags, RegexParser, SyntaxError};
use super::tree::{Assert, Class, ClassItem, Node, Perl};

impl RegexParser<'_> {
    /// Parses an escape outside of a set; the backslash was read.
    pub(super) fn escape(&mut self, flags: Flags) -> Result<Node, SyntaxError> {
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

    /// The character of `first` and up to `more` further octal digits.
    fn octal(&mut self, first: u32, more: usize) -> char {
        let mut value = first;
        for _ in 0..more {
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
        char::from_u32(value).ok_or_else(|| self.error("bad escape: no such character"))
    }

    /// Parses a character set; its `[` was read.
    pub(super) fn class(&mut self, flags: Flags) -> Result<Node, SyntaxError> {
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

/// The class of `\w`, `\d`, `\s` or their negations.
fn perl(letter: char, flags: Flags) -> Option<ClassItem> {
    let kind = match letter.to_ascii_lowercase() {
        'w' => Perl::Word,
        'd' => Perl::Digit,
        's' => Perl::Space,
        _ => return None,
    };
    Some(ClassItem::Perl { kind, negated: letter.is_ascii_uppercase(), ascii: flags.ascii })
}
