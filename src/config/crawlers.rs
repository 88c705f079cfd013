//! `[defaults] verified_crawlers`: crawlers whose ordinary behaviour does not count.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::text::ConfigText;
use crate::crawler::known::{KNOWN, crawler, find};
use crate::crawler::{Crawler, Crawlers};
use crate::list::file::ListedOrigin;
use crate::list::{self, Networks};
use crate::rule_id::did_you_mean;

/// Maximum length of a crawler's name.
const MAX_NAME: usize = 64;

/// A crawler as written.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a name such as \"googlebot\", or { name = \"googlebot\", file = \"/path/googlebot.json\" }")]
pub enum CrawlerSpec {
    /// A known crawler, which its publisher's domain verifies.
    Known(String),
    /// Any crawler, which a file of networks verifies.
    Listed(ListedCrawler),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedCrawler {
    name: String,
    file: PathBuf,
}

impl CrawlerSpec {
    /// The file of its networks.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Known(_) => None,
            Self::Listed(listed) => Some(&listed.file),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Known(name) | Self::Listed(ListedCrawler { name, .. }) => name,
        }
    }
}

/// Checks the crawlers, and reads the files that they name.
///
/// # Errors
/// A name that is not known and has no file, a second crawler of the name, or a file that cannot be used.
pub fn check(entries: &[Spanned<CrawlerSpec>], text: &ConfigText) -> Result<Crawlers, ConfigError> {
    let mut all: Vec<Crawler> = Vec::new();
    for entry in entries {
        let (spec, at) = (entry.get_ref(), entry.span().start);
        let name = spec.name();
        let is_name =
            (3..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_name {
            let message =
                format!("found the crawler {name:?}, expected 3 to {MAX_NAME} characters of [a-z0-9-], which its User-Agent holds");
            return Err(text.error_at(at, message));
        }
        if all.iter().any(|earlier| &*earlier.name == name) {
            return Err(text.error_at(at, format!("found a second crawler {name:?}, expected each name once")));
        }
        let networks = match spec.file() {
            Some(file) => networks(file, at, text)?,
            None if find(name).is_some_and(|known| !known.domains.is_empty()) => Networks::default(),
            None if find(name).is_some() => {
                let message = format!(
                    "found {name:?} without a file, expected {{ name = {name:?}, file = \"/path\" }}: its publisher gives networks and no names"
                );
                return Err(text.error_at(at, message));
            }
            None => {
                let names = || KNOWN.iter().map(|known| known.name);
                let hint = did_you_mean(name, names());
                let known = names().collect::<Vec<_>>().join(", ");
                let message =
                    format!("found the crawler {name:?}, expected one of {known}, or {{ name = {name:?}, file = \"/path\" }}{hint}");
                return Err(text.error_at(at, message));
            }
        };
        all.push(crawler(name, networks));
    }
    Crawlers::new(all).map_err(|message| text.error(message))
}

fn networks(file: &Path, at: usize, text: &ConfigText) -> Result<Networks, ConfigError> {
    if !file.is_absolute() {
        return Err(text.error_at(at, format!("found file = {file:?}, expected the absolute path of a list")));
    }
    let list = list::file::read(file).map_err(|error| match error.line() {
        Some(line) => ConfigError { file: file.into(), line: Some(line), message: error.to_string() },
        None => text.error_at(at, format!("{}: {error}", file.display())),
    })?;
    if let Some(ListedOrigin { line, entry }) = list.origins.first() {
        let message = format!("found {entry} in a crawler's list, expected networks");
        return Err(ConfigError { file: file.into(), line: Some(*line), message });
    }
    list::guard::check(&list.networks).map_err(|too_wide| ConfigError { file: file.into(), line: None, message: too_wide.to_string() })?;
    Ok(Networks::new(list.networks))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::rule_id::RuleNames;
    use std::path::Path;

    fn parse(value: &str) -> Result<Config, String> {
        let text = format!("[defaults]\nverified_crawlers = {value}\n");
        Config::parse(text.as_bytes(), Path::new("/x.toml"), &RuleNames::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_crawler_is_known_or_has_a_file_of_its_networks() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bot.json");
        std::fs::write(&file, "{\"prefixes\": [{\"ipv4Prefix\": \"198.51.100.0/24\"}]}").unwrap();
        let config = parse(&format!("['googlebot', {{ name = 'duckduckbot', file = {file:?} }}, {{ name = 'my-bot', file = {file:?} }}]"));
        let config = config.unwrap();
        let names: Vec<String> = config.crawlers.iter().map(|crawler| crawler.name.to_string()).collect();
        assert_eq!(names, ["googlebot", "duckduckbot", "my-bot"]);
        assert!(config.crawlers.claimed_by(b"My-Bot/1.0").unwrap().lists("198.51.100.7".parse().unwrap()));
        assert_eq!(config.list_files, [file.clone(), file]);
    }

    #[test]
    fn what_cannot_verify_anybody_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (bad, wide) = (folder.path().join("bad"), folder.path().join("wide"));
        std::fs::write(&bad, "192.0.2.1\nhost.example\n").unwrap();
        std::fs::write(&wide, "0.0.0.0/0\n").unwrap();
        for (value, expected) in [
            ("['gogglebot']".to_owned(), "/x.toml:2: found the crawler \"gogglebot\", expected one of googlebot, bingbot, "),
            ("['duckduckbot']".to_owned(), "/x.toml:2: found \"duckduckbot\" without a file, expected { name"),
            ("['bingbot', 'bingbot']".to_owned(), "/x.toml:2: found a second crawler \"bingbot\""),
            ("['Googlebot']".to_owned(), "/x.toml:2: found the crawler \"Googlebot\", expected 3 to 64 characters"),
            ("[{ name = 'x-bot', file = 'y' }]".to_owned(), "/x.toml:2: found file = \"y\", expected the absolute path"),
            (format!("[{{ name = 'x-bot', file = {bad:?} }}]"), "bad:2: found \"host.example\", expected an IP address"),
            (format!("[{{ name = 'x-bot', file = {wide:?} }}]"), "wide: "),
            ("[7]".to_owned(), "/x.toml:2: "),
        ] {
            let error = parse(&value).unwrap_err();
            assert!(error.contains(expected), "{value}: {error}");
        }
    }
}
