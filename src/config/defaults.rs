//! `[defaults]`: values for rules that set none of their own, and the lists of networks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::crawlers::CrawlerSpec;
use super::text::ConfigText;
use crate::geo::OriginEntry;
use crate::geo::watch::GeoFiles;
use crate::list;
use crate::list::file::ListedOrigin;
use crate::list::{HostName, ListSource, Lists, MAX_HOSTS};
use crate::policy::DEFAULT_FALSE_BAN_SHARE;
use crate::rule::BantimeSpec;
use crate::rule::builtin::FAMILIES;
use crate::rule::spec::RuleDefaults;
use crate::rule_id::did_you_mean;
use crate::time::Span;

/// The `[defaults]` section as written.
#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct DefaultsSection {
    maxretry: Option<Spanned<u32>>,
    findtime: Option<Spanned<Span>>,
    bantime: Option<BantimeSpec>,
    ignoreip: Vec<Spanned<String>>,
    trusted_proxies: Vec<Spanned<String>>,
    deny: Vec<Spanned<String>>,
    pub(super) verified_crawlers: Vec<Spanned<CrawlerSpec>>,
    false_ban_share: Option<Spanned<f64>>,
    families: Option<Vec<Spanned<String>>>,
}

impl DefaultsSection {
    /// The values for rules that set none of their own.
    ///
    /// # Errors
    /// `maxretry` is 0.
    pub fn rule_defaults(&self, text: &ConfigText) -> Result<RuleDefaults, ConfigError> {
        let mut defaults = RuleDefaults::default();
        if let Some(maxretry) = &self.maxretry {
            if *maxretry.get_ref() == 0 {
                return Err(text.error_at(maxretry.span().start, "found maxretry = 0, expected 1 or more"));
            }
            defaults.maxretry = *maxretry.get_ref();
        }
        if let Some(findtime) = &self.findtime {
            defaults.findtime = *findtime.get_ref();
        }
        if let Some(bantime) = &self.bantime {
            defaults.bantime = bantime.clone();
        }
        Ok(defaults)
    }

    /// The families of built-in rules in force; none for all.
    ///
    /// # Errors
    /// There is no such family.
    pub fn families(&self, text: &ConfigText) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(families) = &self.families else { return Ok(None) };
        let known = FAMILIES.map(|(name, _)| name);
        if let Some(unknown) = families.iter().find(|family| !known.contains(&family.get_ref().as_str())) {
            let hint = did_you_mean(unknown.get_ref(), known.into_iter());
            let message = format!("found the family {:?}, expected one of {}{hint}", unknown.get_ref(), known.join(", "));
            return Err(text.error_at(unknown.span().start, message));
        }
        Ok(Some(families.iter().map(|family| family.get_ref().clone()).collect()))
    }

    /// The share of false bans above which a rule is warned about.
    ///
    /// # Errors
    /// The share is not between 0 and 1.
    pub fn false_ban_share(&self, text: &ConfigText) -> Result<f64, ConfigError> {
        match &self.false_ban_share {
            Some(share) if !(0.0..=1.0).contains(share.get_ref()) => {
                Err(text.error_at(share.span().start, format!("found false_ban_share = {}, expected 0 to 1", share.get_ref())))
            }
            Some(share) => Ok(*share.get_ref()),
            None => Ok(DEFAULT_FALSE_BAN_SHARE),
        }
    }

    /// The files of networks that the lists name.
    pub fn list_files(&self) -> Vec<PathBuf> {
        let entries = [&self.ignoreip, &self.trusted_proxies, &self.deny].into_iter().flatten();
        let listed = entries.filter_map(|entry| list::file::path_of(entry.get_ref()));
        let published = self.verified_crawlers.iter().filter_map(|crawler| crawler.get_ref().file());
        listed.chain(published).map(PathBuf::from).collect()
    }

    /// The lists of networks. Files that they name are read from disk.
    ///
    /// # Errors
    /// An entry that is no network, a list that cannot be read, or an autonomous system or country without a database.
    pub fn lists(&self, geo: &GeoFiles, text: &ConfigText) -> Result<Lists, ConfigError> {
        let mut lists = Lists::default();
        let (hosts, networks) = self.ignoreip.iter().cloned().partition::<Vec<_>, _>(|entry| HostName::parse(entry.get_ref()).is_some());
        let mut ignored = networks_of(&networks, "ignoreip", text)?;
        ignored.extend(host_sources(&hosts, text)?);
        lists.set_ignoreip(ignored);
        lists.set_trusted_proxies(networks_of(&self.trusted_proxies, "trusted_proxies", text)?);
        let origin = |entry: &&Spanned<String>| entry.get_ref().parse::<OriginEntry>().ok();
        let (denied, listed) = sources(self.deny.iter().filter(|entry| origin(entry).is_none()), "deny", text)?;
        let mut origins: Vec<(OriginEntry, Arc<str>)> = Vec::new();
        for entry in &self.deny {
            let Some(found) = origin(&entry) else { continue };
            let at = entry.span().start;
            super::geo::check(Some((at, &format!("{} in deny", entry.get_ref()))), found.kind(), geo, text)?;
            origins.push((found, format!("deny in {}", text.file_at(at).display()).into()));
        }
        for (file, ListedOrigin { line, entry }) in listed {
            if let Some(message) = super::geo::missing(&entry.to_string(), entry.kind(), geo) {
                return Err(ConfigError { file: file.into(), line: Some(line), message });
            }
            origins.push((entry, file.display().to_string().into()));
        }
        lists.set_deny(denied);
        lists.set_denied_origins(origins.into_iter().collect());
        Ok(lists)
    }
}

