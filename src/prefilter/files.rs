//! The files that Squid reads: written whole, and read again by the helper, which Squid starts together with reading them.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Prefilter, Stamp};
use crate::rule::Rule;

/// Expressions for Squid's `url_regex` acl.
pub const PATH_FILE: &str = "path.regex";
/// Expressions for Squid's `browser` acl.
pub const AGENT_FILE: &str = "agent.regex";
/// The acls themselves, to be included: a line of Squid's configuration holds a longer expression than one of a file of expressions, and one pass
/// over the path costs less than three.
pub const ACLS_FILE: &str = "acls.conf";

/// Maximum size of a file that is read: [`Stamp`] and [`Prefilter`] are bounded.
const MAX_SIZE: u64 = 1024 * 1024;
/// Rules in a comment line: Squid cuts a line of more than 2,047 bytes, and its rest would be an expression.
const RULES_PER_LINE: usize = 50;

const VERSION: &str = "# version ";
const RULES: &str = "# rules ";

impl Prefilter {
    /// Writes the files into `directory`, each whole: Squid may read them at any moment.
    ///
    /// # Errors
    /// The file that could not be written, and why. The old one is still there.
    pub fn write(&self, directory: &Path) -> Result<(), String> {
        // A reader takes the rules from the last file, and notices if another one is of other rules.
        replace(directory, AGENT_FILE, &bytes(&self.text(&self.agent, false)))?;
        replace(directory, ACLS_FILE, &bytes(&self.acls()))?;
        replace(directory, PATH_FILE, &bytes(&self.text(&self.path, true)))?;
        // So that the names outlive a power failure.
        let _ = fs::File::open(directory).and_then(|directory| directory.sync_all());
        Ok(())
    }

    fn heading(&self) -> String {
        let version = self.stamp.version();
        format!(
            "# Made by `strikeout prefilter` for squid-fast.conf; squid -k reconfigure loads it. Do not edit.\n{VERSION}{version:016x}\n"
        )
    }

    fn acls(&self) -> String {
        let acls = [
            ("acl strikeout_path urlpath_regex -i", &self.long_path),
            ("acl strikeout_host dstdom_regex -n -i", &self.host),
            ("acl strikeout_agent browser -i", &self.long_agent),
        ];
        let lines = acls.into_iter().flat_map(|(acl, expressions)| expressions.iter().map(move |text| format!("{acl} {text}\n")));
        self.heading() + &lines.collect::<String>()
    }

    fn text(&self, expressions: &[String], with_rules: bool) -> String {
        let mut text = self.heading();
        // Writing to a string cannot fail.
        for line in self.stamp.lines(RULES_PER_LINE).filter(|_| with_rules) {
            let _ = writeln!(text, "{RULES}{line}");
        }
        for expression in expressions {
            // Squid joins expressions of the same case until they have more than 1,024 bytes (RegexData.cc: `compileOptimisedREs`). glibc does
            // not see that a joined one is anchored, and begins anew at each byte. By this change of case Squid compiles each by itself, and
            // says at its start that it could not join them.
            let _ = writeln!(text, "-i\n{expression}\n+i");
        }
        text
    }
}

/// Characters from 0x80 on stand for bytes; see [`super::posix`].
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(character).unwrap_or(b'.')).collect()
}

/// Writes a file beside `name`, and renames it.
fn replace(directory: &Path, name: &str, text: &[u8]) -> Result<(), String> {
    let (path, temporary) = (directory.join(name), directory.join(format!(".{name}.{}", std::process::id())));
    let written = (|| {
        // One of an earlier process with this number. A link that somebody else has put there is not followed.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        // Whatever the umask is: Squid's user must be able to read it.
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644))?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        format!("{}: {error}", path.display())
    })
}

/// The prefilter in a directory, as Squid has loaded it if the helper that reads it has just been started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedPrefilter {
    pub directory: PathBuf,
    /// The rules that it covers; none if it cannot be read or its files differ.
    pub stamp: Stamp,
    /// What is wrong with the files.
    pub fault: Option<String>,
}

impl LoadedPrefilter {
    /// Reads the files in `directory`.
    #[must_use]
    pub fn read(directory: &Path) -> Self {
        let read = read_file(&directory.join(PATH_FILE)).and_then(|(version, stamp)| {
            if !directory.join(ACLS_FILE).exists() {
                return Err(format!("{}: the files are of an older version of strikeout, without {ACLS_FILE}", directory.display()));
            }
            for other in [AGENT_FILE, ACLS_FILE] {
                if read_file(&directory.join(other))?.0 != version {
                    return Err(format!("{}: the files are of different rules", directory.display()));
                }
            }
            if version != stamp.version() {
                return Err(format!("{}: the files are of another version of strikeout", directory.display()));
            }
            Ok(stamp)
        });
        let directory = directory.to_path_buf();
        match read {
            Ok(stamp) => Self { directory, stamp, fault: None },
            Err(fault) => Self { directory, stamp: Stamp::default(), fault: Some(fault) },
        }
    }

    /// Logs what [`LoadedPrefilter::staleness`] says.
    pub fn warn_if_stale(&self, rules: &[Arc<Rule>]) {
        if let Some(staleness) = self.staleness(rules) {
            log::warn!("{staleness}");
        }
    }

    /// What is wrong with it beside `rules`, which are in force; `None` if every request that they may match is asked about.
    #[must_use]
    pub fn staleness(&self, rules: &[Arc<Rule>]) -> Option<String> {
        let newer = self.stamp.newer(rules);
        if self.fault.is_none() && newer.is_empty() {
            return None;
        }
        let what = match &self.fault {
            Some(fault) => format!("{fault}: whether Squid asks about every request that a rule matches is not known"),
            None => {
                format!("Squid's prefilter is older than {}: a request that only these rules match may not be asked about", named(&newer))
            }
        };
        Some(format!("{what}. To mend it: {}", commands(&self.directory)))
    }
}

