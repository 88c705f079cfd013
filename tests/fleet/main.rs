//! Several `strikeout serve` and a real redis-server: what one machine finds out, all of them know, and nobody waits for the network.
//!
//! | file | what it shows |
//! |---|---|
//! | `engine`, `node`, `relay` | the engine, the machines, a way between them that can be cut or slow |
//! | `spread` | bans, lifts and strikes spread |
//! | `cut_off` | each side goes on alone, and both converge |
//! | `namespaces` | the same with cables that are pulled: network namespaces |
//! | `clocks` | machines whose clocks are wrong |
//! | `bad_node` | what one machine cannot do to the others |
//! | `hostile` | what an engine cannot do that speaks in bad faith |
//! | `secure` | TLS, and a user with the rights of docs/fleet.md |
#![cfg(feature = "fleet")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say what they measured"
)]

mod bad_node;
mod clocks;
mod cut_off;
mod engine;
mod hostile;
mod namespaces;
mod node;
mod relay;
mod secure;
mod spread;

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

const SECRET: &str = "a-secret-of-the-fleet";
/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// Whether the engine is installed; `tests/run` sees to it that it is.
fn engine_is_there() -> bool {
    has("redis-server", "redis-server")
}

/// Whether a program can be run that a test needs: it is skipped without, and fails where all servers must be there.
fn has(program: &str, package: &str) -> bool {
    let there = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|directory| directory.join(program).is_file())
    });
    assert!(there || std::env::var_os("STRIKEOUT_REQUIRE_SERVERS").is_none(), "{program} is not installed");
    if !there {
        eprintln!("skipped: {program} is not installed (Debian's package {package})");
    }
    there
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    start.elapsed()
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
