//! Reads an answer of the local API decision by decision: `{"new": [...], "deleted": [...]}`, either of which may be null. However long the
//! answer is, no more than one decision of it is in memory.

use std::fmt;
use std::io::{self, BufReader, Read};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Maximum length in bytes of one value in it.
const MAX_TOKEN: usize = 64 << 10;

/// Maximum depth of arrays and objects in it; decisions lie three deep.
const MAX_DEPTH: usize = 32;

/// Which list a decision stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    New,
    Deleted,
}

/// A decision as the local API writes it. What is missing or of another type is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct WireDecision {
    pub id: Field,
    pub origin: Field,
    #[serde(rename = "type")]
    pub kind: Field,
    pub scope: Field,
    pub value: Field,
    pub duration: Field,
    pub scenario: Field,
}

/// A text, or a whole number as text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Field(pub String);

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldVisitor;
        impl<'de> Visitor<'de> for FieldVisitor {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Field, E> {
                Ok(Field(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Field, E> {
                Ok(Field(number.to_string()))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
                Ok(Field::default())
            }

            fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
                Ok(Field::default())
            }

            fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
                Ok(Field::default())
            }

            fn visit_unit<E>(self) -> Result<Field, E> {
                Ok(Field::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Field::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::default())
            }
        }
        deserializer.deserialize_any(FieldVisitor)
    }
}

/// Calls `take` with each decision of an answer of at most `limit` bytes, in its order.
///
/// # Errors
/// The answer is no such JSON, is too long, or could not be read to its end. Some of its decisions may have been given to `take` by then.
pub fn read(answer: impl Read, limit: u64, mut take: impl FnMut(Part, WireDecision)) -> Result<(), String> {
    let bounded = BufReader::with_capacity(
        64 << 10,
        Bounded { inner: answer, limit, left: limit, in_text: false, escaped: false, token: 0, depth: 0 },
    );
    let mut deserializer = serde_json::Deserializer::from_reader(bounded);
    let is_whole = deserializer.deserialize_map(Lists { take: &mut take }).map_err(|error| fault(&error))?;
    deserializer.end().map_err(|error| fault(&error))?;
    if is_whole { Ok(()) } else { Err("its answer has no list of new decisions".to_owned()) }
}

fn fault(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Io => format!("its answer cannot be read: {error}"),
        serde_json::error::Category::Eof => "its answer ends in the middle".to_owned(),
        _ => format!("its answer is not what a local API sends: {error}"),
    }
}

struct Lists<'a, T> {
    take: &'a mut T,
}

impl<'de, T: FnMut(Part, WireDecision)> Visitor<'de> for Lists<'_, T> {
    /// Whether there was a list of new decisions.
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the lists \"new\" and \"deleted\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut has_new = false;
        while let Some(key) = map.next_key::<String>()? {
            let part = match key.as_str() {
                "new" => Part::New,
                "deleted" => Part::Deleted,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            has_new |= part == Part::New;
            map.next_value_seed(List { part, take: &mut *self.take })?;
        }
        Ok(has_new)
    }
}

struct List<'a, T> {
    part: Part,
    take: &'a mut T,
}

impl<'de, T: FnMut(Part, WireDecision)> DeserializeSeed<'de> for List<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: FnMut(Part, WireDecision)> Visitor<'de> for List<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of decisions")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(decision) = seq.next_element()? {
            (self.take)(self.part, decision);
        }
        Ok(())
    }
}

