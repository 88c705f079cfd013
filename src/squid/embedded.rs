//! The table in the helper itself: the default.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Backend;
use crate::clock::Clock;
use crate::config::{Config, DEFAULT_FILE};
use crate::engine::durable::StateFile;
use crate::engine::{Engine, InForce};
use crate::event::Surface;
use crate::list::OwnAddresses;
use crate::reply::Reply;
use crate::rule::{Names, Offence};
use crate::table::{Bans, Tallied};
use crate::time::Time;
use crate::verdict::Verdict;

/// An engine of the helper's own, and the configuration file that it follows.
pub struct Embedded {
    clock: Clock,
    engine: Arc<Engine>,
    config: Option<PathBuf>,
    state: Option<StateFile>,
}

/// How long the end waits for the state file.
const LAST_SAVE: Duration = Duration::from_secs(2);

/// A file as it was last seen: when this changes, the file is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen(Option<(SystemTime, u64)>);

impl Embedded {
    /// Reads the configuration and makes a table: an empty one, or what `state` holds, which then keeps every ban.
    ///
    /// # Errors
    /// A fault in the configuration, or that a thread could not be started, as a line of text.
    pub fn open(config: Option<&Path>, state: Option<&Path>) -> Result<Self, String> {
        let names = Arc::new(Names::default());
        let loaded = Config::load(config, &names).map_err(|error| error.to_string())?;
        let (clients, bans) = (loaded.table.clients.get(), loaded.table.bans.get());
        let mut in_force = InForce::from(loaded);
        in_force.lists.set_own(OwnAddresses::read().unwrap_or_default());
        let no_thread = |error| format!("no thread could be started: {error}");
        let engine = Arc::new(Engine::new(names, in_force, clients, bans).map_err(no_thread)?);
        let clock = Clock::start();
        let state = state.map(|file| StateFile::open(&engine, clock, file)).transpose().map_err(no_thread)?;
        Ok(Self { clock, engine, config: config.map(Path::to_path_buf), state })
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The configuration file as it is now.
    #[must_use]
    pub fn look(&self) -> Seen {
        let file = self.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        Seen(std::fs::metadata(file).ok().and_then(|metadata| Some((metadata.modified().ok()?, metadata.len()))))
    }

    /// Reads the configuration again. Strikes and bans stay; so do the old rules if there is a fault.
    ///
    /// # Errors
    /// The fault, as a line of text.
    pub fn reload(&self) -> Result<(), String> {
        let loaded = Config::load(self.config.as_deref(), self.engine.names()).map_err(|error| error.to_string())?;
        self.engine.put_in_force(InForce::from(loaded));
        Ok(())
    }

    /// Drops what time has ended.
    pub fn sweep(&self) {
        self.engine.sweep(self.clock.now());
    }

    /// Saves the strikes that have not made a ban yet, if there is a state file.
    pub fn keep_strikes(&self) {
        if let Some(state) = &self.state {
            state.keep_strikes(self.clock.now());
        }
    }
}

impl Backend for Embedded {
    fn now(&self) -> Time {
        self.clock.now()
    }

    fn in_force(&self) -> Arc<InForce> {
        self.engine.in_force()
    }

    fn bans(&self) -> &Bans {
        self.engine.bans()
    }

    fn names(&self) -> &Names {
        self.engine.names()
    }

    fn offend(&self, now: Time, offence: Offence, reply: Reply) {
        self.engine.offend(now, &offence, Surface::Web, reply);
    }

    fn when_kept(&self, verdict: Verdict, reply: Reply) {
        self.engine.when_kept(verdict, reply);
    }

    fn tally(&self, now: Time, tallied: &mut Vec<Tallied>) {
        self.engine.tally(now, tallied);
    }

    fn close(&self) {
        if let Some(state) = &self.state {
            state.finish(self.clock.now(), LAST_SAVE);
        }
    }
}
