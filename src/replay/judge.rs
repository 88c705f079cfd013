//! Runs the very same detector over the lines of old logs, and counts what it would have done.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ahash::RandomState;

use super::conducts::Conducts;
use super::merge::is_exim;
use super::tally::{Bin, Tally};
use crate::client::Client;
use crate::conduct::{Conduct, Deed};
use crate::config::{Config, LogConfig};
use crate::detector::{Detector, Judgement};
use crate::engine::{BanRecord, Engine, InForce};
use crate::event::{Connection, Event, Header, Request, Surface};
use crate::log::access::{self, AccessLine};
use crate::log::exim::{self, EximLine, Kind};
use crate::log::text::TextRule;
use crate::log::time::Zone;
use crate::rule::set::Scratch;
use crate::rule::{Evidence, LinePattern, Mode, Names, Offence, Rule, RuleId, Trigger};
use crate::table::Ban;
use crate::time::Time;
use crate::verdict::{Innocence, Refusal, Verdict};

/// What is over is dropped from the table after so many lines: to save memory, for what is over counts no more in any case.
const SWEEP: u64 = 1 << 20;

/// A replay under way.
pub struct Replay {
    engine: Arc<Engine>,
    in_force: Arc<InForce>,
    exim: Vec<(Kind, Arc<Rule>)>,
    /// For each log the rules in fail2ban's language that look at it.
    texts: Vec<Vec<TextRule>>,
    zone: Zone,
    scratch: Scratch,
    ledger: Ledger,
    /// The time of the last line that has one: of one without, too.
    now: Time,
    lines: u64,
    /// The status codes that some rule looks at.
    watched: Vec<u16>,
    first: Option<Time>,
}

/// The counts of a replay, and what goes into them.
#[derive(Debug)]
struct Ledger {
    tally: Tally,
    conducts: Conducts,
    most_clients: usize,
    has_shadow_bans: bool,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

/// What a replay has counted, with the rules that it was about.
#[derive(Debug)]
pub struct Outcome {
    /// The counts.
    pub tally: Tally,
    /// What each client did.
    pub conducts: HashMap<Client, Conduct, RandomState>,
    /// The rules and lists.
    pub in_force: Arc<InForce>,
    /// The time of the first and of the last event.
    pub span: Option<(Time, Time)>,
}

impl Replay {
    /// A replay of `logs` under a configuration, with an empty table. Local times in the logs are in `zone`.
    ///
    /// # Errors
    /// A rule over log lines cannot be used, or the machine gives no thread.
    pub fn new(config: Config, names: Arc<Names>, logs: &[PathBuf], zone: Zone) -> io::Result<Self> {
        let most_clients = config.table.clients.get();
        let bans = config.table.bans.get();
        let configured = config.logs.clone();
        let in_force = Arc::new(InForce::from(config));
        let mut exim = Vec::new();
        for rule in in_force.rules.rules() {
            if let Trigger::Line(LinePattern::Exim(kinds)) = &rule.trigger {
                exim.extend(kinds.iter().filter_map(|name| Some((Kind::from_name(name)?, Arc::clone(rule)))));
            }
        }
        let texts = logs
            .iter()
            .map(|log| text_rules(in_force.rules.rules(), log, &configured, &zone))
            .collect::<Result<Vec<_>, String>>()
            .map_err(io::Error::other)?;
        let mut watched: Vec<u16> = Vec::new();
        for rule in in_force.rules.rules() {
            if let Trigger::Response { statuses, .. } = &rule.trigger {
                watched.extend(statuses);
            }
        }
        watched.sort_unstable();
        watched.dedup();
        let on_table = InForce {
            rules: Arc::clone(&in_force.rules),
            lists: in_force.lists.clone(),
            prefix: in_force.prefix,
            on_failure: in_force.on_failure,
            false_ban_share: in_force.false_ban_share,
        };
        Ok(Self {
            engine: Arc::new(Engine::new(names, on_table, most_clients, bans)?),
            in_force,
            exim,
            texts,
            zone,
            scratch: Scratch::default(),
            ledger: Ledger { tally: Tally::default(), conducts: Conducts::new(most_clients), most_clients, has_shadow_bans: false },
            now: Time::default(),
            lines: 0,
            watched,
            first: None,
        })
    }

