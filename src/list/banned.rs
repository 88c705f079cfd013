//! Banned networks. They are few compared with banned clients.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::RandomState;
use ipnet::IpNet;

use super::networks::canonical;
use crate::event::Scope;
use crate::geo::{Network, Origin};
use crate::rule_id::RuleId;
use crate::time::Time;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BannedNetwork {
    /// The network. Blocks have no host bits.
    pub network: Network,
    /// The rule that caused the ban.
    pub rule: RuleId,
    /// The services on which it refuses.
    pub scope: Scope,
    pub since: Time,
    /// The end of the ban (exclusive), or `None` if it is permanent.
    pub until: Option<Time>,
    /// How many different clients offended; 0 for a ban by hand.
    pub members: u32,
    pub saved: Saved,
}

/// Whether a ban is in the state file; true without a state file. All clones of a ban share it, so that saving one does not copy the others.
#[derive(Debug, Clone)]
pub struct Saved(Arc<AtomicBool>);

impl Saved {
    #[must_use]
    pub fn new(saved: bool) -> Self {
        Self(Arc::new(AtomicBool::new(saved)))
    }

    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Default for Saved {
    fn default() -> Self {
        Self::new(true)
    }
}

impl PartialEq for Saved {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Saved {}

impl BannedNetwork {
    /// A permanent ban by hand, on every service.
    #[must_use]
    pub fn manual(network: impl Into<Network>, since: Time) -> Self {
        let network = network.into();
        let (rule, saved) = (RuleId::MANUAL, Saved::default());
        Self { network, rule, scope: Scope::All, since, until: None, members: 0, saved }
    }

    #[must_use]
    pub fn is_active(&self, now: Time) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Whether a rule made it, here or on another machine; otherwise a person or another program did.
    #[must_use]
    pub fn is_by_count(&self) -> bool {
        self.members > 0
    }

    fn outlives(&self, other: &Self) -> bool {
        match (self.until, other.until) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(this), Some(that)) => this > that,
        }
    }
}

/// Whether there is room for a ban by a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Free,
    /// If the ban of this network ends: of those that rules made for a time, the one that would end first.
    InPlaceOf(Network),
    /// All bans by rules are permanent.
    Full,
}

/// All banned networks. Clones are cheap (copy on write).
///
/// A lookup probes one hash map for each prefix length in use: at most 33 times for IPv4 and 129 times for IPv6, however many networks
/// there are.
#[derive(Debug, Clone, Default)]
pub struct BannedNetworks {
    index: Arc<NetworkIndex>,
}

#[derive(Debug, Clone, Default)]
struct NetworkIndex {
    bans: HashMap<Network, BannedNetwork, RandomState>,
    /// Number of autonomous systems and countries among them.
    origins: usize,
    /// The prefix lengths in use, each with its number of networks.
    lengths_v4: Vec<(u8, usize)>,
    lengths_v6: Vec<(u8, usize)>,
}

impl BannedNetworks {
    /// Adds a ban. An earlier ban of exactly the same network is replaced and returned.
    pub fn insert(&mut self, mut ban: BannedNetwork) -> Option<BannedNetwork> {
        ban.network = canonical_network(ban.network);
        let index = Arc::make_mut(&mut self.index);
        let (network, earlier) = (ban.network, index.bans.insert(ban.network, ban));
        if earlier.is_none() {
            match network {
                Network::Origin(_) => index.origins += 1,
                Network::Block(block) => {
                    let lengths = index.lengths(block);
                    match lengths.iter_mut().find(|(length, _)| *length == block.prefix_len()) {
                        Some((_, count)) => *count += 1,
                        None => lengths.push((block.prefix_len(), 1)),
                    }
                }
            }
        }
        earlier
    }

    /// Removes the ban of exactly this network. Bans of larger and smaller networks stay.
    pub fn remove(&mut self, network: impl Into<Network>) -> Option<BannedNetwork> {
        let network = canonical_network(network.into());
        if !self.index.bans.contains_key(&network) {
            return None;
        }
        let index = Arc::make_mut(&mut self.index);
        let removed = index.bans.remove(&network);
        match network {
            Network::Origin(_) => index.origins -= 1,
            Network::Block(block) => {
                let lengths = index.lengths(block);
                if let Some((_, count)) = lengths.iter_mut().find(|(length, _)| *length == block.prefix_len()) {
                    *count -= 1;
                }
                lengths.retain(|(_, count)| *count > 0);
            }
        }
        removed
    }

