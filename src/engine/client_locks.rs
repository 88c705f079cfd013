//! Locks that give the bans of one client the same order in the table, in the journal and at observers.
//!
//! Without them, a ban and an unban of one client at the same time could change the table in one order and reach the journal in the other:
//! after a restart the client would be banned although it was not before, or the reverse.

use std::hash::Hash;

use ahash::RandomState;
use parking_lot::{Mutex, MutexGuard};

/// Number of lock stripes; a collision only serialises two clients.
const STRIPES: usize = 64;

/// Locks taken to ban or unban a client. Queries never take one.
pub(super) struct ClientLocks {
    stripes: [Mutex<()>; STRIPES],
    hasher: RandomState,
}

impl Default for ClientLocks {
    fn default() -> Self {
        Self { stripes: std::array::from_fn(|_| Mutex::new(())), hasher: RandomState::new() }
    }
}

impl ClientLocks {
    /// Locks a client or a network until the guard is dropped. A thread that holds one guard must not take another: both may lock the same
    /// stripe.
    pub(super) fn lock(&self, key: &impl Hash) -> MutexGuard<'_, ()> {
        let index = usize::try_from(self.hasher.hash_one(key) % STRIPES as u64).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "a remainder by the length")]
        self.stripes[index].lock()
    }

    /// Locks all clients and networks, once every guard that is held now has been dropped.
    pub(super) fn lock_all(&self) -> Vec<MutexGuard<'_, ()>> {
        // Always in the same order, so that two threads that do so do not wait for each other.
        self.stripes.iter().map(Mutex::lock).collect()
    }

    #[cfg(test)]
    pub(super) fn are_all_held(&self) -> bool {
        self.stripes.iter().all(Mutex::is_locked)
    }
}
