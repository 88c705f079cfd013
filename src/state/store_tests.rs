//! Tests of [`Store`]: the state file as one process sees it, and as two do.

use std::sync::Arc;

use super::*;
use crate::client::Ipv6Prefix;
use crate::engine::{EarlierBans, NetworkRecord, Reach};
use crate::event::Scope;
use crate::table::{Counter, Until};

fn at(seconds: u64) -> Time {
    Time::from_secs(1_800_000_000 + seconds)
}

fn client(text: &str) -> Client {
    Client::of(text.parse().unwrap(), Ipv6Prefix::default())
}

fn ban(address: &str, until: Until) -> BanRecord {
    BanRecord {
        client: client(address),
        scope: Scope::All,
        rule: Arc::from("w00tw00t"),
        first: at(0),
        since: at(0),
        until,
        count: 1,
        times: 1,
        evidence: Evidence::new(&[b"GET", b"/w00tw00t"]),
        node: Arc::from(""),
    }
}

fn until(seconds: u64) -> Until {
    Until::at(at(seconds))
}

fn banned(ban: BanRecord) -> WriteItem {
    WriteItem::Change(Change::Banned(ban))
}

fn unbanned(address: &str, scope: Scope, seconds: u64) -> WriteItem {
    WriteItem::Change(Change::Unbanned { client: client(address), scope, at: at(seconds), kept: Vec::new(), reach: Reach::Everywhere })
}

fn without_evidence(ban: &BanRecord) -> BanRecord {
    BanRecord { evidence: Evidence::new(&[]), ..ban.clone() }
}

struct TestFile {
    dir: tempfile::TempDir,
}

impl TestFile {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("state.db")
    }

    fn open(&self) -> Store {
        let (store, notices) = Store::open(&self.path(), at(0)).unwrap();
        assert!(notices.is_empty(), "{notices:?}");
        store
    }
}

fn loaded(store: &mut Store, now: Time) -> Vec<Loaded> {
    let mut records = Vec::new();
    store.load(now, &mut |record| records.push(record)).unwrap();
    records
}

/// The active bans, sorted.
fn bans(store: &mut Store, now: Time) -> Vec<(Client, &'static str, Until)> {
    let mut bans: Vec<_> = loaded(store, now)
        .into_iter()
        .filter_map(|record| match record {
            Loaded::Change(Change::Banned(ban)) => Some((ban.client, ban.scope.as_str(), ban.until)),
            _ => None,
        })
        .collect();
    bans.sort();
    bans
}

#[test]
fn everything_saved_is_loaded_by_the_next_process() {
    let file = TestFile::new();
    let ban = BanRecord { count: 3, times: 2, node: Arc::from("mx2"), scope: Scope::Mail, ..ban("2001:db8::1", until(3600)) };
    let network = Change::NetworkBanned(NetworkRecord {
        scope: Scope::Web,
        rule: "crowd".into(),
        members: 40,
        ..NetworkRecord::manual("198.51.100.0/24".parse::<crate::geo::Network>().unwrap(), at(0), Until::NEVER, Evidence::new(&[b"spam"]))
    });
    let strike = StoredStrikes {
        client: client("192.0.2.9"),
        rule: Arc::from("probes"),
        counter: Counter::restore(at(0), at(50), 2),
        until: at(650),
    };
    let position =
        Position { device: u64::MAX, inode: 7, offset: 1 << 40, head_length: 256, head_hash: u64::MAX - 1, ..Position::default() };
    let items =
        [banned(ban.clone()), WriteItem::Change(network.clone()), WriteItem::Position("/var/log/exim4/mainlog".into(), position.clone())];
    let mut store = file.open();
    store.save(&items, true).unwrap();
    store.save_strikes(std::slice::from_ref(&strike)).unwrap();
    drop(store);
    assert_eq!(
        loaded(&mut file.open(), at(60)),
        [
            Loaded::Change(Change::Banned(without_evidence(&ban))),
            Loaded::Change(network),
            Loaded::Strikes(strike),
            Loaded::EarlierBans { client: ban.client, rule: Arc::clone(&ban.rule), earlier: EarlierBans { times: 2, last: at(0) } },
            Loaded::Position { path: "/var/log/exim4/mainlog".into(), position },
        ]
    );
}

