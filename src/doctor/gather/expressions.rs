//! The files of expressions by which Squid knows what it need not ask about.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::files::open;
use crate::doctor::facts::PrefilterFacts;
use crate::doctor::squid::external::External;
use crate::doctor::squid_config::SquidConfig;
use crate::prefilter::files::{ACLS_FILE, AGENT_FILE, LoadedPrefilter, PATH_FILE};
use crate::rule::Rule;

/// The acls whose quoted values name files of expressions.
const KINDS: [&str; 3] = ["url_regex", "urlpath_regex", "browser"];

/// The directories that helpers are told by `--prefilter`, each once. Without `rules`, those in force, nothing is stale.
pub fn prefilters(config: &SquidConfig, rules: Option<&[Arc<Rule>]>, unseen: &mut Vec<String>) -> Vec<PrefilterFacts> {
    let lines = External::all(config);
    let mut directories: Vec<&Path> = lines.iter().filter_map(|line| line.argument("--prefilter")).map(Path::new).collect();
    directories.sort_unstable();
    directories.dedup();
    directories.into_iter().filter_map(|directory| prefilter(directory, rules, unseen)).collect()
}

fn prefilter(directory: &Path, rules: Option<&[Arc<Rule>]>, unseen: &mut Vec<String>) -> Option<PrefilterFacts> {
    let facts = |fault, stale| Some(PrefilterFacts { directory: directory.into(), fault, stale });
    for path in [PATH_FILE, ACLS_FILE, AGENT_FILE].map(|name| directory.join(name)) {
        match open(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                unseen.push(format!("which rules {} covers", path.display()));
                return None;
            }
            Err(error) => return facts(Some(format!("{}: {error}", path.display())), None),
        }
    }
    let loaded = LoadedPrefilter::read(directory);
    let stale = rules.filter(|_| loaded.fault.is_none()).and_then(|rules| loaded.staleness(rules));
    facts(loaded.fault, stale)
}

/// The lines whose acl names a file of expressions in quotes that is not there or is no file, and why.
pub fn unread(config: &SquidConfig) -> Vec<(String, String)> {
    let acls = config.named("acl").filter(|acl| acl.words.get(1).is_some_and(|kind| KINDS.contains(&kind.as_str())));
    let files = acls.flat_map(|acl| {
        let quoted = acl.words.iter().skip(2).filter_map(|word| word.strip_prefix('"')?.strip_suffix('"'));
        quoted.map(move |file| (acl, file))
    });
    let faults = files.filter_map(|(acl, file)| match open(Path::new(file)) {
        Err(error) if error.kind() != ErrorKind::PermissionDenied => Some((acl.place(), format!("{file}: {error}"))),
        _ => None,
    });
    faults.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::squid_config::tests::config;
    use crate::prefilter::Prefilter;

    #[test]
    fn the_files_of_the_fast_form_are_read_from_where_the_configuration_names_them() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().display().to_string();
        let example = include_str!("../../../conf-examples/squid-fast.conf").replace("/etc/squid/strikeout", &directory);
        let acls = format!("acl a url_regex \"{directory}/path.regex\"\nacl b browser \"{directory}/agent.regex\"");
        let fast = example.replace(&format!("include {directory}/acls.conf"), &acls);
        let squid = config(&[("/s", fast.as_str())]);
        let facts = |rules: &[Arc<Rule>]| {
            let found = prefilters(&squid, Some(rules), &mut Vec::new());
            assert_eq!(found.len(), 1);
            found[0].clone()
        };
        assert!(facts(&[]).fault.unwrap().contains("path.regex: No such file"));
        assert_eq!(unread(&squid).len(), 2, "of the url_regex and of the browser acl");
        Prefilter::of(&[]).write(folder.path()).unwrap();
        assert_eq!((facts(&[]).fault, facts(&[]).stale), (None, None));
        assert!(unread(&squid).is_empty());
        let text = "[defaults]\nfamilies = []\n[[rule]]\nname = 'one'\npath = '^/one$'";
        let rules = crate::config::Config::parse(text.as_bytes(), Path::new("t"), &crate::rule_id::RuleNames::default()).unwrap().rules;
        assert!(facts(rules.rules()).stale.unwrap().contains("older than the rule one"));
        std::fs::remove_file(folder.path().join(AGENT_FILE)).unwrap();
        assert!(facts(&[]).fault.unwrap().contains("agent.regex: No such file"));
    }
}
