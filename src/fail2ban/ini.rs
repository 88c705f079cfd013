//! fail2ban's configuration files: Python's `configparser` with includes, `.local` files and its own names in interpolations.

use super::ini_file::parse_file;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that one file may draw in, itself counted.
const MOST_FILES: usize = 500;

/// Longest value after interpolation, in bytes.
const LONGEST_VALUE: usize = 1 << 20;

/// How deep an interpolation may refer to others.
const DEEPEST: usize = 10;

/// A fault in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1, if one is to blame.
    pub line: Option<usize>,
    /// What was found and what was expected.
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

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its lines, without interpolation.
    pub text: String,
    /// The file that it is from.
    pub file: Arc<Path>,
    /// The line of its name, from 1.
    pub line: usize,
}

pub(super) type Section = BTreeMap<String, Value>;

/// Options from outside the files: they come before those in the files.
pub type Options = BTreeMap<String, String>;

/// One or more files, merged: later files replace values of earlier ones.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub(super) defaults: Section,
    pub(super) sections: Vec<(String, Section)>,
    pub(super) files: Vec<PathBuf>,
}

impl Config {
    /// Reads files with what they include; files that are missing are passed over.
    ///
    /// # Errors
    /// The first fault in any of them.
    pub fn read(paths: &[PathBuf]) -> Result<Self, ConfigError> {
        let mut order = Vec::new();
        let mut parsed = HashMap::new();
        includes(paths, &[], &mut parsed, &mut order)?;
        let mut config = Self::default();
        for path in &order {
            if let Some(Some(file)) = parsed.get(path) {
                config.merge(file);
                config.files.push(path.clone());
            }
        }
        Ok(config)
    }

    /// The files that were read, in order.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The names of the sections, in order of appearance.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(|(name, _)| name.as_str()).filter(|name| !name.starts_with("KNOWN/"))
    }

    /// Whether there is a section of this name.
    #[must_use]
    pub fn has_section(&self, name: &str) -> bool {
        self.section(name).is_some()
    }

    /// The names of a section's own options, without those from `[DEFAULT]`.
    #[must_use]
    pub fn own_options(&self, section: &str) -> Vec<String> {
        self.section(section).map(|section| section.keys().cloned().collect()).unwrap_or_default()
    }

    /// The names of all options of `[DEFAULT]`.
    #[must_use]
    pub fn default_options(&self) -> Vec<String> {
        self.defaults.keys().cloned().collect()
    }

    /// Where an option of a section stands, `[DEFAULT]` included.
    #[must_use]
    pub fn place(&self, section: &str, option: &str) -> Option<&Value> {
        self.section(section).and_then(|section| section.get(option)).or_else(|| self.defaults.get(option))
    }

    /// Sets values in a section as if a further file had set them.
    pub fn set(&mut self, section: &str, name: &str, text: &str) {
        let value = Value { text: text.to_owned(), file: Path::new("").into(), line: 0 };
        self.section_mut(section).insert(name.to_owned(), value);
    }

    /// Sets a value in `[DEFAULT]`.
    pub fn set_default(&mut self, name: &str, text: &str) {
        self.defaults.insert(name.to_owned(), Value { text: text.to_owned(), file: Path::new("").into(), line: 0 });
    }

    /// The value of an option with its interpolations resolved; nothing if there is none.
    ///
    /// # Errors
    /// A reference to a name that does not exist, or a stray percent sign.
    pub fn get(&self, section: &str, option: &str, options: &Options) -> Result<Option<String>, ConfigError> {
        let option = option.to_lowercase();
        if section != "DEFAULT" && !self.has_section(section) {
            return Ok(None);
        }
        let Some(raw) = self.lookup(section, &option, options) else { return Ok(None) };
        let mut out = String::new();
        let mut interpolation = Interpolation { config: self, section, option: &option, options, extra: HashMap::new() };
        interpolation.resolve(raw, 1, &mut out)?;
        Ok(Some(out))
    }

    /// As [`Config::get`], for a name that may hold a section too: `section/option`, `known/option`, `default/option`.
    ///
    /// # Errors
    /// As [`Config::get`].
    pub fn get_qualified(&self, section: &str, option: &str, options: &Options) -> Result<Option<String>, ConfigError> {
        if let Some((other, name)) = split_qualified(option) {
            let known = format!("KNOWN/{section}");
            let places = match other.to_lowercase().as_str() {
                "known" => vec![known.as_str(), section],
                "default" => vec!["DEFAULT"],
                _ => vec![other],
            };
            for place in places {
                if let Some(value) = self.get(place, name, &Options::new())? {
                    return Ok(Some(value));
                }
            }
        }
        self.get(section, option, options)
    }

    fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|(known, _)| known == name).map(|(_, section)| section)
    }

    pub(super) fn section_mut(&mut self, name: &str) -> &mut Section {
        let place = self.sections.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.sections.push((name.to_owned(), Section::new()));
            self.sections.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "the place was found or made just above")]
        &mut self.sections[place].1
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
            // [Init?family=inet6] adds its options under names of their own.
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

    fn error(&self, section: &str, option: &str, message: String) -> ConfigError {
        let place = self.place(section, option);
        ConfigError {
            file: place.map(|value| value.file.to_path_buf()).or_else(|| self.files.last().cloned()).unwrap_or_default(),
            line: place.map(|value| value.line).filter(|line| *line > 0),
            message: format!("in [{section}] {option}: {message}"),
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// `section/option`, if it is that.
fn split_qualified(option: &str) -> Option<(&str, &str)> {
    let (section, name) = option.split_once('/')?;
    let named = !section.is_empty() && section.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    (named && !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '>')).then_some((section, name))
}

struct Interpolation<'c> {
    config: &'c Config,
    section: &'c str,
    option: &'c str,
    options: &'c Options,
    /// Values of other sections that were referred to, by their full name.
    extra: HashMap<String, &'c str>,
}

