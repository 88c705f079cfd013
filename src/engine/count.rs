//! Counts offences, and bans when a rule's `maxretry` is reached.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::accounts::Guess;
use super::crowds::CrowdStrike;
use super::records::next_times;
use super::reply::Reply;
use super::{BanRecord, Engine, NetworkRecord};
use crate::client::Client;
use crate::clock::timestamp;
use crate::detector::Detector;
use crate::event::Service;
use crate::event::behaviour::Outcome;
use crate::rule::{Cleared, CountBy, Evidence, Mode, Offence, Rule, Standing, Trigger};
use crate::rule_id::RuleId;
use crate::table::{Ban, Counter, Until};
use crate::time::Time;
use crate::verdict::{AllowReason, DenyReason, Refusal, Verdict};

/// Number of sites and first directories remembered of each client under a rule whose strikes a success there clears.
const MAX_AREAS: usize = 8;

/// The result of counting an offence.
#[derive(Debug)]
pub struct CountResult {
    /// The answer to the offending event.
    pub verdict: Verdict,
    /// The bans that it led to.
    pub banned: Vec<BanRecord>,
    /// The bans that rules in shadow mode would have made.
    pub shadowed: Vec<BanRecord>,
    /// The networks that it led to bans of, or would have in shadow mode, each with its rule.
    pub networks: Vec<(Arc<Rule>, NetworkRecord)>,
}

impl Engine {
    /// Counts an offence on `service` and answers it: at once, or if it led to a ban, when the ban is saved.
    pub fn record_offence(self: &Arc<Self>, now: Time, offence: &Offence, service: Service, reply: Reply) {
        self.record_offences(now, offence, service, 1, reply);
    }

    /// The same for `count` offences that were reported together.
    pub fn record_offences(self: &Arc<Self>, now: Time, offence: &Offence, service: Service, count: u32, reply: Reply) {
        let (CountResult { verdict, banned, networks, .. }, lock) = self.count_locked(now, offence, service, count);
        // One event of these may well be ordinary.
        let may_be_ordinary = |rule: &Arc<Rule>| {
            matches!(rule.trigger, Trigger::ConnectionRate | Trigger::PageProbe | Trigger::Ban) || rule.trigger.is_request_rate()
        };
        if !offence.rules.iter().all(may_be_ordinary) {
            self.false_positives.record(offence.client, Outcome::Offence, false);
        }
        let over_bans = self.offence_of_bans(offence, &banned);
        let mut networks = networks.into_iter().filter(|(rule, _)| rule.mode == Mode::Enforce);
        // The answer rests on the client's own ban, if there is one.
        if banned.is_empty()
            && let Some((rule, record)) = networks.next()
        {
            drop(lock);
            self.ban_network_by_rule(now, &rule, record, verdict, reply);
        } else {
            self.publish_bans(banned, verdict, reply);
            drop(lock);
        }
        for (rule, record) in networks {
            self.ban_network_by_rule(now, &rule, record, Verdict::Allow(AllowReason::NotApplicable), Reply::new(|_| ()));
        }
        if let Some(offence) = over_bans {
            self.record_offence(now, &offence, service, Reply::new(|_| ()));
        }
    }

    /// Counts `strikes` strikes under every offended rule, and bans where that reaches `maxretry`.
    ///
    /// Nothing is saved, published or answered. Replay needs no more than this; [`Engine::record_offence`] does the rest.
    pub fn count(&self, now: Time, offence: &Offence, service: Service, strikes: u32) -> CountResult {
        let (mut result, lock) = self.count_locked(now, offence, service, strikes);
        drop(lock);
        for (rule, record) in result.networks.iter().filter(|(rule, _)| rule.mode == Mode::Enforce) {
            self.replay_network(now, rule, record);
        }
        if let Some(offence) = self.offence_of_bans(offence, &result.banned) {
            let CountResult { banned, shadowed, networks, .. } = self.count(now, &offence, service, 1);
            result.banned.extend(banned);
            result.shadowed.extend(shadowed);
            result.networks.extend(networks);
        }
        result
    }

