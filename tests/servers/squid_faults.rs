//! Faults behind Squid under load: `squid-failopen.conf` never refuses an innocent client, `squid.conf` only requests in flight.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Daemon, Stage, kill, long, wait_for, wait_until};
use crate::rig::{Load, Origin, Squid, Tally, get, request};

const CLIENTS: u8 = 4;
/// The network of the innocent clients of [`Load::web`].
const INNOCENTS: &str = "192.0.2.";
/// Time after a fault in which all helpers are back and attached, on a busy machine too.
const REATTACHED: Duration = Duration::from_secs(20);

/// Banned scanners: none of these bans may be lost.
#[derive(Default)]
pub(crate) struct Scanners(Vec<String>);

impl Scanners {
    /// Gets one more scanner banned, unless `is_over`. While a helper is away, Squid may serve a request or refuse it by itself, so the ban
    /// counts once both Squid and the daemon refuse the client.
    pub(crate) fn strike_out_one(&mut self, squid: &Squid, daemon: &Daemon, is_over: impl Fn() -> bool) {
        let scanner = format!("10.66.{}.{}", self.0.len() / 250, self.0.len() % 250 + 1);
        wait_for("a scanner is struck out", || {
            if is_over() {
                return Some(());
            }
            let refused = request(squid.port(), &scanner, "GET", "/w00tw00t", "").is_ok_and(|reply| reply.status == 429);
            (refused && daemon.ask(&format!("check {scanner}")).starts_with("defer")).then(|| self.0.push(scanner.clone()))
        });
    }

    /// Number of bans, and of lost ones: unknown to the daemon, or not refused by every worker of Squid. Each worker's helper gets a ban when
    /// it is attached again, up to half a second after the daemon's start, so what Squid still serves is asked again until [`REATTACHED`].
    pub(crate) fn lost(&self, squid: &Squid, daemon: &Daemon) -> (usize, usize) {
        let start = Instant::now();
        let is_refused =
            |scanner: &str| (0..6).all(|_| request(squid.port(), scanner, "GET", "/", "").is_ok_and(|reply| reply.status == 429));
        let is_lost = |scanner: &&String| {
            while !is_refused(scanner) {
                if start.elapsed() > REATTACHED {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            !daemon.ask(&format!("check {scanner}")).starts_with("defer")
        };
        (self.0.len(), self.0.iter().filter(is_lost).count())
    }
}

fn banned(squid: &Squid) {
    assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t"), 429);
}

/// Kills the helpers repeatedly under load. Asserts that no verdict refuses an innocent client, and returns how many Squid itself refused.
///
/// Squid may abort when a helper is killed (see [`Squid::has_aborted`]), more often on a busy machine. That breaks connections, is not a
/// refusal, and is counted separately; the test goes on with a new Squid.
fn kill_helpers(stage: &Stage, example: &str, times: usize) -> usize {
    let origin = Origin::start();
    let daemon = stage.daemon("");
    let (mut kills, mut aborts, mut sum, mut scanners) = (0, 0, Tally::default(), Scanners::default());
    let (mut by_verdict, mut by_squid) = (0, 0);
    let (bans, lost) = loop {
        let squid = Squid::start(stage, &origin, &stage.squid_example(example));
        wait_for("the first ban", || {
            request(squid.port(), "198.51.100.1", "GET", "/w00tw00t", "").is_ok_and(|reply| reply.status == 429).then_some(())
        });
        let load = Load::web(squid.port(), CLIENTS);
        while kills < times && !squid.has_aborted() {
            load.serve_unless(20, || squid.has_aborted());
            wait_until("helpers to kill", || squid.kill_helpers() > 0 || squid.has_aborted());
            kills += 1;
            scanners.strike_out_one(&squid, &daemon, || squid.has_aborted());
        }
        load.serve_unless(20, || squid.has_aborted());
        let tally = load.finish();
        sum += tally;
        let refusals = squid.refusals(INNOCENTS);
        by_verdict += refusals.0;
        by_squid += refusals.1;
        if squid.has_aborted() {
            aborts += 1;
            continue;
        }
        assert_eq!(tally.broken, 0, "{tally:?}");
        break scanners.lost(&squid, &daemon);
    };
    eprintln!(
        "{example}: {kills} times kill -9 of the helpers; {bans} bans, {lost} lost; of {} innocents refused by a verdict {by_verdict}, by Squid \
         in flight {by_squid}, connections broken {}; Squid aborted by itself {aborts} times",
        sum.served + sum.refused,
        sum.broken
    );
    assert_eq!((lost, by_verdict), (0, 0));
    by_squid
}

#[test]
fn failopen_conf_refuses_no_innocent_client_when_helpers_are_killed() {
    let Some(stage) = Stage::with_squid() else { return };
    assert_eq!(kill_helpers(&stage, "squid-failopen.conf", long(5, 60)), 0);
}

#[test]
fn squid_conf_refuses_only_requests_in_flight_when_helpers_are_killed() {
    let Some(stage) = Stage::with_squid() else { return };
    let times = long(5, 60);
    let refused = kill_helpers(&stage, "squid.conf", times);
    assert!(refused <= times * usize::from(CLIENTS), "{refused} refused by {times} kills");
}

/// Squid 7.6 dies of a segmentation fault where 5.7 fails an assertion; a test of killed helpers must tell both from a fault of ours.
#[test]
fn a_squid_that_dies_of_a_segmentation_fault_counts_as_aborted() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    assert!(!squid.has_aborted());
    squid.signal(Signal::SEGV);
    wait_until("Squid dies", || squid.has_aborted());
    assert_eq!(squid.aborts(), 1);
}

#[test]
fn failopen_conf_serves_everybody_while_the_helper_is_missing() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let fragment = stage.squid_example("squid-failopen.conf").replace("/bin/ext_strikeout_acl", "/bin/no_such_helper");
    let mut squid = Squid::start(&stage, &origin, &fragment);
    for _ in 0..20 {
        assert_eq!(get(squid.port(), "203.0.113.9", "/w00tw00t"), 200);
    }
    squid.assert_running();
}

