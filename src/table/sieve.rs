//! Who was certainly never banned, in two bytes for each ban: nearly every query is from somebody who was not, and need not be looked for
//! in a map that is much larger than the processor's caches.

use std::sync::atomic::{AtomicU64, Ordering};

/// A Bloom filter (Bloom 1970) in blocks of one word (Putze, Sanders, Singler 2007): three bits of one word for each client.
///
/// Filled as it is meant to be, it lets one stranger in a hundred pass. Bits are only ever set: a ban that has ended leaves its bits, and
/// a filter that many of them have filled up saves less time and is never wrong.
///
/// There are two of them, and who is banned passes both: a small one that stays in the innermost cache, which alone decides nearly
/// everything as long as no more than some ten thousand clients were ever banned; and one as large as the table.
pub(super) struct Sieve {
    near: Filter,
    far: Filter,
}

/// One filter.
struct Filter(Box<[AtomicU64]>);

/// The words of the small filter: 16 KB.
const NEAR_WORDS: usize = 1 << 11;

/// Four clients share a word when the filter is full.
const CLIENTS_PER_WORD: usize = 4;

/// A filter larger than this would be out of the caches itself: 4 MB.
const MOST_WORDS: usize = 1 << 19;

impl Sieve {
    /// A filter for so many clients.
    pub(super) fn new(clients: usize) -> Self {
        let words = (clients / CLIENTS_PER_WORD).clamp(1, MOST_WORDS);
        Self { near: Filter::new(words.min(NEAR_WORDS)), far: Filter::new(words) }
    }

    /// Lets the client with this hash pass from now on.
    pub(super) fn add(&self, hash: u64) {
        self.near.add(hash);
        self.far.add(hash);
    }

    /// Whether the client with this hash may have been added; false is certain.
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        self.near.may_hold(hash) && self.far.may_hold(hash)
    }
}

impl Filter {
    fn new(words: usize) -> Self {
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    fn add(&self, hash: u64) {
        if let Some(word) = self.word(hash) {
            word.fetch_or(bits(hash), Ordering::Relaxed);
        }
    }

    fn may_hold(&self, hash: u64) -> bool {
        self.word(hash).is_none_or(|word| word.load(Ordering::Relaxed) & bits(hash) == bits(hash))
    }

    /// The upper half of the hash says which word, its lower half which bits.
    fn word(&self, hash: u64) -> Option<&AtomicU64> {
        let number = ((hash >> 32) * self.0.len() as u64) >> 32;
        self.0.get(usize::try_from(number).ok()?)
    }
}

fn bits(hash: u64) -> u64 {
    1 << (hash & 63) | 1 << (hash >> 6 & 63) | 1 << (hash >> 12 & 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn who_was_added_always_passes(clients in 0_usize..100, hashes in proptest::collection::vec(any::<u64>(), 0..300)) {
            let sieve = Sieve::new(clients);
            for hash in &hashes {
                sieve.add(*hash);
            }
            prop_assert!(hashes.iter().all(|hash| sieve.may_hold(*hash)));
        }
    }

    #[test]
    fn of_strangers_about_one_in_a_hundred_passes() {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let sieve = Sieve::new(100_000);
        (0..100_000_u64).for_each(|client| sieve.add(hasher.hash_one(client)));
        let passed = (100_000..200_000_u64).filter(|client| sieve.may_hold(hasher.hash_one(client))).count();
        assert!((100..3000).contains(&passed), "{passed}");
    }
}
