//! Converts rows of the state file to values, and values to columns.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use ahash::RandomState;
use rusqlite::{Connection, Row};

use super::StoredStrikes;
use crate::client::Client;
use crate::engine::{BanRecord, Change, EarlierBans, NetworkRecord, Reach};
use crate::event::Scope;
use crate::geo::Network;
use crate::list::file::parse_target;
use crate::rule::Evidence;
use crate::table::{Counter, Until};
use crate::time::Time;

/// The columns that [`ban`] reads, in its order.
pub(super) const BAN_COLUMNS: &str = "id, client, scope, rule, first, since, until, count, times, node, writer";

/// The columns that [`network_change`] reads, in its order.
pub(super) const NETWORK_COLUMNS: &str = "id, net, since, until, reason, writer, rule, scope, members";

/// [`NETWORK_COLUMNS`] of a file that may not have been altered, because its disk takes no writes: what an older version did not write is
/// read as empty.
pub(super) fn network_columns(connection: &Connection) -> rusqlite::Result<String> {
    let mut columns = String::from("id, net, since, until, reason, writer");
    for (column, default) in [("rule", "''"), ("scope", "''"), ("members", "0")] {
        let is_there = connection.column_exists(None, "network", column)?;
        columns += ", ";
        columns += if is_there { column } else { default };
    }
    Ok(columns)
}

/// The columns that [`strikes`] reads, in its order.
pub(super) const STRIKE_COLUMNS: &str = "client, rule, first, last, count, until";

/// The columns that [`earlier_bans`] reads, in its order.
pub(super) const HISTORY_COLUMNS: &str = "client, rule, times, last";

/// `until` of a removed ban. Its row stays for a while, so that other processes learn of the unban.
pub(super) const REMOVED: i64 = 0;

/// Shares one allocation between all rows that name the same rule or node.
#[derive(Default)]
pub(super) struct NameCache(HashMap<Box<str>, Arc<str>, RandomState>);

impl NameCache {
    /// Maximum number of names cached, more than any configuration has; further ones are allocated for each row.
    const MAX_NAMES: usize = 10_000;

    fn get(&mut self, row: &Row<'_>, column: usize) -> rusqlite::Result<Arc<str>> {
        let name = row.get_ref(column)?.as_str()?;
        if let Some(cached) = self.0.get(name) {
            return Ok(Arc::clone(cached));
        }
        let new: Arc<str> = Arc::from(name);
        if self.0.len() < Self::MAX_NAMES {
            self.0.insert(name.into(), Arc::clone(&new));
        }
        Ok(new)
    }
}

/// Reads [`BAN_COLUMNS`]; `None` if the ban is over or was removed. The evidence is left empty.
pub(super) fn ban(row: &Row<'_>, names: &mut NameCache, now: Time) -> rusqlite::Result<Option<BanRecord>> {
    let Some((since, until)) = times(row, 5, 6, now)? else { return Ok(None) };
    Ok(Some(BanRecord {
        client: client(row, 1)?,
        scope: scope(row, 2)?,
        rule: names.get(row, 3)?,
        first: time(row, 4)?.min(since),
        since,
        until,
        count: number(row, 7)?,
        times: number(row, 8)?,
        evidence: Evidence::new(&[]),
        node: names.get(row, 9)?,
    }))
}

/// Reads [`BAN_COLUMNS`] as a change; `None` if the ban is over.
pub(super) fn ban_change(row: &Row<'_>, names: &mut NameCache, now: Time) -> rusqlite::Result<Option<Change>> {
    if was_removed(row, 6)? {
        let (client, scope, at) = (client(row, 1)?, scope(row, 2)?, time(row, 5)?);
        return Ok(Some(Change::Unbanned { client, scope, at, kept: Vec::new(), reach: Reach::Everywhere }));
    }
    Ok(ban(row, names, now)?.map(Change::Banned))
}

