//! What a replay came to, as numbers and names: the `--json` of `strikeout replay`, and what its text and its page are made of.

use std::collections::HashMap;

use ahash::RandomState;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;

use super::judge::Outcome;
use super::merge::Source;
use super::tally::{Banned, Bin, RuleTally, Series};
use crate::client::{Client, ClientDisplay};
use crate::clock::timestamp;
use crate::conduct::Conduct;
use crate::rule::{Mode, RuleId};
use crate::time::Time;

/// So many clients and networks are listed.
const TOP: usize = 20;
/// So many clients are listed under each rule.
const TOP_OF_RULE: usize = 5;

/// The report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The configuration file; empty for the built-in defaults.
    pub config: String,
    /// The logs.
    pub logs: Vec<LogReport>,
    /// The time of the first event, RFC 3339 in UTC.
    pub from: Option<String>,
    /// The time of the last event.
    pub until: Option<String>,
    /// How long the replay itself took.
    pub seconds: f64,
    /// Totals.
    pub total: Total,
    /// The rules that saw anything, most bans first.
    pub rules: Vec<RuleReport>,
    /// Names of rules that saw nothing.
    pub quiet_rules: Vec<String>,
    /// The clients that would have been refused most.
    pub clients: Vec<ClientReport>,
    /// The networks that they are in: /24 and /48.
    pub networks: Vec<NetworkReport>,
    /// The false-ban budget.
    pub budget: Budget,
    /// Numbers over time.
    pub over_time: OverTime,
}

/// One log.
#[derive(Debug, Clone, Serialize)]
pub struct LogReport {
    /// Its path.
    pub path: String,
    /// Lines read.
    pub lines: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// What ended it early.
    pub fault: Option<String>,
}

/// Totals.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Total {
    /// Lines read.
    pub lines: u64,
    /// Lines of no known format, or without an address.
    pub unread: u64,
    /// Requests.
    pub requests: u64,
    /// Mail events: connections, messages, incidents.
    pub mail: u64,
    /// Clients.
    pub clients: u64,
    /// Events that offended a rule.
    pub offences: u64,
    /// Bans by rules that are enforced.
    pub bans: u64,
    /// Bans that rules in shadow mode would have made.
    pub shadow_bans: u64,
    /// Events that enforced rules would have refused.
    pub refused: u64,
    /// Of those, the ordinary ones of clients that look good.
    pub refused_good: u64,
    /// Events that Strikeout itself had refused at the time.
    pub refused_before: u64,
    /// Events of clients beyond the most that are told apart (`[table] clients`): judged, and missing in the lists of clients.
    pub forgotten: u64,
    /// Clients that enforced rules would have banned.
    pub banned_clients: u64,
    /// Of those, the ones that look good.
    pub banned_good: u64,
}

/// One rule.
#[derive(Debug, Clone, Serialize)]
pub struct RuleReport {
    /// Its name.
    pub name: String,
    /// What it catches.
    pub description: String,
    /// `enforce` or `shadow`.
    pub mode: Mode,
    /// Its numbers in words: `1 in 10m, ban 1h`.
    pub setting: String,
    /// Offences.
    pub offences: u64,
    /// Bans; in shadow mode, those that it would have made.
    pub bans: u64,
    /// Clients that it banned.
    pub clients: u64,
    /// Of those, the ones that look good.
    pub clients_good: u64,
    /// Events refused.
    pub refused: u64,
    /// Of those, the ordinary ones of clients that look good.
    pub refused_good: u64,
    /// Offences of clients that are never banned.
    pub spared: u64,
    /// `clients_good` / `clients`.
    pub false_share: f64,
    /// Whether that is beyond the budget.
    pub over_budget: bool,
    /// The clients that it refused most.
    pub top: Vec<ClientReport>,
    /// Offences over time, in the bins of [`Report::over_time`] made four times as wide.
    pub spark: Vec<u64>,
}

/// One client.
#[derive(Debug, Clone, Serialize)]
pub struct ClientReport {
    /// The address, or the network for IPv6.
    pub client: String,
    /// The rule that banned it (first).
    pub rule: String,
    /// Since when.
    pub since: String,
    /// Bans.
    pub bans: u64,
    /// Events refused.
    pub refused: u64,
    /// Offences.
    pub offences: u64,
    /// Ordinary successes.
    pub successes: u64,
    /// Whether it looks good.
    pub looks_good: bool,
    /// Whether it was authenticated.
    pub authenticated: bool,
    /// The offence that led to its first ban: printable, at most 200 characters.
    pub evidence: String,
}

