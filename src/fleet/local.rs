//! This machine's side of the fleet: the state that both threads share, and lookups in its own table.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;
use redis::RedisResult;

use super::FleetHealth;
use super::client::RedisClient;
use super::origin::{Origins, scope_of};
use super::resp_connection::SILENCE;
use crate::client::{Client, Ipv6Prefix, is_single};
use crate::clock::Clock;
use crate::engine::{BanRecord, Completion, Engine};
use crate::event::{Scope, Service};
use crate::list::BannedNetwork;
use crate::state::attach::StateFile;
use crate::table::{Ban, Until};
use crate::time::{Span, Time};

/// Pause before the first attempt to reconnect, doubled with each failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest pause between two attempts to reconnect.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Shortest pause of a thread between two looks at the other one.
pub const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// Two events this close together count as simultaneous, as with `TIE` in `client.lua`.
pub const TIE: Span = Span::from_millis(5);

/// Between half of `wait` and all of it, by a random number: machines that lost Redis together must not come back together.
fn jittered(wait: Duration, random: u64) -> Duration {
    wait / 2 + (wait / 2 / 256) * u32::from(random.to_le_bytes()[0])
}

/// Pause before the next look at the other thread, after it was waited for during `waited`: a fourth of that, so that an outage of hours does
/// not keep this thread busy.
pub fn wait_for_other_thread(waited: Duration) -> Duration {
    (waited / 4).clamp(SHORTEST_WAIT, SILENCE / 4)
}

/// What the publisher and the receiver share.
pub struct Local {
    pub client: RedisClient,
    /// Weak, because the engine's observers refer to this: otherwise the two would keep each other alive forever.
    pub engine: Weak<Engine>,
    pub state: Option<Arc<StateFile>>,
    pub clock: Clock,
    pub health: Arc<FleetHealth>,
    pub origins: Arc<Mutex<Origins>>,
    /// Redis's clock minus this machine's in milliseconds, as the publisher measured it last.
    pub offset: AtomicI64,
}

impl Local {
    /// Calls `session`, which runs until its connection is lost, again and again, with pauses, until the engine is gone.
    pub fn keep_connected(&self, is_connected: &AtomicBool, mut session: impl FnMut() -> RedisResult<()>) {
        let mut wait = FIRST_WAIT;
        while self.engine.strong_count() > 0 {
            let start = Instant::now();
            let error = match catch_unwind(AssertUnwindSafe(&mut session)) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => self.client.describe(&error),
                Err(_) => "internal fault".to_owned(),
            };
            self.health.fail(is_connected, &error);
            if start.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
            }
            std::thread::sleep(jittered(wait, RandomState::new().build_hasher().finish()));
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// A time of this machine by Redis's clock.
    pub fn to_redis(&self, time: Time) -> Time {
        time.shifted(self.offset.load(Ordering::Relaxed))
    }

    /// A time of Redis by this machine's clock.
    pub fn to_local(&self, time: Time) -> Time {
        time.shifted(self.offset.load(Ordering::Relaxed).saturating_neg())
    }

    /// Whether the ban of `target` on `service` was made on this machine, as far as is known.
    pub fn is_own(&self, target: IpNet, service: Service) -> bool {
        self.origins.lock().of(target, service).is_none_or(|node| **node == *self.client.node)
    }

    /// The services on which the ban of a network was made on this machine; `None` if there are none.
    pub fn own_scope(&self, ban: &BannedNetwork) -> Option<Scope> {
        let network = ban.network.block()?;
        scope_of(ban.scope.services().iter().copied().filter(|service| self.is_own(network, *service)))
    }

    /// Removes the bans of `target`, which another node has unbanned, if one is active here.
    pub fn unban(&self, engine: &Arc<Engine>, now: Time, target: IpNet, scope: Scope) {
        if !is_active(engine, target, scope, now) {
            return;
        }
        self.origins.lock().expect_echo(target, now);
        if is_single(target) {
            engine.unban(now, client_of(target.addr()), scope, Completion::ignored());
        } else {
            engine.unban_network(now, target.into(), Completion::ignored());
        }
        self.origins.lock().clear(target, scope);
    }

