//! What `doctor` reports: a finding for each link from the client to the verdict.

use serde::{Deserialize, Serialize};

/// How it stands with one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// It works, but less than it could, or not for long.
    Warning,
    /// Clients are not judged, or the wrong ones are.
    Fault,
}

/// One link, and how it stands with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The link's name, such as `squid-order`. A script may rely on it.
    pub check: String,
    pub level: Level,
    /// What was found.
    pub text: String,
    /// The command that mends it, or what to write where and the command after that.
    pub remedy: Option<String>,
}

impl Finding {
    pub fn ok(check: &str, text: impl Into<String>) -> Self {
        Self { check: check.to_owned(), level: Level::Ok, text: text.into(), remedy: None }
    }

    pub fn warning(check: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check: check.to_owned(), level: Level::Warning, text: text.into(), remedy: Some(remedy.into()) }
    }

    pub fn fault(check: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check: check.to_owned(), level: Level::Fault, text: text.into(), remedy: Some(remedy.into()) }
    }
}

/// All findings, in the order from the configuration to the servers and what follows a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    pub faults: usize,
    pub warnings: usize,
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why: mostly because only root may.
    pub unseen: Vec<String>,
}

impl Report {
    pub fn new(findings: Vec<Finding>, unseen: Vec<String>) -> Self {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        Self { faults: count(Level::Fault), warnings: count(Level::Warning), findings, unseen }
    }
}
