//! Bans, unbans and strikes spread to all machines.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use strikeout::internals::time::Span;

use crate::harness::STRIKEOUT;
use crate::harness::wait_until;
use crate::node::{InProcessNode, Node, wait_joined};
use crate::server::Redis;
use crate::{SECRET, has_redis};

#[test]
fn a_ban_and_its_unban_spread_and_why_names_the_node() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let (one, two) = (Node::start("one", redis.port, ""), Node::start("two", redis.port, ""));
    wait_joined(&[&one, &two]);
    let mut times = Vec::new();
    for number in 1..=30 {
        let address = format!("203.0.113.{number}");
        assert!(one.ask(&format!("strike {address} once")).starts_with("defer rule=once"));
        times.push(wait_until("the other node refuses", || two.refuses(&address)));
    }
    report("a ban", times);
    assert!(two.why("203.0.113.1")["ban"]["node"] == "one", "{}", two.why("203.0.113.1"));

    let mut times = Vec::new();
    for number in (3..=30).chain([1]) {
        let address = format!("203.0.113.{number}");
        two.ask(&format!("unban {address}"));
        times.push(wait_until("the first node accepts again", || !one.refuses(&address)));
    }
    report("an unban", times);
    assert!(one.refuses("203.0.113.2") && two.refuses("203.0.113.2"));

    one.ask("ban 203.0.113.99 for=-1 reason=enough");
    wait_until("a permanent ban spreads", || two.why("203.0.113.99")["services"]["web"]["until"] == -1);
    one.ask("ban 2001:db8:7::1 for=3600 scope=mail");
    wait_until("the ban of an IPv6 prefix spreads with its scope", || two.why("2001:db8:7::99")["services"]["mail"].is_object());
    assert!(two.why("2001:db8:7::99")["services"]["web"].is_null() && !two.refuses("2001:db8:8::1"));
    one.ask("ban 198.51.100.0/24 for=3600");
    wait_until("a network's ban spreads", || two.refuses("198.51.100.77"));
    one.ask("unban 198.51.100.0/24");
    wait_until("its unban spreads", || !two.refuses("198.51.100.77"));

    let late = Node::start("late", redis.port, "");
    wait_joined(&[&late]);
    wait_until("a later node knows the active bans", || {
        late.refuses("203.0.113.2") && late.refuses("203.0.113.99") && late.why("2001:db8:7::1")["services"]["mail"].is_object()
    });
    assert!(!late.refuses("203.0.113.1"), "unbanned");
}

/// Prints how long other nodes took to know. The promise is a tenth of a second; the worst case depends on the machine too.
fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!("propagation of {what}: median {median:?}, worst {worst:?}, of {}", times.len());
    assert!(median < Duration::from_millis(100), "{what}: {median:?}");
}

#[test]
fn strikes_on_several_nodes_are_counted_together() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let nodes = ["one", "two", "three"].map(|name| Node::start(name, redis.port, ""));
    wait_joined(&[&nodes[0], &nodes[1], &nodes[2]]);
    let before = redis.calls("evalsha");
    for node in &nodes {
        assert!(node.ask("strike 203.0.113.5 spread").starts_with("accept"));
    }
    for node in &nodes {
        wait_until("every node refuses", || node.refuses("203.0.113.5"));
    }
    let calls = redis.calls("evalsha") - before;
    println!("{calls} script calls for 3 offences and the ban that they made");
    assert_eq!(calls, 4);

    // What was received is not published again, however many nodes have received it.
    let before = redis.calls("evalsha");
    nodes[0].ask("ban 198.51.100.0/24 for=3600");
    wait_until("all refuse the network", || nodes.iter().all(|node| node.refuses("198.51.100.9")));
    nodes[1].ask("unban 198.51.100.0/24");
    nodes[2].ask("unban 203.0.113.5");
    wait_until("all serve both", || nodes.iter().all(|node| !node.refuses("198.51.100.9") && !node.refuses("203.0.113.5")));
    let times = redis.calls("time");
    wait_until("each has been idle", || redis.calls("time") > times + 6);
    assert_eq!(redis.calls("evalsha") - before, 3);
    assert!(!nodes[0].refuses("203.0.113.6"));
}

