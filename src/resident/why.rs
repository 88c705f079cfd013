//! The answer to `why ADDRESS`: everything that is known of one client, refused or not.

use std::net::IpAddr;

use crate::client::Client;
use crate::clock::timestamp;
use crate::engine::durable::StateFile;
use crate::engine::{BanRecord, Engine};
use crate::event::Surface;
use crate::rule::{Mode, Rule};
use crate::socket::answer::Lines;
use crate::table::{Ban, Until};
use crate::time::Time;

/// All that is known of `address` at `now`, as lines `key=value`.
#[must_use]
pub fn answer(engine: &Engine, state: Option<&StateFile>, now: Time, address: IpAddr) -> Lines {
    let in_force = engine.in_force();
    let client = Client::of(address, in_force.prefix);
    let mut lines = Lines::default().field("address", address).field("client", client.display(in_force.prefix));
    let never = in_force.lists.never_banned(address);
    if let Some(reason) = &never {
        lines = lines.field("never_banned", reason);
    }
    let detector = in_force.detector(engine.bans());
    for surface in Surface::ALL {
        let standing = if never.is_some() { None } else { detector.standing(now, address, client, surface) };
        lines = match standing {
            Some((refusal, saved)) => {
                let by = match (engine.bans().get(client, surface, now), refusal.grounds) {
                    (Some(_), _) => "client",
                    (None, crate::verdict::Grounds::DenyList) => "list",
                    (None, _) => "network",
                };
                let (rule, until) = (engine.names().name(refusal.rule), refusal.until);
                let saved = if saved { "" } else { " unsaved=1" };
                lines.field(
                    surface.as_str(),
                    format_args!("refused rule={rule} until={until} remaining={} by={by}{saved}", remaining(until, now)),
                )
            }
            None => lines.field(surface.as_str(), "served"),
        };
        if let Some(ban) = engine.shadow(client, surface, now) {
            let (rule, until) = (engine.names().name(ban.rule), ban.until);
            let remaining = remaining(until, now);
            lines = lines.field("shadow", format_args!("{} rule={rule} until={until} remaining={remaining}", surface.as_str()));
        }
    }
    if let Some(network) = in_force.lists.banned.lookup(address, now) {
        let until = network.until.map_or(Until::NEVER, Until::at);
        lines = lines.field(
            "network",
            format_args!(
                "{} rule={} since={} since_ago={} until={until} remaining={}",
                network.network,
                network.rule,
                timestamp(network.since),
                now.since(network.since).secs(),
                remaining(until, now)
            ),
        );
        match state.map_or(Ok(None), |state| state.reason(network.network)) {
            Ok(Some(reason)) if !reason.as_str().is_empty() => lines = lines.field("network_reason", reason.as_str()),
            Ok(_) => {}
            Err(fault) => log::warn!("{fault}"),
        }
    }
    if let Some(listed) = in_force.lists.denied(address) {
        lines = lines.field("denied", listed);
    }
    let bans: Vec<Ban> = Surface::ALL.iter().filter_map(|surface| engine.bans().get(client, *surface, now)).collect();
    if let Some(story) = story(engine, state, client, &bans, now) {
        let stands = bans.iter().any(|ban| ban.until == story.until && engine.names().name(ban.rule) == story.rule);
        lines = lines
            .field("rule", &story.rule)
            .field("first", timestamp(story.first))
            .field("since", timestamp(story.since))
            .field("until", story.until.time().map_or_else(|| "for ever".to_owned(), timestamp))
            .field("count", story.count)
            .field("times", story.times)
            .field("evidence", story.evidence.as_str())
            .field("stands", u8::from(stands))
            .field("scope", story.scope.as_str())
            .field("first_ago", now.since(story.first).secs())
            .field("since_ago", now.since(story.since).secs())
            .field("remaining", remaining(story.until, now));
        if !story.node.is_empty() {
            lines = lines.field("node", &story.node);
        }
        if let Some(rule) = in_force.rules.by_name(&story.rule) {
            lines = about(lines, rule);
        }
    }
    for rule in in_force.rules.rules() {
        if let Some(counter) = engine.strikes().get(rule.id, client).filter(|counter| !counter.is_over(now, rule.findtime)) {
            let (count, last) = (counter.count(), timestamp(counter.last()));
            let ago = now.since(counter.last()).secs();
            let shadow = if rule.mode == Mode::Shadow { " mode=shadow" } else { "" };
            lines =
                lines.field("strikes", format_args!("{count} of {} rule={} last={last} last_ago={ago}{shadow}", rule.maxretry, rule.name));
        }
    }
    lines
}

/// What the rule is.
fn about(lines: Lines, rule: &Rule) -> Lines {
    let mode = if rule.mode == Mode::Shadow { "shadow" } else { "enforce" };
    let bantime = rule.bantime.of(0).map_or_else(|| "-1".to_owned(), |span| span.secs().to_string());
    let (maxretry, findtime, scope) = (rule.maxretry, rule.findtime.secs(), rule.scope.as_str());
    let lines = lines.field("rule_is", format_args!("mode={mode} scope={scope} maxretry={maxretry} findtime={findtime} bantime={bantime}"));
    if rule.description.is_empty() { lines } else { lines.field("rule_description", &rule.description) }
}

/// The story of a ban of `client`: of one that stands, if there is one; else of the latest, as far as it is remembered.
fn story(engine: &Engine, state: Option<&StateFile>, client: Client, bans: &[Ban], now: Time) -> Option<BanRecord> {
    let stands = |story: &BanRecord| bans.iter().any(|ban| ban.until == story.until && engine.names().name(ban.rule) == story.rule);
    let remembered = engine.story(client);
    if remembered.as_ref().is_some_and(stands) || (bans.is_empty() && remembered.is_some()) {
        return remembered;
    }
    let kept = state.and_then(|state| match state.stories(client, now) {
        Ok(stories) => stories.into_iter().max_by_key(|story| (stands(story), story.since)),
        Err(fault) => {
            log::warn!("{fault}");
            None
        }
    });
    kept.or(remembered)
}

/// Seconds that remain; -1 for ever.
pub fn remaining(until: Until, now: Time) -> String {
    until.remaining(now).map_or_else(|| "-1".to_owned(), |span| span.secs().max(1).to_string())
}
