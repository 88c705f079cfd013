//! Follows the decisions of a local API: what it answers, what is known of it, and what is to be done about that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::client;
use super::decision::{Scenarios, Skipped};
use super::intake::{Intake, MAX_NETWORKS, Missed, Room, Taken};
use super::known::Known;
use super::replaced::{Concerned, Replaced};
use super::settle::Settler;
use crate::clock::Clock;
use crate::config::crowdsec::CrowdsecConfig;
use crate::control::crowdsec::CrowdsecStatus;
use crate::engine::Engine;
use crate::geo::Network;
use crate::logging::FaultLog;
use crate::time::{Span, Time};

/// A whole list that ends fewer bans than this is believed at once.
const FEW: usize = 100;

/// A whole list is asked for this often, though the changes are enough: it also makes those bans again that were lifted by hand.
const WHOLE_EVERY: Span = Span::from_secs(3600);

/// Sooner if a decision that found no room would find some now, but not before so many times what the last whole list took.
const PAUSE_FACTOR: u64 = 20;

/// The bans that were evicted are made again as far as this fraction of the table stays free.
const SPARE: usize = 32;

/// What `status` and metrics tell. Numbers of skipped decisions are since the last whole list.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// None if nothing is configured. How long ago it was answered is known only when somebody asks.
    pub status: Option<CrowdsecStatus>,
    pub answered: Option<Time>,
}

pub struct Follower {
    engine: Arc<Engine>,
    clock: Clock,
    health: Arc<Mutex<Health>>,
    replaced: Arc<Replaced>,
    /// Maximum number of bans in the table.
    bans: usize,
    known: Known,
    scenarios: Scenarios,
    /// Targets whose decision waits for the end of another's ban.
    waiting: BTreeSet<Network>,
    /// Decisions that found no room and are therefore not known.
    missed: Missed,
    /// Number of bans that a full table had evicted when that was last looked at, and whether decisions may lack their ban since.
    evicted: u64,
    is_lacking: bool,
    /// Whether `known` is what the local API had when it was asked last, so that the changes since are enough.
    is_current: bool,
    /// When the last whole list was taken, and how long that took.
    whole_at: Time,
    whole_took: Span,
    /// Whether the last whole list was much shorter than what is known, and was not believed.
    is_doubtful: bool,
    faults: FaultLog,
}

impl Follower {
    /// A follower that takes at most half of `bans` decisions, so that they push no ban of a rule out of the table.
    pub fn new(engine: Arc<Engine>, clock: Clock, health: Arc<Mutex<Health>>, replaced: Arc<Replaced>, bans: usize) -> Self {
        Self {
            engine,
            clock,
            health,
            replaced,
            bans,
            known: Known::default(),
            scenarios: Scenarios::default(),
            waiting: BTreeSet::new(),
            missed: Missed::default(),
            evicted: 0,
            is_lacking: false,
            is_current: false,
            whole_at: Time::default(),
            whole_took: Span::default(),
            is_doubtful: false,
            faults: FaultLog::default(),
        }
    }

    /// Asks for a whole list next, because the configuration or the local API may have changed.
    pub fn begin(&mut self, config: &CrowdsecConfig) {
        self.is_current = false;
        // A whole list comes next, so whatever was noted is looked at anyway.
        self.replaced.set_wanted(true);
        let mut health = self.health.lock();
        let status = health.status.take().unwrap_or_default();
        let (url, key_file) = (config.url.as_str().to_owned(), config.key_file.display().to_string());
        health.status = Some(CrowdsecStatus { url, key_file, ..status });
    }

    /// Ends all bans that are CrowdSec's, because its decisions are not to be taken any more.
    pub fn end(&mut self) {
        (self.known, self.missed) = (Known::default(), Missed::default());
        self.replaced.set_wanted(false);
        *self.health.lock() = Health::default();
        let mut settler = Settler::new(&self.engine, &self.scenarios, self.clock.now());
        let banned = settler.banned();
        let ended = self.settle(banned);
        self.waiting.clear();
        if ended.released > 0 {
            log::info!("CrowdSec's decisions are not taken any more: {} bans ended", ended.released);
        }
    }

    /// Asks once, and makes the table agree with the answer.
    pub fn poll(&mut self, config: &CrowdsecConfig) {
        let now = self.clock.now();
        self.known.expire(now);
        let concerned = self.concerned(now);
        self.settle(concerned);
        self.restore_evicted();
        let room = Room { decisions: (self.bans / 2).max(1).min(config.decisions.get()), networks: MAX_NETWORKS };
        let is_whole = self.wants_whole_list(room, now);
        let taken = self.take(config, is_whole, room, now);
        let mut health = self.health.lock();
        if taken.is_ok() {
            health.answered = Some(self.clock.now());
        }
        if let Some(status) = &mut health.status {
            status.key_is_public = client::is_public(&config.key_file);
            (status.decisions, status.waiting) = (self.known.len(), self.waiting.len());
            status.fault = taken.as_ref().err().cloned();
        }
        drop(health);
        match taken {
            Ok(done) => {
                self.faults.resolve("CrowdSec answers again");
                if done.banned + done.released > 0 || is_whole {
                    log::info!("CrowdSec: {} decisions, {} bans made, {} ended", self.known.len(), done.banned, done.released);
                }
            }
            Err(fault) => {
                // What was said in an answer that was not read to its end is not said again.
                self.is_current = false;
                self.faults.report(&format!("{fault}; what is known stands until it ends"));
            }
        }
    }

