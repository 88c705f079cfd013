//! Squid's configuration as Squid reads it (`cache_cf.cc`, `ConfigParser.cc`): included files, continued lines, quoted words, `if` blocks.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Depth to which Squid follows `include` (`cache_cf.cc`: parseManyConfigFiles).
const MAX_DEPTH: usize = 16;
/// Maximum number of files, of which one that includes itself would make ever more.
const MAX_FILES: usize = 1000;
/// Maximum number of directives. A configuration that a program has written may be long.
const MAX_DIRECTIVES: usize = 200_000;

/// Where the text comes from.
pub trait Files {
    /// The text of a file.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// The files that a pattern of `include` names, sorted.
    fn matching(&self, pattern: &str) -> Vec<PathBuf>;
}

/// A line of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    file: Arc<Path>,
    line: usize,
    pub name: String,
    /// Its words; a quoted one keeps its quotes, because in many places that makes it the name of a file.
    pub words: Vec<String>,
}

impl Directive {
    /// `FILE:LINE`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }

    /// The name and the words, as they would be written.
    pub fn text(&self) -> String {
        format!("{} {}", self.name, self.words.join(" "))
    }
}

/// Everything that Squid reads, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SquidConfig {
    pub directives: Vec<Directive>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// Why files that it names could not be read.
    pub unread: Vec<String>,
}

impl SquidConfig {
    /// Reads `main` and all that it includes.
    pub fn read(main: &Path, files: &dyn Files) -> Self {
        let mut config = Self::default();
        config.add(main, files, 0);
        config
    }

    fn add(&mut self, path: &Path, files: &dyn Files, depth: usize) {
        let text = match files.read(path) {
            Ok(text) => text,
            Err(error) => return self.unread.push(format!("{}: {error}", path.display())),
        };
        self.files.push(path.into());
        let file: Arc<Path> = path.into();
        let mut conditions = Conditions::default();
        for (line, text) in logical_lines(&text) {
            let mut words = words(&text).into_iter();
            let Some(name) = words.next() else { continue };
            let words: Vec<String> = words.collect();
            if conditions.handle(&name, &words) || !conditions.are_met() {
                continue;
            }
            if name != "include" {
                if self.directives.len() < MAX_DIRECTIVES {
                    let words = values(&name, words, files);
                    self.directives.push(Directive { file: Arc::clone(&file), line, name, words });
                }
                continue;
            }
            if depth >= MAX_DEPTH || self.files.len() >= MAX_FILES {
                self.unread.push(format!("{}:{line}: found more than {MAX_DEPTH} files that include each other", path.display()));
                continue;
            }
            for pattern in words.iter().map(|word| unquoted(word)) {
                for included in files.matching(pattern) {
                    self.add(&included, files, depth + 1);
                }
            }
        }
    }

    /// The directives of one name, in their order.
    pub fn named<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Directive> {
        self.directives.iter().filter(move |directive| directive.name == name)
    }

