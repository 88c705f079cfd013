//! Squid with several workers: each has helpers of its own, and all share one table.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::harness::{Load, Origin, Resident, Squid, Stage, get, give, long, request, until};
use super::squid_faults::Scanners;

/// Where Squid's processes meet: compiled into it, and made by Debian's service as it starts.
struct MeetingPlace {
    was_there: bool,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl MeetingPlace {
    const DIR: &str = "/run/squid";

    fn open() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let was_there = Path::new(Self::DIR).exists();
        if !was_there {
            fs::create_dir(Self::DIR).unwrap();
            give(Path::new(Self::DIR), "proxy");
        }
        Self { was_there, _alone: alone }
    }
}

impl Drop for MeetingPlace {
    fn drop(&mut self) {
        if !self.was_there {
            let _ = fs::remove_dir(Self::DIR);
        }
    }
}

/// A stage for Squid with workers. One test at a time has it.
fn stage() -> Option<(Stage, MeetingPlace)> {
    let stage = Stage::with_squid()?;
    if !rustix::process::geteuid().is_root() {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped an SMP test: Squid's workers talk below /run/squid, where only root may write");
        return None;
    }
    Some((stage, MeetingPlace::open()))
}

#[test]
fn two_workers_count_and_refuse_together() {
    let Some((stage, _meeting_place)) = stage() else { return };
    let origin = Origin::start();
    let _resident = Resident::start(&stage, "[[rule]]\nname = \"three\"\npath = \"^/three\"\nmaxretry = 3\n");
    let squid = Squid::start_with(&stage, &origin, &stage.squid_example("squid-failopen.conf"), 2);
    // Connections spread over the workers, by the kernel's choice; helpers of both have started when
    // there are two sets of two.
    until("both workers have asked", || {
        get(squid.port(), "203.0.113.9", "/");
        (squid.helpers().len() >= 4).then_some(())
    });
    for scanner in 1..=20 {
        let scanner = format!("198.51.100.{scanner}");
        assert_eq!(get(squid.port(), &scanner, "/w00tw00t"), 429);
        // The worker that asked refuses from now on; the other hears of the ban a moment later.
        until("both workers refuse", || (0..6).all(|_| get(squid.port(), &scanner, "/") == 429).then_some(()));
    }
    for client in 21..=30 {
        let client = format!("198.51.100.{client}");
        let answers: Vec<u16> = (0..4).map(|_| get(squid.port(), &client, "/three")).collect();
        assert_eq!(answers, [200, 200, 429, 429], "{client}: the third offence bans, whoever saw the others");
    }
    assert_eq!(get(squid.port(), "203.0.113.9", "/"), 200);
    squid.assert_clean_log();
}

/// Every fault in turn, again and again. A worker of Squid's may abort when its helper is killed (see [`Squid::has_aborted`]); the monitor
/// starts it again, and connections that break meanwhile are no refusals.
#[test]
fn two_workers_refuse_no_innocent_and_lose_no_ban_whatever_is_killed_rotated_or_reconfigured() {
    let Some((stage, _meeting_place)) = stage() else { return };
    let origin = Origin::start();
    let mut resident = Resident::start(&stage, "");
    let squid = Squid::start_with(&stage, &origin, &stage.squid_example("squid-failopen.conf"), 2);
    until("the first ban", || (get(squid.port(), "198.51.100.1", "/w00tw00t") == 429).then_some(()));
    let load = Load::web(squid.port(), 4);
    let (times, mut scanners) = (long(2, 50), Scanners::default());
    for _ in 0..times {
        for fault in ["rotate", "reconfigure", "kill helpers", "kill resident"] {
            load.serve(10);
            match fault {
                "kill helpers" => _ = until("helpers to kill", || Some(squid.kill_helpers()).filter(|killed| *killed > 0)),
                "kill resident" => {
                    resident.kill();
                    load.serve(10);
                    resident.start_again();
                }
                what => {
                    let before = squid.helpers();
                    squid.control(what);
                    until("helpers that were started after it", || squid.helpers().iter().any(|pid| !before.contains(pid)).then_some(()));
                }
            }
            scanners.strike_out_one(&squid, &resident, || false);
        }
    }
    load.serve(10);
    let tally = load.finish();
    let refuses = |scanner: &str| request(squid.port(), scanner, "GET", "/", "").is_ok_and(|reply| reply.status == 429);
    until("both workers are back", || (0..6).all(|_| refuses("198.51.100.1")).then_some(()));
    let (bans, lost) = scanners.lost(&squid, &resident);
    let (by_verdict, by_squid) = squid.refusals("192.0.2.");
    eprintln!(
        "two workers, {times} times each: squid -k rotate, squid -k reconfigure, kill -9 of the helpers, kill -9 of the resident; {bans} bans, \
         {lost} lost; of {} innocents refused by a verdict {by_verdict}, by Squid itself {by_squid}, connections broken {}; workers aborted by \
         themselves {} times",
        tally.served + tally.refused,
        tally.broken,
        squid.aborts()
    );
    assert_eq!((lost, by_verdict, tally.refused), (0, 0, 0), "{tally:?}");
}