    /// Judges one line of the log with this number.
    pub fn line(&mut self, log: usize, line: &[u8]) {
        self.lines += 1;
        if self.lines.is_multiple_of(SWEEP) {
            self.engine.sweep(self.now);
        }
        let known = if is_exim(line) {
            let read = exim::parse(line, &mut self.zone);
            match read.time {
                Some(time) => {
                    self.at(time);
                    self.mail(time, &read)
                }
                None => false,
            }
        } else if let Some(read) = access::parse(line) {
            self.at(read.time);
            self.web(&read)
        } else {
            false
        };
        let offends = self.text(log, line);
        if !known && !offends {
            self.ledger.tally.unread += 1;
        }
    }

    /// Ends the replay.
    #[must_use]
    pub fn finish(self) -> Outcome {
        let Ledger { mut tally, conducts, .. } = self.ledger;
        let (conducts, forgotten) = conducts.finish();
        tally.forgotten_clients += forgotten;
        Outcome { tally, conducts, in_force: self.in_force, span: self.first.map(|first| (first, self.now.max(first))) }
    }

    fn at(&mut self, time: Time) {
        self.now = time;
        self.first = Some(self.first.map_or(time, |first| first.min(time)));
    }

    /// Judges a line of an access log, as the request that it was and by the status of its response. Says whether it names a client.
    fn web(&mut self, line: &AccessLine<'_>) -> bool {
        let Some(address) = line.client else { return false };
        let Self { engine, in_force, scratch, ledger, watched, .. } = self;
        let (time, client) = (line.time, Client::of(address, in_force.prefix));
        ledger.tally.requests += 1;
        if line.is_our_refusal() {
            ledger.tally.refused_before += 1;
            return true;
        }
        let (url, user_agent) = (access::unescape(line.url), line.user_agent.map(access::unescape));
        let user_agent = Header::plain(user_agent.as_deref().unwrap_or_default());
        let request = Request { method: line.method, url: &url, user_agent, sec_fetch_site: b"" };
        let shadow = ledger.shadow_ban(engine, client, Surface::Web, time);
        let detector = in_force.detector(engine.bans());
        let mut deed = Deed::of_status(line.status);
        let mut refused_by = None;
        match detector.judge(time, address, &Event::Request(request), scratch) {
            Judgement::Offence(offence) => {
                deed = deed.as_offence();
                refused_by = ledger.offence(engine, time, &offence, Surface::Web);
            }
            Judgement::Settled { verdict: Verdict::Allow(Innocence::NeverBanned(_)), .. } => {
                let rules = in_force.rules.offended_by_request(&request, scratch);
                ledger.spare(&rules);
            }
            Judgement::Settled { verdict, .. } | Judgement::Unkept(verdict) if verdict.refusal().is_some() => {
                refused_by = verdict.refusal().map(|Refusal { rule, .. }| *rule);
                if !in_force.rules.offended_by_request(&request, scratch).is_empty() {
                    deed = deed.as_offence();
                }
            }
            Judgement::Settled { counts: true, .. } => {
                ledger.rate(engine, time, address, client, in_force.rules.request_rates(), b"one request of many")
            }
            Judgement::Settled { .. } | Judgement::Unkept(_) => {}
        }
        if refused_by.is_none()
            && let Some(status) = line.status
            && watched.binary_search(&status).is_ok()
            && let Judgement::Offence(offence) = detector.judge(time, address, &Event::Response { request, status }, scratch)
        {
            // The response itself is never refused.
            deed = Deed::Offence;
            ledger.offence(engine, time, &offence, Surface::Web);
        }
        ledger.note(time, client, deed, refused_by, shadow, line.is_authenticated());
        true
    }

