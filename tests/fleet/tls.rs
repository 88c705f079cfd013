//! TLS with a private authority: one server, Sentinels and their servers, and a Cluster. None is used whose certificate is not verified.

use std::fs;
use std::process::{Command, Stdio};

use crate::harness::{free_port, has, wait_until};
use crate::node::{Node, wait_joined};
use crate::server::Redis;
use crate::{SECRET, has_redis};

/// An authority, and certificates that it signed.
struct Authority {
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let authority = Self { dir: tempfile::tempdir().unwrap() };
        authority
            .openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem");
        authority
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(self.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "openssl {arguments}");
    }

    /// Signs a certificate for a host (`IP:127.0.0.1`, `DNS:localhost`): NAME.pem and NAME.key.
    fn sign(&self, name: &str, host: &str) {
        fs::write(self.dir.path().join("host"), format!("subjectAltName={host}\n")).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile host -out {name}.pem"));
    }

    fn path(&self, file: &str) -> String {
        self.dir.path().join(file).display().to_string()
    }
}

/// Lines of a server that speaks nothing but TLS, also with its replicas, Sentinels and the other nodes of its Cluster.
fn tls_lines(authority: &Authority, certificate: &str, port: u16) -> String {
    let [ca, cert, key] =
        ["ca.pem".to_owned(), format!("{certificate}.pem"), format!("{certificate}.key")].map(|file| authority.path(&file));
    format!(
        "port 0\nbind 127.0.0.1\ntls-port {port}\ntls-cert-file {cert}\ntls-key-file {key}\ntls-ca-cert-file {ca}\ntls-auth-clients no\n\
         tls-replication yes\nmasterauth {SECRET}\nrepl-diskless-sync-delay 0\n"
    )
}

/// Starts a server with more lines in its configuration.
fn tls_redis(authority: &Authority, certificate: &str, more: &str) -> Redis {
    let port = free_port();
    Redis::start_with(port, &format!("{}{more}", tls_lines(authority, certificate, port)), &[])
}

/// Starts a Sentinel that decides alone.
fn tls_sentinel(authority: &Authority, certificate: &str, primary: u16) -> Redis {
    let port = free_port();
    let lines = format!(
        "{}sentinel monitor main 127.0.0.1 {primary} 1\nsentinel auth-pass main {SECRET}\nsentinel down-after-milliseconds main 500\n\
         sentinel failover-timeout main 3000\n",
        tls_lines(authority, certificate, port)
    );
    let wrapper = ["sh", "-c", "exec \"$@\" --sentinel", "sh"].map(str::to_owned);
    Redis::start_with(port, &lines, &wrapper)
}

/// Waits until `status` shows why a machine is cut off.
#[track_caller]
fn shows(node: &Node, expected: &[&str]) {
    wait_until(&format!("status shows {expected:?}"), || expected.iter().all(|part| node.fleet().contains(part)));
    assert!(node.fleet().starts_with("cut off: ") && !node.is_joined(), "{}", node.fleet());
}

