//! Strikeout on the real Squid and Exim of the distribution, on loopback, each in its own directory. `tests/run` installs what is
//! missing; a bare `cargo test` skips these tests and says why.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say why on stderr"
)]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../samples/mod.rs"]
mod samples;

mod doctor;
mod examples;
mod exim;
mod exim_accounts;
mod exim_faults;
mod exim_incidents;
mod fast;
mod forward;
mod guessing;
mod headers;
mod instead;
mod pause;
mod questions;
mod rig;
mod shared_table;
mod smp;
mod sound;
mod squid;
mod squid_faults;
mod telling;
mod unasked;
