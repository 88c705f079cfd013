//! Redis behind Sentinels: a primary, a replica, and three Sentinels that watch them.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{free_port, wait_until};
use crate::node::{Node, wait_joined};
use crate::server::Redis;
use crate::{SECRET, has_redis};

const SENTINEL_SECRET: &str = "a-secret-of-the-sentinels";

/// A redis-server in the mode of a Sentinel.
struct Sentinel {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Sentinel {
    /// Watches the primary at `primary`. `quorum` of the Sentinels must find it dead before another takes over.
    fn start(primary: u16, quorum: u32) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let config = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nrequirepass {SENTINEL_SECRET}\nsentinel monitor main 127.0.0.1 {primary} {quorum}\n\
             sentinel auth-pass main {SECRET}\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n",
            dir.path().display()
        );
        let file = dir.path().join("sentinel.conf");
        fs::write(&file, config).unwrap();
        let child = Command::new("redis-server").arg(file).arg("--sentinel").stdout(Stdio::null()).spawn().unwrap();
        let sentinel = Self { child, port, _dir: dir };
        wait_until("the Sentinel answers", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        sentinel
    }

    /// The answer to an inline command.
    fn ask(&self, command: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "AUTH {SENTINEL_SECRET}\r\n{command}\r\n").unwrap();
        // A Sentinel does not know QUIT.
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// A number of what it knows about the primary.
    fn number(&self, field: &str) -> u32 {
        let text = self.ask("SENTINEL MASTER main");
        let after = text.lines().map(str::trim).skip_while(|line| *line != field).nth(2).unwrap_or_default();
        after.parse().unwrap_or(0)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A primary, its replica, and three Sentinels that know each other.
struct Watched {
    primary: Redis,
    replica: Redis,
    sentinels: Vec<Sentinel>,
    secrets: tempfile::TempDir,
}

fn replica_of(primary: u16) -> Redis {
    let port = free_port();
    let lines = format!("port {port}\nbind 127.0.0.1\nreplicaof 127.0.0.1 {primary}\nmasterauth {SECRET}\n");
    let replica = Redis::start_with(port, &lines, &[]);
    wait_until("the replica follows", || replica.ask("INFO replication").contains("master_link_status:up"));
    replica
}

fn primary() -> Redis {
    let port = free_port();
    let lines = format!("port {port}\nbind 127.0.0.1\nmasterauth {SECRET}\nrepl-diskless-sync-delay 0\n");
    Redis::start_with(port, &lines, &[])
}

impl Watched {
    fn start() -> Option<Self> {
        if !has_redis() {
            return None;
        }
        let primary = primary();
        let replica = replica_of(primary.port);
        let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(primary.port, 2)).collect();
        let is_complete = |sentinel: &Sentinel| sentinel.number("num-other-sentinels") == 2 && sentinel.number("num-slaves") == 1;
        wait_until("the Sentinels know each other and the replica", || sentinels.iter().all(is_complete));
        Some(Self { primary, replica, sentinels, secrets: tempfile::tempdir().unwrap() })
    }

    /// The URL, with a Sentinel before the others that does not exist.
    fn url(&self) -> String {
        let ports: Vec<String> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://127.0.0.1:{},{}/main/0", free_port(), ports.join(","))
    }

    fn node(&self, name: &str) -> Node {
        start(self.secrets.path(), name, &self.url(), SENTINEL_SECRET)
    }
}

/// Starts a machine whose password of the Sentinels is in a file in `secrets`.
fn start(secrets: &Path, name: &str, url: &str, sentinel_secret: &str) -> Node {
    let secret = secrets.join(name);
    fs::write(&secret, format!("{sentinel_secret}\n")).unwrap();
    Node::start_at(name, url, "", &format!("sentinel_password_file = {secret:?}"), &[])
}

fn is_primary(redis: &Redis) -> bool {
    redis.ask("ROLE").contains("master")
}

#[test]
fn a_primary_that_dies_under_load_costs_no_ban_and_delays_no_verdict() {
    let Some(mut watched) = Watched::start() else { return };
    let (one, two) = (watched.node("one"), watched.node("two"));
    wait_joined(&[&one, &two]);
    one.ask("ban 198.51.100.7 for=3600");
    one.ask("ban 198.51.100.8 for=3600");
    wait_until("bans spread", || two.is_banned("198.51.100.7") && two.is_banned("198.51.100.8"));
    let connections = watched.replica.info("total_connections_received");

    let (mut slowest, mut banned) = (Duration::ZERO, 0);
    let mut load = |node: &Node| {
        banned += 1;
        slowest = slowest.max(node.verdicts(&format!("203.0.{}.{}", banned / 250, banned % 250 + 1)));
    };
    (0..20).for_each(|_| load(&one));
    watched.primary.kill();
    one.ask("unban 198.51.100.7");
    let mut asked = 0;
    wait_until("the replica takes over", || {
        load(&one);
        load(&two);
        asked += 1;
        is_primary(&watched.replica)
    });
    let nodes = [&one, &two];
    let knows_all = |node: &Node| (1..=banned).all(|number| node.is_banned(&format!("203.0.{}.{}", number / 250, number % 250 + 1)));
    let back = wait_until("every machine knows every ban", || nodes.iter().all(|node| knows_all(node)));
    wait_joined(&nodes);
    wait_until("the unban made meanwhile counts", || !two.is_banned("198.51.100.7"));
    assert!(nodes.iter().all(|node| node.is_banned("198.51.100.8")), "older bans stand");
    assert!(slowest < Duration::from_secs(1), "a verdict waited for Redis: {slowest:?}");
    // The Sentinels connect as well.
    let connections = watched.replica.info("total_connections_received") - connections - asked;
    assert!(connections < 60, "{connections} connections to the new primary");
    println!(
        "a killed primary: {banned} bans known on both machines {back:?} after another took over; slowest verdict {slowest:?}, {connections} connections"
    );

    let late = watched.node("late");
    wait_joined(&[&late]);
    assert!(knows_all(&late) && late.is_banned("198.51.100.8") && !late.is_banned("198.51.100.7"));
}

#[test]
fn after_a_failover_by_hand_the_machines_meet_at_the_new_primary() {
    let Some(watched) = Watched::start() else { return };
    let (one, two) = (watched.node("one"), watched.node("two"));
    wait_joined(&[&one, &two]);
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("it spreads", || two.is_banned("203.0.113.1"));
    assert!(watched.sentinels[0].ask("SENTINEL FAILOVER main").contains("+OK"));
    wait_until("the replica takes over", || is_primary(&watched.replica));
    one.ask("ban 203.0.113.2 for=3600");
    two.ask("unban 203.0.113.1");
    wait_until("both know both changes", || two.is_banned("203.0.113.2") && !one.is_banned("203.0.113.1"));
    wait_until("the old primary is a replica", || !is_primary(&watched.primary));
    let back = wait_until("the new primary has the ban", || watched.replica.number("EXISTS strikeout:client:203.0.113.2") == 1);
    println!("a failover by hand: the new primary has the ban {back:?} after the old one became a replica");
    wait_joined(&[&one, &two]);
    wait_until("and only the new one is used", || watched.primary.number("PUBSUB NUMSUB strikeout:news") == 0);
}

#[test]
fn a_primary_that_hangs_is_left_and_taken_back_as_a_replica() {
    let Some(watched) = Watched::start() else { return };
    let (one, two) = (watched.node("one"), watched.node("two"));
    wait_joined(&[&one, &two]);
    watched.primary.signal(Signal::STOP);
    wait_until("the replica takes over", || is_primary(&watched.replica));
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("it spreads", || two.is_banned("203.0.113.1"));
    watched.primary.signal(Signal::CONT);
    wait_until("the old primary follows", || !is_primary(&watched.primary));
    two.ask("ban 203.0.113.2 for=3600");
    wait_until("bans spread as before", || one.is_banned("203.0.113.2"));
    wait_joined(&[&one, &two]);
}

/// Waits until `status` shows why a machine is cut off.
fn shows(node: &Node, expected: &[&str]) {
    let is_shown = || expected.iter().all(|part| node.fleet().contains(part));
    wait_until(&format!("status shows {expected:?}"), is_shown);
    assert!(node.fleet().starts_with("cut off: ") && node.log().contains(expected[0]), "{}", node.fleet());
    assert!(!node.fleet().contains(SENTINEL_SECRET) && !node.fleet().contains(SECRET));
}

#[test]
fn status_tells_in_words_what_is_wrong_with_sentinels_and_replicas() {
    if !has_redis() {
        return;
    }
    let mut primary = primary();
    let replica = replica_of(primary.port);
    // Alone it cannot decide to let the replica take over.
    let sentinel = Sentinel::start(primary.port, 2);
    let (at, name) = (format!("127.0.0.1:{}", sentinel.port), format!("127.0.0.1:{}", primary.port));

    let secrets = tempfile::tempdir().unwrap();
    let start = |name: &str, url: &str, secret: &str| start(secrets.path(), name, url, secret);
    let unknown = start("unknown", &format!("redis+sentinel://{at}/other"), SENTINEL_SECRET);
    shows(&unknown, &["no Sentinel knows a primary named \"other\"", &at]);
    let password = start("password", &format!("redis+sentinel://{at}/main"), "wrong");
    shows(&password, &["no Sentinel answers", &at, "it refuses the password of user default"]);
    let none = Node::start_at("none", &format!("redis+sentinel://{at}/main"), "", "", &[]);
    shows(&none, &["no Sentinel answers", "it asks for a password, see sentinel_password_file"]);
    let nobody = start("nobody", &format!("redis+sentinel://127.0.0.1:{}/main", free_port()), SENTINEL_SECRET);
    shows(&nobody, &["no Sentinel answers", "Connection refused"]);
    // The server's password, so that it gets as far as the question.
    let server = start("server", &format!("redis+sentinel://{name}/main"), SECRET);
    shows(&server, &["found no Sentinel at a redis+sentinel:// url, expected redis://"]);
    let plain = Node::start("plain", sentinel.port, "");
    fs::write(plain.stage().path("secret"), SENTINEL_SECRET).unwrap();
    shows(&plain, &["found a Sentinel at a redis:// url, expected redis+sentinel://HOST:PORT/NAME"]);
    let behind = Node::start("behind", replica.port, "");
    shows(&behind, &["it is a replica, expected the url of its primary, or redis+sentinel://"]);

    let right = start("right", &format!("redis+sentinel://{at}/main"), SENTINEL_SECRET);
    wait_joined(&[&right]);
    right.ask("ban 203.0.113.1 for=3600");
    primary.kill();
    shows(&right, &[&format!("Sentinel {at} says that the primary of main is {name}, which does not answer")]);
    assert!(right.refuses("203.0.113.1"));
}

#[test]
fn a_server_that_becomes_a_replica_is_named_and_loses_no_ban() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let (one, two) = (Node::start("one", redis.port, ""), Node::start("two", redis.port, ""));
    wait_joined(&[&one, &two]);
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("it spreads", || two.is_banned("203.0.113.1"));
    assert!(redis.ask(&format!("REPLICAOF 127.0.0.1 {}", free_port())).contains("+OK"));
    one.ask("ban 203.0.113.2 for=3600");
    shows(&one, &["it is a replica, expected the url of its primary, or redis+sentinel://"]);
    assert!(one.refuses("203.0.113.1") && one.refuses("203.0.113.2") && two.refuses("203.0.113.1"));
    assert!(redis.ask("REPLICAOF NO ONE").contains("+OK"));
    wait_until("the ban made meanwhile spreads", || two.is_banned("203.0.113.2"));
    wait_joined(&[&one, &two]);
}