/// Reads a list option that takes networks alone.
///
/// # Errors
/// As [`sources`], and an autonomous system or country in a file.
fn networks_of(entries: &[Spanned<String>], option: &str, text: &ConfigText) -> Result<Vec<ListSource>, ConfigError> {
    let (sources, origins) = sources(entries, option, text)?;
    match origins.first() {
        None => Ok(sources),
        Some((file, ListedOrigin { line, entry })) => {
            let message = format!("found {entry} in a list of {option}, expected networks: systems and countries stand in deny alone");
            Err(ConfigError { file: (*file).into(), line: Some(*line), message })
        }
    }
}

/// The host names of `ignoreip`, each where it stands first.
fn host_sources(entries: &[Spanned<String>], text: &ConfigText) -> Result<Vec<ListSource>, ConfigError> {
    let mut hosts: Vec<ListSource> = Vec::new();
    for entry in entries {
        let Some(name) = HostName::parse(entry.get_ref()) else { continue };
        if hosts.iter().any(|host| host.host() == Some(&name)) {
            continue;
        }
        if hosts.len() == MAX_HOSTS {
            let message = format!(
                "found more than {MAX_HOSTS} host names in ignoreip, expected {MAX_HOSTS} at most, because each is looked up every minute"
            );
            return Err(text.error_at(entry.span().start, message));
        }
        hosts.push(ListSource::of_host(name, &format!("ignoreip in {}", text.file_at(entry.span().start).display())));
    }
    Ok(hosts)
}

/// An entry of a list file that is no network, and that file.
type InFile<'s> = (&'s Path, ListedOrigin);

/// Reads one list option: addresses, networks, and files of them, named by an absolute path. What stands in files and is no network comes
/// besides.
fn sources<'s>(
    entries: impl IntoIterator<Item = &'s Spanned<String>>,
    option: &str,
    text: &ConfigText,
) -> Result<(Vec<ListSource>, Vec<InFile<'s>>), ConfigError> {
    // By the file that holds them, in its order.
    let mut inline: Vec<(&Path, Vec<IpNet>)> = Vec::new();
    let (mut sources, mut origins) = (Vec::new(), Vec::new());
    for entry in entries {
        let value = entry.get_ref();
        if let Some(path) = list::file::path_of(value) {
            let file = list::file::read(path).map_err(|error| match error.line() {
                Some(line) => ConfigError { file: path.into(), line: Some(line), message: error.to_string() },
                None => text.error_at(entry.span().start, format!("{}: {error}", path.display())),
            })?;
            check_width(&file.networks, option).map_err(|message| ConfigError { file: path.into(), line: None, message })?;
            origins.extend(file.origins.iter().map(|origin| (path, *origin)));
            sources.push(ListSource::of_file(path, file));
        } else {
            let found = list::file::parse_network(value).map(|network| vec![network]);
            let found = found.or_else(|_| list::file::parse_range(value).map(Iterator::collect)).map_err(|_| {
                text.error_at(
                    entry.span().start,
                    format!(
                        "found {value:?} in {option}, expected an IP address, a network such as 192.0.2.0/24, a range such as \
                         192.0.2.7-192.0.2.19 or the absolute path of a list{}",
                        match option {
                            "ignoreip" => ", or a host name with a dot such as home.example.net",
                            "deny" => ", a system such as AS64496 or a country such as country:XX; host names stand in ignoreip alone",
                            _ => "; host names stand in ignoreip alone",
                        }
                    ),
                )
            })?;
            check_width(&found, option).map_err(|message| text.error_at(entry.span().start, message))?;
            let file = text.file_at(entry.span().start);
            match inline.last_mut() {
                Some((last, networks)) if *last == file => networks.extend(found),
                _ => inline.push((file, found)),
            }
        }
    }
    sources.extend(inline.into_iter().map(|(file, networks)| ListSource::new(&format!("{option} in {}", file.display()), networks)));
    Ok((sources, origins))
}

/// Checks that a deny list does not refuse everybody.
///
/// # Errors
/// The network that would.
fn check_width(networks: &[IpNet], option: &str) -> Result<(), String> {
    if option != "deny" {
        return Ok(());
    }
    list::guard::check(networks).map_err(|too_wide| too_wide.to_string())
}
