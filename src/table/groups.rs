//! Entries by key in one piece of memory, in the order of their last use. In a large table each further place in memory costs more than the
//! work that is done there, so an entry has one: no node, box or second copy of its key elsewhere.

use hashbrown::HashTable;

/// No slot.
const NONE: u32 = u32::MAX;

/// Entries, of which the one that was not used for longest goes first. The caller hashes the keys, each always alike.
pub struct Groups<K, V> {
    /// The slots, by hash.
    index: HashTable<u32>,
    slots: Vec<Slot<K, V>>,
    /// The slots that hold nothing.
    free: Vec<u32>,
    latest: u32,
    oldest: u32,
}

/// Where an entry is, until it is removed.
#[derive(Debug, Clone, Copy)]
pub struct Place(u32);

struct Slot<K, V> {
    hash: u64,
    /// The slots used next before and after this one.
    older: u32,
    newer: u32,
    /// The second of the last use.
    used: u32,
    /// None if the slot is free.
    entry: Option<(K, V)>,
}

impl<K, V> Default for Groups<K, V> {
    fn default() -> Self {
        Self { index: HashTable::new(), slots: Vec::new(), free: Vec::new(), latest: NONE, oldest: NONE }
    }
}

impl<K: Copy + Eq, V> Groups<K, V> {
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    #[must_use]
    pub fn get(&self, hash: u64, key: &K) -> Option<&V> {
        let at = self.find(hash, key)?;
        self.slot(at)?.entry.as_ref().map(|(_, value)| value)
    }

    /// The value of `key`, without marking it as used.
    pub fn get_mut(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let at = self.find(hash, key)?;
        self.slot_mut(at)?.entry.as_mut().map(|(_, value)| value)
    }

    /// The place of `key`, used in the second `now`. Those used in the same second keep their order, so that most uses of a busy entry write
    /// to no other.
    pub fn use_at(&mut self, hash: u64, key: &K, now: u32) -> Option<Place> {
        let at = self.find(hash, key)?;
        if self.slot(at)?.used != now {
            self.unlink(at);
            self.link(at, now);
        }
        Some(Place(at))
    }

    /// Adds an entry whose key is new. None if there are four billion.
    pub fn insert(&mut self, hash: u64, key: K, value: V, now: u32) -> Option<Place> {
        let slot = Slot { hash, older: NONE, newer: NONE, used: now, entry: Some((key, value)) };
        let at = match self.free.pop() {
            Some(at) => {
                *self.slot_mut(at)? = slot;
                at
            }
            None => {
                let at = u32::try_from(self.slots.len()).ok().filter(|at| *at != NONE)?;
                self.slots.push(slot);
                at
            }
        };
        let slots = &self.slots;
        let hash_of = |at: &u32| usize::try_from(*at).ok().and_then(|at| slots.get(at)).map_or(0, |slot| slot.hash);
        self.index.insert_unique(hash, at, hash_of);
        self.link(at, now);
        Some(Place(at))
    }

    /// The value at a place of before. None if it was removed meanwhile.
    pub fn at(&mut self, place: Place) -> Option<&mut V> {
        self.slot_mut(place.0)?.entry.as_mut().map(|(_, value)| value)
    }

    pub fn remove(&mut self, hash: u64, key: &K) -> Option<V> {
        let at = self.find(hash, key)?;
        self.take(at).map(|(_, value)| value)
    }

    /// The entry that was not used for longest.
    #[must_use]
    pub fn oldest(&self) -> Option<(&K, &V)> {
        self.slot(self.oldest)?.entry.as_ref().map(|(key, value)| (key, value))
    }

