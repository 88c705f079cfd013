//! What the writer's handle and its thread share: requests, their acknowledgements, and the thread's status.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Instant;

use parking_lot::Mutex;

use super::{StoredStrikes, WriteItem, WriterEvent};
use crate::engine::{OnPersisted, Persisted, contain_panic};

/// The callback of one request. It is called exactly once: if it is dropped, it reports that the request was not saved.
pub(super) struct Acknowledgement(Option<OnPersisted>);

impl Acknowledgement {
    pub(super) fn new(on_persisted: OnPersisted) -> Self {
        Self(Some(on_persisted))
    }

    pub(super) fn send(mut self, persisted: Persisted) {
        if let Some(on_persisted) = self.0.take() {
            contain_panic("the state file's writer", || on_persisted(persisted));
        }
    }
}

impl Drop for Acknowledgement {
    fn drop(&mut self) {
        if let Some(on_persisted) = self.0.take() {
            contain_panic("the state file's writer", || {
                on_persisted(Persisted::No(String::from("the writer of the state file has ended")))
            });
        }
    }
}

/// A request of a group: what to save (`None` for a flush), and its acknowledgement.
pub(super) type Submission = (Option<WriteItem>, Acknowledgement);

pub(super) enum WriterRequest {
    Save(Submission),
    SaveStrikes(Vec<StoredStrikes>, Acknowledgement),
    /// Wakes the thread so that it sees [`WriterStatus::finish`].
    Finish,
}

/// State shared between the thread and its handle.
#[derive(Default)]
pub(super) struct WriterStatus {
    /// Why saving fails, if it does.
    pub(super) degraded: Mutex<Option<Arc<str>>>,
    /// When the thread began what it is doing now; `None` while it waits for requests.
    pub(super) working_since: Mutex<Option<Instant>>,
    /// The number of changes in the backlog.
    pub(super) unsaved: AtomicU64,
    /// How long earlier bans count, in milliseconds.
    pub(super) forget: AtomicU64,
    pub(super) saved: AtomicU64,
    pub(super) failed: AtomicU64,
    /// The number of requests that the thread has not taken yet.
    pub(super) waiting: AtomicUsize,
    /// Whether a request was rejected since a resend of bans was last requested.
    pub(super) overflowed: AtomicBool,
    /// Whether a ban was ever rejected.
    pub(super) has_overflowed: AtomicBool,
    pub(super) finish: AtomicBool,
}

/// Publishes what happens to the file.
pub(super) struct EventPublisher(Box<dyn FnMut(WriterEvent) + Send>);

impl EventPublisher {
    pub(super) fn new(on_event: impl FnMut(WriterEvent) + Send + 'static) -> Self {
        Self(Box::new(on_event))
    }

    pub(super) fn publish(&mut self, event: WriterEvent) {
        contain_panic("the state file's writer", || (self.0)(event));
    }
}
