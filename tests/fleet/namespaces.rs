//! Redis and each node in a network namespace of its own, with a bridge between them. A cut is as in a real network: packets are lost, and
//! nobody gets an error.

use std::time::{Duration, Instant};

use crate::harness::{Namespace, has, wait_until};
use crate::has_redis;
use crate::node::{Node, wait_joined};
use crate::server::Redis;

/// Redis, and a bridge that the nodes' cables lead to.
struct Net {
    hub: Namespace,
    redis: Redis,
    spokes: Vec<Namespace>,
}

impl Net {
    /// `None` where it cannot be made: then the test is skipped.
    fn new() -> Option<Self> {
        if !(has_redis() && Namespace::can_be_made()) {
            return None;
        }
        let hub = Namespace::new();
        hub.run("ip link add bridge type bridge");
        hub.run("ip address add 10.77.0.1/24 dev bridge");
        hub.run("ip link set bridge up");
        let redis = Redis::start_with(6379, "port 6379\nbind 10.77.0.1\n", &hub.wrapper());
        Some(Self { hub, redis, spokes: Vec::new() })
    }

    /// A node at the end of a new cable.
    fn node(&mut self, name: &str, fleet: &str) -> Node {
        let spoke = Namespace::new();
        let (number, holder) = (self.spokes.len() + 2, spoke.pid());
        self.hub.run(&format!("ip link add cable{number} type veth peer name uplink netns {holder}"));
        self.hub.run(&format!("ip link set cable{number} master bridge up"));
        spoke.run(&format!("ip address add 10.77.0.{number}/24 dev uplink"));
        spoke.run("ip link set uplink up");
        let node = Node::start_at(name, "redis://10.77.0.1:6379/0", "", fleet, &spoke.wrapper());
        self.spokes.push(spoke);
        node
    }

    /// Pulls the cable of a node, or plugs it in again.
    fn cable(&self, number: usize, plugged: bool) {
        self.hub.run(&format!("ip link set cable{} {}", number + 2, if plugged { "up" } else { "down" }));
    }

    /// Drops what a node sends to Redis, while what it is sent still arrives, or ends that.
    fn blackhole(&self, number: usize, on: bool) {
        self.spokes[number].run(&format!("ip route {} blackhole 10.77.0.1/32", if on { "add" } else { "del" }));
    }
}

fn addresses(range: std::ops::RangeInclusive<u8>, net: &str) -> Vec<String> {
    range.map(|last| format!("{net}.{last}")).collect()
}

