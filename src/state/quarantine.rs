//! Opens the state file whatever is at its path: a damaged or newer file is quarantined (renamed), and a new one is started.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};

use super::recover::recover;
use super::{StateError, schema};
use crate::time::Time;

/// How long opening waits for another process that is opening the file before it goes on without the lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of files quarantined under the same second.
const MAX_SAME_NAME: usize = 100;

/// Identifies an open file, so that a process can tell whether the path still names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// A state file, open for writing.
pub(super) struct OpenedFile {
    pub(super) connection: Connection,
    pub(super) id: FileId,
    /// What happened to a file that could not be used, for the log.
    pub(super) notices: Vec<String>,
}

/// Opens the file at `path`, creating it if there is none. `damaged` is a file that a connection found to be corrupt, although opening it
/// may succeed. A quarantined file is called `FILE.corrupt-EPOCH` or `FILE.version-N-EPOCH`.
pub(super) fn open(path: &Path, now: Time, damaged: Option<FileId>) -> Result<OpenedFile, StateError> {
    let _lock = lock(path);
    let mut notices = Vec::new();
    let (failure, name) = match schema::open(path) {
        Ok(connection) => {
            let id = file_id(path).map_err(|error| StateError::io(path, &error))?;
            if damaged != Some(id) {
                return Ok(OpenedFile { connection, id, notices });
            }
            (StateError::Corrupt(format!("{}: database disk image is malformed", path.display())), String::from("corrupt"))
        }
        Err(failure @ StateError::Corrupt(_)) => (failure, String::from("corrupt")),
        Err(StateError::Newer(text, version)) => (StateError::Newer(text, version), format!("version-{version}")),
        Err(failure) => return Err(failure),
    };
    let quarantined = quarantine(path, &name, now).map_err(|error| StateError::io(path, &error))?;
    notices.push(format!("{failure}; renamed to {}, a new file is started", quarantined.display()));
    let connection = schema::open(path)?;
    let id = file_id(path).map_err(|error| StateError::io(path, &error))?;
    if matches!(failure, StateError::Corrupt(_)) {
        notices.push(match recover(&quarantined, &connection) {
            Ok(recovered) if recovered.is_empty() => format!("{}: nothing could be recovered from it", quarantined.display()),
            Ok(recovered) => format!("{}: recovered from it: {recovered}", quarantined.display()),
            Err(error) => format!("{}: recovering its rows failed: {error}", quarantined.display()),
        });
    }
    Ok(OpenedFile { connection, id, notices })
}

/// Identifies the file that `path` names now.
pub(super) fn file_id(path: &Path) -> io::Result<FileId> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path)?;
    Ok(FileId { device: metadata.dev(), inode: metadata.ino() })
}

/// Locks the file's directory until the result is dropped, so that only one process at a time creates or quarantines the file.
fn lock(path: &Path) -> Option<File> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(directory).ok()?;
    let begin = Instant::now();
    // flock(2) has no timeout, so the lock is polled.
    while flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
        if begin.elapsed() > LOCK_TIMEOUT {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(directory)
}

/// Renames the file and SQLite's `-wal` and `-shm` files.
fn quarantine(path: &Path, name: &str, now: Time) -> io::Result<PathBuf> {
    let named = |number: usize| {
        let number = if number == 0 { String::new() } else { format!("-{number}") };
        with_suffix(path, &format!(".{name}-{}{number}", now.secs()))
    };
    let free = (0..MAX_SAME_NAME).map(named).find(|quarantined| !quarantined.exists());
    let quarantined = free.ok_or_else(|| io::Error::other("too many files quarantined within a second"))?;
    std::fs::rename(path, &quarantined)?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::rename(with_suffix(path, suffix), with_suffix(&quarantined, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(quarantined)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
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
    fn a_damaged_file_is_quarantined_and_a_new_one_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::write(&path, "x".repeat(10_000)).unwrap();
        let opened = open(&path, Time::from_secs(1_800_000_000), None).unwrap();
        assert_eq!(names(dir.path()), ["state.db", "state.db.corrupt-1800000000"]);
        assert_eq!(opened.notices.len(), 2);
        assert!(opened.notices[0].contains("file is not a database; renamed to"), "{:?}", opened.notices);
        assert!(opened.notices[1].contains("nothing could be recovered"), "{:?}", opened.notices);
    }

    #[test]
    fn a_newer_file_is_quarantined_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        schema::open(&path).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
        let opened = open(&path, Time::from_secs(1_800_000_000), None).unwrap();
        assert_eq!(names(dir.path()), ["state.db", "state.db.version-9-1800000000"]);
        assert!(opened.notices[0].contains("found a state file of version 9, expected version 1 at most; renamed to"));
        let quarantined = Connection::open(dir.path().join("state.db.version-9-1800000000")).unwrap();
        assert_eq!(quarantined.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap(), 9);
    }

    #[test]
    fn no_quarantined_file_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        for _ in 0..3 {
            std::fs::write(&path, "x".repeat(10_000)).unwrap();
            open(&path, Time::from_secs(7), None).unwrap();
        }
        assert_eq!(names(dir.path()), ["state.db", "state.db.corrupt-7", "state.db.corrupt-7-1", "state.db.corrupt-7-2"]);
    }

    #[test]
    fn a_damaged_file_that_another_process_has_quarantined_is_not_quarantined_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let old = open(&path, Time::from_secs(1), None).unwrap().id;
        assert_ne!(open(&path, Time::from_secs(2), Some(old)).unwrap().id, old);
        open(&path, Time::from_secs(3), Some(old)).unwrap();
        assert_eq!(names(dir.path()), ["state.db", "state.db.corrupt-2"]);
    }
}
