//! The behaviour of each client in a replay.

use std::collections::HashMap;
use std::hint::black_box;

use ahash::RandomState;

use crate::client::Client;
use crate::event::behaviour::{Behaviour, Outcome};

/// Number of slots for recent clients, a table that fits into the processor's caches: most lines of a log come from few clients.
const RECENT: usize = 1 << 12;
/// Number of evicted clients that are added to the map together.
const BATCH: usize = 64;

/// Collects the behaviour of all clients; [`Behaviours::finish`] returns it.
#[derive(Debug)]
pub struct Behaviours {
    known: HashMap<Client, Behaviour, RandomState>,
    max_clients: usize,
    /// Empty once there are nearly `max_clients`: from then on each client goes straight to the map, which decides whether it is tracked.
    recent: Vec<Option<Part>>,
    evicted: Vec<Part>,
    forgotten: u64,
}

/// The behaviour of a client while it occupied a slot.
#[derive(Debug, Clone, Copy)]
struct Part {
    client: Client,
    behaviour: Behaviour,
    events: u32,
}

impl Part {
    fn note(&mut self, outcome: Outcome, authenticated: bool) {
        self.behaviour.note(outcome, authenticated);
        self.events = self.events.saturating_add(1);
    }
}

impl Behaviours {
    /// Tracks the first `max_clients` clients; the events of others are only counted.
    #[must_use]
    pub fn new(max_clients: usize) -> Self {
        let recent = if Self::is_nearly_full(0, RECENT, max_clients) { Vec::new() } else { vec![None; RECENT] };
        Self { known: HashMap::default(), max_clients, recent, evicted: Vec::with_capacity(BATCH), forgotten: 0 }
    }

    /// Whether the clients in the map, together with those not in it yet, may exceed `max_clients`.
    fn is_nearly_full(known: usize, recent: usize, max_clients: usize) -> bool {
        known + recent + BATCH > max_clients
    }

    /// Notes one event of `client`, and whether the client authenticated.
    pub fn note(&mut self, client: Client, outcome: Outcome, authenticated: bool) {
        let mut part = Part { client, behaviour: Behaviour::default(), events: 0 };
        part.note(outcome, authenticated);
        match self.recent.get_mut(slot(client)) {
            Some(Some(latest)) if latest.client == client => return latest.note(outcome, authenticated),
            Some(slot) => self.evicted.extend(slot.replace(part)),
            None => self.evicted.push(part),
        }
        if self.evicted.len() >= BATCH {
            self.add_evicted();
            if Self::is_nearly_full(self.known.len(), self.recent.len(), self.max_clients) {
                self.add_all();
            }
        }
    }

    fn add_all(&mut self) {
        self.evicted.extend(std::mem::take(&mut self.recent).into_iter().flatten());
        self.add_evicted();
    }

    fn add_evicted(&mut self) {
        // Each lookup in a large map is a cache miss. Looking all up before changing any lets the misses overlap.
        for part in &self.evicted {
            black_box(self.known.contains_key(&part.client));
        }
        for Part { client, behaviour, events } in self.evicted.drain(..) {
            if self.known.len() >= self.max_clients && !self.known.contains_key(&client) {
                self.forgotten += u64::from(events);
            } else {
                self.known.entry(client).or_default().add(behaviour);
            }
        }
    }

    /// The behaviour of every tracked client, and the number of events of other clients.
    #[must_use]
    pub fn finish(mut self) -> (HashMap<Client, Behaviour, RandomState>, u64) {
        self.add_all();
        (self.known, self.forgotten)
    }
}

/// The hash has no secret key: an attacker who chooses addresses can only make other clients miss their slots, which costs time.
fn slot(client: Client) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let bits = client.to_bits();
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the bits are what is wanted")]
    let (high, low) = ((bits >> 64) as u64, bits as u64);
    usize::try_from((high ^ low).wrapping_mul(GOLDEN) >> (u64::BITS - RECENT.ilog2())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Even numbers have slots of their own, odd ones share one.
    fn client(number: u32) -> Client {
        let number = u128::from(number);
        Client::from_bits(if number.is_multiple_of(2) { number } else { number << 64 | number })
    }

    #[test]
    fn the_first_clients_are_tracked_and_the_events_of_others_are_counted() {
        for max_clients in [0, 1, 5000, 10_000] {
            let mut behaviours = Behaviours::new(max_clients);
            let all = 12_000;
            for round in 0..3 {
                for number in 0..all {
                    behaviours.note(client(number), Outcome::Success, round == 1 && number == 7);
                }
            }
            let (known, forgotten) = behaviours.finish();
            assert_eq!((known.len(), forgotten), (max_clients, 3 * (all as u64 - max_clients as u64)));
            for number in 0..all {
                let behaviour = known.get(&client(number)).map(|behaviour| (behaviour.successes, behaviour.authenticated));
                assert_eq!(behaviour, ((number as usize) < max_clients).then_some((3, number == 7)), "{number} of {max_clients}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_event_is_noted_as_in_a_plain_map(outcomes in proptest::collection::vec((0_u32..300, 0_usize..5, any::<bool>()), 0..2000)) {
            let all = [Outcome::Success, Outcome::Error, Outcome::Offence, Outcome::ServedOffence, Outcome::Neutral];
            let (mut behaviours, mut plain) = (Behaviours::new(usize::MAX), HashMap::<Client, Behaviour>::new());
            for (number, outcome, authenticated) in outcomes {
                behaviours.note(client(number), all[outcome], authenticated);
                plain.entry(client(number)).or_default().note(all[outcome], authenticated);
            }
            let (known, forgotten) = behaviours.finish();
            prop_assert_eq!((known.into_iter().collect::<HashMap<_, _>>(), forgotten), (plain, 0));
        }
    }
}
