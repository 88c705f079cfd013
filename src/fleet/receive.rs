//! Receives the bans and unbans of other nodes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use redis::{RedisError, RedisResult};

use super::admission::{Admission, Admissions};
use super::load::{Row, Scan, forgotten};
use super::local::{Local, TIE, active_until, wait_for_other_thread};
use super::message::{Message, PublishedBan, parse};
use super::origin::scope_of;
use super::resp_connection::{Incoming, RespConnection, SILENCE};
use crate::client::is_single;
use crate::engine::Engine;
use crate::event::{Scope, Service};
use crate::logging::ThrottledLog;
use crate::time::{Span, Time};

/// How long to wait for a message between two steps of loading.
const LOADING_WAIT: Duration = Duration::from_millis(1);
/// Maximum number of messages read between two steps of loading.
const LOADING_MESSAGES: usize = 256;
/// Longest delay of a message that is believed: a slower Redis counts as gone.
const MAX_DELAY: Span = Span::from_secs(30);
/// How far ahead the time of a message may seem, because the clock offset is wrong by a few milliseconds.
const MAX_AHEAD: Span = Span::from_secs(1);

/// Starts receiving. At most `bans` clients are banned on this machine.
pub fn start(local: Arc<Local>, bans: usize) -> io::Result<()> {
    let admissions = Admissions::new(bans, local.client.bans_per_minute);
    let (unreadable, own_name) = (ThrottledLog::default(), ThrottledLog::default());
    let mut receiver = Receiver { local, bans, admissions, has_joined: false, unreadable, own_name };
    std::thread::Builder::new().name("fleet-in".into()).spawn(move || {
        let local = Arc::clone(&receiver.local);
        local.keep_connected(&local.health.receiving, || receiver.receive());
    })?;
    Ok(())
}

struct Receiver {
    local: Arc<Local>,
    bans: usize,
    admissions: Admissions,
    /// Whether everything has been loaded once.
    has_joined: bool,
    unreadable: ThrottledLog,
    own_name: ThrottledLog,
}

/// A load in progress.
struct Loading {
    connection: RespConnection,
    scan: Scan,
    made: usize,
    refused: usize,
}

impl Receiver {
    /// Receives until the connection is lost (an error) or the engine is gone. What Redis holds is loaded after subscribing, so that no change is
    /// missed, and after the publisher has sent the own unbans, which loading would undo otherwise.
    fn receive(&mut self) -> RedisResult<()> {
        let mut connection = self.local.client.connect()?;
        connection.subscribe(&self.local.client.channel())?;
        let (mut loading, mut is_loaded) = (None, false);
        let begun = Instant::now();
        let (mut received, mut pinged, mut is_waiting) = (begun, begun, false);
        while let Some(engine) = self.local.engine.upgrade() {
            let is_publishing = self.local.health.publishing.load(Ordering::Relaxed);
            // This thread may have found the new primary before the publisher.
            if is_publishing && (is_loaded || begun.elapsed() >= SILENCE) {
                self.local.client.check_primary(&connection)?;
            }
            if loading.is_none() && !is_loaded && is_publishing && self.local.client.is_primary(&connection) {
                loading = Some(self.begin_loading(&engine)?);
            }
            if let Some(part) = &mut loading
                && !self.load(&engine, part)?
            {
                self.finish_loading(part);
                (loading, is_loaded) = (None, true);
            }
            drop(engine);
            let (wait, most) = match (&loading, is_loaded) {
                (Some(_), _) => (LOADING_WAIT, LOADING_MESSAGES),
                // The publisher has not sent the own unbans yet.
                (None, false) => (wait_for_other_thread(begun.elapsed()), 1),
                (None, true) => (SILENCE / 4, 1),
            };
            for _ in 0..most {
                match connection.receive(wait)? {
                    Incoming::Message(text) => self.handle(&text),
                    Incoming::Pong => {}
                    Incoming::Silence => break,
                }
                (received, is_waiting) = (Instant::now(), false);
            }
            // Counted from the ping, not from the last message: nothing is read during a step of loading, which may take long.
            if is_waiting && pinged.elapsed() >= SILENCE {
                return Err(RedisError::from(io::Error::from(io::ErrorKind::TimedOut)));
            }
            if !is_waiting && received.elapsed() >= SILENCE {
                (pinged, is_waiting) = (Instant::now(), true);
                connection.ping()?;
            }
        }
        Ok(())
    }

