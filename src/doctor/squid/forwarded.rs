//! Whose word Squid takes for a client's address: `follow_x_forwarded_for`, and what Strikeout knows of these proxies.

use ipnet::IpNet;

use crate::client::ShortNetwork;
use crate::doctor::report::Finding;
use crate::doctor::squid_config::{Directive, SquidConfig};
use crate::list::file::parse_network;
use crate::list::{ListSource, Lists};

const CHECK: &str = "squid-clients";

/// The addresses that an access line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Everybody,
    Networks(Vec<IpNet>),
    /// Everybody but these.
    Except(Vec<IpNet>),
    /// Something that cannot be told from here, such as a host name.
    Unknown,
}

/// What stands against the way in which Squid learns its clients' addresses.
pub fn check(config: &SquidConfig, lists: &Lists) -> Vec<Finding> {
    if let Some(mask) = config.setting("client_netmask").filter(|mask| *mask != "255.255.255.255") {
        let text = format!("client_netmask {mask} cuts the addresses, so one scanner bans its whole network");
        return vec![Finding::fault(CHECK, text, "remove client_netmask from squid.conf, then: squid -k reconfigure")];
    }
    let mut trusted = Vec::new();
    let mut unknown = None;
    // Whom `deny !acl` has left over for the lines behind it.
    let mut left: Option<Vec<IpNet>> = None;
    for line in config.named("follow_x_forwarded_for") {
        let source = source(config, line);
        match (line.words.first().map(String::as_str), source) {
            (Some("allow"), Source::Everybody) if left.is_some() => {
                trusted.push((line, left.take().unwrap_or_default()));
                break;
            }
            (Some("deny"), Source::Except(networks)) => left = Some(networks),
            (Some("allow"), Source::Everybody | Source::Except(_)) => {
                let text = format!("{} ({}) lets every client choose the address that is judged and banned", line.place(), line.text());
                let remedy = "allow the addresses of your own balancers alone there (/usr/share/doc/strikeout/load-balancer.md), then: squid -k reconfigure";
                return vec![Finding::fault(CHECK, text, remedy)];
            }
            (Some("allow"), Source::Networks(networks)) => trusted.push((line, networks)),
            (Some("allow"), Source::Unknown) => unknown = Some(line),
            (Some("deny"), Source::Everybody) => break,
            _ => {}
        }
    }
    if let Some((line, network)) =
        trusted.iter().find_map(|(line, networks)| Some((line, networks.iter().find(|network| !is_spared(lists, **network))?)))
    {
        let text = format!(
            "Squid takes the word of {} ({}) for its clients, and {} is on no never-ban list",
            ShortNetwork(*network),
            line.place(),
            ShortNetwork(*network)
        );
        let remedy = format!(
            "echo 'defaults.trusted_proxies = [\"{}\"]' > /etc/strikeout/conf.d/balancer.toml && strikeout reload",
            ShortNetwork(*network)
        );
        return vec![Finding::warning(CHECK, text, remedy)];
    }
    let proxies = lists.trusted_proxies().iter().flat_map(|source| source.networks().iter()).next();
    let takes_a_word = !trusted.is_empty()
        || unknown.is_some()
        || config.named("proxy_protocol_access").any(|line| line.words.first().is_some_and(|word| word == "allow"));
    match proxies {
        Some(proxy) if !takes_a_word => {
            let text = format!(
                "{} is in trusted_proxies, but Squid takes nobody's X-Forwarded-For, so whoever comes through it is never banned",
                ShortNetwork(proxy)
            );
            let remedy = "write the three lines of /usr/share/doc/strikeout/load-balancer.md into squid.conf, then: squid -k reconfigure";
            vec![Finding::fault(CHECK, text, remedy)]
        }
        _ if takes_a_word && config.setting("log_uses_indirect_client") == Some("off") => {
            let text =
                "log_uses_indirect_client off keeps X-Forwarded-For from the helper, so the balancer is judged in place of its clients";
            vec![Finding::fault(CHECK, text, "remove it from squid.conf, then: squid -k reconfigure")]
        }
        _ if unknown.is_some() => {
            let place = unknown.map(Directive::place).unwrap_or_default();
            vec![Finding::ok(
                CHECK,
                format!("Squid takes the word of {place} for the addresses of its clients; compare it with trusted_proxies"),
            )]
        }
        _ if takes_a_word => {
            vec![Finding::ok(CHECK, "Squid takes the word of never-banned proxies alone for the addresses of its clients")]
        }
        _ => vec![Finding::ok(CHECK, "Squid takes the address of each connection for its client's")],
    }
}

/// Whether nobody in a network can be banned.
fn is_spared(lists: &Lists, network: IpNet) -> bool {
    let loopback = |first: &str| first.parse().is_ok_and(|loopback: IpNet| loopback.contains(&network));
    loopback("127.0.0.0/8") || loopback("::1/128") || lists.protects_all_of(network) || is_covered(lists, network)
}

