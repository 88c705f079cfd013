//! `[[log]]`: log files to follow, and the rules that look at their lines.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::text::ConfigText;
use crate::log::judge::LogJudge;
use crate::log::time::Zone;
use crate::rule::{Rule, RuleSet, Trigger};

/// A log file to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The file's absolute path.
    pub path: PathBuf,
    /// The names of the rules for its lines, each of them enabled; none for all rules over requests and responses.
    pub rules: Option<Vec<String>>,
    /// Whether the server that writes it also asks about each request. Its lines then only count for what the query could not see.
    pub inline: bool,
    /// Whether the file may be missing, as the log of a server that this machine does not run.
    pub optional: bool,
    /// The zone of times without an offset, as [`Zone::parse`] reads it; none for the machine's own.
    pub zone: Option<String>,
}

impl LogConfig {
    /// The zone of times without an offset. Reads files.
    #[must_use]
    pub fn zone(&self) -> Zone {
        // It was checked when the configuration was read; the time zone database may be gone since.
        self.zone.as_ref().and_then(|zone| Zone::parse(zone).ok()).unwrap_or_else(Zone::of_this_machine)
    }
}

/// A `[[log]]` table as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSpec {
    path: Spanned<PathBuf>,
    rules: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    inline: bool,
    #[serde(default)]
    optional: bool,
    zone: Option<Spanned<String>>,
}

impl LogSpec {
    /// Checks the log against the enabled rules.
    ///
    /// # Errors
    /// A relative path, an unknown zone or rule, or a rule that no log line can offend.
    pub fn check(self, rules: &RuleSet, text: &ConfigText<'_>) -> Result<LogConfig, ConfigError> {
        if !self.path.get_ref().is_absolute() {
            let message = format!("found the log {}, expected an absolute path", self.path.get_ref().display());
            return Err(text.error_at(self.path.span().start, message));
        }
        if let Some(zone) = &self.zone
            && let Err(message) = Zone::parse(zone.get_ref())
        {
            return Err(text.error_at(zone.span().start, message));
        }
        let rules = self.rules.map(|names| check_names(names, rules, text)).transpose()?;
        Ok(LogConfig {
            path: self.path.into_inner(),
            rules,
            inline: self.inline,
            optional: self.optional,
            zone: self.zone.map(Spanned::into_inner),
        })
    }
}

/// Checks that each rule is enabled and that a line can offend it.
fn check_names(named: Vec<Spanned<String>>, rules: &RuleSet, text: &ConfigText<'_>) -> Result<Vec<String>, ConfigError> {
    let mut names = Vec::new();
    for name in named {
        let offset = name.span().start;
        let name = name.into_inner();
        match rules.by_name(&name).map(|rule| &rule.trigger) {
            None => {
                let message = format!("found the rule {name:?} in a log, expected the name of an enabled rule");
                return Err(text.error_at(offset, message));
            }
            Some(Trigger::ConnectionRate | Trigger::Simultaneous { .. } | Trigger::Incident) => {
                let message = format!(
                    "found the rule {name:?} in a log, which no log line can offend; expected a rule over requests, responses or lines"
                );
                return Err(text.error_at(offset, message));
            }
            Some(_) => names.push(name),
        }
    }
    Ok(names)
}

/// Compiles a rule's patterns over log lines to check them. The thread that follows a log compiles its own, in the log's time zone.
///
/// # Errors
/// What is wrong with a pattern or with the filter file.
pub fn judge_of_rule(rule: &Rule) -> Result<LogJudge, String> {
    LogJudge::new(&[Arc::new(rule.clone())], &Zone::utc(), false)
}
