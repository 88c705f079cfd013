//! Strikes: who offended how often under which rule, least recently used out first, never more than the configured number.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ahash::RandomState;
use dashmap::DashMap;
use dashmap::mapref::one::RefMut;
use lru::LruCache;

use super::counter::Counter;
use crate::client::Client;
use crate::rule::RuleId;
use crate::time::{Span, Time};

/// Every rule's strikes are spread over so many caches at least, and no more than twice as many: nobody is held up for long when one of them
/// grows, is swept or is looked through.
const FEWEST_SLICES: usize = 16;

/// So many counters are dropped at a time.
const SWEPT_AT_ONCE: usize = 1000;

/// In a full table each rule keeps so many clients in each slice, a thousand or two in all, before they push out each other: those of a rule
/// whose strikes come in by the million must not leave the others without any. Less in a small table.
const FEWEST_IN_SLICE: usize = 64;

/// How many clients of a full table may be in one slice.
///
/// A slice's hash table has a power of two of buckets. A flood of new clients leaves dead buckets in it; once none is free it is put in
/// order again if less than half of the 7/8 that may be used are live, and else doubled. So the slices are made such that each holds
/// a little less than that half when the table is full: then its memory stays as it is, whatever comes (about 104 bytes for each client).
fn slices_of(capacity: usize) -> usize {
    let mut buckets = 1;
    loop {
        // 3 % for chance: of 50,000 clients on average no slice ever gets so many more.
        let most = buckets * 7 / 16 * 97 / 100;
        if most.max(1) * FEWEST_SLICES * 2 > capacity {
            return capacity.div_ceil(most.max(1)).max(FEWEST_SLICES);
        }
        buckets *= 2;
    }
}

type Slice = LruCache<Client, Counter, RandomState>;

/// The strikes of all clients under all counting rules.
///
/// One [`LruCache`] for each rule and slice of the clients, all in one [`DashMap`]: about 104 bytes for each live counter.
/// Hashes are keyed (clients choose their addresses).
pub struct Strikes {
    rules: DashMap<RuleId, Box<[Slice]>, RandomState>,
    hasher: RandomState,
    /// How many slices each rule has.
    spread: usize,
    /// So many clients may each slice have before it gives up its own.
    share: usize,
    capacity: usize,
    live: AtomicUsize,
    evicted: AtomicU64,
    /// How often [`Strikes::add_all`] was called: nobody outside can tell what chance its hash makes.
    tickets: AtomicU64,
}

/// A rule that counts every request of a client.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// The rule.
    pub rule: RuleId,
    /// Silence of this length ends a row of requests.
    pub findtime: Span,
    /// So many requests make a ban.
    pub maxretry: u32,
}

impl Rate {
    /// A full table takes up one in so many requests of strangers: 1 to 8.
    ///
    /// If every stranger's first request pushed somebody out, then a crowd larger than the table would push out each client before its second
    /// request came, and nobody would be counted any more; and the work for it would be most of what a request costs. So strangers are taken
    /// up by chance, each of their requests with the same one (after bimodal insertion: Qureshi, Jaleel, Patt, Steely and Emer, "Adaptive
    /// insertion policies for high performance caching", 2007). That leaves out the first few requests of a client who goes on: no more than
    /// 2 % of `maxretry` on average.
    fn one_in(&self) -> u64 {
        u64::from(self.maxretry / 50).clamp(1, 8)
    }
}

/// Ordinary requests of one client, seen in one read: they go into its rates together with those of others.
#[derive(Debug, Clone, Copy)]
pub struct Tallied {
    /// The full address.
    pub address: IpAddr,
    /// The client.
    pub client: Client,
    /// How many requests.
    pub requests: u32,
}

impl Tallied {
    /// So many `requests` of the client that `address` belongs to.
    #[must_use]
    pub fn new(address: IpAddr, client: Client, requests: u32) -> Self {
        Self { address, client, requests }
    }
}

