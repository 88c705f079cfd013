//! The changes of this machine that wait to be published. Adding one never blocks: a change that does not fit is dropped and counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::{Condvar, Mutex};

use super::FleetHealth;
use super::message::StoredRecord;
use crate::client::{Client, Ipv6Prefix};
use crate::engine::{BanRecord, NetworkRecord};
use crate::event::Scope;
use crate::rule::{Offence, Rule};
use crate::table::Until;
use crate::time::Time;

/// Maximum number of waiting bans and strikes.
const CAPACITY: usize = 16_384;
/// Maximum number of waiting changes of all kinds: as many unbans as a table has bans at once by default, some 100 MB. A dropped unban would never
/// be published, so whoever unbans everybody while Redis is away must find room for each.
const MAX_UNBANS: usize = 1_048_576;
/// Number of the latest unbans that are sent again to a Redis that may have lost them.
const DELIVERED: usize = 4096;

/// When an unban was made. Its time by Redis's clock is fixed when it is first sent, although the offset is measured again later: if the unban
/// were sent again with a later time, it would remove bans made after it.
pub struct SentTime {
    local: Time,
    redis: Option<Time>,
}

impl SentTime {
    pub fn new(local: Time) -> Self {
        Self { local, redis: None }
    }

    /// The time by Redis's clock.
    pub fn redis(&self) -> Time {
        self.redis.unwrap_or(self.local)
    }
}

/// A change that is to be published.
pub enum Outgoing {
    Ban { target: IpNet, scope: Scope, since: Time, until: Until, record: Box<StoredRecord> },
    Unban { target: IpNet, scope: Scope, at: SentTime },
    Strike { offence: Box<Offence>, rule: Arc<Rule>, strikes: u32, at: Time },
    Forget { node: Arc<str>, at: SentTime },
}

impl Outgoing {
    /// `prefix` is this machine's, by which an IPv6 client was cut.
    pub fn ban(record: &BanRecord, prefix: Ipv6Prefix) -> Self {
        let stored = StoredRecord {
            rule: record.rule.to_string(),
            count: record.count,
            times: record.times,
            evidence: record.evidence.as_str().to_owned(),
            ipv6_prefix: prefix_of(record.client, prefix),
        };
        let target = IpNet::from(record.client.address());
        Self::Ban { target, scope: record.scope, since: record.since, until: record.until, record: Box::new(stored) }
    }

    /// The count in the record is the number of members. `None` for an autonomous system, whose ban stays here: another machine may have no
    /// database, or another one.
    pub fn network_ban(ban: &NetworkRecord) -> Option<Self> {
        let NetworkRecord { network, scope, rule, since, until, members, reason } = ban;
        let (count, evidence) = ((*members).max(1), reason.as_str().to_owned());
        let record = StoredRecord { rule: rule.to_string(), count, times: 1, evidence, ipv6_prefix: None };
        Some(Self::Ban { target: network.block()?, scope: *scope, since: *since, until: *until, record: Box::new(record) })
    }

    /// Fixes the time of an unban by Redis's clock, before it is first sent.
    pub fn fix_time(&mut self, to_redis: impl FnOnce(Time) -> Time) {
        if let Self::Unban { at, .. } | Self::Forget { at, .. } = self {
            at.redis.get_or_insert_with(|| to_redis(at.local));
        }
    }

    /// Whether it must be published however late. Bans need not: all active ones are published again after a cut.
    fn is_unban(&self) -> bool {
        matches!(self, Self::Unban { .. } | Self::Forget { .. })
    }
}

/// The prefix by which `client` was cut; `None` for IPv4.
pub fn prefix_of(client: Client, prefix: Ipv6Prefix) -> Option<u8> {
    client.address().is_ipv6().then(|| prefix.bits())
}

/// The changes that wait, oldest first.
pub struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    health: Arc<FleetHealth>,
}

#[derive(Default)]
struct Waiting {
    changes: VecDeque<Outgoing>,
    /// The latest unbans that Redis has accepted.
    delivered: VecDeque<Outgoing>,
}

impl Queue {
    pub fn new(health: Arc<FleetHealth>) -> Self {
        Self { waiting: Mutex::default(), filled: Condvar::new(), health }
    }

