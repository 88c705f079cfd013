//! The daemon's status, as `status` answers it and `strikeout status --json` prints it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::config::ConfigStatus;
use super::crowdsec::CrowdsecStatus;
use super::pause::PauseStatus;
use crate::event::Scope;
use crate::rule::Mode;

/// The answer to `status`. Counters count from the start of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonStatus {
    pub version: String,
    pub pid: u32,
    /// Seconds since the start.
    pub uptime: u64,
    /// Memory that the daemon occupies (RSS), in bytes.
    pub memory: u64,
    pub socket: String,
    pub config: ConfigStatus,
    /// The pause in force.
    pub paused: Option<PauseStatus>,
    /// Number of rules in force.
    pub rules: usize,
    /// Banned clients.
    pub bans: usize,
    pub banned_networks: usize,
    /// Clients that rules in shadow mode would ban.
    pub shadow_bans: usize,
    /// Strike counters below their `maxretry`.
    pub strikes: usize,
    pub offences_counted: u64,
    pub bans_made: u64,
    pub shadow_bans_made: u64,
    /// Bans that ended early because the table was full.
    pub bans_evicted: u64,
    /// Strike counters that were dropped because the table was full.
    pub strikes_evicted: u64,
    /// Networks whose offences were being counted and were dropped because the table was full.
    pub crowds_evicted: u64,
    /// Bans of networks by rules that ended early, because rules have banned as many as they may.
    pub networks_evicted: u64,
    /// Networks that rules did not ban, because rules have banned as many for ever as they may.
    pub networks_refused: u64,
    /// Refusals that were sent before their ban was saved.
    pub answers_before_saved: u64,
    /// Answers that served the client because of a fault.
    pub answers_failed_open: u64,
    /// Offences that a Squid helper answered because the daemon could not take them, and reported later.
    pub offences_deferred: u64,
    /// Offences that a Squid helper could not report within 10 seconds, or had no room for: they were answered and never counted.
    pub offences_dropped: u64,
    /// Queries of Squid that its helpers answered without asking the daemon.
    pub answers_by_helpers: u64,
    pub answers_to_check: u64,
    pub answers_to_strike: u64,
    pub answers_to_offence: u64,
    /// Open connections to the socket.
    pub connections: usize,
    /// Connection processes of Exim that are being watched.
    pub mail_connections_watched: usize,
    /// Attached Squid helpers.
    pub subscribers: usize,
    /// The prefilters of Squids in the fast form.
    pub prefilters: Vec<PrefilterStatus>,
    pub reloads: u64,
    pub reloads_refused: u64,
    /// By how much the wall clock was set since the start, in milliseconds.
    pub wall_clock_drift_ms: i64,
    pub state: StateStatus,
    /// Changes that wait for another attempt to save them.
    pub state_unsaved: usize,
    /// The connection to the fleet; `None` if none is configured.
    pub fleet: Option<FleetStatus>,
    #[serde(flatten)]
    pub fleet_counts: FleetCounts,
    /// Rules whose bans hit too many clients that look legitimate.
    pub false_bans: Vec<FalseBans>,
    /// The lists of the configuration.
    pub lists: Vec<ListStatus>,
    /// The databases of `[geo]`.
    pub geo: Vec<GeoStatus>,
    /// The crawlers of `verified_crawlers`.
    pub crawlers: Vec<CrawlerStatus>,
    /// The host names in `ignoreip`.
    pub hosts: Vec<HostStatus>,
    pub logs: Vec<FollowedLog>,
    pub by_rule: Vec<RuleStatus>,
    pub hook: Option<HookStatus>,
    /// CrowdSec's local API; none if none is asked.
    pub crowdsec: Option<CrowdsecStatus>,
    pub asked: LastAsked,
    /// For each service the client that makes more than half of its traffic.
    pub heaviest: Vec<HeavyClient>,
}

/// How many seconds ago each server asked last; `None` if it has not since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LastAsked {
    pub squid: Option<u64>,
    pub exim: Option<u64>,
}

/// A client that makes more than half of the traffic of a service: perhaps a load balancer that nobody named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeavyClient {
    /// `web` or `mail`.
    pub service: String,
    pub client: String,
    pub percent: u64,
    /// The requests or connections of all clients that this is a share of: the latest ones, of which older ones count half.
    pub events: u64,
    /// Why it is never banned.
    pub never_banned: Option<String>,
    pub is_banned: bool,
}

