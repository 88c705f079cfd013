//! Ban records: what is known of a client's bans besides the service and the end, which the table holds.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use ahash::RandomState;
use ipnet::IpNet;
use lru::LruCache;
use parking_lot::Mutex;

use super::{BanRecord, Change, Completion, Engine, Forgotten};
use crate::client::Client;
use crate::event::{Scope, Service};
use crate::geo::Network;
use crate::rule::{Evidence, Mode, Rule};
use crate::rule_id::RuleId;
use crate::table::Ban;
use crate::time::Time;

/// The bans of one client or network under one rule so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlierBans {
    /// Their number.
    pub times: u32,
    /// When the last one began.
    pub last: Time,
}

/// The earlier bans of clients, or of networks, under each rule whose bantime grows.
pub(super) type EarlierBansOf<T> = Mutex<LruCache<(T, RuleId), EarlierBans, RandomState>>;

/// The ordinal of a ban of `banned` by `rule` now, from 1: with a bantime that does not grow, always 1.
pub(super) fn next_times<T: Copy + Eq + Hash>(of: &EarlierBansOf<T>, now: Time, rule: &Rule, banned: T) -> u32 {
    let Some(increment) = &rule.bantime.increment else { return 1 };
    let mut earlier_bans = of.lock();
    let earlier = earlier_bans.get(&(banned, rule.id)).filter(|earlier| earlier.last.after(increment.forget) > now);
    let times = earlier.map_or(0, |earlier| earlier.times).saturating_add(1);
    if rule.mode == Mode::Enforce {
        earlier_bans.put((banned, rule.id), EarlierBans { times, last: now });
    }
    times
}

/// Drops the entries of which `is_forgotten` says so.
fn drop_where<T: Copy + Eq + Hash>(of: &EarlierBansOf<T>, is_forgotten: impl Fn(&(T, RuleId)) -> bool) {
    let mut earlier_bans = of.lock();
    let keys: Vec<_> = earlier_bans.iter().map(|(key, _)| *key).filter(is_forgotten).collect();
    keys.iter().for_each(|key| _ = earlier_bans.pop(key));
}

impl Engine {
    /// The record of the latest ban of `client`, if it is still in memory.
    #[must_use]
    pub fn ban_record(&self, client: Client) -> Option<BanRecord> {
        self.records.lock().peek(&client).cloned()
    }

    /// The record of `ban` if it is still in memory; otherwise one with what the table itself knows.
    #[must_use]
    pub fn record_of(&self, client: Client, service: Service, ban: Ban, now: Time) -> BanRecord {
        let rule = self.names.name(ban.rule);
        if let Some(record) = self.ban_record(client).filter(|record| record.until == ban.until && record.rule == rule) {
            return record;
        }
        BanRecord {
            client,
            scope: service.scope(),
            rule,
            first: now,
            since: now,
            until: ban.until,
            count: 0,
            times: 1,
            evidence: Evidence::new(&[]),
            node: "".into(),
        }
    }

    /// Calls `then` with the record of `ban`, unless it was removed or replaced. No ban of `client` is made or removed until `then` returns.
    pub fn with_record_if_active(&self, now: Time, client: Client, service: Service, ban: Ban, then: impl FnOnce(BanRecord)) {
        let _lock = self.client_locks.lock(&client);
        if self.bans.get(client, service, now).is_some_and(|active| active.until == ban.until) {
            // The record may name both services although the client was unbanned on one of them since.
            then(BanRecord { scope: service.scope(), ..self.record_of(client, service, ban, now) });
        }
    }

    /// The record of the latest ban of `client` that a rule in shadow mode would have made, if it is still in memory.
    #[must_use]
    pub fn shadow_record(&self, client: Client) -> Option<BanRecord> {
        self.shadow_records.lock().peek(&client).cloned()
    }

    /// Forgets the bans of `client` that would make its next one longer, of all rules that refuse on a service of `scope`. Returns the names of
    /// the others.
    pub(super) fn forget_earlier_bans(&self, client: Client, scope: Scope) -> Vec<Arc<str>> {
        let policy = self.policy();
        let growing = policy.rules.rules().iter().filter(|rule| rule.bantime.increment.is_some());
        let (forgotten, kept): (Vec<_>, Vec<_>) = growing.partition(|rule| refuses_on(rule, scope));
        let mut earlier_bans = self.earlier_bans.lock();
        forgotten.iter().for_each(|rule| _ = earlier_bans.pop(&(client, rule.id)));
        kept.iter().map(|rule| Arc::clone(&rule.name)).collect()
    }

    /// Forgets the bans that would make the next ones longer: of all clients, of those in `network`, or under `rule`; of rules that refuse on a
    /// service of `scope`.
    pub fn forget_all_earlier_bans(self: &Arc<Self>, rule: Option<RuleId>, network: Option<IpNet>, scope: Scope, completion: Completion) {
        let policy = self.policy();
        let growing = policy.rules.rules().iter().filter(|rule| rule.bantime.increment.is_some());
        let kept = growing.filter(|rule| !refuses_on(rule, scope)).map(|rule| Arc::clone(&rule.name)).collect();
        let forgotten = Forgotten { rule: rule.map(|rule| self.names.name(rule)), network, kept };
        self.drop_earlier_bans(&forgotten);
        self.persist_and_complete(Change::Forgotten(forgotten), true, completion);
    }

    pub(super) fn drop_earlier_bans(&self, forgotten: &Forgotten) {
        let prefix = self.policy().prefix;
        let rule = forgotten.rule.as_deref().map(|rule| self.names.find(rule));
        let kept: HashSet<RuleId> = forgotten.kept.iter().filter_map(|name| self.names.find(name)).collect();
        let is_forgotten = |banned: Network, of: &RuleId| {
            rule.is_none_or(|rule| rule == Some(*of))
                && forgotten.network.is_none_or(|network| banned.block().is_some_and(|block| network.contains(&block)))
                && !kept.contains(of)
        };
        drop_where(&self.earlier_bans, |(client, of)| is_forgotten(client.network(prefix).into(), of));
        drop_where(&self.earlier_networks, |(network, of)| is_forgotten(*network, of));
    }

    /// Forgets the bans of exactly this network that would make its next one longer.
    pub(super) fn forget_earlier_bans_of_network(&self, network: Network) {
        drop_where(&self.earlier_networks, |(of, _)| *of == network);
    }

    /// Restores the earlier bans of a client under a rule, as a state file has them.
    pub fn restore_earlier_bans(&self, client: Client, rule: &str, earlier: EarlierBans) {
        let rule = self.names.intern(rule);
        self.earlier_bans.lock().put((client, rule), earlier);
    }
}

/// Whether bans by `rule` refuse on a service of `scope`.
fn refuses_on(rule: &Rule, scope: Scope) -> bool {
    rule.scope.services().iter().any(|service| scope.services().contains(service))
}
