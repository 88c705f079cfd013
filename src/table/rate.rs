//! Request rates: the ordinary requests of many clients, counted together after each read.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::counter::Counter;
use super::strikes::{MIN_SLICES, Slice, Strikes};
use crate::client::Client;
use crate::rule_id::RuleId;
use crate::time::{Span, Time};

/// The limit of a rule that counts every request of a client.
#[derive(Debug, Clone, Copy)]
pub struct RateLimit {
    pub rule: RuleId,
    /// The period in which requests add up; see [`Counter`].
    pub findtime: Span,
    /// Number of requests that cause a ban.
    pub maxretry: u32,
}

impl RateLimit {
    /// The admission limit of a full table: it admits a new client with a chance of one in this number (1 to 8) for each request.
    ///
    /// If every new client evicted another one, a crowd larger than the table would evict each client before its second request, and no
    /// client would be counted any more. Admission by chance is bimodal insertion (Qureshi, Jaleel, Patt, Steely and Emer, "Adaptive
    /// insertion policies for high performance caching", 2007). A client that persists loses its first few requests: on average no more
    /// than 2 % of `maxretry`.
    fn admits_one_in(&self) -> u64 {
        u64::from(self.maxretry / 50).clamp(1, 8)
    }
}

/// The number of ordinary requests of one client in one read.
#[derive(Debug, Clone, Copy)]
pub struct RequestTally {
    /// The full address.
    pub address: IpAddr,
    /// The client that `address` belongs to.
    pub client: Client,
    pub requests: u32,
    /// How many of them had no source of their own.
    pub unreferred: u32,
}

impl RequestTally {
    #[must_use]
    pub fn new(address: IpAddr, client: Client, requests: u32) -> Self {
        Self { address, client, requests, unreferred: 0 }
    }

    /// The same requests, `unreferred` of which had no source of their own.
    #[must_use]
    pub fn with_unreferred(self, unreferred: u32) -> Self {
        Self { unreferred: unreferred.min(self.requests), ..self }
    }
}

impl Strikes {
    /// Counts the requests of many clients: [`Strikes::add`] for each tally for which `is_counted` returns true.
    ///
    /// Calls `visit` with the updated counter of each. A full table admits new clients by chance; `visit` gets a counter of this tally alone
    /// for a client that is not admitted.
    ///
    /// In a large table, nearly every step waits for memory. Therefore all clients are looked up before any counter changes, which lets the
    /// processor overlap the waits.
    pub fn add_all(
        &self,
        limit: RateLimit,
        now: Time,
        tallies: &[RequestTally],
        is_counted: impl Fn(&RequestTally) -> bool,
        mut visit: impl FnMut(&RequestTally, Counter),
    ) {
        let mut slices = self.slices(limit.rule);
        let mut room = self.capacity.saturating_sub(self.len());
        // A number that no other tally gets, hashed with a secret key: clients cannot predict when they are admitted.
        let first_draw = self.batches.fetch_add(1, Ordering::Relaxed) << 32;
        let mut evictions = [0; 2 * MIN_SLICES];
        // The lookups have a loop of their own. The smaller it is, the more of them are in flight at the same time.
        let mut known = Vec::with_capacity(tallies.len());
        known.extend(tallies.iter().filter(|tally| is_counted(tally)).filter_map(|tally| {
            let index = self.index(tally.client);
            Some((index, tally, slices.get(index)?.contains(&tally.client)))
        }));
        let mut looked_up = Vec::with_capacity(known.len());
        for (draw, (index, tally, is_known)) in (first_draw..).zip(known) {
            let is_drawn = || self.hasher.hash_one((tally.client, draw)) % limit.admits_one_in() < u64::from(tally.requests);
            let is_admitted = is_known || room > 0 || is_drawn();
            if !is_known && is_admitted {
                if let Some(evictions) = evictions.get_mut(index) {
                    *evictions += usize::from(room == 0);
                }
                room = room.saturating_sub(1);
            }
            looked_up.push((index, tally, is_admitted));
        }
        if evictions.iter().sum::<usize>() > 1 {
            prefetch_last(&slices, evictions);
        }
        let mut without_room = Vec::new();
        for (index, tally, is_admitted) in looked_up {
            let Some(slice) = slices.get_mut(index) else { continue };
            // A client with several tallies may have been admitted with an earlier tally.
            if !is_admitted && !slice.contains(&tally.client) {
                visit(tally, Counter::new(now, tally.requests));
                continue;
            }
            let (counter, has_room) = self.count_in(slice, tally.client, now, limit.findtime, tally.requests);
            if !has_room {
                without_room.push(index);
            }
            visit(tally, counter);
        }
        drop(slices);
        without_room.into_iter().for_each(|index| self.evict_elsewhere((limit.rule, index)));
    }
}

