//! The helper's copy of the daemon's rules, lists and bans, and its connection to the daemon.

use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::config_builder::{ConfigBuilder, ConfigLines, invalid};
use super::connection::DaemonConnection;
use super::deferred::DeferredOffences;
use crate::client::Client;
use crate::clock::Clock;
use crate::control::subscribe::{self, FromDaemon, FromSubscriber};
use crate::engine::deadline::{DAEMON_LIMIT, Deadlines, HeldReply};
use crate::engine::reply::Reply;
use crate::list::{BannedNetwork, Lists};
use crate::policy::{OnFailure, Policy};
use crate::rule::{Evidence, Mode, Offence, Rule};
use crate::rule_id::{RuleId, RuleNames};
use crate::squid::Backend;
use crate::squid::helper_stats::HelperStats;
use crate::table::{Ban, Bans, RequestTally, Until};
use crate::time::Time;
use crate::verdict::{AllowReason, DenyReason, Refusal, Verdict};

/// Maximum number of bans, in effect unlimited: the daemon's own limit bounds the copy.
const MAX_BANS: usize = 200_000_000;

/// How long the helper waits at its end for the daemon to take what is queued.
const LAST_LINES: Duration = Duration::from_millis(500);
/// Maximum number of clients whose requests are counted between two reports; requests of others are not counted meanwhile.
const MAX_REQUEST_CLIENTS: usize = 100_000;

/// What outlives a connection to the daemon.
#[derive(Default)]
pub struct HelperState {
    pub names: Arc<RuleNames>,
    /// Counts of answers that have not been sent to the daemon yet, those of the time without a connection included.
    stats: Mutex<HelperStats>,
    /// Offences that the daemon could not take yet.
    deferred: Mutex<DeferredOffences>,
}

/// A copy of the daemon's rules, lists and bans, with the connection that keeps it current.
pub struct Replica {
    clock: Clock,
    state: Arc<HelperState>,
    policy: RwLock<Arc<Policy>>,
    bans: Bans,
    deadlines: Deadlines,
    connection: DaemonConnection,
    next_offence: AtomicU64,
    /// Offences sent but not answered, each with the verdict in case the daemon does not answer.
    unanswered: Mutex<HashMap<u64, (HeldReply, Verdict)>>,
    /// Requests counted per client, with one of its addresses, since they were last sent.
    requests: Mutex<HashMap<Client, (IpAddr, u32), ahash::RandomState>>,
}

impl Replica {
    pub fn connect(socket: &Path, state: &Arc<HelperState>) -> io::Result<Self> {
        let replica = Self {
            clock: Clock::start(),
            state: Arc::clone(state),
            policy: RwLock::new(Arc::new(ConfigLines::default().into_policy().map_err(io::Error::other)?)),
            bans: Bans::new(MAX_BANS),
            deadlines: Deadlines::start(DAEMON_LIMIT)?,
            connection: DaemonConnection::connect(socket)?,
            next_offence: AtomicU64::new(0),
            unanswered: Mutex::default(),
            requests: Mutex::default(),
        };
        if let Some(mut queue) = replica.connection.queue() {
            queue.push(&format_args!("subscribe {}", subscribe::VERSION));
        }
        replica.connection.flush();
        Ok(replica)
    }

    pub fn connection(&self) -> &DaemonConnection {
        &self.connection
    }

    pub fn sweep(&self) {
        self.bans.sweep(self.now(), |_, _| ());
    }

    /// Gives the connection up, answers all offences that still wait for the daemon, and keeps for the next connection what the daemon has not
    /// got. Offences that it has got are not sent again: they may have been counted.
    pub fn lose(&self) {
        let unsent = self.connection.lose();
        let unanswered = std::mem::take(&mut *self.unanswered.lock());
        for (held, verdict) in unanswered.into_values() {
            self.settle(&held, verdict);
        }
        for line in unsent.lines() {
            match FromSubscriber::parse(line) {
                Ok(FromSubscriber::Offence { address, rules, evidence, .. }) => self.defer(address, rules, 1, evidence),
                Ok(FromSubscriber::Strike { count, address, rules, evidence }) => self.defer(address, rules, count, evidence),
                Ok(FromSubscriber::Stats { served, failed_open }) => {
                    let mut stats = self.state.stats.lock();
                    stats.served += served;
                    stats.failed_open += failed_open;
                }
                Ok(FromSubscriber::Refused { rule, count }) => {
                    *self.state.stats.lock().refused.entry(self.state.names.intern(&rule)).or_default() += count;
                }
                Ok(FromSubscriber::Overflow { deferred, dropped }) => {
                    let mut stats = self.state.stats.lock();
                    stats.deferred += deferred;
                    stats.dropped += dropped;
                }
                // Rates are of this moment. Anything else is the first line.
                Ok(FromSubscriber::Requests { .. }) | Err(_) => {}
            }
        }
    }

