//! `strikeout check`: reads a configuration as the daemon would, and summarises what would be in force and what is wrong with its logs.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use super::{Failure, check_log, print};
use crate::config::logs::unfed_rules;
use crate::config::{Config, DEFAULT_FILE, LogConfig};
use crate::geo::watch::GeoWatch;
use crate::policy::Policy;
use crate::rule::{Mode, Rule, RuleSet, Trigger};
use crate::rule_id::RuleNames;

/// What is summarised besides the settings.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct CheckOptions {
    /// Show all rules, not only those that the file names.
    #[arg(long)]
    rules: bool,
    /// Do not look at the logs, which may be faulty or on another machine.
    #[arg(long)]
    no_logs: bool,
}

/// Prints the summary of the configuration in `config`, or in the default file.
///
/// # Errors
/// The first error in the configuration, with file and line, or the number of logs that have a fault.
pub fn run(config: Option<&Path>, options: CheckOptions) -> Result<(), Failure> {
    let (text, faulty_logs) = summary(config, options)?;
    print(&text)?;
    match faulty_logs {
        0 => Ok(()),
        1 => Err(Failure::Failed("found a log with a FAULT, which is shown above".into())),
        faulty => Err(Failure::Failed(format!("found {faulty} logs with a FAULT, which are shown above"))),
    }
}

/// The summary, with the rules that the file names or all rules, and the number of logs that have a fault.
fn summary(config: Option<&Path>, options: CheckOptions) -> Result<(String, usize), Failure> {
    let mut forgeries = Vec::new();
    let checked = Config::load_and_inspect(config, &RuleNames::default(), |rule, judge| {
        forgeries.extend(judge.forgeries().into_iter().map(|forgery| (Arc::clone(&rule.name), forgery)));
    })
    .map_err(|fault| Failure::Usage(fault.to_string()))?;
    let logs = checked.logs.clone();
    let path = config.unwrap_or(Path::new(DEFAULT_FILE));
    let mut text = if config.is_none() && !path.exists() {
        format!("there is no {}, the defaults are in force\n", path.display())
    } else {
        format!("{}\n", path.display())
    };
    let named = checked.named_rules.clone();
    for piece in checked.files.iter().skip(1) {
        let _ = writeln!(text, "and {}", piece.display());
    }
    let mut faulty_logs = 0;
    let count = |sources: &[crate::list::ListSource]| sources.iter().map(|source| source.networks().len()).sum::<usize>();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "socket {} (mode {:04o}, group {})", checked.table.socket.display(), checked.table.mode.0, checked.table.group);
    let hosts = match checked.lists.hosts().count() {
        0 => String::new(),
        1 => " and 1 host name".to_owned(),
        hosts => format!(" and {hosts} host names"),
    };
    let _ = writeln!(
        text,
        "lists: {}{hosts} never banned, {} trusted proxies, {} always refused",
        count(checked.lists.ignoreip()),
        count(checked.lists.trusted_proxies()),
        count(checked.lists.deny())
    );
    for database in GeoWatch::new(&checked.geo).states() {
        let (kind, file) = (database.kind.as_str(), database.file.display());
        let _ = match database.fault {
            None => writeln!(text, "geo {kind} {file}: {} networks", database.entries),
            Some(fault) => writeln!(text, "geo {kind} {file}: WARNING: {fault}; until that is mended, what depends on it matches nobody"),
        };
    }
    if let Some(crowdsec) = &checked.crowdsec {
        let (url, file) = (crowdsec.url.as_str(), &crowdsec.key_file);
        let _ = writeln!(text, "crowdsec {url}: asked every {}", crowdsec.interval.0);
        if !file.exists() {
            let _ =
                writeln!(text, "crowdsec {url}: WARNING: found no key file {}; cscli bouncers add strikeout prints a key", file.display());
        }
    }
    let policy = Arc::new(Policy::from(checked));
    for log in &logs {
        let rules = log.rules.as_ref().map_or_else(|| "all rules over requests and responses".to_owned(), |rules| rules.join(", "));
        let _ = writeln!(text, "log {}: {rules}", log.path.display());
        if let Some(rule) = lone_page_probes(log, &policy.rules) {
            let _ = writeln!(
                text,
                "log {}: WARNING: the rule {} never counts here, because it counts what other rules of the same log refuse; \
                 expected enforced rules over path, query, user_agent, url or header beside it, or no rules = […] at all",
                log.path.display(),
                rule.name
            );
        }
        if options.no_logs {
            continue;
        }
        match check_log::state(log, &policy) {
            Ok(state) if state.is_empty() => {}
            Ok(state) => {
                let _ = writeln!(text, "log {}: {state}", log.path.display());
            }
            Err(fault) => {
                faulty_logs += 1;
                let _ = writeln!(text, "log {}: FAULT: {fault}", log.path.display());
            }
        }
    }
    let rules = policy.rules.rules();
    let shadow = rules.iter().filter(|rule| rule.mode == Mode::Shadow).count();
    let hint = if options.rules { "" } else { "; strikeout check --rules shows all, these are named in the file" };
    let _ = writeln!(text, "rules: {} enforced, {shadow} in shadow{}", rules.len() - shadow, if named.is_empty() { "" } else { hint });
    for rule in rules.iter().filter(|rule| options.rules || named.contains(&*rule.name)) {
        let bantime = rule.bantime.of(0).map_or_else(|| "forever".to_owned(), |span| span.to_string());
        let shadow = if rule.mode == Mode::Shadow { ", shadow" } else { "" };
        let _ =
            writeln!(text, "rule {}: {} in {}, ban {bantime}, {}{shadow}", rule.name, rule.maxretry, rule.findtime, rule.scope.as_str());
    }
    if let Some(warning) = policy.warning_without_geo() {
        let _ = writeln!(text, "geo: {warning}");
    }
    let (unfed, named_unfed) = unfed_rules(rules, &logs).into_iter().partition::<Vec<_>, _>(|name| !named.contains(*name));
    if !unfed.is_empty() {
        let _ = writeln!(text, "no log names these rules, so they count nothing: {}", unfed.join(", "));
    }
    for rule in named_unfed {
        let _ = writeln!(text, "rule {rule}: WARNING: no log names it, so it counts nothing; expected it among the rules of a [[log]]");
    }
    for (rule, forgery) in forgeries {
        let _ = writeln!(text, "rule {rule}: WARNING: {forgery}");
    }
    let is_good = if faulty_logs == 0 { "OK" } else { "FAULT" };
    Ok((format!("{is_good}: {text}"), faulty_logs))
}

