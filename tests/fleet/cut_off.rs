//! Cut off, each node goes on alone; on return both sides converge.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use strikeout::event::Scope;
use strikeout::time::Span;

use crate::engine::Redis;
use crate::node::{Inside, Node, joined};
use crate::relay::Relay;
use crate::{SECRET, engine_is_there, wait_until};

/// An engine, a cable to it that takes so long each way, and two nodes, of which `far` has the cable; none where there is no engine.
fn near_and_far(one_way: Duration) -> Option<(Redis, Relay, Node, Node)> {
    if !engine_is_there() {
        return None;
    }
    let redis = Redis::start();
    let relay = Relay::start(redis.port);
    relay.delay(one_way);
    let (near, far) = (Node::start("near", redis.port, ""), Node::start("far", relay.port, ""));
    joined(&[&near, &far]);
    Some((redis, relay, near, far))
}

#[test]
fn a_node_that_was_cut_off_converges_and_nothing_that_was_lifted_comes_back() {
    let Some((_redis, relay, near, far)) = near_and_far(Duration::ZERO) else { return };
    near.ask("ban 203.0.113.1 for=3600");
    wait_until("both refuse", || far.is_banned("203.0.113.1"));

    relay.cut(true);
    wait_until("it notices", || far.number("fleet_hears") == 0 && far.number("fleet_says") == 0);
    // Each side goes on alone, at once.
    far.ask("ban 203.0.113.2 for=3600");
    near.ask("ban 203.0.113.3 for=3600");
    near.ask("unban 203.0.113.1");
    assert!(far.refuses("203.0.113.2") && near.refuses("203.0.113.3"));
    assert!(far.refuses("203.0.113.1"), "it has not heard");

    relay.cut(false);
    let healed = wait_until("both know both bans", || near.is_banned("203.0.113.2") && far.is_banned("203.0.113.3"));
    wait_until("the lift is respected", || !far.is_banned("203.0.113.1"));
    println!("convergence after a partition healed: {healed:?}");
    joined(&[&near, &far]);
    assert!(!near.is_banned("203.0.113.1"), "nothing that was lifted comes back");
}

#[test]
fn an_engine_that_hangs_or_comes_back_empty_costs_no_verdict_and_no_ban() {
    if !engine_is_there() {
        return;
    }
    let mut redis = Redis::start();
    let port = redis.port;
    let (one, two) = (Node::start("one", port, ""), Node::start("two", port, ""));
    joined(&[&one, &two]);
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("it spreads", || two.is_banned("203.0.113.1"));

    redis.signal(Signal::STOP);
    assert!(one.ask("strike 203.0.113.2 once").starts_with("defer"));
    let mut slowest = Duration::ZERO;
    wait_until("that it hangs is noticed", || {
        slowest = slowest.max(two.verdicts("203.0.113.5"));
        one.number("fleet_says") == 0 && one.fleet().contains("it does not answer in time")
    });
    assert!(slowest < Duration::from_secs(1), "a verdict waited for the engine: {slowest:?}");
    redis.signal(Signal::CONT);
    wait_until("what happened meanwhile spreads", || two.is_banned("203.0.113.2"));

    redis.kill();
    wait_until("it is noticed", || one.number("fleet_says") == 0);
    assert!(one.refuses("203.0.113.1"));
    one.ask("ban 203.0.113.4 for=3600");
    let empty = Redis::start_on(port);
    joined(&[&one, &two]);
    wait_until("an empty engine is told everything", || two.is_banned("203.0.113.4"));
    let late = Node::start("late", empty.port, "");
    wait_until("who joins later knows it too", || ["1", "2", "4"].iter().all(|last| late.is_banned(&format!("203.0.113.{last}"))));
}

#[test]
fn a_node_that_was_dead_does_not_bring_back_what_was_lifted_meanwhile_and_still_knows_whose_word_its_bans_are() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let (one, mut two) = (Node::start("one", redis.port, ""), Node::start("two", redis.port, ""));
    joined(&[&one, &two]);
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
    joined(&[&two]);
    wait_until("it lifts what was lifted", || !two.is_banned("203.0.113.1") && !two.is_banned("203.0.113.2"));
    // By then nothing may have come back.
    wait_until("it has said the two that stand", || two.number("fleet_said_total") >= 2);
    for lifted in ["203.0.113.1", "203.0.113.2"] {
        assert!(!one.is_banned(lifted) && !two.is_banned(lifted), "{lifted} came back");
    }
    assert!(two.is_banned("203.0.113.3") && one.is_banned("203.0.113.3"));
    assert!(two.why("198.51.100.7").contains("network_node=one"), "{}", two.why("198.51.100.7"));
    assert!(!two.why("198.51.100.200").contains("network_node"), "its own");
    wait_until("it knows whose word a ban of before is", || {
        two.ask("forget one");
        !two.is_banned("203.0.113.4")
    });
    wait_until("also of a network", || !two.refuses("198.51.100.7"));
    assert!(two.is_banned("203.0.113.3") && two.refuses("198.51.100.200"), "its own");
}

