//! The tables of the state file, and the settings of a connection to it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::StateError;

/// The format version, stored as `user_version`. A file with a greater one is quarantined unchanged.
pub(super) const VERSION: i64 = 1;

/// The `application_id` that marks the file as Strikeout's: "Strk".
const APPLICATION: i64 = 0x5374_726b;

/// `AUTOINCREMENT` never reuses an `id`, so a process that knows the greatest one can ask for everything after it. A removed ban stays for a
/// while with `until` 0, so that other processes learn of the unban; a permanent one has a null `until`. Evidence has its own table
/// because loading skips it. The random number in `file` tells a new file from its predecessor: an inode number is soon reused.
const TABLES: &str = "
CREATE TABLE file (
    id INTEGER NOT NULL
) STRICT;
INSERT INTO file (id) VALUES (random());
CREATE TABLE ban (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    client BLOB    NOT NULL CHECK (length(client) = 16),
    scope  TEXT    NOT NULL,
    rule   TEXT    NOT NULL,
    first  INTEGER NOT NULL,
    since  INTEGER NOT NULL,
    until  INTEGER,
    count  INTEGER NOT NULL,
    times  INTEGER NOT NULL,
    node   TEXT    NOT NULL,
    writer INTEGER NOT NULL,
    UNIQUE (client, scope)
) STRICT;
CREATE INDEX ban_until ON ban (until) WHERE until IS NOT NULL;
CREATE TABLE evidence (
    ban  INTEGER PRIMARY KEY,
    text TEXT    NOT NULL
) STRICT;
CREATE TABLE network (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    net    TEXT    NOT NULL UNIQUE,
    since  INTEGER NOT NULL,
    until  INTEGER,
    reason TEXT    NOT NULL,
    writer INTEGER NOT NULL,
    rule    TEXT    NOT NULL DEFAULT '',
    scope   TEXT    NOT NULL DEFAULT '',
    members INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE strike (
    client  BLOB    NOT NULL CHECK (length(client) = 16),
    rule    TEXT    NOT NULL,
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL,
    count   INTEGER NOT NULL,
    until   INTEGER NOT NULL,
    PRIMARY KEY (client, rule)
) STRICT, WITHOUT ROWID;
CREATE TABLE history (
    client BLOB    NOT NULL CHECK (length(client) = 16),
    rule   TEXT    NOT NULL,
    times  INTEGER NOT NULL,
    last   INTEGER NOT NULL,
    PRIMARY KEY (client, rule)
) STRICT, WITHOUT ROWID;
CREATE TABLE position (
    path     TEXT NOT NULL PRIMARY KEY,
    position TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// An operator's pause: one row, or none. Not among [`TABLES`], because files of version 1 without it exist.
const PAUSE_TABLE: &str =
    "CREATE TABLE IF NOT EXISTS pause (since INTEGER NOT NULL, until INTEGER NOT NULL, user TEXT NOT NULL DEFAULT '') STRICT";
/// For files whose table was created without it.
const PAUSE_USER: &str = "ALTER TABLE pause ADD COLUMN user TEXT NOT NULL DEFAULT ''";

/// What rules say of the networks that they ban. Files of version 1 without these columns exist; the program that wrote them goes on with
/// these ones as well.
const NETWORK_COLUMNS: [(&str, &str); 3] =
    [("rule", "TEXT NOT NULL DEFAULT ''"), ("scope", "TEXT NOT NULL DEFAULT ''"), ("members", "INTEGER NOT NULL DEFAULT 0")];

/// One query for each table, to check that the file has the tables and columns of this version and that their first pages can be read.
const PROBES: [&str; 6] = [
    "SELECT id, client, scope, rule, first, since, until, count, times, node, writer FROM ban LIMIT 1",
    "SELECT ban, text FROM evidence LIMIT 1",
    "SELECT id, net, since, until, reason, writer FROM network LIMIT 1",
    "SELECT client, rule, first, last, count, until FROM strike LIMIT 1",
    "SELECT client, rule, times, last FROM history LIMIT 1",
    "SELECT path, position FROM position LIMIT 1",
];

/// How long opening waits for other processes that are opening the file.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a write waits for other processes that are writing.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// Opens the file for writing; a new or empty one gets its tables. The caller holds the lock of [`super::quarantine`].
pub(super) fn open(path: &Path) -> Result<Connection, StateError> {
    // Other users must not read the evidence. SQLite gives the `-wal` and `-shm` files the mode of the database (`findCreateFileMode` in
    // os_unix.c).
    OpenOptions::new().create(true).append(true).mode(0o640).open(path).map_err(|error| StateError::io(path, &error))?;
    let failed = |error| StateError::of(path, &error);
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
    configure(&connection).map_err(failed)?;
    connection.busy_timeout(OPEN_TIMEOUT).map_err(failed)?;
    if !check(&connection, path)? {
        create(&connection).map_err(failed)?;
    }
    connection.execute_batch(PAUSE_TABLE).map_err(failed)?;
    if !connection.column_exists(None, "pause", "user").map_err(failed)? {
        connection.execute_batch(PAUSE_USER).map_err(failed)?;
    }
    for (column, definition) in NETWORK_COLUMNS {
        if !connection.column_exists(None, "network", column).map_err(failed)? {
            connection.execute_batch(&format!("ALTER TABLE network ADD COLUMN {column} {definition}")).map_err(failed)?;
        }
    }
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(StateError::Unavailable(format!("{}: found journal mode {mode}, expected wal", path.display())));
    }
    connection.busy_timeout(WRITE_TIMEOUT).map_err(failed)?;
    Ok(connection)
}

/// Opens one more connection to a file that [`open`] has prepared, for reading or for checkpoints.
pub(super) fn open_existing(path: &Path, flags: OpenFlags) -> Result<Connection, StateError> {
    let failed = |error| StateError::of(path, &error);
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
    configure(&connection).map_err(failed)?;
    connection.busy_timeout(WRITE_TIMEOUT).map_err(failed)?;
    if check(&connection, path)? {
        Ok(connection)
    } else {
        Err(StateError::Unavailable(format!("{}: found an empty file", path.display())))
    }
}

/// Opens a file for reading only. Where the disk takes no writes, that is its content at the last checkpoint.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, StateError> {
    if let Ok(connection) = open_existing(path, OpenFlags::SQLITE_OPEN_READ_ONLY) {
        return Ok(connection);
    }
    // SQLite cannot read a WAL database without creating its `-shm` file, unless told that nobody changes it
    // (https://www.sqlite.org/wal.html#read_only_databases).
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    open_existing(Path::new(&uri), OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(32);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "synchronous", "normal")?;
    // A checkpoint takes milliseconds, so another thread runs it.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    // Freed pages are zeroed, so that recovering a damaged file never finds a row that was removed.
    connection.pragma_update(None, "secure_delete", true)?;
    Ok(())
}

