//! A disk that is full, read-only or damaged: verdicts go on, `status` says so, and it heals by itself.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::processes::{Helper, Resident, Stage, is_root, until};

/// A file system of 512 KiB in place of the state file's directory, for as long as the value lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(stage: &Stage) -> Option<Self> {
        if !is_root("mount a small disk") {
            return None;
        }
        let path = stage.path("state");
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(&path).output().unwrap();
        if !mounted.status.success() {
            let _ = writeln!(std::io::stderr(), "skipped: no tmpfs can be mounted: {}", String::from_utf8_lossy(&mounted.stderr).trim());
            return None;
        }
        Some(Self(path))
    }

    fn remount(&self, option: &str) {
        assert!(Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Strikes out clients from `first` on; each is refused at once, whatever the disk does.
fn strike_out(helper: &mut Helper, numbers: std::ops::Range<u32>) -> Vec<String> {
    let mut quickest = Duration::MAX;
    let clients: Vec<String> = numbers.map(|number| format!("10.1.{}.{}", number / 250, number % 250 + 1)).collect();
    for client in &clients {
        let (answer, took) = helper.timed(&format!("{client} GET http://example.test/w00tw00t {} - -", "x".repeat(200)));
        assert!(answer.starts_with("OK "), "{client}: {answer}");
        assert!(helper.refuses(client));
        quickest = quickest.min(took);
    }
    assert!(quickest < Duration::from_millis(200), "{quickest:?}");
    clients
}

fn all_stand(resident: &Resident<'_>, clients: &[String]) {
    for client in clients {
        assert!(resident.ask(&format!("check {client} port=25")).starts_with("defer"), "{client}");
    }
}

#[test]
fn a_full_disk_is_told_verdicts_go_on_and_it_heals_by_itself() {
    let stage = Stage::new();
    let Some(disk) = SmallDisk::mount(&stage) else { return };
    let resident = Resident::start(&stage, "", "");
    let mut helper = Helper::attach(&stage);
    let mut clients = strike_out(&mut helper, 0..5);
    assert_eq!(resident.status("state"), "ok");
    let filler = disk.0.join("filler");
    drop(fs::write(&filler, vec![0; 1 << 20]));
    let mut number = 5;
    until("the disk is full", || {
        clients.append(&mut strike_out(&mut helper, number..number + 5));
        number += 5;
        resident.status("state").starts_with("degraded: ").then_some(())
    });
    assert!(resident.status("state").contains("full"), "{}", resident.status("state"));
    clients.append(&mut strike_out(&mut helper, number..number + 5));
    assert!(!helper.refuses("192.0.2.1"));
    fs::remove_file(filler).unwrap();
    until("it heals", || (resident.status("state") == "ok" && resident.status("state_unsaved") == "0").then_some(()));
    resident.end(Signal::KILL);
    all_stand(&Resident::start_again(&stage), &clients);
}

#[test]
fn bans_on_a_read_only_disk_stand_new_ones_are_made_and_it_heals_by_itself() {
    let stage = Stage::new();
    let Some(disk) = SmallDisk::mount(&stage) else { return };
    let resident = Resident::start(&stage, "", "");
    assert!(resident.ask("ban 203.0.113.1 1h").starts_with("banned "));
    resident.end(Signal::TERM);
    disk.remount("ro");
    let resident = Resident::start_again(&stage);
    assert!(resident.status("state").starts_with("degraded: "), "{}", resident.status("state"));
    assert!(resident.log().contains("bans are in memory only"), "{}", resident.log());
    let mut helper = Helper::attach(&stage);
    assert!(helper.refuses("203.0.113.1"));
    let clients = strike_out(&mut helper, 0..5);
    disk.remount("rw");
    until("it heals", || (resident.status("state") == "ok" && resident.status("state_unsaved") == "0").then_some(()));
    resident.end(Signal::KILL);
    let resident = Resident::start_again(&stage);
    all_stand(&resident, &clients);
    all_stand(&resident, &["203.0.113.1".to_owned()]);
}

#[test]
fn a_state_file_that_is_damaged_or_of_a_later_version_is_set_aside_and_service_goes_on() {
    for (fault, said, aside) in [
        ("damaged", "file is not a database; set aside as ", ".corrupt-"),
        ("later", "found a state file of version 99, expected version 1 at most; set aside as ", ".version-99-"),
    ] {
        let stage = Stage::new();
        let resident = Resident::start(&stage, "", "");
        assert!(resident.ask("ban 203.0.113.1 1h").starts_with("banned "));
        resident.end(Signal::TERM);
        let file = stage.path("state/strikeout.db");
        if fault == "damaged" {
            fs::write(&file, "no state file ".repeat(1000)).unwrap();
        } else {
            rusqlite::Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        }
        let resident = Resident::start_again(&stage);
        assert!(resident.log().contains(said), "{}", resident.log());
        let names: Vec<String> =
            fs::read_dir(stage.path("state")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().any(|name| name.starts_with(&format!("strikeout.db{aside}"))), "{names:?}");
        assert_eq!(resident.status("state"), "ok");
        let mut helper = Helper::attach(&stage);
        let clients = strike_out(&mut helper, 0..3);
        resident.end(Signal::KILL);
        all_stand(&Resident::start_again(&stage), &clients);
    }
}

#[test]
fn strikes_below_their_threshold_are_saved_once_a_minute() {
    if std::env::var_os("STRIKEOUT_LONG").is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: it takes a minute, and runs with STRIKEOUT_LONG=1; the save at a clean end is tested by itself"
        );
        return;
    }
    let stage = Stage::new();
    let resident = Resident::start(&stage, "", "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 2\nfindtime = '1h'\n");
    assert_eq!(resident.ask("strike 203.0.113.1 helo"), "accept\n");
    let file = stage.path("state/strikeout.db");
    let saved = || rusqlite::Connection::open(&file).unwrap().query_row("SELECT count(*) FROM strike", [], |row| row.get(0)).unwrap_or(0);
    let start = std::time::Instant::now();
    while saved() == 0 {
        assert!(start.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(200));
    }
    resident.end(Signal::KILL);
    let resident = Resident::start_again(&stage);
    assert!(resident.ask("strike 203.0.113.1 helo").starts_with("defer rule=helo"));
}