#[test]
fn over_tls_only_a_redis_with_a_verified_certificate_is_used() {
    if !has_redis() || !has("openssl", "openssl") {
        return;
    }
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("redis", "IP:127.0.0.1");
    authority.sign("elsewhere", "DNS:elsewhere.example");
    let redis = tls_redis(&authority, "redis", "");
    let start = |name: &str, port: u16, options: &str| Node::start_at(name, &format!("rediss://127.0.0.1:{port}/0"), "", options, &[]);
    let trusted = format!("ca_file = '{}'", authority.path("ca.pem"));
    let (one, two) = (start("one", redis.port, &trusted), start("two", redis.port, &trusted));
    wait_joined(&[&one, &two]);
    for number in 1..=20 {
        one.ask(&format!("ban 203.0.113.{number} for=3600"));
    }
    let there = wait_until("bans spread", || (1..=20).all(|number| two.is_banned(&format!("203.0.113.{number}"))));
    println!("20 bans over TLS known on the other node after {there:?}");
    two.ask("unban 203.0.113.1");
    wait_until("unbans too", || !one.is_banned("203.0.113.1"));
    let late = start("late", redis.port, &trusted);
    wait_joined(&[&late]);
    assert!(late.is_banned("203.0.113.2") && !late.is_banned("203.0.113.1"));

    // A node does not talk to a server that it cannot verify, and says why.
    let other_name = tls_redis(&authority, "elsewhere", "");
    for (what, port, options, expected) in [
        ("another authority", redis.port, format!("ca_file = '{}'", stranger.path("ca.pem")), "certificate"),
        ("the system's authorities", redis.port, String::new(), "certificate"),
        ("another host's certificate", other_name.port, trusted.clone(), "not valid for name"),
        ("no such file", redis.port, "ca_file = '/nonexistent/ca.pem'".to_owned(), "/nonexistent/ca.pem: No such file"),
        ("no certificate in it", redis.port, format!("ca_file = '{}'", authority.path("ca.key")), "found no certificate"),
    ] {
        let node = start("three", port, &options);
        wait_until("it shows why it is cut off", || node.fleet().starts_with("cut off: Redis at 127.0.0.1:"));
        assert!(node.fleet().contains(expected), "{what}: {}", node.fleet());
        assert!(node.log().contains(expected), "{what}: {}", node.log());
        assert!(!node.is_joined() && !node.refuses("203.0.113.2"));
    }
}

#[test]
fn a_redis_that_asks_for_a_client_certificate_gets_it() {
    if !has_redis() || !has("openssl", "openssl") {
        return;
    }
    let authority = Authority::new();
    authority.sign("redis", "DNS:localhost");
    authority.sign("mx1", "DNS:mx1.example");
    let redis = tls_redis(&authority, "redis", "tls-auth-clients yes\n");
    let url = format!("valkeys://localhost:{}/", redis.port);
    let [ca, cert, key] = ["ca.pem", "mx1.pem", "mx1.key"].map(|file| authority.path(file));
    let shown = Node::start_at("shown", &url, "", &format!("ca_file = '{ca}'\ncert_file = '{cert}'\nkey_file = '{key}'"), &[]);
    wait_joined(&[&shown]);
    let hidden = Node::start_at("hidden", &url, "", &format!("ca_file = '{ca}'"), &[]);
    wait_until("without it is cut off", || hidden.fleet().starts_with("cut off: Redis at "));
    shown.ask("ban 203.0.113.1 for=3600");
    wait_until("Redis has the ban", || redis.number("EXISTS strikeout:client:203.0.113.1") == 1);
    assert!(!hidden.is_banned("203.0.113.1"));
}

