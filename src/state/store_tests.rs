//! The state file as one process sees it, and as two do.

use std::sync::Arc;

use super::*;
use crate::client::Ipv6Prefix;
use crate::engine::Earlier;
use crate::rule::Evidence;
use crate::table::{Counter, Until};

fn at(seconds: u64) -> Time {
    Time::from_secs(1_800_000_000 + seconds)
}

fn client(text: &str) -> Client {
    Client::of(text.parse().unwrap(), Ipv6Prefix::default())
}

fn ban(who: &str, until: Until) -> BanRecord {
    BanRecord {
        client: client(who),
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

fn banned(ban: BanRecord) -> Item {
    Item::Change(Change::Banned(ban))
}

fn lifted(who: &str, scope: Scope, seconds: u64) -> Item {
    Item::Change(Change::Unbanned { client: client(who), scope, at: at(seconds) })
}

fn without_evidence(ban: &BanRecord) -> BanRecord {
    BanRecord { evidence: Evidence::new(&[]), ..ban.clone() }
}

struct File {
    dir: tempfile::TempDir,
}

impl File {
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

fn known(store: &mut Store, now: Time) -> Vec<Known> {
    let mut known = Vec::new();
    store.load(now, &mut |record| known.push(record)).unwrap();
    known
}

/// Who is banned where until when, in the order of scopes.
fn bans(store: &mut Store, now: Time) -> Vec<(Client, &'static str, Until)> {
    let mut bans: Vec<_> = known(store, now)
        .into_iter()
        .filter_map(|record| match record {
            Known::Change(Change::Banned(ban)) => Some((ban.client, ban.scope.as_str(), ban.until)),
            _ => None,
        })
        .collect();
    bans.sort();
    bans
}

#[test]
fn all_that_was_saved_is_loaded_by_the_next_process() {
    let file = File::new();
    let ban = BanRecord { count: 3, times: 2, node: Arc::from("mx2"), scope: Scope::Mail, ..ban("2001:db8::1", until(3600)) };
    let network = Change::NetworkBanned {
        network: "198.51.100.0/24".parse().unwrap(),
        since: at(0),
        until: Until::NEVER,
        reason: Evidence::new(&[b"spam"]),
    };
    let strike =
        Strike { client: client("192.0.2.9"), rule: Arc::from("probes"), counter: Counter::restore(at(0), at(50), 2), until: at(650) };
    let position = Position { device: u64::MAX, inode: 7, offset: 1 << 40, head_length: 256, head_hash: u64::MAX - 1 };
    let items = [banned(ban.clone()), Item::Change(network.clone()), Item::Position("/var/log/exim4/mainlog".into(), position.clone())];
    let mut store = file.open();
    store.save(&items, true).unwrap();
    store.save_strikes(std::slice::from_ref(&strike)).unwrap();
    drop(store);
    assert_eq!(
        known(&mut file.open(), at(60)),
        [
            Known::Change(Change::Banned(without_evidence(&ban))),
            Known::Change(network),
            Known::Strike(strike),
            Known::History { client: ban.client, rule: Arc::clone(&ban.rule), earlier: Earlier { times: 2, last: at(0) } },
            Known::Position { path: "/var/log/exim4/mainlog".into(), position },
        ]
    );
}

#[test]
fn a_ban_is_found_with_its_evidence() {
    let file = File::new();
    let ban = ban("192.0.2.1", until(60));
    let mut store = file.open();
    store.save(&[banned(ban.clone())], false).unwrap();
    assert_eq!(Store::open_read_only(&file.path()).unwrap().find(ban.client, at(1)).unwrap(), std::slice::from_ref(&ban));
    assert_eq!(store.find(ban.client, at(60)).unwrap(), []);
    assert_eq!(store.find(client("192.0.2.2"), at(1)).unwrap(), []);
}

#[test]
fn a_ban_that_is_over_is_not_loaded_and_a_permanent_one_always_is() {
    let file = File::new();
    let mut store = file.open();
    store.save(&[banned(ban("192.0.2.1", until(60))), banned(ban("192.0.2.2", Until::NEVER))], false).unwrap();
    assert_eq!(bans(&mut store, at(60)), [(client("192.0.2.2"), "all", Until::NEVER)]);
}

#[test]
fn of_two_bans_of_one_client_and_scope_the_one_that_ends_later_stays() {
    let file = File::new();
    let mut store = file.open();
    for (end, stays) in [(60, 60), (30, 60), (90, 90)] {
        store.save(&[banned(ban("192.0.2.1", until(end)))], false).unwrap();
        assert_eq!(bans(&mut store, at(1)), [(client("192.0.2.1"), "all", until(stays))]);
    }
    store.save(&[banned(ban("192.0.2.1", Until::NEVER)), banned(ban("192.0.2.1", until(1000)))], false).unwrap();
    assert_eq!(bans(&mut store, at(1)), [(client("192.0.2.1"), "all", Until::NEVER)]);
}

#[test]
fn lifting_everywhere_frees_the_client_and_it_can_be_banned_again() {
    let file = File::new();
    let mut store = file.open();
    let mail = BanRecord { scope: Scope::Mail, ..ban("192.0.2.1", until(90)) };
    store.save(&[banned(ban("192.0.2.1", until(60))), banned(mail), lifted("192.0.2.1", Scope::All, 5)], false).unwrap();
    assert_eq!(bans(&mut store, at(5)), []);
    assert_eq!(store.find(client("192.0.2.1"), at(5)).unwrap(), []);
    store.save(&[banned(ban("192.0.2.1", until(20)))], false).unwrap();
    assert_eq!(bans(&mut store, at(6)), [(client("192.0.2.1"), "all", until(20))]);
}

#[test]
fn of_a_ban_everywhere_the_other_surface_stays_when_one_is_lifted() {
    let file = File::new();
    let mut store = file.open();
    store.save(&[banned(ban("192.0.2.1", until(60))), lifted("192.0.2.1", Scope::Web, 5)], false).unwrap();
    assert_eq!(bans(&mut store, at(5)), [(client("192.0.2.1"), "mail", until(60))]);
    let found = store.find(client("192.0.2.1"), at(5)).unwrap();
    assert_eq!((found.len(), found[0].evidence.as_str()), (1, "GET /w00tw00t"));
    store.save(&[lifted("192.0.2.1", Scope::Mail, 6)], false).unwrap();
    assert_eq!(bans(&mut store, at(6)), []);
}

#[test]
fn a_ban_ends_the_strikes_of_its_client_and_rule() {
    let file = File::new();
    let mut store = file.open();
    let strike =
        |who: &str, rule: &str| Strike { client: client(who), rule: Arc::from(rule), counter: Counter::new(at(0), 2), until: at(600) };
    store.save_strikes(&[strike("192.0.2.1", "w00tw00t"), strike("192.0.2.1", "other"), strike("192.0.2.2", "w00tw00t")]).unwrap();
    store.save(&[banned(ban("192.0.2.1", until(60)))], false).unwrap();
    let left: Vec<_> = known(&mut store, at(1)).into_iter().filter(|record| matches!(record, Known::Strike(_))).collect();
    assert_eq!(left, [Known::Strike(strike("192.0.2.1", "other")), Known::Strike(strike("192.0.2.2", "w00tw00t"))]);
}

#[test]
fn a_clock_that_was_set_back_makes_no_ban_longer() {
    let file = File::new();
    let mut store = file.open();
    let tomorrow = BanRecord { since: at(86_400), first: at(86_400), until: until(86_400 + 3600), ..ban("192.0.2.1", until(0)) };
    store.save(&[banned(tomorrow)], false).unwrap();
    assert_eq!(bans(&mut store, at(0)), [(client("192.0.2.1"), "all", until(3600))]);
}

#[test]
fn each_process_sees_what_the_other_wrote_and_not_its_own() {
    let file = File::new();
    let (mut one, mut two) = (file.open(), file.open());
    let mut cursor = two.load(at(0), &mut |_| ()).unwrap();
    two.save(&[banned(ban("192.0.2.2", until(60)))], false).unwrap();
    assert_eq!(two.changes_since(&mut cursor, at(0)).unwrap(), []);
    let network = "198.51.100.0/24".parse().unwrap();
    let changes = [
        Change::Banned(ban("192.0.2.1", until(60))),
        Change::NetworkBanned { network, since: at(0), until: until(9), reason: Evidence::new(&[b"spam"]) },
    ];
    one.save(&changes.clone().map(Item::Change), false).unwrap();
    assert_eq!(
        two.changes_since(&mut cursor, at(1)).unwrap(),
        [Change::Banned(without_evidence(&ban("192.0.2.1", until(60)))), changes[1].clone()]
    );
    assert_eq!(two.changes_since(&mut cursor, at(1)).unwrap(), []);
    let lifts =
        [Change::Unbanned { client: client("192.0.2.1"), scope: Scope::All, at: at(5) }, Change::NetworkUnbanned { network, at: at(5) }];
    one.save(&lifts.clone().map(Item::Change), false).unwrap();
    assert_eq!(two.changes_since(&mut cursor, at(5)).unwrap(), lifts);
}

#[test]
fn many_changes_of_the_other_process_come_all_at_once() {
    let file = File::new();
    let (mut one, mut two) = (file.open(), file.open());
    let mut cursor = Cursor::default();
    let items: Vec<Item> =
        (0..2500_u32).map(|number| banned(ban(&std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string(), until(60)))).collect();
    one.save(&items, false).unwrap();
    assert_eq!(two.changes_since(&mut cursor, at(0)).unwrap().len(), 2500);
    assert_eq!(two.changes_since(&mut cursor, at(0)).unwrap().len(), 0);
}

#[test]
fn what_ended_is_swept_out_a_little_at_a_time() {
    let file = File::new();
    let mut store = file.open();
    let items: Vec<Item> = (1..=10).map(|number| banned(ban(&format!("192.0.2.{number}"), until(60)))).collect();
    store.save(&items, true).unwrap();
    store.save(&[banned(ban("192.0.2.99", until(9000)))], true).unwrap();
    let strikes: Vec<Strike> = (1..=10)
        .map(|number| Strike {
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
fn a_lifted_ban_is_swept_out_when_others_have_seen_it() {
    let file = File::new();
    let mut store = file.open();
    store.save(&[lifted("192.0.2.1", Scope::All, 0)], false).unwrap();
    assert_eq!(store.sweep(at(599), Span::ZERO, 100).unwrap(), 0);
    assert_eq!(store.sweep(at(601), Span::ZERO, 100).unwrap(), 1);
}

#[test]
fn all_of_a_transaction_is_saved_or_nothing() {
    let file = File::new();
    let (mut one, mut two) = (file.open(), file.open());
    let lock = one.connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let refused = two.save(&[banned(ban("192.0.2.1", until(60)))], false);
    assert!(matches!(&refused, Err(Failure::Busy(text)) if text.contains("state.db: database is locked")), "{refused:?}");
    drop(lock);
    assert_eq!(bans(&mut two, at(0)), []);
}

#[test]
fn a_file_that_was_removed_or_replaced_is_noticed() {
    let file = File::new();
    let store = file.open();
    assert!(!store.was_replaced());
    std::fs::rename(file.path(), file.dir.path().join("aside")).unwrap();
    assert!(store.was_replaced());
    let _new = file.open();
    assert!(store.was_replaced());
}

#[test]
fn the_bans_of_a_damaged_file_are_saved_as_far_as_it_can_be_read() {
    use std::os::unix::fs::FileExt;
    let file = File::new();
    let mut store = file.open();
    let items: Vec<Item> =
        (0..20_000_u32).map(|number| banned(ban(&std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string(), until(60)))).collect();
    store.save(&items, false).unwrap();
    drop(store);
    // The middle of the file is overwritten: the header and the first pages are sound.
    let disk = std::fs::OpenOptions::new().write(true).open(file.path()).unwrap();
    let length = disk.metadata().unwrap().len();
    disk.write_all_at(&vec![0xa5; usize::try_from(length).unwrap() / 2], length / 2).unwrap();
    let mut store = file.open();
    let failure = store.load(at(0), &mut |_| ()).unwrap_err();
    assert!(matches!(failure, Failure::Corrupt(_)), "{failure:?}");
    let (mut store, notices) = store.replace_damaged(at(0)).unwrap();
    assert!(notices[0].contains("malformed; set aside as") && notices[1].contains("bans were saved from"), "{notices:?}");
    let saved = bans(&mut store, at(0)).len();
    assert!(saved > 1000, "{saved} of 20000 were saved");
}
