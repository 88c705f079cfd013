//! The helper's copy of the daemon's rules, lists and bans, and its connection to the daemon.

use ahash::RandomState;
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::config_builder::{Compiled, ConfigBuilder, ConfigLines, invalid};
use super::connection::DaemonConnection;
use super::deferred::Deferred;
use super::helper_state::HelperState;
use super::request_counts::RequestCounts;
use crate::client::Client;
use crate::clock::Clock;
use crate::control::subscribe::{self, FromDaemon, FromSubscriber};
use crate::crawler::Crawler;
use crate::detector::Detector;
use crate::engine::deadline::{DAEMON_LIMIT, Deadlines, HeldReply};
use crate::engine::reply::Reply;
use crate::event::Service;
use crate::geo::{AskedOrigins, Origin};
use crate::list::{BannedNetwork, Lists};
use crate::policy::{OnFailure, Pause, Policy};
use crate::rule::{Cleared, Mode, Offence, Rule};
use crate::rule_id::{RuleId, RuleNames};
use crate::squid::helper_stats::HelperStats;
use crate::squid::{Backend, OriginQuestion};
use crate::table::{Ban, Bans, RequestTally, Until};
use crate::time::{Span, Time};
use crate::verdict::{AllowReason, DenyReason, Refusal, Verdict};

/// Maximum number of bans, in effect unlimited: the daemon's own limit bounds the copy.
const MAX_BANS: usize = 200_000_000;

/// Maximum number of queries of one client that wait until the daemon says where it belongs.
const MAX_ASKING: usize = 1024;

/// Sweeps, of one second each, after which what was said of where clients belong gets old: it is asked for again after one or two such periods.
const ORIGIN_SWEEPS: u64 = 300;

/// How often the daemon is told that an address says it is a crawler.
const CLAIM_INTERVAL: Span = Span::from_secs(60);
/// Maximum number of addresses of which that is remembered.
const MAX_CLAIMS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// How long the helper waits at its end for the daemon to take what is queued.
const LAST_LINES: Duration = Duration::from_millis(500);

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
    /// What the daemon has said of where clients belong.
    origins: Arc<AskedOrigins>,
    /// Queries that wait until the daemon says where their client belongs.
    asking: Mutex<HashMap<Client, Vec<Asking>>>,
    /// Number of calls of [`Replica::sweep`].
    sweeps: AtomicU64,
    /// Requests counted since they were last sent.
    requests: Mutex<RequestCounts>,
    /// When the daemon was told last that an address says it is a crawler.
    claims: Mutex<LruCache<IpAddr, Time, RandomState>>,
}

/// A query whose verdict depends on where its client belongs.
struct Asking {
    held: HeldReply,
    question: OriginQuestion,
}

impl Replica {
    pub fn connect(socket: &Path, state: &Arc<HelperState>) -> io::Result<Self> {
        let origins = Arc::new(AskedOrigins::default());
        let replica = Self {
            clock: Clock::start(),
            state: Arc::clone(state),
            policy: RwLock::new(Arc::new(
                ConfigLines::default()
                    .into_policy(Arc::clone(&origins), &state.names, &mut Compiled::default())
                    .map_err(io::Error::other)?,
            )),
            bans: Bans::new(MAX_BANS),
            deadlines: Deadlines::start(DAEMON_LIMIT)?,
            connection: DaemonConnection::connect(socket)?,
            next_offence: AtomicU64::new(0),
            unanswered: Mutex::default(),
            origins,
            asking: Mutex::default(),
            sweeps: AtomicU64::new(0),
            requests: Mutex::default(),
            claims: Mutex::new(LruCache::with_hasher(MAX_CLAIMS, RandomState::new())),
        };
        if let Some(mut queue) = replica.connection.queue() {
            queue.push(Instant::now(), &format_args!("subscribe {}", subscribe::VERSION));
            for line in state.prefilter.iter().flat_map(FromSubscriber::prefilter) {
                queue.push(Instant::now(), &line);
            }
        }
        replica.connection.flush();
        Ok(replica)
    }

