//! One connection to the state file: loads it, saves changes in one transaction, and reads what other processes wrote.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::rows::{self, BAN_COLUMNS, NETWORK_COLUMNS, Names, blob, stored, stored_end};
use super::sweep::{Swept, sweep};
use super::{Failure, Known, Strike, aside, schema};
use crate::client::Client;
use crate::engine::{BanRecord, Change};
use crate::event::Scope;
use crate::log::follow::Position;
use crate::rule::Evidence;
use crate::time::{Span, Time};

/// How many rows one look at what others wrote reads at a time.
const ROWS_AT_ONCE: i64 = 1000;

/// How far a process knows what the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    ban: i64,
    network: i64,
}

impl Cursor {
    /// Behind all that the file has ever held.
    fn end(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare_cached("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?")?;
        let mut last = |table: &str| statement.query_row([table], |row| row.get(0));
        Ok(Self { ban: last("ban")?, network: last("network")? })
    }
}

/// Something to be saved in a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A change of the table. A ban ends the strikes of its client and rule.
    Change(Change),
    /// How far the log of this path has been read.
    Position(String, Position),
}

/// An open state file. Where it cannot be written but read, loading works and saving fails.
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    file: i64,
    /// Marks the rows that this store wrote.
    writer: i64,
    /// What SQLite counted of other connections' commits when they were last read.
    seen: Option<i64>,
    swept: Swept,
    names: Names,
}

impl Store {
    /// Opens the file at `path`, a new one if there is none. A damaged or future one is set aside; what was done is in the second value, for
    /// the log. `now` names what is set aside.
    ///
    /// # Errors
    /// [`Failure::Unavailable`]: try again later.
    pub fn open(path: &Path, now: Time) -> Result<(Self, Vec<String>), Failure> {
        let aside::Opened { connection, identity, notices } = aside::open(path, now, None)?;
        Ok((Self::new(path, connection, identity)?, notices))
    }

    /// Opens the file anew after this store found it corrupt: sets it aside, unless another process already has.
    ///
    /// # Errors
    /// [`Failure::Unavailable`]: try again later.
    pub fn replace_damaged(self, now: Time) -> Result<(Self, Vec<String>), Failure> {
        let Self { connection, path, identity, .. } = self;
        drop(connection);
        let aside::Opened { connection, identity, notices } = aside::open(&path, now, Some(identity))?;
        Ok((Self::new(&path, connection, identity)?, notices))
    }

    /// Opens a file that another process writes, or that cannot be written.
    ///
    /// # Errors
    /// It cannot be read either.
    pub fn open_read_only(path: &Path) -> Result<Self, Failure> {
        let connection = schema::open_read_only(path)?;
        let identity = aside::identity(path).map_err(|error| Failure::io(path, &error))?;
        Self::new(path, connection, identity)
    }

    fn new(path: &Path, connection: Connection, identity: (u64, u64)) -> Result<Self, Failure> {
        let file = connection.query_row("SELECT id FROM file", [], |row| row.get(0)).map_err(|error| Failure::of(path, &error))?;
        // 0 stands for nobody; the top bit would make the number negative.
        let writer = i64::try_from(RandomState::new().hash_one(path) >> 1).unwrap_or(0).max(1);
        let (path, swept, names) = (path.to_owned(), Swept::default(), Names::default());
        Ok(Self { connection, path, identity, file, writer, seen: None, swept, names })
    }

    /// Marks what it writes as the stores before it did that the same process used; the first one gives the mark.
    pub(super) fn mark_as(&mut self, mark: &mut Option<i64>) {
        self.writer = *mark.get_or_insert(self.writer);
    }

    /// A number that the file was given when it was made, and that no other file has.
    #[must_use]
    pub fn file(&self) -> i64 {
        self.file
    }

