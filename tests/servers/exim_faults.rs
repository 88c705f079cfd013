//! Faults behind Exim: whatever happens to the daemon or the helper, mail goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Daemon, Stage, kill, long, running, wait_for, wait_until};
use crate::rig::{Exim, Load, Mail};

const EXAMPLES: [&str; 2] = ["exim-readsocket.acl", "exim-run.acl"];

#[test]
fn mail_goes_on_while_the_daemon_is_killed_again_and_again() {
    for example in EXAMPLES {
        let Some(stage) = Stage::with_exim() else { return };
        let mut daemon = stage.daemon("");
        let exim = Exim::start(&stage, &stage.exim_example(example));
        let load = Load::mail(exim.port(), 3);
        let times = long(3, 50);
        for _ in 0..times {
            load.serve(10);
            daemon.kill();
            load.serve(10);
            assert_eq!(Mail::connect(exim.port(), "203.0.113.9").unwrap().send().unwrap(), 250, "{example}");
            daemon = Daemon::start_again(&stage);
        }
        load.serve(10);
        let tally = load.finish();
        eprintln!("{example}: {times} times kill -9 of the daemon; innocents: {tally:?}");
        assert_eq!((tally.refused, tally.broken), (0, 0), "{example}: {tally:?}");
        assert_eq!(exim.paniclog(), "", "{example}");
    }
}

/// Three bots connect as fast as they can, with innocent clients among them, while the daemon and helpers are killed.
fn flood(example: &str) {
    let Some(stage) = Stage::with_exim() else { return };
    let mut daemon = stage.daemon("");
    let exim = Exim::start(&stage, &stage.exim_example(example));
    let bots = Load::mail_from(exim.port(), 3, |bot, _| format!("198.51.100.{bot}"));
    let is_banned = |daemon: &Daemon, bot: u8| daemon.ask(&format!("check 198.51.100.{bot}")).starts_with("defer rule=exim-rate");
    wait_until("the bots are banned", || (1..=3).all(|bot| is_banned(&daemon, bot)));
    let innocents = Load::mail(exim.port(), 3);
    let (times, mut lost, mut helpers) = (long(3, 50), 0, 0);
    for _ in 0..times {
        innocents.serve(10);
        daemon.kill();
        innocents.serve(5);
        daemon = Daemon::start_again(&stage);
        lost += (1..=3).filter(|bot| !is_banned(&daemon, *bot)).count();
        if example == "exim-run.acl" {
            // Helpers live for milliseconds: this kills those that run right now.
            helpers += wait_for("helpers to kill", || {
                let found = running(&stage.program("exim_strikeout_acl"));
                found.iter().for_each(|pid| kill(*pid, Signal::KILL));
                Some(found.len()).filter(|killed| *killed > 0)
            });
        }
    }
    innocents.serve(10);
    let (innocents, bots) = (innocents.finish(), bots.finish());
    eprintln!(
        "{example} under a flood: {times} times kill -9 of the daemon, {helpers} helpers killed; {lost} bans lost; innocents: {innocents:?}; \
         bots: {} refused, {} greeted while nobody could be asked or before their ban",
        bots.refused, bots.served
    );
    assert_eq!((lost, innocents.refused, innocents.broken), (0, 0, 0), "{innocents:?}");
    assert!(bots.refused > times, "{bots:?}");
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn readsocket_acl_under_a_flood_with_kills_greets_every_innocent_client_and_loses_no_ban() {
    flood(EXAMPLES[0]);
}

#[test]
fn run_acl_under_a_flood_with_kills_greets_every_innocent_client_and_loses_no_ban() {
    flood(EXAMPLES[1]);
}

#[test]
fn mail_goes_on_while_the_daemon_hangs() {
    for example in EXAMPLES {
        let Some(stage) = Stage::with_exim() else { return };
        let daemon = stage.daemon("");
        let exim = Exim::start(&stage, &stage.exim_example(example));
        daemon.signal(Signal::STOP);
        let start = Instant::now();
        assert_eq!(Mail::connect(exim.port(), "203.0.113.9").unwrap().send().unwrap(), 250, "{example}");
        // Exim waits at most two seconds; the rest is for a busy machine.
        assert!(start.elapsed() < Duration::from_secs(8), "{example}: {:?}", start.elapsed());
        kill(daemon.pid(), Signal::CONT);
    }
}

#[test]
fn mail_goes_on_without_daemon_or_permission() {
    for example in EXAMPLES {
        let Some(stage) = Stage::with_exim() else { return };
        let exim = Exim::start(&stage, &stage.exim_example(example));
        assert_eq!(Mail::code(exim.port(), "203.0.113.9"), 220, "{example}: no socket at all");
        let _daemon = stage.daemon("");
        fs::set_permissions(stage.socket(), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Mail::code(exim.port(), "203.0.113.9"), 220, "{example}: no permission");
    }
}

/// Helpers that fail: what each does, and what it prints.
const FOOLISH: &[(&str, &str)] = &[
    ("is missing", ""),
    ("may not be run", "not executable"),
    ("dies of a signal", "#!/bin/sh\nkill -9 $$\n"),
    ("stops", "#!/bin/sh\nkill -STOP $$\n"),
    ("says nothing", "#!/bin/sh\nexit 0\n"),
    ("fails", "#!/bin/sh\necho 'thread main panicked: deny' >&2\nexit 101\n"),
    ("babbles", "#!/bin/sh\nhead -c 100000 /dev/urandom\n"),
];

#[test]
fn mail_goes_on_with_a_helper_that_fails_in_any_way() {
    for (fault, script) in FOOLISH {
        let Some(stage) = Stage::with_exim() else { return };
        let acl = stage.exim_example("exim-run.acl").replace("/bin/exim_strikeout_acl", "/failing_helper");
        if !script.is_empty() {
            let mode = if script.starts_with("#!") { 0o755 } else { 0o644 };
            fs::set_permissions(stage.write("failing_helper", script), fs::Permissions::from_mode(mode)).unwrap();
        }
        let exim = Exim::start(&stage, &acl);
        let code = Mail::connect(exim.port(), "203.0.113.9").unwrap().send().unwrap();
        assert_eq!(code, 250, "a helper that {fault}");
    }
}