impl<'c> Interpolation<'c> {
    fn resolve(&mut self, text: &'c str, depth: usize, out: &mut String) -> Result<(), ConfigError> {
        if depth > DEEPEST {
            return Err(self.error(format!("references deeper than {DEEPEST}, perhaps in a circle")));
        }
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            out.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                out.push('%');
                rest = after;
            } else if let Some((name, after)) =
                after.strip_prefix('(').and_then(|after| after.split_once(")s")).filter(|(name, _)| !name.contains(')'))
            {
                let value = self.value(name)?;
                if value.contains('%') {
                    self.resolve(value, depth + 1, out)?;
                } else {
                    out.push_str(value);
                }
                rest = after;
            } else {
                let shown: String = after.chars().take(20).collect();
                return Err(self.error(format!("found \"%{shown}\", expected \"%%\" or \"%(name)s\"")));
            }
            if out.len() > LONGEST_VALUE {
                return Err(self.error(format!("longer than {LONGEST_VALUE} bytes with its references")));
            }
        }
        out.push_str(rest);
        Ok(())
    }

    fn value(&mut self, name: &str) -> Result<&'c str, ConfigError> {
        let lower = name.to_lowercase();
        if lower == "__name__" {
            return Ok(self.section);
        }
        if let Some(value) = self.config.lookup(self.section, &lower, self.options) {
            return Ok(value);
        }
        if let Some(value) = self.extra.get(name) {
            return Ok(value);
        }
        let found = split_qualified(name).and_then(|(section, option)| {
            let own = match section.to_lowercase().as_str() {
                "default" => None,
                "known" => self.config.section(&format!("KNOWN/{}", self.section)),
                _ => Some(self.config.section(section)?),
            };
            own.and_then(|section| section.get(option)).or_else(|| self.config.defaults.get(option))
        });
        let Some(found) = found else { return Err(self.error(format!("found %({name})s, but there is no such option"))) };
        self.extra.insert(name.to_owned(), &found.text);
        Ok(&found.text)
    }

    fn error(&self, message: String) -> ConfigError {
        self.config.error(self.section, self.option, message)
    }
}

/// The files of one name in the order in which fail2ban reads them: `name.conf`, `name.d/*.conf`, `name.local`, `name.d/*.local`.
#[must_use]
pub fn with_additions(name: &Path) -> Vec<PathBuf> {
    let with = |ending: &str| PathBuf::from(format!("{}.{ending}", name.display()));
    let mut added: Vec<PathBuf> =
        std::fs::read_dir(with("d")).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    added.sort();
    let mut all = Vec::new();
    for ending in ["conf", "local"] {
        all.push(with(ending));
        all.extend(added.iter().filter(|path| path.extension().is_some_and(|found| found == ending)).cloned());
    }
    all.retain(|path| path.exists());
    all
}

type Parsed = HashMap<PathBuf, Option<Config>>;

