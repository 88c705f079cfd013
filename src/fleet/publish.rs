//! Publishes this machine's bans and unbans, and the strikes that count over all machines.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;
use redis::{Pipeline, RedisResult, Value};

use super::client::{RedisClient, concerns_one_change};
use super::clock_offset::ClockOffset;
use super::local::{Local, SHORTEST_WAIT, wait_for_other_thread};
use super::message::letters;
use super::origin::Origins;
use super::queue::{Outgoing, Queue, SentTime};
use super::republish::Republish;
use super::resp_connection::{RespConnection, SILENCE};
use crate::client::ShortNetwork;
use crate::engine::{BanRecord, Change, Engine, NetworkRecord, Reach};
use crate::event::Scope;
use crate::logging::ThrottledLog;
use crate::rule_id::is_shared;
use crate::time::{Span, Time};

/// Number of changes sent in one round trip.
const BATCH: usize = 256;
/// Number of unbans sent in one round trip after a cut: fewer, because a thousand nodes may come back at once.
const UNBAN_BATCH: usize = 64;
/// Delay before all bans are published again because some were dropped.
const DROP_DELAY: Duration = Duration::from_secs(3);
/// Delay before all bans are published again because the limit of bans in a minute was reached.
const LIMIT_DELAY: Duration = Duration::from_secs(60);
/// Clock error tolerated when Redis says that a ban is over: one that lasts longer here means that Redis's clock was set.
const CLOCK_ERROR: Span = Span::from_secs(5);
/// Number of times the clock offset is measured when a connection begins.
const SAMPLES: usize = 3;
/// How long Redis remembers the unban of a ban that it does not have.
const UNBAN_MEMORY: Span = Span::from_secs(90 * 86_400);

/// Starts publishing what happens in `engine`.
pub fn start(local: Arc<Local>, engine: &Arc<Engine>, queue: Arc<Queue>) -> io::Result<()> {
    let (changes, table, origins) = (Arc::clone(&queue), Arc::downgrade(engine), Arc::clone(&local.origins));
    engine.observe(move |change| {
        let Some(engine) = table.upgrade() else { return };
        if let Some(change) = to_publish(change, &engine, &origins) {
            changes.push(change);
        }
    });
    let strikes = Arc::clone(&queue);
    engine.observe_strikes(move |offence, rule, number, at| {
        strikes.push(Outgoing::Strike { offence: Box::new(offence.clone()), rule: Arc::clone(rule), strikes: number, at });
    });
    let mut publisher = Publisher {
        local,
        queue,
        offset: ClockOffset::default(),
        republish: None,
        republish_at: None,
        dropped: 0,
        refusals: ThrottledLog::default(),
    };
    std::thread::Builder::new().name("fleet-out".into()).spawn(move || {
        let local = Arc::clone(&publisher.local);
        local.keep_connected(&local.health.publishing, || publisher.publish());
    })?;
    Ok(())
}

