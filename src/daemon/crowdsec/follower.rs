//! Follows the decisions of a local API: what it answers, what is known of it, and what is to be done about that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::body::{Part, WireDecision};
use super::client;
use super::decision::{Decision, Scenarios, Skipped, id_of, judge};
use super::known::Known;
use super::settle::Settler;
use crate::clock::Clock;
use crate::config::crowdsec::CrowdsecConfig;
use crate::engine::Engine;
use crate::geo::Network;
use crate::logging::FaultLog;
use crate::time::{Span, Time};

/// A whole list that ends fewer bans than this is believed at once.
const FEW: usize = 100;

/// A whole list is asked for this often, though the changes are enough: a decision that found no room, or whose ban has made room for another or
/// was lifted, is said only there again.
const WHOLE_EVERY: Span = Span::from_secs(3600);

/// Maximum number of decisions about more than a single client: each change of the banned networks may copy their list, and half of what a
/// machine's own rules may ban is left to them.
const MAX_NETWORKS: usize = 8192;

/// What `status` and metrics tell. Counts are since the last whole list.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// None if nothing is configured.
    pub url: Option<String>,
    pub key_file: PathBuf,
    pub key_is_public: bool,
    pub fault: Option<String>,
    pub answered: Option<Time>,
    pub decisions: usize,
    pub waiting: usize,
    pub skipped: BTreeMap<Skipped, u64>,
}

pub struct Follower {
    engine: Arc<Engine>,
    clock: Clock,
    health: Arc<Mutex<Health>>,
    /// Maximum number of decisions, whatever the configuration says.
    room: usize,
    known: Known,
    scenarios: Scenarios,
    /// Targets whose decision waits for the end of another's ban.
    waiting: BTreeSet<Network>,
    /// Whether `known` is what the local API had when it was asked last, so that the changes since are enough.
    is_current: bool,
    /// When the last whole list was taken.
    whole_at: Time,
    /// Whether the last whole list was much shorter than what is known, and was not believed.
    is_doubtful: bool,
    faults: FaultLog,
}

impl Follower {
    /// A follower that takes at most half of `bans` decisions, so that they push no ban of a rule out of the table.
    pub fn new(engine: Arc<Engine>, clock: Clock, health: Arc<Mutex<Health>>, bans: usize) -> Self {
        Self {
            engine,
            clock,
            health,
            room: (bans / 2).max(1),
            known: Known::default(),
            scenarios: Scenarios::default(),
            waiting: BTreeSet::new(),
            is_current: false,
            whole_at: Time::default(),
            is_doubtful: false,
            faults: FaultLog::default(),
        }
    }

    /// Asks for a whole list next, because the configuration or the local API may have changed.
    pub fn begin(&mut self, config: &CrowdsecConfig) {
        self.is_current = false;
        let mut health = self.health.lock();
        (health.url, health.key_file) = (Some(config.url.as_str().to_owned()), config.key_file.clone());
    }

    /// Ends all bans that are CrowdSec's, because its decisions are not to be taken any more.
    pub fn end(&mut self) {
        self.known = Known::default();
        *self.health.lock() = Health::default();
        let mut settler = Settler::new(&self.engine, &self.scenarios, self.clock.now());
        let banned = settler.banned();
        let ended = self.settle(banned);
        if ended.released > 0 {
            log::info!("CrowdSec's decisions are not taken any more: {} bans ended", ended.released);
        }
    }

    /// Asks once, and makes the table agree with the answer.
    pub fn poll(&mut self, config: &CrowdsecConfig) {
        let now = self.clock.now();
        self.known.expire(now);
        let waiting = self.waiting.clone();
        self.settle(waiting);
        let is_whole = !self.is_current || now.since(self.whole_at) >= WHOLE_EVERY;
        let taken = if is_whole { self.take_all(config, now) } else { self.take_changes(config, now) };
        let mut health = self.health.lock();
        health.key_is_public = client::is_public(&config.key_file);
        (health.decisions, health.waiting) = (self.known.len(), self.waiting.len());
        match taken {
            Ok(done) => {
                (health.fault, health.answered) = (None, Some(self.clock.now()));
                drop(health);
                self.faults.resolve("CrowdSec answers again");
                if done.banned + done.released > 0 || is_whole {
                    log::info!("CrowdSec: {} decisions, {} bans made, {} ended", self.known.len(), done.banned, done.released);
                }
            }
            Err(fault) => {
                // What was said in an answer that was not read to its end is not said again.
                self.is_current = false;
                health.fault = Some(fault.clone());
                drop(health);
                self.faults.report(&format!("{fault}; what is known stands until it ends"));
            }
        }
    }

