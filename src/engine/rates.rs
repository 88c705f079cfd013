//! Counts the ordinary requests of each read under rules that limit a client's rate.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use super::crowds::CrowdStrike;
use super::reply::Reply;
use crate::detector::Detector;
use crate::event::Service;
use crate::policy::Policy;
use crate::rule::{CountBy, Evidence, Mode, Offence, Rule, Trigger};
use crate::table::{Counter, RateLimit, RequestTally};
use crate::time::Time;
use crate::verdict::{AllowReason, Verdict};

/// Before the number, as evidence.
const REQUESTS: &[u8] = b"requests in one read:";

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
        let detector = Detector::new(&policy, &self.bans);
        let is_crawler = |tally: &RequestTally| self.claims.exempts(now, tally.address, &policy.crawlers);
        let is_refused = |tally: &RequestTally| detector.active_refusal(now, tally.address, tally.client, Service::Web).is_some();
        tallies.retain(|tally| !is_crawler(tally) && !is_refused(tally));
        let mut unreferred = Vec::new();
        for rule in rules.iter().filter(|rule| rule.count_by == CountBy::Client) {
            if rule.trigger == Trigger::UnreferredRate {
                unreferred.clear();
                let bare = tallies.iter().filter(|tally| tally.unreferred > 0);
                unreferred.extend(bare.map(|tally| RequestTally { requests: tally.unreferred, ..*tally }));
            }
            let tallies = if rule.trigger == Trigger::UnreferredRate { &mut unreferred } else { &mut *tallies };
            for (tally, counter) in self.count_under(now, &policy, rule, tallies) {
                self.ban_by_rate(now, rule, tally, counter);
            }
        }
        if rules.iter().any(|rule| rule.count_by != CountBy::Client) {
            tallies.iter().for_each(|tally| self.count_crowds(now, &policy, tally));
        }
    }

    /// Counts under one rule. For nearly every client nothing follows, so this path allocates nothing.
    fn count_under(&self, now: Time, policy: &Policy, rule: &Rule, tallies: &mut [RequestTally]) -> Reached {
        let mut reached = Reached::new();
        // A client that occurs twice in one read must be banned once.
        let is_reached = |reached: &Reached, tally: &RequestTally| reached.iter().any(|(known, _)| known.client == tally.client);
        // Requests that reach `maxretry` by themselves need no counter: `Engine::strike` stores none for them.
        let reaches_alone = |tally: &RequestTally| tally.requests >= rule.maxretry;
        let concerns = |tally: &RequestTally| rule.concerns(tally.address, policy.prefix, &policy.geo);
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

    /// Counts the requests of a client for its networks. Like [`Engine::count_under`], it allocates nothing unless a ban follows.
    fn count_crowds(self: &Arc<Self>, now: Time, policy: &Policy, tally: &RequestTally) {
        let has_source = tally.unreferred < tally.requests;
        // Nearly every request names its source, and nearly everybody is a member of nothing. With IPv6 it depends on the rule who is.
        let is_nobody = has_source && tally.client.is_ipv4() && !self.crowds.may_be_member(tally.client);
        for rule in policy.rules.request_rates().iter().filter(|rule| rule.count_by != CountBy::Client) {
            let leaves = has_source && rule.trigger == Trigger::UnreferredRate;
            if (leaves && is_nobody) || !rule.concerns(tally.address, policy.prefix, &policy.geo) {
                continue;
            }
            if leaves {
                self.leave_crowd(rule, tally.client, policy);
                continue;
            }
            let requests = if rule.trigger == Trigger::UnreferredRate { tally.unreferred } else { tally.requests };
            let evidence = || Evidence::new(&[REQUESTS, requests.to_string().as_bytes()]);
            let strike = self.strike_crowd(now, rule, tally.client, policy, requests, evidence);
            if let Some(CrowdStrike::Reached(record)) = strike {
                if rule.mode == Mode::Shadow {
                    self.shadow_network(rule, &record);
                } else {
                    self.ban_network_by_rule(now, rule, record, Verdict::Allow(AllowReason::NotApplicable), Reply::new(|_| ()));
                }
            }
        }
    }

    fn ban_by_rate(self: &Arc<Self>, now: Time, rule: &Arc<Rule>, tally: RequestTally, counter: Counter) {
        let RequestTally { address, client, requests, .. } = tally;
        let evidence = Evidence::new(&[REQUESTS, requests.to_string().as_bytes()]);
        let offence = Offence { address, client, rules: vec![Arc::clone(rule)], evidence, marks: None, account: None };
        if rule.mode == Mode::Shadow {
            self.ban_by_rule(now, rule, &offence, counter);
            return;
        }
        let lock = self.client_locks.lock(&client);
        let banned: Vec<_> = self.ban_by_rule(now, rule, &offence, counter).into_iter().collect();
        let over_bans = self.offence_of_bans(&offence, &banned);
        self.publish_bans(banned, Verdict::Allow(AllowReason::NotApplicable), Reply::new(|_| ()));
        drop(lock);
        if let Some(offence) = over_bans {
            self.record_offence(now, &offence, Service::Web, Reply::new(|_| ()));
        }
    }
}
