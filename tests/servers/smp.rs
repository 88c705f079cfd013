//! Squid with several workers: each has helpers of its own, and all share one table.

use std::fs;
use std::path::Path;

use super::harness::{Origin, Resident, Squid, Stage, get, give, until};

/// Where Squid's processes meet: compiled into it, and made by Debian's service as it starts.
struct MeetingPlace {
    was_there: bool,
}

impl MeetingPlace {
    const DIR: &str = "/run/squid";

    fn open() -> Self {
        let was_there = Path::new(Self::DIR).exists();
        if !was_there {
            fs::create_dir(Self::DIR).unwrap();
            give(Path::new(Self::DIR), "proxy");
        }
        Self { was_there }
    }
}

impl Drop for MeetingPlace {
    fn drop(&mut self) {
        if !self.was_there {
            let _ = fs::remove_dir(Self::DIR);
        }
    }
}

#[test]
fn two_workers_count_and_refuse_together() {
    let Some(stage) = Stage::with_squid() else { return };
    if !rustix::process::geteuid().is_root() {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped the SMP test: Squid's workers talk below /run/squid, where only root may write");
        return;
    }
    let _meeting_place = MeetingPlace::open();
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