#[test]
fn a_count_ends_with_the_ban_that_it_made_on_every_node() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let (one, two) = (Node::start("one", redis.port, ""), Node::start("two", redis.port, ""));
    wait_joined(&[&one, &two]);
    // All three on one machine, which bans by itself.
    for _ in 0..3 {
        one.ask("strike 203.0.113.5 spread");
    }
    wait_until("both refuse", || one.is_banned("203.0.113.5") && two.is_banned("203.0.113.5"));
    assert_eq!(redis.number("EXISTS strikeout:strike:spread:203.0.113.5"), 0);
    two.ask("unban 203.0.113.5");
    wait_until("both serve", || !one.is_banned("203.0.113.5") && !two.is_banned("203.0.113.5"));
    two.ask("strike 203.0.113.5 spread");
    wait_until("it is counted", || redis.number("HEXISTS strikeout:strike:spread:203.0.113.5 count") == 1);
    assert!(!one.is_banned("203.0.113.5") && !two.is_banned("203.0.113.5"), "one strike");

    // One on one machine and two on another: together they ban, and on both the count starts again.
    two.ask("strike 203.0.113.6 spread");
    wait_until("it is counted", || redis.number("HEXISTS strikeout:strike:spread:203.0.113.6 count") == 1);
    one.ask("strike 203.0.113.6 spread");
    one.ask("strike 203.0.113.6 spread");
    wait_until("both refuse", || one.is_banned("203.0.113.6") && two.is_banned("203.0.113.6"));
    one.ask("unban 203.0.113.6");
    wait_until("both serve", || !one.is_banned("203.0.113.6") && !two.is_banned("203.0.113.6"));
    for _ in 0..2 {
        assert!(two.ask("strike 203.0.113.6 spread").starts_with("accept"), "it had one before");
    }
}

#[test]
fn an_unusable_fleet_configuration_is_an_error_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    for (text, expected) in [
        ("[fleet]\nurl = 'http://x'\nnode = 'a'\n", "strikeout.toml:1: found a url that cannot be used"),
        ("[fleet]\nurl = 'redis://127.0.0.1/'\nnode = 'A B'\n", "strikeout.toml:1: found the node name \"A B\""),
        (
            "[[rule]]\nname = 'rate'\nevent = 'request'\nmaxretry = 100\nfleet = true\n",
            "strikeout.toml:2: found fleet = true in rule \"rate\" over a number of requests",
        ),
        ("[fleet]\nnode = 'a'\n", "strikeout.toml:1: missing field `url`"),
    ] {
        let file = dir.path().join("strikeout.toml");
        fs::write(&file, text).unwrap();
        let output = Command::new(STRIKEOUT).args(["check", "--config"]).arg(&file).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(error.contains(expected), "{error}");
    }
}

