//! Several `strikeout serve` and a real redis-server: what one machine finds out, all of them know, and nobody waits for the network.
#![cfg(feature = "fleet")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say what they measured"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const STRIKEOUT: &str = env!("CARGO_BIN_EXE_strikeout");
const SECRET: &str = "a-secret-of-the-fleet";
/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);
/// Two strikes make a ban, wherever they are made.
const SPREAD: &str = "[[rule]]\nname = 'spread'\nevent = 'incident'\nmaxretry = 3\nfindtime = '10m'\nfleet = true\n\
                      [[rule]]\nname = 'once'\nevent = 'incident'\nmaxretry = 1\n";

/// Whether the engine is installed; `tests/run` sees to it that it is.
fn engine_is_there() -> bool {
    let there = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(there || std::env::var_os("STRIKEOUT_REQUIRE_SERVERS").is_none(), "redis-server is not installed");
    if !there {
        eprintln!("skipped: redis-server is not installed (Debian's package redis-server)");
    }
    there
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    start.elapsed()
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A redis-server with a password, that keeps nothing on disk.
struct Redis {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        Self::start_on(free_port())
    }

    fn start_on(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!("port {port}\nbind 127.0.0.1\ndir {}\nsave \"\"\nappendonly no\nrequirepass {SECRET}\n", dir.path().display());
        fs::write(dir.path().join("redis.conf"), config).unwrap();
        let child = Command::new("redis-server").arg(dir.path().join("redis.conf")).stdout(Stdio::null()).spawn().unwrap();
        let redis = Self { child, port, _dir: dir };
        wait_until("redis-server answers", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() && redis.ask("PING").contains("PONG")
        });
        redis
    }

    /// What an inline command is answered.
    fn ask(&self, command: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "AUTH {SECRET}\r\n{command}\r\nQUIT\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// A number out of `INFO`.
    fn info(&self, field: &str) -> u64 {
        let text = self.ask("INFO");
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One machine of the fleet.
struct Node {
    child: Child,
    dir: tempfile::TempDir,
}

impl Node {
    fn start(name: &str, port: u16, rest: &str) -> Self {
        Self::start_with(name, port, rest, "")
    }

    fn start_with(name: &str, port: u16, rest: &str, fleet: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |file: &str| dir.path().join(file);
        fs::create_dir(path("run")).unwrap();
        fs::write(path("secret"), format!("{SECRET}\n")).unwrap();
        let config = format!(
            "[table]\nsocket = {:?}\nstate = {:?}\ngroup = ''\n{rest}\n{SPREAD}\n[fleet]\nurl = 'redis://127.0.0.1:{port}/0'\nnode = '{name}'\npassword_file = {:?}\n{fleet}\n",
            path("run/socket"),
            path("state.db"),
            path("secret"),
        );
        fs::write(path("strikeout.toml"), config).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let child = Command::new(STRIKEOUT).args(["serve", "--config"]).arg(path("strikeout.toml")).stderr(log).spawn().unwrap();
        let node = Self { child, dir };
        wait_until("it listens", || UnixStream::connect(node.socket()).is_ok());
        node
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("run/socket")
    }

    fn ask(&self, request: &str) -> String {
        ask(&self.socket(), request)
    }

    fn refuses(&self, address: &str) -> bool {
        !self.ask(&format!("check {address} port=25 via=lines")).starts_with("accept")
    }

    fn why(&self, address: &str) -> String {
        self.ask(&format!("why {address}"))
    }

    fn is_banned(&self, address: &str) -> bool {
        self.why(address).contains("=refused ")
    }

    fn number(&self, field: &str) -> u64 {
        self.ask("status").lines().find_map(|line| line.strip_prefix(field)?.strip_prefix('=')?.parse().ok()).unwrap()
    }

    fn is_joined(&self) -> bool {
        self.ask("status").lines().any(|line| line == "fleet=ok") && self.number("fleet_hears") == 1 && self.number("fleet_says") == 1
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of a node\n{}", self.log());
        }
    }
}

fn ask(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn joined(nodes: &[&Node]) {
    for node in nodes {
        wait_until("it has joined", || node.is_joined());
    }
}

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
    times.sort();
    println!("propagation of a ban: median {:?}, worst {:?}, of {}", times[times.len() / 2], times[times.len() - 1], times.len());
    assert!(two.why("203.0.113.1").contains("node=one"), "{}", two.why("203.0.113.1"));

    two.ask("unban 203.0.113.1");
    wait_until("the first node accepts again", || !one.refuses("203.0.113.1"));
    assert!(one.refuses("203.0.113.2") && two.refuses("203.0.113.2"));

    one.ask("ban 203.0.113.99 for=-1 reason=enough");
    wait_until("a permanent ban spreads", || two.why("203.0.113.99").contains("until=-1"));
    one.ask("ban 198.51.100.0/24 for=3600");
    wait_until("a network's ban spreads", || two.refuses("198.51.100.77"));
    one.ask("unban 198.51.100.0/24");
    wait_until("and is lifted", || !two.refuses("198.51.100.77"));

    let late = Node::start("late", redis.port, "");
    joined(&[&late]);
    wait_until("who joins later knows what is in force", || late.refuses("203.0.113.2") && late.refuses("203.0.113.99"));
    assert!(!late.refuses("203.0.113.1"), "lifted");
}

#[test]
fn strikes_spread_over_the_nodes_are_counted_together_and_one_node_alone_would_not_ban() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let nodes = ["one", "two", "three"].map(|name| Node::start(name, redis.port, ""));
    joined(&[&nodes[0], &nodes[1], &nodes[2]]);
    let before = redis.info("total_commands_processed");
    for node in &nodes {
        assert!(node.ask("strike 203.0.113.5 spread").starts_with("accept"));
    }
    for node in &nodes {
        wait_until("every node refuses", || node.refuses("203.0.113.5"));
    }
    let commands = redis.info("total_commands_processed") - before;
    println!("engine commands for 3 spread offences and the ban, pings and three look-ups of ours included: {commands}");
    assert!(!nodes[0].refuses("203.0.113.6"));
}

