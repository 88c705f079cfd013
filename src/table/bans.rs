//! Bans by client: on which service, until when, under which rule. One lookup answers a query.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ahash::RandomState;
use dashmap::{DashMap, Entry};
use parking_lot::Mutex;

use super::bloom::BloomFilter;
use super::eviction::EvictionQueue;
use super::until::Until;
use crate::client::Client;
use crate::event::{Scope, Service};
use crate::rule_id::RuleId;
use crate::time::{Span, Time};

/// One client's ban on one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    pub until: Until,
    pub rule: RuleId,
    /// Whether it is in the state file; true without a state file.
    pub saved: bool,
}

/// A client's bans, one per service, in sixteen bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ClientBans {
    web: Slot,
    mail: Slot,
}

/// A packed [`Ban`], or no ban if `until` is 0. The top bit of `rule` marks an unsaved ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Slot {
    until: u32,
    rule: u32,
}

const UNSAVED: u32 = 1 << 31;

impl Slot {
    fn new(ban: Ban) -> Self {
        Self { until: ban.until.0, rule: ban.rule.number() | if ban.saved { 0 } else { UNSAVED } }
    }

    fn ban(self) -> Option<Ban> {
        (self.until != 0).then(|| Ban {
            until: Until(self.until),
            rule: RuleId::from_number(self.rule & !UNSAVED),
            saved: self.rule & UNSAVED == 0,
        })
    }

    fn active(self, now: Time) -> Option<Ban> {
        self.ban().filter(|ban| !ban.until.is_expired(now))
    }

    /// Whether a full table may evict the ban. Permanent bans and bans made by hand stay.
    fn is_evictable(self) -> bool {
        self.ban().is_none_or(|ban| ban.until != Until::NEVER && ban.rule != RuleId::MANUAL)
    }
}

impl ClientBans {
    fn slot(&self, service: Service) -> Slot {
        match service {
            Service::Web => self.web,
            Service::Mail => self.mail,
        }
    }

    fn slot_mut(&mut self, service: Service) -> &mut Slot {
        match service {
            Service::Web => &mut self.web,
            Service::Mail => &mut self.mail,
        }
    }

    /// The later end of the two bans, or `None` if one of them must not be evicted.
    fn evictable_until(&self) -> Option<Until> {
        (self.web.is_evictable() && self.mail.is_evictable()).then_some(Until(self.web.until.max(self.mail.until)))
    }
}

/// All bans: one concurrent map from client to bans.
pub struct Bans {
    map: DashMap<Client, ClientBans, RandomState>,
    /// Rules out most clients that are not in the map.
    bloom: BloomFilter,
    /// Number of clients in the map, because `DashMap::len` locks every shard.
    len: AtomicUsize,
    capacity: usize,
    eviction: Mutex<EvictionQueue>,
    evicted: AtomicU64,
    /// When [`Bans::sweep`] last scanned the map, in milliseconds.
    last_sweep: AtomicU64,
}

/// Up to this number of bans, [`Bans::prefetch`] is not worth its cost: the small part of the Bloom filter answers nearly every query.
const MIN_BANS_TO_PREFETCH: usize = 10_000;

/// Number of shards of the map. A scan locks one shard after the other; with a million bans, it delays a lookup by at most a tenth of a
/// millisecond.
const SHARDS: usize = 256;

/// A table with less room than this fraction of its capacity is nearly full.
const NEARLY_FULL: usize = 32;

/// Number of bans that [`Bans::sweep`] scans per millisecond of elapsed time: about half a percent of one core.
const SWEPT_PER_MILLISECOND: usize = 100;

