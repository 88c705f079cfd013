//! How each client of a replay conducted itself.

use std::collections::HashMap;
use std::hint::black_box;

use ahash::RandomState;

use crate::client::Client;
use crate::conduct::{Conduct, Deed};

/// So many clients that were seen lately are kept apart from the others, in a room that the processor's caches hold: most lines of a log are
/// of few clients.
const LATELY: usize = 1 << 12;
/// So many that others have taken the place of are entered at a time.
const ENTERED_AT_ONCE: usize = 64;

/// The conduct of all clients, while it is being noted; [`Conducts::finish`] gives it to be read.
#[derive(Debug)]
pub struct Conducts {
    known: HashMap<Client, Conduct, RandomState>,
    most: usize,
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
        Self { known: HashMap::default(), most, lately: vec![None; LATELY], waiting: Vec::with_capacity(ENTERED_AT_ONCE), forgotten: 0 }
    }

    /// Notes what `client` did, and whether it proved who it is.
    pub fn note(&mut self, client: Client, deed: Deed, authenticated: bool) {
        let Some(slot) = self.lately.get_mut(slot(client)) else { return };
        if let Some(part) = slot
            && part.client == client
        {
            return part.note(deed, authenticated);
        }
        let mut part = Part { client, conduct: Conduct::default(), events: 0 };
        part.note(deed, authenticated);
        self.waiting.extend(slot.replace(part));
        if self.waiting.len() >= ENTERED_AT_ONCE {
            self.enter();
        }
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
        self.waiting.extend(self.lately.drain(..).flatten());
        self.enter();
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

    fn client(number: u32) -> Client {
        Client::from(std::net::Ipv4Addr::from(number))
    }

    #[test]
    fn clients_beyond_the_most_are_counted_only() {
        let mut conducts = Conducts::new(7);
        for number in 0..200 {
            conducts.note(client(number % 10), Deed::Success, number == 0);
        }
        let (known, forgotten) = conducts.finish();
        let entered: u32 = known.values().map(|conduct| conduct.successes).sum();
        assert_eq!((known.len(), entered, forgotten), (7, 140, 60));
        assert!(known.values().filter(|conduct| conduct.authenticated).count() <= 1);
    }

    proptest! {
        #[test]
        fn every_deed_is_noted_as_in_a_plain_map(deeds in proptest::collection::vec((0_u32..300, 0_usize..5, any::<bool>()), 0..2000)) {
            let all = [Deed::Success, Deed::Error, Deed::Offence, Deed::ServedOffence, Deed::Neither];
            let (mut conducts, mut plain) = (Conducts::new(usize::MAX), HashMap::<Client, Conduct>::new());
            for (number, deed, authenticated) in deeds {
                // Many to a slot, and few.
                let client = client(if number < 150 { number } else { number.wrapping_mul(0x0100_0000) });
                conducts.note(client, all[deed], authenticated);
                plain.entry(client).or_default().note(all[deed], authenticated);
            }
            let (known, forgotten) = conducts.finish();
            prop_assert_eq!((known.into_iter().collect::<HashMap<_, _>>(), forgotten), (plain, 0));
        }
    }
}