#[test]
fn what_an_older_version_wrote_of_networks_is_read_where_it_cannot_be_altered() {
    let file = TestFile::new();
    let network =
        NetworkRecord::manual("198.51.100.0/24".parse::<crate::geo::Network>().unwrap(), at(0), until(60), Evidence::new(&[b"why"]));
    let pause = crate::policy::Pause { since: at(0), until: at(60), by: "root".into() };
    let changes = [Change::NetworkBanned(network), Change::Paused(pause)];
    file.open().save(&changes.clone().map(WriteItem::Change), true).unwrap();
    let raw = rusqlite::Connection::open(file.path()).unwrap();
    raw.execute_batch("UPDATE network SET rule = '', scope = '', members = 0").unwrap();
    for column in ["members", "scope", "rule"] {
        raw.execute_batch(&format!("ALTER TABLE network DROP COLUMN {column}")).unwrap();
        let mut store = Store::open_read_only(&file.path()).unwrap();
        assert_eq!(loaded(&mut store, at(1)), changes.clone().map(Loaded::Change), "without {column}");
    }
}

#[test]
fn systems_and_countries_are_loaded_and_a_kind_of_network_that_a_later_version_wrote_is_left_alone() {
    let file = TestFile::new();
    let ban = |network: &str| {
        let network = network.parse::<crate::geo::Network>().unwrap();
        Change::NetworkBanned(NetworkRecord::manual(network, at(0), Until::NEVER, Evidence::new(&[b"why"])))
    };
    let changes = ["AS64496", "country:DE", "198.51.100.0/24"].map(ban);
    file.open().save(&changes.clone().map(WriteItem::Change), true).unwrap();
    let raw = rusqlite::Connection::open(file.path()).unwrap();
    raw.execute_batch("UPDATE network SET net = 'region:XX-1' WHERE net = '198.51.100.0/24'").unwrap();
    let mut store = file.open();
    assert_eq!(loaded(&mut store, at(1)), changes[..2].iter().cloned().map(Loaded::Change).collect::<Vec<_>>());
    let unbanned = Change::NetworkUnbanned { network: "country:DE".parse().unwrap(), at: at(2), forgets: true, reach: Reach::Everywhere };
    store.save(&[WriteItem::Change(unbanned)], true).unwrap();
    drop(store);
    assert_eq!(loaded(&mut file.open(), at(3)), [Loaded::Change(changes[0].clone())]);
    let rest: i64 = raw.query_row("SELECT count(*) FROM network WHERE net = 'region:XX-1'", [], |row| row.get(0)).unwrap();
    assert_eq!(rest, 1);
}

#[test]
fn a_ban_is_found_with_its_evidence() {
    let file = TestFile::new();
    let ban = ban("192.0.2.1", until(60));
    let mut store = file.open();
    store.save(&[banned(ban.clone())], false).unwrap();
    assert_eq!(Store::open_read_only(&file.path()).unwrap().find_bans(ban.client, at(1)).unwrap(), std::slice::from_ref(&ban));
    assert_eq!(store.find_bans(ban.client, at(60)).unwrap(), []);
    assert_eq!(store.find_bans(client("192.0.2.2"), at(1)).unwrap(), []);
}

#[test]
fn an_ended_ban_is_not_loaded_and_a_permanent_one_is() {
    let file = TestFile::new();
    let mut store = file.open();
    store.save(&[banned(ban("192.0.2.1", until(60))), banned(ban("192.0.2.2", Until::NEVER))], false).unwrap();
    assert_eq!(bans(&mut store, at(60)), [(client("192.0.2.2"), "all", Until::NEVER)]);
}

#[test]
fn the_later_ending_of_two_bans_of_one_client_and_scope_stays() {
    let file = TestFile::new();
    let mut store = file.open();
    for (end, expected) in [(60, 60), (30, 60), (90, 90)] {
        store.save(&[banned(ban("192.0.2.1", until(end)))], false).unwrap();
        assert_eq!(bans(&mut store, at(1)), [(client("192.0.2.1"), "all", until(expected))]);
    }
    store.save(&[banned(ban("192.0.2.1", Until::NEVER)), banned(ban("192.0.2.1", until(1000)))], false).unwrap();
    assert_eq!(bans(&mut store, at(1)), [(client("192.0.2.1"), "all", Until::NEVER)]);
}

