//! What subscribers are sent: the configuration and all bans piece by piece, then changes line by line.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::client::Client;
use crate::control::subscribe::{self, FromDaemon, List, RuleLine};
use crate::engine::{Change, Engine};
use crate::event::{Scope, Service};
use crate::list::{BannedNetwork, ListSource, Lists};
use crate::policy::Policy;
use crate::rule_id::RuleNames;
use crate::table::Ban;
use crate::time::Time;

/// Number of lines in one piece.
const PIECE_LINES: usize = 1024;

/// A copy of the bans, once it is made.
#[derive(Default)]
pub struct SnapshotBans(OnceLock<CopiedBans>);

struct CopiedBans {
    clients: Vec<(Client, Service, Ban)>,
    networks: Vec<BannedNetwork>,
}

impl SnapshotBans {
    /// Copies the bans that are active at `now`.
    pub fn copy(&self, engine: &Engine, now: Time) {
        let networks = engine.policy().lists.banned.iter().cloned().collect();
        let mut clients = Vec::with_capacity(engine.bans().len());
        engine.bans().for_each(now, |client, service, ban| clients.push((client, service, ban)));
        // Nobody else makes the same copy.
        let _ = self.0.set(CopiedBans { clients, networks });
    }
}

impl CopiedBans {
    fn len(&self) -> usize {
        self.networks.len() + self.clients.len()
    }

    /// The lines of [`PIECE_LINES`] bans from number `start` on, as far as they are active at `now`. Networks come first.
    fn piece(&self, start: usize, now: Time, names: &RuleNames) -> String {
        let networks = self.networks.iter().skip(start).take(PIECE_LINES).filter(|ban| ban.is_active(now));
        let networks = networks.map(|ban| {
            line(&FromDaemon::BanNetwork {
                network: ban.network,
                scope: ban.scope,
                rule: names.name(ban.rule),
                remaining: ban.until.map(|until| until.since(now)),
            })
        });
        let end = (start + PIECE_LINES).saturating_sub(self.networks.len());
        let clients = self.clients.get(start.saturating_sub(self.networks.len())..end.min(self.clients.len())).unwrap_or_default();
        let clients = clients.iter().filter(|(_, _, ban)| !ban.until.is_expired(now)).map(|(client, service, ban)| {
            let scope = match service {
                Service::Web => Scope::Web,
                Service::Mail => Scope::Mail,
            };
            line(&FromDaemon::Ban { client: *client, scope, rule: names.name(ban.rule), remaining: ban.until.remaining(now) })
        });
        networks.chain(clients).collect()
    }
}

/// The greeting, the configuration and all bans; an empty piece as long as these are not copied. `now` gives the time at which a piece is
/// made: a subscriber that reads slowly is not sent bans that have ended meanwhile.
pub fn snapshot(
    engine: &Engine,
    bans: Arc<SnapshotBans>,
    now: impl Fn() -> Time + Clone + Send + 'static,
) -> impl Iterator<Item = String> + Send + 'static {
    let policy = engine.policy();
    let pause = policy.active_pause(now()).map(|pause| line(&FromDaemon::Pause(pause.until.since(now()))));
    let names = Arc::clone(engine.names());
    let mut next = 0;
    let lines = std::iter::from_fn(move || {
        let Some(bans) = bans.0.get() else { return Some(String::new()) };
        // Bans that have ended make no lines, and an empty piece would mean something else.
        while next < bans.len() {
            let piece = bans.piece(next, now(), &names);
            next += PIECE_LINES;
            if !piece.is_empty() {
                return Some(piece);
            }
        }
        None
    });
    let hello = [line(&FromDaemon::Hello(subscribe::VERSION))];
    let begin = [line(&FromDaemon::BeginBans)];
    let end = [line(&FromDaemon::EndBans)];
    let config = config_lines(policy).filter(|piece| !piece.is_empty());
    hello.into_iter().chain(config).chain(pause).chain(begin).chain(lines).chain(end)
}

/// The configuration as subscribers need it. It holds on to the policy instead of its text until the last piece is made: in memory a
/// million networks take a fifth of what their text would, and all readers share them.
pub fn config_lines(policy: Arc<Policy>) -> impl Iterator<Item = String> + Send + 'static {
    let begin = [line(&FromDaemon::BeginConfig { prefix: policy.prefix, on_failure: policy.on_failure })];
    let rules = {
        let policy = Arc::clone(&policy);
        ranges(policy.rules.rules().len()).map(move |range| {
            let rules = policy.rules.rules().get(range).unwrap_or_default().iter();
            rules.filter_map(|rule| RuleLine::of(rule)).map(|rule| line(&FromDaemon::Rule(Box::new(rule)))).collect()
        })
    };
    let own = policy.lists.own();
    let addresses = own.addresses().iter().map(|address| (List::Own, *address));
    let gateways = own.gateways().iter().map(|address| (List::Gateway, *address));
    let own = [addresses.chain(gateways).map(|(list, address)| line(&FromDaemon::Listed(list, address.into()))).collect()];
    let denied = [policy.lists.denied_origins().iter().map(|entry| line(&FromDaemon::DeniedOrigin(entry))).collect()];
    let crawlers: String = policy.crawlers.iter().map(|crawler| line(&FromDaemon::Crawler(crawler.name.to_string()))).collect();
    let mut parts = Vec::new();
    for list in [List::IgnoreIp, List::TrustedProxies, List::Deny] {
        for (number, source) in sources(&policy.lists, list).iter().enumerate() {
            parts.extend(ranges(source.networks().len()).map(|range| (list, number, range)));
        }
    }
    let lists = parts.into_iter().map(move |(list, number, range)| {
        let source = sources(&policy.lists, list).get(number);
        let networks = source.into_iter().flat_map(|source| source.networks().part(range.clone()));
        networks.map(|network| line(&FromDaemon::Listed(list, network))).collect()
    });
    begin.into_iter().chain(rules).chain(own).chain(denied).chain([crawlers]).chain(lists).chain([line(&FromDaemon::EndConfig)])
}

