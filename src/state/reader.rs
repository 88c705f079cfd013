//! Looks up single bans in the state file, with their evidence, beside the process that writes it.

use std::path::PathBuf;

use super::{Failure, Store};
use crate::client::Client;
use crate::engine::BanRecord;
use crate::time::Time;

/// A connection that only reads, opened when it is first asked.
pub struct Reader {
    path: PathBuf,
    store: Option<Store>,
}

impl Reader {
    /// Will read the file at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, store: None }
    }

    /// The bans of `client` that stand at `now`, each with its evidence, the oldest first.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub fn find(&mut self, client: Client, now: Time) -> Result<Vec<BanRecord>, Failure> {
        let mut store = match self.store.take().filter(|store| !store.was_replaced()) {
            Some(store) => store,
            None => Store::open_read_only(&self.path)?,
        };
        let found = store.find(client, now)?;
        self.store = Some(store);
        Ok(found)
    }
}
