//! Strikeout on the real Squid and Exim of the distribution: on loopback, in directories of their
//! own, ended by their PID. `tests/run` installs what is missing here; a bare `cargo test` says so
//! and skips.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say why on stderr"
)]

mod examples;
mod exim;
mod exim_faults;
mod exim_incidents;
mod harness;
mod shared_table;
mod smp;
mod squid;
mod squid_faults;
