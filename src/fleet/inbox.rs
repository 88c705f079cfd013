//! What other nodes say, taken over: but never against this machine's never-ban list, and never more than a node may say.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use redis::{Connection, RedisResult};

use super::Health;
use super::config::is_node;
use super::link::{LIMIT, Link};
use super::message::{Message, Said, Story, parse};
use super::outbox::{client_of, lift};
use crate::clock::{Clock, timestamp};
use crate::engine::{BanRecord, Engine};
use crate::event::{Scope, Surface};
use crate::list::BannedNetwork;
use crate::list::file::parse_network;
use crate::reply::Reply;
use crate::table::Until;
use crate::time::{Span, Time};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);
/// So many keys are looked at in one step of a scan.
const SCAN: usize = 1000;
/// So many nodes are kept apart at most.
const MOST_NODES: usize = 4096;
/// Clients whose bans have ended are dropped from a node's list when it is so much longer than the table.
const MANY: usize = 1024;

/// Starts listening.
///
/// # Errors
/// No thread could be started.
pub fn start(link: Arc<Link>, engine: &Arc<Engine>, clock: Clock, health: Arc<Health>) -> io::Result<()> {
    let engine = Arc::downgrade(engine);
    let mut work = Work { link, engine, clock, health, rates: HashMap::default() };
    std::thread::Builder::new().name("fleet-in".into()).spawn(move || work.run())?;
    Ok(())
}

struct Work {
    link: Arc<Link>,
    engine: Weak<Engine>,
    clock: Clock,
    health: Arc<Health>,
    /// How many bans each node has said in its present minute.
    rates: HashMap<String, (Instant, u32), ahash::RandomState>,
}

