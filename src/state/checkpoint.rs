//! Runs WAL checkpoints on a thread of their own: a checkpoint waits for the disk, and no ban should have to.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::quarantine::FileId;
use super::{quarantine, schema};

/// WAL length, in pages of 4 KiB, above which the WAL is restarted from its beginning.
const LONG_WAL: i64 = 16_384;
/// A restart blocks writers while it copies the remaining pages (<https://www.sqlite.org/c3ref/wal_checkpoint_v2.html>), so it waits until no
/// more than this many remain.
const SHORT_REST: i64 = 256;

/// Maximum number of passive checkpoints per wake-up: writers go on meanwhile, so one may not reach the end of the WAL.
const ATTEMPTS: usize = 4;

/// How long to wait for readers before giving up until the next wake-up.
const BUSY_TIMEOUT: Duration = Duration::from_millis(10);

/// The handle of the checkpoint thread.
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread for the file at `path`.
    pub(super) fn start(path: PathBuf) -> std::io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let thread = thread::Builder::new().name("checkpoint".into()).spawn(move || run(&path, &woken))?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }

    /// Reports that something was written. Never blocks.
    pub(super) fn wake(&self) {
        if let Some(wake) = &self.wake {
            // A full channel means that a wake-up is pending already.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(path: &Path, woken: &Receiver<()>) {
    let mut open: Option<(Connection, FileId)> = None;
    while woken.recv().is_ok() {
        // Errors are not reported here: the writer meets the same fault and reports it.
        open = open.filter(|(_, id)| quarantine::file_id(path).is_ok_and(|now| now == *id)).or_else(|| {
            let connection = schema::open_existing(path, OpenFlags::SQLITE_OPEN_READ_WRITE).ok()?;
            connection.busy_timeout(BUSY_TIMEOUT).ok()?;
            Some((connection, quarantine::file_id(path).ok()?))
        });
        if open.as_ref().is_some_and(|(connection, _)| shorten(connection).is_err()) {
            open = None;
        }
    }
}

/// Copies the WAL into the file, and restarts the WAL if it has grown long.
fn shorten(connection: &Connection) -> rusqlite::Result<()> {
    for _ in 0..ATTEMPTS {
        let (pages, copied) = checkpoint(connection, "PASSIVE")?;
        if pages <= LONG_WAL {
            return Ok(());
        }
        if pages - copied <= SHORT_REST {
            return checkpoint(connection, "RESTART").map(drop);
        }
    }
    Ok(())
}

/// Returns the number of pages in the WAL and how many of them are in the file now.
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<(i64, i64)> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| Ok((row.get(1)?, row.get(2)?)))
}
