//! Tests of what happens to the table besides answers to events: reloads, sweeps, saving, and counts over a fleet.

use super::super::lift::LiftedBans;
use super::*;
use crate::event::behaviour::Outcome;
use crate::list::OwnAddresses;
use crate::rule::{Evidence, Standing};
use crate::table::Ban;
use std::net::{IpAddr, Ipv4Addr};

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn client() -> Client {
    Client::of(ADDRESS, Ipv6Prefix::default())
}

fn network(until: u64) -> NetworkRecord {
    NetworkRecord::manual("198.51.100.0/24".parse::<crate::geo::Network>().unwrap(), at(0), Until::at(at(until)), Evidence::new(&[]))
}

/// The kinds of the changes that `engine` publishes from now on.
fn observed(engine: &Engine) -> Arc<Mutex<Vec<&'static str>>> {
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&kinds);
    engine.observe(move |change| seen.lock().push(kind(change)));
    kinds
}

fn kind(change: &Change) -> &'static str {
    match change {
        Change::Banned(_) => "banned",
        Change::Unbanned { .. } => "unbanned",
        Change::Forgotten(_) => "forgotten",
        Change::NetworkBanned { .. } => "network banned",
        Change::NetworkUnbanned { .. } => "network unbanned",
        Change::NetworkEvicted { .. } => "network evicted",
        Change::RuleLifted { .. } => "rule lifted",
        Change::Paused(_) => "paused",
        Change::Resumed => "resumed",
    }
}

