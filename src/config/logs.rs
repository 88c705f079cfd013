//! `[[log]]`: log files to follow, and the rules that look at their lines.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::text::ConfigText;
use crate::log::judge::LogJudge;
use crate::log::time::Zone;
use crate::rule::{Rule, RuleSet, Standing, Trigger};
use crate::rule_id::did_you_mean;

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

    /// The configured logs to which a file belongs: those at its path (`mainlog.2.gz` counts as `mainlog`), or if there are none, those with its
    /// name, as of a copy. The longest name counts: `mail.log.exim` is no rotated `mail.log` if there is a log of that name.
    #[must_use]
    pub fn named_like<'a>(file: &Path, configured: &'a [Self]) -> Vec<&'a Self> {
        let is_like = |whole: &[u8], log: &[u8]| {
            let suffix = whole.strip_prefix(log).filter(|_| !log.is_empty());
            suffix.is_some_and(|suffix| suffix.first().is_none_or(|next| !next.is_ascii_alphanumeric()))
        };
        let name = |path: &Path| path.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
        let file = std::path::absolute(file).unwrap_or_else(|_| file.into());
        let has_its_name: Vec<&Self> = configured.iter().filter(|log| is_like(&name(&file), &name(&log.path))).collect();
        let in_its_folder: Vec<&Self> = has_its_name.iter().copied().filter(|log| log.path.parent() == file.parent()).collect();
        let like = if in_its_folder.is_empty() { has_its_name } else { in_its_folder };
        let longest = like.iter().map(|log| name(&log.path).len()).max();
        like.into_iter().filter(|log| Some(name(&log.path).len()) == longest).collect()
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
    pub fn check(self, rules: &RuleSet, text: &ConfigText) -> Result<LogConfig, ConfigError> {
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

/// Checks all logs. One that is named several times is one log, with the rules of all places.
///
/// # Errors
/// As for [`LogSpec::check`], and settings that contradict each other, with both places.
pub fn check_all(specs: Vec<LogSpec>, rules: &RuleSet, text: &ConfigText) -> Result<Vec<LogConfig>, ConfigError> {
    let mut logs: Vec<(usize, LogConfig)> = Vec::new();
    for spec in specs {
        let offset = spec.path.span().start;
        let log = spec.check(rules, text)?;
        let Some((first, known)) = logs.iter_mut().find(|(_, known)| known.path == log.path) else {
            logs.push((offset, log));
            continue;
        };
        let is_other_zone = known.zone.is_some() && log.zone.is_some() && known.zone != log.zone;
        if let Some(setting) = if known.inline != log.inline { Some("inline") } else { is_other_zone.then_some("zone") } {
            let (path, first) = (log.path.display(), text.place(*first));
            let message = format!("found a second log {path} with another {setting}, the first is at {first}; expected the same");
            return Err(text.error_at(offset, message));
        }
        known.zone = known.zone.take().or(log.zone);
        known.optional &= log.optional;
        if known.rules.is_some() || log.rules.is_some() {
            let mut names = known.rules.take().unwrap_or_else(|| over_requests(rules));
            for name in log.rules.unwrap_or_else(|| over_requests(rules)) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            known.rules = Some(names);
        }
    }
    Ok(logs.into_iter().map(|(_, log)| log).collect())
}

/// The names of the rules that look at a log which names none.
fn over_requests(rules: &RuleSet) -> Vec<String> {
    rules.rules().iter().filter(|rule| rule.trigger.is_about_requests()).map(|rule| rule.name.to_string()).collect()
}

/// The rules over log lines that no log names, so that they count nothing.
pub fn unfed_rules<'a>(rules: &'a [Arc<Rule>], logs: &[LogConfig]) -> Vec<&'a str> {
    let fed: BTreeSet<&str> = logs.iter().flat_map(|log| log.rules.iter().flatten()).map(String::as_str).collect();
    let over_lines = rules.iter().filter(|rule| matches!(rule.trigger, Trigger::Line(_)));
    over_lines.map(|rule| &*rule.name).filter(|name| !fed.contains(name)).collect()
}

/// Checks that each rule exists and that a line can offend it. Those that are switched off are left out.
fn check_names(named: Vec<Spanned<String>>, rules: &RuleSet, text: &ConfigText) -> Result<Vec<String>, ConfigError> {
    let mut names = Vec::new();
    for name in named {
        let offset = name.span().start;
        let name = name.into_inner();
        match rules.by_name(&name).map(|rule| &rule.trigger) {
            // One that is switched off, perhaps in another piece, must not make every log that names it an error.
            None if rules.standing(None, &name) == Standing::Off => {}
            None => {
                let hint = did_you_mean(&name, rules.rules().iter().map(|rule| &*rule.name));
                let message = format!("found the rule {name:?} in a log, expected the name of an enabled rule{hint}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_the_log_at_its_path_or_else_to_those_with_its_name() {
        let log = |path: &str| LogConfig { path: path.into(), rules: None, inline: false, optional: false, zone: None };
        let configured = ["/var/log/squid/access.log", "/var/log/nginx/access.log", "/var/log/exim4/mainlog"].map(log);
        let like = |file: &str| {
            LogConfig::named_like(Path::new(file), &configured)
                .iter()
                .map(|log| log.path.display().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(like("/var/log/squid/access.log"), "/var/log/squid/access.log");
        assert_eq!(like("/var/log/nginx/access.log.2.gz"), "/var/log/nginx/access.log");
        assert_eq!(like("/var/log/exim4/mainlog-20261123"), "/var/log/exim4/mainlog");
        assert_eq!(like("mainlog.1"), "/var/log/exim4/mainlog", "a copy");
        assert_eq!(like("/root/access.log"), "/var/log/squid/access.log /var/log/nginx/access.log");
        for other in ["/var/log/exim4/mainlogger", "/var/log/exim4/rejectlog", "/var/log/exim4", "-", ""] {
            assert_eq!(like(other), "", "{other}");
        }
    }

    #[test]
    fn of_two_logs_whose_names_a_file_has_the_one_with_the_longer_name_is_its() {
        let log = |path: &str| LogConfig { path: path.into(), rules: None, inline: false, optional: false, zone: None };
        for paths in [["/var/log/mail.log", "/var/log/mail.log.exim"], ["/var/log/mail.log.exim", "/var/log/mail.log"]] {
            let configured = paths.map(log);
            for (file, expected) in [
                ("/var/log/mail.log", "/var/log/mail.log"),
                ("/var/log/mail.log.1", "/var/log/mail.log"),
                ("/var/log/mail.log.exim", "/var/log/mail.log.exim"),
                ("/var/log/mail.log.exim.2.gz", "/var/log/mail.log.exim"),
                ("/root/mail.log.exim", "/var/log/mail.log.exim"),
                ("/root/mail.log-20261123", "/var/log/mail.log"),
            ] {
                let like: Vec<_> = LogConfig::named_like(Path::new(file), &configured).iter().map(|log| log.path.clone()).collect();
                assert_eq!(like, [PathBuf::from(expected)], "{file}");
            }
        }
    }
}