/// The change to publish; `None` for one that came from another node.
fn to_publish(change: &Change, engine: &Engine, origins: &Mutex<Origins>) -> Option<Outgoing> {
    match change {
        Change::Banned(BanRecord { rule, .. }) | Change::NetworkBanned(NetworkRecord { rule, .. }) if !is_shared(rule) => None,
        Change::Banned(record) if !record.node.is_empty() => None,
        Change::Banned(record) => {
            let target = IpNet::from(record.client.address());
            for service in record.scope.services() {
                // If another node's ban lasts longer, that one stays in force, and so does its origin.
                if engine.bans().get(record.client, *service, record.since).is_none_or(|active| active.until <= record.until) {
                    origins.lock().clear(target, service.scope());
                }
            }
            Some(Outgoing::ban(record, engine.policy().prefix))
        }
        Change::NetworkBanned(record) => {
            let (mut origins, network) = (origins.lock(), record.network.block()?);
            if origins.is_echo(network, record.since) {
                return None;
            }
            origins.clear(network, Scope::All);
            Outgoing::network_ban(record)
        }
        // Each machine asks its own local API.
        Change::Unbanned { reach: Reach::Here, .. } | Change::NetworkUnbanned { reach: Reach::Here, .. } => None,
        Change::Unbanned { client, scope, at, .. } => {
            let target = IpNet::from(client.address());
            (!origins.lock().is_echo(target, *at)).then_some(Outgoing::Unban { target, scope: *scope, at: SentTime::new(*at) })
        }
        Change::NetworkUnbanned { network, at, .. } => {
            let target = network.block()?;
            (!origins.lock().is_echo(target, *at)).then_some(Outgoing::Unban { target, scope: Scope::All, at: SentTime::new(*at) })
        }
        // Each machine has its own configuration and its own room, and is paused by itself.
        Change::NetworkEvicted { .. } | Change::Forgotten(_) | Change::RuleLifted { .. } | Change::Paused(_) | Change::Resumed => None,
    }
}

/// How long to sleep until `due`. A pass that is overdue waits for the receiver to join, which it may never do.
fn pause_until(due: Instant, now: Instant) -> Duration {
    match due.checked_duration_since(now) {
        Some(left) => left.clamp(SHORTEST_WAIT, SILENCE / 4),
        None => wait_for_other_thread(now.saturating_duration_since(due)),
    }
}

struct Publisher {
    local: Arc<Local>,
    queue: Arc<Queue>,
    offset: ClockOffset,
    /// The pass over all own bans, while it lasts.
    republish: Option<Republish>,
    /// When the next pass is due.
    republish_at: Option<Instant>,
    /// Number of dropped changes when the last pass began.
    dropped: u64,
    refusals: ThrottledLog,
}

impl Publisher {
    /// Publishes everything until the connection is lost (an error) or the engine is gone.
    ///
    /// The order after a cut prevents removed bans from coming back. First, own unbans are sent. Then the receiver, which waits for
    /// `publishing`, receives the unbans of others. Once it is `receiving`, the own bans that are still active follow.
    fn publish(&mut self) -> RedisResult<()> {
        self.republish = None;
        let mut connection = self.local.client.connect_publisher()?;
        self.offset = ClockOffset::default();
        for _ in 0..SAMPLES {
            self.measure_offset(&mut connection)?;
        }
        self.queue.keep_unbans();
        for _ in 0..=self.queue.len() / UNBAN_BATCH {
            self.publish_batch(&mut connection, UNBAN_BATCH)?;
        }
        self.republish_at = Some(Instant::now());
        self.local.health.publishing.store(true, Ordering::Relaxed);
        let mut measured = Instant::now();
        while self.local.engine.strong_count() > 0 {
            self.queue.wait(self.pause());
            // Even if there is always something to publish: Redis's clock may be set at any time.
            if measured.elapsed() >= SILENCE / 2 {
                self.measure_offset(&mut connection)?;
                self.local.client.check_slot(&mut connection)?;
                measured = Instant::now();
            }
            self.publish_batch(&mut connection, BATCH)?;
            self.republish(&mut connection)?;
        }
        Ok(())
    }

    fn measure_offset(&mut self, connection: &mut RespConnection) -> RedisResult<()> {
        self.offset.measure(self.local.clock, connection)?;
        self.local.offset.store(self.offset.millis, Ordering::Relaxed);
        Ok(())
    }

    /// How long the thread may sleep unless a change is queued.
    fn pause(&self) -> Duration {
        let due = self.republish.as_ref().map(|pass| pass.due).or(self.republish_at);
        due.map_or(SILENCE / 4, |due| pause_until(due, Instant::now()))
    }

