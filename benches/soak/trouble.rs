//! What befalls the processes: reloads, `kill -9`, ends and stops of daemons, helpers and Redis. The first machine's daemon and first helper
//! are spared, so that some processes live as long as the soak.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::wait_until;
use crate::machine::{Machine, World, add};
use crate::server::Redis;
use crate::traffic::has_helpers;

/// Time between two troubles.
const PAUSE: Duration = Duration::from_secs(4);
/// How long a killed daemon is away.
const AWAY: Duration = Duration::from_millis(300);
const STOPPED: Duration = Duration::from_secs(1);
const REDIS_STOPPED: Duration = Duration::from_secs(3);
/// A rule that comes and goes with reloads.
const MORE: &str = "[[rule]]\nname = 'soak-more'\npath = '^/soak-more'\nmaxretry = 5\n";

pub(crate) fn make(world: &World) {
    let [first, second, third] = &world.machines;
    for round in 0_usize.. {
        for step in 0..9 {
            std::thread::sleep(PAUSE);
            if world.has_ended() {
                return;
            }
            match step {
                0 => world.machines.iter().for_each(|machine| reload(world, machine, if round % 2 == 0 { MORE } else { "" })),
                1 => {
                    second.restart(AWAY, |mut daemon| daemon.kill());
                    add(&world.counts.daemons_killed, 1);
                    back(second);
                }
                2 => first.kill_helper[1].store(true, Ordering::Relaxed),
                3 => {
                    stop(third);
                    add(&world.counts.daemons_stopped, 1);
                }
                4 => {
                    third.restart(AWAY, |daemon| assert!(daemon.end(Signal::TERM).success()));
                    add(&world.counts.daemons_ended, 1);
                    back(third);
                }
                5 => {
                    let mut redis = world.redis.lock().unwrap();
                    redis.kill();
                    *redis = Redis::start_on(redis.port);
                    world.redis_pid.store(redis.child.id(), Ordering::Relaxed);
                    add(&world.counts.redis_killed, 1);
                }
                6 => second.kill_helper[round % 2].store(true, Ordering::Relaxed),
                7 => {
                    let redis = world.redis.lock().unwrap();
                    redis.signal(Signal::STOP);
                    std::thread::sleep(REDIS_STOPPED);
                    redis.signal(Signal::CONT);
                    add(&world.counts.redis_stopped, 1);
                }
                _ => world.kill_embedded.store(true, Ordering::Relaxed),
            }
        }
    }
}

fn reload(world: &World, machine: &Machine, more: &str) {
    machine.configure(more);
    let answer = machine.ask("reload").unwrap_or_default();
    assert!(!answer.starts_with("error"), "{}: {answer}", machine.name);
    add(&world.counts.reloads, 1);
}

fn stop(machine: &Machine) {
    let daemon = machine.daemon.lock().unwrap();
    let daemon = daemon.as_ref().expect("a daemon");
    daemon.signal(Signal::STOP);
    std::thread::sleep(STOPPED);
    daemon.signal(Signal::CONT);
}

fn back(machine: &Machine) {
    wait_until(&format!("the helpers of {} are back", machine.name), || has_helpers(machine));
}
