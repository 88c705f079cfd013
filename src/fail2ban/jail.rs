//! Reads jails from jail.conf, jail.d/*.conf, jail.local and jail.d/*.local, as fail2ban's `JailReader` does.

use super::filter::{Definition, FilterError, OPTIONS};
use super::ini::{IniConfig, IniError, Options, with_additions};
use super::tags::split_options;
use crate::time::parse_seconds;
use std::fmt;
use std::path::{Path, PathBuf};

/// The jails of a configuration folder such as `/etc/fail2ban`.
#[derive(Debug, Clone)]
pub struct Jails {
    folder: PathBuf,
    config: IniConfig,
}

/// One jail, with every reference resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Jail {
    /// The name of its section.
    pub name: String,
    /// Whether it is enabled.
    pub enabled: bool,
    /// The filter file.
    pub filter: PathBuf,
    /// Options for the filter: those in `filter = name[option=value]`, and options of the filter that the jail itself sets.
    pub filter_options: Options,
    /// The log files as written (they may contain `*`), and whether each is read from its end on (`tail`).
    pub logs: Vec<(String, bool)>,
    /// How logs are watched: `systemd` reads the journal, all others read files.
    pub backend: String,
    /// Number of failures that make a ban.
    pub maxretry: u32,
    /// Period within which failures add up, in seconds.
    pub findtime: f64,
    /// Length of a ban, in seconds; negative for ever.
    pub bantime: f64,
    /// Further options by name: the `bantime.` family, `ignoreip`, `ignorecommand`, `port`, `action` and others.
    pub options: Options,
}

/// Why a jail cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JailError {
    /// A fault in a file.
    Ini(IniError),
    /// A fault in the jail's filter.
    Filter(FilterError),
}

impl fmt::Display for JailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ini(error) => error.fmt(f),
            Self::Filter(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for JailError {}

impl From<IniError> for JailError {
    fn from(error: IniError) -> Self {
        Self::Ini(error)
    }
}

impl From<FilterError> for JailError {
    fn from(error: FilterError) -> Self {
        Self::Filter(error)
    }
}

/// Options of a jail that are passed on as they are, in [`Jail::options`].
const PASSED_ON: [&str; 17] = [
    "action",
    "bantime.factor",
    "bantime.formula",
    "bantime.increment",
    "bantime.maxtime",
    "bantime.multipliers",
    "bantime.overalljails",
    "bantime.rndtime",
    "ignorecache",
    "ignorecommand",
    "ignoreip",
    "ignoreself",
    "journalmatch",
    "logencoding",
    "logtimezone",
    "port",
    "usedns",
];

/// The value of `%(fail2ban_version)s`.
const VERSION: &str = "1.0.2";

impl Jails {
    /// Reads a configuration folder.
    ///
    /// # Errors
    /// A fault in a file, or a folder without a jail file.
    pub fn read(folder: &Path) -> Result<Self, IniError> {
        let files = with_additions(&folder.join("jail"));
        if files.is_empty() {
            return Err(IniError {
                file: folder.join("jail.conf"),
                line: None,
                message: "there is no such file, nor jail.local".to_owned(),
            });
        }
        let mut config = IniConfig::read(&files)?;
        config.set_default("fail2ban_version", VERSION);
        config.set_default("fail2ban_confpath", &folder.display().to_string());
        Ok(Self { folder: folder.to_owned(), config })
    }

    /// The names of all jails, in order of appearance.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.config.sections().filter(|name| !matches!(*name, "INCLUDES" | "Definition"))
    }

    /// Whether a jail is enabled.
    ///
    /// # Errors
    /// A reference to an option that does not exist.
    pub fn is_enabled(&self, name: &str) -> Result<bool, IniError> {
        let enabled = self.config.get(name, "enabled", &Options::new())?;
        Ok(enabled.is_some_and(|value| is_true(&value)))
    }

    /// Reads a jail and the definition of its filter.
    ///
    /// # Errors
    /// There is no jail of that name, one of its options is faulty, or its filter cannot be read.
    pub fn jail(&self, name: &str) -> Result<Jail, JailError> {
        if !self.names().any(|known| known == name) {
            let message = format!("there is no jail [{name}]");
            return Err(IniError { file: self.folder.join("jail.conf"), line: None, message }.into());
        }
        let none = Options::new();
        let filter = self.config.get(name, "filter", &none)?.unwrap_or_default();
        let (filter_name, given) = split_options(&filter).map_err(|message| self.error(name, "filter", message))?;
        let filter_path = self.folder.join("filter.d").join(format!("{filter_name}.conf"));
        let mut filter_options: Options = given.into_iter().collect();
        let backend = self.config.get(name, "backend", &none)?.unwrap_or_else(|| "auto".to_owned());

        // A jail can refer to the filter's values as %(known/option)s.
        let mut config = self.config.clone();
        let mut for_filter: Vec<(String, String)> = filter_options.clone().into_iter().collect();
        if backend.starts_with("systemd") && !filter_options.contains_key("logtype") {
            for_filter.push(("logtype".to_owned(), "journal".to_owned()));
        }
        let definition = Definition::read_all(&filter_path, &for_filter)?;
        for (option, value) in &definition.values {
            if !option.starts_with("known/") {
                config.set(name, &format!("known/{option}"), value);
            }
        }
        let value = |option: &str| config.get(name, option, &none);
        for option in OPTIONS {
            if option != "journalmatch"
                && let Some(text) = value(option)?
            {
                // fail2ban's default needs no mention.
                if option != "usedns" || text != "warn" {
                    filter_options.insert(option.to_owned(), text);
                }
            }
        }
        if let Some(zone) = value("logtimezone")?.filter(|zone| !zone.is_empty()) {
            filter_options.insert("logtimezone".to_owned(), zone);
        }
        let logs = value("logpath")?.unwrap_or_default();
        let logs = logs
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| line.rsplit_once(' ').map_or((line.to_owned(), false), |(path, mode)| (path.to_owned(), mode == "tail")))
            .collect();
        let length = |option: &str, default: f64| match value(option)? {
            Some(text) => parse_seconds(&text).map_err(|message| JailError::from(self.error(name, option, message))),
            None => Ok(default),
        };
        let maxretry = match value("maxretry")? {
            Some(text) => {
                let expected = || self.error(name, "maxretry", format!("found {text:?}, expected a number"));
                text.trim().parse().map_err(|_| expected())?
            }
            None => 3,
        };
        let mut options = Options::new();
        for option in PASSED_ON {
            if let Some(text) = value(option)?.filter(|text| !text.is_empty()) {
                options.insert(option.to_owned(), text);
            }
        }
        Ok(Jail {
            name: name.to_owned(),
            enabled: self.is_enabled(name)?,
            filter: filter_path,
            filter_options,
            logs,
            backend,
            maxretry,
            findtime: length("findtime", 600.0)?,
            bantime: length("bantime", 600.0)?,
            options,
        })
    }

    fn error(&self, jail: &str, option: &str, message: String) -> IniError {
        let value = self.config.value(jail, option);
        IniError {
            file: value.map_or_else(|| self.folder.join("jail.conf"), |value| value.file.to_path_buf()),
            line: value.map(|value| value.line).filter(|line| *line > 0),
            message: format!("in [{jail}] {option}: {message}"),
        }
    }
}

