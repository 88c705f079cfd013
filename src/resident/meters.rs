//! What the resident counts of its answers: questions, verdicts by surface and rule, and how long an answer took. An innocent question
//! costs a few relaxed additions; only refusals and bans take a lock, which nobody holds for long.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::Change;
use crate::event::Surface;
use crate::rule::RuleId;
use crate::verdict::{Innocence, Verdict};

/// What a peer can ask a verdict about.
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
    /// All of them.
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

    /// Where it is asked.
    #[must_use]
    pub fn surface(self) -> Surface {
        match self {
            Self::Check | Self::Strike => Surface::Mail,
            Self::Offence => Surface::Web,
        }
    }
}

/// The upper ends of a histogram's buckets, in microseconds.
pub const BUCKETS: [u64; 14] = [20, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 150_000, 200_000];

/// How long answers took.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Answers by bucket: each counts in the first one that it fits in, the last is for all that fit in none.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts one answer.
    pub fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|end| *end < micros);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// For each bucket, and then for all answers, how many took no longer; and the sum of all times in microseconds.
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

/// Which refusals are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Whether it was on the web; else in mail.
    pub web: bool,
    /// Whether it was a `deny`; else a `defer`.
    pub deny: bool,
    /// The rule.
    pub rule: RuleId,
}

/// All counters of one resident.
#[derive(Debug, Default)]
pub struct Meters {
    answered: [Histogram; Question::ALL.len()],
    accepted: [AtomicU64; Question::ALL.len()],
    refused: Mutex<BTreeMap<Refused, u64>>,
    bans: Mutex<BTreeMap<Arc<str>, u64>>,
    /// Ordinary requests that helpers reported, where a rule counts them.
    pub requests: AtomicU64,
    /// Queries of Squid that helpers answered by themselves and served.
    served: AtomicU64,
    /// All queries of Squid that helpers answered by themselves.
    by_helpers: AtomicU64,
    /// Answers that accept because of a fault of ours.
    pub failed_open: AtomicU64,
    /// Connections that are open.
    pub connections: AtomicUsize,
    /// Connection processes of Exim that are watched.
    pub processes: AtomicUsize,
    /// Squid helpers that follow.
    pub followers: AtomicUsize,
    /// Configurations taken over since the start.
    pub reloads: AtomicU64,
    /// Configurations refused since the start.
    pub refused_reloads: AtomicU64,
}

impl Meters {
    /// Counts an answer.
    pub fn answered(&self, question: Question, took: Duration, verdict: &Verdict) {
        if let Some(histogram) = self.answered.get(question as usize) {
            histogram.note(took);
        }
        let deny = match verdict {
            Verdict::Allow(innocence) => {
                if let Some(accepted) = self.accepted.get(question as usize) {
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
                if *innocence == Innocence::Failure {
                    self.failed_open.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
            Verdict::Deny(_) => true,
            Verdict::Defer(_) => false,
        };
        if let Some(refusal) = verdict.refusal() {
            let key = Refused { web: question.surface() == Surface::Web, deny, rule: refusal.rule };
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
        }
    }

    /// Counts what a helper answered by itself.
    pub fn told(&self, served: u64, failed_open: u64) {
        add(&self.served, served.saturating_add(failed_open));
        add(&self.by_helpers, served.saturating_add(failed_open));
        add(&self.failed_open, failed_open);
    }

    /// Counts what a helper refused by itself.
    pub fn told_refused(&self, rule: RuleId, count: u64) {
        add(&self.by_helpers, count);
        let key = Refused { web: true, deny: true, rule };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = refused.entry(key).or_default();
        *sum = sum.saturating_add(count);
    }

    /// Queries of Squid that helpers answered by themselves.
    #[must_use]
    pub fn by_helpers(&self) -> u64 {
        self.by_helpers.load(Ordering::Relaxed)
    }

    /// Counts a ban.
    pub fn changed(&self, change: &Change) {
        let rule: Arc<str> = match change {
            Change::Banned(record) => Arc::clone(&record.rule),
            Change::NetworkBanned { .. } => "manual".into(),
            Change::Unbanned { .. } | Change::NetworkUnbanned { .. } => return,
        };
        *self.bans.lock().unwrap_or_else(PoisonError::into_inner).entry(rule).or_default() += 1;
    }

    /// How long the answers to `question` took.
    #[must_use]
    pub fn histogram(&self, question: Question) -> (Vec<u64>, u64) {
        self.answered.get(question as usize).map(Histogram::read).unwrap_or_default()
    }

    /// How many answers on `surface` accepted.
    #[must_use]
    pub fn accepted(&self, surface: Surface) -> u64 {
        let by_helpers = if surface == Surface::Web { self.served.load(Ordering::Relaxed) } else { 0 };
        let asked = Question::ALL.into_iter().zip(&self.accepted).filter(|(question, _)| question.surface() == surface);
        asked.map(|(_, accepted)| accepted.load(Ordering::Relaxed)).sum::<u64>().saturating_add(by_helpers)
    }

    /// The refusals so far.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<Refused, u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The bans made so far, by the name of their rule.
    #[must_use]
    pub fn bans(&self) -> BTreeMap<Arc<str>, u64> {
        self.bans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Adds to a counter that never begins anew: what a helper says is a stranger's number.
fn add(counter: &AtomicU64, more: u64) {
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| Some(count.saturating_add(more)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Until;
    use crate::verdict::{Grounds, Refusal};

    #[test]
    fn an_answer_counts_in_every_bucket_from_its_own_on() {
        let histogram = Histogram::default();
        for micros in [1, 20, 21, 999_999] {
            histogram.note(Duration::from_micros(micros));
        }
        let (counts, sum) = histogram.read();
        assert_eq!(counts.first_chunk(), Some(&[2, 3, 3]));
        assert_eq!((counts.len(), counts.last(), counts.get(BUCKETS.len() - 1)), (BUCKETS.len() + 1, Some(&4), Some(&3)));
        assert_eq!(sum, 1_000_041);
    }

    #[test]
    fn refusals_are_counted_by_surface_verdict_and_rule_and_faults_of_ours_apart() {
        let meters = Meters::default();
        let refusal = Refusal { rule: RuleId::MANUAL, until: Until::NEVER, grounds: Grounds::Banned };
        for verdict in [Verdict::Defer(refusal), Verdict::Defer(refusal), Verdict::Allow(Innocence::Failure)] {
            meters.answered(Question::Check, Duration::ZERO, &verdict);
        }
        meters.answered(Question::Offence, Duration::ZERO, &Verdict::Deny(refusal));
        let refused: Vec<_> = meters.refused().into_iter().map(|(key, count)| (key.web, key.deny, count)).collect();
        assert_eq!(refused, [(false, false, 2), (true, true, 1)]);
        assert_eq!((meters.accepted(Surface::Mail), meters.failed_open.load(Ordering::Relaxed)), (1, 1));
        meters.told(5, 2);
        meters.told_refused(RuleId::MANUAL, 10);
        let refused: Vec<u64> = meters.refused().into_values().collect();
        assert_eq!((refused, meters.accepted(Surface::Web), meters.by_helpers()), (vec![2, 11], 7, 17));
        assert_eq!(meters.failed_open.load(Ordering::Relaxed), 3);
        meters.told(u64::MAX, u64::MAX);
        assert_eq!(meters.by_helpers(), u64::MAX);
    }
}
