//! The state file under faults: kill -9, damage, full and read-only disks, several processes on one file.
//!
//! A child process is this test binary again, told by an environment variable what to play.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use strikeout::client::Client;
use strikeout::clock::Clock;
use strikeout::engine::{BanRecord, Change, Keeper, Kept};
use strikeout::event::Scope;
use strikeout::rule::Evidence;
use strikeout::state::{Health, Known, News, Reader, Strike, Writer};
use strikeout::table::{Counter, Until};
use strikeout::time::{Span, Time};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn now() -> Time {
    Clock::start().now()
}

fn ban(number: u32) -> Change {
    let now = now();
    Change::Banned(BanRecord {
        client: client(number),
        scope: Scope::All,
        rule: Arc::from("w00tw00t"),
        first: now,
        since: now,
        until: Until::at(now.after(Span::from_secs(3600))),
        count: 1,
        times: 1,
        evidence: Evidence::new(&[b"GET /w00tw00t"]),
        node: Arc::from(""),
    })
}

fn client(number: u32) -> Client {
    Client::from(Ipv4Addr::from(0x0a00_0000 + number))
}

/// What a process has loaded from the file and heard of it.
#[derive(Clone, Default)]
struct Heard {
    news: Arc<Mutex<Vec<News>>>,
    clients: Arc<Mutex<BTreeSet<Client>>>,
}

impl Heard {
    fn known(&self, known: &Known) {
        let mut clients = self.clients.lock().unwrap();
        match known {
            Known::Change(Change::Banned(ban)) => _ = clients.insert(ban.client),
            Known::Change(Change::Unbanned { client, .. }) => _ = clients.remove(client),
            _ => {}
        }
    }

    fn clients(&self) -> BTreeSet<Client> {
        self.clients.lock().unwrap().clone()
    }

    fn notices(&self) -> Vec<String> {
        let notice = |news: &News| if let News::Notice(text) = news { Some(text.clone()) } else { None };
        self.news.lock().unwrap().iter().filter_map(notice).collect()
    }

    fn has(&self, wanted: impl Fn(&News) -> bool) -> bool {
        self.news.lock().unwrap().iter().any(wanted)
    }
}

fn start(path: &Path) -> (Writer, Heard) {
    let heard = Heard::default();
    let (clock, listener, loaded) = (Clock::start(), heard.clone(), heard.clone());
    let hear = move |news: News| {
        if let News::Known(known) = &news {
            known.iter().for_each(|known| listener.known(known));
        }
        listener.news.lock().unwrap().push(news);
    };
    let writer = Writer::start(path.to_owned(), move || clock.now(), hear, &mut |known| loaded.known(&known)).unwrap();
    (writer, heard)
}

fn keep(writer: &Writer, change: Change) -> Receiver<Kept> {
    let (sender, receiver) = channel();
    writer.keep(change, Box::new(move |kept| sender.send(kept).unwrap_or_default()));
    receiver
}

fn kept(writer: &Writer, change: Change) -> Kept {
    keep(writer, change).recv_timeout(PATIENCE).unwrap()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    names.sort();
    names
}