/// Saves everything at once, and remembers the kinds of the changes.
#[derive(Clone, Default)]
struct NamedJournal(Arc<Mutex<Vec<&'static str>>>);

impl Journal for NamedJournal {
    fn persist(&self, change: Change, on_persisted: OnPersisted) {
        self.0.lock().push(kind(&change));
        on_persisted(Persisted::Yes);
    }

    fn flush(&self, on_persisted: OnPersisted) {
        on_persisted(Persisted::Yes);
    }
}

fn offence(engine: &Engine, rule: &str) -> Offence {
    let rules = vec![Arc::clone(engine.policy().rules.by_name(rule).unwrap())];
    Offence { address: ADDRESS, client: client(), rules, evidence: Evidence::new(&[b"evidence"]), marks: None, account: None }
}

#[test]
fn a_new_policy_replaces_the_rules_and_keeps_bans_own_addresses_and_banned_networks() {
    let engine = engine("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 1");
    engine.change_lists(|lists| lists.set_own(OwnAddresses::new(["203.0.113.1".parse().unwrap()], [])));
    engine.ban_network(network(600), Completion::ignored());
    assert_eq!(reason(&ask(&engine, at(0), "192.0.2.1", &get("/admin"))), Some(DenyReason::Struck));

    engine.set_policy(Policy::for_tests("[[rule]]\nname = 'login'\npath = '/login'\nmaxretry = 1", engine.names()));

    assert_eq!(reason(&ask(&engine, at(1), "192.0.2.1", &get("/"))), Some(DenyReason::Banned));
    assert_eq!(reason(&ask(&engine, at(1), "192.0.2.2", &get("/admin"))), None, "the rule is gone");
    assert_eq!(reason(&ask(&engine, at(1), "192.0.2.3", &get("/login"))), Some(DenyReason::Struck));
    assert_eq!(reason(&ask(&engine, at(1), "198.51.100.7", &get("/"))), Some(DenyReason::Banned));
    assert!(matches!(ask(&engine, at(1), "203.0.113.1", &get("/login")), Verdict::Allow(AllowReason::NeverBanned(_))));
}

#[test]
fn a_reload_lifts_the_bans_of_rules_that_refuse_nobody_and_only_those() {
    let rules = |login: &str| {
        format!("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 1\n[[rule]]\nname = 'login'\npath = '/login'\nmaxretry = 1\n{login}")
    };
    for (login, standing) in [("mode = 'shadow'", Standing::Shadow), ("enabled = false", Standing::Off)] {
        let engine = engine(&rules(""));
        let changes = observed(&engine);
        ask(&engine, at(0), "192.0.2.1", &get("/admin"));
        ask(&engine, at(0), "192.0.2.2", &get("/login"));
        let other = Client::from(Ipv4Addr::new(192, 0, 2, 3));
        engine.ban(BanRecord { rule: "of-another-machine".into(), ..record(other, at(0)) }, Completion::ignored());
        changes.lock().clear();
        let lifted = engine.reload(at(1), Policy::for_tests(&rules(login), engine.names()), SavedBans::End);
        assert_eq!(lifted, [LiftedBans { rule: "login".into(), standing, bans: 1 }]);
        assert_eq!(*changes.lock(), ["rule lifted"]);
        assert_eq!(reason(&ask(&engine, at(1), "192.0.2.1", &get("/"))), Some(DenyReason::Banned));
        assert_eq!(reason(&ask(&engine, at(1), "192.0.2.2", &get("/"))), None);
        assert_eq!(engine.bans().len(), 2, "a rule that only another machine has still refuses");
    }
}

#[test]
fn nobody_is_banned_anew_while_the_bans_of_a_lifted_rule_end_so_observers_hear_of_the_unban_first() {
    let engine = engine("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 1");
    ask(&engine, at(0), "192.0.2.1", &get("/admin"));
    let held = Arc::new(Mutex::new(Vec::new()));
    let (seen, observed) = (Arc::clone(&held), Arc::downgrade(&engine));
    engine.observe(move |change| {
        if let Change::RuleLifted { .. } = change {
            seen.lock().push(observed.upgrade().unwrap().client_locks.are_all_held());
        }
    });
    let off = "[[rule]]\nname = 'admin'\npath = '/admin'\nenabled = false";
    engine.reload(at(1), Policy::for_tests(off, engine.names()), SavedBans::End);
    assert_eq!(*held.lock(), [true]);
    assert!(!engine.client_locks.are_all_held());
}

#[test]
fn what_comes_after_a_reload_by_a_rule_that_it_switched_off_bans_nobody_wherever_it_comes_from() {
    let login = "[[rule]]\nname = 'login'\npath = '/login'\nmaxretry = 1\nfleet = true\n";
    let rate = "[[rule]]\nname = 'web-rate'\nmaxretry = 10\nfindtime = '1m'\nmode = 'enforce'\n";
    for change in ["mode = 'shadow'\n", "enabled = false\n", ""] {
        let engine = engine(&format!("{rate}{login}"));
        let changes = observed(&engine);
        let late = offence(&engine, "login");
        let rate_rule = Arc::clone(engine.policy().rules.by_name("web-rate").unwrap());
        let after = if change.is_empty() { String::new() } else { format!("{login}{change}") };
        let off = "[[rule]]\nname = 'web-rate'\nenabled = false\n";
        assert!(engine.reload(at(0), Policy::for_tests(&format!("{off}{after}"), engine.names()), SavedBans::End).is_empty());
        // An event that was being judged during the reload, and the count of a fleet.
        engine.record_offence(at(0), &late, Service::Web, Reply::new(|_| ()));
        engine.ban_by_fleet_count(at(0), at(0), &late.rules[0], &late, 9);
        let by_rate = Offence { rules: vec![rate_rule], ..late.clone() };
        engine.record_offences(at(0), &by_rate, Service::Web, 10, Reply::new(|_| ()));
        assert_eq!((engine.bans().len(), changes.lock().len()), (0, 0), "{change}");
        // Those of another machine or process, unless only that one has the rule.
        let other = BanRecord { rule: "login".into(), ..record(client(), at(0)) };
        engine.ban(other.clone(), Completion::ignored());
        assert_eq!(engine.bans().len(), usize::from(change.is_empty()), "{change}");
        engine.unban(at(0), client(), Scope::All, Completion::ignored());
        engine.apply(&Change::Banned(other), at(0));
        assert_eq!(engine.bans().len(), usize::from(change.is_empty()), "{change}");
    }
}

#[test]
fn a_ban_that_is_being_made_during_a_reload_reaches_the_journal_before_it_is_lifted() {
    let journal = NamedJournal::default();
    let engine = engine_with("[[rule]]\nname = 'login'\npath = '/login'\nmaxretry = 1", Some(Box::new(journal.clone())));
    let late = offence(&engine, "login");
    let threads: Vec<_> = (0..4)
        .map(|thread: u8| {
            let (engine, late) = (Arc::clone(&engine), late.clone());
            std::thread::spawn(move || {
                for number in 0..250 {
                    let address = IpAddr::from([10, 0, thread, number]);
                    let offence = Offence { address, client: Client::of(address, Ipv6Prefix::default()), ..late.clone() };
                    engine.record_offence(at(0), &offence, Service::Web, Reply::new(|_| ()));
                }
            })
        })
        .collect();
    engine.reload(at(0), Policy::for_tests("", engine.names()), SavedBans::End);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(engine.bans().len(), 0);
    let changes = journal.0.lock().clone();
    let lifted = changes.iter().rposition(|change| *change == "rule lifted").map_or(0, |at| at + 1);
    assert_eq!(changes[lifted..].iter().filter(|change| **change == "banned").count(), 0, "none after the lift");
}

#[test]
fn bans_of_a_rule_that_another_process_may_have_end_in_memory_alone() {
    let engine = engine("[[rule]]\nname = 'login'\npath = '/login'\nmaxretry = 1");
    ask(&engine, at(0), "192.0.2.2", &get("/login"));
    let changes = observed(&engine);
    let lifted = engine.reload(at(1), Policy::for_tests("", engine.names()), SavedBans::Stay);
    assert_eq!((lifted.len(), engine.bans().len(), changes.lock().len()), (1, 0, 0));
}

#[test]
fn a_sweep_drops_ended_bans_of_clients_and_networks_and_expired_strikes() {
    let engine = engine("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 2\nfindtime = '1m'");
    let _ = ask(&engine, at(0), "192.0.2.1", &get("/admin"));
    let ban = Ban { until: Until::at(at(60)), rule: RuleId::MANUAL, saved: true };
    engine.bans().ban(client(), Scope::All, ban, at(0));
    engine.shadow_bans().ban(client(), Scope::All, ban, at(0));
    engine.ban_network(network(60), Completion::ignored());
    let sizes = || (engine.bans().len(), engine.shadow_bans().len(), engine.strikes().len(), engine.policy().lists.banned.len());
    engine.sweep(at(59));
    assert_eq!(sizes(), (1, 1, 1, 1));
    engine.sweep(at(60));
    assert_eq!(sizes(), (0, 0, 0, 0));
}

#[test]
fn a_ban_on_another_service_does_not_refuse_the_event_that_caused_it() {
    let engine = engine("[[rule]]\nname = 'mail'\npath = '/admin'\nmaxretry = 1\nscope = 'mail'\nrefuse = 'ban'");
    assert_eq!(reason(&ask(&engine, at(0), "192.0.2.1", &get("/admin"))), None);
    assert_eq!(reason(&ask(&engine, at(0), "192.0.2.1", &Event::Lookup(Service::Mail))), Some(DenyReason::Banned));
}

#[test]
fn the_strictest_rule_that_bans_is_the_one_in_the_answer() {
    let engine = engine(
        "[[rule]]\nname = 'second'\npath = '/admin'\nmaxretry = 2\nbantime = '2m'\n[[rule]]\nname = 'first'\npath = '/admin'\nmaxretry = 1\nbantime = '1m'",
    );
    let result = engine.count(
        at(0),
        &Offence {
            rules: engine.policy().rules.offended_by_request(&request("/admin"), &mut Scratch::default()),
            ..offence(&engine, "first")
        },
        Service::Web,
        2,
    );
    assert_eq!(result.banned.iter().map(|record| &*record.rule).collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(result.verdict.refusal().map(|refusal| engine.names().name(refusal.rule)).as_deref(), Some("first"));
}

#[test]
fn offences_count_against_a_client_and_requests_above_a_rate_do_not() {
    for (rule, legitimate) in [("name = 'rule'\npath = '/admin'", 0), ("name = 'rule'\nevent = 'connection'", 1)] {
        let engine = engine(&format!("[[rule]]\n{rule}\nmaxretry = 3"));
        for seconds in 0..3 {
            engine.false_positives().record(client(), Outcome::Success, false);
            engine.record_offence(at(seconds), &offence(&engine, "rule"), Service::Mail, Reply::new(|_| ()));
        }
        assert_eq!(engine.bans().len(), 1, "{rule}");
        assert_eq!(engine.false_positives().exceeding(0.0).len(), legitimate, "{rule}");
    }
}

#[test]
fn strikes_under_an_enforced_rule_of_the_fleet_are_observed_until_one_makes_a_ban() {
    let engine = engine(
        "[[rule]]\nname = 'fleet'\npath = '/fleet'\nmaxretry = 3\nfleet = true\n[[rule]]\nname = 'local'\npath = '/local'\nmaxretry = 3\n\
         [[rule]]\nname = 'shadow'\npath = '/shadow'\nmaxretry = 3\nfleet = true\nmode = 'shadow'",
    );
    let strikes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&strikes);
    engine.observe_strikes(move |_, rule, number, now| seen.lock().push((rule.name.to_string(), number, now)));
    for seconds in 0..3 {
        for path in ["/fleet", "/local", "/shadow"] {
            let _ = ask(&engine, at(seconds), "192.0.2.1", &get(path));
        }
    }
    assert_eq!(*strikes.lock(), [("fleet".to_owned(), 1, at(0)), ("fleet".to_owned(), 1, at(1))]);
}

#[test]
fn a_count_over_the_fleet_bans_once_and_restarts_the_count_here() {
    let engine = engine(
        "[[rule]]\nname = 'fleet'\npath = '/fleet'\nmaxretry = 5\nfleet = true\nbantime = '1h'\n[[rule]]\nname = 'recidive'\nenabled = false",
    );
    let _ = ask(&engine, at(0), "192.0.2.1", &get("/fleet"));
    let changes = observed(&engine);
    let offence = offence(&engine, "fleet");
    engine.ban_by_fleet_count(at(9), at(8), &offence.rules[0], &offence, 6);
    engine.ban_by_fleet_count(at(10), at(10), &offence.rules[0], &offence, 7);
    assert_eq!(*changes.lock(), ["banned"]);
    let record = engine.ban_record(client()).unwrap();
    assert_eq!((record.count, record.since, record.until), (6, at(9), Until::at(at(3609))));
    assert_eq!((engine.bans().len(), engine.strikes().len()), (1, 0));
}

#[test]
fn a_count_over_the_fleet_bans_on_the_service_that_is_still_open() {
    let engine = engine("[[rule]]\nname = 'fleet'\npath = '/fleet'\nmaxretry = 5\nfleet = true");
    engine.bans().ban(client(), Scope::Web, Ban { until: Until::NEVER, rule: RuleId::MANUAL, saved: true }, at(0));
    let offence = offence(&engine, "fleet");
    engine.ban_by_fleet_count(at(9), at(8), &offence.rules[0], &offence, 6);
    assert!(engine.bans().get(client(), Service::Mail, at(9)).is_some());
}

#[test]
fn a_count_over_the_fleet_bans_neither_under_a_shadow_rule_nor_an_address_that_is_never_banned() {
    for (more, bans) in [("", 1), ("mode = 'shadow'", 0), ("[defaults]\nignoreip = ['192.0.2.1']", 0)] {
        let engine = engine(&format!("[[rule]]\nname = 'fleet'\npath = '/fleet'\nmaxretry = 5\nfleet = true\n{more}"));
        let offence = offence(&engine, "fleet");
        engine.ban_by_fleet_count(at(9), at(8), &offence.rules[0], &offence, 6);
        assert_eq!((engine.bans().len(), engine.shadow_bans().len()), (bans, 0), "{more}");
    }
}

#[test]
fn only_a_ban_that_is_saved_is_marked_as_saved() {
    let journal = ManualJournal::default();
    let engine = engine_with("", Some(Box::new(journal.clone())));
    let is_saved = || engine.bans().get(client(), Service::Web, at(1)).map(|ban| ban.saved);
    let finish = |persisted| journal.0.lock().remove(0)(persisted);
    engine.ban(record(client(), at(0)), Completion::ignored());
    assert_eq!(is_saved(), Some(false));
    finish(Persisted::No("full".into()));
    assert_eq!(is_saved(), Some(false));
    engine.ban(record(client(), at(0)), Completion::ignored());
    finish(Persisted::Yes);
    assert_eq!(is_saved(), Some(true));
}

#[test]
fn all_changes_are_saved_once_those_before_are() {
    let (sender, saved) = channel();
    let journal = ManualJournal::default();
    let slow = engine_with("", Some(Box::new(journal.clone())));
    slow.unban(at(0), client(), Scope::All, Completion::ignored());
    for engine in [&slow, &engine("")] {
        let sender = sender.clone();
        engine.when_all_saved(move |persisted| sender.send(persisted).unwrap());
    }
    assert_eq!(saved.try_iter().collect::<Vec<_>>(), [Persisted::Yes], "at once without a state file");
    std::mem::take(&mut *journal.0.lock()).into_iter().for_each(|on_persisted| on_persisted(Persisted::Yes));
    assert_eq!(saved.try_iter().collect::<Vec<_>>(), [Persisted::Yes]);
}

#[test]
fn a_ban_that_an_earlier_unban_has_removed_from_the_state_file_is_unsaved_again() {
    let journal = ManualJournal::default();
    let engine = engine_with("", Some(Box::new(journal.clone())));
    let changes = observed(&engine);
    engine.ban(record(client(), at(0)), Completion::ignored());
    engine.unban(at(1), client(), Scope::All, Completion::ignored());
    engine.ban(record(client(), at(1)), Completion::ignored());
    let waiting = std::mem::take(&mut *journal.0.lock());
    let saved: Vec<bool> = waiting
        .into_iter()
        .map(|on_persisted| {
            on_persisted(Persisted::Yes);
            engine.bans().get(client(), Service::Web, at(2)).unwrap().saved
        })
        .collect();
    // Both bans are permanent, so saving the first marks the second.
    assert_eq!(saved, [true, false, true]);
    assert_eq!(*changes.lock(), ["banned", "unbanned", "banned"], "nothing is published twice");
}

#[test]
fn one_read_bans_every_client_that_reaches_the_rate_once_however_its_requests_are_split() {
    let engine = engine(
        "[[rule]]\nname = 'web-rate'\nmaxretry = 10\nfindtime = '1m'\nmode = 'enforce'\n[[rule]]\nname = 'recidive'\nenabled = false\n[[rule]]\nname = 'banned-network'\nenabled = false",
    );
    let changes = observed(&engine);
    let tally = |last: u8, requests| {
        let address = IpAddr::from([192, 0, 2, last]);
        RequestTally::new(address, Client::of(address, Ipv6Prefix::default()), requests)
    };
    engine.count_requests(
        at(0),
        &mut vec![tally(1, 9), tally(1, 3), tally(1, 4), tally(1, 10), tally(2, 10), tally(3, 9), tally(4, 9), tally(4, 1)],
    );
    assert_eq!(*changes.lock(), ["banned"; 3], "the clients 1, 2 and 4");
    assert_eq!((engine.bans().len(), engine.strikes().len()), (3, 1), "client 3 keeps its count");
    assert_eq!(engine.stats().offences.load(Ordering::Relaxed), 7, "all but the ten of client 1, which is banned by then");
}

#[test]
fn a_rate_in_shadow_mode_publishes_nothing_and_does_not_count_while_its_shadow_ban_lasts() {
    let engine = engine("[[rule]]\nname = 'web-rate'\nmaxretry = 10\nfindtime = '1m'\nbantime = '1m'\nmode = 'shadow'");
    let changes = observed(&engine);
    for (now, requests, shadow_bans, strikes) in [(0, 10, 1, 0), (1, 5, 1, 0), (2, 10, 1, 0), (60, 5, 1, 1), (61, 5, 2, 0)] {
        engine.count_requests(at(now), &mut vec![RequestTally::new(ADDRESS, client(), requests)]);
        let made = engine.stats().shadow_bans.load(Ordering::Relaxed);
        assert_eq!((made, engine.strikes().len()), (shadow_bans, strikes), "at {now}");
    }
    assert_eq!((changes.lock().len(), engine.bans().len()), (0, 0));
}

#[test]
fn the_record_of_a_ban_is_the_latest_one_only_if_it_is_about_this_ban() {
    let engine = engine("");
    let kept = BanRecord { until: Until::at(at(60)), count: 7, ..record(client(), at(0)) };
    engine.ban(kept.clone(), Completion::ignored());
    let ban = engine.bans().get(client(), Service::Web, at(1)).unwrap();
    assert_eq!(engine.record_of(client(), Service::Web, ban, at(1)), kept);
    for other in [Ban { until: Until::at(at(61)), ..ban }, Ban { rule: engine.names().intern("other"), ..ban }] {
        let found = engine.record_of(client(), Service::Mail, other, at(1));
        assert_eq!((found.count, found.scope, found.until, found.since), (0, Scope::Mail, other.until, at(1)));
        assert_eq!(found.rule, engine.names().name(other.rule));
    }
}

#[test]
fn a_record_is_handed_out_only_while_its_ban_is_active_and_for_the_service_asked_about() {
    let engine = engine("");
    engine.ban(BanRecord { until: Until::at(at(60)), count: 7, ..record(client(), at(0)) }, Completion::ignored());
    let ban = engine.bans().get(client(), Service::Web, at(1)).unwrap();
    let handed_out = |now, ban| {
        let mut found = None;
        engine.with_record_if_active(now, client(), Service::Web, ban, |record| found = Some((record.scope, record.count)));
        found
    };
    assert_eq!(handed_out(at(1), ban), Some((Scope::Web, 7)));
    assert_eq!(handed_out(at(60), ban), None);
    assert_eq!(handed_out(at(1), Ban { until: Until::at(at(59)), ..ban }), None, "replaced by a longer one");
}

#[test]
fn restored_earlier_bans_make_the_next_one_longer() {
    let engine = engine("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 1\nbantime = { initial = '1m', increment = true }");
    engine.restore_earlier_bans(client(), "admin", EarlierBans { times: 2, last: at(0) });
    let _ = ask(&engine, at(1), "192.0.2.1", &get("/admin"));
    let record = engine.ban_record(client()).unwrap();
    assert_eq!((record.times, record.until), (3, Until::at(at(241))));
}
