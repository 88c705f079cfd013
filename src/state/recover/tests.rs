//! Damages every page of a state file in turn, and counts what is lost.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use rusqlite::OpenFlags;

use super::*;
use crate::client::Client;
use crate::engine::{BanRecord, Change, NetworkRecord};
use crate::event::Scope;
use crate::rule::Evidence;
use crate::state::{Store, StoredStrikes, WriteItem, schema};
use crate::table::{Counter, Until};
use crate::time::{Span, Time};

const BANS: u32 = 500;
const PAGE: usize = 4096;

fn now() -> Time {
    Time::from_secs(1_800_000_000)
}

fn ban(number: u32) -> WriteItem {
    WriteItem::Change(Change::Banned(BanRecord {
        client: Client::from(Ipv4Addr::from(0x0a00_0000 + number)),
        scope: Scope::All,
        rule: Arc::from("w00tw00t"),
        first: now(),
        since: now(),
        until: Until::at(now().after(Span::from_secs(3600))),
        count: 1,
        times: 2,
        evidence: Evidence::new(&[b"GET /w00tw00t", number.to_string().as_bytes()]),
        node: Arc::from("mx1"),
    }))
}

fn position(number: u64) -> Position {
    Position { device: 1, inode: 2, offset: number, head_length: 256, head_hash: u64::MAX, ..Position::default() }
}

/// Writes a file with rows in every table, as a process leaves it after a clean end.
fn write_file(path: &Path) {
    let (mut store, _) = Store::open(path, now()).unwrap();
    let bans: Vec<WriteItem> = (0..BANS).map(ban).collect();
    store.save(&bans, true).unwrap();
    let networks = (0..200_u8).map(|number| {
        let network = format!("203.0.{number}.0/24").parse::<crate::geo::Network>().unwrap();
        let reason = Evidence::new(&[b"a network of scanners"]);
        WriteItem::Change(Change::NetworkBanned(NetworkRecord::manual(network, now(), Until::NEVER, reason)))
    });
    store.save(&networks.collect::<Vec<_>>(), true).unwrap();
    // Some paths are too long for one page, so SQLite adds overflow pages.
    let positions = (0..40_usize).map(|number| {
        WriteItem::Position(format!("/var/log/{}/{number}", "x".repeat(if number % 4 == 0 { 3900 } else { 20 })), position(number as u64))
    });
    store.save(&positions.collect::<Vec<_>>(), true).unwrap();
    let strikes: Vec<StoredStrikes> = (0..BANS)
        .map(|number| StoredStrikes {
            client: Client::from(Ipv4Addr::from(0x0b00_0000 + number)),
            rule: Arc::from("guessed-logins"),
            counter: Counter::new(now(), 2),
            until: now().after(Span::from_secs(600)),
        })
        .collect();
    store.save_strikes(&strikes).unwrap();
}

fn rows(connection: &Connection) -> HashMap<&'static str, i64> {
    let count = |table: &str| connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    TABLES.into_iter().map(|table| (table, count(table))).collect()
}

/// For each page its table and the number of rows on it, according to SQLite's own `dbstat`.
fn rows_on_pages(path: &Path) -> HashMap<u32, (String, i64)> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut statement = connection.prepare("SELECT pageno, name, ncell FROM dbstat").unwrap();
    let page = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)));
    statement.query_map([], page).unwrap().map(Result::unwrap).collect()
}

struct Damaged {
    _dir: tempfile::TempDir,
    path: PathBuf,
    undamaged: HashMap<&'static str, i64>,
    pages: HashMap<u32, (String, i64)>,
}

impl Damaged {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        write_file(&path);
        let pages = rows_on_pages(&path);
        let undamaged = rows(&Connection::open(&path).unwrap());
        Self { _dir: dir, path, undamaged, pages }
    }

    /// Recovers a copy of the file in which `damage` was done to one page.
    fn recover(&self, number: u32, damage: impl Fn(&mut [u8])) -> HashMap<&'static str, i64> {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy.db");
        let mut bytes = std::fs::read(&self.path).unwrap();
        let start = (number as usize - 1) * PAGE;
        damage(&mut bytes[start..start + PAGE]);
        std::fs::write(&copy, bytes).unwrap();
        let new = schema::open(&dir.path().join("new.db")).unwrap();
        recover(&copy, &new).unwrap();
        rows(&new)
    }

    /// Asserts that only rows of this page are lost, and with a lost ban its evidence.
    fn assert_lost_at_most(&self, number: u32, left: &HashMap<&'static str, i64>) {
        let (name, cells) = self.pages.get(&number).map_or(("a page that is not used", 0), |(name, cells)| (name.as_str(), *cells));
        for (table, all) in &self.undamaged {
            let is_own = name == *table || (name == "ban" && *table == "evidence");
            // An overflow page holds a part of one row.
            let most = if is_own { cells.max(1) } else { 0 };
            assert!((all - most..=*all).contains(&left[table]), "page {number} of {name}: {} of {all} rows of {table}", left[table]);
        }
    }
}