/// A process that bans clients from `first` on, and prints the number of each ban that it may answer.
fn child(test: &str, path: &Path, first: u32, count: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env("STRIKEOUT_CHILD", path)
        .env("STRIKEOUT_CHILD_BANS", format!("{first} {count}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// In a child: bans and answers, then stays until it is killed. Elsewhere nothing.
fn play_child() -> bool {
    let Some(path) = std::env::var_os("STRIKEOUT_CHILD") else { return false };
    let bans = std::env::var("STRIKEOUT_CHILD_BANS").unwrap();
    let (first, count) = bans.split_once(' ').unwrap();
    let (first, count): (u32, u32) = (first.parse().unwrap(), count.parse().unwrap());
    let (writer, _) = start(&PathBuf::from(path));
    for number in first..first.saturating_add(count) {
        // Some thousands wait at a time, as in a flood.
        let (sender, receiver) = channel();
        writer.keep(
            ban(number),
            Box::new(move |kept| {
                assert_eq!(kept, Kept::Yes);
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
    // The test runner writes its own words on the same line.
    line.split("answered ").nth(1)?.trim().parse().ok()
}

#[test]
fn kill_9_loses_no_answered_ban() {
    if play_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut all = BTreeSet::new();
    let rounds: u32 = if std::env::var_os("STRIKEOUT_LONG").is_some() { 60 } else { 5 };
    for round in 0..rounds {
        let mut child = child("kill_9_loses_no_answered_ban", &path, round * 100_000, 100_000);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Now in its first groups, now while the log is moved.
        let enough = [1, 100, 500, 2500, 5000][round as usize % 5];
        for number in lines.by_ref().map_while(Result::ok).filter_map(|line| answered(&line)).take(enough) {
            all.insert(client(number));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What stood in the pipe was answered as well.
        all.extend(lines.map_while(Result::ok).filter_map(|line| answered(&line)).map(client));
        let (_writer, heard) = start(&path);
        let lost: Vec<_> = all.difference(&heard.clients()).copied().collect();
        assert!(lost.is_empty(), "round {round}: {} of {} lost", lost.len(), all.len());
    }
    println!("killed {rounds} times: {} bans answered, none lost", all.len());
    assert!(all.len() >= 8101);
}

#[test]
fn a_ban_by_one_process_is_known_to_another_within_a_second() {
    if play_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (writer, heard) = start(&path);
    assert_eq!(kept(&writer, ban(7)), Kept::Yes);
    let mut child = child("a_ban_by_one_process_is_known_to_another_within_a_second", &path, 100, 1);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.by_ref().map_while(Result::ok).find_map(|line| answered(&line)).unwrap();
    let begin = Instant::now();
    wait_for("the other's ban", || heard.clients().contains(&client(100)));
    let took = begin.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn two_processes_on_one_file_both_save_all_their_bans() {
    if play_child() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut children: Vec<Child> =
        (0..2).map(|number| child("two_processes_on_one_file_both_save_all_their_bans", &path, number * 10_000, 3000)).collect();
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
    let (_writer, heard) = start(&path);
    assert_eq!(heard.clients(), all.into_iter().map(client).collect());
}

#[test]
fn answers_come_in_the_order_of_the_bans() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = start(&dir.path().join("state.db"));
    let (sender, receiver) = channel();
    for number in 0..5000 {
        let sender = sender.clone();
        writer.keep(ban(number), Box::new(move |kept| sender.send((number, kept)).unwrap()));
    }
    let flushed = sender.clone();
    writer.flush(Box::new(move |kept| flushed.send((5000, kept)).unwrap()));
    for number in 0..=5000 {
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), (number, Kept::Yes));
    }
}

#[test]
fn a_panic_of_one_answer_leaves_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = start(&dir.path().join("state.db"));
    writer.keep(ban(1), Box::new(|_| panic!("meant")));
    assert_eq!(kept(&writer, ban(2)), Kept::Yes);
}

#[test]
fn a_clean_end_saves_all_that_was_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (writer, _) = start(&path);
    let strike = |number| Strike {
        client: client(number),
        rule: Arc::from("r"),
        counter: Counter::new(now(), 2),
        until: now().after(Span::from_secs(600)),
    };
    let (sender, receiver) = channel();
    writer.keep_strikes((0..5000).map(strike).collect(), Box::new(move |kept| sender.send(kept).unwrap()));
    (0..3000).for_each(|number| drop(keep(&writer, ban(number))));
    assert!(writer.finish(PATIENCE));
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), Kept::Yes);
    assert!(matches!(kept(&writer, ban(9999)), Kept::No(why) if why.contains("has ended")));
    let (mut bans, mut strikes) = (0, 0);
    let clock = Clock::start();
    let count = &mut |known| match known {
        Known::Change(_) => bans += 1,
        Known::Strike(_) => strikes += 1,
        _ => {}
    };
    let _writer = Writer::start(path, move || clock.now(), |_| (), count).unwrap();
    assert_eq!((bans, strikes), (3000, 5000));
}

#[test]
fn a_damaged_file_is_set_aside_and_service_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    std::fs::write(&path, "no state file ".repeat(1000)).unwrap();
    let (writer, heard) = start(&path);
    assert_eq!(kept(&writer, ban(1)), Kept::Yes);
    assert_eq!(writer.health(), Health { saved: 1, ..Health::default() });
    let notices = heard.notices();
    assert!(notices.len() == 1 && notices[0].contains("file is not a database; set aside as"), "{notices:?}");
    assert_eq!(files(dir.path()).len(), 2);
}

#[test]
fn damage_that_appears_while_running_is_set_aside_and_all_bans_are_asked_for_again() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    {
        let (writer, _) = start(&path);
        (0..20_000).for_each(|number| drop(keep(&writer, ban(number))));
        assert!(writer.finish(PATIENCE));
    }
    let (writer, heard) = start(&path);
    let disk = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let length = disk.metadata().unwrap().len();
    disk.write_all_at(&vec![0xa5; usize::try_from(length).unwrap() - 8192], 8192).unwrap();
    wait_for("a save that meets the damage", || {
        let number = 1_000_000 + u32::try_from(heard.news.lock().unwrap().len()).unwrap();
        drop(kept(&writer, ban(number)));
        heard.has(|news| *news == News::Resend { all: true })
    });
    assert!(heard.notices()[0].contains("malformed; set aside as"), "{:?}", heard.notices());
    assert_eq!(kept(&writer, ban(2_000_000)), Kept::Yes);
}

