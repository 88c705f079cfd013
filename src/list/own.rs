//! The machine's own addresses and default gateways, read from the kernel: whoever bans them cuts the machine off.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;

use super::networks::Networks;

/// The default routes of the machine's network namespace.
const ROUTES_V4: &str = "/proc/net/route";
const ROUTES_V6: &str = "/proc/net/ipv6_route";

/// Of a route's flags in `<linux/route.h>`: usable, and through a gateway.
const RTF_UP: u32 = 0x1;
const RTF_GATEWAY: u32 = 0x2;

/// The addresses of all interfaces and the gateways of the default routes, each sorted and in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnAddresses {
    addresses: Vec<IpAddr>,
    gateways: Vec<IpAddr>,
    /// All of them: one look tells of nearly every client that it is none.
    all: Networks,
}

impl OwnAddresses {
    /// These addresses and gateways, in any order.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>, gateways: impl IntoIterator<Item = IpAddr>) -> Self {
        let (addresses, gateways) = (sorted(addresses), sorted(gateways));
        let all = addresses.iter().chain(&gateways).copied().map(IpNet::from).collect();
        Self { addresses, gateways, all }
    }

    /// Asks the kernel. It costs two netlink messages and two files of `/proc`, some tens of microseconds on a common machine.
    ///
    /// Of a default route over several gateways `/proc` shows the first one. No `/proc`, or a kernel without IPv6: no gateways.
    ///
    /// # Errors
    /// The kernel's, where it may not be asked (a sandbox without `AF_NETLINK`): keep what was known before.
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

    /// Whether `address` is one of these.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.all.contains(address)
    }

    /// The interfaces' addresses, in rising order.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The default gateways, in rising order.
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

/// The gateways of the default routes in `/proc/net/route`: `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, addresses as
/// hexadecimal numbers in the machine's byte order.
///
/// The kernel lists routes in rising order, so default routes come first; a router's million others are not read.
///
/// # Errors
/// The reader's.
pub fn gateways_v4(routes: impl BufRead) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for line in routes.lines().skip(1) {
        let line = line?;
        let mut fields = line.split_ascii_whitespace().skip(1).map(|field| u32::from_str_radix(field, 16).ok());
        let mut next = || fields.next().flatten();
        let (Some(destination), Some(gateway), Some(flags)) = (next(), next(), next()) else { continue };
        if destination != 0 {
            break;
        }
        // RefCnt, Use and Metric are decimal; what they read as here does not matter.
        let mask = fields.nth(3).flatten();
        if mask == Some(0) && gateway != 0 && flags & (RTF_UP | RTF_GATEWAY) == RTF_UP | RTF_GATEWAY {
            found.push(IpAddr::V4(Ipv4Addr::from(gateway.to_ne_bytes())));
        }
    }
    Ok(found)
}

/// The gateways of the default routes in `/proc/net/ipv6_route`: destination and its length, source and its length, next hop, metric,
/// reference count, use count, flags, interface; all hexadecimal.
///
/// # Errors
/// The reader's.
pub fn gateways_v6(mut routes: impl BufRead) -> io::Result<Vec<IpAddr>> {
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

/// Follows the own addresses as interfaces come and go: ask it as often as you like, a second apart is meant.
#[derive(Debug)]
pub struct Watch {
    known: OwnAddresses,
    not_before: Instant,
}

impl Watch {
    /// Looking costs at most this share of the time: with a router's full IPv6 table the next look waits longer.
    const SHARE: u32 = 50;

    /// Starts from what is `known`.
    #[must_use]
    pub fn new(known: OwnAddresses) -> Self {
        Self { known, not_before: Instant::now() }
    }

    /// What is known.
    #[must_use]
    pub fn known(&self) -> &OwnAddresses {
        &self.known
    }

    /// Looks again. The new addresses, if they are others than before.
    ///
    /// # Errors
    /// Those of [`OwnAddresses::read`]: what was known stays.
    pub fn look(&mut self) -> io::Result<Option<&OwnAddresses>> {
        let begin = Instant::now();
        if begin < self.not_before {
            return Ok(None);
        }
        let read = OwnAddresses::read();
        self.not_before = begin + begin.elapsed().saturating_mul(Self::SHARE).min(Duration::from_secs(60));
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
    fn the_default_routes_of_proc_net_route_name_the_ipv4_gateways() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                      eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                      eth1\t00000000\t0107A8C0\t0003\t0\t0\t999\t00000000\t0\t0\t0\n\
                      tun0\t00000000\t0105A8C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n\
                      ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n\
                      eth2\t00000000\t0109A8C0\t0002\t0\t0\t0\t00000000\t0\t0\t0\n\
                      eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                      eth9\t00000000\t0108A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        // Not: the half of the space behind tun0, a route without a gateway, one that is down, what stands behind the default routes.
        assert_eq!(gateways_v4(routes.as_bytes()).unwrap(), [ip("192.0.2.1"), ip("192.168.7.1")]);
    }

    #[test]
    fn the_default_routes_of_proc_net_ipv6_route_name_the_ipv6_gateways() {
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
    fn routes_that_cannot_be_read_name_nobody() {
        for text in ["", "\n\n", "Iface\nx\n", "Iface\neth0\t00000000\n", "Iface\neth0 zz zz zz\n", "00000000000000000000000000000000 00 x"]
        {
            assert!(gateways_v4(text.as_bytes()).unwrap().is_empty(), "{text:?}");
            assert!(gateways_v6(text.as_bytes()).unwrap().is_empty(), "{text:?}");
        }
    }

    #[test]
    fn an_address_on_two_interfaces_is_one_and_the_order_does_not_matter() {
        let one = OwnAddresses::new([ip("fe80::1"), ip("192.0.2.1"), ip("fe80::1")], []);
        assert_eq!(one, OwnAddresses::new([ip("::ffff:192.0.2.1"), ip("fe80::1")], []));
        assert_eq!(one.addresses().len(), 2);
    }

    #[test]
    fn the_kernel_tells_and_a_second_look_finds_no_change() {
        let own = OwnAddresses::read().unwrap();
        // Loopback is there unless the namespace is a fresh one, where nothing is up.
        assert!(own.addresses().is_empty() || own.addresses().contains(&ip("127.0.0.1")), "{own:?}");
        let mut watch = Watch::new(own.clone());
        assert_eq!(watch.look().unwrap(), None);
        assert_eq!(watch.known(), &own);
    }

    #[test]
    fn a_change_is_announced_once() {
        let mut watch = Watch::new(OwnAddresses::new([ip("192.0.2.1")], []));
        let own = OwnAddresses::read().unwrap();
        assert_eq!(watch.look().unwrap(), Some(&own));
        assert_eq!(watch.look().unwrap(), None);
    }
}
