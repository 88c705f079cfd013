//! Guards against a deny list that refuses everybody.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Minimum prefix lengths in a deny list.
const MIN_IPV4: u8 = 8;
const MIN_IPV6: u8 = 16;

/// Multicast and reserved addresses: no client has one. Lists of unused networks, such as those of FireHOL, hold them whole.
const NO_CLIENTS_IPV4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3);

/// The networks of IPv6 that clients have their addresses from: global unicast, unique local, link-local, and translated IPv4 (RFC 4291, RFC 4193,
/// RFC 6052).
const CLIENTS_IPV6: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 32),
];

/// A network that a deny list must not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooWide(pub IpNet);

impl fmt::Display for TooWide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "found {} in a deny list, expected networks of /{MIN_IPV4} (IPv6 /{MIN_IPV6}) or longer: it would refuse too many",
            self.0
        )
    }
}

/// Checks the networks of a deny list.
///
/// # Errors
/// The first network of clients that is too wide.
pub fn check(networks: &[IpNet]) -> Result<(), TooWide> {
    networks.iter().copied().find(is_too_wide).map_or(Ok(()), |network| Err(TooWide(network)))
}

fn is_too_wide(network: &IpNet) -> bool {
    match network {
        IpNet::V4(v4) => v4.prefix_len() < MIN_IPV4 && !NO_CLIENTS_IPV4.contains(v4),
        IpNet::V6(v6) => v6.prefix_len() < MIN_IPV6 && CLIENTS_IPV6.iter().any(|clients| clients.contains(v6) || v6.contains(clients)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(network: &str) -> Result<(), TooWide> {
        check(&["192.0.2.1/32".parse().unwrap(), network.parse().unwrap()])
    }

    #[test]
    fn a_network_of_too_many_clients_is_refused() {
        for network in ["0.0.0.0/0", "10.0.0.0/7", "128.0.0.0/1", "192.0.0.0/2", "::/0", "2000::/3", "2000::/15", "fc00::/7", "::/1"] {
            assert_eq!(check_one(network), Err(TooWide(network.parse().unwrap())));
        }
        let text = TooWide("0.0.0.0/0".parse().unwrap()).to_string();
        assert_eq!(text, "found 0.0.0.0/0 in a deny list, expected networks of /8 (IPv6 /16) or longer: it would refuse too many");
    }

    #[test]
    fn a_large_network_and_one_that_no_client_is_in_are_taken() {
        for network in ["10.0.0.0/8", "192.0.2.0/24", "2001::/16", "2001:db8::/32", "224.0.0.0/3", "240.0.0.0/4", "ff00::/8", "8000::/2"] {
            assert_eq!(check_one(network), Ok(()), "{network}");
        }
    }
}