#[test]
fn an_engine_that_lost_everything_is_told_again_what_stands_and_what_was_lifted() {
    if !engine_is_there() {
        return;
    }
    let mut redis = Redis::start();
    let port = redis.port;
    let relay = Relay::start(port);
    let (near, far) = (Node::start("near", port, ""), Node::start("far", relay.port, ""));
    joined(&[&near, &far]);
    far.ask("ban 203.0.113.1 for=3600");
    wait_until("both refuse", || near.is_banned("203.0.113.1"));
    relay.cut(true);
    wait_until("it is cut off", || far.number("fleet_hears") == 0 && far.number("fleet_says") == 0);
    near.ask("unban 203.0.113.1");
    near.ask("ban 203.0.113.2 for=3600");
    redis.kill();
    let empty = Redis::start_on(port);
    joined(&[&near]);
    relay.cut(false);
    joined(&[&far]);
    wait_until("the far side knows the new ban", || far.is_banned("203.0.113.2"));
    wait_until("and the lift, which the old engine took with it", || !far.is_banned("203.0.113.1"));
    assert!(!near.is_banned("203.0.113.1"));
    let late = Node::start("late", empty.port, "");
    joined(&[&late]);
    assert!(late.is_banned("203.0.113.2") && !late.is_banned("203.0.113.1"));
}

#[test]
fn a_lift_counts_against_a_ban_whose_story_is_lost_also_if_the_engine_hung_before_anybody_noticed() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let url = format!("redis://:{SECRET}@127.0.0.1:{}", redis.port);
    let (near, far) = (Inside::join("near", &url, 0, 1000), Inside::join("far", &url, 0, 1000));
    near.joined();
    far.joined();
    // Of each client the last story is remembered: that of the mail's ban is not.
    far.ban_on("203.0.113.1", Scope::Mail, Some(Span::from_secs(3600)));
    far.ban_on("203.0.113.1", Scope::Web, Some(Span::from_secs(7200)));
    wait_until("both refuse", || near.is_banned("203.0.113.1") && redis.number("HEXISTS strikeout:client:203.0.113.1 w") == 1);
    let calls = redis.calls("evalsha");
    far.strike("203.0.113.2");
    wait_until("it has just said something", || redis.calls("evalsha") > calls);
    redis.signal(Signal::STOP);
    near.unban_on("203.0.113.1", Scope::Mail);
    wait_until("both notice", || near.number("fleet_says") == 0 && far.number("fleet_says") == 0);
    redis.signal(Signal::CONT);
    wait_until("the lift counts", || !far.is_banned("203.0.113.1"));
    near.joined();
    far.joined();
    assert!(!near.is_banned("203.0.113.1") && !far.is_banned("203.0.113.1"));
}

#[test]
fn what_was_forgotten_stays_so_when_the_engine_loses_everything() {
    if !engine_is_there() {
        return;
    }
    let mut redis = Redis::start();
    let port = redis.port;
    let relay = Relay::start(port);
    let (near, far) = (Node::start("near", port, ""), Node::start("far", relay.port, ""));
    let bad = Node::start("bad", port, "");
    joined(&[&near, &far, &bad]);
    bad.ask("ban 203.0.113.1 for=-1");
    bad.ask("ban 198.51.100.0/24 for=-1");
    let all = |node: &Node| node.is_banned("203.0.113.1") && node.refuses("198.51.100.7");
    wait_until("all refuse", || all(&near) && all(&far));
    relay.cut(true);
    wait_until("it is cut off", || far.number("fleet_hears") == 0 && far.number("fleet_says") == 0);
    near.ask("forget bad");
    wait_until("it is forgotten", || near.number("bans") == 0 && near.number("banned_networks") == 0);
    drop(bad);
    redis.kill();
    let empty = Redis::start_on(port);
    joined(&[&near]);
    relay.cut(false);
    joined(&[&far]);
    wait_until("who was away hears of it", || far.number("bans") == 0 && far.number("banned_networks") == 0);
    let late = Node::start("late", empty.port, "");
    let bad = Node::start("bad", empty.port, "");
    joined(&[&late, &bad]);
    for node in [&near, &far, &late] {
        assert_eq!((node.number("bans"), node.number("banned_networks")), (0, 0));
    }
    bad.ask("ban 203.0.113.2 for=3600");
    wait_until("what it says from then on counts", || [&near, &far, &late].iter().all(|node| node.is_banned("203.0.113.2")));
}