/// Whether several entries of one list together contain it, since adjacent ones were merged.
fn is_covered(lists: &Lists, network: IpNet) -> bool {
    let contains = |source: &ListSource| source.networks().lookup(network.addr()).is_some_and(|listed| listed.contains(&network));
    lists.ignoreip().iter().chain(lists.trusted_proxies()).any(contains)
}

/// The clients that a line is about: those of its narrowest acl.
fn source(config: &SquidConfig, line: &Directive) -> Source {
    let mut source = Source::Everybody;
    for acl in line.words.iter().skip(1) {
        let of_acl = match acl.strip_prefix('!') {
            None => of_acl(config, acl),
            Some(acl) => match of_acl(config, acl) {
                Source::Networks(networks) => Source::Except(networks),
                // Who is left over cannot be told.
                Source::Everybody | Source::Except(_) | Source::Unknown => Source::Unknown,
            },
        };
        match (of_acl, &source) {
            (Source::Everybody, _) | (Source::Except(_), Source::Networks(_)) => {}
            (narrower, _) => source = narrower,
        }
    }
    source
}

fn of_acl(config: &SquidConfig, name: &str) -> Source {
    if name == "all" {
        return Source::Everybody;
    }
    let Some((kind, values)) = config.acl(name) else {
        return if name == "localhost" { Source::Networks(Vec::new()) } else { Source::Unknown };
    };
    if kind != "src" {
        return if kind.starts_with("src") { Source::Unknown } else { Source::Everybody };
    }
    let networks: Option<Vec<IpNet>> =
        values.iter().map(|value| if *value == "all" { parse_network("0.0.0.0/0") } else { parse_network(value) }.ok()).collect();
    match networks {
        Some(networks) if networks.iter().any(|network| network.prefix_len() == 0) => Source::Everybody,
        Some(networks) => Source::Networks(networks),
        None => Source::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Level;
    use crate::doctor::squid_config::tests::config;

    fn found(text: &str, proxies: &[&str]) -> (Level, String) {
        let mut lists = Lists::default();
        lists.set_trusted_proxies(vec![ListSource::new("trusted_proxies", proxies.iter().map(|network| parse_network(network).unwrap()))]);
        let config = config(&[("/s", text)]);
        let mut findings = check(&config, &lists);
        assert_eq!(findings.len(), 1, "{findings:?}");
        let finding = findings.remove(0);
        (finding.level, finding.text)
    }

    #[test]
    fn only_never_banned_proxies_may_name_clients() {
        let balancer = "acl b src 192.0.2.10 192.0.2.11\nfollow_x_forwarded_for allow b\nfollow_x_forwarded_for deny all";
        for (text, proxies, level, expected) in [
            ("", &[][..], Level::Ok, "the address of each connection"),
            ("follow_x_forwarded_for allow localhost", &[], Level::Ok, "the word of never-banned proxies alone"),
            (balancer, &["192.0.2.10/31"], Level::Ok, "the word of never-banned proxies alone"),
            (balancer, &["192.0.2.10"], Level::Warning, "the word of 192.0.2.11 (/s:2)"),
            (balancer, &[], Level::Warning, "and 192.0.2.10 is on no never-ban list"),
            ("follow_x_forwarded_for allow all", &[], Level::Fault, "/s:1 (follow_x_forwarded_for allow all) lets every client"),
            ("acl b src 0.0.0.0/0\nfollow_x_forwarded_for allow b", &[], Level::Fault, "lets every client"),
            ("acl b method GET\nfollow_x_forwarded_for allow b", &[], Level::Fault, "lets every client"),
            (
                "acl b src 192.0.2.10\nfollow_x_forwarded_for deny !b\nfollow_x_forwarded_for allow all",
                &[],
                Level::Warning,
                "192.0.2.10 is on",
            ),
            ("acl b src 192.0.2.10\nfollow_x_forwarded_for deny !b\nfollow_x_forwarded_for allow all", &["192.0.2.10"], Level::Ok, "never"),
            ("acl b src 192.0.2.10\nfollow_x_forwarded_for allow !b", &[], Level::Fault, "lets every client"),
            ("acl m method GET\nfollow_x_forwarded_for deny !m\nfollow_x_forwarded_for allow all", &[], Level::Fault, "lets every client"),
            ("follow_x_forwarded_for deny all\nfollow_x_forwarded_for allow all", &[], Level::Ok, "each connection"),
            ("", &["192.0.2.10"], Level::Fault, "192.0.2.10 is in trusted_proxies, but Squid takes nobody's"),
            ("acl b src 192.0.2.10\nproxy_protocol_access allow b", &["192.0.2.10"], Level::Ok, "never-banned proxies"),
            ("follow_x_forwarded_for allow localhost\nlog_uses_indirect_client off", &[], Level::Fault, "log_uses_indirect_client off"),
            ("client_netmask 255.255.255.0", &[], Level::Fault, "client_netmask 255.255.255.0 cuts"),
            ("acl b src balancer.example.org\nfollow_x_forwarded_for allow b", &[], Level::Ok, "takes the word of /s:2 for"),
        ] {
            let (found_level, found_text) = found(text, proxies);
            assert!(found_level == level && found_text.contains(expected), "{text} gave {found_level:?} {found_text}");
        }
    }
}
