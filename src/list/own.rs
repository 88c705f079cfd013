//! Reads the machine's own addresses and default gateways from the kernel. Banning one of them could cut the machine off.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;

use super::networks::Networks;

/// The routing tables of the process's network namespace.
const ROUTES_V4: &str = "/proc/net/route";
const ROUTES_V6: &str = "/proc/net/ipv6_route";

/// Route flags from `<linux/route.h>`: the route is usable, and leads through a gateway.
const RTF_UP: u32 = 0x1;
const RTF_GATEWAY: u32 = 0x2;

/// The addresses of all interfaces and the gateways of the default routes, each sorted and in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnAddresses {
    addresses: Vec<IpAddr>,
    gateways: Vec<IpAddr>,
    /// Both together: one lookup rules out nearly every client.
    all: Networks,
}

impl OwnAddresses {
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>, gateways: impl IntoIterator<Item = IpAddr>) -> Self {
        let (addresses, gateways) = (sorted(addresses), sorted(gateways));
        let all = addresses.iter().chain(&gateways).copied().map(IpNet::from).collect();
        Self { addresses, gateways, all }
    }

    /// Reads them from the kernel, with two netlink messages and two files in `/proc`. This usually takes some tens of microseconds.
    ///
    /// `/proc` shows only the first gateway of a multipath default route. Without `/proc`, or without IPv6 in the kernel, the gateways are
    /// unknown.
    ///
    /// # Errors
    /// The kernel's error, for instance in a sandbox without `AF_NETLINK`. The caller should then keep the addresses that it has.
    pub fn read() -> io::Result<Self> {
        let addresses = getifaddrs()?.filter_map(|interface| interface.address).filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        let mut gateways = match open(ROUTES_V4)? {
            Some(file) => gateways_v4(file)?,
            None => Vec::new(),
        };
        if let Some(file) = open(ROUTES_V6)? {
            gateways.extend(gateways_v6(file)?);
        }
        Ok(Self::new(addresses, gateways))
    }

    /// Whether `address` is an own address or a gateway.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.all.contains(address)
    }

    /// The addresses of the interfaces, sorted.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The default gateways, sorted.
    #[must_use]
    pub fn gateways(&self) -> &[IpAddr] {
        &self.gateways
    }
}

