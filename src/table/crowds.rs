//! Groups of clients that offend together, such as those of a network or those that guess at one account: how often each offended lately,
//! and how many different clients of it did.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;
use parking_lot::Mutex;

use super::counter::Counter;
use super::groups::Groups;
use super::member_filter::MemberFilter;
use super::members::Members;
use crate::client::Client;
use crate::rule_id::RuleId;
use crate::time::{Span, Time};

/// Maximum number of different clients that a rule may require of a group: so many are remembered of each.
pub const MAX_MEMBERS: u32 = 1024;

/// Number of locks, each for its part of the groups.
const SHARDS: usize = 16;

/// Members remembered per group on average. Large groups take room from others, so that memory is bounded by the number of groups.
const MEMBERS_PER_GROUP: usize = 32;

/// Number of clients of a group that are named when it is banned.
const EXAMPLES: usize = 3;

/// Expired groups dropped from each part by one sweep at most, which holds the lock.
const SWEEP_BATCH: usize = 256;

/// How many offences of a group are too many.
#[derive(Debug, Clone, Copy)]
pub struct CrowdLimit {
    pub rule: RuleId,
    pub findtime: Span,
    /// Number of offences within `findtime`.
    pub maxretry: u32,
    /// Number of different clients that offended within `findtime`, 1 to [`MAX_MEMBERS`].
    pub members: u32,
    /// Whether the count starts again when the limit is reached. Otherwise each further offence reaches it, as long as enough members are left.
    pub starts_again: bool,
}

/// What is known of a group after an offence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrowdCount {
    pub counter: Counter,
    /// Number of different clients, counted up to the limit's `members`: within `findtime` if the number of offences is reached, otherwise those
    /// that are remembered.
    pub members: u32,
    /// Whether both limits are reached.
    pub is_reached: bool,
    /// Some of the clients, if the limits are reached and the count starts again.
    pub examples: Vec<Client>,
}

/// The groups of all rules, named by `G`: the one that has not offended for longest makes room.
///
/// Of a group, the latest `members` different clients are remembered, each by four bytes of a keyed hash and the second of its last offence.
/// That decides exactly whether so many different clients offended within `findtime`, but for collisions of the hash, which attackers
/// cannot choose and which only make a group smaller.
pub struct Crowds<G> {
    shards: Box<[Mutex<Shard<G>>]>,
    hasher: RandomState,
    /// The members of all groups.
    filter: MemberFilter,
    evicted: AtomicU64,
}

struct Shard<G> {
    groups: Groups<(RuleId, G), Crowd>,
    max_groups: usize,
    /// Number of members of all groups.
    members: usize,
    max_members: usize,
}

struct Crowd {
    counter: Counter,
    members: Members,
    examples: Vec<Client>,
}