    pub fn connection(&self) -> &DaemonConnection {
        &self.connection
    }

    pub fn sweep(&self) {
        self.bans.sweep(self.now(), |_, _| ());
        let now = self.now();
        // The daemon does not tell of bans that end by themselves.
        if self.policy().lists.banned.iter().any(|ban| !ban.is_active(now)) {
            self.change_lists(|lists| _ = lists.banned.expire(now));
        }
        if self.sweeps.fetch_add(1, Ordering::Relaxed) % ORIGIN_SWEEPS == ORIGIN_SWEEPS - 1 {
            self.origins.rotate();
        }
    }

    /// Gives the connection up, answers all offences that still wait for the daemon, and keeps for the next connection what the daemon has not
    /// got. Offences that it has got are not sent again: they may have been counted.
    pub fn lose(&self) {
        let (unsent, deferred) = self.connection.lose();
        self.state.stats.lock().deferred += deferred;
        let unanswered = std::mem::take(&mut *self.unanswered.lock());
        for (held, verdict) in unanswered.into_values() {
            self.state.settle(&held, verdict);
        }
        let asking = std::mem::take(&mut *self.asking.lock());
        let verdict = self.fallback_verdict(self.now(), &[]);
        asking.into_values().flatten().for_each(|asking| self.state.settle(&asking.held, verdict.clone()));
        self.state.keep(unsent, self.policy().prefix);
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
            FromDaemon::Rule(rule) => config.lines.rules.push(*rule),
            FromDaemon::Listed(list, network) => config.lines.listed.push((list, network)),
            FromDaemon::DeniedOrigin(entry) => config.lines.denied_origins.push(entry),
            FromDaemon::Crawler(name) => config.lines.crawlers.push(name),
            FromDaemon::EndConfig => {
                let replica = Arc::clone(self);
                config.build(Arc::clone(&self.state.names), Arc::clone(&self.origins), move |policy| replica.set_policy(policy))?;
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
            FromDaemon::UnbanRule(name) => {
                let rule = self.state.names.intern(&name);
                self.bans.unban_rules(|of| of == rule);
            }
            FromDaemon::BanNetwork { network, scope, rule, remaining } => {
                let (rule, until) = (self.state.names.intern(&rule), remaining.map(|remaining| now.after(remaining)));
                self.change_lists(|lists| {
                    lists.banned.insert(BannedNetwork { rule, scope, until, ..BannedNetwork::manual(network, now) });
                });
            }
            FromDaemon::UnbanNetwork(network) => self.change_lists(|lists| {
                lists.banned.remove(network);
            }),
            FromDaemon::Pause(remaining) => self.set_pause(Some(Pause { since: now, until: now.after(remaining), by: "".into() })),
            FromDaemon::Resume => self.set_pause(None),
            FromDaemon::Origin { client, origin } => self.learn(now, client, origin),
            FromDaemon::OriginsChanged => self.origins.clear(),
            FromDaemon::Answer { number, refusal } => {
                let held = self.unanswered.lock().remove(&number);
                if let Some((held, _)) = held {
                    held.settle(subscribe::verdict(refusal, &self.state.names, now));
                }
            }
        }
        Ok(false)
    }

    /// Puts a policy in force. Banned networks and the pause are not part of it and stay.
    pub fn set_policy(&self, mut policy: Policy) {
        self.state.prefilter.iter().for_each(|prefilter| prefilter.warn_if_stale(policy.rules.rules()));
        let mut current = self.policy.write();
        policy.lists.banned = current.lists.banned.clone();
        policy.pause.clone_from(&current.pause);
        *current = Arc::new(policy);
    }

    fn change_lists(&self, change: impl FnOnce(&mut Lists)) {
        change(&mut Arc::make_mut(&mut self.policy.write()).lists);
    }

    fn set_pause(&self, pause: Option<Pause>) {
        Arc::make_mut(&mut self.policy.write()).pause = pause;
    }

