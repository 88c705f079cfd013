//! The embedded table, which is the default: the helper runs an engine of its own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::Backend;
use crate::client::Client;
use crate::clock::Clock;
use crate::config::{Config, DEFAULT_FILE, pieces};
use crate::crawler::Crawler;
use crate::engine::reply::Reply;
use crate::engine::{Engine, SavedBans};
use crate::event::Service;
use crate::list::OwnAddresses;
use crate::policy::Policy;
use crate::resolver::hosts::HostWatch;
use crate::resolver::{crawlers, system};
use crate::rule::{Cleared, Offence};
use crate::rule_id::RuleNames;
use crate::state::attach::StateFile;
use crate::table::{Bans, RequestTally};
use crate::time::Time;
use crate::verdict::Verdict;

/// An engine, and the configuration file that it is reloaded from.
pub struct Embedded {
    clock: Clock,
    engine: Arc<Engine>,
    config: Option<PathBuf>,
    /// The lists that the configuration in force names.
    list_files: Mutex<Vec<PathBuf>>,
    hosts: Arc<HostWatch>,
    state: Option<StateFile>,
}

/// How long the last save may take when the helper ends.
const LAST_SAVE: Duration = Duration::from_secs(2);

/// Modification time and length of each file of the configuration and of the lists that it names. When they change, all are read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigStamp(Vec<(Option<(SystemTime, u64)>, PathBuf)>);

impl Embedded {
    /// Reads the configuration and creates the table. With a state file, bans are loaded from it and saved to it.
    ///
    /// # Errors
    /// A message: the configuration is wrong, or a thread could not be started.
    pub fn open(config: Option<&Path>, state: Option<&Path>) -> Result<Self, String> {
        let names = Arc::new(RuleNames::default());
        let loaded = Config::load(config, &names).map_err(|error| error.to_string())?;
        let (clients, bans, networks) = (loaded.table.clients.get(), loaded.table.bans.get(), loaded.table.networks.get());
        let list_files = Mutex::new(loaded.list_files.clone());
        let mut policy = Policy::from(loaded);
        policy.lists.set_own(OwnAddresses::read().unwrap_or_default());
        let no_thread = |error| format!("a thread cannot be started: {error}");
        let engine = Arc::new(Engine::new(names, policy, clients, bans).map_err(no_thread)?.with_networks(networks));
        let clock = Clock::start();
        let state = state.map(|file| StateFile::open(&engine, clock, file)).transpose().map_err(no_thread)?;
        engine.lift(clock.now(), std::iter::empty(), SavedBans::Stay);
        let hosts = HostWatch::new(&engine, clock, system::addresses, None);
        hosts.tick();
        crawlers::start(&engine, clock);
        Ok(Self { clock, engine, config: config.map(Path::to_path_buf), list_files, hosts, state })
    }

    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The current stamp of the configuration and its lists.
    #[must_use]
    pub fn config_stamp(&self) -> ConfigStamp {
        let file = self.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        // A fault in the folder is found when the configuration is read.
        let pieces = pieces::files(file).unwrap_or_default();
        let lists = self.list_files.lock().clone();
        let stamp = |file: &Path| std::fs::metadata(file).ok().and_then(|metadata| Some((metadata.modified().ok()?, metadata.len())));
        let files = [file.to_path_buf()].into_iter().chain(pieces).chain(lists);
        ConfigStamp(files.map(|file| (stamp(&file), file)).collect())
    }

    /// Reads the configuration again. Strikes and bans stay.
    ///
    /// # Errors
    /// A message: the configuration is wrong, and the old one stays in force.
    pub fn reload(&self) -> Result<(), String> {
        let loaded = Config::load(self.config.as_deref(), self.engine.names()).map_err(|error| error.to_string())?;
        (*self.list_files.lock()).clone_from(&loaded.list_files);
        self.engine.reload(self.clock.now(), Policy::from(loaded), SavedBans::Stay);
        self.hosts.refresh();
        Ok(())
    }

    /// Drops what has expired, and starts the lookups of host names that are due.
    pub fn sweep(&self) {
        self.engine.sweep(self.clock.now());
        self.hosts.tick();
    }

    /// Saves the strikes, if there is a state file.
    pub fn save_strikes(&self) {
        if let Some(state) = &self.state {
            state.save_strikes(self.clock.now());
        }
    }
}

impl Backend for Embedded {
    fn now(&self) -> Time {
        self.clock.now()
    }

    fn policy(&self) -> Arc<Policy> {
        self.engine.policy()
    }

    fn bans(&self) -> &Bans {
        self.engine.bans()
    }

    fn names(&self) -> &RuleNames {
        self.engine.names()
    }

    fn record_offence(&self, now: Time, offence: Offence, reply: Reply) {
        self.engine.record_offence(now, &offence, Service::Web, reply);
    }

    fn clear(&self, address: IpAddr, cleared: Cleared) {
        self.engine.clear(Client::of(address, self.engine.policy().prefix), &cleared);
    }

    fn note_claim(&self, now: Time, address: IpAddr, crawler: &Arc<Crawler>) {
        self.engine.claims().note(now, address, crawler);
    }

    fn when_persisted(&self, verdict: Verdict, reply: Reply) {
        self.engine.when_persisted(verdict, reply);
    }

    fn count_requests(&self, now: Time, tallies: &mut Vec<RequestTally>) {
        self.engine.count_requests(now, tallies);
    }

    fn close(&self) {
        self.engine.finish_log();
        if let Some(state) = &self.state {
            state.finish(self.clock.now(), LAST_SAVE);
        }
    }
}