impl<G: Copy + Eq + Hash> Crowds<G> {
    /// At most `groups` groups (at least [`SHARDS`]), over all rules.
    #[must_use]
    pub fn new(groups: usize) -> Self {
        let hasher = RandomState::new();
        let max_groups = groups.div_ceil(SHARDS).max(1);
        let max_members = (max_groups * MEMBERS_PER_GROUP).max(MAX_MEMBERS as usize);
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard { groups: Groups::default(), max_groups, members: 0, max_members }));
        let filter = MemberFilter::new(max_members * SHARDS);
        Self { shards: shards.collect(), hasher, filter, evicted: AtomicU64::new(0) }
    }

    /// Counts `strikes` offences of `client`, a member of `group`, at `now`.
    pub fn add(&self, limit: CrowdLimit, group: G, client: Client, now: Time, strikes: u32) -> CrowdCount {
        let key = (limit.rule, group);
        let (key_hash, second) = (self.hasher.hash_one(key), u32::try_from(now.secs()).unwrap_or(u32::MAX));
        let mut shard = self.shard(key_hash);
        let known = shard.groups.use_at(key_hash, &key, second);
        let place = known.or_else(|| {
            if shard.groups.len() >= shard.max_groups {
                self.evict(&mut shard);
            }
            // The first offence is counted below.
            let crowd = Crowd { counter: Counter::new(now, 0), members: Members::default(), examples: Vec::new() };
            shard.groups.insert(key_hash, key, crowd, second)
        });
        let Some(crowd) = place.and_then(|place| shard.groups.at(place)) else {
            return CrowdCount { counter: Counter::new(now, strikes), members: 0, is_reached: false, examples: Vec::new() };
        };
        crowd.counter.add(now, limit.findtime, strikes);
        let (before, counter) = (crowd.members.len(), crowd.counter);
        let hash = self.hash_of(client);
        self.filter.add(hash);
        let is_new = crowd.members.note(hash, now, limit.members as usize);
        // Those that came latest are named, so nobody is kept as an example before there are nearly enough.
        if is_new && limit.starts_again && before + EXAMPLES >= limit.members as usize {
            if crowd.examples.len() >= EXAMPLES {
                crowd.examples.remove(0);
            }
            crowd.examples.push(client);
        }
        // Nearly always one of them is not enough, and then it does not matter which members are still live.
        let may_be_reached = counter.count() >= limit.maxretry && crowd.members.len() >= limit.members as usize;
        let live = if may_be_reached { crowd.members.live(now, limit.findtime) } else { crowd.members.len() };
        let is_reached = may_be_reached && live >= limit.members as usize;
        let examples = if is_reached { std::mem::take(&mut crowd.examples) } else { Vec::new() };
        let after = crowd.members.len();
        shard.members = (shard.members + after).saturating_sub(before);
        if is_reached && limit.starts_again {
            shard.forget(key_hash, &key);
        }
        while shard.members > shard.max_members && shard.groups.len() > 1 {
            self.evict(&mut shard);
        }
        CrowdCount { counter, members: u32::try_from(live).unwrap_or(u32::MAX), is_reached, examples }
    }

    /// False if `client` is no member of any group. That is nearly always so, and costs a single look.
    #[must_use]
    pub fn may_be_member(&self, client: Client) -> bool {
        // Without the Referer in Squid's FORMAT, nobody ever is.
        !self.filter.is_empty() && self.filter.may_contain(self.hash_of(client))
    }

    /// Takes `client` out of `group`: it had a success. The offences stay counted. Members beyond the limit that were forgotten are not
    /// counted in its place, so a group may seem smaller than it is.
    pub fn leave(&self, rule: RuleId, group: G, client: Client) {
        let (key, hash) = ((rule, group), self.hash_of(client));
        // A group and its members lie far apart in memory, and most of them in no cache.
        if !self.filter.may_contain(hash) {
            return;
        }
        let key_hash = self.hasher.hash_one(key);
        let mut shard = self.shard(key_hash);
        let Some(crowd) = shard.groups.get_mut(key_hash, &key) else { return };
        if crowd.members.forget(hash) {
            crowd.examples.retain(|example| *example != client);
            shard.members = shard.members.saturating_sub(1);
        }
    }

    /// The count of `group` under `rule`, and the number of clients remembered of it, live or not.
    #[must_use]
    pub fn get(&self, rule: RuleId, group: G) -> Option<(Counter, usize)> {
        let key = (rule, group);
        let hash = self.hasher.hash_one(key);
        self.shard(hash).groups.get(hash, &key).map(|crowd| (crowd.counter, crowd.members.len()))
    }

    /// Drops what no longer matters, least recently used first. `findtime` is that of a rule, if it is in force.
    pub fn sweep(&self, now: Time, findtime: impl Fn(RuleId) -> Option<Span>) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            for _ in 0..SWEEP_BATCH {
                let is_expired = shard
                    .groups
                    .oldest()
                    .is_some_and(|((rule, _), crowd)| findtime(*rule).is_none_or(|findtime| crowd.counter.is_expired(now, findtime)));
                if !is_expired {
                    break;
                }
                shard.pop();
            }
        }
        let members = self.shards.iter().map(|shard| shard.lock().members).sum();
        if self.filter.is_stale(members) {
            let shards: Vec<_> = self.shards.iter().map(Mutex::lock).collect();
            self.filter.keep_only(shards.iter().flat_map(|shard| shard.groups.values()).flat_map(|crowd| crowd.members.hashes()));
        }
    }

    /// Number of groups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().groups.len()).sum()
    }

    /// Number of groups that made room for newer ones since the start.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn evict(&self, shard: &mut Shard<G>) {
        shard.pop();
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// The part of a key with this hash.
    #[expect(clippy::indexing_slicing, reason = "a remainder by the length")]
    fn shard(&self, hash: u64) -> parking_lot::MutexGuard<'_, Shard<G>> {
        // hashbrown uses the lowest and highest bits of the same hash.
        let index = usize::try_from(hash >> 32).unwrap_or(0) % self.shards.len();
        self.shards[index].lock()
    }

    #[expect(clippy::cast_possible_truncation, reason = "32 bits of the hash are enough to tell the members of a group apart")]
    fn hash_of(&self, client: Client) -> u32 {
        self.hasher.hash_one(client) as u32
    }
}