    fn begin_loading(&self, engine: &Arc<Engine>) -> RedisResult<Loading> {
        let mut connection = self.local.client.connect()?;
        for (node, at) in forgotten(&self.local.client, &mut connection)? {
            self.forget(engine, &node, at);
        }
        // Redis may hold a ban or an unban for each client, and a scan also returns keys that have just expired.
        let scan = Scan::new(self.bans.saturating_mul(2).saturating_add(1_000_000));
        Ok(Loading { connection, scan, made: 0, refused: 0 })
    }

    /// Applies the next part of what Redis holds. Returns whether there is more.
    fn load(&mut self, engine: &Arc<Engine>, loading: &mut Loading) -> RedisResult<bool> {
        let (rows, has_more) = loading.scan.step(&self.local.client, &mut loading.connection)?;
        let now = self.local.clock.now();
        for Row { target, bans, unbans } in rows {
            // As ban.lua decides: a ban made after the unban stays.
            let is_older = |(service, at): &(Service, Time)| {
                let since = self.local.since_of(engine, target, *service, now);
                since.is_some_and(|since| self.local.to_local(*at) >= since.after(TIE))
            };
            if let Some(scope) = scope_of(unbans.into_iter().filter(is_older).map(|(service, _)| service)) {
                self.local.unban(engine, now, target, scope);
            }
            for ban in bans {
                match self.admissions.admit(&self.local, engine, now, &ban) {
                    Admission::Made => loading.made += 1,
                    Admission::Refused => loading.refused += 1,
                    Admission::Redundant => self.restore_origin(engine, now, &ban),
                }
            }
        }
        Ok(has_more)
    }

    /// Restores the origin of a banned network after a restart: only Redis knows which node banned it, the state file does not.
    fn restore_origin(&self, engine: &Engine, now: Time, ban: &PublishedBan) {
        if self.has_joined || is_single(ban.target) || ban.node == self.local.client.node {
            return;
        }
        let until = ban.until.map(|until| self.local.to_local(until).secs());
        // A ban of the same network by this node itself ends at another time.
        let is_same_ban = |service: Service| {
            active_until(engine, ban.target, service, now).is_some_and(|active| match (active.time().map(Time::secs), until) {
                (Some(active), Some(until)) => active.abs_diff(until) <= 3,
                (active, until) => active == until,
            })
        };
        if let Some(scope) = scope_of(ban.scope.services().iter().copied().filter(|service| is_same_ban(*service))) {
            self.local.origins.lock().record(ban.target, scope, &ban.node);
        }
    }

    fn finish_loading(&mut self, loading: &Loading) {
        self.has_joined = true;
        self.local.health.receiving.store(true, Ordering::Relaxed);
        log::info!("joined the fleet as {}: took over {} bans", self.local.client.node, loading.made);
        if loading.scan.is_truncated {
            log::warn!("Redis holds more keys than a fleet can have: the rest is not loaded");
        }
        if loading.refused > 0 {
            log::warn!("rejected {} bans that Redis holds: more than a node may publish, or than fit", loading.refused);
        }
    }

