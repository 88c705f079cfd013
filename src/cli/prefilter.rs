//! `strikeout prefilter`.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::terminal::counted;
use super::{Failure, print};
use crate::config::Config;
use crate::prefilter::Prefilter;
use crate::prefilter::files::{ACLS_FILE, AGENT_FILE, PATH_FILE};
use crate::rule::{Mode, RuleSet};
use crate::rule_id::RuleNames;

/// The arguments of `prefilter`.
#[derive(Debug, clap::Args)]
pub struct PrefilterArguments {
    /// The configuration. [default: /etc/strikeout/strikeout.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory, which must exist. Squid reads acls.conf, path.regex and agent.regex there.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

/// Writes the expressions that conf-examples/squid-fast.conf uses.
///
/// # Errors
/// The configuration has an error, or a file cannot be written.
pub fn run(arguments: &PrefilterArguments) -> Result<(), Failure> {
    let config = Config::load(arguments.config.as_deref(), &RuleNames::default()).map_err(|fault| Failure::Usage(fault.to_string()))?;
    let prefilter = Prefilter::of(config.rules.rules());
    prefilter.write(&arguments.output).map_err(Failure::Failed)?;
    print(&text(&prefilter, &config.rules, &arguments.output.display().to_string()))
}

fn text(prefilter: &Prefilter, rules: &RuleSet, directory: &str) -> String {
    let mut text = String::new();
    let in_acls: Vec<String> = [&prefilter.long_path, &prefilter.host, &prefilter.long_agent].into_iter().flatten().cloned().collect();
    for (name, expressions) in [(PATH_FILE, &prefilter.path), (AGENT_FILE, &prefilter.agent), (ACLS_FILE, &in_acls)] {
        let bytes: usize = expressions.iter().map(String::len).sum();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{directory}/{name}: {}, {bytes} bytes", counted(expressions.len(), "expression"));
    }
    let _ = writeln!(text, "{} over requests; squid -k reconfigure loads them", counted(prefilter.rules, "rule"));
    if !prefilter.over_headers.is_empty() {
        let rules = counted(prefilter.over_headers.len(), "rule");
        let _ = writeln!(text, "{rules} over headers never match here, because this form hands none over: see squid-failopen.conf");
    }
    for unexpressed in &prefilter.unexpressed {
        let _ = writeln!(text, "warning: every request is asked about: {unexpressed}");
    }
    for rule in rules.request_rates().iter().filter(|rule| rule.mode == Mode::Enforce) {
        let _ = writeln!(
            text,
            "warning: rule {} counts every request, which Squid must tell by its log: see strikeout_rates in squid-fast.conf",
            rule.name
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(rules: &str) -> String {
        let rules = format!("[defaults]\nfamilies = ['scanners', 'agents', 'ordinary']\n{rules}");
        let config = Config::parse(rules.as_bytes(), std::path::Path::new("test.toml"), &RuleNames::default()).unwrap();
        text(&Prefilter::of(config.rules.rules()), &config.rules, "/etc/squid/strikeout")
    }

    #[test]
    fn the_files_are_named_with_what_they_hold() {
        let text = text_of("");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("/etc/squid/strikeout/path.regex: ") && lines[0].ends_with(" bytes"), "{text}");
        assert!(lines[1].starts_with("/etc/squid/strikeout/agent.regex: 1 expression, "), "{text}");
        assert!(lines[2].starts_with("/etc/squid/strikeout/acls.conf: 3 expressions, "), "{text}");
        assert!(lines[3].ends_with(" rules over requests; squid -k reconfigure loads them"), "{text}");
        assert_eq!(lines.len(), 4, "{text}");
    }

    #[test]
    fn rules_over_headers_are_said_to_be_left_out_and_let_nothing_more_through() {
        let text = text_of("[[rule]]\nname = 'cookie'\nheader = '^cookie: x'\nmethod = 'POST'");
        assert!(text.contains("\n1 rule over headers never match here, because this form hands none over"), "{text}");
        assert!(!text.contains("warning"), "{text}");
    }

    #[test]
    fn a_rule_that_needs_more_than_expressions_is_named() {
        let text = text_of("[[rule]]\nname = 'any'\npath = '.'\n[[rule]]\nname = 'web-rate'\nmode = 'enforce'");
        assert!(text.contains("path.regex: 1 expression, 1 bytes\n"), "{text}");
        assert!(text.contains("warning: every request is asked about: rule any: nothing is certain"), "{text}");
        assert!(text.contains("warning: rule web-rate counts every request"), "{text}");
    }
}
