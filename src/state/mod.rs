//! The state file: bans outlive the process that made them.
//!
//! One SQLite file in WAL mode. [`Writer`] owns it while Strikeout runs: one thread writes changes in groups and reports each one when the
//! kernel has it, so `kill -9` loses no answered ban; another thread runs the checkpoints. Several processes may share one file: each sees
//! the others' bans within a second.
//!
//! The file holds rules and nodes by name, and times as milliseconds since the Unix epoch.

pub mod attach;
mod checkpoint;
mod current_file;
mod failure;
mod load;
mod quarantine;
mod queue;
mod reader;
mod recover;
mod rows;
mod schema;
mod store;
mod sweep;
mod worker;
mod write;
mod writer;

use std::sync::Arc;

use crate::client::Client;
use crate::engine::{Change, EarlierBans};
use crate::log::follow::Position;
use crate::table::Counter;
use crate::time::Time;

pub use failure::StateError;
pub use load::Cursor;
pub use reader::Reader;
pub use store::{Store, WriteItem};
pub use writer::{StateHealth, Writer, WriterEvent};

/// A record of the file, as loaded.
#[derive(Debug, Clone, PartialEq)]
pub enum Loaded {
    /// A ban of a client or of a network. Its evidence stays in the file, where [`Reader`] looks it up.
    Change(Change),
    /// The strikes of a client under a rule that has not banned it.
    Strikes(StoredStrikes),
    /// The earlier bans of a client, which make its next ban longer.
    EarlierBans {
        client: Client,
        rule: Arc<str>,
        /// The number of bans, and when the last one began.
        earlier: EarlierBans,
    },
    /// Where reading of a log stopped.
    Position { path: String, position: Position },
}

/// The strikes of one client under one rule, fewer than its `maxretry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredStrikes {
    pub client: Client,
    pub rule: Arc<str>,
    pub counter: Counter,
    /// When they expire unless another one follows: `findtime` after the last one.
    pub until: Time,
}