    /// Applies a line from the daemon. Returns true at the end of a snapshot.
    pub fn apply(self: &Arc<Self>, line: &[u8], config: &mut ConfigBuilder) -> io::Result<bool> {
        let text = std::str::from_utf8(line).map_err(|_| invalid("found bytes that are not UTF-8".into()))?;
        let now = self.now();
        match FromDaemon::parse(text).map_err(|error| invalid(error.to_string()))? {
            FromDaemon::Hello(subscribe::VERSION) => {}
            FromDaemon::Hello(version) => {
                return Err(invalid(format!(
                    "it speaks version {version} of the subscribe protocol, expected {}: helper and daemon must be upgraded together",
                    subscribe::VERSION
                )));
            }
            FromDaemon::Error(text) => return Err(invalid(format!("it refuses: {text}"))),
            FromDaemon::BeginConfig { prefix, on_failure } => config.lines = ConfigLines { prefix, on_failure, ..ConfigLines::default() },
            FromDaemon::Rule(rule) => config.lines.rules.push(rule.into_rule(&self.state.names)),
            FromDaemon::Listed(list, network) => config.lines.listed.push((list, network)),
            FromDaemon::EndConfig => {
                let replica = Arc::clone(self);
                config.build(move |policy| replica.set_policy(policy))?;
            }
            FromDaemon::BeginBans => {}
            FromDaemon::EndBans => return config.finish().map(|()| true),
            FromDaemon::Ban { client, scope, rule, remaining } => {
                let until = remaining.map_or(Until::NEVER, |remaining| Until::at(now.after(remaining)));
                self.bans.ban(client, scope, Ban { until, rule: self.state.names.intern(&rule), saved: true }, now);
            }
            FromDaemon::Unban { client, scope } => {
                self.bans.unban(client, scope);
            }
            FromDaemon::BanNetwork { network, remaining } => {
                let until = remaining.map(|remaining| now.after(remaining));
                self.change_lists(|lists| {
                    lists.banned.insert(BannedNetwork { network, rule: "manual".into(), since: now, until });
                });
            }
            FromDaemon::UnbanNetwork(network) => self.change_lists(|lists| {
                lists.banned.remove(network);
            }),
            FromDaemon::Answer { number, refusal } => {
                let held = self.unanswered.lock().remove(&number);
                if let Some((held, _)) = held {
                    held.settle(subscribe::verdict(refusal, &self.state.names, now));
                }
            }
        }
        Ok(false)
    }

    /// Puts a policy in force. Banned networks are not part of it and stay.
    pub fn set_policy(&self, mut policy: Policy) {
        let mut current = self.policy.write();
        policy.lists.banned = current.lists.banned.clone();
        *current = Arc::new(policy);
    }

    fn change_lists(&self, change: impl FnOnce(&mut Lists)) {
        change(&mut Arc::make_mut(&mut self.policy.write()).lists);
    }

    /// Queues the requests counted so far and, if `is_complete`, the answers. What finds no room stays.
    pub fn queue_reports(&self, is_complete: bool) {
        if is_complete {
            self.queue_stats();
        }
        self.queue_requests();
        self.connection.flush();
    }

    /// Queues deferred offences, as far as there is room.
    pub fn queue_deferred(&self) {
        let mut deferred = self.state.deferred.lock();
        if deferred.is_empty() {
            return;
        }
        let Some(mut queue) = self.connection.queue() else { return };
        let now = Instant::now();
        while queue.has_reserve()
            && let Some(strike) = deferred.take(now)
        {
            queue.push(&strike);
        }
        drop(queue);
        self.connection.flush();
    }

    fn queue_requests(&self) {
        let Some(mut queue) = self.connection.queue() else { return };
        let mut requests = self.requests.lock();
        requests.retain(|_, (address, count)| {
            let fits = queue.has_room();
            if fits {
                queue.push(&FromSubscriber::Requests { address: *address, count: *count });
            }
            !fits
        });
    }

    fn queue_stats(&self) {
        let dropped = self.state.deferred.lock().take_dropped();
        let Some(mut queue) = self.connection.queue() else { return };
        let mut stats = self.state.stats.lock();
        stats.dropped += dropped;
        if stats.is_empty() || !queue.has_room() {
            return;
        }
        let HelperStats { served, failed_open, refused, deferred, dropped } = std::mem::take(&mut *stats);
        queue.push(&FromSubscriber::Stats { served, failed_open });
        if deferred + dropped > 0 {
            queue.push(&FromSubscriber::Overflow { deferred, dropped });
        }
        for (rule, count) in refused {
            queue.push(&FromSubscriber::Refused { rule: self.state.names.name(rule).to_string(), count });
        }
    }

