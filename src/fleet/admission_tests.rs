//! Which bans of other nodes are made here, and as what.

use super::*;
use crate::fleet::message::StoredRecord;
use crate::list::BannedNetwork;
use crate::policy::Policy;
use crate::rule_id::RuleNames;

const NOW: Time = Time::from_secs(1_800_000_000);

/// A machine with a table for two bans.
struct Machine {
    engine: Arc<Engine>,
    local: Local,
    admissions: Admissions,
}

impl Machine {
    fn new(policy: &str) -> Self {
        Self::with_prefix(policy, Ipv6Prefix::default())
    }

    fn with_prefix(policy: &str, prefix: Ipv6Prefix) -> Self {
        let names = Arc::new(RuleNames::default());
        let policy = Policy { prefix, ..Policy::for_tests(policy, &names) };
        let engine = Arc::new(Engine::new(names, policy, 100, 2).unwrap());
        let local = Local::for_tests(&engine);
        Self { engine, local, admissions: Admissions::new(2, 1000) }
    }

    fn admit(&mut self, ban: &PublishedBan) -> Admission {
        self.admissions.admit(&self.local, &self.engine, NOW, ban)
    }

    /// When the ban of `address` ends on each service.
    fn until(&self, address: &str) -> [Option<Until>; 2] {
        Service::ALL.map(|service| active_until(&self.engine, target(address), service, NOW))
    }

    fn origin(&self, address: &str) -> [Option<String>; 2] {
        Service::ALL.map(|service| self.local.origins.lock().of(target(address), service).map(ToString::to_string))
    }

    fn counts(&self) -> (u64, u64) {
        let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.local.health.received), count(&self.local.health.refused))
    }
}

fn target(text: &str) -> IpNet {
    crate::list::file::parse_network(text).unwrap()
}

fn after(seconds: u64) -> Time {
    NOW.after(Span::from_secs(seconds))
}

/// A ban by w00tw00t of node mx2 on all services, which ends `seconds` from now, or never.
fn ban(address: &str, seconds: Option<u64>) -> PublishedBan {
    PublishedBan {
        node: "mx2".into(),
        scope: Scope::All,
        until: seconds.map(after),
        since: NOW.before(Span::from_secs(10)),
        accepted: NOW,
        target: target(address),
        record: StoredRecord { rule: "w00tw00t".into(), count: 7, times: 2, evidence: "GET /w00tw00t".into(), ipv6_prefix: None },
    }
}

fn by_rule(rule: &str, ban: PublishedBan) -> PublishedBan {
    PublishedBan { record: StoredRecord { rule: rule.into(), ..ban.record.clone() }, ..ban }
}

#[test]
fn a_ban_is_made_with_its_record_unless_it_is_over_or_already_active() {
    let mut machine = Machine::new("");
    assert_eq!(machine.admit(&ban("203.0.113.1", Some(0))), Admission::Redundant, "over");
    assert_eq!(machine.admit(&ban("203.0.113.1", Some(60))), Admission::Made);
    assert_eq!(machine.until("203.0.113.1"), [Some(Until::at(after(60))); 2]);
    let record = machine.engine.ban_record(client_of(target("203.0.113.1").addr())).unwrap();
    assert_eq!((&*record.rule, &*record.node, record.count, record.times), ("w00tw00t", "mx2", 7, 2));
    assert_eq!((record.first, record.since, record.evidence.as_str()), (NOW.before(Span::from_secs(10)), record.first, "GET /w00tw00t"));
    assert_eq!(machine.admit(&ban("203.0.113.1", Some(60))), Admission::Redundant);
    assert_eq!(machine.counts(), (1, 0));
}

#[test]
fn a_ban_that_began_later_than_now_by_a_wrong_clock_begins_now() {
    let mut machine = Machine::new("");
    machine.admit(&PublishedBan { since: after(5), ..ban("203.0.113.1", Some(60)) });
    assert_eq!(machine.engine.ban_record(client_of(target("203.0.113.1").addr())).unwrap().since, NOW);
}

#[test]
fn an_active_ban_is_replaced_only_by_one_that_ends_later_than_rounding_explains() {
    for (active, published, admission) in [
        (None, None, Admission::Redundant),
        (None, Some(60), Admission::Redundant),
        (Some(60), None, Admission::Made),
        (Some(60), Some(59), Admission::Redundant),
        (Some(60), Some(63), Admission::Redundant),
        (Some(60), Some(64), Admission::Made),
    ] {
        for address in ["203.0.113.1", "198.51.100.0/24"] {
            let mut machine = Machine::new("");
            machine.admit(&ban(address, active));
            assert_eq!(machine.admit(&ban(address, published)), admission, "{address}: {active:?}, then {published:?}");
            let expected = if admission == Admission::Made { published } else { active };
            let expected = expected.map_or(Until::NEVER, |seconds| Until::at(after(seconds)));
            assert_eq!(machine.until(address), [Some(expected); 2], "{address}: {active:?}, then {published:?}");
        }
    }
}

