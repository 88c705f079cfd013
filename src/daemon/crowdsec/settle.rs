//! Makes the table agree with the decisions, target by target. Bans that CrowdSec did not make are neither replaced nor ended.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::decision::{Decision, Scenarios};
use crate::client::{Client, Ipv6Prefix};
use crate::engine::{BanRecord, Completion, Engine, NetworkRecord, Reach};
use crate::event::{Scope, Service};
use crate::geo::Network;
use crate::rule::Evidence;
use crate::rule_id::{CROWDSEC, RuleId, is_of};
use crate::table::Until;
use crate::time::{Span, Time};

/// Number of changes that are under way at a time, well below the length of the journal's queue: a ban that a rule makes meanwhile waits for
/// them to be saved before it.
const AT_ONCE: usize = 512;

/// An end that differs less than this is the same: the local API says how long a decision lasts, and takes its time to answer.
const LARGEST_ERROR: Span = Span::from_secs(60);

/// What has to be done about a target on a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    Ban,
    /// The ban ends earlier than it did.
    Shorten,
    Release,
    /// Another's ban stands, and ends before the decision does.
    Wait,
}

/// The ban that is active, and whether CrowdSec made it.
type Active = Option<(Until, bool)>;

fn step(wanted: Option<Until>, active: Active, now: Time) -> Step {
    match (wanted, active) {
        (None, Some((_, true))) => Step::Release,
        (None, _) => Step::Nothing,
        (Some(_), None) => Step::Ban,
        (Some(wanted), Some((active, true))) if is_same(wanted, active, now) => Step::Nothing,
        (Some(wanted), Some((active, true))) => {
            if wanted > active {
                Step::Ban
            } else {
                Step::Shorten
            }
        }
        (Some(wanted), Some((active, false))) => {
            if wanted > active {
                Step::Wait
            } else {
                Step::Nothing
            }
        }
    }
}

/// Whether two ends differ by so little, measured by the time left, that the difference may be an error.
fn is_same(wanted: Until, active: Until, now: Time) -> bool {
    let (Some(wanted), Some(active)) = (wanted.time(), active.time()) else { return wanted == active };
    let difference = wanted.since(active).max(active.since(wanted));
    let tolerated = Span::from_millis(active.since(now).millis() / 16).clamp(Span::from_secs(2), LARGEST_ERROR);
    difference <= tolerated
}

/// What became of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    pub banned: bool,
    pub released: bool,
    pub waits: bool,
}

/// Bans and releases, some at a time.
pub struct Settler<'a> {
    engine: &'a Arc<Engine>,
    scenarios: &'a Scenarios,
    prefix: Ipv6Prefix,
    now: Time,
    /// The rules that are CrowdSec's and those that are not, as far as they were met.
    own: HashSet<RuleId>,
    others: HashSet<RuleId>,
    done: (Sender<()>, Receiver<()>),
    under_way: usize,
}

impl<'a> Settler<'a> {
    pub fn new(engine: &'a Arc<Engine>, scenarios: &'a Scenarios, now: Time) -> Self {
        let (own, others) = (HashSet::new(), HashSet::new());
        Self { engine, scenarios, prefix: engine.policy().prefix, now, own, others, done: channel(), under_way: 0 }
    }

    /// All clients and networks that are banned by CrowdSec's decisions.
    pub fn banned(&mut self) -> Vec<Network> {
        let mut banned = Vec::new();
        let (engine, prefix, now) = (self.engine, self.prefix, self.now);
        let mut last = None;
        engine.bans().for_each(now, |client, _, ban| {
            if self.is_own(ban.rule) && last.replace(client) != Some(client) {
                banned.push(client.network(prefix).into());
            }
        });
        let policy = engine.policy();
        banned.extend(policy.lists.banned.iter().filter(|ban| ban.is_active(now) && self.is_own(ban.rule)).map(|ban| ban.network));
        banned
    }

