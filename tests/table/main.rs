//! The table shared by real processes: `strikeout serve`, Squid helpers and Exim helpers, with failing disks, reloads and `kill -9` at any
//! moment.
//!
//! Tests that need root (to mount a small disk, to run as another user, to create a network namespace) are skipped without it, and say so.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "../harness/mod.rs"]
mod harness;

mod big_lists;
mod bounded;
mod concurrent_unbans;
mod disk;
mod escalation;
mod faults;
mod load;
mod never_ban;
mod sharing;
