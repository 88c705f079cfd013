//! A node that is cut off goes on alone; when it returns both sides converge.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use strikeout::internals::event::Scope;
use strikeout::internals::time::Span;

use crate::harness::{wait_for, wait_until};
use crate::node::{InProcessNode, Node, wait_joined};
use crate::relay::Relay;
use crate::server::Redis;
use crate::{SECRET, has_redis};

/// Redis and two nodes, of which `far` is behind a relay with this delay each way; `None` where there is no Redis.
fn near_and_far(one_way: Duration) -> Option<(Redis, Relay, Node, Node)> {
    if !has_redis() {
        return None;
    }
    let redis = Redis::start();
    let relay = Relay::start(redis.port);
    relay.delay(one_way);
    let (near, far) = (Node::start("near", redis.port, ""), Node::start("far", relay.port, ""));
    wait_joined(&[&near, &far]);
    Some((redis, relay, near, far))
}

#[test]
fn both_sides_of_a_cut_converge_and_no_removed_ban_comes_back() {
    let Some((_redis, relay, near, far)) = near_and_far(Duration::ZERO) else { return };
    near.ask("ban 203.0.113.1 for=3600");
    wait_until("both refuse", || far.is_banned("203.0.113.1"));

    relay.cut(true);
    wait_until("it notices", || far.number("fleet_receiving") == 0 && far.number("fleet_publishing") == 0);
    // Each side goes on alone at once.
    far.ask("ban 203.0.113.2 for=3600");
    near.ask("ban 203.0.113.3 for=3600");
    near.ask("unban 203.0.113.1");
    assert!(far.refuses("203.0.113.2") && near.refuses("203.0.113.3"));
    assert!(far.refuses("203.0.113.1"), "it has not received the unban");

    relay.cut(false);
    let healed = wait_until("both know both bans", || near.is_banned("203.0.113.2") && far.is_banned("203.0.113.3"));
    wait_until("the unban counts", || !far.is_banned("203.0.113.1"));
    println!("convergence after a partition healed: {healed:?}");
    wait_joined(&[&near, &far]);
    assert!(!near.is_banned("203.0.113.1"), "no removed ban comes back");
}

#[test]
fn a_redis_that_hangs_or_comes_back_empty_delays_no_verdict_and_loses_no_ban() {
    if !has_redis() {
        return;
    }
    let mut redis = Redis::start();
    let port = redis.port;
    let (one, two) = (Node::start("one", port, ""), Node::start("two", port, ""));
    wait_joined(&[&one, &two]);
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("it spreads", || two.is_banned("203.0.113.1"));

    redis.signal(Signal::STOP);
    assert!(one.ask("strike 203.0.113.2 once").starts_with("defer"));
    let mut slowest = Duration::ZERO;
    wait_until("the hang is noticed", || {
        slowest = slowest.max(two.verdicts("203.0.113.5"));
        one.number("fleet_publishing") == 0 && one.fleet().contains("it does not answer in time")
    });
    assert!(slowest < Duration::from_secs(1), "a verdict waited for Redis: {slowest:?}");
    redis.signal(Signal::CONT);
    wait_until("the ban made meanwhile spreads", || two.is_banned("203.0.113.2"));

    redis.kill();
    wait_until("it is noticed", || one.number("fleet_publishing") == 0);
    assert!(one.refuses("203.0.113.1"));
    one.ask("ban 203.0.113.4 for=3600");
    let empty = Redis::start_on(port);
    wait_joined(&[&one, &two]);
    wait_until("the empty Redis is filled again", || two.is_banned("203.0.113.4"));
    let late = Node::start("late", empty.port, "");
    wait_until("a later node knows it too", || ["1", "2", "4"].iter().all(|last| late.is_banned(&format!("203.0.113.{last}"))));
}

