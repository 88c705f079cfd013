//! Strikes by rule and client: an LRU cache of counters with a fixed capacity.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ahash::RandomState;
use dashmap::DashMap;
use dashmap::mapref::one::RefMut;
use lru::LruCache;

use super::counter::Counter;
use crate::client::Client;
use crate::rule_id::RuleId;
use crate::time::{Span, Time};

/// Minimum number of slices per rule; the maximum is twice that. Growing, sweeping or scanning a single slice takes little time.
pub(super) const MIN_SLICES: usize = 16;

/// Number of counters that [`Strikes::sweep`] drops before it releases the lock.
const SWEEP_BATCH: usize = 1000;

/// Maximum number of counters per slice that a full table reserves for each rule (one to two thousand over all slices), so that a rule
/// flooded with strikes does not displace the others. A small table reserves less.
const MAX_RESERVED: usize = 64;

/// Number of slices for a table of `capacity` counters.
///
/// A slice's hash table (hashbrown) has a power of two of buckets, of which 7/8 may be used. Evictions leave tombstones; when no bucket
/// is free, the table is rehashed in place if at most half of the usable buckets are live, and doubled otherwise. So the slices are
/// sized to hold a little less than that half when the table is full, and its memory never grows: about 104 bytes per counter.
fn slices_for(capacity: usize) -> usize {
    let mut buckets = 1;
    loop {
        // 3 % of slack for uneven hashing, which is enough for slices of 50,000 counters on average.
        let most = buckets * 7 / 16 * 97 / 100;
        if most.max(1) * MIN_SLICES * 2 > capacity {
            return capacity.div_ceil(most.max(1)).max(MIN_SLICES);
        }
        buckets *= 2;
    }
}

pub(super) type Slice = LruCache<Client, Counter, RandomState>;

/// The strikes of all clients under all counting rules.
///
/// A [`DashMap`] has an entry for each rule, which holds an [`LruCache`] for each slice of the clients. A counter takes about 104 bytes.
/// The hashes are keyed, because attackers can choose their addresses.
pub struct Strikes {
    rules: DashMap<RuleId, Box<[Slice]>, RandomState>,
    pub(super) hasher: RandomState,
    slices_per_rule: usize,
    /// A slice with no more counters than this takes room from the fullest slice instead of evicting its own.
    reserved: usize,
    pub(super) capacity: usize,
    live: AtomicUsize,
    evicted: AtomicU64,
    /// Number of calls of [`Strikes::add_all`], as a seed for its admission by chance.
    pub(super) batches: AtomicU64,
}

