//! The lines of the subscribe stream, in both directions.
//!
//! The daemon sends its configuration and its bans as a whole, each between `begin` and `end`, and then every change. A changed
//! configuration is again sent as a whole; bans and answers go between its lines, so that a long configuration delays nothing. The
//! subscriber sends offences, each answered once under its number, and counts of ordinary requests. Times are remaining seconds, so the two
//! clocks need not agree.

mod from_daemon;
mod from_subscriber;
mod rule_line;

use std::fmt;

pub use from_daemon::{FromDaemon, List, verdict};
pub use from_subscriber::{FromSubscriber, MAX_RULES};
pub use rule_line::RuleLine;

/// The version of the protocol that this program speaks. Raised by the first change after a release.
pub const VERSION: u32 = 1;

/// A line that is not part of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamError(String);

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error for `line`, which is quoted escaped and truncated.
fn stream_error(line: &str, expected: &str) -> StreamError {
    let found: String = line.chars().take(60).flat_map(char::escape_default).collect();
    StreamError(format!("found {found:?}, expected {expected}"))
}
