//! The handle of the writer's thread, which saves requests in groups and acknowledges each one, in order, when the kernel has it.
//!
//! Calls return at once, whatever the disk does. Changes that cannot be saved are kept, up to a limit, and retried each second;
//! [`StateHealth`] says how many there are, and why.

use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use super::queue::{Acknowledgement, EventPublisher, WriterRequest, WriterStatus};
use super::worker::StateWorker;
use super::{Loaded, StoredStrikes, WriteItem};
use crate::clock::Clock;
use crate::engine::{Change, Journal, OnPersisted, Persisted};
use crate::log::follow::Position;
use crate::time::Span;

/// Maximum number of waiting requests. Beyond it, a ban is acknowledged as not saved at once, and the owner is asked for it again later. An
/// unban waits even then, because it leaves nothing in memory that could be asked for. Only operators and other nodes of a fleet make unbans.
/// So does the ban of a network by hand.
const MAX_WAITING: usize = 16_384;

/// How long the disk may take before it is reported as failing.
const HUNG_AFTER: Duration = Duration::from_secs(1);

/// Something that happened to the state file.
#[derive(Debug, Clone, PartialEq)]
pub enum WriterEvent {
    /// Something that an operator must know, for example that a file was quarantined.
    Notice(String),
    /// Saving fails from now on, for this reason.
    Degraded(Arc<str>),
    /// Saving works again, and the backlog has been saved.
    Recovered,
    /// The file lacks bans that are active in memory. The owner should queue them again, a few thousand at a time, because the queue is bounded.
    Resend {
        /// All of them, because the file is new; otherwise those not marked as saved, which were rejected because too many were waiting.
        all: bool,
    },
    /// Records that another process wrote, or that were in the file when it could be read at last.
    Changed(Vec<Loaded>),
}

/// Whether saving works, and how much is unsaved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateHealth {
    /// Why saving fails, if it does.
    pub degraded: Option<Arc<str>>,
    /// Number of changes in the backlog, to be retried.
    pub unsaved: usize,
    /// Number of requests saved at the first attempt.
    pub saved: u64,
    /// Number of requests acknowledged as not saved.
    pub failed: u64,
}

/// The handle. When it is dropped the thread saves what it holds and ends.
pub struct Writer {
    sender: Sender<WriterRequest>,
    ended: Mutex<Receiver<()>>,
    status: Arc<WriterStatus>,
    path: PathBuf,
}

impl Writer {
    /// Loads the file at `path` into `sink`, on this thread, and starts the writer's thread. `on_event` is called on this thread while the
    /// file is loaded, later on the writer's; it must not wait for the writer.
    ///
    /// A file that cannot be used now is not an error: [`StateHealth`] gives the reason, and it is retried each second. If damage is found
    /// while loading, `sink` may get a record twice.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(
        path: PathBuf,
        clock: Clock,
        on_event: impl FnMut(WriterEvent) + Send + 'static,
        sink: &mut dyn FnMut(Loaded),
    ) -> std::io::Result<Self> {
        let status = Arc::new(WriterStatus::default());
        let (sender, receiver) = channel();
        let (ending, ended) = sync_channel(1);
        let mut worker = StateWorker::new(path.clone(), clock, EventPublisher::new(on_event), Arc::clone(&status))?;
        worker.load(sink);
        thread::Builder::new().name("state".into()).spawn(move || {
            worker.run(&receiver);
            // Closes the file, which runs the last checkpoint.
            drop(worker);
            let _ = ending.send(());
        })?;
        Ok(Self { sender, ended: Mutex::new(ended), status, path })
    }

    /// Saves strikes, in steps, while no ban is waiting. A failure is not retried.
    pub fn save_strikes(&self, strikes: Vec<StoredStrikes>, on_persisted: OnPersisted) {
        self.send(WriterRequest::SaveStrikes(strikes, Acknowledgement::new(on_persisted)));
    }

    /// Saves where reading of the log at `path` stopped, after all changes queued before. A failure is not retried.
    pub fn save_position(&self, path: String, position: Position, on_persisted: OnPersisted) {
        self.save(Some(WriteItem::Position(path, position)), on_persisted);
    }

    /// Sets how long earlier bans count: the longest `forget` of all rules whose bantime grows. Zero, the initial value, saves none.
    pub fn set_forget(&self, forget: Span) {
        self.status.forget.store(forget.millis(), Ordering::Relaxed);
    }

    fn save(&self, item: Option<WriteItem>, on_persisted: OnPersisted) {
        self.send(WriterRequest::Save((item, Acknowledgement::new(on_persisted))));
    }

    fn send(&self, request: WriterRequest) {
        let is_full = self.status.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING;
        let is_ban = matches!(&request, WriterRequest::Save((Some(WriteItem::Change(change)), _)) if change.can_be_saved_later());
        let waits_always = matches!(&request, WriterRequest::Save((Some(WriteItem::Change(_)), _)) if !is_ban);
        match request {
            WriterRequest::Save((_, acknowledgement)) | WriterRequest::SaveStrikes(_, acknowledgement) if is_full && !waits_always => {
                self.status.waiting.fetch_sub(1, Ordering::Relaxed);
                self.status.overflowed.store(true, Ordering::Relaxed);
                self.status.has_overflowed.fetch_or(is_ban, Ordering::Relaxed);
                self.status.failed.fetch_add(1, Ordering::Relaxed);
                acknowledgement.send(Persisted::No(format!("{}: too many bans wait for the disk", self.path.display())));
            }
            // If the thread has ended the request is dropped, which acknowledges it as not saved.
            request => drop(self.sender.send(request)),
        }
    }

    /// Whether saving works, and how much is unsaved.
    #[must_use]
    pub fn health(&self) -> StateHealth {
        let mut degraded = self.status.degraded.lock().clone();
        let working = self.status.working_since.lock().map(|since| since.elapsed());
        if let Some(working) = working.filter(|working| degraded.is_none() && *working > HUNG_AFTER) {
            degraded = Some(format!("{}: no answer from the disk for {} s", self.path.display(), working.as_secs()).into());
        }
        StateHealth {
            degraded,
            unsaved: usize::try_from(self.status.unsaved.load(Ordering::Relaxed)).unwrap_or(usize::MAX),
            saved: self.status.saved.load(Ordering::Relaxed),
            failed: self.status.failed.load(Ordering::Relaxed),
        }
    }

    /// Saves all requests, closes the file, and ends the thread; later requests are not saved. Waits for at most `limit`, and returns
    /// whether that was enough. If not, nothing acknowledged as saved is lost.
    pub fn finish(&self, limit: Duration) -> bool {
        self.status.finish.store(true, Ordering::Relaxed);
        self.send(WriterRequest::Finish);
        let ended = self.ended.lock().recv_timeout(limit);
        !matches!(ended, Err(RecvTimeoutError::Timeout))
    }
}

/// Requests are saved and acknowledged in the order of the calls, on the writer's thread; a request that is rejected is acknowledged at
/// once, on the caller's. A callback must not block.
impl Journal for Writer {
    fn persist(&self, change: Change, on_persisted: OnPersisted) {
        self.save(Some(WriteItem::Change(change)), on_persisted);
    }

    fn flush(&self, on_persisted: OnPersisted) {
        self.save(None, on_persisted);
    }

    fn has_overflowed(&self) -> bool {
        self.status.has_overflowed.load(Ordering::Relaxed)
    }
}
