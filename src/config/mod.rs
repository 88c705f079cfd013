//! The configuration file, checked whole: an error names file and line, what was found and what was expected.

mod crawlers;
pub mod crowdsec;
mod defaults;
mod duplicate;
mod error_text;
pub mod fleet;
#[cfg(feature = "fleet")]
pub mod fleet_url;
mod geo;
mod hook;
pub mod logs;
mod merge;
mod metrics;
pub mod pieces;
pub mod secret;
mod table;
mod text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use crate::crawler::Crawlers;
use crate::geo::Geo;
use crate::geo::watch::GeoFiles;
use crate::list::Lists;
use crate::log::judge::LogJudge;
use crate::policy::Policy;
use crate::rule::merge::{RulesError, rule_set};
use crate::rule::spec::RuleSpec;
use crate::rule::{Rule, RuleSet};
use crate::rule_id::RuleNames;
use crowdsec::CrowdsecConfig;
use defaults::DefaultsSection;
use fleet::FleetConfig;
pub use hook::HookConfig;
pub use logs::LogConfig;
use logs::{LogSpec, judge_of_rule};
pub use metrics::MetricsConfig;
pub use table::{DEFAULT_SOCKET, TableConfig};
pub use text::ConfigError;
use text::ConfigText;

/// The configuration file unless another is named.
pub const DEFAULT_FILE: &str = "/etc/strikeout/strikeout.toml";

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    pub table: TableConfig,
    /// The enabled rules, built-in ones included.
    pub rules: RuleSet,
    /// `ignoreip`, `trusted_proxies` and `deny`; the caller adds the machine's own addresses.
    pub lists: Lists,
    /// `verified_crawlers`.
    pub crawlers: Crawlers,
    pub logs: Vec<LogConfig>,
    /// The share of false bans, 0 to 1, above which a rule is warned about.
    pub false_ban_share: f64,
    /// `[fleet]`; none if the machine belongs to no fleet.
    pub fleet: Option<FleetConfig>,
    /// `[crowdsec]`; none if no decisions are taken over.
    pub crowdsec: Option<CrowdsecConfig>,
    pub metrics: MetricsConfig,
    /// The databases that say where addresses belong. Only the daemon reads them.
    pub geo: GeoFiles,
    /// `[hook]`; none if no program is run.
    pub hook: Option<HookConfig>,
    /// The files that it was read from, the main one first. That one may be missing.
    pub files: Vec<PathBuf>,
    /// The lists of networks that it names.
    pub list_files: Vec<PathBuf>,
    /// The rules that the files name themselves.
    pub named_rules: BTreeSet<String>,
}

/// The file as written.
#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    table: TableConfig,
    defaults: DefaultsSection,
    rule: Vec<RuleSpec>,
    log: Vec<LogSpec>,
    fleet: Option<Spanned<FleetConfig>>,
    crowdsec: Option<Spanned<CrowdsecConfig>>,
    metrics: MetricsConfig,
    geo: geo::GeoSection,
    hook: Option<HookConfig>,
}

impl Config {
    /// Reads and checks `file`, or [`DEFAULT_FILE`] if none is named, and the pieces beside it. Without any, the built-in defaults apply.
    ///
    /// # Errors
    /// The first fault in the files or in a list that they name.
    pub fn load(file: Option<&Path>, names: &RuleNames) -> Result<Self, ConfigError> {
        Self::load_and_inspect(file, names, |_, _| ())
    }