    fn handle(&mut self, text: &[u8]) {
        let Some(engine) = self.local.engine.upgrade() else { return };
        let own = self.local.client.instance;
        match std::str::from_utf8(text).ok().and_then(parse) {
            None => self.unreadable.warn(|| "cannot read a message of the fleet: something else publishes to its channel".to_owned()),
            // An own ban is active here already, or has been removed since.
            Some(Message::Ban { instance, .. }) if instance == own => {}
            Some(Message::Ban { ban, .. }) => {
                if ban.node == self.local.client.node {
                    self.own_name.warn(|| format!("another machine publishes bans as {} too: each needs a name of its own", ban.node));
                }
                let now = self.local.clock.now();
                let accepted = plausible(ban.accepted, self.local.to_redis(now));
                self.admissions.admit(&self.local, &engine, now, &PublishedBan { accepted, ..ban });
            }
            Some(Message::Unban { instance, at, scope, target }) => self.unban(&engine, instance == own, at, scope, target),
            Some(Message::Forget { node, at }) => self.forget(&engine, &node, at),
        }
    }

    /// Removes the ban of a target that another node unbanned. A ban of another node always follows, because Redis's messages come in the order of its decisions. An own
    /// ban stays if it was made after the unban, as it does in Redis; an own unban does not touch it, because that took effect when it was made.
    fn unban(&self, engine: &Arc<Engine>, is_own_unban: bool, at: Time, scope: Scope, target: IpNet) {
        let (now, at) = (self.local.clock.now(), self.local.to_local(at));
        let is_unbanned = |service: &&Service| {
            let Some(since) = self.local.since_of(engine, target, **service, now) else { return false };
            let is_local = self.local.origins.lock().of(target, **service).is_none();
            !is_local || (!is_own_unban && since <= at.after(TIE))
        };
        if let Some(scope) = scope_of(scope.services().iter().filter(is_unbanned).copied()) {
            self.local.health.received.fetch_add(1, Ordering::Relaxed);
            self.local.unban(engine, now, target, scope);
        }
    }

    /// Removes every ban that `node` made before `at`; if it is this node, its own bans.
    fn forget(&self, engine: &Arc<Engine>, node: &str, at: Time) {
        let (now, at) = (self.local.clock.now(), self.local.to_local(at));
        let mut bans = self.local.origins.lock().bans_of(node);
        if node == self.local.client.node {
            bans.extend(engine.policy().lists.banned.iter().filter_map(|ban| Some((ban.network.block()?, self.local.own_scope(ban)?))));
            let mut all: Vec<(IpNet, Service)> = Vec::new();
            engine.bans().for_each(now, |client, service, _| all.push((IpNet::from(client.address()), service)));
            all.retain(|(target, service)| self.local.is_own(*target, *service));
            bans.extend(all.into_iter().map(|(target, service)| (target, service.scope())));
        }
        let is_older = |target, service| self.local.since_of(engine, target, service, now).is_some_and(|since| since <= at);
        let older = |(target, scope): (IpNet, Scope)| {
            Some((target, scope_of(scope.services().iter().copied().filter(|service| is_older(target, *service)))?))
        };
        let older: Vec<(IpNet, Scope)> = bans.into_iter().filter_map(older).collect();
        if !older.is_empty() {
            log::info!("dropping all {} bans that node {node} published", older.len());
        }
        for (target, scope) in older {
            self.local.unban(engine, now, target, scope);
        }
    }
}

/// When Redis accepted what has just arrived, at about `now` by its clock. Anybody with access to Redis may publish any time, and must not
/// get a limit of its own for each minute of the past or future.
fn plausible(accepted: Time, now: Time) -> Time {
    accepted.clamp(now.before(MAX_DELAY), now.after(MAX_AHEAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_claim_another_minute_than_the_last_one() {
        let now = Time::from_secs(1_800_000_000);
        assert_eq!(plausible(now.before(Span::from_millis(200)), now), now.before(Span::from_millis(200)));
        assert_eq!(plausible(now.after(Span::from_millis(3)), now), now.after(Span::from_millis(3)));
        assert_eq!((plausible(Time::default(), now), plausible(now.after(MAX_DELAY), now)), (now.before(MAX_DELAY), now.after(MAX_AHEAD)));
    }
}
