//! Offences that the daemon could not take when they happened. They wait here, merged by client, and are reported as soon as there is room.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ahash::RandomState;

use crate::client::Client;
use crate::control::subscribe::FromSubscriber;
use crate::rule::Evidence;

/// Maximum number of entries, each at most half a kilobyte.
const MAX_ENTRIES: usize = 100_000;
/// How long an offence may wait. The daemon counts it when it arrives, so a longer wait would let offences of an hour ago add up to a ban now.
const MAX_AGE: Duration = Duration::from_secs(10);

/// A client, and the rules that its offences are under.
type Key = (Client, Vec<String>);

struct Entry {
    address: IpAddr,
    count: u32,
    /// That of the last offence, as in a ban's record.
    evidence: Evidence,
    /// When the first of the offences happened.
    since: Instant,
}

/// Deferred offences, the longest waiting first. The time is an argument.
#[derive(Default)]
pub struct DeferredOffences {
    entries: HashMap<Key, Entry, RandomState>,
    /// Every key of `entries`, in the order of `since`.
    order: VecDeque<Key>,
    /// Offences that were dropped since this was last taken.
    dropped: u64,
}

impl DeferredOffences {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds `count` offences of `client`. Beyond [`MAX_ENTRIES`] they are dropped, and counted as such.
    pub fn add(&mut self, now: Instant, client: Client, address: IpAddr, rules: Vec<String>, count: u32, evidence: Evidence) {
        self.forget_old(now);
        let key = (client, rules);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.count = entry.count.saturating_add(count);
            entry.evidence = evidence;
        } else if self.entries.len() < MAX_ENTRIES {
            self.entries.insert(key.clone(), Entry { address, count, evidence, since: now });
            self.order.push_back(key);
        } else {
            self.dropped += u64::from(count);
        }
    }

    /// Takes the offences that have waited for longest, unless they have waited too long.
    pub fn take(&mut self, now: Instant) -> Option<FromSubscriber> {
        self.forget_old(now);
        let key = self.order.pop_front()?;
        let Entry { address, count, evidence, .. } = self.entries.remove(&key)?;
        Some(FromSubscriber::Strike { count, address, rules: key.1, evidence })
    }

    /// The number of offences that were dropped since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some(key) = self.order.front() {
            if self.entries.get(key).is_some_and(|entry| now.saturating_duration_since(entry.since) <= MAX_AGE) {
                return;
            }
            self.dropped += self.entries.remove(key).map_or(0, |entry| u64::from(entry.count));
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn add(deferred: &mut DeferredOffences, now: Instant, client: u32, rule: &str, evidence: &str) {
        let address = Ipv4Addr::from(0xc633_0000 + client);
        deferred.add(now, Client::from(address), address.into(), vec![rule.to_owned()], 1, Evidence::restore(evidence));
    }

    fn take_all(deferred: &mut DeferredOffences, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| deferred.take(now)).map(|line| line.to_string()).collect()
    }

    #[test]
    fn offences_of_one_client_under_one_rule_are_merged_and_none_is_lost() {
        let (mut deferred, start) = (DeferredOffences::default(), Instant::now());
        for (client, rule, evidence) in [(1, "a", "GET /1"), (2, "a", "GET /2"), (1, "a", "GET /3"), (1, "b", "GET /4")] {
            add(&mut deferred, start, client, rule, evidence);
        }
        assert_eq!(
            take_all(&mut deferred, start),
            ["strike 2 198.51.0.1 a GET /3", "strike 1 198.51.0.2 a GET /2", "strike 1 198.51.0.1 b GET /4"]
        );
        assert!(deferred.is_empty());
        assert_eq!(deferred.take_dropped(), 0);
    }

    #[test]
    fn an_offence_that_has_waited_for_more_than_ten_seconds_is_dropped_and_counted() {
        let (mut deferred, start) = (DeferredOffences::default(), Instant::now());
        add(&mut deferred, start, 1, "a", "x");
        add(&mut deferred, start + Duration::from_secs(5), 1, "a", "x");
        add(&mut deferred, start + Duration::from_secs(5), 2, "a", "x");
        assert_eq!(take_all(&mut deferred, start + Duration::from_millis(10_001)), ["strike 1 198.51.0.2 a x"]);
        assert_eq!((deferred.take_dropped(), deferred.take_dropped()), (2, 0));
    }

    #[test]
    fn new_clients_beyond_the_limit_are_dropped_and_counted_while_known_ones_still_add_up() {
        let (mut deferred, start) = (DeferredOffences::default(), Instant::now());
        let limit = u32::try_from(MAX_ENTRIES).unwrap();
        (0..limit + 3).for_each(|client| add(&mut deferred, start, client, "a", "x"));
        add(&mut deferred, start, 0, "a", "y");
        assert_eq!(deferred.take_dropped(), 3);
        let taken = take_all(&mut deferred, start);
        assert_eq!((taken.len(), taken[0].as_str()), (MAX_ENTRIES, "strike 2 198.51.0.0 a y"));
    }
}
