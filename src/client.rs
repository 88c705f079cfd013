//! Clients: the one place that turns text into an address, and an address into the client that is blamed for it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads an address as Squid, Exim and logs write it, in canonical form: an IPv4-mapped IPv6 address is the IPv4 address.
///
/// # Errors
/// [`NotAnAddress`] for everything that is not exactly one IPv4 or IPv6 address: host names, ports, brackets, zones, white space.
pub fn parse_address(text: &str) -> Result<IpAddr, NotAnAddress> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => Err(NotAnAddress),
    }
}

/// Reads an address from bytes that a peer sent. See [`parse_address`].
///
/// # Errors
/// [`NotAnAddress`], also where the bytes are no UTF-8.
pub fn parse_address_bytes(bytes: &[u8]) -> Result<IpAddr, NotAnAddress> {
    // The longest address is 45 bytes (an IPv4-mapped one written out): a longer text need not be looked at.
    if bytes.len() > 45 {
        return Err(NotAnAddress);
    }
    // Nearly all are IPv4 addresses: read here they cost a fifth of what the general way does.
    if let Some(address) = dotted_quad(bytes) {
        return Ok(IpAddr::V4(address));
    }
    parse_address(std::str::from_utf8(bytes).map_err(|_| NotAnAddress)?)
}

/// Four decimal numbers up to 255, without leading zeros, and dots between them.
fn dotted_quad(bytes: &[u8]) -> Option<Ipv4Addr> {
    let (first, rest) = octet(bytes)?;
    let (second, rest) = octet(rest.strip_prefix(b".")?)?;
    let (third, rest) = octet(rest.strip_prefix(b".")?)?;
    let (fourth, rest) = octet(rest.strip_prefix(b".")?)?;
    rest.is_empty().then(|| Ipv4Addr::new(first, second, third, fourth))
}

/// The number of up to three digits that `bytes` begin with, and what follows it.
fn octet(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |at: usize| bytes.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9);
    let first = digit(0)?;
    let Some(second) = digit(1) else { return Some((first, bytes.get(1..)?)) };
    if first == 0 {
        return None;
    }
    let two = first * 10 + second;
    let Some(third) = digit(2) else { return Some((two, bytes.get(2..)?)) };
    Some((two.checked_mul(10)?.checked_add(third)?, bytes.get(3..)?))
}

/// A text that is not an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnAddress;

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an IPv4 or IPv6 address")
    }
}

impl std::error::Error for NotAnAddress {}

/// How many leading bits of an IPv6 address make a client: 1 to 128. One household or server usually owns a whole /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Prefix(u8);

impl Ipv6Prefix {
    /// A prefix of `bits` bits, or `None` outside 1 to 128.
    #[must_use]
    pub fn new(bits: u8) -> Option<Self> {
        (1..=128).contains(&bits).then_some(Self(bits))
    }

    /// The length in bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }
}

impl Default for Ipv6Prefix {
    fn default() -> Self {
        Self(64)
    }
}

/// Whom a query is about, in canonical form: an IPv4 address, or the network that an IPv6 address belongs to.
///
/// Sixteen bytes; IPv4 is kept as its IPv4-mapped form, whose prefix is never cut.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    high: u64,
    low: u64,
}

impl Client {
    /// The client that `address` belongs to.
    #[must_use]
    pub fn of(address: IpAddr, prefix: Ipv6Prefix) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::from_bits(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => {
                let host_bits = 128 - u32::from(prefix.bits());
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                Self::from_bits(v6.to_bits() & mask)
            }
        }
    }

    /// The client whose IPv6 form has these bits, as [`Client::to_bits`] gave them.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the bits are what is wanted")]
    pub fn from_bits(bits: u128) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }

    /// The IPv6 form as a number, to be stored.
    #[must_use]
    pub fn to_bits(self) -> u128 {
        (u128::from(self.high) << 64) | u128::from(self.low)
    }

    /// The address, or the first address of the network.
    #[must_use]
    pub fn address(self) -> IpAddr {
        let v6 = Ipv6Addr::from_bits(self.to_bits());
        match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(v6),
        }
    }

    /// For people: `192.0.2.1`, or `2001:db8::/64` where an IPv6 client is a network.
    #[must_use]
    pub fn display(self, prefix: Ipv6Prefix) -> ClientDisplay {
        ClientDisplay { client: self, prefix }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.address())
    }
}

impl From<Ipv4Addr> for Client {
    fn from(address: Ipv4Addr) -> Self {
        Self::of(IpAddr::V4(address), Ipv6Prefix::default())
    }
}

/// A [`Client`] with the prefix length that makes an IPv6 one readable.
#[derive(Debug, Clone, Copy)]
pub struct ClientDisplay {
    client: Client,
    prefix: Ipv6Prefix,
}

impl fmt::Display for ClientDisplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.client.address() {
            IpAddr::V6(v6) if self.prefix.bits() < 128 => write!(f, "{v6}/{}", self.prefix.bits()),
            address => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn dotted_quads_are_those_of_the_standard_library(text in "[0-9.]{0,17}|([0-9]{1,3}\\.){3}[0-9]{1,3}", address in any::<u32>()) {
            prop_assert_eq!(dotted_quad(text.as_bytes()), text.parse().ok());
            let address = Ipv4Addr::from_bits(address);
            prop_assert_eq!(dotted_quad(address.to_string().as_bytes()), Some(address));
            prop_assert_eq!(dotted_quad(format!("{address}{text}").as_bytes()), format!("{address}{text}").parse().ok());
        }

        #[test]
        fn addresses_in_bytes_are_those_in_text(text in "[0-9a-f:.]{0,50}") {
            prop_assert_eq!(parse_address_bytes(text.as_bytes()), parse_address(&text));
        }
    }

    fn client(text: &str) -> Client {
        Client::of(parse_address(text).unwrap(), Ipv6Prefix::default())
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        assert_eq!(parse_address("::ffff:192.0.2.1").unwrap(), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
    }

    #[test]
    fn ipv6_addresses_of_one_prefix_are_one_client() {
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        let whole = Ipv6Prefix::new(128).unwrap();
        assert_ne!(Client::of("2001:db8::1".parse().unwrap(), whole), Client::of("2001:db8::2".parse().unwrap(), whole));
    }

    #[test]
    fn an_ipv4_address_is_never_cut() {
        let short = Ipv6Prefix::new(32).unwrap();
        assert_ne!(Client::of("192.0.2.1".parse().unwrap(), short), Client::of("192.0.2.2".parse().unwrap(), short));
    }

    #[test]
    fn only_a_bare_address_is_an_address() {
        for text in ["", "-", "localhost", "1.2.3", "1.2.3.4:25", "[::1]", "fe80::1%2", " 1.2.3.4", "1.2.3.4\n", "01.2.3.4"] {
            assert_eq!(parse_address(text), Err(NotAnAddress), "{text:?}");
        }
        assert_eq!(parse_address_bytes(b"\xff\xfe"), Err(NotAnAddress));
    }

    #[test]
    fn a_network_is_shown_with_its_prefix_and_an_address_without() {
        assert_eq!(client("2001:db8::7").display(Ipv6Prefix::default()).to_string(), "2001:db8::/64");
        assert_eq!(client("192.0.2.7").display(Ipv6Prefix::default()).to_string(), "192.0.2.7");
    }

    #[test]
    fn a_prefix_has_1_to_128_bits() {
        assert!(Ipv6Prefix::new(0).is_none());
        assert!(Ipv6Prefix::new(129).is_none());
        assert_eq!(Ipv6Prefix::new(1).map(Ipv6Prefix::bits), Some(1));
    }
}
