//! The addresses that jails ignore (`ignoreip`), for `strikeout import fail2ban`: whom fail2ban spared must not be banned.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs};

use ipnet::IpNet;

use super::jail::Jail;
use crate::client::ShortNetwork;
use crate::list::file::parse_network;

/// A network with a shorter prefix than this holds much of the Internet: IPv4, and IPv6.
const SHORTEST: (u8, u8) = (8, 16);

/// What the jails ignore, in the configuration's notation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// The networks that any of the jails ignores, except those that hold much of the Internet.
    pub by_any: BTreeSet<String>,
    /// By jail: the networks that not all jails ignore, and those that are in no other list because they hold much of the Internet.
    pub own: BTreeMap<String, BTreeSet<String>>,
    /// Comments, one line each.
    pub comments: Vec<String>,
    /// What an operator must look at: the jail, and what it is.
    pub warnings: Vec<(String, String)>,
}

impl Ignored {
    /// Reads the lists of `jails`. A host name is looked up by `resolve`.
    pub fn of(jails: &[Jail], resolve: impl Fn(&str) -> Vec<IpAddr>) -> Self {
        let mut ignored = Self::default();
        let mut by: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        let mut known: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for jail in jails {
            let list = jail.options.get("ignoreip").map(String::as_str).unwrap_or_default();
            for entry in list.split([' ', ',', '\n', '\t']).filter(|entry| !entry.is_empty()) {
                match parse_network(entry) {
                    Ok(network) if is_wide(network) => ignored.add_wide(&jail.name, network),
                    Ok(network) => _ = by.entry(ShortNetwork(network).to_string()).or_default().insert(&jail.name),
                    Err(_) => {
                        let addresses = known.entry(entry).or_insert_with(|| resolve(entry));
                        ignored.tell_host(&jail.name, entry, addresses);
                        addresses
                            .iter()
                            .for_each(|address| _ = by.entry(ShortNetwork((*address).into()).to_string()).or_default().insert(&jail.name));
                    }
                }
            }
        }
        for (network, by) in by {
            if by.len() < jails.len() {
                let names: Vec<&str> = by.iter().copied().collect();
                let alone = names.join(", ");
                ignored.comments.push(format!("{network} is ignored by {alone} alone in fail2ban, and by every rule here."));
                names.iter().for_each(|name| _ = ignored.own.entry((*name).to_owned()).or_default().insert(network.clone()));
            }
            ignored.by_any.insert(network);
        }
        ignored
    }

    fn add_wide(&mut self, jail: &str, network: IpNet) {
        if self.own.entry(jail.to_owned()).or_default().insert(ShortNetwork(network).to_string()) {
            let text = format!(
                "ignoreip: {network} holds much of the Internet: its rule alone ignores it, and bans nobody in it; remove it there unless \
                 that is meant"
            );
            self.warnings.push((jail.to_owned(), text));
        }
    }

    fn tell_host(&mut self, jail: &str, host: &str, addresses: &[IpAddr]) {
        if addresses.is_empty() {
            let text = format!(
                "ignoreip: found {host:?}, which is no address or network, nor a host name that is known now: add its addresses yourself"
            );
            self.warnings.push((jail.to_owned(), text));
        } else {
            let list: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            self.comments
                .push(format!("The host {host} in the ignoreip of {jail} had the addresses {} when this was written.", list.join(", ")));
        }
    }
}

fn is_wide(network: IpNet) -> bool {
    network.prefix_len() < if network.addr().is_ipv4() { SHORTEST.0 } else { SHORTEST.1 }
}

/// The addresses of a host, sorted; none if it is not known now, or is no host's name.
pub fn addresses(host: &str) -> Vec<IpAddr> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !host.chars().all(is_name) {
        return Vec::new();
    }
    let found = (host, 0).to_socket_addrs().map(|all| all.map(|address| address.ip().to_canonical()).collect::<BTreeSet<_>>());
    found.unwrap_or_default().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jail(name: &str, ignoreip: &str) -> Jail {
        Jail {
            name: name.into(),
            enabled: true,
            filter: "x".into(),
            filter_options: Default::default(),
            logs: Vec::new(),
            backend: "auto".into(),
            maxretry: 3,
            findtime: 600.0,
            bantime: 600.0,
            options: [("ignoreip".to_owned(), ignoreip.to_owned())].into(),
        }
    }

    fn of(jails: &[(&str, &str)]) -> Ignored {
        let jails: Vec<Jail> = jails.iter().map(|(name, list)| jail(name, list)).collect();
        Ignored::of(&jails, |host| if host == "office.example" { vec!["192.0.2.7".parse().unwrap()] } else { Vec::new() })
    }

    fn own<'a>(ignored: &'a Ignored, jail: &str) -> Vec<&'a str> {
        ignored.own.get(jail).into_iter().flatten().map(String::as_str).collect()
    }

    #[test]
    fn the_union_protects_everywhere_and_each_jail_keeps_what_it_ignores_beyond_the_others() {
        let ignored = of(&[("a", "127.0.0.1/8 192.0.2.1, 203.0.113.0/255.255.255.0"), ("b", "127.0.0.1/8\n192.0.2.1 198.51.100.7")]);
        assert_eq!(ignored.by_any.iter().collect::<Vec<_>>(), ["127.0.0.0/8", "192.0.2.1", "198.51.100.7", "203.0.113.0/24"]);
        assert_eq!((own(&ignored, "a"), own(&ignored, "b")), (vec!["203.0.113.0/24"], vec!["198.51.100.7"]));
        assert_eq!(ignored.comments.len(), 2);
        assert!(ignored.warnings.is_empty());
    }

    #[test]
    fn what_holds_much_of_the_internet_is_for_its_jail_alone_and_said() {
        for wide in ["0.0.0.0/0", "::/0", "128.0.0.0/7", "2000::/15"] {
            let ignored = of(&[("a", wide), ("b", "192.0.2.1")]);
            assert_eq!((own(&ignored, "a"), ignored.by_any.len()), (vec![wide], 1), "{wide}");
            assert!(ignored.warnings[0].0 == "a" && ignored.warnings[0].1.contains(wide), "{:?}", ignored.warnings);
        }
        assert!(of(&[("a", "10.0.0.0/8 2001::/16")]).warnings.is_empty());
        assert_eq!(own(&of(&[("a", "0.0.0.0/0"), ("b", "0.0.0.0/0")]), "b"), ["0.0.0.0/0"], "also if all jails ignore it");
    }

    #[test]
    fn a_host_is_looked_up_once_and_one_that_is_not_known_is_said() {
        let ignored = of(&[("a", "office.example gone.example"), ("b", "office.example")]);
        assert_eq!(ignored.by_any.iter().collect::<Vec<_>>(), ["192.0.2.7"]);
        assert!(
            ignored.comments[0].contains("office.example in the ignoreip of a had the addresses 192.0.2.7 when"),
            "{:?}",
            ignored.comments
        );
        assert!(ignored.warnings[0].1.contains("found \"gone.example\""), "{:?}", ignored.warnings);
        assert!(addresses("file:/etc/x").is_empty() && addresses("localhost").iter().all(IpAddr::is_loopback));
    }
}
