//! Machines whose clocks differ. They are in this process, and what a resident holds is theirs in full; only the clock that it is handed is
//! wrong. (A program's wall clock cannot be shifted from outside: there is no namespace for it, and the library asks the kernel directly.)

use std::time::{Duration, Instant};

use strikeout::time::Span;

use crate::engine::Redis;
use crate::node::Inside;
use crate::{SECRET, engine_is_there, wait_until};

const HALF_A_MINUTE: i64 = 30_000;

#[test]
fn a_machine_whose_clock_is_half_a_minute_wrong_bans_until_the_right_moment_and_respects_lifts() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let url = format!("redis://:{SECRET}@127.0.0.1:{}", redis.port);
    let right = Inside::join("right", &url, 0, 1000);
    let ahead = Inside::join("ahead", &url, HALF_A_MINUTE, 1000);
    let behind = Inside::join("behind", &url, -HALF_A_MINUTE, 1000);
    let all = [&right, &ahead, &behind];
    all.iter().for_each(|node| node.joined());

    // Each bans for two seconds; everybody is free again when those are over, and not before.
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
            // Ends are whole seconds, rounded up, on each machine.
            assert!(lasted >= Duration::from_millis(1900) && lasted < Duration::from_secs(5), "{lasted:?}");
        }
    }

    // Lifts, whoever bans and whoever lifts; and a ban that is made after the lift stands.
    let mut last = 10;
    for banning in all {
        for lifting in all {
            last += 1;
            let address = format!("203.0.113.{last}");
            banning.ban(&address, None);
            wait_until("all refuse", || all.iter().all(|node| node.is_banned(&address)));
            lifting.unban(&address);
            wait_until("all serve", || all.iter().all(|node| !node.is_banned(&address)));
            // On a busy machine clocks are known to some ten milliseconds: a ban as soon after the lift may still lose to it, a later one not.
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

    // Who joins with a wrong clock loads the right times.
    let late = Inside::join("late", &url, 2 * HALF_A_MINUTE, 1000);
    late.joined();
    wait_until("loaded", || late.is_banned("203.0.113.11"));
    let left = late.remaining("203.0.113.11").flatten().unwrap().secs();
    assert!((3590..=3602).contains(&left), "{left}");
}

#[test]
fn a_machine_that_always_has_something_to_say_asks_for_the_engines_time_all_the_same() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let node = Inside::join("one", &format!("redis://:{SECRET}@127.0.0.1:{}", redis.port), 0, 1000);
    node.joined();
    // Each script asks once, too.
    let asked = || redis.calls("time").saturating_sub(redis.calls("evalsha"));
    let (before, mut number) = (asked(), 0_u32);
    wait_until("it asks again and again", || {
        number += 1;
        node.strike(&std::net::Ipv4Addr::from(0x0b00_0000 + number).to_string());
        asked() >= before + 2
    });
}

#[test]
fn a_ban_that_is_over_by_the_engines_clock_is_told_from_one_that_it_knows() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let socket = format!("unix://{}?pass={SECRET}", redis.socket().display());
    let mut wire = redis::Client::open(socket).unwrap().get_connection().unwrap();
    let script = redis::Script::new(include_str!("../../src/fleet/ban.lua"));
    let (now, _): (u64, u64) = redis::cmd("TIME").query(&mut wire).unwrap();
    let mut say = |till: u64| -> String {
        let mut call = script.prepare_invoke();
        call.key("client").key("rate").key("forgotten").arg("wm").arg(till * 1000).arg(now * 1000).arg("{}");
        call.arg("one").arg(1000).arg("news").arg("203.0.113.1").arg("one").invoke(&mut wire).unwrap()
    };
    assert_eq!([say(now - 60), say(now + 60), say(now + 60)], ["over  ", "new  ", "known  "]);
}

#[test]
fn of_two_sides_with_wrong_clocks_the_later_word_counts_after_a_partition() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let relay = crate::relay::Relay::start(redis.port);
    let url = |port: u16| format!("redis://:{SECRET}@127.0.0.1:{port}");
    let ahead = Inside::join("ahead", &url(redis.port), HALF_A_MINUTE, 1000);
    let behind = Inside::join("behind", &url(relay.port), -HALF_A_MINUTE, 1000);
    ahead.joined();
    behind.joined();
    for address in ["203.0.113.1", "203.0.113.2"] {
        ahead.ban(address, None);
        wait_until("both refuse", || behind.is_banned(address));
    }
    relay.cut(true);
    wait_until("it is cut off", || behind.number("fleet_hears") == 0 && behind.number("fleet_says") == 0);
    // Lifted here, there: by their clocks a minute apart, by the engine's now.
    behind.unban("203.0.113.1");
    ahead.unban("203.0.113.2");
    // Lifted there, and banned there again since.
    ahead.ban("203.0.113.3", None);
    ahead.unban("203.0.113.3");
    ahead.ban("203.0.113.3", Some(Span::from_secs(600)));
    relay.cut(false);
    wait_until("both lifts count", || {
        ["203.0.113.1", "203.0.113.2"].iter().all(|address| !ahead.is_banned(address) && !behind.is_banned(address))
    });
    wait_until("and the new ban", || ahead.is_banned("203.0.113.3") && behind.is_banned("203.0.113.3"));
    behind.joined();
    assert!(!ahead.is_banned("203.0.113.1") && !behind.is_banned("203.0.113.2"));
}
