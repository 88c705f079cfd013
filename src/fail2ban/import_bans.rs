//! Reads the bans in fail2ban's database, for `strikeout import fail2ban --bans`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rusqlite::{Connection, OpenFlags};

use super::import::{RuleNamer, scope};
use super::ini::{IniConfig, Options, with_additions};
use super::jail::Jails;
use crate::list::file::parse_network;

/// Where Debian's fail2ban keeps its database.
const DEFAULT_FILE: &str = "/var/lib/fail2ban/fail2ban.sqlite3";

/// A ban of fail2ban's that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fail2banBan {
    /// An address or a network.
    pub client: String,
    /// The rule that the jail becomes.
    pub rule: String,
    /// Where that rule's bans refuse: `web`, `mail` or `all`.
    pub scope: &'static str,
    /// When it began, in seconds since 1970.
    pub since: i64,
    /// When it ends, in seconds since 1970; -1 if never.
    pub until: i64,
}

/// The bans that have not ended at `now`, in seconds since 1970, by the rules that [`super::import::import`] makes of their jails.
///
/// # Errors
/// The folder cannot be read as fail2ban's configuration, or the database cannot be read.
pub fn bans(folder: &Path, now: i64) -> anyhow::Result<Vec<Fail2banBan>> {
    let jails = Jails::read(folder)?;
    let mut namer = RuleNamer::default();
    let mut rules: Vec<(String, String, &'static str)> = Vec::new();
    // In the order in which the import names them.
    for name in jails.names() {
        if jails.is_enabled(name)? {
            let ports = jails.jail(name).ok().and_then(|jail| jail.options.get("port").cloned()).unwrap_or_default();
            rules.push((name.to_owned(), namer.name(name), scope(&ports)));
        }
    }
    let file = database(folder);
    let in_file = || format!("{}", file.display());
    let connection =
        Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX).with_context(in_file)?;
    // The bans in force, one for each client and jail (fail2ban's database.py, since version 0.11).
    let mut statement = connection.prepare("SELECT ip, jail, timeofban, bantime FROM bips").with_context(in_file)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).with_context(in_file)?;
    let mut bans = Vec::new();
    for row in rows {
        let (ip, jail, since, bantime): (String, String, i64, i64) = row.with_context(in_file)?;
        let until = if bantime < 0 { -1 } else { since.saturating_add(bantime) };
        let Some((_, rule, scope)) = rules.iter().find(|(name, ..)| *name == jail) else { continue };
        if parse_network(&ip).is_ok() && (until < 0 || until > now) {
            bans.push(Fail2banBan { client: ip, rule: rule.clone(), scope, since, until });
        }
    }
    bans.sort_by(|one, other| (&one.client, &one.rule).cmp(&(&other.client, &other.rule)));
    Ok(bans)
}

/// The database that fail2ban.conf names.
fn database(folder: &Path) -> PathBuf {
    let config = IniConfig::read(&with_additions(&folder.join("fail2ban"))).unwrap_or_default();
    let in_section = |section| config.get(section, "dbfile", &Options::new()).ok().flatten();
    in_section("DEFAULT").or_else(|| in_section("Definition")).map_or_else(|| DEFAULT_FILE.into(), PathBuf::from)
}