#[test]
fn a_client_unbanned_on_all_services_can_be_banned_again() {
    let file = TestFile::new();
    let mut store = file.open();
    let mail = BanRecord { scope: Scope::Mail, ..ban("192.0.2.1", until(90)) };
    store.save(&[banned(ban("192.0.2.1", until(60))), banned(mail), unbanned("192.0.2.1", Scope::All, 5)], false).unwrap();
    assert_eq!(bans(&mut store, at(5)), []);
    assert_eq!(store.find_bans(client("192.0.2.1"), at(5)).unwrap(), []);
    store.save(&[banned(ban("192.0.2.1", until(20)))], false).unwrap();
    assert_eq!(bans(&mut store, at(6)), [(client("192.0.2.1"), "all", until(20))]);
}

#[test]
fn a_ban_on_all_services_removed_on_one_stays_on_the_other() {
    let file = TestFile::new();
    let mut store = file.open();
    store.save(&[banned(ban("192.0.2.1", until(60))), unbanned("192.0.2.1", Scope::Web, 5)], false).unwrap();
    assert_eq!(bans(&mut store, at(5)), [(client("192.0.2.1"), "mail", until(60))]);
    let found = store.find_bans(client("192.0.2.1"), at(5)).unwrap();
    assert_eq!((found.len(), found[0].evidence.as_str()), (1, "GET /w00tw00t"));
    store.save(&[unbanned("192.0.2.1", Scope::Mail, 6)], false).unwrap();
    assert_eq!(bans(&mut store, at(6)), []);
}

#[test]
fn a_ban_removes_the_strikes_of_its_client_and_rule() {
    let file = TestFile::new();
    let mut store = file.open();
    let strike = |address: &str, rule: &str| StoredStrikes {
        client: client(address),
        rule: Arc::from(rule),
        counter: Counter::new(at(0), 2),
        until: at(600),
    };
    store.save_strikes(&[strike("192.0.2.1", "w00tw00t"), strike("192.0.2.1", "other"), strike("192.0.2.2", "w00tw00t")]).unwrap();
    store.save(&[banned(ban("192.0.2.1", until(60)))], false).unwrap();
    let left: Vec<_> = loaded(&mut store, at(1)).into_iter().filter(|record| matches!(record, Loaded::Strikes(_))).collect();
    assert_eq!(left, [Loaded::Strikes(strike("192.0.2.1", "other")), Loaded::Strikes(strike("192.0.2.2", "w00tw00t"))]);
}

#[test]
fn a_wall_clock_set_back_makes_no_ban_longer() {
    let file = TestFile::new();
    let mut store = file.open();
    let tomorrow = BanRecord { since: at(86_400), first: at(86_400), until: until(86_400 + 3600), ..ban("192.0.2.1", until(0)) };
    store.save(&[banned(tomorrow)], false).unwrap();
    assert_eq!(bans(&mut store, at(0)), [(client("192.0.2.1"), "all", until(3600))]);
}

#[test]
fn each_process_sees_the_changes_of_the_other_and_not_its_own() {
    let file = TestFile::new();
    let (mut one, mut two) = (file.open(), file.open());
    let mut cursor = two.load(at(0), &mut |_| ()).unwrap();
    two.save(&[banned(ban("192.0.2.2", until(60)))], false).unwrap();
    assert_eq!(two.changes_since(&mut cursor, at(0)).unwrap(), []);
    let network = "198.51.100.0/24".parse().unwrap();
    let changes = [
        Change::Banned(ban("192.0.2.1", until(60))),
        Change::NetworkBanned(NetworkRecord::manual(network, at(0), until(9), Evidence::new(&[b"spam"]))),
    ];
    one.save(&changes.clone().map(WriteItem::Change), false).unwrap();
    assert_eq!(
        two.changes_since(&mut cursor, at(1)).unwrap(),
        [Change::Banned(without_evidence(&ban("192.0.2.1", until(60)))), changes[1].clone()]
    );
    assert_eq!(two.changes_since(&mut cursor, at(1)).unwrap(), []);
    let unbans = [
        Change::Unbanned { client: client("192.0.2.1"), scope: Scope::All, at: at(5), kept: Vec::new(), reach: Reach::Everywhere },
        Change::NetworkUnbanned { network, at: at(5), forgets: true, reach: Reach::Everywhere },
    ];
    one.save(&unbans.clone().map(WriteItem::Change), false).unwrap();
    assert_eq!(two.changes_since(&mut cursor, at(5)).unwrap(), unbans);
}