#[test]
fn a_ban_that_is_active_on_one_service_is_made_on_both() {
    let mut machine = Machine::new("");
    machine.admit(&PublishedBan { scope: Scope::Web, ..ban("203.0.113.1", Some(60)) });
    assert_eq!(machine.until("203.0.113.1"), [Some(Until::at(after(60))), None]);
    assert_eq!(machine.admit(&ban("203.0.113.1", Some(60))), Admission::Made);
    assert_eq!(machine.until("203.0.113.1"), [Some(Until::at(after(60))); 2]);
}

#[test]
fn a_full_table_takes_bans_with_an_end_but_none_that_can_never_be_displaced() {
    let mut machine = Machine::new("");
    let (timed, permanent) = (|address| ban(address, Some(60)), |address| ban(address, None));
    assert_eq!(machine.admit(&permanent("203.0.113.1")), Admission::Made);
    assert_eq!(machine.admit(&timed("203.0.113.2")), Admission::Made, "the last place");
    assert_eq!(machine.admit(&permanent("203.0.113.3")), Admission::Refused, "permanent");
    assert_eq!(machine.admit(&by_rule("manual", timed("203.0.113.3"))), Admission::Refused, "by hand");
    assert_eq!(machine.until("203.0.113.3"), [None, None]);
    assert_eq!(machine.counts(), (2, 2));
    assert_eq!(machine.admit(&permanent("203.0.113.2")), Admission::Made, "the client is in the table already");
    let mut machine = Machine::new("");
    for address in ["203.0.113.1", "203.0.113.2", "203.0.113.3"] {
        assert_eq!(machine.admit(&timed(address)), Admission::Made);
    }
    assert!(machine.engine.bans().len() <= 2, "one of them displaced another");
}

#[test]
fn no_ban_is_made_of_a_client_or_network_that_is_never_banned_here() {
    let mut machine = Machine::new("[defaults]\nignoreip = ['203.0.113.1', '2001:db8::5']");
    for address in ["203.0.113.1", "203.0.113.0/24", "127.0.0.1", "2001:db8::"] {
        assert_eq!(machine.admit(&ban(address, Some(60))), Admission::Refused, "{address}");
        assert_eq!(machine.until(address), [None, None], "{address}");
    }
    assert_eq!(machine.admit(&ban("2001:db8:0:1::", Some(60))), Admission::Made, "another prefix");
    assert_eq!(machine.counts(), (1, 4));
}

#[test]
fn only_so_many_networks_of_other_nodes_are_banned() {
    let mut machine = Machine::new("");
    let network = |number: usize| format!("10.{}.{}.0/24", number / 256, number % 256);
    machine.engine.change_lists(|lists| {
        for number in 0..MAX_NETWORKS - 1 {
            lists.banned.insert(BannedNetwork::manual(target(&network(number)), NOW));
        }
    });
    assert_eq!(machine.admit(&ban(&network(MAX_NETWORKS - 1), Some(60))), Admission::Made);
    assert_eq!(machine.admit(&ban(&network(MAX_NETWORKS), Some(60))), Admission::Refused);
    assert_eq!(machine.admit(&ban(&network(MAX_NETWORKS - 1), None)), Admission::Made, "an active one may last longer");
}

#[test]
fn more_bans_than_a_node_may_publish_in_a_minute_are_refused() {
    let mut machine = Machine::new("");
    machine.admissions = Admissions::new(2, 1);
    assert_eq!(machine.admit(&ban("203.0.113.1", Some(60))), Admission::Made);
    assert_eq!(machine.admit(&ban("203.0.113.2", Some(60))), Admission::Refused);
    assert_eq!(machine.admit(&PublishedBan { node: "mx3".into(), ..ban("203.0.113.2", Some(60)) }), Admission::Made);
}

