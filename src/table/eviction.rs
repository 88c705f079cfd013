//! Finds the bans to evict from a full table: those that end soonest.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::until::Until;
use crate::client::Client;
use crate::time::{Span, Time};

/// Number of candidates that one scan of the table collects: more bans than are made in the second until the next scan ahead.
const MAX_CANDIDATES: usize = 65_536;
/// With no more candidates than this, a scan ahead is due.
const FEW_CANDIDATES: usize = MAX_CANDIDATES / 2;

/// Time to wait before scanning again when a scan found nothing that may be evicted.
const RESCAN_PAUSE: Span = Span::from_millis(1000);

/// The bans that end soonest, collected by one scan of the table and used up by evictions.
///
/// A scan of a million bans takes a while. So it is made ahead, beside evictions; only if they use up all candidates before, the next one
/// scans itself.
///
/// This is only a hint, because bans change after the scan: the table decides about each candidate.
#[derive(Default)]
pub(super) struct EvictionQueue {
    candidates: BinaryHeap<Reverse<(Until, Client)>>,
    /// Every ban that ends before this is a candidate.
    horizon: Option<Until>,
    /// Set when the last scan found nothing.
    no_scan_before: Option<Time>,
    /// Bans that were made since a scan ahead has begun, which it may have missed.
    offered: Option<Vec<(Until, Client)>>,
}

impl EvictionQueue {
    /// Adds a new ban if it ends before the last candidate of the scan does.
    pub(super) fn offer(&mut self, client: Client, until: Until) {
        if Some(until) <= self.horizon {
            self.candidates.push(Reverse((until, client)));
        }
        if let Some(offered) = self.offered.as_mut().filter(|offered| offered.len() < MAX_CANDIDATES) {
            offered.push((until, client));
        }
    }

    /// Whether a scan ahead is due, which the caller makes with [`EvictionQueue::from_scan`] while this queue is used on.
    pub(super) fn begin_scan(&mut self) -> bool {
        let is_due = self.candidates.len() <= FEW_CANDIDATES;
        self.offered = is_due.then(Vec::new);
        is_due
    }

    /// Takes what a scan ahead has found.
    pub(super) fn end_scan(&mut self, now: Time, found: Self) {
        // An eviction that has scanned itself in the meantime knows more.
        let Some(offered) = self.offered.take() else { return };
        *self = found;
        offered.into_iter().for_each(|(until, client)| self.offer(client, until));
        if self.candidates.is_empty() {
            self.no_scan_before = Some(now.after(RESCAN_PAUSE));
        }
    }

    /// Evicts the ban that ends soonest and returns its end.
    ///
    /// `scan` returns all bans that may be evicted. `remove` evicts one, and returns false if it has changed in the meantime.
    pub(super) fn evict<I: Iterator<Item = (Until, Client)>>(
        &mut self,
        now: Time,
        scan: impl FnOnce() -> I,
        mut remove: impl FnMut(Client, Until) -> bool,
    ) -> Option<Until> {
        if let Some(until) = self.evict_candidate(&mut remove) {
            return Some(until);
        }
        // The second condition ends the pause if the clock was set back.
        if self.no_scan_before.is_some_and(|time| now < time && time.since(now) <= RESCAN_PAUSE) {
            return None;
        }
        *self = Self::from_scan(scan());
        let evicted = self.evict_candidate(&mut remove);
        if evicted.is_none() {
            self.no_scan_before = Some(now.after(RESCAN_PAUSE));
        }
        evicted
    }

    fn evict_candidate(&mut self, remove: &mut impl FnMut(Client, Until) -> bool) -> Option<Until> {
        while let Some(Reverse((until, client))) = self.candidates.pop() {
            if remove(client, until) {
                return Some(until);
            }
        }
        self.horizon = None;
        None
    }