/// In a sentence, with what follows from it.
impl fmt::Display for HeavyClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.service == "mail" { "SMTP connections" } else { "requests" };
        let Self { client, percent, events, .. } = self;
        write!(f, "{client} makes {percent} % of the last {events} {what}: if it is a load balancer or a proxy of yours, ")?;
        match (&self.never_banned, self.is_banned) {
            (Some(reason), _) => write!(f, "nobody behind it is ever banned ({reason})"),
            (None, true) => f.write_str("everybody behind it is banned with it"),
            (None, false) => f.write_str("everybody behind it counts as one client"),
        }
    }
}

/// A prefilter that a Squid has loaded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PrefilterStatus {
    /// Where its files are.
    pub directory: String,
    /// What is wrong with it, and the commands that mend it; none if Squid asks about everything that rules may match.
    pub stale: Option<String>,
}

/// Whether bans are saved: `ok`, `none` or `degraded: REASON`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum StateStatus {
    /// No state file is configured.
    #[default]
    None,
    Ok,
    /// Bans are only in memory, for this reason.
    Degraded(String),
}

impl From<String> for StateStatus {
    fn from(text: String) -> Self {
        match text.as_str() {
            "none" => Self::None,
            "ok" => Self::Ok,
            _ => Self::Degraded(text.strip_prefix("degraded: ").map_or(text.clone(), str::to_owned)),
        }
    }
}

impl From<StateStatus> for String {
    fn from(status: StateStatus) -> Self {
        match status {
            StateStatus::None => "none".into(),
            StateStatus::Ok => "ok".into(),
            StateStatus::Degraded(reason) => format!("degraded: {reason}"),
        }
    }
}

/// The connection to the fleet: `ok` or `cut off: REASON`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum FleetStatus {
    Ok,
    CutOff(String),
}

impl From<String> for FleetStatus {
    fn from(text: String) -> Self {
        match text.as_str() {
            "ok" => Self::Ok,
            _ => Self::CutOff(text.strip_prefix("cut off: ").map_or(text.clone(), str::to_owned)),
        }
    }
}

impl From<FleetStatus> for String {
    fn from(status: FleetStatus) -> Self {
        match status {
            FleetStatus::Ok => "ok".into(),
            FleetStatus::CutOff(reason) => format!("cut off: {reason}"),
        }
    }
}

/// What this node has exchanged with the fleet; all 0 without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetCounts {
    /// 1 while changes by other nodes are being received.
    #[serde(rename = "fleet_receiving")]
    pub receiving: u64,
    /// 1 while own changes are being published.
    #[serde(rename = "fleet_publishing")]
    pub publishing: u64,
    #[serde(rename = "fleet_published_total")]
    pub published: u64,
    #[serde(rename = "fleet_received_total")]
    pub received: u64,
    /// Own changes that were never published.
    #[serde(rename = "fleet_dropped_total")]
    pub dropped: u64,
    /// Bans of other machines that were refused, and own bans beyond `bans_per_minute`.
    #[serde(rename = "fleet_refused_total")]
    pub refused: u64,
}

/// A rule whose share of false bans exceeds the configured limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FalseBans {
    pub rule: String,
    /// Number of clients that the rule banned most recently, or would have banned in shadow mode.
    pub clients: usize,
    /// How many of these look legitimate.
    pub legitimate: usize,
    /// Whether the rule is already in shadow mode.
    pub shadow: bool,
}

/// A list of networks in force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ListStatus {
    /// `ignoreip`, `trusted_proxies` or `deny`.
    pub option: String,
    /// The file, or the option and the configuration file that it stands in.
    pub origin: String,
    /// Number of networks, before they are merged.
    pub entries: usize,
    /// When the file was last changed, in seconds since 1970; `None` if it is no file.
    pub modified: Option<i64>,
    /// Seconds since then.
    pub modified_ago: Option<u64>,
    /// How many entries it had before it lost more than half of them at a reload.
    pub shrunk_from: Option<usize>,
}