/// Returns true for a state file of this version, false for an empty file.
fn check(connection: &Connection, path: &Path) -> Result<bool, StateError> {
    let failed = |error| StateError::of(path, &error);
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    let (version, application) = (number("user_version")?, number("application_id")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let shown = path.display();
    if tables == 0 && version == 0 && application == 0 {
        return Ok(false);
    }
    if application != APPLICATION {
        return Err(StateError::Corrupt(format!("{shown}: found a database of another program, expected a state file")));
    }
    if version > VERSION {
        let text = format!("{shown}: found a state file of version {version}, expected version {VERSION} at most");
        return Err(StateError::Newer(text, version));
    }
    if version < 1 {
        return Err(StateError::Corrupt(format!("{shown}: found a state file of version {version}, expected version 1 to {VERSION}")));
    }
    for probe in PROBES {
        connection.prepare(probe).and_then(|mut statement| statement.exists([])).map_err(failed)?;
    }
    connection.query_row("SELECT id FROM file", [], |row| row.get::<_, i64>(0)).map_err(failed)?;
    Ok(true)
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_gets_its_tables_and_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        drop(open(&path).unwrap());
        assert!(check(&open(&path).unwrap(), &path).unwrap());
    }

    #[test]
    fn a_new_file_is_not_readable_by_others() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        drop(open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0);
    }

    #[test]
    fn a_newer_file_a_foreign_database_or_one_with_other_tables_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        for (name, sql, expected) in [
            ("newer", "PRAGMA user_version = 7", "found a state file of version 7, expected version 1 at most"),
            ("other", "PRAGMA application_id = 1", "found a database of another program"),
            ("column", "ALTER TABLE ban DROP COLUMN node", "no such column: node"),
            ("table", "DROP TABLE strike", "no such table: strike"),
        ] {
            let path = dir.path().join(name);
            open(&path).unwrap().execute_batch(sql).unwrap();
            let error = open(&path).unwrap_err();
            assert!(error.to_string().contains(expected) && error.to_string().contains(name), "{error}");
            assert!(matches!(error, StateError::Corrupt(_) | StateError::Newer(_, 7)), "{error:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_a_database_is_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::write(&path, "something else altogether ".repeat(1000)).unwrap();
        assert!(matches!(open(&path), Err(StateError::Corrupt(_))));
    }
}
