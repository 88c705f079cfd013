//! Splits the helper's arguments into options and the words of the query, which may come in any order.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::query::{self, Ignored};

/// The arguments, sorted. Nothing is an error: what is not understood is ignored and named in [`ParsedArguments::ignored`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ParsedArguments<'a> {
    pub config: Option<&'a Path>,
    pub table: Option<&'a Path>,
    /// The query: every argument that is no option. A `--` inside the query is kept, because no key is read behind it.
    pub words: Vec<&'a [u8]>,
    /// Options that are not understood. An address in one of them may be the client's.
    pub unknown: Vec<&'a [u8]>,
    pub ignored: Ignored,
    /// Whether `--help` or `--version` was given.
    pub wants_help: bool,
}

impl<'a> ParsedArguments<'a> {
    /// Sorts the arguments. Behind `--`, none is an option.
    ///
    /// Of an option that is given twice the first one counts, so that a client's text at the end of the line cannot name another socket.
    #[must_use]
    pub fn of(arguments: &'a [OsString]) -> Self {
        let mut parsed = Self::default();
        let mut rest = arguments.iter().map(OsString::as_os_str).peekable();
        while let Some(argument) = rest.next() {
            match argument.as_bytes() {
                b"--" => {
                    if !parsed.words.is_empty() {
                        parsed.words.push(argument.as_bytes());
                    }
                    parsed.words.extend(rest.map(OsStr::as_bytes));
                    break;
                }
                name @ (b"--config" | b"--table") => {
                    let value = rest.next_if(|value| is_value(value.as_bytes()) || value.is_empty());
                    parsed.take_option(name, argument, value);
                }
                b"--help" | b"-h" | b"--version" | b"-V" => {
                    parsed.wants_help = true;
                    parsed.ignored.add(argument.as_bytes());
                }
                bytes @ [b'-', _, ..] => match bytes.iter().position(|byte| *byte == b'=').and_then(|at| bytes.split_at_checked(at)) {
                    Some((name @ (b"--config" | b"--table"), value)) => {
                        parsed.take_option(name, argument, value.get(1..).map(OsStr::from_bytes));
                    }
                    _ => {
                        parsed.unknown.push(bytes);
                        parsed.ignored.add(bytes);
                    }
                },
                word => parsed.words.push(word),
            }
        }
        parsed
    }

    fn take_option(&mut self, name: &[u8], argument: &OsStr, value: Option<&'a OsStr>) {
        let option = if name == b"--config" { &mut self.config } else { &mut self.table };
        match value {
            Some(value) if option.is_none() && !value.is_empty() => *option = Some(Path::new(value)),
            _ => self.ignored.add(argument.as_bytes()),
        }
    }
}

/// Whether an argument after `--config` or `--table` is its value. A shell drops an empty variable, and then the next argument would be
/// taken for the path: an option, or a word of the query.
fn is_value(argument: &[u8]) -> bool {
    !argument.starts_with(b"-") && !query::is_word(argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two options, the words, and what is ignored.
    fn split(arguments: &[&str]) -> (Option<String>, Option<String>, Vec<String>, String) {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let parsed = ParsedArguments::of(&arguments);
        let path = |path: Option<&Path>| path.map(|path| path.display().to_string());
        let words = parsed.words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        (path(parsed.config), path(parsed.table), words, parsed.ignored.to_string())
    }

    #[test]
    fn options_stand_anywhere_and_take_their_value_in_both_forms() {
        let query = ["check", "192.0.2.1", "pid=7"];
        let expected = (Some("/c".to_owned()), Some("/s".to_owned()), query.map(str::to_owned).to_vec(), String::new());
        for first in 0..=query.len() {
            for second in first..=query.len() {
                for (config, table) in [
                    (&["--config", "/c"][..], &["--table", "/s"][..]),
                    (&["--config=/c"], &["--table=/s"]),
                    (&["--config=/c"], &["--table", "/s"]),
                ] {
                    let (a, b, c) = (&query[..first], &query[first..second], &query[second..]);
                    assert_eq!(split(&[a, config, b, table, c].concat()), expected);
                    assert_eq!(split(&[a, table, b, config, c].concat()), expected);
                }
            }
        }
    }

    #[test]
    fn after_two_dashes_all_arguments_are_words() {
        let (_, table, words, ignored) = split(&["--table", "/s", "--", "check", "192.0.2.1", "--table", "/evil"]);
        assert_eq!((table.as_deref(), words.len(), ignored.as_str()), (Some("/s"), 4, ""));
        let (_, table, words, _) = split(&["check", "192.0.2.1", "--", "--table", "/evil"]);
        assert_eq!((table, words.join(" ").as_str()), (None, "check 192.0.2.1 -- --table /evil"));
    }

    #[test]
    fn the_first_of_two_options_counts() {
        let (_, table, words, ignored) = split(&["--table=/s", "check", "192.0.2.1", "--table=/evil"]);
        assert_eq!((table.as_deref(), words.len(), ignored.as_str()), (Some("/s"), 2, "\"--table=\""));
    }

    #[test]
    fn an_option_without_a_value_takes_no_word_of_the_query() {
        for arguments in [
            &["--table", "check", "192.0.2.1"][..],
            &["check", "--table", "192.0.2.1"],
            &["check", "192.0.2.1", "--table"],
            &["--table=", "check", "192.0.2.1"],
            &["--table", "", "check", "192.0.2.1"],
            &["--table", "--", "check", "192.0.2.1"],
        ] {
            let (config, table, words, ignored) = split(arguments);
            assert_eq!((config, table, words), (None, None, vec!["check".to_owned(), "192.0.2.1".to_owned()]), "{arguments:?}");
            assert!(ignored.starts_with("\"--table"), "{arguments:?}: {ignored}");
        }
        let (config, table, words, _) = split(&["--table", "--config", "/c", "check", "192.0.2.1", "--table", "pid=7"]);
        assert_eq!((config.as_deref(), table, words.len()), (Some("/c"), None, 3));
    }

    #[test]
    fn an_unknown_option_is_ignored_and_named_without_its_value() {
        let (_, _, words, ignored) = split(&["-x", "--tabel=/s", "check", "192.0.2.1", "--password=secret"]);
        assert_eq!((words.len(), ignored.as_str()), (2, "\"-x\", \"--tabel=\", \"--password=\""));
    }
}
