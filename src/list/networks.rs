//! An immutable set of networks, built once from any number of CIDR blocks and looked up for each query.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Overlapping and adjacent networks are merged (`ipnet`'s `aggregate`). The merged networks are disjoint, so one binary search over their
/// first addresses finds the only candidate. An IPv4 network takes 5 bytes, an IPv6 network 17.
///
/// IPv4-mapped IPv6 addresses and networks count as IPv4. A shorter IPv6 prefix such as `::/0` contains no IPv4 addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks {
    v4: Sorted<u32>,
    v6: Sorted<u128>,
}

impl Networks {
    /// The set of all addresses in `networks`. Host bits are ignored.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for network in networks {
            match canonical(network) {
                IpNet::V4(net) => v4.push(net),
                IpNet::V6(net) => v6.push(net),
            }
        }
        Self {
            v4: Ipv4Net::aggregate(&v4).into_iter().map(|net| (net.network().to_bits(), net.prefix_len())).collect(),
            v6: Ipv6Net::aggregate(&v6).into_iter().map(|net| (net.network().to_bits(), net.prefix_len())).collect(),
        }
    }

    #[must_use]
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        // Most rules have no list of their own.
        !self.is_empty() && self.lookup(address).is_some()
    }

    /// The merged network that contains `address`; it may be larger than the network given to [`Networks::new`].
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<IpNet> {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let net = self.last_v4(address)?;
                net.contains(&address).then_some(IpNet::V4(net))
            }
            IpAddr::V6(address) => {
                let net = self.last_v6(address)?;
                net.contains(&address).then_some(IpNet::V6(net))
            }
        }
    }

    /// A merged network that shares an address with `network`.
    #[must_use]
    pub fn overlap(&self, network: IpNet) -> Option<IpNet> {
        // The networks are disjoint and sorted, so of those that start before `network` ends, the last one also ends last.
        match canonical(network) {
            IpNet::V4(network) => {
                let net = self.last_v4(network.broadcast())?;
                (net.broadcast() >= network.network()).then_some(IpNet::V4(net))
            }
            IpNet::V6(network) => {
                let net = self.last_v6(network.broadcast())?;
                (net.broadcast() >= network.network()).then_some(IpNet::V6(net))
            }
        }
    }

    /// The merged networks in ascending order, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.part(0..self.len())
    }

    /// The networks of [`Networks::iter`] at these indices, without iterating over the earlier ones.
    pub fn part(&self, indices: Range<usize>) -> impl Iterator<Item = IpNet> + '_ {
        indices.filter_map(|index| {
            if let Some((start, length)) = self.v4.get(index) {
                return Ipv4Net::new(Ipv4Addr::from_bits(start), length).ok().map(IpNet::V4);
            }
            let (start, length) = self.v6.get(index - self.v4.starts.len())?;
            Ipv6Net::new(Ipv6Addr::from_bits(start), length).ok().map(IpNet::V6)
        })
    }

    /// Number of merged networks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.starts.len() + self.v6.starts.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn last_v4(&self, until: Ipv4Addr) -> Option<Ipv4Net> {
        let (start, length) = self.v4.last_not_after(until.to_bits())?;
        Ipv4Net::new(Ipv4Addr::from_bits(start), length).ok()
    }

    fn last_v6(&self, until: Ipv6Addr) -> Option<Ipv6Net> {
        let (start, length) = self.v6.last_not_after(until.to_bits())?;
        Ipv6Net::new(Ipv6Addr::from_bits(start), length).ok()
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        Self::new(networks)
    }
}

/// Clears a network's host bits, and turns an IPv4-mapped IPv6 network into the IPv4 network.
#[must_use]
pub fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Some(address) = v6.network().to_ipv4_mapped()
        && let Ok(v4) = Ipv4Net::new(address, length)
    {
        return IpNet::V4(v4.trunc());
    }
    network.trunc()
}