/// Reads at most so many bytes, and no JSON that is nested deeper than [`MAX_DEPTH`] or has a value of more than [`MAX_TOKEN`] bytes: the parser
/// would hold that in memory.
struct Bounded<R> {
    inner: R,
    limit: u64,
    left: u64,
    in_text: bool,
    escaped: bool,
    /// Number of bytes of the value read so far.
    token: usize,
    depth: usize,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left =
            self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(format!("it is longer than {} bytes", self.limit)))?;
        for byte in buffer.iter().take(read) {
            self.token += 1;
            match (self.in_text, byte) {
                (true, _) if self.escaped => self.escaped = false,
                (true, b'\\') => self.escaped = true,
                (true, b'"') => (self.in_text, self.token) = (false, 0),
                (false, b'"') => (self.in_text, self.token) = (true, 0),
                (false, b'[' | b'{') => (self.depth, self.token) = (self.depth + 1, 0),
                (false, b']' | b'}') => (self.depth, self.token) = (self.depth.saturating_sub(1), 0),
                (false, b',' | b':' | b' ' | b'\n' | b'\r' | b'\t') => self.token = 0,
                _ => {}
            }
            if self.token > MAX_TOKEN {
                return Err(io::Error::other(format!("it has a value of more than {MAX_TOKEN} bytes")));
            }
            if self.depth > MAX_DEPTH {
                return Err(io::Error::other("it is nested too deeply"));
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Vec<(Part, String, String)>, String> {
        let mut found = Vec::new();
        read(text, 1 << 20, |part, decision| found.push((part, decision.id.0, decision.value.0)))?;
        Ok(found)
    }

    #[test]
    fn the_answer_of_a_local_api_is_read_in_either_order() {
        let answer = br#"{"deleted":null,"new":[{"duration":"3h59m58.9s","id":1,"origin":"cscli","scenario":"manual 'ban' from 'a'",
            "scope":"Ip","type":"ban","value":"192.0.2.1"}]}"#;
        assert_eq!(parse(answer), Ok(vec![(Part::New, "1".into(), "192.0.2.1".into())]));
        let answer = br#"{"new": [], "deleted": [{"id":2,"value":"192.0.2.2","uuid":"x","simulated":false}], "more": {"a":[1]}} "#;
        assert_eq!(parse(answer), Ok(vec![(Part::Deleted, "2".into(), "192.0.2.2".into())]));
        assert_eq!(parse(br#"{"new":null,"deleted":null}"#), Ok(Vec::new()));
    }

    #[test]
    fn a_value_of_the_wrong_type_is_empty_and_does_not_spoil_the_others() {
        let answer = br#"{"new":[{"id":"7","value":["a",{"b":1}]},{"id":-1,"value":{"c":2}},{"id":1.5,"value":null},{"id":true},{"id":8,"value":"x"}]}"#;
        let found = parse(answer).unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|(_, id, value)| (id.as_str(), value.as_str())).collect();
        assert_eq!(found, [("7", ""), ("", ""), ("", ""), ("", ""), ("8", "x")]);
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        for (answer, expected) in [
            (&b""[..], "its answer ends in the middle"),
            (br#"{"new":[{"id":1}"#, "its answer ends in the middle"),
            (br#"{}"#, "its answer has no list of new decisions"),
            (br#"{"deleted":[]}"#, "its answer has no list of new decisions"),
            (br#"{"message":"access forbidden"}"#, "its answer has no list of new decisions"),
            (b"<html>", "its answer is not what a local API sends: "),
            (br#"[]"#, "its answer is not what a local API sends: "),
            (br#"{"new":"all"}"#, "its answer is not what a local API sends: "),
            (br#"{"new":{"id":1}}"#, "its answer is not what a local API sends: "),
            (br#"{"new":[1]}"#, "its answer is not what a local API sends: "),
            (br#"{"new":[]}{"new":[]}"#, "its answer is not what a local API sends: "),
            (b"{\"new\":[{\"value\":\"\xff\"}]}", "its answer is not what a local API sends: "),
        ] {
            let fault = parse(answer).unwrap_err();
            assert!(fault.starts_with(expected), "{fault}");
        }
    }

    #[test]
    fn deep_nesting_and_a_long_value_are_refused() {
        let deep = format!("{{\"new\":[{{\"value\":{}", "[".repeat(100_000));
        assert!(parse(deep.as_bytes()).unwrap_err().contains("nested too deeply"));
        for long in [format!("{{\"new\":[{{\"value\":\"{}", "a".repeat(100_000)), format!("{{\"new\":[{{\"id\":{}", "1".repeat(100_000))] {
            assert!(parse(long.as_bytes()).unwrap_err().contains("more than 65536 bytes"), "{}", &long[..40]);
        }
        let quotes = format!("{{\"new\":[{{\"value\":\"{}\"}}]}}", r#"\""#.repeat(100));
        assert_eq!(parse(quotes.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn an_endless_answer_is_cut_off() {
        let fault = read((&b"{\"new\":["[..]).chain(io::repeat(b' ')), 1 << 20, |_, _| ()).unwrap_err();
        assert!(fault.contains("longer than 1048576 bytes"), "{fault}");
    }
}
