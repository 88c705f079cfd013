//! The Squid helper: its protocol, its loop, and its two backends: a table of its own, or the daemon's.

pub mod answer;
mod attached;
mod batch;
mod burst;
mod embedded;
pub mod helper;
mod helper_stats;
pub mod output;
pub mod query;
pub mod session;

use parking_lot::RwLock;
use std::net::IpAddr;
use std::sync::Arc;

use crate::crawler::Crawler;
use crate::engine::reply::Reply;
use crate::policy::Policy;
use crate::rule::{Cleared, Offence, Rule};
use crate::rule_id::RuleNames;
use crate::table::{Bans, RequestTally};
use crate::time::Time;
use crate::verdict::{AllowReason, Verdict};
use helper_stats::HelperStats;

/// The source of the helper's rules, lists and bans, and the receiver of its offences.
pub trait Backend: Send + Sync {
    /// Table time.
    fn now(&self) -> Time;
    fn policy(&self) -> Arc<Policy>;
    /// The clients banned now.
    fn bans(&self) -> &Bans;
    /// The names of all rule IDs.
    fn names(&self) -> &RuleNames;
    /// Counts an offence, and answers it, after the next [`Backend::flush`] at the latest.
    fn record_offence(&self, now: Time, offence: Offence, reply: Reply);
    /// Counts an offence that is answered already.
    fn count_offence(&self, now: Time, offence: Offence) {
        self.record_offence(now, offence, Reply::new(|_| ()));
    }
    /// Clears strikes after a success of a client.
    fn clear(&self, address: IpAddr, cleared: Cleared);
    /// Notes that a client says it is a crawler.
    fn note_claim(&self, now: Time, address: IpAddr, crawler: &Arc<Crawler>);
    /// Sends on what was counted since the last call. To be called after several offences, because it may cost a system call.
    fn flush(&self) {}
    /// Answers with a refusal once the ban behind it is saved.
    fn when_persisted(&self, verdict: Verdict, reply: Reply);
    /// Answers a query whose verdict depends on where its client belongs, which this process does not know. Only a helper that is attached to
    /// the daemon has to ask.
    fn ask_origin(&self, _now: Time, _question: OriginQuestion, reply: Reply) {
        reply.send(Verdict::Allow(AllowReason::NothingFound));
    }
    /// Adds ordinary requests to the rates of their clients. The caller must not rely on the content of `tallies` afterwards.
    fn count_requests(&self, now: Time, tallies: &mut Vec<RequestTally>);
    /// Takes the counts of answers for the daemon's metrics. An embedded table has no metrics and drops them.
    fn report_stats(&self, stats: &mut HelperStats) {
        *stats = HelperStats::default();
    }
    /// Saves what should outlive the process, at the end of input.
    fn close(&self);
}

/// A query whose verdict depends on where its client belongs.
pub struct OriginQuestion {
    pub address: IpAddr,
    /// The rules that refuse it if the client belongs where they say.
    pub rules: Vec<Arc<Rule>>,
    /// What counts if one of them does: the client is not blamed for that one request.
    pub probe: Option<Offence>,
}

/// Holds the backend once there is one. Until then every query is answered `ERR`.
#[derive(Clone, Default)]
pub struct BackendSlot(Arc<RwLock<Option<Arc<dyn Backend>>>>);

impl BackendSlot {
    /// The backend, if there is one yet.
    #[must_use]
    pub fn get(&self) -> Option<Arc<dyn Backend>> {
        self.0.read().clone()
    }

    /// Sets or replaces the backend.
    pub fn put(&self, backend: Arc<dyn Backend>) {
        *self.0.write() = Some(backend);
    }
}
