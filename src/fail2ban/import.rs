//! Translates fail2ban's jails into a configuration that bans the same addresses, for `strikeout import fail2ban`.
//!
//! Whatever cannot be translated is reported twice, as a warning and as a comment in its place: nothing is dropped silently.

use super::Filter;
use super::forgery::forgeries;
use super::import_ignored::Ignored;
use super::ini::{IniConfig, Options, with_additions};
use super::jail::{Jail, Jails, is_true};
use crate::rule::builtin;
use crate::rule::spec::MAX_NETWORKS;
use crate::rule_id::{RESERVED, is_origin};
use crate::table::counter::MAX_FINDTIME;
use crate::time::{Span, parse_seconds};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

/// A translated configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// The configuration file.
    pub text: String,
    /// What could not be translated; the text holds it too.
    pub warnings: Vec<String>,
    /// Whether no jail could be translated, or one that was named could not.
    pub failed: bool,
}

/// Translates the jails of a folder: those named, or all that are enabled; with `shadow` into rules that refuse nobody yet.
///
/// # Errors
/// The folder cannot be read as fail2ban's configuration.
pub fn import(folder: &Path, names: &[String], shadow: bool) -> anyhow::Result<Imported> {
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
    let mut importer = Importer { forget: forget_after(&folder), shadow, ..Importer::default() };
    let mut read = Vec::new();
    for name in &chosen {
        match jails.jail(name) {
            Ok(jail) => read.push(jail),
            Err(error) => {
                importer.imported.failed |= !names.is_empty();
                importer.warn(name, &format!("not translated: {error}"));
            }
        }
    }
    let mut head = format!("# Translated from fail2ban's jails in {}.\n", folder.display());
    head.push_str("# The filter files are read from where they are, unchanged. Host names in a log are never looked up.\n");
    head.push_str("# Put this file into /etc/strikeout/conf.d as it is.\n");
    if chosen.is_empty() {
        head.push_str("# No jail is enabled there.\n");
        importer.imported.warnings.push(format!("no jail is enabled in {}", folder.display()));
    }
    importer.note_ignored(Ignored::of(&read));
    if !importer.ignored.by_any.is_empty() {
        let _ = write!(head, "\n[defaults]\nignoreip = [{}]\n", list(&importer.ignored.by_any));
    }
    let mut translated = 0;
    for jail in &read {
        let is_usable = importer.rule(jail);
        translated += usize::from(is_usable);
        importer.imported.failed |= !is_usable && !names.is_empty();
    }
    importer.imported.failed |= translated == 0 && !chosen.is_empty();
    for (path, rules) in &importer.logs {
        let rules: Vec<String> = rules.iter().map(|rule| quoted(rule)).collect();
        let _ = write!(importer.imported.text, "\n[[log]]\npath = {}\nrules = [{}]\n", quoted(path), rules.join(", "));
    }
    importer.imported.text.insert_str(0, &head);
    Ok(importer.imported)
}

/// How long fail2ban remembers a client's earlier bans, in seconds: `dbpurgeage` in fail2ban.conf.
fn forget_after(folder: &Path) -> f64 {
    let config = IniConfig::read(&with_additions(&folder.join("fail2ban"))).unwrap_or_default();
    let in_section = |section| config.get(section, "dbpurgeage", &Options::new()).ok().flatten();
    let text = in_section("DEFAULT").or_else(|| in_section("Definition"));
    text.and_then(|text| parse_seconds(&text).ok()).unwrap_or(86_400.0)
}

/// A translation in progress.
#[derive(Default)]
struct Importer {
    imported: Imported,
    /// The rules of each log file.
    logs: BTreeMap<String, Vec<String>>,
    namer: RuleNamer,
    /// Whether the rules are put into shadow mode.
    shadow: bool,
    /// How long earlier bans are remembered, in seconds.
    forget: f64,
    /// What the jails ignore.
    ignored: Ignored,
}

impl Importer {
    /// Adds a warning, and a comment to the text.
    fn warn(&mut self, jail: &str, message: &str) {
        let message = format!("jail {jail}: {message}");
        for line in message.lines() {
            let _ = writeln!(self.imported.text, "# {line}");
        }
        self.imported.warnings.push(message);
    }

    /// Notes what the jails ignore, and what an operator must look at.
    fn note_ignored(&mut self, ignored: Ignored) {
        for (jail, message) in &ignored.warnings {
            self.warn(jail, message);
        }
        for comment in &ignored.comments {
            let _ = writeln!(self.imported.text, "# {comment}");
        }
        self.ignored = ignored;
    }

