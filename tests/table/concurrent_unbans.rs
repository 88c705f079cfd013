//! Concurrent bans and unbans of one client: memory, state file and subscribers agree, whichever came last.

use std::collections::BTreeSet;
use std::sync::Barrier;

use rustix::process::Signal;

use crate::harness::{Daemon, SquidHelper, Stage, long, wait_until};

fn listed(daemon: &Daemon) -> BTreeSet<String> {
    daemon.objects("list").iter().map(|ban| ban["client"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn concurrent_bans_and_unbans_leave_memory_disk_and_subscribers_in_agreement() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", "");
    let (mut offended, mut other) = (SquidHelper::attach(&stage), SquidHelper::attach(&stage));
    wait_until("both are attached", || daemon.status("subscribers") == "2");
    let clients: Vec<String> = (0..long(500, 5000)).map(|number| format!("203.0.{}.{}", number / 250, number % 250 + 1)).collect();
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for client in &clients {
                barrier.wait();
                daemon.ask(&format!("unban {client}"));
                barrier.wait();
            }
        });
        for client in &clients {
            barrier.wait();
            assert!(offended.get(client, "/w00tw00t").starts_with("OK "));
            barrier.wait();
        }
    });
    let in_memory = listed(&daemon);
    for client in &clients {
        let is_banned = in_memory.contains(client);
        wait_until(&format!("both helpers know whether {client} is banned ({is_banned})"), || {
            other.refuses(client) == is_banned && offended.refuses(client) == is_banned
        });
    }
    daemon.end(Signal::KILL);
    let daemon = Daemon::start_again(&stage);
    assert_eq!(listed(&daemon), in_memory, "on disk");
    eprintln!("{} concurrent bans and unbans: the ban came last {} times", clients.len(), in_memory.len());
}
