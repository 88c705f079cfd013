//! fail2ban's configuration files: the format of Python's `configparser`, with includes, `.local` files and references across sections.
//!
//! - [`parse`]: one file;
//! - [`includes`]: the files that belong together, in the order in which they override each other;
//! - [`mod@interpolate`]: `%(name)s` in values.

mod includes;
mod interpolate;
mod parse;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use includes::with_additions;
use interpolate::{interpolate, split_qualified};

/// A fault in a configuration file, shown as `FILE:LINE: what was found, what was expected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IniError {
    /// The faulty file.
    pub file: PathBuf,
    /// The faulty line, counted from 1; none if the fault is not in one line.
    pub line: Option<usize>,
    /// What was found, and what was expected.
    pub message: String,
}

impl fmt::Display for IniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

impl std::error::Error for IniError {}

/// An option's value and where it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IniValue {
    /// The value as written: its lines, before interpolation.
    pub text: String,
    /// The file that sets it.
    pub file: Arc<Path>,
    /// The line of the option's name, counted from 1; 0 for a value that no file sets.
    pub line: usize,
}

type Section = BTreeMap<String, IniValue>;

/// Option values by name. Those handed in from outside take precedence over those in files.
pub type Options = BTreeMap<String, String>;

/// One or more files, merged: a later file overrides the values of earlier ones.
#[derive(Debug, Clone, Default)]
pub struct IniConfig {
    defaults: Section,
    /// By name, in order of appearance. `KNOWN/name` holds the overridden values of section `name`, for `%(known/option)s`.
    sections: Vec<(String, Section)>,
    files: Vec<PathBuf>,
}

impl IniConfig {
    /// Reads files and everything that they include. Missing files are skipped, as `configparser.read` skips them.
    ///
    /// # Errors
    /// The first fault in any of the files.
    pub fn read(paths: &[PathBuf]) -> Result<Self, IniError> {
        let mut config = Self::default();
        for (path, file) in includes::in_order(paths)? {
            config.merge(&file);
            config.files.push(path);
        }
        Ok(config)
    }

