//! How each client of a replay conducted itself.

use std::collections::HashMap;
use std::hint::black_box;

use ahash::RandomState;

use crate::client::Client;
use crate::conduct::{Conduct, Deed};

/// So many clients that were seen lately are kept apart from the others, in a room that the processor's caches hold: most lines of a log are
/// of few clients.
const LATELY: usize = 1 << 12;
/// So many that were pushed out by others are entered at a time.
const ENTERED_AT_ONCE: usize = 64;

/// The conduct of all clients, while it is being noted; [`Conducts::finish`] gives it to be read.
#[derive(Debug)]
pub struct Conducts {
    known: HashMap<Client, Conduct, RandomState>,
    most: usize,
    /// Empty once there are nearly as many clients as are told apart: it is the first ones who are.
    lately: Vec<Option<Part>>,
    waiting: Vec<Part>,
    forgotten: u64,
}

/// What a client did for a while.
#[derive(Debug, Clone, Copy)]
struct Part {
    client: Client,
    conduct: Conduct,
    events: u32,
}

impl Part {
    fn note(&mut self, deed: Deed, authenticated: bool) {
        self.conduct.note(deed, authenticated);
        self.events = self.events.saturating_add(1);
    }
}

impl Conducts {
    /// At most `most` clients are told apart.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let lately = if Self::is_nearly_full(0, LATELY, most) { Vec::new() } else { vec![None; LATELY] };
        Self { known: HashMap::default(), most, lately, waiting: Vec::with_capacity(ENTERED_AT_ONCE), forgotten: 0 }
    }

    /// Whether with those who are not entered yet there may be more than `most`.
    fn is_nearly_full(known: usize, lately: usize, most: usize) -> bool {
        known + lately + ENTERED_AT_ONCE > most
    }

    /// Notes what `client` did, and whether it proved who it is.
    pub fn note(&mut self, client: Client, deed: Deed, authenticated: bool) {
        let mut part = Part { client, conduct: Conduct::default(), events: 0 };
        part.note(deed, authenticated);
        match self.lately.get_mut(slot(client)) {
            Some(Some(latest)) if latest.client == client => return latest.note(deed, authenticated),
            Some(slot) => self.waiting.extend(slot.replace(part)),
            None => self.waiting.push(part),
        }
        if self.waiting.len() >= ENTERED_AT_ONCE {
            self.enter();
            if Self::is_nearly_full(self.known.len(), self.lately.len(), self.most) {
                self.enter_all();
            }
        }
    }

    fn enter_all(&mut self) {
        self.waiting.extend(std::mem::take(&mut self.lately).into_iter().flatten());
        self.enter();
    }

    fn enter(&mut self) {
        // Among many clients each look is a wait for memory. All are looked for before any is changed: the processor then waits for several
        // places at the same time.
        for part in &self.waiting {
            black_box(self.known.contains_key(&part.client));
        }
        for Part { client, conduct, events } in self.waiting.drain(..) {
            if self.known.len() >= self.most && !self.known.contains_key(&client) {
                self.forgotten += u64::from(events);
            } else {
                self.known.entry(client).or_default().add(conduct);
            }
        }
    }

    /// The conduct of every client, and how many events were of those beyond the most.
    #[must_use]
    pub fn finish(mut self) -> (HashMap<Client, Conduct, RandomState>, u64) {
        self.enter_all();
        (self.known, self.forgotten)
    }
}

/// Whoever makes others miss the slots makes them slow, and nothing else: no keyed hash is needed.
fn slot(client: Client) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let bits = client.to_bits();
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the bits are what is wanted")]
    let (high, low) = ((bits >> 64) as u64, bits as u64);
    usize::try_from((high ^ low).wrapping_mul(GOLDEN) >> (u64::BITS - LATELY.ilog2())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Even ones have slots of their own, odd ones all the same.
    fn client(number: u32) -> Client {
        let number = u128::from(number);
        Client::from_bits(if number.is_multiple_of(2) { number } else { number << 64 | number })
    }

    #[test]
    fn the_first_clients_are_told_apart_and_the_events_of_others_counted() {
        for most in [0, 1, 5000, 10_000] {
            let mut conducts = Conducts::new(most);
            let all = 12_000;
            for round in 0..3 {
                for number in 0..all {
                    conducts.note(client(number), Deed::Success, round == 1 && number == 7);
                }
            }
            let (known, forgotten) = conducts.finish();
            assert_eq!((known.len(), forgotten), (most, 3 * (all as u64 - most as u64)));
            for number in 0..all {
                let conduct = known.get(&client(number)).map(|conduct| (conduct.successes, conduct.authenticated));
                assert_eq!(conduct, ((number as usize) < most).then_some((3, number == 7)), "{number} of {most}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_deed_is_noted_as_in_a_plain_map(deeds in proptest::collection::vec((0_u32..300, 0_usize..5, any::<bool>()), 0..2000)) {
            let all = [Deed::Success, Deed::Error, Deed::Offence, Deed::ServedOffence, Deed::Neither];
            let (mut conducts, mut plain) = (Conducts::new(usize::MAX), HashMap::<Client, Conduct>::new());
            for (number, deed, authenticated) in deeds {
                conducts.note(client(number), all[deed], authenticated);
                plain.entry(client(number)).or_default().note(all[deed], authenticated);
            }
            let (known, forgotten) = conducts.finish();
            prop_assert_eq!((known.into_iter().collect::<HashMap<_, _>>(), forgotten), (plain, 0));
        }
    }
}
