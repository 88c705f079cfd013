//! Subscribers: Squid helpers that follow the daemon's policy and bans. Each gets a snapshot, then every change.

mod receive;
mod snapshot;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::conn::replies::{ConnectionId, Pieces, QueueItem, ReplyQueue};
use crate::clock::Clock;
use crate::control::subscribe::FromDaemon;
use crate::engine::Engine;
use crate::policy::Policy;
use snapshot::{SnapshotBans, change_line, snapshot};

pub use receive::receive;
pub use snapshot::config_lines;

/// Maximum number of subscribers: what each has not read yet is held in memory.
pub const MAX_SUBSCRIBERS: usize = 256;

/// Maximum bytes of changes that wait for all subscribers together.
const MAX_UNREAD: usize = 64 * 1024 * 1024;

/// Maximum number of copies of the bans being sent at a time. Each takes as much memory as the table until its last reader is done.
const MAX_SNAPSHOTS: usize = 8;

/// Up to this number of bans, the event loop copies them itself, which takes it a millisecond. Another thread copies more.
const MAX_BANS_COPIED_AT_ONCE: usize = 20_000;

/// The event loop's view of its subscribers.
pub struct Subscribers {
    /// Their connections; some may just have been closed.
    ids: Vec<ConnectionId>,
    /// How many there are. While there are none, changes are not queued.
    count: Arc<AtomicUsize>,
    /// The configuration that subscribers have or are being sent.
    sent: Arc<Policy>,
    /// Copies of the bans that a subscriber is still reading.
    snapshots: Vec<Weak<SnapshotBans>>,
    /// The one of these copies that is still up to date.
    current: Weak<SnapshotBans>,
    queue: Arc<ReplyQueue>,
}

impl Subscribers {
    /// No subscribers yet. While there are any, changes of the table are queued on `queue`.
    #[must_use]
    pub fn new(engine: &Arc<Engine>, queue: &Arc<ReplyQueue>, clock: Clock) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let (observed, changes) = (Arc::clone(&count), Arc::clone(queue));
        engine.observe(move |change| {
            if observed.load(Ordering::Relaxed) > 0
                && let Some(line) = change_line(change, clock.now())
            {
                changes.push(QueueItem::Change(line));
            }
        });
        Self { ids: Vec::new(), count, sent: engine.policy(), snapshots: Vec::new(), current: Weak::new(), queue: Arc::clone(queue) }
    }

    /// Adds the subscriber on connection `id` and returns what to send it first: the greeting, the configuration and all bans. Later changes must be sent after
    /// that. `None` if too many subscribers are still reading older snapshots.
    ///
    /// Until the bans are copied, the next piece is empty; then [`QueueItem::BansCopied`] is queued. The copy may hold changes that are sent
    /// after it once more, which makes no difference: of each client, the last one counts.
    ///
    /// Subscribers that arrive between two changes share one copy of the bans: after a restart of the daemon all come back at once.
    pub fn begin(&mut self, id: ConnectionId, engine: &Arc<Engine>, clock: Clock) -> Option<Pieces> {
        self.snapshots.retain(|bans| bans.strong_count() > 0);
        let shared = self.current.upgrade();
        if shared.is_none() && self.snapshots.len() >= MAX_SNAPSHOTS {
            return None;
        }
        // Counted before the table is copied, so that a change made meanwhile by another thread is queued.
        self.ids.push(id);
        self.count.store(self.ids.len(), Ordering::Relaxed);
        let bans = shared.unwrap_or_else(|| {
            let bans = Arc::new(SnapshotBans::default());
            self.current = Arc::downgrade(&bans);
            self.snapshots.push(Weak::clone(&self.current));
            self.copy(&bans, engine, clock);
            bans
        });
        Some(Box::new(snapshot(engine, bans, move || clock.now())))
    }

    /// Copies the bans: a few at once, many on another thread, because answers must not wait for a million.
    fn copy(&self, bans: &Arc<SnapshotBans>, engine: &Arc<Engine>, clock: Clock) {
        let started = engine.bans().len() > MAX_BANS_COPIED_AT_ONCE && {
            let (bans, engine, queue) = (Arc::clone(bans), Arc::clone(engine), Arc::clone(&self.queue));
            let copy = move || {
                bans.copy(&engine, clock.now());
                queue.push(QueueItem::BansCopied);
            };
            std::thread::Builder::new().name("snapshot".into()).spawn(copy).is_ok()
        };
        if !started {
            bans.copy(engine, clock.now());
        }
    }

    /// Notes that the table has changed: the next subscriber needs a new copy of the bans.
    pub fn table_changed(&mut self) {
        self.current = Weak::new();
    }

    /// How many subscribers there are; some may just have disconnected.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The connections of all subscribers for which `is_open` returns true; the others are forgotten.
    pub fn open(&mut self, mut is_open: impl FnMut(ConnectionId) -> bool) -> &[ConnectionId] {
        self.ids.retain(|id| is_open(*id));
        self.count.store(self.ids.len(), Ordering::Relaxed);
        &self.ids
    }

    /// The configuration in force, if it differs from the one that subscribers have in anything that they are sent.
    pub fn changed_config(&mut self, engine: &Engine) -> Option<Arc<Policy>> {
        let policy = engine.policy();
        let same = Arc::ptr_eq(&policy, &self.sent)
            || (Arc::ptr_eq(&policy.rules, &self.sent.rules)
                && policy.lists.has_same_lists_as(&self.sent.lists)
                && (policy.prefix, policy.on_failure) == (self.sent.prefix, self.sent.on_failure));
        if !policy.geo.is_same(&self.sent.geo) {
            self.queue.push(QueueItem::Change(format!("{}\n", FromDaemon::OriginsChanged)));
        }
        self.sent = policy;
        (!same).then(|| Arc::clone(&self.sent))
    }
}

