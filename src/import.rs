//! `strikeout import fail2ban`: fail2ban's jails as a configuration that bans the same addresses.
//!
//! What cannot be translated is said twice, as a comment in its place and as a warning: nothing is dropped in silence.

use crate::fail2ban::Filter;
use crate::fail2ban::ini::{Config, Options, with_additions};
use crate::fail2ban::jail::{Jail, Jails, is_true};
use crate::fail2ban::seconds::seconds;
use crate::rule::builtin;
use crate::rule::names::RESERVED;
use crate::table::counter::MAX_FINDTIME;
use crate::time::Span;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    source: Source,
}

/// Whose configuration is read.
#[derive(Debug, Clone, clap::Subcommand)]
enum Source {
    /// fail2ban's jails and filters; the configuration is written to the standard output
    Fail2ban {
        /// fail2ban's configuration folder
        #[arg(default_value = "/etc/fail2ban")]
        folder: PathBuf,
        /// This jail, enabled or not; may be given several times
        #[arg(long = "jail", value_name = "NAME")]
        jails: Vec<String>,
    },
}

/// Runs the command on the standard streams. Exit code 0: done; 1: a jail that was asked for, or all of them, could not be translated; 2: no such folder, or a fault in it.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let Source::Fail2ban { folder, jails } = &args.source;
    let mut errors = std::io::stderr().lock();
    match import(folder, jails) {
        Ok(imported) => {
            for warning in &imported.warnings {
                let _ = writeln!(errors, "warning: {warning}");
            }
            match std::io::stdout().lock().write_all(imported.text.as_bytes()) {
                Ok(()) if imported.failed => ExitCode::FAILURE,
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    let _ = writeln!(errors, "strikeout: cannot write: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            let _ = writeln!(errors, "strikeout: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// A translated configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// The configuration.
    pub text: String,
    /// What could not be translated, also in the text.
    pub warnings: Vec<String>,
    /// Whether no jail could be translated, or one that was asked for by name could not.
    pub failed: bool,
}

/// Translates the enabled jails of a folder, or those named.
///
/// # Errors
/// If the folder cannot be read as fail2ban's configuration.
pub fn import(folder: &Path, names: &[String]) -> anyhow::Result<Imported> {
    let folder = std::path::absolute(folder)?;
    let jails = Jails::read(&folder)?;
    let mut chosen = names.to_vec();
    if names.is_empty() {
        for name in jails.names() {
            if jails.is_enabled(name)? {
                chosen.push(name.to_owned());
            }
        }
    }
    let mut writer = Writer { forget: forget(&folder), ..Writer::default() };
    let mut read = Vec::new();
    for name in &chosen {
        match jails.jail(name) {
            Ok(jail) => read.push(jail),
            Err(error) => {
                writer.imported.failed |= !names.is_empty();
                writer.warn(name, &format!("not translated: {error}"));
            }
        }
    }
    let mut head = format!("# fail2ban's jails of {}, translated.\n", folder.display());
    head.push_str("# The filter files stay where they are and are read as they are. Names of hosts in a log are never looked up.\n");
    if chosen.is_empty() {
        head.push_str("# No jail is enabled there.\n");
        writer.imported.warnings.push(format!("no jail is enabled in {}", folder.display()));
    }
    let common = writer.ignored(&read);
    if !common.is_empty() {
        let list: Vec<String> = common.iter().map(|network| quoted(network)).collect();
        let _ = write!(head, "\n[defaults]\nignoreip = [{}]\n", list.join(", "));
    }
    let mut translated = 0;
    for jail in &read {
        let done = writer.rule(jail);
        translated += usize::from(done);
        writer.imported.failed |= !done && !names.is_empty();
    }
    writer.imported.failed |= translated == 0 && !chosen.is_empty();
    for (path, rules) in &writer.logs {
        let rules: Vec<String> = rules.iter().map(|rule| quoted(rule)).collect();
        let _ = write!(writer.imported.text, "\n[[log]]\npath = {}\nrules = [{}]\n", quoted(path), rules.join(", "));
    }
    writer.imported.text.insert_str(0, &head);
    Ok(writer.imported)
}

/// How long fail2ban remembers a client's earlier bans, in seconds: `dbpurgeage` of its own configuration.
fn forget(folder: &Path) -> f64 {
    let read = || Config::read(&with_additions(&folder.join("fail2ban"))).ok()?.get("DEFAULT", "dbpurgeage", &Options::new()).ok()?;
    let from_definition =
        || Config::read(&with_additions(&folder.join("fail2ban"))).ok()?.get("Definition", "dbpurgeage", &Options::new()).ok()?;
    read().or_else(from_definition).and_then(|text| seconds(&text).ok()).unwrap_or(86_400.0)
}

#[derive(Default)]
struct Writer {
    imported: Imported,
    /// Log files and the rules that read them.
    logs: BTreeMap<String, Vec<String>>,
    names: BTreeSet<String>,
    forget: f64,
}

impl Writer {
    /// A warning, in the text too.
    fn warn(&mut self, jail: &str, message: &str) {
        let message = format!("jail {jail}: {message}");
        for line in message.lines() {
            let _ = writeln!(self.imported.text, "# {line}");
        }
        self.imported.warnings.push(message);
    }

    /// The networks that all jails ignore; what only some ignore is warned about.
    fn ignored(&mut self, jails: &[Jail]) -> Vec<String> {
        let mut common: Option<BTreeSet<String>> = None;
        let mut own = Vec::new();
        for jail in jails {
            let mut networks = BTreeSet::new();
            for text in jail.options.get("ignoreip").map(String::as_str).unwrap_or_default().split([' ', ',', '\n', '\t']) {
                match (text.trim(), network(text.trim())) {
                    ("", _) => {}
                    (_, Some(network)) => {
                        networks.insert(network);
                    }
                    (name, None) => {
                        self.warn(&jail.name, &format!("ignoreip: found {name:?}, which is no address or network: names are not looked up"))
                    }
                }
            }
            common = Some(match common {
                Some(common) => common.intersection(&networks).cloned().collect(),
                None => networks.clone(),
            });
            own.push((&jail.name, networks));
        }
        let common = common.unwrap_or_default();
        for (name, networks) in own {
            let more: Vec<String> = networks.difference(&common).cloned().collect();
            if !more.is_empty() {
                let list = more.join(", ");
                self.warn(
                    name,
                    &format!("ignoreip: {list} is ignored by this jail but not by all; put it under [defaults] to ignore it everywhere"),
                );
            }
        }
        common.into_iter().collect()
    }

    fn rule(&mut self, jail: &Jail) -> bool {
        self.imported.text.push('\n');
        let name = self.name(&jail.name);
        let filter_options: Vec<(String, String)> = jail.filter_options.clone().into_iter().collect();
        let option = |name: &str| jail.options.get(name).map(String::as_str);
        self.translatable(jail);
        let logs = self.files(jail);
        let loaded = Filter::load(&jail.filter, &filter_options);
        let mut lines = vec![
            "[[rule]]".to_owned(),
            format!("name = {}", quoted(&name)),
            format!("filter = {}", quoted(&jail.filter.display().to_string())),
        ];
        if !jail.filter_options.is_empty() {
            let options: Vec<String> =
                jail.filter_options.iter().map(|(name, value)| format!("{} = {}", quoted(name), quoted(value))).collect();
            lines.push(format!("filter_options = {{ {} }}", options.join(", ")));
        }
        lines.push(format!("maxretry = {}", jail.maxretry.max(1)));
        lines.push(format!("findtime = {}", self.length(jail, "findtime", jail.findtime.min(seconds_of(MAX_FINDTIME)))));
        if jail.findtime > seconds_of(MAX_FINDTIME) {
            self.warn(&jail.name, &format!("findtime: found {} s, cut to {MAX_FINDTIME}", jail.findtime));
        }
        let bantime = if jail.bantime < 0.0 { "-1".to_owned() } else { self.length(jail, "bantime", jail.bantime) };
        if option("bantime.increment").is_some_and(is_true) {
            lines.push(format!("bantime = {{ {} }}", self.increment(jail, &bantime)));
        } else {
            lines.push(format!("bantime = {bantime}"));
        }
        lines.push(format!("scope = {}", quoted(scope(option("port").unwrap_or_default()))));
        let done = match loaded {
            Ok(_) => true,
            Err(error) => {
                self.warn(&jail.name, &format!("not translated: {error}"));
                false
            }
        };
        for line in lines {
            let _ = writeln!(self.imported.text, "{}{line}", if done { "" } else { "# " });
        }
        if done {
            for path in logs {
                self.logs.entry(path).or_default().push(name.clone());
            }
        }
        done
    }

    /// Warns about everything that has no counterpart.
    fn translatable(&mut self, jail: &Jail) {
        let option = |name: &str| jail.options.get(name).map(String::as_str);
        if let Some(action) = option("action") {
            let first = action.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
            self.warn(&jail.name, &format!("action: {first}: not translated, bans refuse in Squid and Exim and nowhere else"));
        }
        if let Some(command) = option("ignorecommand") {
            self.warn(&jail.name, &format!("ignorecommand: {command}: not translated, no command is run"));
        }
        if option("ignoreself").is_some_and(|value| !is_true(value)) {
            self.warn(&jail.name, "ignoreself = false: not translated, own addresses are never banned");
        }
        if let Some(encoding) =
            option("logencoding").filter(|encoding| !matches!(encoding.to_lowercase().as_str(), "auto" | "utf-8" | "utf8" | "ascii"))
        {
            self.warn(&jail.name, &format!("logencoding: {encoding}: not translated, logs are read as UTF-8"));
        }
        if let Some(usedns @ ("yes" | "raw")) = option("usedns") {
            self.warn(&jail.name, &format!("usedns: {usedns}: not translated, names are not looked up and not banned"));
        }
        for formula in ["bantime.formula", "bantime.rndtime"] {
            if let Some(value) = option(formula) {
                self.warn(&jail.name, &format!("{formula}: {value}: not translated"));
            }
        }
        if option("bantime.overalljails").is_some_and(is_true) {
            self.warn(&jail.name, "bantime.overalljails: not translated, bans are counted for each rule");
        }
        if jail.name == "recidive" || jail.logs.iter().any(|(path, _)| path.ends_with("/fail2ban.log")) {
            self.warn(&jail.name, "it reads fail2ban's own log, which ends with fail2ban: let bans grow instead (bantime.increment)");
        }
    }

    /// The files that the jail reads.
    fn files(&mut self, jail: &Jail) -> Vec<String> {
        if jail.backend.starts_with("systemd") {
            self.warn(
                &jail.name,
                &format!("backend: {}: the journal is not read; let the service write a file and name it under [[log]]", jail.backend),
            );
            return Vec::new();
        }
        if jail.logs.is_empty() {
            self.warn(&jail.name, "logpath: there is none, so the rule sees no line");
        }
        let mut files = Vec::new();
        for (pattern, tail) in &jail.logs {
            if !pattern.contains(['*', '?', '[']) {
                if !Path::new(pattern).exists() {
                    self.warn(&jail.name, &format!("logpath: {pattern} does not exist now"));
                }
                files.push(pattern.clone());
            } else {
                let found: Vec<String> =
                    glob::glob(pattern).map(|paths| paths.flatten().map(|path| path.display().to_string()).collect()).unwrap_or_default();
                let note = if found.is_empty() {
                    "matches no file now and is left off"
                } else {
                    "is written out as the files of now: later ones are not seen"
                };
                self.warn(&jail.name, &format!("logpath: {pattern} {note}"));
                files.extend(found);
            }
            if *tail {
                self.warn(&jail.name, &format!("logpath: {pattern} tail: where reading starts is not translated"));
            }
        }
        files.sort();
        files.dedup();
        files
    }

    /// `bantime` as a table.
    fn increment(&mut self, jail: &Jail, initial: &str) -> String {
        let option = |name: &str| jail.options.get(name).map(String::as_str);
        let mut parts = vec![format!("initial = {initial}"), "increment = true".to_owned()];
        let number = |text: &str| seconds(text).ok();
        match option("bantime.factor").map(|text| (text, number(text))) {
            Some((_, Some(factor))) => parts.push(format!("factor = {factor:?}")),
            Some((text, None)) => self.warn(&jail.name, &format!("bantime.factor: {text}: not translated")),
            None => {}
        }
        if let Some(text) = option("bantime.multipliers") {
            let all: Option<Vec<f64>> = text.split_whitespace().map(number).collect();
            match all {
                Some(all) if !all.is_empty() => parts.push(format!("multipliers = {all:?}")),
                _ => self.warn(&jail.name, &format!("bantime.multipliers: {text}: not translated")),
            }
        }
        if let Some(text) = option("bantime.maxtime") {
            match number(text) {
                Some(most) => {
                    let most = self.length(jail, "bantime.maxtime", most);
                    parts.push(format!("maxtime = {most}"));
                }
                None => self.warn(&jail.name, &format!("bantime.maxtime: {text}: not translated")),
            }
        }
        let forget = self.length(jail, "dbpurgeage", self.forget);
        parts.push(format!("forget = {forget}"));
        parts.join(", ")
    }

    /// A length of time as configuration writes it.
    fn length(&mut self, jail: &Jail, option: &str, seconds: f64) -> String {
        match Span::parse(&seconds.to_string()) {
            Ok(span) => quoted(&span.to_string()),
            Err(error) => {
                self.warn(&jail.name, &format!("{option}: {error}; 10m is taken"));
                quoted("10m")
            }
        }
    }

    /// A name for the rule of a jail that no other rule has.
    fn name(&mut self, jail: &str) -> String {
        let plain: String =
            jail.to_lowercase().chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).take(60).collect();
        // A built-in rule of that name would give it what it does not say itself.
        let taken = RESERVED.contains(&plain.as_str())
            || builtin::specs().is_ok_and(|specs| specs.iter().any(|spec| *spec.name.get_ref() == plain));
        let plain = if plain.is_empty() || taken { format!("jail-{plain}") } else { plain };
        let mut name = plain.clone();
        let mut number = 2;
        while !self.names.insert(name.clone()) {
            name = format!("{plain}-{number}");
            number += 1;
        }
        if name != jail {
            self.warn(jail, &format!("its rule is called {name:?}"));
        }
        name
    }
}

#[expect(clippy::cast_precision_loss, reason = "spans are far below what a double counts exactly")]
fn seconds_of(span: Span) -> f64 {
    span.millis() as f64 / 1000.0
}

/// A string as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// An address or network, as configuration writes it: with the bits behind the prefix cleared, and the prefix from a mask if that is given.
fn network(text: &str) -> Option<String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_string());
    }
    if let Ok(network) = text.parse::<IpNet>() {
        return Some(network.trunc().to_string());
    }
    let (address, mask) = text.split_once('/')?;
    let bits = ipnet::ip_mask_to_prefix(mask.parse().ok()?).ok()?;
    Some(IpNet::new(address.parse().ok()?, bits).ok()?.trunc().to_string())
}

/// Where the bans of a jail over these ports refuse.
fn scope(ports: &str) -> &'static str {
    let all = |known: &[&str]| {
        let mut given = ports.split([',', ' ']).map(str::trim).filter(|port| !port.is_empty()).peekable();
        given.peek().is_some() && given.all(|port| known.contains(&port))
    };
    if all(&["http", "https", "80", "443", "8080", "3128", "squid"]) {
        "web"
    } else if all(&["smtp", "25", "ssmtp", "smtps", "465", "submission", "submissions", "587"]) {
        "mail"
    } else {
        "all"
    }
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