    /// The record of an active ban, from memory or from the state file.
    pub fn record_of(&self, engine: &Engine, client: Client, ban: Ban, now: Time) -> Option<BanRecord> {
        let rule = engine.names().name(ban.rule);
        let is_record = |record: &BanRecord| record.until == ban.until && record.rule == rule;
        let stored = || self.state.as_ref()?.ban_records(client, now).ok()?.into_iter().find(is_record);
        engine.ban_record(client).filter(is_record).or_else(stored)
    }

    /// When the active ban of `target` on `service` began; `None` if there is none. A ban whose record is lost counts as very old: an unban that is
    /// older than the ban may then remove it, which is better than a removed ban that comes back.
    pub fn since_of(&self, engine: &Engine, target: IpNet, service: Service, now: Time) -> Option<Time> {
        if !is_single(target) {
            return network_ban(engine, target, service, now).map(|ban| ban.since);
        }
        let client = client_of(target.addr());
        let ban = engine.bans().get(client, service, now)?;
        Some(self.record_of(engine, client, ban, now).map_or(Time::default(), |record| record.since))
    }
}

/// When the active ban of `target` on `service` ends; `None` if there is none.
pub fn active_until(engine: &Engine, target: IpNet, service: Service, now: Time) -> Option<Until> {
    if !is_single(target) {
        return network_ban(engine, target, service, now).map(|ban| ban.until.map_or(Until::NEVER, Until::at));
    }
    engine.bans().get(client_of(target.addr()), service, now).map(|ban| ban.until)
}

/// The active ban of exactly `network` that refuses on `service`.
fn network_ban(engine: &Engine, network: IpNet, service: Service, now: Time) -> Option<BannedNetwork> {
    let policy = engine.policy();
    policy.lists.banned.get(network).filter(|ban| ban.is_active(now) && ban.scope.services().contains(&service)).cloned()
}

/// Whether `target` is banned on one of the services of `scope`.
pub fn is_active(engine: &Engine, target: IpNet, scope: Scope, now: Time) -> bool {
    scope.services().iter().any(|service| active_until(engine, target, *service, now).is_some())
}

/// The client of an address that was cut to its prefix on another node, and is not cut again.
pub fn client_of(address: IpAddr) -> Client {
    Client::of(address, Ipv6Prefix::new(128).unwrap_or_default())
}

#[cfg(test)]
impl Local {
    /// The machine `mx1` with the table of `engine` and without a state file. It is never connected, and its clock is Redis's.
    pub fn for_tests(engine: &Arc<Engine>) -> Self {
        let config = toml::from_str("url = 'redis://127.0.0.1'\nnode = 'mx1'").unwrap();
        Self {
            client: RedisClient::new(config).unwrap(),
            engine: Arc::downgrade(engine),
            state: None,
            clock: Clock::start(),
            health: Arc::default(),
            origins: Arc::default(),
            offset: AtomicI64::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_to_reconnect_are_spread_over_half_of_the_pause() {
        let waits: Vec<Duration> = (0..256).map(|random| jittered(LONGEST_WAIT, random)).collect();
        assert!(waits.is_sorted() && waits.iter().all(|wait| (LONGEST_WAIT / 2..LONGEST_WAIT).contains(wait)), "{waits:?}");
        assert_eq!(jittered(LONGEST_WAIT, 256), LONGEST_WAIT / 2);
        assert!(waits[255] > LONGEST_WAIT * 99 / 100);
    }

    #[test]
    fn a_thread_looks_at_the_other_one_soon_at_first_and_twice_a_second_later() {
        let (mut waited, mut looks) = (Duration::ZERO, 0);
        while waited < Duration::from_secs(60) {
            let wait = wait_for_other_thread(waited);
            assert!(wait == SHORTEST_WAIT || wait <= waited / 4, "{wait:?} after {waited:?}");
            (waited, looks) = (waited + wait, looks + 1);
        }
        assert!((100..200).contains(&looks), "{looks} in a minute");
    }
}
