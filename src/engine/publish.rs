//! What happens to a change once it is in memory: it is saved, published to observers, and answered, in that order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::reply::Reply;
use super::{BanRecord, Change, Engine, Persisted};
use crate::verdict::Verdict;

/// Number of answers sent before their ban was saved for each warning in the log.
const UNSAVED_ANSWERS_PER_WARNING: u64 = 1000;

impl Engine {
    /// Answers with a refusal once the ban behind it, which is not saved yet, is.
    pub fn when_persisted(self: &Arc<Self>, verdict: Verdict, reply: Reply) {
        let Some(journal) = self.journal.get() else { return reply.send(verdict) };
        let held = self.deadlines.hold(reply, self.answer_unsaved(verdict.clone()));
        journal.flush(Box::new(move |_| {
            held.settle(verdict);
        }));
    }

    /// Saves and publishes new bans of one client, whose lock the caller holds, then answers.
    pub(super) fn publish_bans(self: &Arc<Self>, mut bans: Vec<BanRecord>, verdict: Verdict, reply: Reply) {
        let Some(last) = bans.pop() else { return reply.send(verdict) };
        {
            let mut records = self.records.lock();
            for record in bans.iter().chain([&last]) {
                records.put(record.client, record.clone());
            }
        }
        for record in bans {
            self.persist(Change::Banned(record), |_| ());
        }
        // The journal keeps the order of the calls: when the last ban is saved, so are the others.
        let change = Change::Banned(last);
        if self.journal.get().is_none() {
            return self.persist(change, move |_| reply.send(verdict));
        }
        let held = self.deadlines.hold(reply, self.answer_unsaved(verdict.clone()));
        self.persist(change, move |_| {
            held.settle(verdict);
        });
    }

    /// Saves a change, marks its ban as saved, publishes it and calls `done`, in that order. The caller holds the lock of the client or
    /// network.
    pub(super) fn persist(self: &Arc<Self>, change: Change, done: impl FnOnce(Persisted) + Send + 'static) {
        let Some(journal) = self.journal.get() else {
            self.notify_observers(&change);
            return done(Persisted::Yes);
        };
        let engine = Arc::clone(self);
        let published = change.clone();
        journal.persist(
            change,
            Box::new(move |persisted| {
                match &published {
                    Change::Banned(record) if persisted == Persisted::Yes => engine.bans.mark_saved(record.client, record.until),
                    // A ban made since may have been marked as saved by the same `until`, and the unban removed it from the disk.
                    Change::Unbanned { client, scope, .. } => engine.bans.mark_unsaved(*client, *scope),
                    _ => {}
                }
                engine.notify_observers(&published);
                engine.notify_newer_bans(&published);
                done(persisted);
            }),
        );
    }

    /// Publishes the bans of a client again after an unban that they may have overtaken: a ban that finds the journal's queue full is published
    /// at once, before an earlier unban that is still waiting in the queue.
    fn notify_newer_bans(&self, change: &Change) {
        let Change::Unbanned { client, scope, at } = change else { return };
        if !self.journal.get().is_some_and(|journal| journal.has_overflowed()) {
            return;
        }
        let mut records: Vec<BanRecord> = Vec::new();
        for service in scope.services() {
            let record = self.bans.get(*client, *service, *at).map(|ban| self.record_of(*client, *service, ban, *at));
            records.extend(record.filter(|record| !records.contains(record)));
        }
        records.into_iter().for_each(|record| self.notify_observers(&Change::Banned(record)));
    }

    pub(super) fn notify_observers(&self, change: &Change) {
        for observer in self.observers.read().iter() {
            observer(change);
        }
    }

    /// Sends the verdict on a query whose time limit passed before the ban was saved: the client is refused anyway.
    fn answer_unsaved(self: &Arc<Self>, verdict: Verdict) -> impl FnOnce(Reply) + Send + 'static {
        let engine = Arc::clone(self);
        move |reply| {
            engine.count_unsaved_answer();
            reply.send(verdict);
        }
    }

    pub(super) fn count_unsaved_answer(&self) {
        if self.stats.unsaved_answers.fetch_add(1, Ordering::Relaxed).is_multiple_of(UNSAVED_ANSWERS_PER_WARNING) {
            log::warn!("the state file is slow or cannot be written: bans are answered before they are saved");
        }
    }
}
