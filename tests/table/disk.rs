//! A full disk, a read-only disk and a damaged file: verdicts continue, `status` shows the fault, and saving resumes by itself.

use std::fs;
use std::io::Write;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Daemon, SmallDisk, SquidHelper, Stage, is_long, wait_for, wait_until};

/// A small disk for the state file's directory.
fn mount(stage: &Stage) -> Option<SmallDisk> {
    fs::create_dir(stage.path("state")).unwrap();
    SmallDisk::mount(&stage.path("state"))
}

/// Bans the clients with these numbers. Each is refused at once, whatever the disk does.
fn strike_out(helper: &mut SquidHelper, numbers: std::ops::Range<u32>) -> Vec<String> {
    let mut fastest = Duration::MAX;
    let clients: Vec<String> = numbers.map(|number| format!("10.1.{}.{}", number / 250, number % 250 + 1)).collect();
    for client in &clients {
        let (answer, took) = helper.timed(&format!("{client} GET http://example.test/w00tw00t {} - -", "x".repeat(200)));
        assert!(answer.starts_with("OK "), "{client}: {answer}");
        assert!(helper.refuses(client));
        fastest = fastest.min(took);
    }
    assert!(fastest < Duration::from_millis(200), "{fastest:?}");
    clients
}

fn assert_banned(daemon: &Daemon, clients: &[String]) {
    for client in clients {
        assert!(daemon.ask(&format!("check {client} port=25")).starts_with("defer"), "{client}");
    }
}

#[test]
fn a_full_disk_is_reported_and_bans_go_on_until_saving_resumes() {
    let stage = Stage::new();
    let Some(_disk) = mount(&stage) else { return };
    let daemon = Daemon::start_on(&stage, "", "");
    let mut helper = SquidHelper::attach(&stage);
    let mut clients = strike_out(&mut helper, 0..5);
    assert_eq!(daemon.status("state"), "ok");
    let filler = stage.path("state/filler");
    drop(fs::write(&filler, vec![0; 1 << 20]));
    let mut number = 5;
    wait_for("the disk to be full", || {
        clients.append(&mut strike_out(&mut helper, number..number + 5));
        number += 5;
        daemon.status("state").starts_with("degraded: ").then_some(())
    });
    assert!(daemon.status("state").contains("full"), "{}", daemon.status("state"));
    clients.append(&mut strike_out(&mut helper, number..number + 5));
    assert!(!helper.refuses("192.0.2.1"));
    fs::remove_file(filler).unwrap();
    wait_until("saving resumes", || daemon.status("state") == "ok" && daemon.status("state_unsaved") == "0");
    daemon.end(Signal::KILL);
    assert_banned(&Daemon::start_again(&stage), &clients);
}

#[test]
fn bans_on_a_read_only_disk_are_in_force_and_new_ones_are_saved_once_it_is_writable() {
    let stage = Stage::new();
    let Some(disk) = mount(&stage) else { return };
    let daemon = Daemon::start_on(&stage, "", "");
    assert!(daemon.ask("ban 203.0.113.1 1h").starts_with(r#"{"banned":"#));
    daemon.end(Signal::TERM);
    disk.remount("ro");
    let daemon = Daemon::start_again(&stage);
    assert!(daemon.status("state").starts_with("degraded: "), "{}", daemon.status("state"));
    assert!(daemon.log().contains("bans are in memory only"), "{}", daemon.log());
    let mut helper = SquidHelper::attach(&stage);
    assert!(helper.refuses("203.0.113.1"));
    let clients = strike_out(&mut helper, 0..5);
    disk.remount("rw");
    wait_until("saving resumes", || daemon.status("state") == "ok" && daemon.status("state_unsaved") == "0");
    daemon.end(Signal::KILL);
    let daemon = Daemon::start_again(&stage);
    assert_banned(&daemon, &clients);
    assert_banned(&daemon, &["203.0.113.1".to_owned()]);
}

#[test]
fn a_damaged_or_newer_state_file_is_quarantined_and_service_goes_on() {
    for (fault, message, suffix) in [
        ("damaged", "file is not a database; renamed to ", ".corrupt-"),
        ("newer", "found a state file of version 99, expected version 1 at most; renamed to ", ".version-99-"),
    ] {
        let stage = Stage::new();
        let daemon = Daemon::start_on(&stage, "", "");
        assert!(daemon.ask("ban 203.0.113.1 1h").starts_with(r#"{"banned":"#));
        daemon.end(Signal::TERM);
        let file = stage.state();
        if fault == "damaged" {
            fs::write(&file, "not a state file ".repeat(1000)).unwrap();
        } else {
            rusqlite::Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        }
        let daemon = Daemon::start_again(&stage);
        assert!(daemon.log().contains(message), "{}", daemon.log());
        let names: Vec<String> =
            fs::read_dir(stage.path("state")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().any(|name| name.starts_with(&format!("strikeout.db{suffix}"))), "{names:?}");
        assert_eq!(daemon.status("state"), "ok");
        let mut helper = SquidHelper::attach(&stage);
        let clients = strike_out(&mut helper, 0..3);
        daemon.end(Signal::KILL);
        assert_banned(&Daemon::start_again(&stage), &clients);
    }
}

#[test]
fn strikes_are_saved_once_a_minute() {
    if !is_long() {
        let _ = writeln!(std::io::stderr(), "skipped: takes a minute; set STRIKEOUT_LONG=1 to run it");
        return;
    }
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 2\nfindtime = '1h'\n");
    assert_eq!(daemon.ask("strike 203.0.113.1 helo"), "accept\n");
    let file = stage.state();
    let saved = || rusqlite::Connection::open(&file).unwrap().query_row("SELECT count(*) FROM strike", [], |row| row.get(0)).unwrap_or(0);
    let start = std::time::Instant::now();
    while saved() == 0 {
        assert!(start.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(200));
    }
    daemon.end(Signal::KILL);
    let daemon = Daemon::start_again(&stage);
    assert!(daemon.ask("strike 203.0.113.1 helo").starts_with("defer rule=helo"));
}