fn sorted(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = addresses.into_iter().map(|address| address.to_canonical()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn open(path: &str) -> io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Parses the gateways of the default routes from `/proc/net/route`: `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, with
/// addresses as hexadecimal numbers in native byte order.
///
/// The kernel lists routes by ascending destination (net/ipv4/fib_trie.c: fib_route_seq_show), so reading stops after the default routes: a
/// router may have a million others.
fn gateways_v4(routes: impl BufRead) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for line in routes.lines().skip(1) {
        let line = line?;
        let mut fields = line.split_ascii_whitespace().skip(1).map(|field| u32::from_str_radix(field, 16).ok());
        let mut next = || fields.next().flatten();
        let (Some(destination), Some(gateway), Some(flags)) = (next(), next(), next()) else { continue };
        if destination != 0 {
            break;
        }
        // Skips RefCnt, Use and Metric, which are decimal and not used.
        let mask = fields.nth(3).flatten();
        if mask == Some(0) && gateway != 0 && flags & (RTF_UP | RTF_GATEWAY) == RTF_UP | RTF_GATEWAY {
            found.push(IpAddr::V4(Ipv4Addr::from(gateway.to_ne_bytes())));
        }
    }
    Ok(found)
}

/// Parses the gateways of the default routes from `/proc/net/ipv6_route`: destination and its length, source and its length, next hop,
/// metric, reference count, use count, flags, interface; all hexadecimal.
fn gateways_v6(mut routes: impl BufRead) -> io::Result<Vec<IpAddr>> {
    const DEFAULT: &str = "00000000000000000000000000000000 00 ";
    let mut found = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        if routes.read_line(&mut line)? == 0 {
            return Ok(found);
        }
        let Some(rest) = line.strip_prefix(DEFAULT) else { continue };
        let mut fields = rest.split_ascii_whitespace().skip(2);
        let gateway = fields.next().and_then(|field| u128::from_str_radix(field, 16).ok());
        let flags = fields.nth(3).and_then(|field| u32::from_str_radix(field, 16).ok());
        if let (Some(gateway), Some(flags)) = (gateway, flags)
            && gateway != 0
            && flags & (RTF_UP | RTF_GATEWAY) == RTF_UP | RTF_GATEWAY
        {
            found.push(IpAddr::V6(Ipv6Addr::from_bits(gateway)));
        }
    }
}

/// Polls the own addresses for changes. Call [`OwnAddressWatch::refresh`] about once a second.
#[derive(Debug)]
pub struct OwnAddressWatch {
    known: OwnAddresses,
    no_read_before: Instant,
}

impl OwnAddressWatch {
    /// Minimum pause between two reads, as a multiple of the time that the last one took: reading a router's full IPv6 table takes long.
    const PAUSE_FACTOR: u32 = 50;

    #[must_use]
    pub fn new(known: OwnAddresses) -> Self {
        Self { known, no_read_before: Instant::now() }
    }

    /// Reads the addresses again, and returns them if they have changed.
    ///
    /// # Errors
    /// Those of [`OwnAddresses::read`]. The watch keeps the addresses that it has.
    pub fn refresh(&mut self) -> io::Result<Option<&OwnAddresses>> {
        let begin = Instant::now();
        if begin < self.no_read_before {
            return Ok(None);
        }
        let read = OwnAddresses::read();
        self.no_read_before = begin + begin.elapsed().saturating_mul(Self::PAUSE_FACTOR).min(Duration::from_secs(60));
        let read = read?;
        if read == self.known {
            return Ok(None);
        }
        self.known = read;
        Ok(Some(&self.known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn ipv4_gateways_are_those_of_usable_default_routes() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                      eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                      eth1\t00000000\t0107A8C0\t0003\t0\t0\t999\t00000000\t0\t0\t0\n\
                      tun0\t00000000\t0105A8C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n\
                      ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n\
                      eth2\t00000000\t0109A8C0\t0002\t0\t0\t0\t00000000\t0\t0\t0\n\
                      eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                      eth9\t00000000\t0108A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        // Skipped: tun0 with a mask of /1, a route without a gateway, one that is down, and everything after the default routes.
        assert_eq!(gateways_v4(routes.as_bytes()).unwrap(), [ip("192.0.2.1"), ip("192.168.7.1")]);
    }

    #[test]
    fn ipv6_gateways_are_those_of_usable_default_routes() {
        let zero = "00000000000000000000000000000000";
        let routes = format!(
            "fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n\
             {zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000002 00000000 00450003     eth0\n\
             {zero} 01 {zero} 00 fd000000000000000000000000000009 00000400 00000002 00000000 00000003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        assert_eq!(gateways_v6(routes.as_bytes()).unwrap(), [ip("fe80::1")]);
    }

    #[test]
    fn malformed_routes_are_ignored() {
        for text in ["", "\n\n", "Iface\nx\n", "Iface\neth0\t00000000\n", "Iface\neth0 zz zz zz\n", "00000000000000000000000000000000 00 x"]
        {
            assert!(gateways_v4(text.as_bytes()).unwrap().is_empty(), "{text:?}");
            assert!(gateways_v6(text.as_bytes()).unwrap().is_empty(), "{text:?}");
        }
    }

    #[test]
    fn addresses_are_sorted_and_deduplicated() {
        let one = OwnAddresses::new([ip("fe80::1"), ip("192.0.2.1"), ip("fe80::1")], []);
        assert_eq!(one, OwnAddresses::new([ip("::ffff:192.0.2.1"), ip("fe80::1")], []));
        assert_eq!(one.addresses().len(), 2);
    }

    #[test]
    fn the_addresses_of_the_interfaces_are_read_from_the_kernel() {
        // A new network namespace has no address, not even that of loopback, and binding to it fails.
        let has_loopback = std::net::UdpSocket::bind("127.0.0.1:0").is_ok();
        let own = OwnAddresses::read().unwrap();
        assert_eq!(own.addresses().contains(&ip("127.0.0.1")), has_loopback, "{own:?}");
    }

    #[test]
    fn a_missing_routing_table_is_none_and_an_unreadable_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("route");
        assert!(open(path.to_str().unwrap()).unwrap().is_none());
        std::fs::write(&path, "Iface\n").unwrap();
        let text = io::read_to_string(open(path.to_str().unwrap()).unwrap().unwrap()).unwrap();
        assert_eq!(text, "Iface\n");
        assert!(open(path.join("below-a-file").to_str().unwrap()).is_err());
    }

    #[test]
    fn a_refresh_without_a_change_returns_nothing() {
        let own = OwnAddresses::read().unwrap();
        // Loopback has its address unless the network namespace is new, where no interface is up.
        assert!(own.addresses().is_empty() || own.addresses().contains(&ip("127.0.0.1")), "{own:?}");
        let mut watch = OwnAddressWatch::new(own.clone());
        assert_eq!(watch.refresh().unwrap(), None);
        assert_eq!(&watch.known, &own);
    }

    #[test]
    fn a_refresh_returns_a_change_once() {
        let mut watch = OwnAddressWatch::new(OwnAddresses::new([ip("192.0.2.1")], []));
        let own = OwnAddresses::read().unwrap();
        assert_eq!(watch.refresh().unwrap(), Some(&own));
        assert_eq!(watch.refresh().unwrap(), None);
    }

    #[test]
    fn after_a_refresh_the_kernel_is_not_asked_for_a_while() {
        let before = Instant::now();
        let mut watch = OwnAddressWatch::new(OwnAddresses::read().unwrap());
        watch.refresh().unwrap();
        assert!(watch.no_read_before > before);
        watch.known = OwnAddresses::new([ip("192.0.2.1")], []);
        watch.no_read_before = Instant::now() + Duration::from_secs(60);
        assert_eq!(watch.refresh().unwrap(), None);
        watch.no_read_before = before;
        assert!(watch.refresh().unwrap().is_some());
    }
}
