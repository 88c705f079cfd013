//! Tests of [`StateFile`]: an engine, its file, and the next engine that loads it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::engine::fixtures::{ActiveBans, TestObserver, active_bans, record};
use crate::engine::{Completion, NetworkRecord};
use crate::event::Scope;
use crate::list::{BannedNetwork, Saved};
use crate::policy::Policy;
use crate::rule_id::RuleNames;
use crate::table::Until;

/// Longer than saving takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn engine() -> Arc<Engine> {
    let names = Arc::new(RuleNames::default());
    let policy = Policy::for_tests("", &names);
    Arc::new(Engine::new(names, policy, 1000, 1_000_000).unwrap())
}

/// Three threads ban and unban each client at the same time.
fn race(engine: &Arc<Engine>, clients: &[Client], clock: Clock) {
    const THREADS: usize = 3;
    let arrived = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let arrived = &arrived;
            scope.spawn(move || {
                for (round, client) in clients.iter().enumerate() {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    // The race lasts a microsecond, so the threads spin until all have arrived.
                    while arrived.load(Ordering::SeqCst) < (round + 1) * THREADS {
                        std::thread::yield_now();
                    }
                    let now = clock.now();
                    let scope = [Scope::All, Scope::All, Scope::Web, Scope::Mail][(round / 3 + thread) % 4];
                    if (round + thread) % THREADS == 0 {
                        engine.unban(now, *client, scope, Completion::ignored());
                    } else {
                        let until = Until::at(now.after(Span::from_secs(3600 + thread as u64)));
                        engine.ban(BanRecord { until, scope, ..record(*client, now) }, Completion::ignored());
                    }
                }
            });
        }
    });
}

#[test]
fn concurrent_bans_and_unbans_leave_memory_file_and_observers_in_agreement() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (engine, clock, observer) = (engine(), Clock::start(), Arc::new(TestObserver::default()));
    let state = StateFile::open(&engine, clock, &path).unwrap();
    let notified = Arc::clone(&observer);
    engine.observe(move |change| notified.notify(change));
    let clients: Vec<Client> = (0..20_000).map(|number| Client::from(Ipv4Addr::from(0x0a00_0000 + number))).collect();
    // Never more changes at a time than the writer's queue holds.
    for (number, some) in (1..).zip(clients.chunks(4000)) {
        race(&engine, some, clock);
        while state.health().failed == 0 && state.health().saved < number * 3 * 4000 {
            std::thread::yield_now();
        }
    }
    state.finish(clock.now(), PATIENCE);
    assert_eq!(state.health().failed, 0);
    let active = active_bans(&engine, clock.now());
    let differences = |other: &ActiveBans| {
        active.iter().filter(|(key, until)| other.get(key) != Some(until)).count()
            + other.keys().filter(|key| !active.contains_key(key)).count()
    };
    assert!(active.len() > 20_000 && active.len() < 40_000, "{} of 40,000", active.len());
    assert_eq!(differences(&observer.0.lock()), 0, "observers");
    let next = self::engine();
    let _state = StateFile::open(&next, clock, &path).unwrap();
    assert_eq!(differences(&active_bans(&next, clock.now())), 0, "the file");
}

#[test]
fn resending_unsaved_bans_keeps_the_reason_of_a_banned_network() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, clock) = (engine(), Clock::start());
    let state = StateFile::open(&engine, clock, &dir.path().join("state.db")).unwrap();
    let network = "198.51.100.0/24".parse().unwrap();
    let ban = NetworkRecord::manual(network, clock.now(), Until::NEVER, Evidence::new(&[b"spam"]));
    engine.ban_network(ban, Completion::ignored());
    resend(&engine, &state.writer, clock.now(), false);
    state.finish(clock.now(), PATIENCE);
    assert_eq!(state.network_ban_reason(network).unwrap(), Some(Evidence::new(&[b"spam"])));
}

/// A ban of `network` by `rule`, which counts networks.
fn by_rule(rule: &str, network: &str, now: Time) -> NetworkRecord {
    let record = NetworkRecord::manual(network.parse::<crate::geo::Network>().unwrap(), now, Until::NEVER, Evidence::new(&[b"a crowd"]));
    NetworkRecord { rule: rule.into(), members: 3, ..record }
}

#[test]
fn a_network_ban_that_was_not_saved_is_saved_when_it_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, clock) = (engine(), Clock::start());
    let state = StateFile::open(&engine, clock, &dir.path().join("state.db")).unwrap();
    let network = "198.51.100.0/24".parse().unwrap();
    let ban = |saved| BannedNetwork { members: 3, saved: Saved::new(saved), ..BannedNetwork::manual(network, clock.now()) };
    engine.change_lists(|lists| _ = lists.banned.insert(ban(true)));
    resend(&engine, &state.writer, clock.now(), false);
    assert_eq!(state.network_ban_reason(network).unwrap(), None, "a saved one is not sent again");
    engine.change_lists(|lists| _ = lists.banned.insert(ban(false)));
    resend(&engine, &state.writer, clock.now(), false);
    assert!(state.network_ban_reason(network).unwrap().is_some());
    assert!(engine.policy().lists.banned.get(network).unwrap().saved.get());
}

#[test]
fn network_bans_of_a_rule_that_is_gone_end_at_the_start_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (engine, clock) = (engine(), Clock::start());
    let state = StateFile::open(&engine, clock, &path).unwrap();
    let now = clock.now();
    engine.ban_network(by_rule("gone", "198.51.100.0/24", now), Completion::ignored());
    engine.ban_network(by_rule("fleet", "203.0.113.0/24", now), Completion::ignored());
    engine.ban_network(NetworkRecord { members: 0, ..by_rule("fail2ban-sshd", "192.0.2.0/24", now) }, Completion::ignored());
    state.finish(now, PATIENCE);
    let next = self::engine();
    let state = StateFile::open(&next, clock, &path).unwrap();
    assert_eq!(next.policy().lists.banned.len(), 3);
    state.lift_bans(clock.now());
    let mut left: Vec<String> = next.policy().lists.banned.iter().map(|ban| ban.network.to_string()).collect();
    left.sort();
    assert_eq!(left, ["192.0.2.0/24", "203.0.113.0/24"]);
}
