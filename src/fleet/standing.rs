//! What stands here of a client or a network, since when, and lifting it: for what is heard and for what is said alike.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;

use super::Health;
use crate::client::{Client, Ipv6Prefix};
use crate::engine::durable::StateFile;
use crate::engine::{BanRecord, Engine};
use crate::event::{Scope, Surface};
use crate::reply::Reply;
use crate::table::{Ban, Until};
use crate::time::Time;

/// Lifts a ban here that another node lifted, if there is one.
pub fn lift(engine: &Arc<Engine>, health: &Health, now: Time, target: IpNet, scope: Scope) {
    if target.prefix_len() < target.max_prefix_len() {
        if engine.in_force().lists.banned.get(target).is_some() {
            health.provenance().expect_echo(target, Some(Scope::All), now);
            engine.unban_network(now, target, Reply::new(|_| ()));
        }
        return;
    }
    let client = client_of(target.addr());
    if scope.surfaces().iter().any(|surface| engine.bans().get(client, *surface, now).is_some()) {
        health.provenance().expect_echo(target, Some(scope), now);
        engine.unban(now, client, scope, Reply::new(|_| ()));
    }
}

/// The story of a ban that stands: remembered, or from the state file.
#[must_use]
pub fn story_of(engine: &Engine, state: Option<&StateFile>, client: Client, ban: Ban, now: Time) -> Option<BanRecord> {
    let rule = engine.names().name(ban.rule);
    let is_it = |story: &BanRecord| story.until == ban.until && story.rule == rule;
    let kept = || state?.stories(client, now).ok()?.into_iter().find(is_it);
    engine.story(client).filter(is_it).or_else(kept)
}

/// When a ban began whose story is lost: no later than others were last told what stands here.
#[must_use]
pub fn known_by_others(health: &Health, now: Time) -> Time {
    let until = |time: &AtomicU64| Time::from_millis(time.load(Ordering::Relaxed));
    until(&health.heard_until).min(until(&health.said_until)).min(now)
}

/// When the ban of `target` began that stands here on `surface`; long ago, if none does.
#[must_use]
pub fn since_of(engine: &Engine, state: Option<&StateFile>, health: &Health, target: IpNet, surface: Surface, now: Time) -> Time {
    if target.prefix_len() < target.max_prefix_len() {
        return engine.in_force().lists.banned.get(target).map_or(Time::default(), |network| network.since);
    }
    let client = client_of(target.addr());
    let Some(ban) = engine.bans().get(client, surface, now) else { return Time::default() };
    story_of(engine, state, client, ban, now).map_or_else(|| known_by_others(health, now), |story| story.since)
}

/// Whether the ban of `target` that stands here on `surface` is the one that began at `since` and ends at `until`: no later one.
#[must_use]
pub fn is_still(
    engine: &Engine,
    state: Option<&StateFile>,
    target: IpNet,
    surface: Surface,
    (since, until): (Time, Until),
    now: Time,
) -> bool {
    if until_of(engine, target, surface, now) != Some(until) {
        return false;
    }
    if target.prefix_len() < target.max_prefix_len() {
        return engine.in_force().lists.banned.get(target).is_some_and(|network| network.since <= since);
    }
    let client = client_of(target.addr());
    let story = engine.bans().get(client, surface, now).and_then(|ban| story_of(engine, state, client, ban, now));
    story.is_none_or(|story| story.since <= since)
}

/// When the ban of `target` ends that stands here on `surface`; none if none does.
#[must_use]
pub fn until_of(engine: &Engine, target: IpNet, surface: Surface, now: Time) -> Option<Until> {
    if target.prefix_len() < target.max_prefix_len() {
        return engine.in_force().lists.banned.get(target).map(|network| network.until.map_or(Until::NEVER, Until::at));
    }
    engine.bans().get(client_of(target.addr()), surface, now).map(|ban| ban.until)
}

/// A client as another node cut it: it is not cut again.
#[must_use]
pub fn client_of(address: IpAddr) -> Client {
    Ipv6Prefix::new(128).map_or_else(|| Client::of(address, Ipv6Prefix::default()), |whole| Client::of(address, whole))
}