    /// The first word of the last directive of that name: of an option that is set twice, the last one counts.
    pub fn setting<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.named(name).next_back()?.words.first().map(String::as_str)
    }

    /// The type of the acl `name`, and all its values: an acl may stand on several lines.
    pub fn acl<'a>(&'a self, name: &'a str) -> Option<(&'a str, Vec<&'a str>)> {
        let lines = || self.named("acl").filter(move |acl| acl.words.first().is_some_and(|word| word == name));
        let kind = lines().find_map(|acl| acl.words.get(1))?;
        Some((kind, lines().flat_map(|acl| acl.words.iter().skip(2)).map(String::as_str).collect()))
    }

    /// The names of the acls that hold one of `names`, directly or as `any-of` and `all-of` others.
    pub fn acls_over(&self, names: impl IntoIterator<Item = String>) -> BTreeSet<String> {
        let mut found: BTreeSet<String> = names.into_iter().collect();
        loop {
            let before = found.len();
            for acl in self.named("acl") {
                if let [name, kind, values @ ..] = acl.words.as_slice()
                    && matches!(kind.as_str(), "any-of" | "all-of")
                    && values.iter().any(|value| found.contains(value.trim_start_matches('!')))
                {
                    found.insert(name.clone());
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }
}

/// The word without its quotes.
pub fn unquoted(word: &str) -> &str {
    let inner = |quote| word.strip_prefix(quote).and_then(|word| word.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(word)
}

/// The words of an acl over addresses, with those of a file that it names in quotes in their place. Other acls keep the name.
fn values(name: &str, words: Vec<String>, files: &dyn Files) -> Vec<String> {
    let is_over_addresses = name == "acl" && words.get(1).is_some_and(|kind| kind == "src");
    if !is_over_addresses {
        return words;
    }
    let value = |word: String| {
        let file = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
        match file.and_then(|file| files.read(Path::new(file)).ok()) {
            Some(text) => text.lines().flat_map(|line| words_of(line, true)).collect(),
            None => vec![word],
        }
    };
    words.into_iter().flat_map(value).take(MAX_DIRECTIVES).collect()
}

/// The lines with their numbers, those that end with a backslash joined with the next one.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continued = false;
    for (number, line) in text.lines().enumerate() {
        let (line, goes_on) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, last)) if continued => last.push_str(line),
            _ => lines.push((number + 1, line.to_owned())),
        }
        continued = goes_on;
    }
    lines
}

/// The words of a line up to a comment.
fn words(line: &str) -> Vec<String> {
    words_of(line, false)
}

fn words_of(line: &str, is_list: bool) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '#' {
            break;
        }
        let end = match first {
            '"' | '\'' if !is_list => rest.char_indices().skip(1).find(|(_, c)| *c == first).map(|(at, c)| at + c.len_utf8()),
            _ => rest.find(char::is_whitespace),
        };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// The `if` blocks around a line. A condition over something that only Squid knows, such as the number of a worker, counts as met, so
/// that nothing which some worker reads is missed.
#[derive(Debug, Default)]
struct Conditions(Vec<Option<bool>>);

impl Conditions {
    /// Whether the line is a part of a block rather than a directive.
    fn handle(&mut self, name: &str, words: &[String]) -> bool {
        match name {
            "if" => self.0.push(is_met(&words.concat())),
            "else" => {
                // Of a condition that cannot be told, both sides are read.
                if let Some(last) = self.0.last_mut() {
                    *last = last.map(|is_met| !is_met);
                }
            }
            "endif" => drop(self.0.pop()),
            _ => return false,
        }
        true
    }

    fn are_met(&self) -> bool {
        self.0.iter().all(|is_met| is_met.unwrap_or(true))
    }
}

