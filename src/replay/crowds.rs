//! The networks that rules over networks banned in a replay, and whom that refused.

use std::collections::HashMap;

use ahash::RandomState;
use serde::Serialize;

use super::tally::{BannedNetworkTally, Series, Tally};
use crate::client::Client;
use crate::clock::timestamp;
use crate::event::behaviour::Behaviour;
use crate::geo::Network;
use crate::policy::Policy;
use crate::rule::Mode;
use crate::rule_id::RuleId;

/// A network that one rule banned, or would have in shadow mode.
#[derive(Debug, Clone, Serialize)]
pub struct CrowdReport {
    pub network: String,
    pub rule: String,
    pub mode: Mode,
    /// How many different clients led to a ban; there may have been more.
    pub members: u32,
    pub bans: u64,
    /// Refused events.
    pub refused: u64,
    /// Clients that were refused.
    pub clients: u64,
    /// Clients that look good, among the refused ones.
    pub clients_good: u64,
    /// Start of the first ban.
    pub since: String,
    /// Some of its clients and the last offence before the first ban.
    pub evidence: String,
    /// Refused events over the whole time span of the report, in 60 steps.
    pub spark: Vec<u64>,
}

/// The `limit` networks that were refused most often, each with its refused events over time.
pub(super) fn most_refused(
    networks: HashMap<(Network, RuleId), BannedNetworkTally, RandomState>,
    tally: &Tally,
    policy: &Policy,
    behaviour: impl Fn(&Client) -> Behaviour,
    limit: usize,
) -> Vec<(CrowdReport, Series)> {
    let mut sorted: Vec<_> = networks.into_iter().collect();
    sorted.sort_by(|((one, _), a), ((other, _), b)| (b.refused, b.bans, one).cmp(&(a.refused, a.bans, other)));
    sorted.truncate(limit);
    let report = |((network, id), banned): ((Network, RuleId), BannedNetworkTally)| {
        let rule = policy.rules.get(id)?;
        let is_inside = |client: Client| policy.geo.is_in(client, network);
        let clients = || tally.banned.keys().filter(|(client, by)| *by == id && is_inside(*client)).map(|(client, _)| client);
        let report = CrowdReport {
            network: network.to_string(),
            rule: rule.name.to_string(),
            mode: rule.mode,
            members: banned.members,
            bans: banned.bans,
            refused: banned.refused,
            clients: count(clients()),
            clients_good: count(clients().filter(|client| behaviour(client).looks_legitimate())),
            since: timestamp(banned.since),
            evidence: banned.evidence,
            spark: Vec::new(),
        };
        Some((report, banned.series))
    };
    sorted.into_iter().filter_map(report).collect()
}

fn count<'a>(clients: impl Iterator<Item = &'a Client>) -> u64 {
    u64::try_from(clients.count()).unwrap_or(u64::MAX)
}
