//! The helper's copy of the daemon's rules, lists and bans, and its connection to the daemon.

use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::config_builder::{ConfigBuilder, ConfigLines, invalid};
use crate::client::Client;
use crate::clock::Clock;
use crate::control::subscribe::{self, FromDaemon, FromSubscriber};
use crate::engine::deadline::{DAEMON_LIMIT, Deadlines, HeldReply};
use crate::engine::reply::Reply;
use crate::list::{BannedNetwork, Lists};
use crate::policy::{OnFailure, Policy};
use crate::rule::{Mode, Offence, Rule};
use crate::rule_id::{RuleId, RuleNames};
use crate::squid::Backend;
use crate::squid::helper_stats::HelperStats;
use crate::table::{Ban, Bans, RequestTally, Until};
use crate::time::Time;
use crate::verdict::{AllowReason, DenyReason, Refusal, Verdict};

/// Maximum number of bans, in effect unlimited: the daemon's own limit bounds the copy.
const MAX_BANS: usize = 200_000_000;

/// Counts of answers that have not been sent to the daemon yet. They outlive the connection, so the counts of the time without one are kept.
pub type SharedStats = Arc<Mutex<HelperStats>>;

/// A copy of the daemon's rules, lists and bans, with the connection that keeps it current.
pub struct Replica {
    clock: Clock,
    names: Arc<RuleNames>,
    policy: RwLock<Arc<Policy>>,
    bans: Bans,
    deadlines: Deadlines,
    stream: UnixStream,
    lost: AtomicBool,
    /// Held while lines are sent, so that lines of two threads never mix.
    sending: Mutex<()>,
    next_offence: AtomicU64,
    /// Offences sent but not answered, each with the verdict in case the daemon does not answer.
    unanswered: Mutex<HashMap<u64, (HeldReply, Verdict)>>,
    /// Requests counted per client, with one of its addresses, since they were last sent.
    requests: Mutex<HashMap<Client, (IpAddr, u32), ahash::RandomState>>,
    stats: SharedStats,
}

impl Replica {
    pub fn connect(socket: &Path, names: &Arc<RuleNames>, stats: &SharedStats) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let replica = Self {
            clock: Clock::start(),
            names: Arc::clone(names),
            policy: RwLock::new(Arc::new(ConfigLines::default().into_policy().map_err(io::Error::other)?)),
            bans: Bans::new(MAX_BANS),
            deadlines: Deadlines::start(DAEMON_LIMIT)?,
            stream,
            lost: AtomicBool::new(false),
            sending: Mutex::default(),
            next_offence: AtomicU64::new(0),
            unanswered: Mutex::default(),
            requests: Mutex::default(),
            stats: Arc::clone(stats),
        };
        replica.send(&format!("subscribe {}\n", subscribe::VERSION));
        Ok(replica)
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether the connection has been given up.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    pub fn sweep(&self) {
        self.bans.expire(self.now(), |_, _| ());
    }

    /// Sends whole lines without blocking. If they cannot be sent, gives the connection up and returns false.
    fn send(&self, lines: &str) -> bool {
        let _whole = self.sending.lock();
        let mut rest = lines.as_bytes();
        while !rest.is_empty() && !self.is_lost() {
            match rustix::net::send(&self.stream, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // Also a full buffer: the daemon has stopped reading, and part of a line may have been sent.
                Err(_) => self.lost.store(true, Ordering::Relaxed),
            }
        }
        rest.is_empty()
    }