impl Work {
    fn run(&mut self) {
        let mut wait = FIRST_WAIT;
        while self.engine.strong_count() > 0 {
            let began = Instant::now();
            if let Err(error) = self.listen() {
                self.health.fail(&self.health.hears, &error.to_string());
            }
            if began.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Listens until the engine is lost. What is in force is loaded once nothing new can be missed.
    fn listen(&mut self) -> RedisResult<()> {
        let mut connection = self.link.connect()?;
        let mut pubsub = connection.as_pubsub();
        pubsub.subscribe(self.link.channel())?;
        self.load()?;
        self.health.hears.store(true, Ordering::Relaxed);
        log::info!("joined the fleet as {}", self.link.node);
        pubsub.set_read_timeout(Some(LIMIT))?;
        while self.engine.strong_count() > 0 {
            match pubsub.get_message() {
                Ok(message) => {
                    if let Ok(text) = message.get_payload::<String>() {
                        self.hear(&text);
                    }
                }
                // Silence: is the engine still there?
                Err(error) if error.is_timeout() => pubsub.ping::<redis::Value>().map(|_| ())?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes over every ban and every lift that the engine has.
    fn load(&mut self) -> RedisResult<()> {
        let mut connection = self.link.connect()?;
        let prefix = self.link.client_prefix();
        let mut cursor: u64 = 0;
        loop {
            let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(format!("{}*", escape(&prefix)))
                .arg("COUNT")
                .arg(SCAN)
                .query(&mut connection)?;
            self.load_few(&mut connection, &prefix, &keys)?;
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    fn load_few(&mut self, connection: &mut Connection, prefix: &str, keys: &[String]) -> RedisResult<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        pipe.cmd("TIME");
        let ((seconds, micros),): ((u64, u64),) = pipe.query(connection)?;
        let engine_now = seconds * 1000 + micros / 1000;
        let mut pipe = redis::pipe();
        for key in keys {
            pipe.cmd("HGETALL").arg(key);
        }
        let hashes: Vec<HashMap<String, String>> = pipe.query(connection)?;
        for (key, hash) in keys.iter().zip(&hashes) {
            let Some(target) = key.strip_prefix(prefix).and_then(|target| parse_network(target).ok()) else { continue };
            for (letter, surface) in [("w", Surface::Web), ("m", Surface::Mail)] {
                self.load_surface(engine_now, target, letter, surface, hash);
            }
        }
        Ok(())
    }

    fn load_surface(&self, engine_now: u64, target: IpNet, letter: &str, surface: Surface, hash: &HashMap<String, String>) {
        let Some(engine) = self.engine.upgrade() else { return };
        let now = self.clock.now();
        let scope = if surface == Surface::Web { Scope::Web } else { Scope::Mail };
        let number = |field: &str| hash.get(&format!("{letter}{field}")).and_then(|text| text.parse::<f64>().ok());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of the epoch, and the cast saturates")]
        let millis = |value: f64| value as u64;
        if let Some(gone) = number("g") {
            // A ban that is younger than the lift stays.
            let lifted_at = now.before(Span::from_millis(engine_now.saturating_sub(millis(gone))));
            let since = engine.story(client_of(target.addr())).map(|story| story.since);
            if since.is_none_or(|since| since <= lifted_at) {
                lift(&engine, now, target, scope);
            }
        }
        let story = hash.get(&format!("{letter}r")).and_then(|text| serde_json::from_str::<Story>(text).ok());
        if let (Some(until), Some(story)) = (number(""), story) {
            let left = if until < 0.0 { None } else { Some(Span::from_millis(millis(until).saturating_sub(engine_now))) };
            let said = Said { node: story.node.clone(), scope, left, age: Span::ZERO, target, story };
            self.take(&engine, now, &said);
        }
    }

    fn hear(&mut self, text: &str) {
        let Some(engine) = self.engine.upgrade() else { return };
        let now = self.clock.now();
        match parse(text) {
            None => log::warn!("a message of the fleet cannot be read: another version of Strikeout, or a stranger, writes to the engine"),
            Some(Message::Lift { scope, target }) => {
                self.health.heard.fetch_add(1, Ordering::Relaxed);
                lift(&engine, now, target, scope);
            }
            Some(Message::Forget(node)) => self.forget(&engine, now, &node),
            Some(Message::Ban(said)) if said.node == self.link.node => {}
            // On the channel each node speaks for itself: what it repeats of others is kept for those who join later.
            Some(Message::Ban(said)) if said.story.node != said.node => {
                self.health.refused.fetch_add(1, Ordering::Relaxed);
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

    /// Whether `node` says more bans than it may.
    fn is_too_much(&mut self, node: &str) -> bool {
        let now = Instant::now();
        self.rates.retain(|_, (since, _)| now.duration_since(*since) < MINUTE);
        // Names are their own word: whoever makes up more of them than a fleet has nodes is not believed.
        if self.rates.len() >= MOST_NODES && !self.rates.contains_key(node) {
            return true;
        }
        let (_, count) = self.rates.entry(node.to_owned()).or_insert((now, 0));
        *count = count.saturating_add(1);
        if *count == self.link.bans_per_minute.saturating_add(1) {
            log::warn!("node {node} says more than {} bans in a minute: the rest is not believed", self.link.bans_per_minute);
        }
        *count > self.link.bans_per_minute
    }

    /// Bans here what a node banned there.
    fn take(&self, engine: &Arc<Engine>, now: Time, said: &Said) {
        let own = said.story.node == self.link.node;
        let in_force = engine.in_force();
        let client = client_of(said.target.addr());
        let single = said.target.prefix_len() == said.target.max_prefix_len();
        let covered = if single { client_network(client, in_force.prefix) } else { said.target };
        if let Some(reason) = in_force.lists.overlaps_never(covered) {
            self.health.refused.fetch_add(1, Ordering::Relaxed);
            log::warn!("node {} bans {covered}, which is never banned here: {reason}", said.node);
            return;
        }
        let until = said.left.map_or(Until::NEVER, |left| Until::at(now.after(left)));
        if until.is_over(now) || !is_node(&said.story.node) {
            return;
        }
        if !single {
            let known = in_force.lists.banned.get(said.target).is_some_and(|known| known.until.map_or(Until::NEVER, Until::at) >= until);
            if !known {
                self.health.heard.fetch_add(1, Ordering::Relaxed);
                let ban = BannedNetwork { network: said.target, rule: "manual".into(), since: now.before(said.age), until: until.time() };
                engine.ban_network(ban, said.story.evidence(), Reply::new(|_| ()));
            }
            return;
        }
        let stands = |surface: &Surface| {
            let ends = engine.bans().get(client, *surface, now).map(|ban| ban.until);
            // Seconds are rounded up at each end.
            ends.is_some_and(|ends| {
                ends == Until::NEVER
                    || ends.remaining(now).map(Span::secs).unwrap_or(0) + 3 >= until.remaining(now).map_or(u64::MAX, Span::secs)
            })
        };
        if said.scope.surfaces().iter().all(stands) {
            return;
        }
        self.health.heard.fetch_add(1, Ordering::Relaxed);
        // A rule that is not known here gets no name here: names are never forgotten, and a stranger must not make more of them.
        let rule = engine.names().find(&said.story.rule).map_or_else(|| "fleet".into(), |id| engine.names().name(id));
        let node = if own { "" } else { said.story.node.as_str() };
        let record = BanRecord {
            client,
            scope: said.scope,
            rule,
            first: now.before(said.age),
            since: now.before(said.age),
            until,
            count: said.story.count,
            times: said.story.times,
            evidence: said.story.evidence(),
            node: node.into(),
        };
        if !own {
            let mut said_by = self.health.said_by.lock().unwrap_or_else(PoisonError::into_inner);
            if said_by.len() >= MOST_NODES {
                said_by.retain(|_, clients| {
                    clients.iter().any(|client| Surface::ALL.iter().any(|surface| engine.bans().get(*client, *surface, now).is_some()))
                });
            }
            let clients = said_by.entry(said.story.node.clone()).or_default();
            if clients.len() > engine.bans().len() + MANY {
                clients.retain(|client| Surface::ALL.iter().any(|surface| engine.bans().get(*client, *surface, now).is_some()));
            }
            clients.insert(client);
        }
        let ends = until.time().map_or_else(|| "for ever".into(), timestamp);
        log::info!("banned {} until {ends} by rule {} of node {}", client.display(in_force.prefix), record.rule, said.story.node);
        engine.ban(record, Reply::new(|_| ()));
    }

    /// Lifts every ban that stands because `node` said so.
    fn forget(&self, engine: &Arc<Engine>, now: Time, node: &str) {
        let clients = self.health.said_by.lock().unwrap_or_else(PoisonError::into_inner).remove(node).unwrap_or_default();
        log::info!("everything that node {node} said is dropped: {} clients", clients.len());
        for client in clients {
            engine.unban(now, client, Scope::All, Reply::new(|_| ()));
        }
    }
}

/// The network that a client is.
fn client_network(client: crate::client::Client, prefix: crate::client::Ipv6Prefix) -> IpNet {
    let bits = if client.address().is_ipv4() { 32 } else { prefix.bits() };
    IpNet::new(client.address(), bits).unwrap_or_else(|_| IpNet::from(client.address()))
}

/// A pattern that matches `text` itself.
fn escape(text: &str) -> String {
    text.chars().flat_map(|c| if "*?[]\\^".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}
