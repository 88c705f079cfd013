//! Writes changes, strikes and log positions within a transaction.

use ipnet::IpNet;
use rusqlite::{Transaction, params};

use super::load::find_bans;
use super::rows::{NameCache, REMOVED, blob, stored, stored_end};
use super::{StoredStrikes, WriteItem};
use crate::client::Client;
use crate::engine::{BanRecord, Change};
use crate::event::Scope;
use crate::log::follow::Position;
use crate::time::Time;

/// Writes `item`, marking rows of bans with `writer`. The earlier bans of a client are written with its ban if `earlier_bans` is set.
pub(super) fn write(transaction: &Transaction<'_>, item: &WriteItem, writer: i64, earlier_bans: bool) -> rusqlite::Result<()> {
    match item {
        WriteItem::Change(Change::Banned(ban)) => {
            transaction
                .prepare_cached("DELETE FROM strike WHERE client = ? AND rule = ?")?
                .execute(params![blob(ban.client), &*ban.rule])?;
            if earlier_bans {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO history (client, rule, times, last) VALUES (?, ?, ?, ?)")?
                    .execute(params![blob(ban.client), &*ban.rule, ban.times, stored(ban.since)])?;
            }
            write_ban(transaction, ban, writer)
        }
        WriteItem::Change(Change::Unbanned { client, scope, at }) => unban(transaction, *client, *scope, writer, *at),
        WriteItem::Change(Change::NetworkBanned { network, since, until, reason }) => {
            write_network(transaction, *network, *since, until.time().map(stored_end), reason.as_str(), writer)
        }
        WriteItem::Change(Change::NetworkUnbanned { network, at }) => write_network(transaction, *network, *at, Some(REMOVED), "", writer),
        WriteItem::Change(Change::RuleLifted(rule)) => {
            transaction.execute("DELETE FROM evidence WHERE ban IN (SELECT id FROM ban WHERE rule = ?)", [&**rule])?;
            transaction.execute("DELETE FROM ban WHERE rule = ?", [&**rule]).map(drop)
        }
        WriteItem::Change(Change::Paused(pause)) => {
            transaction.execute("DELETE FROM pause", [])?;
            transaction.execute("INSERT INTO pause (since, until) VALUES (?, ?)", [stored(pause.since), stored(pause.until)]).map(drop)
        }
        WriteItem::Change(Change::Resumed) => transaction.execute("DELETE FROM pause", []).map(drop),
        WriteItem::Position(path, position) => write_position(transaction, path, position),
    }
}

/// Writes strikes, each in place of an earlier row of its client and rule.
pub(super) fn write_strikes(transaction: &Transaction<'_>, strikes: &[StoredStrikes]) -> rusqlite::Result<()> {
    let mut statement =
        transaction.prepare_cached("INSERT OR REPLACE INTO strike (client, rule, first, last, count, until) VALUES (?, ?, ?, ?, ?, ?)")?;
    for StoredStrikes { client, rule, counter, until } in strikes {
        let (first, last) = (stored(counter.first()), stored(counter.last()));
        statement.execute(params![blob(*client), &**rule, first, last, counter.count(), stored(*until)])?;
    }
    Ok(())
}

/// Of two bans of one client and scope, the one that ends later stays, as in the table, whichever process wrote it.
fn write_ban(transaction: &Transaction<'_>, ban: &BanRecord, writer: i64) -> rusqlite::Result<()> {
    let client = blob(ban.client);
    let until = ban.until.time().map(stored_end);
    let mut earlier = transaction.prepare_cached("SELECT id, until FROM ban WHERE client = ? AND scope = ?")?;
    let mut rows = earlier.query(params![client, ban.scope.as_str()])?;
    if let Some(row) = rows.next()? {
        let active: Option<i64> = row.get(1)?;
        if active.unwrap_or(i64::MAX) >= until.unwrap_or(i64::MAX) {
            return Ok(());
        }
        transaction.prepare_cached("DELETE FROM evidence WHERE ban = ?")?.execute([row.get::<_, i64>(0)?])?;
    }
    drop(rows);
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO ban (client, scope, rule, first, since, until, count, times, node, writer)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            client,
            ban.scope.as_str(),
            &*ban.rule,
            stored(ban.first),
            stored(ban.since),
            until,
            ban.count,
            ban.times,
            &*ban.node,
            writer
        ])?;
    if !ban.evidence.as_str().is_empty() {
        let id = transaction.last_insert_rowid();
        transaction
            .prepare_cached("INSERT OR REPLACE INTO evidence (ban, text) VALUES (?, ?)")?
            .execute(params![id, ban.evidence.as_str()])?;
    }
    Ok(())
}

/// Removes the bans on the services of `scope`, and the earlier bans. A ban on all services that is removed on one stays on the other.
fn unban(transaction: &Transaction<'_>, client: Client, scope: Scope, writer: i64, at: Time) -> rusqlite::Result<()> {
    let other = match scope {
        Scope::Web => Some(Scope::Mail),
        Scope::Mail => Some(Scope::Web),
        Scope::All => None,
    };
    if let Some(other) = other {
        let everywhere = find_bans(transaction, &mut NameCache::default(), client, at)?.into_iter().find(|ban| ban.scope == Scope::All);
        if let Some(mut ban) = everywhere {
            ban.scope = other;
            write_ban(transaction, &ban, writer)?;
        }
    }
    transaction.prepare_cached("DELETE FROM history WHERE client = ?")?.execute([blob(client)])?;
    const REMOVED_BANS: &str = "client = ?1 AND (scope IN (?2, 'all') OR ?2 = 'all')";
    let key = params![blob(client), scope.as_str()];
    transaction.prepare_cached(&format!("DELETE FROM evidence WHERE ban IN (SELECT id FROM ban WHERE {REMOVED_BANS})"))?.execute(key)?;
    transaction.prepare_cached(&format!("DELETE FROM ban WHERE {REMOVED_BANS}"))?.execute(key)?;
    transaction
        .prepare_cached(
            "INSERT INTO ban (client, scope, rule, first, since, until, count, times, node, writer)
             VALUES (?1, ?2, '', ?3, ?3, ?4, 0, 0, '', ?5)",
        )?
        .execute(params![blob(client), scope.as_str(), stored(at), REMOVED, writer])
        .map(drop)
}

fn write_network(
    transaction: &Transaction<'_>,
    network: IpNet,
    since: Time,
    until: Option<i64>,
    reason: &str,
    writer: i64,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO network (net, since, until, reason, writer) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![network.to_string(), stored(since), until, reason, writer])
        .map(drop)
}

fn write_position(transaction: &Transaction<'_>, path: &str, position: &Position) -> rusqlite::Result<()> {
    // Serialising a struct of numbers cannot fail. If it did, the log would be read from an older position.
    let Ok(text) = serde_json::to_string(position) else { return Ok(()) };
    transaction.prepare_cached("INSERT OR REPLACE INTO position (path, position) VALUES (?, ?)")?.execute([path, &text]).map(drop)
}