    fn take_all(&mut self, config: &CrowdsecConfig, now: Time) -> Result<Done, String> {
        let (mut known, mut skipped) = (Known::default(), BTreeMap::new());
        let room = self.room.min(config.decisions.get());
        let (policy, scenarios) = (self.engine.policy(), &mut self.scenarios);
        client::ask(config, true, |part, wire| {
            // What is deleted is not in the list of what is in force.
            let Part::New = part else { return };
            let taken = id_of(&wire).ok_or(Skipped::Unreadable).and_then(|id| Ok((id, judge(&wire, now, config, &policy, scenarios)?)));
            match taken {
                Ok((id, decision)) if !known.contains(id) && (known.len() >= room || is_beyond(&decision, known.networks())) => {
                    *skipped.entry(Skipped::NoRoom).or_default() += 1;
                }
                Ok((id, decision)) => _ = known.insert(id, decision),
                Err(Skipped::Over) => {}
                Err(reason) => *skipped.entry(reason).or_default() += 1,
            }
        })?;
        drop(policy);
        self.health.lock().skipped = skipped;
        let banned = Settler::new(&self.engine, &self.scenarios, now).banned();
        let gone = banned.iter().filter(|target| known.of(**target, now).is_none()).count();
        // A local API whose database fails says in the same words that nothing is left.
        let is_doubtful = gone >= FEW && gone > banned.len() / 2 && !self.is_doubtful;
        self.is_doubtful = is_doubtful;
        let mut targets: BTreeSet<Network> = known.targets().collect();
        if is_doubtful {
            log::warn!("CrowdSec's list would end {gone} of {} bans: it is asked for again before that is believed", banned.len());
        } else {
            targets.extend(banned);
            (self.is_current, self.whole_at) = (true, now);
        }
        self.known = known;
        Ok(self.settle(targets))
    }

    fn take_changes(&mut self, config: &CrowdsecConfig, now: Time) -> Result<Done, String> {
        let (mut new, mut new_networks, mut deleted) = (BTreeMap::new(), 0, BTreeSet::new());
        let mut skipped: BTreeMap<Skipped, u64> = BTreeMap::new();
        let room = self.room.min(config.decisions.get());
        let (policy, known, scenarios) = (self.engine.policy(), &self.known, &mut self.scenarios);
        client::ask(config, false, |part, wire: WireDecision| {
            let id = id_of(&wire);
            if part == Part::Deleted {
                deleted.extend(id.filter(|id| known.contains(*id)));
                return;
            }
            let taken = id.ok_or(Skipped::Unreadable).and_then(|id| Ok((id, judge(&wire, now, config, &policy, scenarios)?)));
            match taken {
                Ok((id, decision))
                    if !known.contains(id)
                        && (known.len() + new.len() >= room || is_beyond(&decision, known.networks() + new_networks)) =>
                {
                    *skipped.entry(Skipped::NoRoom).or_default() += 1;
                }
                Ok((id, decision)) => {
                    new_networks += usize::from(decision.is_about_network);
                    new.insert(id, decision);
                }
                Err(Skipped::Over) => {}
                Err(reason) => *skipped.entry(reason).or_default() += 1,
            }
        })?;
        drop(policy);
        {
            let mut health = self.health.lock();
            skipped.into_iter().for_each(|(reason, number)| *health.skipped.entry(reason).or_default() += number);
        }
        let mut targets = BTreeSet::new();
        for (id, decision) in new {
            targets.insert(decision.target);
            targets.extend(self.known.insert(id, decision));
        }
        targets.extend(deleted.into_iter().filter_map(|id| self.known.remove(id)));
        Ok(self.settle(targets))
    }

    /// Makes the table agree with what is known of `targets`.
    fn settle(&mut self, targets: impl IntoIterator<Item = Network>) -> Done {
        let now = self.clock.now();
        let mut settler = Settler::new(&self.engine, &self.scenarios, now);
        let mut done = Done::default();
        for target in targets {
            let settled = settler.settle(target, self.known.of(target, now));
            done.banned += usize::from(settled.banned);
            done.released += usize::from(settled.released);
            if settled.waits {
                self.waiting.insert(target)
            } else {
                self.waiting.remove(&target)
            };
        }
        settler.wait();
        done
    }
}

/// Whether there are as many networks as may be.
fn is_beyond(decision: &Decision, networks: usize) -> bool {
    decision.is_about_network && networks >= MAX_NETWORKS
}

/// How many bans were made and ended.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    banned: usize,
    released: usize,
}