#[test]
fn a_node_that_was_cut_off_converges_and_nothing_that_was_lifted_comes_back() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let relay = Relay::start(redis.port);
    let (near, far) = (Node::start("near", redis.port, ""), Node::start("far", relay.port, ""));
    joined(&[&near, &far]);
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
    assert!(two.ask("check 203.0.113.3 via=lines").starts_with("accept"));
    redis.signal(Signal::CONT);
    wait_until("what happened meanwhile spreads", || two.is_banned("203.0.113.2"));

    redis.child.kill().unwrap();
    redis.child.wait().unwrap();
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
fn one_bad_node_cannot_ban_the_never_banned_nor_flood_the_others_and_all_it_said_can_be_dropped() {
    if !engine_is_there() {
        return;
    }
    let redis = Redis::start();
    let bad = Node::start("bad", redis.port, "");
    let good = Node::start_with("good", redis.port, "[defaults]\nignoreip = ['203.0.113.0/28']", "bans_per_minute = 100");
    joined(&[&bad, &good]);
    bad.ask("ban 203.0.113.5 for=3600");
    bad.ask("ban 203.0.0.0/16 for=3600");
    wait_until("it was heard and refused", || good.number("fleet_refused_total") >= 2);
    assert!(!good.refuses("203.0.113.5") && !good.refuses("203.0.200.1"));

    let mut stream = UnixStream::connect(bad.socket()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let start = Instant::now();
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
    wait_until("the flood has been said or refused", || {
        bad.number("fleet_said_total") + bad.number("fleet_dropped_total") >= bad.number("bans")
    });
    println!(
        "bans made by the bad node in {:?}: {}, believed by the good one: {}",
        start.elapsed(),
        bad.number("bans"),
        good.number("bans")
    );
    assert!(good.number("bans") <= 100, "{}", good.number("bans"));
    let memory = redis.ask("MEMORY USAGE strikeout:client:11.0.0.9");
    println!("memory of one ban in the engine: {} bytes", memory.lines().find_map(|line| line.strip_prefix(':')).unwrap());

    assert!(good.ask("forget good").starts_with("error "));
    good.ask("forget bad");
    wait_until("all that it said is dropped", || good.number("bans") == 0);
}

#[test]
fn a_fleet_that_cannot_be_used_is_an_error_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    for (text, expected) in [
        ("[fleet]\nurl = 'http://x'\nnode = 'a'\n", "strikeout.toml:1: found a url that cannot be used"),
        ("[fleet]\nurl = 'redis://127.0.0.1/'\nnode = 'A B'\n", "strikeout.toml:1: found the node name \"A B\""),
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

/// A way to the engine that can be cut, as by a network partition: what is sent while it is cut gets nowhere.
struct Relay {
    port: u16,
    cut: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Relay {
    fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let state = std::sync::Arc::clone(&cut);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_cut(&state) {
                    continue;
                }
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { continue };
                for (from, to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                    let state = std::sync::Arc::clone(&state);
                    std::thread::spawn(move || carry(from, to, &state));
                }
            }
        });
        Self { port, cut }
    }

    fn cut(&self, cut: bool) {
        self.cut.store(cut, std::sync::atomic::Ordering::Relaxed);
    }
}

fn is_cut(state: &std::sync::atomic::AtomicBool) -> bool {
    state.load(std::sync::atomic::Ordering::Relaxed)
}

fn carry(mut from: TcpStream, mut to: TcpStream, state: &std::sync::atomic::AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || is_cut(state) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