    /// Whether the path no longer names the open file: somebody removed it, or set it aside.
    #[must_use]
    pub fn was_replaced(&self) -> bool {
        match aside::identity(&self.path) {
            Ok(identity) => identity != self.identity,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    fn failed(&self, error: &rusqlite::Error) -> Failure {
        Failure::of(&self.path, error)
    }

    /// Hands everything that holds at `now` to `sink`, and returns how far it has come, for [`Store::changes_since`].
    ///
    /// The wall clock may have been set back since a ban was written: none ends later than its whole length from `now`.
    ///
    /// # Errors
    /// Part of it may have been handed over.
    pub fn load(&mut self, now: Time, sink: &mut dyn FnMut(Known)) -> Result<Cursor, Failure> {
        let mut names = std::mem::take(&mut self.names);
        let loaded = load(&self.connection, &mut names, now, sink).map_err(|error| self.failed(&error));
        self.names = names;
        loaded
    }

    /// Saves `items` in one transaction: all of them are handed to the kernel, or none. How often a client was banned is saved with its ban
    /// if `histories` says so.
    ///
    /// # Errors
    /// Nothing was saved.
    pub fn save<'a>(&mut self, items: impl IntoIterator<Item = &'a Item>, histories: bool) -> Result<(), Failure> {
        self.transaction(|transaction, writer| {
            for item in items {
                match item {
                    Item::Change(change) => write(transaction, change, writer, histories)?,
                    Item::Position(path, position) => write_position(transaction, path, position)?,
                }
            }
            Ok(())
        })
    }

    /// Saves counters, each in place of an earlier one of its client and rule.
    ///
    /// # Errors
    /// Nothing was saved.
    pub fn save_strikes(&mut self, strikes: &[Strike]) -> Result<(), Failure> {
        self.transaction(|transaction, _| {
            let mut statement = transaction
                .prepare_cached("INSERT OR REPLACE INTO strike (client, rule, first, last, count, until) VALUES (?, ?, ?, ?, ?, ?)")?;
            for Strike { client, rule, counter, until } in strikes {
                let (first, last) = (stored(counter.first()), stored(counter.last()));
                statement.execute(params![blob(*client), &**rule, first, last, counter.count(), stored(*until)])?;
            }
            Ok(())
        })
    }

    /// Writes something that nobody reads: whether the disk takes anything.
    ///
    /// # Errors
    /// It does not.
    pub fn probe(&mut self) -> Result<(), Failure> {
        self.transaction(|transaction, _| {
            let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
            transaction.pragma_update(None, "user_version", version)
        })
    }

    fn transaction(&mut self, work: impl FnOnce(&Transaction<'_>, i64) -> rusqlite::Result<()>) -> Result<(), Failure> {
        let begin = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let done = begin.and_then(|transaction| {
            work(&transaction, self.writer)?;
            transaction.commit()
        });
        done.map_err(|error| self.failed(&error))
    }

    /// What other processes wrote since `cursor`, which is moved on. Nothing is read if nobody wrote.
    ///
    /// # Errors
    /// The file cannot be read now; the cursor stands where it stood.
    pub fn changes_since(&mut self, cursor: &mut Cursor, now: Time) -> Result<Vec<Change>, Failure> {
        let mut names = std::mem::take(&mut self.names);
        let read = self.changes(*cursor, &mut names, now).map_err(|error| self.failed(&error));
        self.names = names;
        let (reached, changes, version) = read?;
        *cursor = reached;
        self.seen = Some(version);
        Ok(changes)
    }

    fn changes(&self, mut reached: Cursor, names: &mut Names, now: Time) -> rusqlite::Result<(Cursor, Vec<Change>, i64)> {
        let mut changes = Vec::new();
        // One snapshot for all.
        let snapshot = self.connection.unchecked_transaction()?;
        let version: i64 = snapshot.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if self.seen == Some(version) {
            // Nobody else has committed since: what is new is this store's own.
            return Ok((Cursor::end(&snapshot)?, changes, version));
        }
        let mut bans = snapshot.prepare_cached(&format!("SELECT {BAN_COLUMNS} FROM ban WHERE id > ? ORDER BY id LIMIT ?"))?;
        loop {
            let mut found = 0;
            let mut rows = bans.query([reached.ban, ROWS_AT_ONCE])?;
            while let Some(row) = rows.next()? {
                found += 1;
                reached.ban = row.get("id")?;
                if row.get::<_, i64>("writer")? != self.writer {
                    changes.extend(rows::ban_change(row, names, now)?);
                }
            }
            if found < ROWS_AT_ONCE {
                break;
            }
        }
        let mut networks = snapshot.prepare_cached(&format!("SELECT {NETWORK_COLUMNS} FROM network WHERE id > ? ORDER BY id"))?;
        let mut rows = networks.query([reached.network])?;
        while let Some(row) = rows.next()? {
            reached.network = row.get("id")?;
            if row.get::<_, i64>("writer")? != self.writer {
                changes.extend(rows::network_change(row, now)?);
            }
        }
        Ok((reached, changes, version))
    }

    /// The bans of `client` that stand at `now`, with their evidence.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub fn find(&mut self, client: Client, now: Time) -> Result<Vec<BanRecord>, Failure> {
        let mut names = std::mem::take(&mut self.names);
        let found = find(&self.connection, &mut names, client, now).map_err(|error| self.failed(&error));
        self.names = names;
        found
    }

    /// The reason that was given when `network` was banned, if it was.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub fn reason(&self, network: IpNet) -> Result<Option<Evidence>, Failure> {
        let statement = self.connection.prepare_cached("SELECT reason FROM network WHERE net = ? AND (until IS NULL OR until > 0)");
        statement
            .and_then(|mut statement| statement.query_row([network.to_string()], |row| rows::evidence(row, "reason")).optional())
            .map_err(|error| self.failed(&error))
    }

