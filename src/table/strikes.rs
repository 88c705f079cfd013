//! Strikes: who offended how often under which rule, least recently used out first, never more than the configured number.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ahash::RandomState;
use dashmap::DashMap;
use lru::LruCache;

use super::counter::Counter;
use crate::client::Client;
use crate::rule::RuleId;
use crate::time::{Span, Time};

/// Every rule's strikes are spread over this many caches, so that threads seldom wait for each other.
const SLICES: u64 = 64;

type Slice = LruCache<Client, Counter, RandomState>;

/// The strikes of all clients under all counting rules.
///
/// One [`LruCache`] for each rule and slice of the clients, all in one [`DashMap`]: about 99 bytes for each live counter.
/// Hashes are keyed (clients choose their addresses).
pub struct Strikes {
    slices: DashMap<(RuleId, u64), Slice, RandomState>,
    hasher: RandomState,
    capacity: usize,
    live: AtomicUsize,
    evicted: AtomicU64,
}

impl Strikes {
    /// Room for `capacity` counters (at least one), over all rules together.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            slices: DashMap::with_hasher(RandomState::new()),
            hasher: RandomState::new(),
            capacity: capacity.max(1),
            live: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// Counts `strikes` of `client` under `rule` at `now` and returns the counter as it is then.
    ///
    /// A new client in a full table pushes out the least recently used one: of the same rule, where it has others.
    pub fn add(&self, rule: RuleId, client: Client, now: Time, findtime: Span, strikes: u32) -> Counter {
        let mut slice = self.slice(rule, client);
        if let Some(counter) = slice.get_mut(&client) {
            counter.add(now, findtime, strikes);
            return *counter;
        }
        let counter = Counter::new(now, strikes);
        self.insert(slice, client, counter);
        counter
    }

    /// Puts a counter back as a state file kept it, unless the client has one already.
    pub fn restore(&self, rule: RuleId, client: Client, counter: Counter) {
        let slice = self.slice(rule, client);
        if !slice.contains(&client) {
            self.insert(slice, client, counter);
        }
    }

    /// The counter of `client` under `rule`, if it has one. Asking does not make it more recently used.
    #[must_use]
    pub fn get(&self, rule: RuleId, client: Client) -> Option<Counter> {
        self.slices.get(&self.key(rule, client))?.peek(&client).copied()
    }

    /// Forgets the strikes of `client` under `rule`: after a ban the count starts anew.
    pub fn forget(&self, rule: RuleId, client: Client) {
        if let Some(mut slice) = self.slices.get_mut(&self.key(rule, client))
            && slice.pop(&client).is_some()
        {
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Drops the counters of `rule` that `findtime` of silence has ended, oldest first.
    pub fn sweep(&self, rule: RuleId, now: Time, findtime: Span) {
        for slice in 0..SLICES {
            let Some(mut slice) = self.slices.get_mut(&(rule, slice)) else { continue };
            while slice.peek_lru().is_some_and(|(_, counter)| counter.is_over(now, findtime)) {
                slice.pop_lru();
                self.live.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Calls `visit` with every counter. Locks one slice at a time: `visit` must not touch this table.
    pub fn for_each(&self, mut visit: impl FnMut(RuleId, Client, Counter)) {
        for slice in &self.slices {
            let (rule, _) = *slice.key();
            for (client, counter) in slice.value() {
                visit(rule, *client, *counter);
            }
        }
    }

    /// How many counters are live under `rule`.
    #[must_use]
    pub fn count(&self, rule: RuleId) -> usize {
        (0..SLICES).filter_map(|slice| Some(self.slices.get(&(rule, slice))?.len())).sum()
    }

    /// How many counters are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Whether nobody has a strike.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many counters were pushed out by newer ones since the start.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn key(&self, rule: RuleId, client: Client) -> (RuleId, u64) {
        // The cache places a client by the lowest and highest bits of the same hash: the slice must be chosen by others.
        (rule, (self.hasher.hash_one(client) >> 32) % SLICES)
    }

    fn slice(&self, rule: RuleId, client: Client) -> dashmap::mapref::one::RefMut<'_, (RuleId, u64), Slice> {
        self.slices.entry(self.key(rule, client)).or_insert_with(|| LruCache::unbounded_with_hasher(self.hasher.clone()))
    }

    fn insert(&self, mut slice: dashmap::mapref::one::RefMut<'_, (RuleId, u64), Slice>, client: Client, counter: Counter) {
        if self.live.load(Ordering::Relaxed) < self.capacity {
            slice.put(client, counter);
            self.live.fetch_add(1, Ordering::Relaxed);
        } else if slice.pop_lru().is_some() {
            slice.put(client, counter);
            self.evicted.fetch_add(1, Ordering::Relaxed);
        } else {
            slice.put(client, counter);
            let own = *slice.key();
            // Two guards of one map at a time could wait for each other for ever.
            drop(slice);
            self.evict_elsewhere(own);
        }
    }

    /// Makes room for a rule's first strike in a table that other rules have filled: the fullest slice gives one up.
    fn evict_elsewhere(&self, own: (RuleId, u64)) {
        let fullest = self.slices.iter().filter(|slice| *slice.key() != own).max_by_key(|slice| slice.len()).map(|slice| *slice.key());
        let evicted = fullest.and_then(|key| self.slices.get_mut(&key)).and_then(|mut slice| slice.pop_lru()).is_some();
        if evicted {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        } else {
            self.live.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Names;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    const FINDTIME: Span = Span::from_secs(600);

    fn client(number: u32) -> Client {
        Client::from(Ipv4Addr::from(number))
    }

    fn at(seconds: u64) -> Time {
        Time::from_secs(1_800_000_000 + seconds)
    }

    fn rules() -> (RuleId, RuleId) {
        let names = Names::default();
        (names.intern("one"), names.intern("two"))
    }

    #[test]
    fn each_rule_counts_for_itself() {
        let (one, two) = rules();
        let strikes = Strikes::new(10);
        strikes.add(one, client(1), at(0), FINDTIME, 1);
        assert_eq!(strikes.add(one, client(1), at(1), FINDTIME, 1).count(), 2);
        assert_eq!(strikes.add(two, client(1), at(1), FINDTIME, 1).count(), 1);
        assert_eq!((strikes.count(one), strikes.count(two), strikes.len()), (1, 1, 2));
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
    fn a_rule_without_strikes_gets_room_in_a_table_that_another_filled() {
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
    fn counters_that_silence_has_ended_are_swept_out() {
        let (one, _) = rules();
        let strikes = Strikes::new(10);
        strikes.add(one, client(1), at(0), FINDTIME, 1);
        strikes.add(one, client(2), at(500), FINDTIME, 1);
        strikes.sweep(one, at(700), FINDTIME);
        assert_eq!(strikes.get(one, client(1)), None);
        assert_eq!(strikes.len(), 1);
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

    proptest! {
        #[test]
        fn with_room_for_all_it_counts_as_a_plain_map_does(events in proptest::collection::vec((0_u32..20, 0_u64..300, any::<bool>()), 1..200)) {
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
