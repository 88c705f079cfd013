//! Squid with several workers: each has its own helpers, and all share one table.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::squid_faults::Scanners;
use crate::harness::{Daemon, Stage, long, wait_for, wait_until};
use crate::rig::{Load, Origin, Squid, get, give, request};

/// The directory of Squid's IPC sockets: compiled into Squid, and made by Debian's service when it starts.
struct IpcDirectory {
    was_there: bool,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl IpcDirectory {
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

impl Drop for IpcDirectory {
    fn drop(&mut self) {
        if !self.was_there {
            let _ = fs::remove_dir(Self::DIR);
        }
    }
}

/// A stage for Squid with workers, for one test at a time.
fn stage() -> Option<(Stage, IpcDirectory)> {
    let stage = Stage::with_squid()?;
    if !rustix::process::geteuid().is_root() {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped an SMP test: Squid's workers talk below /run/squid, where only root may write");
        return None;
    }
    Some((stage, IpcDirectory::open()))
}

#[test]
fn two_workers_count_and_refuse_together() {
    let Some((stage, _meeting_place)) = stage() else { return };
    let origin = Origin::start();
    let _daemon = stage.daemon("[[rule]]\nname = \"three\"\npath = \"^/three\"\nmaxretry = 3\n");
    let squid = Squid::start_with(&stage, &origin, &stage.squid_example("squid-failopen.conf"), 2);
    // The kernel spreads connections over the workers. Two sets of two helpers mean that both workers have started theirs.
    wait_for("both workers have asked", || {
        get(squid.port(), "203.0.113.9", "/");
        (squid.helpers().len() >= 4).then_some(())
    });
    for scanner in 1..=20 {
        let scanner = format!("198.51.100.{scanner}");
        assert_eq!(get(squid.port(), &scanner, "/w00tw00t"), 429);
        // The worker that asked refuses from now on; the other one gets the ban a moment later.
        wait_until("both workers refuse", || (0..6).all(|_| get(squid.port(), &scanner, "/") == 429));
    }
    for client in 21..=30 {
        let client = format!("198.51.100.{client}");
        let answers: Vec<u16> = (0..4).map(|_| get(squid.port(), &client, "/three")).collect();
        assert_eq!(answers, [200, 200, 429, 429], "{client}: the third offence bans, whoever saw the others");
    }
    assert_eq!(get(squid.port(), "203.0.113.9", "/"), 200);
    squid.assert_clean_log();
}

/// Every fault in turn, repeatedly. A worker may abort when its helper is killed (see [`Squid::has_aborted`]); the monitor starts it again,
/// and connections that break meanwhile are not refusals.
#[test]
fn two_workers_under_faults_refuse_no_innocent_client_and_lose_no_ban() {
    let Some((stage, _meeting_place)) = stage() else { return };
    let origin = Origin::start();
    let mut daemon = stage.daemon("");
    let squid = Squid::start_with(&stage, &origin, &stage.squid_example("squid-failopen.conf"), 2);
    wait_until("the first ban", || get(squid.port(), "198.51.100.1", "/w00tw00t") == 429);
    let load = Load::web(squid.port(), 4);
    let (times, mut scanners) = (long(2, 50), Scanners::default());
    for _ in 0..times {
        for fault in ["rotate", "reconfigure", "kill helpers", "kill daemon"] {
            load.serve(10);
            match fault {
                "kill helpers" => _ = wait_for("helpers to kill", || Some(squid.kill_helpers()).filter(|killed| *killed > 0)),
                "kill daemon" => {
                    daemon.kill();
                    load.serve(10);
                    daemon = Daemon::start_again(&stage);
                }
                what => {
                    let before = squid.helpers();
                    squid.control(what);
                    wait_until("helpers that were started after it", || squid.helpers().iter().any(|pid| !before.contains(pid)));
                }
            }
            scanners.strike_out_one(&squid, &daemon, || false);
        }
    }
    load.serve(10);
    let tally = load.finish();
    let refuses = |scanner: &str| request(squid.port(), scanner, "GET", "/", "").is_ok_and(|reply| reply.status == 429);
    wait_until("both workers are back", || (0..6).all(|_| refuses("198.51.100.1")));
    let (bans, lost) = scanners.lost(&squid, &daemon);
    let (by_verdict, by_squid) = squid.refusals("192.0.2.");
    eprintln!(
        "two workers, {times} times each: squid -k rotate, squid -k reconfigure, kill -9 of the helpers, kill -9 of the daemon; {bans} bans, \
         {lost} lost; of {} innocents refused by a verdict {by_verdict}, by Squid itself {by_squid}, connections broken {}; workers aborted by \
         themselves {} times",
        tally.served + tally.refused,
        tally.broken,
        squid.aborts()
    );
    assert_eq!((lost, by_verdict, tally.refused), (0, 0, 0), "{tally:?}");
}
