//! A Redis Cluster: three primaries with a replica each.

use std::process::{Command, Output};

use crate::harness::{free_port, has, wait_until};
use crate::node::{Node, wait_joined};
use crate::server::Redis;
use crate::{SECRET, has_redis};

/// A key of every fleet with the default prefix.
const FORGOTTEN: &str = "{strikeout:}forgotten";

struct Cluster {
    nodes: Vec<Redis>,
}

fn redis_cli(arguments: &[&str]) -> Output {
    let output = Command::new("redis-cli").args(["--no-auth-warning", "-a", SECRET]).args(arguments).output().unwrap();
    assert!(output.status.success(), "redis-cli {arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    output
}

impl Cluster {
    fn start(replicas: usize) -> Option<Self> {
        if !has_redis() || !has("redis-cli", "redis-tools") {
            return None;
        }
        let start = |_| {
            let (port, bus) = (free_port(), free_port());
            let lines = format!(
                "port {port}\nbind 127.0.0.1\ncluster-enabled yes\ncluster-port {bus}\ncluster-node-timeout 2000\nmasterauth {SECRET}\n\
                 repl-diskless-sync-delay 0\n"
            );
            Redis::start_with(port, &lines, &[])
        };
        let cluster = Self { nodes: (0..3 * (1 + replicas)).map(start).collect() };
        let addresses: Vec<String> = cluster.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let (replicas, mut arguments) = (replicas.to_string(), vec!["--cluster", "create"]);
        arguments.extend(addresses.iter().map(String::as_str));
        arguments.extend(["--cluster-replicas", &replicas, "--cluster-yes"]);
        redis_cli(&arguments);
        let is_up = |node: &Redis| {
            let info = node.ask("INFO replication");
            node.ask("CLUSTER INFO").contains("cluster_state:ok")
                && (info.contains("role:master") || info.contains("master_link_status:up"))
        };
        wait_until("the cluster is up", || cluster.nodes.iter().all(is_up));
        Some(cluster)
    }

    /// The URL, with a node before the others that does not exist.
    fn url(&self) -> String {
        let ports: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://127.0.0.1:{},{}", free_port(), ports.join(","))
    }

    fn node(&self, name: &str) -> Node {
        Node::start_at(name, &self.url(), "", "", &[])
    }

    fn slot(&self) -> u64 {
        self.nodes[0].number(&format!("CLUSTER KEYSLOT {FORGOTTEN}"))
    }

    /// The node that has the slot of the fleet's keys, by its own belief.
    fn owner(&self) -> Option<usize> {
        let command = format!("HGET {FORGOTTEN} x");
        (0..self.nodes.len()).find(|number| self.nodes[*number].ask(&command).contains("$-1"))
    }

    fn id(&self, number: usize) -> String {
        self.nodes[number].ask("CLUSTER MYID").lines().map(str::trim).find(|line| line.len() == 40).unwrap().to_owned()
    }

    /// The replica of a node.
    fn replica(&self, number: usize) -> usize {
        let port = self.nodes[number].port;
        let follows = |other: &Redis| other.ask("INFO replication").contains(&format!("master_port:{port}"));
        self.nodes.iter().position(follows).unwrap()
    }
}

fn bans(from: u32, to: u32, node: &Node) {
    for number in from..to {
        node.ask(&format!("ban 203.0.{}.{} for=3600", number / 250, number % 250 + 1));
    }
}

fn knows(node: &Node, to: u32) -> bool {
    (0..to).all(|number| node.is_banned(&format!("203.0.{}.{}", number / 250, number % 250 + 1)))
}

#[test]
fn a_dead_primary_of_a_cluster_costs_no_ban_and_delays_no_verdict() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let (one, two) = (cluster.node("one"), cluster.node("two"));
    wait_joined(&[&one, &two]);
    for node in [&one, &two, &one] {
        assert!(node.ask("strike 198.51.100.1 spread").starts_with("accept"));
    }
    wait_until("strikes are counted over both", || one.refuses("198.51.100.1") && two.refuses("198.51.100.1"));
    bans(0, 300, &one);
    wait_until("bans spread", || knows(&two, 300));
    two.ask("unban 198.51.100.1");
    wait_until("unbans spread", || !one.refuses("198.51.100.1"));
    let late = cluster.node("late");
    wait_joined(&[&late]);
    assert!(knows(&late, 300), "a machine that joins loads all");

    let dead = cluster.owner().unwrap();
    let replica = cluster.replica(dead);
    cluster.nodes[dead].kill();
    bans(300, 310, &two);
    let mut slowest = std::time::Duration::ZERO;
    wait_until("the replica takes over", || {
        slowest = slowest.max(one.verdicts("198.51.100.200"));
        cluster.nodes[replica].ask("ROLE").contains("master")
    });
    let nodes = [&one, &two, &late];
    let back = wait_until("every machine knows every ban", || nodes.iter().all(|node| knows(node, 310)));
    wait_joined(&nodes);
    assert!(slowest.as_secs() < 1, "a verdict waited for Redis: {slowest:?}");
    println!("a killed primary of a cluster: union {back:?} after its replica took over; slowest verdict {slowest:?}");
}

