//! A user with the rights that docs/fleet.md gives, and what shows if one is missing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use strikeout::internals::config::fleet::FleetConfig;
use strikeout::internals::fleet::client::RedisClient;
use strikeout::internals::fleet::resp_connection::Incoming;

use crate::harness::wait_until;
use crate::node::{Node, wait_joined};
use crate::server::Redis;
use crate::{SECRET, has_redis};

const PAGE: &str = include_str!("../../docs/fleet.md");

/// The command in docs/fleet.md that creates the user, with the tests' password.
pub(crate) fn setuser() -> String {
    let line = PAGE.lines().find(|line| line.starts_with("ACL SETUSER ")).unwrap();
    line.replace(">SECRET", &format!(">{SECRET}"))
}

#[test]
fn the_rights_in_the_manual_are_enough_for_everything_that_a_node_does() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    assert!(redis.ask(&setuser()).contains("+OK"));
    let url = format!("redis://strikeout@127.0.0.1:{}/0", redis.port);
    let start = |name: &str| Node::start_at(name, &url, "", "", &[]);
    let (one, two) = (start("one"), start("two"));
    wait_joined(&[&one, &two]);
    for node in [&one, &two, &one] {
        assert!(node.ask("strike 203.0.113.1 spread").starts_with("accept"));
    }
    one.ask("ban 203.0.113.2 for=3600");
    one.ask("ban 203.0.113.3 for=-1");
    one.ask("ban 203.0.113.4 for=3600 scope=mail");
    one.ask("ban 198.51.100.0/24 for=3600");
    let known = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "198.51.100.9"];
    wait_until("bans and strikes spread", || known.iter().all(|address| two.refuses(address)));
    two.ask("unban 203.0.113.3");
    two.ask("unban 198.51.100.0/24");
    wait_until("unbans spread", || !one.refuses("203.0.113.3") && !one.refuses("198.51.100.9"));
    one.ask("ban 203.0.113.3 for=3600");
    wait_until("a ban after the unban spreads", || two.refuses("203.0.113.3"));
    let late = start("late");
    wait_joined(&[&late]);
    assert!(late.refuses("203.0.113.2") && late.refuses("203.0.113.3"));
    two.ask("forget one");
    wait_until("the bans of a node are dropped", || !late.refuses("203.0.113.2") && !one.refuses("203.0.113.2"));
    let refused = redis.ask("ACL LOG");
    assert!(!refused.contains("reason"), "Redis refused something: {refused}");

    // Both connections also check that Redis is there.
    let pings = redis.calls("ping");
    wait_until("they check", || redis.calls("ping") > pings + 2 && redis.calls("time") > 6);
    assert!(!redis.ask("ACL LOG").contains("reason"));
    wait_joined(&[&one, &two, &late]);
}

#[test]
fn each_right_in_the_manual_is_needed_and_a_missing_one_shows_at_once() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let whole = setuser();
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    let commands: Vec<&str> = whole.split(' ').filter(|word| word.starts_with('+')).collect();
    assert!(commands.len() > 10);
    for command in &commands {
        let user = format!("without{}", commands.iter().position(|other| other == command).unwrap());
        let without: Vec<&str> = whole.split(' ').filter(|word| word != command).collect();
        let without = without.join(" ").replace("SETUSER strikeout", &format!("SETUSER {user}"));
        assert!(redis.ask(&without).contains("+OK"));
        let fault = everything(&client(&user, redis.port, &secret)).expect_err(command);
        assert!(fault.contains(&format!("user {user} lacks a right, see docs/fleet.md")), "{command}: {fault}");
    }
    assert!(redis.ask(&whole).contains("+OK"));
    assert_eq!(everything(&client("strikeout", redis.port, &secret)), Ok(()));
}

fn client(user: &str, port: u16, secret: &Path) -> RedisClient {
    let text = format!("url = 'redis://{user}@127.0.0.1:{port}/0'\nnode = 'one'\npassword_file = '{}'", secret.display());
    let config: FleetConfig = toml::from_str(&text).unwrap();
    RedisClient::new(config).unwrap()
}

