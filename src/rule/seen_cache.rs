//! Caches which texts have passed a test, so that frequent texts, such as User-Agents, are tested only once.

use std::fmt;
use std::hash::Hash;

use ahash::RandomState;

/// A direct-mapped cache of the hashes of texts that passed a test, at most `SLOTS` of them.
///
/// The 64-bit hash is keyed with random numbers, so a client cannot craft a text that collides with another one, and an accidental
/// collision is negligible (1 in 2^64).
///
/// If few texts repeat, the cache costs more than it saves. It then pauses, and tries again later.
pub(super) struct SeenCache<const SLOTS: usize> {
    owner: u64,
    hasher: RandomState,
    slots: Vec<u64>,
    /// Lookups and hits in the current sample.
    lookups: u32,
    hits: u32,
    /// How many more texts are tested without a lookup.
    paused: u32,
}

/// Number of lookups after which the hit rate is assessed.
const SAMPLE: u32 = 1024;
/// The cache pauses below a hit rate of one in this number. A lookup takes a fraction of the time of a test.
const MIN_HIT_RATE: u32 = 4;
/// Length of a pause, in texts.
const PAUSE: u32 = 15 * SAMPLE;

impl<const SLOTS: usize> SeenCache<SLOTS> {
    /// Whether `text` passes `test`, from the cache if it has passed before.
    ///
    /// `owner` identifies the test. A call with another owner clears the cache first.
    pub(super) fn passes(&mut self, owner: u64, text: &impl Hash, test: impl FnOnce() -> bool) -> bool {
        if self.owner != owner || self.slots.is_empty() {
            self.owner = owner;
            self.slots.clear();
            self.slots.resize(SLOTS, 0);
            (self.lookups, self.hits, self.paused) = (0, 0, 0);
        }
        if self.paused > 0 {
            self.paused -= 1;
            return test();
        }
        if self.lookups == SAMPLE {
            self.paused = if self.hits < SAMPLE / MIN_HIT_RATE { PAUSE } else { 0 };
            (self.lookups, self.hits) = (0, 0);
        }
        self.lookups += 1;
        // 0 marks an empty slot.
        let hash = self.hasher.hash_one(text).max(1);
        let slot = usize::try_from(hash % SLOTS as u64).ok().and_then(|slot| self.slots.get_mut(slot));
        let Some(slot) = slot else { return test() };
        if *slot == hash {
            self.hits += 1;
            return true;
        }
        let passes = test();
        if passes {
            *slot = hash;
        }
        passes
    }
}

impl<const SLOTS: usize> Default for SeenCache<SLOTS> {
    fn default() -> Self {
        Self { owner: 0, hasher: RandomState::new(), slots: Vec::new(), lookups: 0, hits: 0, paused: 0 }
    }
}

impl<const SLOTS: usize> fmt::Debug for SeenCache<SLOTS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeenCache").field("owner", &self.owner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    #[test]
    fn a_text_that_passed_is_not_tested_again_and_one_that_failed_is() {
        let tests = Cell::new(0);
        let mut seen = SeenCache::<4096>::default();
        let mut passes = |text: &[u8]| {
            seen.passes(1, &text, || {
                tests.set(tests.get() + 1);
                text.starts_with(b"good")
            })
        };
        assert!(passes(b"good") && passes(b"good") && !passes(b"bad") && !passes(b"bad"));
        assert_eq!(tests.get(), 3);
    }

    #[test]
    fn the_cache_pauses_while_no_text_repeats() {
        let mut seen = SeenCache::<4096>::default();
        let mut is_hit = |text: u32| {
            let is_tested = Cell::new(false);
            seen.passes(1, &text, || {
                is_tested.set(true);
                true
            });
            !is_tested.get()
        };
        assert!((0..2 * SAMPLE).all(|other| !is_hit(other)));
        assert!((0..PAUSE / 2).all(|_| !is_hit(0)), "it pauses");
        let hits = (0..2 * PAUSE).filter(|_| is_hit(0)).count();
        assert!(hits > PAUSE as usize, "{hits}");
    }

    #[test]
    fn another_owner_clears_the_cache() {
        let mut seen = SeenCache::<4096>::default();
        assert!(seen.passes(1, &"text", || true));
        assert!(!seen.passes(2, &"text", || false));
    }

    proptest! {
        #[test]
        fn the_cache_answers_as_the_test_does(steps in proptest::collection::vec((0_u64..3, 0_u16..9000), 1..300)) {
            let mut seen = SeenCache::<4096>::default();
            for (owner, text) in steps {
                let expected = u64::from(text) % 3 == owner;
                prop_assert_eq!(seen.passes(owner, &text, || expected), expected);
            }
        }
    }
}
