//! A filter file with its options: what fail2ban's `FilterReader` makes of it.

use super::expression::Expression;
use super::ini::{Config, ConfigError, Options};
use super::tags::substitute;
use crate::timestamp::Patterns;
use crate::timestamp::template::Years;
use crate::timestamp::zone::offset_minutes;
use std::fmt;
use std::path::{Path, PathBuf};

/// A loaded filter.
#[derive(Debug)]
pub struct Filter {
    /// What must match first, and may cut the line.
    pub prefregex: Option<Expression>,
    /// What is a failure.
    pub failregex: Vec<Expression>,
    /// What is none, although it looks like one.
    pub ignoreregex: Vec<Expression>,
    /// Where the date is.
    pub dates: Patterns,
    /// Offset in minutes of dates that name no zone, if it is not the local one.
    pub default_offset: Option<i32>,
    /// The texts of the failregexes, before fail2ban's tags were written out.
    pub sources: Vec<String>,
    path: PathBuf,
}

/// Why a filter cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterError {
    /// A fault in a file.
    Config(ConfigError),
    /// A value that is refused.
    Option {
        /// The file that holds it.
        file: PathBuf,
        /// The line of its name.
        line: Option<usize>,
        /// Its name.
        option: String,
        /// What was found and what was expected.
        message: String,
    },
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Option { file, line: Some(line), option, message } => write!(f, "{}:{line}: {option}: {message}", file.display()),
            Self::Option { file, line: None, option, message } => write!(f, "{}: {option}: {message}", file.display()),
        }
    }
}

impl std::error::Error for FilterError {}

impl From<ConfigError> for FilterError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// The options that a filter file defines.
pub const OPTIONS: [&str; 7] = ["usedns", "prefregex", "ignoreregex", "failregex", "maxlines", "datepattern", "journalmatch"];

/// The files of a filter: in a folder `filter.d` with those that add to it, elsewhere alone.
fn files(path: &Path) -> Vec<PathBuf> {
    let in_place = path.parent().and_then(Path::file_name).is_some_and(|name| name == "filter.d");
    if !in_place {
        return vec![path.to_owned()];
    }
    super::ini::with_additions(&path.with_extension(""))
}

/// The options of a filter with everything replaced, as fail2ban hands them to its server.
#[derive(Debug, Clone)]
pub struct Definition {
    /// The values.
    pub values: Options,
    config: Config,
    path: PathBuf,
}

impl Definition {
    /// Reads a filter file. `options` come before the file's own, as in `filter = name[option=value]`.
    ///
    /// # Errors
    /// A fault in a file, or a value that refers to itself.
    pub fn read(path: &Path, options: &[(String, String)]) -> Result<Self, FilterError> {
        Self::resolve(path, options, false)
    }

    /// As [`Definition::read`], with all options that the file defines, not only those that fail2ban's server knows.
    ///
    /// # Errors
    /// As [`Definition::read`].
    pub fn read_all(path: &Path, options: &[(String, String)]) -> Result<Self, FilterError> {
        Self::resolve(path, options, true)
    }

    fn resolve(path: &Path, options: &[(String, String)], all: bool) -> Result<Self, FilterError> {
        if !path.exists() && !files(path).iter().any(|file| file.exists()) {
            return Err(ConfigError { file: path.to_owned(), line: None, message: "there is no such filter file".to_owned() }.into());
        }
        let config = Config::read(&files(path))?;
        let mut init: Options = options.iter().cloned().collect();
        let own_type = config.own_options("Definition").iter().any(|name| name == "logtype");
        if init.get("logtype").is_none_or(String::is_empty) && !own_type {
            init.insert("logtype".to_owned(), "file".to_owned());
        }
        let given = init.clone();
        let mut values = Options::new();
        for option in OPTIONS {
            if !given.contains_key(option)
                && let Some(value) = config.get("Definition", option, &given)?
            {
                values.insert(option.to_owned(), value);
            }
        }
        for option in config.own_options("Init") {
            let Some(value) = config.get("Init", &option, &Options::new())? else { continue };
            if !option.starts_with("known/") {
                init.insert(format!("known/{option}"), value.clone());
            }
            init.entry(option).or_insert(value);
        }
        if all {
            for option in config.own_options("Definition").into_iter().chain(config.default_options()) {
                if !values.contains_key(&option)
                    && let Some(value) = config.get("Definition", &option, &Options::new())?
                {
                    values.insert(option, value);
                }
            }
        }
        values.extend(init);
        let mut more = |tag: &str| config.get_qualified("Definition", tag, &given).map_err(|error| error.to_string());
        let values = substitute(&values, &mut more).map_err(|message| ConfigError { file: path.to_owned(), line: None, message })?;
        Ok(Self { values, config, path: path.to_owned() })
    }

