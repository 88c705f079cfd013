//! What happens to the table, as its keepers, followers and hooks are told: a ban made, a ban lifted.

use std::sync::Arc;

use ipnet::IpNet;

use crate::client::Client;
use crate::event::Scope;
use crate::rule::Evidence;
use crate::table::Until;
use crate::time::Time;

/// One change of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A client is banned.
    Banned(BanRecord),
    /// The bans of a client on the surfaces of `scope` are lifted.
    Unbanned {
        /// Who is free again.
        client: Client,
        /// Where.
        scope: Scope,
        /// When.
        at: Time,
    },
    /// A network is banned, by hand.
    NetworkBanned {
        /// The network.
        network: IpNet,
        /// When the ban began.
        since: Time,
        /// When it ends.
        until: Until,
        /// The operator's reason.
        reason: Evidence,
    },
    /// A network's ban is lifted.
    NetworkUnbanned {
        /// The network.
        network: IpNet,
        /// When.
        at: Time,
    },
}

/// A ban with its whole story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanRecord {
    /// Who.
    pub client: Client,
    /// Where it refuses.
    pub scope: Scope,
    /// The rule's name; names, not numbers, go to disk and over sockets.
    pub rule: Arc<str>,
    /// When the first offence that counted was.
    pub first: Time,
    /// When the ban began.
    pub since: Time,
    /// When it ends.
    pub until: Until,
    /// How many offences made it.
    pub count: u32,
    /// Which ban of this client under this rule it is, from 1.
    pub times: u32,
    /// The last offence, or an operator's reason.
    pub evidence: Evidence,
    /// The machine that made it; empty for this one.
    pub node: Arc<str>,
}

/// What is called once a change is kept, or could not be.
pub type Done = Box<dyn FnOnce(Kept) + Send>;

/// Keeps changes beyond this process's life.
pub trait Keeper: Send + Sync {
    /// Writes `change` down, in the order of the calls, without blocking the caller, and calls `done` when that is done or has failed. Where
    /// too much is waiting a ban fails at once, before what waits; nothing else does.
    fn keep(&self, change: Change, done: Done);

    /// Calls `done` when everything that was kept before is down, or has failed.
    fn flush(&self, done: Done);

    /// Whether a ban ever failed because too much was waiting.
    fn has_overflowed(&self) -> bool {
        false
    }
}

/// What became of a change that was to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The kernel has it.
    Yes,
    /// It is in memory only; the keeper goes on trying.
    No(String),
}