#[test]
fn a_ban_belongs_to_the_node_that_made_it_except_where_an_own_one_lasts_longer() {
    let mut machine = Machine::new("");
    let client = client_of(target("203.0.113.1").addr());
    let own = BanRecord { scope: Scope::Web, until: Until::at(after(90)), ..crate::engine::fixtures::record(client, NOW) };
    machine.engine.ban(own, Completion::ignored());
    assert_eq!(machine.admit(&ban("203.0.113.1", Some(60))), Admission::Made);
    assert_eq!(machine.until("203.0.113.1"), [Some(Until::at(after(90))), Some(Until::at(after(60)))]);
    assert_eq!(machine.origin("203.0.113.1"), [None, Some("mx2".into())]);
    assert_eq!(machine.admit(&PublishedBan { node: "mx3".into(), ..ban("203.0.113.1", Some(90)) }), Admission::Made);
    assert_eq!(machine.origin("203.0.113.1"), [None, Some("mx3".into())], "both end at the same time: it stays an own one");
    machine.admit(&ban("203.0.113.1", Some(99)));
    assert_eq!(machine.origin("203.0.113.1"), [Some("mx2".into()), Some("mx2".into())]);
    machine.admit(&ban("198.51.100.0/24", Some(60)));
    assert_eq!(machine.origin("198.51.100.0/24"), [Some("mx2".into()), Some("mx2".into())]);
    let echo = machine.local.origins.lock().is_echo(target("198.51.100.0/24"), NOW.before(Span::from_secs(10)));
    assert!(echo, "the ban of a network is expected to be reported by the engine");
}

#[test]
fn an_unknown_rule_is_the_fleets_and_its_name_is_not_stored() {
    let mut machine = Machine::new("");
    assert_eq!(machine.admit(&by_rule("made-up", ban("203.0.113.1", Some(60)))), Admission::Made);
    assert_eq!(&*machine.engine.ban_record(client_of(target("203.0.113.1").addr())).unwrap().rule, "fleet");
    assert_eq!(machine.engine.names().find("made-up"), None);
}

#[test]
fn a_ban_restarts_the_count_of_its_rule() {
    let mut machine = Machine::new("[[rule]]\nname = 'admin'\npath = '^/admin$'\nmaxretry = 5");
    let id = machine.engine.names().find("admin").unwrap();
    let client = client_of(target("203.0.113.1").addr());
    machine.engine.strikes().add(id, client, NOW, Span::from_secs(60), 3);
    machine.admit(&by_rule("admin", ban("203.0.113.1", Some(60))));
    assert_eq!(machine.engine.strikes().get(id, client), None);
}

#[test]
fn origins_of_ended_bans_make_room_for_other_nodes_but_are_not_purged_all_the_time() {
    use crate::fleet::origin::MAX_NODES;
    let mut machine = Machine::new("");
    let ended = |number: usize| IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(number).unwrap())));
    let fill = |machine: &Machine| {
        let mut origins = machine.local.origins.lock();
        (0..MAX_NODES).for_each(|number| _ = origins.record(ended(number), Scope::All, &format!("node{number}")));
    };
    fill(&machine);
    assert_eq!(machine.admit(&ban("203.0.113.1", Some(60))), Admission::Made);
    assert_eq!(machine.local.origins.lock().len(), 1, "those of ended bans are gone");
    machine.local.origins.lock().clear(target("203.0.113.1"), Scope::All);
    machine.local.origins.lock().release_nodes();
    fill(&machine);
    assert_eq!(machine.admit(&ban("203.0.113.2", Some(60))), Admission::Refused, "no purge is due yet");
    assert_eq!(machine.until("203.0.113.2"), [None, None]);
    machine.admissions.purged = Instant::now().checked_sub(PURGE_INTERVAL);
    assert_eq!(machine.admit(&ban("203.0.113.2", Some(60))), Admission::Made);
}

#[test]
fn a_ban_gets_its_origin_also_if_other_nodes_have_to_be_released_first() {
    use crate::fleet::origin::MAX_NODES;
    let mut machine = Machine::new("");
    for number in 0..MAX_NODES {
        let mut origins = machine.local.origins.lock();
        origins.record(target("192.0.2.1"), Scope::All, &format!("node{number}"));
        origins.clear(target("192.0.2.1"), Scope::All);
    }
    assert_eq!(machine.admit(&ban("203.0.113.1", Some(60))), Admission::Made);
    assert_eq!(machine.origin("203.0.113.1"), [Some("mx2".into()), Some("mx2".into())]);
}

#[test]
fn origins_are_purged_when_there_are_many_more_than_bans() {
    let mut machine = Machine::new("");
    let ended = |number: usize| IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(number).unwrap())));
    machine.admit(&ban("203.0.113.2", Some(60)));
    for (number, left) in [(PURGE_THRESHOLD, PURGE_THRESHOLD + 2), (PURGE_THRESHOLD + 1, 2)] {
        (0..number).for_each(|number| _ = machine.local.origins.lock().record(ended(number), Scope::All, "mx3"));
        machine.admit(&ban("203.0.113.1", Some(60)));
        assert_eq!(machine.local.origins.lock().len(), left, "{number} ended");
        machine.engine.unban(NOW, client_of(target("203.0.113.1").addr()), Scope::All, Completion::ignored());
        machine.local.origins.lock().clear(target("203.0.113.1"), Scope::All);
    }
}

