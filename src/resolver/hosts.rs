//! Keeps the addresses of the host names in `ignoreip`: looks each up again every minute, and keeps the last good answer, over a restart as
//! well.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use ipnet::IpNet;
use parking_lot::Mutex;

use super::host_answer::HostAnswer;
use super::saved_hosts::SavedHosts;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::list::{HostAddresses, HostName, Lists, MAX_ADDRESSES, Networks};
use crate::time::{Span, Time};

/// How often a name is looked up again: a dialled-up connection's name has a time to live of about a minute.
const REFRESH: Span = Span::from_secs(60);
/// How soon a name without any answer yet is looked up again.
const RETRY: Span = Span::from_secs(10);
/// After how long a lookup without an answer is a fault.
const OVERDUE: Span = Span::from_secs(10);
/// Maximum number of lookups at a time.
const MAX_RUNNING: usize = 4;

/// Looks up the addresses of a name, or says why it cannot.
pub type Lookup = fn(&str) -> Result<Vec<IpAddr>, String>;

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostState {
    pub name: HostName,
    /// The last good answer.
    pub answer: Option<HostAnswer>,
    /// Why the last lookup failed, or has not answered in time.
    pub fault: Option<String>,
}

/// The names of one process, and their lookups.
pub struct HostWatch {
    engine: Weak<Engine>,
    clock: Clock,
    lookup: Lookup,
    schedule: Mutex<Schedule>,
    saved: Option<SavedHosts>,
}

impl HostWatch {
    /// Knows the names in the policy of `engine` from the first [`HostWatch::tick`] on. What was answered outlives the process in `saved`.
    #[must_use]
    pub fn new(engine: &Arc<Engine>, clock: Clock, lookup: Lookup, saved: Option<SavedHosts>) -> Arc<Self> {
        let remembered = saved.as_ref().map(|saved| saved.load(clock.now())).unwrap_or_default();
        let schedule = Mutex::new(Schedule { remembered, ..Schedule::default() });
        Arc::new(Self { engine: Arc::downgrade(engine), clock, lookup, schedule, saved })
    }

    /// Starts the lookups that are due, and follows a changed configuration. To be called about once a second; never blocks.
    pub fn tick(self: &Arc<Self>) {
        let Some(engine) = self.engine.upgrade() else { return };
        let now = self.clock.now();
        let due = {
            let mut schedule = self.schedule.lock();
            schedule.follow(engine.policy().lists.hosts().filter_map(|source| source.host()), now);
            schedule.start(now)
        };
        self.put_in_force(&engine);
        for name in due {
            let (watch, started) = (Arc::clone(self), name.clone());
            let run = move || watch.look_up(&started);
            if let Err(error) = std::thread::Builder::new().name("lookup".into()).spawn(run) {
                self.schedule.lock().finish(&name, Err(format!("a thread cannot be started: {error}")), now);
            }
        }
    }

    /// Looks up all names again, now. To be called when the configuration was read again.
    pub fn refresh(self: &Arc<Self>) {
        self.schedule.lock().hurry(self.clock.now());
        self.tick();
    }

    /// What is known of each name, in alphabetical order.
    #[must_use]
    pub fn states(&self) -> Vec<HostState> {
        self.schedule.lock().states(self.clock.now())
    }

    fn look_up(&self, name: &HostName) {
        let found = (self.lookup)(name.as_str());
        self.schedule.lock().finish(name, found, self.clock.now());
        if let Some(engine) = self.engine.upgrade() {
            self.put_in_force(&engine);
        }
        if let Some(saved) = &self.saved {
            saved.save(|| self.schedule.lock().answers());
        }
    }

    /// Gives the lists in force the addresses that are known, if they differ.
    fn put_in_force(&self, engine: &Engine) {
        let changed = self.schedule.lock().differing_from(&engine.policy().lists);
        if !changed.is_empty() {
            engine.change_lists(|lists| lists.set_host_addresses(&changed));
        }
    }
}

/// When each name is looked up, and what came of it.
#[derive(Debug, Default)]
struct Schedule {
    hosts: BTreeMap<HostName, Host>,
    /// What was answered before the process started.
    remembered: BTreeMap<HostName, HostAnswer>,
}

#[derive(Debug, Default)]
struct Host {
    /// When it is looked up next; `None` while it is being looked up.
    next: Option<Time>,
    /// When the last lookup began.
    begun: Time,
    answer: Option<HostAnswer>,
    fault: Option<String>,
}

