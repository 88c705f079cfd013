//! Banned networks: the few bans that are about a whole CIDR, each with its end and its reason.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;
use ipnet::IpNet;

use super::networks::canonical;
use crate::time::Time;

/// A network whose clients are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BannedNetwork {
    /// The network, without bits behind its prefix.
    pub network: IpNet,
    /// The name of the rule that it is banned by.
    pub rule: Arc<str>,
    /// When the ban began.
    pub since: Time,
    /// The first moment at which it is over; none for a permanent ban.
    pub until: Option<Time>,
}

impl BannedNetwork {
    /// Whether the ban stands at `now`.
    #[must_use]
    pub fn stands(&self, now: Time) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Whether this ban ends later than `other`.
    fn outlives(&self, other: &Self) -> bool {
        match (self.until, other.until) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(this), Some(that)) => this > that,
        }
    }
}

/// All banned networks. A clone is cheap and stays as it is while the original goes on (copy on write).
///
/// A lookup asks one hash map once for each prefix length in use: at most 33 times for IPv4 and 129 for IPv6, however many networks there are.
#[derive(Debug, Clone, Default)]
pub struct BannedNetworks {
    inner: Arc<Inner>,
}

#[derive(Debug, Clone, Default)]
struct Inner {
    bans: HashMap<IpNet, BannedNetwork, RandomState>,
    /// The prefix lengths in use, IPv4 and IPv6 apart, with how many networks have each.
    lengths_v4: Vec<(u8, usize)>,
    lengths_v6: Vec<(u8, usize)>,
}

impl BannedNetworks {
    /// Bans a network, in place of an earlier ban of the very same network, which is returned.
    pub fn insert(&mut self, mut ban: BannedNetwork) -> Option<BannedNetwork> {
        ban.network = canonical(ban.network);
        let inner = Arc::make_mut(&mut self.inner);
        let (network, earlier) = (ban.network, inner.bans.insert(ban.network, ban));
        if earlier.is_none() {
            let lengths = inner.lengths(network);
            match lengths.iter_mut().find(|(length, _)| *length == network.prefix_len()) {
                Some((_, count)) => *count += 1,
                None => lengths.push((network.prefix_len(), 1)),
            }
        }
        earlier
    }

    /// Ends the ban of exactly this network, whatever larger or smaller ones are banned.
    pub fn remove(&mut self, network: IpNet) -> Option<BannedNetwork> {
        let network = canonical(network);
        if !self.inner.bans.contains_key(&network) {
            return None;
        }
        let inner = Arc::make_mut(&mut self.inner);
        let removed = inner.bans.remove(&network);
        let lengths = inner.lengths(network);
        if let Some((_, count)) = lengths.iter_mut().find(|(length, _)| *length == network.prefix_len()) {
            *count -= 1;
        }
        lengths.retain(|(_, count)| *count > 0);
        removed
    }

    /// Drops the bans that are over, and returns them. Nothing is copied if none is.
    pub fn expire(&mut self, now: Time) -> Vec<BannedNetwork> {
        let over: Vec<IpNet> = self.iter().filter(|ban| !ban.stands(now)).map(|ban| ban.network).collect();
        over.into_iter().filter_map(|network| self.remove(network)).collect()
    }

    /// Of the bans that cover `address` at `now`, the one that ends last.
    #[must_use]
    pub fn lookup(&self, address: IpAddr, now: Time) -> Option<&BannedNetwork> {
        let address = address.to_canonical();
        let lengths = if address.is_ipv4() { &self.inner.lengths_v4 } else { &self.inner.lengths_v6 };
        let mut found: Option<&BannedNetwork> = None;
        for (length, _) in lengths {
            let Ok(network) = IpNet::new(address, *length) else { continue };
            if let Some(ban) = self.inner.bans.get(&network.trunc())
                && ban.stands(now)
                && found.is_none_or(|found| ban.outlives(found))
            {
                found = Some(ban);
            }
        }
        found
    }

    /// The ban of exactly this network, over or not.
    #[must_use]
    pub fn get(&self, network: IpNet) -> Option<&BannedNetwork> {
        self.inner.bans.get(&canonical(network))
    }

