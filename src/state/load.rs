//! Queries of the state file: everything at start, what other processes wrote since, and the bans of one client.

use crate::geo::Network;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Loaded;
use super::rows::{self, BAN_COLUMNS, HISTORY_COLUMNS, NETWORK_COLUMNS, NameCache, STRIKE_COLUMNS, blob, stored};
use crate::client::Client;
use crate::engine::{BanRecord, Change};
use crate::policy::Pause;
use crate::rule::Evidence;
use crate::time::Time;

/// Page size when reading bans of other processes.
const PAGE_ROWS: i64 = 1000;

/// How far a process has read the file: the greatest IDs that it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    ban: i64,
    network: i64,
}

impl Cursor {
    /// Behind every row that the file has ever held.
    pub(super) fn end(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare_cached("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?")?;
        let mut last = |table: &str| statement.query_row([table], |row| row.get(0));
        Ok(Self { ban: last("ban")?, network: last("network")? })
    }
}

/// Passes everything that is valid at `now` to `sink`.
pub(super) fn load(connection: &Connection, names: &mut NameCache, now: Time, sink: &mut dyn FnMut(Loaded)) -> rusqlite::Result<Cursor> {
    // One read transaction: all tables are seen at the same moment.
    let snapshot = connection.unchecked_transaction()?;
    let cursor = Cursor::end(&snapshot)?;
    let mut statement = snapshot.prepare(&format!("SELECT {BAN_COLUMNS} FROM ban WHERE until IS NULL OR until > ?"))?;
    let mut rows = statement.query([stored(now)])?;
    while let Some(row) = rows.next()? {
        if let Some(ban) = rows::ban(row, names, now)? {
            sink(Loaded::Change(Change::Banned(ban)));
        }
    }
    let mut statement =
        snapshot.prepare(&format!("SELECT {} FROM network WHERE until IS NULL OR until > ?", rows::network_columns(&snapshot)?))?;
    let mut rows = statement.query([stored(now)])?;
    while let Some(row) = rows.next()? {
        if let Some(change) = rows::network_change(row, names, now)? {
            sink(Loaded::Change(change));
        }
    }
    let mut statement = snapshot.prepare(&format!("SELECT {STRIKE_COLUMNS} FROM strike WHERE until > ?"))?;
    let mut rows = statement.query([stored(now)])?;
    while let Some(row) = rows.next()? {
        sink(Loaded::Strikes(rows::strikes(row, names, now)?));
    }
    let mut statement = snapshot.prepare(&format!("SELECT {HISTORY_COLUMNS} FROM history"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (client, rule, earlier) = rows::earlier_bans(row, names, now)?;
        sink(Loaded::EarlierBans { client, rule, earlier });
    }
    if let Some(pause) = pause(&snapshot)? {
        sink(Loaded::Change(Change::Paused(pause)));
    }
    let mut statement = snapshot.prepare("SELECT path, position FROM position")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        // A position that cannot be parsed is ignored: the log is then read as if it had none.
        if let Ok(position) = serde_json::from_str(row.get_ref(1)?.as_str()?) {
            sink(Loaded::Position { path: row.get(0)?, position });
        }
    }
    Ok(cursor)
}

/// The operator's pause. A file on a disk that takes no writes may lack the table, or who paused.
fn pause(connection: &Connection) -> rusqlite::Result<Option<Pause>> {
    if !connection.table_exists(None, "pause")? {
        return Ok(None);
    }
    let user = if connection.column_exists(None, "pause", "user")? { "user" } else { "''" };
    let pause = |row: &rusqlite::Row<'_>| {
        Ok(Pause { since: rows::time(row, 0)?, until: rows::time(row, 1)?, by: row.get_ref(2)?.as_str()?.into() })
    };
    connection.query_row(&format!("SELECT since, until, {user} FROM pause"), [], pause).optional()
}

/// The changes after `cursor` that were made by a writer other than `own`. Advances the cursor.
pub(super) fn changes_since(
    snapshot: &Connection,
    cursor: &mut Cursor,
    own: i64,
    names: &mut NameCache,
    now: Time,
) -> rusqlite::Result<Vec<Change>> {
    let mut changes = Vec::new();
    let mut bans = snapshot.prepare_cached(&format!("SELECT {BAN_COLUMNS} FROM ban WHERE id > ? ORDER BY id LIMIT ?"))?;
    loop {
        let mut found = 0;
        let mut rows = bans.query([cursor.ban, PAGE_ROWS])?;
        while let Some(row) = rows.next()? {
            found += 1;
            cursor.ban = row.get("id")?;
            if row.get::<_, i64>("writer")? != own {
                changes.extend(rows::ban_change(row, names, now)?);
            }
        }
        if found < PAGE_ROWS {
            break;
        }
    }
    let mut networks = snapshot.prepare_cached(&format!("SELECT {NETWORK_COLUMNS} FROM network WHERE id > ? ORDER BY id"))?;
    let mut rows = networks.query([cursor.network])?;
    while let Some(row) = rows.next()? {
        cursor.network = row.get("id")?;
        if row.get::<_, i64>("writer")? != own {
            changes.extend(rows::network_change(row, names, now)?);
        }
    }
    Ok(changes)
}

/// The active bans of `client` with their evidence, the oldest first.
pub(super) fn find_bans(connection: &Connection, names: &mut NameCache, client: Client, now: Time) -> rusqlite::Result<Vec<BanRecord>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {BAN_COLUMNS}, (SELECT text FROM evidence WHERE ban = ban.id) AS text FROM ban
         WHERE client = ? AND (until IS NULL OR until > ?) ORDER BY id"
    ))?;
    let mut rows = statement.query(params![blob(client), stored(now)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(mut ban) = rows::ban(row, names, now)? {
            ban.evidence = rows::evidence(row, "text")?;
            found.push(ban);
        }
    }
    Ok(found)
}

/// The operator's reason for the ban of `network`, unless it was removed.
pub(super) fn network_ban_reason(connection: &Connection, network: Network) -> rusqlite::Result<Option<Evidence>> {
    let mut statement = connection.prepare_cached("SELECT reason FROM network WHERE net = ? AND (until IS NULL OR until > 0)")?;
    statement.query_row([network.to_string()], |row| rows::evidence(row, "reason")).optional()
}
