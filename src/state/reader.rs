//! Looks up single bans in the state file, with their evidence, while another connection writes it.

use std::path::PathBuf;

use crate::geo::Network;

use super::{StateError, Store};
use crate::client::Client;
use crate::engine::BanRecord;
use crate::rule::Evidence;
use crate::time::Time;

/// A read-only connection, opened at the first query.
pub struct Reader {
    path: PathBuf,
    store: Option<Store>,
}

impl Reader {
    /// A reader of the file at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, store: None }
    }

    /// The active bans of `client`, each with its evidence, the oldest first.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub fn find_bans(&mut self, client: Client, now: Time) -> Result<Vec<BanRecord>, StateError> {
        self.read(|store| store.find_bans(client, now))
    }

    /// The operator's reason for the ban of `network`, if it is banned.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub fn network_ban_reason(&mut self, network: Network) -> Result<Option<Evidence>, StateError> {
        self.read(|store| store.network_ban_reason(network))
    }

    /// Reads from the file that is at the path now. After an error the next call opens it anew.
    fn read<T>(&mut self, read: impl FnOnce(&mut Store) -> Result<T, StateError>) -> Result<T, StateError> {
        let mut store = match self.store.take().filter(|store| !store.was_replaced()) {
            Some(store) => store,
            None => Store::open_read_only(&self.path)?,
        };
        let found = read(&mut store)?;
        self.store = Some(store);
        Ok(found)
    }
}
