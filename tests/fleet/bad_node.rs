//! One bad node cannot ban everybody.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::harness::wait_until;
use crate::has_redis;
use crate::node::{Node, wait_joined};
use crate::relay::Relay;
use crate::server::Redis;

#[test]
fn a_bad_node_cannot_ban_the_never_banned_nor_flood_the_others_and_can_be_forgotten() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let bad = Node::start("bad", redis.port, "");
    let good = Node::start_with("good", redis.port, "[defaults]\nignoreip = ['203.0.113.0/28']", "bans_per_minute = 100");
    wait_joined(&[&bad, &good]);
    bad.ask("ban 203.0.113.5 for=3600");
    bad.ask("ban 203.0.0.0/16 for=3600");
    wait_until("both bans are refused", || good.number("fleet_refused_total") >= 2);
    assert!(!good.refuses("203.0.113.5") && !good.refuses("203.0.200.1"));

    let mut stream = UnixStream::connect(bad.socket()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (start, first_minute) = (Instant::now(), minute());
    for block in 0..100_u32 {
        let mut requests = String::new();
        for number in 0..100 {
            let address = Ipv4Addr::from(0x0b00_0000 + block * 100 + number);
            writeln!(requests, "ban {address} for=3600 reason=flood").unwrap();
        }
        stream.write_all(requests.as_bytes()).unwrap();
        let mut answered = 0;
        while answered < 100 {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            answered += usize::from(line == ".\n" || line.starts_with("error"));
        }
    }
    wait_until("the flood is published or refused", || {
        bad.number("fleet_published_total") + bad.number("fleet_dropped_total") >= bad.number("bans")
    });
    println!(
        "bans made by the bad node in {:?}: {}, admitted by the good one: {}",
        start.elapsed(),
        bad.number("bans"),
        good.number("bans")
    );
    wait_until("a hundred are admitted", || good.number("bans") >= 90);
    // The limit is for each minute of Redis's clock, which is this machine's.
    let (admitted, minutes) = (good.number("bans"), minute() - first_minute + 1);
    assert!(admitted <= 100 * minutes, "{admitted} in {minutes} minutes");
    let memory = redis.ask("MEMORY USAGE strikeout:client:11.0.0.9");
    println!("memory of one ban in Redis: {} bytes", memory.lines().find_map(|line| line.strip_prefix(':')).unwrap());

    assert!(good.ask("forget good").starts_with("error "));
    good.ask("forget bad");
    wait_until("all its bans are dropped", || good.number("bans") == 0);
}

/// The minute of the wall clock.
fn minute() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60
}

/// Bans `count` addresses on a node and waits until all are published.
fn ban_many(node: &Node, count: u32) {
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for block in 0..count / 100 {
        let requests: String =
            (0..100).map(|number| format!("ban {} for=3600 reason=wrong\n", Ipv4Addr::from(0x0b00_0000 + block * 100 + number))).collect();
        stream.write_all(requests.as_bytes()).unwrap();
        let mut answered = 0;
        while answered < 100 {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            answered += usize::from(line == ".\n");
        }
    }
    wait_until("all are published", || node.number("fleet_published_total") >= u64::from(count));
}

#[test]
fn forget_drops_all_bans_of_a_node_everywhere_even_those_beyond_its_limit() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let bad = Node::start("bad", redis.port, "");
    let good = Node::start_with("good", redis.port, "", "bans_per_minute = 100");
    let third = Node::start("third", redis.port, "");
    wait_joined(&[&bad, &good, &third]);
    good.ask("ban 203.0.113.1 for=3600");
    bad.ask("ban 203.0.113.2 for=-1");
    bad.ask("ban 198.51.100.0/24 for=-1");
    wait_until("they spread", || third.is_banned("203.0.113.2") && good.refuses("198.51.100.7") && bad.is_banned("203.0.113.1"));
    assert!(good.why("203.0.113.2")["ban"]["node"] == "bad", "{}", good.why("203.0.113.2"));
    assert!(good.why("198.51.100.7")["networks"][0]["node"] == "bad", "{}", good.why("198.51.100.7"));
    ban_many(&bad, 300);
    wait_until("the third admits all", || third.number("bans") == 302);
    // A minute may end between them.
    assert!((90..=201).contains(&good.number("bans")), "a hundred of bad in each minute, and its own: {}", good.number("bans"));

    good.ask("forget bad");
    for node in [&good, &third, &bad] {
        wait_until("only the good node's ban is left", || node.number("bans") == 1 && node.number("banned_networks") == 0);
        assert!(node.is_banned("203.0.113.1"));
    }
    // Nothing brings them back: neither the bad node, which publishes all its bans again, nor a new node.
    let joins = bad.log().matches("joined the fleet").count();
    redis.ask("CLIENT KILL TYPE normal SKIPME yes");
    redis.ask("CLIENT KILL TYPE pubsub");
    wait_until("it joins again", || bad.log().matches("joined the fleet").count() > joins);
    let late = Node::start("late", redis.port, "");
    wait_joined(&[&bad, &good, &third, &late]);
    for node in [&bad, &good, &third, &late] {
        assert_eq!((node.number("bans"), node.number("banned_networks")), (1, 0));
    }
    wait_until("in Redis too", || {
        let left = redis.ask("EVAL \"local n = 0 for _, k in ipairs(redis.call('KEYS', 'strikeout:client:*')) do n = n + redis.call('HEXISTS', k, 'w') end return n\" 0");
        left.contains(":1\r\n")
    });
    // Its later bans count.
    bad.ask("ban 203.0.113.3 for=3600");
    wait_until("it spreads", || late.is_banned("203.0.113.3"));
}

