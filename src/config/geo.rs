//! `[geo]`: the databases that say which provider and which country an address belongs to.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::text::ConfigText;
use crate::geo::GeoKind;
use crate::geo::watch::GeoFiles;
use crate::rule::spec::RuleSpec;
use crate::rule::{CountBy, RuleSet};

/// The `[geo]` section as written.
#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct GeoSection {
    asn: Option<Spanned<PathBuf>>,
    country: Option<Spanned<PathBuf>>,
}

impl GeoSection {
    /// The files. They are read by the daemon alone, and one that cannot be is no fault of the configuration.
    ///
    /// # Errors
    /// A path is not absolute.
    pub fn files(&self, text: &ConfigText) -> Result<GeoFiles, ConfigError> {
        let file = |key: &str, path: &Option<Spanned<PathBuf>>| match path {
            Some(path) if !path.get_ref().is_absolute() => {
                let message = format!("found {key} = {:?}, expected the absolute path of a database", path.get_ref());
                Err(text.error_at(path.span().start, message))
            }
            path => Ok(path.as_ref().map(|path| path.get_ref().clone())),
        };
        Ok(GeoFiles { asn: file("asn", &self.asn)?, country: file("country", &self.country)? })
    }
}

/// Checks that there is a database for each rule of the file that needs one: without it the rule would match nobody.
///
/// # Errors
/// The first rule without.
pub fn check_rules(rules: &[RuleSpec], files: &GeoFiles, text: &ConfigText) -> Result<(), ConfigError> {
    for rule in rules.iter().filter(|rule| rule.enabled != Some(false)) {
        let [asn, country] = rule.needs_geo();
        check(asn, GeoKind::Asn, files, text)?;
        check(country, GeoKind::Country, files, text)?;
    }
    Ok(())
}

/// Checks that there is a database for the rules of the file, each with its place, that count autonomous systems, also if it is the built-in
/// rule of that name that says so.
///
/// # Errors
/// The first rule without.
pub fn check_counting(named: &[(String, usize)], rules: &RuleSet, files: &GeoFiles, text: &ConfigText) -> Result<(), ConfigError> {
    let counts = |name: &str| rules.by_name(name).is_some_and(|rule| rule.count_by == CountBy::Asn);
    let found = named.iter().find(|(name, _)| counts(name));
    check(found.map(|(_, offset)| (*offset, "count_by = \"asn\"")), GeoKind::Asn, files, text)
}

/// Checks that there is a database of this kind for the value at an offset, which has a name.
///
/// # Errors
/// There is none.
pub fn check(needed: Option<(usize, &str)>, kind: GeoKind, files: &GeoFiles, text: &ConfigText) -> Result<(), ConfigError> {
    let found = needed.and_then(|(offset, what)| Some((offset, missing(what, kind, files)?)));
    found.map_or(Ok(()), |(offset, message)| Err(text.error_at(offset, message)))
}

/// Why `what` cannot be used, if there is no database of this kind.
pub fn missing(what: &str, kind: GeoKind, files: &GeoFiles) -> Option<String> {
    let file = match kind {
        GeoKind::Asn => &files.asn,
        GeoKind::Country => &files.country,
    };
    file.is_none().then(|| format!("found {what} without a database, expected {} in [geo] as well", kind.as_str()))
}
