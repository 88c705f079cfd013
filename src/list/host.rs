//! Host names in `ignoreip`: how they are written, and which addresses they stand for.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{ListSource, Lists, Networks};

/// Maximum number of host names in `ignoreip`: each is looked up again every minute.
pub const MAX_HOSTS: usize = 64;
/// Maximum number of addresses of one name that are never banned.
pub const MAX_ADDRESSES: usize = 16;

/// A host name, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Parses a name with at least one dot, such as `home.example.net`. A name of one label is refused, because it is more often a slip, and
    /// so is one that ends in digits, which is a slip for an address.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_label = |label: &str| {
            let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.bytes().all(is_inside) && !label.starts_with('-') && !label.ends_with('-')
        };
        let (_, last) = name.rsplit_once('.')?;
        let is_name = name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit());
        is_name.then(|| Self(name.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The answer to a lookup, as far as a client can have such an address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostAddresses {
    /// Sorted, in canonical form, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<IpAddr>,
    /// How many more there were.
    pub left_out: usize,
}

impl HostAddresses {
    /// Single addresses only, whatever a name comes to point at; 0.0.0.0, ::, multicast and broadcast are nobody's. Of too many, always the same
    /// ones stay, in whatever order a server gives them.
    pub fn of(found: impl IntoIterator<Item = IpAddr>) -> Self {
        let is_nobodys = |address: &IpAddr| {
            address.is_unspecified() || address.is_multicast() || matches!(address, IpAddr::V4(address) if address.is_broadcast())
        };
        let found = found.into_iter().map(|address| address.to_canonical()).filter(|address| !is_nobodys(address));
        let mut addresses: Vec<IpAddr> = found.collect();
        addresses.sort_unstable();
        addresses.dedup();
        let left_out = addresses.len().saturating_sub(MAX_ADDRESSES);
        addresses.truncate(MAX_ADDRESSES);
        Self { addresses, left_out }
    }
}

impl ListSource {
    /// A host name without addresses yet. `place` is where it stands.
    #[must_use]
    pub fn of_host(name: HostName, place: &str) -> Self {
        Self { entries: 0, host: Some(name.clone()), ..Self::new(&format!("{name} in {place}"), []) }
    }

    /// The host name, if it is one.
    #[must_use]
    pub fn host(&self) -> Option<&HostName> {
        self.host.as_ref()
    }

    fn set_addresses(&mut self, addresses: Networks) {
        self.entries = addresses.len();
        self.networks = addresses;
    }
}

impl Lists {
    /// The host names in `ignoreip`, each once.
    pub fn hosts(&self) -> impl Iterator<Item = &ListSource> {
        self.ignoreip.iter().filter(|source| source.host.is_some())
    }

    /// Gives host names their addresses. Names that are not in the lists are ignored.
    pub fn set_host_addresses(&mut self, known: &[(HostName, Networks)]) {
        let mut sources = self.ignoreip.to_vec();
        for source in &mut sources {
            let found = known.iter().find(|(name, _)| source.host.as_ref() == Some(name));
            if let Some((_, addresses)) = found {
                source.set_addresses(addresses.clone());
            }
        }
        self.ignoreip = sources.into();
    }

    /// Takes over the addresses of the host names that stood in `earlier` as well.
    pub fn keep_host_addresses(&mut self, earlier: &Self) {
        let known: Vec<(HostName, Networks)> =
            earlier.hosts().filter_map(|source| Some((source.host.clone()?, source.networks.clone()))).collect();
        if !known.is_empty() {
            self.set_host_addresses(&known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::tests::ip;
    use ipnet::IpNet;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    #[test]
    fn a_host_name_has_a_dot_and_is_no_mistyped_address() {
        for (text, parsed) in [
            ("home.example.net", "home.example.net"),
            ("Home.Example.NET.", "home.example.net"),
            ("_dyn.a-b.example", "_dyn.a-b.example"),
            ("1.2.3.example", "1.2.3.example"),
            ("x.xn--p1ai", "x.xn--p1ai"),
        ] {
            assert_eq!(name(text).as_str(), parsed);
        }
        let long = format!("{}.example", "a".repeat(64));
        let longer = "a.".repeat(127) + "example";
        let refused = [
            "",
            ".",
            "localhost",
            "a..b",
            ".example",
            "10.0.0.256",
            "10.0.0",
            "192.0.2.0/33",
            "a b.example",
            "-a.example",
            "a-.example",
            "ex*mple.net",
            "münchen.example",
            "2001:db8::g",
            "a.example:80",
            "../x",
            &long,
            &longer,
        ];
        for text in refused {
            assert_eq!(HostName::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_answer_is_single_addresses_without_those_that_are_nobodys() {
        let found = ["::ffff:192.0.2.7", "192.0.2.7", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "2001:db8::1"].map(ip);
        assert_eq!(HostAddresses::of(found), HostAddresses { addresses: vec![ip("192.0.2.7"), ip("2001:db8::1")], left_out: 0 });
        assert_eq!(HostAddresses::of([ip("0.0.0.0")]), HostAddresses::default());
    }

    #[test]
    fn a_name_with_a_thousand_addresses_protects_the_same_few_in_any_order() {
        let all: Vec<IpAddr> = (0..1000_u32).map(|number| IpAddr::V4((0xc633_0000 + number).into())).collect();
        let answer = HostAddresses::of(all.iter().copied());
        assert_eq!((answer.addresses.len(), answer.left_out), (MAX_ADDRESSES, 1000 - MAX_ADDRESSES));
        assert_eq!(HostAddresses::of(all.into_iter().rev()), answer);
    }

    fn lists(names: &[&str]) -> Lists {
        let mut lists = Lists::default();
        let hosts = names.iter().map(|text| ListSource::of_host(name(text), "ignoreip in x.toml"));
        lists.set_ignoreip(
            std::iter::once(ListSource::new("ignoreip in x.toml", ["203.0.113.0/24".parse().unwrap()])).chain(hosts).collect(),
        );
        lists
    }

    fn networks(addresses: &[&str]) -> Networks {
        addresses.iter().map(|address| IpNet::from(ip(address))).collect()
    }

    #[test]
    fn the_addresses_of_a_name_are_never_banned_and_its_neighbours_are() {
        let mut lists = lists(&["home.example.net"]);
        assert!(lists.never_banned(ip("192.0.2.7")).is_none());
        lists.set_host_addresses(&[
            (name("home.example.net"), networks(&["192.0.2.6", "192.0.2.7"])),
            (name("other.example"), networks(&["192.0.2.9"])),
        ]);
        let why = lists.never_banned(ip("192.0.2.7")).unwrap().to_string();
        assert_eq!(why, "ignored network 192.0.2.6/31 (home.example.net in ignoreip in x.toml)");
        assert!(["192.0.2.5", "192.0.2.8", "192.0.2.9"].map(ip).into_iter().all(|address| lists.never_banned(address).is_none()));
        assert!(lists.never_banned(ip("203.0.113.7")).is_some());
        lists.set_host_addresses(&[(name("home.example.net"), networks(&["198.51.100.1"]))]);
        assert!(lists.never_banned(ip("192.0.2.7")).is_none() && lists.never_banned(ip("198.51.100.1")).is_some());
    }

    #[test]
    fn new_lists_keep_the_addresses_of_the_names_that_stay() {
        let mut earlier = lists(&["home.example.net", "gone.example"]);
        earlier
            .set_host_addresses(&[(name("home.example.net"), networks(&["192.0.2.7"])), (name("gone.example"), networks(&["192.0.2.8"]))]);
        let mut new = lists(&["home.example.net", "new.example"]);
        new.keep_host_addresses(&earlier);
        assert!(new.never_banned(ip("192.0.2.7")).is_some() && new.never_banned(ip("192.0.2.8")).is_none());
        assert_eq!(new.hosts().map(|source| source.entries()).collect::<Vec<_>>(), [1, 0]);
    }
}
