//! `why ADDRESS`: everything that is known of one client, refused or not.

use std::net::IpAddr;

use ipnet::IpNet;

use super::ban::shown_network;
use super::context::AdminContext;
use crate::client::{Client, is_single};
use crate::control::admin::UnbanTarget;
use crate::control::bans::{epoch, remaining, seconds};
use crate::control::explanation::{
    ActiveRefusal, ClientBan, Explanation, NetworkBan, RefusedBy, RuleSettings, Services, ShadowBan, StrikeCount, UnbannedBy,
};
use crate::control::pause::PauseStatus;
use crate::detector::Detector;
use crate::engine::BanRecord;
use crate::event::Service;
use crate::geo::Network;
use crate::list::BannedNetwork;
use crate::rule::{Evidence, Mode, Rule};
use crate::rule_id::RuleId;
use crate::table::{Ban, Until};
use crate::time::Time;
use crate::verdict::DenyReason;

impl AdminContext {
    pub(super) fn why(&self, address: IpAddr) -> Explanation {
        let (engine, now, policy) = (&self.engine, self.clock.now(), self.engine.policy());
        let client = Client::of(address, policy.prefix);
        let refusal = |service| self.active_refusal(now, address, client, service);
        let services = Services { web: refusal(Service::Web), mail: refusal(Service::Mail) };
        let shadow = Service::ALL.iter().filter_map(|service| {
            let ban = engine.shadow_ban(client, *service, now)?;
            Some(ShadowBan {
                service: service.as_str().to_owned(),
                rule: engine.names().name(ban.rule).to_string(),
                until: epoch(ban.until),
                remaining: remaining(ban.until, now),
            })
        });
        let paused = policy.active_pause(now).map(|pause| PauseStatus::of(pause, now));
        let ban = self.client_ban(now, client);
        let refused = paused.is_none() && (services.web.is_some() || services.mail.is_some());
        let origin = policy.geo.origin(client).unwrap_or_default();
        let denied = policy.lists.denied(address);
        let denied_origin = || policy.lists.denied_origins().find(origin).map(|(entry, place)| format!("{entry} ({place})"));
        Explanation {
            address: address.to_string(),
            client: client.display(policy.prefix).to_string(),
            refused,
            paused,
            services,
            never_banned: policy.lists.never_banned(address).map(|reason| reason.to_string()),
            asn: origin.asn.map(|asn| asn.to_string()),
            country: origin.country.map(|country| country.to_string()),
            denied: denied.map(|entry| entry.to_string()).or_else(denied_origin),
            networks: self.network_bans_around(now, address.into()),
            shadow_networks: self.shadow_networks(now, address),
            unbanned: if ban.as_ref().is_some_and(|ban| ban.active) { None } else { self.unbanned(now, client) },
            ban,
            shadow: shadow.collect(),
            strikes: self.strikes(now, client),
            heaviest: self.heaviest(),
        }
    }

    fn active_refusal(&self, now: Time, address: IpAddr, client: Client, service: Service) -> Option<ActiveRefusal> {
        let (engine, policy) = (&self.engine, self.engine.policy());
        if policy.lists.never_banned(address).is_some() {
            return None;
        }
        let (refusal, saved) = Detector::new(&policy, engine.bans()).active_refusal(now, address, client, service)?;
        let by = match (engine.bans().get(client, service, now), refusal.reason) {
            (Some(_), _) => RefusedBy::Client,
            (None, DenyReason::DenyList) => RefusedBy::List,
            (None, _) => RefusedBy::Network,
        };
        let (until, remaining) = (epoch(refusal.until), remaining(refusal.until, now));
        Some(ActiveRefusal { rule: engine.names().name(refusal.rule).to_string(), by, until, remaining, saved })
    }

    /// The bans of `network` itself and of the networks around it, the smallest first.
    pub(super) fn network_bans_around(&self, now: Time, network: IpNet) -> Vec<NetworkBan> {
        let policy = self.engine.policy();
        let client = Client::of(network.addr(), policy.prefix);
        let is_around = |ban: &BannedNetwork| match ban.network {
            Network::Block(block) => block.contains(&network),
            Network::Origin(entry) => is_single(network) && policy.geo.belongs(client, entry),
        };
        let mut around: Vec<_> = policy.lists.banned.iter().filter(|ban| ban.is_active(now) && is_around(ban)).collect();
        // An autonomous system is larger than every block, and a country is the largest.
        around.sort_by_key(|ban| (std::cmp::Reverse(ban.network.block().map(|block| block.prefix_len())), ban.network));
        around.into_iter().map(|ban| self.network_ban(now, ban)).collect()
    }

    /// The networks around `address` that rules in shadow mode would have banned.
    fn shadow_networks(&self, now: Time, address: IpAddr) -> Vec<NetworkBan> {
        let networks = self.engine.shadow_networks();
        let policy = self.engine.policy();
        let client = Client::of(address, policy.prefix);
        let is_around = |ban: &&BannedNetwork| ban.is_active(now) && policy.geo.is_in(client, ban.network);
        networks.iter().filter(is_around).map(|ban| self.network_ban(now, ban)).collect()
    }

