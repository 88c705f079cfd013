//! The resident's socket: what is asked on it, what is answered, and how to ask.
//!
//! UTF-8 lines of at most [`request::LONGEST_LINE`] bytes:
//!
//! ```text
//! check ADDRESS [pid=N] [port=N] [via=run|lines]   accept | defer rule=NAME until=EPOCH | deny rule=NAME until=EPOCH
//! strike ADDRESS RULE                              the same
//! why ADDRESS | list | status | metrics            lines, the last one is "."
//! ban TARGET [LENGTH] [scope=SCOPE] [reason=…]     lines
//! forget NODE                                      lines
//! unban TARGET [scope=SCOPE] | reload              lines
//! follow VERSION                                   a stream
//! ```
//!
//! Anything else is answered `error TEXT`, and the connection is closed. [`request`] and [`answer`] are pure; [`ask`] is I/O.

pub mod answer;
pub mod ask;
pub mod follow;
pub mod request;
