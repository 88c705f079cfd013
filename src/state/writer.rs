//! The writer: one thread that writes what it is handed in groups, and says for each, in order, when the kernel has it.
//!
//! Nobody waits for it: a call returns at once, whatever the disk does. What could not be saved is kept (bounded) and tried again
//! each second, and [`Health`] says so.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::queue::{Answer, Message, Shared};
use super::work::Work;
use super::{Item, Known, Strike};
use crate::engine::{Change, Done, Keeper, Kept};
use crate::log::follow::Position;
use crate::time::{Span, Time};

/// So many submissions may wait; another ban is answered "not saved" at once, and asked for again. That a ban was lifted waits all the same,
/// for nobody could be asked for it: operators and trusted machines of a fleet say so, each once for a ban that stood.
const QUEUE: usize = 16_384;

/// A disk that takes longer is reported as one that fails.
const HUNG: Duration = Duration::from_secs(1);

/// What happens to the state file.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// Something was done that an operator must know of: a file was set aside, say.
    Notice(String),
    /// Saving fails from now on, for this reason.
    Degraded(Arc<str>),
    /// What was kept waiting is saved now, and saving works again.
    Healed,
    /// The file lacks bans that stand in memory: hand them over again, a few thousand at a time, for the queue is bounded.
    Resend {
        /// All of them, because the file is a new one; else those that are not known to be saved, because too many were waiting.
        all: bool,
    },
    /// Another process wrote this; or the file could not be read until now.
    Known(Vec<Known>),
}

/// How the state file does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Why saving fails, if it does.
    pub degraded: Option<Arc<str>>,
    /// How many submissions are kept to be tried again.
    pub unsaved: usize,
    /// How many submissions were saved.
    pub saved: u64,
    /// How many submissions were answered "not saved".
    pub failed: u64,
}

/// The writer's handle. It ends, after writing what it holds, when the handle is dropped.
pub struct Writer {
    sender: Sender<Message>,
    ended: Mutex<Receiver<()>>,
    shared: Arc<Shared>,
    path: PathBuf,
}

impl Writer {
    /// Loads the file at `path` into `sink`, on this thread, and starts the writer. `clock` tells table time. `listener` hears of events, at
    /// first on this thread, then on the writer's; it must not wait for the writer.
    ///
    /// A file that cannot be used now is no error: [`Health`] says so, and it is tried again each second. After damage is found `sink` may be
    /// handed a record twice.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        path: PathBuf,
        clock: impl Fn() -> Time + Send + 'static,
        listener: impl FnMut(News) + Send + 'static,
        sink: &mut dyn FnMut(Known),
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, receiver) = channel();
        let (ending, ended) = sync_channel(1);
        let mut work = Work::new(path.clone(), Box::new(clock), Box::new(listener), Arc::clone(&shared))?;
        work.load(sink);
        thread::Builder::new().name("state".into()).spawn(move || {
            work.run(&receiver);
            drop(work);
            let _ = ending.send(());
        })?;
        Ok(Self { sender, ended: Mutex::new(ended), shared, path })
    }

    /// Hands over counters. They are written while no ban is waiting, in several steps; those that fail are not tried again.
    pub fn keep_strikes(&self, strikes: Vec<Strike>, done: Done) {
        self.send(Message::Strikes(strikes, Answer::by(done)));
    }

    /// Hands over how far the log of `path` has been read. It is written after all changes that were handed over before, and given up if
    /// those cannot be.
    pub fn keep_position(&self, path: String, position: Position, done: Done) {
        self.send(Message::Save(Some(Item::Position(path, position)), Answer::by(done)));
    }

    /// How long a client's earlier bans count: the longest time of all rules whose bantime grows. Nothing, as at first, keeps none.
    pub fn set_forget(&self, forget: Span) {
        self.shared.forget.store(forget.millis(), Ordering::Relaxed);
    }

    fn send(&self, message: Message) {
        let is_full = self.shared.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE;
        let is_ban = matches!(message, Message::Save(Some(Item::Change(Change::Banned(_))), _));
        match message {
            Message::Save(Some(Item::Change(Change::Banned(_)) | Item::Position(..)) | None, answer) | Message::Strikes(_, answer)
                if is_full =>
            {
                self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                self.shared.overflowed.store(true, Ordering::Relaxed);
                self.shared.has_overflowed.fetch_or(is_ban, Ordering::Relaxed);
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
                answer.send(Kept::No(format!("{}: too many bans wait for the disk", self.path.display())));
            }
            // Where the writer has ended the message is dropped, which answers it.
            message => drop(self.sender.send(message)),
        }
    }

    /// How the state file does now.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut degraded = self.shared.degraded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let working = self.shared.working_since.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed());
        if let Some(working) = working.filter(|working| degraded.is_none() && *working > HUNG) {
            degraded = Some(format!("{}: no answer from the disk for {} s", self.path.display(), working.as_secs()).into());
        }
        Health {
            degraded,
            unsaved: usize::try_from(self.shared.unsaved.load(Ordering::Relaxed)).unwrap_or(usize::MAX),
            saved: self.shared.saved.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
        }
    }

    /// Writes all that was submitted, closes the file, and ends the writer; what is submitted later is not saved. Waits for at most `limit`,
    /// and returns whether that was enough. Nothing that was answered "saved" is lost if not.
    pub fn finish(&self, limit: Duration) -> bool {
        self.shared.finish.store(true, Ordering::Relaxed);
        // Only to wake it.
        self.send(Message::Finish);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(limit);
        !matches!(ended, Err(RecvTimeoutError::Timeout))
    }
}

/// What is handed over is written in the order of the calls, and `done` is called in that order, on the writer's thread; or at once, on the
/// caller's, if too much is waiting. It must not wait.
impl Keeper for Writer {
    fn keep(&self, change: Change, done: Done) {
        self.send(Message::Save(Some(Item::Change(change)), Answer::by(done)));
    }

    fn flush(&self, done: Done) {
        self.send(Message::Save(None, Answer::by(done)));
    }

    fn has_overflowed(&self) -> bool {
        self.shared.has_overflowed.load(Ordering::Relaxed)
    }
}