#[test]
fn a_restarted_node_brings_no_removed_ban_back_and_still_knows_the_origins_of_its_bans() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let (one, mut two) = (Node::start("one", redis.port, ""), Node::start("two", redis.port, ""));
    wait_joined(&[&one, &two]);
    one.ask("ban 203.0.113.1 for=3600");
    one.ask("ban 203.0.113.4 for=3600");
    one.ask("ban 198.51.100.0/25 for=3600");
    two.ask("ban 198.51.100.128/25 for=3600");
    two.ask("ban 203.0.113.2 for=-1");
    two.ask("ban 203.0.113.3 for=3600");
    wait_until("both know all", || (1..=4).all(|last| [&one, &two].iter().all(|node| node.is_banned(&format!("203.0.113.{last}")))));
    wait_until("and the networks", || one.refuses("198.51.100.200") && two.refuses("198.51.100.7"));
    two.while_dead(|| {
        one.ask("unban 203.0.113.1");
        one.ask("unban 203.0.113.2");
    });
    wait_joined(&[&two]);
    wait_until("it unbans what was unbanned", || !two.is_banned("203.0.113.1") && !two.is_banned("203.0.113.2"));
    wait_until("it has published its two active bans", || two.number("fleet_published_total") >= 2);
    for unbanned in ["203.0.113.1", "203.0.113.2"] {
        assert!(!one.is_banned(unbanned) && !two.is_banned(unbanned), "{unbanned} came back");
    }
    assert!(two.is_banned("203.0.113.3") && one.is_banned("203.0.113.3"));
    assert!(two.why("198.51.100.7")["networks"][0]["node"] == "one", "{}", two.why("198.51.100.7"));
    assert!(two.why("198.51.100.200")["networks"][0]["node"].is_null(), "its own");
    wait_until("it knows the origin of a ban from before", || {
        two.ask("forget one");
        !two.is_banned("203.0.113.4")
    });
    wait_until("also that of a network", || !two.refuses("198.51.100.7"));
    assert!(two.is_banned("203.0.113.3") && two.refuses("198.51.100.200"), "its own");
}

#[test]
fn a_redis_that_lost_its_data_gets_active_bans_and_recent_unbans_again() {
    if !has_redis() {
        return;
    }
    let mut redis = Redis::start();
    let port = redis.port;
    let relay = Relay::start(port);
    let (near, far) = (Node::start("near", port, ""), Node::start("far", relay.port, ""));
    wait_joined(&[&near, &far]);
    far.ask("ban 203.0.113.1 for=3600");
    wait_until("both refuse", || near.is_banned("203.0.113.1"));
    relay.cut(true);
    wait_until("it is cut off", || far.number("fleet_receiving") == 0 && far.number("fleet_publishing") == 0);
    near.ask("unban 203.0.113.1");
    near.ask("ban 203.0.113.2 for=3600");
    redis.kill();
    let empty = Redis::start_on(port);
    wait_joined(&[&near]);
    relay.cut(false);
    wait_joined(&[&far]);
    wait_until("the far side knows the new ban", || far.is_banned("203.0.113.2"));
    wait_until("and the unban, which the old Redis took with it", || !far.is_banned("203.0.113.1"));
    assert!(!near.is_banned("203.0.113.1"));
    let late = Node::start("late", empty.port, "");
    wait_joined(&[&late]);
    assert!(late.is_banned("203.0.113.2") && !late.is_banned("203.0.113.1"));
}

