//! A soak: mixed traffic over a fleet of three daemons while their parts are killed, stopped, reloaded and rotated, and how much memory,
//! how many files and how many threads each process has meanwhile.
//!
//! `cargo bench --bench soak`; `tests/long/soak` runs it. STRIKEOUT_SOAK_MINUTES is its length, 60 by default. It fails if one of these
//! grows, an innocent client is refused, an offender is served, a query is not answered exactly once, or a ban is lost.
//!
//! | module | job |
//! |---|---|
//! | `machine` | the machines of the fleet: a daemon with its files |
//! | `traffic` | what clients and the operator do |
//! | `trouble` | kills, stops, restarts and reloads |
//! | `measure` | memory, files and threads over time, and whether they are flat |
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a measurement, not part of the product"
)]

#[path = "../../tests/harness/mod.rs"]
mod harness;
mod machine;
mod measure;
#[path = "../../tests/fleet/server.rs"]
#[expect(dead_code, reason = "the fleet's tests use the rest")]
mod server;
mod traffic;
mod trouble;

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use machine::World;

/// The fleet's password.
const SECRET: &str = "a-secret-of-the-soak";
/// Its length if STRIKEOUT_SOAK_MINUTES does not say otherwise.
const MINUTES: u64 = 60;

fn main() -> ExitCode {
    let minutes = std::env::var("STRIKEOUT_SOAK_MINUTES");
    let minutes = minutes.map_or(MINUTES, |text| text.parse().expect("STRIKEOUT_SOAK_MINUTES is a number of minutes"));
    let world = World::start();
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let table = std::thread::scope(|scope| {
        let world = &world;
        for machine in &world.machines {
            for number in 0..machine::HELPERS {
                scope.spawn(move || world.guard(|| traffic::web(world, machine, number)));
            }
            scope.spawn(move || world.guard(|| traffic::mail(world, machine)));
            scope.spawn(move || world.guard(|| traffic::log(world, machine)));
        }
        scope.spawn(|| world.guard(|| traffic::embedded(world)));
        scope.spawn(|| world.guard(|| traffic::operator(world)));
        scope.spawn(|| world.guard(|| trouble::make(world)));
        let table = world.guard(|| measure::watch(world, end));
        world.ends.store(true, Ordering::Relaxed);
        table
    });
    println!("{table}");
    world.counts.print();
    world.check_fleet();
    let faults = world.faults.lock().unwrap();
    faults.iter().for_each(|fault| println!("FAULT: {fault}"));
    let holds = table.is_flat() && faults.is_empty();
    println!("{minutes} minutes: {}", if holds { "flat, and no fault" } else { "FAILED" });
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
