//! Opens the state file whatever is there: a damaged or future one is set aside under another name, and a new one started.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};
use rustix::fs::{FlockOperation, flock};

use super::{Failure, schema};
use crate::time::Time;

/// Opening waits so long for another process that is at it, then goes on regardless.
const PATIENCE: Duration = Duration::from_secs(2);

/// An open state file.
pub(super) struct Opened {
    pub(super) connection: Connection,
    /// Device and inode: whether the path still names this file.
    pub(super) identity: (u64, u64),
    /// What was done to a file that could not be used, for the log.
    pub(super) notices: Vec<String>,
}

/// Opens the file at `path`, a new one if there is none. `damaged` says that a connection has found the file of that identity to be corrupt,
/// although opening it may go well. A file that is set aside is called `FILE.corrupt-EPOCH` or `FILE.version-N-EPOCH`.
pub(super) fn open(path: &Path, now: Time, damaged: Option<(u64, u64)>) -> Result<Opened, Failure> {
    let _lock = lock(path);
    let mut notices = Vec::new();
    let (failure, name) = match schema::open(path) {
        Ok(connection) => {
            let identity = identity(path).map_err(|error| Failure::io(path, &error))?;
            if damaged != Some(identity) {
                return Ok(Opened { connection, identity, notices });
            }
            (Failure::Corrupt(format!("{}: database disk image is malformed", path.display())), String::from("corrupt"))
        }
        Err(failure @ Failure::Corrupt(_)) => (failure, String::from("corrupt")),
        Err(Failure::Future(text, version)) => (Failure::Future(text, version), format!("version-{version}")),
        Err(failure) => return Err(failure),
    };
    let aside = set_aside(path, &name, now).map_err(|error| Failure::io(path, &error))?;
    notices.push(format!("{failure}; set aside as {}, a new file is started", aside.display()));
    let connection = schema::open(path)?;
    let identity = identity(path).map_err(|error| Failure::io(path, &error))?;
    if matches!(failure, Failure::Corrupt(_)) {
        let saved = salvage(&aside, &connection);
        if saved > 0 {
            notices.push(format!("{}: {saved} bans were saved from {}", path.display(), aside.display()));
        }
    }
    Ok(Opened { connection, identity, notices })
}

/// Device and inode of the file at `path`.
pub(super) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Only one process at a time creates the file or sets it aside: a lock on its directory, held until the result is dropped.
fn lock(path: &Path) -> Option<File> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(directory).ok()?;
    let begin = Instant::now();
    while flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
        if begin.elapsed() > PATIENCE {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(directory)
}

/// Renames the file and those that SQLite keeps beside it.
fn set_aside(path: &Path, name: &str, now: Time) -> io::Result<PathBuf> {
    let named = |number: usize| {
        let number = if number == 0 { String::new() } else { format!("-{number}") };
        beside(path, &format!(".{name}-{}{number}", now.secs()))
    };
    let aside =
        (0..100).map(named).find(|aside| !aside.exists()).ok_or_else(|| io::Error::other("too many files set aside within a second"))?;
    std::fs::rename(path, &aside)?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::rename(beside(path, suffix), beside(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Copies the bans of a damaged file, as far as it can be read.
fn salvage(aside: &Path, new: &Connection) -> usize {
    let copy = || -> rusqlite::Result<usize> {
        let old = Connection::open_with_flags(aside, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        let mut select = old.prepare("SELECT client, scope, rule, first, since, until, count, times, node FROM ban ORDER BY id")?;
        let mut rows = select.query([])?;
        let transaction = new.unchecked_transaction()?;
        let mut saved = 0;
        {
            let mut insert = transaction.prepare(
                "INSERT OR IGNORE INTO ban (client, scope, rule, first, since, until, count, times, node, writer)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            )?;
            // Row by row until the damage: what was read before it is sound.
            while let Ok(Some(row)) = rows.next() {
                let values: rusqlite::Result<Vec<Value>> = (0..9).map(|column| row.get(column)).collect();
                saved += values.and_then(|values| insert.execute(params_from_iter(values))).unwrap_or(0);
            }
        }
        transaction.commit()?;
        Ok(saved)
    };
    copy().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
        names.sort();
        names
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_a_new_one_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::write(&path, "x".repeat(10_000)).unwrap();
        let opened = open(&path, Time::from_secs(1_800_000_000), None).unwrap();
        assert_eq!(names(dir.path()), ["state.db", "state.db.corrupt-1800000000"]);
        assert_eq!(opened.notices.len(), 1);
        assert!(opened.notices[0].contains("file is not a database; set aside as"), "{:?}", opened.notices);
    }

    #[test]
    fn a_future_file_is_set_aside_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        schema::open(&path).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
        let opened = open(&path, Time::from_secs(1_800_000_000), None).unwrap();
        assert_eq!(names(dir.path()), ["state.db", "state.db.version-9-1800000000"]);
        assert!(opened.notices[0].contains("found a state file of version 9, expected version 1 at most; set aside as"));
        let aside = Connection::open(dir.path().join("state.db.version-9-1800000000")).unwrap();
        assert_eq!(aside.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap(), 9);
    }

    #[test]
    fn no_file_that_was_set_aside_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        for _ in 0..3 {
            std::fs::write(&path, "x".repeat(10_000)).unwrap();
            open(&path, Time::from_secs(7), None).unwrap();
        }
        assert_eq!(names(dir.path()), ["state.db", "state.db.corrupt-7", "state.db.corrupt-7-1", "state.db.corrupt-7-2"]);
    }

    #[test]
    fn a_file_of_which_another_process_has_set_the_damaged_one_aside_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let old = open(&path, Time::from_secs(1), None).unwrap().identity;
        assert_ne!(open(&path, Time::from_secs(2), Some(old)).unwrap().identity, old);
        open(&path, Time::from_secs(3), Some(old)).unwrap();
        assert_eq!(names(dir.path()), ["state.db", "state.db.corrupt-2"]);
    }
}
