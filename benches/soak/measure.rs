//! Memory, open files and threads of each process over time, the size of the state files, and whether they are flat: whether the last quarter
//! of the soak needed no more than the second one did. The first quarter fills tables, caches and the allocator's arenas.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::machine::World;

const INTERVAL: Duration = Duration::from_secs(1);
/// Columns of the table.
const COLUMNS: usize = 8;
/// Memory may differ by a tenth and 4 MiB: a helper that has attached again takes 10 MiB more or less, for the copy of the bans and the rules
/// is made anew and the old one given back, and the allocator keeps some of it.
const MEMORY_SHARE: f64 = 0.1;
const MEMORY: f64 = 4.0;
/// Files that may be open more: connections come and go.
const FILES: f64 = 3.0;

/// What is measured, and by how much more it may be at the end.
#[derive(Clone, Copy, PartialEq)]
enum Quantity {
    Memory,
    Files,
    Threads,
    StateFile,
}

impl Quantity {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory, MiB",
            Self::Files => "open files",
            Self::Threads => "threads",
            Self::StateFile => "state file, MiB",
        }
    }

    fn limit(self, before: f64) -> f64 {
        match self {
            Self::Memory | Self::StateFile => before * (1.0 + MEMORY_SHARE) + MEMORY,
            Self::Files => before + FILES,
            Self::Threads => before,
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

struct Row {
    process: String,
    quantity: Quantity,
    values: Vec<f64>,
}

impl Row {
    fn quarter(&self, number: usize) -> f64 {
        let length = self.values.len();
        median(&self.values[length * number / 4..length * (number + 1) / 4])
    }

    fn is_flat(&self) -> bool {
        self.quarter(3) <= self.quantity.limit(self.quarter(1))
    }
}

pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn is_flat(&self) -> bool {
        self.0.iter().all(Row::is_flat)
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:<16} medians, each column an eighth of the time", "process", "")?;
        for row in &self.0 {
            write!(f, "{:<20} {:<16}", row.process, row.quantity.name())?;
            for column in 0..COLUMNS {
                let length = row.values.len();
                let value = median(&row.values[length * column / COLUMNS..length * (column + 1) / COLUMNS]);
                write!(f, " {value:>7.1}")?;
            }
            writeln!(f, "  {}", if row.is_flat() { "flat" } else { "GROWS" })?;
        }
        Ok(())
    }
}

/// Measures until `end`, or until something has failed.
pub(crate) fn watch(world: &World, end: Instant) -> Table {
    let mut table = Table(Vec::new());
    let mut add = |process: &str, quantity: Quantity, value: f64| match table
        .0
        .iter_mut()
        .find(|row| row.process == process && row.quantity == quantity)
    {
        Some(row) => row.values.push(value),
        None => table.0.push(Row { process: process.to_owned(), quantity, values: vec![value] }),
    };
    while Instant::now() < end && !world.has_ended() {
        std::thread::sleep(INTERVAL);
        for (process, pid) in processes(world) {
            // It may be between two lives.
            let Some((memory, files, threads)) = of_process(pid.load(Ordering::Relaxed)) else { continue };
            add(&process, Quantity::Memory, memory);
            add(&process, Quantity::Files, files);
            add(&process, Quantity::Threads, threads);
        }
        for machine in &world.machines {
            add(machine.name, Quantity::StateFile, size(&machine.stage.state()));
        }
        add("embedded helper", Quantity::StateFile, size(&world.embedded.path("embedded.db")));
    }
    table
}

fn processes(world: &World) -> Vec<(String, &AtomicU32)> {
    let mut all = vec![("Redis".to_owned(), &world.redis_pid), ("embedded helper".to_owned(), &world.embedded_pid)];
    for machine in &world.machines {
        all.push((machine.name.to_owned(), &machine.pid));
        all.extend(machine.helper_pids.iter().enumerate().map(|(number, pid)| (format!("{} helper {number}", machine.name), pid)));
    }
    all
}

/// Resident memory in MiB, open files and threads of a process that runs.
fn of_process(pid: u32) -> Option<(f64, f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |field: &str| status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse::<f64>().ok());
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    // A process that has ended but is not reaped yet has no memory.
    (files > 0).then_some((number("VmRSS:")? / 1024.0, files as f64, number("Threads:")?))
}

/// The size of a state file in MiB, with what SQLite keeps beside it.
fn size(path: &Path) -> f64 {
    let bytes = |suffix: &str| fs::metadata(format!("{}{suffix}", path.display())).map_or(0, |file| file.len());
    (bytes("") + bytes("-wal")) as f64 / f64::from(1 << 20)
}
