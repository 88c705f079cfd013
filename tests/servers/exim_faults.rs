//! Faults behind Exim: whatever happens to the resident or the helper, mail goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::harness::{Exim, Load, Mail, Resident, Stage, kill, long, running, until};

const EXAMPLES: [&str; 2] = ["exim-readsocket.acl", "exim-run.acl"];

#[test]
fn mail_goes_on_while_the_resident_is_killed_again_and_again() {
    for example in EXAMPLES {
        let Some(stage) = Stage::with_exim() else { return };
        let mut resident = Resident::start(&stage, "");
        let exim = Exim::start(&stage, &stage.exim_example(example));
        let load = Load::mail(exim.port(), 3);
        let times = long(3, 50);
        for _ in 0..times {
            load.serve(10);
            resident.kill();
            load.serve(10);
            assert_eq!(Mail::connect(exim.port(), "203.0.113.9").unwrap().send().unwrap(), 250, "{example}");
            resident.start_again();
        }
        load.serve(10);
        let tally = load.finish();
        eprintln!("{example}: {times} times kill -9 of the resident; innocents: {tally:?}");
        assert_eq!((tally.refused, tally.broken), (0, 0), "{example}: {tally:?}");
        assert_eq!(exim.paniclog(), "", "{example}");
    }
}

/// Three that connect as fast as they can, and innocents among them, while resident and helpers are killed.
fn flood(example: &str) {
    let Some(stage) = Stage::with_exim() else { return };
    let mut resident = Resident::start(&stage, "");
    let exim = Exim::start(&stage, &stage.exim_example(example));
    let bots = Load::mail_from(exim.port(), 3, |bot, _| format!("198.51.100.{bot}"));
    let is_banned = |resident: &Resident, bot: u8| resident.ask(&format!("check 198.51.100.{bot}")).starts_with("defer rule=exim-rate");
    until("the bots are banned", || (1..=3).all(|bot| is_banned(&resident, bot)).then_some(()));
    let innocents = Load::mail(exim.port(), 3);
    let (times, mut lost, mut helpers) = (long(3, 50), 0, 0);
    for _ in 0..times {
        innocents.serve(10);
        resident.kill();
        innocents.serve(5);
        resident.start_again();
        lost += (1..=3).filter(|bot| !is_banned(&resident, *bot)).count();
        if example == "exim-run.acl" {
            // They live for milliseconds: whoever is there now is killed.
            helpers += until("helpers to kill", || {
                let found = running(&stage.binary("exim_strikeout_acl"));
                found.iter().for_each(|pid| kill(*pid, Signal::KILL));
                Some(found.len()).filter(|killed| *killed > 0)
            });
        }
    }
    innocents.serve(10);
    let (innocents, bots) = (innocents.finish(), bots.finish());
    eprintln!(
        "{example} under a flood: {times} times kill -9 of the resident, {helpers} helpers killed; {lost} bans lost; innocents: {innocents:?}; \
         bots: {} refused, {} greeted while nobody could be asked or before their ban",
        bots.refused, bots.served
    );
    assert_eq!((lost, innocents.refused, innocents.broken), (0, 0, 0), "{innocents:?}");
    assert!(bots.refused > times, "{bots:?}");
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn readsocket_acl_under_a_flood_greets_every_innocent_and_keeps_every_ban_whatever_is_killed() {
    flood(EXAMPLES[0]);
}

#[test]
fn run_acl_under_a_flood_greets_every_innocent_and_keeps_every_ban_whatever_is_killed() {
    flood(EXAMPLES[1]);
}

#[test]
fn mail_goes_on_while_the_resident_hangs() {
    for example in EXAMPLES {
        let Some(stage) = Stage::with_exim() else { return };
        let resident = Resident::start(&stage, "");
        let exim = Exim::start(&stage, &stage.exim_example(example));
        resident.signal(Signal::STOP);
        let start = Instant::now();
        assert_eq!(Mail::connect(exim.port(), "203.0.113.9").unwrap().send().unwrap(), 250, "{example}");
        // Exim waits for two seconds at most; the rest is for a busy machine.
        assert!(start.elapsed() < Duration::from_secs(8), "{example}: {:?}", start.elapsed());
        kill(resident.pid(), Signal::CONT);
    }
}

#[test]
fn mail_goes_on_without_resident_or_permission() {
    for example in EXAMPLES {
        let Some(stage) = Stage::with_exim() else { return };
        let exim = Exim::start(&stage, &stage.exim_example(example));
        assert_eq!(Mail::code(exim.port(), "203.0.113.9"), 220, "{example}: no socket at all");
        let _resident = Resident::start(&stage, "");
        fs::set_permissions(stage.socket(), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Mail::code(exim.port(), "203.0.113.9"), 220, "{example}: no permission");
    }
}

/// Helpers that fail in every way there is: what they do, and what they print.
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
fn mail_goes_on_whatever_the_helper_does() {
    for (fault, script) in FOOLISH {
        let Some(stage) = Stage::with_exim() else { return };
        let acl = stage.exim_example("exim-run.acl").replace("/bin/exim_strikeout_acl", "/foolish_helper");
        if !script.is_empty() {
            let mode = if script.starts_with("#!") { 0o755 } else { 0o644 };
            fs::set_permissions(stage.write("foolish_helper", script), fs::Permissions::from_mode(mode)).unwrap();
        }
        let exim = Exim::start(&stage, &acl);
        let code = Mail::connect(exim.port(), "203.0.113.9").unwrap().send().unwrap();
        assert_eq!(code, 250, "a helper that {fault}");
    }
}