#[test]
fn an_unban_counts_against_a_ban_whose_record_is_lost() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let url = format!("redis://:{SECRET}@127.0.0.1:{}", redis.port);
    let (near, far) = (InProcessNode::join("near", &url, 0, 1000), InProcessNode::join("far", &url, 0, 1000));
    near.wait_joined();
    far.wait_joined();
    // Only the last record of each client is remembered: not that of the ban on mail.
    far.ban_on("203.0.113.1", Scope::Mail, Some(Span::from_secs(3600)));
    far.ban_on("203.0.113.1", Scope::Web, Some(Span::from_secs(7200)));
    wait_until("both refuse", || near.is_banned("203.0.113.1") && redis.number("HEXISTS strikeout:client:203.0.113.1 w") == 1);
    let calls = redis.calls("evalsha");
    far.strike("203.0.113.2");
    wait_until("it has just published something", || redis.calls("evalsha") > calls);
    redis.signal(Signal::STOP);
    near.unban_on("203.0.113.1", Scope::Mail);
    wait_until("both notice", || near.number("fleet_publishing") == 0 && far.number("fleet_publishing") == 0);
    redis.signal(Signal::CONT);
    wait_until("the unban counts", || !far.is_banned("203.0.113.1"));
    near.wait_joined();
    far.wait_joined();
    assert!(!near.is_banned("203.0.113.1") && !far.is_banned("203.0.113.1"));
}

#[test]
fn a_forgotten_node_stays_forgotten_when_redis_loses_its_data() {
    if !has_redis() {
        return;
    }
    let mut redis = Redis::start();
    let port = redis.port;
    let relay = Relay::start(port);
    let (near, far) = (Node::start("near", port, ""), Node::start("far", relay.port, ""));
    let bad = Node::start("bad", port, "");
    wait_joined(&[&near, &far, &bad]);
    bad.ask("ban 203.0.113.1 for=-1");
    bad.ask("ban 198.51.100.0/24 for=-1");
    let all = |node: &Node| node.is_banned("203.0.113.1") && node.refuses("198.51.100.7");
    wait_until("all refuse", || all(&near) && all(&far));
    relay.cut(true);
    wait_until("it is cut off", || far.number("fleet_receiving") == 0 && far.number("fleet_publishing") == 0);
    near.ask("forget bad");
    wait_until("it is forgotten", || near.number("bans") == 0 && near.number("banned_networks") == 0);
    drop(bad);
    redis.kill();
    let empty = Redis::start_on(port);
    wait_joined(&[&near]);
    relay.cut(false);
    wait_joined(&[&far]);
    wait_until("the node that was away drops them", || far.number("bans") == 0 && far.number("banned_networks") == 0);
    let late = Node::start("late", empty.port, "");
    let bad = Node::start("bad", empty.port, "");
    wait_joined(&[&late, &bad]);
    for node in [&near, &far, &late] {
        assert_eq!((node.number("bans"), node.number("banned_networks")), (0, 0));
    }
    bad.ask("ban 203.0.113.2 for=3600");
    wait_until("its later bans count", || [&near, &far, &late].iter().all(|node| node.is_banned("203.0.113.2")));
}

#[test]
fn an_unban_is_remembered_as_long_as_the_ban_would_have_lasted() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let one = Node::start("one", redis.port, "");
    wait_joined(&[&one]);
    for (last, length) in [(1, "20"), (2, "864000"), (3, "-1")] {
        let address = format!("203.0.113.{last}");
        one.ask(&format!("ban {address} for={length}"));
        let key = format!("strikeout:client:{address}");
        wait_until("Redis has it", || redis.number(&format!("HEXISTS {key} w")) == 1);
        let until = redis.ask(&format!("HGET {key} w"));
        one.ask(&format!("unban {address}"));
        wait_until("Redis has the unban", || redis.number(&format!("HEXISTS {key} w")) == 0);
        assert_eq!(redis.ask(&format!("HGET {key} we")), until, "{length}");
        let left = redis.ask(&format!("TTL {key}"));
        let left: i64 = left.lines().find_map(|line| line.strip_prefix(':')?.parse().ok()).unwrap();
        match length {
            "20" => assert!((-2..=22).contains(&left), "{left}"),
            "864000" => assert!((863_000..=864_002).contains(&left), "{left}"),
            _ => assert_eq!(left, -1, "forever"),
        }
    }
    // A new ban of the client leaves the memory of the unban in place, for nodes that still have the old ban.
    one.ask("ban 203.0.113.2 for=60");
    wait_until("banned again", || redis.number("HEXISTS strikeout:client:203.0.113.2 w") == 1);
    assert_eq!(redis.number("HEXISTS strikeout:client:203.0.113.2 wg"), 1);
    assert!(one.is_banned("203.0.113.2"));

    // After a cut the unbans are sent again, and published to nobody: one message is the probe of the new connection.
    let (published, messages) = (one.number("fleet_published_total"), redis.calls("publish"));
    redis.ask("CLIENT KILL TYPE normal SKIPME yes");
    wait_until("three unbans and a ban are sent", || one.number("fleet_published_total") >= published + 4);
    assert_eq!(redis.calls("publish"), messages + 1);
    assert!(one.is_banned("203.0.113.2"));
}