    /// All bans, also those that are over and not yet dropped, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &BannedNetwork> {
        self.inner.bans.values()
    }

    /// How many networks are banned, with those that are over and not yet dropped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.bans.len()
    }

    /// Whether no network is banned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.bans.is_empty()
    }
}

impl Inner {
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn ban(network: &str, until: Option<u64>) -> BannedNetwork {
        BannedNetwork {
            network: network.parse().unwrap(),
            rule: Arc::from("manual"),
            since: Time::from_secs(0),
            until: until.map(Time::from_secs),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_ban_stands_until_its_end_and_not_at_it() {
        let mut banned = BannedNetworks::default();
        banned.insert(ban("192.0.2.77/24", Some(10)));
        assert!(banned.lookup(ip("192.0.2.1"), Time::from_millis(9_999)).is_some());
        assert!(banned.lookup(ip("::ffff:192.0.2.1"), Time::from_secs(9)).is_some());
        assert!(banned.lookup(ip("192.0.2.1"), Time::from_secs(10)).is_none());
        assert!(banned.lookup(ip("192.0.3.1"), Time::from_secs(9)).is_none());
    }

    #[test]
    fn of_several_bans_the_one_that_ends_last_is_the_reason() {
        let mut banned = BannedNetworks::default();
        banned.insert(ban("10.0.0.0/8", Some(20)));
        banned.insert(ban("10.1.0.0/16", Some(30)));
        banned.insert(ban("10.1.1.0/24", Some(5)));
        let longest = |address, now| banned.lookup(ip(address), Time::from_secs(now)).map(|ban| ban.network.to_string());
        assert_eq!(longest("10.1.1.1", 0).as_deref(), Some("10.1.0.0/16"));
        assert_eq!(longest("10.2.0.1", 0).as_deref(), Some("10.0.0.0/8"));
        assert_eq!(longest("10.1.1.1", 25).as_deref(), Some("10.1.0.0/16"));
        assert_eq!(longest("10.1.1.1", 30), None);
        banned.insert(ban("10.1.1.1/32", None));
        assert_eq!(banned.lookup(ip("10.1.1.1"), Time::from_secs(0)).unwrap().until, None);
    }

    #[test]
    fn banning_a_network_again_replaces_its_ban() {
        let mut banned = BannedNetworks::default();
        banned.insert(ban("2001:db8::/32", None));
        assert_eq!(banned.insert(ban("2001:db8:7::/32", Some(9))), Some(ban("2001:db8::/32", None)));
        assert_eq!(banned.len(), 1);
        assert!(banned.lookup(ip("2001:db8::1"), Time::from_secs(9)).is_none());
    }

    #[test]
    fn a_clone_stays_as_it_was() {
        let mut banned = BannedNetworks::default();
        banned.insert(ban("192.0.2.0/24", None));
        let before = banned.clone();
        banned.remove("192.0.2.0/24".parse().unwrap());
        assert!(before.lookup(ip("192.0.2.1"), Time::from_secs(0)).is_some());
        assert!(banned.lookup(ip("192.0.2.1"), Time::from_secs(0)).is_none());
    }

    #[test]
    fn what_is_over_is_dropped_and_told() {
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
        fn the_bans_answer_as_a_plain_list_does(
            steps in prop::collection::vec((network(), prop::option::of(0u64..20), 0u8..4, 0u64..20), 1..60),
        ) {
            let mut banned = BannedNetworks::default();
            let mut plain: Vec<BannedNetwork> = Vec::new();
            for (network, until, action, now) in steps {
                let now = Time::from_secs(now);
                let new = BannedNetwork { network: network.trunc(), rule: Arc::from("r"), since: now, until: until.map(Time::from_secs) };
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
                        plain.retain(|ban| ban.stands(now));
                        banned.expire(now);
                    }
                }
                prop_assert_eq!(banned.len(), plain.len());
                let ends_last = plain.iter().filter(|ban| ban.stands(now) && ban.network.contains(&network.addr()))
                    .map(|ban| ban.until.unwrap_or(Time::from_millis(u64::MAX))).max();
                let found = banned.lookup(network.addr(), now).map(|ban| ban.until.unwrap_or(Time::from_millis(u64::MAX)));
                prop_assert_eq!(found, ends_last);
            }
        }
    }
}
