//! What can go wrong with a state file, by what has to be done about it.

use std::fmt;
use std::path::Path;

use rusqlite::ErrorCode;

/// A state file that could not be used. Its text names the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It is no state file, or a damaged one: it is set aside.
    Corrupt(String),
    /// A newer Strikeout wrote it, in this version of the format: it is set aside.
    Future(String, i64),
    /// What was to be written cannot be: it is given up.
    Refused(String),
    /// Others are writing, and have been for longer than a writer waits: it is tried again at once.
    Busy(String),
    /// It cannot be opened, read or written now (disk full, read-only, no permission): it is tried again.
    Unavailable(String),
}

impl Failure {
    /// What SQLite said about the file at `path`.
    pub(super) fn of(path: &Path, error: &rusqlite::Error) -> Self {
        let text = format!("{}: {error}", path.display());
        match error.sqlite_error_code() {
            // "Unknown" is SQLite's general error: no such table, no such column. Nothing that waiting heals.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) => Self::Corrupt(text),
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => Self::Refused(text),
            Some(ErrorCode::DatabaseBusy) => Self::Busy(text),
            // Not SQLite complains, but we: of a value that is not what this version writes.
            None => Self::Corrupt(text),
            _ => Self::Unavailable(text),
        }
    }

    /// What the system said about the file at `path`.
    pub(super) fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Unavailable(format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(text) | Self::Future(text, _) | Self::Refused(text) | Self::Busy(text) | Self::Unavailable(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for Failure {}
