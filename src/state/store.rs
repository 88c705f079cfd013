//! One connection to the state file.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use crate::geo::Network;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::quarantine::{FileId, OpenedFile};
use super::rows::NameCache;
use super::sweep::{SweepPositions, sweep};
use super::{Cursor, Loaded, StateError, StoredStrikes, load, quarantine, schema, write};
use crate::client::Client;
use crate::engine::{BanRecord, Change};
use crate::log::follow::Position;
use crate::rule::Evidence;
use crate::time::{Span, Time};

/// Something to save in a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum WriteItem {
    /// A change of the table. A ban also removes the strikes of its client and rule.
    Change(Change),
    /// Where reading of the log at this path stopped.
    Position(String, Position),
}

/// An open state file. If the file can be read but not written, loading works and saving fails.
pub struct Store {
    connection: Connection,
    path: PathBuf,
    file_id: FileId,
    file_number: i64,
    /// Marks the rows that this process wrote.
    writer: i64,
    /// SQLite's `data_version` when changes of other connections were last read.
    data_version: Option<i64>,
    sweep_positions: SweepPositions,
    names: NameCache,
}

impl Store {
    /// Opens the file at `path`, creating it if there is none. A damaged or newer file is quarantined, under a name that contains `now`; the
    /// notices about it, for the log, are the second value.
    ///
    /// # Errors
    /// [`StateError::Unavailable`]: try again later.
    pub fn open(path: &Path, now: Time) -> Result<(Self, Vec<String>), StateError> {
        let OpenedFile { connection, id, notices } = quarantine::open(path, now, None)?;
        Ok((Self::new(path, connection, id)?, notices))
    }

    /// Opens the file anew after this store found it corrupt: quarantines it, unless another process already has.
    ///
    /// # Errors
    /// [`StateError::Unavailable`]: try again later.
    pub fn replace_damaged(self, now: Time) -> Result<(Self, Vec<String>), StateError> {
        let Self { connection, path, file_id, .. } = self;
        drop(connection);
        let OpenedFile { connection, id, notices } = quarantine::open(&path, now, Some(file_id))?;
        Ok((Self::new(&path, connection, id)?, notices))
    }

    /// Opens a file that another process writes, or that cannot be written.
    ///
    /// # Errors
    /// It cannot be read either.
    pub fn open_read_only(path: &Path) -> Result<Self, StateError> {
        let connection = schema::open_read_only(path)?;
        let id = quarantine::file_id(path).map_err(|error| StateError::io(path, &error))?;
        Self::new(path, connection, id)
    }

    fn new(path: &Path, connection: Connection, file_id: FileId) -> Result<Self, StateError> {
        let file_number =
            connection.query_row("SELECT id FROM file", [], |row| row.get(0)).map_err(|error| StateError::of(path, &error))?;
        // Writer 0 marks recovered bans. The top bit would make the number negative.
        let writer = i64::try_from(RandomState::new().hash_one(path) >> 1).unwrap_or(0).max(1);
        let (path, sweep_positions, names) = (path.to_owned(), SweepPositions::default(), NameCache::default());
        Ok(Self { connection, path, file_id, file_number, writer, data_version: None, sweep_positions, names })
    }

    /// Takes over the writer number of the stores that this process used before, or sets it if this is the first.
    pub(super) fn share_writer(&mut self, writer: &mut Option<i64>) {
        self.writer = *writer.get_or_insert(self.writer);
    }

    /// The random number that the file was given when it was created.
    #[must_use]
    pub fn file_number(&self) -> i64 {
        self.file_number
    }

