//! Several `strikeout serve` and a real redis-server: what one machine learns, all machines know, and no verdict waits for the network.
//!
//! | file | what it tests |
//! |---|---|
//! | `server`, `node`, `relay` | not tests: Redis, the machines, and a link between them that can be cut or slow |
//! | `spread` | bans, unbans and strikes spread |
//! | `cut_off` | each side of a cut goes on alone, and both converge afterwards |
//! | `namespaces` | the same in network namespaces, where packets are lost |
//! | `sentinel`, `cluster` | Redis behind Sentinels, and a Cluster |
//! | `clocks` | machines whose clocks are wrong |
//! | `bad_node` | limits of what one machine can do to the others |
//! | `hostile` | limits of what a hostile Redis can do |
//! | `tls` | TLS to one server, to Sentinels and in a Cluster |
//! | `secure` | a user with the rights of docs/fleet.md |
#![cfg(feature = "fleet")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests fail by panicking, and print what they measured"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod bad_node;
mod clocks;
mod cluster;
mod cut_off;
mod hostile;
mod namespaces;
mod node;
mod relay;
mod secure;
mod sentinel;
mod server;
mod spread;
mod tls;

use harness::has;

const SECRET: &str = "a-secret-of-the-fleet";

/// Whether redis-server is installed; `tests/run` installs it.
fn has_redis() -> bool {
    has("redis-server", "redis-server")
}