/// Reads [`NETWORK_COLUMNS`] as a change; `None` if the ban is over.
pub(super) fn network_change(row: &Row<'_>, names: &mut NameCache, now: Time) -> rusqlite::Result<Option<Change>> {
    let Some(network) = network(row.get_ref(1)?.as_str()?) else { return Ok(None) };
    if was_removed(row, 3)? {
        return Ok(Some(Change::NetworkUnbanned { network, at: time(row, 2)?, forgets: true, reach: Reach::Everywhere }));
    }
    let Some((since, until)) = times(row, 2, 3, now)? else { return Ok(None) };
    let record = NetworkRecord::manual(network, since, until, evidence(row, "reason")?);
    // Empty in a row of an older version, which knew bans by hand alone.
    let rule = Some(names.get(row, 6)?).filter(|rule| !rule.is_empty()).unwrap_or(record.rule);
    Ok(Some(Change::NetworkBanned(NetworkRecord { rule, scope: scope(row, 7)?, members: number(row, 8)?, ..record })))
}

/// Reads [`STRIKE_COLUMNS`].
pub(super) fn strikes(row: &Row<'_>, names: &mut NameCache, now: Time) -> rusqlite::Result<StoredStrikes> {
    let (first, last, until) = (time(row, 2)?, time(row, 3)?, time(row, 5)?);
    // After the wall clock was set back the last strike lies in the future, and `findtime` would not run until then: shift all three.
    let ahead = last.since(now);
    let counter = Counter::restore(first.before(ahead), last.before(ahead), number(row, 4)?);
    Ok(StoredStrikes { client: client(row, 0)?, rule: names.get(row, 1)?, counter, until: until.before(ahead) })
}

/// Reads [`HISTORY_COLUMNS`].
pub(super) fn earlier_bans(row: &Row<'_>, names: &mut NameCache, now: Time) -> rusqlite::Result<(Client, Arc<str>, EarlierBans)> {
    Ok((client(row, 0)?, names.get(row, 1)?, EarlierBans { times: number(row, 2)?, last: time(row, 3)?.min(now) }))
}

/// Reads evidence as it was saved; empty if there is none.
pub(super) fn evidence(row: &Row<'_>, column: &str) -> rusqlite::Result<Evidence> {
    Ok(Evidence::from_saved(row.get_ref(column)?.as_str_or_null()?.unwrap_or_default()))
}

/// A banned network. A version that does not know a kind of network, such as countries, leaves it alone.
fn network(text: &str) -> Option<Network> {
    parse_target(text).ok()
}

fn was_removed(row: &Row<'_>, until: usize) -> rusqlite::Result<bool> {
    Ok(row.get::<_, Option<i64>>(until)? == Some(REMOVED))
}

/// When a ban began and ends; `None` if it is over. A ban that begins in the future begins now instead, and keeps its length.
fn times(row: &Row<'_>, since: usize, until: usize, now: Time) -> rusqlite::Result<Option<(Time, Until)>> {
    let began = time(row, since)?;
    let Some(ends) = row.get::<_, Option<i64>>(until)?.map(from_stored) else { return Ok(Some((began.min(now), Until::NEVER))) };
    let ends = if began > now { now.after(ends.since(began)) } else { ends };
    Ok((ends > now).then_some((began.min(now), Until::at(ends))))
}

fn client(row: &Row<'_>, column: usize) -> rusqlite::Result<Client> {
    let bytes: [u8; 16] = row.get(column)?;
    Ok(Client::from_bits(Ipv6Addr::from(bytes).to_bits()))
}

fn scope(row: &Row<'_>, column: usize) -> rusqlite::Result<Scope> {
    // A scope that this version does not know refuses everywhere.
    Ok(Scope::from_name(row.get_ref(column)?.as_str()?).unwrap_or_default())
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u32> {
    Ok(u32::try_from(row.get::<_, i64>(column)?).unwrap_or(u32::MAX))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Time> {
    row.get(column).map(from_stored)
}

fn from_stored(milliseconds: i64) -> Time {
    Time::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

/// A client as a column: its sixteen bytes in network order.
pub(super) fn blob(client: Client) -> [u8; 16] {
    client.to_bits().to_be_bytes()
}

/// A time as a column.
pub(super) fn stored(time: Time) -> i64 {
    i64::try_from(time.millis()).unwrap_or(i64::MAX)
}

/// The end of a ban as a column, never [`REMOVED`].
pub(super) fn stored_end(time: Time) -> i64 {
    stored(time).max(REMOVED + 1)
}
