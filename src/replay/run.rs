//! Runs the detector over the lines of old logs and counts what it would have done.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ahash::RandomState;

use super::behaviours::Behaviours;
use super::tally::{Bin, Tally};
use crate::client::Client;
use crate::config::{Config, LogConfig};
use crate::detector::Detector;
use crate::engine::{BanRecord, Engine, NetworkRecord};
use crate::event::Service;
use crate::event::behaviour::{Behaviour, Outcome};
use crate::geo::Network;
use crate::geo::watch::GeoWatch;
use crate::log::judge::{LineJudge, LineJudgement};
use crate::log::line::LogLine;
use crate::log::offence::{LogOffence, OffenceKind, Received};
use crate::log::text_rule::TextRules;
use crate::log::time::Zone;
use crate::policy::Policy;
use crate::rule::{Mode, Rule};
use crate::rule_id::{RuleId, RuleNames};
use crate::time::Time;

/// Number of lines between two sweeps of the table. Expired entries do not count anyway: sweeping only frees memory.
const SWEEP: u64 = 1 << 20;

/// Maximum number of banned networks that are counted one by one.
const MAX_NETWORKS: usize = 4096;

/// A replay under way.
pub struct Replay {
    engine: Arc<Engine>,
    policy: Arc<Policy>,
    judge: LineJudge,
    /// The rules in fail2ban's language for each log.
    texts: Vec<TextRules>,
    counts: Counts,
    /// The time of the last line that had one, which lines without a time share.
    now: Time,
    lines: u64,
    first: Option<Time>,
}

/// Everything that is counted.
#[derive(Debug)]
struct Counts {
    tally: Tally,
    behaviours: Behaviours,
    max_clients: usize,
    has_shadow_bans: bool,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// The counts of a finished replay.
#[derive(Debug)]
pub struct ReplayResult {
    pub tally: Tally,
    pub behaviours: HashMap<Client, Behaviour, RandomState>,
    /// The rules and lists that were replayed.
    pub policy: Arc<Policy>,
    /// The time of the first and of the last event.
    pub span: Option<(Time, Time)>,
}

impl Replay {
    /// A replay of `logs` under a configuration, with an empty table. Local times in each log are in the zone with its number.
    ///
    /// # Errors
    /// A rule over log lines cannot be used, or a thread cannot be started.
    pub fn new(config: Config, names: Arc<RuleNames>, logs: &[PathBuf], zones: &[Zone]) -> io::Result<Self> {
        let max_clients = config.table.clients.get();
        let (bans, networks) = (config.table.bans.get(), config.table.networks.get());
        let configured = config.logs.clone();
        let geo = GeoWatch::new(&config.geo).geo();
        let policy = Arc::new(Policy { geo, ..Policy::from(config) });
        let rules = policy.rules.rules();
        let texts = logs.iter().zip(zones).map(|(log, zone)| text_rules(rules, log, &configured, zone)).collect::<Result<Vec<_>, String>>();
        Ok(Self {
            engine: Arc::new(Engine::new(names, Policy::clone(&policy), max_clients, bans)?.with_networks(networks)),
            judge: LineJudge::new(Arc::clone(&policy.rules), false).map_err(io::Error::other)?,
            policy,
            texts: texts.map_err(io::Error::other)?,
            counts: Counts { tally: Tally::default(), behaviours: Behaviours::new(max_clients), max_clients, has_shadow_bans: false },
            now: Time::default(),
            lines: 0,
            first: None,
        })
    }

    /// Judges one line of the log with this number.
    pub fn line(&mut self, log: usize, text: &[u8], line: &LogLine<'_>) {
        self.lines += 1;
        if self.lines.is_multiple_of(SWEEP) {
            self.engine.sweep(self.now);
        }
        if let Some(time) = line.time() {
            self.advance_to(time);
        }
        if let Some((address, service)) = line.client() {
            self.event(line, address, service);
        }
        let offends = self.text(log, text);
        if !line.is_understood() && !offends {
            self.counts.tally.unread += 1;
        }
    }

