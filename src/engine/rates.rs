//! Counts the ordinary requests of each read under rules that limit a client's rate.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use super::reply::Reply;
use crate::event::Service;
use crate::rule::{Evidence, Mode, Offence, Rule};
use crate::table::{Counter, RateLimit, RequestTally};
use crate::time::Time;
use crate::verdict::{AllowReason, Verdict};

/// Clients whose requests have reached a rule's `maxretry`, each once.
type Reached = Vec<(RequestTally, Counter)>;

impl Engine {
    /// Adds the requests of one read to the rates of their clients. A ban that results takes effect with the next read.
    ///
    /// Removes banned clients from `tallies`; the caller must not rely on its content afterwards.
    pub fn count_requests(self: &Arc<Self>, now: Time, tallies: &mut Vec<RequestTally>) {
        let policy = self.policy();
        let rules = policy.rules.request_rates();
        if rules.is_empty() {
            return;
        }
        tallies.retain(|tally| self.bans.get(tally.client, Service::Web, now).is_none());
        for rule in rules {
            for (tally, counter) in self.count_under(now, rule, tallies) {
                self.ban_by_rate(now, rule, tally, counter);
            }
        }
    }

    /// Counts under one rule. For nearly every client nothing follows, so this path allocates nothing.
    fn count_under(&self, now: Time, rule: &Rule, tallies: &mut [RequestTally]) -> Reached {
        let mut reached = Reached::new();
        // A client that occurs twice in one read must be banned once.
        let is_reached = |reached: &Reached, tally: &RequestTally| reached.iter().any(|(known, _)| known.client == tally.client);
        // Requests that reach `maxretry` by themselves need no counter: `Engine::strike` stores none for them.
        let reaches_alone = |tally: &RequestTally| tally.requests >= rule.maxretry;
        let concerns = |tally: &RequestTally| !rule.ignoreip.contains(tally.address);
        let counts = |tally: &RequestTally| !reaches_alone(tally) && concerns(tally) && self.counts_under(now, rule, tally.client);
        let limit = RateLimit { rule: rule.id, findtime: rule.findtime, maxretry: rule.maxretry };
        let mut counted = 0;
        self.strikes.add_all(limit, now, tallies, counts, |tally, counter| {
            counted += 1;
            if counter.count() >= rule.maxretry && !is_reached(&reached, tally) {
                reached.push((*tally, counter));
            }
        });
        self.stats.offences.fetch_add(counted, Ordering::Relaxed);
        for (tally, _) in &reached {
            self.strikes.forget(rule.id, tally.client);
        }
        for tally in tallies.iter().filter(|tally| reaches_alone(tally) && concerns(tally)) {
            if !is_reached(&reached, tally)
                && let Some(counter) = self.strike(now, rule, tally.client, tally.requests)
            {
                reached.push((*tally, counter));
            }
        }
        reached
    }

    fn ban_by_rate(self: &Arc<Self>, now: Time, rule: &Arc<Rule>, tally: RequestTally, counter: Counter) {
        let RequestTally { address, client, requests, .. } = tally;
        let evidence = Evidence::new(&[b"requests in one read:", requests.to_string().as_bytes()]);
        let offence = Offence { address, client, rules: vec![Arc::clone(rule)], evidence, marks: None };
        if rule.mode == Mode::Shadow {
            self.ban_by_rule(now, rule, &offence, counter);
            return;
        }
        let _lock = self.client_locks.lock(&client);
        let record = self.ban_by_rule(now, rule, &offence, counter);
        self.publish_bans(record.into_iter().collect(), Verdict::Allow(AllowReason::NotApplicable), Reply::new(|_| ()));
    }
}
