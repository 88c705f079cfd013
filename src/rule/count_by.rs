//! Whom a rule counts: each client by itself, or groups of clients together.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Whom a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CountBy {
    /// Each client. Its ban is a ban of the client.
    #[default]
    Client,
    /// The clients of a network together. Its ban is a ban of the network.
    Network(NetworkSize),
    /// The clients of an autonomous system together. Its ban is a ban of the system.
    Asn,
    /// The clients that guess at an account together. Its bans are of these clients, one by one.
    Account,
}

/// The prefix lengths of the networks that a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSize {
    /// 8 to 31.
    pub ipv4: u8,
    /// 16 to 63.
    pub ipv6: u8,
}

impl Default for NetworkSize {
    fn default() -> Self {
        Self { ipv4: 24, ipv6: 48 }
    }
}

impl NetworkSize {
    /// The network that `address` belongs to.
    #[must_use]
    pub fn network_of(self, address: IpAddr) -> IpNet {
        let address = address.to_canonical();
        let length = if address.is_ipv4() { self.ipv4 } else { self.ipv6 };
        IpNet::new(address, length).map_or_else(|_| IpNet::from(address), |network| network.trunc())
    }
}

/// The value of `count_by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CountBySpec {
    Client,
    Network,
    Asn,
    Account,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_of_an_address_has_the_length_of_its_family() {
        let size = NetworkSize { ipv4: 22, ipv6: 48 };
        for (address, network) in
            [("203.0.113.77", "203.0.112.0/22"), ("::ffff:203.0.113.77", "203.0.112.0/22"), ("2001:db8:1:2::3", "2001:db8:1::/48")]
        {
            assert_eq!(size.network_of(address.parse().unwrap()).to_string(), network);
        }
    }
}
