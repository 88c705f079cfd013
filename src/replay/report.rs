//! The report of a replay as data: what `strikeout replay --json` prints, and what the text and the page show.

use std::collections::HashMap;

use ahash::RandomState;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;

use super::crowds::{self, CrowdReport};
use super::run::ReplayResult;
use super::source::LogSource;
use super::tally::{Banned, Bin, RuleTally, Series};
use crate::client::{Client, ClientDisplay};
use crate::clock::timestamp;
use crate::event::behaviour::Behaviour;
use crate::rule::{CountBy, Mode};
use crate::rule_id::RuleId;
use crate::time::Time;

/// Number of clients and networks listed.
const TOP: usize = 20;
/// Number of clients listed under each rule.
const TOP_OF_RULE: usize = 5;

/// The report; the fields are the JSON keys.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The configuration file; empty for the built-in defaults.
    pub config: String,
    pub logs: Vec<LogReport>,
    /// Time of the first event, as RFC 3339 in UTC.
    pub from: Option<String>,
    /// Time of the last event.
    pub until: Option<String>,
    /// Duration of the replay itself.
    pub seconds: f64,
    pub total: Total,
    /// Rules with any count, those with most bans first.
    pub rules: Vec<RuleReport>,
    /// Names of all other rules.
    pub quiet_rules: Vec<String>,
    /// The clients refused most often.
    pub clients: Vec<ClientReport>,
    /// The networks refused most often: /24 and /48.
    pub networks: Vec<NetworkReport>,
    /// The networks that rules over networks banned or would have, those first that were refused most often.
    pub crowds: Vec<CrowdReport>,
    pub false_positives: FalsePositiveReport,
    pub over_time: OverTime,
}