    /// Removes and returns the bans that have ended. Without any, the index is not copied.
    pub fn expire(&mut self, now: Time) -> Vec<BannedNetwork> {
        let ended: Vec<Network> = self.iter().filter(|ban| !ban.is_active(now)).map(|ban| ban.network).collect();
        ended.into_iter().filter_map(|network| self.remove(network)).collect()
    }

    /// The active ban that covers `address` and that `is_meant`; the one that ends last, if there are several.
    #[must_use]
    pub fn lookup(&self, address: IpAddr, now: Time, is_meant: impl Fn(&BannedNetwork) -> bool) -> Option<&BannedNetwork> {
        let address = address.to_canonical();
        let lengths = if address.is_ipv4() { &self.index.lengths_v4 } else { &self.index.lengths_v6 };
        let mut found: Option<&BannedNetwork> = None;
        for (length, _) in lengths {
            let Ok(network) = IpNet::new(address, *length) else { continue };
            if let Some(ban) = self.index.bans.get(&Network::Block(network.trunc()))
                && ban.is_active(now)
                && is_meant(ban)
                && found.is_none_or(|found| ban.outlives(found))
            {
                found = Some(ban);
            }
        }
        found
    }

    /// The active ban of the autonomous system or the country of a client that `is_meant`; the one that ends last, if both are banned. The
    /// client's `origin` is asked for only if it matters.
    #[must_use]
    pub fn lookup_origin(
        &self,
        origin: impl FnOnce() -> Option<Origin>,
        now: Time,
        is_meant: impl Fn(&BannedNetwork) -> bool,
    ) -> Option<&BannedNetwork> {
        let origin = if self.has_origins() { origin()? } else { return None };
        let bans = origin.entries().filter_map(|entry| self.index.bans.get(&Network::Origin(entry)));
        bans.filter(|ban| ban.is_active(now) && is_meant(ban)).reduce(|found, ban| if ban.outlives(found) { ban } else { found })
    }

    /// Whether an autonomous system or a country is among them, so that it matters where clients belong.
    #[must_use]
    pub fn has_origins(&self) -> bool {
        self.index.origins > 0
    }

    /// The ban of exactly this network, even if it has ended.
    #[must_use]
    pub fn get(&self, network: impl Into<Network>) -> Option<&BannedNetwork> {
        self.index.bans.get(&canonical_network(network.into()))
    }

    /// All bans in arbitrary order, including those that have ended and are not removed yet.
    pub fn iter(&self) -> impl Iterator<Item = &BannedNetwork> {
        self.index.bans.values()
    }

    /// Number of bans, including those that have ended and are not removed yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.bans.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.bans.is_empty()
    }

    /// Whether a rule may ban `network` too, if rules may ban `most` networks. Bans by hand take no room.
    #[must_use]
    pub fn room_for(&self, network: Network, most: usize) -> Room {
        if self.len() < most {
            return Room::Free;
        }
        let network = canonical_network(network);
        let others = || self.iter().filter(|ban| ban.is_by_count() && ban.network != network);
        if others().count() < most {
            return Room::Free;
        }
        let first = others().filter_map(|ban| Some((ban.until?, ban.network))).min();
        first.map_or(Room::Full, |(_, network)| Room::InPlaceOf(network))
    }
}

fn canonical_network(network: Network) -> Network {
    match network {
        Network::Block(block) => Network::Block(canonical(block)),
        origin @ Network::Origin(_) => origin,
    }
}