/// A rule over page probes that `log` names without a rule whose refusals it could count.
fn lone_page_probes<'a>(log: &LogConfig, rules: &'a RuleSet) -> Option<&'a Rule> {
    let named: Vec<&Arc<Rule>> = log.rules.as_ref()?.iter().filter_map(|name| rules.by_name(name)).collect();
    let has_probes =
        named.iter().any(|rule| matches!(rule.trigger, Trigger::Request(_)) && rule.mode == Mode::Enforce && rule.refuses_offence);
    named.into_iter().find(|rule| rule.trigger == Trigger::PageProbe && !has_probes).map(|rule| &**rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: CheckOptions = CheckOptions { rules: false, no_logs: false };

    #[test]
    fn a_good_configuration_is_summarised_and_a_bad_one_is_reported_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("strikeout.toml");
        std::fs::write(&file, "[[rule]]\nname = \"admin\"\npath = \"/admin\"\nmode = \"shadow\"").unwrap();
        let text = summary(Some(&file), NAMED).unwrap().0;
        assert!(text.starts_with(&format!("OK: {}\n", file.display())), "{text}");
        assert!(text.contains("\nrule admin: 3 in 10m, ban 1h, all, shadow\n"), "{text}");
        assert!(
            !text.contains("rule w00tw00t")
                && summary(Some(&file), CheckOptions { rules: true, ..NAMED }).unwrap().0.contains("\nrule w00tw00t: 1 in "),
            "{text}"
        );
        let logs = "[[log]]\npath = '/a'\n[[log]]\npath = '/b'\nrules = ['w00tw00t', 'exim-global']";
        std::fs::write(&file, logs).unwrap();
        let (text, faulty_logs) = summary(Some(&file), NAMED).unwrap();
        assert!(text.starts_with(&format!("FAULT: {}\n", file.display())) && faulty_logs == 2, "{text}");
        assert!(text.contains("\nlog /a: all rules over requests and responses\nlog /a: FAULT: found no such file, expected "), "{text}");
        assert!(text.contains("\nlog /b: w00tw00t, exim-global\nlog /b: FAULT: found no such file, expected "), "{text}");
        let (text, faulty_logs) = summary(Some(&file), CheckOptions { no_logs: true, ..NAMED }).unwrap();
        assert!(text.starts_with("OK: ") && text.contains("\nlog /b: w00tw00t, exim-global\n") && faulty_logs == 0, "{text}");
        std::fs::write(&file, "[[rule]]\nname = 'a'\nfailregex = 'bad <HOST>'\n[[rule]]\nname = 'b'\nfailregex = '^ bad <HOST>$'").unwrap();
        let text = summary(Some(&file), NAMED).unwrap().0;
        let warning = "\nrule a: WARNING: failregex 1 lets a client decide which address is blamed: it is not anchored";
        assert!(text.contains(warning) && !text.contains("rule b: WARNING: failregex"), "{text}");
        std::fs::write(&file, "[table]\nsocet = 1").unwrap();
        let Err(Failure::Usage(fault)) = summary(Some(&file), NAMED) else { panic!("expected a fault") };
        assert!(fault.starts_with(&format!("{}:2: unknown field `socet`", file.display())), "{fault}");
    }

    #[test]
    fn a_rule_over_lines_that_no_log_names_is_warned_about_if_the_file_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("strikeout.toml");
        let summary = |rules: &str| {
            let text = format!("[[rule]]\nname = 'sshd'\nfailregex = '^bad <HOST>$'\n[[log]]\npath = '/a'\nrules = [{rules}]");
            std::fs::write(&file, text).unwrap();
            summary(Some(&file), CheckOptions { no_logs: true, ..NAMED }).unwrap().0
        };
        let text = summary("'exim-per-host'");
        assert!(text.contains("\nrule sshd: WARNING: no log names it, so it counts nothing; "), "{text}");
        let built_in = text.lines().find(|line| line.starts_with("no log names these rules")).unwrap();
        assert!(built_in.contains("exim-global") && !built_in.contains("exim-per-host") && !built_in.contains("sshd"), "{text}");
        assert!(!summary("'sshd'").contains("rule sshd: WARNING"), "{text}");
    }

    #[test]
    fn a_log_whose_page_probes_can_never_count_is_warned_about() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("strikeout.toml");
        let is_warned = |rules: &str| {
            std::fs::write(&file, format!("[[log]]\npath = '/a'\n{rules}")).unwrap();
            let (text, _) = summary(Some(&file), CheckOptions::default()).unwrap();
            text.contains("\nlog /a: WARNING: the rule page-probes never counts here, ")
        };
        assert!(is_warned("rules = ['page-probes']"));
        assert!(is_warned("rules = ['page-probes', 'web-not-found']"), "a rule over responses refuses no request");
        assert!(is_warned("rules = ['page-probes', 'a']\n[[rule]]\nname = 'a'\npath = '/x'\nmode = 'shadow'"));
        assert!(is_warned("rules = ['page-probes', 'a']\n[[rule]]\nname = 'a'\npath = '/x'\nrefuse = 'ban'"));
        assert!(!is_warned("rules = ['page-probes', 'w00tw00t']"));
        assert!(!is_warned("rules = ['web-not-found']"));
        assert!(!is_warned(""));
    }
}