    /// Judges a line that names a client. Most lines of a mail server's log do not.
    fn event(&mut self, line: &LogLine<'_>, address: IpAddr, service: Service) {
        let Self { engine, judge, counts, .. } = self;
        // With the networks that were banned on the way.
        let policy = &engine.policy();
        let detector = Detector::new(policy, engine.bans());
        counts.event(service, line.is_our_refusal());
        let shadow = counts.shadow_ban(engine, policy, Client::of(address, policy.prefix), address, service, self.now);
        let mut refused_by = None;
        let mut count = |offence: &LogOffence| match offence.kind {
            OffenceKind::Rate => counts.rate(engine, offence),
            // Only a request can be refused for its own content: a response is already on its way, and Exim has decided about its event.
            OffenceKind::Request => refused_by = counts.offence(engine, offence),
            OffenceKind::Response | OffenceKind::Mail | OffenceKind::Text => {
                counts.offence(engine, offence);
            }
        };
        let judgement = judge.judge(line, Received::replayed(self.now), &detector, &mut count);
        if let Some(judgement) = judgement {
            if let Some(rule) = judgement.banned_by
                && let Some(ban) = detector.network_ban(self.now, address, service).filter(|ban| ban.rule == rule)
            {
                counts.refused_in_network(ban.network, rule, self.now);
            }
            if let Some(cleared) = &judgement.cleared {
                engine.clear(judgement.client, cleared);
            }
            counts.judged(&judgement, refused_by, shadow);
        }
    }

    /// Ends the replay.
    #[must_use]
    pub fn finish(self) -> ReplayResult {
        let Counts { mut tally, behaviours, .. } = self.counts;
        let (behaviours, forgotten) = behaviours.finish();
        tally.forgotten_events += forgotten;
        ReplayResult { tally, behaviours, policy: self.policy, span: self.first.map(|first| (first, self.now.max(first))) }
    }

    fn advance_to(&mut self, time: Time) {
        self.now = time;
        self.first = Some(self.first.map_or(time, |first| first.min(time)));
    }

    /// Judges a line by the rules in fail2ban's language and returns whether it offends any.
    fn text(&mut self, log: usize, line: &[u8]) -> bool {
        let Some(rules) = self.texts.get_mut(log).filter(|rules| !rules.is_empty()) else { return false };
        let offences = rules.judge(line, Received::replayed(self.now), &Detector::new(&self.engine.policy(), self.engine.bans()));
        for offence in &offences {
            if self.now == Time::default() || offence.time > self.now {
                self.advance_to(offence.time);
            }
            self.counts.offence(&self.engine, offence);
            self.counts.note(offence.time, offence.offence.client, Outcome::Offence, None, None, false);
        }
        !offences.is_empty()
    }
}

impl Counts {
    /// Counts an event of any client.
    fn event(&mut self, service: Service, is_our_refusal: bool) {
        match service {
            Service::Web => self.tally.requests += 1,
            Service::Mail => self.tally.mail += 1,
        }
        self.tally.refused_before += u64::from(is_our_refusal);
    }

    /// The rule in shadow mode that would refuse the client.
    fn shadow_ban(
        &mut self,
        engine: &Engine,
        policy: &Policy,
        client: Client,
        address: IpAddr,
        service: Service,
        time: Time,
    ) -> Option<RuleId> {
        if !self.has_shadow_bans || policy.lists.never_banned(address).is_some() {
            return None;
        }
        let (rule, network) = match engine.shadow_ban(client, service, time) {
            Some(ban) => return Some(ban.rule),
            None => engine.shadow_network_ban(address, service, time)?,
        };
        self.refused_in_network(network, rule, time);
        Some(rule)
    }

    fn refused_in_network(&mut self, network: Network, rule: RuleId, time: Time) {
        if let Some(network) = self.tally.networks.get_mut(&(network, rule)) {
            network.refused += 1;
            network.series.add(time, Bin { refused: 1, ..Bin::default() });
        }
    }

    fn networks(&mut self, time: Time, networks: &[(Arc<Rule>, NetworkRecord)]) {
        for (rule, record) in networks {
            self.has_shadow_bans |= rule.mode == Mode::Shadow;
            let bin = Bin { bans: 1, ..Bin::default() };
            self.tally.rules.entry(rule.id).or_default().bans += 1;
            self.tally.rule_series.entry(rule.id).or_default().add(time, bin);
            self.tally.series.add(time, bin);
            let key = (record.network, rule.id);
            if self.tally.networks.len() >= MAX_NETWORKS && !self.tally.networks.contains_key(&key) {
                continue;
            }
            let network = self.tally.networks.entry(key).or_default();
            if network.bans == 0 {
                network.since = record.since;
                network.evidence = record.reason.as_str().to_owned();
            }
            network.bans += 1;
            network.members = network.members.max(record.members);
        }
    }

