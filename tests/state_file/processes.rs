//! Several processes on one file, and processes that are killed. A child process is this test binary again, with the same test.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use strikeout::internals::engine::{Journal, Persisted};
use strikeout::internals::state::{Reader, StateHealth};

use crate::fixture::{ban, client, now, persist_and_wait, start};
use crate::harness::wait_until;

/// A process that bans clients from `first` on, and prints the number of each ban once it is saved.
fn child(test: &str, path: &Path, first: u32, count: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env("STRIKEOUT_CHILD", path)
        .env("STRIKEOUT_CHILD_BANS", format!("{first} {count}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Bans clients until it is killed, if this is a child process; returns false in the parent.
fn run_as_child() -> bool {
    let Some(path) = std::env::var_os("STRIKEOUT_CHILD") else { return false };
    let bans = std::env::var("STRIKEOUT_CHILD_BANS").unwrap();
    let (first, count) = bans.split_once(' ').unwrap();
    let (first, count): (u32, u32) = (first.parse().unwrap(), count.parse().unwrap());
    let (writer, _) = start(&PathBuf::from(path));
    for number in first..first.saturating_add(count) {
        // At most 64 bans wait at a time.
        let (sender, receiver) = channel();
        writer.persist(
            ban(number),
            Box::new(move |persisted| {
                assert_eq!(persisted, Persisted::Yes);
                println!("answered {number}");
                sender.send(()).unwrap_or_default();
            }),
        );
        if number % 64 == 0 {
            receiver.recv().unwrap();
        }
    }
    loop {
        std::thread::park();
    }
}

fn answered(line: &str) -> Option<u32> {
    // The test runner may print on the same line.
    line.split("answered ").nth(1)?.trim().parse().ok()
}

#[test]
fn kill_9_loses_no_answered_ban() {
    if run_as_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut all = BTreeSet::new();
    let rounds: u32 = if std::env::var_os("STRIKEOUT_LONG").is_some() { 60 } else { 5 };
    for round in 0..rounds {
        let mut child = child("processes::kill_9_loses_no_answered_ban", &path, round * 100_000, 100_000);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Kills it during one of its first transactions, or during a checkpoint.
        let enough = [1, 100, 500, 2500, 5000][round as usize % 5];
        for number in lines.by_ref().map_while(Result::ok).filter_map(|line| answered(&line)).take(enough) {
            all.insert(client(number));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Lines that are still in the pipe are answered bans, too.
        all.extend(lines.map_while(Result::ok).filter_map(|line| answered(&line)).map(client));
        let (_writer, observed) = start(&path);
        let lost: Vec<_> = all.difference(&observed.clients()).copied().collect();
        assert!(lost.is_empty(), "round {round}: {} of {} lost", lost.len(), all.len());
    }
    println!("killed {rounds} times: {} bans answered, none lost", all.len());
    assert!(all.len() >= 8101);
}

#[test]
fn a_ban_by_one_process_reaches_another_within_a_second() {
    if run_as_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (writer, observed) = start(&path);
    assert_eq!(persist_and_wait(&writer, ban(7)), Persisted::Yes);
    let mut child = child("processes::a_ban_by_one_process_reaches_another_within_a_second", &path, 100, 1);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.by_ref().map_while(Result::ok).find_map(|line| answered(&line)).unwrap();
    let begin = Instant::now();
    wait_until("the ban by the other process", || observed.clients().contains(&client(100)));
    let took = begin.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn two_processes_on_one_file_both_save_all_their_bans() {
    if run_as_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut children: Vec<Child> =
        (0..2).map(|number| child("processes::two_processes_on_one_file_both_save_all_their_bans", &path, number * 10_000, 3000)).collect();
    let mut all = BTreeSet::new();
    for child in &mut children {
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        all.extend(lines.map_while(Result::ok).filter_map(|line| answered(&line)).take(3000));
    }
    for mut child in children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(all.len(), 6000);
    let (_writer, observed) = start(&path);
    assert_eq!(observed.clients(), all.into_iter().map(client).collect());
}

#[test]
fn bans_made_while_another_process_locks_the_file_are_saved_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (writer, _) = start(&path);
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begin = Instant::now();
    assert!(matches!(persist_and_wait(&writer, ban(1)), Persisted::No(why) if why.contains("database is locked")));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    holder.execute_batch("COMMIT").unwrap();
    wait_until("the ban to be saved", || writer.health() == StateHealth { saved: 0, failed: 1, ..StateHealth::default() });
    let found = Reader::new(path).find_bans(client(1), now()).unwrap();
    assert_eq!(found.len(), 1);
}
