//! Reads the databases of `[geo]`, and reads each again when its file has changed. A file that cannot be used leaves the last good one in
//! use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::database::{Database, GeoValue, Stamp};
use super::{Asn, Country, Databases, Geo, GeoKind};

/// A file with less than this part of the networks of the one in use is not taken by itself: its download was cut short, or it is another
/// database.
const SHRUNK: usize = 10;

/// The files of `[geo]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GeoFiles {
    pub asn: Option<PathBuf>,
    pub country: Option<PathBuf>,
}

/// The databases, and the files that they are read from.
#[derive(Debug, Default)]
pub struct GeoWatch {
    /// Held by whoever changes the databases, from before a file is read until what was read is in force. So a reload and the look for changed
    /// files come one after the other.
    turn: Mutex<()>,
    /// Never held while a file is read, which may take a slow disk seconds.
    state: Mutex<State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    asn: Watched<Asn>,
    country: Watched<Country>,
}

/// What is told of a database of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeoState {
    pub kind: GeoKind,
    pub file: PathBuf,
    /// Number of networks in use; 0 if there is no database.
    pub entries: usize,
    /// When the database in use was built, in seconds since 1970.
    pub built: Option<u64>,
    /// When the file of the one in use was changed last.
    pub modified: Option<SystemTime>,
    /// Why the file as it is now is not used.
    pub fault: Option<String>,
}

#[derive(Debug)]
struct Watched<V> {
    file: Option<PathBuf>,
    /// Of the file when it was read last, usable or not.
    stamp: Option<Stamp>,
    database: Option<Arc<Database<V>>>,
    modified: Option<SystemTime>,
    fault: Option<String>,
}

impl<V> Default for Watched<V> {
    fn default() -> Self {
        Self { file: None, stamp: None, database: None, modified: None, fault: None }
    }
}

impl<V> Clone for Watched<V> {
    fn clone(&self) -> Self {
        let Self { file, stamp, database, modified, fault } = self;
        Self { file: file.clone(), stamp: *stamp, database: database.clone(), modified: *modified, fault: fault.clone() }
    }
}

impl GeoWatch {
    /// Reads `files`.
    #[must_use]
    pub fn new(files: &GeoFiles) -> Self {
        let watch = Self::default();
        watch.configure(files, |_| ());
        watch
    }

    /// Takes the files of a configuration and reads each of them, also one that has shrunk. One that cannot be used leaves the last good
    /// one of the same path in use. `put_in_force` gets the databases before anybody else changes them.
    pub fn configure<T>(&self, files: &GeoFiles, put_in_force: impl FnOnce(Geo) -> T) -> T {
        let change = |state: &mut State| {
            state.asn.configure(GeoKind::Asn, files.asn.as_deref());
            state.country.configure(GeoKind::Country, files.country.as_deref());
        };
        self.change(change, |geo, ()| put_in_force(geo))
    }

    /// Reads the files that have changed, and has the databases put in force if one was replaced.
    pub fn refresh(&self, put_in_force: impl FnOnce(Geo)) {
        let change = |state: &mut State| {
            let asn = state.asn.refresh(GeoKind::Asn);
            state.country.refresh(GeoKind::Country) || asn
        };
        self.change(change, |geo, is_replaced| {
            if is_replaced {
                put_in_force(geo);
            }
        });
    }

    /// Changes a copy, and then puts it in the place of the original.
    fn change<C, T>(&self, change: impl FnOnce(&mut State) -> C, put_in_force: impl FnOnce(Geo, C) -> T) -> T {
        let _turn = self.turn.lock();
        let mut state = self.state.lock().clone();
        let changed = change(&mut state);
        let geo = state.geo();
        *self.state.lock() = state;
        put_in_force(geo, changed)
    }

    /// The databases in use.
    #[must_use]
    pub fn geo(&self) -> Geo {
        self.state.lock().geo()
    }

    /// What is told of each configured database.
    #[must_use]
    pub fn states(&self) -> Vec<GeoState> {
        let State { asn, country } = &*self.state.lock();
        [asn.state(GeoKind::Asn), country.state(GeoKind::Country)].into_iter().flatten().collect()
    }
}

impl State {
    fn geo(&self) -> Geo {
        Geo::Here(Databases { asn: self.asn.database.clone(), country: self.country.database.clone() })
    }
}

impl<V: GeoValue> Watched<V> {
    fn configure(&mut self, kind: GeoKind, file: Option<&Path>) {
        if self.file.as_deref() != file {
            *self = Self { file: file.map(Into::into), ..Self::default() };
        }
        self.read(kind, |_| Ok(()));
    }

    fn refresh(&mut self, kind: GeoKind) -> bool {
        let Some(file) = &self.file else { return false };
        if Stamp::of(file) == self.stamp {
            return false;
        }
        let before = self.database.as_ref().map_or(0, |database| database.entries());
        self.read(kind, |database| {
            let now = database.entries();
            if now >= before / SHRUNK {
                return Ok(());
            }
            Err(format!("found {now} networks where the one in use has {before}; to take it all the same: strikeout reload"))
        })
    }

    /// Reads the file, and takes it if it can be used and `check` agrees. Returns whether it was taken.
    fn read(&mut self, kind: GeoKind, check: impl FnOnce(&Database<V>) -> Result<(), String>) -> bool {
        let Some(file) = &self.file else { return false };
        // Before the file is read: if it is changed meanwhile, it is read again.
        self.stamp = Stamp::of(file);
        let read = Database::read(file).map_err(|fault| fault.to_string());
        match read.and_then(|database| check(&database).map(|()| database)) {
            Ok(database) => {
                log::info!("{} database {}: {} networks", kind.as_str(), file.display(), database.entries());
                self.modified = self.stamp.map(|stamp| stamp.modified);
                self.database = Some(Arc::new(database));
                self.fault = None;
                true
            }
            Err(fault) => {
                let kept = if self.database.is_some() { "the last good one stays in use" } else { "it matches nobody" };
                if self.fault.as_ref() != Some(&fault) {
                    log::error!("{} database {}: {fault}; {kept}", kind.as_str(), file.display());
                }
                self.fault = Some(fault);
                false
            }
        }
    }

    fn state(&self, kind: GeoKind) -> Option<GeoState> {
        Some(GeoState {
            kind,
            file: self.file.clone()?,
            entries: self.database.as_ref().map_or(0, |database| database.entries()),
            built: self.database.as_ref().map(|database| database.built()),
            modified: self.modified,
            fault: self.fault.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn who_asks_for_the_databases_does_not_wait_while_a_file_is_read() {
        let files = GeoFiles { asn: Some("/nonexistent/asn.mmdb".into()), country: None };
        let watch = Arc::new(GeoWatch::new(&files));
        let asking = Arc::clone(&watch);
        let answer = watch.change(
            |state| {
                let (answered, answer) = channel();
                std::thread::spawn(move || answered.send((asking.states().len(), asking.geo())));
                let answer = answer.recv_timeout(Duration::from_secs(60));
                state.asn.fault = Some("found another fault".into());
                answer
            },
            |_, answer| answer,
        );
        assert_eq!(answer.unwrap().0, 1);
        assert_eq!(watch.states()[0].fault.as_deref(), Some("found another fault"));
    }
}
