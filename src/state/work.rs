//! The writer's thread: groups what is handed over into transactions, tries again what failed, and looks at what other processes wrote.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::checkpoint::Checkpointer;
use super::queue::{Answer, Message, Shared, Submission, contain};
use super::writer::News;
use super::{Cursor, Failure, Item, Known, Store, Strike};
use crate::engine::{Change, Kept};
use crate::time::{Span, Time};

/// A group is closed after this time or this many submissions, whichever comes first.
const GROUP_TIME: Duration = Duration::from_millis(5);
const GROUP_SIZE: usize = 1000;

/// Loading hands over so many records at a time, and is so many batches ahead at most.
const BATCH: usize = 1024;
const BATCHES: usize = 16;

/// So many counters are written at a time: few, because a ban may be waiting.
const STRIKES_AT_ONCE: usize = 500;

/// How often others' changes are looked for, a failed disk is tried again, bans are asked for again at most, and ended rows are removed.
const LOOK: Duration = Duration::from_millis(400);
const RETRY: Duration = Duration::from_secs(1);
const RESEND: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(10);
const SWEPT_AT_ONCE: u32 = 2000;

/// So many changes that could not be saved are kept: some 40 MB at most.
const MOST_UNSAVED: usize = 100_000;

/// So often a save is tried while other processes write.
const BUSY_ATTEMPTS: usize = 5;

/// After setting a damaged file aside, the next one is so long only complained about.
const ASIDE: Duration = Duration::from_secs(60);

pub(super) type Clock = Box<dyn Fn() -> Time + Send>;
pub(super) type Listener = Box<dyn FnMut(News) + Send>;

