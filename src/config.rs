//! The configuration file: read whole, checked whole, with an error that names file, line, what was found and what was expected.

mod hook;
mod metrics;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::client::Ipv6Prefix;
use crate::fleet::FleetConfig;
use crate::list::{self, Lists, Source};
use crate::log::rules::LogRules;
use crate::log::time::Zone;
use crate::rule::spec::{BantimeSpec, Fault, RuleDefaults, RuleSpec};
use crate::rule::{Names, Rule, RuleSet, Trigger, builtin};
use crate::time::Span;
pub use hook::HookConfig;
pub use metrics::MetricsConfig;

/// Where the configuration is looked for.
pub const DEFAULT_FILE: &str = "/etc/strikeout/strikeout.toml";
/// Where the resident listens and everybody else asks.
pub const DEFAULT_SOCKET: &str = "/run/strikeout/strikeout.sock";

/// The share of false bans that a rule may make before it is warned about.
pub const FALSE_BAN_SHARE: f64 = 0.01;

/// A configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// `[table]`.
    pub table: TableConfig,
    /// The rules in force, built-in ones included.
    pub rules: RuleSet,
    /// `ignoreip`, `trusted_proxies` and `deny`, without the own addresses, which the caller reads.
    pub lists: Lists,
    /// `[[log]]`.
    pub logs: Vec<LogConfig>,
    /// `false_ban_share`: a rule of whose bans a greater share hits clients that look good is warned about. 0 to 1.
    pub false_ban_share: f64,
    /// `[fleet]`, if the machine is part of one.
    pub fleet: Option<FleetConfig>,
    /// `[metrics]`.
    pub metrics: MetricsConfig,
    /// `[hook]`, if there is one.
    pub hook: Option<HookConfig>,
}

/// `[table]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableConfig {
    /// The Unix socket of the resident.
    pub socket: PathBuf,
    /// Its mode, in octal digits.
    pub mode: FileMode,
    /// The group that owns it.
    pub group: String,
    /// The state file; empty for none.
    pub state: PathBuf,
    /// So many clients have strikes at most, 1 to 100,000,000.
    pub clients: Bounded<100_000_000>,
    /// So many clients are banned by rules at most, 1 to 100,000,000.
    pub bans: Bounded<100_000_000>,
    /// How IPv6 addresses are cut, 1 to 128 bits.
    pub ipv6_prefix: Ipv6Prefix,
    /// What is answered when the table cannot be asked.
    pub on_failure: OnFailure,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            mode: FileMode(0o660),
            group: "strikeout".into(),
            state: "/var/lib/strikeout/strikeout.db".into(),
            clients: Bounded(1_000_000),
            bans: Bounded(1_000_000),
            ipv6_prefix: Ipv6Prefix::default(),
            on_failure: OnFailure::Allow,
        }
    }
}

impl TableConfig {
    /// Reads `[table]` of `file` and looks at nothing else: for those who only ask, and must start fast.
    ///
    /// # Errors
    /// A fault in the file's TOML or in `[table]`.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Part {
            table: TableConfig,
        }
        let fault = |line, message| ConfigError { file: file.into(), line, message };
        let text = std::fs::read_to_string(file).map_err(|error| fault(None, format!("cannot be read: {error}")))?;
        let parsed: Part = toml::from_str(&text).map_err(|error| {
            let line = error.span().map(|span| line_of(text.as_bytes(), span.start));
            fault(line, one_line(error.message()))
        })?;
        Ok(parsed.table)
    }
}

/// What is answered when the table cannot be asked in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Serve the client.
    #[default]
    Allow,
    /// Refuse it for now: a 429 in Squid, a 421 in Exim.
    Deny,
}

/// A file mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(serde::de::Error::custom(format!("found mode {text:?}, expected octal digits such as \"0660\""))),
        }
    }
}

/// A number from 1 to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MAX: usize>(usize);

impl<const MAX: usize> Bounded<MAX> {
    /// The number.
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

impl<'de> Deserialize<'de> for Ipv6Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bits = i64::deserialize(deserializer)?;
        u8::try_from(bits)
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| serde::de::Error::custom(format!("found ipv6_prefix = {bits}, expected 1 to 128")))
    }
}