#[test]
fn sentinels_and_the_servers_that_they_name_are_verified() {
    if !has_redis() || !has("openssl", "openssl") {
        return;
    }
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("redis", "IP:127.0.0.1");
    authority.sign("elsewhere", "DNS:elsewhere.example");
    let mut primary = tls_redis(&authority, "redis", "");
    let replica = tls_redis(&authority, "redis", &format!("replicaof 127.0.0.1 {}\n", primary.port));
    wait_until("the replica follows", || replica.ask("INFO replication").contains("master_link_status:up"));
    let sentinel = tls_sentinel(&authority, "redis", primary.port);
    wait_until("the Sentinel knows the replica", || sentinel.ask("SENTINEL MASTER main").contains("num-slaves\r\n$1\r\n1"));
    let other_name = tls_sentinel(&authority, "elsewhere", primary.port);

    let (trusted, secret) = (authority.path("ca.pem"), authority.path("secret"));
    fs::write(&secret, SECRET).unwrap();
    let start = |name: &str, scheme: &str, sentinels: &[&Redis], ca: &str| {
        let hosts: Vec<String> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        let url = format!("{scheme}+sentinel://{}/main", hosts.join(","));
        Node::start_at(name, &url, "", &format!("ca_file = '{ca}'\nsentinel_password_file = '{secret}'"), &[])
    };
    // A Sentinel that cannot be verified is passed over.
    let (one, two) = (start("one", "rediss", &[&other_name, &sentinel], &trusted), start("two", "valkeys", &[&sentinel], &trusted));
    wait_joined(&[&one, &two]);
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("it spreads", || two.is_banned("203.0.113.1"));

    let at = format!("Sentinel 127.0.0.1:{}: ", other_name.port);
    shows(&start("three", "rediss", &[&other_name], &trusted), &["no Sentinel answers", &at, "not valid for name"]);
    shows(&start("four", "rediss", &[&sentinel], &stranger.path("ca.pem")), &["no Sentinel answers", "certificate"]);

    primary.kill();
    wait_until("the replica takes over", || replica.ask("ROLE").contains("master"));
    one.ask("ban 203.0.113.2 for=3600");
    wait_until("bans spread as before", || two.is_banned("203.0.113.2"));
    wait_joined(&[&one, &two]);

    let disguised = tls_redis(&authority, "elsewhere", "");
    let sentinel = tls_sentinel(&authority, "redis", disguised.port);
    let whose = format!("says that the primary of main is 127.0.0.1:{}", disguised.port);
    shows(&start("five", "rediss", &[&sentinel], &trusted), &[&whose, "not valid for name"]);
}

#[test]
fn every_node_of_a_cluster_is_verified() {
    if !has_redis() || !has("openssl", "openssl") || !has("redis-cli", "redis-tools") {
        return;
    }
    let authority = Authority::new();
    authority.sign("redis", "IP:127.0.0.1");
    authority.sign("elsewhere", "DNS:elsewhere.example");
    let start = |certificate: &str| {
        let lines = format!("cluster-enabled yes\ntls-cluster yes\ncluster-port {}\ncluster-node-timeout 2000\n", free_port());
        tls_redis(&authority, certificate, &lines)
    };
    // The fleet's slot, 13087, is one of the last third.
    let nodes = [start("redis"), start("redis"), start("redis")];
    create(&authority, &nodes);
    let url = |nodes: &[Redis]| format!("rediss+cluster://127.0.0.1:{},127.0.0.1:{}", nodes[0].port, nodes[1].port);
    let trusted = format!("ca_file = '{}'", authority.path("ca.pem"));
    let (one, two) = (Node::start_at("one", &url(&nodes), "", &trusted, &[]), Node::start_at("two", &url(&nodes), "", &trusted, &[]));
    wait_joined(&[&one, &two]);
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("it spreads", || two.is_banned("203.0.113.1"));
    let slot = nodes[0].number("CLUSTER KEYSLOT {strikeout:}forgotten");
    let owns = |node: &Redis| node.ask("HGET {strikeout:}forgotten x").contains("$-1");
    assert!(owns(&nodes[2]), "slot {slot} is one of the last node's");

    let disguised = [start("redis"), start("redis"), start("elsewhere")];
    create(&authority, &disguised);
    let node = Node::start_at("three", &url(&disguised), "", &trusted, &[]);
    let whose = format!("says that the primary of the fleet's slot is 127.0.0.1:{}", disguised[2].port);
    shows(&node, &[&whose, "not valid for name"]);
}

/// Makes a Cluster of nodes, each of which has a third of the slots.
fn create(authority: &Authority, nodes: &[Redis]) {
    let mut command = Command::new("redis-cli");
    command.args(["--no-auth-warning", "-a", SECRET, "--tls", "--insecure", "--cacert", &authority.path("ca.pem"), "--cluster", "create"]);
    command.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port))).args(["--cluster-replicas", "0", "--cluster-yes"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    wait_until("the cluster is up", || nodes.iter().all(|node| node.ask("CLUSTER INFO").contains("cluster_state:ok")));
}