impl Strikes {
    /// A table of at most `capacity` counters (at least one) for all rules together.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let slices_per_rule = slices_for(capacity);
        Self {
            rules: DashMap::with_hasher(RandomState::new()),
            hasher: RandomState::new(),
            slices_per_rule,
            reserved: (capacity / slices_per_rule / 4).clamp(1, MAX_RESERVED),
            capacity: capacity.max(1),
            live: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        }
    }

    /// Adds `strikes` of `client` under `rule` at `now`, and returns the updated counter.
    ///
    /// A new client in a full table evicts the least recently used client of the same rule, unless that rule has only a few.
    pub fn add(&self, rule: RuleId, client: Client, now: Time, findtime: Span, strikes: u32) -> Counter {
        let index = self.index(client);
        let mut slices = self.slices(rule);
        let Some(slice) = slices.get_mut(index) else { return Counter::new(now, strikes) };
        let (counter, has_room) = self.count_in(slice, client, now, findtime, strikes);
        drop(slices);
        if !has_room {
            self.evict_elsewhere((rule, index));
        }
        counter
    }

    /// Restores a counter from a state file, unless the client has one already.
    pub fn restore(&self, rule: RuleId, client: Client, counter: Counter) {
        let index = self.index(client);
        let mut slices = self.slices(rule);
        let Some(slice) = slices.get_mut(index).filter(|slice| !slice.contains(&client)) else { return };
        slice.put(client, counter);
        let has_room = self.make_room(slice);
        drop(slices);
        if !has_room {
            self.evict_elsewhere((rule, index));
        }
    }

    /// The counter of `client` under `rule`, if any. This does not mark it as recently used.
    #[must_use]
    pub fn get(&self, rule: RuleId, client: Client) -> Option<Counter> {
        self.rules.get(&rule)?.get(self.index(client))?.peek(&client).copied()
    }

    /// Drops the counter of `client` under `rule`. After a ban, the count restarts.
    pub fn forget(&self, rule: RuleId, client: Client) {
        if let Some(mut slices) = self.rules.get_mut(&rule)
            && let Some(slice) = slices.get_mut(self.index(client))
            && slice.pop(&client).is_some()
        {
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Drops the expired counters of `rule`, least recently used first. Releases the lock now and then, so that other threads can count.
    pub fn sweep(&self, rule: RuleId, now: Time, findtime: Span) {
        for index in 0..self.slices_per_rule {
            loop {
                let mut slices = self.rules.get_mut(&rule);
                let Some(slice) = slices.as_mut().and_then(|slices| slices.get_mut(index)) else { return };
                let is_expired = |slice: &Slice| slice.peek_lru().is_some_and(|(_, counter)| counter.is_expired(now, findtime));
                let dropped = (0..SWEEP_BATCH).take_while(|_| is_expired(slice) && slice.pop_lru().is_some()).count();
                self.live.fetch_sub(dropped, Ordering::Relaxed);
                if dropped < SWEEP_BATCH {
                    break;
                }
            }
        }
    }

    /// Calls `visit` for every counter. `visit` runs under a lock, which is released after each slice, and must not use this table.
    pub fn for_each(&self, mut visit: impl FnMut(RuleId, Client, Counter)) {
        let rules: Vec<RuleId> = self.rules.iter().map(|slices| *slices.key()).collect();
        for rule in rules {
            for index in 0..self.slices_per_rule {
                if let Some(slices) = self.rules.get(&rule) {
                    slices.get(index).into_iter().flatten().for_each(|(client, counter)| visit(rule, *client, *counter));
                }
            }
        }
    }

    #[must_use]
    pub fn count(&self, rule: RuleId) -> usize {
        self.rules.get(&rule).map_or(0, |slices| slices.iter().map(LruCache::len).sum())
    }

    /// Number of counters under all rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of counters evicted by newer ones since the start.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// The index of a client's slice.
    pub(super) fn index(&self, client: Client) -> usize {
        // hashbrown uses the lowest and highest bits of the same hash, so the bits between choose the slice.
        usize::try_from(self.hasher.hash_one(client) >> 32).unwrap_or(0) % self.slices_per_rule
    }

    pub(super) fn slices(&self, rule: RuleId) -> RefMut<'_, RuleId, Box<[Slice]>> {
        let slice = |_| LruCache::unbounded_with_hasher(self.hasher.clone());
        self.rules.entry(rule).or_insert_with(|| (0..self.slices_per_rule).map(slice).collect())
    }

    /// Counts in `slice`. Returns the counter, and whether there was [room](Strikes::make_room) for it.
    pub(super) fn count_in(&self, slice: &mut Slice, client: Client, now: Time, findtime: Span, strikes: u32) -> (Counter, bool) {
        let mut is_new = false;
        let counter = slice.get_or_insert_mut(client, || {
            is_new = true;
            Counter::new(now, strikes)
        });
        if !is_new {
            counter.add(now, findtime, strikes);
        }
        (*counter, !is_new || self.make_room(slice))
    }

    /// Accounts for a counter just added to `slice`. If the table is full, evicts the slice's least recently used one.
    ///
    /// Returns false if the table is full but the slice has no more than its [reserve](MAX_RESERVED). The caller must then release the
    /// slice and call [`Strikes::evict_elsewhere`]: holding two guards of one `DashMap` can deadlock.
    fn make_room(&self, slice: &mut Slice) -> bool {
        if self.live.load(Ordering::Relaxed) < self.capacity {
            self.live.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let can_evict = slice.len() > self.reserved;
        if can_evict && slice.pop_lru().is_some() {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        can_evict
    }

    /// Makes room for a rule with few strikes in a table that other rules have filled, by evicting from the fullest slice.
    pub(super) fn evict_elsewhere(&self, own: (RuleId, usize)) {
        let lengths = self.rules.iter().flat_map(|slices| {
            let rule = *slices.key();
            slices.iter().enumerate().map(|(index, slice)| ((rule, index), slice.len())).collect::<Vec<_>>()
        });
        let fullest = lengths.filter(|(place, _)| *place != own).max_by_key(|(_, length)| *length);
        let evicted = fullest.is_some_and(|((rule, index), _)| {
            self.rules.get_mut(&rule).is_some_and(|mut slices| slices.get_mut(index).is_some_and(|slice| slice.pop_lru().is_some()))
        });
        if evicted {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        } else {
            self.live.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Shared by the tests of strikes and rates.
#[cfg(test)]
pub(super) mod fixtures {
    use crate::client::Client;
    use crate::rule_id::{RuleId, RuleNames};
    use crate::time::{Span, Time};
    use std::net::Ipv4Addr;

    pub const FINDTIME: Span = Span::from_secs(600);

    pub fn client(number: u32) -> Client {
        Client::from(Ipv4Addr::from(number))
    }

    pub fn at(seconds: u64) -> Time {
        Time::from_secs(1_800_000_000 + seconds)
    }

    pub fn rules() -> (RuleId, RuleId) {
        let names = RuleNames::default();
        (names.intern("one"), names.intern("two"))
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::{FINDTIME, at, client, rules};
    use super::*;

    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn rules_count_separately() {
        let (one, two) = rules();
        let strikes = Strikes::new(10);
        assert!(strikes.is_empty());
        strikes.add(one, client(1), at(0), FINDTIME, 1);
        assert!(!strikes.is_empty());
        assert_eq!(strikes.add(one, client(1), at(1), FINDTIME, 1).count(), 2);
        assert_eq!(strikes.add(two, client(1), at(1), FINDTIME, 1).count(), 1);
        assert_eq!((strikes.count(one), strikes.count(two), strikes.len()), (1, 1, 2));
        strikes.add(two, client(2), at(1), FINDTIME, 1);
        assert_eq!((strikes.count(one), strikes.count(two), strikes.len()), (1, 2, 3));
    }

    #[test]
    fn a_flood_of_new_clients_never_exceeds_the_capacity() {
        let (one, two) = rules();
        let strikes = Strikes::new(100);
        for number in 0..10_000 {
            strikes.add(if number % 3 == 0 { two } else { one }, client(number), at(u64::from(number)), FINDTIME, 1);
        }
        let mut counted = 0;
        strikes.for_each(|_, _, _| counted += 1);
        assert_eq!((strikes.len(), counted), (100, 100));
        assert_eq!(strikes.evicted(), 9_900);
    }

    #[test]
    fn a_new_rule_gets_room_in_a_table_that_another_rule_has_filled() {
        let (one, two) = rules();
        let strikes = Strikes::new(10);
        for number in 0..10 {
            strikes.add(one, client(number), at(0), FINDTIME, 1);
        }
        strikes.add(two, client(99), at(1), FINDTIME, 1);
        assert_eq!(strikes.get(two, client(99)).map(|counter| counter.count()), Some(1));
        assert_eq!(strikes.len(), 10);
    }

    #[test]
    fn a_flood_under_one_rule_leaves_room_for_many_clients_of_the_others() {
        let (flood, scan) = rules();
        let strikes = Strikes::new(10_000);
        let mut flooded = 1_000_000;
        for round in 1..=3 {
            for number in 0..500 {
                for _ in 0..20 {
                    strikes.add(flood, client(flooded), at(round), FINDTIME, 1);
                    flooded += 1;
                }
                assert_eq!(u64::from(strikes.add(scan, client(number), at(round), FINDTIME, 1).count()), round, "client {number}");
            }
        }
        assert_eq!(strikes.len(), 10_000);
    }

    #[test]
    fn sweeping_drops_expired_counters() {
        let (one, _) = rules();
        let strikes = Strikes::new(10);
        strikes.add(one, client(1), at(0), FINDTIME, 1);
        strikes.add(one, client(2), at(500), FINDTIME, 1);
        strikes.sweep(one, at(700), FINDTIME);
        assert_eq!(strikes.get(one, client(1)), None);
        assert_eq!(strikes.len(), 1);
    }

    #[test]
    fn a_sweep_drops_all_expired_counters_of_a_large_table() {
        let (one, two) = rules();
        let strikes = Strikes::new(100_000);
        for number in 0..40_000 {
            strikes.add(one, client(number), at(0), FINDTIME, 1);
        }
        strikes.add(two, client(1), at(0), FINDTIME, 1);
        strikes.sweep(one, at(599), FINDTIME);
        assert_eq!(strikes.len(), 40_001);
        strikes.sweep(one, at(600), FINDTIME);
        assert_eq!((strikes.count(one), strikes.len()), (0, 1), "the other rule keeps its counter");
    }

    #[test]
    fn a_restored_counter_does_not_replace_a_newer_one() {
        let (one, _) = rules();
        let strikes = Strikes::new(10);
        strikes.add(one, client(1), at(9), FINDTIME, 3);
        strikes.restore(one, client(1), Counter::new(at(0), 1));
        strikes.restore(one, client(2), Counter::new(at(0), 2));
        assert_eq!(strikes.get(one, client(1)).map(|counter| counter.count()), Some(3));
        assert_eq!(strikes.get(one, client(2)).map(|counter| counter.count()), Some(2));
    }

    #[test]
    fn the_slices_of_a_full_table_use_at_most_half_of_their_usable_buckets() {
        for capacity in [0, 1, 10, 1000, 54_321, 100_000, 1_000_000, 10_000_000, 123_456_789] {
            let slices = slices_for(capacity);
            assert!((MIN_SLICES..=2 * MIN_SLICES).contains(&slices), "{slices} for {capacity}");
            let clients = capacity.div_ceil(slices).max(1);
            let half = |buckets: usize| buckets * 7 / 16;
            let buckets = (clients * 16 / 7 + 1).next_power_of_two();
            assert!(clients <= half(buckets), "{clients} of {capacity}");
            // 17 bytes per bucket (a pointer pair and a control byte), and a node of 64 bytes with the allocator's overhead.
            let bytes = 64 + buckets * 17 / clients;
            assert!(capacity < 1000 || bytes <= 110, "{bytes} bytes per counter for {capacity}");
        }
    }

    proptest! {
        #[test]
        fn below_its_capacity_the_table_counts_as_a_plain_map_does(events in proptest::collection::vec((0_u32..20, 0_u64..300, any::<bool>()), 1..200)) {
            let (one, _) = rules();
            let strikes = Strikes::new(1000);
            let mut twin: HashMap<Client, Counter> = HashMap::new();
            let mut now = 0;
            for (number, gap, forget) in events {
                now += gap;
                let client = client(number);
                if forget {
                    strikes.forget(one, client);
                    twin.remove(&client);
                    continue;
                }
                let expected = *twin
                    .entry(client)
                    .and_modify(|counter| { counter.add(at(now), FINDTIME, 1); })
                    .or_insert_with(|| Counter::new(at(now), 1));
                prop_assert_eq!(strikes.add(one, client, at(now), FINDTIME, 1), expected);
            }
            prop_assert_eq!(strikes.len(), twin.len());
        }
    }
}
