//! The state file: bans outlive the process that made them.
//!
//! One SQLite file in WAL mode. [`Writer`] owns it while Strikeout runs: one thread writes what it is handed in groups, and says for
//! each when the kernel has it, so that `kill -9` loses no answered ban; another thread moves the log into the file. Several processes may
//! share one file: each sees the others' bans within a second.
//!
//! Rules and machines stand in the file by name, times as milliseconds since the Unix epoch.

mod aside;
mod checkpoint;
mod failure;
mod queue;
mod reader;
mod rows;
mod schema;
mod store;
mod sweep;
mod work;
mod writer;

use std::sync::Arc;

use crate::client::Client;
use crate::engine::{Change, Earlier};
use crate::log::follow::Position;
use crate::table::Counter;
use crate::time::Time;

pub use failure::Failure;
pub use reader::Reader;
pub use store::{Cursor, Item, Store};
pub use writer::{Health, News, Writer};

/// Something that the file holds, as it is loaded.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    /// A ban of a client or of a network. The evidence is left in the file: [`Reader`] finds it.
    Change(Change),
    /// A counter below its threshold.
    Strike(Strike),
    /// How often a client was banned before: what escalation goes by.
    History {
        /// Who.
        client: Client,
        /// The name of the rule.
        rule: Arc<str>,
        /// How often, and when last.
        earlier: Earlier,
    },
    /// How far a log has been read.
    Position {
        /// The log's path.
        path: String,
        /// How far.
        position: Position,
    },
}

/// A counter below its threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    /// Whose offences it counts.
    pub client: Client,
    /// The name of the rule.
    pub rule: Arc<str>,
    /// The counter.
    pub counter: Counter,
    /// When silence will have ended it.
    pub until: Time,
}