    fn is_own(&mut self, rule: RuleId) -> bool {
        if self.own.contains(&rule) || self.others.contains(&rule) {
            return self.own.contains(&rule);
        }
        let is_own = is_of(CROWDSEC, &self.engine.names().name(rule));
        if is_own { &mut self.own } else { &mut self.others }.insert(rule);
        is_own
    }

    /// Makes the table agree with `wanted`, the decision about `target` that ends last.
    pub fn settle(&mut self, target: Network, wanted: Option<&Decision>) -> Settled {
        let client = target.block().map(|block| Client::of(block.addr(), self.prefix));
        match client.filter(|client| target == Network::Block(client.network(self.prefix))) {
            Some(client) => self.settle_client(client, wanted),
            None => self.settle_network(target, wanted),
        }
    }

    fn settle_client(&mut self, client: Client, wanted: Option<&Decision>) -> Settled {
        let steps = Service::ALL.map(|service| {
            let active = self.engine.bans().get(client, service, self.now).map(|ban| (ban.until, self.is_own(ban.rule)));
            (service, step(wanted.map(|wanted| wanted.until), active, self.now))
        });
        let scope_of = |is_meant: fn(Step) -> bool| {
            let mut meant = steps.iter().filter(|(_, step)| is_meant(*step)).map(|(service, _)| service.scope());
            let first = meant.next()?;
            Some(if meant.next().is_some() { Scope::All } else { first })
        };
        let mut settled = Settled { waits: scope_of(|step| step == Step::Wait).is_some(), ..Settled::default() };
        if let Some(scope) = scope_of(|step| matches!(step, Step::Release | Step::Shorten)) {
            let (completion, own, engine) = (self.completion(), &self.own, self.engine);
            engine.release(self.now, client, scope, |ban| own.contains(&ban.rule), Reach::Here, completion);
            settled.released = true;
        }
        let scope = scope_of(|step| matches!(step, Step::Ban | Step::Shorten));
        if let (Some(scope), Some(wanted)) = (scope, wanted)
            && let Some(scenario) = self.scenarios.get(wanted.scenario)
        {
            let record = BanRecord {
                client,
                scope,
                rule: Arc::clone(&scenario.rule),
                first: self.now,
                since: self.now,
                until: wanted.until,
                count: 1,
                times: 1,
                evidence: Evidence::new(&[scenario.text.as_bytes()]),
                node: "".into(),
            };
            let completion = self.completion();
            self.engine.ban(record, completion);
            (settled.banned, settled.released) = (true, false);
        }
        settled
    }

    fn settle_network(&mut self, network: Network, wanted: Option<&Decision>) -> Settled {
        let policy = self.engine.policy();
        let active = policy.lists.banned.get(network).filter(|ban| ban.is_active(self.now));
        let active = active.map(|ban| (ban.until.map_or(Until::NEVER, Until::at), self.is_own(ban.rule)));
        // Otherwise the change that follows would have to copy all banned networks.
        drop(policy);
        let mut settled = Settled::default();
        match (step(wanted.map(|wanted| wanted.until), active, self.now), wanted) {
            (Step::Nothing, _) => {}
            (Step::Wait, _) => settled.waits = true,
            (Step::Ban | Step::Shorten, Some(wanted)) => {
                let Some(scenario) = self.scenarios.get(wanted.scenario) else { return settled };
                let reason = Evidence::new(&[scenario.text.as_bytes()]);
                let record = NetworkRecord::manual(network, self.now, wanted.until, reason);
                let completion = self.completion();
                let record = NetworkRecord { rule: Arc::clone(&scenario.rule), ..record };
                // Somebody else may have banned it meanwhile.
                self.engine.ban_network_unless(record, |ban| !self.own.contains(&ban.rule), completion);
                settled.banned = true;
            }
            (Step::Release | Step::Ban | Step::Shorten, _) => {
                let completion = self.completion();
                self.engine.release_network(self.now, network, |ban| self.own.contains(&ban.rule), Reach::Here, completion);
                settled.released = true;
            }
        }
        settled
    }