#[test]
fn a_lift_is_remembered_as_long_as_the_ban_would_have_lasted() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let one = Node::start("one", redis.port, "");
    joined(&[&one]);
    for (last, length) in [(1, "20"), (2, "864000"), (3, "-1")] {
        let address = format!("203.0.113.{last}");
        one.ask(&format!("ban {address} for={length}"));
        let key = format!("strikeout:client:{address}");
        wait_until("the engine has it", || redis.number(&format!("HEXISTS {key} w")) == 1);
        let until = redis.ask(&format!("HGET {key} w"));
        one.ask(&format!("unban {address}"));
        wait_until("the engine has the lift", || redis.number(&format!("HEXISTS {key} w")) == 0);
        assert_eq!(redis.ask(&format!("HGET {key} we")), until, "{length}");
        let left = redis.ask(&format!("TTL {key}"));
        let left: i64 = left.lines().find_map(|line| line.strip_prefix(':')?.parse().ok()).unwrap();
        match length {
            "20" => assert!((-2..=22).contains(&left), "{left}"),
            "864000" => assert!((863_000..=864_002).contains(&left), "{left}"),
            _ => assert_eq!(left, -1, "for ever"),
        }
    }
    // A new ban of the same client leaves the memory of the lift in place, for those who still have the old one.
    one.ask("ban 203.0.113.2 for=60");
    wait_until("banned again", || redis.number("HEXISTS strikeout:client:203.0.113.2 w") == 1);
    assert_eq!(redis.number("HEXISTS strikeout:client:203.0.113.2 wg"), 1);
    assert!(one.is_banned("203.0.113.2"));
}

#[test]
fn a_ban_after_a_lift_while_cut_off_stands_on_both_sides_when_the_older_one_is_said() {
    let Some((_redis, relay, near, far)) = near_and_far(Duration::ZERO) else { return };
    relay.cut(true);
    wait_until("it is cut off", || far.number("fleet_hears") == 0 && far.number("fleet_says") == 0);
    for request in ["ban 203.0.113.1 for=7200", "unban 203.0.113.1", "ban 203.0.113.1 for=3600"] {
        far.ask(request);
    }
    for request in ["ban 203.0.113.2 for=-1", "unban 203.0.113.2", "ban 203.0.113.2 for=-1"] {
        far.ask(request);
    }
    far.ask("ban 203.0.113.3 for=3600");
    far.ask("unban 203.0.113.3");
    relay.cut(false);
    joined(&[&far]);
    let marker = "203.0.113.9";
    far.ask(&format!("ban {marker} for=3600"));
    wait_until("all was said", || near.is_banned(marker));
    for node in [&near, &far] {
        wait_until("the newer ban stands", || node.is_banned("203.0.113.1") && node.is_banned("203.0.113.2"));
        assert!(!node.is_banned("203.0.113.3"), "only lifted");
    }
    let log = far.log();
    assert_eq!(log.matches("unbanned ").count(), 3, "not for a moment was it lifted:\n{log}");
}

#[test]
fn over_a_slow_link_verdicts_are_fast_and_bans_and_lifts_arrive() {
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
    wait_until("lifts arrive on both sides", || {
        ["203.0.113.1", "203.0.113.2"].iter().all(|lifted| !near.is_banned(lifted) && !far.is_banned(lifted))
    });
    assert!(near.is_banned("203.0.113.3") && far.is_banned("203.0.113.3"));
    assert_eq!(far.fleet(), "ok", "slow is not away");
}

