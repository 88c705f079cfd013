//! A memory of texts that something holds for, in fixed room: what comes again and again need not be looked at again.

use std::fmt;
use std::hash::Hash;

use ahash::RandomState;

/// Remembers hashes of `SLOTS` texts at most for which a property of one owner holds.
///
/// Each hash of 64 bits has one slot, which the latest taker gets. The hash is keyed at random: nobody outside can make a text that is
/// taken for another one, and by chance that happens once in 2^64 questions.
///
/// Where most texts are others than before, remembering costs more than it saves: then it rests, and tries again now and then.
pub(super) struct Memo<const SLOTS: usize> {
    owner: u64,
    hasher: RandomState,
    slots: Vec<u64>,
    /// Of the questions since the last count, how many were asked and how many were remembered.
    asked: u32,
    remembered: u32,
    /// So many questions are passed on without looking.
    resting: u32,
}

/// After so many questions it is looked at whether remembering pays.
const COUNTED: u32 = 1024;
/// It does if at least one in so many is remembered: to hash a text takes a fraction of the time that a test of it does.
const PAYS: u32 = 4;
/// Otherwise it rests for so many.
const REST: u32 = 15 * COUNTED;

impl<const SLOTS: usize> Memo<SLOTS> {
    /// Whether the property of `owner` holds for `text`: remembered, or found out by `test`. For another owner everything is forgotten.
    pub(super) fn holds(&mut self, owner: u64, text: &impl Hash, test: impl FnOnce() -> bool) -> bool {
        if self.owner != owner || self.slots.is_empty() {
            self.owner = owner;
            self.slots.clear();
            self.slots.resize(SLOTS, 0);
            (self.asked, self.remembered, self.resting) = (0, 0, 0);
        }
        if self.resting > 0 {
            self.resting -= 1;
            return test();
        }
        if self.asked == COUNTED {
            self.resting = if self.remembered < COUNTED / PAYS { REST } else { 0 };
            (self.asked, self.remembered) = (0, 0);
        }
        self.asked += 1;
        // 0 stands for an empty slot.
        let hash = self.hasher.hash_one(text).max(1);
        let slot = usize::try_from(hash % SLOTS as u64).ok().and_then(|slot| self.slots.get_mut(slot));
        let Some(slot) = slot else { return test() };
        if *slot == hash {
            self.remembered += 1;
            return true;
        }
        let holds = test();
        if holds {
            *slot = hash;
        }
        holds
    }
}

impl<const SLOTS: usize> Default for Memo<SLOTS> {
    fn default() -> Self {
        Self { owner: 0, hasher: RandomState::new(), slots: Vec::new(), asked: 0, remembered: 0, resting: 0 }
    }
}

impl<const SLOTS: usize> fmt::Debug for Memo<SLOTS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").field("owner", &self.owner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    #[test]
    fn what_held_once_is_not_tested_again_and_what_did_not_is() {
        let tests = Cell::new(0);
        let mut memo = Memo::<4096>::default();
        let mut ask = |text: &[u8]| {
            memo.holds(1, &text, || {
                tests.set(tests.get() + 1);
                text.starts_with(b"good")
            })
        };
        assert!(ask(b"good") && ask(b"good") && !ask(b"bad") && !ask(b"bad"));
        assert_eq!(tests.get(), 3);
    }

    #[test]
    fn where_nothing_comes_again_it_rests_and_tries_again_later() {
        let mut memo = Memo::<4096>::default();
        let mut is_remembered = |text: u32| {
            let is_tested = Cell::new(false);
            memo.holds(1, &text, || {
                is_tested.set(true);
                true
            });
            !is_tested.get()
        };
        assert!((0..2 * COUNTED).all(|other| !is_remembered(other)));
        assert!((0..REST / 2).all(|_| !is_remembered(0)), "it rests");
        let again = (0..2 * REST).filter(|_| is_remembered(0)).count();
        assert!(again > REST as usize, "{again}");
    }

    #[test]
    fn another_owner_remembers_nothing_of_the_first() {
        let mut memo = Memo::<4096>::default();
        assert!(memo.holds(1, &"text", || true));
        assert!(!memo.holds(2, &"text", || false));
    }

    proptest! {
        #[test]
        fn it_answers_as_the_test_itself_does(steps in proptest::collection::vec((0_u64..3, 0_u16..9000), 1..300)) {
            let mut memo = Memo::<4096>::default();
            for (owner, text) in steps {
                let truth = u64::from(text) % 3 == owner;
                prop_assert_eq!(memo.holds(owner, &text, || truth), truth);
            }
        }
    }
}