/// One network.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkReport {
    /// The network.
    pub network: String,
    /// Banned clients in it.
    pub clients: u64,
    /// Their bans.
    pub bans: u64,
    /// Their events that were refused.
    pub refused: u64,
    /// Their clients that look good.
    pub clients_good: u64,
}

/// The false-ban budget.
#[derive(Debug, Clone, Serialize)]
pub struct Budget {
    /// The share of banned clients that may look good.
    pub share: f64,
    /// The rules beyond it: shadow mode is proposed.
    pub over: Vec<String>,
}

/// Numbers over time.
#[derive(Debug, Clone, Serialize)]
pub struct OverTime {
    /// The start of the first bin, in seconds since 1970.
    pub start: u64,
    /// The width of a bin in seconds.
    pub width: u64,
    /// Requests and mail events.
    pub events: Vec<u64>,
    /// Offences.
    pub offences: Vec<u64>,
    /// Bans.
    pub bans: Vec<u64>,
    /// Refused events.
    pub refused: Vec<u64>,
    /// Refused events that look good.
    pub refused_good: Vec<u64>,
}

/// What a report says of how it was made.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    /// The configuration file; empty for the built-in defaults.
    pub config: String,
    /// See [`Budget::share`].
    pub false_ban_share: f64,
    /// How long the replay took, in seconds.
    pub seconds: f64,
}

impl Report {
    /// Draws up the report.
    #[must_use]
    pub fn new(outcome: Outcome, sources: &[Source], how: Circumstances) -> Self {
        let Outcome { mut tally, conducts, in_force, span } = outcome;
        let conduct = |client: &Client| conducts.get(client).copied().unwrap_or_default();
        let mode = |id: RuleId| in_force.rules.get(id).map(|rule| rule.mode);
        let mut hurt = Vec::new();
        let mut total = Total {
            lines: sources.iter().map(|source| source.lines).sum(),
            unread: tally.unread,
            requests: tally.requests,
            mail: tally.mail,
            clients: u64::try_from(conducts.len()).unwrap_or_default(),
            refused_before: tally.refused_before,
            forgotten: tally.forgotten_clients,
            ..Total::default()
        };
        let mut by_client: HashMap<Client, Sentence<'_>, RandomState> = HashMap::default();
        let mut by_rule: HashMap<RuleId, Vec<(Client, &Banned)>, RandomState> = HashMap::default();
        for ((client, rule), banned) in &tally.banned {
            if banned.bans > 0 {
                by_rule.entry(*rule).or_default().push((*client, banned));
            }
            if conduct(client).looks_good() && mode(*rule) == Some(Mode::Enforce) {
                hurt.extend(banned.ordinary.iter().copied());
                total.refused_good += u64::from(banned.ordinary_count);
            }
            if mode(*rule) == Some(Mode::Enforce) {
                by_client.entry(*client).or_default().add(*rule, banned);
            }
        }
        by_client.retain(|_, sentence| sentence.bans > 0);
        total.banned_clients = u64::try_from(by_client.len()).unwrap_or_default();
        total.banned_good = count(by_client.keys().filter(|client| conduct(client).looks_good()));
        let name = |id: RuleId| in_force.rules.get(id).map_or_else(String::new, |rule| rule.name.to_string());
        let client_report = |client: Client, sentence: &Sentence<'_>| {
            let conduct = conduct(&client);
            ClientReport {
                client: display(client.display(in_force.prefix)),
                rule: sentence.first.map(|(rule, _)| name(rule)).unwrap_or_default(),
                since: sentence.first.map(|(_, banned)| timestamp(banned.since)).unwrap_or_default(),
                bans: sentence.bans,
                refused: sentence.refused,
                offences: conduct.offences.into(),
                successes: conduct.successes.into(),
                looks_good: conduct.looks_good(),
                authenticated: conduct.authenticated,
                evidence: sentence.first.map(|(_, banned)| banned.evidence.clone()).unwrap_or_default(),
            }
        };
        let clients = top(&by_client, TOP).into_iter().map(|(client, sentence)| client_report(client, sentence)).collect();
        let networks = networks(&by_client, &conduct);
        let (mut rules, mut quiet_rules) = (Vec::new(), Vec::new());
        for rule in in_force.rules.rules() {
            let numbers = tally.rules.get(&rule.id).copied().unwrap_or_default();
            if numbers == RuleTally::default() {
                quiet_rules.push(rule.name.to_string());
                continue;
            }
            let banned = by_rule.remove(&rule.id).unwrap_or_default();
            let good = |client: &Client| conduct(client).looks_good();
            let (all, all_good) = (count(banned.iter()), count(banned.iter().filter(|(client, _)| good(client))));
            let sentences: HashMap<Client, Sentence<'_>, RandomState> = banned
                .iter()
                .map(|(client, banned)| {
                    let mut sentence = Sentence::default();
                    sentence.add(rule.id, banned);
                    (*client, sentence)
                })
                .collect();
            let false_share = share(all_good, all);
            rules.push(RuleReport {
                name: rule.name.to_string(),
                description: rule.description.to_string(),
                mode: rule.mode,
                setting: setting(rule),
                offences: numbers.offences,
                bans: numbers.bans,
                clients: all,
                clients_good: all_good,
                refused: numbers.refused,
                refused_good: banned.iter().filter(|(client, _)| good(client)).map(|(_, banned)| u64::from(banned.ordinary_count)).sum(),
                spared: numbers.spared,
                false_share,
                over_budget: false_share > how.false_ban_share,
                top: top(&sentences, TOP_OF_RULE).into_iter().map(|(client, sentence)| client_report(client, sentence)).collect(),
                spark: Vec::new(),
            });
            match rule.mode {
                Mode::Enforce => {
                    total.bans += numbers.bans;
                    total.refused += numbers.refused;
                }
                Mode::Shadow => total.shadow_bans += numbers.bans,
            }
        }
        drop(by_client);
        drop(by_rule);
        for time in hurt {
            tally.series.add(time, Bin { hurt: 1, ..Bin::default() });
        }
        let series = std::mem::take(&mut tally.series);
        let over_time = OverTime::new(series);
        total.offences = over_time.offences.iter().sum();
        for report in &mut rules {
            let series = in_force.rules.by_name(&report.name).and_then(|rule| tally.rule_series.remove(&rule.id));
            report.spark = series.map(|series| spark(series, &over_time)).unwrap_or_default();
        }
        rules.sort_by(|a, b| (b.bans, b.offences, &a.name).cmp(&(a.bans, a.offences, &b.name)));
        let over = rules.iter().filter(|rule| rule.over_budget).map(|rule| rule.name.clone()).collect();
        Self {
            config: how.config,
            logs: sources.iter().map(log_report).collect(),
            from: span.map(|(from, _)| timestamp(from)),
            until: span.map(|(_, until)| timestamp(until)),
            seconds: how.seconds,
            total,
            rules,
            quiet_rules,
            clients,
            networks,
            budget: Budget { share: how.false_ban_share, over },
            over_time,
        }
    }
}