    /// Counts an ordinary event towards rates. It is reported as an offence only if a ban follows, with the events before it.
    fn rate(&mut self, engine: &Engine, event: &LogOffence) {
        let LogOffence { time, service, offence, .. } = event;
        let counted = engine.count(*time, offence, *service, 1);
        for record in counted.banned.iter().chain(&counted.shadowed) {
            if let Some(rule) = offence.rules.iter().find(|rule| rule.name == record.rule) {
                let offences = u64::from(record.count);
                self.tally.rules.entry(rule.id).or_default().offences += offences;
                self.tally.series.add(*time, Bin { offences, ..Bin::default() });
                self.tally.rule_series.entry(rule.id).or_default().add(*time, Bin { offences, ..Bin::default() });
            }
        }
        self.banned(*time, &counted.banned, &offence.rules);
        self.banned(*time, &counted.shadowed, &offence.rules);
        self.networks(*time, &counted.networks);
    }

    /// Counts an offence and returns the rule that refuses the offending event.
    fn offence(&mut self, engine: &Engine, event: &LogOffence) -> Option<RuleId> {
        let LogOffence { time, service, offence, .. } = event;
        for rule in &offence.rules {
            self.tally.rules.entry(rule.id).or_default().offences += 1;
            self.tally.rule_series.entry(rule.id).or_default().add(*time, Bin { offences: 1, ..Bin::default() });
        }
        self.tally.series.add(*time, Bin { offences: 1, ..Bin::default() });
        let counted = engine.count(*time, offence, *service, 1);
        self.banned(*time, &counted.banned, &offence.rules);
        self.banned(*time, &counted.shadowed, &offence.rules);
        self.networks(*time, &counted.networks);
        let refused_by = counted.verdict.refusal().map(|refusal| refusal.rule);
        // A rule in shadow mode is reported as if it were enforced.
        let in_shadow = || offence.rules.iter().find(|rule| rule.mode == Mode::Shadow && rule.refuses_offence).map(|rule| rule.id);
        if refused_by.is_none()
            && let Some(rule) = in_shadow()
        {
            self.tally.rules.entry(rule).or_default().refused += 1;
        }
        refused_by
    }

    fn banned(&mut self, time: Time, records: &[BanRecord], rules: &[Arc<Rule>]) {
        for record in records {
            let Some(rule) = rules.iter().find(|rule| rule.name == record.rule) else { continue };
            self.has_shadow_bans |= rule.mode == Mode::Shadow;
            let bin = Bin { bans: 1, ..Bin::default() };
            self.tally.rules.entry(rule.id).or_default().bans += 1;
            self.tally.rule_series.entry(rule.id).or_default().add(time, bin);
            self.tally.series.add(time, bin);
            let Some(banned) = self.tally.banned(record.client, rule.id, self.max_clients) else { continue };
            if banned.bans == 0 {
                banned.since = record.since;
                banned.evidence = record.evidence.as_str().to_owned();
            }
            banned.bans = banned.bans.saturating_add(1);
        }
    }

    /// Counts everything in a judgement except offences. `refused_by` is the rule that refused the event for its own content, `shadow` the ban
    /// that a rule in shadow mode would have made before.
    fn judged(&mut self, judgement: &LineJudgement, refused_by: Option<RuleId>, shadow: Option<RuleId>) {
        for rule in &judgement.spared {
            self.tally.rules.entry(rule.id).or_default().spared += 1;
        }
        let LineJudgement { time, client, outcome, authenticated, banned_by, .. } = judgement;
        self.note(*time, *client, *outcome, banned_by.or(refused_by), shadow, *authenticated);
    }

    /// Counts an event over time, towards its client's behaviour, and under the rules that refuse it.
    fn note(
        &mut self,
        time: Time,
        client: Client,
        outcome: Outcome,
        refused_by: Option<RuleId>,
        shadow: Option<RuleId>,
        authenticated: bool,
    ) {
        self.behaviours.note(client, outcome, authenticated);
        let refused = u64::from(refused_by.is_some());
        self.tally.series.add(time, Bin { events: 1, refused, ..Bin::default() });
        for rule in refused_by.into_iter().chain(shadow) {
            self.tally.rules.entry(rule).or_default().refused += 1;
            let Some(banned) = self.tally.banned(client, rule, self.max_clients) else { continue };
            banned.refused = banned.refused.saturating_add(1);
            if matches!(outcome, Outcome::Success | Outcome::ServedOffence) || authenticated {
                banned.note_ordinary(time);
            }
        }
    }
}

/// The rules in fail2ban's language for one log: those that the configuration gives to a log of this name, or all of them if it configures
/// no log of this name.
fn text_rules(rules: &[Arc<Rule>], log: &Path, configured: &[LogConfig], zone: &Zone) -> Result<TextRules, String> {
    let named = LogConfig::named_like(log, configured);
    let is_given =
        |rule: &&Arc<Rule>| named.is_empty() || named.iter().any(|log| log.rules.iter().flatten().any(|name| **name == *rule.name));
    TextRules::new(rules.iter().filter(is_given), zone)
}
