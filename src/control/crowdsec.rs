//! What the daemon tells of CrowdSec's local API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The state of `[crowdsec]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CrowdsecStatus {
    pub url: String,
    /// The file with the key.
    pub key_file: String,
    /// Whether every user of the machine can read it.
    pub key_is_public: bool,
    /// Why the last question was not answered, or the answer not taken; none if it was.
    pub fault: Option<String>,
    /// How many seconds ago the last answer was taken.
    pub answered_ago: Option<u64>,
    /// Number of decisions that are known and in force.
    pub decisions: usize,
    /// Clients and networks whose decision waits for the end of a ban by hand, by a rule or by another program.
    pub waiting: usize,
    /// Decisions that were not taken since the last whole list, by reason.
    pub skipped: BTreeMap<String, u64>,
}

impl CrowdsecStatus {
    /// The decisions that were not taken, in words; empty if all were.
    #[must_use]
    pub fn skipped_text(&self) -> String {
        let skipped: Vec<String> = self.skipped.iter().map(|(reason, number)| format!("{number} {reason}")).collect();
        if skipped.is_empty() { String::new() } else { format!("; not taken: {}", skipped.join(", ")) }
    }
}