    /// As [`Config::load`]. `inspect` sees each enabled rule of the file with its patterns over log lines compiled, which may take long and
    /// happens only here.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn load_and_inspect(file: Option<&Path>, names: &RuleNames, inspect: impl FnMut(&Rule, &LogJudge)) -> Result<Self, ConfigError> {
        let text = pieces::read(file.unwrap_or(Path::new(DEFAULT_FILE)), file.is_none())?;
        Self::check(&text, names, inspect)
    }

    /// Checks the text of a configuration in one file. Lists and filters that it names are read from disk.
    ///
    /// # Errors
    /// The first fault.
    pub fn parse(bytes: &[u8], file: &Path, names: &RuleNames) -> Result<Self, ConfigError> {
        Self::check(&ConfigText::new(bytes, file)?, names, |_, _| ())
    }

    fn check(text: &ConfigText, names: &RuleNames, mut inspect: impl FnMut(&Rule, &LogJudge)) -> Result<Self, ConfigError> {
        let parsed: ConfigFile = text.deserialize()?;
        let defaults = parsed.defaults.rule_defaults(text)?;
        let families = parsed.defaults.families(text)?;
        let geo = parsed.geo.files(text)?;
        geo::check_rules(&parsed.rule, &geo, text)?;
        let named_rules = parsed.rule.iter().map(|rule| rule.name.get_ref().clone()).collect();
        let named: Vec<_> = parsed.rule.iter().map(|rule| (rule.name.get_ref().clone(), rule.name.span().start)).collect();
        let check = |rule: &Rule| judge_of_rule(rule).map(|judge| inspect(rule, &judge));
        let rules = rule_set(parsed.rule, &defaults, families.as_deref(), names, check).map_err(|error| match error {
            RulesError::At(error) => text.spec_error(error),
            RulesError::Duplicate { name, first, second } => {
                let first = text.place(first);
                text.error_at(second, format!("found a second rule {name:?}, the first is at {first}; expected each name once"))
            }
            RulesError::Whole(message) => text.error(message),
        })?;
        geo::check_counting(&named, &rules, &geo, text)?;
        let lists = parsed.defaults.lists(&geo, text)?;
        let crawlers = crawlers::check(&parsed.defaults.verified_crawlers, text)?;
        let list_files = parsed.defaults.list_files();
        let logs = logs::check_all(parsed.log, &rules, text)?;
        let false_ban_share = parsed.defaults.false_ban_share(text)?;
        if let Some(fleet) = &parsed.fleet {
            fleet.get_ref().check().map_err(|message| text.error_at(fleet.span().start, message))?;
        }
        let fleet = parsed.fleet.map(Spanned::into_inner);
        if let Some(crowdsec) = &parsed.crowdsec {
            for kind in &crowdsec.get_ref().scopes {
                let Some(database) = kind.database() else { continue };
                let scope = format!("the scope {}", kind.as_str());
                geo::check(Some((crowdsec.span().start, &scope)), database, &geo, text)?;
            }
        }
        let (metrics, hook, crowdsec) = (parsed.metrics, parsed.hook, parsed.crowdsec.map(Spanned::into_inner));
        let files = text.files().map(Into::into).collect();
        let table = parsed.table;
        Ok(Self {
            table,
            rules,
            lists,
            crawlers,
            logs,
            false_ban_share,
            fleet,
            crowdsec,
            metrics,
            geo,
            hook,
            files,
            list_files,
            named_rules,
        })
    }
}

impl From<Config> for Policy {
    fn from(config: Config) -> Self {
        Self {
            rules: Arc::new(config.rules),
            lists: config.lists,
            prefix: config.table.ipv6_prefix,
            on_failure: config.table.on_failure,
            false_ban_share: config.false_ban_share,
            geo: Geo::default(),
            crawlers: config.crawlers,
            pause: None,
        }
    }
}

/// A number from 1 to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MAX: usize>(usize);

