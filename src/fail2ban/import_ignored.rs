//! The addresses that jails ignore (`ignoreip`), for `strikeout import fail2ban`: whom fail2ban spared must not be banned.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::jail::Jail;
use crate::client::ShortNetwork;
use crate::list::file::parse_network;
use crate::list::{HostName, MAX_HOSTS};

/// A network with a shorter prefix than this holds much of the Internet: IPv4, and IPv6.
const SHORTEST: (u8, u8) = (8, 16);

/// What the jails ignore, in the configuration's notation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// The networks and host names that any of the jails ignores, except what holds much of the Internet.
    pub by_any: BTreeSet<String>,
    /// By jail: the networks that not all jails ignore, and those that are in no other list because they hold much of the Internet.
    pub own: BTreeMap<String, BTreeSet<String>>,
    /// Comments, one line each.
    pub comments: Vec<String>,
    /// What an operator must look at: the jail, and what it is.
    pub warnings: Vec<(String, String)>,
}

impl Ignored {
    /// Reads the lists of `jails`. Host names stay names: the daemon looks them up, as fail2ban does.
    pub fn of(jails: &[Jail]) -> Self {
        let mut ignored = Self::default();
        let mut by: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        let mut hosts: BTreeMap<HostName, BTreeSet<&str>> = BTreeMap::new();
        for jail in jails {
            let list = jail.options.get("ignoreip").map(String::as_str).unwrap_or_default();
            for entry in list.split([' ', ',', '\n', '\t']).filter(|entry| !entry.is_empty()) {
                match parse_network(entry) {
                    Ok(network) if is_wide(network) => ignored.add_wide(&jail.name, network),
                    Ok(network) => _ = by.entry(ShortNetwork(network).to_string()).or_default().insert(&jail.name),
                    // Loopback is never banned.
                    Err(_) if entry == "localhost" => {}
                    Err(_) => match HostName::parse(entry) {
                        Some(host) => _ = hosts.entry(host).or_default().insert(&jail.name),
                        None => ignored.tell_unknown(&jail.name, entry),
                    },
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
        for (number, (host, by)) in hosts.into_iter().enumerate() {
            let names: Vec<&str> = by.iter().copied().collect();
            let alone = names.join(", ");
            if number >= MAX_HOSTS {
                let text = format!("ignoreip: found more than {MAX_HOSTS} host names: add the addresses of {host} yourself");
                ignored.warnings.push((alone, text));
                continue;
            }
            if by.len() < jails.len() {
                ignored.comments.push(format!("{host} is ignored by {alone} alone in fail2ban, and by every rule here."));
            }
            ignored.by_any.insert(host.to_string());
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

    fn tell_unknown(&mut self, jail: &str, entry: &str) {
        let text = format!("ignoreip: found {entry:?}, which is no address, network or host name with a dot: add its addresses yourself");
        self.warnings.push((jail.to_owned(), text));
    }
}

fn is_wide(network: IpNet) -> bool {
    network.prefix_len() < if network.addr().is_ipv4() { SHORTEST.0 } else { SHORTEST.1 }
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
        Ignored::of(&jails)
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
    fn a_host_stays_a_name_that_protects_everywhere_and_what_is_none_is_said() {
        let ignored = of(&[("a", "office.example localhost gone!example"), ("b", "Office.example home.example")]);
        assert_eq!(ignored.by_any.iter().collect::<Vec<_>>(), ["home.example", "office.example"]);
        assert!(own(&ignored, "a").is_empty() && own(&ignored, "b").is_empty());
        assert_eq!(ignored.comments, ["home.example is ignored by b alone in fail2ban, and by every rule here."]);
        assert_eq!(ignored.warnings.len(), 1);
        assert!(ignored.warnings[0].1.contains("found \"gone!example\""), "{:?}", ignored.warnings);
    }

    #[test]
    fn more_names_than_the_configuration_takes_are_said() {
        let names: Vec<String> = (0..MAX_HOSTS + 2).map(|number| format!("h{number:03}.example")).collect();
        let ignored = of(&[("a", &names.join(" "))]);
        assert_eq!((ignored.by_any.len(), ignored.warnings.len()), (MAX_HOSTS, 2));
    }
}