#[test]
fn a_ban_made_after_an_unban_while_cut_off_stays_on_both_sides() {
    let Some((_redis, relay, near, far)) = near_and_far(Duration::ZERO) else { return };
    relay.cut(true);
    wait_until("it is cut off", || far.number("fleet_receiving") == 0 && far.number("fleet_publishing") == 0);
    for request in ["ban 203.0.113.1 for=7200", "unban 203.0.113.1", "ban 203.0.113.1 for=3600"] {
        far.ask(request);
    }
    for request in ["ban 203.0.113.2 for=-1", "unban 203.0.113.2", "ban 203.0.113.2 for=-1"] {
        far.ask(request);
    }
    far.ask("ban 203.0.113.3 for=3600");
    far.ask("unban 203.0.113.3");
    relay.cut(false);
    wait_joined(&[&far]);
    let marker = "203.0.113.9";
    far.ask(&format!("ban {marker} for=3600"));
    wait_until("all is published", || near.is_banned(marker));
    for node in [&near, &far] {
        wait_until("the newer ban is active", || node.is_banned("203.0.113.1") && node.is_banned("203.0.113.2"));
        assert!(!node.is_banned("203.0.113.3"), "only unbanned");
    }
    let log = far.log();
    assert_eq!(log.matches("unbanned ").count(), 3, "not for a moment was it unbanned:\n{log}");
}

#[test]
fn over_a_slow_link_verdicts_are_fast_and_bans_and_unbans_arrive() {
    let one_way = Duration::from_millis(250);
    let Some((_redis, _relay, near, far)) = near_and_far(one_way) else { return };
    let mut slowest = Duration::ZERO;
    for last in 1..=20 {
        slowest = slowest.max(far.verdicts(&format!("203.0.113.{last}")));
    }
    assert!(slowest < one_way, "a verdict waited for the network: {slowest:?}");
    let there = wait_until("all arrive", || (1..=20).all(|last| near.is_banned(&format!("203.0.113.{last}"))));
    println!("slow link of {one_way:?} each way: slowest verdict {slowest:?}; 20 bans known on the other side after {there:?}");
    far.ask("unban 203.0.113.1");
    near.ask("unban 203.0.113.2");
    wait_until("unbans arrive on both sides", || {
        ["203.0.113.1", "203.0.113.2"].iter().all(|unbanned| !near.is_banned(unbanned) && !far.is_banned(unbanned))
    });
    assert!(near.is_banned("203.0.113.3") && far.is_banned("203.0.113.3"));
    assert_eq!(far.fleet(), "ok", "slow is not away");
}

#[test]
fn a_ban_removed_at_once_does_not_come_back_from_redis() {
    let Some((redis, _relay, near, far)) = near_and_far(Duration::from_millis(250)) else { return };
    far.ask("ban 203.0.113.1 for=3600");
    far.ask("unban 203.0.113.1");
    let fields = |names: &str| redis.ask(&format!("HMGET strikeout:client:203.0.113.1 {names}"));
    wait_until("Redis has received ban and unban", || fields("wg we").matches('$').count() == 2 && !fields("wg we").contains("$-1"));
    // Messages come in order: a node that received this one has received those before it.
    near.ask("ban 203.0.113.2 for=3600");
    wait_until("the next message is received", || far.is_banned("203.0.113.2"));
    assert!(!far.is_banned("203.0.113.1") && !near.is_banned("203.0.113.1"));
    assert_eq!(redis.number("HEXISTS strikeout:client:203.0.113.1 w"), 0);
}