impl<G: Copy + Eq + Hash> Shard<G> {
    fn forget(&mut self, hash: u64, key: &(RuleId, G)) {
        if let Some(crowd) = self.groups.remove(hash, key) {
            self.members = self.members.saturating_sub(crowd.members.len());
        }
    }

    /// Drops the group that has not offended for longest.
    fn pop(&mut self) {
        if let Some((_, crowd)) = self.groups.remove_oldest() {
            self.members = self.members.saturating_sub(crowd.members.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::strikes::fixtures::{FINDTIME, at, client, rules};
    use super::*;

    use ipnet::IpNet;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn limit(maxretry: u32, members: u32) -> CrowdLimit {
        CrowdLimit { rule: rules().0, findtime: FINDTIME, maxretry, members, starts_again: true }
    }

    fn network(number: u8) -> IpNet {
        IpNet::new([10, 0, number, 0].into(), 24).unwrap()
    }

    #[test]
    fn one_busy_client_never_reaches_the_limit_of_its_network() {
        let crowds = Crowds::new(10);
        let counts = (0..10_000).map(|second| crowds.add(limit(5, 3), network(1), client(1), at(second), 1));
        assert!(counts.into_iter().all(|count| !count.is_reached && count.members == 1));
    }

    #[test]
    fn a_network_reaches_the_limit_with_enough_offences_of_enough_clients() {
        let crowds = Crowds::new(10);
        let add = |number, second| crowds.add(limit(5, 3), network(1), client(number), at(second), 1);
        assert!([1, 2, 3, 3].map(|number| add(number, 0).is_reached).iter().all(|reached| !reached), "four offences");
        let reached = add(1, 1);
        assert_eq!((reached.is_reached, reached.members, reached.counter.count()), (true, 3, 5));
        assert_eq!(reached.examples, [1, 2, 3].map(client));
        assert_eq!((crowds.len(), add(1, 2).counter.count()), (0, 1), "the count starts again");
    }

    #[test]
    fn a_count_that_does_not_start_again_is_reached_as_long_as_enough_members_are_left() {
        let crowds = Crowds::new(10);
        let limit = CrowdLimit { starts_again: false, ..limit(3, 3) };
        let is_reached = |number, second| crowds.add(limit, network(1), client(number), at(second), 1).is_reached;
        assert_eq!([is_reached(1, 0), is_reached(2, 100), is_reached(3, 200)], [false, false, true]);
        assert_eq!([is_reached(3, 201), is_reached(4, 300)], [true, true]);
        assert!(!is_reached(5, 850), "only one other offended within findtime");
    }

    #[test]
    fn a_client_that_has_not_offended_for_findtime_is_no_member_any_more() {
        let crowds = Crowds::new(10);
        let add = |number, second| crowds.add(limit(3, 3), network(1), client(number), at(second), 1);
        add(1, 0);
        add(2, 400);
        assert!(!add(3, 700).is_reached, "the first client was last seen before findtime");
        assert!(add(1, 701).is_reached);
    }

    #[test]
    fn a_success_takes_a_client_out_of_its_network() {
        let crowds = Crowds::new(10);
        for number in 1..=3 {
            crowds.add(limit(9, 4), network(1), client(number), at(0), 3);
        }
        crowds.leave(rules().0, network(1), client(2));
        assert!(!crowds.add(limit(9, 4), network(1), client(4), at(1), 1).is_reached);
        assert_eq!(crowds.add(limit(9, 4), network(1), client(5), at(1), 1).examples, [3, 4, 5].map(client));
    }

    #[test]
    fn groups_and_rules_are_counted_apart_and_the_longest_idle_group_makes_room() {
        let crowds = Crowds::new(SHARDS);
        for number in 0..200 {
            crowds.add(limit(5, 3), network(number), client(1), at(0), 1);
        }
        assert!(crowds.len() <= SHARDS && crowds.evicted() >= 200 - SHARDS as u64);
        let (one, two) = rules();
        let crowds = Crowds::new(1000);
        crowds.add(limit(5, 3), network(1), client(1), at(0), 2);
        assert_eq!(crowds.get(one, network(1)).map(|(counter, members)| (counter.count(), members)), Some((2, 1)));
        assert_eq!((crowds.get(two, network(1)), crowds.get(one, network(2))), (None, None));
        crowds.sweep(at(600), |_| Some(FINDTIME));
        assert_eq!(crowds.len(), 0);
    }

    #[test]
    fn the_members_of_all_groups_are_bounded() {
        let crowds = Crowds::new(SHARDS);
        for group in 0..100 {
            for number in 0..1000 {
                crowds.add(limit(u32::MAX, MAX_MEMBERS), network(group), client(number), at(0), 1);
            }
        }
        let members: usize = crowds.shards.iter().map(|shard| shard.lock().members).sum();
        let actual: usize =
            crowds.shards.iter().map(|shard| shard.lock().groups.values().map(|crowd| crowd.members.len()).sum::<usize>()).sum();
        assert_eq!(members, actual);
        assert!(members <= SHARDS * (MAX_MEMBERS as usize + 1), "{members}");
    }

    #[test]
    fn members_leave_their_groups_after_the_filter_was_made_anew() {
        let crowds = Crowds::new(SHARDS);
        let limit = CrowdLimit { findtime: Span::from_secs(60), ..limit(u32::MAX, MAX_MEMBERS) };
        for second in 0..40 {
            (0..1000).for_each(|number| _ = crowds.add(limit, network(1), client(second * 1000 + number), at(u64::from(second)), 1));
        }
        crowds.leave(limit.rule, network(1), client(0));
        let members = |crowds: &Crowds<IpNet>| crowds.get(limit.rule, network(1)).map(|(_, members)| members);
        assert_eq!(members(&crowds), Some(MAX_MEMBERS as usize));
        assert!(crowds.filter.is_stale(MAX_MEMBERS as usize));
        crowds.sweep(at(40), |_| Some(limit.findtime));
        assert!(!crowds.filter.is_stale(0));
        crowds.leave(limit.rule, network(1), client(39_999));
        assert_eq!(members(&crowds), Some(MAX_MEMBERS as usize - 1));
    }

    proptest! {
        /// The twin remembers every client.
        #[test]
        fn members_are_those_that_a_plain_map_has(
            events in proptest::collection::vec((0_u8..3, 0_u32..12, 0_u64..200), 1..300), maxretry in 1_u32..12, members in 1_u32..8,
            starts_again: bool,
        ) {
            let crowds = Crowds::new(100);
            let mut twin: HashMap<u8, (Counter, HashMap<u32, u64>)> = HashMap::new();
            let mut now = 0;
            for (group, number, gap) in events {
                now += gap;
                let limit = CrowdLimit { starts_again, ..limit(maxretry, members) };
                let found = crowds.add(limit, network(group), client(number), at(now), 1);
                let (counter, seen) = twin
                    .entry(group)
                    .and_modify(|(counter, _)| { counter.add(at(now), FINDTIME, 1); })
                    .or_insert_with(|| (Counter::new(at(now), 1), HashMap::new()));
                seen.insert(number, now);
                let live = seen.values().filter(|seen| **seen + 600 + 1 > now).count();
                let is_reached = counter.count() >= maxretry && live >= members as usize;
                prop_assert_eq!((found.counter, found.is_reached), (*counter, is_reached));
                if is_reached && starts_again {
                    twin.remove(&group);
                }
            }
        }
    }
}
