//! Why a line is not a request.

use std::fmt;

/// Why a line is not a request: what was found, escaped and truncated, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError(String);

impl RequestError {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RequestError {}

pub(super) fn expected(found: &str, expected: &str) -> RequestError {
    RequestError(format!("found {}, expected {expected}", quoted(found.as_bytes())))
}

/// The start of what a client sent, in quotes and escaped to printable ASCII.
#[must_use]
pub fn quoted(text: &[u8]) -> String {
    const MAX_QUOTED: usize = 60;
    let mut quoted = String::from("\"");
    for byte in text.iter().take(MAX_QUOTED) {
        quoted.extend(std::ascii::escape_default(*byte).map(char::from));
    }
    quoted.push_str(if text.len() > MAX_QUOTED { "...\"" } else { "\"" });
    quoted
}