impl NetworkIndex {
    fn lengths(&mut self, network: IpNet) -> &mut Vec<(u8, usize)> {
        match network {
            IpNet::V4(_) => &mut self.lengths_v4,
            IpNet::V6(_) => &mut self.lengths_v6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn ban(network: &str, until: Option<u64>) -> BannedNetwork {
        BannedNetwork {
            until: until.map(Time::from_secs),
            ..BannedNetwork::manual(network.parse::<crate::geo::Network>().unwrap(), Time::from_secs(0))
        }
    }

    #[test]
    fn systems_and_countries_are_banned_beside_blocks_and_found_by_where_a_client_belongs() {
        let origin = |asn: &str, country: &str| Some(Origin { asn: asn.parse().ok(), country: country.parse().ok() });
        let mut banned = BannedNetworks::default();
        assert!(!banned.has_origins());
        assert_eq!(banned.lookup_origin(|| unreachable!("nobody needs to know"), Time::from_secs(0), |_| true), None);
        banned.insert(ban("AS64496", Some(10)));
        banned.insert(ban("country:DE", Some(20)));
        banned.insert(ban("192.0.2.0/24", None));
        assert!(banned.has_origins() && banned.len() == 3);
        let find = |origin, now| banned.lookup_origin(|| origin, Time::from_secs(now), |_| true).map(|ban| ban.network.to_string());
        assert_eq!(find(origin("AS64496", "FR"), 5).as_deref(), Some("AS64496"));
        assert_eq!(find(origin("AS64497", "DE"), 5).as_deref(), Some("country:DE"));
        assert_eq!(find(origin("AS64496", "DE"), 5).as_deref(), Some("country:DE"), "it ends last");
        assert_eq!((find(origin("AS64496", ""), 10), find(origin("", "DE"), 20)), (None, None), "they have ended");
        assert_eq!((find(origin("AS64497", "FR"), 5), find(origin("", ""), 5), find(None, 5)), (None, None, None));
        let of_systems = |ban: &BannedNetwork| ban.network.to_string().starts_with("AS");
        let found = banned.lookup_origin(|| origin("AS64496", "DE"), Time::from_secs(5), of_systems);
        assert_eq!(found.map(|ban| ban.network.to_string()).as_deref(), Some("AS64496"), "one that is not meant hides no other");
        assert_eq!(banned.expire(Time::from_secs(10)).len(), 1);
        assert!(banned.has_origins());
        assert_eq!(banned.expire(Time::from_secs(20)).len(), 1);
        assert!(!banned.has_origins() && banned.len() == 1);
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_ban_is_active_before_its_end_and_not_at_it() {
        let mut banned = BannedNetworks::default();
        banned.insert(ban("192.0.2.77/24", Some(10)));
        assert!(banned.lookup(ip("192.0.2.1"), Time::from_millis(9_999), |_| true).is_some());
        assert!(banned.lookup(ip("::ffff:192.0.2.1"), Time::from_secs(9), |_| true).is_some());
        assert!(banned.lookup(ip("192.0.2.1"), Time::from_secs(10), |_| true).is_none());
        assert!(banned.lookup(ip("192.0.3.1"), Time::from_secs(9), |_| true).is_none());
    }

    #[test]
    fn a_lookup_returns_the_covering_ban_that_ends_last() {
        let mut banned = BannedNetworks::default();
        banned.insert(ban("10.0.0.0/8", Some(20)));
        banned.insert(ban("10.1.0.0/16", Some(30)));
        banned.insert(ban("10.1.1.0/24", Some(5)));
        let covering = |address, now| banned.lookup(ip(address), Time::from_secs(now), |_| true).map(|ban| ban.network.to_string());
        assert_eq!(covering("10.1.1.1", 0).as_deref(), Some("10.1.0.0/16"));
        assert_eq!(covering("10.2.0.1", 0).as_deref(), Some("10.0.0.0/8"));
        assert_eq!(covering("10.1.1.1", 25).as_deref(), Some("10.1.0.0/16"));
        assert_eq!(covering("10.1.1.1", 30), None);
        banned.insert(ban("10.1.1.1/32", None));
        assert_eq!(banned.lookup(ip("10.1.1.1"), Time::from_secs(0), |_| true).unwrap().until, None);
    }

    #[test]
    fn a_ban_that_is_not_meant_hides_no_other() {
        let mut banned = BannedNetworks::default();
        banned.insert(BannedNetwork { scope: Scope::Mail, ..ban("10.0.0.0/8", None) });
        banned.insert(BannedNetwork { scope: Scope::Web, ..ban("10.1.0.0/16", Some(30)) });
        let on_web = |ban: &BannedNetwork| ban.scope == Scope::Web;
        let found = |address| banned.lookup(ip(address), Time::from_secs(0), on_web).map(|ban| ban.network.to_string());
        assert_eq!((found("10.1.1.1").as_deref(), found("10.2.1.1")), (Some("10.1.0.0/16"), None));
    }

    #[test]
    fn the_ban_of_a_rule_that_ends_first_makes_room_and_never_one_by_hand_or_for_ever() {
        let mut banned = BannedNetworks::default();
        let by_rule = |network, until| BannedNetwork { members: 3, ..ban(network, until) };
        banned.insert(ban("10.1.0.0/16", Some(1)));
        banned.insert(by_rule("10.2.0.0/16", None));
        let (new, known) = ("10.9.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap());
        assert_eq!(banned.room_for(new, 2), Room::Free, "one by hand takes no room");
        assert_eq!(banned.room_for(new, 1), Room::Full, "nothing makes room for a network beyond the limit");
        assert_eq!(banned.room_for(known, 1), Room::Free, "it has its room already");
        banned.insert(by_rule("10.3.0.0/16", Some(9)));
        banned.insert(by_rule("10.4.0.0/16", Some(7)));
        assert_eq!(banned.room_for(new, 3), Room::InPlaceOf("10.4.0.0/16".parse().unwrap()));
        assert_eq!(banned.room_for(new, 4), Room::Free);
    }

    #[test]
    fn banning_a_network_again_replaces_its_ban() {
        let mut banned = BannedNetworks::default();
        banned.insert(ban("2001:db8::/32", None));
        assert_eq!(banned.insert(ban("2001:db8:7::/32", Some(9))), Some(ban("2001:db8::/32", None)));
        assert_eq!(banned.len(), 1);
        assert!(banned.lookup(ip("2001:db8::1"), Time::from_secs(9), |_| true).is_none());
    }

    #[test]
    fn a_ban_is_found_by_exactly_its_network_even_after_its_end() {
        let mut banned = BannedNetworks::default();
        banned.insert(ban("192.0.2.0/24", Some(10)));
        assert_eq!(banned.get("192.0.2.77/24".parse::<crate::geo::Network>().unwrap()), Some(&ban("192.0.2.0/24", Some(10))));
        assert_eq!(banned.get("192.0.2.0/25".parse::<crate::geo::Network>().unwrap()), None);
    }

    #[test]
    fn changing_the_original_does_not_change_a_clone() {
        let mut banned = BannedNetworks::default();
        banned.insert(ban("192.0.2.0/24", None));
        let before = banned.clone();
        banned.remove("192.0.2.0/24".parse::<crate::geo::Network>().unwrap());
        assert!(before.lookup(ip("192.0.2.1"), Time::from_secs(0), |_| true).is_some());
        assert!(banned.lookup(ip("192.0.2.1"), Time::from_secs(0), |_| true).is_none());
    }

    #[test]
    fn ended_bans_are_removed_and_returned() {
        let mut banned = BannedNetworks::default();
        banned.insert(ban("192.0.2.0/24", Some(10)));
        banned.insert(ban("198.51.100.0/24", Some(11)));
        banned.insert(ban("203.0.113.0/24", None));
        assert_eq!(banned.expire(Time::from_secs(10)), [ban("192.0.2.0/24", Some(10))]);
        assert_eq!(banned.len(), 2);
        assert!(banned.expire(Time::from_secs(10)).is_empty());
    }

    fn network() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0u32..256, prop_oneof![Just(0u8), 24u8..=32]).prop_map(|(low, length)| IpNet::new(
                IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | low)),
                length
            )
            .unwrap()),
            (0u128..256, prop_oneof![Just(0u8), 120u8..=128]).prop_map(|(low, length)| IpNet::new(
                IpAddr::V6(Ipv6Addr::from_bits(low)),
                length
            )
            .unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_plain_list(
            steps in prop::collection::vec((network(), prop::option::of(0u64..20), 0u8..4, 0u64..20), 1..60),
        ) {
            let mut banned = BannedNetworks::default();
            let mut plain: Vec<BannedNetwork> = Vec::new();
            for (network, until, action, now) in steps {
                let now = Time::from_secs(now);
                let new = BannedNetwork { until: until.map(Time::from_secs), ..BannedNetwork::manual(network.trunc(), now) };
                match action {
                    0 | 1 => {
                        plain.retain(|ban| ban.network != new.network);
                        plain.push(new.clone());
                        banned.insert(new);
                    }
                    2 => {
                        plain.retain(|ban| ban.network != new.network);
                        banned.remove(network);
                    }
                    _ => {
                        plain.retain(|ban| ban.is_active(now));
                        banned.expire(now);
                    }
                }
                prop_assert_eq!(banned.len(), plain.len());
                let lengths: HashSet<_> = plain.iter().filter_map(|ban| ban.network.block()).map(|block| (block.addr().is_ipv4(), block.prefix_len())).collect();
                let probed = banned.index.lengths_v4.len() + banned.index.lengths_v6.len();
                prop_assert_eq!(probed, lengths.len(), "only the prefix lengths in use are probed");
                let ends_last = plain.iter().filter(|ban| ban.is_active(now) && ban.network.block().is_some_and(|block| block.contains(&network.addr())))
                    .map(|ban| ban.until.unwrap_or(Time::from_millis(u64::MAX))).max();
                let found = banned.lookup(network.addr(), now, |_| true).map(|ban| ban.until.unwrap_or(Time::from_millis(u64::MAX)));
                prop_assert_eq!(found, ends_last);
            }
        }
    }
}
