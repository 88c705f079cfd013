//! The state file under faults: kill -9, damage, full and read-only disks, several processes on one file.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests fail by panicking, and some print what they measured")]

#[path = "../harness/mod.rs"]
mod harness;

mod damage;
mod disk;
mod fixture;
mod processes;
mod queue;
