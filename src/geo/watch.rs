//! Reads the databases of `[geo]`, and reads each again when its file has changed. A file that cannot be used leaves the last good one in
//! use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

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

impl GeoWatch {
    /// Reads `files`.
    #[must_use]
    pub fn new(files: &GeoFiles) -> Self {
        let mut watch = Self::default();
        watch.configure(files);
        watch
    }

    /// Takes the files of a configuration and reads each of them, also one that has shrunk. One that cannot be used leaves the last good
    /// one of the same path in use.
    pub fn configure(&mut self, files: &GeoFiles) {
        self.asn.configure(GeoKind::Asn, files.asn.as_deref());
        self.country.configure(GeoKind::Country, files.country.as_deref());
    }

    /// Reads the files that have changed. Returns whether a database was replaced.
    pub fn refresh(&mut self) -> bool {
        let asn = self.asn.refresh(GeoKind::Asn);
        self.country.refresh(GeoKind::Country) || asn
    }

    /// The databases in use.
    #[must_use]
    pub fn geo(&self) -> Geo {
        Geo::Here(Databases { asn: self.asn.database.clone(), country: self.country.database.clone() })
    }

    /// What is told of each configured database.
    #[must_use]
    pub fn states(&self) -> Vec<GeoState> {
        [self.asn.state(GeoKind::Asn), self.country.state(GeoKind::Country)].into_iter().flatten().collect()
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
