//! The lines of `list`, and the answers to `ban`, `unban` and `forget`, as the daemon and the operator's program exchange them.

use serde::{Deserialize, Serialize};

use crate::event::Scope;
use crate::table::Until;
use crate::time::Time;

/// One line of the answer to `list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedBan {
    /// The client or network.
    pub client: String,
    pub scope: Scope,
    pub rule: String,
    /// Seconds since 1970; -1 if permanent.
    pub until: i64,
    /// Seconds from now; -1 if permanent.
    pub remaining: i64,
    /// Seconds since 1970; `None` if it is not known.
    #[serde(default)]
    pub since: Option<i64>,
    /// The last offence, or the operator's reason: if it was asked for and is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// The answer to `ban`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanReport {
    /// The client or network.
    pub banned: String,
    /// The end of the ban in force, which may be an earlier ban that ends later. Seconds since 1970; -1 if permanent.
    pub until: i64,
    /// Seconds from now; -1 if permanent.
    pub remaining: i64,
    pub scope: Scope,
    /// Why the ban is only in memory.
    #[serde(default)]
    pub not_saved: Option<String>,
}

/// The answer to `unban`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnbanReport {
    /// The client or network, or which ones.
    pub target: String,
    pub found: bool,
    /// How many clients and networks were unbanned.
    #[serde(default)]
    pub unbanned: usize,
    /// How many clients and networks inside the target are still banned.
    #[serde(default)]
    pub inside: usize,
    /// Why the change is only in memory.
    #[serde(default)]
    pub not_saved: Option<String>,
}

/// The answer to `forget`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetReport {
    /// The node whose bans are being dropped.
    pub forgetting: String,
    /// Why that has to wait for Redis; the request is lost if the daemon ends before it has reached Redis.
    #[serde(default)]
    pub waiting: Option<String>,
}

/// The end of a ban in seconds since 1970; -1 if permanent.
#[must_use]
pub fn epoch(until: Until) -> i64 {
    until.time().map_or(-1, seconds)
}

/// Seconds that remain of a ban, at least one; -1 if permanent.
#[must_use]
pub fn remaining(until: Until, now: Time) -> i64 {
    until.remaining(now).map_or(-1, |span| i64::try_from(span.secs().max(1)).unwrap_or(i64::MAX))
}

/// A time in seconds since 1970.
#[must_use]
pub fn seconds(time: Time) -> i64 {
    i64::try_from(time.secs()).unwrap_or(i64::MAX)
}
