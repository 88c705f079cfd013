//! Lists: who is never banned, who is always refused, and which networks are banned.
//!
//! ```
//! use strikeout::list::{Lists, NeverReason, Source};
//!
//! let mut lists = Lists::default();
//! lists.set_ignoreip(vec![Source::new("ignoreip", ["198.51.100.0/24".parse().unwrap()])]);
//! assert!(matches!(lists.never_banned("198.51.100.7".parse().unwrap()), Some(NeverReason::IgnoreIp { .. })));
//! assert!(matches!(lists.never_banned("127.0.0.1".parse().unwrap()), Some(NeverReason::Loopback(_))));
//! assert!(lists.never_banned("192.0.2.1".parse().unwrap()).is_none());
//! ```

pub mod banned;
pub mod file;
pub mod networks;
pub mod own;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use banned::{BannedNetwork, BannedNetworks};
pub use networks::Networks;
pub use own::OwnAddresses;

/// Networks and where they were listed: a file, or an option of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    origin: Arc<str>,
    networks: Networks,
}

impl Source {
    /// These networks, listed in `origin`.
    #[must_use]
    pub fn new(origin: &str, networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self { origin: Arc::from(origin), networks: Networks::new(networks) }
    }

    /// Where they were listed, for people.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The networks.
    #[must_use]
    pub fn networks(&self) -> &Networks {
        &self.networks
    }
}

/// A network of a list, and the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The network, joined with those that touch it: it may be larger than the one listed.
    pub network: IpNet,
    /// Where it was listed.
    pub origin: Arc<str>,
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", Plain(self.network), self.origin)
    }
}

/// Why an address is never banned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NeverReason {
    /// The machine's loopback: 127.0.0.0/8 and ::1, whatever is configured.
    Loopback(IpNet),
    /// Nobody's address, 0.0.0.0 and ::, as it stands where a server knows no client.
    Unspecified(IpNet),
    /// One of the machine's interfaces has this address.
    OwnAddress(IpNet),
    /// A default route leads through it.
    Gateway(IpNet),
    /// It is in `ignoreip`.
    IgnoreIp(Listed),
    /// It is in `trusted_proxies`: it speaks for others.
    TrustedProxy(Listed),
}

impl NeverReason {
    /// The network that an address matched.
    #[must_use]
    pub fn network(&self) -> IpNet {
        match self {
            Self::Loopback(network) | Self::Unspecified(network) | Self::OwnAddress(network) | Self::Gateway(network) => *network,
            Self::IgnoreIp(listed) | Self::TrustedProxy(listed) => listed.network,
        }
    }
}

impl fmt::Display for NeverReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(network) => write!(f, "loopback {}", Plain(*network)),
            Self::Unspecified(network) => write!(f, "unspecified address {}", Plain(*network)),
            Self::OwnAddress(network) => write!(f, "own address {}", Plain(*network)),
            Self::Gateway(network) => write!(f, "default gateway {}", Plain(*network)),
            Self::IgnoreIp(listed) => write!(f, "ignored network {listed}"),
            Self::TrustedProxy(listed) => write!(f, "trusted proxy {listed}"),
        }
    }
}

/// A network of one address without its prefix length.
struct Plain(IpNet);

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

/// All lists. A clone is cheap (nothing is copied), so a change is made on a clone that is then swapped in whole.
///
/// Ask in this order: [`Lists::never_banned`] with the client's full address, before it is cut to a prefix; then
/// [`Lists::denied`] and [`BannedNetworks::lookup`]; then the table. So an own address stays free although it lies in the /64 of an
/// IPv6 offender: the ban stands for the whole /64, and is not asked about for that address.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    own: Arc<OwnAddresses>,
    ignoreip: Arc<[Source]>,
    trusted_proxies: Arc<[Source]>,
    deny: Arc<[Source]>,
    /// Networks banned by hand or by another machine.
    pub banned: BannedNetworks,
}

impl Lists {
    /// Takes these for the machine's own addresses and gateways.
    pub fn set_own(&mut self, own: OwnAddresses) {
        self.own = Arc::new(own);
    }

    /// Takes these lists for `ignoreip`.
    pub fn set_ignoreip(&mut self, sources: Vec<Source>) {
        self.ignoreip = sources.into();
    }

    /// Takes these lists for `trusted_proxies`.
    pub fn set_trusted_proxies(&mut self, sources: Vec<Source>) {
        self.trusted_proxies = sources.into();
    }

    /// Takes these lists for those that are always refused.
    pub fn set_deny(&mut self, sources: Vec<Source>) {
        self.deny = sources.into();
    }

