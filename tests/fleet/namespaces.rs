//! A fleet with cables: the engine and each node in a network namespace of its own, and a bridge between them. What is cut here is cut as a
//! network is: packets get nowhere, and nobody is told.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::engine::Redis;
use crate::node::{Node, joined};
use crate::{engine_is_there, has, wait_until};

/// A network namespace, as long as a process of ours lives in it.
struct Namespace {
    keeper: Child,
}

impl Namespace {
    fn new() -> Self {
        // It says a word once it is inside, and ends when its input does: with this process at the latest.
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sh", "-c", "echo inside; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = unshare.spawn().unwrap();
        let mut inside = [0; 7];
        keeper.stdout.as_mut().unwrap().read_exact(&mut inside).unwrap();
        let namespace = Self { keeper };
        namespace.run("ip link set lo up");
        namespace
    }

    /// What a command is started with to run in here.
    fn wrapper(&self) -> Vec<String> {
        ["nsenter", "--target", &self.keeper.id().to_string(), "--net", "--"].map(str::to_owned).to_vec()
    }

    fn try_run(&self, command: &str) -> bool {
        let words: Vec<String> = self.wrapper().into_iter().chain(command.split(' ').map(str::to_owned)).collect();
        Command::new(&words[0]).args(&words[1..]).stderr(Stdio::null()).stdout(Stdio::null()).status().unwrap().success()
    }

    #[track_caller]
    fn run(&self, command: &str) {
        assert!(self.try_run(command), "{command}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The engine, and a bridge to which nodes are plugged in.
struct Net {
    hub: Namespace,
    redis: Redis,
    spokes: Vec<Namespace>,
}

impl Net {
    /// None where it cannot be made: then the test is skipped.
    fn new() -> Option<Self> {
        if !(engine_is_there() && has("ip", "iproute2") && has("nsenter", "util-linux") && has("unshare", "util-linux")) {
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root makes network namespaces");
            return None;
        }
        let made = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status().unwrap().success();
        assert!(made || std::env::var_os("STRIKEOUT_REQUIRE_SERVERS").is_none(), "root cannot make a network namespace here");
        if !made {
            eprintln!("skipped: network namespaces cannot be made here");
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
        let (number, keeper) = (self.spokes.len() + 2, spoke.keeper.id());
        self.hub.run(&format!("ip link add cable{number} type veth peer name uplink netns {keeper}"));
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

    /// From now on what a node sends to the engine is thrown away on its way, while what it is sent still comes.
    fn blackhole(&self, number: usize, on: bool) {
        self.spokes[number].run(&format!("ip route {} blackhole 10.77.0.1/32", if on { "add" } else { "del" }));
    }
}

fn addresses(range: std::ops::RangeInclusive<u8>, net: &str) -> Vec<String> {
    range.map(|last| format!("{net}.{last}")).collect()
}

#[test]
fn a_partition_leaves_each_side_on_its_own_and_heals_to_the_union_without_a_storm() {
    let Some(mut net) = Net::new() else { return };
    let (near, far, third) = (net.node("near", ""), net.node("far", ""), net.node("third", ""));
    let all = [&near, &far, &third];
    joined(&all);
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
    // Nobody knows yet that anything is wrong; then everybody does. Verdicts are the same all the while.
    let mut slowest = Duration::ZERO;
    let mut offender = 0;
    let mut verdicts = |nodes: &[&Node]| {
        for node in nodes {
            offender += 1;
            slowest = slowest.max(node.verdicts(&format!("100.64.{}.{}", offender / 250, offender % 250 + 1)));
        }
    };
    while [&far, &third].iter().any(|node| node.number("fleet_hears") + node.number("fleet_says") > 0) {
        assert!(start.elapsed() < crate::DEADLINE, "it is not noticed");
        verdicts(&all);
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("partition: noticed on both after {:?}", start.elapsed());
    for node in [&far, &third] {
        assert!(node.fleet().starts_with("cut off: "), "{}", node.fleet());
    }
    assert!(near.is_joined(), "the engine's side goes on: {}", near.fleet());
    let (near_bans, far_bans, third_bans) =
        (addresses(101..=130, "203.0.113"), addresses(131..=160, "203.0.113"), addresses(161..=190, "203.0.113"));
    for (node, bans) in [(&near, &near_bans), (&far, &far_bans), (&third, &third_bans)] {
        for address in bans {
            node.ask(&format!("ban {address} for=3600"));
        }
    }
    // Lifted on either side while the other cannot hear of it.
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
    let lifted = wait_until("and all lifts", || all.iter().all(is_free));
    joined(&all);
    println!(
        "after the cables are plugged in: union known everywhere after {healed:?}, lifts {lifted:?} later; slowest verdict {slowest:?}"
    );

    // Quiet again: the nodes ask for signs of life, and nothing else is said.
    let settled = |since: &mut u64| {
        let now = calls("evalsha");
        std::mem::replace(since, now) == now
    };
    let (mut last, mut signs) = (0, calls("time"));
    wait_until("nothing more is said", || {
        if calls("time") < signs + 6 {
            return false;
        }
        signs = calls("time");
        settled(&mut last)
    });
    let (scripts, published) = (calls("evalsha") - scripts, calls("publish") - published);
    let bans = near.number("bans");
    println!("engine calls from the heal until all was quiet: {scripts} scripts, {published} messages, for {bans} bans on 3 nodes");
    // Each of two nodes says all that stands on it, what was made meanwhile a second time, and joins; nobody says what it has heard.
    assert!(scripts <= 2 * 2 * bans + 100, "a storm: {scripts} calls for {bans} bans");
    assert!(all.iter().all(is_free), "nothing that was lifted comes back");
    assert!(all_know(&union, &all));
}

#[test]
fn over_a_slow_cable_nobody_is_cut_off_and_everything_arrives() {
    let Some(mut net) = Net::new() else { return };
    if !has("tc", "iproute2") {
        return;
    }
    let (near, far) = (net.node("near", ""), net.node("far", ""));
    joined(&[&near, &far]);
    // A long way if the kernel has one; else a thin one, on which what is sent piles up.
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