    /// Removes rows that ended before `now`, and histories whose last ban is `forget` ago, after looking at no more than `limit` rows of each
    /// kind. Returns how many it removed. Meant to be called again and again.
    ///
    /// # Errors
    /// The file cannot be written now.
    pub fn sweep(&mut self, now: Time, forget: Span, limit: u32) -> Result<usize, Failure> {
        sweep(&mut self.connection, &mut self.swept, now, forget, limit).map_err(|error| Failure::of(&self.path, &error))
    }
}

fn load(connection: &Connection, names: &mut Names, now: Time, sink: &mut dyn FnMut(Known)) -> rusqlite::Result<Cursor> {
    // One snapshot for all.
    let snapshot = connection.unchecked_transaction()?;
    let cursor = Cursor::end(&snapshot)?;
    let mut statement = snapshot.prepare(&format!("SELECT {BAN_COLUMNS} FROM ban WHERE until IS NULL OR until > ?"))?;
    let mut rows = statement.query([stored(now)])?;
    while let Some(row) = rows.next()? {
        if let Some(ban) = rows::ban(row, names, now)? {
            sink(Known::Change(Change::Banned(ban)));
        }
    }
    let mut statement = snapshot.prepare(&format!("SELECT {NETWORK_COLUMNS} FROM network WHERE until IS NULL OR until > ?"))?;
    let mut rows = statement.query([stored(now)])?;
    while let Some(row) = rows.next()? {
        if let Some(change) = rows::network_change(row, now)? {
            sink(Known::Change(change));
        }
    }
    let mut statement = snapshot.prepare("SELECT client, rule, first, last, count, until FROM strike WHERE until > ?")?;
    let mut rows = statement.query([stored(now)])?;
    while let Some(row) = rows.next()? {
        sink(Known::Strike(rows::strike(row, names, now)?));
    }
    let mut statement = snapshot.prepare("SELECT client, rule, times, last FROM history")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (client, rule, earlier) = rows::history(row, names, now)?;
        sink(Known::History { client, rule, earlier });
    }
    let mut statement = snapshot.prepare("SELECT path, position FROM position")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        // A position that cannot be read is as good as none.
        if let Ok(position) = serde_json::from_str(row.get_ref(1)?.as_str()?) {
            sink(Known::Position { path: row.get(0)?, position });
        }
    }
    Ok(cursor)
}

