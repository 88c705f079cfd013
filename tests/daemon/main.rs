//! `strikeout serve`, driven over its socket, by its helpers and by signals.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "../harness/mod.rs"]
mod harness;

mod connections;
mod life;
mod peers;

/// An incident rule that bans at the second strike.
const INCIDENT: &str = "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 2\nscope = 'mail'\n";