/// Brings the least recently used counters of each slice, which are about to be evicted, into the cache.
fn prefetch_last(slices: &[Slice], evictions: [usize; 2 * MIN_SLICES]) {
    // An LRU list is a linked list: an entry must have arrived before the next one can be fetched. Walking all lists in step fetches one
    // entry of each at a time.
    let mut tails: Vec<_> = slices.iter().zip(evictions).map(|(slice, number)| (slice, slice.iter().rev().take(number))).collect();
    let mut last = Vec::with_capacity(evictions.iter().sum());
    while !tails.is_empty() {
        tails.retain_mut(|(slice, tail)| tail.next().map(|(client, _)| last.push((*slice, client))).is_some());
    }
    black_box(last.into_iter().filter(|(slice, client)| slice.contains(client)).count());
}

#[cfg(test)]
mod tests {
    use super::super::strikes::fixtures::{FINDTIME, at, client, rules};
    use super::*;

    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    #[test]
    fn a_batch_of_new_clients_never_exceeds_the_capacity() {
        let (one, two) = rules();
        let strikes = Strikes::new(100);
        for second in 0..100 {
            let batch: Vec<RequestTally> = (0..70).map(|number| tally(second * 50 + number, 1)).collect();
            let rule = if second % 3 == 0 { two } else { one };
            strikes.add_all(rate(rule, 2), at(u64::from(second)), &batch, |_| true, |_, _| ());
        }
        let mut counted = 0;
        strikes.for_each(|_, _, _| counted += 1);
        assert_eq!((strikes.len(), counted), (100, 100));
    }

