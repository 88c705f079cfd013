//! Bloom filter: skips the ban lookup for clients that were never banned, as nearly all were not. It takes two bytes per ban, while the map
//! of bans is much larger than the processor's caches.

use std::sync::atomic::{AtomicU64, Ordering};

/// A blocked Bloom filter (Bloom 1970; Putze, Sanders and Singler 2007) that sets three bits of one word for each client.
///
/// At its intended load the false positive rate is one in a hundred. Bits are never cleared, so bans that have ended make it less
/// selective over time, but never wrong.
///
/// A small filter, which stays in the L1 cache, is asked before one that is sized for the table. Up to about ten thousand bans, the small
/// one alone answers nearly every query.
pub(super) struct BloomFilter {
    near: Filter,
    far: Filter,
}

struct Filter(Box<[AtomicU64]>);

/// Size of the small filter in words: 16 KB.
const NEAR_WORDS: usize = 1 << 11;

/// Number of clients that share a word at the intended load.
const CLIENTS_PER_WORD: usize = 4;

/// Maximum size of the large filter in words: 4 MB, which still fits into a cache.
const MAX_WORDS: usize = 1 << 19;

impl BloomFilter {
    /// A filter sized for `clients` bans.
    pub(super) fn new(clients: usize) -> Self {
        let words = (clients / CLIENTS_PER_WORD).clamp(1, MAX_WORDS);
        Self { near: Filter::new(words.min(NEAR_WORDS)), far: Filter::new(words) }
    }

    /// Adds the client with this hash.
    pub(super) fn add(&self, hash: u64) {
        self.near.add(hash);
        self.far.add(hash);
    }

    /// Whether the client with this hash may have been added. If false, it was not.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        self.near.may_contain(hash) && self.far.may_contain(hash)
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

    fn may_contain(&self, hash: u64) -> bool {
        self.word(hash).is_none_or(|word| word.load(Ordering::Relaxed) & bits(hash) == bits(hash))
    }

    /// The upper half of the hash selects the word, the lower half the bits.
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
        fn every_added_client_is_found(clients in 0_usize..100, hashes in proptest::collection::vec(any::<u64>(), 0..300)) {
            let bloom = BloomFilter::new(clients);
            for hash in &hashes {
                bloom.add(*hash);
            }
            prop_assert!(hashes.iter().all(|hash| bloom.may_contain(*hash)));
        }
    }

    proptest! {
        #[test]
        fn a_client_sets_the_three_bits_that_its_hash_selects(hash in any::<u64>()) {
            let selected = [hash, hash >> 6, hash >> 12].map(|part| part % 64);
            prop_assert!((0..64).all(|bit| (bits(hash) >> bit & 1 == 1) == selected.contains(&bit)));
        }
    }

    #[test]
    fn the_small_filter_alone_rules_out_nearly_every_other_client_of_eight_thousand_bans() {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let bloom = BloomFilter::new(1_000_000);
        (0..8000_u64).for_each(|client| bloom.add(hasher.hash_one(client)));
        let passed = (100_000..200_000_u64).filter(|client| bloom.near.may_contain(hasher.hash_one(client))).count();
        assert!(passed < 3000, "{passed}");
    }

    #[test]
    fn about_one_in_a_hundred_other_clients_is_a_false_positive() {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let bloom = BloomFilter::new(100_000);
        (0..100_000_u64).for_each(|client| bloom.add(hasher.hash_one(client)));
        let passed = (100_000..200_000_u64).filter(|client| bloom.may_contain(hasher.hash_one(client))).count();
        assert!((100..3000).contains(&passed), "{passed}");
    }
}
