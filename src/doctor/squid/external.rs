//! `external_acl_type` lines that name our helper: options, format and arguments.

use std::path::{Path, PathBuf};

use crate::doctor::squid_config::{Directive, SquidConfig, unquoted};

/// The name of our helper's program.
pub const PROGRAM: &str = "ext_strikeout_acl";

/// One such line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External<'a> {
    pub line: &'a Directive,
    pub name: &'a str,
    options: Vec<(&'a str, &'a str)>,
    /// The `%` words.
    pub format: Vec<&'a str>,
    pub program: &'a Path,
    arguments: Vec<&'a str>,
}

impl<'a> External<'a> {
    /// All lines of `config` that name our helper.
    pub fn all(config: &'a SquidConfig) -> Vec<Self> {
        config.named("external_acl_type").filter_map(Self::of).collect()
    }

    fn of(line: &'a Directive) -> Option<Self> {
        let mut words = line.words.iter().map(|word| unquoted(word));
        let name = words.next()?;
        let (mut options, mut format) = (Vec::new(), Vec::new());
        let program = loop {
            let word = words.next()?;
            if word.starts_with('/') {
                break Path::new(word);
            }
            match word.split_once('=').filter(|_| !word.starts_with('%')) {
                Some(option) => options.push(option),
                None => format.push(word),
            }
        };
        let is_ours = program.file_name().is_some_and(|file| file == PROGRAM);
        is_ours.then(|| Self { line, name, options, format, program, arguments: words.collect() })
    }

    pub fn option(&self, name: &str) -> Option<&'a str> {
        self.options.iter().find(|(option, _)| *option == name).map(|(_, value)| *value)
    }

    /// The value of one of the helper's own options, as in `--table SOCKET`.
    pub fn argument(&self, name: &str) -> Option<&'a str> {
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix(name) {
                Some("") => return arguments.next().copied(),
                Some(value) if value.starts_with('=') => return value.strip_prefix('='),
                _ => {}
            }
        }
        None
    }

    /// Whether it asks about the request, and not about the address alone.
    pub fn asks_about_request(&self) -> bool {
        self.format.len() > 1
    }

    /// The socket of the daemon that it asks; none for a table of its own.
    pub fn table(&self) -> Option<PathBuf> {
        self.argument("--table").map(PathBuf::from)
    }

    /// The names of the acls over this line, and of those over them.
    pub fn acls(config: &SquidConfig, lines: &[Self]) -> std::collections::BTreeSet<String> {
        let direct = config.named("acl").filter_map(|acl| match acl.words.as_slice() {
            [name, kind, of, ..] if kind == "external" && lines.iter().any(|line| line.name == of) => Some(name.clone()),
            _ => None,
        });
        config.acls_over(direct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::squid_config::tests::config;

    #[test]
    fn a_line_is_taken_apart_into_options_format_program_and_arguments() {
        let config = config(&[(
            "/squid.conf",
            "external_acl_type other ttl=5 %SRC /usr/lib/squid/ext_session_acl -t 7\n\
             external_acl_type r ttl=0 cache=0 %>a %>rm %#>ru %#.300{User-Agent}>h /x/ext_strikeout_acl -d --table /run/s --state=/y\n\
             external_acl_type c %>a /x/ext_strikeout_acl\n\
             external_acl_type broken\nacl one external r\nacl two any-of one\nacl three external other",
        )]);
        let lines = External::all(&config);
        assert_eq!(lines.iter().map(|line| line.name).collect::<Vec<_>>(), ["r", "c"]);
        let first = &lines[0];
        assert_eq!((first.option("ttl"), first.option("grace"), first.format.len()), (Some("0"), None, 4));
        assert_eq!((first.table(), first.argument("--state"), first.argument("--tab")), (Some("/run/s".into()), Some("/y"), None));
        assert!(first.asks_about_request() && !lines[1].asks_about_request() && lines[1].table().is_none());
        assert_eq!(External::acls(&config, &lines).into_iter().collect::<Vec<_>>(), ["one", "two"]);
    }
}
