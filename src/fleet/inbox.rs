//! What other nodes say, taken over: but never against this machine's never-ban list, and never more than a node may say.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use redis::{RedisError, RedisResult};

use super::Health;
use super::complaint::Complaint;
use super::link::Link;
use super::message::{Message, Said, parse};
use super::provenance::{MOST_NODES, scope_of};
use super::standing::{client_of, lift, since_of};
use super::walk::{Belief, FEW, Known, Walk, look_up, said};
use super::wire::{Heard, SILENCE, Wire};
use crate::clock::{Clock, timestamp};
use crate::engine::durable::StateFile;
use crate::engine::{BanRecord, Engine};
use crate::event::{Scope, Surface};
use crate::list::BannedNetwork;
use crate::reply::Reply;
use crate::rule::RuleId;
use crate::table::Until;
use crate::time::{Span, Time};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);
/// Between two steps of loading, what is said meanwhile is listened to for so long.
const A_MOMENT: Duration = Duration::from_millis(1);
/// And so many messages are heard.
const SOME: usize = 256;
/// So many hashes are asked for at once where the engine is busy: a thousand machines may be loading.
const FEWEST: usize = 25;
/// It is not busy if it answers so soon.
const QUICK: Duration = Duration::from_millis(250);
/// So many networks are banned by the word of others at most: each new one copies the list.
const MOST_NETWORKS: usize = 16_384;
/// Bans that have ended are dropped from the list of whose word they are when it is so much longer than the table.
const MANY: usize = 1024;
/// And where names of nodes have run out, but no more often than this.
const TIDY: Duration = Duration::from_secs(10);
/// What this node says comes back to it sooner, but on a very slow way.
const LATE: Span = Span::from_secs(10);
/// The same moment, told again.
const NEARLY: Span = Span::from_secs(1);

/// Starts listening. At most `bans` clients are banned here.
///
/// # Errors
/// No thread could be started.
pub fn start(
    link: Arc<Link>,
    engine: &Arc<Engine>,
    state: Option<Arc<StateFile>>,
    clock: Clock,
    health: Arc<Health>,
    bans: usize,
) -> io::Result<()> {
    let engine = Arc::downgrade(engine);
    let mut work = Work {
        link,
        engine,
        state,
        clock,
        health,
        bans,
        rates: HashMap::default(),
        complaints: HashMap::new(),
        has_joined: false,
        dropped: None,
    };
    std::thread::Builder::new().name("fleet-in".into()).spawn(move || work.run())?;
    Ok(())
}

struct Work {
    link: Arc<Link>,
    engine: Weak<Engine>,
    state: Option<Arc<StateFile>>,
    clock: Clock,
    health: Arc<Health>,
    bans: usize,
    /// How many bans each node has said in its present minute.
    rates: HashMap<String, (Instant, u32), ahash::RandomState>,
    /// What has been complained about.
    complaints: HashMap<Disbelief, Complaint>,
    /// Whether all has been loaded once.
    has_joined: bool,
    /// When bans that have ended were last dropped from the list of whose word they are.
    dropped: Option<Instant>,
}

/// What is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Disbelief {
    Unreadable,
    NeverBanned,
    TooMany,
    OwnName,
}

/// What a joining node has still to take over.
struct Loading {
    wire: Wire,
    walk: Walk,
    belief: Belief,
    /// So many hashes are asked for at once.
    few: usize,
    taken: usize,
    refused: u64,
}