    /// Judges a line of Exim's. Says whether it tells of a client.
    fn mail(&mut self, time: Time, line: &EximLine) -> bool {
        let Some(address) = line.client else { return line.kind == Kind::Other };
        let Self { engine, in_force, scratch, ledger, exim, .. } = self;
        let client = Client::of(address, in_force.prefix);
        ledger.tally.mail += 1;
        if line.kind == Kind::OurRefusal {
            ledger.tally.refused_before += 1;
            return true;
        }
        let shadow = ledger.shadow_ban(engine, client, Surface::Mail, time);
        let detector = in_force.detector(engine.bans());
        let rules: Vec<Arc<Rule>> = exim.iter().filter(|(kind, _)| *kind == line.kind).map(|(_, rule)| Arc::clone(rule)).collect();
        let mut deed = match line.kind {
            Kind::Accepted | Kind::AcceptedAuthenticated => Deed::Success,
            Kind::Connection | Kind::ConnectionRefusedGlobal | Kind::LoadRefused => Deed::Neither,
            _ if rules.is_empty() => Deed::Error,
            _ => Deed::Offence,
        };
        let mut refused_by = None;
        if in_force.lists.never_banned(address).is_some() {
            ledger.spare(&rules);
        } else if let Some((refusal, _)) = detector.standing(time, address, client, Surface::Mail) {
            refused_by = Some(refusal.rule);
        } else if line.kind == Kind::Connection {
            let connection = Connection { port: line.local_port, open: 0 };
            if let Judgement::Offence(offence) = detector.judge(time, address, &Event::Connection(connection), scratch) {
                ledger.rate(engine, time, address, client, &offence.rules, b"one SMTP connection of many");
            }
        } else if !rules.is_empty() {
            deed = Deed::Offence;
            let evidence = Evidence::new(&[b"Exim log:", line.kind.description().as_bytes()]);
            ledger.offence(engine, time, &Offence { address, client, rules, evidence }, Surface::Mail);
        }
        ledger.note(time, client, deed, refused_by, shadow, line.kind == Kind::AcceptedAuthenticated);
        true
    }

    /// Judges a line by the rules in fail2ban's language. Says whether it is an offence.
    fn text(&mut self, log: usize, line: &[u8]) -> bool {
        if self.texts.get(log).is_none_or(Vec::is_empty) {
            return false;
        }
        let detector: Detector<'_> = self.in_force.detector(self.engine.bans());
        let mut seen = Vec::new();
        for rule in self.texts.get_mut(log).into_iter().flatten() {
            seen.extend(rule.look(line, self.now, &detector));
        }
        for offence in &seen {
            if self.now == Time::default() || offence.time > self.now {
                self.at(offence.time);
            }
            self.ledger.tally.texts += 1;
            self.ledger.offence(&self.engine, offence.time, &offence.offence, offence.surface);
            self.ledger.note(offence.time, offence.offence.client, Deed::Offence, None, None, false);
        }
        !seen.is_empty()
    }
}

impl Ledger {
    fn shadow_ban(&self, engine: &Engine, client: Client, surface: Surface, time: Time) -> Option<Ban> {
        if self.has_shadow_bans { engine.shadow(client, surface, time) } else { None }
    }

    /// Offences of a client that is never banned.
    fn spare(&mut self, rules: &[Arc<Rule>]) {
        for rule in rules {
            self.tally.rules.entry(rule.id).or_default().spared += 1;
        }
    }

    /// Counts an ordinary event in the rates. Only a ban that comes of it makes it an offence that is worth telling.
    fn rate(&mut self, engine: &Engine, time: Time, address: IpAddr, client: Client, rules: &[Arc<Rule>], evidence: &[u8]) {
        if rules.is_empty() {
            return;
        }
        let offence = Offence { address, client, rules: rules.to_vec(), evidence: Evidence::new(&[evidence]) };
        let outcome = engine.count(time, &offence, Surface::Web, 1);
        for record in outcome.banned.iter().chain(&outcome.shadowed) {
            if let Some(rule) = rules.iter().find(|rule| rule.name == record.rule) {
                let offences = u64::from(record.count);
                self.tally.rules.entry(rule.id).or_default().offences += offences;
                self.tally.series.add(time, Bin { offences, ..Bin::default() });
                self.tally.rule_series.entry(rule.id).or_default().add(time, Bin { offences, ..Bin::default() });
            }
        }
        self.banned(time, &outcome.banned, rules);
        self.banned(time, &outcome.shadowed, rules);
    }

