//! The engine: the rules, lists and table of one process. It counts offences, bans at `maxretry`, saves and publishes the bans, and answers.

mod accounts;
mod ban;
mod ban_log;
mod change;
mod client_locks;
mod completion;
mod count;
mod crowds;
pub mod deadline;
mod false_positives;
#[cfg(test)]
pub mod fixtures;
mod lift;
mod pause;
mod publish;
mod rates;
mod records;
pub mod reply;

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use ahash::RandomState;
use lru::LruCache;
use parking_lot::{Mutex, RwLock};

use crate::client::Client;
use crate::crawler::Claims;
use crate::event::Service;
use crate::geo::{Geo, Network};
use crate::list::{BannedNetworks, Lists};
use crate::policy::Policy;
use crate::rule::{Evidence, Offence, Rule};
use crate::rule_id::{RuleId, RuleNames};
use crate::table::{Account, Accounts, Ban, Bans, Crowds, SeenMarks, Strikes};
use crate::time::Time;
pub use ban::SLOW;
use ban_log::BanLog;
pub use change::{BanRecord, Change, Forgotten, Journal, NetworkRecord, OnPersisted, Persisted, Reach, contain_panic};
use client_locks::ClientLocks;
pub use completion::{Abandoned, Applied, Completion};
use deadline::{DISK_LIMIT, Deadlines};
use false_positives::FalsePositives;
pub use lift::SavedBans;
use publish::DiskProgress;
pub use records::EarlierBans;
use records::EarlierBansOf;

/// Maximum number of bans of rules in shadow mode.
const MAX_SHADOW_BANS: usize = 100_000;
/// Maximum number of networks whose offences are counted, unless configured otherwise.
pub const DEFAULT_NETWORKS: usize = 100_000;
/// Maximum number of accounts at which guesses are counted, unless configured otherwise.
pub const DEFAULT_ACCOUNTS: usize = 100_000;
/// Number of ban records kept in memory. The state file, if there is one, keeps all.
const MAX_RECORDS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Called with every change of the bans.
type Observer = Box<dyn Fn(&Change) + Send + Sync>;

/// Called with every strike under a rule that counts over a fleet.
type StrikeObserver = Box<dyn Fn(&Offence, &Arc<Rule>, u32, Time) + Send + Sync>;

/// The table of one process, with its rules, lists, journal and observers.
pub struct Engine {
    names: Arc<RuleNames>,
    policy: RwLock<Arc<Policy>>,
    bans: Bans,
    /// Held from a change of a client's bans until the journal or the observers have it.
    client_locks: ClientLocks,
    strikes: Strikes,
    /// The offences of networks.
    crowds: Crowds<Network>,
    /// The names of accounts, and who logged in to them.
    accounts: Accounts,
    /// The guesses at accounts.
    guesses: Crowds<Account>,
    /// Who says that it is a crawler.
    claims: Claims,
    /// What tells the offences apart that count once each, and where those happened that a success clears.
    seen_marks: SeenMarks,
    /// Bans that rules in shadow mode would have made.
    shadow_bans: Bans,
    /// Networks that rules in shadow mode would have banned.
    shadow_networks: Mutex<BannedNetworks>,
    /// Members and last offence of each network that a rule banned lately, or would have.
    network_reasons: Mutex<LruCache<(Network, RuleId), Evidence, RandomState>>,
    /// The earlier bans of a client under a rule whose bantime grows.
    earlier_bans: EarlierBansOf<Client>,
    /// The same of networks. They start again with the process.
    earlier_networks: EarlierBansOf<Network>,
    /// The latest ban of each client.
    records: Mutex<LruCache<Client, BanRecord, RandomState>>,
    /// The latest ban of each client by a rule in shadow mode.
    shadow_records: Mutex<LruCache<Client, BanRecord, RandomState>>,
    journal: OnceLock<Box<dyn Journal>>,
    deadlines: Deadlines,
    disk: DiskProgress,
    observers: RwLock<Vec<Observer>>,
    strike_observer: OnceLock<StrikeObserver>,
    stats: EngineStats,
    false_positives: FalsePositives,
    logs: BanLogs,
}