#[test]
fn a_ban_that_is_lifted_at_once_does_not_come_back_from_the_engine() {
    let Some((redis, _relay, near, far)) = near_and_far(Duration::from_millis(250)) else { return };
    far.ask("ban 203.0.113.1 for=3600");
    far.ask("unban 203.0.113.1");
    let fields = |names: &str| redis.ask(&format!("HMGET strikeout:client:203.0.113.1 {names}"));
    wait_until("the engine has ban and lift", || fields("wg we").matches('$').count() == 2 && !fields("wg we").contains("$-1"));
    // Messages come in their order: who hears this one has heard those before it.
    near.ask("ban 203.0.113.2 for=3600");
    wait_until("the next message is heard", || far.is_banned("203.0.113.2"));
    assert!(!far.is_banned("203.0.113.1") && !near.is_banned("203.0.113.1"));
    assert_eq!(redis.number("HEXISTS strikeout:client:203.0.113.1 w"), 0);
}

#[test]
fn what_is_too_much_for_the_queue_is_dropped_and_counted_and_all_bans_are_said_again() {
    if !engine_is_there() {
        return;
    }
    const BANS: u32 = 18_000;
    let redis = Redis::start();
    let url = format!("redis://:{SECRET}@127.0.0.1:{}", redis.port);
    let node = Inside::join("one", &url, 0, 1_000_000);
    node.joined();
    redis.signal(Signal::STOP);
    let start = Instant::now();
    for number in 0..BANS {
        node.ban(&Ipv4Addr::from(0x0b00_0000 + number).to_string(), None);
    }
    let took = start.elapsed();
    node.unban("11.0.0.7");
    assert!(node.engine.bans().len() == BANS as usize - 1, "every ban stands here at once");
    wait_until("what did not fit is counted", || node.number("fleet_dropped_total") > 0);
    redis.signal(Signal::CONT);
    let again = wait_until("the engine knows every ban in the end", || redis.number("DBSIZE") >= u64::from(BANS));
    println!("{BANS} bans while the engine hung: made in {took:?}, {} dropped, all known {again:?} after it went on", {
        node.number("fleet_dropped_total")
    });
    wait_until("and the lift, which was not dropped", || redis.number("HEXISTS strikeout:client:11.0.0.7 wg") == 1);
    assert_eq!(redis.number("HEXISTS strikeout:client:11.0.0.7 w"), 0);
}

#[test]
fn who_comes_back_with_an_old_ban_learns_that_it_was_lifted_and_what_stands_instead() {
    let Some((_redis, relay, near, far)) = near_and_far(Duration::ZERO) else { return };
    near.ask("ban 203.0.113.1 for=-1");
    wait_until("both refuse", || far.is_banned("203.0.113.1"));
    relay.cut(true);
    wait_until("it is cut off", || far.number("fleet_hears") == 0 && far.number("fleet_says") == 0);
    near.ask("unban 203.0.113.1");
    near.ask("ban 203.0.113.1 for=3600 reason=anew");
    relay.cut(false);
    joined(&[&far]);
    wait_until("the new one stands on both", || {
        [&near, &far].iter().all(|node| node.why("203.0.113.1").contains("evidence=anew") && !node.why("203.0.113.1").contains("until=-1"))
    });
}

#[test]
fn what_a_node_may_not_say_in_one_minute_it_says_in_a_later_one_also_to_an_engine_that_lost_everything() {
    if std::env::var_os("STRIKEOUT_LONG").is_none() {
        eprintln!("skipped: it takes minutes, see tests/run --long");
        return;
    }
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let (port, bans) = (redis.port, 25);
    let one = Node::start_with("one", port, "", "bans_per_minute = 20");
    joined(&[&one]);
    let keys: String = (1..=bans).map(|last| format!(" strikeout:client:203.0.113.{last}")).collect();
    for last in 1..=bans {
        one.ask(&format!("ban 203.0.113.{last} for=36000"));
    }
    let all_known = |redis: &Redis| {
        let start = Instant::now();
        while redis.number(&format!("EXISTS{keys}")) < bans {
            assert!(start.elapsed() < Duration::from_secs(240), "waited in vain");
            std::thread::sleep(Duration::from_millis(100));
        }
        start.elapsed()
    };
    wait_until("twenty are known", || redis.number(&format!("EXISTS{keys}")) == 20);
    println!("25 bans of a node that may say 20 a minute: all known after {:?}", all_known(&redis));
    drop(redis);
    wait_until("it is noticed", || one.number("fleet_says") == 0);
    let empty = Redis::start_on(port);
    println!("and to an empty engine, half as many a minute: {:?}", all_known(&empty));
}
