//! Finds the bans to evict from a full table: those that end soonest.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::until::Until;
use crate::client::Client;
use crate::time::{Span, Time};

/// Number of candidates that one scan of the table collects. Shared by this many evictions, a scan of a million bans costs little.
const MAX_CANDIDATES: usize = 4096;

/// Time to wait before scanning again when a scan found nothing that may be evicted.
const RESCAN_PAUSE: Span = Span::from_millis(1000);

/// The bans that end soonest, collected by one scan of the table and used up by evictions.
///
/// This is only a hint, because bans change after the scan: the table decides about each candidate.
#[derive(Default)]
pub(super) struct EvictionQueue {
    candidates: BinaryHeap<Reverse<(Until, Client)>>,
    /// Every ban that ends before this is a candidate.
    horizon: Option<Until>,
    /// Set when the last scan found nothing.
    no_scan_before: Option<Time>,
}

impl EvictionQueue {
    /// Adds a new ban if it ends before the last candidate of the scan does.
    pub(super) fn offer(&mut self, client: Client, until: Until) {
        if Some(until) <= self.horizon {
            self.candidates.push(Reverse((until, client)));
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
    fn from_scan(bans: impl Iterator<Item = (Until, Client)>) -> Self {
        let mut latest_first = BinaryHeap::with_capacity(MAX_CANDIDATES + 1);
        for ban in bans {
            latest_first.push(ban);
            if latest_first.len() > MAX_CANDIDATES {
                latest_first.pop();
            }
        }
        let horizon = latest_first.peek().map(|(until, _)| *until);
        Self { candidates: latest_first.into_iter().map(Reverse).collect(), horizon, no_scan_before: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    /// A table of bans that may all be evicted, and the number of times that it was scanned.
    #[derive(Default)]
    struct Table {
        bans: BTreeSet<(Until, Client)>,
        scans: usize,
    }

    impl Table {
        fn evict(&mut self, queue: &mut EvictionQueue, now: u64) -> Option<Until> {
            let all: Vec<_> = self.bans.iter().copied().collect();
            let scan = || {
                self.scans += 1;
                all.into_iter()
            };
            queue.evict(Time::from_millis(now), scan, |client, until| self.bans.remove(&(until, client)))
        }
    }

    fn ban(number: u32, end: u64) -> (Until, Client) {
        (Until::at(Time::from_secs(end)), Client::from(Ipv4Addr::from(number)))
    }

    #[test]
    fn the_bans_that_end_soonest_are_evicted_in_order_with_one_scan_for_many() {
        let mut table = Table { bans: (0..10_000).map(|number| ban(number, u64::from(number * 7919 % 10_007))).collect(), scans: 0 };
        let mut queue = EvictionQueue::default();
        for _ in 0..MAX_CANDIDATES {
            let soonest = table.bans.first().map(|(until, _)| *until);
            assert_eq!(table.evict(&mut queue, 0), soonest);
        }
        assert_eq!(table.scans, 1);
        let soonest = table.bans.first().map(|(until, _)| *until);
        assert_eq!((table.evict(&mut queue, 0), table.scans), (soonest, 2));
    }

    #[test]
    fn a_new_ban_that_ends_sooner_than_the_candidates_of_the_scan_is_evicted_first() {
        let mut table = Table { bans: (0..10).map(|number| ban(number, 100 + u64::from(number))).collect(), scans: 0 };
        let mut queue = EvictionQueue::default();
        table.evict(&mut queue, 0);
        for new in [ban(50, 105), ban(51, 500), ban(52, 50)] {
            table.bans.insert(new);
            queue.offer(new.1, new.0);
        }
        for _ in 0..10 {
            let soonest = table.bans.first().map(|(until, _)| *until);
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
