//! The table held by real processes: `strikeout serve`, Squid helpers and Exim helpers that share it, a disk that fails, operators who
//! reload it, and everything ended at any moment.
//!
//! What needs root (mounting a small disk, another user, a network of its own) says that it is skipped where it is not given.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod big_lists;
mod bounded;
mod disk;
mod escalation;
mod faults;
mod never_ban;
mod one_order;
mod processes;
mod sharing;