impl Strikes {
    /// Room for `capacity` counters (at least one), over all rules together.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let spread = slices_of(capacity);
        Self {
            rules: DashMap::with_hasher(RandomState::new()),
            hasher: RandomState::new(),
            spread,
            share: (capacity / spread / 4).clamp(1, FEWEST_IN_SLICE),
            capacity: capacity.max(1),
            live: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            tickets: AtomicU64::new(0),
        }
    }

    /// Counts `strikes` of `client` under `rule` at `now` and returns the counter as it is then.
    ///
    /// A new client in a full table pushes out the least recently used one: of the same rule, unless it has only a few.
    pub fn add(&self, rule: RuleId, client: Client, now: Time, findtime: Span, strikes: u32) -> Counter {
        let index = self.index(client);
        let mut slices = self.of(rule);
        let Some(slice) = slices.get_mut(index) else { return Counter::new(now, strikes) };
        let (counter, has_room) = self.count_in(slice, client, now, findtime, strikes);
        drop(slices);
        if !has_room {
            self.evict_elsewhere((rule, index));
        }
        counter
    }

    /// [`Strikes::add`] for many clients, of which those are counted that `counts` names; `counted` is handed each counter as it is then.
    ///
    /// A full table takes up strangers by chance: of one who is not taken up `counted` is handed what was seen just now.
    ///
    /// In a large table nearly every step is a wait for memory. So all clients are looked up before any is changed: the processor then waits
    /// for many places at the same time.
    pub fn add_all(
        &self,
        rate: Rate,
        now: Time,
        tallied: &[Tallied],
        counts: impl Fn(&Tallied) -> bool,
        mut counted: impl FnMut(&Tallied, Counter),
    ) {
        let mut slices = self.of(rate.rule);
        let mut room = self.capacity.saturating_sub(self.len());
        let tickets = self.tickets.fetch_add(1, Ordering::Relaxed) << 32;
        // How many of each slice will be pushed out.
        let mut outgoing = [0; 2 * FEWEST_SLICES];
        let mut found = Vec::with_capacity(tallied.len());
        for (ticket, one) in (tickets..).zip(tallied).filter(|(_, one)| counts(one)) {
            let index = self.index(one.client);
            let Some((slice, outgoing)) = slices.get(index).zip(outgoing.get_mut(index)) else { continue };
            let is_new = !slice.contains(&one.client);
            let is_lucky = || self.hasher.hash_one((one.client, ticket)) % rate.one_in() < u64::from(one.requests);
            let is_taken_up = !is_new || room > 0 || is_lucky();
            if is_new && is_taken_up {
                *outgoing += usize::from(room == 0);
                room = room.saturating_sub(1);
            }
            found.push((index, one, is_taken_up));
        }
        if outgoing.iter().sum::<usize>() > 1 {
            look_at_last(&slices, outgoing);
        }
        let mut without_room = Vec::new();
        for (index, one, is_taken_up) in found {
            let Some(slice) = slices.get_mut(index) else { continue };
            // Who comes several times in one read may have been taken up with an earlier one of these requests.
            if !is_taken_up && !slice.contains(&one.client) {
                counted(one, Counter::new(now, one.requests));
                continue;
            }
            let (counter, has_room) = self.count_in(slice, one.client, now, rate.findtime, one.requests);
            if !has_room {
                without_room.push(index);
            }
            counted(one, counter);
        }
        drop(slices);
        without_room.into_iter().for_each(|index| self.evict_elsewhere((rate.rule, index)));
    }

    /// Puts a counter back as a state file kept it, unless the client has one already.
    pub fn restore(&self, rule: RuleId, client: Client, counter: Counter) {
        let index = self.index(client);
        let mut slices = self.of(rule);
        let Some(slice) = slices.get_mut(index).filter(|slice| !slice.contains(&client)) else { return };
        slice.put(client, counter);
        let has_room = self.make_room(slice);
        drop(slices);
        if !has_room {
            self.evict_elsewhere((rule, index));
        }
    }

    /// The counter of `client` under `rule`, if it has one. Asking does not make it more recently used.
    #[must_use]
    pub fn get(&self, rule: RuleId, client: Client) -> Option<Counter> {
        self.rules.get(&rule)?.get(self.index(client))?.peek(&client).copied()
    }

    /// Forgets the strikes of `client` under `rule`: after a ban the count starts anew.
    pub fn forget(&self, rule: RuleId, client: Client) {
        if let Some(mut slices) = self.rules.get_mut(&rule)
            && let Some(slice) = slices.get_mut(self.index(client))
            && slice.pop(&client).is_some()
        {
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Drops the counters of `rule` that `findtime` of silence has ended, oldest first. Others may count in between.
    pub fn sweep(&self, rule: RuleId, now: Time, findtime: Span) {
        for index in 0..self.spread {
            let mut goes_on = true;
            while goes_on {
                let mut slices = self.rules.get_mut(&rule);
                let Some(slice) = slices.as_mut().and_then(|slices| slices.get_mut(index)) else { return };
                let over = |slice: &Slice| slice.peek_lru().is_some_and(|(_, counter)| counter.is_over(now, findtime));
                let dropped = (0..SWEPT_AT_ONCE).take_while(|_| over(slice) && slice.pop_lru().is_some()).count();
                self.live.fetch_sub(dropped, Ordering::Relaxed);
                goes_on = dropped == SWEPT_AT_ONCE;
            }
        }
    }

    /// Calls `visit` with every counter. Locks a rule for the time of one slice: `visit` must not touch this table.
    pub fn for_each(&self, mut visit: impl FnMut(RuleId, Client, Counter)) {
        let rules: Vec<RuleId> = self.rules.iter().map(|slices| *slices.key()).collect();
        for rule in rules {
            for index in 0..self.spread {
                if let Some(slices) = self.rules.get(&rule) {
                    slices.get(index).into_iter().flatten().for_each(|(client, counter)| visit(rule, *client, *counter));
                }
            }
        }
    }

    /// How many counters are live under `rule`.
    #[must_use]
    pub fn count(&self, rule: RuleId) -> usize {
        self.rules.get(&rule).map_or(0, |slices| slices.iter().map(LruCache::len).sum())
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

    /// The number of a client's slice.
    fn index(&self, client: Client) -> usize {
        // The cache places a client by the lowest and highest bits of the same hash: the slice must be chosen by others.
        usize::try_from(self.hasher.hash_one(client) >> 32).unwrap_or(0) % self.spread
    }

    fn of(&self, rule: RuleId) -> RefMut<'_, RuleId, Box<[Slice]>> {
        let slice = |_| LruCache::unbounded_with_hasher(self.hasher.clone());
        self.rules.entry(rule).or_insert_with(|| (0..self.spread).map(slice).collect())
    }

    /// Counts in `slice`, and says whether there is [room](Strikes::make_room).
    fn count_in(&self, slice: &mut Slice, client: Client, now: Time, findtime: Span, strikes: u32) -> (Counter, bool) {
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

    /// Counts the newcomer that was just put into `slice`, or pushes its least recently used one out if the table is full.
    ///
    /// False where the slice has no more than its [share](FEWEST_IN_SLICE): then another one must give something up, once this one is let
    /// go. Two guards of one map could wait for each other for ever.
    fn make_room(&self, slice: &mut Slice) -> bool {
        if self.live.load(Ordering::Relaxed) < self.capacity {
            self.live.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let has_share = slice.len() > self.share;
        if has_share && slice.pop_lru().is_some() {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        has_share
    }

    /// Makes room for a rule's first strikes in a table that other rules have filled: the fullest slice gives one up.
    fn evict_elsewhere(&self, own: (RuleId, usize)) {
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

/// Looks at those that will be pushed out, so many of each slice. Of what is found nothing is used: it is in the caches then.
fn look_at_last(slices: &[Slice], outgoing: [usize; 2 * FEWEST_SLICES]) {
    // Each tells where the next one is: so a step in every slice, then the next step.
    let mut tails: Vec<_> = slices.iter().zip(outgoing).map(|(slice, number)| (slice, slice.iter().rev().take(number))).collect();
    let mut last = Vec::with_capacity(outgoing.iter().sum());
    while !tails.is_empty() {
        tails.retain_mut(|(slice, tail)| tail.next().map(|(client, _)| last.push((*slice, client))).is_some());
    }
    black_box(last.into_iter().filter(|(slice, client)| slice.contains(client)).count());
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
    fn a_flood_under_one_rule_leaves_the_others_room_to_count_many_clients() {
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

    #[test]
    fn a_full_tables_slices_are_as_many_as_their_hash_tables_can_keep_in_order() {
        for capacity in [0, 1, 10, 1000, 54_321, 100_000, 1_000_000, 10_000_000, 123_456_789] {
            let slices = slices_of(capacity);
            assert!((FEWEST_SLICES..=2 * FEWEST_SLICES).contains(&slices), "{slices} for {capacity}");
            let clients = capacity.div_ceil(slices).max(1);
            let half = |buckets: usize| buckets * 7 / 16;
            let buckets = (clients * 16 / 7 + 1).next_power_of_two();
            assert!(clients <= half(buckets), "{clients} of {capacity}");
            // 16 + 1 bytes a bucket, and a node of 64 with what the allocator needs.
            let bytes = 64 + buckets * 17 / clients;
            assert!(capacity < 1000 || bytes <= 110, "{bytes} B each for {capacity}");
        }
    }

    #[test]
    fn a_batch_of_new_clients_never_exceeds_the_capacity() {
        let (one, two) = rules();
        let strikes = Strikes::new(100);
        for second in 0..100 {
            let tallied: Vec<Tallied> = (0..70).map(|number| tallied(second * 50 + number, 1)).collect();
            let rule = if second % 3 == 0 { two } else { one };
            strikes.add_all(rate(rule, 2), at(u64::from(second)), &tallied, |_| true, |_, _| ());
        }
        let mut counted = 0;
        strikes.for_each(|_, _, _| counted += 1);
        assert_eq!((strikes.len(), counted), (100, 100));
    }

    fn rate(rule: RuleId, maxretry: u32) -> Rate {
        Rate { rule, findtime: FINDTIME, maxretry }
    }

    #[test]
    fn a_crowd_of_strangers_larger_than_the_table_does_not_hide_who_goes_on() {
        let (one, _) = rules();
        let (strikes, rate) = (Strikes::new(1000), rate(one, 600));
        let mut strangers = 1_000_000..;
        let mut most = 0;
        // 2,000 strangers come between two requests of the one who goes on, in reads of 100.
        for read in 0..4000 {
            let mut together: Vec<Tallied> = strangers.by_ref().take(100).map(|number| tallied(number, 1)).collect();
            if read % 20 == 19 {
                together.push(tallied(7, 1));
            }
            strikes.add_all(
                rate,
                at(read / 100),
                &together,
                |_| true,
                |one, counter| {
                    if one.client == client(7) {
                        most = most.max(counter.count());
                    }
                },
            );
        }
        // Chance leaves out 7 requests on average, and a hundred once in a million runs.
        assert!(most >= 100, "200 requests, {most} counted");
        assert_eq!(strikes.len(), 1000);
    }

    #[test]
    fn a_full_table_takes_up_whoever_asks_often_in_one_read() {
        let (one, _) = rules();
        let strikes = full_of_others(one);
        for number in 5000..5200 {
            strikes.add_all(rate(one, 600), at(1), &[tallied(number, 8)], |_| true, |_, _| ());
            assert_eq!(strikes.get(one, client(number)).map(|counter| counter.count()), Some(8));
        }
    }

    #[test]
    fn in_a_full_table_a_client_counts_from_the_request_on_that_took_it_up_also_within_one_read() {
        let (one, _) = rules();
        let strikes = full_of_others(one);
        let read: Vec<Tallied> = (0..400).map(|number| tallied(5000 + number % 2, 1)).collect();
        strikes.add_all(rate(one, 600), at(1), &read, |_| true, |_, _| ());
        for number in [5000, 5001] {
            let counted = strikes.get(one, client(number)).map_or(0, |counter| counter.count());
            // Chance leaves out 7 requests on average, and a hundred once in a million runs; with a chance for each it would count 25.
            assert!(counted >= 100, "{counted} of 200");
        }
    }

    #[test]
    fn a_table_with_room_takes_up_every_stranger() {
        let (one, _) = rules();
        let strikes = Strikes::new(1000);
        let crowd: Vec<Tallied> = (0..1000).map(|number| tallied(number, 1)).collect();
        strikes.add_all(rate(one, 600), at(0), &crowd, |_| true, |_, _| ());
        assert_eq!(strikes.len(), 1000);
    }

    /// A table of 1,000 that other clients have filled.
    fn full_of_others(rule: RuleId) -> Strikes {
        let strikes = Strikes::new(1000);
        for number in 0..1000 {
            strikes.add(rule, client(number), at(0), FINDTIME, 1);
        }
        assert_eq!(strikes.len(), 1000);
        strikes
    }

    #[test]
    fn a_rate_of_few_requests_takes_up_every_stranger() {
        assert_eq!([1, 99, 100, 399, 600, u32::MAX].map(|maxretry| rate(rules().0, maxretry).one_in()), [1, 1, 2, 7, 8, 8]);
        let (one, _) = rules();
        let strikes = Strikes::new(100);
        for number in 0..1000 {
            strikes.add_all(rate(one, 99), at(0), &[tallied(number, 1)], |_| true, |_, _| ());
            assert!(strikes.get(one, client(number)).is_some());
        }
    }

    fn tallied(number: u32, requests: u32) -> Tallied {
        let address = Ipv4Addr::from(number);
        Tallied::new(address.into(), Client::from(address), requests)
    }

    proptest! {
        #[test]
        fn a_batch_counts_as_its_clients_one_by_one(
            batches in proptest::collection::vec(proptest::collection::vec((0_u32..30, 1_u32..4), 0..40), 1..8),
            skipped in 0_u32..30,
        ) {
            let (one, _) = rules();
            let (strikes, twin) = (Strikes::new(1000), Strikes::new(1000));
            for (second, batch) in (0..).zip(batches) {
                let together: Vec<Tallied> = batch.iter().map(|(number, requests)| tallied(*number, *requests)).collect();
                let mut counted = HashMap::new();
                let counts = |one: &Tallied| one.client != client(skipped);
                strikes.add_all(rate(one, 600), at(second), &together, counts, |one, counter| { counted.insert(one.client, counter); });
                for (number, requests) in batch.into_iter().filter(|(number, _)| *number != skipped) {
                    twin.add(one, client(number), at(second), FINDTIME, requests);
                }
                for (client, counter) in counted {
                    prop_assert_eq!(Some(counter), twin.get(one, client));
                    prop_assert_eq!(Some(counter), strikes.get(one, client));
                }
            }
            prop_assert_eq!(strikes.len(), twin.len());
        }

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
