//! One entry of a list: an address, a network or a range.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

use super::host::HostName;
use super::networks::canonical;
use crate::geo::{Network, OriginEntry};

/// Maximum number of networks in a list. A short range of IPv6 may be two hundred networks.
pub(super) const MAX_ENTRIES: usize = 10_000_000;

/// Maximum number of characters that an error quotes from a bad line.
pub(super) const MAX_QUOTED: usize = 60;

/// Parses what can be banned as a whole: what [`parse_network`] takes, `AS64496` or `country:XX`.
///
/// # Errors
/// [`NotANetwork`] for anything else.
pub fn parse_target(text: &str) -> Result<Network, NotANetwork> {
    parse_network(text).map(Network::Block).or_else(|fault| text.parse().map(Network::Origin).map_err(|()| fault))
}

/// Parses an address or a network, in canonical form: `192.0.2.7`, `192.0.2.0/24`, `192.0.2.0/255.255.255.0`, `2001:db8::/32`.
///
/// Host bits are cleared, as in fail2ban's `IPAddr`. IPv4-mapped IPv6 networks become IPv4.
///
/// # Errors
/// [`NotANetwork`] for anything else. Host names are not resolved.
pub fn parse_network(text: &str) -> Result<IpNet, NotANetwork> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
    let network = match prefix {
        None => IpNet::from(address),
        // Only digits, because `u8::from_str` also accepts a plus sign.
        Some(prefix) if prefix.len() <= 3 && prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length: u8 = prefix.parse().map_err(|_| NotANetwork)?;
            IpNet::new(address, length).map_err(|_| NotANetwork)?
        }
        Some(mask) if address.is_ipv4() => {
            let mask: Ipv4Addr = mask.parse().map_err(|_| NotANetwork)?;
            IpNet::with_netmask(address, IpAddr::V4(mask)).map_err(|_| NotANetwork)?
        }
        Some(_) => return Err(NotANetwork),
    };
    Ok(canonical(network))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotANetwork;

impl fmt::Display for NotANetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected an IP address or a network such as 192.0.2.0/24")
    }
}

impl std::error::Error for NotANetwork {}

/// A line of a list that is no address: an autonomous system or a country.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOrigin {
    /// Starts at 1.
    pub line: usize,
    pub entry: OriginEntry,
}

/// A line that is neither blank, nor a comment, nor a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Starts at 1.
    pub line: usize,
    /// The start of the line, escaped.
    pub found: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found \"{}\", {NotANetwork}", self.found)?;
        if HostName::parse(&self.found).is_some() { f.write_str("; host names stand in ignoreip itself, not in files") } else { Ok(()) }
    }
}

impl std::error::Error for BadLine {}

/// Parses a range such as `192.0.2.7-192.0.2.19`, both ends included, as networks.
///
/// # Errors
/// [`NotANetwork`] for anything else, also for a range whose end comes first.
pub fn parse_range(text: &str) -> Result<IpSubnets, NotANetwork> {
    let (first, last) = text.split_once('-').ok_or(NotANetwork)?;
    let address = |text: &str| text.trim().parse::<IpAddr>().map(|address| address.to_canonical()).map_err(|_| NotANetwork);
    match (address(first)?, address(last)?) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => Ok(IpSubnets::V4(Ipv4Subnets::new(first, last, 0))),
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => Ok(IpSubnets::V6(Ipv6Subnets::new(first, last, 0))),
        _ => Err(NotANetwork),
    }
}

/// Escapes the start of a line for an error message.
pub(super) fn quoted(line: &[u8]) -> String {
    // A character has at most 4 bytes, so the bytes cut off here would not be shown anyway.
    let head = line.get(..4 * (MAX_QUOTED + 1)).unwrap_or(line);
    let text = String::from_utf8_lossy(head);
    let mut quoted: String = text.chars().take(MAX_QUOTED).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        quoted.push('…');
    }
    quoted
}
