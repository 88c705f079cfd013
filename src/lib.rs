//! Strikeout refuses repeat offenders inside Squid and Exim, without a firewall.
//!
//! Decisions are pure: an event and a time go in, a verdict with its reason comes out. I/O is thin and at the edge.
#![forbid(unsafe_code)]

pub mod client;
pub mod clock;
pub mod conduct;
pub mod config;
pub mod detector;
pub mod engine;
pub mod event;
pub mod exim;
pub mod fail2ban;
pub mod filter_test;
pub mod fleet;
pub mod import;
pub mod list;
pub mod log;
pub mod operator;
mod percent;
pub mod python_regex;
pub mod replay;
pub mod reply;
pub mod resident;
pub mod rule;
pub mod socket;
pub mod squid;
pub mod state;
pub mod table;
pub mod time;
pub mod timestamp;
pub mod verdict;
