//! Bans, lifts and strikes spread.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use strikeout::time::Span;

use crate::engine::Redis;
use crate::node::{Inside, Node, STRIKEOUT, joined};
use crate::{SECRET, engine_is_there, wait_until};

#[test]
fn a_ban_and_its_lift_spread_to_all_nodes_and_why_names_the_node() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let (one, two) = (Node::start("one", redis.port, ""), Node::start("two", redis.port, ""));
    joined(&[&one, &two]);
    let mut times = Vec::new();
    for number in 1..=30 {
        let address = format!("203.0.113.{number}");
        assert!(one.ask(&format!("strike {address} once")).starts_with("defer rule=once"));
        times.push(wait_until("the other node refuses", || two.refuses(&address)));
    }
    told("a ban", times);
    assert!(two.why("203.0.113.1").contains("node=one"), "{}", two.why("203.0.113.1"));

    let mut times = Vec::new();
    for number in (3..=30).chain([1]) {
        let address = format!("203.0.113.{number}");
        two.ask(&format!("unban {address}"));
        times.push(wait_until("the first node accepts again", || !one.refuses(&address)));
    }
    told("a lift", times);
    assert!(one.refuses("203.0.113.2") && two.refuses("203.0.113.2"));

    one.ask("ban 203.0.113.99 for=-1 reason=enough");
    wait_until("a permanent ban spreads", || two.why("203.0.113.99").contains("until=-1"));
    one.ask("ban 2001:db8:7::1 for=3600 scope=mail");
    wait_until("a household's ban spreads, where it is meant for", || two.why("2001:db8:7::99").contains("mail=refused "));
    assert!(two.why("2001:db8:7::99").contains("web=served") && !two.refuses("2001:db8:8::1"));
    one.ask("ban 198.51.100.0/24 for=3600");
    wait_until("a network's ban spreads", || two.refuses("198.51.100.77"));
    one.ask("unban 198.51.100.0/24");
    wait_until("and is lifted", || !two.refuses("198.51.100.77"));

    let late = Node::start("late", redis.port, "");
    joined(&[&late]);
    wait_until("who joins later knows what is in force", || {
        late.refuses("203.0.113.2") && late.refuses("203.0.113.99") && late.why("2001:db8:7::1").contains("mail=refused ")
    });
    assert!(!late.refuses("203.0.113.1"), "lifted");
}

/// How long it took until another node knew. A tenth of a second is what is promised; the worst is the machine's as well.
fn told(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!("propagation of {what}: median {median:?}, worst {worst:?}, of {}", times.len());
    assert!(median < Duration::from_millis(100), "{what}: {median:?}");
}

#[test]
fn strikes_spread_over_the_nodes_are_counted_together_and_one_node_alone_would_not_ban() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let nodes = ["one", "two", "three"].map(|name| Node::start(name, redis.port, ""));
    joined(&[&nodes[0], &nodes[1], &nodes[2]]);
    let before = redis.calls("evalsha");
    for node in &nodes {
        assert!(node.ask("strike 203.0.113.5 spread").starts_with("accept"));
    }
    for node in &nodes {
        wait_until("every node refuses", || node.refuses("203.0.113.5"));
    }
    let calls = redis.calls("evalsha") - before;
    println!("engine operations: {calls} script calls for 3 offences and the ban that they made");
    assert_eq!(calls, 4);

    // What was heard is not said again, however many have heard it.
    let before = redis.calls("evalsha");
    nodes[0].ask("ban 198.51.100.0/24 for=3600");
    wait_until("all refuse the network", || nodes.iter().all(|node| node.refuses("198.51.100.9")));
    nodes[1].ask("unban 198.51.100.0/24");
    nodes[2].ask("unban 203.0.113.5");
    wait_until("all serve both", || nodes.iter().all(|node| !node.refuses("198.51.100.9") && !node.refuses("203.0.113.5")));
    let signs = redis.calls("time");
    wait_until("each has been idle", || redis.calls("time") > signs + 6);
    assert_eq!(redis.calls("evalsha") - before, 3);
    assert!(!nodes[0].refuses("203.0.113.6"));
}

