//! Why a line is not a request.

use std::fmt;

use memchr::memmem;

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

/// Before the account that a client named at its login.
pub const ACCOUNT: &str = "account=";

/// The start of what a client sent, in quotes and escaped to printable ASCII. What stands behind `account=` is left out: people type their
/// password there.
#[must_use]
pub fn quoted(text: &[u8]) -> String {
    const MAX_QUOTED: usize = 60;
    let named = memmem::find(text, ACCOUNT.as_bytes()).map(|at| at + ACCOUNT.len());
    let shown = named.unwrap_or(text.len()).min(MAX_QUOTED);
    let mut quoted = String::from("\"");
    for byte in text.iter().take(shown) {
        quoted.extend(std::ascii::escape_default(*byte).map(char::from));
    }
    quoted.push_str(if text.len() > shown { "...\"" } else { "\"" });
    quoted
}
