//! Strikeout refuses repeat offenders inside Squid and Exim, without a firewall.
//!
//! Decisions are pure: an event and a time go in, a verdict with its reason comes out. I/O is thin and at the edge.
//! A module imports only what stands before it in this map, which `tests/structure.rs` checks.
//!
//! | module | job |
//! |---|---|
//! | `time`, `client` | table time and spans; addresses, and the client that is blamed for one |
//! | `event`, `clock`, `logging` | what was seen of a client; the clock and the log at the edge |
//! | `rule_id`, `geo` | rule names as numbers; which provider and which country an address belongs to |
//! | `list`, `table` | who is never or always refused; strikes and bans in memory |
//! | `crawler` | which crawlers are wanted, and who says that it is one |
//! | `rule`, `verdict`, `policy` | which events are an offence; answers with their reasons; rules, lists and settings in force |
//! | `detector` | judges an event, and does not count |
//! | `engine` | counts offences, makes bans, persists and publishes them, answers exactly once |
//! | `resolver` | looks up names, off the path of every query |
//! | `fail2ban`, `log` | fail2ban's filters, jails, regexes and dates; following and judging log files |
//! | `config`, `prefilter`, `state` | the configuration file; what Squid can see by itself; the state file |
//! | `control` | what the daemon, its helpers and the operator's program say to each other |
//! | `squid`, `exim`, `fleet`, `replay`, `daemon` | the two helpers; other machines; old logs; the process that holds the table |
//! | `doctor` | looks at every link from the client to the verdict |
//! | `cli` | the operator's program |
#![forbid(unsafe_code)]

mod cli;
mod client;
mod clock;
mod config;
mod control;
mod crawler;
mod daemon;
mod detector;
mod doctor;
mod engine;
mod event;
mod exim;
mod fail2ban;
mod fleet;
mod geo;
#[doc(hidden)]
pub mod internals;
mod list;
mod log;
mod logging;
mod policy;
mod prefilter;
mod replay;
mod resolver;
mod rule;
mod rule_id;
mod squid;
mod state;
mod table;
mod time;
mod verdict;

pub use cli::run as strikeout_main;
pub use exim::run as exim_strikeout_acl_main;
pub use squid::helper::run as ext_strikeout_acl_main;