/// Measures what each operation costs Redis, for the sizing in docs/fleet-sizing.md. There is no assertion: the result depends on the machine.
#[test]
fn the_cost_for_redis_is_measured() {
    if !has_redis() {
        return;
    }
    const MANY: u32 = 2000;
    let redis = Redis::start();
    let node = InProcessNode::join("one", &format!("redis://:{SECRET}@127.0.0.1:{}", redis.port), 0, 1_000_000);
    node.wait_joined();
    let address = |number: u32| Ipv4Addr::from(0x0b00_0000 + number).to_string();
    let reset = || assert!(redis.ask("CONFIG RESETSTAT").contains("OK"));
    let of = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(MANY);
    reset();
    let before = redis.processor_time();
    for number in 0..MANY {
        node.strike(&address(number));
    }
    wait_until("strikes are published", || redis.calls("evalsha") >= u64::from(MANY));
    let strike = of(redis.processor_time() - before);
    let (empty, keys) = (redis.info("used_memory"), redis.number("DBSIZE"));
    let counter = redis.number(&format!("MEMORY USAGE strikeout:strike:spread:{}", address(7)));
    reset();
    let before = redis.processor_time();
    for number in 0..MANY {
        node.ban(&address(number), Some(Span::from_secs(3600)));
    }
    wait_until("bans are published", || redis.number("DBSIZE") >= keys + u64::from(MANY));
    let ban = of(redis.processor_time() - before);
    let memory = (redis.info("used_memory") - empty) / u64::from(MANY);
    let before = redis.processor_time();
    let late = InProcessNode::join("late", &format!("redis://:{SECRET}@127.0.0.1:{}", redis.port), 0, 1_000_000);
    late.wait_joined();
    wait_until("all are loaded", || late.engine.bans().len() >= MANY as usize);
    let load = of(redis.processor_time() - before);
    println!(
        "processor time of Redis: strike {strike:.1} us, ban {ban:.1} us with its message to one node, loading {load:.1} us a client; \
         {memory} bytes a ban, {counter} a counter"
    );

    // The cost of one message by the number of subscribers.
    let message = "m".repeat(250);
    let mut subscribers: Vec<TcpStream> = Vec::new();
    for listeners in [0, 10, 100, 1000_usize] {
        while subscribers.len() < listeners {
            let mut subscriber = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port)).unwrap();
            write!(subscriber, "AUTH {SECRET}\r\nSUBSCRIBE costs\r\n").unwrap();
            subscriber.set_nonblocking(true).unwrap();
            subscribers.push(subscriber);
        }
        wait_until("all listen", || redis.ask("PUBSUB NUMSUB costs").contains(&format!(":{listeners}\r\n")));
        let rounds = 100_000 / (listeners + 100);
        let before = redis.processor_time();
        let mut stream = UnixStream::connect(redis.socket()).unwrap();
        write!(stream, "AUTH {SECRET}\r\n").unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut buffer = vec![0; 64 * 1024];
        for _ in 0..rounds {
            writeln!(stream, "PUBLISH costs {message}\r").unwrap();
            reader.read_line(&mut String::new()).unwrap();
            for subscriber in &mut subscribers {
                while subscriber.read(&mut buffer).is_ok_and(|read| read == buffer.len()) {}
            }
        }
        let each = (redis.processor_time() - before).as_secs_f64() * 1e6 / f64::from(u32::try_from(rounds).unwrap());
        println!("a message to {listeners} nodes costs Redis {each:.1} us");
    }
}

#[test]
fn two_machines_of_one_name_are_reported() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let (one, another) = (Node::start("same", redis.port, ""), Node::start("same", redis.port, ""));
    wait_joined(&[&one, &another]);
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("the other one bans too", || another.is_banned("203.0.113.1"));
    assert!(another.log().contains("another machine publishes bans as same"), "{}", another.log());
    one.ask("unban 203.0.113.1");
    wait_until("and unbans", || !another.is_banned("203.0.113.1"));
    assert!(!one.log().contains("another machine"), "{}", one.log());
}

#[test]
fn the_ban_of_an_ipv6_client_spreads_only_to_machines_with_the_same_prefix() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let start = |name, prefix| Node::start(name, redis.port, &format!("ipv6_prefix = {prefix}"));
    let (one, wide, two) = (start("one", 64), start("wide", 56), start("two", 64));
    wait_joined(&[&one, &wide, &two]);
    one.ask("strike 2001:db8:0:1ff::7 once");
    wide.ask("strike 2001:db8:0:200::7 once");
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("it spreads to the same prefix", || two.refuses("2001:db8:0:1ff::9"));
    wait_until("IPv4 is not concerned", || wide.refuses("203.0.113.1") && two.refuses("203.0.113.1"));
    let says = |node: &Node, expected: &str| wait_until(expected, || node.log().contains(expected));
    says(&wide, "rejected the ban of 2001:db8:0:1ff:: by node one: found ipv6_prefix = 64 there, expected 56 as on this machine");
    says(&two, "rejected the ban of 2001:db8:0:200:: by node wide: found ipv6_prefix = 56 there, expected 64 as on this machine");
    for (node, address) in [(&wide, "2001:db8:0:1ff::7"), (&wide, "2001:db8:0:100::7"), (&two, "2001:db8:0:200::7")] {
        assert!(!node.is_banned(address) && !node.refuses(address), "{address}: {}", node.why(address));
        assert!(node.number("fleet_refused_total") > 0);
    }
}