#[test]
fn a_partition_heals_to_the_union_without_a_storm() {
    let Some(mut net) = Net::new() else { return };
    let (near, far, third) = (net.node("near", ""), net.node("far", ""), net.node("third", ""));
    let all = [&near, &far, &third];
    wait_joined(&all);
    let before = addresses(1..=40, "203.0.113");
    for address in &before {
        near.ask(&format!("ban {address} for=3600"));
    }
    near.ask("ban 198.51.100.0/24 for=3600");
    let all_know = |addresses: &[String], nodes: &[&Node]| addresses.iter().all(|address| nodes.iter().all(|node| node.is_banned(address)));
    wait_until("all know all", || all_know(&before, &all) && all.iter().all(|node| node.refuses("198.51.100.7")));

    net.cable(1, false);
    net.blackhole(2, true);
    let start = Instant::now();
    // Verdicts are the same before and after the cut is noticed.
    let mut slowest = Duration::ZERO;
    let mut offender = 0;
    let mut verdicts = |nodes: &[&Node]| {
        for node in nodes {
            offender += 1;
            slowest = slowest.max(node.verdicts(&format!("100.64.{}.{}", offender / 250, offender % 250 + 1)));
        }
    };
    while [&far, &third].iter().any(|node| node.number("fleet_receiving") + node.number("fleet_publishing") > 0) {
        assert!(start.elapsed() < crate::harness::DEADLINE, "it is not noticed");
        verdicts(&all);
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("partition: noticed on both after {:?}", start.elapsed());
    for node in [&far, &third] {
        assert!(node.fleet().starts_with("cut off: "), "{}", node.fleet());
    }
    assert!(near.is_joined(), "the side with Redis goes on: {}", near.fleet());
    let (near_bans, far_bans, third_bans) =
        (addresses(101..=130, "203.0.113"), addresses(131..=160, "203.0.113"), addresses(161..=190, "203.0.113"));
    for (node, bans) in [(&near, &near_bans), (&far, &far_bans), (&third, &third_bans)] {
        for address in bans {
            node.ask(&format!("ban {address} for=3600"));
        }
    }
    // Unbanned on either side while the other cannot know.
    for address in &before[..5] {
        near.ask(&format!("unban {address}"));
    }
    for address in &before[5..10] {
        far.ask(&format!("unban {address}"));
    }
    third.ask("unban 198.51.100.0/24");
    verdicts(&all);
    assert!(all_know(&near_bans, &[&near]) && all_know(&far_bans, &[&far]) && all_know(&third_bans, &[&third]));
    assert!(!far.is_banned(&near_bans[0]) && !near.is_banned(&far_bans[0]) && far.is_banned(&before[0]), "they are cut off");
    assert!(slowest < Duration::from_secs(1), "a verdict waited for the network: {slowest:?}");

    let calls = |what: &str| net.redis.calls(what);
    let (scripts, published) = (calls("evalsha"), calls("publish"));
    net.cable(1, true);
    net.blackhole(2, false);
    let union = [&before[10..], &near_bans, &far_bans, &third_bans].concat();
    let healed = wait_until("all know the union", || all_know(&union, &all));
    let is_free = |node: &&Node| before[..10].iter().all(|address| !node.is_banned(address)) && !node.refuses("198.51.100.7");
    let unbanned = wait_until("all know the unbans", || all.iter().all(is_free));
    wait_joined(&all);
    println!(
        "after the cables are plugged in: union known everywhere after {healed:?}, unbans {unbanned:?} later; slowest verdict {slowest:?}"
    );

    // Quiet again: the nodes ask for the time, and nothing else is sent.
    let settled = |since: &mut u64| {
        let now = calls("evalsha");
        std::mem::replace(since, now) == now
    };
    let (mut last, mut times) = (0, calls("time"));
    wait_until("nothing more is published", || {
        if calls("time") < times + 6 {
            return false;
        }
        times = calls("time");
        settled(&mut last)
    });
    let (scripts, published) = (calls("evalsha") - scripts, calls("publish") - published);
    let bans = near.number("bans");
    println!("calls from the heal until all was quiet: {scripts} scripts, {published} messages, for {bans} bans on 3 nodes");
    // Each of two nodes loads all bans and publishes its own again; nobody publishes what it has received.
    assert!(scripts <= 2 * 2 * bans + 100, "a storm: {scripts} calls for {bans} bans");
    assert!(all.iter().all(is_free), "no removed ban comes back");
    assert!(all_know(&union, &all));
}

#[test]
fn over_a_slow_cable_no_node_is_cut_off_and_everything_arrives() {
    let Some(mut net) = Net::new() else { return };
    if !has("tc", "iproute2") {
        return;
    }
    let (near, far) = (net.node("near", ""), net.node("far", ""));
    wait_joined(&[&near, &far]);
    // A long delay if the kernel can; else a narrow link, on which packets queue up.
    let long = net.spokes[1].try_run("tc qdisc add dev uplink root netem delay 300ms 50ms");
    if !long {
        for (namespace, device) in [(&net.spokes[1], "uplink"), (&net.hub, "cable3")] {
            namespace.run(&format!("tc qdisc add dev {device} root tbf rate 64kbit burst 2kb latency 4s"));
        }
    }
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    for last in 1..=60 {
        slowest = slowest.max(far.verdicts(&format!("203.0.113.{last}")));
        slowest = slowest.max(near.verdicts(&format!("198.51.100.{last}")));
    }
    let made = start.elapsed();
    let there = wait_until("all is known on both sides", || {
        (1..=60).all(|last| near.is_banned(&format!("203.0.113.{last}")) && far.is_banned(&format!("198.51.100.{last}")))
    });
    let kind = if long { "netem, 300 ms" } else { "64 kbit/s by tbf: this kernel has no netem" };
    println!("slow cable ({kind}): 120 bans made in {made:?}, known on both sides {there:?} later; slowest verdict {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "a verdict waited for the network: {slowest:?}");
    assert!(near.is_joined() && far.is_joined(), "{} {}", near.fleet(), far.fleet());
}