impl Host {
    /// A name of the configuration, with what is remembered of it.
    fn new(now: Time, answer: Option<HostAnswer>) -> Self {
        Self { next: Some(now), begun: Time::default(), answer, fault: None }
    }
}

impl Schedule {
    /// Takes up new names, and drops those that are gone.
    fn follow<'a>(&mut self, names: impl Iterator<Item = &'a HostName>, now: Time) {
        let mut before = std::mem::take(&mut self.hosts);
        for name in names {
            let host = before.remove(name).unwrap_or_else(|| Host::new(now, self.remembered.remove(name)));
            self.hosts.insert(name.clone(), host);
        }
    }

    /// Makes every lookup due that has not begun.
    fn hurry(&mut self, now: Time) {
        self.hosts.values_mut().filter(|host| host.next.is_some()).for_each(|host| host.next = Some(now));
    }

    /// The names whose lookup is due, as many as may run; they count as begun.
    fn start(&mut self, now: Time) -> Vec<HostName> {
        let running = self.hosts.values().filter(|host| host.next.is_none()).count();
        let mut due: Vec<(Time, HostName)> =
            self.hosts.iter().filter_map(|(name, host)| Some((host.next.filter(|next| *next <= now)?, name.clone()))).collect();
        due.sort();
        due.truncate(MAX_RUNNING.saturating_sub(running));
        for (_, name) in &due {
            if let Some(host) = self.hosts.get_mut(name) {
                (host.next, host.begun) = (None, now);
            }
        }
        due.into_iter().map(|(_, name)| name).collect()
    }

    /// Takes the result of a lookup. The last good answer stays.
    fn finish(&mut self, name: &HostName, found: Result<Vec<IpAddr>, String>, now: Time) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        let addresses = found.and_then(|found| {
            let addresses = HostAddresses::of(found.iter().copied());
            let is_nobodys = addresses.addresses.is_empty();
            if is_nobodys { Err(format!("found no address that a client can have, but {found:?}")) } else { Ok(addresses) }
        });
        match addresses {
            Ok(addresses) => {
                if host.answer.as_ref().is_none_or(|answer| answer.addresses != addresses) {
                    log::info!("{name} in ignoreip has the addresses {:?} now, which are never banned", addresses.addresses);
                } else if host.fault.is_some() {
                    log::info!("{name} in ignoreip is known again");
                }
                host.fault = (addresses.left_out > 0).then(|| too_many(addresses.left_out));
                host.answer = Some(HostAnswer { addresses, at: now });
            }
            Err(fault) => {
                if host.fault.is_none() {
                    log::warn!("{name} in ignoreip cannot be looked up, its last known addresses stay: {fault}");
                }
                host.fault = Some(fault);
            }
        }
        host.next = Some(now.after(if host.answer.is_some() { REFRESH } else { RETRY }));
    }

    /// The names whose known addresses are not those in `lists`.
    fn differing_from(&self, lists: &Lists) -> Vec<(HostName, Networks)> {
        let differing = lists.hosts().filter_map(|source| {
            let name = source.host()?;
            let answer = self.hosts.get(name)?.answer.as_ref()?;
            let networks: Networks = answer.addresses.addresses.iter().copied().map(IpNet::from).collect();
            (networks != *source.networks()).then(|| (name.clone(), networks))
        });
        differing.collect()
    }

    /// What is to outlive the process.
    fn answers(&self) -> BTreeMap<HostName, HostAnswer> {
        self.hosts.iter().filter_map(|(name, host)| Some((name.clone(), host.answer.clone()?))).collect()
    }

    fn states(&self, now: Time) -> Vec<HostState> {
        let states = self.hosts.iter().map(|(name, host)| {
            let is_overdue = host.next.is_none() && now.since(host.begun) >= OVERDUE;
            let overdue = || is_overdue.then(|| format!("no answer for {}", now.since(host.begun)));
            HostState { name: name.clone(), answer: host.answer.clone(), fault: overdue().or_else(|| host.fault.clone()) }
        });
        states.collect()
    }
}

fn too_many(left_out: usize) -> String {
    let kept = MAX_ADDRESSES;
    format!("found {} addresses, expected {kept} at most: the first {kept} are never banned", kept + left_out)
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
