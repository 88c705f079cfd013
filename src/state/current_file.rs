//! The state file that the writer uses now: opens it, follows its path, and replaces it once it is damaged.

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use super::queue::EventPublisher;
use super::{Cursor, Loaded, StateError, Store, WriteItem, WriterEvent};
use crate::engine::Change;
use crate::time::Time;

/// Number of records that the loading thread passes on at a time, and how many such batches it may be ahead.
const BATCH_SIZE: usize = 1024;
const BATCHES_AHEAD: usize = 16;

/// Attempts to save a group while other processes hold the write lock.
const BUSY_ATTEMPTS: usize = 5;

/// Minimum time between two quarantined files: a disk that damages every file must not fill up with them.
const QUARANTINE_INTERVAL: Duration = Duration::from_secs(60);

/// The file at a path, and what is remembered of it when it is closed and opened again.
pub(super) struct CurrentFile {
    path: PathBuf,
    /// `None` while the file cannot be used.
    store: Option<Store>,
    /// The [`Store::file_number`] of the file that was last used.
    file_number: Option<i64>,
    /// The number that marks this process's rows, the same in every file.
    writer: Option<i64>,
    /// How far the file has been read; `None` if it was never loaded.
    cursor: Option<Cursor>,
    /// Whether a new file took the place of the one used before.
    is_new: bool,
    quarantined_at: Option<Instant>,
}

impl CurrentFile {
    /// The file at `path`, not opened yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, store: None, file_number: None, writer: None, cursor: None, is_new: false, quarantined_at: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.store.is_some()
    }

    pub(super) fn open_store(&mut self) -> Result<&mut Store, StateError> {
        self.store.as_mut().ok_or_else(|| StateError::Unavailable(format!("{}: not open", self.path.display())))
    }

    /// Closes the file: after a failure the next attempt needs a new connection, because the old one may have lost its file.
    pub(super) fn close(&mut self) {
        self.store = None;
    }

    /// Whether a new file took the place of the one used before since the last call. It lacks the bans in memory.
    pub(super) fn take_is_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// Opens the file, and finds out whether it is the one that was used before.
    pub(super) fn open(&mut self, now: Time, events: &mut EventPublisher) -> Result<(), StateError> {
        let (store, notices) = Store::open(&self.path, now)?;
        self.adopt(store, notices, events);
        Ok(())
    }

    fn adopt(&mut self, mut store: Store, notices: Vec<String>, events: &mut EventPublisher) {
        store.share_writer(&mut self.writer);
        if !notices.is_empty() {
            self.quarantined_at = Some(Instant::now());
        }
        notices.into_iter().for_each(|notice| events.publish(WriterEvent::Notice(notice)));
        if self.file_number.is_some_and(|used| used != store.file_number()) {
            self.is_new = true;
            // Everything that other processes have put into the new file is unknown here.
            self.cursor = Some(Cursor::default());
        }
        self.file_number = Some(store.file_number());
        self.store = Some(store);
    }

    /// Loads the open file into `sink` if it was never loaded. If that finds damage, the file is replaced and loading tried once more.
    pub(super) fn load(&mut self, now: Time, sink: &mut dyn FnMut(Loaded), events: &mut EventPublisher) -> Result<(), StateError> {
        for attempt in 0..2 {
            let Some(store) = &mut self.store else { break };
            if self.cursor.is_some() {
                break;
            }
            match load_on_thread(store, now, sink) {
                Ok(cursor) => self.cursor = Some(cursor),
                Err(failure @ StateError::Corrupt(_)) if attempt == 0 => {
                    self.replace_damaged(failure, now, events)?;
                    // What was recovered has not been loaded: strikes, earlier bans and log positions as little as bans.
                    self.cursor = None;
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Loads a file that cannot be written: its bans are still in force.
    pub(super) fn load_read_only(&mut self, now: Time, sink: &mut dyn FnMut(Loaded)) {
        if let Ok(mut store) = Store::open_read_only(&self.path) {
            self.file_number = Some(store.file_number());
            self.cursor = store.load(now, sink).ok();
        }
    }

    /// Quarantines the damaged file and starts a new one; returns `failure` if another file was quarantined too recently.
    fn replace_damaged(&mut self, failure: StateError, now: Time, events: &mut EventPublisher) -> Result<(), StateError> {
        if self.quarantined_at.is_some_and(|last| last.elapsed() < QUARANTINE_INTERVAL) {
            return Err(failure);
        }
        let Some(store) = self.store.take() else { return Err(failure) };
        let (store, notices) = store.replace_damaged(now)?;
        self.adopt(store, notices, events);
        Ok(())
    }

    /// Switches to the file that the path names now, if it is another one.
    pub(super) fn follow_path(&mut self, now: Time, events: &mut EventPublisher) -> Result<(), StateError> {
        if self.store.as_ref().is_some_and(Store::was_replaced) {
            self.store = None;
            self.open(now, events)?;
        }
        Ok(())
    }

    /// Saves `items` in one transaction. If that finds damage, the file is replaced and the transaction repeated.
    pub(super) fn save<'a>(
        &mut self,
        items: impl Iterator<Item = &'a WriteItem> + Clone,
        earlier_bans: bool,
        now: Time,
        events: &mut EventPublisher,
    ) -> Result<(), StateError> {
        let store = self.open_store()?;
        let mut result = store.save(items.clone(), earlier_bans);
        for _ in 1..BUSY_ATTEMPTS {
            if !matches!(result, Err(StateError::Busy(_))) {
                break;
            }
            result = store.save(items.clone(), earlier_bans);
        }
        if let Err(failure @ StateError::Corrupt(_)) = result {
            self.replace_damaged(failure, now, events)?;
            result = self.open_store()?.save(items, earlier_bans);
        }
        result
    }

    /// What other processes wrote since the last call. An error means that the damaged file could not be replaced.
    pub(super) fn new_changes(&mut self, now: Time, events: &mut EventPublisher) -> Result<Vec<Change>, StateError> {
        let (Some(store), Some(cursor)) = (&mut self.store, &mut self.cursor) else { return Ok(Vec::new()) };
        match store.changes_since(cursor, now) {
            Ok(changes) => Ok(changes),
            Err(failure @ StateError::Corrupt(_)) => self.replace_damaged(failure, now, events).map(|()| Vec::new()),
            // The next poll reads again. Whether the disk works shows when something is written.
            Err(_) => Ok(Vec::new()),
        }
    }
}

/// Reads on a second thread while this one passes records to `sink`: with a million bans both take about as long.
fn load_on_thread(store: &mut Store, now: Time, sink: &mut dyn FnMut(Loaded)) -> Result<Cursor, StateError> {
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(BATCHES_AHEAD);
        let load = move || {
            let mut batch = Vec::with_capacity(BATCH_SIZE);
            let cursor = store.load(now, &mut |loaded| {
                batch.push(loaded);
                if batch.len() == BATCH_SIZE {
                    // Sending fails only after `sink` has panicked, and then the process does not start.
                    let _ = sender.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH_SIZE)));
                }
            });
            let _ = sender.send(batch);
            cursor
        };
        let started = thread::Builder::new().name("load".into()).spawn_scoped(scope, load);
        let loading = started.map_err(|error| StateError::Unavailable(format!("cannot start a thread: {error}")))?;
        receiver.into_iter().flatten().for_each(sink);
        loading.join().unwrap_or_else(|_| Err(StateError::Unavailable(String::from("panic while loading the state file"))))
    })
}
