//! Logs: following files while servers write and rotate them, and parsing and judging their lines.
//!
//! - [`follow`] reads one growing file, through rotation; [`followed_file`] is one open file of it, which [`lines`] splits into lines, and
//!   [`seen_lines`] finds out what was read before; [`open`] reads a whole old log.
//! - [`line`](mod@line) parses a line with [`access`], [`exim`] and [`time`], behind a header of [`syslog`] as well. [`client_field`] finds
//!   the client in front of a request, [`readable_time`] reads times in forms for people, [`token`] finds the end of a word.
//!   [`outline`] is a parsed line apart from its text.
//! - [`judge`] finds the [`offence`]s in a parsed line, [`text_rule`] those of fail2ban's expressions, [`health`] what speaks against the log.
//!   No clock, no I/O.

pub mod access;
mod client_field;
pub mod exim;
pub mod follow;
mod followed_file;
pub mod health;
#[cfg(test)]
mod hostile_tests;
pub mod judge;
pub mod line;
pub mod lines;
pub mod offence;
pub mod open;
pub mod outline;
mod readable_time;
mod seen_lines;
mod syslog;
pub mod text_rule;
pub mod time;
pub mod token;