    /// Adds a change. Returns false if there is no room for it.
    pub fn push(&self, change: Outgoing) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.changes.len() >= if change.is_unban() { MAX_UNBANS } else { CAPACITY } {
            self.health.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        waiting.changes.push_back(change);
        drop(waiting);
        self.filled.notify_one();
        true
    }

    /// Waits until there is something to publish, but no longer than `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let mut waiting = self.waiting.lock();
        if waiting.changes.is_empty() {
            self.filled.wait_for(&mut waiting, timeout);
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.lock().changes.len()
    }

    pub fn take(&self, most: usize) -> Vec<Outgoing> {
        let mut waiting = self.waiting.lock();
        let count = waiting.changes.len().min(most);
        waiting.changes.drain(..count).collect()
    }

    /// Puts changes back that were taken and not published.
    pub fn put_back(&self, changes: Vec<Outgoing>) {
        let mut waiting = self.waiting.lock();
        changes.into_iter().rev().for_each(|change| waiting.changes.push_front(change));
    }

    /// Remembers an unban that was published.
    pub fn delivered(&self, change: Outgoing) {
        if change.is_unban() {
            let mut waiting = self.waiting.lock();
            waiting.delivered.push_back(change);
            if waiting.delivered.len() > DELIVERED {
                waiting.delivered.pop_front();
            }
        }
    }

