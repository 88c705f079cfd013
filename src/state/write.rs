//! Writes changes, strikes and log positions within a transaction.

use rusqlite::types::Value;
use rusqlite::{Transaction, params};

use super::load::find_bans;
use super::rows::{NameCache, REMOVED, blob, stored, stored_end};
use super::{StoredStrikes, WriteItem};
use crate::client::{Client, Ipv6Prefix};
use crate::engine::{BanRecord, Change, Forgotten, NetworkRecord};
use crate::event::Scope;
use crate::log::follow::Position;
use crate::rule::Evidence;
use crate::table::Until;
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
        WriteItem::Change(Change::Unbanned { client, scope, at, kept, .. }) => {
            forget(transaction, &Forgotten { network: Some(client.address().into()), kept: kept.clone(), ..Forgotten::default() })?;
            unban(transaction, *client, *scope, writer, *at)
        }
        WriteItem::Change(Change::Forgotten(forgotten)) => forget(transaction, forgotten),
        WriteItem::Change(Change::NetworkBanned(record)) => write_network(transaction, record, record.until.time().map(stored_end), writer),
        WriteItem::Change(Change::NetworkUnbanned { network, at, .. } | Change::NetworkEvicted { network, at }) => {
            let record = NetworkRecord::manual(*network, *at, Until::NEVER, Evidence::new(&[]));
            write_network(transaction, &record, Some(REMOVED), writer)
        }
        WriteItem::Change(Change::RuleLifted { rule, .. }) => {
            transaction.execute("DELETE FROM evidence WHERE ban IN (SELECT id FROM ban WHERE rule = ?)", [&**rule])?;
            transaction.execute("DELETE FROM ban WHERE rule = ?", [&**rule]).map(drop)
        }
        WriteItem::Change(Change::Paused(pause)) => {
            transaction.execute("DELETE FROM pause", [])?;
            let values = params![stored(pause.since), stored(pause.until), &*pause.by];
            transaction.execute("INSERT INTO pause (since, until, user) VALUES (?, ?, ?)", values).map(drop)
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
    let evidence = ban.evidence.to_saved();
    if !evidence.is_empty() {
        let id = transaction.last_insert_rowid();
        transaction.prepare_cached("INSERT OR REPLACE INTO evidence (ban, text) VALUES (?, ?)")?.execute(params![id, evidence])?;
    }
    Ok(())
}

/// Removes the bans on the services of `scope`. A ban on all services that is removed on one stays on the other.
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

/// Removes earlier bans.
fn forget(transaction: &Transaction<'_>, forgotten: &Forgotten) -> rusqlite::Result<()> {
    let Forgotten { rule, network, kept } = forgotten;
    let (mut conditions, mut values) = (Vec::new(), Vec::new());
    if !kept.is_empty() {
        conditions.push(format!("rule NOT IN ({})", vec!["?"; kept.len()].join(", ")));
        values.extend(kept.iter().map(|name| Value::Text(name.to_string())));
    }
    if let Some(rule) = rule {
        conditions.push("rule = ?".to_owned());
        values.push(Value::Text(rule.to_string()));
    }
    if let Some(network) = network {
        conditions.push("client BETWEEN ? AND ?".to_owned());
        // A client is stored in the form that maps IPv4 into IPv6, and sorts as its address does.
        let whole = Ipv6Prefix::new(128).unwrap_or_default();
        values.extend([network.network(), network.broadcast()].map(|address| Value::Blob(blob(Client::of(address, whole)).into())));
    }
    let which = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let statement = format!("DELETE FROM history{which}");
    transaction.prepare_cached(&statement)?.execute(rusqlite::params_from_iter(values)).map(drop)
}

fn write_network(transaction: &Transaction<'_>, record: &NetworkRecord, until: Option<i64>, writer: i64) -> rusqlite::Result<()> {
    let NetworkRecord { network, scope, rule, since, members, reason, .. } = record;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO network (net, since, until, reason, writer, rule, scope, members) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![network.to_string(), stored(*since), until, reason.to_saved(), writer, &**rule, scope.as_str(), members])
        .map(drop)
}

fn write_position(transaction: &Transaction<'_>, path: &str, position: &Position) -> rusqlite::Result<()> {
    // Serialising a struct of numbers cannot fail. If it did, the log would be read from an older position.
    let Ok(text) = serde_json::to_string(position) else { return Ok(()) };
    transaction.prepare_cached("INSERT OR REPLACE INTO position (path, position) VALUES (?, ?)")?.execute([path, &text]).map(drop)
}
