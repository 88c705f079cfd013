//! Ordinary requests, counted per client until they are reported to the daemon, for the rates.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ahash::RandomState;

use crate::client::Client;
use crate::table::RequestTally;

/// Maximum number of clients between two reports; requests of others are not counted meanwhile.
const MAX_CLIENTS: usize = 100_000;
/// How long requests may wait for room on the way to the daemon. It counts them when they arrive: those of a longer time, together, could
/// exceed a rate that their client has kept.
const MAX_WAIT: Duration = Duration::from_millis(300);

struct Entry {
    /// One of the client's addresses.
    address: IpAddr,
    count: u32,
    /// How many of them had no source of their own.
    unreferred: u32,
    /// When the first of these requests was counted.
    since: Instant,
}

/// Counts of requests. The time is an argument.
#[derive(Default)]
pub struct RequestCounts(HashMap<Client, Entry, RandomState>);

impl RequestCounts {
    /// Adds requests of `client`. Returns how many are counted now, and how many of them have no source; none beyond [`MAX_CLIENTS`].
    pub fn add(&mut self, now: Instant, tally: &RequestTally) -> (u32, u32) {
        let RequestTally { address, client, requests, unreferred } = *tally;
        if self.0.len() >= MAX_CLIENTS && !self.0.contains_key(&client) {
            return (0, 0);
        }
        let entry = self.0.entry(client).or_insert(Entry { address, count: 0, unreferred: 0, since: now });
        entry.count = entry.count.saturating_add(requests);
        entry.unreferred = entry.unreferred.saturating_add(unreferred);
        (entry.count, entry.unreferred)
    }

    /// Forgets the requests of a client, because they are reported.
    pub fn remove(&mut self, client: Client) {
        self.0.remove(&client);
    }

    /// Gives each client's count to `report`, which returns whether there was room for it. What finds none stays, but no longer than
    /// [`MAX_WAIT`]: rather too few requests are counted than too many at once.
    pub fn report(&mut self, now: Instant, mut report: impl FnMut(IpAddr, u32, u32) -> bool) {
        self.0.retain(|_, entry| {
            !report(entry.address, entry.count, entry.unreferred) && now.saturating_duration_since(entry.since) < MAX_WAIT
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn add(counts: &mut RequestCounts, now: Instant, number: u32, requests: u32) -> u32 {
        let address = Ipv4Addr::from(0xc633_0000 + number);
        counts.add(now, &RequestTally::new(address.into(), Client::from(address), requests)).0
    }

    fn reported(counts: &mut RequestCounts, now: Instant) -> Vec<u32> {
        let mut reported = Vec::new();
        counts.report(now, |_, count, _| {
            reported.push(count);
            true
        });
        reported
    }

    #[test]
    fn requests_add_up_and_are_reported_once() {
        let (mut counts, start) = (RequestCounts::default(), Instant::now());
        assert_eq!([add(&mut counts, start, 1, 2), add(&mut counts, start, 1, 3)], [2, 5]);
        assert_eq!(reported(&mut counts, start), [5]);
        assert_eq!(add(&mut counts, start, 1, 1), 1);
        counts.remove(Client::from(Ipv4Addr::from(0xc633_0001)));
        assert!(reported(&mut counts, start).is_empty());
    }

    /// Ten requests a second for a minute, without any room: a rate of 50 in a minute must not see them at once.
    #[test]
    fn requests_that_find_no_room_never_add_up_to_those_of_a_long_time() {
        let (mut counts, start) = (RequestCounts::default(), Instant::now());
        for round in 0..600 {
            let now = start + Duration::from_millis(round * 100);
            assert!(add(&mut counts, now, 1, 1) <= 4);
            counts.report(now, |_, _, _| false);
        }
        assert!(reported(&mut counts, start + Duration::from_secs(60)).iter().all(|count| *count <= 4));
    }

    #[test]
    fn clients_beyond_the_limit_are_not_counted() {
        let (mut counts, start) = (RequestCounts::default(), Instant::now());
        let limit = u32::try_from(MAX_CLIENTS).unwrap();
        (0..limit).for_each(|number| assert_eq!(add(&mut counts, start, number, 1), 1));
        assert_eq!([add(&mut counts, start, limit, 1), add(&mut counts, start, 0, 1)], [0, 2]);
        assert_eq!(reported(&mut counts, start).len(), MAX_CLIENTS);
    }
}