    /// After Redis was away: keeps only the unbans, the delivered ones first; an unban that Redis still has changes nothing there. Strikes are lost.
    /// Bans are dropped, because all active ones are published again, without those removed in the meantime.
    pub fn keep_unbans(&self) {
        let mut waiting = self.waiting.lock();
        let mut changes = std::mem::take(&mut waiting.delivered);
        let mut lost = 0;
        for change in std::mem::take(&mut waiting.changes) {
            match change {
                unban if unban.is_unban() => changes.push_back(unban),
                Outgoing::Strike { .. } => lost += 1,
                _ => {}
            }
        }
        waiting.changes = changes;
        self.health.dropped.fetch_add(lost, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::rule_id::RuleNames;
    use std::time::Instant;

    fn empty_queue() -> (Queue, Arc<FleetHealth>) {
        let health = Arc::<FleetHealth>::default();
        (Queue::new(Arc::clone(&health)), health)
    }

    fn target(number: usize) -> IpNet {
        IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(number).unwrap())))
    }

    fn ban(number: usize) -> Outgoing {
        let record = StoredRecord { rule: "manual".into(), count: 1, times: 1, evidence: String::new(), ipv6_prefix: None };
        Outgoing::Ban { target: target(number), scope: Scope::All, since: Time::default(), until: Until::NEVER, record: Box::new(record) }
    }

    fn unban(number: usize) -> Outgoing {
        Outgoing::Unban { target: target(number), scope: Scope::All, at: SentTime::new(Time::default()) }
    }

    /// The unbanned addresses among changes that hold nothing else.
    fn unbanned(changes: &[Outgoing]) -> Vec<IpNet> {
        let target = |change: &Outgoing| if let Outgoing::Unban { target, .. } = change { *target } else { panic!("not an unban") };
        changes.iter().map(target).collect()
    }

    #[test]
    fn a_full_queue_drops_and_counts_bans_and_still_takes_unbans() {
        let (queue, health) = empty_queue();
        assert_eq!((0..CAPACITY + 3).filter(|number| queue.push(ban(*number))).count(), CAPACITY);
        assert_eq!((0..MAX_UNBANS - CAPACITY + 2).filter(|number| queue.push(unban(*number))).count(), MAX_UNBANS - CAPACITY);
        assert_eq!((queue.len(), health.dropped.load(Ordering::Relaxed)), (MAX_UNBANS, 5));
        assert!(size_of::<Outgoing>() <= 104, "{} bytes of each", size_of::<Outgoing>());
    }

    #[test]
    fn forgetting_a_node_is_kept_like_an_unban() {
        let forget = |node: &str| Outgoing::Forget { node: node.into(), at: SentTime::new(Time::default()) };
        let is_forget = |change: &Outgoing| matches!(change, Outgoing::Forget { .. });
        let (queue, health) = empty_queue();
        assert!((0..CAPACITY).all(|number| queue.push(ban(number))) && queue.push(forget("mx1")));
        assert_eq!(health.dropped.load(Ordering::Relaxed), 0);
        queue.delivered(forget("mx2"));
        queue.keep_unbans();
        assert_eq!(queue.take(9).iter().map(is_forget).collect::<Vec<_>>(), [true, true]);
    }

    #[test]
    fn only_the_latest_delivered_unbans_are_sent_again() {
        let (queue, _) = empty_queue();
        (0..DELIVERED + 2).for_each(|number| queue.delivered(unban(number)));
        queue.delivered(ban(9));
        queue.keep_unbans();
        assert_eq!(unbanned(&queue.take(usize::MAX)), (2..DELIVERED + 2).map(target).collect::<Vec<_>>());
        queue.keep_unbans();
        assert_eq!(queue.len(), 0, "they are delivered again, and remembered then");
    }

    #[test]
    fn strikes_that_wait_while_redis_is_away_are_lost_and_counted() {
        let names = RuleNames::default();
        let policy = Policy::for_tests("", &names);
        let rule = policy.rules.by_name("w00tw00t").unwrap();
        let address = std::net::Ipv4Addr::new(203, 0, 113, 7);
        let offence = Offence {
            address: address.into(),
            client: address.into(),
            rules: Vec::new(),
            evidence: crate::rule::Evidence::new(&[]),
            marks: None,
            account: None,
        };
        let strike = || Outgoing::Strike { offence: Box::new(offence.clone()), rule: Arc::clone(rule), strikes: 1, at: Time::default() };
        let (queue, health) = empty_queue();
        [strike(), ban(1), strike(), unban(2)].into_iter().for_each(|change| assert!(queue.push(change)));
        queue.keep_unbans();
        assert_eq!(unbanned(&queue.take(9)), [target(2)]);
        assert_eq!(health.dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_time_of_an_unban_is_fixed_when_it_is_first_sent() {
        let mut unban = unban(1);
        unban.fix_time(|_| Time::from_secs(5));
        unban.fix_time(|_| Time::from_secs(6));
        let Outgoing::Unban { at, .. } = unban else { panic!("not an unban") };
        assert_eq!(at.redis(), Time::from_secs(5));
        assert_eq!(SentTime::new(Time::from_secs(4)).redis(), Time::from_secs(4), "not sent yet");
    }

    #[test]
    fn a_wait_ends_at_its_timeout_or_as_soon_as_something_is_in_the_queue() {
        let (queue, _) = empty_queue();
        let (begun, timeout) = (Instant::now(), Duration::from_millis(20));
        queue.wait(timeout);
        assert!(begun.elapsed() >= timeout);
        let (queue, begun, timeout) = (Arc::new(queue), Instant::now(), Duration::from_secs(60));
        let waiting = Arc::clone(&queue);
        let waiter = std::thread::spawn(move || waiting.wait(timeout));
        queue.push(unban(1));
        waiter.join().unwrap();
        queue.wait(timeout);
        assert!(begun.elapsed() < timeout);
    }

    #[test]
    fn after_redis_was_away_the_delivered_unbans_come_first_and_bans_not_at_all() {
        let (queue, _) = empty_queue();
        [unban(1), ban(2), unban(3)].into_iter().for_each(|change| assert!(queue.push(change)));
        queue.take(2).into_iter().for_each(|change| queue.delivered(change));
        [ban(4), unban(5)].into_iter().for_each(|change| assert!(queue.push(change)));
        queue.keep_unbans();
        assert_eq!(unbanned(&queue.take(9)), [1, 3, 5].map(target));
    }

    #[test]
    fn changes_that_were_not_published_are_put_back_in_order() {
        let (queue, _) = empty_queue();
        (1..=4).for_each(|number| assert!(queue.push(unban(number))));
        let taken = queue.take(2);
        queue.put_back(taken);
        assert_eq!(unbanned(&queue.take(9)), [1, 2, 3, 4].map(target));
    }
}
