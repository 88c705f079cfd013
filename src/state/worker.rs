//! The writer's thread: groups requests into transactions, retries what failed, and reads what other processes wrote.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::checkpoint::Checkpointer;
use super::current_file::CurrentFile;
use super::queue::{Acknowledgement, EventPublisher, Submission, WriterRequest, WriterStatus};
use super::{Loaded, StateError, StoredStrikes, WriteItem, WriterEvent};
use crate::clock::Clock;
use crate::engine::{Change, Persisted};
use crate::time::Span;

/// A group is closed after this time or this many requests, whichever comes first.
const GROUP_TIME: Duration = Duration::from_millis(5);
const GROUP_SIZE: usize = 1000;

/// Number of strikes written at a time: few, because bans may be waiting.
const STRIKES_AT_ONCE: usize = 500;

/// How often changes of other processes are read.
const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// How often a failed disk is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum time between two requests to resend bans.
const RESEND_INTERVAL: Duration = Duration::from_secs(1);
/// How often ended rows are removed, and how many rows of each table are examined then.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
const SWEEP_ROWS: u32 = 2000;

/// Maximum number of changes kept while they cannot be saved: about 40 MB.
const MAX_BACKLOG: usize = 100_000;

/// Everything that the thread owns.
pub(super) struct StateWorker {
    file: CurrentFile,
    clock: Clock,
    events: EventPublisher,
    status: Arc<WriterStatus>,
    checkpointer: Checkpointer,
    /// Whether something was written since the checkpointer was woken.
    written: bool,
    /// Changes that could not be saved yet, in order.
    backlog: VecDeque<WriteItem>,
    /// The bans that the owner is asked to queue again once saving works.
    resend: Option<Resend>,
    strikes: VecDeque<(std::vec::IntoIter<StoredStrikes>, Acknowledgement)>,
    next_poll: Instant,
    next_retry: Instant,
    next_sweep: Instant,
    next_resend: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Resend {
    Unsaved,
    All,
}

impl StateWorker {
    /// A worker for the file at `path`, which is not opened yet.
    pub(super) fn new(path: PathBuf, clock: Clock, events: EventPublisher, status: Arc<WriterStatus>) -> std::io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            checkpointer: Checkpointer::start(path.clone())?,
            file: CurrentFile::new(path),
            clock,
            events,
            status,
            written: false,
            backlog: VecDeque::new(),
            resend: None,
            strikes: VecDeque::new(),
            next_poll: now,
            next_retry: now,
            next_sweep: now + SWEEP_INTERVAL,
            next_resend: now,
        })
    }

    /// Opens and loads the file for the first time, on the owner's thread.
    pub(super) fn load(&mut self, sink: &mut dyn FnMut(Loaded)) {
        let now = self.clock.now();
        let loaded = self.file.open(now, &mut self.events).and_then(|()| self.file.load(now, sink, &mut self.events));
        if let Err(failure) = loaded {
            self.file.close();
            self.file.load_read_only(now, sink);
            self.degrade(&failure);
        }
    }

    /// Serves requests until the handle is dropped or asks for the end.
    pub(super) fn run(&mut self, receiver: &Receiver<WriterRequest>) {
        loop {
            self.set_working(false);
            let group = self.collect(receiver);
            self.set_working(true);
            let (idle, ended) = match &group {
                Ok(group) => (group.is_empty(), false),
                Err(RecvTimeoutError::Timeout) => (true, false),
                Err(RecvTimeoutError::Disconnected) => (true, true),
            };
            if let Ok(group) = group {
                self.save_group(group);
            }
            if idle && !self.strikes.is_empty() {
                self.save_some_strikes();
            } else if idle && (ended || self.status.finish.load(Ordering::Relaxed)) {
                self.retry();
                return;
            }
            self.tick();
        }
    }

    /// Records since when the thread has been busy, so that the handle can tell that the disk hangs.
    fn set_working(&self, working: bool) {
        *self.status.working_since.lock() = working.then(Instant::now);
    }

    /// Waits for a request and takes all that are queued, up to the limits of a group.
    fn collect(&mut self, receiver: &Receiver<WriterRequest>) -> Result<Vec<Submission>, RecvTimeoutError> {
        let mut group = Vec::new();
        let is_busy = !self.strikes.is_empty() || self.status.finish.load(Ordering::Relaxed);
        let mut next = Some(receiver.recv_timeout(if is_busy { Duration::ZERO } else { POLL_INTERVAL })?);
        let begin = Instant::now();
        while let Some(request) = next {
            self.status.waiting.fetch_sub(1, Ordering::Relaxed);
            match request {
                WriterRequest::Save(submission) => group.push(submission),
                WriterRequest::SaveStrikes(strikes, acknowledgement) => self.strikes.push_back((strikes.into_iter(), acknowledgement)),
                WriterRequest::Finish => {}
            }
            next = if group.len() < GROUP_SIZE && begin.elapsed() < GROUP_TIME { receiver.try_recv().ok() } else { None };
        }
        Ok(group)
    }

    fn save_group(&mut self, group: Vec<Submission>) {
        if group.is_empty() {
            return;
        }
        self.follow_path();
        match self.save(group.iter().filter_map(|(item, _)| item.as_ref())) {
            Ok(()) => {
                let changes = group.iter().filter(|(change, _)| change.is_some()).count();
                self.status.saved.fetch_add(u64::try_from(changes).unwrap_or(0), Ordering::Relaxed);
                group.into_iter().for_each(|(_, acknowledgement)| acknowledgement.send(Persisted::Yes));
            }
            // SQLite rejects one of the items: save them one by one, so that the others do not fail with it.
            Err(StateError::Refused(_)) if group.len() > 1 => group.into_iter().for_each(|one| self.save_group(vec![one])),
            Err(failure) => {
                let refused = matches!(failure, StateError::Refused(_));
                if !refused {
                    self.degrade(&failure);
                }
                self.status.failed.fetch_add(group.len() as u64, Ordering::Relaxed);
                let reason = failure.to_string();
                for (item, acknowledgement) in group {
                    if let Some(WriteItem::Change(change)) = item
                        && !refused
                    {
                        self.defer(change);
                    }
                    acknowledgement.send(Persisted::No(reason.clone()));
                }
            }
        }
    }

    /// Switches to the file that the path names now, if it is another one.
    fn follow_path(&mut self) {
        if let Err(failure) = self.file.follow_path(self.clock.now(), &mut self.events) {
            self.degrade(&failure);
        }
    }

    fn save<'a>(&mut self, items: impl Iterator<Item = &'a WriteItem> + Clone) -> Result<(), StateError> {
        if !self.file.is_open() {
            return Err(self.not_open());
        }
        if items.clone().next().is_none() {
            return Ok(());
        }
        let earlier_bans = self.status.forget.load(Ordering::Relaxed) > 0;
        let result = self.file.save(items, earlier_bans, self.clock.now(), &mut self.events);
        self.written |= result.is_ok();
        result
    }

    /// The error for a request that finds the file closed: the reason why it was closed.
    fn not_open(&self) -> StateError {
        let reason = self.status.degraded.lock().clone();
        StateError::Unavailable(reason.map_or_else(|| String::from("the state file is not open"), |reason| reason.to_string()))
    }

    fn degrade(&mut self, failure: &StateError) {
        let reason: Arc<str> = failure.to_string().into();
        self.file.close();
        let before = self.status.degraded.lock().replace(Arc::clone(&reason));
        if before.is_none() {
            self.next_retry = Instant::now() + RETRY_INTERVAL;
        }
        if before.is_none_or(|before| before != reason) {
            self.events.publish(WriterEvent::Degraded(reason));
        }
    }

    /// Puts a change that cannot be saved now into the backlog.
    fn defer(&mut self, change: Change) {
        // A ban stays in memory and can be queued again later; an unban leaves nothing in memory.
        if self.backlog.len() >= MAX_BACKLOG && change.can_be_saved_later() {
            self.resend = self.resend.max(Some(Resend::Unsaved));
            return;
        }
        self.backlog.push_back(WriteItem::Change(change));
        self.status.unsaved.store(self.backlog.len() as u64, Ordering::Relaxed);
    }

    /// If the last attempt to save failed, reopens the file and saves the backlog.
    fn retry(&mut self) {
        let is_degraded = self.status.degraded.lock().is_some();
        if !is_degraded {
            return;
        }
        if let Err(failure) = self.reopen() {
            self.degrade(&failure);
            return;
        }
        // Number of items still to be saved one by one, because SQLite rejected one of them.
        let mut one_by_one = 0_usize;
        while !self.backlog.is_empty() {
            let size = if one_by_one > 0 { 1 } else { self.backlog.len().min(GROUP_SIZE) };
            one_by_one = one_by_one.saturating_sub(1);
            let batch: Vec<WriteItem> = self.backlog.drain(..size).collect();
            if let Err(failure) = self.save(batch.iter()) {
                let is_refused = matches!(failure, StateError::Refused(_));
                if is_refused && size > 1 {
                    one_by_one = size;
                }
                // An item that SQLite rejects is dropped: it would be rejected each time.
                if !is_refused || size > 1 {
                    batch.into_iter().rev().for_each(|item| self.backlog.push_front(item));
                }
                if !is_refused {
                    self.degrade(&failure);
                    return;
                }
            }
            self.status.unsaved.store(self.backlog.len() as u64, Ordering::Relaxed);
        }
        *self.status.degraded.lock() = None;
        self.events.publish(WriterEvent::Recovered);
    }

    fn reopen(&mut self) -> Result<(), StateError> {
        let now = self.clock.now();
        if !self.file.is_open() {
            self.file.open(now, &mut self.events)?;
        }
        let mut loaded = Vec::new();
        self.file.load(now, &mut |record| loaded.push(record), &mut self.events)?;
        if !loaded.is_empty() {
            self.events.publish(WriterEvent::Changed(loaded));
        }
        // Opening succeeds even on a full disk.
        self.file.open_store()?.probe()
    }

    fn save_some_strikes(&mut self) {
        let Some((mut strikes, acknowledgement)) = self.strikes.pop_front() else { return };
        let Ok(store) = self.file.open_store() else {
            acknowledgement.send(Persisted::No(self.not_open().to_string()));
            return;
        };
        let some: Vec<StoredStrikes> = strikes.by_ref().take(STRIKES_AT_ONCE).collect();
        match store.save_strikes(&some) {
            Ok(()) if strikes.len() > 0 => self.strikes.push_front((strikes, acknowledgement)),
            Ok(()) => acknowledgement.send(Persisted::Yes),
            Err(failure) => {
                acknowledgement.send(Persisted::No(failure.to_string()));
                self.degrade(&failure);
            }
        }
        self.written = true;
    }

    /// Does the periodic work that is due, between two groups.
    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.next_retry {
            self.next_retry = now + RETRY_INTERVAL;
            self.retry();
            if std::mem::take(&mut self.written) {
                self.checkpointer.wake();
            }
        }
        if now >= self.next_poll {
            self.next_poll = now + POLL_INTERVAL;
            self.poll();
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            let forget = Span::from_millis(self.status.forget.load(Ordering::Relaxed));
            // An error is not reported here: the next write meets the same fault and reports it.
            let removed = self.file.open_store().and_then(|store| store.sweep(self.clock.now(), forget, SWEEP_ROWS));
            self.written |= removed.is_ok_and(|removed| removed > 0);
        }
        if self.file.is_open() {
            self.request_resend(now);
        }
    }

    /// Asks the owner for bans that the file lacks.
    fn request_resend(&mut self, now: Instant) {
        if self.file.take_is_new() {
            self.resend = Some(Resend::All);
        }
        if self.status.overflowed.swap(false, Ordering::Relaxed) {
            self.resend = self.resend.max(Some(Resend::Unsaved));
        }
        if now >= self.next_resend
            && let Some(resend) = self.resend.take()
        {
            self.next_resend = now + RESEND_INTERVAL;
            self.events.publish(WriterEvent::Resend { all: resend == Resend::All });
        }
    }

    /// Publishes what other processes wrote.
    fn poll(&mut self) {
        self.follow_path();
        match self.file.new_changes(self.clock.now(), &mut self.events) {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => self.events.publish(WriterEvent::Changed(changes.into_iter().map(Loaded::Change).collect())),
            Err(failure) => self.degrade(&failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Client, Ipv6Prefix};
    use crate::engine::NetworkRecord;
    use crate::engine::fixtures::record;
    use crate::rule::Evidence;
    use crate::table::Until;

    fn ban(address: &str, now: crate::time::Time) -> WriteItem {
        let client = Client::of(address.parse().unwrap(), Ipv6Prefix::default());
        WriteItem::Change(Change::Banned(record(client, now)))
    }

    #[test]
    fn a_full_backlog_takes_no_bans_by_rules_and_asks_for_them_later() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::start();
        let status = Arc::<WriterStatus>::default();
        let mut worker = StateWorker::new(folder.path().join("state.db"), clock, EventPublisher::new(|_| ()), status).unwrap();
        worker.backlog.extend((0..MAX_BACKLOG).map(|_| WriteItem::Change(Change::Resumed)));
        let network =
            NetworkRecord::manual("198.51.100.0/24".parse::<crate::geo::Network>().unwrap(), clock.now(), Until::NEVER, Evidence::new(&[]));
        worker.defer(Change::NetworkBanned(network.clone()));
        assert_eq!((worker.backlog.len(), worker.resend), (MAX_BACKLOG + 1, None), "one by hand is kept");
        worker.defer(Change::NetworkBanned(NetworkRecord { members: 3, ..network }));
        assert_eq!((worker.backlog.len(), worker.resend), (MAX_BACKLOG + 1, Some(Resend::Unsaved)));
    }

    #[test]
    fn the_backlog_is_saved_without_the_item_that_sqlite_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let (clock, status) = (Clock::start(), Arc::<WriterStatus>::default());
        let (sender, events) = std::sync::mpsc::channel();
        let publisher = EventPublisher::new(move |event| sender.send(event).unwrap());
        let mut worker = StateWorker::new(path.clone(), clock, publisher, Arc::clone(&status)).unwrap();
        worker.load(&mut |_| ());
        // 192.0.2.2 alone is refused, in the middle of its batch.
        let other = rusqlite::Connection::open(&path).unwrap();
        let refuse =
            "CREATE TRIGGER refuse BEFORE INSERT ON ban WHEN hex(NEW.client) LIKE '%C0000202' BEGIN SELECT RAISE(ABORT, 'no'); END";
        other.execute_batch(refuse).unwrap();
        worker.degrade(&StateError::Unavailable("no disk".to_owned()));
        worker.backlog.extend(["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"].map(|address| ban(address, clock.now())));
        worker.retry();
        assert_eq!(events.try_iter().collect::<Vec<_>>(), [WriterEvent::Degraded("no disk".into()), WriterEvent::Recovered]);
        assert_eq!((worker.backlog.len(), status.unsaved.load(Ordering::Relaxed)), (0, 0));
        assert_eq!(*status.degraded.lock(), None);
        let mut saved = other.prepare("SELECT substr(hex(client), -8) FROM ban ORDER BY id").unwrap();
        let saved: Vec<String> = saved.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(saved, ["C0000201", "C0000203", "C0000204"], "the others, in their order");
    }
}
