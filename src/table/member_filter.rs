//! A Bloom filter of two bits in one word per member: which clients may be members of a group. Most requests come from clients that are none.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bits for each member that the groups have room for. They seldom have a tenth of that.
const BITS_PER_MEMBER: usize = 2;
/// It is made anew once one in this number of its bits is set, if most of them are of nobody.
const STALE: usize = 12;

/// Names that were added, and some others. Members are added and forgotten by their hashes, which attackers cannot choose.
pub struct MemberFilter {
    words: Box<[AtomicU64]>,
    /// Number of bits that are set.
    set: AtomicUsize,
}

impl MemberFilter {
    /// A filter for at most `members` members.
    #[must_use]
    pub fn new(members: usize) -> Self {
        let words = (members * BITS_PER_MEMBER / 64).next_power_of_two();
        Self { words: std::iter::repeat_with(AtomicU64::default).take(words).collect(), set: AtomicUsize::new(0) }
    }

    pub fn add(&self, hash: u32) {
        let Some((word, bits)) = self.place(hash) else { return };
        // Nearly always they are set already, and then other processors keep the word in their caches.
        if word.load(Ordering::Relaxed) & bits != bits {
            let before = word.fetch_or(bits, Ordering::Relaxed);
            self.set.fetch_add((bits & !before).count_ones() as usize, Ordering::Relaxed);
        }
    }

    /// False if it was not added since the last [`MemberFilter::keep_only`].
    #[must_use]
    pub fn may_contain(&self, hash: u32) -> bool {
        self.place(hash).is_some_and(|(word, bits)| word.load(Ordering::Relaxed) & bits == bits)
    }

    /// Whether nothing was added since the last [`MemberFilter::keep_only`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.load(Ordering::Relaxed) == 0
    }

    /// Whether it says too little, and would say more with the `members` that there are now.
    #[must_use]
    pub fn is_stale(&self, members: usize) -> bool {
        let set = self.set.load(Ordering::Relaxed);
        // Each has set two, but for those whose bits were set already.
        set > self.words.len() * 64 / STALE && set / 4 > members
    }

    /// Drops all but `members`. Nothing may be added meanwhile; at each moment the filter contains all of them.
    pub fn keep_only(&self, members: impl Iterator<Item = u32>) {
        let only = Self { words: self.words.iter().map(|_| AtomicU64::default()).collect(), set: AtomicUsize::new(0) };
        members.for_each(|hash| only.add(hash));
        for (word, kept) in self.words.iter().zip(&only.words) {
            word.store(kept.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.set.store(only.set.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn place(&self, hash: u32) -> Option<(&AtomicU64, u64)> {
        let place = usize::try_from(hash >> 12).ok()?;
        // The number of words is a power of two. A filter for more than 64 million members would use its first part alone.
        let word = self.words.get(place & (self.words.len() - 1))?;
        Some((word, (1 << (hash & 63)) | (1 << ((hash >> 6) & 63))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_stale_with_a_twelfth_of_its_bits_of_which_most_are_of_nobody() {
        let filter = MemberFilter::new(1000);
        assert!(filter.is_empty());
        for number in 0_u32.. {
            let set = filter.set.load(Ordering::Relaxed);
            if set > 2048 / STALE {
                assert_eq!([0, set / 4 - 1, set / 4].map(|members| filter.is_stale(members)), [true, true, false]);
                break;
            }
            assert!(!filter.is_stale(0));
            filter.add(number.wrapping_mul(0x9e37_79b1));
            assert!(!filter.is_empty());
        }
    }

    proptest! {
        #[test]
        fn what_was_added_or_kept_is_always_contained(added in proptest::collection::vec(any::<u32>(), 0..300), kept in 0_usize..300, other: u32) {
            let filter = MemberFilter::new(1000);
            added.iter().for_each(|hash| filter.add(*hash));
            prop_assert!(added.iter().all(|hash| filter.may_contain(*hash)));
            let kept = added.get(..kept).unwrap_or(&added);
            filter.keep_only(kept.iter().copied());
            prop_assert!(kept.iter().all(|hash| filter.may_contain(*hash)));
            // 1000 members have 32 words.
            let places = |hash: u32| [hash & 63, (hash >> 6) & 63].map(|bit| ((hash >> 12) % 32, bit));
            let mut bits: Vec<_> = kept.iter().flat_map(|hash| places(*hash)).collect();
            prop_assert_eq!(filter.may_contain(other), places(other).iter().all(|place| bits.contains(place)));
            bits.sort_unstable();
            bits.dedup();
            prop_assert_eq!(filter.set.load(Ordering::Relaxed), bits.len());
        }
    }
}
