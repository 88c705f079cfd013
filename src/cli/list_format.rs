//! The bans as other programs read them: a plain list, or commands for nftables.

use std::fmt::Write as _;

use ipnet::IpNet;

use crate::control::bans::ListedBan;
use crate::list::file::parse_network;

/// A form for other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// An address, a network, a system or a country on each line, as lists are written.
    Plain,
    /// Commands for `nft -f -`, which fill the sets of a table of their own.
    Nft,
}

/// The table of the nftables sets.
const TABLE: &str = "inet strikeout";

impl Format {
    #[must_use]
    pub fn text(self, bans: &[ListedBan]) -> String {
        match self {
            Self::Plain => bans.iter().map(|ban| format!("{}\n", ban.client)).collect(),
            Self::Nft => nft(bans),
        }
    }
}

/// Commands that replace the content of four sets in one transaction. Nothing refers to the sets: a rule of the operator's own does.
fn nft(bans: &[ListedBan]) -> String {
    let mut bans: Vec<(IpNet, i64)> = bans.iter().filter_map(|ban| Some((parse_network(&ban.client).ok()?, ban.remaining))).collect();
    // A larger network comes before those inside it. Of a client that is banned on both services until different times, the longer ban counts.
    bans.sort_by_key(|(network, remaining)| (*network, if *remaining < 0 { i64::MIN } else { -remaining }));
    bans.dedup_by_key(|(network, _)| *network);
    let mut text = format!("add table {TABLE}\n");
    for (is_v4, kind) in [(true, "ipv4_addr"), (false, "ipv6_addr")] {
        for (is_network, name, flags) in [(false, "banned", "timeout"), (true, "banned_networks", "interval, timeout")] {
            let set = format!("{TABLE} {name}{}", if is_v4 { 4 } else { 6 });
            let is_wanted =
                |network: &IpNet| network.addr().is_ipv4() == is_v4 && (network.prefix_len() < network.max_prefix_len()) == is_network;
            let mut elements: Vec<String> = Vec::new();
            let mut last: Option<IpNet> = None;
            for (network, remaining) in bans.iter().filter(|(network, _)| is_wanted(network)) {
                // The elements of an interval set must not overlap.
                if last.is_some_and(|last| last.contains(network)) {
                    continue;
                }
                last = Some(*network);
                let timeout = if *remaining < 0 { String::new() } else { format!(" timeout {remaining}s") };
                let element = if is_network { network.to_string() } else { network.addr().to_string() };
                elements.push(element + &timeout);
            }
            // Writing to a string cannot fail.
            let _ = writeln!(text, "add set {set} {{ type {kind}; flags {flags}; }}\nflush set {set}");
            if !elements.is_empty() {
                let _ = writeln!(text, "add element {set} {{ {} }}", elements.join(", "));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bans() -> Vec<ListedBan> {
        [
            ("198.51.100.7", 600),
            ("198.51.100.7", 60),
            ("198.51.100.9", -1),
            ("203.0.113.0/24", 60),
            ("203.0.113.128/25", 60),
            ("2001:db8:1:2::/64", 600),
        ]
        .map(|(client, remaining)| {
            let ban = format!(r#"{{"client":"{client}","scope":"all","rule":"x","until":0,"remaining":{remaining}}}"#);
            serde_json::from_str(&ban).unwrap()
        })
        .into()
    }

    #[test]
    fn a_plain_list_has_a_client_or_network_on_each_line() {
        assert!(Format::Plain.text(&bans()).starts_with("198.51.100.7\n198.51.100.7\n198.51.100.9\n203.0.113.0/24\n"));
        assert_eq!(Format::Plain.text(&[]), "");
    }

    #[test]
    fn sets_of_nftables_hold_each_client_once_and_no_network_inside_another() {
        let text = Format::Nft.text(&bans());
        for expected in [
            "add set inet strikeout banned4 { type ipv4_addr; flags timeout; }\nflush set inet strikeout banned4\n\
             add element inet strikeout banned4 { 198.51.100.7 timeout 600s, 198.51.100.9 }\n",
            "\nadd element inet strikeout banned_networks4 { 203.0.113.0/24 timeout 60s }\n",
            "flush set inet strikeout banned6\nadd set",
            "\nadd element inet strikeout banned_networks6 { 2001:db8:1:2::/64 timeout 600s }\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        assert!(!Format::Nft.text(&[]).contains("add element"));
    }
}
