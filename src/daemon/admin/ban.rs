//! `ban`: bans by an operator's hand.

use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::client::{Client, Ipv6Prefix, is_single};
use crate::clock::{Clock, timestamp};
use crate::control::admin::{BanLength, BanRequest, check_scope};
use crate::control::answer::{error, object};
use crate::control::bans::{BanReport, epoch, remaining};
use crate::daemon::conn::replies::ReplyHandle;
use crate::engine::{Abandoned, Applied, BanRecord, Completion, Engine, NetworkRecord, Persisted};
use crate::event::Scope;
use crate::geo::Network;
use crate::rule::{Evidence, Standing};
use crate::rule_id::{RuleId, is_origin};
use crate::table::Until;
use crate::time::{Span, Time};

/// Length of a ban by hand if the operator gives none.
const DEFAULT_LENGTH: Span = Span::from_secs(3600);

/// Bans an address or a network on behalf of `user`, and answers when the ban is saved.
///
/// # Errors
/// The target is never banned, a network on one service, or the rule of a restored ban refuses nobody here.
pub fn ban(engine: &Arc<Engine>, clock: Clock, request: &BanRequest, user: &str, to: &ReplyHandle) -> Result<(), String> {
    let (policy, now) = (engine.policy(), clock.now());
    if request.rule.is_none() {
        check_scope(request.target, request.scope, Some(policy.prefix)).map_err(|error| error.to_string())?;
    }
    // A restored ban of an IPv6 client has the network that the client is shown as, and only a client is banned on one service.
    let is_one = request.rule.is_some() || request.scope != Scope::All;
    let target = shown_network(request.target, policy.prefix);
    let client = match request.target {
        Network::Block(block) if is_single(block) => Some(block),
        Network::Block(block @ IpNet::V6(v6)) if is_one && v6.prefix_len() == policy.prefix.bits() => Some(block),
        _ => None,
    };
    // An IPv6 client is a network as well: its ban must cover no address that is never banned.
    let covered = match (client, request.target) {
        (Some(IpNet::V6(v6)), _) => Some(IpNet::new(v6.addr().into(), policy.prefix.bits()).map_err(|error| error.to_string())?),
        // Which addresses a system or a country has, the database says at each lookup; those that are never banned are served inside it.
        (_, network) => network.block(),
    };
    if let Some(reason) = covered.and_then(|covered| policy.lists.overlaps_never_banned(covered)) {
        return Err(format!("{target} is never banned: {reason}"));
    }
    if let Network::Origin(entry) = request.target
        && !policy.geo.knows(entry.kind())
    {
        let key = entry.kind().as_str();
        return Err(format!("{target} is not banned: no database says which addresses it has, expected a usable one as {key} in [geo]"));
    }
    let rule = engine.names().name(RuleId::MANUAL);
    let rule = request.rule.as_deref().map_or_else(|| Arc::clone(&rule), Arc::from);
    let id = engine.names().find(&rule);
    let standing = policy.rules.standing(id, &rule);
    if id != Some(RuleId::MANUAL) && standing != Standing::Enforced {
        return Err(format!("{target} is not banned: its rule {rule} is {standing}"));
    }
    let until = match request.length {
        BanLength::Default => Until::at(now.after(DEFAULT_LENGTH)),
        BanLength::For(span) => Until::at(now.after(span)),
        // One that ended while its request was on the way is no fault of who sent it.
        BanLength::Until(end) => Until::at(clock.table_time(end).max(now.after(Span::from_secs(1)))),
        BanLength::Permanent => Until::NEVER,
    };
    // Evidence is restored as it was shown: escaped.
    let evidence = match &request.rule {
        Some(rule) if !is_origin(rule) => Evidence::restore(&request.reason),
        Some(_) | None => Evidence::new(&[request.reason.as_bytes()]),
    };
    let evidence = evidence.signed(user);
    let (scope, reason) = (request.scope, evidence.clone());
    let Some(client) = client.map(|block| Client::of(block.addr(), policy.prefix)) else {
        let record = NetworkRecord { scope, rule, ..NetworkRecord::manual(request.target, now, until, evidence) };
        engine.ban_network(record, answering(to, move |applied| ban_report(&target, scope, until, now, &reason, applied)));
        return Ok(());
    };
    let record = BanRecord { client, scope, rule, first: now, since: now, until, count: 1, times: 1, evidence, node: "".into() };
    let completion = {
        let engine = Arc::clone(engine);
        answering(to, move |applied| {
            // A ban that ends later stays: the answer names the end that is in force.
            let active = scope.services().iter().filter_map(|service| engine.bans().get(client, *service, now)).map(|ban| ban.until);
            ban_report(&target, scope, active.min().unwrap_or(until), now, &reason, applied)
        })
    };
    engine.ban(record, completion);
    Ok(())
}

