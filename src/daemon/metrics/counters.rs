//! Counters of the daemon's answers, by question, verdict, service and rule, and how long the answers took. An answer that accepts costs a few
//! relaxed additions; only refusals and bans take a lock, briefly.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::prefilters::LoadedPrefilters;
use crate::daemon::traffic::Traffic;
use crate::engine::Change;
use crate::event::Service;
use crate::rule_id::RuleId;
use crate::time::Time;
use crate::verdict::{AllowReason, Verdict};

/// A question that is answered with a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `check`: an SMTP connection.
    Check,
    /// `strike`: an incident that Exim reports.
    Strike,
    /// An offence that a Squid helper met.
    Offence,
}

impl Question {
    pub const ALL: [Self; 3] = [Self::Check, Self::Strike, Self::Offence];

    /// Its name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Strike => "strike",
            Self::Offence => "offence",
        }
    }

    /// The service that it is about.
    #[must_use]
    pub fn service(self) -> Service {
        match self {
            Self::Check | Self::Strike => Service::Mail,
            Self::Offence => Service::Web,
        }
    }
}

/// Upper bounds of a histogram's buckets, in microseconds.
pub const BUCKETS: [u64; 14] = [20, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 150_000, 200_000];

/// How long answers took.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Number of answers in each bucket. An answer is counted in the first bucket that it fits in; the last one has no bound.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|end| *end < micros);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The cumulative counts as Prometheus wants them (for each bucket the answers that took no longer, the last count being all answers), and
    /// the sum of all times in microseconds.
    #[must_use]
    pub fn read(&self) -> (Vec<u64>, u64) {
        let mut sum = 0;
        let counts = self.buckets.iter().map(|bucket| {
            sum += bucket.load(Ordering::Relaxed);
            sum
        });
        (counts.collect(), self.micros.load(Ordering::Relaxed))
    }
}

/// What refusals are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusalKey {
    /// On the web; otherwise in mail.
    pub web: bool,
    /// A `deny`; otherwise a `defer`.
    pub deny: bool,
    pub rule: RuleId,
}

/// The bans that a rule has made.
#[derive(Debug, Clone, Copy, Default)]
pub struct BansMade {
    pub number: u64,
    /// When the last one began.
    pub last: Time,
}

#[derive(Debug, Default)]
pub struct Counters {
    answer_times: [Histogram; Question::ALL.len()],
    accepted: [AtomicU64; Question::ALL.len()],
    refusals: Mutex<BTreeMap<RefusalKey, u64>>,
    /// Bans made, by the name of their rule.
    bans: Mutex<BTreeMap<Arc<str>, BansMade>>,
    /// Who makes the traffic, and when each server asked last.
    pub traffic: Arc<Traffic>,
    /// Ordinary requests that Squid's helpers report because a rule limits their rate.
    pub requests: AtomicU64,
    /// Queries that helpers answered without asking the daemon, and served.
    served_by_helpers: AtomicU64,
    /// All queries that helpers answered without asking the daemon.
    answered_by_helpers: AtomicU64,
    /// Answers that accept because of a fault.
    pub failed_open: AtomicU64,
    /// Offences that the daemon could not take at once, and that a helper has reported later.
    pub offences_deferred: AtomicU64,
    /// Offences that a helper could not report in time or had no room for, and that are never counted.
    pub offences_dropped: AtomicU64,
    /// Open connections to the socket.
    pub connections: AtomicUsize,
    /// Exim's connection processes that are watched.
    pub processes: AtomicUsize,
    /// Attached Squid helpers.
    pub subscribers: AtomicUsize,
    /// The prefilters of their Squids.
    pub prefilters: LoadedPrefilters,
    /// Configurations put in force by a reload.
    pub reloads: AtomicU64,
    /// Configurations refused by a reload.
    pub refused_reloads: AtomicU64,
    /// When the configuration in force was read, in seconds since 1970.
    pub config_read: AtomicU64,
    /// Whether the last configuration was refused.
    pub config_refused: AtomicBool,
}

