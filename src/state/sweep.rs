//! Removes from the state file what has ended, a little at a time: a ban may be waiting.

use rusqlite::{Connection, TransactionBehavior, params};

use super::rows::stored;
use crate::time::{Span, Time};

/// A lifted ban stays in the file so long, for other processes to see that it is gone.
const LIFTED_STAYS: Span = Span::from_secs(600);

/// How far the tables without an index of ends have been looked through: no row before that client and rule had ended.
#[derive(Debug, Default)]
pub(super) struct Swept {
    strikes: (Vec<u8>, String),
    histories: (Vec<u8>, String),
}

/// Removes rows that ended before `now`, and histories whose last ban is `forget` ago, after looking at no more than `limit` rows of a kind.
/// Returns how many it removed.
pub(super) fn sweep(connection: &mut Connection, swept: &mut Swept, now: Time, forget: Span, limit: u32) -> rusqlite::Result<usize> {
    let removed = bans(connection, now, limit)?;
    let strikes = keyed(connection, "strike", "until", &mut swept.strikes, stored(now), limit)?;
    let histories = keyed(connection, "history", "last", &mut swept.histories, stored(now.before(forget)), limit)?;
    Ok(removed + strikes + histories)
}

fn bans(connection: &mut Connection, now: Time, limit: u32) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // A lifted ban has `until` 0; its `since` says when it was lifted.
    let (over, lifted) = (stored(now), stored(now.before(LIFTED_STAYS)));
    let ids: Vec<i64> = {
        let mut ids = transaction.prepare_cached("SELECT id FROM ban WHERE until <= ?1 AND (until > 0 OR since <= ?2) LIMIT ?3")?;
        let ids = ids.query_map(params![over, lifted, limit], |row| row.get(0))?;
        ids.collect::<rusqlite::Result<_>>()?
    };
    for id in &ids {
        transaction.prepare_cached("DELETE FROM ban WHERE id = ?")?.execute([id])?;
        transaction.prepare_cached("DELETE FROM evidence WHERE ban = ?")?.execute([id])?;
    }
    let networks = transaction
        .prepare_cached("DELETE FROM network WHERE until <= ?1 AND (until > 0 OR since <= ?2)")?
        .execute(params![over, lifted])?;
    transaction.commit()?;
    Ok(ids.len() + networks)
}

/// Looks at the next `limit` rows in the order of the key, beginning anew at the end: so no look takes long however large the table is, and
/// no index has to be kept for it.
fn keyed(
    connection: &mut Connection,
    table: &str,
    end: &str,
    reached: &mut (Vec<u8>, String),
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
        let mut rows = select.query(params![reached.0, reached.1, limit])?;
        while let Some(row) = rows.next()? {
            seen += 1;
            *reached = (row.get(0)?, row.get(1)?);
            if row.get::<_, i64>(2)? <= now {
                over.push(reached.clone());
            }
        }
        let mut delete = transaction.prepare_cached(&format!("DELETE FROM {table} WHERE client = ? AND rule = ?"))?;
        for (client, rule) in &over {
            delete.execute(params![client, rule])?;
        }
    }
    transaction.commit()?;
    if seen < limit {
        *reached = Default::default();
    }
    Ok(over.len())
}