/// Networks sorted by first address. Addresses and prefix lengths are stored separately, which avoids padding.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sorted<A> {
    starts: Box<[A]>,
    lengths: Box<[u8]>,
}

impl<A: Copy + Ord> Sorted<A> {
    fn last_not_after(&self, address: A) -> Option<(A, u8)> {
        self.get(self.starts.partition_point(|start| *start <= address).checked_sub(1)?)
    }

    fn get(&self, index: usize) -> Option<(A, u8)> {
        Some((*self.starts.get(index)?, *self.lengths.get(index)?))
    }
}

impl<A> Default for Sorted<A> {
    fn default() -> Self {
        Self { starts: Box::default(), lengths: Box::default() }
    }
}

/// Expects sorted pairs, as `aggregate` returns them.
impl<A> FromIterator<(A, u8)> for Sorted<A> {
    fn from_iter<I: IntoIterator<Item = (A, u8)>>(pairs: I) -> Self {
        let (starts, lengths): (Vec<A>, Vec<u8>) = pairs.into_iter().unzip();
        Self { starts: starts.into_boxed_slice(), lengths: lengths.into_boxed_slice() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn set(texts: &[&str]) -> Networks {
        Networks::new(nets(texts))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A linear scan with its own arithmetic, as the reference.
    fn naive_contains(networks: &[IpNet], address: IpAddr) -> bool {
        networks.iter().any(|network| match (as_v4(network.addr()), address.to_canonical()) {
            (Some((net, cut)), IpAddr::V4(address)) if network.prefix_len() >= cut => {
                let host = 32 - u32::from(network.prefix_len() - cut);
                (u64::from(net.to_bits()) >> host) == (u64::from(address.to_bits()) >> host)
            }
            (_, IpAddr::V6(address)) => match network.addr() {
                IpAddr::V6(net) => {
                    let host = 128 - u32::from(network.prefix_len());
                    net.to_bits().checked_shr(host).unwrap_or(0) == address.to_bits().checked_shr(host).unwrap_or(0)
                }
                IpAddr::V4(_) => false,
            },
            _ => false,
        })
    }

    fn as_v4(address: IpAddr) -> Option<(Ipv4Addr, u8)> {
        match address {
            IpAddr::V4(v4) => Some((v4, 0)),
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map(|v4| (v4, 96)),
        }
    }

    /// Addresses close together and at both ends of the address space, so that networks overlap, touch and contain each other.
    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = prop_oneof![Just(0u32), Just(0xc000_0200), Just(0xffff_ff00), any::<u32>()];
        let v6 = prop_oneof![Just(0u128), Just(0x2001_0db8_u128 << 96), Just(u128::MAX - 0xff), any::<u128>()];
        prop_oneof![
            (v4.clone(), 0u32..64).prop_map(|(base, low)| IpAddr::V4(Ipv4Addr::from_bits(base | low))),
            (v4, 0u32..64).prop_map(|(base, low)| IpAddr::V6(Ipv4Addr::from_bits(base | low).to_ipv6_mapped())),
            (v6, 0u128..64, prop_oneof![Just(0u32), Just(64)])
                .prop_map(|(base, low, shift)| IpAddr::V6(Ipv6Addr::from_bits(base | (low << shift)))),
        ]
    }

    fn network() -> impl Strategy<Value = IpNet> {
        (address(), prop_oneof![Just(0u8), Just(255), 24u8..=32, 60u8..=68, 90u8..=128]).prop_map(|(address, length)| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length.min(longest)).unwrap()
        })
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_linear_scan(networks in prop::collection::vec(network(), 0..24),
                                                 asked in prop::collection::vec(address(), 1..24)) {
            let set = Networks::new(networks.iter().copied());
            let edges = networks.iter().flat_map(|net| [net.network(), net.broadcast()]);
            for address in asked.into_iter().chain(edges) {
                prop_assert_eq!(set.contains(address), naive_contains(&networks, address), "{} in {:?}", address, networks);
                if let Some(found) = set.lookup(address) {
                    prop_assert!(found.contains(&address.to_canonical()));
                }
            }
        }

        #[test]
        fn an_overlap_is_found_if_and_only_if_a_network_shares_an_address(networks in prop::collection::vec(network(), 0..24),
                                                                        asked in network()) {
            let set = Networks::new(networks.iter().copied());
            let asked = canonical(asked);
            // If two CIDR blocks share an address, one contains the other.
            let naive = networks.iter().map(|net| canonical(*net)).any(|net| net.contains(&asked) || asked.contains(&net));
            prop_assert_eq!(set.overlap(asked).is_some(), naive, "{} in {:?}", asked, networks);
        }

        #[test]
        fn a_set_built_from_its_merged_networks_is_equal(networks in prop::collection::vec(network(), 0..24)) {
            let set = Networks::new(networks);
            prop_assert_eq!(set.iter().collect::<Networks>(), set.clone());
            prop_assert_eq!(set.iter().count(), set.len());
            let parts = (0..set.len()).step_by(3).flat_map(|from| set.part(from..from + 3));
            prop_assert_eq!(parts.collect::<Vec<_>>(), set.iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_host_prefix_contains_one_address() {
        let set = set(&["192.0.2.7/32", "2001:db8::7/128"]);
        assert_eq!(set.lookup(ip("192.0.2.7")), Some("192.0.2.7/32".parse().unwrap()));
        assert!(!set.contains(ip("192.0.2.6")) && !set.contains(ip("192.0.2.8")));
        assert_eq!(set.lookup(ip("2001:db8::7")), Some("2001:db8::7/128".parse().unwrap()));
        assert!(!set.contains(ip("2001:db8::6")) && !set.contains(ip("2001:db8::8")));
    }

    #[test]
    fn a_prefix_of_zero_bits_contains_one_whole_address_family() {
        let v4 = set(&["0.0.0.0/0"]);
        assert!(v4.contains(ip("0.0.0.0")) && v4.contains(ip("255.255.255.255")) && v4.contains(ip("::ffff:192.0.2.1")));
        assert!(!v4.contains(ip("::")) && !v4.contains(ip("2001:db8::1")));
        let v6 = set(&["::/0"]);
        assert!(v6.contains(ip("::")) && v6.contains(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")));
        assert!(!v6.contains(ip("192.0.2.1")) && !v6.contains(ip("::ffff:192.0.2.1")));
    }

    #[test]
    fn adjacent_networks_are_merged() {
        let set = set(&["192.0.2.0/25", "192.0.2.128/25", "192.0.2.77/32"]);
        assert_eq!((set.len(), set.is_empty()), (1, false));
        assert_eq!(set.lookup(ip("192.0.2.200")), Some("192.0.2.0/24".parse().unwrap()));
    }

    #[test]
    fn an_ipv4_mapped_network_is_the_ipv4_network() {
        let set = set(&["::ffff:192.0.2.0/120"]);
        assert_eq!(set.lookup(ip("192.0.2.9")), Some("192.0.2.0/24".parse().unwrap()));
        assert!(!set.contains(ip("192.0.3.9")));
        assert_eq!(canonical("::ffff:0:0/96".parse().unwrap()), "0.0.0.0/0".parse::<IpNet>().unwrap());
    }

    #[test]
    fn host_bits_are_ignored() {
        assert!(set(&["192.0.2.77/24"]).contains(ip("192.0.2.1")));
    }

    #[test]
    fn an_empty_set_contains_nothing() {
        let empty = Networks::default();
        assert!(empty.is_empty() && !empty.contains(ip("192.0.2.1")) && !empty.contains(ip("::1")));
        assert_eq!(empty.overlap("0.0.0.0/0".parse().unwrap()), None);
    }
}
