//! Faults behind Exim: whatever happens to the resident or the helper, mail goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::harness::{Exim, Load, Mail, Resident, Stage, kill, long};

const EXAMPLES: [&str; 2] = ["exim-readsocket.acl", "exim-run.acl"];

#[test]
fn mail_goes_on_while_the_resident_is_killed_again_and_again() {
    for example in EXAMPLES {
        let Some(stage) = Stage::with_exim() else { return };
        let mut resident = Resident::start(&stage, "");
        let exim = Exim::start(&stage, &stage.exim_example(example));
        let load = Load::mail(exim.port(), 3);
        for _ in 0..long(3, 50) {
            load.serve(10);
            resident.kill();
            load.serve(10);
            assert_eq!(Mail::connect(exim.port(), "203.0.113.9").unwrap().send().unwrap(), 250, "{example}");
            resident.start_again();
        }
        load.serve(10);
        let tally = load.finish();
        assert_eq!((tally.refused, tally.broken), (0, 0), "{example}: {tally:?}");
        assert_eq!(exim.paniclog(), "", "{example}");
    }
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