fn sources(lists: &Lists, list: List) -> &[ListSource] {
    match list {
        List::IgnoreIp => lists.ignoreip(),
        List::TrustedProxies => lists.trusted_proxies(),
        List::Deny => lists.deny(),
        // Not kept as sources: these are few addresses, sent in one piece.
        List::Own | List::Gateway => &[],
    }
}

/// Splits the indices below `len` into ranges of [`PIECE_LINES`].
fn ranges(len: usize) -> impl Iterator<Item = Range<usize>> + Send + 'static {
    (0..len).step_by(PIECE_LINES).map(move |start| start..len.min(start + PIECE_LINES))
}

/// The line that tells subscribers about a change, if it concerns them.
#[must_use]
pub fn change_line(change: &Change, now: Time) -> Option<String> {
    Some(line(&match change {
        Change::Banned(record) => FromDaemon::Ban {
            client: record.client,
            scope: record.scope,
            rule: Arc::clone(&record.rule),
            remaining: record.until.remaining(now),
        },
        Change::Unbanned { client, scope, .. } => FromDaemon::Unban { client: *client, scope: *scope },
        Change::NetworkBanned(record) => FromDaemon::BanNetwork {
            network: record.network,
            scope: record.scope,
            rule: Arc::clone(&record.rule),
            remaining: record.until.remaining(now),
        },
        Change::NetworkUnbanned { network, .. } | Change::NetworkEvicted { network, .. } => FromDaemon::UnbanNetwork(*network),
        Change::RuleLifted { rule, .. } => FromDaemon::UnbanRule(Arc::clone(rule)),
        Change::Paused(pause) => FromDaemon::Pause(pause.until.since(now)),
        Change::Resumed => FromDaemon::Resume,
        Change::Forgotten(_) => return None,
    }))
}

fn line(message: &FromDaemon) -> String {
    format!("{message}\n")
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{client, engine};
    use super::*;

    use crate::engine::{Forgotten, Reach};
    use crate::table::Until;
    use crate::time::Span;

    const NOW: Time = Time::from_secs(1_800_000_000);

    #[test]
    fn a_snapshot_is_hello_configuration_and_bans_in_lines_that_parse() {
        let engine = engine("[defaults]\nignoreip = ['198.51.100.0/24']\ndeny = ['203.0.113.9']");
        let until = Until::at(NOW.after(Span::from_secs(60)));
        for number in 0..3000 {
            engine.bans().ban(client(number), Scope::Web, Ban { until, rule: engine.names().intern("w00tw00t"), saved: true }, NOW);
        }
        engine.change_lists(|lists| {
            for number in 0..1500_u32 {
                let network = ipnet::IpNet::from(std::net::IpAddr::from((0x0a00_0000 + (number << 8)).to_be_bytes()));
                lists.banned.insert(BannedNetwork::manual(network, NOW));
            }
        });
        let bans = Arc::new(SnapshotBans::default());
        let mut pieces = snapshot(&engine, Arc::clone(&bans), || NOW);
        let mut text: String = pieces.by_ref().take_while(|piece| !piece.is_empty()).collect();
        assert!(text.ends_with("begin bans\n"), "the bans are not copied yet");
        bans.copy(&engine, NOW);
        text.extend(pieces);
        let lines: Vec<FromDaemon> = text.lines().map(|line| FromDaemon::parse(line).unwrap()).collect();
        assert_eq!(lines.first(), Some(&FromDaemon::Hello(1)));
        assert_eq!(lines.last(), Some(&FromDaemon::EndBans));
        assert!(lines.contains(&FromDaemon::Listed(List::Deny, "203.0.113.9/32".parse().unwrap())));
        assert_eq!(lines.iter().filter(|line| matches!(line, FromDaemon::Ban { scope: Scope::Web, .. })).count(), 3000);
        assert_eq!(lines.iter().filter(|line| matches!(line, FromDaemon::BanNetwork { .. })).count(), 1500);
        // A quarter of what a helper reads.
        assert!(text.lines().all(|line| line.len() < 64 * 1024));
    }

    #[test]
    fn every_change_that_refuses_or_serves_somebody_is_a_line() {
        let at = NOW;
        assert_eq!(
            change_line(&Change::Unbanned { client: client(1), scope: Scope::All, at, kept: Vec::new(), reach: Reach::Everywhere }, NOW)
                .unwrap(),
            "unban 198.51.100.1 all\n"
        );
        assert_eq!(
            change_line(
                &Change::NetworkUnbanned { network: "10.0.0.0/8".parse().unwrap(), at, forgets: true, reach: Reach::Everywhere },
                NOW
            )
            .unwrap(),
            "unban-network 10.0.0.0/8\n"
        );
        assert_eq!(
            change_line(&Change::NetworkEvicted { network: "10.0.0.0/8".parse().unwrap(), at }, NOW).unwrap(),
            "unban-network 10.0.0.0/8\n"
        );
        assert_eq!(change_line(&Change::Forgotten(Forgotten::default()), NOW), None, "except what concerns no subscriber");
    }
}