#[test]
fn strikes_that_made_a_ban_count_no_more_wherever_they_were_made_and_wherever_the_ban_was() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let (one, two) = (Node::start("one", redis.port, ""), Node::start("two", redis.port, ""));
    joined(&[&one, &two]);
    // All three on one machine: it bans by itself.
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

    // One on one machine and two on another: together they ban, and on both sides the count starts anew.
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
fn a_fleet_that_cannot_be_used_is_an_error_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    for (text, expected) in [
        ("[fleet]\nurl = 'http://x'\nnode = 'a'\n", "strikeout.toml:1: found a url that cannot be used"),
        ("[fleet]\nurl = 'redis://127.0.0.1/'\nnode = 'A B'\n", "strikeout.toml:1: found the node name \"A B\""),
        (
            "[[rule]]\nname = 'rate'\nevent = 'request'\nmaxretry = 100\nfleet = true\n",
            "strikeout.toml:2: found fleet = true in rule \"rate\" over the rate of requests",
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

/// What each thing costs the engine, for the sizing note in docs/fleet.md: no assertion, the machine decides.
#[test]
fn what_it_costs_the_engine_is_measured() {
    if !engine_is_there() {
        return;
    }
    const MANY: u32 = 2000;
    let redis = Redis::start();
    let node = Inside::join("one", &format!("redis://:{SECRET}@127.0.0.1:{}", redis.port), 0, 1_000_000);
    node.joined();
    let address = |number: u32| Ipv4Addr::from(0x0b00_0000 + number).to_string();
    let reset = || assert!(redis.ask("CONFIG RESETSTAT").contains("OK"));
    let of = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(MANY);
    reset();
    let before = redis.processor_time();
    for number in 0..MANY {
        node.strike(&address(number));
    }
    wait_until("strikes are said", || redis.calls("evalsha") >= u64::from(MANY));
    let strike = of(redis.processor_time() - before);
    let (empty, keys) = (redis.info("used_memory"), redis.number("DBSIZE"));
    let counter = redis.number(&format!("MEMORY USAGE strikeout:strike:spread:{}", address(7)));
    reset();
    let before = redis.processor_time();
    for number in 0..MANY {
        node.ban(&address(number), Some(Span::from_secs(3600)));
    }
    wait_until("bans are said", || redis.number("DBSIZE") >= keys + u64::from(MANY));
    let ban = of(redis.processor_time() - before);
    let memory = (redis.info("used_memory") - empty) / u64::from(MANY);
    let before = redis.processor_time();
    let late = Inside::join("late", &format!("redis://:{SECRET}@127.0.0.1:{}", redis.port), 0, 1_000_000);
    late.joined();
    wait_until("all are loaded", || late.engine.bans().len() >= MANY as usize);
    let load = of(redis.processor_time() - before);
    println!(
        "processor time of the engine: strike {strike:.1} us, ban {ban:.1} us with its message to one node, loading {load:.1} us a client; \
         {memory} bytes a ban, {counter} a counter"
    );

    // One message to so many nodes: what it costs beyond a message to nobody.
    let message = "m".repeat(250);
    let mut ears: Vec<TcpStream> = Vec::new();
    for listeners in [0, 10, 100, 1000_usize] {
        while ears.len() < listeners {
            let mut ear = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port)).unwrap();
            write!(ear, "AUTH {SECRET}\r\nSUBSCRIBE costs\r\n").unwrap();
            ear.set_nonblocking(true).unwrap();
            ears.push(ear);
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
            for ear in &mut ears {
                while ear.read(&mut buffer).is_ok_and(|read| read == buffer.len()) {}
            }
        }
        let each = (redis.processor_time() - before).as_secs_f64() * 1e6 / f64::from(u32::try_from(rounds).unwrap());
        println!("a message to {listeners} nodes costs the engine {each:.1} us");
    }
}
