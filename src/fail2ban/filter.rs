//! Loads a filter file with its options, as fail2ban's `FilterReader` does.

use super::dates::DatePatterns;
use super::dates::template::Years;
use super::dates::zone::offset_minutes;
use super::expression::{Expression, Scope};
use super::ini::{IniConfig, IniError, Options};
use super::tags::substitute;
use std::fmt;
use std::path::{Path, PathBuf};

/// A loaded filter, with its expressions compiled.
#[derive(Debug)]
pub struct Filter {
    /// Must match first; its `<F-CONTENT>`, if any, is all that the other expressions see.
    pub prefregex: Option<Expression>,
    /// The expressions that make a line a failure.
    pub failregex: Vec<Expression>,
    /// How many lines an expression over several lines sees at once.
    pub max_lines: usize,
    /// Lines that match one of these are no failure.
    pub ignoreregex: Vec<Expression>,
    /// The patterns of dates.
    pub dates: DatePatterns,
    /// Offset in minutes of dates without a zone; none for the local zone.
    pub default_offset: Option<i32>,
    /// The texts of the failregexes, before tags such as `<HOST>` were expanded.
    pub sources: Vec<String>,
    path: PathBuf,
}

/// Why a filter cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterError {
    /// A fault in a file.
    Ini(IniError),
    /// An option with a value that cannot be used.
    Option {
        /// The file that sets it.
        file: PathBuf,
        /// The line of the option's name, counted from 1.
        line: Option<usize>,
        /// The option's name.
        option: String,
        /// What was found, and what was expected.
        message: String,
    },
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ini(error) => error.fmt(f),
            Self::Option { file, line: Some(line), option, message } => write!(f, "{}:{line}: {option}: {message}", file.display()),
            Self::Option { file, line: None, option, message } => write!(f, "{}: {option}: {message}", file.display()),
        }
    }
}

impl std::error::Error for FilterError {}

impl From<IniError> for FilterError {
    fn from(error: IniError) -> Self {
        Self::Ini(error)
    }
}

/// The options that fail2ban's `FilterReader` takes from `[Definition]`.
pub const OPTIONS: [&str; 7] = ["usedns", "prefregex", "ignoreregex", "failregex", "maxlines", "datepattern", "journalmatch"];

/// The files of a filter: in a folder `filter.d` with its `.local` and `.d` files, elsewhere alone.
fn files(path: &Path) -> Vec<PathBuf> {
    let in_filter_d = path.parent().and_then(Path::file_name).is_some_and(|name| name == "filter.d");
    if !in_filter_d {
        return vec![path.to_owned()];
    }
    super::ini::with_additions(&path.with_extension(""))
}

/// The options of a filter after interpolation and tag replacement, as fail2ban's client hands them to its server.
#[derive(Debug, Clone)]
pub struct Definition {
    /// The values by name.
    pub values: Options,
    config: IniConfig,
    path: PathBuf,
}

impl Definition {
    /// Reads a filter file. `options` override the file's own, as in `filter = name[option=value]`.
    ///
    /// # Errors
    /// A fault in a file, or a value that refers to itself.
    pub fn read(path: &Path, options: &[(String, String)]) -> Result<Self, FilterError> {
        Self::resolve(path, options, false)
    }

    /// Like [`Definition::read`], but with all options that the file defines, not only those that fail2ban's server knows.
    ///
    /// # Errors
    /// Like [`Definition::read`].
    pub fn read_all(path: &Path, options: &[(String, String)]) -> Result<Self, FilterError> {
        Self::resolve(path, options, true)
    }

    fn resolve(path: &Path, options: &[(String, String)], all: bool) -> Result<Self, FilterError> {
        if !path.exists() && !files(path).iter().any(|file| file.exists()) {
            return Err(IniError { file: path.to_owned(), line: None, message: "there is no such filter file".to_owned() }.into());
        }
        let config = IniConfig::read(&files(path))?;
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
        let values = substitute(&values, &mut more).map_err(|message| IniError { file: path.to_owned(), line: None, message })?;
        Ok(Self { values, config, path: path.to_owned() })
    }

