//! Moves the write-ahead log into the state file on a thread of its own: it waits for the disk, which no ban shall.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{aside, schema};

/// A log of more pages (of 4 KiB) than this is made to begin anew, which lets writers wait for a moment.
const LONG_LOG: i64 = 8192;

/// How long that moment may be.
const PATIENCE: Duration = Duration::from_millis(20);

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
        if let Some((connection, _)) = &open {
            let pages = checkpoint(connection, "PASSIVE");
            let done = if pages.is_ok_and(|pages| pages > LONG_LOG) { checkpoint(connection, "RESTART") } else { pages };
            if done.is_err() {
                open = None;
            }
        }
    }
}

/// Returns how many pages the log has. Not all of them need have been moved.
fn checkpoint(connection: &Connection, mode: &str) -> Result<i64, ()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(1)).map_err(drop)
}