#[test]
fn squid_conf_refuses_everybody_while_the_helper_is_missing() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let fragment = stage.squid_example("squid.conf").replace("/bin/ext_strikeout_acl", "/bin/no_such_helper");
    let mut squid = Squid::start(&stage, &origin, &fragment);
    assert_eq!(get(squid.port(), "203.0.113.9", "/"), 429);
    squid.assert_running();
}

fn daemon_killed(example: &str) {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let mut daemon = stage.daemon("");
    let squid = Squid::start(&stage, &origin, &stage.squid_example(example));
    banned(&squid);
    let load = Load::web(squid.port(), CLIENTS);
    let (times, mut scanners) = (long(3, 50), Scanners::default());
    for _ in 0..times {
        load.serve(20);
        scanners.strike_out_one(&squid, &daemon, || false);
        daemon.kill();
        load.serve(20);
        assert_eq!(get(squid.port(), "198.51.100.1", "/"), 429, "a known ban, without the daemon");
        assert_eq!(get(squid.port(), "198.51.100.2", "/w00tw00t"), 429, "a one-strike probe, without the daemon");
        daemon = Daemon::start_again(&stage);
        assert!(daemon.ask("check 198.51.100.1").starts_with("defer rule=w00tw00t"), "the ban is lost");
    }
    load.serve(20);
    let tally = load.finish();
    let (bans, lost) = scanners.lost(&squid, &daemon);
    eprintln!("{example}: {times} times kill -9 of the daemon; {bans} bans, {lost} lost; innocents: {tally:?}");
    assert_eq!((tally.refused, tally.broken, lost), (0, 0, 0), "{tally:?}");
    squid.assert_clean_log();
    // The helper reconnects to the daemon by itself.
    wait_for("a ban crosses again", || {
        let answer = get(squid.port(), "198.51.100.3", "/w00tw00t");
        assert_eq!(answer, 429);
        daemon.ask("check 198.51.100.3").starts_with("defer").then_some(())
    });
}

#[test]
fn failopen_conf_refuses_no_innocent_client_when_the_daemon_is_killed() {
    daemon_killed("squid-failopen.conf");
}

#[test]
fn squid_conf_refuses_no_innocent_client_when_the_daemon_is_killed() {
    daemon_killed("squid.conf");
}

#[test]
fn innocent_clients_are_served_while_the_daemon_hangs() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let daemon = stage.daemon("");
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    banned(&squid);
    daemon.signal(Signal::STOP);
    assert_eq!(get(squid.port(), "203.0.113.9", "/"), 200);
    assert_eq!(get(squid.port(), "198.51.100.1", "/"), 429);
    assert_eq!(get(squid.port(), "198.51.100.2", "/w00tw00t"), 429);
    kill(daemon.pid(), Signal::CONT);
}

/// Runs `squid -k what` repeatedly under load. Asserts that no verdict refuses an innocent client, and returns how many Squid itself refused.
fn controlled(example: &str, what: &str) -> usize {
    let Some(stage) = Stage::with_squid() else { return 0 };
    let origin = Origin::start();
    let daemon = stage.daemon("");
    let mut squid = Squid::start(&stage, &origin, &stage.squid_example(example));
    banned(&squid);
    let load = Load::web(squid.port(), CLIENTS);
    let (times, mut scanners) = (long(3, 50), Scanners::default());
    for _ in 0..times {
        load.serve(20);
        let before = squid.helpers();
        squid.control(what);
        wait_until(&format!("helpers that were started after {what}"), || squid.helpers().iter().any(|pid| !before.contains(pid)));
        scanners.strike_out_one(&squid, &daemon, || false);
    }
    load.serve(20);
    let tally = load.finish();
    let (bans, lost) = scanners.lost(&squid, &daemon);
    let (by_verdict, by_squid) = squid.refusals(INNOCENTS);
    eprintln!(
        "{example}: {times} times squid -k {what}; {bans} bans, {lost} lost; of {} innocents refused by a verdict {by_verdict}, by Squid itself \
         {by_squid}, connections broken {}",
        tally.served + tally.refused,
        tally.broken
    );
    assert_eq!(get(squid.port(), "198.51.100.1", "/"), 429);
    squid.assert_running();
    assert_eq!((lost, by_verdict, by_squid), (0, 0, tally.refused), "{tally:?}");
    // While Squid reconfigures, its port is closed for a moment.
    assert!(tally.broken == 0 || what == "reconfigure", "{tally:?}");
    tally.refused
}

#[test]
fn rotation_refuses_no_innocent_client() {
    assert_eq!(controlled("squid-failopen.conf", "rotate"), 0);
    assert_eq!(controlled("squid.conf", "rotate"), 0);
}

#[test]
fn reconfiguration_with_failopen_conf_refuses_no_innocent_client() {
    assert_eq!(controlled("squid-failopen.conf", "reconfigure"), 0);
}

#[test]
fn reconfiguration_with_squid_conf_refuses_only_requests_in_flight() {
    let refused = controlled("squid.conf", "reconfigure");
    assert!(refused <= long(3, 50) * usize::from(CLIENTS), "{refused} refused");
}