#[test]
fn more_changes_than_a_page_are_read_at_once() {
    let file = TestFile::new();
    let (mut one, mut two) = (file.open(), file.open());
    let mut cursor = Cursor::default();
    let items: Vec<WriteItem> =
        (0..2500_u32).map(|number| banned(ban(&std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string(), until(60)))).collect();
    one.save(&items, false).unwrap();
    assert_eq!(two.changes_since(&mut cursor, at(0)).unwrap().len(), 2500);
    assert_eq!(two.changes_since(&mut cursor, at(0)).unwrap().len(), 0);
}

#[test]
fn ended_rows_are_swept_in_small_steps() {
    let file = TestFile::new();
    let mut store = file.open();
    let items: Vec<WriteItem> = (1..=10).map(|number| banned(ban(&format!("192.0.2.{number}"), until(60)))).collect();
    store.save(&items, true).unwrap();
    store.save(&[banned(ban("192.0.2.99", until(9000)))], true).unwrap();
    let strikes: Vec<StoredStrikes> = (1..=10)
        .map(|number| StoredStrikes {
            client: client(&format!("198.51.100.{number}")),
            rule: Arc::from("r"),
            counter: Counter::new(at(0), 1),
            until: at(if number == 4 { 9000 } else { 60 }),
        })
        .collect();
    store.save_strikes(&strikes).unwrap();
    let forget = Span::from_secs(100);
    assert_eq!(store.sweep(at(59), forget, 1000).unwrap(), 0);
    assert!(store.sweep(at(200), forget, 4).unwrap() <= 12);
    let mut rounds = 0;
    while store.sweep(at(200), forget, 4).unwrap() > 0 {
        rounds += 1;
        assert!(rounds < 20);
    }
    let rows = |table: &str| -> i64 { store.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap() };
    assert_eq!((rows("ban"), rows("evidence"), rows("strike"), rows("history")), (1, 1, 1, 0));
}

#[test]
fn a_removed_ban_is_swept_after_ten_minutes() {
    let file = TestFile::new();
    let mut store = file.open();
    store.save(&[unbanned("192.0.2.1", Scope::All, 0)], false).unwrap();
    assert_eq!(store.sweep(at(599), Span::ZERO, 100).unwrap(), 0);
    assert_eq!(store.sweep(at(601), Span::ZERO, 100).unwrap(), 1);
}

#[test]
fn a_save_refused_by_a_lock_saves_nothing() {
    let file = TestFile::new();
    let (mut one, mut two) = (file.open(), file.open());
    let lock = one.connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let refused = two.save(&[banned(ban("192.0.2.1", until(60)))], false);
    assert!(matches!(&refused, Err(StateError::Busy(text)) if text.contains("state.db: database is locked")), "{refused:?}");
    drop(lock);
    assert_eq!(bans(&mut two, at(0)), []);
}

#[test]
fn a_removed_or_replaced_file_is_noticed() {
    let file = TestFile::new();
    let store = file.open();
    assert!(!store.was_replaced());
    std::fs::rename(file.path(), file.dir.path().join("renamed")).unwrap();
    assert!(store.was_replaced());
    let _new = file.open();
    assert!(store.was_replaced());
}

#[test]
fn the_bans_of_a_half_damaged_file_are_recovered() {
    use std::os::unix::fs::FileExt;
    let file = TestFile::new();
    let mut store = file.open();
    let items: Vec<WriteItem> =
        (0..20_000_u32).map(|number| banned(ban(&std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string(), until(60)))).collect();
    store.save(&items, false).unwrap();
    drop(store);
    // Overwrites the second half: the header and the first pages stay intact.
    let disk = std::fs::OpenOptions::new().write(true).open(file.path()).unwrap();
    let length = disk.metadata().unwrap().len();
    disk.write_all_at(&vec![0xa5; usize::try_from(length).unwrap() / 2], length / 2).unwrap();
    let mut store = file.open();
    let failure = store.load(at(0), &mut |_| ()).unwrap_err();
    assert!(matches!(failure, StateError::Corrupt(_)), "{failure:?}");
    let (mut store, notices) = store.replace_damaged(at(0)).unwrap();
    assert!(notices[0].contains("malformed; renamed to") && notices[1].contains("recovered from it: "), "{notices:?}");
    let recovered = bans(&mut store, at(0)).len();
    assert!(recovered > 9000, "{recovered} of 20000 were recovered");
}
