//! A ban and an unban of one client that meet leave memory, state file and followers agreed, whichever of them came last.

use std::collections::BTreeSet;
use std::sync::Barrier;

use rustix::process::Signal;

use super::processes::{Helper, Resident, Stage, long, until};

fn listed(resident: &Resident<'_>) -> BTreeSet<String> {
    let list = resident.ask("list");
    list.lines().filter(|line| *line != ".").map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn after_bans_and_unbans_that_meet_memory_disk_and_followers_agree() {
    let stage = Stage::new();
    let resident = Resident::start(&stage, "", "");
    let (mut offended, mut follower) = (Helper::attach(&stage), Helper::attach(&stage));
    until("both are attached", || (resident.status("followers") == "2").then_some(()));
    let clients: Vec<String> = (0..long(500, 5000)).map(|number| format!("203.0.{}.{}", number / 250, number % 250 + 1)).collect();
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for client in &clients {
                barrier.wait();
                resident.ask(&format!("unban {client}"));
                barrier.wait();
            }
        });
        for client in &clients {
            barrier.wait();
            assert!(offended.get(client, "/w00tw00t").starts_with("OK "));
            barrier.wait();
        }
    });
    let in_memory = listed(&resident);
    for client in &clients {
        let is_banned = in_memory.contains(client);
        until(&format!("the followers know whether {client} is banned ({is_banned})"), || {
            (follower.refuses(client) == is_banned && offended.refuses(client) == is_banned).then_some(())
        });
    }
    resident.end(Signal::KILL);
    let resident = Resident::start_again(&stage);
    assert_eq!(listed(&resident), in_memory, "on disk");
    eprintln!("{} bans and unbans met: {} times the ban came last", clients.len(), in_memory.len());
}
