//! Moves the write-ahead log into the state file on a thread of its own: it waits for the disk, which no ban shall.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{aside, schema};

/// A log of more pages (of 4 KiB) than this is made to begin anew. That keeps writers waiting while the rest of it is moved, so it is done
/// when not more than [`SHORT_REST`] pages are left.
const LONG_LOG: i64 = 16_384;
const SHORT_REST: i64 = 256;

/// So often the log is moved to come near its end while writers go on.
const ATTEMPTS: usize = 4;

/// How long to wait for readers before giving up until the next time.
const PATIENCE: Duration = Duration::from_millis(10);

/// The thread.
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread for the file at `path`.
    pub(super) fn start(path: PathBuf) -> std::io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let thread = thread::Builder::new().name("checkpoint".into()).spawn(move || run(&path.clone(), &woken))?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }

    /// Says that something was written. Never waits.
    pub(super) fn wake(&self) {
        if let Some(wake) = &self.wake {
            // A full channel: it is about to look anyway.
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

fn run(path: &std::path::Path, woken: &Receiver<()>) {
    let mut open: Option<(Connection, (u64, u64))> = None;
    while woken.recv().is_ok() {
        // What goes wrong here the writer finds out as well, and says it.
        open = open.filter(|(_, identity)| aside::identity(path).is_ok_and(|now| now == *identity)).or_else(|| {
            let connection = schema::open_existing(path, OpenFlags::SQLITE_OPEN_READ_WRITE).ok()?;
            connection.busy_timeout(PATIENCE).ok()?;
            Some((connection, aside::identity(path).ok()?))
        });
        if open.as_ref().is_some_and(|(connection, _)| shorten(connection).is_err()) {
            open = None;
        }
    }
}

/// Moves the log into the file, and lets it begin anew if it has grown long.
fn shorten(connection: &Connection) -> rusqlite::Result<()> {
    for _ in 0..ATTEMPTS {
        let (pages, moved) = checkpoint(connection, "PASSIVE")?;
        if pages <= LONG_LOG {
            return Ok(());
        }
        if pages - moved <= SHORT_REST {
            return checkpoint(connection, "RESTART").map(drop);
        }
    }
    Ok(())
}

/// Returns how many pages the log has, and how many of them are in the file now.
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<(i64, i64)> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| Ok((row.get(1)?, row.get(2)?)))
}
