//! The protocol of the daemon's socket: requests, answers, the subscribe stream, and a client.
//!
//! UTF-8 lines of at most [`request::MAX_LINE`] bytes:
//!
//! ```text
//! check ADDRESS [pid=N] [port=N] [via=run|lines]   accept | defer rule=NAME until=EPOCH | deny rule=NAME until=EPOCH
//! strike ADDRESS RULE [account=TEXT]               the same
//! clear ADDRESS RULE [account=TEXT]                accept
//! metrics                                          metrics in Prometheus' text format, then the line "."
//! status                                           a JSON object on one line, then the line "."
//! why TARGET                                       likewise
//! ban TARGET [LENGTH] [scope=SCOPE] [rule=NAME] [reason=…]   likewise
//! unban TARGET [inside] [scope=SCOPE]              likewise; rule=NAME or all instead of a target
//! forget NODE                                      likewise
//! pause [LENGTH], resume                           likewise
//! reload                                           likewise
//! list [rule=NAME] [network=CIDR] [scope=SCOPE] [evidence] [shadow]   a JSON object per ban, each on a line, then the line "."
//! subscribe VERSION                                a stream
//! ```
//!
//! Anything else is answered `error TEXT`, and the connection is closed. The JSON is that of the types in [`status`], [`bans`], [`pause`],
//! [`config`] and [`explanation`], which the daemon and the operator's program share. Readers ignore keys that they do not know.

pub mod admin;
pub mod answer;
pub mod bans;
pub mod client;
pub mod config;
pub mod crowdsec;
pub mod explanation;
pub mod pause;
pub mod request;
pub mod request_error;
pub mod status;
pub mod subscribe;
pub mod unit;