    /// Gives the connection up, and answers all offences that still wait for the daemon.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let unanswered = std::mem::take(&mut *self.unanswered.lock());
        for (held, verdict) in unanswered.into_values() {
            self.settle(&held, verdict);
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
            FromDaemon::Rule(rule) => config.lines.rules.push(rule.into_rule(&self.names)),
            FromDaemon::Listed(list, network) => config.lines.listed.push((list, network)),
            FromDaemon::EndConfig => {
                let replica = Arc::clone(self);
                config.build(move |policy| replica.set_policy(policy))?;
            }
            FromDaemon::BeginBans => {}
            FromDaemon::EndBans => return config.finish().map(|()| true),
            FromDaemon::Ban { client, scope, rule, remaining } => {
                let until = remaining.map_or(Until::NEVER, |remaining| Until::at(now.after(remaining)));
                self.bans.ban(client, scope, Ban { until, rule: self.names.intern(&rule), saved: true }, now);
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
                    held.settle(subscribe::verdict(refusal, &self.names, now));
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

    /// Sends the requests counted since the last call.
    pub fn send_requests(&self) {
        let counted = std::mem::take(&mut *self.requests.lock());
        if counted.is_empty() {
            return;
        }
        let lines: String =
            counted.into_values().map(|(address, count)| format!("{}\n", FromSubscriber::Requests { address, count })).collect();
        self.send(&lines);
    }

    /// Sends the counts of answers since the last call.
    pub fn send_stats(&self) {
        let stats = std::mem::take(&mut *self.stats.lock());
        if stats.is_empty() {
            return;
        }
        let HelperStats { served, failed_open, refused } = stats;
        let mut lines = format!("{}\n", FromSubscriber::Stats { served, failed_open });
        for (rule, count) in refused {
            lines.push_str(&format!("{}\n", FromSubscriber::Refused { rule: self.names.name(rule).to_string(), count }));
        }
        self.send(&lines);
    }

    /// Answers an offence in place of the daemon, unless it was answered already.
    fn settle(&self, held: &HeldReply, verdict: Verdict) {
        if held.settle(verdict.clone()) {
            self.stats.lock().record(&verdict);
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
        &self.names
    }

    fn record_offence(&self, now: Time, offence: Offence, reply: Reply) {
        let verdict = self.fallback_verdict(now, &offence.rules);
        if self.is_lost() {
            self.stats.lock().record(&verdict);
            return reply.send(verdict);
        }
        let number = self.next_offence.fetch_add(1, Ordering::Relaxed);
        let (late, stats) = (verdict.clone(), Arc::clone(&self.stats));
        let held = self.deadlines.hold(reply, move |reply| {
            stats.lock().record(&late);
            reply.send(late);
        });
        self.unanswered.lock().insert(number, (held.clone(), verdict.clone()));
        let rules = offence.rules.iter().map(|rule| rule.name.to_string()).collect();
        let line = FromSubscriber::Offence { number, address: offence.address, rules, evidence: offence.evidence };
        if !self.send(&format!("{line}\n")) {
            self.unanswered.lock().remove(&number);
            self.settle(&held, verdict);
        }
    }

    fn count_offence(&self, _: Time, offence: Offence) {
        let rules = offence.rules.iter().map(|rule| rule.name.to_string()).collect();
        self.send(&format!("{}\n", FromSubscriber::Strike { address: offence.address, rules, evidence: offence.evidence }));
    }

    fn when_persisted(&self, verdict: Verdict, reply: Reply) {
        // The daemon only sends bans that are saved.
        reply.send(verdict);
    }

    fn count_requests(&self, _: Time, tallies: &mut Vec<RequestTally>) {
        // Without a connection they are never sent, so they must not accumulate.
        if self.is_lost() {
            return;
        }
        let rules = Arc::clone(&self.policy().rules);
        let Some(lowest_maxretry) = rules.request_rates().iter().map(|rule| rule.maxretry).min() else { return };
        let mut urgent = String::new();
        let mut counted = self.requests.lock();
        for RequestTally { address, client, requests, .. } in tallies {
            let entry = counted.entry(*client).or_insert((*address, 0));
            entry.1 = entry.1.saturating_add(*requests);
            if entry.1 >= lowest_maxretry {
                let line = FromSubscriber::Requests { address: *address, count: entry.1 };
                counted.remove(client);
                urgent += &format!("{line}\n");
            }
        }
        drop(counted);
        if !urgent.is_empty() {
            self.send(&urgent);
        }
    }

    fn report_stats(&self, stats: &mut HelperStats) {
        self.stats.lock().take(stats);
    }

    fn close(&self) {
        self.send_requests();
        self.send_stats();
    }
}