    /// The offence that new bans of a client are under rules that count bans; `None` if there is no such rule. Bans by these rules do not count.
    pub(super) fn offence_of_bans(&self, offence: &Offence, banned: &[BanRecord]) -> Option<Offence> {
        let policy = self.policy();
        let is_counted = |record: &&BanRecord| policy.rules.by_name(&record.rule).is_some_and(|rule| rule.trigger != Trigger::Ban);
        let record = if policy.rules.over_bans().is_empty() { None } else { banned.iter().find(is_counted) }?;
        let evidence = Evidence::new(&[b"banned by", record.rule.as_bytes(), b"for", record.evidence.as_str().as_bytes()]);
        Some(Offence { rules: policy.rules.over_bans().to_vec(), evidence, marks: None, account: None, ..offence.clone() })
    }

    /// Also returns the client's lock if it is banned now, to be held until its bans are passed to the journal. Networks are not banned yet: that
    /// takes another lock.
    fn count_locked(&self, now: Time, offence: &Offence, service: Service, strikes: u32) -> (CountResult, Option<MutexGuard<'_, ()>>) {
        let mut lock = None;
        let (mut banned, mut shadowed, mut networks) = (Vec::new(), Vec::new(), Vec::new());
        let mut refusal = None;
        let mut reason = AllowReason::NothingFound;
        let policy = self.policy();
        let prefix = policy.prefix;
        let concerns = |rule: &Rule| rule.concerns(offence.address, prefix, &policy.geo);
        let refuses_here = |rule: &Rule| rule.scope.services().contains(&service);
        let is_crawler = self.claims.exempts(now, offence.address, &policy.crawlers);
        let counting = || offence.rules.iter().filter(|rule| !(is_crawler && rule.trigger.is_ordinary()));
        for rule in counting() {
            let is_shadow = rule.mode == Mode::Shadow;
            if !concerns(rule) {
                continue;
            }
            let Some(strikes) = self.counting_strikes(now, rule, offence, strikes) else { continue };
            let (counter, reached) = match rule.count_by {
                CountBy::Client => {
                    let Some(counter) = self.strike(now, rule, offence.client, strikes) else { continue };
                    (counter, (counter.count() >= rule.maxretry).then_some(Cow::Borrowed(offence)))
                }
                CountBy::Account => {
                    let Some(Guess { counter, evidence }) = self.guess(now, rule, offence, prefix, strikes) else { continue };
                    (counter, evidence.map(|evidence| Cow::Owned(Offence { evidence, ..offence.clone() })))
                }
                CountBy::Network(_) | CountBy::Asn => {
                    match self.strike_crowd(now, rule, offence.client, &policy, strikes, || offence.evidence.clone()) {
                        None => continue,
                        Some(CrowdStrike::Counted(counter)) => (counter, None),
                        Some(CrowdStrike::Reached(record)) => {
                            if is_shadow {
                                self.shadow_network(rule, &record);
                            } else if refusal.is_none() && refuses_here(rule) {
                                refusal = Some(Refusal { rule: rule.id, until: record.until, reason: DenyReason::Struck });
                            }
                            networks.push((Arc::clone(rule), record));
                            continue;
                        }
                    }
                }
            };
            if let Some(offence) = reached {
                if is_shadow {
                    shadowed.extend(self.ban_by_rule(now, rule, &offence, counter));
                    continue;
                }
                lock.get_or_insert_with(|| self.client_locks.lock(&offence.client));
                let Some(record) = self.ban_by_rule(now, rule, &offence, counter) else { continue };
                if refusal.is_none() && refuses_here(rule) {
                    refusal = Some(Refusal { rule: rule.id, until: record.until, reason: DenyReason::Struck });
                }
                banned.push(record);
                continue;
            }
            if rule.fleet
                && !is_shadow
                && let Some(observer) = self.strike_observer.get()
            {
                observer(offence, rule, strikes, now);
            }
            if reason == AllowReason::NothingFound {
                reason =
                    if is_shadow { AllowReason::Shadow(rule.id) } else { AllowReason::Counted { rule: rule.id, count: counter.count() } };
            }
        }
        let refusal_without_ban = || {
            let refuses = |rule: &&Arc<Rule>| rule.mode == Mode::Enforce && rule.refuses_offence && concerns(rule);
            let rule = counting().find(refuses)?;
            Some(Refusal { rule: rule.id, until: Until::at(now), reason: DenyReason::Offence })
        };
        let verdict = match refusal.or_else(refusal_without_ban) {
            Some(refusal) => Detector::new(&policy, &self.bans).refuse(refusal, service),
            None => Verdict::Allow(reason),
        };
        (CountResult { verdict, banned, shadowed, networks }, lock)
    }

