//! What this node says: its bans, its lifts, and the strikes that count over all nodes. Nobody waits for it.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use redis::{Connection, RedisResult, Value};

use super::Health;
use super::link::{LIMIT, Link};
use super::message::{Story, letters, scope_of, target_of, target_text};
use crate::client::{Client, Ipv6Prefix};
use crate::clock::Clock;
use crate::engine::{BanRecord, Change, Engine};
use crate::event::Scope;
use crate::reply::Reply;
use crate::rule::{Evidence, Offence, Rule};
use crate::table::Until;
use crate::time::{Span, Time};

/// So many changes may wait; what comes beyond is dropped and counted, and all bans are said again later.
const QUEUE: usize = 16_384;
/// So many go to the engine together.
const BATCH: usize = 256;
/// What waits is sent at least so often.
const PAUSE: Duration = Duration::from_millis(20);
/// How long to wait after the engine was lost; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A lift is remembered at least and at most so long.
const REMEMBERED: (Span, Span) = (Span::from_secs(86_400), Span::from_secs(90 * 86_400));

/// Something to be said.
enum Item {
    Ban { target: IpNet, scope: Scope, since: Time, until: Until, story: Story },
    Lift { target: IpNet, scope: Scope, at: Time },
    Strike { offence: Offence, rule: Arc<Rule>, strikes: u32, at: Time },
    Forget(String),
}

/// Hands items to the thread.
#[derive(Clone)]
pub struct Sender(SyncSender<Item>);

impl Sender {
    /// Drops all that `node` said.
    pub fn forget(&self, node: &str) {
        let _ = self.0.try_send(Item::Forget(node.to_owned()));
    }
}

