//! The writer's queue: its order, its limit, and its end.

use std::sync::Arc;
use std::sync::mpsc::channel;

use strikeout::internals::clock::Clock;
use strikeout::internals::engine::{Change, Journal, NetworkRecord, Persisted, Reach};
use strikeout::internals::event::Scope;
use strikeout::internals::rule::Evidence;
use strikeout::internals::state::{Loaded, StoredStrikes, Writer};
use strikeout::internals::table::{Counter, Until};
use strikeout::internals::time::Span;

use crate::fixture::{ban, client, now, persist, persist_and_wait, start};
use crate::harness::{DEADLINE, wait_until};

#[test]
fn completions_are_called_in_the_order_of_the_bans() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = start(&dir.path().join("state.db"));
    let (sender, receiver) = channel();
    for number in 0..5000 {
        let sender = sender.clone();
        writer.persist(ban(number), Box::new(move |persisted| sender.send((number, persisted)).unwrap()));
    }
    let flushed = sender.clone();
    writer.flush(Box::new(move |persisted| flushed.send((5000, persisted)).unwrap()));
    for number in 0..=5000 {
        assert_eq!(receiver.recv_timeout(DEADLINE).unwrap(), (number, Persisted::Yes));
    }
}

#[test]
fn a_panic_in_one_completion_does_not_affect_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = start(&dir.path().join("state.db"));
    writer.persist(ban(1), Box::new(|_| panic!("on purpose")));
    assert_eq!(persist_and_wait(&writer, ban(2)), Persisted::Yes);
}

#[test]
fn finishing_saves_everything_in_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (writer, _) = start(&path);
    let strikes_of = |number| StoredStrikes {
        client: client(number),
        rule: Arc::from("r"),
        counter: Counter::new(now(), 2),
        until: now().after(Span::from_secs(600)),
    };
    let (sender, receiver) = channel();
    writer.save_strikes((0..5000).map(strikes_of).collect(), Box::new(move |persisted| sender.send(persisted).unwrap()));
    (0..3000).for_each(|number| drop(persist(&writer, ban(number))));
    assert!(writer.finish(DEADLINE));
    assert_eq!(receiver.recv_timeout(DEADLINE).unwrap(), Persisted::Yes);
    assert!(matches!(persist_and_wait(&writer, ban(9999)), Persisted::No(why) if why.contains("has ended")));
    let (mut bans, mut strikes) = (0, 0);
    let count = &mut |record| match record {
        Loaded::Change(_) => bans += 1,
        Loaded::Strikes(_) => strikes += 1,
        _ => {}
    };
    let _writer = Writer::start(path, Clock::start(), |_| (), count).unwrap();
    assert_eq!((bans, strikes), (3000, 5000));
}

#[test]
fn an_unban_is_saved_even_if_the_queue_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (writer, _) = start(&path);
    assert_eq!(persist_and_wait(&writer, ban(0)), Persisted::Yes);
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut numbers = 1..;
    wait_until("the queue to be full", || {
        let refused =
            |number| matches!(persist(&writer, ban(number)).try_recv(), Ok(Persisted::No(why)) if why.contains("too many bans wait"));
        numbers.by_ref().take(20_000).any(refused)
    });
    let unbanned =
        persist(&writer, Change::Unbanned { client: client(0), scope: Scope::All, at: now(), kept: Vec::new(), reach: Reach::Everywhere });
    assert!(unbanned.try_recv().is_err(), "it waits");
    let network = NetworkRecord::manual("198.51.100.0/24".parse::<ipnet::IpNet>().unwrap(), now(), Until::NEVER, Evidence::new(&[]));
    let by_rule = Change::NetworkBanned(NetworkRecord { members: 3, ..network.clone() });
    assert!(matches!(persist(&writer, by_rule).try_recv(), Ok(Persisted::No(_))), "a network's ban by a rule does not");
    assert!(persist(&writer, Change::NetworkBanned(network)).try_recv().is_err(), "one by hand does");
    holder.execute_batch("COMMIT").unwrap();
    drop(unbanned.recv_timeout(DEADLINE).unwrap());
    wait_until("the backlog to be saved", || writer.health().unsaved == 0 && writer.health().degraded.is_none());
    assert!(writer.finish(DEADLINE));
    let (_other, loaded) = start(&path);
    assert!(!loaded.clients().contains(&client(0)) && loaded.clients().contains(&client(1)));
}
