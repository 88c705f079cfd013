//! Machines whose clocks differ: engines in this process with a wrong clock. (The wall clock of a program cannot be shifted from outside:
//! no namespace has one of its own.)

use std::time::{Duration, Instant};

use strikeout::internals::time::Span;

use crate::harness::wait_until;
use crate::node::InProcessNode;
use crate::server::Redis;
use crate::{SECRET, has_redis};

const HALF_A_MINUTE: i64 = 30_000;

#[test]
fn with_clocks_half_a_minute_wrong_bans_end_at_the_right_time_and_unbans_count() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let url = format!("redis://:{SECRET}@127.0.0.1:{}", redis.port);
    let right = InProcessNode::join("right", &url, 0, 1000);
    let ahead = InProcessNode::join("ahead", &url, HALF_A_MINUTE, 1000);
    let behind = InProcessNode::join("behind", &url, -HALF_A_MINUTE, 1000);
    let all = [&right, &ahead, &behind];
    all.iter().for_each(|node| node.wait_joined());

    // Each bans a client for two seconds.
    let length = Span::from_secs(2);
    let mut begun = Vec::new();
    for (number, node) in all.iter().enumerate() {
        let address = format!("203.0.113.{number}");
        node.ban(&address, Some(length));
        begun.push((address, Instant::now()));
    }
    for (address, _) in &begun {
        wait_until("all refuse", || all.iter().all(|node| node.is_banned(address)));
    }
    for (address, start) in &begun {
        for node in all {
            wait_until("it ends", || !node.is_banned(address));
            let lasted = start.elapsed();
            println!("a ban of 2 s of {address} on {} lasted {lasted:?}", node.fleet.node());
            // Ends are rounded up to whole seconds on each machine.
            assert!(lasted >= Duration::from_millis(1900) && lasted < Duration::from_secs(5), "{lasted:?}");
        }
    }

    // Unbans, whichever machine bans and whichever unbans; and a ban after the unban stays.
    let mut last = 10;
    for banning in all {
        for unbanning in all {
            last += 1;
            let address = format!("203.0.113.{last}");
            banning.ban(&address, None);
            wait_until("all refuse", || all.iter().all(|node| node.is_banned(&address)));
            unbanning.unban(&address);
            wait_until("all serve", || all.iter().all(|node| !node.is_banned(&address)));
            // On a busy machine offsets are known to some ten milliseconds: a ban that soon after the unban may still lose to it.
            wait_until("all refuse again", || {
                if !banning.is_banned(&address) {
                    banning.ban(&address, Some(Span::from_secs(3600)));
                }
                all.iter().all(|node| node.is_banned(&address))
            });
            for node in all {
                let left = node.remaining(&address).flatten().unwrap().secs();
                assert!((3590..=3602).contains(&left), "{left} s left on {}", node.fleet.node());
            }
        }
    }

    // Three strikes within ten minutes, on three clocks a minute apart.
    for node in all {
        node.strike("203.0.113.99");
    }
    wait_until("counted together", || all.iter().all(|node| node.is_banned("203.0.113.99")));

    // A machine that joins with a wrong clock loads the right times.
    let late = InProcessNode::join("late", &url, 2 * HALF_A_MINUTE, 1000);
    late.wait_joined();
    wait_until("loaded", || late.is_banned("203.0.113.11"));
    let left = late.remaining("203.0.113.11").flatten().unwrap().secs();
    assert!((3590..=3602).contains(&left), "{left}");
}

#[test]
fn a_busy_publisher_keeps_measuring_the_clock_offset() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let node = InProcessNode::join("one", &format!("redis://:{SECRET}@127.0.0.1:{}", redis.port), 0, 1000);
    node.wait_joined();
    // Each script calls TIME once as well.
    let measured = || redis.calls("time").saturating_sub(redis.calls("evalsha"));
    let (before, mut number) = (measured(), 0_u32);
    wait_until("it measures again", || {
        number += 1;
        node.strike(&std::net::Ipv4Addr::from(0x0b00_0000 + number).to_string());
        measured() >= before + 2
    });
}

#[test]
fn redis_tells_a_ban_that_is_over_from_one_that_it_knows() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let socket = format!("unix://{}?pass={SECRET}", redis.socket().display());
    let mut connection = redis::Client::open(socket).unwrap().get_connection().unwrap();
    let script = redis::Script::new(concat!(include_str!("../../src/fleet/client.lua"), include_str!("../../src/fleet/ban.lua")));
    let (now, _): (u64, u64) = redis::cmd("TIME").query(&mut connection).unwrap();
    let mut publish = |till: u64| -> String {
        let mut call = script.prepare_invoke();
        call.key("client").key("rate").key("forgotten").key("strikes").arg("wm").arg(till * 1000).arg(now * 1000).arg("{}");
        call.arg("one").arg(1000).arg("news").arg("203.0.113.1").arg("1").invoke(&mut connection).unwrap()
    };
    assert_eq!([publish(now - 60), publish(now + 60), publish(now + 60)], ["over", "new", "known"]);
}

#[test]
fn after_a_partition_the_later_change_wins_whatever_the_clocks() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let relay = crate::relay::Relay::start(redis.port);
    let url = |port: u16| format!("redis://:{SECRET}@127.0.0.1:{port}");
    let ahead = InProcessNode::join("ahead", &url(redis.port), HALF_A_MINUTE, 1000);
    let behind = InProcessNode::join("behind", &url(relay.port), -HALF_A_MINUTE, 1000);
    ahead.wait_joined();
    behind.wait_joined();
    for address in ["203.0.113.1", "203.0.113.2"] {
        ahead.ban(address, None);
        wait_until("both refuse", || behind.is_banned(address));
    }
    relay.cut(true);
    wait_until("it is cut off", || behind.number("fleet_receiving") == 0 && behind.number("fleet_publishing") == 0);
    // Unbanned on each side: a minute apart by their clocks, now by that of Redis.
    behind.unban("203.0.113.1");
    ahead.unban("203.0.113.2");
    // Unbanned on one side and banned there again.
    ahead.ban("203.0.113.3", None);
    ahead.unban("203.0.113.3");
    ahead.ban("203.0.113.3", Some(Span::from_secs(600)));
    relay.cut(false);
    wait_until("both unbans count", || {
        ["203.0.113.1", "203.0.113.2"].iter().all(|address| !ahead.is_banned(address) && !behind.is_banned(address))
    });
    wait_until("and the new ban", || ahead.is_banned("203.0.113.3") && behind.is_banned("203.0.113.3"));
    behind.wait_joined();
    assert!(!ahead.is_banned("203.0.113.1") && !behind.is_banned("203.0.113.2"));
}