#[test]
fn each_node_may_publish_its_number_of_bans_in_each_minute() {
    let start = Time::from_secs(1_800_000_000);
    let mut limit = AdmissionLimit { bans_per_minute: 2, minutes: HashMap::default() };
    assert_eq!([1, 2, 3].map(|_| limit.admits("mx1", start)), [true, true, false]);
    assert!(limit.admits("mx2", start));
    assert!(limit.admits("mx1", start.after(Span::from_secs(60))) && limit.admits("mx1", start.before(Span::from_millis(1))));
    assert!(!limit.admits("mx1", start.after(Span::from_secs(59))));
    for node in 0..2 * MAX_MINUTES {
        limit.admits(&node.to_string(), start);
    }
    assert!(limit.minutes.len() <= MAX_MINUTES, "made-up names");
}

#[test]
fn the_ban_of_a_network_on_one_service_joins_the_own_one_on_the_other() {
    let own = |scope, seconds| NetworkRecord {
        scope,
        rule: "w00tw00t".into(),
        ..NetworkRecord::manual(target("198.51.100.0/24"), NOW, Until::at(after(seconds)), crate::rule::Evidence::new(&[]))
    };
    for (scope, seconds, expected) in [(Scope::All, 60, [90, 90]), (Scope::Web, 60, [90, 90]), (Scope::Web, 120, [120, 120])] {
        let mut machine = Machine::new("");
        machine.engine.ban_network(own(scope, seconds), Completion::ignored());
        let published = PublishedBan { scope: Scope::Mail, ..ban("198.51.100.0/24", Some(90)) };
        assert_eq!(machine.admit(&published), Admission::Made);
        assert_eq!(machine.until("198.51.100.0/24"), expected.map(|seconds| Some(Until::at(after(seconds)))), "{scope:?} {seconds}");
        assert_eq!(machine.origin("198.51.100.0/24"), [None, Some("mx2".to_owned())]);
        let policy = machine.engine.policy();
        assert_eq!(machine.local.own_scope(policy.lists.banned.get(target("198.51.100.0/24")).unwrap()), Some(Scope::Web));
    }
}

#[test]
fn the_ban_of_a_network_is_active_on_its_own_services_until_its_end() {
    let mut machine = Machine::new("");
    machine.admit(&PublishedBan { scope: Scope::Mail, ..ban("198.51.100.0/24", Some(60)) });
    assert_eq!(machine.until("198.51.100.0/24"), [None, Some(Until::at(after(60)))]);
    let since = |service, now| machine.local.since_of(&machine.engine, target("198.51.100.0/24"), service, now);
    assert_eq!((since(Service::Web, NOW), since(Service::Mail, NOW)), (None, Some(NOW.before(Span::from_secs(10)))));
    assert_eq!(since(Service::Mail, after(60)), None, "it is over");
}

#[test]
fn the_ban_of_an_ipv6_client_that_would_not_be_enforced_here_is_refused() {
    let of_prefix = |address: &str, ipv6_prefix: Option<u8>| {
        let ban = ban(address, Some(60));
        PublishedBan { record: StoredRecord { ipv6_prefix, ..ban.record.clone() }, ..ban }
    };
    let (usual, wide) = (64, 56);
    for (own, address, theirs, expected) in [
        (usual, "2001:db8:0:100::", Some(64), Admission::Made),
        (usual, "2001:db8:0:100::", Some(56), Admission::Refused),
        (wide, "2001:db8:0:100::", Some(56), Admission::Made),
        (wide, "2001:db8:0:1ff::", Some(64), Admission::Refused),
        (wide, "2001:db8:0:100::", Some(64), Admission::Refused),
        (wide, "2001:db8:0:1ff::", None, Admission::Refused),
        (wide, "2001:db8:0:100::", None, Admission::Made),
        (wide, "203.0.113.1", None, Admission::Made),
        (wide, "203.0.113.1", Some(64), Admission::Made),
        (wide, "2001:db8:0:1ff::/64", None, Admission::Made),
    ] {
        let mut machine = Machine::with_prefix("", Ipv6Prefix::new(own).unwrap());
        assert_eq!(machine.admit(&of_prefix(address, theirs)), expected, "{address} of {theirs:?} with {own}");
        assert_eq!(machine.until(address)[0].is_some(), expected == Admission::Made);
    }
}