#[test]
fn whatever_is_damaged_the_next_ban_is_saved_and_loaded_again() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.db");
    {
        let (writer, _) = start(&whole);
        (0..2000).for_each(|number| drop(keep(&writer, ban(number))));
        assert!(writer.finish(PATIENCE));
    }
    let length = std::fs::metadata(&whole).unwrap().len();
    // A fixed sequence of places, lengths and bytes (a linear congruential generator): the same damage in every run.
    let mut state = 1_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut bans_left = 0;
    for case in 0..40 {
        let path = dir.path().join(format!("{case}.db"));
        std::fs::copy(&whole, &path).unwrap();
        let disk = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let place = if case % 4 == 0 { next(200) } else { next(length) };
        if case % 5 == 0 {
            disk.set_len(place).unwrap();
        } else {
            let byte = u8::try_from(next(256)).unwrap();
            let bytes = vec![byte; usize::try_from(1 + next(if case % 2 == 0 { 8 } else { 20_000 })).unwrap()];
            disk.write_all_at(&bytes, place).unwrap();
        }
        drop(disk);
        let (writer, _) = start(&path);
        wait_for(&format!("a ban to be saved, case {case}, damage at {place}"), || match kept(&writer, ban(1_000_000)) {
            Kept::Yes => true,
            Kept::No(why) => {
                println!("case {case}: {why}");
                false
            }
        });
        assert!(writer.finish(PATIENCE));
        let (_writer, heard) = start(&path);
        assert!(heard.clients().contains(&client(1_000_000)), "case {case}, damage at {place}");
        bans_left += heard.clients().len() - 1;
    }
    assert!(bans_left > 40 * 2000 / 4, "{bans_left} of {} bans were left", 40 * 2000);
}

#[test]
fn a_file_that_was_deleted_is_made_anew_and_all_bans_are_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (writer, heard) = start(&path);
    assert_eq!(kept(&writer, ban(1)), Kept::Yes);
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{suffix}", path.display())).unwrap();
    }
    assert_eq!(kept(&writer, ban(2)), Kept::Yes);
    wait_for("the bans to be asked for", || heard.has(|news| *news == News::Resend { all: true }));
    let (_other, known) = start(&path);
    assert_eq!(known.clients(), [client(2)].into());
}

#[test]
fn a_directory_that_comes_later_is_used_then_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later").join("state.db");
    let (writer, heard) = start(&path);
    assert!(matches!(kept(&writer, ban(1)), Kept::No(why) if why.contains("state.db: No such file or directory")));
    assert_eq!(writer.health().unsaved, 1);
    assert!(writer.health().degraded.is_some());
    std::fs::create_dir(dir.path().join("later")).unwrap();
    wait_for("the disk to heal", || writer.health().degraded.is_none());
    assert!(heard.has(|news| *news == News::Healed));
    assert_eq!(kept(&writer, ban(2)), Kept::Yes);
    let (_other, known) = start(&path);
    assert_eq!(known.clients(), [client(1), client(2)].into());
}

