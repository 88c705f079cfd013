//! The policy: the rules, lists and settings in force. It is compiled once and replaced as a whole on reload; a reader uses the same policy
//! for all events of one read.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::client::Ipv6Prefix;
use crate::crawler::Crawlers;
use crate::geo::Geo;
use crate::list::Lists;
use crate::rule::{Mode, RuleSet};
use crate::time::Time;
use crate::verdict::{AllowReason, Verdict};

/// The default of [`Policy::false_ban_share`].
pub const DEFAULT_FALSE_BAN_SHARE: f64 = 0.01;

#[derive(Debug, Clone)]
pub struct Policy {
    pub rules: Arc<RuleSet>,
    pub lists: Lists,
    /// Where clients belong.
    pub geo: Geo,
    /// Whose ordinary behaviour does not count.
    pub crawlers: Crawlers,
    /// How many bits of an IPv6 address identify a client.
    pub prefix: Ipv6Prefix,
    /// The answer when the table cannot be reached.
    pub on_failure: OnFailure,
    /// A rule is reported when more than this share of its bans hits clients that look legitimate.
    pub false_ban_share: f64,
    /// The pause in force, or one that has just ended.
    pub pause: Option<Pause>,
}

/// An operator's pause: until its end everybody is served. Counting goes on, and so do bans, which refuse again from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub since: Time,
    /// Exclusive.
    pub until: Time,
    /// Who paused, in words; empty if that is not known here.
    pub by: Arc<str>,
}

impl Policy {
    /// What a process without the databases of `[geo]` should say: what refuses nobody in it.
    #[must_use]
    pub fn warning_without_geo(&self) -> Option<String> {
        let rules = self
            .rules
            .rules()
            .iter()
            .filter(|rule| rule.needs_geo() && (rule.mode == Mode::Enforce || !rule.origin.is_empty()))
            .map(|rule| rule.name.to_string());
        let denied = self.lists.denied_origins().iter().map(|entry| format!("{entry} in deny"));
        let without: Vec<String> = rules.chain(denied).collect();
        let expected = "only the daemon reads [geo], expected strikeout serve and --table";
        (!without.is_empty())
            .then(|| format!("this matches nobody in a helper with a table of its own: {}: {expected}", without.join(", ")))
    }

    /// The pause, if it is in force at `now`.
    #[must_use]
    pub fn active_pause(&self, now: Time) -> Option<&Pause> {
        self.pause.as_ref().filter(|pause| now < pause.until)
    }

    /// The answer to give at `now` in place of `verdict`: while a pause is in force, one that serves the client.
    #[must_use]
    pub fn answer(&self, now: Time, verdict: Verdict) -> Verdict {
        if verdict.refusal().is_some() && self.active_pause(now).is_some() { Verdict::Allow(AllowReason::Paused) } else { verdict }
    }
}

/// The answer when the table cannot be reached in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Serve the client.
    #[default]
    Allow,
    /// Refuse the client temporarily: a 429 in Squid, a 421 in Exim.
    Deny,
}

#[cfg(test)]
impl Policy {
    /// A policy from the `[[rule]]` and `[defaults]` of a configuration, for tests of modules that cannot import the configuration.
    ///
    /// Lists are networks only, no files, and patterns over log lines are not checked.
    pub fn for_tests(text: &str, names: &crate::rule_id::RuleNames) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct TestFile {
            defaults: TestDefaults,
            rule: Vec<crate::rule::spec::RuleSpec>,
        }
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct TestDefaults {
            ignoreip: Vec<String>,
            trusted_proxies: Vec<String>,
            deny: Vec<String>,
        }
        let networks = |option: &str, entries: &[String]| {
            vec![crate::list::ListSource::new(option, entries.iter().map(|entry| crate::list::file::parse_network(entry).unwrap()))]
        };
        let file: TestFile = toml::from_str(text).unwrap();
        let mut lists = Lists::default();
        lists.set_ignoreip(networks("ignoreip", &file.defaults.ignoreip));
        lists.set_trusted_proxies(networks("trusted_proxies", &file.defaults.trusted_proxies));
        lists.set_deny(networks("deny", &file.defaults.deny));
        let rules = crate::rule::merge::rule_set(file.rule, &crate::rule::spec::RuleDefaults::default(), None, names, |_| Ok(())).unwrap();
        Self {
            rules: Arc::new(rules),
            lists,
            prefix: Ipv6Prefix::default(),
            on_failure: OnFailure::Allow,
            false_ban_share: DEFAULT_FALSE_BAN_SHARE,
            geo: Geo::default(),
            crawlers: Crawlers::default(),
            pause: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule_id::{RuleId, RuleNames};
    use crate::table::Until;
    use crate::verdict::{DenyReason, Refusal};

    #[test]
    fn a_pause_serves_everybody_until_its_end_and_changes_no_other_answer() {
        let time = Time::from_secs;
        let mut policy = Policy::for_tests("", &RuleNames::default());
        let refusal = Refusal { rule: RuleId::MANUAL, until: Until::NEVER, reason: DenyReason::Banned };
        let counted = Verdict::Allow(AllowReason::Counted { rule: RuleId::MANUAL, count: 2 });
        assert_eq!(policy.answer(time(10), Verdict::Defer(refusal)), Verdict::Defer(refusal), "no pause");
        policy.pause = Some(Pause { since: time(10), until: time(20), by: "".into() });
        for refused in [Verdict::Deny(refusal), Verdict::Defer(refusal)] {
            assert_eq!(policy.answer(time(19), refused.clone()), Verdict::Allow(AllowReason::Paused));
            assert_eq!(policy.answer(time(20), refused.clone()), refused);
        }
        assert_eq!(policy.answer(time(19), counted.clone()), counted);
    }
}
