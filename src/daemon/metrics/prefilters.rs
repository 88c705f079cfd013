//! The prefilters that attached helpers report: by them, their Squids decide what to ask about.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::control::status::PrefilterStatus;
use crate::prefilter::files::LoadedPrefilter;
use crate::rule::Rule;

/// What each helper has reported, by the number of its connection.
#[derive(Debug, Default)]
pub struct LoadedPrefilters(Mutex<BTreeMap<u64, LoadedPrefilter>>);

impl LoadedPrefilters {
    /// Takes a report, which may be one of several about the same prefilter.
    pub fn report(&self, connection: u64, prefilter: LoadedPrefilter) {
        let mut known = self.0.lock();
        match known.get_mut(&connection) {
            Some(known) => known.stamp.merge(&prefilter.stamp),
            None => drop(known.insert(connection, prefilter)),
        }
    }

    /// Forgets the connections for which `is_open` returns false.
    pub fn retain(&self, is_open: impl Fn(u64) -> bool) {
        self.0.lock().retain(|connection, _| is_open(*connection));
    }

    /// The prefilter of each helper, and whether it is stale while `rules` are in force.
    #[must_use]
    pub fn stale(&self, rules: &[Arc<Rule>]) -> Vec<PrefilterStatus> {
        let known = self.0.lock();
        let status = known
            .values()
            .map(|prefilter| PrefilterStatus { directory: prefilter.directory.display().to_string(), stale: prefilter.staleness(rules) });
        status.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::control::request::MAX_LINE;
    use crate::control::subscribe::FromSubscriber;
    use crate::prefilter::Stamp;
    use crate::rule_id::RuleNames;

    fn rules(text: &str) -> Vec<Arc<Rule>> {
        Config::parse(text.as_bytes(), std::path::Path::new("test.toml"), &RuleNames::default()).unwrap().rules.rules().to_vec()
    }

    #[test]
    fn the_lines_of_a_helper_are_one_prefilter_until_it_hangs_up() {
        let many: String = (0..450).map(|number| format!("[[rule]]\nname = 'r{number}'\npath = '^/r{number}$'\n")).collect();
        let (old, new) = (rules(&many), rules(&format!("{many}[[rule]]\nname = 'new'\npath = '^/new$'\n")));
        let loaded = LoadedPrefilter { directory: "/etc/squid/a b".into(), stamp: Stamp::of(&old), fault: None };
        let known = LoadedPrefilters::default();
        let lines: Vec<String> = FromSubscriber::prefilter(&loaded).map(|line| line.to_string()).collect();
        assert!(lines.len() > 2 && lines.iter().all(|line| line.len() < MAX_LINE), "{lines:?}");
        for line in lines {
            let FromSubscriber::Prefilter(part) = FromSubscriber::parse(&line).unwrap() else { panic!("{line}") };
            known.report(7, *part);
        }
        let stale = |rules: &[Arc<Rule>]| known.stale(rules).into_iter().map(|status| status.stale).collect::<Vec<_>>();
        assert_eq!(stale(&old), [None]);
        assert_eq!(
            stale(&new)[0].as_deref(),
            Some(
                "Squid's prefilter is older than the rule new: a request that only these rules match may not be asked about. \
                 To mend it: strikeout prefilter --output '/etc/squid/a b' && squid -k reconfigure"
            )
        );
        known.retain(|connection| connection != 7);
        assert!(stale(&new).is_empty());
    }

    #[test]
    fn a_report_that_could_forge_a_line_on_the_terminal_is_rejected() {
        for text in ["prefilter {\"directory\": \"/a\\u001b[2J\", \"rules\": \"\", \"fault\": null}", "prefilter {}", "prefilter x"] {
            assert!(FromSubscriber::parse(text).is_err(), "{text}");
        }
    }
}
