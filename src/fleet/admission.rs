//! Decides which bans of other nodes are made here: none of a client that is never banned, and no more than a node may publish.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::local::{Local, active_until, client_of, is_active};
use super::message::PublishedBan;
use super::origin::scope_of;
use crate::client::{Client, Ipv6Prefix, ShortNetwork, is_single};
use crate::clock::timestamp;
use crate::engine::{BanRecord, Completion, Engine, NetworkRecord};
use crate::event::{Scope, Service};
use crate::logging::ThrottledLog;
use crate::rule::Standing;
use crate::rule_id::{FLEET, RuleId};
use crate::table::Until;
use crate::time::{Span, Time};

/// Maximum number of banned networks for another node to add one: each new one copies the list.
const MAX_NETWORKS: usize = 16_384;
/// Maximum number of counters, one for each node and minute.
const MAX_MINUTES: usize = 65_536;
/// The ended bans are purged from the origins when there are more than this many.
const PURGE_THRESHOLD: usize = 1024;
/// Minimum time between two purges.
const PURGE_INTERVAL: Duration = Duration::from_secs(10);
/// Each machine rounds the end of a ban up to a whole second, so the same ban may end this much later on another machine.
const ROUNDING: Span = Span::from_secs(3);

/// The outcome for a ban of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Made,
    /// It is already active here, or over, or of a rule that refuses nobody here.
    Redundant,
    Refused,
}

/// The bans of other nodes so far.
pub struct Admissions {
    /// Maximum number of clients that are banned on this machine.
    bans: usize,
    limit: AdmissionLimit,
    purged: Option<Instant>,
    never_banned: ThrottledLog,
    other_prefix: ThrottledLog,
    too_many: ThrottledLog,
}

impl Admissions {
    pub fn new(bans: usize, bans_per_minute: u32) -> Self {
        let limit = AdmissionLimit { bans_per_minute, minutes: HashMap::default() };
        Self {
            bans,
            limit,
            purged: None,
            never_banned: ThrottledLog::default(),
            other_prefix: ThrottledLog::default(),
            too_many: ThrottledLog::default(),
        }
    }

    /// Makes a ban that another node published, if it is admitted.
    pub fn admit(&mut self, local: &Local, engine: &Arc<Engine>, now: Time, ban: &PublishedBan) -> Admission {
        let until = ban.until.map_or(Until::NEVER, |until| Until::at(local.to_local(until)));
        if until.is_expired(now) || is_known(engine, now, ban, until) {
            return Admission::Redundant;
        }
        let rule = engine.names().find(&ban.record.rule);
        if matches!(engine.policy().rules.standing(rule, &ban.record.rule), Standing::Shadow | Standing::Off) {
            return Admission::Redundant;
        }
        let admission = if !self.limit.admits(&ban.node, ban.accepted) {
            self.too_many.warn(|| format!("rejected bans of node {}: more than {} per minute", ban.node, self.limit.bans_per_minute));
            Admission::Refused
        } else if let Some(reason) = engine.policy().lists.overlaps_never_banned(network_of(engine, ban.target)) {
            self.never_banned
                .warn(|| format!("rejected the ban of {} by node {}: it is never banned here: {reason}", ban.target, ban.node));
            Admission::Refused
        } else if let Some(bits) = other_prefix(engine, ban) {
            self.other_prefix.warn(|| {
                let (target, node, own) = (ShortNetwork(ban.target), &ban.node, engine.policy().prefix.bits());
                format!("rejected the ban of {target} by node {node}: found ipv6_prefix = {bits} there, expected {own} as on this machine")
            });
            Admission::Refused
        } else if !self.has_room(engine, now, ban, rule) || !self.record_origin(local, engine, now, ban, until) {
            self.too_many.warn(|| format!("rejected a ban of node {}: there are too many bans or nodes already", ban.node));
            Admission::Refused
        } else {
            make(local, engine, now, ban, until, rule);
            Admission::Made
        };
        let health = &local.health;
        let counter = if admission == Admission::Made { &health.received } else { &health.refused };
        counter.fetch_add(1, Ordering::Relaxed);
        admission
    }

    /// Whether the ban fits into the table. In a full table, a ban with an end displaces another one; a permanent or manual ban is never
    /// displaced, so it is admitted only while there is room.
    fn has_room(&self, engine: &Engine, now: Time, ban: &PublishedBan, rule: Option<RuleId>) -> bool {
        let is_active = is_active(engine, ban.target, Scope::All, now);
        if !is_single(ban.target) {
            return is_active || engine.policy().lists.banned.len() < MAX_NETWORKS;
        }
        let is_never_displaced = ban.until.is_none() || rule == Some(RuleId::MANUAL);
        is_active || !is_never_displaced || engine.bans().len() < self.bans
    }

