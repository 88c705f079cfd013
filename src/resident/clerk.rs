//! The clerk: a thread that answers what operators ask. A list of a million bans, or a configuration with as many networks, never holds
//! up an answer to Exim.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ipnet::IpNet;

use super::logs::Logs;
use super::mailbox::{Addressee, Answer};
use super::numbers::Numbers;
use super::peer::Peer;
use super::why::{self, remaining};
use crate::client::Client;
use crate::clock::{Clock, timestamp};
use crate::config::{Config, MetricsConfig, TableConfig};
use crate::engine::durable::StateFile;
use crate::engine::{BanRecord, Engine, InForce};
use crate::event::{Scope, Surface};
use crate::fleet::{Fleet, FleetConfig};
use crate::list::BannedNetwork;
use crate::reply::Reply;
use crate::rule::{Evidence, Mode};
use crate::socket::answer::{END, Lines, error};
use crate::socket::request::{Ban, Length, Request, Wanted, parse};
use crate::state::Health;
use crate::table::Until;
use crate::time::{Span, Time};

/// So many errands may wait.
const MOST_ERRANDS: usize = 64;
/// How long a ban by hand lasts if nothing is said.
const BAN_BY_HAND: Span = Span::from_secs(3600);
/// So many lists are made at a time: each holds all bans until it is read.
const MOST_LISTS: usize = 4;
/// So many bans make one piece of a list.
const PIECE: usize = 256;
/// For so many bans whose beginning is not remembered a list looks into the state file.
const MOST_LOOKUPS: usize = 10_000;

/// Something for the clerk.
pub enum Errand {
    /// A request that the loop does not answer itself.
    Request {
        /// The request's line.
        line: Vec<u8>,
        /// Who sent it.
        peer: Peer,
        /// Who is answered.
        to: Addressee,
    },
    /// SIGHUP.
    Reload,
}

/// What the clerk works with.
pub struct Desk {
    /// The table.
    pub engine: Arc<Engine>,
    /// The time.
    pub clock: Clock,
    /// The configuration file, as it was named.
    pub config: Option<PathBuf>,
    /// What cannot change while the resident runs.
    pub table: TableConfig,
    /// What cannot either.
    pub metrics: MetricsConfig,
    /// What is counted.
    pub numbers: Arc<Numbers>,
    /// The logs that are followed.
    pub logs: Arc<Mutex<Logs>>,
    /// The state file, if one is configured.
    pub state: Option<Arc<StateFile>>,
    /// What cannot either.
    pub fleet_config: Option<FleetConfig>,
    /// The fleet, if the machine is part of one.
    pub fleet: Option<Fleet>,
    /// When the resident started.
    pub started: Time,
    /// As many others hold it as lists are being read.
    pub lists: Arc<()>,
}

/// The loop's end of the clerk's desk. Dropped, it ends the thread.
pub struct Clerk {
    errands: Option<SyncSender<Errand>>,
    thread: Option<JoinHandle<()>>,
}