/// Lists files in the order in which they count: what is included before, the file itself, what is included after.
fn includes(paths: &[PathBuf], seen: &[PathBuf], parsed: &mut Parsed, order: &mut Vec<PathBuf>) -> Result<(), ConfigError> {
    let mut all = Vec::new();
    for path in paths {
        all.push(path.clone());
        let local = path.with_extension("local");
        if !paths.contains(&local) && local.is_file() {
            all.push(local);
        }
    }
    for path in all {
        if !parsed.contains_key(&path) {
            let file = parse_file(&path)?;
            parsed.insert(path.clone(), file);
        }
        let Some(Some(file)) = parsed.get(&path) else { continue };
        let directory = path.parent().unwrap_or(Path::new(""));
        let listed = |name| -> Result<Vec<PathBuf>, ConfigError> {
            let names = file.get("INCLUDES", name, &Options::new())?.unwrap_or_default();
            Ok(names.lines().filter(|name| !name.is_empty()).map(|name| directory.join(name)).filter(|path| !seen.contains(path)).collect())
        };
        let (before, after) = (listed("before")?, listed("after")?);
        if order.len() + before.len() + after.len() > MOST_FILES {
            return Err(ConfigError { file: path, line: None, message: format!("more than {MOST_FILES} files are included") });
        }
        let mut seen = seen.to_vec();
        seen.push(path.clone());
        // One by one, as fail2ban does: a list of files would keep a `.local` that it names from being drawn in twice.
        for included in before {
            includes(&[included], &seen, parsed, order)?;
        }
        order.push(path.clone());
        for included in after {
            includes(&[included], &seen, parsed, order)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).expect("written");
        }
        Config::read(&[directory.path().join(files[0].0)])
            .map_err(|error| ConfigError { file: error.file.file_name().expect("a name").into(), ..error })
    }

    fn get(config: &Config, section: &str, option: &str) -> String {
        config.get(section, option, &Options::new()).expect("no fault").expect("a value")
    }

    #[test]
    fn values_go_on_in_indented_lines_and_comments_do_not_count() {
        let config = read(&[("a.conf", "[Definition]\nFailRegex = a ; comment\n  b;c\n# no\n\n  ; no\n  d\nnext : x=y\n")]).expect("read");
        assert_eq!(get(&config, "Definition", "failregex"), "a\nb;c\n\nd");
        assert_eq!(get(&config, "Definition", "next"), "x=y");
    }

    #[test]
    fn names_are_replaced_by_values_of_the_section_the_defaults_and_other_sections() {
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
    fn files_are_included_before_and_after_and_local_files_come_last() {
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
    fn a_conditional_section_adds_conditional_names() {
        let config = read(&[("a.conf", "[Init]\nx = 4\n[Init?family=inet6]\nx = 6\n")]).expect("read");
        assert_eq!(get(&config, "Init", "x"), "4");
        assert_eq!(get(&config, "Init", "x?family=inet6"), "6");
    }

    #[test]
    fn faults_are_named_with_file_and_line() {
        let fault = |text| read(&[("a.conf", text)]).expect_err(text).to_string();
        assert_eq!(fault("x = 1\n"), "a.conf:1: found \"x = 1\", expected a section such as [Definition]");
        assert_eq!(fault("[S]\nx\n"), "a.conf:2: found \"x\", expected \"name = value\"");
        assert_eq!(fault("[S]\nx=1\nX=2\n"), "a.conf:3: found option \"x\" of [S] a second time");
        assert_eq!(fault("[S]\n[S]\n"), "a.conf:2: found section [S] a second time");
        let fault = |text| {
            let config = read(&[("a.conf", text)]).expect("read");
            let error = config.get("S", "x", &Options::new()).expect_err(text);
            (error.line, error.message)
        };
        assert_eq!(fault("[S]\n\nx = %(y)s\n"), (Some(3), "in [S] x: found %(y)s, but there is no such option".to_owned()));
        assert_eq!(fault("[S]\nx = 5%\n"), (Some(2), "in [S] x: found \"%\", expected \"%%\" or \"%(name)s\"".to_owned()));
        assert_eq!(fault("[S]\nx = %(x)s\n"), (Some(2), "in [S] x: references deeper than 10, perhaps in a circle".to_owned()));
    }

    #[test]
    fn references_cannot_grow_without_end() {
        let mut text = String::from("[S]\nx = %(a0)s\n");
        for level in 0..8 {
            text.push_str(&format!("a{level} = {}\n", format!("%(a{})s", level + 1).repeat(50)));
        }
        text.push_str("a8 = end\n");
        let error = read(&[("a.conf", &text)]).expect("read").get("S", "x", &Options::new()).expect_err("too long");
        assert!(error.message.contains("longer than"), "{error}");
    }
}