/// Those of the subscribers, given with the number of bytes that each has to read, that must be cut off so that the others stay within
/// [`MAX_UNREAD`].
pub fn furthest_behind(mut unread: Vec<(usize, ConnectionId)>) -> Vec<(usize, ConnectionId)> {
    let mut sum: usize = unread.iter().map(|(bytes, _)| bytes).sum();
    if sum <= MAX_UNREAD {
        return Vec::new();
    }
    unread.sort_unstable_by(|one, other| other.cmp(one));
    unread
        .into_iter()
        .take_while(|(bytes, _)| {
            let exceeds = sum > MAX_UNREAD;
            sum -= bytes;
            exceeds
        })
        .collect()
}

/// Values shared by the tests of this folder.
#[cfg(test)]
mod fixtures {
    use crate::client::Client;
    use crate::config::Config;
    use crate::engine::Engine;
    use crate::rule_id::RuleNames;
    use std::path::Path;
    use std::sync::Arc;

    pub fn engine(text: &str) -> Arc<Engine> {
        let names = Arc::new(RuleNames::default());
        let config = Config::parse(text.as_bytes(), Path::new("test.toml"), &names).unwrap();
        Arc::new(Engine::new(names, config.into(), 100, 100_000).unwrap())
    }

    pub fn client(number: u32) -> Client {
        Client::from(std::net::Ipv4Addr::from(0xc633_6400 + number))
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::{client, engine};
    use super::*;

    use crate::event::Scope;
    use crate::rule_id::RuleId;
    use crate::table::{Ban, Until};

    const ID: ConnectionId = ConnectionId(1);

    #[test]
    fn subscribers_share_a_copy_of_the_bans_until_a_change_and_copies_are_limited() {
        let engine = engine("");
        let (queue, clock) = (Arc::new(ReplyQueue::new().unwrap()), Clock::start());
        let mut subscribers = Subscribers::new(&engine, &queue, clock);
        let mut reading = Vec::new();
        for _ in 0..100 {
            reading.push(subscribers.begin(ID, &engine, clock).unwrap());
        }
        assert_eq!((subscribers.snapshots.len(), subscribers.len()), (1, 100));
        for _ in 1..MAX_SNAPSHOTS {
            subscribers.table_changed();
            reading.push(subscribers.begin(ID, &engine, clock).unwrap());
        }
        subscribers.table_changed();
        assert!(subscribers.begin(ID, &engine, clock).is_none(), "none has been read to its end");
        reading.truncate(1);
        assert!(subscribers.begin(ID, &engine, clock).is_some());
    }

    #[test]
    fn a_new_subscriber_never_gets_an_outdated_copy_that_others_still_read() {
        let engine = engine("");
        let (queue, clock) = (Arc::new(ReplyQueue::new().unwrap()), Clock::start());
        let mut subscribers = Subscribers::new(&engine, &queue, clock);
        let slow = subscribers.begin(ID, &engine, clock).unwrap();
        engine.bans().ban(client(1), Scope::Web, Ban { until: Until::NEVER, rule: RuleId::MANUAL, saved: true }, clock.now());
        subscribers.table_changed();
        drop(subscribers.begin(ID, &engine, clock).unwrap());
        let text: String = subscribers.begin(ID, &engine, clock).unwrap().collect();
        assert!(text.contains("\nban 198.51.100.1 web manual -1\n"), "{text}");
        drop(slow);
    }

    #[test]
    fn many_bans_are_copied_by_another_thread_and_the_snapshot_waits_for_them() {
        let engine = engine("");
        let (queue, clock) = (Arc::new(ReplyQueue::new().unwrap()), Clock::start());
        let mut subscribers = Subscribers::new(&engine, &queue, clock);
        let bans = u32::try_from(MAX_BANS_COPIED_AT_ONCE).unwrap() + 1;
        let ban = Ban { until: Until::NEVER, rule: RuleId::MANUAL, saved: true };
        (0..bans).for_each(|number| _ = engine.bans().ban(client(number), Scope::Web, ban, clock.now()));
        let [snapshot, other] = [(); 2].map(|()| subscribers.begin(ID, &engine, clock).unwrap());
        assert_eq!(subscribers.snapshots.len(), 1, "they share the copy that is being made");
        // The iterator is not polled again before it is said to be ready, except that an empty piece costs nothing.
        let start = std::time::Instant::now();
        while !queue.take().iter().any(|item| matches!(item, QueueItem::BansCopied)) {
            assert!(start.elapsed() < std::time::Duration::from_secs(60), "the copy is not made");
            std::thread::yield_now();
        }
        for snapshot in [snapshot, other] {
            let text: String = snapshot.collect();
            assert_eq!(text.lines().filter(|line| line.starts_with("ban ")).count(), bans as usize);
            assert!(text.ends_with("end bans\n"));
        }
    }

    #[test]
    fn those_that_lag_furthest_are_cut_off_until_the_others_stay_within_the_limit() {
        let unread = |bytes: &[usize]| bytes.iter().zip(0..).map(|(bytes, id)| (*bytes, ConnectionId(id))).collect();
        let limit = MAX_UNREAD;
        assert_eq!(furthest_behind(unread(&[limit, 0])), []);
        assert_eq!(furthest_behind(unread(&[limit / 2, 1, limit / 2])), [(limit / 2, ConnectionId(2))]);
        assert_eq!(furthest_behind(unread(&[7, limit + 2, limit - 6])), [(limit + 2, ConnectionId(1)), (limit - 6, ConnectionId(2))]);
    }
}
