//! Replay: runs the detector over old logs and reports what it would have done.
//!
//! - [`source`] reads and parses a log on a thread of its own, [`merge`] makes one stream of the lines of several;
//! - [`run`] runs the detector over them and counts in [`tally`] and [`behaviours`];
//! - [`report`] sums up (with [`crowds`]), [`text`] and [`page`] (with [`plot`]s) show it;
//! - [`command`] is `strikeout replay`.

mod behaviours;
pub mod command;
mod crowds;
mod merge;
mod page;
mod plot;
mod report;
mod run;
mod source;
mod tally;
mod text;

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