#[test]
fn bans_beyond_the_queue_are_dropped_and_counted_and_all_published_again() {
    if !has_redis() {
        return;
    }
    const BANS: u32 = 18_000;
    let redis = Redis::start();
    let url = format!("redis://:{SECRET}@127.0.0.1:{}", redis.port);
    let node = InProcessNode::join("one", &url, 0, 1_000_000);
    node.wait_joined();
    redis.signal(Signal::STOP);
    let start = Instant::now();
    for number in 0..BANS {
        node.ban(&Ipv4Addr::from(0x0b00_0000 + number).to_string(), None);
    }
    let took = start.elapsed();
    node.unban("11.0.0.7");
    assert!(node.engine.bans().len() == BANS as usize - 1, "every ban is active here at once");
    wait_until("the dropped ones are counted", || node.number("fleet_dropped_total") > 0);
    redis.signal(Signal::CONT);
    let goes_on = Instant::now();
    let mut known = redis.number("DBSIZE");
    while known < u64::from(BANS) {
        known = wait_for("Redis gets more bans", || Some(redis.number("DBSIZE")).filter(|number| *number > known));
    }
    let again = goes_on.elapsed();
    println!("{BANS} bans while Redis hung: made in {took:?}, {} dropped, all known {again:?} after it went on", {
        node.number("fleet_dropped_total")
    });
    wait_until("Redis has the unban", || redis.number("HEXISTS strikeout:client:11.0.0.7 wg") == 1);
    assert_eq!(redis.number("HEXISTS strikeout:client:11.0.0.7 w"), 0);
}

#[test]
fn a_node_that_returns_with_a_removed_ban_gets_the_newer_one_instead() {
    let Some((_redis, relay, near, far)) = near_and_far(Duration::ZERO) else { return };
    near.ask("ban 203.0.113.1 for=-1");
    wait_until("both refuse", || far.is_banned("203.0.113.1"));
    relay.cut(true);
    wait_until("it is cut off", || far.number("fleet_receiving") == 0 && far.number("fleet_publishing") == 0);
    near.ask("unban 203.0.113.1");
    near.ask("ban 203.0.113.1 for=3600 reason=anew");
    relay.cut(false);
    wait_joined(&[&far]);
    wait_until("the new one is active on both", || {
        [&near, &far].iter().all(|node| {
            let why = node.why("203.0.113.1");
            why["ban"]["evidence"] == "anew" && why["services"]["web"]["until"] != -1
        })
    });
}

#[test]
fn bans_beyond_the_limit_of_a_minute_are_published_in_a_later_one() {
    if !crate::harness::is_long() {
        eprintln!("skipped: it takes minutes, see tests/run --long");
        return;
    }
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let (port, bans) = (redis.port, 25);
    let one = Node::start_with("one", port, "", "bans_per_minute = 20");
    wait_joined(&[&one]);
    let keys: String = (1..=bans).map(|last| format!(" strikeout:client:203.0.113.{last}")).collect();
    for last in 1..=bans {
        one.ask(&format!("ban 203.0.113.{last} for=36000"));
    }
    let all_known = |redis: &Redis| {
        let start = Instant::now();
        while redis.number(&format!("EXISTS{keys}")) < bans {
            assert!(start.elapsed() < Duration::from_secs(240), "timeout");
            std::thread::sleep(Duration::from_millis(100));
        }
        start.elapsed()
    };
    wait_until("twenty are known", || redis.number(&format!("EXISTS{keys}")) == 20);
    println!("25 bans of a node that may publish 20 a minute: all known after {:?}", all_known(&redis));
    drop(redis);
    wait_until("it is noticed", || one.number("fleet_publishing") == 0);
    let empty = Redis::start_on(port);
    println!("and to an empty Redis, half as many a minute: {:?}", all_known(&empty));
}
