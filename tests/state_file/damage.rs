//! A damaged, deleted or missing file.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use strikeout::internals::engine::Persisted;
use strikeout::internals::state::{StateHealth, WriterEvent};

use crate::fixture::{ban, client, persist, persist_and_wait, start};
use crate::harness::{DEADLINE, wait_until};

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    names.sort();
    names
}

/// Leaves a file with this number of bans, properly closed.
fn write_bans(path: &Path, count: u32) {
    let (writer, _) = start(path);
    (0..count).for_each(|number| drop(persist(&writer, ban(number))));
    assert!(writer.finish(DEADLINE));
}

#[test]
fn a_damaged_file_is_quarantined_and_saving_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    fs::write(&path, "not a state file ".repeat(1000)).unwrap();
    let (writer, observed) = start(&path);
    assert_eq!(persist_and_wait(&writer, ban(1)), Persisted::Yes);
    assert_eq!(writer.health(), StateHealth { saved: 1, ..StateHealth::default() });
    let notices = observed.notices();
    assert!(
        notices.len() == 2
            && notices[0].contains("file is not a database; renamed to")
            && notices[1].contains("nothing could be recovered"),
        "{notices:?}"
    );
    assert_eq!(files(dir.path()).len(), 2);
}

#[test]
fn a_file_damaged_while_running_is_quarantined_and_all_bans_are_requested_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    write_bans(&path, 20_000);
    let (writer, observed) = start(&path);
    let disk = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let length = disk.metadata().unwrap().len();
    disk.write_all_at(&vec![0xa5; usize::try_from(length).unwrap() - 8192], 8192).unwrap();
    wait_until("a save that meets the damage", || {
        let number = 1_000_000 + u32::try_from(observed.event_count()).unwrap();
        drop(persist_and_wait(&writer, ban(number)));
        observed.has(|event| *event == WriterEvent::Resend { all: true })
    });
    assert!(observed.notices()[0].contains("malformed; renamed to"), "{:?}", observed.notices());
    assert_eq!(persist_and_wait(&writer, ban(2_000_000)), Persisted::Yes);
}

#[test]
fn after_any_damage_the_next_ban_is_saved_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.db");
    write_bans(&whole, 2000);
    let length = fs::metadata(&whole).unwrap().len();
    // A linear congruential generator, for the same offsets, lengths and bytes in every run.
    let mut state = 1_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut bans_left = 0;
    for case in 0..40 {
        let path = dir.path().join(format!("{case}.db"));
        fs::copy(&whole, &path).unwrap();
        let disk = fs::OpenOptions::new().write(true).open(&path).unwrap();
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
        wait_until(&format!("a ban to be saved, case {case}, damage at {place}"), || match persist_and_wait(&writer, ban(1_000_000)) {
            Persisted::Yes => true,
            Persisted::No(why) => {
                println!("case {case}: {why}");
                false
            }
        });
        assert!(writer.finish(DEADLINE));
        let (_writer, observed) = start(&path);
        assert!(observed.clients().contains(&client(1_000_000)), "case {case}, damage at {place}");
        bans_left += observed.clients().len() - 1;
    }
    assert!(bans_left > 40 * 2000 / 4, "{bans_left} of {} bans were left", 40 * 2000);
}

#[test]
fn no_single_damaged_page_disables_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.db");
    write_bans(&whole, 400);
    let pages = fs::metadata(&whole).unwrap().len() / 4096;
    let mut lost = 0;
    for page in 0..pages {
        let path = dir.path().join(format!("{page}.db"));
        fs::copy(&whole, &path).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0; 4096], page * 4096).unwrap();
        let (writer, observed) = start(&path);
        assert_eq!(persist_and_wait(&writer, ban(1_000_000)), Persisted::Yes, "page {page}");
        // A ban takes about a hundred bytes, so a page holds about forty.
        let bans = observed.clients().len();
        assert!((340..=400).contains(&bans), "page {page}: {bans} of 400 bans are loaded");
        lost += 400 - bans;
    }
    assert!((300..=400).contains(&lost), "each ban is on one page: {lost} bans lost on {pages} pages");
}

#[test]
fn a_deleted_file_is_created_again_and_all_bans_are_requested_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (writer, observed) = start(&path);
    assert_eq!(persist_and_wait(&writer, ban(1)), Persisted::Yes);
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(format!("{}{suffix}", path.display())).unwrap();
    }
    assert_eq!(persist_and_wait(&writer, ban(2)), Persisted::Yes);
    wait_until("the request to resend all bans", || observed.has(|event| *event == WriterEvent::Resend { all: true }));
    let (_other, loaded) = start(&path);
    assert_eq!(loaded.clients(), [client(2)].into());
}

#[test]
fn a_directory_created_later_is_used_and_no_ban_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later").join("state.db");
    let (writer, observed) = start(&path);
    assert!(matches!(persist_and_wait(&writer, ban(1)), Persisted::No(why) if why.contains("state.db: No such file or directory")));
    assert_eq!(writer.health().unsaved, 1);
    assert!(writer.health().degraded.is_some());
    fs::create_dir(dir.path().join("later")).unwrap();
    wait_until("saving to work again", || writer.health().degraded.is_none());
    assert!(observed.has(|event| *event == WriterEvent::Recovered));
    assert_eq!(persist_and_wait(&writer, ban(2)), Persisted::Yes);
    let (_other, loaded) = start(&path);
    assert_eq!(loaded.clients(), [client(1), client(2)].into());
}