    /// Keeps offences that the daemon cannot take now.
    fn defer(&self, address: IpAddr, rules: Vec<String>, count: u32, evidence: Evidence) {
        self.state.stats.lock().deferred += u64::from(count);
        let client = Client::of(address, self.policy().prefix);
        self.state.deferred.lock().add(Instant::now(), client, address, rules, count, evidence);
    }

    /// Answers an offence in place of the daemon, unless it was answered already.
    fn settle(&self, held: &HeldReply, verdict: Verdict) {
        if held.settle(verdict.clone()) {
            self.state.stats.lock().record(&verdict);
        }
    }

    /// The verdict on an offence if the daemon does not answer. A rule that refuses each offence still does.
    fn fallback_verdict(&self, now: Time, rules: &[Arc<Rule>]) -> Verdict {
        if let Some(rule) = rules.iter().find(|rule| rule.mode == Mode::Enforce && rule.refuses_offence) {
            return Refusal { rule: rule.id, until: Until::at(now), reason: DenyReason::Offence }.on_web();
        }
        match self.policy().on_failure {
            OnFailure::Allow => Verdict::Allow(AllowReason::Failure),
            OnFailure::Deny => Refusal { rule: RuleId::ON_FAILURE, until: Until::at(now), reason: DenyReason::Failure }.on_web(),
        }
    }
}

impl Backend for Replica {
    fn now(&self) -> Time {
        self.clock.now()
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read())
    }

    fn bans(&self) -> &Bans {
        &self.bans
    }

    fn names(&self) -> &RuleNames {
        &self.state.names
    }

    fn record_offence(&self, now: Time, offence: Offence, reply: Reply) {
        let verdict = self.fallback_verdict(now, &offence.rules);
        let Offence { address, evidence, .. } = offence;
        let rules: Vec<String> = offence.rules.iter().map(|rule| rule.name.to_string()).collect();
        if !self.connection.queue().is_some_and(|queue| queue.has_room()) {
            self.state.stats.lock().record(&verdict);
            self.defer(address, rules, 1, evidence);
            return reply.send(verdict);
        }
        let number = self.next_offence.fetch_add(1, Ordering::Relaxed);
        let (late, state) = (verdict.clone(), Arc::clone(&self.state));
        let held = self.deadlines.hold(reply, move |reply| {
            state.stats.lock().record(&late);
            reply.send(late);
        });
        self.unanswered.lock().insert(number, (held.clone(), verdict.clone()));
        let line = FromSubscriber::Offence { number, address, rules, evidence };
        // Other threads queue little, so there is still room; but the connection may have been given up.
        if let Some(mut queue) = self.connection.queue() {
            queue.push(&line);
            return;
        }
        self.unanswered.lock().remove(&number);
        self.settle(&held, verdict);
        if let FromSubscriber::Offence { address, rules, evidence, .. } = line {
            self.defer(address, rules, 1, evidence);
        }
    }

    fn count_offence(&self, _: Time, offence: Offence) {
        let Offence { address, evidence, .. } = offence;
        let rules: Vec<String> = offence.rules.iter().map(|rule| rule.name.to_string()).collect();
        match self.connection.queue().filter(|queue| queue.has_room()) {
            Some(mut queue) => queue.push(&FromSubscriber::Strike { count: 1, address, rules, evidence }),
            None => self.defer(address, rules, 1, evidence),
        }
    }

    fn flush(&self) {
        self.connection.flush();
    }

    fn when_persisted(&self, verdict: Verdict, reply: Reply) {
        // A ban that comes from the daemon is saved, or was answered before it could be.
        reply.send(verdict);
    }

    fn count_requests(&self, _: Time, tallies: &mut Vec<RequestTally>) {
        let rules = Arc::clone(&self.policy().rules);
        let Some(lowest_maxretry) = rules.request_rates().iter().map(|rule| rule.maxretry).min() else { return };
        // Without a connection they are never sent, so they must not accumulate.
        let Some(mut queue) = self.connection.queue() else { return };
        let mut counted = self.requests.lock();
        for RequestTally { address, client, requests, .. } in tallies {
            if counted.len() >= MAX_REQUEST_CLIENTS && !counted.contains_key(client) {
                continue;
            }
            let entry = counted.entry(*client).or_insert((*address, 0));
            entry.1 = entry.1.saturating_add(*requests);
            if entry.1 >= lowest_maxretry && queue.has_room() {
                queue.push(&FromSubscriber::Requests { address: *address, count: entry.1 });
                counted.remove(client);
            }
        }
    }

    fn report_stats(&self, stats: &mut HelperStats) {
        self.state.stats.lock().take(stats);
    }

    fn close(&self) {
        self.queue_deferred();
        self.queue_reports(true);
        self.connection.flush_within(LAST_LINES);
    }
}