#[test]
fn a_lost_page_costs_its_own_rows_and_no_others() {
    let file = Damaged::new();
    assert!(file.pages.len() > 50, "{}", file.pages.len());
    assert_eq!(file.undamaged.values().sum::<i64>(), i64::from(BANS) * 4 + 200 + 40);
    let count = u32::try_from(std::fs::metadata(&file.path).unwrap().len() / PAGE as u64).unwrap();
    for number in 1..=count {
        file.assert_lost_at_most(number, &file.recover(number, |page| page.fill(0)));
        file.assert_lost_at_most(number, &file.recover(number, |page| page.fill(0xa5)));
        // A page that looks like one of an index, as another program might write it to the wrong place.
        file.assert_lost_at_most(
            number,
            &file.recover(number, |page| page[..16].copy_from_slice(b"\x0a\0\0\xff\xff\0\0\0\x0f\xff\0\x08\0\x10\0\x18")),
        );
    }
}

#[test]
fn nothing_of_an_undamaged_file_is_lost() {
    let file = Damaged::new();
    assert_eq!(file.recover(1, |_| ()), file.undamaged);
}

#[test]
fn a_truncated_file_keeps_the_rows_before_the_cut_and_junk_behind_it_does_no_harm() {
    let file = Damaged::new();
    let bytes = std::fs::read(&file.path).unwrap();
    let recovered = |bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy.db");
        std::fs::write(&copy, bytes).unwrap();
        let new = schema::open(&dir.path().join("new.db")).unwrap();
        recover(&copy, &new).unwrap();
        rows(&new)
    };
    assert_eq!(recovered(&[bytes.as_slice(), &[0x5a; 10_000]].concat()), file.undamaged);
    let half = recovered(&bytes[..bytes.len() / 2]);
    assert!(half.values().sum::<i64>() > file.undamaged.values().sum::<i64>() / 4, "{half:?}");
    for length in [0, 1, 99, 100, 4095, 4096, 5000] {
        recovered(&bytes[..length]);
    }
}

#[test]
fn changes_that_are_only_in_the_write_ahead_log_are_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (mut store, _) = Store::open(&path, now()).unwrap();
    store.save(&(0..BANS).map(ban).collect::<Vec<_>>(), false).unwrap();
    // As `kill -9` leaves it: no checkpoint has copied the log into the file.
    let copy = dir.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    let wal = std::fs::read(dir.path().join("state.db-wal")).unwrap();
    let recovered = |wal: &[u8], name: &str| {
        std::fs::write(dir.path().join("copy.db-wal"), wal).unwrap();
        let new = schema::open(&dir.path().join(name)).unwrap();
        recover(&copy, &new).unwrap();
        rows(&new)["ban"]
    };
    assert_eq!(recovered(&wal, "all.db"), i64::from(BANS));
    let mut damaged = wal.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    assert_eq!(recovered(&damaged, "none.db"), 0, "an incomplete transaction is ignored");
    assert_eq!(recovered(b"", "empty.db"), 0);
}

#[test]
fn a_removed_ban_is_not_found_on_a_page_that_was_freed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    write_file(&path);
    let store = schema::open(&path).unwrap();
    store.execute_batch("DELETE FROM evidence; DELETE FROM ban WHERE id > 5; DELETE FROM strike; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(store);
    // The first page, which leads to the list of free pages, is lost as well.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; PAGE], 0).unwrap();
    let new = schema::open(&dir.path().join("new.db")).unwrap();
    recover(&path, &new).unwrap();
    assert_eq!((rows(&new)["ban"], rows(&new)["strike"], rows(&new)["evidence"]), (5, 0, 0));
}

#[test]
fn recovered_rows_are_those_that_were_saved() {
    let file = Damaged::new();
    let dir = tempfile::tempdir().unwrap();
    let new = schema::open(&dir.path().join("new.db")).unwrap();
    recover(&file.path, &new).unwrap();
    let old = Connection::open(&file.path).unwrap();
    for table in TABLES {
        let table = Table::of(&new, table).unwrap();
        let columns: Vec<&str> = table.columns.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "writer").collect();
        let all = |connection: &Connection| -> Vec<Vec<Value>> {
            let mut statement = connection.prepare(&format!("SELECT {} FROM {} ORDER BY 1, 2", columns.join(", "), table.name)).unwrap();
            let row = |row: &rusqlite::Row<'_>| (0..columns.len()).map(|column| row.get(column)).collect();
            statement.query_map([], row).unwrap().map(Result::unwrap).collect()
        };
        assert_eq!(all(&new), all(&old), "{}", table.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_bytes_are_read_without_a_panic(head in proptest::collection::vec(any::<u8>(), 0..9000), wal in proptest::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("junk.db");
        for start in [b"".as_slice(), b"SQLite format 3\0\x02\x00"] {
            let mut bytes = [start, &head].concat();
            std::fs::write(&path, &bytes).unwrap();
            std::fs::write(dir.path().join("junk.db-wal"), &wal).unwrap();
            let mut pages = Pages::open(&path).unwrap();
            pages.numbers().for_each(|number| drop(cells(&mut pages, number)));
            // The same as pages of tables.
            bytes.chunks_mut(512).for_each(|page| page[0] = 0x0d);
            std::fs::write(&path, &bytes).unwrap();
            let mut pages = Pages::open(&path).unwrap();
            pages.numbers().for_each(|number| drop(cells(&mut pages, number)));
        }
    }
}