    /// Keeps the [`MAX_CANDIDATES`] bans that end soonest.
    pub(super) fn from_scan(bans: impl Iterator<Item = (Until, Client)>) -> Self {
        let mut latest_first = BinaryHeap::new();
        for ban in bans {
            if latest_first.len() < MAX_CANDIDATES {
                latest_first.push(ban);
            } else if let Some(mut latest) = latest_first.peek_mut()
                && ban < *latest
            {
                *latest = ban;
            }
        }
        let horizon = latest_first.peek().map(|(until, _)| *until);
        Self { candidates: latest_first.into_iter().map(Reverse).collect(), horizon, no_scan_before: None, offered: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    /// A table of bans that may all be evicted, and the number of times that an eviction scanned it.
    #[derive(Default)]
    struct Table {
        bans: RefCell<BTreeSet<(Until, Client)>>,
        scans: usize,
    }

    impl Table {
        fn of(bans: impl Iterator<Item = (Until, Client)>) -> Self {
            Self { bans: RefCell::new(bans.collect()), scans: 0 }
        }

        fn scan(&self) -> std::vec::IntoIter<(Until, Client)> {
            self.bans.borrow().iter().copied().collect::<Vec<_>>().into_iter()
        }

        fn evict(&mut self, queue: &mut EvictionQueue, now: u64) -> Option<Until> {
            let mut scans = 0;
            let scan = || {
                scans += 1;
                self.scan()
            };
            let evicted = queue.evict(Time::from_millis(now), scan, |client, until| self.bans.borrow_mut().remove(&(until, client)));
            self.scans += scans;
            evicted
        }

        fn soonest(&self) -> Option<Until> {
            self.bans.borrow().first().map(|(until, _)| *until)
        }

        fn ban(&self, queue: &mut EvictionQueue, new: (Until, Client)) {
            self.bans.borrow_mut().insert(new);
            queue.offer(new.1, new.0);
        }
    }

    fn ban(number: u32, end: u64) -> (Until, Client) {
        (Until::at(Time::from_secs(end)), Client::from(Ipv4Addr::from(number)))
    }

    #[test]
    fn the_bans_that_end_soonest_are_evicted_in_order_with_one_scan_for_many() {
        let mut table = Table::of((0..100_000).map(|number| ban(number, u64::from(number) * 7919 % 100_003)));
        let mut queue = EvictionQueue::default();
        for _ in 0..MAX_CANDIDATES {
            let soonest = table.soonest();
            assert_eq!(table.evict(&mut queue, 0), soonest);
        }
        assert_eq!(table.scans, 1);
        let soonest = table.soonest();
        assert_eq!((table.evict(&mut queue, 0), table.scans), (soonest, 2));
    }

    #[test]
    fn a_scan_ahead_saves_evictions_theirs_and_misses_no_ban_that_is_made_meanwhile() {
        let mut table = Table::of((0..1000).map(|number| ban(number, 100 + u64::from(number))));
        let mut queue = EvictionQueue::default();
        assert!(queue.begin_scan());
        let found = EvictionQueue::from_scan(table.scan());
        for new in [ban(2000, 105), ban(2001, 50)] {
            table.ban(&mut queue, new);
        }
        queue.end_scan(Time::from_millis(0), found);
        for _ in 0..1002 {
            let soonest = table.soonest();
            assert_eq!((table.evict(&mut queue, 0), table.scans), (soonest, 0));
        }
    }

    #[test]
    fn what_an_eviction_has_found_itself_is_not_replaced_by_an_older_scan() {
        let mut table = Table::of((0..10).map(|number| ban(number, 100 + u64::from(number))));
        let mut queue = EvictionQueue::default();
        assert!(queue.begin_scan());
        let found = EvictionQueue::from_scan(table.scan());
        table.ban(&mut queue, ban(50, 50));
        assert_eq!((table.evict(&mut queue, 0), table.scans), (Some(ban(50, 50).0), 1));
        table.ban(&mut queue, ban(51, 60));
        queue.end_scan(Time::from_millis(0), found);
        assert_eq!((table.evict(&mut queue, 0), table.scans), (Some(ban(51, 60).0), 1));
    }

    #[test]
    fn a_scan_ahead_is_due_while_there_are_few_candidates() {
        let table = Table::of((0..100_000).map(|number| ban(number, u64::from(number))));
        let mut queue = EvictionQueue::default();
        assert!(queue.begin_scan());
        queue.end_scan(Time::from_millis(0), EvictionQueue::from_scan(table.scan()));
        assert!(!queue.begin_scan(), "65,536 are enough");
    }

    #[test]
    fn a_new_ban_that_ends_sooner_than_the_candidates_of_the_scan_is_evicted_first() {
        let mut table = Table::of((0..10).map(|number| ban(number, 100 + u64::from(number))));
        let mut queue = EvictionQueue::default();
        table.evict(&mut queue, 0);
        for new in [ban(50, 105), ban(51, 500), ban(52, 50)] {
            table.ban(&mut queue, new);
        }
        for _ in 0..10 {
            let soonest = table.soonest();
            assert_eq!((table.evict(&mut queue, 0), table.scans), (soonest, 1));
        }
    }

    #[test]
    fn after_a_scan_without_candidates_the_next_one_is_a_second_later() {
        let (mut table, mut queue) = (Table::default(), EvictionQueue::default());
        for (now, scans) in [(5000, 1), (5000, 1), (5999, 1), (6000, 2), (6999, 2), (7000, 3)] {
            assert_eq!((table.evict(&mut queue, now), table.scans), (None, scans), "at {now}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_delay_the_next_scan() {
        let (mut table, mut queue) = (Table::default(), EvictionQueue::default());
        table.evict(&mut queue, 5000);
        assert_eq!((table.evict(&mut queue, 4999), table.scans), (None, 2));
    }
}
