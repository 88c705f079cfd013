//! What the tests that run real processes share: a directory per test, the daemon, the Squid helper, and waiting.
//!
//! Each such test program includes it with `#[path = "harness/mod.rs"] mod harness;` and uses a part of it.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests fail by panicking, and each test program uses a part of this"
)]

mod daemon;
mod dns;
pub(crate) mod mmdb;
mod namespace;
mod process;
mod requirements;
mod small_disk;
mod squid_helper;
mod stage;
mod wait;

pub(crate) use daemon::Daemon;
pub(crate) use dns::Dns;
pub(crate) use namespace::Namespace;
pub(crate) use process::{children, end, kill, running, show_log};
pub(crate) use requirements::{free_port, has, is_long, is_root, long, program, servers_are_required, skip};
pub(crate) use small_disk::SmallDisk;
pub(crate) use squid_helper::SquidHelper;
pub(crate) use stage::Stage;
pub(crate) use wait::{DEADLINE, median, wait_for, wait_until};

/// The operator's program and the daemon.
pub(crate) const STRIKEOUT: &str = env!("CARGO_BIN_EXE_strikeout");
pub(crate) const SQUID_HELPER: &str = env!("CARGO_BIN_EXE_ext_strikeout_acl");
pub(crate) const EXIM_HELPER: &str = env!("CARGO_BIN_EXE_exim_strikeout_acl");
