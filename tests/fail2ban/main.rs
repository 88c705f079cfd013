//! fail2ban's own filters, labelled samples, programs and server, compared with the library; the import of its jails; and its
//! bans, taken over by `conf-examples/fail2ban-action.conf`.
//!
//! A test that needs something that is not installed is skipped with a reason.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::indexing_slicing, reason = "a test")]

#[path = "../harness/mod.rs"]
mod harness;

mod action;
mod filters;
mod import;
mod server;

use std::path::PathBuf;

/// The filters that fail2ban's package installs.
const FILTERS: &str = "/etc/fail2ban/filter.d";

/// The path, if it exists; says otherwise that the test is skipped.
fn existing(path: impl Into<PathBuf>) -> Option<PathBuf> {
    let path = path.into();
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}
