//! What a helper keeps over its connections to the daemon: counts of answers, and offences that the daemon could not take yet.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::connection::DaemonConnection;
use super::deferred::{Deferred, DeferredOffences};
use super::send_queue::Unsent;
use crate::client::{Client, Ipv6Prefix};
use crate::control::subscribe::FromSubscriber;
use crate::engine::deadline::HeldReply;
use crate::prefilter::files::LoadedPrefilter;
use crate::rule_id::RuleNames;
use crate::squid::helper_stats::HelperStats;
use crate::verdict::Verdict;

/// What outlives a connection to the daemon.
#[derive(Default)]
pub struct HelperState {
    pub names: Arc<RuleNames>,
    /// Counts of answers that have not been sent to the daemon yet, those of the time without a connection included.
    pub stats: Mutex<HelperStats>,
    /// Offences that the daemon could not take yet.
    pub deferred: Mutex<DeferredOffences>,
    /// The expressions by which Squid decides what to ask about.
    pub prefilter: Option<LoadedPrefilter>,
}

impl HelperState {
    pub fn new(prefilter: Option<LoadedPrefilter>) -> Self {
        Self { prefilter, ..Self::default() }
    }

    /// Answers an offence in place of the daemon, unless it was answered already.
    pub fn settle(&self, held: &HeldReply, verdict: Verdict) {
        if held.settle(verdict.clone()) {
            self.record(&verdict);
        }
    }

    /// Counts an answer.
    pub fn record(&self, verdict: &Verdict) {
        self.stats.lock().record(verdict);
    }

    /// Keeps offences that the daemon cannot take now. Clients have `prefix`.
    pub fn defer(&self, offences: Deferred, prefix: Ipv6Prefix) {
        let client = Client::of(offences.address, prefix);
        self.deferred.lock().add(Instant::now(), client, offences);
    }

    /// Keeps what the daemon has not handled for the next connection. Clients have `prefix`.
    pub fn keep(&self, unsent: Vec<Unsent>, prefix: Ipv6Prefix) {
        for Unsent { text, since } in unsent {
            let rules = |names: &[String]| names.iter().map(|name| self.names.intern(name)).collect();
            match FromSubscriber::parse(&text) {
                Ok(FromSubscriber::Offence { address, rules: names, marks, evidence, .. }) => {
                    self.defer(Deferred { address, rules: rules(&names), marks, count: 1, evidence, since }, prefix);
                }
                Ok(FromSubscriber::Strike { count, address, rules: names, marks, evidence }) => {
                    self.defer(Deferred { address, rules: rules(&names), marks, count, evidence, since }, prefix);
                }
                Ok(FromSubscriber::Stats { served, failed_open }) => {
                    let mut stats = self.stats.lock();
                    stats.served += served;
                    stats.failed_open += failed_open;
                }
                Ok(FromSubscriber::Refused { rule, count }) => {
                    *self.stats.lock().refused.entry(self.names.intern(&rule)).or_default() += count;
                }
                Ok(FromSubscriber::Overflow { deferred, dropped }) => {
                    let mut stats = self.stats.lock();
                    stats.deferred += deferred;
                    stats.dropped += dropped;
                }
                // Rates, successes and questions are of this moment, and what else is missing is told again. Anything else is the first line.
                Ok(
                    FromSubscriber::Requests { .. }
                    | FromSubscriber::Clear { .. }
                    | FromSubscriber::Prefilter { .. }
                    | FromSubscriber::Origin(_)
                    | FromSubscriber::Crawler { .. },
                )
                | Err(_) => {}
            }
        }
    }

    /// Queues deferred offences, as far as there is room.
    pub fn queue_deferred(&self, connection: &DaemonConnection) {
        let mut deferred = self.deferred.lock();
        if deferred.is_empty() {
            return;
        }
        let Some(mut queue) = connection.queue() else { return };
        let now = Instant::now();
        while queue.has_room_for_deferred()
            && let Some(Deferred { address, rules, marks, count, evidence, since }) = deferred.take(now)
        {
            let rules = rules.iter().map(|rule| self.names.name(*rule).to_string()).collect();
            queue.push_deferred(since, count, &FromSubscriber::Strike { count, address, rules, marks, evidence });
        }
        drop(queue);
        connection.flush();
    }

    /// Queues the counts of answers, if there is room.
    pub fn queue_stats(&self, connection: &DaemonConnection) {
        let dropped = self.deferred.lock().take_dropped();
        let Some(mut queue) = connection.queue() else {
            self.stats.lock().dropped += dropped;
            return;
        };
        let mut stats = self.stats.lock();
        stats.dropped += dropped;
        stats.deferred += queue.take_deferred();
        if stats.is_empty() || !queue.has_room() {
            return;
        }
        let HelperStats { served, failed_open, refused, deferred, dropped } = std::mem::take(&mut *stats);
        let now = Instant::now();
        queue.push(now, &FromSubscriber::Stats { served, failed_open });
        if deferred + dropped > 0 {
            queue.push(now, &FromSubscriber::Overflow { deferred, dropped });
        }
        for (rule, count) in refused {
            queue.push(now, &FromSubscriber::Refused { rule: self.names.name(rule).to_string(), count });
        }
    }
}