#[derive(Debug, Clone, Serialize)]
pub struct LogReport {
    pub path: String,
    pub lines: u64,
    /// Bytes read on disk.
    pub bytes: u64,
    /// Why reading ended early.
    pub fault: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Total {
    pub lines: u64,
    /// Lines of no known format, or without an address.
    pub unread: u64,
    pub requests: u64,
    /// SMTP connections, messages and incidents.
    pub mail: u64,
    pub clients: u64,
    /// Events that offended a rule.
    pub offences: u64,
    /// Bans by enforced rules.
    pub bans: u64,
    /// Bans that rules in shadow mode would have made.
    pub shadow_bans: u64,
    /// Events that enforced rules would have refused.
    pub refused: u64,
    /// Ordinary events of clients that look good, among the refused ones.
    pub refused_good: u64,
    /// Events that Strikeout itself refused at the time.
    pub refused_before: u64,
    /// Events of clients beyond `[table] clients`. They are judged, but missing from the lists of clients.
    pub forgotten: u64,
    /// Clients that enforced rules would have banned.
    pub banned_clients: u64,
    /// Clients that look good, among the banned ones.
    pub banned_good: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct RuleReport {
    pub name: String,
    pub description: String,
    pub mode: Mode,
    /// Its settings in words: `3 in 10m, ban 1h`.
    pub setting: String,
    pub offences: u64,
    /// Bans, or in shadow mode, those that it would have made.
    pub bans: u64,
    /// Clients that it banned.
    pub clients: u64,
    /// Clients that look good, among the banned ones.
    pub clients_good: u64,
    pub refused: u64,
    /// Ordinary events of clients that look good, among the refused ones.
    pub refused_good: u64,
    /// Events of never-banned clients that offend the rule.
    pub spared: u64,
    /// `clients_good` / `clients`.
    pub false_share: f64,
    /// Whether `false_share` exceeds `[defaults] false_ban_share`.
    pub over_limit: bool,
    /// The clients that it refused most often.
    pub top: Vec<ClientReport>,
    /// Offences over the whole time span of the report, in 60 steps.
    pub spark: Vec<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ClientReport {
    /// The address, or the network for IPv6.
    pub client: String,
    /// The rule that banned it first.
    pub rule: String,
    /// Start of the first ban.
    pub since: String,
    pub bans: u64,
    pub refused: u64,
    pub offences: u64,
    /// Ordinary successes.
    pub successes: u64,
    /// See [`Behaviour::looks_legitimate`].
    pub looks_good: bool,
    pub authenticated: bool,
    /// The offence that led to its first ban: printable, at most 200 characters.
    pub evidence: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct NetworkReport {
    pub network: String,
    /// Banned clients in it.
    pub clients: u64,
    /// Bans of these clients.
    pub bans: u64,
    /// Refused events of these clients.
    pub refused: u64,
    /// Clients that look good, among the banned ones.
    pub clients_good: u64,
}

/// The limit on false positives, and the rules that exceed it.
#[derive(Debug, Clone, Serialize)]
pub struct FalsePositiveReport {
    /// `[defaults] false_ban_share`: the share of a rule's banned clients that may look good.
    pub share: f64,
    /// The rules that exceed it, for which shadow mode is proposed.
    pub over: Vec<String>,
}

/// Counts over time, in bins of equal width.
#[derive(Debug, Clone, Serialize)]
pub struct OverTime {
    /// Start of the first bin in seconds since 1970.
    pub start: u64,
    /// Width of a bin in seconds.
    pub width: u64,
    /// Requests and mail events.
    pub events: Vec<u64>,
    pub offences: Vec<u64>,
    pub bans: Vec<u64>,
    pub refused: Vec<u64>,
    /// Ordinary events of clients that look good, among the refused ones.
    pub refused_good: Vec<u64>,
}

/// What the report says about the run itself.
#[derive(Debug, Clone)]
pub struct RunInfo {
    /// The configuration file; empty for the built-in defaults.
    pub config: String,
    /// See [`FalsePositiveReport::share`].
    pub false_ban_share: f64,
    /// Duration of the replay in seconds.
    pub seconds: f64,
}

impl Report {
    /// Sums up a finished replay of `sources`.
    #[must_use]
    pub fn new(result: ReplayResult, sources: &[LogSource], info: RunInfo) -> Self {
        let ReplayResult { mut tally, behaviours, policy, span } = result;
        let behaviour = |client: &Client| behaviours.get(client).copied().unwrap_or_default();
        let mode = |id: RuleId| policy.rules.get(id).map(|rule| rule.mode);
        let mut refused_good = Vec::new();
        let mut total = Total {
            lines: sources.iter().map(|source| source.lines()).sum(),
            unread: tally.unread,
            requests: tally.requests,
            mail: tally.mail,
            clients: u64::try_from(behaviours.len()).unwrap_or_default(),
            refused_before: tally.refused_before,
            forgotten: tally.forgotten_events,
            ..Total::default()
        };
        let mut by_client: HashMap<Client, ClientBans<'_>, RandomState> = HashMap::default();
        let mut by_rule: HashMap<RuleId, Vec<(Client, &Banned)>, RandomState> = HashMap::default();
        for ((client, rule), banned) in &tally.banned {
            // Clients in a banned network have no bans of their own.
            let of_network = || policy.rules.get(*rule).is_some_and(|rule| rule.count_by != CountBy::Client);
            if banned.bans > 0 || of_network() {
                by_rule.entry(*rule).or_default().push((*client, banned));
            }
            if behaviour(client).looks_legitimate() && mode(*rule) == Some(Mode::Enforce) {
                refused_good.extend(banned.ordinary.iter().copied());
                total.refused_good += u64::from(banned.ordinary_count);
            }
            if mode(*rule) == Some(Mode::Enforce) {
                by_client.entry(*client).or_default().add(*rule, banned);
            }
        }
        by_client.retain(|_, bans| bans.count > 0);
        total.banned_clients = u64::try_from(by_client.len()).unwrap_or_default();
        total.banned_good = count(by_client.keys().filter(|client| behaviour(client).looks_legitimate()));
        let name = |id: RuleId| policy.rules.get(id).map_or_else(String::new, |rule| rule.name.to_string());
        let client_report = |client: Client, bans: &ClientBans<'_>| {
            let behaviour = behaviour(&client);
            ClientReport {
                client: display(client.display(policy.prefix)),
                rule: bans.first.map(|(rule, _)| name(rule)).unwrap_or_default(),
                since: bans.first.map(|(_, banned)| timestamp(banned.since)).unwrap_or_default(),
                bans: bans.count,
                refused: bans.refused,
                offences: behaviour.offences.into(),
                successes: behaviour.successes.into(),
                looks_good: behaviour.looks_legitimate(),
                authenticated: behaviour.authenticated,
                evidence: bans.first.map(|(_, banned)| banned.evidence.clone()).unwrap_or_default(),
            }
        };
        let clients = top(&by_client, TOP).into_iter().map(|(client, bans)| client_report(client, bans)).collect();
        let networks = networks(&by_client, &behaviour);
        let (mut rules, mut quiet_rules) = (Vec::new(), Vec::new());
        for rule in policy.rules.rules() {
            let counts = tally.rules.get(&rule.id).copied().unwrap_or_default();
            if counts == RuleTally::default() {
                quiet_rules.push(rule.name.to_string());
                continue;
            }
            let banned = by_rule.remove(&rule.id).unwrap_or_default();
            let good = |client: &Client| behaviour(client).looks_legitimate();
            let (all, all_good) = (count(banned.iter()), count(banned.iter().filter(|(client, _)| good(client))));
            let client_bans: HashMap<Client, ClientBans<'_>, RandomState> = banned
                .iter()
                .map(|(client, banned)| {
                    let mut bans = ClientBans::default();
                    bans.add(rule.id, banned);
                    (*client, bans)
                })
                .collect();
            let false_share = share(all_good, all);
            rules.push(RuleReport {
                name: rule.name.to_string(),
                description: rule.description.to_string(),
                mode: rule.mode,
                setting: setting(rule),
                offences: counts.offences,
                bans: counts.bans,
                clients: all,
                clients_good: all_good,
                refused: counts.refused,
                refused_good: banned.iter().filter(|(client, _)| good(client)).map(|(_, banned)| u64::from(banned.ordinary_count)).sum(),
                spared: counts.spared,
                false_share,
                over_limit: false_share > info.false_ban_share,
                top: top(&client_bans, TOP_OF_RULE).into_iter().map(|(client, bans)| client_report(client, bans)).collect(),
                spark: Vec::new(),
            });
            match rule.mode {
                Mode::Enforce => {
                    total.bans += counts.bans;
                    total.refused += counts.refused;
                }
                Mode::Shadow => total.shadow_bans += counts.bans,
            }
        }
        drop(by_client);
        drop(by_rule);
        let crowds = crowds::most_refused(std::mem::take(&mut tally.networks), &tally, &policy, behaviour, TOP);
        for time in refused_good {
            tally.series.add(time, Bin { refused_good: 1, ..Bin::default() });
        }
        let series = std::mem::take(&mut tally.series);
        let over_time = OverTime::new(series);
        total.offences = over_time.offences.iter().sum();
        for report in &mut rules {
            let series = policy.rules.by_name(&report.name).and_then(|rule| tally.rule_series.remove(&rule.id));
            report.spark = series.map(|series| spark(series, &over_time)).unwrap_or_default();
        }
        let crowds = crowds.into_iter().map(|(report, series)| CrowdReport { spark: spark(series, &over_time), ..report }).collect();
        rules.sort_by(|a, b| (b.bans, b.offences, &a.name).cmp(&(a.bans, a.offences, &b.name)));
        let over = rules.iter().filter(|rule| rule.over_limit).map(|rule| rule.name.clone()).collect();
        Self {
            config: info.config,
            logs: sources.iter().map(log_report).collect(),
            from: span.map(|(from, _)| timestamp(from)),
            until: span.map(|(_, until)| timestamp(until)),
            seconds: info.seconds,
            total,
            rules,
            quiet_rules,
            clients,
            networks,
            crowds,
            false_positives: FalsePositiveReport { share: info.false_ban_share, over },
            over_time,
        }
    }
}

/// The bans of one client by one or more rules.
#[derive(Debug, Default)]
struct ClientBans<'a> {
    count: u64,
    refused: u64,
    /// The rule with the earliest ban.
    first: Option<(RuleId, &'a Banned)>,
}

impl<'a> ClientBans<'a> {
    fn add(&mut self, rule: RuleId, banned: &'a Banned) {
        self.count += u64::from(banned.bans);
        self.refused += u64::from(banned.refused);
        let is_earlier = |(_, first): &(RuleId, &Banned)| (banned.since, rule) < (first.since, rule);
        if banned.bans > 0 && self.first.as_ref().is_none_or(is_earlier) {
            self.first = Some((rule, banned));
        }
    }
}

fn display(client: ClientDisplay) -> String {
    client.to_string()
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "a share to display")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The clients that were refused most often.
fn top<'a, 'b>(clients: &'a HashMap<Client, ClientBans<'b>, RandomState>, limit: usize) -> Vec<(Client, &'a ClientBans<'b>)> {
    let mut sorted: Vec<_> = clients.iter().map(|(client, bans)| (*client, bans)).collect();
    sorted.sort_by_key(|(client, bans)| (std::cmp::Reverse((bans.refused, bans.count)), *client));
    sorted.truncate(limit);
    sorted
}

fn networks(clients: &HashMap<Client, ClientBans<'_>, RandomState>, behaviour: &impl Fn(&Client) -> Behaviour) -> Vec<NetworkReport> {
    let mut networks: HashMap<IpNet, NetworkReport, RandomState> = HashMap::default();
    for (client, bans) in clients {
        let network = match client.address() {
            std::net::IpAddr::V4(v4) => Ipv4Net::new_assert(v4, 24).trunc().into(),
            std::net::IpAddr::V6(v6) => IpNet::from(Ipv6Net::new_assert(v6, 48).trunc()),
        };
        let report = networks.entry(network).or_insert_with(|| NetworkReport {
            network: network.to_string(),
            clients: 0,
            bans: 0,
            refused: 0,
            clients_good: 0,
        });
        report.clients += 1;
        report.bans += bans.count;
        report.refused += bans.refused;
        report.clients_good += u64::from(behaviour(client).looks_legitimate());
    }
    let mut networks: Vec<NetworkReport> = networks.into_values().collect();
    networks.sort_by(|a, b| (b.refused, b.bans, &a.network).cmp(&(a.refused, a.bans, &b.network)));
    networks.truncate(TOP);
    networks
}

fn setting(rule: &crate::rule::Rule) -> String {
    let bantime = rule.bantime.of(0).map_or_else(|| "forever".to_owned(), |span| span.to_string());
    match rule.maxretry {
        1 => format!("at once, ban {bantime}"),
        maxretry => format!("{maxretry} in {}, ban {bantime}", rule.findtime),
    }
}

fn log_report(source: &LogSource) -> LogReport {
    LogReport {
        path: source.path().display().to_string(),
        lines: source.lines(),
        bytes: source.progress().0,
        fault: source.fault().map(str::to_owned),
    }
}

impl OverTime {
    fn new(series: Series) -> Self {
        let (width, start, bins) = series.finish();
        let column = |pick: fn(&Bin) -> u64| bins.iter().map(pick).collect();
        Self {
            start: start.secs(),
            width: width / 1000,
            events: column(|bin| bin.events),
            offences: column(|bin| bin.offences),
            bans: column(|bin| bin.bans),
            refused: column(|bin| bin.refused),
            refused_good: column(|bin| bin.refused_good),
        }
    }
}

/// The offences of a rule over the whole time span, in 60 steps.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the time, below 60")]
#[expect(clippy::cast_precision_loss, reason = "for a small plot")]
fn spark(series: Series, over_time: &OverTime) -> Vec<u64> {
    const STEPS: usize = 60;
    let (width, start, bins) = series.finish();
    let whole = over_time.events.len().max(1) as f64 * over_time.width as f64;
    let mut steps = vec![0; STEPS];
    for (number, bin) in bins.iter().enumerate() {
        let time = Time::from_millis(start.millis() + width * u64::try_from(number).unwrap_or_default() + width / 2);
        let at = (time.millis() as f64 / 1000.0 - over_time.start as f64) / whole;
        let step = ((at * STEPS as f64).max(0.0) as usize).min(STEPS - 1);
        if let Some(step) = steps.get_mut(step) {
            *step += bin.offences + bin.refused;
        }
    }
    steps
}