/// A `[[log]]`: a file to follow, and the rules that look at its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The file.
    pub path: PathBuf,
    /// The names of the rules, each of them in force.
    pub rules: Vec<String>,
    /// Whether its server asks about each request as well: then a line tells only what such a query cannot see.
    pub inline: bool,
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    table: TableConfig,
    defaults: Defaults,
    rule: Vec<RuleSpec>,
    log: Vec<LogSpec>,
    fleet: Option<Spanned<FleetConfig>>,
    metrics: MetricsConfig,
    hook: Option<HookConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogSpec {
    path: Spanned<PathBuf>,
    rules: Vec<Spanned<String>>,
    #[serde(default)]
    inline: bool,
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Defaults {
    maxretry: Option<Spanned<u32>>,
    findtime: Option<Spanned<Span>>,
    bantime: Option<BantimeSpec>,
    ignoreip: Vec<Spanned<String>>,
    trusted_proxies: Vec<Spanned<String>>,
    deny: Vec<Spanned<String>>,
    false_ban_share: Option<Spanned<f64>>,
}

/// A configuration that cannot be used: `FILE:LINE: what was found, what was expected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1, if the fault is in a line.
    pub line: Option<usize>,
    /// What was found, and what was expected.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks `file`; where none is named, [`DEFAULT_FILE`], and the built-in defaults if that does not exist.
    ///
    /// # Errors
    /// The first fault in the file or in a list that it names.
    pub fn load(file: Option<&Path>, names: &Names) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read(path) {
            Ok(text) => Self::parse(&text, path, names),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => Self::parse(b"", path, names),
            Err(error) => Err(ConfigError { file: path.into(), line: None, message: format!("cannot be read: {error}") }),
        }
    }

    /// Checks the text of a configuration file. Lists that it names are read from disk.
    ///
    /// # Errors
    /// The first fault.
    pub fn parse(text: &[u8], file: &Path, names: &Names) -> Result<Self, ConfigError> {
        let error = |offset: Option<usize>, message: String| ConfigError {
            file: file.into(),
            line: offset.map(|offset| line_of(text, offset)),
            message,
        };
        let utf8 = std::str::from_utf8(text)
            .map_err(|fault| error(Some(fault.valid_up_to()), "found bytes that are no UTF-8, expected TOML".into()))?;
        let parsed: File = toml::from_str(utf8).map_err(|fault| error(fault.span().map(|span| span.start), one_line(fault.message())))?;
        let at = |fault: Fault| error(Some(fault.offset), fault.message);
        let defaults = rule_defaults(&parsed.defaults).map_err(at)?;
        let rules = rules(parsed.rule, &defaults, names).map_err(|fault| match fault {
            RulesFault::At(fault) => at(fault),
            RulesFault::Whole(message) => error(None, message),
        })?;
        let lists = lists(&parsed.defaults, file).map_err(|fault| match fault {
            ListFault::At(fault) => at(fault),
            ListFault::In(file, line, message) => ConfigError { file, line, message },
        })?;
        let logs = parsed.log.into_iter().map(|log| checked_log(log, &rules)).collect::<Result<Vec<_>, _>>().map_err(at)?;
        let false_ban_share = match &parsed.defaults.false_ban_share {
            Some(share) if !(0.0..=1.0).contains(share.get_ref()) => {
                return Err(error(Some(share.span().start), format!("found false_ban_share = {}, expected 0 to 1", share.get_ref())));
            }
            Some(share) => *share.get_ref(),
            None => FALSE_BAN_SHARE,
        };
        if let Some(fleet) = &parsed.fleet {
            fleet.get_ref().check().map_err(|message| error(Some(fleet.span().start), message))?;
        }
        let fleet = parsed.fleet.map(Spanned::into_inner);
        let (metrics, hook) = (parsed.metrics, parsed.hook);
        Ok(Self { table: parsed.table, rules, lists, logs, false_ban_share, fleet, metrics, hook })
    }
}

