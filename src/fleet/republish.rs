//! The pass over all own bans after a cut, a restart or a dropped change, in small steps: new changes go in between.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::local::{Local, active_until};
use super::message::StoredRecord;
use super::origin::scope_of;
use super::queue::{Outgoing, prefix_of};
use crate::client::Client;
use crate::engine::{BanRecord, Engine, NetworkRecord};
use crate::event::{Scope, Service};
use crate::list::BannedNetwork;
use crate::rule::Evidence;
use crate::rule_id::{RuleId, is_shared};
use crate::table::{Ban, Until};
use crate::time::Time;

/// Number of bans sent in one step: few, because a thousand nodes may come back at once, and Redis must answer each within the timeout.
const STEP: usize = 64;
/// Number of bans sent in one step if Redis has answered the last one quickly.
const LONG_STEP: usize = 256;
/// An answer within this time is quick.
const QUICK: Duration = Duration::from_millis(25);
/// Maximum number of bans examined for one step.
const EXAMINED: usize = 1024;
/// Shortest pause between two steps; otherwise it is twice as long as the last one took, which leaves Redis time for new changes.
const PAUSE: Duration = Duration::from_millis(20);
const MINUTE: Duration = Duration::from_secs(60);

/// One pass over the bans that were active when it began.
pub struct Republish {
    bans: std::vec::IntoIter<(Client, Scope, Ban)>,
    networks: std::vec::IntoIter<BannedNetwork>,
    /// When the next step is due.
    pub due: Instant,
    /// Number of bans in the next step.
    step: usize,
    /// Start of the current minute.
    minute: Instant,
    /// Number of bans sent in this minute that Redis did not have.
    new: usize,
}

impl Republish {
    pub fn begin(engine: &Engine, now: Time) -> Self {
        let names = engine.names();
        let unshared: HashSet<RuleId> = names.all().into_iter().filter(|rule| !is_shared(&names.name(*rule))).collect();
        let mut bans: Vec<(Client, Scope, Ban)> = Vec::new();
        engine.bans().for_each(now, |client, service, ban| match bans.last_mut() {
            _ if unshared.contains(&ban.rule) => {}
            Some((last, scope, last_ban)) if *last == client && (last_ban.until, last_ban.rule) == (ban.until, ban.rule) => {
                *scope = Scope::All
            }
            _ => bans.push((client, service.scope(), ban)),
        });
        let networks: Vec<BannedNetwork> =
            engine.policy().lists.banned.iter().filter(|ban| !unshared.contains(&ban.rule)).cloned().collect();
        let due = Instant::now();
        Self { bans: bans.into_iter(), networks: networks.into_iter(), due, step: STEP, minute: due, new: 0 }
    }

    /// The next few own bans that are still active.
    pub fn next(&mut self, local: &Local, engine: &Engine, now: Time) -> Vec<Outgoing> {
        let mut next = Vec::new();
        for (client, scope, ban) in self.bans.by_ref().take(EXAMINED) {
            next.extend(own_ban(local, engine, now, client, scope, ban));
            if next.len() >= self.step {
                return next;
            }
        }
        for network in self.networks.by_ref().take(self.step - next.len()) {
            let until = network.until.map_or(Until::NEVER, Until::at);
            let Some(block) = network.network.block() else { continue };
            let is_active = |service: &Service| active_until(engine, block, *service, now) == Some(until);
            if network.scope.services().iter().all(is_active)
                && let Some(scope) = local.own_scope(&network)
            {
                let (rule, members) = (engine.names().name(network.rule), network.members);
                let record = NetworkRecord::manual(network.network, network.since, until, Evidence::new(&[]));
                next.extend(Outgoing::network_ban(&NetworkRecord { rule, scope, members, ..record }));
            }
        }
        next
    }

