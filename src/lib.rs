//! Strikeout refuses repeat offenders inside Squid and Exim, without a firewall.
//!
//! Decisions are pure: an event and a time go in, a verdict with its reason comes out. I/O is thin and at the edge.
//! Imports run one way, from the bottom of this table to its top.
//!
//! | | |
//! |---|---|
//! | [`client`], [`time`], [`event`], [`verdict`] | the words: whom, when, what was seen, what follows |
//! | [`rule`], [`list`], [`table`] | which events are offences; who is never or always refused; strikes and bans in memory |
//! | [`detector`] | judges an event, and does not count |
//! | [`reply`], [`engine`] | counts offences, makes bans, keeps and tells them, answers exactly once |
//! | [`config`], [`clock`], [`state`] | the configuration file; the clock at the edge; the state file |
//! | [`timestamp`], [`python_regex`], [`fail2ban`], [`log`] | log lines: their times, fail2ban's language, following files |
//! | [`squid`], [`exim`], [`socket`], [`resident`], [`fleet`] | the two protocols, the socket, the process that holds the table, other machines |
//! | [`replay`], [`conduct`], [`operator`] | old logs, false bans, and the operator's program |
#![forbid(unsafe_code)]

pub mod budget;
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
mod token;
pub mod verdict;
