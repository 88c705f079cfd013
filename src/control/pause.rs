//! The pause, as the daemon and the operator's program exchange it.

use serde::{Deserialize, Serialize};

use super::bans::{epoch, remaining, seconds};
use crate::policy::Pause;
use crate::table::Until;
use crate::time::Time;

/// While it lasts, everybody is served. Times are in seconds since 1970, `remaining` in seconds from now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseStatus {
    pub since: i64,
    pub until: i64,
    pub remaining: i64,
    /// Who paused, in words; empty if that is not known.
    #[serde(default)]
    pub by: String,
}

impl PauseStatus {
    #[must_use]
    pub fn of(pause: &Pause, now: Time) -> Self {
        let until = Until::at(pause.until);
        Self { since: seconds(pause.since), until: epoch(until), remaining: remaining(until, now), by: pause.by.to_string() }
    }
}

/// The answer to `pause`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseReport {
    pub paused: PauseStatus,
    /// Why a restart of the daemon would end the pause.
    #[serde(default)]
    pub not_saved: Option<String>,
}

/// The answer to `resume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeReport {
    /// Whether there was a pause to end.
    pub resumed: bool,
    /// Why a restart of the daemon would bring the pause back.
    #[serde(default)]
    pub not_saved: Option<String>,
}