    /// The targets whose ban may have to be made without anything new from the local API: those that wait, and those that others have banned,
    /// which may wait from now on.
    fn concerned(&self, now: Time) -> BTreeSet<Network> {
        let mut concerned = self.waiting.clone();
        match self.replaced.take() {
            Concerned::Only(targets) => concerned.extend(targets.into_iter().filter(|target| self.known.of(*target, now).is_some())),
            Concerned::All => concerned.extend(self.known.targets()),
        }
        concerned
    }

    /// Makes the bans again that a full table has evicted, as far as there is room again.
    fn restore_evicted(&mut self) {
        let evicted = self.engine.bans().evicted();
        self.is_lacking |= std::mem::replace(&mut self.evicted, evicted) != evicted;
        let room = (self.bans - self.bans / SPARE).saturating_sub(self.engine.bans().len());
        if self.is_lacking && room > 0 {
            let targets: Vec<Network> = self.known.targets().collect();
            self.is_lacking = self.settle_at_most(room, targets).banned >= room;
        }
    }

    /// Whether all decisions are asked for, and not only what has changed.
    fn wants_whole_list(&self, room: Room, now: Time) -> bool {
        let since = now.since(self.whole_at);
        let pause = Span::from_millis(self.whole_took.millis().saturating_mul(PAUSE_FACTOR));
        !self.is_current || since >= WHOLE_EVERY || (room.is_left_for(self.missed, &self.known) && since >= pause)
    }

    fn take(&mut self, config: &CrowdsecConfig, is_whole: bool, room: Room, now: Time) -> Result<Done, String> {
        let nothing = Known::default();
        let known = if is_whole { &nothing } else { &self.known };
        let mut intake = Intake::new(config, self.engine.policy(), &mut self.scenarios, known, room, now);
        client::ask(config, is_whole, |part, wire| intake.take(part, &wire))?;
        let taken = intake.finish();
        if is_whole { Ok(self.take_all(taken, now)) } else { Ok(self.take_changes(taken)) }
    }

    fn take_all(&mut self, taken: Taken, now: Time) -> Done {
        let Taken { new: known, skipped, missed, .. } = taken;
        self.count_skipped(&skipped, true);
        let banned = Settler::new(&self.engine, &self.scenarios, now).banned();
        let gone = banned.iter().filter(|target| known.of(**target, now).is_none()).count();
        // A local API whose database fails says in the same words that nothing is left.
        let is_doubtful = gone >= FEW && gone > banned.len() / 2 && !self.is_doubtful;
        let mut targets: BTreeSet<Network> = known.targets().collect();
        (self.known, self.missed, self.is_doubtful) = (known, missed, is_doubtful);
        if is_doubtful {
            log::warn!("CrowdSec's list would end {gone} of {} bans: it is asked for again before that is believed", banned.len());
        } else {
            targets.extend(banned);
            self.is_current = true;
        }
        let done = self.settle(targets);
        if !is_doubtful {
            (self.whole_at, self.whole_took) = (now, self.clock.now().since(now));
        }
        done
    }

    fn take_changes(&mut self, taken: Taken) -> Done {
        self.count_skipped(&taken.skipped, false);
        let targets = taken.targets(&self.known);
        let Taken { new, deleted, missed, .. } = taken;
        self.known.extend(new);
        deleted.into_iter().for_each(|id| _ = self.known.remove(id));
        let Missed { clients, networks } = self.missed;
        self.missed = Missed { clients: clients || missed.clients, networks: networks || missed.networks };
        self.settle(targets)
    }

    fn count_skipped(&self, skipped: &BTreeMap<Skipped, u64>, is_whole: bool) {
        let mut health = self.health.lock();
        let Some(status) = &mut health.status else { return };
        if is_whole {
            status.skipped.clear();
        }
        skipped.iter().for_each(|(reason, number)| *status.skipped.entry(reason.to_string()).or_default() += number);
    }

    /// Makes the table agree with what is known of `targets`.
    fn settle(&mut self, targets: impl IntoIterator<Item = Network>) -> Done {
        self.settle_at_most(usize::MAX, targets)
    }

    /// The same until so many bans are made.
    fn settle_at_most(&mut self, most: usize, targets: impl IntoIterator<Item = Network>) -> Done {
        let now = self.clock.now();
        let mut settler = Settler::new(&self.engine, &self.scenarios, now);
        let mut done = Done::default();
        for target in targets {
            if done.banned >= most {
                break;
            }
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

/// How many bans were made and ended.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    banned: usize,
    released: usize,
}
