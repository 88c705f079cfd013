//! Replay: the very same detector over old logs, and what it would have done.
//!
//! - [`merge`]: several logs as one stream of lines;
//! - [`judge`]: the detector over them, and [`tally`] and [`conducts`]: what is counted;
//! - [`report`]: what it came to, as [`text`] and as a [`page`] with [`plot`]s;
//! - [`command`]: `strikeout replay`.

pub mod command;
pub mod conducts;
pub mod judge;
pub mod merge;
pub mod page;
pub mod plot;
pub mod report;
pub mod tally;
pub mod text;

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
