//! The policy: the rules, lists and settings in force. It is compiled once and replaced as a whole on reload; a reader uses the same policy
//! for all events of one read.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::client::Ipv6Prefix;
use crate::list::Lists;
use crate::rule::RuleSet;

/// The default of [`Policy::false_ban_share`].
pub const DEFAULT_FALSE_BAN_SHARE: f64 = 0.01;

#[derive(Debug, Clone)]
pub struct Policy {
    pub rules: Arc<RuleSet>,
    pub lists: Lists,
    /// How many bits of an IPv6 address identify a client.
    pub prefix: Ipv6Prefix,
    /// The answer when the table cannot be reached.
    pub on_failure: OnFailure,
    /// A rule is reported when more than this share of its bans hits clients that look legitimate.
    pub false_ban_share: f64,
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
        }
    }
}
