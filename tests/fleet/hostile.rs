//! A hostile Redis, or a stranger who writes to a good one: neither ends a node, delays a verdict, or makes memory grow without bound.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::wait_until;
use crate::has_redis;
use crate::node::{Node, wait_joined};
use crate::server::Redis;

/// Answers a command with any number of bytes, until the node hangs up.
type Script = fn(command: &[String], number: u64, to: &mut TcpStream) -> std::io::Result<()>;

/// A server that answers as `script` says. It ends with the process.
fn fake_redis(script: Script) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut to = stream.try_clone().unwrap();
                let mut from = BufReader::new(stream);
                let mut number = 0;
                while let Some(command) = read_command(&mut from) {
                    number += 1;
                    if script(&command, number, &mut to).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    });
    port
}

/// Reads one command: an array of strings.
fn read_command(from: &mut impl BufRead) -> Option<Vec<String>> {
    let mut number = |start: char| {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        line.trim_end().strip_prefix(start)?.parse::<usize>().ok()
    };
    let count = number('*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = {
            let mut line = String::new();
            from.read_line(&mut line).ok()?;
            line.trim_end().strip_prefix('$')?.parse::<usize>().ok()?
        };
        let mut word = vec![0; length + 2];
        from.read_exact(&mut word).ok()?;
        word.truncate(length);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Some(words)
}