    /// An error that points to the line that sets an option.
    #[must_use]
    pub fn error(&self, option: &str, message: impl Into<String>) -> FilterError {
        let value = self.config.value("Definition", option).or_else(|| self.config.value("Init", option));
        FilterError::Option {
            file: value.map_or_else(|| self.path.clone(), |value| value.file.to_path_buf()),
            line: value.map(|value| value.line).filter(|line| *line > 0),
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
    /// The option `logtimezone` sets the zone of dates without one, as the jail option of that name does.
    ///
    /// # Errors
    /// A fault in a file, an invalid expression, or an expression over several lines without `maxlines`.
    pub fn load(path: &Path, options: &[(String, String)]) -> Result<Self, FilterError> {
        let definition = Definition::read(path, options)?;
        let value = |option: &str| definition.values.get(option).map(String::as_str).filter(|value| !value.is_empty());
        let max_lines = match value("maxlines").map(|text| (text, text.trim().parse())) {
            None => 1,
            Some((_, Ok(lines))) if lines > 0 => lines,
            Some((text, _)) => return Err(definition.error("maxlines", format!("found {text:?}, expected a number above 0"))),
        };
        let failregex = definition.lines("failregex");
        if max_lines == 1 && failregex.iter().any(|line| line.contains("<SKIPLINES>")) {
            return Err(definition.error("failregex", "found <SKIPLINES>, expected an expression over one line, or maxlines above 1"));
        }
        if definition.lines("prefregex").iter().any(|line| line.contains("<SKIPLINES>")) {
            return Err(definition.error("prefregex", "found <SKIPLINES>, expected an expression over one line"));
        }
        if failregex.is_empty() {
            return Err(definition.error("failregex", "found none, expected at least one: the file is meant to be included by others"));
        }
        let names_match = value("usedns").is_none_or(|usedns| !matches!(usedns.to_lowercase().as_str(), "no" | "off" | "false"));
        let compile = |option: &str, text: &str, scope: Scope| {
            Expression::new(text, names_match, scope).map_err(|error| definition.error(option, format!("{error}, in {text:?}")))
        };
        // As in fail2ban, only a failregex gets the flag `m` (`addFailRegex`).
        let scope = if max_lines > 1 { Scope::SeveralLines } else { Scope::OneLine };
        let prefregex = value("prefregex").map(|text| compile("prefregex", text, Scope::OneLine)).transpose()?;
        let mut expressions = Vec::new();
        for text in &failregex {
            let expression = compile("failregex", text, scope)?;
            if !expression.identifies_client() && !prefregex.as_ref().is_some_and(Expression::identifies_client) {
                let message = match text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
                    Some(tag) if !tag.contains(['<', ' ']) => {
                        format!("found <{tag}>, which is not defined: is an option such as mode misspelt?")
                    }
                    _ => format!("found {text:?}, expected <HOST> or another tag that identifies the client"),
                };
                return Err(definition.error("failregex", message));
            }
            expressions.push(expression);
        }
        let ignoreregex =
            definition.lines("ignoreregex").iter().map(|text| compile("ignoreregex", text, Scope::OneLine)).collect::<Result<_, _>>()?;
        let years = Years::until(i32::from(jiff::Zoned::now().year()));
        let dates = DatePatterns::new(value("datepattern"), years).map_err(|message| definition.error("datepattern", message))?;
        let default_offset = value("logtimezone")
            .map(|zone| {
                offset_minutes(zone)
                    .ok_or_else(|| definition.error("logtimezone", format!("found {zone:?}, expected a zone such as \"UTC+0100\"")))
            })
            .transpose()?;
        let sources = failregex.into_iter().map(str::to_owned).collect();
        Ok(Self { prefregex, failregex: expressions, max_lines, ignoreregex, dates, default_offset, sources, path: path.to_owned() })
    }

    /// Whether an expression joins several lines of the log. `maxlines` alone does not.
    #[must_use]
    pub fn joins_lines(&self) -> bool {
        self.max_lines > 1 && self.failregex.iter().any(Expression::spans_lines)
    }

    /// The file that it was loaded from; empty for the expressions of a rule.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A filter of the expressions that a rule holds itself. `<HOST>` matches addresses only: host names are never looked up.
    ///
    /// # Errors
    /// The first expression that is invalid or identifies no client.
    pub fn of(failregex: &[String], ignoreregex: &[String]) -> Result<Self, String> {
        let compile = |option: &str, text: &String| {
            Expression::new(text, false, Scope::OneLine)
                .map_err(|error| format!("found {option} {text:?}, expected a regular expression: {error}"))
        };
        if let Some(text) = failregex.iter().find(|text| text.contains("<SKIPLINES>")) {
            return Err(format!("found failregex {text:?}, expected an expression over one line: only a filter file has maxlines"));
        }
        let expressions = failregex.iter().map(|text| compile("failregex", text)).collect::<Result<Vec<_>, _>>()?;
        if let Some((_, text)) = expressions.iter().zip(failregex).find(|(expression, _)| !expression.identifies_client()) {
            return Err(format!("found failregex {text:?}, expected <HOST> or another tag that identifies the client"));
        }
        Ok(Self {
            prefregex: None,
            failregex: expressions,
            max_lines: 1,
            ignoreregex: ignoreregex.iter().map(|text| compile("ignoreregex", text)).collect::<Result<_, _>>()?,
            dates: DatePatterns::new(None, Years::until(i32::from(jiff::Zoned::now().year())))?,
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
    fn options_select_expressions() {
        let files = [("x.conf", MODES), ("base.conf", BASE)];
        assert_eq!(load(&files, &[]).expect("loaded").sources, ["^any:a <HOST>$"]);
        let more = load(&files, &[("mode", "more"), ("_daemon", "d")]).expect("loaded").sources;
        assert_eq!(more, ["^d:a <HOST>$", "^b <HOST>$", "^c <HOST>$"]);
    }

    #[test]
    fn a_local_file_overrides_the_filter() {
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
    fn an_unsupported_filter_is_an_error_that_names_the_line() {
        let error = |text: &str| load(&[("x.conf", &format!("[Definition]\n{text}"))], &[]).expect_err(text);
        assert_eq!(error("failregex = <HOST>\nmaxlines = 0\n"), "x.conf:3: maxlines: found \"0\", expected a number above 0");
        assert_eq!(error("failregex = <HOST>\nmaxlines = all\n"), "x.conf:3: maxlines: found \"all\", expected a number above 0");
        assert_eq!(
            error("failregex = a<SKIPLINES><HOST>\n"),
            "x.conf:2: failregex: found <SKIPLINES>, expected an expression over one line, or maxlines above 1"
        );
        assert_eq!(
            error("failregex = a <HOST>\nprefregex = ^a<SKIPLINES><F-CONTENT>.+</F-CONTENT>$\nmaxlines = 3\n"),
            "x.conf:3: prefregex: found <SKIPLINES>, expected an expression over one line"
        );
        assert_eq!(
            error("failregex =\n"),
            "x.conf:2: failregex: found none, expected at least one: the file is meant to be included by others"
        );
        assert_eq!(
            error("failregex = ^a$\n"),
            "x.conf:2: failregex: found \"^a$\", expected <HOST> or another tag that identifies the client"
        );
        assert_eq!(
            error("failregex = <re-more>\n"),
            "x.conf:2: failregex: found <re-more>, which is not defined: is an option such as mode misspelt?"
        );
        assert!(error("failregex = ^(<HOST>\n").starts_with("x.conf:2: failregex: missing ), unterminated group at position"));
        assert!(error("failregex = <HOST>\ndatepattern = %%q\n").starts_with("x.conf:3: datepattern: found \"%q\""));
        let error = load(&[("x.conf", "[Definition]\nfailregex = <HOST>\n")], &[("logtimezone", "Mars")]).expect_err("no zone");
        assert_eq!(error, "x.conf: logtimezone: found \"Mars\", expected a zone such as \"UTC+0100\"");
    }

    #[test]
    fn a_missing_filter_file_is_named() {
        let error = Filter::load(Path::new("/nowhere/filter.d/x.conf"), &[]).expect_err("no file").to_string();
        assert_eq!(error, "/nowhere/filter.d/x.conf: there is no such filter file");
    }
}