impl Clerk {
    /// Starts the thread.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(mut desk: Desk) -> io::Result<Self> {
        let (sender, errands) = sync_channel(MOST_ERRANDS);
        let thread = std::thread::Builder::new().name("clerk".into()).spawn(move || desk.work(&errands))?;
        Ok(Self { errands: Some(sender), thread: Some(thread) })
    }

    /// Hands over an errand. False if too many wait already.
    pub fn send(&self, errand: Errand) -> bool {
        self.errands.as_ref().is_some_and(|errands| errands.try_send(errand).is_ok())
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        self.errands = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Desk {
    fn work(&mut self, errands: &Receiver<Errand>) {
        for errand in errands {
            match errand {
                Errand::Reload => {
                    if let Err(fault) = self.reload() {
                        log::error!("the configuration is not taken over, the old one stays in force: {fault}");
                    }
                }
                Errand::Request { line, peer, to } => {
                    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.answer(&line, &peer, &to)));
                    match answer {
                        Ok(Some(answer)) => to.answer(answer),
                        Ok(None) => {}
                        Err(_) => to.answer(error("internal fault")),
                    }
                }
            }
        }
    }

    /// The answer to a request; none if it comes later.
    fn answer(&mut self, line: &[u8], peer: &Peer, to: &Addressee) -> Option<Answer> {
        let request = match parse(line) {
            Ok(request) => request,
            Err(fault) => return Some(error(&fault.to_string()).into()),
        };
        let own = rustix::process::geteuid().as_raw();
        if matches!(request, Request::Ban(_) | Request::Unban { .. } | Request::Forget(_) | Request::Reload) && !peer.is_privileged(own) {
            let fault = format!("{} may not do this: ban, unban, forget and reload are for root and {}", user(peer.user), user(own));
            return Some(error(&fault).into());
        }
        Some(match request {
            Request::Status => self.status().into(),
            Request::Metrics => (self.numbers.prometheus() + END).into(),
            Request::List(wanted) => self.list(&wanted),
            Request::Why(address) => self.why(address).into(),
            Request::Ban(ban) => match self.ban(&ban, to) {
                Ok(()) => return None,
                Err(fault) => error(&fault).into(),
            },
            Request::Unban { target, scope } => {
                self.unban(target, scope, to);
                return None;
            }
            Request::Forget(node) => self.forget(node).into(),
            Request::Reload => match self.reload() {
                Ok(notes) => notes.iter().fold(Lines::default().line("reloaded"), |lines, note| lines.field("note", note)).end().into(),
                Err(fault) => error(&fault).into(),
            },
            Request::Check(_) | Request::Strike { .. } | Request::Follow(_) => error("internal fault: not an errand").into(),
        })
    }

    fn why(&self, address: std::net::IpAddr) -> String {
        let now = self.clock.now();
        let lines = why::answer(&self.engine, self.state.as_deref(), now, address);
        #[cfg(feature = "fleet")]
        if let Some(fleet) = &self.fleet
            && let Some(network) = self.engine.in_force().lists.banned.lookup(address, now)
            && let Some(node) = fleet.author_of(network.network)
        {
            return lines.field("network_node", node).end();
        }
        lines.end()
    }

    /// Drops all that a node of the fleet said.
    fn forget(&self, node: &str) -> String {
        #[cfg(feature = "fleet")]
        if let Some(fleet) = &self.fleet {
            if node == fleet.node() {
                return error("this is the node itself; expected the name of another");
            }
            fleet.forget(node);
            return Lines::default().line(&format!("all that {node} said is being dropped")).end();
        }
        error(&format!("there is no fleet here that {node} could be in: expected [fleet] in the configuration"))
    }

    fn status(&self) -> String {
        let (engine, now) = (&self.engine, self.clock.now());
        let tallies = engine.tallies();
        let in_force = engine.in_force();
        let mut lines = Lines::default()
            .field("version", env!("CARGO_PKG_VERSION"))
            .field("pid", std::process::id())
            .field("uptime", now.since(self.started).secs())
            .field("socket", self.table.socket.display())
            .field("rules", in_force.rules.rules().len())
            .field("bans", engine.bans().len())
            .field("banned_networks", in_force.lists.banned.len())
            .field("strikes", engine.strikes().len())
            .field("offences_counted", tallies.offences.load(Ordering::Relaxed))
            .field("bans_made", tallies.bans.load(Ordering::Relaxed))
            .field("shadow_bans_made", tallies.shadow_bans.load(Ordering::Relaxed))
            .field("bans_evicted", engine.bans().evicted())
            .field("strikes_evicted", engine.strikes().evicted())
            .field("answers_before_saved", tallies.unsaved_answers.load(Ordering::Relaxed))
            .field("connections", self.numbers.meters.connections.load(Ordering::Relaxed))
            .field("mail_connections_watched", self.numbers.meters.processes.load(Ordering::Relaxed))
            .field("wall_clock_drift_ms", self.clock.wall_drift());
        lines = match self.state.as_ref().map(|state| state.health()) {
            None => lines.field("state", "none"),
            Some(Health { degraded: None, unsaved, .. }) => lines.field("state", "ok").field("state_unsaved", unsaved),
            Some(Health { degraded: Some(reason), unsaved, .. }) => {
                lines.field("state", format_args!("degraded: {reason}")).field("state_unsaved", unsaved)
            }
        };
        if let Some(fleet) = &self.fleet {
            lines = lines.field("fleet", fleet.health.error().map_or_else(|| "ok".to_owned(), |error| format!("cut off: {error}")));
            for (name, number) in fleet.health.numbers() {
                lines = lines.field(name, number);
            }
        }
        for rule in engine.budget().beyond(in_force.false_ban_share) {
            let name = engine.names().name(rule.rule);
            let in_shadow = in_force.rules.get(rule.rule).is_none_or(|rule| rule.mode == Mode::Shadow);
            let advice = if in_shadow { "leave it in shadow mode" } else { "mode = \"shadow\" is proposed" };
            lines = lines.field(
                "false_bans",
                format_args!("rule {name}: {} of the last {} clients that it banned look good: {advice}", rule.good, rule.clients),
            );
        }
        for log in self.logs.lock().unwrap_or_else(PoisonError::into_inner).status() {
            let fault = log.fault.as_deref().map_or_else(|| "ok".to_owned(), |fault| format!("fault: {fault}"));
            lines = lines.field("log", format_args!("{} lines={} lag={} {fault}", log.path.display(), log.lines, log.lag));
        }
        for line in self.numbers.status_lines() {
            lines.push(&line);
        }
        lines.end()
    }

    /// The bans that are wanted, in pieces that are made as fast as they are read.
    fn list(&self, wanted: &Wanted<'_>) -> Answer {
        if Arc::strong_count(&self.lists) > MOST_LISTS {
            return error(&format!("{MOST_LISTS} lists are being read already, try again")).into();
        }
        let reading = Arc::clone(&self.lists);
        let now = self.clock.now();
        let in_force = self.engine.in_force();
        let rule = match wanted.rule.map(|name| (name, self.engine.names().find(name))) {
            None => None,
            Some((_, Some(id))) => Some(id),
            Some((name, None)) => return error(&self.no_rule(name)).into(),
        };
        let network_of = |client: Client| match client.address() {
            std::net::IpAddr::V6(v6) => IpNet::new(v6.into(), in_force.prefix.bits()).unwrap_or(IpNet::from(client.address())),
            address => address.into(),
        };
        let mut bans: Vec<(Client, Surface, crate::table::Ban)> = Vec::new();
        self.engine.bans().for_each(now, |client, surface, ban| {
            let is_wanted = rule.is_none_or(|rule| rule == ban.rule)
                && wanted.network.is_none_or(|network| network.contains(&network_of(client)) || network_of(client).contains(&network));
            if is_wanted {
                bans.push((client, surface, ban));
            }
        });
        bans.sort_unstable_by_key(|(client, surface, _)| (*client, *surface == Surface::Mail));
        let networks = in_force.lists.banned.iter().filter(|network| {
            network.stands(now)
                && wanted.rule.is_none_or(|rule| *rule == *network.rule)
                && wanted.network.is_none_or(|wanted| wanted.contains(&network.network) || network.network.contains(&wanted))
        });
        let networks: Vec<String> = networks
            .map(|network| {
                let until = network.until.map_or(Until::NEVER, Until::at);
                let (since, remaining) = (network.since.secs(), remaining(until, now));
                format!("{} scope=all rule={} until={until} remaining={remaining} since={since}\n", network.network, network.rule)
            })
            .collect();
        let begun = self.begun(&bans, now);
        let (engine, prefix) = (Arc::clone(&self.engine), in_force.prefix);
        let line = move |(client, scope, ban): (Client, Scope, crate::table::Ban)| {
            let (rule, until) = (engine.names().name(ban.rule), ban.until);
            let since = begun.get(&client).copied().or_else(|| Some(engine.story(client).filter(|story| story.until == until)?.since));
            let since = since.map_or_else(String::new, |since| format!(" since={}", since.secs()));
            let remaining = remaining(until, now);
            format!("{} scope={} rule={rule} until={until} remaining={remaining}{since}\n", client.display(prefix), scope.as_str())
        };
        let scope = wanted.scope;
        let is_there = move |its: Scope| match scope {
            None => true,
            Some(wanted) => its == Scope::All || its == wanted,
        };
        let is_wanted = move |its: Scope| is_there(its) && (scope != Some(Scope::All) || its == Scope::All);
        let mut bans = joined(bans.into_iter()).filter(move |(_, its, _)| is_wanted(*its)).map(line);
        let pieces = std::iter::from_fn(move || {
            let _reading = &reading;
            let piece: String = bans.by_ref().take(PIECE).collect();
            (!piece.is_empty()).then_some(piece)
        });
        Answer::Pieces(Box::new(networks.into_iter().chain(pieces).chain([END.to_owned()])))
    }

    /// When bans began whose story only the state file has, as after a restart. Not of all, if there are very many.
    fn begun(&self, bans: &[(Client, Surface, crate::table::Ban)], now: Time) -> HashMap<Client, Time> {
        let mut begun = HashMap::new();
        let Some(state) = &self.state else { return begun };
        let mut lookups = 0;
        for (client, _, ban) in bans {
            let is_known = begun.contains_key(client) || self.engine.story(*client).is_some_and(|story| story.until == ban.until);
            if is_known {
                continue;
            }
            lookups += 1;
            if lookups > MOST_LOOKUPS {
                break;
            }
            let Ok(stories) = state.stories(*client, now) else { break };
            if let Some(story) = stories.iter().find(|story| story.until == ban.until) {
                begun.insert(*client, story.since);
            }
        }
        begun
    }

    /// That no rule is called so, and which one may have been meant.
    fn no_rule(&self, name: &str) -> String {
        let in_force = self.engine.in_force();
        let likeness = |rule: &str| strsim::jaro_winkler(rule, name);
        let names = in_force.rules.rules().iter().map(|rule| &*rule.name).chain(["manual"]);
        let nearest = names.map(|rule| (rule, likeness(rule))).max_by(|(_, one), (_, other)| one.total_cmp(other));
        let hint =
            nearest.filter(|(_, likeness)| *likeness > 0.8).map_or_else(String::new, |(rule, _)| format!("; did you mean {rule:?}?"));
        format!("found {:?}, expected the name of a rule{hint}", Evidence::new(&[name.as_bytes()]).as_str())
    }

    fn ban(&self, ban: &Ban<'_>, to: &Addressee) -> Result<(), String> {
        let now = self.clock.now();
        let in_force = self.engine.in_force();
        let until = match ban.length {
            Length::Default => Some(now.after(BAN_BY_HAND)),
            Length::For(span) => Some(now.after(span)),
            Length::Permanent => None,
        };
        let reason = Evidence::new(&[ban.reason.as_bytes()]);
        let whole = ban.target.prefix_len() == ban.target.max_prefix_len();
        let client = Client::of(ban.target.addr(), in_force.prefix);
        // An IPv6 client is a network as well: a ban of it must cover nobody who is never banned.
        let covered = match ban.target {
            IpNet::V6(v6) if whole => IpNet::new(v6.addr().into(), in_force.prefix.bits()).map_err(|error| error.to_string())?,
            network => network,
        };
        if let Some(reason) = in_force.lists.overlaps_never(covered) {
            return Err(format!("{} is never banned: {reason}", plain(ban.target)));
        }
        let ends = until.map_or(Until::NEVER, Until::at);
        let (target, left, scope) = (plain(ban.target), remaining(ends, now), ban.scope.as_str());
        let done = Lines::default().line(&format!("banned {target} until={ends} remaining={left} scope={scope}")).end();
        let reply = answering(to, done);
        if whole {
            let record = BanRecord {
                client,
                scope: ban.scope,
                rule: "manual".into(),
                first: now,
                since: now,
                until: ends,
                count: 1,
                times: 1,
                evidence: reason,
                node: "".into(),
            };
            log::info!("banned {} until {} by hand: {}", client.display(in_force.prefix), end(record.until), said(&record.evidence));
            self.engine.ban(record, reply);
        } else if ban.scope == Scope::All {
            log::info!("banned {} until {} by hand: {}", ban.target, end(ends), said(&reason));
            let network = BannedNetwork { network: ban.target, rule: "manual".into(), since: now, until };
            self.engine.ban_network(network, reason, reply);
        } else {
            return Err(format!("found scope={} for a network, expected all", ban.scope.as_str()));
        }
        Ok(())
    }

    fn unban(&self, target: IpNet, scope: Scope, to: &Addressee) {
        let (now, prefix) = (self.clock.now(), self.engine.in_force().prefix);
        if target.prefix_len() == target.max_prefix_len() {
            let client = Client::of(target.addr(), prefix);
            let found = Surface::ALL.iter().any(|surface| self.engine.bans().get(client, *surface, now).is_some());
            log_unban(&client.display(prefix), found);
            self.engine.unban(now, client, scope, answering(to, unbanned(target, found)));
        } else {
            let found = self.engine.in_force().lists.banned.iter().any(|banned| banned.network == target && banned.stands(now));
            log_unban(&target, found);
            self.engine.unban_network(now, target, answering(to, unbanned(target, found)));
        }
    }

    /// Reads the configuration again. A faulty one changes nothing. Returns what of it is not in force all the same.
    fn reload(&mut self) -> Result<Vec<String>, String> {
        let meters = &self.numbers.meters;
        let config = Config::load(self.config.as_deref(), self.engine.names()).map_err(|fault| {
            meters.refused_reloads.fetch_add(1, Ordering::Relaxed);
            fault.to_string()
        })?;
        let (old, new) = (&self.table, &config.table);
        let needs_restart = (&old.socket, old.mode, &old.group, &old.state, old.clients, old.bans)
            != (&new.socket, new.mode, &new.group, &new.state, new.clients, new.bans);
        let mut notes = Vec::new();
        if needs_restart {
            notes.push("socket, mode, group, state, clients and bans in [table] change only with a restart".to_owned());
        }
        if config.metrics != self.metrics {
            notes.push("[metrics] changes only with a restart".to_owned());
        }
        if config.fleet != self.fleet_config {
            notes.push("[fleet] changes only with a restart".to_owned());
        }
        if let Err(error) = self.numbers.hook.configure(config.hook.as_ref()) {
            notes.push(format!("the hook stays as it was: a thread could not be started: {error}"));
        }
        for note in &notes {
            log::warn!("{note}");
        }
        meters.reloads.fetch_add(1, Ordering::Relaxed);
        let logs = config.logs.clone();
        self.engine.put_in_force(InForce::from(config));
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).follow(&logs);
        log::info!("the configuration was read again and is in force");
        Ok(notes)
    }
}