impl Work {
    fn run(&mut self) {
        let mut wait = FIRST_WAIT;
        while self.engine.strong_count() > 0 {
            let began = Instant::now();
            let ended = catch_unwind(AssertUnwindSafe(|| self.listen()));
            let error = match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => self.link.describe(&error),
                Err(_) => "internal fault".to_owned(),
            };
            self.health.fail(&self.health.hears, &error);
            if began.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Listens until the engine is lost. What is in force is loaded once nothing new can be missed.
    fn listen(&mut self) -> RedisResult<()> {
        let mut wire = self.link.connect()?;
        wire.subscribe(&self.link.channel())?;
        let mut loading = Some(self.begin_loading()?);
        let (mut lived, mut pinged, mut asked) = (Instant::now(), Instant::now(), None::<Time>);
        while self.engine.strong_count() > 0 {
            let is_loaded = match &mut loading {
                Some(part) => !self.load(part)?,
                None => false,
            };
            if is_loaded && let Some(loading) = loading.take() {
                self.loaded(&loading);
            }
            self.take_aside();
            let (wait, most) = if loading.is_some() { (A_MOMENT, SOME) } else { (SILENCE / 4, 1) };
            for _ in 0..most {
                match wire.hear(wait)? {
                    Heard::Message(text) => {
                        lived = Instant::now();
                        self.hear(&text);
                    }
                    Heard::Alive => {
                        lived = Instant::now();
                        if let Some(at) = asked.take()
                            && self.health.hears.load(Ordering::Relaxed)
                        {
                            self.health.heard_until.store(at.millis(), Ordering::Relaxed);
                        }
                    }
                    Heard::Silence => break,
                }
            }
            // Not since the last sign of life: loading may have taken longer, and then nobody has listened.
            if asked.is_some() && pinged.max(lived).elapsed() >= SILENCE {
                return Err(RedisError::from(io::Error::from(io::ErrorKind::TimedOut)));
            }
            // However much is heard: a message does not say how old it is.
            if asked.is_none() && pinged.elapsed() >= SILENCE {
                (pinged, asked) = (Instant::now(), Some(self.clock.now()));
                wire.ask_for_life()?;
            }
        }
        Ok(())
    }

    /// Takes over what the other thread came upon.
    fn take_aside(&mut self) {
        let aside = std::mem::take(&mut *self.health.aside.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(engine) = self.engine.upgrade() else { return };
        for said in aside {
            self.take(&engine, self.clock.now(), &said);
        }
    }

    fn begin_loading(&self) -> RedisResult<Loading> {
        let mut wire = self.link.connect()?;
        self.link.load.load(&mut wire)?;
        // Of each client the engine may have a ban or a lift; keys that have just ended are among them.
        let walk = Walk::new(self.bans.saturating_mul(2).saturating_add(1_000_000));
        let belief = Belief::new(self.link.bans_per_minute, self.bans);
        Ok(Loading { wire, walk, belief, few: FEWEST, taken: 0, refused: 0 })
    }

    /// Takes over some of what the engine has, and says whether there is more.
    fn load(&mut self, loading: &mut Loading) -> RedisResult<bool> {
        let (found, goes_on) = loading.walk.step(&self.link, &mut loading.wire)?;
        let mut found = found.as_slice();
        while let Some((few, rest)) = found.split_at_checked(loading.few.min(found.len())).filter(|(few, _)| !few.is_empty()) {
            let asked = Instant::now();
            let keys: Vec<&str> = few.iter().map(|(key, _)| key.as_str()).collect();
            let known = look_up(&self.link, &mut loading.wire, &keys)?;
            loading.few = if asked.elapsed() < QUICK { FEW } else { FEWEST };
            for ((_, target), [web, mail]) in few.iter().zip(known) {
                self.load_one(*target, web, mail, loading);
            }
            found = rest;
        }
        Ok(goes_on)
    }

    fn load_one(&mut self, target: IpNet, web: Known, mail: Known, loading: &mut Loading) {
        let Some(engine) = self.engine.upgrade() else { return };
        let now = self.clock.now();
        let lifts = [(Surface::Web, &web), (Surface::Mail, &mail)].map(|(surface, known)| {
            let ago = known.lifted.filter(|_| known.ban.is_none())?;
            // A ban that is younger than the lift stays.
            let at = now.before(ago);
            (since_of(&engine, self.state.as_deref(), &self.health, target, surface, now) <= at).then_some(surface)
        });
        for surface in lifts.into_iter().flatten() {
            lift(&engine, &self.health, now, target, surface.alone());
        }
        for said in said(target, web, mail) {
            if self.is_known(&engine, now, &said) {
                self.recognise(&engine, now, &said);
                continue;
            }
            if loading.belief.believes(&said.node, said.accepted) {
                loading.taken += usize::from(self.take(&engine, now, &said));
            } else {
                loading.refused += 1;
            }
        }
    }

    /// After a start it is not known whose word the banned networks are: the state file does not say. The engine does.
    fn recognise(&self, engine: &Engine, now: Time, said: &Said) {
        if self.has_joined || said.story.node == self.link.node || said.target.prefix_len() == said.target.max_prefix_len() {
            return;
        }
        let ends = |left: Option<Span>| left.map_or(u64::MAX, Span::secs);
        let in_force = engine.in_force();
        let Some(known) = in_force.lists.banned.get(said.target) else { return };
        // Another that happens to be of the same network ends at another time.
        let is_it = ends(known.until.map(|until| until.since(now))).abs_diff(ends(said.left)) <= 3;
        let mut provenance = self.health.provenance();
        if is_it && provenance.of(said.target, Surface::Web).is_none() {
            provenance.note(said.target, Scope::All, &said.story.node);
        }
    }

    fn loaded(&mut self, loading: &Loading) {
        self.has_joined = true;
        self.health.refused.fetch_add(loading.refused, Ordering::Relaxed);
        self.health.hears.store(true, Ordering::Relaxed);
        log::info!("joined the fleet as {}: {} bans taken over", self.link.node, loading.taken);
        if loading.walk.is_cut {
            log::warn!("the keys that the engine holds do not come to an end: the rest is not taken over");
        }
        if loading.refused > 0 {
            log::warn!("{} bans that the engine holds are not believed: more than a node may say, or than fit", loading.refused);
        }
    }

    fn hear(&mut self, text: &[u8]) {
        let Some(engine) = self.engine.upgrade() else { return };
        let now = self.clock.now();
        match std::str::from_utf8(text).ok().and_then(parse) {
            None => self.complain(Disbelief::Unreadable, || {
                "a message of the fleet cannot be read: another version of Strikeout, or a stranger, writes to the engine".to_owned()
            }),
            Some(Message::Lift { node, age, scope, target }) => self.hear_lift(&engine, now, &node, now.before(age), scope, target),
            Some(Message::Forget { node, age }) => self.forget(&engine, now, &node, age),
            // What this node said stands here, or has ended here since. A message does not say how long it was on its way, and seems younger
            // by that: taken back after a lift it would be said again, as if it were new.
            Some(Message::Ban(said)) if said.node == self.link.node => {
                let before = now.before(said.age).before(LATE);
                if !self.is_known(&engine, now, &said) && self.health.provenance().not_lifted(said.target, said.scope, before).is_some() {
                    self.complain(Disbelief::OwnName, || {
                        format!("a ban under this node's own name, {}, does not stand here: is there another node of that name?", said.node)
                    });
                }
            }
            Some(Message::Ban(said)) => {
                if self.is_too_much(&said.node) {
                    self.health.refused.fetch_add(1, Ordering::Relaxed);
                } else {
                    self.take(&engine, now, &said);
                }
            }
        }
    }

    /// Lifts, unless this machine has banned since: the engine will hear of that, and tell it to all. What it lifted itself is lifted, and
    /// what it banned since stands; what it has heard of since does not.
    fn hear_lift(&self, engine: &Arc<Engine>, now: Time, node: &str, at: Time, scope: Scope, target: IpNet) {
        let is_own = |surface: Surface| self.health.provenance().of(target, surface).is_none();
        let begun = |surface: Surface| since_of(engine, self.state.as_deref(), &self.health, target, surface, now);
        let falls = |surface: &Surface| !(is_own(*surface) && (node == self.link.node || begun(*surface) > at));
        let falling: Vec<Surface> = scope.surfaces().iter().copied().filter(falls).collect();
        let Some(scope) = scope_of(&falling) else { return };
        self.health.heard.fetch_add(1, Ordering::Relaxed);
        lift(engine, &self.health, now, target, scope);
    }

    /// Whether `node` says more bans than it may.
    fn is_too_much(&mut self, node: &str) -> bool {
        let now = Instant::now();
        // Names are their own word: whoever makes up more of them than a fleet has nodes is not believed.
        if self.rates.len() >= MOST_NODES && !self.rates.contains_key(node) {
            self.rates.retain(|_, (since, _)| now.duration_since(*since) < MINUTE);
            if self.rates.len() >= MOST_NODES {
                return true;
            }
        }
        let (since, count) = self.rates.entry(node.to_owned()).or_insert((now, 0));
        if now.duration_since(*since) >= MINUTE {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        if *count == self.link.bans_per_minute.saturating_add(1) {
            log::warn!("node {node} says more than {} bans in a minute: the rest is not believed", self.link.bans_per_minute);
        }
        *count > self.link.bans_per_minute
    }

    /// Whether a ban that is said stands here already.
    fn is_known(&self, engine: &Engine, now: Time, said: &Said) -> bool {
        let until = said.left.map_or(Until::NEVER, |left| Until::at(now.after(left)));
        // Seconds are rounded up at each end.
        let outlasts = |ends: Until| {
            ends == Until::NEVER
                || ends.remaining(now).map(Span::secs).unwrap_or(0) + 3 >= until.remaining(now).map_or(u64::MAX, Span::secs)
        };
        if said.target.prefix_len() < said.target.max_prefix_len() {
            let in_force = engine.in_force();
            return in_force.lists.banned.get(said.target).is_some_and(|known| outlasts(known.until.map_or(Until::NEVER, Until::at)));
        }
        let client = client_of(said.target.addr());
        said.scope.surfaces().iter().all(|surface| engine.bans().get(client, *surface, now).is_some_and(|ban| outlasts(ban.until)))
    }

    /// Bans here what a node banned there, and says whether that was new.
    fn take(&mut self, engine: &Arc<Engine>, now: Time, said: &Said) -> bool {
        if self.is_known(engine, now, said) {
            return false;
        }
        let own = said.story.node == self.link.node;
        let in_force = engine.in_force();
        let client = client_of(said.target.addr());
        let single = said.target.prefix_len() == said.target.max_prefix_len();
        let covered = if single { client_network(client, in_force.prefix) } else { said.target };
        if let Some(reason) = in_force.lists.overlaps_never(covered) {
            self.health.refused.fetch_add(1, Ordering::Relaxed);
            self.complain(Disbelief::NeverBanned, || format!("node {} bans {covered}, which is never banned here: {reason}", said.node));
            return false;
        }
        let until = said.left.map_or(Until::NEVER, |left| Until::at(now.after(left)));
        let since = now.before(said.age);
        if self.health.provenance().forgotten_at(&said.story.node).is_some_and(|at| since <= at) {
            return false;
        }
        let Some(scope) = self.health.provenance().not_lifted(said.target, said.scope, since).filter(|_| !until.is_over(now)) else {
            return false;
        };
        // A rule that is not known here gets no name here: names are never forgotten, and a stranger must not make more of them.
        let rule = engine.names().find(&said.story.rule);
        if !self.has_room(engine, now, said, rule) || !(own || self.note(engine, now, said, scope, until)) {
            self.health.refused.fetch_add(1, Ordering::Relaxed);
            self.complain(Disbelief::TooMany, || format!("a ban of node {} is not believed: there are too many already", said.node));
            return false;
        }
        self.health.heard.fetch_add(1, Ordering::Relaxed);
        let ends = until.time().map_or_else(|| "for ever".into(), timestamp);
        let name = rule.map_or_else(|| "fleet".into(), |id| engine.names().name(id));
        log::info!("banned {} until {ends} by rule {name} of node {}", target_shown(covered), said.story.node);
        if single {
            // As where it was made: the count starts anew.
            if let Some(id) = rule {
                engine.strikes().forget(id, client);
            }
            let record = BanRecord {
                client,
                scope,
                rule: name,
                first: since,
                since,
                until,
                count: said.story.count,
                times: said.story.times,
                evidence: said.story.evidence(),
                node: if own { "".into() } else { said.story.node.as_str().into() },
            };
            engine.ban(record, Reply::new(|_| ()));
        } else {
            self.health.provenance().expect_echo(said.target, None, since);
            let ban = BannedNetwork { network: said.target, rule: "manual".into(), since, until: until.time() };
            engine.ban_network(ban, said.story.evidence(), Reply::new(|_| ()));
        }
        true
    }

    /// Whether one more fits. Where the table is full a ban by a rule pushes another out; one that never falls must not come in.
    fn has_room(&self, engine: &Engine, now: Time, said: &Said, rule: Option<RuleId>) -> bool {
        if said.target.prefix_len() < said.target.max_prefix_len() {
            let in_force = engine.in_force();
            return in_force.lists.banned.len() < MOST_NETWORKS || in_force.lists.banned.get(said.target).is_some();
        }
        let never_falls = said.left.is_none() || rule == Some(RuleId::MANUAL);
        let client = client_of(said.target.addr());
        let is_in = || Surface::ALL.iter().any(|surface| engine.bans().get(client, *surface, now).is_some());
        !never_falls || engine.bans().len() < self.bans || is_in()
    }

    /// Drops from the list of whose word they are the bans that have ended. Every ban that is made here needs the list: it is held for
    /// moments only.
    fn drop_what_is_over(&self, engine: &Engine, now: Time) {
        let in_force = engine.in_force();
        let is_over = |target: &IpNet| {
            let client = client_of(target.addr());
            in_force.lists.banned.get(*target).is_none()
                && Surface::ALL.iter().all(|surface| engine.bans().get(client, *surface, now).is_none())
        };
        let mut targets = self.health.provenance().targets();
        targets.retain(is_over);
        for few in targets.chunks(FEW) {
            let mut provenance = self.health.provenance();
            few.iter().for_each(|target| provenance.own(*target, Scope::All));
        }
    }

    /// Notes whose word a ban is. False if there are too many nodes.
    fn note(&mut self, engine: &Engine, now: Time, said: &Said, scope: Scope, until: Until) -> bool {
        let (is_full, known) = {
            let provenance = self.health.provenance();
            (provenance.is_full_for(&said.story.node), provenance.len())
        };
        let is_full = is_full && self.dropped.is_none_or(|dropped| dropped.elapsed() >= TIDY);
        if is_full || known > engine.bans().len() + engine.in_force().lists.banned.len() + MANY {
            self.dropped = Some(Instant::now());
            self.drop_what_is_over(engine, now);
        }
        // Where a ban stands that lasts longer, that one goes on standing.
        let client = client_of(said.target.addr());
        let mut provenance = self.health.provenance();
        let is_single = said.target.prefix_len() == said.target.max_prefix_len();
        let is_its = |surface: &Surface| !is_single || engine.bans().get(client, *surface, now).is_none_or(|ban| ban.until < until);
        let its: Vec<Surface> = scope.surfaces().iter().copied().filter(is_its).collect();
        scope_of(&its).is_none_or(|scope| provenance.note(said.target, scope, &said.story.node))
    }

    /// Lifts every ban that stands because `node` said so; all that are this machine's own, if that is the node. If it is told again, only
    /// by those who have not heard of it, and only what is older than that.
    fn forget(&self, engine: &Arc<Engine>, now: Time, node: &str, age: Option<Span>) {
        let at = now.before(age.unwrap_or_default());
        if age.is_some() && self.health.provenance().forgotten_at(node).is_some_and(|known| known.after(NEARLY) >= at) {
            return;
        }
        self.health.provenance().forgot(node, at);
        let mut targets = self.health.provenance().said_by(node);
        if node == self.link.node {
            let mut own: Vec<(IpNet, Surface)> = engine.in_force().lists.banned.iter().map(|ban| (ban.network, Surface::Web)).collect();
            engine.bans().for_each(now, |client, surface, _| own.push((IpNet::from(client.address()), surface)));
            for few in own.chunks(FEW) {
                let provenance = self.health.provenance();
                let is_own = |(target, surface): &&(IpNet, Surface)| provenance.of(*target, *surface).is_none();
                targets.extend(few.iter().filter(is_own).map(|(target, surface)| (*target, surface.alone())));
            }
        }
        if age.is_some() {
            let since = |target, surface: Surface| since_of(engine, self.state.as_deref(), &self.health, target, surface, now);
            targets.retain(|(target, scope)| scope.surfaces().iter().all(|surface| since(*target, *surface) <= at));
        }
        if !targets.is_empty() {
            log::info!("everything that node {node} said is dropped: {} bans", targets.len());
        }
        for few in targets.chunks(FEW) {
            {
                let mut provenance = self.health.provenance();
                few.iter().for_each(|(target, scope)| provenance.own(*target, *scope));
            }
            for (target, scope) in few {
                lift(engine, &self.health, now, *target, *scope);
            }
        }
    }

    /// Says in the log what is not believed: not once for each time.
    fn complain(&mut self, about: Disbelief, text: impl FnOnce() -> String) {
        self.complaints.entry(about).or_default().say(text);
    }
}

/// The network that a client is.
fn client_network(client: crate::client::Client, prefix: crate::client::Ipv6Prefix) -> IpNet {
    let bits = if client.address().is_ipv4() { 32 } else { prefix.bits() };
    IpNet::new(client.address(), bits).unwrap_or_else(|_| IpNet::from(client.address()))
}

/// A client or a network, for people.
fn target_shown(target: IpNet) -> String {
    super::message::target_text(target)
}
