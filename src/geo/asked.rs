//! What the daemon has told a helper of where clients belong.

use std::collections::HashMap;

use ahash::RandomState;
use parking_lot::Mutex;

use super::Origin;
use crate::client::Client;

/// Maximum number of answers in one generation.
const MAX_ANSWERS: usize = 100_000;

/// The daemon's answers, in two generations: those of the current one and of the one before are known. So each is kept for at least one
/// period and at most two, and memory is bounded however many clients come.
#[derive(Default)]
pub struct AskedOrigins(Mutex<[HashMap<Client, Origin, RandomState>; 2]>);

impl std::fmt::Debug for AskedOrigins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AskedOrigins")
    }
}

impl AskedOrigins {
    /// The answer about `client`, if it is known.
    #[must_use]
    pub fn get(&self, client: Client) -> Option<Origin> {
        let generations = self.0.lock();
        generations.iter().find_map(|answers| answers.get(&client).copied())
    }

    pub fn insert(&self, client: Client, origin: Origin) {
        let mut generations = self.0.lock();
        let [current, _] = &*generations;
        if current.len() >= MAX_ANSWERS {
            rotate(&mut generations);
        }
        let [current, _] = &mut *generations;
        current.insert(client, origin);
    }

    /// Begins a new generation and forgets the one before the current one. To be called once a period.
    pub fn rotate(&self) {
        rotate(&mut self.0.lock());
    }

    /// Forgets all: the daemon has another database.
    pub fn clear(&self) {
        *self.0.lock() = Default::default();
    }
}

fn rotate([current, previous]: &mut [HashMap<Client, Origin, RandomState>; 2]) {
    *previous = std::mem::take(current);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geo::Asn;

    fn client(number: u32) -> Client {
        Client::from(std::net::Ipv4Addr::from(number))
    }

    #[test]
    fn an_answer_is_known_for_one_period_to_two() {
        let (asked, origin) = (AskedOrigins::default(), Origin { asn: Asn::new(7), country: None });
        asked.insert(client(1), origin);
        asked.rotate();
        assert_eq!((asked.get(client(1)), asked.get(client(2))), (Some(origin), None));
        asked.insert(client(2), Origin::default());
        asked.rotate();
        assert_eq!((asked.get(client(1)), asked.get(client(2))), (None, Some(Origin::default())));
        asked.clear();
        assert_eq!(asked.get(client(2)), None);
    }

    #[test]
    fn the_number_of_answers_is_bounded_and_the_latest_are_known() {
        let asked = AskedOrigins::default();
        let most = u32::try_from(MAX_ANSWERS).unwrap();
        (0..3 * most).for_each(|number| asked.insert(client(number), Origin::default()));
        assert!(asked.0.lock().iter().map(HashMap::len).sum::<usize>() <= 2 * MAX_ANSWERS);
        assert!((2 * most..3 * most).all(|number| asked.get(client(number)).is_some()));
    }
}