#[test]
fn while_another_process_holds_the_file_bans_are_put_off_and_saved_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (writer, _) = start(&path);
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begin = Instant::now();
    assert!(matches!(kept(&writer, ban(1)), Kept::No(why) if why.contains("database is locked")));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    holder.execute_batch("COMMIT").unwrap();
    wait_for("the ban to be saved", || writer.health() == Health { saved: 0, failed: 1, ..Health::default() });
    let found = Reader::new(path).find(client(1), now()).unwrap();
    assert_eq!(found.len(), 1);
}

#[test]
fn that_a_ban_was_lifted_is_saved_however_many_bans_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (writer, _) = start(&path);
    assert_eq!(kept(&writer, ban(0)), Kept::Yes);
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut numbers = 1..;
    wait_for("the queue to be full", || {
        let refused = |number| matches!(keep(&writer, ban(number)).try_recv(), Ok(Kept::No(why)) if why.contains("too many bans wait"));
        numbers.by_ref().take(20_000).any(refused)
    });
    let lifted = keep(&writer, Change::Unbanned { client: client(0), scope: Scope::All, at: now() });
    assert!(lifted.try_recv().is_err(), "it waits");
    holder.execute_batch("COMMIT").unwrap();
    drop(lifted.recv_timeout(PATIENCE).unwrap());
    wait_for("all to be saved", || writer.health().unsaved == 0 && writer.health().degraded.is_none());
    assert!(writer.finish(PATIENCE));
    let (_other, known) = start(&path);
    assert!(!known.clients().contains(&client(0)) && known.clients().contains(&client(1)));
}

/// A small file system of its own, for as long as the value lives. `None`, with the reason printed, where it cannot be mounted.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            Ok(output) => {
                println!("skipped: no tmpfs can be mounted: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: no tmpfs can be mounted: {error}");
                None
            }
        }
    }

    fn remount(&self, option: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(self.0.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_is_told_and_heals_by_itself() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.0.path().join("state.db");
    let (writer, heard) = start(&path);
    assert_eq!(kept(&writer, ban(0)), Kept::Yes);
    // Less than a page is left.
    let filler = disk.0.path().join("filler");
    drop(std::fs::write(&filler, vec![0; 1 << 20]));
    let mut number = 0;
    wait_for("the disk to be full", || {
        number += 1;
        kept(&writer, ban(number)) != Kept::Yes
    });
    let degraded = writer.health().degraded.unwrap();
    assert!(degraded.contains("state.db: ") && degraded.contains("full"), "{degraded}");
    assert!(writer.health().unsaved > 0);
    std::fs::remove_file(filler).unwrap();
    wait_for("the disk to heal", || writer.health().degraded.is_none());
    assert!(heard.has(|news| *news == News::Healed));
    assert_eq!(kept(&writer, ban(number + 1)), Kept::Yes);
    let (other, known) = start(&path);
    assert_eq!(known.clients(), (0..=number + 1).map(client).collect());
    // Its own bans are no news to a process, although it has opened the file anew.
    assert_eq!(kept(&other, ban(1_000_000)), Kept::Yes);
    wait_for("the other's ban", || !heard.clients().is_empty());
    assert_eq!(heard.clients(), [client(1_000_000)].into());
}

#[test]
fn bans_of_a_read_only_disk_stand_and_it_heals_by_itself() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.0.path().join("state.db");
    {
        let (writer, _) = start(&path);
        assert_eq!(kept(&writer, ban(1)), Kept::Yes);
        assert!(writer.finish(PATIENCE));
    }
    disk.remount("ro");
    let (writer, heard) = start(&path);
    assert_eq!(heard.clients(), [client(1)].into());
    assert!(matches!(kept(&writer, ban(2)), Kept::No(why) if why.contains("Read-only")));
    disk.remount("rw");
    wait_for("the disk to heal", || writer.health().degraded.is_none());
    assert_eq!(kept(&writer, ban(3)), Kept::Yes);
    let (_other, known) = start(&path);
    assert_eq!(known.clients(), [client(1), client(2), client(3)].into());
}
