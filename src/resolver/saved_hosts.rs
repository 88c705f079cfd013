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

use super::host_answer::HostAnswer;
use crate::list::{HostAddresses, HostName, MAX_HOSTS};
use crate::time::Time;

/// Maximum size of the file in bytes: all names with all their addresses have a tenth of it.
const MAX_FILE: u64 = 1 << 20;

/// Ages are saved by the hour, so that the same answer each minute is written once an hour.
const HOUR: u64 = 3600;

/// The file.
pub struct SavedHosts {
    path: PathBuf,
    /// What it holds, so that the same is not written again. Held while it is written.
    written: Mutex<Vec<u8>>,
}

/// The last good answer for a name, in the file.
#[derive(Serialize, Deserialize)]
struct SavedAnswer {
    addresses: Vec<IpAddr>,
    /// When it came, in seconds since 1970.
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
    pub fn load(&self, now: Time) -> BTreeMap<HostName, HostAnswer> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(&self.path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let parsed = read().and_then(|bytes| Ok(serde_json::from_slice::<BTreeMap<String, SavedAnswer>>(&bytes)?));
        let saved = match parsed {
            Ok(saved) => saved,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    log::warn!("{}: {error}; the names in ignoreip are looked up anew", self.path.display());
                }
                return BTreeMap::new();
            }
        };
        let answer = |saved: SavedAnswer| {
            let addresses = HostAddresses::of(saved.addresses);
            (!addresses.addresses.is_empty()).then(|| HostAnswer { addresses, at: Time::from_secs(saved.at).min(now) })
        };
        saved.into_iter().take(MAX_HOSTS).filter_map(|(name, saved)| Some((HostName::parse(&name)?, answer(saved)?))).collect()
    }

    /// Saves what `answers` gives.
    pub fn save(&self, answers: impl FnOnce() -> BTreeMap<HostName, HostAnswer>) {
        // Before the answers are taken, so that a later save never writes earlier ones.
        let mut written = self.written.lock();
        let saved: BTreeMap<String, SavedAnswer> = answers()
            .into_iter()
            .map(|(name, answer)| {
                (name.to_string(), SavedAnswer { addresses: answer.addresses.addresses.to_vec(), at: answer.at.secs() / HOUR * HOUR })
            })
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

    fn answer(addresses: &[&str], at: u64) -> HostAnswer {
        let addresses = HostAddresses::of(addresses.iter().map(|address| address.parse().unwrap()));
        HostAnswer { addresses, at: Time::from_secs(at) }
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let file = SavedHosts::beside(&folder.path().join("state.db"));
        assert!(file.load(NOW).is_empty());
        let answers: BTreeMap<HostName, HostAnswer> =
            [(HostName::parse("home.example.net").unwrap(), answer(&["192.0.2.7", "2001:db8::7"], 900_000))].into();
        file.save(|| answers.clone());
        assert_eq!(SavedHosts::beside(&folder.path().join("state.db")).load(NOW), answers);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_foreign_file_protects_nobody_by_accident() {
        let folder = tempfile::tempdir().unwrap();
        let file = SavedHosts::beside(&folder.path().join("state.db"));
        let nobody = r#"{"a.example": {"addresses": ["0.0.0.0"], "at": 1}, "localhost": {"addresses": ["192.0.2.7"], "at": 1}}"#;
        let network = r#"{"a.example": {"addresses": ["0.0.0.0/0"], "at": 1}}"#;
        for text in ["", "{", "[]", nobody, network] {
            std::fs::write(&file.path, text).unwrap();
            assert!(file.load(NOW).is_empty(), "{text}");
        }
        let many: Vec<String> = (0..99).map(|number| format!("\"198.51.100.{number}\"")).collect();
        let text = format!("{{\"a.example\": {{\"addresses\": [\"0.0.0.0\", {}], \"at\": 5000000}}}}", many.join(", "));
        std::fs::write(&file.path, text).unwrap();
        let loaded = file.load(NOW);
        let answer = loaded.values().next().unwrap();
        assert_eq!((loaded.len(), answer.addresses.addresses.len()), (1, crate::list::MAX_ADDRESSES));
        assert_eq!(answer.at, NOW, "no answer is from the future");
    }
}