/// The commands that make Squid's prefilter current.
#[must_use]
pub fn commands(directory: &Path) -> String {
    let text = directory.display().to_string();
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let text = if is_plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) };
    format!("strikeout prefilter --output {text} && squid -k reconfigure")
}

/// `the rules a, b, c and 4 more`.
fn named(rules: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = rules.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    let noun = if rules.len() == 1 { "rule" } else { "rules" };
    match rules.len().saturating_sub(SHOWN) {
        0 => format!("the {noun} {shown}"),
        more => format!("the {noun} {shown} and {more} more"),
    }
}

/// The version and the rules that a file says that it is made of.
fn read_file(path: &Path) -> Result<(u64, Stamp), String> {
    let at = |error: String| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| at(error.to_string()))?;
    file.take(MAX_SIZE).read_to_end(&mut bytes).map_err(|error| at(error.to_string()))?;
    let text = String::from_utf8_lossy(&bytes);
    let version = text.lines().find_map(|line| line.strip_prefix(VERSION)).and_then(|version| u64::from_str_radix(version, 16).ok());
    let version = version.ok_or_else(|| at(format!("found no line {VERSION:?}, expected a file made by `strikeout prefilter`")))?;
    let mut stamp = Stamp::default();
    for (number, line) in text.lines().enumerate() {
        if let Some(rules) = line.strip_prefix(RULES)
            && !stamp.add(rules)
        {
            return Err(format!(
                "{}:{}: found {:.40?}, expected rules as `strikeout prefilter` writes them",
                path.display(),
                number + 1,
                rules
            ));
        }
    }
    Ok((version, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::rule_id::RuleNames;
    use std::os::unix::fs::PermissionsExt;

    fn rules(text: &str) -> Vec<Arc<Rule>> {
        // Few rules, because expressions for all take a while unoptimised.
        let text = format!("[defaults]\nfamilies = ['scanners']\n{text}");
        Config::parse(text.as_bytes(), Path::new("test.toml"), &RuleNames::default()).unwrap().rules.rules().to_vec()
    }

    #[test]
    fn what_is_written_is_read_again_and_tells_which_rules_are_newer() {
        let directory = tempfile::tempdir().unwrap();
        let old = rules("");
        Prefilter::of(&old).write(directory.path()).unwrap();
        let loaded = LoadedPrefilter::read(directory.path());
        assert_eq!((loaded.fault.as_deref(), loaded.staleness(&old)), (None, None));
        let newer = rules("[[rule]]\nname = 'one'\npath = '^/one$'");
        assert_eq!(
            loaded.staleness(&newer).unwrap(),
            format!(
                "Squid's prefilter is older than the rule one: a request that only these rules match may not be asked about. To mend it: \
                 strikeout prefilter --output {} && squid -k reconfigure",
                directory.path().display()
            )
        );
        let names: Vec<String> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        for name in [PATH_FILE, ACLS_FILE, AGENT_FILE] {
            assert_eq!(fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777, 0o644);
        }
    }

    #[test]
    fn a_file_that_is_missing_foreign_or_of_other_rules_is_a_fault() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let fault = || LoadedPrefilter::read(path).fault.unwrap();
        assert!(fault().contains("path.regex: No such file"), "{}", fault());
        Prefilter::of(&rules("")).write(path).unwrap();
        let mine = fs::read(path.join(AGENT_FILE)).unwrap();
        Prefilter::of(&rules("[[rule]]\nname = 'one'\npath = '^/one$'")).write(path).unwrap();
        fs::write(path.join(AGENT_FILE), mine).unwrap();
        assert!(fault().contains("different rules"), "{}", fault());
        fs::write(path.join(PATH_FILE), "^/my/own$\n").unwrap();
        assert!(fault().contains("expected a file made by"), "{}", fault());
        fs::write(path.join(PATH_FILE), "# version 1\n# rules x\n").unwrap();
        assert!(fault().contains("path.regex:2: found \"x\""), "{}", fault());
    }

    #[test]
    fn a_directory_that_is_missing_is_an_error_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let error = Prefilter::of(&[]).write(&missing).unwrap_err();
        assert!(error.starts_with(&format!("{}/agent.regex: No such file", missing.display())), "{error}");
        fs::create_dir_all(directory.path().join(PATH_FILE).join("in the way")).unwrap();
        assert!(Prefilter::of(&[]).write(directory.path()).is_err());
        assert!(fs::read_dir(directory.path()).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with('.')));
    }

    #[test]
    fn no_line_is_so_long_that_squid_cuts_it() {
        let all = Config::parse(b"", Path::new("test.toml"), &RuleNames::default()).unwrap();
        let prefilter = Prefilter::of(all.rules.rules());
        let text = prefilter.text(&prefilter.path, true);
        assert!(
            text.lines()
                .all(|line| line.len() < 2047 && line.chars().all(|c| (' '..='~').contains(&c) || ('\u{80}'..='\u{ff}').contains(&c)))
        );
        let acls = prefilter.acls();
        let lines: Vec<&str> = acls.lines().filter(|line| line.starts_with("acl ")).collect();
        assert!(lines.iter().all(|line| line.len() < 8190 && line.rsplit_once("-i ").unwrap().1.bytes().all(|byte| byte > b' ')), "{acls}");
        assert_eq!(lines.len(), 3, "one for each acl");
    }
}