    #[test]
    fn a_persistent_client_is_counted_in_a_crowd_larger_than_the_table() {
        let (one, _) = rules();
        let (strikes, rate) = (Strikes::new(1000), rate(one, 600));
        let mut strangers = 1_000_000..;
        let mut most = 0;
        // 2,000 new clients come between two requests of the persistent one, in reads of 100.
        for read in 0..4000 {
            let mut together: Vec<RequestTally> = strangers.by_ref().take(100).map(|number| tally(number, 1)).collect();
            if read % 20 == 19 {
                together.push(tally(7, 1));
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
        // On average 7 requests are not counted; a hundred are missed once in a million runs.
        assert!(most >= 100, "200 requests, {most} counted");
        assert_eq!(strikes.len(), 1000);
    }

    #[test]
    fn a_full_table_always_admits_a_client_with_eight_requests_in_one_read() {
        let (one, _) = rules();
        let strikes = full_of_others(one);
        for number in 5000..5200 {
            strikes.add_all(rate(one, 600), at(1), &[tally(number, 8)], |_| true, |_, _| ());
            assert_eq!(strikes.get(one, client(number)).map(|counter| counter.count()), Some(8));
        }
    }

    #[test]
    fn a_client_is_counted_from_the_tally_that_admits_it_within_the_same_read() {
        let (one, _) = rules();
        let strikes = full_of_others(one);
        let read: Vec<RequestTally> = (0..400).map(|number| tally(5000 + number % 2, 1)).collect();
        strikes.add_all(rate(one, 600), at(1), &read, |_| true, |_, _| ());
        for number in [5000, 5001] {
            let counted = strikes.get(one, client(number)).map_or(0, |counter| counter.count());
            // On average 7 requests are not counted; a hundred are missed once in a million runs. If every tally were drawn, 25 would count.
            assert!(counted >= 100, "{counted} of 200");
        }
    }

    #[test]
    fn a_table_with_room_admits_every_client() {
        let (one, _) = rules();
        let strikes = Strikes::new(1000);
        let crowd: Vec<RequestTally> = (0..1000).map(|number| tally(number, 1)).collect();
        strikes.add_all(rate(one, 600), at(0), &crowd, |_| true, |_, _| ());
        assert_eq!(strikes.len(), 1000);
    }

    #[test]
    fn a_full_table_admits_one_new_client_in_eight_that_sends_one_request() {
        let (one, _) = rules();
        let strikes = full_of_others(one);
        let crowd: Vec<RequestTally> = (5000..13_000).map(|number| tally(number, 1)).collect();
        crowd.chunks(100).for_each(|read| strikes.add_all(rate(one, 600), at(1), read, |_| true, |_, _| ()));
        // On average 1,000, with a standard deviation of 30. Each evicts another client.
        assert!((800..1200).contains(&strikes.evicted()), "{}", strikes.evicted());
    }

    #[test]
    fn requests_of_known_clients_leave_the_room_of_the_table_to_new_ones() {
        let (one, _) = rules();
        let strikes = Strikes::new(1000);
        let read = |numbers: std::ops::Range<u32>| numbers.map(|number| tally(number, 1)).collect::<Vec<_>>();
        strikes.add_all(rate(one, 600), at(0), &read(0..500), |_| true, |_, _| ());
        strikes.add_all(rate(one, 600), at(1), &read(0..1000), |_| true, |_, _| ());
        assert_eq!((strikes.len(), strikes.evicted()), (1000, 0));
        assert!((0..1000).all(|number| strikes.get(one, client(number)).is_some()));
    }

    #[test]
    fn new_clients_beyond_the_room_of_the_table_are_admitted_by_chance_within_one_read() {
        let (one, _) = rules();
        let strikes = Strikes::new(1000);
        let read: Vec<RequestTally> = (0..9000).map(|number| tally(number, 1)).collect();
        strikes.add_all(rate(one, 600), at(0), &read, |_| true, |_, _| ());
        assert_eq!(strikes.len(), 1000);
        assert!((800..1200).contains(&strikes.evicted()), "{}", strikes.evicted());
    }

    #[test]
    fn a_low_limit_admits_every_client() {
        assert_eq!([1, 99, 100, 399, 600, u32::MAX].map(|maxretry| rate(rules().0, maxretry).admits_one_in()), [1, 1, 2, 7, 8, 8]);
        let (one, _) = rules();
        let strikes = Strikes::new(100);
        for number in 0..1000 {
            strikes.add_all(rate(one, 99), at(0), &[tally(number, 1)], |_| true, |_, _| ());
            assert!(strikes.get(one, client(number)).is_some());
        }
    }

    fn rate(rule: RuleId, maxretry: u32) -> RateLimit {
        RateLimit { rule, findtime: FINDTIME, maxretry }
    }

    /// A table of 1,000 counters that other clients have filled.
    fn full_of_others(rule: RuleId) -> Strikes {
        let strikes = Strikes::new(1000);
        for number in 0..1000 {
            strikes.add(rule, client(number), at(0), FINDTIME, 1);
        }
        assert_eq!(strikes.len(), 1000);
        strikes
    }

    fn tally(number: u32, requests: u32) -> RequestTally {
        let address = Ipv4Addr::from(number);
        RequestTally::new(address.into(), Client::from(address), requests)
    }

    proptest! {
        #[test]
        fn a_batch_counts_as_single_additions_do(
            batches in proptest::collection::vec(proptest::collection::vec((0_u32..30, 1_u32..4), 0..40), 1..8),
            skipped in 0_u32..30,
        ) {
            let (one, _) = rules();
            let (strikes, twin) = (Strikes::new(1000), Strikes::new(1000));
            for (second, batch) in (0..).zip(batches) {
                let together: Vec<RequestTally> = batch.iter().map(|(number, requests)| tally(*number, *requests)).collect();
                let mut counted = HashMap::new();
                let counts = |one: &RequestTally| one.client != client(skipped);
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
    }
}