    /// Queues the requests counted so far and, if `is_complete`, the answers. What finds no room stays.
    pub fn queue_reports(&self, is_complete: bool) {
        if is_complete {
            self.state.queue_stats(&self.connection);
        }
        self.queue_requests();
        self.connection.flush();
    }

    fn queue_requests(&self) {
        let Some(mut queue) = self.connection.queue() else { return };
        let now = Instant::now();
        self.requests.lock().report(now, |address, count, unreferred| {
            let fits = queue.has_room();
            if fits {
                queue.push(now, &FromSubscriber::Requests { address, count, unreferred });
            }
            fits
        });
    }

    /// Holds a reply until it is settled, or `late` answers it because the daemon does not.
    fn hold(&self, reply: Reply, late: Verdict) -> HeldReply {
        let state = Arc::clone(&self.state);
        self.deadlines.hold(reply, move |reply| {
            state.record(&late);
            reply.send(late);
        })
    }

    /// Keeps an offence that the daemon cannot take now.
    fn defer(&self, offence: Offence, since: Instant) {
        let rules = offence.rules.iter().take(subscribe::MAX_RULES).map(|rule| rule.id).collect();
        let Offence { address, marks, evidence, .. } = offence;
        self.state.defer(Deferred { address, rules, marks, count: 1, evidence, since }, self.policy().prefix);
    }

    /// Notes where a client belongs, and answers the queries that have waited for that.
    fn learn(&self, now: Time, client: Client, origin: Origin) {
        self.origins.insert(client, origin);
        let Some(asking) = self.asking.lock().remove(&client) else { return };
        let policy = self.policy();
        let detector = Detector::new(&policy, &self.bans);
        for Asking { held, question: OriginQuestion { address, rules, probe } } in asking {
            let by_rule = || {
                let rule = rules.iter().find(|rule| rule.origin.holds(origin))?;
                Some(Refusal { rule: rule.id, until: Until::at(now), reason: DenyReason::Offence })
            };
            let refusal = match detector.active_refusal(now, address, client, Service::Web) {
                Some((refusal, _)) => Some(refusal),
                None => {
                    let refusal = by_rule();
                    if refusal.is_some() {
                        probe.into_iter().for_each(|probe| self.count_offence(now, probe));
                    }
                    refusal
                }
            };
            let verdict = refusal.map_or(Verdict::Allow(AllowReason::NothingFound), Refusal::on_web);
            self.state.settle(&held, verdict);
        }
        self.connection.flush();
    }

