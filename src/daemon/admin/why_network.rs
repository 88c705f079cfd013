//! `why NETWORK`: what refuses a network as a whole, and what is banned inside it.

use ipnet::IpNet;

use super::context::AdminContext;
use crate::client::is_single;
use crate::control::admin::BanFilter;
use crate::control::answer::object;
use crate::control::bans::ListedBan;
use crate::control::explanation::{BannedInside, NetworkBan, NetworkExplanation};
use crate::control::pause::PauseStatus;
use crate::geo::{Network, OriginEntry};
use crate::list::file::parse_network;

/// Maximum number of banned clients and networks inside that are told.
const MAX_FIRST: usize = 10;

impl AdminContext {
    /// The answer about a client or a network. An IPv6 client is shown as a network, so a network of that length is one.
    pub(super) fn why_target(&self, target: Network) -> String {
        let prefix = self.engine.policy().prefix;
        let target = match target {
            Network::Block(block) => block,
            Network::Origin(entry) => return object(&self.why_origin(entry)),
        };
        let is_client = match target {
            IpNet::V4(_) => is_single(target),
            IpNet::V6(v6) => v6.prefix_len() >= prefix.bits(),
        };
        if is_client { object(&self.why(target.addr())) } else { object(&self.why_network(target)) }
    }

    /// The answer about a system or a country: what refuses it as a whole, and which of its clients are banned.
    fn why_origin(&self, entry: OriginEntry) -> NetworkExplanation {
        let (now, policy) = (self.clock.now(), self.engine.policy());
        let ban = policy.lists.banned.get(entry).filter(|ban| ban.is_active(now));
        let bans: Vec<NetworkBan> = ban.map(|ban| self.network_ban(now, ban)).into_iter().collect();
        // Only a filter by rule can fail.
        let mut clients = self.client_bans(&BanFilter::default(), now).unwrap_or_default();
        clients.retain(|(client, _, _)| policy.geo.belongs(*client, entry));
        clients.dedup_by_key(|(client, _, _)| *client);
        let first = clients.iter().map(|ban| self.listed(*ban, now)).take(MAX_FIRST).collect();
        let paused = policy.active_pause(now).map(|pause| PauseStatus::of(pause, now));
        let denied = policy.lists.denied_origins().place(entry);
        NetworkExplanation {
            network: entry.to_string(),
            refused: paused.is_none() && (!bans.is_empty() || denied.is_some()),
            paused,
            bans,
            inside: BannedInside { clients: clients.len(), networks: 0, first },
            never_banned: None,
            denied: denied.map(|place| format!("{entry} ({place})")),
        }
    }

    fn why_network(&self, network: IpNet) -> NetworkExplanation {
        let (now, policy) = (self.clock.now(), self.engine.policy());
        let bans = self.network_bans_around(now, network);
        let filter = BanFilter { network: Some(network), ..BanFilter::default() };
        let is_inside = |ban: &ListedBan| parse_network(&ban.client).is_ok_and(|found| found != network && network.contains(&found));
        let networks: Vec<ListedBan> = self.network_bans(&filter, now).into_iter().filter(is_inside).collect();
        // Only a filter by rule can fail.
        let mut clients = self.client_bans(&filter, now).unwrap_or_default();
        clients.dedup_by_key(|(client, _, _)| *client);
        let listed = clients.iter().map(|ban| self.listed(*ban, now));
        let inside = BannedInside {
            clients: clients.len(),
            networks: networks.len(),
            first: networks.iter().cloned().chain(listed).take(MAX_FIRST).collect(),
        };
        let paused = policy.active_pause(now).map(|pause| PauseStatus::of(pause, now));
        let denied = policy.lists.deny_overlap(network);
        let is_denied = denied.as_ref().is_some_and(|entry| entry.network.contains(&network));
        NetworkExplanation {
            network: network.to_string(),
            refused: paused.is_none() && (!bans.is_empty() || is_denied),
            paused,
            bans,
            inside,
            never_banned: policy.lists.overlaps_never_banned(network).map(|reason| reason.to_string()),
            denied: denied.map(|entry| entry.to_string()),
        }
    }
}
