//! What all queries of a batch share: one look at policy and clock, the memory that is fetched ahead, and the requests that count for rates.

use std::net::IpAddr;
use std::sync::Arc;

use super::Backend;
use super::query;
use super::query::split_id;
use crate::client::Client;
use crate::detector::Detector;
use crate::event::Event;
use crate::policy::Policy;
use crate::rule::Trigger;
use crate::table::RequestTally;
use crate::time::Time;

/// The state that all lines of a batch share.
pub struct Batch<'a> {
    pub backend: &'a Arc<dyn Backend>,
    pub policy: &'a Arc<Policy>,
    pub detector: Detector<'a>,
    pub now: Time,
    counts_requests: bool,
    /// Whether a rule counts the requests without a source of their own.
    counts_unreferred: bool,
}

impl<'a> Batch<'a> {
    pub fn new(backend: &'a Arc<dyn Backend>, policy: &'a Arc<Policy>) -> Self {
        let rates = policy.rules.request_rates();
        Self {
            backend,
            policy,
            detector: Detector::new(policy, backend.bans()),
            now: backend.now(),
            counts_requests: !rates.is_empty(),
            counts_unreferred: rates.iter().any(|rule| rule.trigger == Trigger::UnreferredRate),
        }
    }

    /// Prefetches the bans of all clients in `lines`, unless it is a single line.
    pub fn prefetch(&self, lines: &[u8]) {
        if memchr::memchr(b'\n', lines).is_none_or(|end| end + 1 == lines.len()) {
            return;
        }
        let mut start = 0;
        self.detector.bans.prefetch(memchr::memchr_iter(b'\n', lines).filter_map(|end| {
            let line = lines.get(start..end).unwrap_or_default();
            start = end + 1;
            query::address(split_id(line).1).map(|address| Client::of(address, self.detector.prefix))
        }));
    }

    /// Adds an ordinary request to those of the batch, if there is a rule that counts them.
    pub fn tally(&self, tallies: &mut Vec<RequestTally>, address: IpAddr, event: &Event<'_>) {
        if !self.counts_requests {
            return;
        }
        let client = Client::of(address, self.policy.prefix);
        let is_unreferred = self.counts_unreferred && matches!(event, Event::Request(request) if request.names_its_source() == Some(false));
        match tallies.last_mut() {
            Some(last) if last.client == client => {
                last.requests += 1;
                last.unreferred += u32::from(is_unreferred);
            }
            _ => tallies.push(RequestTally::new(address, client, 1).with_unreferred(is_unreferred.into())),
        }
    }
}