    /// The completion of the next change, after all that are under way if they are many.
    fn completion(&mut self) -> Completion {
        if self.under_way >= AT_ONCE {
            self.wait();
        }
        self.under_way += 1;
        let done = self.done.0.clone();
        // The receiver waits for every one.
        Completion::new(move |_| done.send(()).unwrap_or_default())
    }

    /// Waits until everything that is under way is saved, or the disk was too slow for it.
    pub fn wait(&mut self) {
        for () in self.done.1.iter().take(std::mem::take(&mut self.under_way)) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(1_800_000_000);

    #[test]
    fn a_network_that_crowdsec_banned_in_between_is_banned_for_longer_by_the_rule_that_had_banned_it_before() {
        let names = Arc::new(crate::rule_id::RuleNames::default());
        let rule = "[[rule]]\nname = 'near'\npath = '^/x'\nmaxretry = 1\ncount_by = 'network'\nmembers = 1\nrefuse = 'ban'\n\
                    bantime = { initial = '10m', increment = true, maxtime = '1d', forget = '1d' }\n";
        let policy = crate::policy::Policy::for_tests(rule, &names);
        let engine = Arc::new(Engine::new(names, policy, 100, 100).unwrap());
        let network: Network = "192.0.2.0/24".parse().unwrap();
        let offend = |now: Time| {
            let address = std::net::Ipv4Addr::new(192, 0, 2, 1);
            let rule = Arc::clone(engine.policy().rules.by_name("near").unwrap());
            let (client, evidence) = (Client::from(address), Evidence::new(&[]));
            let offence = crate::rule::Offence { address: address.into(), client, rules: vec![rule], evidence, marks: None, account: None };
            engine.record_offence(now, &offence, Service::Web, crate::engine::reply::Reply::new(|_| ()));
            let ban = engine.policy().lists.banned.get(network).cloned().unwrap();
            ban.until.unwrap().since(ban.since).secs()
        };
        assert_eq!(offend(NOW), 600);
        let (later, scenarios) = (NOW.after(Span::from_secs(1000)), Scenarios::default());
        let mut settler = Settler::new(&engine, &scenarios, later);
        let decision = super::super::decision::tests::decision(network, later.after(Span::from_secs(9000)));
        assert!(settler.settle(network, Some(&decision)).banned);
        assert!(settler.settle(network, None).released);
        settler.wait();
        assert_eq!(offend(NOW.after(Span::from_secs(2000))), 1200);
    }

    fn until(seconds: u64) -> Until {
        Until::at(NOW.after(Span::from_secs(seconds)))
    }

    #[test]
    fn the_table_follows_the_decisions_and_leaves_bans_of_others_alone() {
        let hour = until(3600);
        for (wanted, active, expected) in [
            (None, None, Step::Nothing),
            (None, Some((hour, true)), Step::Release),
            (None, Some((hour, false)), Step::Nothing),
            (Some(hour), None, Step::Ban),
            (Some(hour), Some((hour, true)), Step::Nothing),
            (Some(hour), Some((until(3640), true)), Step::Nothing),
            (Some(hour), Some((until(3500), true)), Step::Ban),
            (Some(hour), Some((until(4000), true)), Step::Shorten),
            (Some(hour), Some((Until::NEVER, true)), Step::Shorten),
            (Some(until(30)), Some((until(20), true)), Step::Ban),
            (Some(hour), Some((until(60), false)), Step::Wait),
            (Some(hour), Some((hour, false)), Step::Nothing),
            (Some(hour), Some((Until::NEVER, false)), Step::Nothing),
        ] {
            assert_eq!(step(wanted, active, NOW), expected, "{wanted:?} {active:?}");
        }
    }
}
