//! Faults behind Squid while innocents ask: with `squid-failopen.conf` none of them is ever refused,
//! with `squid.conf` only those whose question was on its way.

use rustix::process::Signal;

use super::harness::{Load, Origin, Resident, Squid, Stage, Tally, get, kill, long, request, until};

const CLIENTS: u8 = 4;
/// Where the innocents of [`Load::web`] come from.
const INNOCENTS: &str = "192.0.2.";

/// Scanners that were struck out: none of these bans may be lost.
#[derive(Default)]
pub(crate) struct Scanners(Vec<String>);

impl Scanners {
    /// Strikes out one more, unless `is_over`. What is asked while a helper is away may be served, or refused by Squid itself: the ban
    /// counts when both the client and the resident have been told.
    pub(crate) fn strike_out_one(&mut self, squid: &Squid, resident: &Resident, is_over: impl Fn() -> bool) {
        let scanner = format!("10.66.{}.{}", self.0.len() / 250, self.0.len() % 250 + 1);
        until("a scanner is struck out", || {
            if is_over() {
                return Some(());
            }
            let refused = request(squid.port(), &scanner, "GET", "/w00tw00t", "").is_ok_and(|reply| reply.status == 429);
            (refused && resident.ask(&format!("check {scanner}")).starts_with("defer")).then(|| self.0.push(scanner.clone()))
        });
    }

    /// How many there are, and how many of the bans are lost: unknown to the resident, or not refused by Squid.
    pub(crate) fn lost(&self, squid: &Squid, resident: &Resident) -> (usize, usize) {
        if let Some(first) = self.0.first() {
            until("the helpers are back", || (get(squid.port(), first, "/") == 429).then_some(()));
        }
        let is_lost =
            |scanner: &&String| !resident.ask(&format!("check {scanner}")).starts_with("defer") || get(squid.port(), scanner, "/") != 429;
        (self.0.len(), self.0.iter().filter(is_lost).count())
    }
}

fn banned(squid: &Squid) {
    assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t"), 429);
}

