//! Which configuration is in force, as the daemon and the operator's program exchange it.

use serde::{Deserialize, Serialize};

/// The configuration in force. Times are in seconds since 1970, `…_ago` in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigStatus {
    pub file: String,
    /// The pieces beside it that it was read from.
    pub pieces: Vec<String>,
    /// When it was read.
    pub since: i64,
    pub since_ago: u64,
    pub enforced: usize,
    pub shadow: usize,
    /// The last attempt to replace it, if that was refused.
    pub refused: Option<RefusedConfig>,
}

impl ConfigStatus {
    /// The main file, and how many pieces there are beside it.
    #[must_use]
    pub fn files(&self) -> String {
        match self.pieces.len() {
            0 => self.file.clone(),
            1 => format!("{} and 1 piece", self.file),
            pieces => format!("{} and {pieces} pieces", self.file),
        }
    }
}

/// A configuration with an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedConfig {
    pub at: i64,
    pub at_ago: u64,
    /// File and line, what was found and what was expected.
    pub fault: String,
}

/// The answer to `reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    pub reloaded: bool,
    /// The changes of the configuration that are not in force yet.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The bans that ended because their rules refuse nobody any more.
    #[serde(default)]
    pub lifted: Vec<LiftedRule>,
    #[serde(default)]
    pub config: ConfigStatus,
}

/// The ended bans of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiftedRule {
    pub rule: String,
    /// Such as "in shadow mode".
    pub because: String,
    /// How many clients and networks were banned.
    pub bans: usize,
}
