//! A full and a read-only disk.

use std::fs;

use strikeout::internals::engine::Persisted;
use strikeout::internals::state::WriterEvent;

use crate::fixture::{ban, client, persist_and_wait, start};
use crate::harness::{DEADLINE, SmallDisk, wait_until};

#[test]
fn a_full_disk_is_reported_and_saving_resumes_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path()) else { return };
    let path = dir.path().join("state.db");
    let (writer, observed) = start(&path);
    assert_eq!(persist_and_wait(&writer, ban(0)), Persisted::Yes);
    // Leaves less than a page of free space.
    let filler = dir.path().join("filler");
    drop(fs::write(&filler, vec![0; 1 << 20]));
    let mut number = 0;
    wait_until("the disk to be full", || {
        number += 1;
        persist_and_wait(&writer, ban(number)) != Persisted::Yes
    });
    let degraded = writer.health().degraded.unwrap();
    assert!(degraded.contains("state.db: ") && degraded.contains("full"), "{degraded}");
    assert!(writer.health().unsaved > 0);
    fs::remove_file(filler).unwrap();
    wait_until("saving to work again", || writer.health().degraded.is_none());
    assert!(observed.has(|event| *event == WriterEvent::Recovered));
    assert_eq!(persist_and_wait(&writer, ban(number + 1)), Persisted::Yes);
    let (other, loaded) = start(&path);
    assert_eq!(loaded.clients(), (0..=number + 1).map(client).collect());
    // A process that reopens the file does not mistake its own bans for changes by another one.
    assert_eq!(persist_and_wait(&other, ban(1_000_000)), Persisted::Yes);
    wait_until("the ban by the other writer", || !observed.clients().is_empty());
    assert_eq!(observed.clients(), [client(1_000_000)].into());
}

#[test]
fn bans_on_a_read_only_disk_are_in_force_and_saving_resumes_after_a_remount() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path()) else { return };
    let path = dir.path().join("state.db");
    {
        let (writer, _) = start(&path);
        assert_eq!(persist_and_wait(&writer, ban(1)), Persisted::Yes);
        assert!(writer.finish(DEADLINE));
    }
    disk.remount("ro");
    let (writer, observed) = start(&path);
    assert_eq!(observed.clients(), [client(1)].into());
    assert!(matches!(persist_and_wait(&writer, ban(2)), Persisted::No(why) if why.contains("Read-only")));
    disk.remount("rw");
    wait_until("saving to work again", || writer.health().degraded.is_none());
    assert_eq!(persist_and_wait(&writer, ban(3)), Persisted::Yes);
    let (_other, loaded) = start(&path);
    assert_eq!(loaded.clients(), [client(1), client(2), client(3)].into());
}