    /// The latest unban of `client` by an operator.
    fn unbanned(&self, now: Time, client: Client) -> Option<UnbannedBy> {
        let record = self.engine.ban_record(client);
        let undone = self.undone.lock().of(client.network(self.engine.policy().prefix), record.as_ref()).cloned()?;
        Some(UnbannedBy {
            by: undone.by.to_string(),
            at: seconds(undone.at),
            at_ago: now.since(undone.at).secs(),
            what: match undone.what {
                UnbanTarget::One(target) => shown_network(target, self.engine.policy().prefix),
                UnbanTarget::Inside(network) => format!("inside {network}"),
                UnbanTarget::Rule(name) => format!("rule {name}"),
                UnbanTarget::All => "all".to_owned(),
            },
        })
    }

    /// Members and last offence, or the operator's reason for the ban of a network, if it is known.
    pub(super) fn network_ban_reason(&self, network: Network, rule: RuleId) -> Option<Evidence> {
        if let Some(reason) = self.engine.network_reason(network, rule) {
            return Some(reason);
        }
        self.state.as_ref().map_or(Ok(None), |state| state.network_ban_reason(network)).unwrap_or_else(|fault| {
            log::warn!("{fault}");
            None
        })
    }

    pub(super) fn network_ban(&self, now: Time, ban: &BannedNetwork) -> NetworkBan {
        #[cfg(feature = "fleet")]
        let node = self.fleet.as_ref().and_then(|fleet| fleet.origin_of(ban.network.block()?)).map(|node| node.to_string());
        #[cfg(not(feature = "fleet"))]
        let node = None;
        let until = ban.until.map_or(Until::NEVER, Until::at);
        let reason = self.network_ban_reason(ban.network, ban.rule);
        NetworkBan {
            network: ban.network.to_string(),
            rule: self.engine.names().name(ban.rule).to_string(),
            scope: ban.scope,
            members: ban.members,
            node,
            since: seconds(ban.since),
            since_ago: now.since(ban.since).secs(),
            until: epoch(until),
            remaining: remaining(until, now),
            by: reason.as_ref().and_then(Evidence::by).map(str::to_owned),
            reason: reason.map(|reason| reason.as_str().to_owned()).filter(|reason| !reason.is_empty()),
        }
    }

    /// The active ban of `client`, or the latest one whose record still exists.
    fn client_ban(&self, now: Time, client: Client) -> Option<ClientBan> {
        let active: Vec<Ban> = Service::ALL.iter().filter_map(|service| self.engine.bans().get(client, *service, now)).collect();
        let record = self.ban_record(now, client, &active)?;
        let policy = self.engine.policy();
        let rule = policy.rules.by_name(&record.rule);
        Some(ClientBan {
            rule: record.rule.to_string(),
            active: self.is_active(&record, &active),
            scope: record.scope,
            evidence: record.evidence.as_str().to_owned(),
            first: seconds(record.first),
            first_ago: now.since(record.first).secs(),
            since: seconds(record.since),
            since_ago: now.since(record.since).secs(),
            until: epoch(record.until),
            remaining: remaining(record.until, now),
            count: record.count,
            times: record.times,
            node: Some(record.node.to_string()).filter(|node| !node.is_empty()),
            by: record.evidence.by().map(str::to_owned),
            rule_settings: rule.map(|rule| rule_settings(rule)),
            rule_description: rule.map(|rule| rule.description.to_string()).filter(|description| !description.is_empty()),
        })
    }

    /// The record of one of the `active` bans of `client`; without one, its latest record.
    fn ban_record(&self, now: Time, client: Client, active: &[Ban]) -> Option<BanRecord> {
        let in_memory = self.engine.ban_record(client);
        if in_memory.as_ref().is_some_and(|record| active.is_empty() || self.is_active(record, active)) {
            return in_memory;
        }
        let in_file = self.state.as_ref().and_then(|state| match state.ban_records(client, now) {
            Ok(records) => records.into_iter().max_by_key(|record| (self.is_active(record, active), record.since)),
            Err(fault) => {
                log::warn!("{fault}");
                None
            }
        });
        in_file.or(in_memory)
    }

    /// Whether `record` is that of one of the `active` bans.
    fn is_active(&self, record: &BanRecord, active: &[Ban]) -> bool {
        active.iter().any(|ban| ban.until == record.until && self.engine.names().name(ban.rule) == record.rule)
    }

    fn strikes(&self, now: Time, client: Client) -> Vec<StrikeCount> {
        let policy = self.engine.policy();
        let counts = policy.rules.rules().iter().filter_map(|rule| {
            let counter = self.engine.strikes().get(rule.id, client).filter(|counter| !counter.is_expired(now, rule.findtime))?;
            Some(StrikeCount {
                rule: rule.name.to_string(),
                count: counter.count(),
                maxretry: rule.maxretry,
                last: seconds(counter.last()),
                last_ago: now.since(counter.last()).secs(),
                shadow: rule.mode == Mode::Shadow,
            })
        });
        counts.collect()
    }
}

fn rule_settings(rule: &Rule) -> RuleSettings {
    RuleSettings {
        mode: rule.mode,
        scope: rule.scope,
        maxretry: rule.maxretry,
        findtime: rule.findtime.secs(),
        bantime: rule.bantime.of(0).map_or(-1, |span| i64::try_from(span.secs()).unwrap_or(i64::MAX)),
    }
}
