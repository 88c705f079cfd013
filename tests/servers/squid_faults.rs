//! Faults behind Squid while innocents ask: with `squid-failopen.conf` none of them is ever refused,
//! with `squid.conf` only those whose question was on its way.

use rustix::process::Signal;

use super::harness::{Load, Origin, Resident, Squid, Stage, Tally, get, kill, long, until};

const CLIENTS: u8 = 4;

fn banned(squid: &Squid) {
    assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t"), 429);
}

/// Kills the helpers again and again under load, and says how many innocents were refused.
///
/// Squid may abort by itself when a helper is killed (see [`Squid::has_aborted`]), the more often the busier the machine. That
/// breaks connections, is no refusal, and is counted apart; the killing goes on with a new Squid.
fn kill_helpers(stage: &Stage, example: &str, times: usize) -> usize {
    let origin = Origin::start();
    let _resident = Resident::start(stage, "");
    let (mut kills, mut aborts, mut sum) = (0, 0, Tally::default());
    while kills < times {
        let squid = Squid::start(stage, &origin, &stage.squid_example(example));
        banned(&squid);
        let load = Load::web(squid.port(), CLIENTS);
        while kills < times && !squid.has_aborted() {
            load.serve_unless(20, || squid.has_aborted());
            until("helpers to kill", || (squid.kill_helpers() > 0 || squid.has_aborted()).then_some(()));
            kills += 1;
        }
        load.serve_unless(20, || squid.has_aborted());
        let tally = load.finish();
        sum += tally;
        if squid.has_aborted() {
            aborts += 1;
            continue;
        }
        assert_eq!(tally.broken, 0, "{tally:?}");
        until("the banned client is refused again", || (get(squid.port(), "198.51.100.1", "/") == 429).then_some(()));
    }
    eprintln!("{example}: {kills} kills of the helpers, {sum:?}, Squid aborted by itself {aborts} times");
    sum.refused
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
    for _ in 0..long(3, 50) {
        load.serve(20);
        resident.kill();
        load.serve(20);
        assert_eq!(get(squid.port(), "198.51.100.1", "/"), 429, "a known ban, without the resident");
        assert_eq!(get(squid.port(), "198.51.100.2", "/w00tw00t"), 429, "a one-strike probe, without the resident");
        resident.start_again();
        assert!(resident.ask("check 198.51.100.1").starts_with("defer rule=w00tw00t"), "the ban is lost");
    }
    load.serve(20);
    let tally = load.finish();
    assert_eq!((tally.refused, tally.broken), (0, 0), "{tally:?}");
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

fn controlled(example: &str, what: &str) -> usize {
    let Some(stage) = Stage::with_squid() else { return 0 };
    let origin = Origin::start();
    let _resident = Resident::start(&stage, "");
    let mut squid = Squid::start(&stage, &origin, &stage.squid_example(example));
    banned(&squid);
    let load = Load::web(squid.port(), CLIENTS);
    for _ in 0..long(3, 50) {
        load.serve(20);
        squid.control(what);
    }
    load.serve(20);
    let tally = load.finish();
    assert_eq!(get(squid.port(), "198.51.100.1", "/"), 429);
    squid.assert_running();
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
