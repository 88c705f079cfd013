//! Finds and reads the time in a log line, as fail2ban does: the same patterns, tried in the same order, with the same guesses.
//!
//! - [`template`]: one pattern (`%Y-%m-%d …`, Epoch, TAI64N) as an expression;
//! - [`detector`]: many templates, the likeliest first;
//! - [`fields`]: day, month, hour and so on as a moment, with a year or a day guessed where the line has none;
//! - [`zone`]: names of time zones and their offsets.
//!
//! No clock is asked: the present is an argument, in seconds since 1970.

pub mod detector;
pub mod fields;
pub mod template;
pub mod zone;

pub use detector::{DateInLine, Detector, Patterns};