/// All that happened to one client.
#[derive(Debug, Default)]
struct Sentence<'a> {
    bans: u64,
    refused: u64,
    first: Option<(RuleId, &'a Banned)>,
}

impl<'a> Sentence<'a> {
    fn add(&mut self, rule: RuleId, banned: &'a Banned) {
        self.bans += u64::from(banned.bans);
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

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The clients that were refused most.
fn top<'a, 'b>(clients: &'a HashMap<Client, Sentence<'b>, RandomState>, most: usize) -> Vec<(Client, &'a Sentence<'b>)> {
    let mut sorted: Vec<_> = clients.iter().map(|(client, sentence)| (*client, sentence)).collect();
    sorted.sort_by_key(|(client, sentence)| (std::cmp::Reverse((sentence.refused, sentence.bans)), *client));
    sorted.truncate(most);
    sorted
}

fn networks(clients: &HashMap<Client, Sentence<'_>, RandomState>, conduct: &impl Fn(&Client) -> Conduct) -> Vec<NetworkReport> {
    let mut networks: HashMap<IpNet, NetworkReport, RandomState> = HashMap::default();
    for (client, sentence) in clients {
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
        report.bans += sentence.bans;
        report.refused += sentence.refused;
        report.clients_good += u64::from(conduct(client).looks_good());
    }
    let mut networks: Vec<NetworkReport> = networks.into_values().collect();
    networks.sort_by(|a, b| (b.refused, b.bans, &a.network).cmp(&(a.refused, a.bans, &b.network)));
    networks.truncate(TOP);
    networks
}

fn setting(rule: &crate::rule::Rule) -> String {
    let bantime = rule.bantime.of(0).map_or_else(|| "for ever".to_owned(), |span| span.to_string());
    match rule.maxretry {
        1 => format!("at once, ban {bantime}"),
        maxretry => format!("{maxretry} in {}, ban {bantime}", rule.findtime),
    }
}

fn log_report(source: &Source) -> LogReport {
    LogReport { path: source.path().display().to_string(), lines: source.lines, bytes: source.progress().0, fault: source.fault.clone() }
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
            refused_good: column(|bin| bin.hurt),
        }
    }
}

/// A rule's offences over the whole time, in at most 60 steps.
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
            *step += bin.offences;
        }
    }
    steps
}