/// Answers as an empty Redis does.
fn answer_as_empty(command: &[String], to: &mut TcpStream) -> std::io::Result<()> {
    match (command[0].as_str(), command.get(1).map(String::as_str)) {
        ("AUTH", _) => write!(to, "+OK\r\n"),
        ("PING", _) => write!(to, "+PONG\r\n"),
        ("TIME", _) => write!(to, "*2\r\n$10\r\n1800000000\r\n$1\r\n0\r\n"),
        ("SUBSCRIBE", Some(channel)) => write!(to, "*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len()),
        ("SCRIPT", _) => write!(to, "$40\r\n{}\r\n", sha1_of(&command[2])),
        ("SCAN", _) => write!(to, "*2\r\n$1\r\n0\r\n*0\r\n"),
        _ => write!(to, "$5\r\nknown\r\n"),
    }
}

fn sha1_of(script: &str) -> String {
    redis::Script::new(script).get_hash().to_owned()
}

/// Sends the same text forever.
fn send_forever(to: &mut TcpStream, what: &str) -> std::io::Result<()> {
    let many = what.repeat(1 + 64 * 1024 / what.len());
    loop {
        to.write_all(many.as_bytes())?;
    }
}

fn endless_text(_: &[String], _: u64, to: &mut TcpStream) -> std::io::Result<()> {
    write!(to, "$99999999999\r\n")?;
    send_forever(to, "all work and no play ")
}

fn endless_line(_: &[String], _: u64, to: &mut TcpStream) -> std::io::Result<()> {
    write!(to, "+")?;
    send_forever(to, "no end of the line ")
}

fn endless_array(_: &[String], _: u64, to: &mut TcpStream) -> std::io::Result<()> {
    write!(to, "*2147483647\r\n")?;
    send_forever(to, ":1\r\n")
}

fn endless_depth(_: &[String], _: u64, to: &mut TcpStream) -> std::io::Result<()> {
    send_forever(to, "*1\r\n")
}

fn garbage(_: &[String], number: u64, to: &mut TcpStream) -> std::io::Result<()> {
    let sorts = [
        "\0\0\0\0",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "$-7\r\n",
        "*-2\r\n",
        "%9223372036854775807\r\n",
        "|4611686018427387903\r\n:1\r\n",
        "%-1\r\n",
        "|-1\r\n",
        "~-1\r\n",
        ">0\r\n",
        "=3\r\nabc\r\n",
        "!-5\r\n",
        "(x\r\n",
        ",nan\r\n",
        "#q\r\n",
        "$3\r\nab\r\n\r\n",
        ":\r\n",
    ];
    for from in 0..sorts.len() {
        to.write_all(sorts[(usize::try_from(number).unwrap() + from) % sorts.len()].as_bytes())?;
    }
    Ok(())
}

/// One kind for each connection, because the parser gives up at the first fault.
fn one_sort_of_garbage(_: &[String], _: u64, to: &mut TcpStream) -> std::io::Result<()> {
    let sorts = ["|-1\r\n", "%-1\r\n", "=3\r\nabc\r\n", "!-5\r\n", "~-1\r\n", "|1\r\n+a\r\n", ">1\r\n:1\r\n", "*3\r\n-\r\n+\r\n$0\r\n\r\n"];
    let number = to.peer_addr()?.port();
    to.write_all(sorts[usize::from(number / 2) % sorts.len()].repeat(20).as_bytes())
}

fn drop_by_drop(_: &[String], _: u64, to: &mut TcpStream) -> std::io::Result<()> {
    write!(to, "$1000\r\n")?;
    loop {
        to.write_all(b".")?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn silence(_: &[String], _: u64, _: &mut TcpStream) -> std::io::Result<()> {
    Ok(())
}

fn terrible_errors(_: &[String], _: u64, to: &mut TcpStream) -> std::io::Result<()> {
    let text = "ERR \x1b[2J\nfleet=ok\n.\nbans=0";
    write!(to, "!{}\r\n{text}\r\n", text.len())
}

/// The scan of the keys never ends.
fn endless_keys(command: &[String], number: u64, to: &mut TcpStream) -> std::io::Result<()> {
    const RECORD: &str = r#"{"rule":"manual","count":1,"times":1,"evidence":"x"}"#;
    match command[0].as_str() {
        "SCAN" => {
            let mut keys = String::new();
            for key in 0..1000_u64 {
                let address = Ipv4Addr::from(u32::try_from(0x0b00_0000 + number * 1000 + key).unwrap());
                let key = format!("strikeout:client:{address}");
                write!(keys, "${}\r\n{key}\r\n", key.len()).unwrap();
            }
            write!(to, "*2\r\n$7\r\n1234567\r\n*1000\r\n{keys}")
        }
        "EVALSHA" if command.len() > 20 => {
            let node = format!("mx{number}");
            let ban = format!("$2\r\n-1\r\n$1\r\n5\r\n${}\r\n{RECORD}\r\n${}\r\n{node}\r\n$1\r\n5\r\n$0\r\n\r\n", RECORD.len(), node.len());
            let row = format!("*12\r\n{ban}{ban}");
            let count = command[2].parse::<usize>().unwrap() - 1;
            write!(to, "*{count}\r\n{}", row.repeat(count))
        }
        _ => answer_as_empty(command, to),
    }
}

/// By its clock every ban is over.
fn ahead_of_time(command: &[String], _: u64, to: &mut TcpStream) -> std::io::Result<()> {
    match command[0].as_str() {
        "EVALSHA" => write!(to, "$4\r\nover\r\n"),
        _ => answer_as_empty(command, to),
    }
}

#[test]
fn a_ban_that_is_over_by_the_clock_of_redis_alone_is_counted_and_published_again() {
    let mut node = Node::start("one", fake_redis(ahead_of_time), "");
    wait_joined(&[&node]);
    node.ask("ban 203.0.113.1 for=3600");
    wait_until("it is published again", || node.number("fleet_dropped_total") >= 2);
    assert!(node.is_running() && node.log().contains("is over by Redis's clock"), "{}", node.log());
}

/// Rows of the wrong shape.
fn crooked_rows(command: &[String], number: u64, to: &mut TcpStream) -> std::io::Result<()> {
    let sorts = [
        ":7\r\n",
        "$-1\r\n",
        "*0\r\n",
        "*1\r\n*1\r\n*1\r\n:1\r\n",
        "$3\r\nabc\r\n",
        "*2\r\n*8\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n_\r\n",
    ];
    match command[0].as_str() {
        "SCAN" if number < 40 => {
            let keys = ["strikeout:client:11.0.0.1", "strikeout:client:11.0.0.2/33", "strikeout:client:", "another"];
            let keys: String = keys.iter().map(|key| format!("${}\r\n{key}\r\n", key.len())).collect();
            write!(to, "*2\r\n$1\r\n7\r\n*4\r\n{keys}")
        }
        "EVALSHA" => to.write_all(sorts[usize::try_from(number).unwrap() % sorts.len()].as_bytes()),
        _ => answer_as_empty(command, to),
    }
}

/// A channel with endless bans of made-up machines, of clients and networks, permanent and manual, and with nonsense.
fn endless_news(command: &[String], _: u64, to: &mut TcpStream) -> std::io::Result<()> {
    answer_as_empty(command, to)?;
    let ("SUBSCRIBE", Some(channel)) = (command[0].as_str(), command.get(1)) else { return Ok(()) };
    let mut number = 0_u64;
    loop {
        let mut news = String::new();
        for _ in 0..500 {
            number += 1;
            let address = Ipv4Addr::from(u32::try_from(0x0b00_0000 + number % 0x4000_0000).unwrap());
            let (node, rule) = (format!("n{}", number / 50), format!("r{number}"));
            let length = if number.is_multiple_of(3) { "/30" } else { "" };
            let rule = if number.is_multiple_of(2) { "manual" } else { &rule };
            let text = match number % 11 {
                0 => "nonsense".repeat(1000),
                1 => format!("forget n{number} 0"),
                2 => format!("unban n1 1 wm 0 {address}"),
                _ => format!("ban {node} 1 wm -1 0 0 {address}{length} {{\"rule\":\"{rule}\",\"count\":1,\"times\":1,\"evidence\":\"\"}}"),
            };
            write!(news, "*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n{text}\r\n", channel.len(), text.len()).unwrap();
        }
        to.write_all(news.as_bytes())?;
    }
}

/// An answer is limited to a megabyte; what is parsed from it takes a multiple of that.
const MOST_MEMORY: u64 = 96 * 1024 * 1024;
const BANS: u64 = 5000;

#[test]
fn a_hostile_redis_ends_no_node_delays_no_verdict_and_fills_no_memory() {
    let scripts: [(&str, Script); 13] = [
        ("endless text", endless_text),
        ("endless line", endless_line),
        ("endless array", endless_array),
        ("endless depth", endless_depth),
        ("garbage", garbage),
        ("one sort of garbage", one_sort_of_garbage),
        ("drop by drop", drop_by_drop),
        ("silence", silence),
        ("terrible errors", terrible_errors),
        ("endless keys", endless_keys),
        ("crooked rows", crooked_rows),
        ("endless news", endless_news),
        ("hanging up", |_, _, _| Err(std::io::Error::other("enough"))),
    ];
    let start_one = |script| Node::start_with("one", fake_redis(script), &format!("bans = {BANS}"), "");
    let mut nodes: Vec<(&str, Node)> = scripts.into_iter().map(|(what, script)| (what, start_one(script))).collect();
    let usual = start_one(silence).peak_memory();
    // Long enough for each server to do its worst: by the end, nearly all have been given up several times.
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut round = 0_u8;
    while start.elapsed() < Duration::from_secs(3) {
        round += 1;
        for (what, node) in &nodes {
            slowest = slowest.max(node.verdicts(&format!("203.0.113.{round}")));
            let grown = node.peak_memory().saturating_sub(usual);
            assert!(grown < MOST_MEMORY, "{what}: memory grew by {} MB", grown / 1024 / 1024);
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    for (what, node) in &mut nodes {
        assert!(node.is_running(), "{what}");
        let (log, status) = (node.log(), node.ask("status"));
        assert!(!log.contains("panicked") && !log.contains("internal fault"), "{what}: {log}");
        assert!(!log.contains('\x1b') && !status.contains('\x1b') && status.matches("\"state\":").count() == 1);
        let (bans, networks) = (node.number("bans"), node.number("banned_networks"));
        let grown = node.peak_memory().saturating_sub(usual) / 1024 / 1024;
        println!("{what}: {bans} bans, {networks} networks, at most {grown} MB more, {}", node.fleet());
        assert!(bans <= BANS + u64::from(round) && networks <= 16_384, "{what}: {bans} bans, {networks} networks");
        if !["endless news", "endless keys", "crooked rows"].contains(what) {
            assert!(node.fleet().starts_with("cut off: "), "{what}: {}", node.fleet());
        }
        // At most one line for each ban that is admitted.
        assert!(log.len() < 4 * 1024 * 1024, "{what}: a log of {} bytes", log.len());
    }
    println!("slowest verdict beside {} hostile servers: {slowest:?}", nodes.len());
    assert!(slowest < Duration::from_secs(1), "a verdict waited for Redis: {slowest:?}");
}

#[test]
fn a_stranger_who_writes_nonsense_to_a_good_redis_stops_nobody() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let one = Node::start("one", redis.port, "");
    wait_joined(&[&one]);
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("it is published", || redis.number("EXISTS strikeout:client:203.0.113.1") == 1);
    let huge = "x".repeat(60_000);
    for command in [
        "SET strikeout:client:203.0.113.2 string".to_owned(),
        "HSET strikeout:client:203.0.113.3 w garbage wr garbage ws garbage wg garbage we garbage".to_owned(),
        "HSET strikeout:client:203.0.113.4 w -1 wr {} ws 1 m 1e999 mr null".to_owned(),
        format!("HSET strikeout:client:203.0.113.5 w -1 ws 1 wr {huge}"),
        "HSET strikeout:client:not-an-address w -1".to_owned(),
        "SADD strikeout:strike:spread:203.0.113.9 member".to_owned(),
        "SET strikeout:client: nobody".to_owned(),
        format!("PUBLISH strikeout:news {huge}"),
        "PUBLISH strikeout:news nonsense".to_owned(),
        "LPUSH strikeout:client:203.0.113.0/24 x".to_owned(),
    ] {
        let answer = redis.ask(&command);
        assert!(!answer.contains("-ERR"), "{}: {answer}", command.get(..60).unwrap_or(&command));
    }
    // Keys that every node needs: its rate and the forgotten nodes; and a ban that is published already.
    for key in ["strikeout:rate:one", "strikeout:forgotten", "strikeout:client:203.0.113.1"] {
        redis.ask(&format!("DEL {key}"));
    }
    redis.ask("HSET strikeout:rate:one a 1");
    redis.ask("SET strikeout:forgotten x");
    redis.ask("INCR strikeout:client:203.0.113.1");
    // Changes of those clients fail, each by itself; all others are published.
    one.ask("strike 203.0.113.9 spread");
    for last in 2..=6 {
        one.ask(&format!("ban 203.0.113.{last} for=3600"));
        one.ask(&format!("unban 203.0.113.{last}"));
        one.ask(&format!("ban 203.0.113.{last} for=7200"));
    }
    wait_until("the last is published", || redis.ask("HGET strikeout:client:203.0.113.6 wr").contains("manual"));
    let late = Node::start("late", redis.port, "");
    wait_joined(&[&one, &late]);
    assert!(late.is_banned("203.0.113.6"));
    for node in [&one, &late] {
        assert!(!node.log().contains("cut off"), "{}", node.log());
    }
    // It fails once and not again and again. Each node asks for the time once a second; a new pass over all bans would begin after three.
    let (mut published, mut times) = (0, 0);
    wait_until("nothing more is published", || {
        let calls = redis.calls("evalsha");
        if calls != published {
            (published, times) = (calls, redis.calls("time"));
        }
        redis.calls("time") >= times + 8
    });
    assert!(one.number("fleet_dropped_total") > 0, "it is counted");
    assert!(one.log().matches("cannot be published").count() <= 3, "{}", one.log());
    one.ask("forget nobody");
    wait_until("the list of forgotten nodes is repaired", || redis.ask("HEXISTS strikeout:forgotten nobody").contains(":1\r"));
    late.ask("ban 203.0.113.7 for=60");
    wait_until("messages are received", || one.is_banned("203.0.113.7"));
    assert!(one.log().contains("a change cannot be published: Redis at 127.0.0.1:"), "{}", one.log());
    for node in [&one, &late] {
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
}