    /// Whether all but the banned networks are those of `other`: the very same lists, and equal own addresses.
    #[must_use]
    pub fn are_the_lists_of(&self, other: &Self) -> bool {
        self.own == other.own
            && Arc::ptr_eq(&self.ignoreip, &other.ignoreip)
            && Arc::ptr_eq(&self.trusted_proxies, &other.trusted_proxies)
            && Arc::ptr_eq(&self.deny, &other.deny)
    }

    /// The machine's own addresses and gateways.
    #[must_use]
    pub fn own(&self) -> &OwnAddresses {
        &self.own
    }

    /// The lists of `ignoreip`.
    #[must_use]
    pub fn ignoreip(&self) -> &[Source] {
        &self.ignoreip
    }

    /// The lists of `trusted_proxies`.
    #[must_use]
    pub fn trusted_proxies(&self) -> &[Source] {
        &self.trusted_proxies
    }

    /// The lists of those that are always refused.
    #[must_use]
    pub fn deny(&self) -> &[Source] {
        &self.deny
    }

    /// Whether `address` must never be banned, and why. Ask with the full address.
    #[must_use]
    pub fn never_banned(&self, address: IpAddr) -> Option<NeverReason> {
        let address = address.to_canonical();
        let itself = IpNet::from(address);
        if address.is_loopback() {
            Some(NeverReason::Loopback(loopback(address)))
        } else if address.is_unspecified() {
            Some(NeverReason::Unspecified(itself))
        } else if self.own.contains(address) {
            let is_interface = self.own.addresses().binary_search(&address).is_ok();
            Some(if is_interface { NeverReason::OwnAddress(itself) } else { NeverReason::Gateway(itself) })
        } else if let Some(listed) = listed(&self.ignoreip, |networks| networks.lookup(address)) {
            Some(NeverReason::IgnoreIp(listed))
        } else {
            listed(&self.trusted_proxies, |networks| networks.lookup(address)).map(NeverReason::TrustedProxy)
        }
    }

    /// The list that always refuses `address`. Ask only if it may be banned at all.
    #[must_use]
    pub fn denied(&self, address: IpAddr) -> Option<Listed> {
        listed(&self.deny, |networks| networks.lookup(address))
    }

    /// Whether a ban of `network` would cover somebody who must never be banned: the reason to refuse a ban by hand, be it of a network
    /// or of an IPv6 client, which is a network as well.
    #[must_use]
    pub fn overlaps_never(&self, network: IpNet) -> Option<NeverReason> {
        let network = networks::canonical(network);
        let covered = |address: &&IpAddr| network.contains(*address);
        let loopbacks = [loopback(IpAddr::V4(Ipv4Addr::LOCALHOST)), loopback(IpAddr::V6(Ipv6Addr::LOCALHOST))];
        let unspecified = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        if let Some(loopback) = loopbacks.into_iter().find(|loopback| loopback.contains(&network) || network.contains(loopback)) {
            Some(NeverReason::Loopback(loopback))
        } else if let Some(address) = self.own.addresses().iter().find(covered) {
            Some(NeverReason::OwnAddress(IpNet::from(*address)))
        } else if let Some(address) = self.own.gateways().iter().find(covered) {
            Some(NeverReason::Gateway(IpNet::from(*address)))
        } else if let Some(listed) = listed(&self.ignoreip, |networks| networks.overlap(network)) {
            Some(NeverReason::IgnoreIp(listed))
        } else if let Some(listed) = listed(&self.trusted_proxies, |networks| networks.overlap(network)) {
            Some(NeverReason::TrustedProxy(listed))
        } else {
            unspecified.iter().find(covered).map(|address| NeverReason::Unspecified(IpNet::from(*address)))
        }
    }
}

/// The loopback network of the family of `address`.
fn loopback(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::from(Ipv6Addr::LOCALHOST)),
    }
}