/// A reply that answers `text`, whatever the verdict.
fn answering(to: &Addressee, text: String) -> Reply {
    let to = to.clone();
    Reply::new(move |_| to.answer(text))
}

/// When a ban ends, for the log.
fn end(until: Until) -> String {
    until.time().map_or_else(|| "for ever".to_owned(), timestamp)
}

/// An operator's reason, for the log.
fn said(reason: &Evidence) -> &str {
    if reason.as_str().is_empty() { "no reason given" } else { reason.as_str() }
}

/// A lift is carried out, and told to everybody, even where nothing is banned: another process or machine may know of a ban.
fn log_unban(target: &dyn std::fmt::Display, found: bool) {
    if found {
        log::info!("unbanned {target} by hand");
    } else {
        log::info!("{target} was to be unbanned by hand, and was not banned");
    }
}

/// A user by name, where there is one.
fn user(id: u32) -> String {
    let user = nix::unistd::User::from_uid(id.into()).ok().flatten();
    user.map_or_else(|| format!("user {id}"), |user| format!("user {}", user.name))
}

/// A network of one address is that address.
fn plain(target: IpNet) -> String {
    if target.prefix_len() == target.max_prefix_len() { target.addr().to_string() } else { target.to_string() }
}

fn unbanned(target: IpNet, found: bool) -> String {
    let target = plain(target);
    let line = if found { format!("unbanned {target}") } else { format!("not banned {target}") };
    Lines::default().line(&line).end()
}

/// Two bans of one client that differ in nothing but the surface are one of scope `all`. They come sorted by client.
fn joined(bans: impl Iterator<Item = (Client, Surface, crate::table::Ban)>) -> impl Iterator<Item = (Client, Scope, crate::table::Ban)> {
    let mut bans = bans.peekable();
    std::iter::from_fn(move || {
        let (client, surface, ban) = bans.next()?;
        let is_same =
            |(other, _, its): &(Client, Surface, crate::table::Ban)| *other == client && (its.until, its.rule) == (ban.until, ban.rule);
        let scope = match (bans.next_if(is_same), surface) {
            (Some(_), _) => Scope::All,
            (None, Surface::Web) => Scope::Web,
            (None, Surface::Mail) => Scope::Mail,
        };
        Some((client, scope, ban))
    })
}
