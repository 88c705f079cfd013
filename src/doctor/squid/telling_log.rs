//! The log in which Squid tells what it did not ask about, and whether the daemon follows it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config::LogConfig;
use crate::control::status::FollowedLog;
use crate::doctor::facts::is_same_path;
use crate::doctor::report::Finding;
use crate::doctor::squid_config::{Directive, SquidConfig, unquoted};

const CHECK: &str = "squid-log";
/// The field by which each line says whether the helper was asked.
const ASKED: &str = "%{asked_}note";

/// The file of that log and the line that writes it.
fn telling_log(config: &SquidConfig) -> Option<(&Directive, PathBuf)> {
    let formats: BTreeSet<&str> = config
        .named("logformat")
        .filter(|format| format.words.iter().any(|word| unquoted(word).split(' ').any(|field| field == ASKED)))
        .filter_map(|format| format.words.first().map(String::as_str))
        .collect();
    config.named("access_log").find_map(|line| {
        let mut words = line.words.iter().map(|word| unquoted(word));
        let target = words.next()?;
        // Before Squid 3.4 the format was the second word, and it still may be.
        let is_telling = words.any(|word| formats.contains(word.strip_prefix("logformat=").unwrap_or(word)));
        let path = target.strip_prefix("stdio:").or_else(|| target.strip_prefix("daemon:")).unwrap_or(target);
        (is_telling && path.starts_with('/')).then(|| (line, PathBuf::from(path)))
    })
}

/// What stands against that log. `followed` is what the daemon says of its logs.
pub fn check(config: &SquidConfig, logs: &[LogConfig], followed: &[FollowedLog]) -> Finding {
    let Some((line, path)) = telling_log(config) else {
        let text = "Squid writes no log of what it refuses by itself, so a scanner that goes by this server's bare address is not seen";
        let remedy = "take the lines from `acl strikeout_has_request` on from squid-failopen.conf, then: squid -k reconfigure";
        return Finding::warning(CHECK, text, remedy);
    };
    let Some(log) = logs.iter().find(|log| is_same_path(&log.path, &path)) else {
        let text =
            format!("{} writes {}, which no [[log]] names, so what Squid refuses by itself is not seen", line.place(), path.display());
        let command =
            format!("printf '[[log]]\\npath = \"{}\"\\n' > /etc/strikeout/conf.d/squid-log.toml && strikeout reload", path.display());
        return Finding::warning(CHECK, text, command);
    };
    if !marks_asked(config) {
        let text = format!(
            "no access list notes asked_=yes, so {} says of no request that it was asked about, and each counts twice",
            path.display()
        );
        return Finding::fault(CHECK, text, "take the lines with strikeout_asked of squid-failopen.conf, then: squid -k reconfigure");
    }
    if log.rules.as_ref().is_some_and(Vec::is_empty) {
        let text = format!("the [[log]] of {} names no rule, so nothing in it counts", path.display());
        return Finding::warning(CHECK, text, "remove `rules = []` from it, then: strikeout reload");
    }
    if followed.iter().any(|log| log.missing && is_same_path(Path::new(&log.path), &path)) {
        let text = format!("Squid runs, and {} is not there: it cannot write it", path.display());
        let folder = path.parent().unwrap_or(Path::new("/")).display();
        return Finding::warning(CHECK, text, format!("chown proxy: {folder} && squid -k reconfigure"));
    }
    Finding::ok(CHECK, format!("what Squid refuses by itself comes through {}", path.display()))
}

/// Whether an access list notes on each request that the helper has answered.
fn marks_asked(config: &SquidConfig) -> bool {
    let marks = config.named("acl").filter_map(|acl| match acl.words.as_slice() {
        [name, kind, value] if kind == "annotate_transaction" && value == "asked_=yes" => Some(name.clone()),
        _ => None,
    });
    let marks = config.acls_over(marks);
    let lists = config.directives.iter().filter(|line| line.name.ends_with("_access"));
    lists.flat_map(|line| &line.words).any(|word| marks.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Level;
    use crate::doctor::squid_config::tests::config;

    const EXAMPLE: &str = include_str!("../../../conf-examples/squid-failopen.conf");

    fn found(text: &str, log: &str, missing: bool) -> (Level, String) {
        let path = "/var/log/squid/strikeout.log";
        let followed = FollowedLog { path: path.into(), missing, ..FollowedLog::default() };
        let log = LogConfig { path: log.into(), rules: None, inline: false, optional: true, zone: None };
        let finding = check(&config(&[("/s", text)]), &[log], &[followed]);
        (finding.level, finding.text)
    }

    #[test]
    fn the_log_must_be_written_marked_and_followed() {
        let path = "/var/log/squid/strikeout.log";
        assert_eq!(found(EXAMPLE, path, false), (Level::Ok, format!("what Squid refuses by itself comes through {path}")));
        assert!(found(EXAMPLE, "/var/log/squid/access.log", false).1.contains("which no [[log]] names"));
        assert!(found(EXAMPLE, path, true).1.contains("is not there"));
        assert_eq!(found(&EXAMPLE.replace("access_log stdio", "#"), path, false).0, Level::Warning);
        assert!(found(&EXAMPLE.replace("url_rewrite_access deny strikeout_asked !all", ""), path, false).1.contains("counts twice"));
        let old = "logformat s %ts %{asked_}note\naccess_log /x s all\nacl m annotate_transaction asked_=yes\nhttp_access deny m !all";
        assert!(found(old, "/x", false).1.ends_with("through /x"));
    }
}