    fn publish_batch(&mut self, connection: &mut RespConnection, most: usize) -> RedisResult<()> {
        let mut changes = self.queue.take(most);
        if changes.is_empty() {
            return Ok(());
        }
        changes.iter_mut().for_each(|change| change.fix_time(|time| self.local.to_redis(time)));
        let now = self.local.clock.now();
        match self.send(connection, &changes) {
            Ok(answers) => {
                for (change, answer) in changes.into_iter().zip(&answers) {
                    self.handle_answer(&change, answer, now);
                    self.queue.delivered(change);
                }
                Ok(())
            }
            Err(error) => {
                self.queue.put_back(changes);
                Err(error)
            }
        }
    }

    /// Publishes the next few of all own bans, if a step is due.
    fn republish(&mut self, connection: &mut RespConnection) -> RedisResult<()> {
        let Some(engine) = self.local.engine.upgrade() else { return Ok(()) };
        let (now, dropped) = (self.local.clock.now(), self.local.health.dropped.load(Ordering::Relaxed));
        if dropped != self.dropped {
            self.republish_at.get_or_insert(Instant::now() + DROP_DELAY);
            self.dropped = dropped;
        }
        if self.republish.is_none()
            && self.republish_at.is_some_and(|at| at <= Instant::now())
            && self.local.health.receiving.load(Ordering::Relaxed)
        {
            self.republish_at = None;
            self.republish = Some(Republish::begin(&engine, now));
        }
        let Some(mut pass) = self.republish.take_if(|pass| pass.due <= Instant::now()) else { return Ok(()) };
        let began = Instant::now();
        let bans = pass.next(&self.local, &engine, now);
        let answers = self.send(connection, &bans)?;
        let new = bans.iter().zip(&answers).filter(|(ban, answer)| self.handle_answer(ban, answer, now)).count();
        if pass.schedule(began, new, self.local.client.bans_per_minute) {
            self.republish = Some(pass);
        }
        Ok(())
    }

