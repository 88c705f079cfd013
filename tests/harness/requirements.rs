//! What a test needs from the machine. A missing program skips the test with a reason; under `tests/run`, which installs
//! everything, it fails the test instead.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// The full path of an installed program, also of those that only root has in the path.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// Whether a program is installed; says which Debian package holds it if not.
pub(crate) fn has(name: &str, package: &str) -> bool {
    let is_there = program(name).is_some();
    if !is_there {
        skip(&format!("{name} is not installed (Debian's package {package})"));
    }
    is_there
}

/// Whether the test runs as root; says what only root can do if not.
pub(crate) fn is_root(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        print_skipped(&format!("only root can {what}"));
    }
    is_root
}

/// Reports that the calling test is skipped, or fails it where everything must be installed.
#[track_caller]
pub(crate) fn skip(reason: &str) {
    assert!(!servers_are_required(), "{reason}");
    print_skipped(&format!("{reason}; tests/run installs what is needed"));
}

/// Set by `tests/run`.
pub(crate) fn servers_are_required() -> bool {
    std::env::var_os("STRIKEOUT_REQUIRE_SERVERS").is_some()
}

/// Writes to stderr itself: `eprintln!` is captured, and a skip must be seen.
pub(super) fn print_skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped {test}: {reason}");
}

/// Whether this is `tests/run --long`.
pub(crate) fn is_long() -> bool {
    std::env::var_os("STRIKEOUT_LONG").is_some()
}

/// How often something is repeated: in `tests/run`, and in `tests/run --long`.
pub(crate) fn long(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

/// A free port on loopback, chosen by the kernel.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