/// Whether an option's value is true: fail2ban's `_as_bool`.
#[must_use]
pub fn is_true(text: &str) -> bool {
    matches!(text.to_lowercase().as_str(), "1" | "on" | "true" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        folder
    }

    const FILTER: (&str, &str) = ("filter.d/x.conf", "[Definition]\nfailregex = ^a <HOST>$\n");

    #[test]
    fn files_override_each_other_in_fail2bans_order() {
        let folder = folder(&[
            FILTER,
            (
                "jail.conf",
                "[DEFAULT]\nfilter = %(__name__)s[mode=%(mode)s]\nmode = normal\nmaxretry = 5\nfindtime = 10m\nbantime = 1h\n[x]\nlogpath = /a\n[y]\n",
            ),
            ("jail.d/b.conf", "[x]\nmaxretry = 4\nbantime = 60*2\n"),
            ("jail.local", "[x]\nenabled = true\nmaxretry = 3\n"),
            ("jail.d/a.local", "[x]\nlogpath = /b\n  /c tail\nmode = more\n"),
        ]);
        let jails = Jails::read(folder.path()).expect("read");
        assert_eq!(jails.names().collect::<Vec<_>>(), ["x", "y"]);
        let jail = jails.jail("x").expect("a jail");
        assert_eq!((jail.enabled, jail.maxretry, jail.findtime, jail.bantime), (true, 3, 600.0, 120.0));
        assert_eq!(jail.logs, [("/b".to_owned(), false), ("/c".to_owned(), true)]);
        assert_eq!(jail.filter_options["mode"], "more");
        assert_eq!(jail.filter, folder.path().join("filter.d/x.conf"));
        assert!(!jails.is_enabled("y").expect("a jail"));
    }

    #[test]
    fn a_jail_can_add_to_the_expressions_of_its_filter() {
        let folder = folder(&[FILTER, ("jail.conf", "[x]\nfilter = x\nfailregex = %(known/failregex)s\n  ^b <HOST>$\n")]);
        let jail = Jails::read(folder.path()).expect("read").jail("x").expect("a jail");
        assert_eq!(jail.filter_options["failregex"], "^a <HOST>$\n^b <HOST>$");
    }

    #[test]
    fn an_error_names_file_line_and_option() {
        let folder = folder(&[FILTER, ("jail.conf", "[x]\nfilter = x\nmaxretry = many\n[y]\nfilter = gone\n")]);
        let jails = Jails::read(folder.path()).expect("read");
        let error = |name| jails.jail(name).expect_err(name).to_string().replace(&format!("{}/", folder.path().display()), "");
        assert_eq!(error("x"), "jail.conf:3: in [x] maxretry: found \"many\", expected a number");
        assert_eq!(error("y"), "filter.d/gone.conf: there is no such filter file");
        assert_eq!(error("z"), "jail.conf: there is no jail [z]");
        assert!(
            Jails::read(Path::new("/nowhere")).expect_err("no folder").to_string().starts_with("/nowhere/jail.conf: there is no such file")
        );
    }
}