#[test]
fn forget_drops_a_nodes_ban_on_one_service_and_keeps_anothers_on_the_other() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let (good, bad) = (Node::start("good", redis.port, ""), Node::start("bad", redis.port, ""));
    wait_joined(&[&good, &bad]);
    let is_banned_by = |node: &Node, address: &str| {
        let why = node.why(address);
        (why["services"]["web"].is_object(), why["services"]["mail"].is_object())
    };
    good.ask("ban 203.0.113.1 for=3600 scope=web");
    bad.ask("ban 203.0.113.2 for=864000 scope=web");
    wait_until("both know", || is_banned_by(&bad, "203.0.113.1").0 && is_banned_by(&good, "203.0.113.2").0);
    bad.ask("ban 203.0.113.1 for=3600 scope=mail");
    good.ask("ban 203.0.113.2 for=3600 scope=mail");
    // A shorter ban replaces none.
    good.ask("ban 203.0.113.3 for=7200");
    bad.ask("ban 203.0.113.4 for=7200");
    wait_until("both know these", || {
        ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"]
            .iter()
            .all(|address| [&good, &bad].iter().all(|node| is_banned_by(node, address) == (true, true)))
    });
    bad.ask("ban 203.0.113.3 for=60");
    good.ask("ban 203.0.113.4 for=60");
    let published = good.number("fleet_published_total");
    good.ask("ban 203.0.113.5 for=60");
    wait_until("it is published", || good.number("fleet_published_total") > published && bad.is_banned("203.0.113.5"));
    bad.ask("ban 203.0.113.6 for=60");
    wait_until("the other one is published", || good.is_banned("203.0.113.6"));

    good.ask("forget bad");
    for node in [&good, &bad] {
        wait_until("the bans of bad are dropped", || !node.is_banned("203.0.113.4") && !node.is_banned("203.0.113.6"));
        wait_until("service by service", || {
            (is_banned_by(node, "203.0.113.1"), is_banned_by(node, "203.0.113.2")) == ((true, false), (false, true))
        });
        assert_eq!(is_banned_by(node, "203.0.113.3"), (true, true));
    }
}

#[test]
fn a_node_forgotten_while_cut_off_brings_nothing_back() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let relay = Relay::start(redis.port);
    let (good, bad) = (Node::start("good", redis.port, ""), Node::start("bad", relay.port, ""));
    wait_joined(&[&good, &bad]);
    bad.ask("ban 203.0.113.1 for=3600");
    wait_until("it spreads", || good.is_banned("203.0.113.1"));
    relay.cut(true);
    wait_until("it is cut off", || bad.number("fleet_receiving") == 0 && bad.number("fleet_publishing") == 0);
    bad.ask("ban 203.0.113.2 for=3600");
    good.ask("forget bad");
    wait_until("it is forgotten", || !good.is_banned("203.0.113.1"));
    relay.cut(false);
    wait_joined(&[&bad]);
    wait_until("it drops its bans", || bad.number("bans") == 0);
    assert_eq!(good.number("bans"), 0);
    bad.ask("ban 203.0.113.3 for=3600");
    wait_until("a new ban counts", || good.is_banned("203.0.113.3"));
}

#[test]
fn a_joining_node_counts_bans_by_the_minute_in_which_redis_accepted_them() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let one = Node::start("one", redis.port, "");
    wait_joined(&[&one]);
    one.ask("ban 203.0.113.99 for=3600");
    wait_until("Redis has it", || redis.ask("HGET strikeout:client:203.0.113.99 wn").contains("one\r\n"));
    // Made at the same time, but published in three minutes, because only two a minute are allowed.
    let seconds = redis.ask("TIME").lines().find_map(|line| line.parse::<u64>().ok().filter(|number| *number > 1_000_000_000)).unwrap();
    for (number, node) in ["mx1", "mx1", "mx1", "mx1", "mx2", "mx2"].iter().enumerate() {
        let record = "{\\\"rule\\\":\\\"r\\\",\\\"count\\\":1,\\\"times\\\":1,\\\"evidence\\\":\\\"\\\"}";
        let minute = u64::try_from(number / 2).unwrap();
        redis.ask(&format!(
            "HSET strikeout:client:203.0.113.{number} w -1 ws {}000 wr \"{record}\" wn {node} wa {}000",
            seconds - 86_400,
            seconds - 600 - 60 * minute
        ));
    }
    let late = Node::start_with("late", redis.port, "", "bans_per_minute = 2");
    wait_joined(&[&late]);
    assert_eq!((late.number("bans"), late.number("fleet_refused_total")), (7, 0));
}

#[test]
fn a_joining_node_admits_no_more_of_a_node_than_one_that_was_there() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let bad = Node::start("bad", redis.port, "");
    let good = Node::start("good", redis.port, "");
    wait_joined(&[&bad, &good]);
    good.ask("ban 203.0.113.1 for=3600");
    ban_many(&bad, 500);
    let late = Node::start_with("late", redis.port, "", "bans_per_minute = 50");
    wait_joined(&[&late]);
    // The five hundred were made in one minute or across the end of one.
    assert!((51..=101).contains(&late.number("bans")), "{}", late.number("bans"));
    assert!(late.is_banned("203.0.113.1") && late.number("fleet_refused_total") >= 400);
}
