//! Which addresses are never banned, and why: loopback, the machine's own addresses and gateways, `ignoreip` and trusted proxies.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::client::{ShortNetwork, is_single};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{ListMatch, Lists, listed, networks};

/// Why an address is never banned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NeverBanReason {
    /// It is a loopback address, 127.0.0.0/8 or ::1.
    Loopback(IpNet),
    /// It is 0.0.0.0 or ::, which a server logs when it does not know the client.
    Unspecified(IpNet),
    /// It belongs to an interface of this machine.
    OwnAddress(IpNet),
    /// It is the gateway of a default route.
    Gateway(IpNet),
    /// It is in `ignoreip`.
    IgnoreIp(ListMatch),
    /// It is in `trusted_proxies`: its requests come from other clients.
    TrustedProxy(ListMatch),
}

impl fmt::Display for NeverBanReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(network) => write!(f, "loopback {}", ShortNetwork(*network)),
            Self::Unspecified(network) => write!(f, "unspecified address {}", ShortNetwork(*network)),
            Self::OwnAddress(network) => write!(f, "own address {}", ShortNetwork(*network)),
            Self::Gateway(network) => write!(f, "default gateway {}", ShortNetwork(*network)),
            Self::IgnoreIp(listed) => write!(f, "ignored network {listed}"),
            Self::TrustedProxy(listed) => write!(f, "trusted proxy {listed}"),
        }
    }
}

impl Lists {
    /// Why `address`, in full and not cut to a prefix, is never banned; `None` if it may be.
    #[must_use]
    pub fn never_banned(&self, address: IpAddr) -> Option<NeverBanReason> {
        let address = address.to_canonical();
        let itself = IpNet::from(address);
        if address.is_loopback() {
            Some(NeverBanReason::Loopback(loopback(address)))
        } else if address.is_unspecified() {
            Some(NeverBanReason::Unspecified(itself))
        } else if self.own.contains(address) {
            let is_interface = self.own.addresses().binary_search(&address).is_ok();
            Some(if is_interface { NeverBanReason::OwnAddress(itself) } else { NeverBanReason::Gateway(itself) })
        } else if let Some(listed) = listed(&self.ignoreip, |networks| networks.lookup(address)) {
            Some(NeverBanReason::IgnoreIp(listed))
        } else {
            listed(&self.trusted_proxies, |networks| networks.lookup(address)).map(NeverBanReason::TrustedProxy)
        }
    }

    /// Whether no address of `network` can ever be banned, so that a ban of it refuses nobody.
    #[must_use]
    pub fn protects_all_of(&self, network: IpNet) -> bool {
        let network = networks::canonical(network);
        if is_single(network) {
            return self.never_banned(network.addr()).is_some();
        }
        let contains = |listed: Option<ListMatch>| listed.is_some_and(|listed| listed.network.contains(&network));
        [&self.ignoreip, &self.trusted_proxies].into_iter().any(|sources| contains(listed(sources, |list| list.lookup(network.addr()))))
    }

    /// Why `network` must not be banned by hand: it contains an address that is never banned. An IPv6 client, too, is a network.
    #[must_use]
    pub fn overlaps_never_banned(&self, network: IpNet) -> Option<NeverBanReason> {
        let network = networks::canonical(network);
        let covered = |address: &&IpAddr| network.contains(*address);
        let loopbacks = [loopback(IpAddr::V4(Ipv4Addr::LOCALHOST)), loopback(IpAddr::V6(Ipv6Addr::LOCALHOST))];
        let unspecified = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        if let Some(loopback) = loopbacks.into_iter().find(|loopback| loopback.contains(&network) || network.contains(loopback)) {
            Some(NeverBanReason::Loopback(loopback))
        } else if let Some(address) = self.own.addresses().iter().find(covered) {
            Some(NeverBanReason::OwnAddress(IpNet::from(*address)))
        } else if let Some(address) = self.own.gateways().iter().find(covered) {
            Some(NeverBanReason::Gateway(IpNet::from(*address)))
        } else if let Some(listed) = listed(&self.ignoreip, |networks| networks.overlap(network)) {
            Some(NeverBanReason::IgnoreIp(listed))
        } else if let Some(listed) = listed(&self.trusted_proxies, |networks| networks.overlap(network)) {
            Some(NeverBanReason::TrustedProxy(listed))
        } else {
            unspecified.iter().find(covered).map(|address| NeverBanReason::Unspecified(IpNet::from(*address)))
        }
    }
}

/// The loopback network of the address family of `address`.
fn loopback(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::from(Ipv6Addr::LOCALHOST)),
    }
}

#[cfg(test)]
mod tests {
    use crate::client::{Client, Ipv6Prefix};
    use crate::list::tests::{ip, lists, net};

    fn why(address: &str) -> Option<String> {
        lists().never_banned(ip(address)).map(|reason| reason.to_string())
    }

    #[test]
    fn the_reason_never_to_ban_names_the_network_and_its_list() {
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
    fn every_other_address_may_be_banned() {
        for address in ["128.0.0.1", "126.255.255.255", "::2", "0.0.0.1", "192.0.2.11", "192.0.2.2", "198.51.101.1", "203.0.113.8"] {
            assert_eq!(why(address), None, "{address}");
        }
    }

    #[test]
    fn an_own_address_is_never_banned_even_in_the_network_of_an_offender() {
        let offender = Client::of(ip("2001:db8:1::bad"), Ipv6Prefix::default());
        assert_eq!(offender, Client::of(ip("2001:db8:1::10"), Ipv6Prefix::default()), "same /64, same client");
        assert!(lists().never_banned(ip("2001:db8:1::bad")).is_none());
        assert!(lists().never_banned(ip("2001:db8:1::10")).is_some());
    }

    #[test]
    fn a_network_is_protected_as_a_whole_only_inside_one_entry_of_a_list() {
        for network in ["198.51.100.9/32", "198.51.100.128/25", "2001:db8:7:1::/64", "192.0.2.10/32", "127.0.0.1/32"] {
            assert!(lists().protects_all_of(net(network)), "{network}");
        }
        for network in ["198.51.100.0/23", "2001:db8:1::/64", "203.0.113.0/29", "192.0.2.11/32", "2001:db8::/32"] {
            assert!(!lists().protects_all_of(net(network)), "{network}");
        }
    }

    #[test]
    fn a_network_with_a_never_banned_address_must_not_be_banned() {
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
            assert_eq!(lists().overlaps_never_banned(net(network)).map(|reason| reason.to_string()).as_deref(), Some(reason), "{network}");
        }
        for network in ["203.0.113.128/25", "2001:db8:8::/48", "192.0.2.11/32"] {
            assert_eq!(lists().overlaps_never_banned(net(network)), None, "{network}");
        }
    }
}