impl Bans {
    /// A table of at most `capacity` clients (at least one). Bans made by hand may exceed the limit.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            map: DashMap::with_hasher_and_shard_amount(RandomState::new(), SHARDS),
            bloom: BloomFilter::new(capacity),
            len: AtomicUsize::new(0),
            capacity: capacity.max(1),
            eviction: Mutex::default(),
            evicted: AtomicU64::new(0),
            last_sweep: AtomicU64::new(0),
        }
    }

    /// The ban of `client` that is active on `service` at `now`.
    #[must_use]
    pub fn get(&self, client: Client, service: Service, now: Time) -> Option<Ban> {
        if self.is_empty() || !self.bloom.may_contain(self.map.hasher().hash_one(client)) {
            return None;
        }
        self.map.get(&client)?.slot(service).active(now)
    }

    /// Brings the Bloom filter's words for `clients` into the cache, for the lookups that follow.
    ///
    /// In a large table, each lookup waits for memory. In this loop the processor overlaps the waits, which it cannot do across whole
    /// queries.
    pub fn prefetch(&self, clients: impl Iterator<Item = Client>) {
        if self.len() > MIN_BANS_TO_PREFETCH {
            let hashes: Vec<u64> = clients.map(|client| self.map.hasher().hash_one(client)).collect();
            black_box(hashes.into_iter().filter(|hash| self.bloom.may_contain(*hash)).count());
        }
    }

    /// Bans `client` on every service of `scope`. An existing ban that ends later is kept. Returns whether anything changed.
    pub fn ban(&self, client: Client, scope: Scope, ban: Ban, now: Time) -> bool {
        let mut changed = false;
        // Before the ban is in the map, so that no concurrent lookup misses it.
        self.bloom.add(self.map.hasher().hash_one(client));
        let is_over_capacity = match self.map.entry(client) {
            Entry::Occupied(mut entry) => {
                for service in scope.services() {
                    let slot = entry.get_mut().slot_mut(*service);
                    if slot.active(now).is_none_or(|active| active.until < ban.until) {
                        *slot = Slot::new(ban);
                        changed = true;
                    }
                }
                false
            }
            Entry::Vacant(entry) => {
                let mut bans = ClientBans { web: Slot::default(), mail: Slot::default() };
                for service in scope.services() {
                    *bans.slot_mut(*service) = Slot::new(ban);
                    changed = true;
                }
                // Counted before another thread can remove it, or the counter could drop below zero.
                let others = self.len.fetch_add(1, Ordering::Relaxed);
                entry.insert(bans);
                others >= self.capacity
            }
        };
        if is_over_capacity {
            self.evict(now, client, ban);
        }
        changed
    }

    /// Marks the bans of `client` that end at `until` as saved.
    pub fn mark_saved(&self, client: Client, until: Until) {
        if let Some(mut bans) = self.map.get_mut(&client) {
            let bans = bans.value_mut();
            for slot in [&mut bans.web, &mut bans.mail] {
                if slot.until == until.0 {
                    slot.rule &= !UNSAVED;
                }
            }
        }
    }

    /// Marks the bans of `client` as unsaved, after they were deleted from the state file.
    ///
    /// A ban that is in the table then is newer than the deletion, although it may end in the same second as the deleted one.
    pub fn mark_unsaved(&self, client: Client, scope: Scope) {
        if let Some(mut bans) = self.map.get_mut(&client) {
            for service in scope.services() {
                bans.value_mut().slot_mut(*service).rule |= UNSAVED;
            }
        }
    }

    /// Removes the bans of `client` on every service of `scope`. Returns whether there was one.
    pub fn unban(&self, client: Client, scope: Scope) -> bool {
        let mut found = false;
        if let Entry::Occupied(mut entry) = self.map.entry(client) {
            for service in scope.services() {
                let slot = entry.get_mut().slot_mut(*service);
                found |= slot.until != 0;
                *slot = Slot::default();
            }
            if entry.get().web.until == 0 && entry.get().mail.until == 0 {
                entry.remove();
                self.len.fetch_sub(1, Ordering::Relaxed);
            }
        }
        found
    }

    /// Removes all bans of rules for which `is_lifted`. Returns the clients that each of them had banned.
    pub fn unban_rules(&self, is_lifted: impl Fn(RuleId) -> bool) -> HashMap<RuleId, Vec<(Client, Scope)>> {
        let mut lifted: HashMap<RuleId, Vec<(Client, Scope)>> = HashMap::new();
        self.map.retain(|client, bans| {
            let mut last = None;
            for (slot, scope) in [(&mut bans.web, Scope::Web), (&mut bans.mail, Scope::Mail)] {
                let Some(rule) = slot.ban().map(|ban| ban.rule).filter(|rule| is_lifted(*rule)) else { continue };
                *slot = Slot::default();
                let clients = lifted.entry(rule).or_default();
                // A client that one rule bans on both services counts once.
                match clients.last_mut().filter(|_| last == Some(rule)) {
                    Some((_, known)) => *known = Scope::All,
                    None => clients.push((*client, scope)),
                }
                last = Some(rule);
            }
            let stays = bans.web.until != 0 || bans.mail.until != 0;
            if !stays {
                self.len.fetch_sub(1, Ordering::Relaxed);
            }
            stays
        });
        lifted
    }

    /// Calls [`Bans::expire`] if the last call is long enough ago: ten seconds for a million bans. May be called at any rate.
    ///
    /// Bans end on time regardless; only `ended` is called late. Also finds the bans that a full table is to evict next.
    pub fn sweep(&self, now: Time, ended: impl FnMut(Client, RuleId)) {
        self.prepare_evictions(now);
        let last = Time::from_millis(self.last_sweep.load(Ordering::Relaxed));
        let pause = Span::from_millis((self.len() / SWEPT_PER_MILLISECOND) as u64);
        if last > now || last.after(pause) <= now {
            self.last_sweep.store(now.millis(), Ordering::Relaxed);
            self.expire(now, ended);
        }
    }

    /// Removes ended bans, and calls `ended` for each client without a remaining ban, with the rule of its last one.
    pub fn expire(&self, now: Time, mut ended: impl FnMut(Client, RuleId)) {
        self.map.retain(|client, bans| {
            if bans.web.active(now).is_some() || bans.mail.active(now).is_some() {
                return true;
            }
            let last = if bans.web.until >= bans.mail.until { bans.web } else { bans.mail };
            if let Some(ban) = last.ban() {
                ended(*client, ban.rule);
            }
            self.len.fetch_sub(1, Ordering::Relaxed);
            false
        });
    }

    /// Calls `visit` for every active ban, separately for each service. `visit` runs under a shard's lock and must not use this table.
    pub fn for_each(&self, now: Time, mut visit: impl FnMut(Client, Service, Ban)) {
        for entry in &self.map {
            for service in Service::ALL {
                if let Some(ban) = entry.value().slot(service).active(now) {
                    visit(*entry.key(), service, ban);
                }
            }
        }
    }

    /// Number of banned clients, including those whose bans have ended and are not removed yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of bans evicted before their end because the table was full.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Finds the bans to evict next if the table is nearly full, so that those who ban need not scan it themselves.
    fn prepare_evictions(&self, now: Time) {
        let is_nearly_full = self.len() >= self.capacity - self.capacity / NEARLY_FULL;
        if is_nearly_full && self.eviction.lock().begin_scan() {
            let found = EvictionQueue::from_scan(self.evictable());
            self.eviction.lock().end_scan(now, found);
        }
    }

    /// All bans that may be evicted.
    fn evictable(&self) -> impl Iterator<Item = (Until, Client)> {
        self.map.iter().filter_map(|entry| Some((entry.value().evictable_until()?, *entry.key())))
    }

    /// Makes room for the newcomer by evicting the ban that ends soonest, which may be the newcomer's own.
    ///
    /// If no ban may be evicted, the newcomer's own is, unless it was made by hand: a rule with permanent bans must not let the table grow
    /// without limit.
    fn evict(&self, now: Time, newcomer: Client, ban: Ban) {
        let mut queue = self.eviction.lock();
        queue.offer(newcomer, ban.until);
        let remove = |client: Client, until| {
            let removed = self.map.remove_if(&client, |_, bans| bans.evictable_until() == Some(until)).is_some();
            if removed {
                self.len.fetch_sub(1, Ordering::Relaxed);
            }
            removed
        };
        let evicted = queue.evict(now, || self.evictable(), remove);
        drop(queue);
        match evicted {
            Some(until) if until.is_expired(now) => {}
            Some(_) => _ = self.evicted.fetch_add(1, Ordering::Relaxed),
            None if ban.rule != RuleId::MANUAL && self.map.remove(&newcomer).is_some() => {
                self.len.fetch_sub(1, Ordering::Relaxed);
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
            None => {}
        }
    }
}

#[cfg(test)]
#[path = "bans_tests.rs"]
mod tests;