    /// The verdict on an offence if the daemon does not answer. A rule that refuses each offence still does,
    /// unless it depends on where the client belongs.
    fn fallback_verdict(&self, now: Time, rules: &[Arc<Rule>]) -> Verdict {
        if let Some(rule) = rules.iter().find(|rule| rule.mode == Mode::Enforce && rule.refuses_offence && rule.origin.is_empty()) {
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
        let since = Instant::now();
        if !self.connection.queue().is_some_and(|queue| queue.has_room()) {
            self.state.record(&verdict);
            self.defer(offence, since);
            return reply.send(verdict);
        }
        let number = self.next_offence.fetch_add(1, Ordering::Relaxed);
        let held = self.hold(reply, verdict.clone());
        self.unanswered.lock().insert(number, (held.clone(), verdict.clone()));
        // Other threads queue little, so there is still room; but the connection may have been given up.
        if let Some(mut queue) = self.connection.queue() {
            let Offence { address, rules, evidence, marks, .. } = offence;
            queue.push(since, &FromSubscriber::Offence { number, address, rules: names(&rules), marks, evidence });
            return;
        }
        self.unanswered.lock().remove(&number);
        self.state.settle(&held, verdict);
        self.defer(offence, since);
    }

    fn ask_origin(&self, now: Time, question: OriginQuestion, reply: Reply) {
        let client = Client::of(question.address, self.policy().prefix);
        let verdict = self.fallback_verdict(now, &[]);
        let mut asking = self.asking.lock();
        let is_asked = asking.get(&client).is_some_and(|asking| asking.len() < MAX_ASKING);
        if !is_asked && (asking.contains_key(&client) || !self.connection.queue().is_some_and(|queue| queue.has_room())) {
            drop(asking);
            self.state.record(&verdict);
            return reply.send(verdict);
        }
        let held = self.hold(reply, verdict);
        asking.entry(client).or_default().push(Asking { held, question });
        // Queries of the same client share the answer. If the connection has just been given up, they are answered by that.
        if !is_asked && let Some(mut queue) = self.connection.queue() {
            queue.push(Instant::now(), &FromSubscriber::Origin(client));
        }
    }

    fn count_offence(&self, _: Time, offence: Offence) {
        let since = Instant::now();
        if let Some(mut queue) = self.connection.queue().filter(|queue| queue.has_room()) {
            let Offence { address, rules, evidence, marks, .. } = offence;
            queue.push(since, &FromSubscriber::Strike { count: 1, address, rules: names(&rules), marks, evidence });
            return;
        }
        self.defer(offence, since);
    }

    fn clear(&self, address: IpAddr, cleared: Cleared) {
        // If there is no room, the strikes stay until the next success.
        if let Some(mut queue) = self.connection.queue().filter(|queue| queue.has_room()) {
            let Cleared { rules, marks } = cleared;
            queue.push(Instant::now(), &FromSubscriber::Clear { address, rules: names(&rules), marks });
        }
    }

    fn flush(&self) {
        self.connection.flush();
    }

    fn when_persisted(&self, verdict: Verdict, reply: Reply) {
        // A ban that comes from the daemon is saved, or was answered before it could be.
        reply.send(verdict);
    }

    fn note_claim(&self, now: Time, address: IpAddr, crawler: &Arc<Crawler>) {
        let mut claims = self.claims.lock();
        if claims.get(&address).is_some_and(|told| now.since(*told) < CLAIM_INTERVAL) {
            return;
        }
        if let Some(mut queue) = self.connection.queue()
            && queue.has_room()
        {
            queue.push(Instant::now(), &FromSubscriber::Crawler { address, crawler: crawler.name.to_string() });
            claims.put(address, now);
        }
    }

    fn count_requests(&self, _: Time, tallies: &mut Vec<RequestTally>) {
        let rules = Arc::clone(&self.policy().rules);
        let Some(lowest_maxretry) = rules.request_rates().iter().map(|rule| rule.maxretry).min() else { return };
        // Without a connection they are never sent, so they must not accumulate.
        let Some(mut queue) = self.connection.queue() else { return };
        let now = Instant::now();
        let mut counted = self.requests.lock();
        for tally in tallies {
            let (count, unreferred) = counted.add(now, tally);
            if count >= lowest_maxretry && queue.has_room() {
                queue.push(now, &FromSubscriber::Requests { address: tally.address, count, unreferred });
                counted.remove(tally.client);
            }
        }
    }

    fn report_stats(&self, stats: &mut HelperStats) {
        self.state.stats.lock().take(stats);
    }

    fn close(&self) {
        let deadline = Instant::now() + LAST_LINES;
        loop {
            self.state.queue_deferred(&self.connection);
            self.queue_reports(true);
            self.connection.flush_within(deadline.saturating_duration_since(Instant::now()));
            if self.state.deferred.lock().is_empty() || self.connection.is_lost() || Instant::now() >= deadline {
                break;
            }
        }
        // What has just been taken may be deferred offences.
        self.state.queue_stats(&self.connection);
        self.connection.flush();
        let (unsent, _) = self.connection.stop();
        self.state.keep(unsent, self.policy().prefix);
        let unreported = self.state.deferred.lock().take_all(Instant::now());
        if unreported > 0 {
            log::warn!("this helper ends, and {unreported} offences were not counted, because the daemon has not taken them");
        }
    }
}

/// The names of the rules that an offence is under, the strictest ones if a line cannot name all: the daemon hangs up over a longer list, and
/// a client could write a request that matches many patterns.
fn names(rules: &[Arc<Rule>]) -> Vec<String> {
    rules.iter().take(subscribe::MAX_RULES).map(|rule| rule.name.to_string()).collect()
}