fn find(connection: &Connection, names: &mut Names, client: Client, now: Time) -> rusqlite::Result<Vec<BanRecord>> {
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

fn write(transaction: &Transaction<'_>, change: &Change, writer: i64, histories: bool) -> rusqlite::Result<()> {
    match change {
        Change::Banned(ban) => {
            transaction
                .prepare_cached("DELETE FROM strike WHERE client = ? AND rule = ?")?
                .execute(params![blob(ban.client), &*ban.rule])?;
            if histories {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO history (client, rule, times, last) VALUES (?, ?, ?, ?)")?
                    .execute(params![blob(ban.client), &*ban.rule, ban.times, stored(ban.since)])?;
            }
            write_ban(transaction, ban, writer)
        }
        Change::Unbanned { client, scope, at } => lift(transaction, *client, *scope, writer, *at),
        Change::NetworkBanned { network, since, until, reason } => {
            write_network(transaction, *network, *since, until.time().map(stored_end), reason.as_str(), writer)
        }
        Change::NetworkUnbanned { network, at } => write_network(transaction, *network, *at, Some(0), "", writer),
    }
}

/// Of two bans of one client and scope the one that ends later stays, whoever wrote it: as in the table.
fn write_ban(transaction: &Transaction<'_>, ban: &BanRecord, writer: i64) -> rusqlite::Result<()> {
    let client = blob(ban.client);
    let until = ban.until.time().map(stored_end);
    let mut earlier = transaction.prepare_cached("SELECT id, until FROM ban WHERE client = ? AND scope = ?")?;
    let mut rows = earlier.query(params![client, ban.scope.as_str()])?;
    if let Some(row) = rows.next()? {
        let stands: Option<i64> = row.get(1)?;
        if stands.unwrap_or(i64::MAX) >= until.unwrap_or(i64::MAX) {
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

/// Lifts the bans on the surfaces of `scope`. A ban everywhere of which one surface is lifted stays as a ban of the other.
fn lift(transaction: &Transaction<'_>, client: Client, scope: Scope, writer: i64, at: Time) -> rusqlite::Result<()> {
    let other = match scope {
        Scope::Web => Some(Scope::Mail),
        Scope::Mail => Some(Scope::Web),
        Scope::All => None,
    };
    if let Some(other) = other {
        let everywhere = find(transaction, &mut Names::default(), client, at)?.into_iter().find(|ban| ban.scope == Scope::All);
        if let Some(mut ban) = everywhere {
            ban.scope = other;
            write_ban(transaction, &ban, writer)?;
        }
    }
    const LIFTED: &str = "client = ?1 AND (scope IN (?2, 'all') OR ?2 = 'all')";
    let key = params![blob(client), scope.as_str()];
    transaction.prepare_cached(&format!("DELETE FROM evidence WHERE ban IN (SELECT id FROM ban WHERE {LIFTED})"))?.execute(key)?;
    transaction.prepare_cached(&format!("DELETE FROM ban WHERE {LIFTED}"))?.execute(key)?;
    transaction
        .prepare_cached(
            "INSERT INTO ban (client, scope, rule, first, since, until, count, times, node, writer) VALUES (?1, ?2, '', ?3, ?3, 0, 0, 0, '', ?4)",
        )?
        .execute(params![blob(client), scope.as_str(), stored(at), writer])
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
    // It is made of numbers alone: this cannot fail. If it did, the log would be read from an older position.
    let Ok(text) = serde_json::to_string(position) else { return Ok(()) };
    transaction.prepare_cached("INSERT OR REPLACE INTO position (path, position) VALUES (?, ?)")?.execute([path, &text]).map(drop)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