    /// How many of `strikes` strikes for an offence count under `rule`; `None` if none does: the rule has counted the same path or
    /// query already.
    fn counting_strikes(&self, now: Time, rule: &Rule, offence: &Offence, strikes: u32) -> Option<u32> {
        let Some(mark) = offence.marks.and_then(|marks| rule.mark(&marks)) else { return Some(strikes) };
        // Of a rule whose strikes a success clears, the latest places are remembered where it would.
        let most = if rule.distinct.is_some() { usize::try_from(rule.maxretry).unwrap_or(usize::MAX) } else { MAX_AREAS };
        let is_new = self.seen_marks.is_new(rule.id, offence.client, mark, now, rule.findtime, most);
        match rule.distinct {
            Some(_) => is_new.then_some(1),
            None => Some(strikes),
        }
    }

    /// Clears the strikes that a success of `client` is about.
    pub fn clear(&self, client: Client, cleared: &Cleared) {
        for rule in &cleared.rules {
            if rule.count_by != CountBy::Client {
                self.leave_crowd(rule, client, &self.policy());
                continue;
            }
            let is_elsewhere = |mark| rule.distinct.is_none() && !self.seen_marks.contains(rule.id, client, mark);
            if cleared.marks.and_then(|marks| rule.mark(&marks)).is_some_and(is_elsewhere) {
                continue;
            }
            self.forget_strikes(rule.id, client);
        }
    }

    /// Drops the strikes of `client` under one rule.
    fn forget_strikes(&self, rule: RuleId, client: Client) {
        self.strikes.forget(rule, client);
        self.seen_marks.forget(rule, client);
    }

    /// Counts strikes under one rule, and resets the count when it reaches `maxretry`. A rule with `maxretry` 1 stores none. `None` if the
    /// strikes do not count.
    pub(super) fn strike(&self, now: Time, rule: &Rule, client: Client, strikes: u32) -> Option<Counter> {
        if !self.counts_under(now, rule, client) {
            return None;
        }
        self.stats.offences.fetch_add(1, Ordering::Relaxed);
        if strikes >= rule.maxretry {
            self.forget_strikes(rule.id, client);
            return Some(Counter::new(now, strikes));
        }
        let counter = self.strikes.add(rule.id, client, now, rule.findtime, strikes);
        if counter.count() >= rule.maxretry {
            self.forget_strikes(rule.id, client);
        }
        Some(counter)
    }

    /// Whether strikes of `client` count under `rule`: a rule in shadow mode does not count while its shadow ban lasts, as an enforced rule
    /// does not see the requests of a banned client.
    pub(super) fn counts_under(&self, now: Time, rule: &Rule, client: Client) -> bool {
        let is_shadow_banned = |service: &Service| self.shadow_bans.get(client, *service, now).is_some();
        rule.mode == Mode::Enforce || !rule.scope.services().iter().all(is_shadow_banned)
    }

