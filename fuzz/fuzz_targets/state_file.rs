//! A damaged state file is read or quarantined; one that can be opened can be read and written without a panic.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use strikeout::internals::client::{Client, Ipv6Prefix};
use strikeout::internals::engine::{BanRecord, Change};
use strikeout::internals::event::Scope;
use strikeout::internals::rule::Evidence;
use strikeout::internals::state::{Store, WriteItem};
use strikeout::internals::table::Until;
use strikeout::internals::time::Span;
use strikeout_fuzz::NOW;

fn item(number: u32) -> WriteItem {
    WriteItem::Change(Change::Banned(BanRecord {
        client: Client::of(std::net::IpAddr::from((0xcb00_7100 + number).to_be_bytes()), Ipv6Prefix::default()),
        scope: Scope::All,
        rule: Arc::from("w00tw00t"),
        first: NOW,
        since: NOW,
        until: Until::at(NOW.after(Span::from_secs(3600))),
        count: 1,
        times: 1,
        evidence: Evidence::new(&[b"GET /w00tw00t"]),
        node: Arc::from(""),
    }))
}

/// An intact file with a few bans.
static INTACT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let file = folder.path().join("state.db");
    let (mut store, _) = Store::open(&file, NOW).expect("a new file");
    let items: Vec<WriteItem> = (0..20).map(item).collect();
    store.save(&items, true).expect("saved");
    drop(store);
    std::fs::read(&file).expect("read")
});

fn use_file(file: &Path) {
    let Ok((mut store, _)) = Store::open(file, NOW) else { return };
    let Ok(mut cursor) = store.load(NOW, &mut |_| ()) else {
        let _ = store.replace_damaged(NOW);
        return;
    };
    let _ = store.save(&[item(99)], true);
    let _ = store.changes_since(&mut cursor, NOW);
    let _ = store.find_bans(Client::of("203.0.113.3".parse().expect("an address"), Ipv6Prefix::default()), NOW);
    let _ = store.sweep(NOW, Span::from_secs(86_400), 100);
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = INTACT.clone();
    // Edits: three bytes of offset, one of length, then the bytes to write there.
    let mut rest = data;
    while let Some((&[high, middle, low, length], later)) = rest.split_first_chunk::<4>() {
        let (text, later) = later.split_at(usize::from(length % 16).min(later.len()));
        let offset = (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)) % bytes.len();
        if length == 255 {
            bytes.truncate(offset.max(1));
        } else {
            for (to, from) in bytes[offset..].iter_mut().zip(text) {
                *to = *from;
            }
        }
        rest = later;
    }
    let folder = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let file = folder.path().join("state.db");
    std::fs::write(&file, bytes).expect("written");
    use_file(&file);
});
