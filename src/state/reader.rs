//! Looks up single bans in the state file, with their evidence, beside the process that writes it.

use std::path::PathBuf;

use ipnet::IpNet;

use super::{Failure, Store};
use crate::client::Client;
use crate::engine::BanRecord;
use crate::rule::Evidence;
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
        self.read(|store| store.find(client, now))
    }

    /// Why an operator banned `network`, if it is banned.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub fn reason(&mut self, network: IpNet) -> Result<Option<Evidence>, Failure> {
        self.read(|store| store.reason(network))
    }

    /// Reads from the file that is there now. After a failure it is opened anew.
    fn read<T>(&mut self, read: impl FnOnce(&mut Store) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut store = match self.store.take().filter(|store| !store.was_replaced()) {
            Some(store) => store,
            None => Store::open_read_only(&self.path)?,
        };
        let found = read(&mut store)?;
        self.store = Some(store);
        Ok(found)
    }
}
