//! Removes rows that have ended from the state file, in small steps, because bans may be waiting for the writer.

use rusqlite::{Connection, TransactionBehavior, params};

use super::rows::stored;
use crate::time::{Span, Time};

/// How long a removed ban stays in the file, so that other processes learn of the unban.
const KEEP_REMOVED: Span = Span::from_secs(600);

/// Where the next step starts in the tables that have no index by end: after this client and rule.
#[derive(Debug, Default)]
pub(super) struct SweepPositions {
    strikes: (Vec<u8>, String),
    history: (Vec<u8>, String),
}

/// Removes rows that ended before `now`, and earlier bans that began more than `forget` ago. Examines at most `limit` rows of each table.
/// Returns the number of rows removed.
pub(super) fn sweep(
    connection: &mut Connection,
    positions: &mut SweepPositions,
    now: Time,
    forget: Span,
    limit: u32,
) -> rusqlite::Result<usize> {
    let bans = sweep_bans(connection, now, limit)?;
    let strikes = sweep_keyed(connection, "strike", "until", &mut positions.strikes, stored(now), limit)?;
    let history = sweep_keyed(connection, "history", "last", &mut positions.history, stored(now.before(forget)), limit)?;
    Ok(bans + strikes + history)
}

fn sweep_bans(connection: &mut Connection, now: Time, limit: u32) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // A removed ban has `until` 0 (`rows::REMOVED`), and `since` is when it was removed.
    let (over, removed) = (stored(now), stored(now.before(KEEP_REMOVED)));
    let ids: Vec<i64> = {
        let mut ids = transaction.prepare_cached("SELECT id FROM ban WHERE until <= ?1 AND (until > 0 OR since <= ?2) LIMIT ?3")?;
        let ids = ids.query_map(params![over, removed, limit], |row| row.get(0))?;
        ids.collect::<rusqlite::Result<_>>()?
    };
    for id in &ids {
        transaction.prepare_cached("DELETE FROM ban WHERE id = ?")?.execute([id])?;
        transaction.prepare_cached("DELETE FROM evidence WHERE ban = ?")?.execute([id])?;
    }
    let networks = transaction
        .prepare_cached("DELETE FROM network WHERE until <= ?1 AND (until > 0 OR since <= ?2)")?
        .execute(params![over, removed])?;
    transaction.commit()?;
    Ok(ids.len() + networks)
}

/// Examines the next `limit` rows in key order and wraps around at the end: no step takes long however large the table is, and the table
/// needs no second index.
fn sweep_keyed(
    connection: &mut Connection,
    table: &str,
    end: &str,
    position: &mut (Vec<u8>, String),
    now: i64,
    limit: u32,
) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut over = Vec::new();
    let mut seen = 0;
    {
        let mut select = transaction.prepare_cached(&format!(
            "SELECT client, rule, {end} FROM {table} WHERE (client, rule) > (?, ?) ORDER BY client, rule LIMIT ?"
        ))?;
        let mut rows = select.query(params![position.0, position.1, limit])?;
        while let Some(row) = rows.next()? {
            seen += 1;
            *position = (row.get(0)?, row.get(1)?);
            if row.get::<_, i64>(2)? <= now {
                over.push(position.clone());
            }
        }
        let mut delete = transaction.prepare_cached(&format!("DELETE FROM {table} WHERE client = ? AND rule = ?"))?;
        for (client, rule) in &over {
            delete.execute(params![client, rule])?;
        }
    }
    transaction.commit()?;
    if seen < limit {
        *position = Default::default();
    }
    Ok(over.len())
}