/// A database of `[geo]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GeoStatus {
    /// `asn` or `country`.
    pub kind: String,
    pub file: String,
    /// Number of networks in use; 0 without a usable database.
    pub networks: usize,
    /// When the database in use was built, in seconds since 1970.
    pub built: Option<i64>,
    /// Seconds since then.
    pub built_ago: Option<u64>,
    /// Why the file, as it is now, is not used.
    pub fault: Option<String>,
}

/// A crawler of `verified_crawlers`, and the addresses that say they are it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CrawlerStatus {
    pub name: String,
    /// Number of its published networks.
    pub networks: usize,
    /// Addresses that are its own.
    pub verified: usize,
    /// Addresses that are not.
    pub refuted: usize,
    /// Addresses that could not be looked up.
    pub unknown: usize,
    /// Addresses that are being looked up.
    pub asked: usize,
}

/// A host name in `ignoreip`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostStatus {
    pub name: String,
    /// Its addresses, which are never banned: those of the last good answer.
    pub addresses: Vec<String>,
    /// When that answer came, in seconds since 1970; `None` if there was none yet.
    pub answered: Option<i64>,
    /// Seconds since then.
    pub answered_ago: Option<u64>,
    /// Why it cannot be looked up now, or is not protected whole.
    pub fault: Option<String>,
}

/// A log that the daemon follows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FollowedLog {
    pub path: String,
    pub lines: u64,
    /// Number of bytes that are not read yet.
    pub lag: u64,
    /// Why the log cannot be read, or what is wrong with its lines or times.
    pub fault: Option<String>,
    /// Whether no file was at the path yet.
    pub missing: bool,
    /// The share of the last lines in no known format, with an example; none if all were understood.
    pub not_understood: Option<String>,
}

/// A rule that is in force or has counted something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    pub name: String,
    /// `None` for bans by hand and for rules that are no longer configured.
    pub mode: Option<Mode>,
    pub scope: Option<Scope>,
    #[serde(flatten)]
    pub counts: RuleCounts,
}

/// Counts for one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleCounts {
    /// Clients and networks that it bans now.
    pub bans: u64,
    /// Clients that it would ban now if it were not in shadow mode.
    pub shadow_bans: u64,
    /// Clients with strikes below its `maxretry`.
    pub strikes: u64,
    /// Bans that it has made.
    pub bans_made: u64,
    /// Answers that refused because of it.
    pub refused: u64,
}

/// What became of the bans and unbans that the hook is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HookStatus {
    /// Bans and unbans that it is not run for yet.
    pub waiting: u64,
    pub running: u64,
    /// Runs that ended with exit code 0.
    pub done: u64,
    /// Runs that could not be started, or ended with another exit code.
    pub failed: u64,
    /// Runs that exceeded the time limit.
    pub killed: u64,
    /// Bans and unbans that it was never run for, because too many were waiting.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_a_round_trip() {
        let status = DaemonStatus {
            state: StateStatus::Degraded("disk full".into()),
            fleet: Some(FleetStatus::CutOff("connection refused".into())),
            fleet_counts: FleetCounts { published: 7, ..FleetCounts::default() },
            false_bans: vec![FalseBans { rule: "helo".into(), clients: 9, legitimate: 2, shadow: false }],
            by_rule: vec![RuleStatus {
                name: "helo".into(),
                mode: Some(Mode::Enforce),
                scope: Some(Scope::Mail),
                counts: RuleCounts::default(),
            }],
            hook: Some(HookStatus::default()),
            ..DaemonStatus::default()
        };
        for status in [status, DaemonStatus { state: StateStatus::Ok, fleet: Some(FleetStatus::Ok), ..DaemonStatus::default() }] {
            let text = serde_json::to_string(&status).unwrap();
            assert_eq!(serde_json::from_str::<DaemonStatus>(&text).unwrap(), status, "{text}");
        }
    }

    #[test]
    fn a_status_of_another_version_is_readable() {
        let text = r#"{"version":"9.0.0","bans":3,"news":[1],"by_rule":[{"name":"x","mode":null,"scope":null,"bans":3,"news":true}]}"#;
        let status: DaemonStatus = serde_json::from_str(text).unwrap();
        assert_eq!((status.bans, status.strikes, status.state, status.fleet_counts), (3, 0, StateStatus::None, FleetCounts::default()));
        assert_eq!(status.by_rule[0].counts.bans, 3);
    }
}