    /// Sends changes in one round trip. An error that concerns only one change becomes that change's answer.
    fn send(&self, connection: &mut RespConnection, changes: &[Outgoing]) -> RedisResult<Vec<RedisResult<Value>>> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for change in changes {
            self.add_command(change, &mut pipe);
        }
        let mut answers = Vec::with_capacity(pipe.len());
        for answer in connection.request(&pipe.get_packed_pipeline(), pipe.len())? {
            match answer.extract_error() {
                Err(error) if !concerns_one_change(&error) => return Err(error),
                answer => answers.push(answer),
            }
        }
        self.local.health.published.fetch_add(u64::try_from(answers.len()).unwrap_or(0), Ordering::Relaxed);
        Ok(answers)
    }

    fn add_command(&self, change: &Outgoing, pipe: &mut Pipeline) {
        let client: &RedisClient = &self.local.client;
        // Times are sent, not ages: a change that waits in a queue, or for a Redis that hangs, must not seem younger than it is.
        let time = |time: Time| self.local.to_redis(time).millis();
        match change {
            Outgoing::Ban { target, scope, since, until, record } => {
                let target = ShortNetwork(*target).to_string();
                let until = until.time().map_or_else(|| "-1".to_owned(), |until| time(until).to_string());
                let text = serde_json::to_string(record).unwrap_or_default();
                pipe.cmd("EVALSHA").arg(client.ban.get_hash()).arg(4);
                pipe.arg(client.client_key(&target)).arg(client.rate_key()).arg(client.forgotten_key());
                pipe.arg(client.strike_key(&record.rule, &target));
                pipe.arg(letters(*scope)).arg(until).arg(time(*since)).arg(text).arg(&client.node).arg(client.bans_per_minute);
                pipe.arg(client.channel()).arg(target).arg(format!("{:x}", client.instance));
            }
            Outgoing::Unban { target, scope, at } => {
                let target = ShortNetwork(*target).to_string();
                pipe.cmd("EVALSHA").arg(client.unban.get_hash()).arg(1).arg(client.client_key(&target));
                pipe.arg(letters(*scope)).arg(at.redis().millis()).arg(UNBAN_MEMORY.millis()).arg(&client.node);
                pipe.arg(client.channel()).arg(target).arg(format!("{:x}", client.instance));
            }
            Outgoing::Strike { offence, rule, strikes, .. } => {
                let key = client.strike_key(&rule.name, &ShortNetwork(offence.client.address().into()).to_string());
                pipe.cmd("EVALSHA").arg(client.strike.get_hash()).arg(1).arg(key);
                pipe.arg(*strikes).arg(rule.findtime.millis()).arg(rule.maxretry);
            }
            Outgoing::Forget { node, at } => {
                pipe.cmd("EVALSHA").arg(client.forget.get_hash()).arg(1).arg(client.forgotten_key());
                pipe.arg(&**node).arg(client.channel()).arg(at.redis().millis());
            }
        }
    }

    /// Acts on Redis's answer. Returns whether it was a ban that Redis did not have.
    fn handle_answer(&mut self, change: &Outgoing, answer: &RedisResult<Value>, now: Time) -> bool {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.refused(|client| format!("a change cannot be published: {}", client.describe(error)));
                return false;
            }
        };
        match change {
            Outgoing::Ban { target, until, .. } => {
                let status: String = redis::from_redis_value_ref(answer).unwrap_or_default();
                match status.as_str() {
                    "new" => return true,
                    "limited" => {
                        self.local.health.refused.fetch_add(1, Ordering::Relaxed);
                        self.republish_at.get_or_insert(Instant::now() + LIMIT_DELAY);
                    }
                    "over" if !until.is_expired(now.after(CLOCK_ERROR)) => {
                        self.refused(|_| format!("the ban of {target} is over by Redis's clock: was the clock set?"));
                        self.republish_at.get_or_insert(Instant::now() + DROP_DELAY);
                    }
                    _ => {}
                }
            }
            Outgoing::Strike { offence, rule, at, .. } => {
                let count: u32 = redis::from_redis_value_ref(answer).unwrap_or(0);
                if count >= rule.maxretry
                    && let Some(engine) = self.local.engine.upgrade()
                {
                    engine.ban_by_fleet_count(now, *at, rule, offence, count);
                }
            }
            Outgoing::Unban { .. } | Outgoing::Forget { .. } => {}
        }
        false
    }

    /// Counts and logs a change that Redis refused.
    fn refused(&mut self, text: impl FnOnce(&RedisClient) -> String) {
        self.local.health.rejected.fetch_add(1, Ordering::Relaxed);
        self.refusals.warn(|| text(&self.local.client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ban_of_an_autonomous_system_stays_on_the_machine_that_made_it() {
        let record = |network: &str| {
            let network = network.parse::<crate::geo::Network>().unwrap();
            crate::engine::NetworkRecord::manual(network, Time::default(), crate::table::Until::NEVER, crate::rule::Evidence::new(&[]))
        };
        assert!(Outgoing::network_ban(&record("AS64496")).is_none());
        assert!(Outgoing::network_ban(&record("192.0.2.0/24")).is_some());
    }

    #[test]
    fn the_publisher_sleeps_until_a_pass_is_due_and_longer_and_longer_while_the_receiver_cannot_join() {
        let now = Instant::now();
        assert_eq!(pause_until(now + Duration::from_millis(300), now), Duration::from_millis(300));
        assert_eq!(pause_until(now + Duration::from_millis(1), now), SHORTEST_WAIT);
        assert_eq!(pause_until(now + Duration::from_secs(60), now), SILENCE / 4, "the clock offset is measured again meanwhile");
        assert_eq!(pause_until(now, now + Duration::from_millis(1)), SHORTEST_WAIT);
        assert_eq!(pause_until(now, now + Duration::from_secs(1)), Duration::from_millis(250));
        assert_eq!(pause_until(now, now + Duration::from_secs(3600)), SILENCE / 4);
    }
}