    /// Writes the rule of a jail, as comments if its filter cannot be used; returns whether it can.
    fn rule(&mut self, jail: &Jail) -> bool {
        self.imported.text.push('\n');
        let name = self.name(&jail.name);
        let filter_options: Vec<(String, String)> = jail.filter_options.clone().into_iter().collect();
        let option = |name: &str| jail.options.get(name).map(String::as_str);
        self.warn_about_untranslatable(jail);
        let counts_bans = counts_bans(jail);
        let logs = if counts_bans { Vec::new() } else { self.files(jail) };
        let loaded = (!counts_bans).then(|| Filter::load(&jail.filter, &filter_options));
        let mut lines = vec!["[[rule]]".to_owned(), format!("name = {}", quoted(&name))];
        if counts_bans {
            lines.push("event = \"ban\"".to_owned());
        } else {
            lines.push(format!("filter = {}", quoted(&jail.filter.display().to_string())));
        }
        if !counts_bans && !jail.filter_options.is_empty() {
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
        if let Some(own) = self.ignored.own.get(&jail.name) {
            if own.len() <= MAX_NETWORKS {
                lines.push(format!("ignoreip = [{}]", list(own)));
            } else {
                self.warn(&jail.name, &format!("ignoreip: found {} networks: they stand in [defaults] alone", own.len()));
            }
        }
        let has_no_log = logs.is_empty() && !counts_bans;
        let off = unguarded(jail).or_else(|| has_no_log.then(|| "no log file feeds it".to_owned()));
        if let Some(reason) = &off {
            self.warn(&jail.name, &format!("its rule is switched off: {reason}"));
            lines.push("enabled = false".to_owned());
        }
        if self.shadow {
            lines.push("mode = \"shadow\"".to_owned());
        }
        let is_usable = match loaded {
            None => true,
            Some(Ok(filter)) => {
                self.warn_about_forgeries(jail, filter);
                true
            }
            Some(Err(error)) => {
                self.warn(&jail.name, &format!("not translated: {error}"));
                false
            }
        };
        for line in lines {
            let _ = writeln!(self.imported.text, "{}{line}", if is_usable { "" } else { "# " });
        }
        if is_usable && off.is_none() {
            for path in logs {
                self.logs.entry(path).or_default().push(name.clone());
            }
        }
        is_usable
    }

    /// Warns about expressions in which a client's text decides who is blamed.
    fn warn_about_forgeries(&mut self, jail: &Jail, filter: Filter) {
        let forgeries = forgeries(&Arc::new(filter));
        if let Some(first) = forgeries.first() {
            self.warn(&jail.name, &format!("{}: {first}", jail.filter.display()));
        }
        if forgeries.len() > 1 {
            let more = forgeries.len() - 1;
            let message = format!(
                "{more} more of its expressions can be deceived: strikeout test --filter {} /dev/null shows them",
                jail.filter.display()
            );
            self.warn(&jail.name, &message);
        }
    }

    /// Warns about every option that has no counterpart.
    fn warn_about_untranslatable(&mut self, jail: &Jail) {
        let option = |name: &str| jail.options.get(name).map(String::as_str);
        if let Some(action) = option("action") {
            let first = action.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
            self.warn(&jail.name, &format!("action: {first}: not translated, bans take effect in Squid and Exim only"));
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
        if counts_bans(jail) {
            self.warn(&jail.name, "its rule counts bans by the rules here, not those that fail2ban still makes");
        }
    }

    /// The log files of a jail, with wildcards expanded.
    fn files(&mut self, jail: &Jail) -> Vec<String> {
        if jail.backend.starts_with("systemd") {
            // Debian's jails name the log file as well, which fail2ban then does not read.
            let files: Vec<String> = jail
                .logs
                .iter()
                .map(|(path, _)| path.clone())
                .filter(|path| !path.contains(['*', '?', '[']) && Path::new(path).exists())
                .collect();
            let instead = if files.is_empty() {
                "let the service write a log file and add it as a [[log]]".to_owned()
            } else {
                format!("{} is followed instead", files.join(", "))
            };
            self.warn(&jail.name, &format!("backend: {}: the journal is not read; {instead}", jail.backend));
            return files;
        }
        if jail.logs.is_empty() {
            self.warn(&jail.name, "logpath: not set, so the rule sees no line");
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
                    "matches no file now and is left out"
                } else {
                    "is expanded to the files that exist now: later ones are not followed"
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

    /// The content of a `bantime` table.
    fn increment(&mut self, jail: &Jail, initial: &str) -> String {
        let option = |name: &str| jail.options.get(name).map(String::as_str);
        let mut parts = vec![format!("initial = {initial}"), "increment = true".to_owned()];
        let number = |text: &str| parse_seconds(text).ok();
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
                Some(seconds) => {
                    let maxtime = self.length(jail, "bantime.maxtime", seconds);
                    parts.push(format!("maxtime = {maxtime}"));
                }
                None => self.warn(&jail.name, &format!("bantime.maxtime: {text}: not translated")),
            }
        }
        let forget = self.length(jail, "dbpurgeage", self.forget);
        parts.push(format!("forget = {forget}"));
        parts.join(", ")
    }

    /// A length of time in the configuration's notation.
    fn length(&mut self, jail: &Jail, option: &str, seconds: f64) -> String {
        match Span::parse(&seconds.to_string()) {
            Ok(span) => quoted(&span.to_string()),
            Err(error) => {
                self.warn(&jail.name, &format!("{option}: {error}; replaced by 10m"));
                quoted("10m")
            }
        }
    }

    /// A unique rule name for a jail.
    fn name(&mut self, jail: &str) -> String {
        let name = self.namer.name(jail);
        if name != jail {
            self.warn(jail, &format!("its rule is called {name:?}"));
        }
        name
    }
}

/// Gives each jail a rule's name of its own.
#[derive(Default)]
pub(super) struct RuleNamer(BTreeSet<String>);

impl RuleNamer {
    /// The name of the rule for the next jail.
    pub(super) fn name(&mut self, jail: &str) -> String {
        let plain: String =
            jail.to_lowercase().chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).take(60).collect();
        // A rule named like a built-in one would inherit that one's settings.
        let taken = RESERVED.contains(&plain.as_str())
            || is_origin(&plain)
            || builtin::specs().is_ok_and(|specs| specs.iter().any(|spec| *spec.name.get_ref() == plain));
        let plain = if plain.is_empty() || taken { format!("jail-{plain}") } else { plain };
        let mut name = plain.clone();
        let mut number = 2;
        while !self.0.insert(name.clone()) {
            name = format!("{plain}-{number}");
            number += 1;
        }
        name
    }
}

#[expect(clippy::cast_precision_loss, reason = "spans are far below what a double counts exactly")]
fn seconds_of(span: Span) -> f64 {
    span.millis() as f64 / 1000.0
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The elements of a TOML list of strings.
fn list(texts: &BTreeSet<String>) -> String {
    texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")
}

/// The ports of Squid and of web servers behind it, as jails name them.
const WEB_PORTS: [&str; 8] = ["http", "https", "80", "443", "8080", "3128", "squid", "http-alt"];
/// Exim's ports.
const MAIL_PORTS: [&str; 8] = ["smtp", "25", "ssmtp", "smtps", "465", "submission", "submissions", "587"];
/// Filters of services that listen on other ports, for jails that name no port or all of them.
const OTHER_SERVICES: [&str; 24] = [
    "3proxy",
    "asterisk",
    "bitwarden",
    "centreon",
    "dropbear",
    "freeswitch",
    "gssftpd",
    "guacamole",
    "kerio",
    "mongodb-auth",
    "murmur",
    "mssql-auth",
    "mysqld-auth",
    "named-refused",
    "nsd",
    "pam-generic",
    "proftpd",
    "pure-ftpd",
    "screensharingd",
    "sshd",
    "stunnel",
    "vsftpd",
    "wuftpd",
    "xinetd-fail",
];

/// Whether the jail counts the bans of the others, which it reads in fail2ban's own log.
fn counts_bans(jail: &Jail) -> bool {
    jail.filter.file_stem().is_some_and(|name| name == "recidive") || jail.logs.iter().any(|(path, _)| path.ends_with("/fail2ban.log"))
}

fn ports_of(ports: &str) -> impl Iterator<Item = &str> {
    ports.split([',', ' ', '\n', '\t']).map(str::trim).filter(|port| !port.is_empty())
}

/// Why neither Squid nor Exim can refuse the clients of a jail, if so.
fn unguarded(jail: &Jail) -> Option<String> {
    let ports = jail.options.get("port").map(String::as_str).unwrap_or_default();
    let is_every = |port: &str| matches!(port, "any" | "all" | "0:65535" | "1:65535" | "0-65535" | "1-65535");
    if ports_of(ports).next().is_some() && !ports_of(ports).any(is_every) {
        let is_guarded = ports_of(ports).any(|port| WEB_PORTS.contains(&port) || MAIL_PORTS.contains(&port));
        return (!is_guarded).then(|| format!("neither Squid nor Exim serves port {ports}; leave this jail to fail2ban"));
    }
    let filter = jail.filter.file_stem()?.to_str()?;
    OTHER_SERVICES
        .contains(&filter)
        .then(|| format!("neither Squid nor Exim guards the service of filter {filter}; leave this jail to fail2ban"))
}

/// The scope of the bans of a jail over these ports.
pub(super) fn scope(ports: &str) -> &'static str {
    let all = |known: &[&str]| ports_of(ports).next().is_some() && ports_of(ports).all(|port| known.contains(&port));
    if all(&WEB_PORTS) {
        "web"
    } else if all(&MAIL_PORTS) {
        "mail"
    } else {
        "all"
    }
}