    /// The names of the sections, in order of appearance.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(|(name, _)| name.as_str()).filter(|name| !name.starts_with("KNOWN/"))
    }

    fn has_section(&self, name: &str) -> bool {
        self.section(name).is_some()
    }

    /// The names of the options that a section itself sets, without those of `[DEFAULT]`.
    #[must_use]
    pub fn own_options(&self, section: &str) -> Vec<String> {
        self.section(section).map(|section| section.keys().cloned().collect()).unwrap_or_default()
    }

    /// The names of the options of `[DEFAULT]`.
    #[must_use]
    pub fn default_options(&self) -> Vec<String> {
        self.defaults.keys().cloned().collect()
    }

    /// An option's value in a section or in `[DEFAULT]`, with the place that sets it.
    #[must_use]
    pub fn value(&self, section: &str, option: &str) -> Option<&IniValue> {
        self.section(section).and_then(|section| section.get(option)).or_else(|| self.defaults.get(option))
    }

    /// Sets an option of a section, as a further file would.
    pub fn set(&mut self, section: &str, name: &str, text: &str) {
        let value = IniValue { text: text.to_owned(), file: Path::new("").into(), line: 0 };
        self.section_mut(section).insert(name.to_owned(), value);
    }

    /// Sets an option of `[DEFAULT]`.
    pub fn set_default(&mut self, name: &str, text: &str) {
        self.defaults.insert(name.to_owned(), IniValue { text: text.to_owned(), file: Path::new("").into(), line: 0 });
    }

    /// The value of an option after interpolation; none if it is not set.
    ///
    /// # Errors
    /// A reference to an option that does not exist, or a stray percent sign.
    pub fn get(&self, section: &str, option: &str, options: &Options) -> Result<Option<String>, IniError> {
        let option = option.to_lowercase();
        if section != "DEFAULT" && !self.has_section(section) {
            return Ok(None);
        }
        let Some(raw) = self.lookup(section, &option, options) else { return Ok(None) };
        interpolate(self, section, &option, options, raw).map(Some)
    }

    /// Like [`IniConfig::get`], for a name that may be qualified: `section/option`, `known/option`, `default/option`.
    ///
    /// # Errors
    /// Like [`IniConfig::get`].
    pub fn get_qualified(&self, section: &str, option: &str, options: &Options) -> Result<Option<String>, IniError> {
        if let Some((other, name)) = split_qualified(option) {
            let known = format!("KNOWN/{section}");
            let sections = match other.to_lowercase().as_str() {
                "known" => vec![known.as_str(), section],
                "default" => vec!["DEFAULT"],
                _ => vec![other],
            };
            for section in sections {
                if let Some(value) = self.get(section, name, &Options::new())? {
                    return Ok(Some(value));
                }
            }
        }
        self.get(section, option, options)
    }

    fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|(known, _)| known == name).map(|(_, section)| section)
    }

    fn section_mut(&mut self, name: &str) -> &mut Section {
        let index = self.sections.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.sections.push((name.to_owned(), Section::new()));
            self.sections.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "the section was found or added just above")]
        &mut self.sections[index].1
    }

    fn lookup<'c>(&'c self, section: &str, option: &str, options: &'c Options) -> Option<&'c str> {
        options
            .get(option)
            .map(String::as_str)
            .or_else(|| self.section(section)?.get(option).map(|value| value.text.as_str()))
            .or_else(|| self.defaults.get(option).map(|value| value.text.as_str()))
    }

    fn merge(&mut self, file: &Self) {
        self.defaults.extend(file.defaults.clone());
        for (name, section) in &file.sections {
            // [Init?family=inet6] sets options named `option?family=inet6` in [Init].
            let conditional = name.split_once('?').filter(|(name, condition)| is_word(name) && !condition.is_empty());
            let (name, section) = match conditional {
                Some((name, condition)) => {
                    (name, section.iter().map(|(option, value)| (format!("{option}?{condition}"), value.clone())).collect())
                }
                None => (name.as_str(), section.clone()),
            };
            if let Some(present) = self.section(name) {
                let replaced: Section =
                    present.iter().filter(|(option, _)| section.contains_key(*option)).map(|(o, v)| (o.clone(), v.clone())).collect();
                self.section_mut(&format!("KNOWN/{name}")).extend(replaced);
            }
            self.section_mut(name).extend(section);
        }
    }

    fn error(&self, section: &str, option: &str, message: String) -> IniError {
        let value = self.value(section, option);
        IniError {
            file: value.map(|value| value.file.to_path_buf()).or_else(|| self.files.last().cloned()).unwrap_or_default(),
            line: value.map(|value| value.line).filter(|line| *line > 0),
            message: format!("in [{section}] {option}: {message}"),
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<IniConfig, IniError> {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).expect("written");
        }
        IniConfig::read(&[directory.path().join(files[0].0)])
            .map_err(|error| IniError { file: error.file.file_name().expect("a name").into(), ..error })
    }

    fn get(config: &IniConfig, section: &str, option: &str) -> String {
        config.get(section, option, &Options::new()).expect("no fault").expect("a value")
    }

    #[test]
    fn indented_lines_continue_a_value_and_comments_are_dropped() {
        let config = read(&[("a.conf", "[Definition]\nFailRegex = a ; comment\n  b;c\n# no\n\n  ; no\n  d\nnext : x=y\n")]).expect("read");
        assert_eq!(get(&config, "Definition", "failregex"), "a\nb;c\n\nd");
        assert_eq!(get(&config, "Definition", "next"), "x=y");
    }

    #[test]
    fn a_reference_finds_the_section_then_the_defaults_then_other_sections() {
        let config = read(&[(
            "a.conf",
            "[DEFAULT]\nx = 1\n[other]\ny = 2%(x)s\nx = 3\n[Definition]\nz = %(x)s %(other/y)s %(DEFAULT/x)s 5%% %(__name__)s\n",
        )])
        .expect("read");
        assert_eq!(get(&config, "Definition", "z"), "1 21 1 5% Definition");
        assert_eq!(get(&config, "other", "y"), "23");
        assert_eq!(config.get_qualified("Definition", "other/y", &Options::new()).expect("no fault").as_deref(), Some("23"));
    }

    #[test]
    fn included_files_come_before_or_after_and_local_files_last() {
        let config = read(&[
            ("a.conf", "[INCLUDES]\nbefore = b.conf\nafter = c.conf\n[S]\nx = a\ny = a\nz = %(known/z)s+a\nl = a\n"),
            ("b.conf", "[S]\nx = b\nz = b\nw = b\n"),
            ("c.conf", "[S]\ny = c\n"),
            ("a.local", "[S]\nl = local\n"),
        ])
        .expect("read");
        let all: Vec<_> = ["x", "y", "z", "w", "l"].map(|name| get(&config, "S", name)).into();
        assert_eq!(all, ["a", "c", "b+a", "b", "local"]);
    }

    #[test]
    fn files_that_include_each_other_are_read_once_each() {
        let config =
            read(&[("a.conf", "[INCLUDES]\nbefore = b.conf\n[S]\nx = a\n"), ("b.conf", "[INCLUDES]\nbefore = a.conf\n[S]\nx = b\n")])
                .expect("read");
        assert_eq!(get(&config, "S", "x"), "a");
    }

    #[test]
    fn a_conditional_section_sets_conditional_options() {
        let config = read(&[("a.conf", "[Init]\nx = 4\n[Init?family=inet6]\nx = 6\n")]).expect("read");
        assert_eq!(get(&config, "Init", "x"), "4");
        assert_eq!(get(&config, "Init", "x?family=inet6"), "6");
    }

    #[test]
    fn an_error_names_file_and_line() {
        let fault = |text| read(&[("a.conf", text)]).expect_err(text).to_string();
        assert_eq!(fault("x = 1\n"), "a.conf:1: found \"x = 1\", expected a section such as [Definition]");
        assert_eq!(fault("[S]\nx\n"), "a.conf:2: found \"x\", expected \"name = value\"");
        assert_eq!(fault("[S]\nx=1\nX=2\n"), "a.conf:3: found option \"x\" of [S] a second time, expected each name once");
        assert_eq!(fault("[S]\n[S]\n"), "a.conf:2: found section [S] a second time, expected each name once");
        let fault = |text| {
            let config = read(&[("a.conf", text)]).expect("read");
            let error = config.get("S", "x", &Options::new()).expect_err(text);
            (error.line, error.message)
        };
        assert_eq!(fault("[S]\n\nx = %(y)s\n"), (Some(3), "in [S] x: found %(y)s, expected the name of an option".to_owned()));
        assert_eq!(fault("[S]\nx = 5%\n"), (Some(2), "in [S] x: found \"%\", expected \"%%\" or \"%(name)s\"".to_owned()));
        assert_eq!(fault("[S]\nx = %(x)s\n"), (Some(2), "in [S] x: references nested deeper than 10, perhaps in a circle".to_owned()));
    }

    #[test]
    fn references_cannot_grow_a_value_without_end() {
        let mut text = String::from("[S]\nx = %(a0)s\n");
        for level in 0..8 {
            text.push_str(&format!("a{level} = {}\n", format!("%(a{})s", level + 1).repeat(50)));
        }
        text.push_str("a8 = end\n");
        let error = read(&[("a.conf", &text)]).expect("read").get("S", "x", &Options::new()).expect_err("too long");
        assert!(error.message.contains("longer than"), "{error}");
    }
}