fn listed(sources: &[Source], find: impl Fn(&Networks) -> Option<IpNet>) -> Option<Listed> {
    sources.iter().find_map(|source| find(&source.networks).map(|network| Listed { network, origin: Arc::clone(&source.origin) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Client, Ipv6Prefix};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn lists() -> Lists {
        let mut lists = Lists::default();
        lists.set_own(OwnAddresses::new([ip("192.0.2.10"), ip("2001:db8:1::10")], [ip("192.0.2.1"), ip("fe80::1")]));
        lists.set_ignoreip(vec![
            Source::new("ignoreip", [net("198.51.100.0/24")]),
            Source::new("/etc/strikeout/office.txt", [net("2001:db8:7::/48"), net("203.0.113.7/32")]),
        ]);
        lists.set_trusted_proxies(vec![Source::new("trusted_proxies", [net("203.0.113.80/32")])]);
        lists.set_deny(vec![Source::new("/etc/strikeout/deny.txt", [net("198.51.0.0/16")])]);
        lists
    }

    fn why(address: &str) -> Option<String> {
        lists().never_banned(ip(address)).map(|reason| reason.to_string())
    }

    #[test]
    fn each_address_that_is_never_banned_has_its_reason() {
        for (address, reason) in [
            ("127.0.0.1", "loopback 127.0.0.0/8"),
            ("::ffff:127.9.9.9", "loopback 127.0.0.0/8"),
            ("::1", "loopback ::1"),
            ("0.0.0.0", "unspecified address 0.0.0.0"),
            ("::", "unspecified address ::"),
            ("192.0.2.10", "own address 192.0.2.10"),
            ("2001:db8:1::10", "own address 2001:db8:1::10"),
            ("192.0.2.1", "default gateway 192.0.2.1"),
            ("fe80::1", "default gateway fe80::1"),
            ("::ffff:198.51.100.200", "ignored network 198.51.100.0/24 (ignoreip)"),
            ("203.0.113.7", "ignored network 203.0.113.7 (/etc/strikeout/office.txt)"),
            ("203.0.113.80", "trusted proxy 203.0.113.80 (trusted_proxies)"),
        ] {
            assert_eq!(why(address).as_deref(), Some(reason), "{address}");
        }
    }

    #[test]
    fn everybody_else_may_be_banned() {
        for address in ["128.0.0.1", "126.255.255.255", "::2", "0.0.0.1", "192.0.2.11", "192.0.2.2", "198.51.101.1", "203.0.113.8"] {
            assert_eq!(why(address), None, "{address}");
        }
    }

    #[test]
    fn an_own_address_is_free_although_its_network_is_banned() {
        let offender = Client::of(ip("2001:db8:1::bad"), Ipv6Prefix::default());
        assert_eq!(offender, Client::of(ip("2001:db8:1::10"), Ipv6Prefix::default()), "one /64, one client");
        assert!(lists().never_banned(ip("2001:db8:1::bad")).is_none());
        assert!(lists().never_banned(ip("2001:db8:1::10")).is_some());
    }

    #[test]
    fn a_ban_by_hand_that_covers_somebody_who_is_never_banned_has_a_reason_against_it() {
        for (network, reason) in [
            ("0.0.0.0/0", "loopback 127.0.0.0/8"),
            ("127.1.0.0/16", "loopback 127.0.0.0/8"),
            ("::/0", "loopback ::1"),
            ("0.0.0.0/8", "unspecified address 0.0.0.0"),
            ("192.0.2.8/29", "own address 192.0.2.10"),
            ("2001:db8:1::/64", "own address 2001:db8:1::10"),
            ("192.0.2.0/29", "default gateway 192.0.2.1"),
            ("198.0.0.0/8", "ignored network 198.51.100.0/24 (ignoreip)"),
            ("198.51.100.9/32", "ignored network 198.51.100.0/24 (ignoreip)"),
            ("2001:db8:7:1::/64", "ignored network 2001:db8:7::/48 (/etc/strikeout/office.txt)"),
            ("::ffff:203.0.113.64/122", "trusted proxy 203.0.113.80 (trusted_proxies)"),
        ] {
            assert_eq!(lists().overlaps_never(net(network)).map(|reason| reason.to_string()).as_deref(), Some(reason), "{network}");
        }
        for network in ["203.0.113.128/25", "2001:db8:8::/48", "192.0.2.11/32"] {
            assert_eq!(lists().overlaps_never(net(network)), None, "{network}");
        }
    }

    #[test]
    fn a_deny_list_names_its_file_and_never_ban_goes_first() {
        assert_eq!(lists().denied(ip("198.51.7.7")).unwrap().to_string(), "198.51.0.0/16 (/etc/strikeout/deny.txt)");
        assert_eq!(lists().denied(ip("192.0.2.77")), None);
        let both = ip("198.51.100.7");
        assert!(lists().denied(both).is_some() && lists().never_banned(both).is_some());
    }

    #[test]
    fn a_clone_keeps_the_old_lists_while_new_ones_are_set() {
        let old = lists();
        let mut new = old.clone();
        new.set_own(OwnAddresses::default());
        assert!(old.never_banned(ip("192.0.2.10")).is_some());
        assert!(new.never_banned(ip("192.0.2.10")).is_none());
    }
}