impl Counters {
    /// Counts an answer, and how long it took.
    pub fn record_answer(&self, question: Question, took: Duration, verdict: &Verdict) {
        if let Some(histogram) = self.answer_times.get(question as usize) {
            histogram.record(took);
        }
        self.traffic.asked(question.service());
        let deny = match verdict {
            Verdict::Allow(reason) => {
                if let Some(accepted) = self.accepted.get(question as usize) {
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
                if *reason == AllowReason::Failure {
                    self.failed_open.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
            Verdict::Deny(_) => true,
            Verdict::Defer(_) => false,
        };
        if let Some(refusal) = verdict.refusal() {
            let key = RefusalKey { web: question.service() == Service::Web, deny, rule: refusal.rule };
            *self.refusals.lock().entry(key).or_default() += 1;
        }
    }

    /// Counts queries that a helper served without asking the daemon; `failed_open` of them because of a fault.
    pub fn record_served_by_helper(&self, served: u64, failed_open: u64) {
        self.traffic.asked(Service::Web);
        let all = served.saturating_add(failed_open);
        add(&self.served_by_helpers, all);
        add(&self.answered_by_helpers, all);
        add(&self.failed_open, failed_open);
    }

    /// Counts queries that a helper refused without asking the daemon.
    pub fn record_refused_by_helper(&self, rule: RuleId, count: u64) {
        self.traffic.asked(Service::Web);
        add(&self.answered_by_helpers, count);
        let key = RefusalKey { web: true, deny: true, rule };
        let mut refusals = self.refusals.lock();
        let sum = refusals.entry(key).or_default();
        *sum = sum.saturating_add(count);
    }

    /// Counts offences that a helper has reported late, and those that it never will.
    pub fn record_overflow(&self, deferred: u64, dropped: u64) {
        add(&self.offences_deferred, deferred);
        add(&self.offences_dropped, dropped);
    }

    /// Number of queries that helpers answered without asking the daemon.
    #[must_use]
    pub fn answered_by_helpers(&self) -> u64 {
        self.answered_by_helpers.load(Ordering::Relaxed)
    }

    /// Counts a change of the table, if it is a ban.
    pub fn record_change(&self, change: &Change) {
        let (rule, since): (Arc<str>, Time) = match change {
            Change::Banned(record) => (Arc::clone(&record.rule), record.since),
            Change::NetworkBanned(record) => (Arc::clone(&record.rule), record.since),
            Change::Unbanned { .. }
            | Change::Forgotten(_)
            | Change::NetworkUnbanned { .. }
            | Change::NetworkEvicted { .. }
            | Change::RuleLifted { .. }
            | Change::Paused(_)
            | Change::Resumed => return,
        };
        let mut bans = self.bans.lock();
        let made = bans.entry(rule).or_default();
        (made.number, made.last) = (made.number + 1, made.last.max(since));
    }

    /// How long the answers to `question` took.
    #[must_use]
    pub fn histogram(&self, question: Question) -> (Vec<u64>, u64) {
        self.answer_times.get(question as usize).map(Histogram::read).unwrap_or_default()
    }

    #[must_use]
    pub fn answers(&self, question: Question) -> u64 {
        self.histogram(question).0.last().copied().unwrap_or_default()
    }

    /// Number of answers on `service` that accepted.
    #[must_use]
    pub fn accepted(&self, service: Service) -> u64 {
        let by_helpers = if service == Service::Web { self.served_by_helpers.load(Ordering::Relaxed) } else { 0 };
        let by_daemon = Question::ALL.into_iter().zip(&self.accepted).filter(|(question, _)| question.service() == service);
        by_daemon.map(|(_, accepted)| accepted.load(Ordering::Relaxed)).sum::<u64>().saturating_add(by_helpers)
    }

    /// The number of refusals so far.
    #[must_use]
    pub fn refusals(&self) -> BTreeMap<RefusalKey, u64> {
        self.refusals.lock().clone()
    }

    /// The bans made so far, by the name of their rule.
    #[must_use]
    pub fn bans(&self) -> BTreeMap<Arc<str>, BansMade> {
        self.bans.lock().clone()
    }
}

/// Adds to a counter without overflow: the number comes from a peer.
fn add(counter: &AtomicU64, more: u64) {
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| Some(count.saturating_add(more)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Until;
    use crate::verdict::{DenyReason, Refusal};

    #[test]
    fn an_answer_counts_in_its_bucket_and_every_larger_one() {
        let histogram = Histogram::default();
        for micros in [1, 20, 21, 999_999] {
            histogram.record(Duration::from_micros(micros));
        }
        let (counts, sum) = histogram.read();
        assert_eq!(counts.first_chunk(), Some(&[2, 3, 3]));
        assert_eq!((counts.len(), counts.last(), counts.get(BUCKETS.len() - 1)), (BUCKETS.len() + 1, Some(&4), Some(&3)));
        assert_eq!(sum, 1_000_041);
    }

    #[test]
    fn refusals_are_counted_by_service_verdict_and_rule_and_answers_that_fail_open_separately() {
        let counters = Counters::default();
        let refusal = Refusal { rule: RuleId::MANUAL, until: Until::NEVER, reason: DenyReason::Banned };
        for verdict in [Verdict::Defer(refusal), Verdict::Defer(refusal), Verdict::Allow(AllowReason::Failure)] {
            counters.record_answer(Question::Check, Duration::ZERO, &verdict);
        }
        counters.record_answer(Question::Offence, Duration::ZERO, &Verdict::Deny(refusal));
        let refusals: Vec<_> = counters.refusals().into_iter().map(|(key, count)| (key.web, key.deny, count)).collect();
        assert_eq!(refusals, [(false, false, 2), (true, true, 1)]);
        assert_eq!((counters.accepted(Service::Mail), counters.failed_open.load(Ordering::Relaxed)), (1, 1));
        counters.record_served_by_helper(5, 2);
        counters.record_refused_by_helper(RuleId::MANUAL, 10);
        let refusals: Vec<u64> = counters.refusals().into_values().collect();
        assert_eq!((refusals, counters.accepted(Service::Web), counters.answered_by_helpers()), (vec![2, 11], 7, 17));
        assert_eq!(counters.failed_open.load(Ordering::Relaxed), 3);
        counters.record_served_by_helper(u64::MAX, u64::MAX);
        assert_eq!(counters.answered_by_helpers(), u64::MAX);
    }
}