    /// Records which node made the ban, on those services where no other ban lasts longer. False if there are too many nodes.
    fn record_origin(&mut self, local: &Local, engine: &Engine, now: Time, ban: &PublishedBan, until: Until) -> bool {
        let ends_first = |service: &Service| active_until(engine, ban.target, *service, now).is_none_or(|active| active < until);
        let services = ban.scope.services().iter().filter(|service| !is_single(ban.target) || ends_first(service));
        let Some(scope) = scope_of(services.copied()) else { return true };
        let known = local.origins.lock().len();
        if known > engine.bans().len() + engine.policy().lists.banned.len() + PURGE_THRESHOLD {
            self.purge(local, engine, now);
        }
        let record = || local.origins.lock().record(ban.target, scope, &ban.node);
        record() || (self.purge(local, engine, now) && record())
    }

    /// Removes ended bans from the origins, a few at a time under the lock, because the engine takes it for every ban.
    fn purge(&mut self, local: &Local, engine: &Engine, now: Time) -> bool {
        if self.purged.is_some_and(|purged| purged.elapsed() < PURGE_INTERVAL) {
            return false;
        }
        self.purged = Some(Instant::now());
        let mut ended = local.origins.lock().targets();
        ended.retain(|target| !is_active(engine, *target, Scope::All, now));
        for few in ended.chunks(256) {
            let mut origins = local.origins.lock();
            few.iter().for_each(|target| origins.clear(*target, Scope::All));
        }
        local.origins.lock().release_nodes();
        true
    }
}

/// Whether the ban is already active here.
fn is_known(engine: &Engine, now: Time, ban: &PublishedBan, until: Until) -> bool {
    let outlasts = |active: Until| match (active.time(), until.time()) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(active), Some(until)) => active.after(ROUNDING) >= until,
    };
    ban.scope.services().iter().all(|service| active_until(engine, ban.target, *service, now).is_some_and(outlasts))
}

fn make(local: &Local, engine: &Arc<Engine>, now: Time, ban: &PublishedBan, until: Until, rule: Option<RuleId>) {
    // An unknown rule's name is not interned: names are never dropped, and an attacker could send any number of them.
    let name = rule.map_or_else(|| FLEET.into(), |id| engine.names().name(id));
    let ends = until.time().map_or_else(|| "forever".into(), |time| format!("until {}", timestamp(time)));
    log::info!("banned {} {ends} by rule {name} of node {}", ShortNetwork(network_of(engine, ban.target)), ban.node);
    let since = local.to_local(ban.since).min(now);
    if !is_single(ban.target) {
        local.origins.lock().expect_echo(ban.target, since);
        let members = if name.as_ref() == "manual" { 0 } else { ban.record.count };
        let record = NetworkRecord::manual(ban.target, since, until, ban.record.evidence());
        return engine.ban_network(NetworkRecord { rule: name, scope: ban.scope, members, ..record }, Completion::ignored());
    }
    let client = client_of(ban.target.addr());
    if let Some(id) = rule {
        // The count starts again, as it does on the node that made the ban.
        engine.strikes().forget(id, client);
    }
    let record = BanRecord {
        client,
        scope: ban.scope,
        rule: name,
        first: since,
        since,
        until,
        count: ban.record.count,
        times: ban.record.times,
        evidence: ban.record.evidence(),
        node: ban.node.as_str().into(),
    };
    engine.ban(record, Completion::ignored());
}

/// The network that a ban of `target` refuses on this machine: for an IPv6 client its whole prefix.
fn network_of(engine: &Engine, target: IpNet) -> IpNet {
    let bits = |client: Client, prefix: Ipv6Prefix| if client.address().is_ipv4() { 32 } else { prefix.bits() };
    if !is_single(target) {
        return target;
    }
    let client = client_of(target.addr());
    IpNet::new(client.address(), bits(client, engine.policy().prefix)).unwrap_or(target)
}

/// The `ipv6_prefix` of the node that banned an IPv6 client, if it is another than here: what is one client there, is a part of one here or
/// several, so the ban would refuse nobody or the wrong ones. `None` if it is the same.
fn other_prefix(engine: &Engine, ban: &PublishedBan) -> Option<String> {
    let (own, address) = (engine.policy().prefix, ban.target.addr());
    if !is_single(ban.target) || address.is_ipv4() {
        return None;
    }
    match ban.record.ipv6_prefix {
        Some(bits) => (bits != own.bits()).then(|| bits.to_string()),
        // Of an older version, which does not tell.
        None => (Client::of(address, own) != client_of(address)).then(|| format!("more than {}", own.bits())),
    }
}

/// Counts the bans of each node by the minute of Redis's clock in which Redis accepted them, as `ban.lua` does. So all nodes admit the same
/// bans, also one that joins later.
struct AdmissionLimit {
    bans_per_minute: u32,
    minutes: HashMap<u64, u32, ahash::RandomState>,
}

impl AdmissionLimit {
    fn admits(&mut self, node: &str, accepted: Time) -> bool {
        let key = self.minutes.hasher().hash_one((node, accepted.secs() / 60));
        if self.minutes.len() >= MAX_MINUTES && !self.minutes.contains_key(&key) {
            // Anybody can make up names and times. Bans beyond the forgotten counts are still limited by the size of the table.
            self.minutes.clear();
        }
        let count = self.minutes.entry(key).or_default();
        *count = count.saturating_add(1);
        *count <= self.bans_per_minute
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
