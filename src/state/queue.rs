//! What the writer's handle and its thread have in common: submissions, their answers, and what the handle tells of the thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Item, Strike};
use crate::engine::{Done, Kept};

/// What waits for a submission. It is answered exactly once: dropped unanswered, it says "not saved".
pub(super) struct Answer(Option<Done>);

impl Answer {
    pub(super) fn by(done: Done) -> Self {
        Self(Some(done))
    }

    pub(super) fn send(mut self, kept: Kept) {
        if let Some(done) = self.0.take() {
            contain(|| done(kept));
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            contain(|| done(Kept::No(String::from("the writer of the state file has ended"))));
        }
    }
}

pub(super) type Submission = (Option<Item>, Answer);

pub(super) enum Message {
    /// Nothing to save: a flush.
    Save(Option<Item>, Answer),
    Strikes(Vec<Strike>, Answer),
    Finish,
}

/// What the thread and its owner share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) degraded: Mutex<Option<Arc<str>>>,
    pub(super) working_since: Mutex<Option<Instant>>,
    pub(super) unsaved: AtomicU64,
    /// Milliseconds.
    pub(super) forget: AtomicU64,
    pub(super) saved: AtomicU64,
    pub(super) failed: AtomicU64,
    /// How many messages the thread has not taken yet.
    pub(super) waiting: AtomicUsize,
    /// Something was turned away since bans were last asked for.
    pub(super) overflowed: AtomicBool,
    /// A ban ever was.
    pub(super) has_overflowed: AtomicBool,
    pub(super) finish: AtomicBool,
}

/// Runs what another part handed over: its panic is not the writer's.
pub(super) fn contain(call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        log::error!("a panic while telling that a ban was saved was contained");
    }
}