/// Kills the helpers again and again under load, and says how many innocents Squid itself refused; by a verdict none is.
///
/// Squid may abort by itself when a helper is killed (see [`Squid::has_aborted`]), the more often the busier the machine. That
/// breaks connections, is no refusal, and is counted apart; the killing goes on with a new Squid.
fn kill_helpers(stage: &Stage, example: &str, times: usize) -> usize {
    let origin = Origin::start();
    let resident = Resident::start(stage, "");
    let (mut kills, mut aborts, mut sum, mut scanners) = (0, 0, Tally::default(), Scanners::default());
    let (mut by_verdict, mut by_squid) = (0, 0);
    let (bans, lost) = loop {
        let squid = Squid::start(stage, &origin, &stage.squid_example(example));
        until("the first ban", || {
            request(squid.port(), "198.51.100.1", "GET", "/w00tw00t", "").is_ok_and(|reply| reply.status == 429).then_some(())
        });
        let load = Load::web(squid.port(), CLIENTS);
        while kills < times && !squid.has_aborted() {
            load.serve_unless(20, || squid.has_aborted());
            until("helpers to kill", || (squid.kill_helpers() > 0 || squid.has_aborted()).then_some(()));
            kills += 1;
            scanners.strike_out_one(&squid, &resident, || squid.has_aborted());
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
        break scanners.lost(&squid, &resident);
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
fn failopen_conf_refuses_no_innocent_when_the_helpers_are_killed() {
    let Some(stage) = Stage::with_squid() else { return };
    assert_eq!(kill_helpers(&stage, "squid-failopen.conf", long(5, 60)), 0);
}

#[test]
fn squid_conf_refuses_only_those_in_flight_when_the_helpers_are_killed() {
    let Some(stage) = Stage::with_squid() else { return };
    let times = long(5, 60);
    let refused = kill_helpers(&stage, "squid.conf", times);
    assert!(refused <= times * usize::from(CLIENTS), "{refused} refused by {times} kills");
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
fn squid_conf_refuses_everybody_while_the_helper_is_missing_as_it_says() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let fragment = stage.squid_example("squid.conf").replace("/bin/ext_strikeout_acl", "/bin/no_such_helper");
    let mut squid = Squid::start(&stage, &origin, &fragment);
    assert_eq!(get(squid.port(), "203.0.113.9", "/"), 429);
    squid.assert_running();
}

fn resident_killed(example: &str) {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let mut resident = Resident::start(&stage, "");
    let squid = Squid::start(&stage, &origin, &stage.squid_example(example));
    banned(&squid);
    let load = Load::web(squid.port(), CLIENTS);
    let (times, mut scanners) = (long(3, 50), Scanners::default());
    for _ in 0..times {
        load.serve(20);
        scanners.strike_out_one(&squid, &resident, || false);
        resident.kill();
        load.serve(20);
        assert_eq!(get(squid.port(), "198.51.100.1", "/"), 429, "a known ban, without the resident");
        assert_eq!(get(squid.port(), "198.51.100.2", "/w00tw00t"), 429, "a one-strike probe, without the resident");
        resident.start_again();
        assert!(resident.ask("check 198.51.100.1").starts_with("defer rule=w00tw00t"), "the ban is lost");
    }
    load.serve(20);
    let tally = load.finish();
    let (bans, lost) = scanners.lost(&squid, &resident);
    eprintln!("{example}: {times} times kill -9 of the resident; {bans} bans, {lost} lost; innocents: {tally:?}");
    assert_eq!((tally.refused, tally.broken, lost), (0, 0, 0), "{tally:?}");
    squid.assert_clean_log();
    // The helper finds the resident again by itself.
    until("a ban crosses again", || {
        let answer = get(squid.port(), "198.51.100.3", "/w00tw00t");
        assert_eq!(answer, 429);
        resident.ask("check 198.51.100.3").starts_with("defer").then_some(())
    });
}

#[test]
fn failopen_conf_refuses_no_innocent_when_the_resident_is_killed() {
    resident_killed("squid-failopen.conf");
}

#[test]
fn squid_conf_refuses_no_innocent_when_the_resident_is_killed() {
    resident_killed("squid.conf");
}

#[test]
fn innocents_are_served_while_the_resident_hangs() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let resident = Resident::start(&stage, "");
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    banned(&squid);
    resident.signal(Signal::STOP);
    assert_eq!(get(squid.port(), "203.0.113.9", "/"), 200);
    assert_eq!(get(squid.port(), "198.51.100.1", "/"), 429);
    assert_eq!(get(squid.port(), "198.51.100.2", "/w00tw00t"), 429);
    kill(resident.pid(), Signal::CONT);
}

/// Has Squid do `what` again and again under load, and says how many innocents Squid itself refused; by a verdict none is.
fn controlled(example: &str, what: &str) -> usize {
    let Some(stage) = Stage::with_squid() else { return 0 };
    let origin = Origin::start();
    let resident = Resident::start(&stage, "");
    let mut squid = Squid::start(&stage, &origin, &stage.squid_example(example));
    banned(&squid);
    let load = Load::web(squid.port(), CLIENTS);
    let (times, mut scanners) = (long(3, 50), Scanners::default());
    for _ in 0..times {
        load.serve(20);
        let before = squid.helpers();
        squid.control(what);
        until(&format!("helpers that were started after {what}"), || squid.helpers().iter().any(|pid| !before.contains(pid)).then_some(()));
        scanners.strike_out_one(&squid, &resident, || false);
    }
    load.serve(20);
    let tally = load.finish();
    let (bans, lost) = scanners.lost(&squid, &resident);
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
    // Reconfiguring, Squid closes its port for a moment: that is not the helper's doing.
    assert!(tally.broken == 0 || what == "reconfigure", "{tally:?}");
    tally.refused
}

#[test]
fn rotation_refuses_no_innocent() {
    assert_eq!(controlled("squid-failopen.conf", "rotate"), 0);
    assert_eq!(controlled("squid.conf", "rotate"), 0);
}

#[test]
fn reconfiguration_refuses_no_innocent_with_failopen_conf() {
    assert_eq!(controlled("squid-failopen.conf", "reconfigure"), 0);
}

#[test]
fn reconfiguration_refuses_only_those_in_flight_with_squid_conf() {
    let refused = controlled("squid.conf", "reconfigure");
    assert!(refused <= long(3, 50) * usize::from(CLIENTS), "{refused} refused");
}
