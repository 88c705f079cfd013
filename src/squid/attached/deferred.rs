//! Offences that the daemon could not take when they happened. They wait here, merged by client, and are reported as soon as there is room.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;

use crate::client::Client;
use crate::rule::{Evidence, Marks};
use crate::rule_id::RuleId;

/// Maximum number of entries. Each takes some 560 bytes with one rule and the longest evidence, and 4 more for each further rule.
const MAX_ENTRIES: usize = 100_000;
/// How long an offence may wait. The daemon counts it when it arrives, so a longer wait would let offences of an hour ago add up to a ban now.
/// Merged offences are as old as the first of them: rather too few are counted than old ones.
const MAX_AGE: Duration = Duration::from_secs(10);

/// A client, the rules that its offences are under, and what tells them apart.
type Key = (Client, Arc<[RuleId]>, Option<Marks>);

/// Offences of one client under the same rules.
#[derive(Debug, PartialEq, Eq)]
pub struct Deferred {
    /// One of the client's addresses.
    pub address: IpAddr,
    pub rules: Arc<[RuleId]>,
    pub marks: Option<Marks>,
    pub count: u32,
    /// That of the last offence, as in a ban's record.
    pub evidence: Evidence,
    /// When the first of the offences happened.
    pub since: Instant,
}

struct Entry {
    offences: Deferred,
    /// Its key in `order`.
    place: Place,
}

/// When the first offence happened, and a number that no other entry has.
type Place = (Instant, u64);

/// Deferred offences, the longest waiting first. The time is an argument.
#[derive(Default)]
pub struct DeferredOffences {
    entries: HashMap<Key, Entry, RandomState>,
    /// Every key of `entries`.
    order: BTreeMap<Place, Key>,
    next: u64,
    /// Offences that were dropped since this was last taken.
    dropped: u64,
}

impl DeferredOffences {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds offences of `client`. Beyond [`MAX_ENTRIES`] they are dropped, and counted as such.
    pub fn add(&mut self, now: Instant, client: Client, offences: Deferred) {
        self.forget_old(now);
        let key = (client, Arc::clone(&offences.rules), offences.marks);
        if let Some(entry) = self.entries.get_mut(&key) {
            let known = &mut entry.offences;
            known.count = known.count.saturating_add(offences.count);
            known.evidence = offences.evidence;
            // Those of a lost connection come back later than they happened.
            if offences.since < known.since {
                known.since = offences.since;
                self.order.remove(&entry.place);
                entry.place.0 = offences.since;
                self.order.insert(entry.place, key);
            }
        } else if self.entries.len() < MAX_ENTRIES {
            let place = (offences.since, self.next);
            self.next += 1;
            self.order.insert(place, key.clone());
            self.entries.insert(key, Entry { offences, place });
        } else {
            self.dropped += u64::from(offences.count);
        }
    }

    /// Takes the offences that have waited for longest, unless they have waited too long.
    pub fn take(&mut self, now: Instant) -> Option<Deferred> {
        self.forget_old(now);
        let (_, key) = self.order.pop_first()?;
        self.entries.remove(&key).map(|entry| entry.offences)
    }

    /// Drops everything, and returns the number of offences that were dropped since [`DeferredOffences::take_dropped`].
    pub fn take_all(&mut self, now: Instant) -> u64 {
        while let Some(offences) = self.take(now) {
            self.dropped += u64::from(offences.count);
        }
        self.take_dropped()
    }