/// The log lines about bans, by kind.
#[derive(Default)]
struct BanLogs {
    made: Mutex<BanLog>,
    shadow: Mutex<BanLog>,
    ended: Mutex<BanLog>,
}

/// Counters for `status` and metrics.
#[derive(Debug, Default)]
pub struct EngineStats {
    pub offences: AtomicU64,
    pub bans: AtomicU64,
    /// Bans that rules in shadow mode would have made.
    pub shadow_bans: AtomicU64,
    /// Answers sent before their ban was saved.
    pub unsaved_answers: AtomicU64,
    /// Networks that rules did not ban, because too many are banned for ever.
    pub refused_networks: AtomicU64,
    /// Bans of networks by rules that ended early, to make room for others.
    pub evicted_networks: AtomicU64,
}

impl Engine {
    /// An engine with an empty table, for strikes of at most `clients` clients and at most `bans` bans.
    ///
    /// # Errors
    /// The thread for late replies could not be started.
    pub fn new(names: Arc<RuleNames>, policy: Policy, clients: usize, bans: usize) -> std::io::Result<Self> {
        let max_earlier_bans = NonZeroUsize::new(bans).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            names,
            policy: RwLock::new(Arc::new(policy)),
            bans: Bans::new(bans),
            client_locks: ClientLocks::default(),
            strikes: Strikes::new(clients),
            crowds: Crowds::new(DEFAULT_NETWORKS),
            accounts: Accounts::new(DEFAULT_ACCOUNTS),
            guesses: Crowds::new(DEFAULT_ACCOUNTS),
            claims: Claims::default(),
            seen_marks: SeenMarks::default(),
            shadow_bans: Bans::new(MAX_SHADOW_BANS),
            shadow_networks: Mutex::default(),
            network_reasons: Mutex::new(LruCache::with_hasher(MAX_RECORDS, RandomState::new())),
            earlier_bans: Mutex::new(LruCache::with_hasher(max_earlier_bans, RandomState::new())),
            earlier_networks: Mutex::new(LruCache::with_hasher(MAX_RECORDS, RandomState::new())),
            records: Mutex::new(LruCache::with_hasher(MAX_RECORDS, RandomState::new())),
            shadow_records: Mutex::new(LruCache::with_hasher(MAX_RECORDS, RandomState::new())),
            journal: OnceLock::new(),
            deadlines: Deadlines::start(DISK_LIMIT)?,
            disk: DiskProgress::default(),
            observers: RwLock::default(),
            strike_observer: OnceLock::new(),
            stats: EngineStats::default(),
            false_positives: FalsePositives::default(),
            logs: BanLogs::default(),
        })
    }

    /// The engine with another limit on the number of networks whose offences are counted.
    #[must_use]
    pub fn with_networks(mut self, networks: usize) -> Self {
        self.crowds = Crowds::new(networks);
        self
    }

    /// The engine with another limit on the number of accounts at which guesses are counted, and of logins to accounts that are remembered.
    #[must_use]
    pub fn with_accounts(mut self, accounts: usize) -> Self {
        (self.accounts, self.guesses) = (Accounts::new(accounts), Crowds::new(accounts));
        self
    }

    #[must_use]
    pub fn names(&self) -> &Arc<RuleNames> {
        &self.names
    }

    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read())
    }

    /// Replaces the policy. Strikes and bans stay, and so does what is not from the configuration: own addresses, those of host names, banned
    /// networks, the pause.
    ///
    /// The bans of rules that it switches off stay as well: see [`Engine::reload`].
    pub fn set_policy(&self, mut policy: Policy) {
        let mut current = self.policy.write();
        policy.lists.set_own(current.lists.own().clone());
        policy.lists.keep_host_addresses(&current.lists);
        policy.lists.banned = current.lists.banned.clone();
        policy.pause.clone_from(&current.pause);
        *current = Arc::new(policy);
    }

    /// Changes the lists in force, for example when an address is added to the machine or a network is banned.
    pub fn change_lists(&self, change: impl FnOnce(&mut Lists)) {
        change(&mut Arc::make_mut(&mut self.policy.write()).lists);
    }

    /// Replaces the databases that say where clients belong.
    pub fn set_geo(&self, geo: Geo) {
        Arc::make_mut(&mut self.policy.write()).geo = geo;
    }

    #[must_use]
    pub fn bans(&self) -> &Bans {
        &self.bans
    }

    /// The bans that rules in shadow mode would have made.
    #[must_use]
    pub fn shadow_bans(&self) -> &Bans {
        &self.shadow_bans
    }

    /// The ban of `client` that a rule in shadow mode would have made.
    #[must_use]
    pub fn shadow_ban(&self, client: Client, service: Service, now: Time) -> Option<Ban> {
        self.shadow_bans.get(client, service, now)
    }

    #[must_use]
    pub fn strikes(&self) -> &Strikes {
        &self.strikes
    }

    #[must_use]
    pub fn crowds(&self) -> &Crowds<Network> {
        &self.crowds
    }

    /// The names of accounts, and who logged in to them.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Who says that it is a crawler.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    #[must_use]
    pub fn stats(&self) -> &EngineStats {
        &self.stats
    }

    #[must_use]
    pub fn false_positives(&self) -> &FalsePositives {
        &self.false_positives
    }

    /// Saves every change in `journal` from now on. Only the first call has an effect.
    pub fn set_journal(&self, journal: Box<dyn Journal>) {
        let _ = self.journal.set(journal);
    }

    /// Calls `observer` with every change from now on: once it is saved, or once the disk has been too slow for its
    /// answer. It must not block or change the table.
    pub fn observe(&self, observer: impl Fn(&Change) + Send + Sync + 'static) {
        self.observers.write().push(Box::new(observer));
    }

    /// Calls `observer` with every strike under a rule that counts over a fleet, unless that strike makes a ban here. Only the first call has
    /// an effect.
    pub fn observe_strikes(&self, observer: impl Fn(&Offence, &Arc<Rule>, u32, Time) + Send + Sync + 'static) {
        let _ = self.strike_observer.set(Box::new(observer));
    }

    /// Logs how many lines about bans were left out lately. To be called when the process ends.
    pub fn finish_log(&self) {
        self.log_summaries(|log| log.rest(&self.names));
    }

    fn log_summaries(&self, summary: impl Fn(&mut BanLog) -> Option<String>) {
        for (kind, log) in [("banned", &self.logs.made), ("shadow: would ban", &self.logs.shadow), ("bans ended:", &self.logs.ended)] {
            if let Some(summary) = summary(&mut log.lock()) {
                log::info!("{kind} {summary}");
            }
        }
    }

    /// Drops expired bans, banned networks and strikes. To be called about once a second.
    pub fn sweep(self: &Arc<Self>, now: Time) {
        self.bans.sweep(now, |client, rule| {
            if self.logs.ended.lock().has_room(rule) {
                log::info!("ban of {client} by rule {} has ended", self.names.name(rule));
            }
        });
        self.log_summaries(|log| log.summary(now, &self.names));
        self.shadow_bans.sweep(now, |_, _| ());
        self.end_pause(now);
        let policy = self.policy();
        for rule in policy.rules.rules() {
            if rule.maxretry > 1 {
                self.strikes.sweep(rule.id, now, rule.findtime);
            }
        }
        let findtime = |rule| policy.rules.get(rule).map(|rule| rule.findtime);
        self.crowds.sweep(now, findtime);
        self.guesses.sweep(now, findtime);
        self.shadow_networks.lock().expire(now);
        self.seen_marks.sweep(now, |rule| policy.rules.get(rule).filter(|rule| rule.needs_marks()).map(|rule| rule.findtime));
        if policy.lists.banned.iter().any(|network| !network.is_active(now)) {
            // `change_lists` must not clone the lists only because this reference is still held.
            drop(policy);
            self.change_lists(|lists| {
                lists.banned.expire(now);
            });
        }
    }
}

#[cfg(test)]
mod tests;