impl<const MAX: usize> Bounded<MAX> {
    #[must_use]
    pub fn get(self) -> usize {
        self.0
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Bounded<MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match usize::try_from(number) {
            Ok(number) if (1..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(serde::de::Error::custom(format!("found {number}, expected 1 to {MAX}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Trigger;
    use crate::time::Span;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text.as_bytes(), Path::new("/etc/strikeout/strikeout.toml"), &RuleNames::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config.table, TableConfig::default());
        let rule = config.rules.by_name("w00tw00t").unwrap();
        assert_eq!((rule.maxretry, rule.bantime.of(0)), (1, Some(Span::from_secs(3600))));
        let (rate, simultaneous) = (config.rules.by_name("exim-rate").unwrap(), config.rules.by_name("exim-simultaneous").unwrap());
        assert_eq!((rate.maxretry, rate.findtime, rate.bantime.of(0)), (100, Span::from_secs(60), Some(Span::from_secs(600))));
        assert_eq!((simultaneous.maxretry, &simultaneous.trigger), (10, &Trigger::Simultaneous { limit: 10 }));
        let (per_host, global) = (config.rules.by_name("exim-per-host").unwrap(), config.rules.by_name("exim-global").unwrap());
        assert_eq!((per_host.maxretry, global.maxretry, global.findtime), (1, 6, Span::from_secs(60)));
    }

    #[test]
    fn an_error_names_file_line_what_was_found_and_what_was_expected() {
        for (text, expected) in [
            ("[table]\nclients = 0", ":2: found clients = 0, expected 1 to 100000000"),
            ("[table]\n\nsocet = \"x\"", ":3: unknown field `socet`, expected one of"),
            ("[defaults]\nfindtime = \"ten\"", ":2: found findtime = \"ten\", expected a duration"),
            ("[defaults]\nfalse_ban_share = 1.5", ":2: found false_ban_share = 1.5, expected 0 to 1"),
            ("[defaults]\n\nfamilies = [\"proxy\", \"phh\"]", ":3: found the family \"phh\", expected one of scanners, secrets, php"),
            ("[defaults]\nbantime = true", ":2: found bantime = true, expected a duration"),
            ("[defaults]\nignoreip = [\"10.0.0.0/8\", \"localhost\"]", ":2: found \"localhost\" in ignoreip, expected an IP address"),
            ("[defaults]\ndeny = [\"/no/such/list\"]", ":2: "),
            ("[[rule]]\nname = \"a b\"\npath = \"x\"", ":2: found the rule name \"a b\", expected"),
            ("[[rule]]\nname = \"manual\"\npath = \"x\"", ":2: found the rule name \"manual\", which"),
            ("[[rule]]\nname = \"a\"", ":2: found nothing that says what it matches in rule \"a\", expected one of"),
            ("[[rule]]\nname = \"a\"\npath = \"/(\"", ":3: found the pattern '/(', expected a regular expression: unclosed group"),
            ("[[rule]]\nname = \"a\"\npath = \"x\"\nmaxretry = 0", ":4: found maxretry = 0, expected 1 or more"),
            ("[[rule]]\nname = \"a\"\nquery = \"x\"\nmaxretry = 1", ":4: found maxretry = 1 in rule \"a\" over a query string"),
            ("[[rule]]\nname = \"a\"\npath = \"x\"\nfindtime = \"1y\"", ":4: found findtime"),
            ("[[rule]]\nname = \"a\"\npath = \"x\"\nevent = \"request\"", ":2: found event together with method, path"),
            ("[[rule]]\nname = \"a\"\nstatus = 99", ":3: found status 99, expected 100 to 999"),
            ("[[rule]]\nname = \"a\"\npath = \"x\"\n[[rule]]\nname = \"a\"\npath = \"y\"", ":5: found a second rule \"a\""),
            ("[[log]]\npath = \"/var/log/x\"\nrules = [\"nix\"]", ":3: found the rule \"nix\" in a log"),
            ("[[rule]]\nname = \"a\"\nexim = \"refused\"", ":3: found exim = \"refused\", expected one of refused-per-host, "),
            ("[[rule]]\nname = \"a\"\nmaxretry = 2\nfailregex = \"x( <HOST>\"", ":4: "),
            ("[[rule]]\nname = \"a\"\nfilter = \"/nowhere/at.all\"", ":3: "),
            ("[[log]]\npath = \"x\"\nrules = []", ":2: found the log x, expected an absolute path"),
            ("[[log]]\npath = \"/x\"\nzone = \"Berlin\"", ":3: found time zone \"Berlin\", expected a name such as"),
            ("[[log]]\npath = \"/x\"\nrules = [\"exim-rate\"]", ":3: found the rule \"exim-rate\" in a log, which"),
            ("[metrics]\nlisten = \"192.0.2.7:9471\"", ":2: found listen = \"192.0.2.7:9471\", expected a loopback address and a port"),
            ("[hook]\ncommand = [\"tell\"]", ":2: found \"tell\", expected the absolute path of a program"),
            ("[hook]\ncommand = [\"/x\"]\ntimeout = \"1d\"", ":3: found timeout = 1d, expected 1s to 1h"),
            ("[hook]\ncommand = [\"/x\"]\ngroup = \"0\"", ":3: found group = 0s, expected 1s to 1h"),
            ("[crowdsec]\nurl = \"http://127.0.0.1\"", ":1: missing field `key_file`"),
            ("[crowdsec]\nurl = \"http://a\"\nkey_file = \"/k\"\nscopes = [\"as\"]", ":1: found the scope as without a database"),
            (
                "[geo]\nasn = \"/x\"\n[crowdsec]\nurl = \"http://a\"\nkey_file = \"/k\"\nscopes = [\"country\"]",
                ":3: found the scope country without a database, expected country in [geo] as well",
            ),
            (
                "[crowdsec]\nurl = \"http://a\"\nkey_file = \"/k\"\nscopes = [\"land\"]",
                ":4: unknown variant `land`, expected one of `ip`, ",
            ),
            ("[crowdsec]\nkey_file = \"/k\"\nurl = \"lapi\"", ":3: found url = \"lapi\", expected one such as"),
            ("[geo]\nasn = \"asn.mmdb\"", ":2: found asn = \"asn.mmdb\", expected the absolute path of a database"),
            ("[[rule]]\nname = \"a\"\npath = \"x\"\nasn = 64496", ":4: found asn without a database, expected asn in [geo] as well"),
            ("[geo]\nasn = \"/x\"\n[[rule]]\nname = \"a\"\npath = \"x\"\nnot_country = \"DE\"", ":6: found not_country without"),
            ("[[rule]]\nname = \"a\"\npath = \"x\"\ncount_by = \"asn\"", ":2: found count_by = \"asn\" without a database"),
            ("[defaults]\ndeny = [\"AS64496\"]", ":2: found AS64496 in deny without a database, expected asn in [geo] as well"),
            ("[defaults]\ndeny = [\"AS0\"]", ":2: found \"AS0\" in deny, expected an IP address"),
            ("[table", ":1: "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("/etc/strikeout/strikeout.toml:"), "{error}");
            assert!(error.contains(expected), "{text}\n  gave     {error}\n  expected {expected}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn invalid_utf8_is_an_error_with_its_line() {
        let error = Config::parse(b"# ok\n# \xff\n", Path::new("c"), &RuleNames::default()).unwrap_err();
        assert_eq!(error.to_string(), "c:2: found bytes that are not UTF-8, expected TOML");
    }

    #[test]
    fn a_missing_file_is_an_error_if_it_was_named() {
        let error = Config::load(Some(Path::new("/no/such/file.toml")), &RuleNames::default()).unwrap_err();
        assert!(error.to_string().starts_with("/no/such/file.toml: cannot be read: "), "{error}");
    }

    #[test]
    fn a_rule_named_like_a_built_in_one_changes_it() {
        let config = parse("[[rule]]\nname = \"w00tw00t\"\nbantime = -1\nmode = \"shadow\"").unwrap();
        let rule = config.rules.by_name("w00tw00t").unwrap();
        assert_eq!((rule.bantime.of(0), rule.mode, rule.maxretry), (None, crate::rule::Mode::Shadow, 1));
        assert!(matches!(&rule.trigger, Trigger::Request(pattern) if pattern.path.is_some()));
        assert!(parse("[[rule]]\nname = \"w00tw00t\"\nenabled = false").unwrap().rules.by_name("w00tw00t").is_none());
        let replaced = parse("[[rule]]\nname = \"w00tw00t\"\nevent = \"incident\"").unwrap();
        assert_eq!(replaced.rules.by_name("w00tw00t").unwrap().trigger, Trigger::Incident);
    }

    #[test]
    fn a_rule_without_maxretry_findtime_and_bantime_takes_the_defaults() {
        let config = parse("[defaults]\nmaxretry = 7\nfindtime = 60\nbantime = { initial = \"2h\", increment = true, maxtime = \"1d\" }\n[[rule]]\nname = \"a\"\npath = \"/x\"").unwrap();
        let rule = config.rules.by_name("a").unwrap();
        assert_eq!((rule.maxretry, rule.findtime), (7, Span::from_secs(60)));
        assert_eq!(
            (rule.bantime.of(0), rule.bantime.of(1), rule.bantime.of(9)),
            (Some(Span::from_secs(7200)), Some(Span::from_secs(14_400)), Some(Span::from_secs(86_400)))
        );
    }

    #[test]
    fn a_path_rule_refuses_the_offence_itself_only_if_maxretry_is_one() {
        let config = parse("[[rule]]\nname = \"a\"\npath = \"/x\"\nmaxretry = 3\n[[rule]]\nname = \"b\"\nquery = \"x\"").unwrap();
        let refuses = |name| config.rules.by_name(name).unwrap().refuses_offence;
        assert_eq!([refuses("w00tw00t"), refuses("a"), refuses("b")], [true, false, true]);
    }
}