/// What a node does when it joins.
fn everything(client: &RedisClient) -> Result<(), String> {
    let done = || {
        let mut publisher = client.connect_publisher()?;
        client.scan(0, 10).exec(&mut publisher)?;
        let mut subscriber = client.connect()?;
        subscriber.subscribe(&client.channel())?;
        subscriber.ping()?;
        assert_eq!(subscriber.receive(crate::harness::DEADLINE)?, Incoming::Pong);
        Ok(())
    };
    done().map_err(|error| client.describe(&error))
}

#[test]
fn a_wrong_password_and_a_missing_right_show_in_log_and_status_and_are_repaired_without_a_restart() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    let user = setuser().replace(&format!(">{SECRET}"), ">another");
    assert!(redis.ask(&user).contains("+OK"));
    let node = Node::start_at("one", &format!("redis://strikeout@127.0.0.1:{}/0", redis.port), "", "", &[]);
    let shows = |expected: &str| {
        wait_until("it shows why it is cut off", || node.fleet().contains(expected));
        assert!(node.fleet().starts_with("cut off: Redis at 127.0.0.1:"), "{}", node.fleet());
        assert!(node.log().contains(expected), "{}", node.log());
        assert!(!node.fleet().contains(SECRET) && !node.log().contains(SECRET));
    };
    shows("it refuses the password of user strikeout");
    fs::write(node.stage().path("secret"), "another\n").unwrap();
    wait_joined(&[&node]);

    assert!(redis.ask("ACL SETUSER strikeout -evalsha").contains("+OK"));
    node.ask("ban 203.0.113.1 for=3600");
    shows("user strikeout lacks a right, see docs/fleet.md");
    assert!(node.is_banned("203.0.113.1"), "it goes on alone");
    assert!(redis.ask("ACL SETUSER strikeout +evalsha").contains("+OK"));
    wait_joined(&[&node]);
    wait_until("the ban is published", || redis.number("EXISTS strikeout:client:203.0.113.1") == 1);

    fs::remove_file(node.stage().path("secret")).unwrap();
    assert!(redis.ask("CLIENT KILL USER strikeout").contains(':'));
    shows("secret: No such file");
}

#[test]
fn the_url_may_name_a_unix_socket_a_database_and_the_protocol_version() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start();
    assert!(redis.ask(&format!("{} +select +hello", setuser())).contains("+OK"));
    let socket = redis.socket();
    let one = Node::start_at("one", &format!("unix://{}?db=3&user=strikeout", socket.display()), "", "", &[]);
    let two = Node::start_at("two", &format!("valkey://strikeout@127.0.0.1:{}/3?protocol=resp3", redis.port), "", "", &[]);
    wait_joined(&[&one, &two]);
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("it spreads", || two.is_banned("203.0.113.1"));
    two.ask("unban 203.0.113.1");
    wait_until("and back", || !one.is_banned("203.0.113.1"));
    assert_eq!(redis.number("DBSIZE"), 0, "database 0 is not used");
    assert!(redis.ask("INFO keyspace").contains("db3:keys="));
}

#[test]
fn only_the_daemon_reads_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let path = |file: &str| dir.path().join(file);
    // Opening this would wait for a writer forever.
    assert!(Command::new("mkfifo").arg(path("secret")).status().unwrap().success());
    let config = format!(
        "[table]\nsocket = {:?}\n[fleet]\nurl = 'redis://127.0.0.1/'\nnode = 'one'\npassword_file = {:?}\n",
        path("socket"),
        path("secret")
    );
    fs::write(path("strikeout.toml"), config).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let mut child = Command::new(program)
            .args(arguments)
            .args(["--config", path("strikeout.toml").to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("it ends", || child.try_wait().unwrap().is_some());
    };
    run(crate::harness::STRIKEOUT, &["check"]);
    run(crate::harness::STRIKEOUT, &["status"]);
    run(env!("CARGO_BIN_EXE_ext_strikeout_acl"), &[]);
    run(env!("CARGO_BIN_EXE_exim_strikeout_acl"), &[]);
}
