//! `strikeout check`: reads a configuration as the resident would, and says what would be in force.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use super::Failure;
use crate::config::{Config, DEFAULT_FILE};
use crate::rule::{Mode, Names};

/// A summary of the configuration in `config`, or in the usual place. Of the rules those that the file names are shown, or all of them.
///
/// # Errors
/// The first fault, with file and line.
pub fn run(config: Option<&Path>, all_rules: bool) -> Result<String, Failure> {
    let checked = Config::load(config, &Names::default()).map_err(|fault| Failure::Usage(fault.to_string()))?;
    let path = config.unwrap_or(Path::new(DEFAULT_FILE));
    let mut text = if config.is_none() && !path.exists() {
        format!("OK: there is no {}, the defaults are in force\n", path.display())
    } else {
        format!("OK: {}\n", path.display())
    };
    let count = |sources: &[crate::list::Source]| sources.iter().map(|source| source.networks().len()).sum::<usize>();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "socket {} (mode {:04o}, group {})", checked.table.socket.display(), checked.table.mode.0, checked.table.group);
    let _ = writeln!(
        text,
        "lists: {} never banned, {} trusted proxies, {} always refused",
        count(checked.lists.ignoreip()),
        count(checked.lists.trusted_proxies()),
        count(checked.lists.deny())
    );
    for log in &checked.logs {
        let _ = writeln!(text, "log {}: {}", log.path.display(), log.rules.join(", "));
    }
    let rules = checked.rules.rules();
    let shadow = rules.iter().filter(|rule| rule.mode == Mode::Shadow).count();
    let named = named(path);
    let how = if all_rules { "" } else { "; strikeout check --rules shows all, these are named in the file" };
    let _ = writeln!(text, "rules: {} enforced, {shadow} in shadow{}", rules.len() - shadow, if named.is_empty() { "" } else { how });
    for rule in rules.iter().filter(|rule| all_rules || named.contains(&*rule.name)) {
        let bantime = rule.bantime.of(0).map_or_else(|| "for ever".to_owned(), |span| span.to_string());
        let shadow = if rule.mode == Mode::Shadow { ", shadow" } else { "" };
        let _ =
            writeln!(text, "rule {}: {} in {}, ban {bantime}, {}{shadow}", rule.name, rule.maxretry, rule.findtime, rule.scope.as_str());
    }
    Ok(text)
}

/// The names of the rules that a configuration file itself speaks of. It was read before: what cannot be read again is passed over.
fn named(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let table: toml::Table = toml::from_str(&text).unwrap_or_default();
    let rules = table.get("rule").and_then(toml::Value::as_array).into_iter().flatten();
    rules.filter_map(|rule| rule.get("name")?.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_configuration_is_summed_up_and_a_bad_one_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("strikeout.toml");
        std::fs::write(&file, "[[rule]]\nname = \"admin\"\npath = \"/admin\"\nmode = \"shadow\"").unwrap();
        let summary = run(Some(&file), false).unwrap();
        assert!(summary.starts_with(&format!("OK: {}\n", file.display())), "{summary}");
        assert!(summary.contains("\nrule admin: 3 in 10m, ban 1h, all, shadow\n"), "{summary}");
        assert!(!summary.contains("rule w00tw00t") && run(Some(&file), true).unwrap().contains("\nrule w00tw00t: 1 in "), "{summary}");
        std::fs::write(&file, "[table]\nsocet = 1").unwrap();
        let Err(Failure::Usage(fault)) = run(Some(&file), false) else { panic!("expected a fault") };
        assert!(fault.starts_with(&format!("{}:2: unknown field `socet`", file.display())), "{fault}");
    }
}
