//! A Bloom filter of two bits in one word per member: which clients may be members of a group. Most requests come from clients that are none.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bits for each member that the groups have room for. They seldom have a tenth of that.
const BITS_PER_MEMBER: usize = 2;
/// Words of a filter for few members: 64 KiB, which stay in a processor's cache.
const FEW_WORDS: usize = 8192;
/// It is made anew once one in this number of its bits is set.
const STALE: usize = 12;

/// Names that were added, and some others. Members are added and forgotten by their hashes, which attackers cannot choose.
pub struct MemberFilter {
    /// Room for as many members as there may be; the first part is in use.
    words: Box<[AtomicU64]>,
    /// Number of words in use, a power of two.
    used: AtomicUsize,
    /// Number of bits that are set.
    set: AtomicUsize,
}

impl MemberFilter {
    /// A filter for at most `members` members.
    #[must_use]
    pub fn new(members: usize) -> Self {
        let words = (members * BITS_PER_MEMBER / 64).next_power_of_two();
        let all = std::iter::repeat_with(AtomicU64::default).take(words);
        Self { words: all.collect(), used: AtomicUsize::new(words.min(FEW_WORDS)), set: AtomicUsize::new(0) }
    }

    pub fn add(&self, hash: u32) {
        self.add_among(hash, self.used.load(Ordering::Acquire));
    }

    fn add_among(&self, hash: u32, used: usize) {
        let Some((word, bits)) = self.place(hash, used) else { return };
        // Nearly always they are set already, and then other processors keep the word in their caches.
        if word.load(Ordering::Relaxed) & bits != bits {
            let before = word.fetch_or(bits, Ordering::Relaxed);
            self.set.fetch_add((bits & !before).count_ones() as usize, Ordering::Relaxed);
        }
    }

    /// False if it was not added since the last [`MemberFilter::keep_only`].
    #[must_use]
    pub fn may_contain(&self, hash: u32) -> bool {
        let place = self.place(hash, self.used.load(Ordering::Acquire));
        place.is_some_and(|(word, bits)| word.load(Ordering::Relaxed) & bits == bits)
    }

    /// Whether nothing was added since the last [`MemberFilter::keep_only`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.load(Ordering::Relaxed) == 0
    }

    /// Whether it says too little, and would say more with the `members` that there are now, or with more room.
    #[must_use]
    pub fn is_stale(&self, members: usize) -> bool {
        let (set, used) = (self.set.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed));
        // Each has set two, but for those whose bits were set already.
        set > used * 64 / STALE && (used < self.words.len() || set / 4 > members)
    }

    /// Drops all but `members`, and uses as many words as these need. Nothing may be added meanwhile. The filter always contains all of them, but a
    /// look that has begun before may miss one.
    pub fn keep_only(&self, members: impl Iterator<Item = u32>) {
        let hashes: Vec<u32> = members.collect();
        // Half as many bits set as in a stale one.
        let wanted = (hashes.len() * 2 * 2 * STALE / 64).next_power_of_two();
        let used = wanted.clamp(self.words.len().min(FEW_WORDS), self.words.len());
        let only = Self {
            words: self.words.iter().map(|_| AtomicU64::default()).collect(),
            used: AtomicUsize::new(used),
            set: AtomicUsize::new(0),
        };
        hashes.iter().for_each(|hash| only.add(*hash));
        // First the bits of the new places, then those places are in use, and only then the bits of the old ones go.
        for (word, kept) in self.words.iter().zip(&only.words) {
            word.fetch_or(kept.load(Ordering::Relaxed), Ordering::Release);
        }
        self.used.store(used, Ordering::Release);
        for (word, kept) in self.words.iter().zip(&only.words) {
            word.store(kept.load(Ordering::Relaxed), Ordering::Release);
        }
        self.set.store(only.set.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn place(&self, hash: u32, used: usize) -> Option<(&AtomicU64, u64)> {
        let place = usize::try_from(hash >> 12).ok()?;
        // The number of words is a power of two. A filter for more than 64 million members would use its first part alone.
        let word = self.words.get(place & (used - 1))?;
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

    #[test]
    fn it_grows_with_its_members_and_shrinks_again() {
        let filter = MemberFilter::new(10_000_000);
        let hashes = |number: u32| (0..number).map(|hash| hash.wrapping_mul(0x9e37_79b1));
        hashes(100_000).for_each(|hash| filter.add(hash));
        assert!(filter.is_stale(100_000) && filter.words.len() > FEW_WORDS);
        filter.keep_only(hashes(100_000));
        assert!(!filter.is_stale(100_000) && hashes(100_000).all(|hash| filter.may_contain(hash)));
        let others = (0..100_000_u32).filter(|hash| filter.may_contain(hash.wrapping_mul(0x85eb_ca6b) ^ 0x5555_5555)).count();
        assert!(others < 1000, "{others} of 100,000 others");
        filter.keep_only(hashes(10));
        assert_eq!(filter.used.load(Ordering::Relaxed), FEW_WORDS);
        assert!(hashes(10).all(|hash| filter.may_contain(hash)));
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
