//! One order of changes: what befalls one client in the table, on disk and at followers befalls it in the same order.
//!
//! Without it a ban and an unban of one client that meet could change the table one way round and be handed to the keeper the other way:
//! then memory would refuse whom the disk does not know, or the reverse after a restart.

use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ahash::RandomState;

/// So many clients are banned or freed at a time at most; two of them may share a turn and do not mind.
const TURNS: usize = 64;

/// Whose turn it is. Only who makes or lifts a ban asks: a query never does.
pub(super) struct Order {
    turns: [Mutex<()>; TURNS],
    hasher: RandomState,
}

impl Default for Order {
    fn default() -> Self {
        Self { turns: std::array::from_fn(|_| Mutex::new(())), hasher: RandomState::new() }
    }
}

impl Order {
    /// Waits for the turn of a client or a network, and takes it until the guard is dropped. Who holds one must not ask for another.
    pub(super) fn of(&self, whom: &impl Hash) -> MutexGuard<'_, ()> {
        let index = usize::try_from(self.hasher.hash_one(whom) % TURNS as u64).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "a remainder by the length")]
        self.turns[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