    /// Schedules the step after the one that began at `began`. Returns false if the pass is over.
    pub fn schedule(&mut self, began: Instant, new: usize, bans_per_minute: u32) -> bool {
        if self.minute.elapsed() >= MINUTE {
            (self.minute, self.new) = (began, 0);
        }
        self.new += new;
        self.step = if began.elapsed() < QUICK { LONG_STEP } else { STEP };
        // Half of what a node may publish in a minute is left to new bans.
        let is_limit_reached = self.new >= usize::try_from(bans_per_minute / 2).unwrap_or(usize::MAX).max(1);
        self.due = if is_limit_reached { self.minute + MINUTE } else { Instant::now() + PAUSE.max(began.elapsed() * 2) };
        !self.bans.as_slice().is_empty() || !self.networks.as_slice().is_empty()
    }
}

/// A ban of this node, on the services where it is still active, with as much of its record as is known.
fn own_ban(local: &Local, engine: &Engine, now: Time, client: Client, scope: Scope, ban: Ban) -> Option<Outgoing> {
    let target = IpNet::from(client.address());
    let is_active = |service: &Service| active_until(engine, target, *service, now) == Some(ban.until);
    let own = scope.services().iter().filter(|service| is_active(service) && local.is_own(target, **service));
    let scope = scope_of(own.copied())?;
    match local.record_of(engine, client, ban, now) {
        // After a restart only the record says that another node made the ban.
        Some(record) if !record.node.is_empty() && *record.node != *local.client.node => {
            local.origins.lock().record(target, scope, &record.node);
            None
        }
        Some(record) => Some(Outgoing::ban(&BanRecord { scope, ..record }, engine.policy().prefix)),
        None => {
            let (rule, ipv6_prefix) = (engine.names().name(ban.rule).to_string(), prefix_of(client, engine.policy().prefix));
            let record = StoredRecord { rule, count: 0, times: 1, evidence: String::new(), ipv6_prefix };
            Some(Outgoing::Ban { target, scope, since: Time::default(), until: ban.until, record: Box::new(record) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixtures::record;
    use crate::engine::{BanRecord, Completion};
    use crate::policy::Policy;
    use crate::rule_id::{RuleId, RuleNames};
    use crate::time::Span;
    use std::sync::Arc;

    const NOW: Time = Time::from_secs(1_800_000_000);

    struct Machine {
        engine: Arc<Engine>,
        local: Local,
    }

    impl Machine {
        fn new() -> Self {
            let names = Arc::new(RuleNames::default());
            let policy = Policy::for_tests("", &names);
            let engine = Arc::new(Engine::new(names, policy, 10, 10_000).unwrap());
            let local = Local::for_tests(&engine);
            Self { engine, local }
        }

        fn ban(&self, record: BanRecord) {
            self.engine.ban(record, Completion::ignored());
        }

        fn ban_network(&self, text: &str, until: Option<Time>) {
            let until = until.map_or(Until::NEVER, Until::at);
            let ban = NetworkRecord::manual(text.parse::<crate::geo::Network>().unwrap(), NOW, until, Evidence::new(&[]));
            self.engine.ban_network(ban, Completion::ignored());
        }

        fn begin(&self) -> Republish {
            Republish::begin(&self.engine, NOW)
        }

        fn next(&self, pass: &mut Republish) -> Vec<Outgoing> {
            pass.next(&self.local, &self.engine, NOW)
        }

        /// What a pass over all bans sends, as text, in order.
        fn sent(&self, pass: &mut Republish) -> Vec<String> {
            let mut sent: Vec<String> =
                std::iter::repeat_with(|| self.next(pass)).take_while(|step| !step.is_empty()).flatten().map(text).collect();
            sent.sort();
            sent
        }
    }

    fn client(number: u32) -> Client {
        std::net::Ipv4Addr::from(0xcb00_7100 + number).into()
    }

    fn after(seconds: u64) -> Time {
        NOW.after(Span::from_secs(seconds))
    }

    fn text(change: Outgoing) -> String {
        let Outgoing::Ban { target, scope, since, until, record } = change else { panic!("not a ban") };
        let until = until.time().map_or_else(|| "forever".to_owned(), |until| format!("+{}", until.secs() - NOW.secs()));
        let since = if since == Time::default() { "unknown" } else { "known" };
        format!("{target} {} {since} {until} {} {} {}", scope.as_str(), record.rule, record.count, record.times)
    }

    #[test]
    fn own_bans_are_sent_once_with_their_record_or_what_is_left_of_it() {
        let machine = Machine::new();
        machine.ban(BanRecord { count: 5, times: 2, ..record(client(1), NOW) });
        machine.ban(BanRecord { scope: Scope::Mail, until: Until::at(after(60)), ..record(client(2), NOW) });
        let lost = Ban { until: Until::at(after(90)), rule: RuleId::MANUAL, saved: true };
        machine.engine.bans().ban(client(3), Scope::Web, lost, NOW);
        machine.engine.bans().ban(client(3), Scope::Mail, Ban { until: Until::at(after(99)), ..lost }, NOW);
        machine.ban_network("198.51.100.0/24", None);
        assert_eq!(
            machine.sent(&mut machine.begin()),
            [
                "198.51.100.0/24 all known forever manual 1 1",
                "203.0.113.1/32 all known forever w00tw00t 5 2",
                "203.0.113.2/32 mail known +60 w00tw00t 1 1",
                "203.0.113.3/32 mail unknown +99 manual 0 1",
                "203.0.113.3/32 web unknown +90 manual 0 1",
            ]
        );
    }

    #[test]
    fn decisions_of_crowdsec_are_not_sent() {
        let machine = Machine::new();
        machine.ban(BanRecord { rule: "crowdsec-ssh-bf".into(), ..record(client(1), NOW) });
        machine.ban(BanRecord { rule: "fail2ban-sshd".into(), ..record(client(2), NOW) });
        let reason = Evidence::new(&[]);
        let network = NetworkRecord::manual("198.51.100.0/24".parse::<IpNet>().unwrap(), NOW, Until::NEVER, reason);
        machine.engine.ban_network(NetworkRecord { rule: "crowdsec-manual".into(), ..network }, Completion::ignored());
        assert_eq!(machine.sent(&mut machine.begin()), ["203.0.113.2/32 all known forever fail2ban-sshd 1 1"]);
    }

    #[test]
    fn bans_of_other_nodes_are_not_sent_and_their_origin_is_learnt_from_the_record() {
        let machine = Machine::new();
        for number in 1..=3 {
            machine.ban(record(client(number), NOW));
        }
        machine.ban_network("198.51.100.0/24", None);
        let mut origins = machine.local.origins.lock();
        for (target, scope) in [("203.0.113.1/32", Scope::All), ("203.0.113.2/32", Scope::Web), ("198.51.100.0/24", Scope::All)] {
            origins.record(target.parse().unwrap(), scope, "mx2");
        }
        drop(origins);
        machine.ban(BanRecord { node: "mx3".into(), ..record(client(4), NOW) });
        machine.ban(BanRecord { node: "mx1".into(), ..record(client(5), NOW) });
        assert_eq!(
            machine.sent(&mut machine.begin()),
            [
                "203.0.113.2/32 mail known forever w00tw00t 1 1",
                "203.0.113.3/32 all known forever w00tw00t 1 1",
                "203.0.113.5/32 all known forever w00tw00t 1 1",
            ]
        );
        assert_eq!(machine.local.origins.lock().bans_of("mx3"), [(IpNet::from(client(4).address()), Scope::All)]);
    }

    #[test]
    fn the_ban_of_a_network_is_sent_for_the_services_on_which_it_is_own() {
        let machine = Machine::new();
        let mail = NetworkRecord {
            scope: Scope::Mail,
            rule: "w00tw00t".into(),
            ..NetworkRecord::manual("198.51.100.0/24".parse::<crate::geo::Network>().unwrap(), NOW, Until::NEVER, Evidence::new(&[]))
        };
        machine.engine.ban_network(mail, Completion::ignored());
        machine.ban_network("198.51.101.0/24", None);
        machine.local.origins.lock().record("198.51.101.0/24".parse().unwrap(), Scope::Web, "mx2");
        let expected = ["198.51.100.0/24 mail known forever w00tw00t 1 1", "198.51.101.0/24 mail known forever manual 1 1"];
        let sent: Vec<String> = machine.sent(&mut machine.begin());
        assert_eq!(sent, expected);
    }

    #[test]
    fn a_ban_that_was_removed_replaced_or_has_ended_since_the_beginning_is_not_sent() {
        let machine = Machine::new();
        for number in 1..=3 {
            machine.ban(BanRecord { until: Until::at(after(60)), ..record(client(number), NOW) });
        }
        for network in ["198.51.100.0/24", "198.51.101.0/24", "198.51.102.0/24"] {
            machine.ban_network(network, Some(after(60)));
        }
        machine.ban_network("198.51.103.0/24", Some(NOW));
        let mut pass = machine.begin();
        machine.engine.unban(NOW, client(1), Scope::Web, Completion::ignored());
        machine.ban(BanRecord { until: Until::at(after(90)), ..record(client(2), NOW) });
        machine.engine.unban_network(NOW, "198.51.100.0/24".parse().unwrap(), Completion::ignored());
        machine.ban_network("198.51.101.0/24", Some(after(90)));
        assert_eq!(
            machine.sent(&mut pass),
            [
                "198.51.102.0/24 all known +60 manual 1 1",
                "203.0.113.1/32 mail known +60 w00tw00t 1 1",
                "203.0.113.3/32 all known +60 w00tw00t 1 1",
            ]
        );
    }

    #[test]
    fn a_step_sends_a_limited_number_of_clients_and_networks_together() {
        let machine = Machine::new();
        let clients = u32::try_from(STEP).unwrap() + 10;
        (0..clients).for_each(|number| machine.ban(record(client(number), NOW)));
        (0..STEP).for_each(|number| machine.ban_network(&format!("10.0.{number}.0/24"), None));
        let mut pass = machine.begin();
        let steps: Vec<usize> = std::iter::repeat_with(|| machine.next(&mut pass).len()).take_while(|sent| *sent > 0).collect();
        assert_eq!(steps, [STEP, STEP, 10]);
    }

    #[test]
    fn a_step_examines_a_limited_number_of_bans() {
        let machine = Machine::new();
        let bans = u32::try_from(EXAMINED).unwrap() + 10;
        for number in 0..bans {
            machine.ban(BanRecord { node: "mx2".into(), ..record(client(number), NOW) });
        }
        let mut pass = machine.begin();
        assert_eq!((machine.next(&mut pass).len(), pass.bans.len()), (0, 10));
        assert!(pass.schedule(Instant::now(), 0, 1000), "the pass is not over");
        assert_eq!((machine.next(&mut pass).len(), pass.bans.len()), (0, 0));
        assert!(!pass.schedule(Instant::now(), 0, 1000));
        machine.ban_network("198.51.100.0/24", None);
        let mut pass = Republish { bans: Vec::new().into_iter(), ..machine.begin() };
        assert!(pass.schedule(Instant::now(), 0, 1000), "a network is left");
    }

    #[test]
    fn the_next_step_is_longer_and_sooner_if_redis_was_quick() {
        let mut pass = Machine::new().begin();
        let before = Instant::now();
        pass.schedule(before + MINUTE, 0, 1000);
        assert_eq!(pass.step, LONG_STEP);
        assert!(pass.due >= before + PAUSE && pass.due <= Instant::now() + PAUSE);
        let began = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        pass.schedule(began, 0, 1000);
        assert_eq!(pass.step, STEP);
        assert!(pass.due >= began + Duration::from_secs(3) && pass.due <= Instant::now() + began.elapsed() * 2);
    }

    #[test]
    fn half_of_a_nodes_bans_in_a_minute_are_left_to_new_ones() {
        let mut pass = Machine::new().begin();
        let next_minute = pass.minute + MINUTE;
        let mut is_limited = |new, bans_per_minute| {
            pass.schedule(Instant::now() + MINUTE, new, bans_per_minute);
            pass.due == next_minute
        };
        assert!(!is_limited(4, 10), "4 of 5");
        assert!(is_limited(1, 10), "5 of 5");
        let mut pass = Machine::new().begin();
        pass.schedule(Instant::now() + MINUTE, 0, 1);
        assert!(pass.due < pass.minute + MINUTE, "one may be sent at least");
        pass.new = 99;
        pass.minute = pass.minute.checked_sub(MINUTE).unwrap();
        let began = Instant::now() + MINUTE;
        pass.schedule(began, 4, 10);
        assert_eq!((pass.minute, pass.new), (began, 4), "another minute");
    }
}