#[test]
fn machines_follow_the_slot_of_the_fleet_when_it_is_moved() {
    let Some(cluster) = Cluster::start(0) else { return };
    let (one, two) = (cluster.node("one"), cluster.node("two"));
    wait_joined(&[&one, &two]);
    bans(0, 20, &one);
    wait_until("bans spread", || knows(&two, 20));

    let (from, slot) = (cluster.owner().unwrap(), cluster.slot());
    let to = (from + 1) % 3;
    let (source, target) = (&cluster.nodes[from], &cluster.nodes[to]);
    assert!(target.ask(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", cluster.id(from))).contains("+OK"));
    assert!(source.ask(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", cluster.id(to))).contains("+OK"));
    one.ask("ban 198.51.100.200 for=3600");
    wait_until("status says so", || one.fleet().contains("the fleet's slot is being moved to another node"));
    assert!(one.refuses("198.51.100.200") && two.refuses("203.0.0.1"), "each goes on alone");
    wait_until("all keys are moved", || {
        let text = source.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 100"));
        let keys: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with('{')).collect();
        if !keys.is_empty() {
            source.ask(&format!("MIGRATE 127.0.0.1 {} \"\" 0 5000 AUTH {SECRET} KEYS {}", target.port, keys.join(" ")));
        }
        keys.is_empty()
    });
    for node in [target, source, &cluster.nodes[(from + 2) % 3]] {
        assert!(node.ask(&format!("CLUSTER SETSLOT {slot} NODE {}", cluster.id(to))).contains("+OK"));
    }
    let back = wait_until("the other machine knows the ban made meanwhile", || two.is_banned("198.51.100.200"));
    println!("a moved slot: union {back:?} after the move");
    wait_joined(&[&one, &two]);
    wait_until("no machine listens at the old node", || source.number("PUBSUB NUMSUB {strikeout:}news") == 0);
    two.ask("unban 203.0.0.1");
    wait_until("changes spread as before", || !one.is_banned("203.0.0.1"));
    let late = cluster.node("late");
    wait_joined(&[&late]);
    assert!(late.is_banned("203.0.0.2") && late.is_banned("198.51.100.200") && !late.is_banned("203.0.0.1"));
}

#[test]
fn status_tells_what_kind_of_server_the_url_should_name() {
    let Some(cluster) = Cluster::start(0) else { return };
    let shows = |node: &Node, expected: &str| {
        wait_until(&format!("status shows {expected}"), || node.fleet().contains(expected));
        assert!(node.fleet().starts_with("cut off: ") && node.log().contains(expected), "{}", node.fleet());
    };
    for member in &cluster.nodes {
        let node = Node::start("one", member.port, "");
        shows(&node, "found a cluster node at a redis:// or redis+sentinel:// url, expected redis+cluster://");
    }
    let single = Redis::start();
    let node = Node::start_at("two", &format!("redis+cluster://127.0.0.1:{}", single.port), "", "", &[]);
    shows(&node, "found no cluster node at a redis+cluster:// url, expected redis://");

    let right = cluster.node("right");
    wait_joined(&[&right]);
    let owner = cluster.owner().unwrap();
    let slot = cluster.slot();
    cluster.nodes[owner].ask(&format!("CLUSTER DELSLOTS {slot}"));
    shows(&right, "the cluster is down");
    cluster.nodes[owner].ask(&format!("CLUSTER ADDSLOTS {slot}"));
    wait_joined(&[&right]);
}

#[test]
fn the_rights_in_the_manual_are_enough_in_a_cluster() {
    let Some(cluster) = Cluster::start(0) else { return };
    let setuser =
        crate::secure::setuser().replace("~strikeout:*", "~{strikeout:}*").replace("&strikeout:*", "&{strikeout:}*") + " +readwrite";
    for node in &cluster.nodes {
        assert!(node.ask(&setuser).contains("+OK"));
    }
    let url = cluster.url().replace("://", "://strikeout@");
    let (one, two) = (Node::start_at("one", &url, "", "", &[]), Node::start_at("two", &url, "", "", &[]));
    wait_joined(&[&one, &two]);
    one.ask("ban 203.0.113.1 for=3600");
    wait_until("it spreads", || two.is_banned("203.0.113.1"));
    two.ask("forget one");
    wait_until("the bans of a node are dropped", || !two.refuses("203.0.113.1") && !one.refuses("203.0.113.1"));
    for node in &cluster.nodes {
        assert!(!node.ask("ACL LOG").contains("reason"), "{}", node.ask("ACL LOG"));
    }
}
