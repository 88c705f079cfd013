//! Finds and reads the date in a log line as fail2ban does: the same patterns, in the same order, with the same guesses.
//!
//! - [`template`]: one pattern (`%Y-%m-%d …`, Epoch, TAI64N), compiled to a regular expression;
//! - [`detector`]: all templates of a filter, the most likely first;
//! - [`fields`]: the time that day, month, hour and so on make, with a missing year or day guessed;
//! - [`zone`]: time zone names and their offsets.
//!
//! Nothing here reads a clock: the current time is an argument, in seconds since 1970.

mod detector;
mod fields;
pub mod template;
pub mod zone;

pub use detector::{DateDetector, DateInLine, DatePatterns};
