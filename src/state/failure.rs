//! Errors of the state file, classified by how the writer reacts to them.

use std::fmt;
use std::path::Path;

use rusqlite::ErrorCode;

/// Why the state file could not be used. The text names the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateError {
    /// Not a state file, or a damaged one: it is quarantined.
    Corrupt(String),
    /// Written by a newer Strikeout, in this version of the format: it is quarantined.
    Newer(String, i64),
    /// SQLite rejects the data itself: the write is not retried.
    Refused(String),
    /// Other processes held the write lock longer than the busy timeout: the write is retried at once.
    Busy(String),
    /// The file cannot be opened, read or written now (disk full, read-only, no permission): the write is retried later.
    Unavailable(String),
}

impl StateError {
    /// Classifies an error that SQLite returned for the file at `path`.
    pub(super) fn of(path: &Path, error: &rusqlite::Error) -> Self {
        let text = format!("{}: {error}", path.display());
        match error.sqlite_error_code() {
            // `Unknown` is SQLITE_ERROR, for example "no such table" or "no such column": waiting does not help.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) => Self::Corrupt(text),
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => Self::Refused(text),
            Some(ErrorCode::DatabaseBusy) => Self::Busy(text),
            // rusqlite's own errors have no SQLite code: a column holds a value that this version never writes.
            None => Self::Corrupt(text),
            _ => Self::Unavailable(text),
        }
    }

    /// An error that the operating system returned for the file at `path`.
    pub(super) fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Unavailable(format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(text) | Self::Newer(text, _) | Self::Refused(text) | Self::Busy(text) | Self::Unavailable(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for StateError {}
