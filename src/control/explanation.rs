//! The answer to `why`: everything that the daemon knows about one client, refused or not.

use serde::{Deserialize, Serialize};

use super::bans::ListedBan;
use super::pause::PauseStatus;
use super::status::HeavyClient;
use crate::event::{Scope, Service};
use crate::rule::Mode;

/// Times are in seconds since 1970, `remaining` and `…_ago` in seconds. -1 means permanent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub address: String,
    /// The client that the address counts as: a network for IPv6.
    pub client: String,
    /// The autonomous system that it belongs to, by the database of `[geo]`.
    #[serde(default)]
    pub asn: Option<String>,
    #[serde(default)]
    pub country: Option<String>,
    /// Whether any service refuses it.
    pub refused: bool,
    /// The pause in force: until its end, nobody is refused.
    #[serde(default)]
    pub paused: Option<PauseStatus>,
    pub services: Services,
    /// Why it is never banned.
    #[serde(default)]
    pub never_banned: Option<String>,
    /// The matching entry of a deny list.
    #[serde(default)]
    pub denied: Option<String>,
    /// The banned networks that it is in, the smallest first.
    #[serde(default)]
    pub networks: Vec<NetworkBan>,
    /// The networks around it that rules in shadow mode would have banned.
    #[serde(default)]
    pub shadow_networks: Vec<NetworkBan>,
    /// The active ban of the client itself, or its latest one.
    #[serde(default)]
    pub ban: Option<ClientBan>,
    /// The latest unban of it by an operator, if it has no active ban.
    #[serde(default)]
    pub unbanned: Option<UnbannedBy>,
    /// Bans that rules in shadow mode would have made.
    #[serde(default)]
    pub shadow: Vec<ShadowBan>,
    #[serde(default)]
    pub strikes: Vec<StrikeCount>,
    /// The clients that make more than half of the traffic: this one may be behind one of them.
    #[serde(default)]
    pub heaviest: Vec<HeavyClient>,
}

/// What each service answers the client, unless a pause is in force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Services {
    pub web: Option<ActiveRefusal>,
    pub mail: Option<ActiveRefusal>,
}

impl Services {
    pub fn refusals(&self) -> impl Iterator<Item = (Service, &ActiveRefusal)> {
        [(Service::Web, &self.web), (Service::Mail, &self.mail)]
            .into_iter()
            .filter_map(|(service, refusal)| Some((service, refusal.as_ref()?)))
    }
}

/// Why a service refuses the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveRefusal {
    pub rule: String,
    pub by: RefusedBy,
    pub until: i64,
    pub remaining: i64,
    /// Whether the state file has the ban.
    pub saved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusedBy {
    /// A ban of the client.
    Client,
    /// A ban of a network that contains the client.
    Network,
    /// A deny list.
    List,
    /// A reason that only a newer daemon knows.
    #[serde(other)]
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkBan {
    pub network: String,
    pub rule: String,
    #[serde(default)]
    pub scope: Scope,
    /// How many different clients offended; 0 for a ban by hand.
    #[serde(default)]
    pub members: u32,
    /// The node of the fleet that made the ban, if it is another one.
    #[serde(default)]
    pub node: Option<String>,
    pub since: i64,
    /// Seconds since the ban began.
    pub since_ago: u64,
    pub until: i64,
    pub remaining: i64,
    /// Some of the clients and the last offence, or the operator's reason.
    #[serde(default)]
    pub reason: Option<String>,
    /// Who banned it by hand, in words.
    #[serde(default)]
    pub by: Option<String>,
}

/// An unban by an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnbannedBy {
    /// Who, in words.
    pub by: String,
    pub at: i64,
    pub at_ago: u64,
    /// What was unbanned: an address, a network, `inside NETWORK`, `rule NAME` or `all`.
    pub what: String,
}

/// A ban of a client, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientBan {
    pub rule: String,
    /// Whether the ban is active; otherwise it is the latest one.
    pub active: bool,
    pub scope: Scope,
    /// The last offence, or the operator's reason.
    pub evidence: String,
    /// The first offence that counted.
    pub first: i64,
    pub first_ago: u64,
    pub since: i64,
    /// Seconds since the ban began.
    pub since_ago: u64,
    pub until: i64,
    pub remaining: i64,
    /// How many offences led to the ban.
    pub count: u32,
    /// Number of this ban among the client's bans under this rule, from 1.
    pub times: u32,
    /// The node of the fleet that made the ban, if it is another one.
    #[serde(default)]
    pub node: Option<String>,
    /// Who made or restored it by hand, in words.
    #[serde(default)]
    pub by: Option<String>,
    /// The rule's current configuration.
    #[serde(default)]
    pub rule_settings: Option<RuleSettings>,
    #[serde(default)]
    pub rule_description: Option<String>,
}

/// The settings of a rule. Times are in seconds; -1 means permanent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSettings {
    pub mode: Mode,
    pub scope: Scope,
    pub maxretry: u32,
    pub findtime: u64,
    pub bantime: i64,
}

/// A ban that a rule in shadow mode would have made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowBan {
    pub service: String,
    pub rule: String,
    pub until: i64,
    pub remaining: i64,
}

/// The strikes of the client under one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrikeCount {
    pub rule: String,
    pub count: u32,
    pub maxretry: u32,
    /// The latest strike.
    pub last: i64,
    pub last_ago: u64,
    /// Whether the rule is in shadow mode.
    pub shadow: bool,
}

/// The answer to `why` about a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkExplanation {
    pub network: String,
    /// Whether all of it is refused.
    pub refused: bool,
    #[serde(default)]
    pub paused: Option<PauseStatus>,
    /// The bans of this network and of larger ones around it, the smallest first.
    pub bans: Vec<NetworkBan>,
    /// What is banned inside it.
    pub inside: BannedInside,
    /// Why addresses in it are never banned.
    #[serde(default)]
    pub never_banned: Option<String>,
    /// An entry of a deny list that contains it, or is inside it.
    #[serde(default)]
    pub denied: Option<String>,
}

/// The bans inside a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BannedInside {
    pub clients: usize,
    pub networks: usize,
    /// Some of them: the clients and networks that come first.
    pub first: Vec<ListedBan>,
}