    /// Bans the offence's client as `rule` says, in memory, and logs it; in shadow mode only among the shadow bans. `None` if a reload has taken
    /// the rule out of force since the offence was judged.
    pub(super) fn ban_by_rule(&self, now: Time, rule: &Rule, offence: &Offence, counter: Counter) -> Option<BanRecord> {
        let record = self.new_record(now, rule, offence, counter);
        let text = || {
            format!(
                "{} {} by rule {} ({} in {}): {}",
                offence.client.display(self.policy().prefix),
                record.until.time().map_or_else(|| "forever".into(), |until| format!("until {}", timestamp(until))),
                rule.name,
                counter.count(),
                rule.findtime,
                record.evidence.as_str()
            )
        };
        if rule.mode == Mode::Shadow {
            self.shadow_bans.ban(offence.client, rule.scope, Ban { until: record.until, rule: rule.id, saved: true }, now);
            self.shadow_records.lock().put(offence.client, record.clone());
            self.stats.shadow_bans.fetch_add(1, Ordering::Relaxed);
            if self.logs.shadow.lock().has_room(rule.id) {
                log::info!("shadow: would ban {}", text());
            }
        } else {
            if !self.insert_ban(now, rule, &record) {
                return None;
            }
            if self.logs.made.lock().has_room(rule.id) {
                log::info!("banned {}", text());
            }
        }
        self.false_positives.record_ban(rule.id, offence.client);
        Some(record)
    }

    /// Bans as `rule` says because the strikes of all machines together reach its `maxretry`: `count` of them, the last one at `last`.
    pub fn ban_by_fleet_count(self: &Arc<Self>, now: Time, last: Time, rule: &Arc<Rule>, offence: &Offence, count: u32) {
        let is_banned = rule.scope.services().iter().all(|service| self.bans.get(offence.client, *service, now).is_some());
        if is_banned || rule.mode == Mode::Shadow || self.policy().lists.never_banned(offence.address).is_some() {
            return;
        }
        self.forget_strikes(rule.id, offence.client);
        let record = self.new_record(now, rule, offence, Counter::new(last, count));
        let lock = self.client_locks.lock(&offence.client);
        if !self.insert_ban(now, rule, &record) {
            return;
        }
        if self.logs.made.lock().has_room(rule.id) {
            log::info!(
                "banned {} by rule {} ({count} on all machines in {}): {}",
                offence.client,
                rule.name,
                rule.findtime,
                record.evidence.as_str()
            );
        }
        let banned = vec![record];
        let over_bans = self.offence_of_bans(offence, &banned);
        self.publish_bans(banned, Verdict::Allow(AllowReason::NotApplicable), Reply::new(|_| ()));
        drop(lock);
        if let (Some(offence), Some(service)) = (over_bans, rule.scope.services().first()) {
            self.record_offence(now, &offence, *service, Reply::new(|_| ()));
        }
    }

    /// False if a reload has taken the rule out of force.
    fn insert_ban(&self, now: Time, rule: &Rule, record: &BanRecord) -> bool {
        let ban = Ban { until: record.until, rule: rule.id, saved: self.journal.get().is_none() };
        let is_made = self.ban_if(record.client, rule.scope, ban, now, |standing| standing == Standing::Enforced).is_some();
        if is_made {
            self.stats.bans.fetch_add(1, Ordering::Relaxed);
        }
        is_made
    }

    /// The record of a ban by `rule`, longer than the client's earlier ones if the rule says so.
    fn new_record(&self, now: Time, rule: &Rule, offence: &Offence, counter: Counter) -> BanRecord {
        let times = next_times(&self.earlier_bans, now, rule, offence.client);
        BanRecord {
            client: offence.client,
            scope: rule.scope,
            rule: Arc::clone(&rule.name),
            first: counter.first(),
            since: now,
            until: rule.bantime.of(times - 1).map_or(Until::NEVER, |span| Until::at(now.after(span))),
            count: counter.count(),
            times,
            evidence: offence.evidence.clone(),
            node: "".into(),
        }
    }
}
