//! The addresses of host names in a small file beside the state file, so that a daemon that starts while the name server is away still knows
//! whom it must never ban.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::list::{HostAddresses, HostName, MAX_HOSTS};
use crate::time::Time;

/// Maximum size of the file in bytes: all names with all their addresses have a tenth of it.
const MAX_FILE: u64 = 1 << 20;

/// Addresses of a name, and when each was answered last.
pub type SeenAddresses = BTreeMap<IpAddr, Time>;

/// The file.
pub struct SavedHosts {
    path: PathBuf,
    /// What it holds, so that the same is not written again. Held while it is written.
    written: Mutex<Vec<u8>>,
}

/// An address in the file.
#[derive(Serialize, Deserialize)]
struct SavedAddress {
    address: IpAddr,
    /// When it was answered last, in seconds since 1970.
    at: u64,
}

impl SavedHosts {
    /// The file for the names of the daemon with this state file.
    #[must_use]
    pub fn beside(state: &Path) -> Self {
        let mut path = state.as_os_str().to_owned();
        path.push(".hosts");
        Self { path: path.into(), written: Mutex::default() }
    }

    /// What was saved; nothing if there is no such file, or a damaged one. No answer is from the future.
    #[must_use]
    pub fn load(&self, now: Time) -> BTreeMap<HostName, SeenAddresses> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(&self.path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let parsed = read().and_then(|bytes| Ok(serde_json::from_slice::<BTreeMap<String, Vec<SavedAddress>>>(&bytes)?));
        let saved = match parsed {
            Ok(saved) => saved,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    log::warn!("{}: {error}; the names in ignoreip are looked up anew", self.path.display());
                }
                return BTreeMap::new();
            }
        };
        let seen = |addresses: Vec<SavedAddress>| -> SeenAddresses {
            let usable = HostAddresses::of(addresses.iter().map(|saved| saved.address)).addresses;
            let seen = addresses.into_iter().map(|saved| (saved.address.to_canonical(), Time::from_secs(saved.at).min(now)));
            seen.filter(|(address, _)| usable.contains(address)).collect()
        };
        saved.into_iter().take(MAX_HOSTS).filter_map(|(name, addresses)| Some((HostName::parse(&name)?, seen(addresses)))).collect()
    }

    /// Saves what `answers` gives.
    pub fn save(&self, answers: impl FnOnce() -> BTreeMap<HostName, SeenAddresses>) {
        // Before the answers are taken, so that a later save never writes earlier ones.
        let mut written = self.written.lock();
        let saved: BTreeMap<String, Vec<SavedAddress>> = answers()
            .into_iter()
            .map(|(name, seen)| (name.to_string(), seen.into_iter().map(|(address, at)| SavedAddress { address, at: at.secs() }).collect()))
            .collect();
        let Ok(bytes) = serde_json::to_vec(&saved) else { return };
        if bytes == *written {
            return;
        }
        match self.write(&bytes) {
            Ok(()) => *written = bytes,
            Err(error) => log::warn!("{}: {error}; a restart forgets the addresses of the names in ignoreip", self.path.display()),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut new = self.path.as_os_str().to_owned();
        new.push(".new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o640).open(&new)?;
        file.write_all(bytes)?;
        std::fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(1_000_000);

    fn seen(addresses: &[(&str, u64)]) -> SeenAddresses {
        addresses.iter().map(|(address, at)| (address.parse().unwrap(), Time::from_secs(*at))).collect()
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let file = SavedHosts::beside(&folder.path().join("state.db"));
        assert!(file.load(NOW).is_empty());
        let answers: BTreeMap<HostName, SeenAddresses> =
            [(HostName::parse("home.example.net").unwrap(), seen(&[("192.0.2.7", 900_000), ("2001:db8::7", 999_999)]))].into();
        file.save(|| answers.clone());
        assert_eq!(SavedHosts::beside(&folder.path().join("state.db")).load(NOW), answers);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_foreign_file_protects_nobody_by_accident() {
        let folder = tempfile::tempdir().unwrap();
        let file = SavedHosts::beside(&folder.path().join("state.db"));
        for text in ["", "{", "[]", "{\"a.example\": [{\"address\": \"0.0.0.0/0\", \"at\": 1}]}", "{\"localhost\": []}"] {
            std::fs::write(&file.path, text).unwrap();
            assert!(file.load(NOW).is_empty(), "{text}");
        }
        let many: Vec<String> = (0..99).map(|number| format!("{{\"address\": \"198.51.100.{number}\", \"at\": 5000000}}")).collect();
        let text = format!("{{\"a.example\": [{{\"address\": \"0.0.0.0\", \"at\": 1}}, {}]}}", many.join(", "));
        std::fs::write(&file.path, text).unwrap();
        let loaded = file.load(NOW);
        let seen = loaded.values().next().unwrap();
        assert_eq!((loaded.len(), seen.len()), (1, crate::list::MAX_ADDRESSES));
        assert!(seen.values().all(|at| *at == NOW), "no answer is from the future");
    }
}
