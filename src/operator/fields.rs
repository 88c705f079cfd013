//! The words of the resident's answers: `key=value` lines and rows, read for people and for JSON. What is not known is passed over, so
//! that an older program understands a newer resident.

use serde_json::{Map, Value};

/// `key=value` lines, in their order; a key may come again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads lines; what is no `key=value` is left out.
    #[must_use]
    pub fn of(lines: &[&str]) -> Self {
        Self(lines.iter().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Reads one row of words, `key=value key=value`.
    #[must_use]
    pub fn of_row(row: &str) -> Self {
        Self::of(&row.split(' ').collect::<Vec<_>>())
    }

    /// The value of `key`, the first if there are more.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(its, _)| its == key).map(|(_, value)| value.as_str())
    }

    /// All values of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(its, _)| its == key).map(|(_, value)| value.as_str())
    }

    /// A number; 0 where there is none.
    #[must_use]
    pub fn number(&self, key: &str) -> u64 {
        self.get(key).and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// A number that may be -1.
    #[must_use]
    pub fn signed(&self, key: &str) -> Option<i64> {
        self.get(key)?.parse().ok()
    }

    /// The keys, each once, in their order.
    #[must_use]
    pub fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = Vec::new();
        for (key, _) in &self.0 {
            if !keys.contains(&key.as_str()) {
                keys.push(key);
            }
        }
        keys
    }

    /// An object of the fields: numbers where they are numbers, a list where a key comes again.
    #[must_use]
    pub fn object(&self) -> Map<String, Value> {
        self.keys()
            .into_iter()
            .map(|key| {
                let mut values: Vec<Value> = self.all(key).map(value).collect();
                let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
                (key.to_owned(), value)
            })
            .collect()
    }
}

/// A number where it is one.
#[must_use]
pub fn value(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_comes_again_is_a_list_and_numbers_are_numbers() {
        let fields = Fields::of(&["bans=3", "log=a", "log=b=c", "no field", "uptime=-1"]);
        assert_eq!(Value::Object(fields.object()).to_string(), r#"{"bans":3,"log":["a","b=c"],"uptime":-1}"#);
        assert_eq!((fields.number("bans"), fields.number("uptime"), fields.signed("uptime")), (3, 0, Some(-1)));
    }

    #[test]
    fn a_row_is_words() {
        assert_eq!(Fields::of_row("198.51.100.7 scope=all until=5").get("until"), Some("5"));
    }
}
