//! What happens to a change once it is in memory: it is saved, published to observers, and answered, in that order; what cannot be
//! saved in time is published and answered all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::reply::Reply;
use super::{BanRecord, Change, Engine, Persisted, contain_panic};
use crate::verdict::Verdict;

/// Number of answers sent before their ban was saved for each warning in the log.
const UNSAVED_ANSWERS_PER_WARNING: u64 = 1000;

/// A change that observers are told of once: when it is saved, or when the answer to its cause can wait no longer.
///
/// The changes of one client are published in the order in which they were made: the journal saves them in that order, and their time limits
/// pass in it.
pub(super) struct Publication {
    change: Change,
    /// Held while observers are told, so that a later change saved meanwhile does not overtake this one.
    is_published: Mutex<bool>,
}

/// Whether the disk stalls: an answer's time limit has passed, and nothing has been saved since the answer began to wait.
#[derive(Debug, Default)]
pub(super) struct DiskProgress {
    /// Number of times that the journal said something is saved.
    saved: AtomicU64,
    /// One more than `saved` was when the last answer whose time limit passed began to wait; 0 if there is none.
    stalled_at: AtomicU64,
}

impl DiskProgress {
    fn saved(&self) -> u64 {
        self.saved.load(Ordering::Relaxed)
    }

    fn acknowledge(&self, persisted: &Persisted) {
        // A change that the journal's full queue turns away says nothing about the disk.
        if *persisted == Persisted::Yes {
            self.saved.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn nothing_saved_since(&self, saved: u64) {
        self.stalled_at.store(saved + 1, Ordering::Relaxed);
    }

    fn is_stalled(&self) -> bool {
        self.stalled_at.load(Ordering::Relaxed) == self.saved() + 1
    }
}

impl Publication {
    pub(super) fn new(change: Change) -> Arc<Self> {
        Arc::new(Self { change, is_published: Mutex::new(false) })
    }

    pub(super) fn publish(&self, engine: &Engine) {
        let mut is_published = self.is_published.lock();
        if !std::mem::replace(&mut *is_published, true) {
            engine.notify_observers(&self.change);
            engine.notify_newer_bans(&self.change);
        }
    }
}

impl Engine {
    /// Answers with a refusal once the ban behind it, which is not saved yet, is; at once while the disk stalls, since such bans have been
    /// answered unsaved already.
    pub fn when_persisted(self: &Arc<Self>, verdict: Verdict, reply: Reply) {
        let Some(journal) = self.journal.get() else { return reply.send(verdict) };
        if self.disk.is_stalled() {
            self.count_unsaved_answer();
            return reply.send(verdict);
        }
        let held = self.deadlines.hold(reply, self.answer_unsaved(verdict.clone()));
        let engine = Arc::clone(self);
        journal.flush(Box::new(move |persisted| {
            engine.disk.acknowledge(&persisted);
            held.settle(verdict);
        }));
    }

    /// Saves and publishes new bans of one client, whose lock the caller holds, then answers.
    pub(super) fn publish_bans(self: &Arc<Self>, bans: Vec<BanRecord>, verdict: Verdict, reply: Reply) {
        if bans.is_empty() {
            return reply.send(verdict);
        }
        {
            let mut records = self.records.lock();
            for record in &bans {
                records.put(record.client, record.clone());
            }
        }
        let changes: Vec<Change> = bans.into_iter().map(Change::Banned).collect();
        if self.journal.get().is_none() {
            changes.iter().for_each(|change| self.notify_observers(change));
            return reply.send(verdict);
        }
        let publications: Vec<Arc<Publication>> = changes.into_iter().map(Publication::new).collect();
        let late = {
            let (engine, publications) = (Arc::clone(self), publications.clone());
            let answer = self.answer_unsaved(verdict.clone());
            move |reply| {
                publications.iter().for_each(|publication| publication.publish(&engine));
                answer(reply);
            }
        };
        let held = self.deadlines.hold(reply, late);
        // The journal keeps the order of the calls: when the last ban is saved, so are the others.
        let mut answer = Some(move || held.settle(verdict));
        let last = publications.len() - 1;
        for (number, publication) in publications.iter().enumerate() {
            let answer = if number == last { answer.take() } else { None };
            self.persist(publication, move |_| {
                answer.map(|answer| answer());
            });
        }
    }

    /// Saves a change, marks its ban as saved, publishes it unless that is done, and calls `done`, in that order. The caller holds the lock
    /// of the client or network.
    pub(super) fn persist(self: &Arc<Self>, publication: &Arc<Publication>, done: impl FnOnce(Persisted) + Send + 'static) {
        let Some(journal) = self.journal.get() else {
            publication.publish(self);
            return done(Persisted::Yes);
        };
        let (engine, publication) = (Arc::clone(self), Arc::clone(publication));
        journal.persist(
            publication.change.clone(),
            Box::new(move |persisted| {
                engine.disk.acknowledge(&persisted);
                match &publication.change {
                    Change::Banned(record) if persisted == Persisted::Yes => engine.bans.mark_saved(record.client, record.until),
                    // A ban made since may have been marked as saved by the same `until`, and the unban removed it from the disk.
                    Change::Unbanned { client, scope, .. } => engine.bans.mark_unsaved(*client, *scope),
                    _ => {}
                }
                publication.publish(&engine);
                done(persisted);
            }),
        );
    }

    /// Publishes the bans of a client or network again after an unban that they may have overtaken: a ban that finds the journal's queue full is published
    /// at once, before an earlier unban that is still waiting in the queue.
    fn notify_newer_bans(&self, change: &Change) {
        if !self.journal.get().is_some_and(|journal| journal.has_overflowed()) {
            return;
        }
        if let Change::NetworkUnbanned { network, at, .. } | Change::NetworkEvicted { network, at } = change {
            let ban = self.policy().lists.banned.get(*network).filter(|ban| ban.is_active(*at) && ban.is_by_count()).cloned();
            if let Some(ban) = ban {
                self.notify_observers(&Change::NetworkBanned(self.network_record_of(&ban)));
            }
        }
        let (clients, at) = match change {
            Change::Unbanned { client, scope, at, .. } => (&[(*client, *scope)][..], *at),
            Change::RuleLifted { clients, at, .. } => (&**clients, *at),
            _ => return,
        };
        for (client, scope) in clients {
            let mut records: Vec<BanRecord> = Vec::new();
            for service in scope.services() {
                let record = self.bans.get(*client, *service, at).map(|ban| self.record_of(*client, *service, ban, at));
                records.extend(record.filter(|record| !records.contains(record)));
            }
            records.into_iter().for_each(|record| self.notify_observers(&Change::Banned(record)));
        }
    }

    pub(super) fn notify_observers(&self, change: &Change) {
        for observer in self.observers.read().iter() {
            // A fault of one must neither keep the change from the others nor turn the refusal that follows into an answer that serves.
            contain_panic("the table", || observer(change));
        }
    }

    /// Sends the verdict on a query whose time limit passed before the ban was saved: the client is refused anyway.
    pub(super) fn answer_unsaved(self: &Arc<Self>, verdict: Verdict) -> impl FnOnce(Reply) + Send + 'static {
        let engine = Arc::clone(self);
        let saved = engine.disk.saved();
        move |reply| {
            engine.disk.nothing_saved_since(saved);
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
