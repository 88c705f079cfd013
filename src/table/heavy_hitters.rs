//! Which client makes most of the traffic, in a few counters: space-saving (Metwally, Agrawal, El Abbadi: "Efficient Computation of
//! Frequent and Top-k Elements in Data Streams", 2005), with older events counting half from time to time.

use crate::client::Client;

/// Number of counters. A client's count is uncertain by at most the sum of all events divided by this.
const COUNTERS: usize = 32;
/// Number of events after which all of them count half.
const HALVED_AT: u64 = 100_000;

#[derive(Debug, Clone, Copy)]
struct Entry {
    client: Client,
    /// At most this many events.
    count: u64,
    /// How many of these may be others'.
    error: u64,
}

/// Counts of the clients with the most events.
#[derive(Debug, Clone, Default)]
pub struct HeavyHitters {
    entries: Vec<Entry>,
    total: u64,
}

impl HeavyHitters {
    /// Counts `events` of a client.
    pub fn add(&mut self, client: Client, events: u64) {
        self.total = self.total.saturating_add(events);
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.client == client) {
            entry.count = entry.count.saturating_add(events);
        } else if self.entries.len() < COUNTERS {
            self.entries.push(Entry { client, count: events, error: 0 });
        } else if let Some(least) = self.entries.iter_mut().min_by_key(|entry| entry.count) {
            // The new client may have had as many as the one whose counter it takes.
            *least = Entry { client, count: least.count.saturating_add(events), error: least.count };
        }
        if self.total >= HALVED_AT {
            self.total /= 2;
            for entry in &mut self.entries {
                (entry.count, entry.error) = (entry.count / 2, entry.error.div_ceil(2).min(entry.count / 2));
            }
        }
    }

    /// Number of events that count at present.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The client that certainly has the most events, and how many at least.
    #[must_use]
    pub fn heaviest(&self) -> Option<(Client, u64)> {
        self.entries.iter().map(|entry| (entry.client, entry.count - entry.error)).max_by_key(|(_, events)| *events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    fn client(number: u32) -> Client {
        Client::from(Ipv4Addr::from(0xc633_0000 + number))
    }

    proptest! {
        #[test]
        fn no_count_is_too_high_and_none_too_low_by_more_than_its_share(
            events in prop::collection::vec((prop_oneof![0_u32..4, 0_u32..500], 1_u64..20), 0..2000)
        ) {
            let (mut sketch, mut naive) = (HeavyHitters::default(), HashMap::<Client, u64>::new());
            for (number, weight) in events {
                sketch.add(client(number), weight);
                *naive.entry(client(number)).or_default() += weight;
            }
            let total: u64 = naive.values().sum();
            prop_assert_eq!(sketch.total(), total);
            prop_assert!(sketch.entries.len() <= COUNTERS);
            for entry in &sketch.entries {
                let exact = naive[&entry.client];
                prop_assert!(entry.count - entry.error <= exact && exact <= entry.count);
                prop_assert!(entry.error <= total / COUNTERS as u64);
            }
            if let Some((most, exact)) = naive.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count * 2 > total) {
                let (found, at_least) = sketch.heaviest().unwrap();
                prop_assert!(found == *most && at_least + total / COUNTERS as u64 >= *exact, "a majority is always found");
            }
        }
    }

    #[test]
    fn a_client_that_was_heavy_long_ago_is_forgotten() {
        let mut sketch = HeavyHitters::default();
        (0..HALVED_AT).for_each(|_| sketch.add(client(1), 1));
        assert_eq!(sketch.heaviest(), Some((client(1), HALVED_AT / 2)));
        (0..3 * HALVED_AT).for_each(|number| sketch.add(client(2 + u32::try_from(number % 8).unwrap()), 1));
        let (found, at_least) = sketch.heaviest().unwrap();
        assert!(found != client(1) && at_least * 2 < sketch.total());
        sketch.add(client(3), u64::MAX);
        sketch.add(client(3), u64::MAX);
        assert_eq!(sketch.heaviest().unwrap().0, client(3), "a number from a peer overflows nothing");
    }
}