    /// An error that names where an option stands.
    #[must_use]
    pub fn fault(&self, option: &str, message: impl Into<String>) -> FilterError {
        let place = self.config.place("Definition", option).or_else(|| self.config.place("Init", option));
        FilterError::Option {
            file: place.map_or_else(|| self.path.clone(), |value| value.file.to_path_buf()),
            line: place.map(|value| value.line).filter(|line| *line > 0),
            option: option.to_owned(),
            message: message.into(),
        }
    }

    fn lines(&self, option: &str) -> Vec<&str> {
        self.values.get(option).map(|value| value.split('\n').filter(|line| !line.is_empty()).collect()).unwrap_or_default()
    }
}

impl Filter {
    /// Loads a filter file with options such as `mode`.
    ///
    /// An option `logtimezone` sets the zone of dates that name none, as the jail option of that name does.
    ///
    /// # Errors
    /// A fault in a file, an expression that is none, or something that is not supported: multi-line filters (`maxlines` over 1).
    pub fn load(path: &Path, options: &[(String, String)]) -> Result<Self, FilterError> {
        let definition = Definition::read(path, options)?;
        let value = |option: &str| definition.values.get(option).map(String::as_str).filter(|value| !value.is_empty());
        if let Some(text) = value("maxlines") {
            match text.trim().parse::<u32>() {
                Ok(1) => {}
                Ok(lines) => {
                    return Err(
                        definition.fault("maxlines", format!("found {lines}, expected 1: filters over several lines are not supported"))
                    );
                }
                Err(_) => return Err(definition.fault("maxlines", format!("found {text:?}, expected a number"))),
            }
        }
        let failregex = definition.lines("failregex");
        for (option, lines) in [("failregex", &failregex), ("prefregex", &definition.lines("prefregex"))] {
            if lines.iter().any(|line| line.contains("<SKIPLINES>")) {
                return Err(definition.fault(option, "found <SKIPLINES>: filters over several lines are not supported"));
            }
        }
        if failregex.is_empty() {
            return Err(definition.fault("failregex", "there is none: the file is meant to be included by others"));
        }
        let names_match = value("usedns").is_none_or(|usedns| !matches!(usedns.to_lowercase().as_str(), "no" | "off" | "false"));
        let compile = |option: &str, text: &str| {
            Expression::new(text, names_match).map_err(|error| definition.fault(option, format!("{error}, in {text:?}")))
        };
        let prefregex = value("prefregex").map(|text| compile("prefregex", text)).transpose()?;
        let mut expressions = Vec::new();
        for text in &failregex {
            let expression = compile("failregex", text)?;
            if !expression.names_somebody() && !prefregex.as_ref().is_some_and(Expression::names_somebody) {
                let message = match text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
                    Some(tag) if !tag.contains(['<', ' ']) => format!("<{tag}> is not defined: is an option such as mode misspelt?"),
                    _ => format!("found {text:?}, expected <HOST> or another tag that says who is blamed"),
                };
                return Err(definition.fault("failregex", message));
            }
            expressions.push(expression);
        }
        let ignoreregex = definition.lines("ignoreregex").iter().map(|text| compile("ignoreregex", text)).collect::<Result<_, _>>()?;
        let years = Years::until(i32::from(jiff::Zoned::now().year()));
        let dates = Patterns::new(value("datepattern"), years).map_err(|message| definition.fault("datepattern", message))?;
        let default_offset = value("logtimezone")
            .map(|zone| {
                offset_minutes(zone)
                    .ok_or_else(|| definition.fault("logtimezone", format!("found {zone:?}, expected a zone such as \"UTC+0100\"")))
            })
            .transpose()?;
        let sources = failregex.into_iter().map(str::to_owned).collect();
        Ok(Self { prefregex, failregex: expressions, ignoreregex, dates, default_offset, sources, path: path.to_owned() })
    }

    /// The file that it was loaded from; empty for a filter that a rule writes out itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A filter from expressions alone, as a rule writes them. Names are not looked up, and so not matched.
    ///
    /// # Errors
    /// The expression that is none, or that says nobody to blame.
    pub fn of(failregex: &[String], ignoreregex: &[String]) -> Result<Self, String> {
        let compile = |option: &str, text: &String| {
            Expression::new(text, false).map_err(|error| format!("found {option} {text:?}, expected a regular expression: {error}"))
        };
        let expressions = failregex.iter().map(|text| compile("failregex", text)).collect::<Result<Vec<_>, _>>()?;
        if let Some((_, text)) = expressions.iter().zip(failregex).find(|(expression, _)| !expression.names_somebody()) {
            return Err(format!("found failregex {text:?}, expected <HOST> or another tag that says who is blamed"));
        }
        Ok(Self {
            prefregex: None,
            failregex: expressions,
            ignoreregex: ignoreregex.iter().map(|text| compile("ignoreregex", text)).collect::<Result<_, _>>()?,
            dates: Patterns::new(None, Years::until(i32::from(jiff::Zoned::now().year())))?,
            default_offset: None,
            sources: failregex.to_vec(),
            path: PathBuf::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)], options: &[(&str, &str)]) -> Result<Filter, String> {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = directory.path().join("filter.d");
        std::fs::create_dir(&folder).expect("made");
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("written");
        }
        let options: Vec<_> = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Filter::load(&folder.join(files[0].0), &options).map_err(|error| error.to_string().replace(&format!("{}/", folder.display()), ""))
    }

    const MODES: &str = "[INCLUDES]\nbefore = base.conf\n[Definition]\nfailregex = ^%(pre)sa <HOST>$\n  <re-<mode>>\nre-normal =\nre-more = ^b <HOST>$\n  ^c <HOST>$\nmode = normal\n";
    const BASE: &str = "[DEFAULT]\npre = <_daemon>:\n_daemon = any\n";

    #[test]
    fn options_choose_among_expressions() {
        let files = [("x.conf", MODES), ("base.conf", BASE)];
        assert_eq!(load(&files, &[]).expect("loaded").sources, ["^any:a <HOST>$"]);
        let more = load(&files, &[("mode", "more"), ("_daemon", "d")]).expect("loaded").sources;
        assert_eq!(more, ["^d:a <HOST>$", "^b <HOST>$", "^c <HOST>$"]);
    }

    #[test]
    fn a_local_file_overrides() {
        let files = [
            ("x.conf", MODES),
            ("base.conf", BASE),
            ("x.local", "[Definition]\nmode = more\n"),
            ("base.local", "[DEFAULT]\n_daemon = l\n"),
        ];
        assert_eq!(load(&files, &[]).expect("loaded").sources[0], "^l:a <HOST>$");
        assert_eq!(load(&files, &[]).expect("loaded").sources.len(), 3);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let fault = |text: &str| load(&[("x.conf", &format!("[Definition]\n{text}"))], &[]).expect_err(text);
        assert_eq!(
            fault("failregex = <HOST>\nmaxlines = 5\n"),
            "x.conf:3: maxlines: found 5, expected 1: filters over several lines are not supported"
        );
        assert_eq!(
            fault("failregex = a<SKIPLINES><HOST>\n"),
            "x.conf:2: failregex: found <SKIPLINES>: filters over several lines are not supported"
        );
        assert_eq!(fault("failregex =\n"), "x.conf:2: failregex: there is none: the file is meant to be included by others");
        assert_eq!(
            fault("failregex = ^a$\n"),
            "x.conf:2: failregex: found \"^a$\", expected <HOST> or another tag that says who is blamed"
        );
        assert_eq!(fault("failregex = <re-more>\n"), "x.conf:2: failregex: <re-more> is not defined: is an option such as mode misspelt?");
        assert!(fault("failregex = ^(<HOST>\n").starts_with("x.conf:2: failregex: missing ), unterminated group at position"));
        assert!(fault("failregex = <HOST>\ndatepattern = %%q\n").starts_with("x.conf:3: datepattern: found \"%q\""));
        let error = load(&[("x.conf", "[Definition]\nfailregex = <HOST>\n")], &[("logtimezone", "Mars")]).expect_err("no zone");
        assert_eq!(error, "x.conf: logtimezone: found \"Mars\", expected a zone such as \"UTC+0100\"");
    }

    #[test]
    fn a_filter_that_is_not_there_is_named() {
        let error = Filter::load(Path::new("/nowhere/filter.d/x.conf"), &[]).expect_err("no file").to_string();
        assert_eq!(error, "/nowhere/filter.d/x.conf: there is no such filter file");
    }
}