    /// Removes the entry that was not used for longest.
    pub fn remove_oldest(&mut self) -> Option<(K, V)> {
        self.take(self.oldest)
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref()).map(|(_, value)| value)
    }

    fn take(&mut self, at: u32) -> Option<(K, V)> {
        let hash = self.slot(at)?.hash;
        self.unlink(at);
        if let Ok(place) = self.index.find_entry(hash, |found| *found == at) {
            place.remove();
        }
        self.free.push(at);
        self.slot_mut(at)?.entry.take()
    }

    fn find(&self, hash: u64, key: &K) -> Option<u32> {
        let is_key = |at: &u32| self.slot(*at).and_then(|slot| slot.entry.as_ref()).is_some_and(|(found, _)| found == key);
        self.index.find(hash, is_key).copied()
    }

    /// Makes a slot the latest.
    fn link(&mut self, at: u32, now: u32) {
        let latest = std::mem::replace(&mut self.latest, at);
        if let Some(slot) = self.slot_mut(at) {
            (slot.older, slot.newer, slot.used) = (latest, NONE, now);
        }
        match self.slot_mut(latest) {
            Some(before) => before.newer = at,
            None => self.oldest = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some((older, newer)) = self.slot(at).map(|slot| (slot.older, slot.newer)) else { return };
        match self.slot_mut(older) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
        match self.slot_mut(newer) {
            Some(slot) => slot.older = older,
            None => self.latest = older,
        }
    }

    fn slot(&self, at: u32) -> Option<&Slot<K, V>> {
        self.slots.get(usize::try_from(at).ok()?)
    }

    fn slot_mut(&mut self, at: u32) -> Option<&mut Slot<K, V>> {
        self.slots.get_mut(usize::try_from(at).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Few different hashes, so that keys collide.
    fn hash(key: u8) -> u64 {
        u64::from(key % 5)
    }

    proptest! {
        /// The twin is a plain list, the oldest first.
        #[test]
        fn entries_are_those_of_a_plain_list(steps in proptest::collection::vec((0_u8..6, 0_u8..20, 0_u32..3), 1..300)) {
            let mut groups = Groups::default();
            let mut twin: Vec<(u8, u32, usize)> = Vec::new();
            let mut now = 0;
            for (number, (step, key, gap)) in steps.into_iter().enumerate() {
                now += gap;
                let known = twin.iter().position(|(known, ..)| *known == key);
                match step {
                    0 | 1 if known.is_none() => {
                        let place = groups.insert(hash(key), key, number, now).unwrap();
                        prop_assert_eq!(groups.at(place).copied(), Some(number));
                        twin.push((key, now, number));
                    }
                    0..=2 => {
                        let place = groups.use_at(hash(key), &key, now);
                        let found = place.and_then(|place| groups.at(place)).map(|value| std::mem::replace(value, number));
                        prop_assert_eq!(found, known.map(|at| twin[at].2));
                        if let Some(at) = known {
                            twin[at].2 = number;
                            if twin[at].1 != now {
                                let (key, _, value) = twin.remove(at);
                                twin.push((key, now, value));
                            }
                        }
                    }
                    3 => {
                        prop_assert_eq!(groups.get_mut(hash(key), &key).copied(), known.map(|at| twin[at].2));
                        prop_assert_eq!(groups.get(hash(key), &key).copied(), known.map(|at| twin[at].2));
                    }
                    4 => {
                        prop_assert_eq!(groups.remove(hash(key), &key), known.map(|at| twin.remove(at).2));
                    }
                    _ => {
                        let oldest = (!twin.is_empty()).then(|| twin.remove(0)).map(|(key, _, value)| (key, value));
                        prop_assert_eq!(groups.oldest().map(|(key, value)| (*key, *value)), oldest);
                        prop_assert_eq!(groups.remove_oldest(), oldest);
                    }
                }
                let mut values: Vec<usize> = groups.values().copied().collect();
                let mut expected: Vec<usize> = twin.iter().map(|(.., value)| *value).collect();
                values.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!((groups.len(), values), (twin.len(), expected));
                prop_assert!(groups.slots.len() <= 20, "slots are used again");
            }
        }
    }
}
