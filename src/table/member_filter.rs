//! A Bloom filter of one bit per member: which clients may be members of a group. Most requests come from clients that are none.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bits for each member that the groups have room for. They seldom have a tenth of that.
const BITS_PER_MEMBER: usize = 2;

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
        let Some((word, bit)) = self.place(hash) else { return };
        // Nearly always it is set already, and then other processors keep the word in their caches.
        if word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            self.set.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// False if it was not added since the last [`MemberFilter::keep_only`].
    #[must_use]
    pub fn may_contain(&self, hash: u32) -> bool {
        self.place(hash).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
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
        set > self.words.len() * 64 / 4 && set / 2 > members
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
        let hash = usize::try_from(hash).ok()?;
        // The number of words is a power of two.
        let word = self.words.get((hash >> 6) & (self.words.len() - 1))?;
        Some((word, 1 << (hash & 63)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_stale_with_a_quarter_of_its_bits_of_which_most_are_of_nobody() {
        let filter = MemberFilter::new(1000);
        assert!(filter.is_empty());
        (0..512).for_each(|hash| filter.add(hash));
        assert!(!filter.is_stale(0) && !filter.is_empty());
        filter.add(512);
        assert_eq!([0, 255, 256].map(|members| filter.is_stale(members)), [true, true, false]);
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
            let mut bits: Vec<u32> = kept.iter().map(|hash| hash % 2048).collect();
            prop_assert_eq!(filter.may_contain(other), bits.contains(&(other % 2048)), "1000 members have 32 words");
            bits.sort_unstable();
            bits.dedup();
            prop_assert_eq!(filter.set.load(Ordering::Relaxed), bits.len());
        }
    }
}