/// A completion that answers the operator, with an error if the change was dropped and its outcome is unknown.
pub(super) fn answering<T: Serialize>(to: &ReplyHandle, report: impl FnOnce(Applied) -> T + Send + 'static) -> Completion {
    let to = to.clone();
    Completion::new(move |result| match result {
        Ok(applied) => to.answer(object(&report(applied))),
        Err(Abandoned) => to.answer(error("internal fault: the change was not completed")),
    })
}

pub(super) fn not_saved(persisted: Persisted) -> Option<String> {
    match persisted {
        Persisted::Yes => None,
        Persisted::No(reason) => Some(reason),
    }
}

fn ban_report(target: &str, scope: Scope, until: Until, now: Time, reason: &Evidence, applied: Applied) -> BanReport {
    let ends = until.time().map_or_else(|| "forever".to_owned(), |time| format!("until {}", timestamp(time)));
    let by = reason.by().unwrap_or_default();
    let reason = if reason.as_str().is_empty() { "no reason given" } else { reason.as_str() };
    if applied.changed {
        log::info!("banned {target} {ends} by {by}: {reason}");
    } else {
        log::info!("ban of {target} by {by} changes nothing, because it is already banned {ends}: {reason}");
    }
    BanReport {
        banned: target.to_owned(),
        until: epoch(until),
        remaining: remaining(until, now),
        scope,
        not_saved: not_saved(applied.persisted),
    }
}

/// What the change concerns: for an IPv6 address its client, which is a network.
pub(super) fn shown(target: IpNet, prefix: Ipv6Prefix) -> String {
    if is_single(target) { Client::of(target.addr(), prefix).display(prefix).to_string() } else { target.to_string() }
}

pub(super) fn shown_network(target: Network, prefix: Ipv6Prefix) -> String {
    target.block().map_or_else(|| target.to_string(), |block| shown(block, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::conn::replies::{ConnectionId, QueueItem, ReplyQueue, ReplyText};

    fn text(queue: &ReplyQueue) -> String {
        match queue.take().pop() {
            Some(QueueItem::Answer(_, _, ReplyText::Whole(text))) => text,
            _ => unreachable!("expected one answer"),
        }
    }

    fn report(applied: Applied) -> BanReport {
        ban_report("192.0.2.1", Scope::All, Until::NEVER, Time::from_secs(0), &Evidence::new(&[]), applied)
    }

    #[test]
    fn the_ban_of_an_ipv6_address_is_shown_as_the_network_that_it_refuses() {
        let shown = |target: &str| shown(target.parse().unwrap(), Ipv6Prefix::default());
        assert_eq!(shown("2001:db8::1/128"), "2001:db8::/64");
        assert_eq!(["192.0.2.1/32", "198.51.100.0/24", "2001:db8::/48"].map(shown), ["192.0.2.1", "198.51.100.0/24", "2001:db8::/48"]);
    }

    #[test]
    fn a_change_that_was_never_completed_is_answered_with_an_error() {
        let queue = Arc::new(ReplyQueue::new().unwrap());
        let to = ReplyHandle::new(Arc::clone(&queue), ConnectionId(1), 1);
        drop(answering(&to, report));
        assert_eq!(text(&queue), "error internal fault: the change was not completed\n");
    }

    #[test]
    fn a_change_that_is_not_saved_is_answered_with_the_reason() {
        let queue = Arc::new(ReplyQueue::new().unwrap());
        let to = ReplyHandle::new(Arc::clone(&queue), ConnectionId(1), 1);
        let applied = Applied { changed: true, persisted: Persisted::No("disk full".into()) };
        answering(&to, report).complete(applied);
        let answer = text(&queue);
        let report: BanReport = serde_json::from_str(answer.strip_suffix(".\n").unwrap()).unwrap();
        assert_eq!((report.until, report.not_saved.as_deref()), (-1, Some("disk full")));
    }
}