/// Starts saying what happens in `engine`.
///
/// # Errors
/// No thread could be started.
pub fn start(link: Arc<Link>, engine: &Arc<Engine>, clock: Clock, health: Arc<Health>) -> io::Result<Sender> {
    let (sender, receiver) = sync_channel(QUEUE);
    let post = {
        let (sender, health) = (sender.clone(), Arc::clone(&health));
        move |item| {
            if sender.try_send(item).is_err() {
                health.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let own = link.node.clone();
    let post_change = post.clone();
    engine.observe(move |change| {
        if let Some(item) = item_of(change, &own) {
            post_change(item);
        }
    });
    engine.observe_strikes(move |offence, rule, strikes, at| {
        post(Item::Strike { offence: offence.clone(), rule: Arc::clone(rule), strikes, at });
    });
    // The engine's observers live as long as the engine: a strong reference here would keep both for ever.
    let mut work = Work { link, engine: Arc::downgrade(engine), clock, health, waiting: VecDeque::new(), dropped: 0 };
    std::thread::Builder::new().name("fleet-out".into()).spawn(move || work.run(&receiver))?;
    Ok(Sender(sender))
}

fn item_of(change: &Change, own: &str) -> Option<Item> {
    match change {
        // What another node said is not said again.
        Change::Banned(record) => record.node.is_empty().then(|| ban_of(record, own)),
        Change::Unbanned { client, scope, at } => Some(Item::Lift { target: target_of(client.address()), scope: *scope, at: *at }),
        Change::NetworkBanned { network, since, until, reason } => Some(Item::Ban {
            target: *network,
            scope: Scope::All,
            since: *since,
            until: *until,
            story: Story { node: own.to_owned(), rule: "manual".into(), count: 1, times: 1, evidence: reason.as_str().to_owned() },
        }),
        Change::NetworkUnbanned { network, at } => Some(Item::Lift { target: *network, scope: Scope::All, at: *at }),
    }
}

fn ban_of(record: &BanRecord, own: &str) -> Item {
    let node = if record.node.is_empty() { own } else { &record.node };
    let story = Story {
        node: node.to_owned(),
        rule: record.rule.to_string(),
        count: record.count,
        times: record.times,
        evidence: record.evidence.as_str().to_owned(),
    };
    Item::Ban { target: target_of(record.client.address()), scope: record.scope, since: record.since, until: record.until, story }
}

struct Work {
    link: Arc<Link>,
    engine: Weak<Engine>,
    clock: Clock,
    health: Arc<Health>,
    /// Taken from the queue and not said yet.
    waiting: VecDeque<Item>,
    /// How much had been dropped when all bans were last said.
    dropped: u64,
}

impl Work {
    fn run(&mut self, receiver: &Receiver<Item>) {
        let mut wait = FIRST_WAIT;
        loop {
            let began = Instant::now();
            let ended = self.link.connect().and_then(|mut connection| self.say(&mut connection, receiver));
            match ended {
                Ok(()) => return,
                Err(error) => self.health.fail(&self.health.says, &error.to_string()),
            }
            self.keep_what_matters(receiver);
            if began.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Says everything, until the engine is lost (an error) or nobody hands over anything any more.
    fn say(&mut self, connection: &mut Connection, receiver: &Receiver<Item>) -> RedisResult<()> {
        self.say_all_bans(connection)?;
        self.health.says.store(true, Ordering::Relaxed);
        loop {
            match receiver.recv_timeout(LIMIT / 2) {
                Ok(item) => self.waiting.push_back(item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            while self.waiting.len() < BATCH {
                match receiver.try_recv() {
                    Ok(item) => self.waiting.push_back(item),
                    Err(_) => break,
                }
            }
            if self.waiting.is_empty() {
                redis::cmd("PING").query::<()>(connection)?;
            }
            while !self.waiting.is_empty() {
                self.say_batch(connection)?;
            }
            if self.health.dropped.load(Ordering::Relaxed) != self.dropped {
                self.say_all_bans(connection)?;
            }
        }
    }

    /// Without the engine strikes are lost, bans will be said again anyway, and lifts must not be forgotten.
    fn keep_what_matters(&mut self, receiver: &Receiver<Item>) {
        let mut dropped = 0;
        let mut kept = VecDeque::new();
        for item in self.waiting.drain(..).chain(receiver.try_iter()) {
            match item {
                Item::Lift { .. } | Item::Forget(_) if kept.len() < QUEUE => kept.push_back(item),
                Item::Ban { .. } => {}
                Item::Lift { .. } | Item::Forget(_) | Item::Strike { .. } => dropped += 1,
            }
        }
        self.waiting = kept;
        self.health.dropped.fetch_add(dropped, Ordering::Relaxed);
    }

    /// Says every ban that stands: what the engine knows already costs one call and is told nobody.
    fn say_all_bans(&mut self, connection: &mut Connection) -> RedisResult<()> {
        self.dropped = self.health.dropped.load(Ordering::Relaxed);
        let Some(engine) = self.engine.upgrade() else { return Ok(()) };
        // Lifts first: a ban that was lifted while the engine was away must not be said again by others.
        while !self.waiting.is_empty() {
            self.say_batch(connection)?;
        }
        let now = self.clock.now();
        let mut bans = Vec::new();
        engine.bans().for_each(now, |client, surface, ban| bans.push((client, surface, ban)));
        for few in bans.chunks(BATCH) {
            let items = few.iter().map(|(client, surface, ban)| {
                let mut record = engine.record_of(*client, *surface, *ban, now);
                record.scope = if *surface == crate::event::Surface::Web { Scope::Web } else { Scope::Mail };
                ban_of(&record, &self.link.node)
            });
            self.waiting.extend(items);
            self.say_batch(connection)?;
            // No storm: a fleet of many nodes comes back at the same moment.
            std::thread::sleep(PAUSE);
        }
        for network in engine.in_force().lists.banned.iter() {
            let change = Change::NetworkBanned {
                network: network.network,
                since: network.since,
                until: network.until.map_or(Until::NEVER, Until::at),
                reason: Evidence::new(&[]),
            };
            self.waiting.extend(item_of(&change, &self.link.node));
        }
        while !self.waiting.is_empty() {
            self.say_batch(connection)?;
        }
        Ok(())
    }

    /// Says the first of what waits, in one round trip, and does what the engine answers. On an error all of it still waits.
    fn say_batch(&mut self, connection: &mut Connection) -> RedisResult<()> {
        let now = self.clock.now();
        let mut pipe = redis::pipe();
        let count = self.waiting.len().min(BATCH);
        for item in self.waiting.iter().take(count) {
            self.command(item, now, &mut pipe);
        }
        let answers: Vec<Value> = pipe.query(connection)?;
        let said: Vec<Item> = self.waiting.drain(..count).collect();
        self.health.said.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        for (item, answer) in said.into_iter().zip(answers) {
            self.heed(item, &answer, now);
        }
        Ok(())
    }

    fn command(&self, item: &Item, now: Time, pipe: &mut redis::Pipeline) {
        let link = &self.link;
        match item {
            Item::Ban { target, scope, since, until, story } => {
                let target = target_text(*target);
                let left = until.remaining(now).map_or_else(|| "-1".to_owned(), |span| span.millis().to_string());
                let story_text = serde_json::to_string(story).unwrap_or_default();
                pipe.cmd("EVALSHA").arg(link.ban.get_hash()).arg(2).arg(link.client_key(&target)).arg(link.rate_key(&story.node));
                pipe.arg(letters(*scope)).arg(left).arg(now.since(*since).millis()).arg(story_text).arg(&link.node);
                pipe.arg(link.bans_per_minute).arg(link.channel()).arg(target);
            }
            Item::Lift { target, scope, at } => {
                let target = target_text(*target);
                pipe.cmd("EVALSHA").arg(link.lift.get_hash()).arg(1).arg(link.client_key(&target));
                pipe.arg(letters(*scope)).arg(now.since(*at).millis()).arg(REMEMBERED.0.millis()).arg(REMEMBERED.1.millis());
                pipe.arg(&link.node).arg(link.channel()).arg(target);
            }
            Item::Strike { offence, rule, strikes, .. } => {
                let key = link.strike_key(&rule.name, &target_text(target_of(offence.client.address())));
                pipe.cmd("EVALSHA").arg(link.strike.get_hash()).arg(1).arg(key);
                pipe.arg(*strikes).arg(rule.findtime.millis()).arg(rule.maxretry);
            }
            Item::Forget(node) => {
                pipe.cmd("PUBLISH").arg(link.channel()).arg(format!("forget {node}"));
            }
        }
    }

    fn heed(&self, item: Item, answer: &Value, now: Time) {
        let Some(engine) = self.engine.upgrade() else { return };
        match item {
            Item::Ban { target, .. } => {
                let answer: String = redis::from_redis_value_ref(answer).unwrap_or_default();
                // While we were away somebody lifted it.
                if let Some(scope) = answer.strip_prefix("lifted ").and_then(scope_of) {
                    lift(&engine, now, target, scope);
                } else if answer == "limited" {
                    self.health.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            Item::Strike { offence, rule, at, .. } => {
                let count: u32 = redis::from_redis_value_ref(answer).unwrap_or(0);
                if count >= rule.maxretry {
                    engine.ban_by_count(now, at, &rule, &offence, count);
                }
            }
            Item::Lift { .. } | Item::Forget(_) => {}
        }
    }
}

/// Lifts a ban here, if there is one: a lift of nothing is told nobody.
pub fn lift(engine: &Arc<Engine>, now: Time, target: IpNet, scope: Scope) {
    if target.prefix_len() < target.max_prefix_len() {
        if engine.in_force().lists.banned.get(target).is_some() {
            engine.unban_network(now, target, Reply::new(|_| ()));
        }
        return;
    }
    let client = client_of(target.addr());
    if scope.surfaces().iter().any(|surface| engine.bans().get(client, *surface, now).is_some()) {
        engine.unban(now, client, scope, Reply::new(|_| ()));
    }
}

/// A client as another node cut it: it is not cut again.
#[must_use]
pub fn client_of(address: IpAddr) -> Client {
    Ipv6Prefix::new(128).map_or_else(|| Client::of(address, Ipv6Prefix::default()), |whole| Client::of(address, whole))
}