    /// The number of offences that were dropped since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some(first) = self.order.first_entry()
            && now.saturating_duration_since(first.key().0) > MAX_AGE
        {
            let key = first.remove();
            self.dropped += self.entries.remove(&key).map_or(0, |entry| u64::from(entry.offences.count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn add_since(deferred: &mut DeferredOffences, now: Instant, since: Instant, client: u32, rule: u32, evidence: &str) {
        let address = Ipv4Addr::from(0xc633_0000 + client);
        let (rules, evidence) = (Arc::from([RuleId::from_number(rule)]), Evidence::restore(evidence));
        deferred.add(now, Client::from(address), Deferred { address: address.into(), rules, marks: None, count: 1, evidence, since });
    }

    fn add(deferred: &mut DeferredOffences, now: Instant, client: u32, rule: u32, evidence: &str) {
        add_since(deferred, now, now, client, rule, evidence);
    }

    fn take_all(deferred: &mut DeferredOffences, now: Instant) -> Vec<(u32, String, u32, String)> {
        let text = |taken: Deferred| (taken.count, taken.address.to_string(), taken.rules[0].number(), taken.evidence.as_str().to_owned());
        std::iter::from_fn(|| deferred.take(now)).map(text).collect()
    }

    fn line(count: u32, address: &str, rule: u32, evidence: &str) -> (u32, String, u32, String) {
        (count, address.into(), rule, evidence.into())
    }

    #[test]
    fn offences_of_one_client_under_one_rule_are_merged_and_none_is_lost() {
        let (mut deferred, start) = (DeferredOffences::default(), Instant::now());
        for (client, rule, evidence) in [(1, 8, "GET /1"), (2, 8, "GET /2"), (1, 8, "GET /3"), (1, 9, "GET /4")] {
            add(&mut deferred, start, client, rule, evidence);
        }
        assert_eq!(
            take_all(&mut deferred, start),
            [line(2, "198.51.0.1", 8, "GET /3"), line(1, "198.51.0.2", 8, "GET /2"), line(1, "198.51.0.1", 9, "GET /4")]
        );
        assert!(deferred.is_empty());
        assert_eq!(deferred.take_dropped(), 0);
    }

    #[test]
    fn an_offence_that_has_waited_for_more_than_ten_seconds_is_dropped_and_counted() {
        let (mut deferred, start) = (DeferredOffences::default(), Instant::now());
        add(&mut deferred, start, 1, 8, "x");
        add(&mut deferred, start + Duration::from_secs(5), 1, 8, "x");
        add(&mut deferred, start + Duration::from_secs(5), 2, 8, "x");
        assert_eq!(take_all(&mut deferred, start + Duration::from_millis(10_001)), [line(1, "198.51.0.2", 8, "x")]);
        assert_eq!((deferred.take_dropped(), deferred.take_dropped()), (2, 0));
    }

    #[test]
    fn new_clients_beyond_the_limit_are_dropped_and_counted_while_known_ones_still_add_up() {
        let (mut deferred, start) = (DeferredOffences::default(), Instant::now());
        let limit = u32::try_from(MAX_ENTRIES).unwrap();
        (0..limit + 3).for_each(|client| add(&mut deferred, start, client, 8, "x"));
        add(&mut deferred, start, 0, 8, "y");
        assert_eq!(deferred.take_dropped(), 3);
        let taken = take_all(&mut deferred, start);
        assert_eq!((taken.len(), &taken[0]), (MAX_ENTRIES, &line(2, "198.51.0.0", 8, "y")));
    }

    proptest! {
        /// The naive twin: a list of (client, number, time of the first), searched whole.
        #[test]
        fn offences_leave_in_the_order_of_their_first_and_each_is_taken_or_dropped(
            steps in prop::collection::vec((0_u32..6, 0_u64..15, any::<bool>()), 1..80),
        ) {
            let (mut deferred, start) = (DeferredOffences::default(), Instant::now() + Duration::from_secs(60));
            let (mut twin, mut dropped): (Vec<(u32, u32, Instant)>, u64) = (Vec::new(), 0);
            for (step, (client, age, takes)) in (0_u64..).zip(steps) {
                let now = start + Duration::from_secs(step);
                // Each has a time of its own, so that the order is clear.
                let since = now - Duration::from_secs(age) + Duration::from_micros(step);
                twin.retain(|(_, count, first)| {
                    let is_old = now.saturating_duration_since(*first) > MAX_AGE;
                    dropped += if is_old { u64::from(*count) } else { 0 };
                    !is_old
                });
                if takes {
                    let first = (0..twin.len()).min_by_key(|index| twin[*index].2);
                    let expected = first.map(|index| twin.remove(index));
                    let taken = deferred.take(now).map(|taken| match taken.address {
                        IpAddr::V4(address) => (u32::from(address) - 0xc633_0000, taken.count, taken.since),
                        IpAddr::V6(_) => unreachable!(),
                    });
                    prop_assert_eq!(taken, expected);
                } else {
                    add_since(&mut deferred, now, since, client, 8, "x");
                    match twin.iter_mut().find(|(known, ..)| *known == client) {
                        Some((_, count, first)) => (*count, *first) = (*count + 1, since.min(*first)),
                        None => twin.push((client, 1, since)),
                    }
                }
            }
            prop_assert_eq!(deferred.take_dropped(), dropped);
            prop_assert_eq!(deferred.entries.len(), deferred.order.len());
        }
    }
}