/// The line, counted from 1, of the byte at `offset`.
fn line_of(text: &[u8], offset: usize) -> usize {
    text.get(..offset).unwrap_or(text).iter().filter(|byte| **byte == b'\n').count() + 1
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

fn rule_defaults(given: &Defaults) -> Result<RuleDefaults, Fault> {
    let mut defaults = RuleDefaults::default();
    if let Some(maxretry) = &given.maxretry {
        if *maxretry.get_ref() == 0 {
            return Err(Fault { offset: maxretry.span().start, message: "found maxretry = 0, expected 1 or more".into() });
        }
        defaults.maxretry = *maxretry.get_ref();
    }
    if let Some(findtime) = &given.findtime {
        defaults.findtime = *findtime.get_ref();
    }
    if let Some(bantime) = &given.bantime {
        defaults.bantime = bantime.clone();
    }
    Ok(defaults)
}

enum RulesFault {
    At(Fault),
    Whole(String),
}

/// The built-in rules, changed as the file says, and its own.
fn rules(given: Vec<RuleSpec>, defaults: &RuleDefaults, names: &Names) -> Result<RuleSet, RulesFault> {
    let mut builtin = builtin::specs().map_err(RulesFault::Whole)?;
    let mut seen = std::collections::HashSet::new();
    let mut rules: Vec<Rule> = Vec::new();
    for spec in given {
        if !seen.insert(spec.name.get_ref().clone()) {
            let message = format!("found a second rule {:?}, expected each name once", spec.name.get_ref());
            return Err(RulesFault::At(Fault { offset: spec.name.span().start, message }));
        }
        let index = builtin.iter().position(|rule| rule.name.get_ref() == spec.name.get_ref());
        let spec = match index {
            Some(index) => spec.over(&builtin.swap_remove(index)),
            None => spec,
        };
        let enabled = spec.enabled != Some(false);
        let pattern_at = spec.failregex.as_ref().map(Spanned::span).or_else(|| spec.filter.as_ref().map(Spanned::span));
        let pattern_at = pattern_at.map_or(spec.name.span().start, |span| span.start);
        let rule = spec.check(names, defaults).map_err(RulesFault::At)?;
        if enabled {
            compiles(&rule).map_err(|message| RulesFault::At(Fault { offset: pattern_at, message }))?;
            rules.push(rule);
        }
    }
    for spec in builtin {
        if spec.enabled != Some(false) {
            rules.push(spec.check(names, defaults).map_err(|fault| RulesFault::Whole(format!("built-in rule: {}", fault.message)))?);
        }
    }
    RuleSet::new(rules).map_err(|message| RulesFault::Whole(format!("the rules do not compile together: {message}")))
}

/// Whether the expressions of a rule over log lines can be used. Those who follow the log compile them again: it is their thread's.
fn compiles(rule: &Rule) -> Result<(), String> {
    LogRules::new(&[std::sync::Arc::new(rule.clone())], Zone::utc(), false).map(drop)
}

enum ListFault {
    At(Fault),
    In(PathBuf, Option<usize>, String),
}

fn lists(given: &Defaults, file: &Path) -> Result<Lists, ListFault> {
    let mut lists = Lists::default();
    lists.set_ignoreip(sources(&given.ignoreip, "ignoreip", file)?);
    lists.set_trusted_proxies(sources(&given.trusted_proxies, "trusted_proxies", file)?);
    lists.set_deny(sources(&given.deny, "deny", file)?);
    Ok(lists)
}

/// The entries of one list option: addresses, networks, and files of them (an absolute path).
fn sources(entries: &[Spanned<String>], option: &str, file: &Path) -> Result<Vec<Source>, ListFault> {
    let mut own = Vec::new();
    let mut sources = Vec::new();
    for entry in entries {
        let text = entry.get_ref();
        if text.starts_with('/') {
            let at = |message: String| ListFault::At(Fault { offset: entry.span().start, message });
            let parsed = list::file::read(Path::new(text)).map_err(|error| at(error.to_string()))?;
            if let Some(fault) = parsed.faults.first() {
                return Err(ListFault::In(
                    text.into(),
                    Some(fault.line),
                    format!("found \"{}\", {}", fault.found, list::file::NotANetwork),
                ));
            }
            sources.push(Source::new(text, parsed.networks));
        } else {
            own.push(list::file::parse_network(text).map_err(|_| {
                let message = format!(
                    "found {text:?} in {option}, expected an IP address, a network such as 192.0.2.0/24 or the absolute path of a list"
                );
                ListFault::At(Fault { offset: entry.span().start, message })
            })?);
        }
    }
    if !own.is_empty() {
        sources.push(Source::new(&format!("{option} in {}", file.display()), own));
    }
    Ok(sources)
}

fn checked_log(log: LogSpec, rules: &RuleSet) -> Result<LogConfig, Fault> {
    if !log.path.get_ref().is_absolute() {
        return Err(Fault {
            offset: log.path.span().start,
            message: format!("found the log {}, expected an absolute path", log.path.get_ref().display()),
        });
    }
    let mut names = Vec::new();
    for name in log.rules {
        let offset = name.span().start;
        let name = name.into_inner();
        match rules.by_name(&name).map(|rule| &rule.trigger) {
            None => {
                return Err(Fault {
                    offset,
                    message: format!("found the rule {name:?} in a log, expected the name of a rule that is enabled"),
                });
            }
            Some(Trigger::ConnectionRate | Trigger::Simultaneous { .. } | Trigger::Incident) => {
                return Err(Fault {
                    offset,
                    message: format!(
                        "found the rule {name:?} in a log, which no log line can offend; expected a rule over requests, responses or lines"
                    ),
                });
            }
            Some(_) => names.push(name),
        }
    }
    Ok(LogConfig { path: log.path.into_inner(), rules: names, inline: log.inline })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text.as_bytes(), Path::new("/etc/strikeout/strikeout.toml"), &Names::default()).map_err(|error| error.to_string())
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
            ("[table]\nclients = 0", ":2: found 0, expected 1 to 100000000"),
            ("[table]\n\nsocet = \"x\"", ":3: unknown field `socet`, expected one of"),
            ("[defaults]\nfindtime = \"ten\"", ":2: found \"ten\", expected a length of time"),
            ("[defaults]\nfalse_ban_share = 1.5", ":2: found false_ban_share = 1.5, expected 0 to 1"),
            ("[defaults]\nbantime = true", ":2: invalid type: boolean `true`, expected a length of time"),
            ("[defaults]\nignoreip = [\"10.0.0.0/8\", \"localhost\"]", ":2: found \"localhost\" in ignoreip, expected an IP address"),
            ("[defaults]\ndeny = [\"/no/such/list\"]", ":2: "),
            ("[[rule]]\nname = \"a b\"\npath = \"x\"", ":2: found the rule name \"a b\", expected"),
            ("[[rule]]\nname = \"manual\"\npath = \"x\"", ":2: found the rule name \"manual\", which"),
            ("[[rule]]\nname = \"a\"", ":2: found nothing that says what it matches in rule \"a\", expected one of"),
            ("[[rule]]\nname = \"a\"\npath = \"/(\"", ":3: found the pattern '/(', expected a regular expression: unclosed group"),
            ("[[rule]]\nname = \"a\"\npath = \"x\"\nmaxretry = 0", ":4: found maxretry = 0, expected 1 or more"),
            ("[[rule]]\nname = \"a\"\nquery = \"x\"\nmaxretry = 1", ":4: found maxretry = 1 in rule \"a\" over a query string"),
            ("[[rule]]\nname = \"a\"\npath = \"x\"\nfindtime = \"1y\"", ":4: found findtime"),
            ("[[rule]]\nname = \"a\"\npath = \"x\"\nevent = \"request\"", ":2: found event beside method, path"),
            ("[[rule]]\nname = \"a\"\nstatus = 99", ":3: found status 99, expected 100 to 999"),
            ("[[rule]]\nname = \"a\"\npath = \"x\"\n[[rule]]\nname = \"a\"\npath = \"y\"", ":5: found a second rule \"a\""),
            ("[[log]]\npath = \"/var/log/x\"\nrules = [\"nix\"]", ":3: found the rule \"nix\" in a log"),
            ("[[rule]]\nname = \"a\"\nexim = \"refused\"", ":3: found exim = \"refused\", expected one of refused-per-host, "),
            ("[[rule]]\nname = \"a\"\nmaxretry = 2\nfailregex = \"x( <HOST>\"", ":4: "),
            ("[[rule]]\nname = \"a\"\nfilter = \"/nowhere/at.all\"", ":3: "),
            ("[[log]]\npath = \"x\"\nrules = []", ":2: found the log x, expected an absolute path"),
            ("[[log]]\npath = \"/x\"\nrules = [\"exim-rate\"]", ":3: found the rule \"exim-rate\" in a log, which"),
            ("[metrics]\nlisten = \"192.0.2.7:9471\"", ":2: found \"192.0.2.7:9471\", expected an address of loopback and a port"),
            ("[hook]\ncommand = [\"tell\"]", ":2: found \"tell\", expected the absolute path of a program"),
            ("[hook]\ncommand = [\"/x\"]\ntimeout = \"1d\"", ":3: found timeout = 1d, expected 1s to 1h"),
            ("[table", ":1: "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("/etc/strikeout/strikeout.toml:"), "{error}");
            assert!(error.contains(expected), "{text}\n  gave {error}\n  not  {expected}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_an_error_with_their_line() {
        let error = Config::parse(b"# ok\n# \xff\n", Path::new("c"), &Names::default()).unwrap_err();
        assert_eq!(error.to_string(), "c:2: found bytes that are no UTF-8, expected TOML");
    }

    #[test]
    fn a_named_file_must_exist_and_the_default_one_need_not() {
        let error = Config::load(Some(Path::new("/no/such/file.toml")), &Names::default()).unwrap_err();
        assert!(error.to_string().starts_with("/no/such/file.toml: cannot be read: "), "{error}");
    }

    #[test]
    fn an_operator_changes_a_built_in_rule_by_its_name() {
        let config = parse("[[rule]]\nname = \"w00tw00t\"\nbantime = -1\nmode = \"shadow\"").unwrap();
        let rule = config.rules.by_name("w00tw00t").unwrap();
        assert_eq!((rule.bantime.of(0), rule.mode, rule.maxretry), (None, crate::rule::Mode::Shadow, 1));
        assert!(matches!(&rule.trigger, Trigger::Request(pattern) if pattern.path.is_some()));
        assert!(parse("[[rule]]\nname = \"w00tw00t\"\nenabled = false").unwrap().rules.by_name("w00tw00t").is_none());
        let replaced = parse("[[rule]]\nname = \"w00tw00t\"\nevent = \"incident\"").unwrap();
        assert_eq!(replaced.rules.by_name("w00tw00t").unwrap().trigger, Trigger::Incident);
    }

    #[test]
    fn a_rule_that_says_nothing_of_time_and_number_takes_the_defaults() {
        let config = parse("[defaults]\nmaxretry = 7\nfindtime = 60\nbantime = { initial = \"2h\", increment = true, maxtime = \"1d\" }\n[[rule]]\nname = \"a\"\npath = \"/x\"").unwrap();
        let rule = config.rules.by_name("a").unwrap();
        assert_eq!((rule.maxretry, rule.findtime), (7, Span::from_secs(60)));
        assert_eq!(
            (rule.bantime.of(0), rule.bantime.of(1), rule.bantime.of(9)),
            (Some(Span::from_secs(7200)), Some(Span::from_secs(14_400)), Some(Span::from_secs(86_400)))
        );
    }

    #[test]
    fn a_path_rule_refuses_its_offences_only_if_one_is_enough() {
        let config = parse("[[rule]]\nname = \"a\"\npath = \"/x\"\nmaxretry = 3\n[[rule]]\nname = \"b\"\nquery = \"x\"").unwrap();
        let refuses = |name| config.rules.by_name(name).unwrap().refuses_offence;
        assert_eq!([refuses("w00tw00t"), refuses("a"), refuses("b")], [true, false, true]);
    }
}