    /// Counts an offence, and says which rule refuses it at once.
    fn offence(&mut self, engine: &Engine, time: Time, offence: &Offence, surface: Surface) -> Option<RuleId> {
        for rule in &offence.rules {
            self.tally.rules.entry(rule.id).or_default().offences += 1;
            self.tally.rule_series.entry(rule.id).or_default().add(time, Bin { offences: 1, ..Bin::default() });
        }
        self.tally.series.add(time, Bin { offences: 1, ..Bin::default() });
        let outcome = engine.count(time, offence, surface, 1);
        self.banned(time, &outcome.banned, &offence.rules);
        self.banned(time, &outcome.shadowed, &offence.rules);
        let refused = outcome.verdict.refusal().map(|refusal| refusal.rule);
        // A rule in shadow mode is shown as if it were enforced.
        let in_shadow = || offence.rules.iter().find(|rule| rule.mode == Mode::Shadow && rule.refuses_offence).map(|rule| rule.id);
        if refused.is_none()
            && let Some(rule) = in_shadow()
        {
            self.tally.rules.entry(rule).or_default().refused += 1;
        }
        refused
    }

    fn banned(&mut self, time: Time, records: &[BanRecord], rules: &[Arc<Rule>]) {
        for record in records {
            let Some(rule) = rules.iter().find(|rule| rule.name == record.rule) else { continue };
            self.has_shadow_bans |= rule.mode == Mode::Shadow;
            let bin = Bin { bans: 1, ..Bin::default() };
            self.tally.rules.entry(rule.id).or_default().bans += 1;
            self.tally.rule_series.entry(rule.id).or_default().add(time, bin);
            self.tally.series.add(time, bin);
            let Some(banned) = self.tally.banned(record.client, rule.id, self.most_clients) else { continue };
            if banned.bans == 0 {
                banned.since = record.since;
                banned.evidence = record.evidence.as_str().to_owned();
            }
            banned.bans = banned.bans.saturating_add(1);
        }
    }

    /// Notes an event: for the conduct of its client, over time, and where it would have been refused.
    fn note(&mut self, time: Time, client: Client, deed: Deed, refused_by: Option<RuleId>, shadow: Option<Ban>, authenticated: bool) {
        self.conducts.note(client, deed, authenticated);
        let refused = u64::from(refused_by.is_some());
        self.tally.series.add(time, Bin { events: 1, refused, ..Bin::default() });
        for rule in refused_by.into_iter().chain(shadow.map(|ban| ban.rule)) {
            self.tally.rules.entry(rule).or_default().refused += 1;
            let Some(banned) = self.tally.banned(client, rule, self.most_clients) else { continue };
            banned.refused = banned.refused.saturating_add(1);
            if matches!(deed, Deed::Success | Deed::ServedOffence) || authenticated {
                banned.note_ordinary(time);
            }
        }
    }
}

/// The rules in fail2ban's language for one log: those that the configuration gives to a log of this name (`mainlog.2.gz` is `mainlog`);
/// all of them, if it gives none of its logs this name.
fn text_rules(rules: &[Arc<Rule>], log: &Path, configured: &[LogConfig], zone: &Zone) -> Result<Vec<TextRule>, String> {
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let is_this = |log: &&LogConfig| log.path.file_name().is_some_and(|its| name.starts_with(&*its.to_string_lossy()));
    let named: Vec<&LogConfig> = configured.iter().filter(is_this).collect();
    rules
        .iter()
        .filter(|rule| named.is_empty() || named.iter().any(|log| log.rules.iter().any(|name| **name == *rule.name)))
        .filter_map(|rule| match &rule.trigger {
            Trigger::Line(LinePattern::Exim(_)) => None,
            Trigger::Line(pattern) => Some(TextRule::new(rule, pattern, zone)),
            _ => None,
        })
        .collect()
}