/// What the thread owns.
pub(super) struct Work {
    path: PathBuf,
    clock: Clock,
    listener: Listener,
    shared: Arc<Shared>,
    checkpointer: Checkpointer,
    /// Whether something was written since the checkpointer was woken.
    written: bool,
    /// None while the file cannot be used.
    store: Option<Store>,
    /// The file that was last used.
    file: Option<i64>,
    /// Marks this process's rows.
    mark: Option<i64>,
    /// How far the file is known; none if it was never read.
    cursor: Option<Cursor>,
    unsaved: VecDeque<Item>,
    /// What the owner must submit again once saving works.
    resend: Option<Resend>,
    strikes: VecDeque<(std::vec::IntoIter<Strike>, Answer)>,
    next_look: Instant,
    next_retry: Instant,
    next_sweep: Instant,
    next_resend: Instant,
    set_aside: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Resend {
    Unsaved,
    All,
}

impl Work {
    /// Nothing is opened yet.
    pub(super) fn new(path: PathBuf, clock: Clock, listener: Listener, shared: Arc<Shared>) -> std::io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            checkpointer: Checkpointer::start(path.clone())?,
            path,
            clock,
            listener,
            shared,
            written: false,
            store: None,
            file: None,
            mark: None,
            cursor: None,
            unsaved: VecDeque::new(),
            resend: None,
            strikes: VecDeque::new(),
            next_look: now,
            next_retry: now,
            next_sweep: now + SWEEP,
            next_resend: now,
            set_aside: None,
        })
    }

    fn now(&self) -> Time {
        (self.clock)()
    }

    fn tell(&mut self, news: News) {
        contain(|| (self.listener)(news));
    }

    /// The first opening, on the owner's thread.
    pub(super) fn load(&mut self, sink: &mut dyn FnMut(Known)) {
        if let Err(failure) = self.open().and_then(|()| self.read(sink)) {
            self.store = None;
            // Bans of a disk that cannot be written still stand.
            if let Ok(mut store) = Store::open_read_only(&self.path) {
                self.file = Some(store.file());
                self.cursor = store.load(self.now(), sink).ok();
            }
            self.degrade(&failure);
        }
    }

    /// Opens the file, and finds out whether it is the one that was used before.
    fn open(&mut self) -> Result<(), Failure> {
        let (store, notices) = Store::open(&self.path, self.now())?;
        self.use_store(store, notices);
        Ok(())
    }

    fn use_store(&mut self, mut store: Store, notices: Vec<String>) {
        store.mark_as(&mut self.mark);
        if !notices.is_empty() {
            self.set_aside = Some(Instant::now());
        }
        for notice in notices {
            self.tell(News::Notice(notice));
        }
        if self.file.is_some_and(|used| used != store.file()) {
            self.resend = Some(Resend::All);
            // All that others have put into the new file is news.
            self.cursor = Some(Cursor::default());
        }
        self.file = Some(store.file());
        self.store = Some(store);
    }

    /// Loads the open file if it was never loaded.
    fn read(&mut self, sink: &mut dyn FnMut(Known)) -> Result<(), Failure> {
        let now = self.now();
        for attempt in 0..2 {
            let Some(store) = &mut self.store else { break };
            if self.cursor.is_some() {
                break;
            }
            match load_beside(store, now, sink) {
                Ok(cursor) => self.cursor = Some(cursor),
                Err(failure @ Failure::Corrupt(_)) if attempt == 0 => self.replace(failure)?,
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Sets the damaged file aside and goes on with a new one.
    fn replace(&mut self, failure: Failure) -> Result<(), Failure> {
        if self.set_aside.is_some_and(|last| last.elapsed() < ASIDE) {
            return Err(failure);
        }
        let Some(store) = self.store.take() else { return Err(failure) };
        let (store, notices) = store.replace_damaged(self.now())?;
        self.use_store(store, notices);
        Ok(())
    }

    pub(super) fn run(&mut self, receiver: &Receiver<Message>) {
        loop {
            self.working(false);
            let group = self.collect(receiver);
            self.working(true);
            let (idle, ended) = match &group {
                Ok(group) => (group.is_empty(), false),
                Err(RecvTimeoutError::Timeout) => (true, false),
                Err(RecvTimeoutError::Disconnected) => (true, true),
            };
            if let Ok(group) = group {
                self.group(group);
            }
            if idle && !self.strikes.is_empty() {
                self.some_strikes();
            } else if idle && (ended || self.shared.finish.load(Ordering::Relaxed)) {
                self.retry();
                return;
            }
            self.tick();
        }
    }

    /// Says since when the disk may be what is waited for.
    fn working(&self, working: bool) {
        *self.shared.working_since.lock().unwrap_or_else(PoisonError::into_inner) = working.then(Instant::now);
    }

    /// Waits for submissions and takes all that are there, up to the limits of a group.
    fn collect(&mut self, receiver: &Receiver<Message>) -> Result<Vec<Submission>, RecvTimeoutError> {
        let mut group = Vec::new();
        let wait = if self.strikes.is_empty() && !self.shared.finish.load(Ordering::Relaxed) { LOOK } else { Duration::ZERO };
        let mut next = Some(receiver.recv_timeout(wait)?);
        let begin = Instant::now();
        while let Some(message) = next {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            match message {
                Message::Save(item, answer) => group.push((item, answer)),
                Message::Strikes(strikes, answer) => self.strikes.push_back((strikes.into_iter(), answer)),
                Message::Finish => {}
            }
            next = if group.len() < GROUP_SIZE && begin.elapsed() < GROUP_TIME { receiver.try_recv().ok() } else { None };
        }
        Ok(group)
    }

    /// Goes on with the file that the path names, if that is another one than before.
    fn follow_path(&mut self) {
        if self.store.as_ref().is_some_and(Store::was_replaced) {
            self.store = None;
            if let Err(failure) = self.open() {
                self.degrade(&failure);
            }
        }
    }

    fn group(&mut self, group: Vec<Submission>) {
        if group.is_empty() {
            return;
        }
        self.follow_path();
        match self.save(group.iter().filter_map(|(item, _)| item.as_ref())) {
            Ok(()) => {
                self.shared.saved.fetch_add(group.len() as u64, Ordering::Relaxed);
                group.into_iter().for_each(|(_, answer)| answer.send(Kept::Yes));
            }
            // One of them is at fault: the others shall not suffer for it.
            Err(Failure::Refused(_)) if group.len() > 1 => group.into_iter().for_each(|one| self.group(vec![one])),
            Err(failure) => {
                let refused = matches!(failure, Failure::Refused(_));
                if !refused {
                    self.degrade(&failure);
                }
                self.shared.failed.fetch_add(group.len() as u64, Ordering::Relaxed);
                let why = failure.to_string();
                for (item, answer) in group {
                    match item {
                        Some(Item::Change(change)) if !refused => self.put_off(change),
                        _ => {}
                    }
                    answer.send(Kept::No(why.clone()));
                }
            }
        }
    }

    /// One transaction. Damage that it meets is set aside, and the transaction made once more.
    fn save<'a>(&mut self, items: impl Iterator<Item = &'a Item> + Clone) -> Result<(), Failure> {
        let Some(store) = &mut self.store else { return Err(Failure::Unavailable(self.why())) };
        if items.clone().next().is_none() {
            return Ok(());
        }
        let histories = self.shared.forget.load(Ordering::Relaxed) > 0;
        let mut result = store.save(items.clone(), histories);
        for _ in 1..BUSY_ATTEMPTS {
            if !matches!(result, Err(Failure::Busy(_))) {
                break;
            }
            result = store.save(items.clone(), histories);
        }
        if let Err(failure @ Failure::Corrupt(_)) = result {
            result = self.replace(failure).and_then(|()| match &mut self.store {
                Some(store) => store.save(items, histories),
                None => Err(Failure::Unavailable(self.why())),
            });
        }
        self.written |= result.is_ok();
        result
    }

    fn why(&self) -> String {
        let why = self.shared.degraded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        why.map_or_else(|| format!("{}: not open", self.path.display()), |why| why.to_string())
    }

    fn degrade(&mut self, failure: &Failure) {
        let why: Arc<str> = failure.to_string().into();
        // A new connection is tried next time: an old one may have lost its file.
        self.store = None;
        let before = self.shared.degraded.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&why));
        if before.is_none() {
            self.next_retry = Instant::now() + RETRY;
        }
        if before.is_none_or(|before| before != why) {
            self.tell(News::Degraded(why));
        }
    }

    /// Keeps a change that cannot be saved now.
    fn put_off(&mut self, change: Change) {
        // Bans stand in memory and are asked for again. That one was lifted, by hand, would be forgotten.
        if self.unsaved.len() >= MOST_UNSAVED && matches!(change, Change::Banned(_)) {
            self.resend = self.resend.max(Some(Resend::Unsaved));
            return;
        }
        self.unsaved.push_back(Item::Change(change));
        self.shared.unsaved.store(self.unsaved.len() as u64, Ordering::Relaxed);
    }

    /// Opens the file if it is not open, and saves what was kept.
    fn retry(&mut self) {
        let was_degraded = self.shared.degraded.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if !was_degraded {
            return;
        }
        if let Err(failure) = self.reopen() {
            self.degrade(&failure);
            return;
        }
        while !self.unsaved.is_empty() {
            let batch: Vec<Item> = self.unsaved.drain(..self.unsaved.len().min(GROUP_SIZE)).collect();
            if let Err(failure) = self.save(batch.iter()) {
                // What is refused, not put off, would be refused for ever.
                if !matches!(failure, Failure::Refused(_)) {
                    batch.into_iter().rev().for_each(|item| self.unsaved.push_front(item));
                    self.degrade(&failure);
                    return;
                }
            }
            self.shared.unsaved.store(self.unsaved.len() as u64, Ordering::Relaxed);
        }
        *self.shared.degraded.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.tell(News::Healed);
    }

    fn reopen(&mut self) -> Result<(), Failure> {
        if self.store.is_none() {
            self.open()?;
        }
        let mut known = Vec::new();
        self.read(&mut |record| known.push(record))?;
        if !known.is_empty() {
            self.tell(News::Known(known));
        }
        // Opening alone may go well on a disk that takes nothing.
        let Some(store) = &mut self.store else { return Err(Failure::Unavailable(self.why())) };
        store.probe()
    }

    fn some_strikes(&mut self) {
        let Some((mut strikes, answer)) = self.strikes.pop_front() else { return };
        let Some(store) = &mut self.store else {
            let why = self.why();
            answer.send(Kept::No(why));
            return;
        };
        let some: Vec<Strike> = strikes.by_ref().take(STRIKES_AT_ONCE).collect();
        match store.save_strikes(&some) {
            Ok(()) if strikes.len() > 0 => self.strikes.push_front((strikes, answer)),
            Ok(()) => answer.send(Kept::Yes),
            Err(failure) => {
                answer.send(Kept::No(failure.to_string()));
                self.degrade(&failure);
            }
        }
        self.written = true;
    }

    /// What is due, now that no group is being written.
    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.next_retry {
            self.next_retry = now + RETRY;
            self.retry();
            if std::mem::take(&mut self.written) {
                self.checkpointer.wake();
            }
        }
        if now >= self.next_look {
            self.next_look = now + LOOK;
            self.look();
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            let time = self.now();
            // What fails here fails for the next ban as well, which says so.
            let forget = Span::from_millis(self.shared.forget.load(Ordering::Relaxed));
            let swept = self.store.as_mut().map(|store| store.sweep(time, forget, SWEPT_AT_ONCE));
            self.written |= matches!(swept, Some(Ok(removed)) if removed > 0);
        }
        if self.store.is_some() {
            if self.shared.overflowed.swap(false, Ordering::Relaxed) {
                self.resend = self.resend.max(Some(Resend::Unsaved));
            }
            if now >= self.next_resend
                && let Some(resend) = self.resend.take()
            {
                self.next_resend = now + RESEND;
                self.tell(News::Resend { all: resend == Resend::All });
            }
        }
    }

    /// Looks for what other processes wrote.
    fn look(&mut self) {
        self.follow_path();
        let time = self.now();
        if let (Some(store), Some(cursor)) = (&mut self.store, &mut self.cursor) {
            match store.changes_since(cursor, time) {
                Ok(known) if known.is_empty() => {}
                Ok(changes) => self.tell(News::Known(changes.into_iter().map(Known::Change).collect())),
                Err(failure @ Failure::Corrupt(_)) => {
                    if let Err(failure) = self.replace(failure) {
                        self.degrade(&failure);
                    }
                }
                // A reader is never in anybody's way for long: it is asked again soon.
                Err(_) => {}
            }
        }
    }
}

/// Loads on a second thread, while this one hands to `sink` what has come: with a million bans, reading and taking cost much the same.
fn load_beside(store: &mut Store, now: Time, sink: &mut dyn FnMut(Known)) -> Result<Cursor, Failure> {
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(BATCHES);
        let load = move || {
            let mut batch = Vec::with_capacity(BATCH);
            let cursor = store.load(now, &mut |known| {
                batch.push(known);
                if batch.len() == BATCH {
                    // Nobody takes it: the sink has panicked, which ends this process's start.
                    let _ = sender.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)));
                }
            });
            let _ = sender.send(batch);
            cursor
        };
        let started = thread::Builder::new().name("load".into()).spawn_scoped(scope, load);
        let loading = started.map_err(|error| Failure::Unavailable(format!("no thread can be started: {error}")))?;
        receiver.into_iter().flatten().for_each(sink);
        loading.join().unwrap_or_else(|_| Err(Failure::Unavailable(String::from("a panic while the state file was loaded"))))
    })
}