/// `true`, `false`, a number, or two numbers with `=` between them.
fn is_met(condition: &str) -> Option<bool> {
    match condition {
        "true" => Some(true),
        "false" => Some(false),
        _ => match condition.split_once('=') {
            Some((left, right)) => Some(left.parse::<i64>().ok()? == right.parse::<i64>().ok()?),
            None => condition.parse::<i64>().ok().map(|number| number != 0),
        },
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Files in memory; a pattern matches by its part before the star.
    pub struct MemoryFiles(pub BTreeMap<PathBuf, String>);

    impl Files for MemoryFiles {
        fn read(&self, path: &Path) -> io::Result<String> {
            self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn matching(&self, pattern: &str) -> Vec<PathBuf> {
            let (before, after) = pattern.split_once('*').unwrap_or((pattern, ""));
            let matches = |path: &&PathBuf| path.to_str().is_some_and(|path| path.starts_with(before) && path.ends_with(after));
            self.0.keys().filter(matches).cloned().collect()
        }
    }

    /// The configuration of these files, of which the first is the main one.
    pub fn config(files: &[(&str, &str)]) -> SquidConfig {
        let texts = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        SquidConfig::read(Path::new(files[0].0), &MemoryFiles(texts))
    }

    fn lines(config: &SquidConfig) -> Vec<String> {
        config.directives.iter().map(|directive| format!("{} {}", directive.place(), directive.text())).collect()
    }

    #[test]
    fn included_files_are_read_where_they_are_included() {
        let config = config(&[
            ("/squid.conf", "# comment\nacl a src 1.2.3.4 # more\ninclude /conf.d/*.conf\nhttp_access deny all"),
            ("/conf.d/1.conf", "http_access deny \\\n  a\n"),
            ("/conf.d/2.conf", "\n\ninclude \"/three\" /none\n"),
            ("/conf.d/2.disabled", "never read"),
            ("/three", "workers 2"),
        ]);
        let expected = [
            "/squid.conf:2 acl a src 1.2.3.4",
            "/conf.d/1.conf:1 http_access deny a",
            "/three:1 workers 2",
            "/squid.conf:4 http_access deny all",
        ];
        assert_eq!(lines(&config), expected);
        assert_eq!((config.files.len(), config.unread.len()), (4, 0));
    }

    #[test]
    fn a_file_that_includes_itself_ends_and_one_that_cannot_be_read_is_named() {
        let many = config(&[("/squid.conf", "include /squid.conf\ninclude /squid.conf")]);
        assert!(many.files.len() <= MAX_FILES + 1, "not two to the power of the depth");
        let endless = config(&[("/squid.conf", "include /squid.conf\nworkers 1")]);
        assert_eq!((endless.directives.len(), endless.unread.len()), (MAX_DEPTH + 1, 1));
        assert!(SquidConfig::read(Path::new("/none"), &MemoryFiles(BTreeMap::new())).unread[0].starts_with("/none: "));
    }

    #[test]
    fn a_quoted_word_is_one_word_and_the_addresses_of_an_acl_may_stand_in_a_file() {
        let config = config(&[
            (
                "/squid.conf",
                "acl cdn src \"/cdn.txt\" 192.0.2.1\nacl cdn src 192.0.2.2\nlogformat x \"%>a %ru\" 'a # b'\nacl e external x status=404",
            ),
            ("/cdn.txt", "198.51.100.0/24 # one\n\n# none\n2001:db8::/32\n"),
        ]);
        assert_eq!(config.acl("cdn"), Some(("src", vec!["198.51.100.0/24", "2001:db8::/32", "192.0.2.1", "192.0.2.2"])));
        assert_eq!(config.acl("e"), Some(("external", vec!["x", "status=404"])));
        assert_eq!(config.acl("f"), None);
        let words = &config.named("logformat").next().unwrap().words;
        assert_eq!(words.iter().map(|word| unquoted(word)).collect::<Vec<_>>(), ["x", "%>a %ru", "a # b"]);
    }

    #[test]
    fn a_block_counts_if_its_condition_is_met_or_only_squid_knows() {
        let text = "if false\na 1\nelse\nb 2\nendif\nif 1 = 1\nc 3\nif ${process_number} = 2\nd 4\nelse\ne 5\nendif\nelse\ng 7\nendif\nf 6";
        let config = config(&[("/squid.conf", text)]);
        assert_eq!(config.directives.iter().map(|directive| directive.name.as_str()).collect::<Vec<_>>(), ["b", "c", "d", "e", "f"]);
    }

    #[test]
    fn the_last_setting_counts_and_acls_over_others_are_found() {
        let config = config(&[("/squid.conf", "workers 1\nacl b any-of x a\nacl c all-of !b\nacl d any-of y\nworkers 2")]);
        assert_eq!((config.setting("workers"), config.setting("x")), (Some("2"), None));
        assert_eq!(config.acls_over(["a".to_owned()]).into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(?s).{0,300}", lines in "((if|else|endif|include|acl x src|\"|'|\\\\| |é|\n){0,40})") {
            for text in [text, lines] {
                config(&[("/squid.conf", &text)]);
            }
        }
    }
}