    /// Whether the path no longer names the open file: somebody removed or renamed it.
    #[must_use]
    pub fn was_replaced(&self) -> bool {
        match quarantine::file_id(&self.path) {
            Ok(id) => id != self.file_id,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    fn error(&self, error: &rusqlite::Error) -> StateError {
        StateError::of(&self.path, error)
    }

    /// Passes everything that is valid at `now` to `sink`, and returns the cursor for [`Store::changes_since`].
    ///
    /// From `now` on, no ban lasts longer than its whole length: the wall clock may have been set back since it was written.
    ///
    /// # Errors
    /// The file cannot be read; some records may have been passed to `sink` already.
    pub fn load(&mut self, now: Time, sink: &mut dyn FnMut(Loaded)) -> Result<Cursor, StateError> {
        load::load(&self.connection, &mut self.names, now, sink).map_err(|error| StateError::of(&self.path, &error))
    }

    /// Saves `items` in one transaction: the kernel has all of them, or none. The earlier bans of a client are saved with its ban if
    /// `earlier_bans` is set.
    ///
    /// # Errors
    /// Nothing was saved.
    pub fn save<'a>(&mut self, items: impl IntoIterator<Item = &'a WriteItem>, earlier_bans: bool) -> Result<(), StateError> {
        self.transaction(|transaction, writer| items.into_iter().try_for_each(|item| write::write(transaction, item, writer, earlier_bans)))
    }

    /// Saves strikes, each in place of earlier ones of its client and rule.
    ///
    /// # Errors
    /// Nothing was saved.
    pub fn save_strikes(&mut self, strikes: &[StoredStrikes]) -> Result<(), StateError> {
        self.transaction(|transaction, _| write::write_strikes(transaction, strikes))
    }

    /// Rewrites the format version to find out whether the disk takes writes.
    ///
    /// # Errors
    /// The disk takes none.
    pub fn probe(&mut self) -> Result<(), StateError> {
        self.transaction(|transaction, _| {
            let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
            transaction.pragma_update(None, "user_version", version)
        })
    }

    fn transaction(&mut self, work: impl FnOnce(&Transaction<'_>, i64) -> rusqlite::Result<()>) -> Result<(), StateError> {
        let begin = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let done = begin.and_then(|transaction| {
            work(&transaction, self.writer)?;
            transaction.commit()
        });
        done.map_err(|error| self.error(&error))
    }

    /// What other processes wrote since `cursor`, which is advanced. Reads nothing if nobody else has committed.
    ///
    /// # Errors
    /// The file cannot be read now; the cursor is unchanged.
    pub fn changes_since(&mut self, cursor: &mut Cursor, now: Time) -> Result<Vec<Change>, StateError> {
        self.read_changes(cursor, now).map_err(|error| self.error(&error))
    }

    fn read_changes(&mut self, cursor: &mut Cursor, now: Time) -> rusqlite::Result<Vec<Change>> {
        // One read transaction: both tables are seen at the same moment.
        let snapshot = self.connection.unchecked_transaction()?;
        let version: i64 = snapshot.pragma_query_value(None, "data_version", |row| row.get(0))?;
        let changes = if self.data_version == Some(version) {
            // `data_version` counts commits of other connections only: all new rows are this store's own.
            *cursor = Cursor::end(&snapshot)?;
            Vec::new()
        } else {
            let mut reached = *cursor;
            let changes = load::changes_since(&snapshot, &mut reached, self.writer, &mut self.names, now)?;
            *cursor = reached;
            changes
        };
        self.data_version = Some(version);
        Ok(changes)
    }

    /// The active bans of `client` with their evidence, the oldest first.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub fn find_bans(&mut self, client: Client, now: Time) -> Result<Vec<BanRecord>, StateError> {
        load::find_bans(&self.connection, &mut self.names, client, now).map_err(|error| StateError::of(&self.path, &error))
    }

    /// The operator's reason for the ban of `network`, if it is banned.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub fn network_ban_reason(&self, network: Network) -> Result<Option<Evidence>, StateError> {
        load::network_ban_reason(&self.connection, network).map_err(|error| self.error(&error))
    }

    /// Removes rows that ended before `now`, and earlier bans that began more than `forget` ago. Examines at most `limit` rows of each table, so
    /// it has to be called periodically. Returns the number of rows removed.
    ///
    /// # Errors
    /// The file cannot be written now.
    pub fn sweep(&mut self, now: Time, forget: Span, limit: u32) -> Result<usize, StateError> {
        sweep(&mut self.connection, &mut self.sweep_positions, now, forget, limit).map_err(|error| StateError::of(&self.path, &error))
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
