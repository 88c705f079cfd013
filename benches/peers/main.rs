//! Compares Strikeout with its peers: contenders are measured alternately in one run, and the result is the median of paired ratios.
//!
//! `cargo bench --bench peers` runs everything, `cargo bench --bench peers -- --quick lookups` one row in a minute; `-- --help` lists
//! the rows. Tables go to stdout, raw samples to `benches/results/`.
#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs,
    reason = "a benchmark may panic, and prints its results"
)]

mod botnet;
mod child;
mod machine;
mod pipe;
mod plot;
mod programs;
mod report;
mod roles;
mod rows;
mod series;
mod traffic;
mod world;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;

use report::Report;

/// Measures Strikeout and its peers.
#[derive(Parser)]
pub struct Options {
    /// Rows to measure; all if none is named.
    #[arg(value_name = "ROW")]
    rows: Vec<String>,
    /// Short runs with small tables, to see whether the benchmark works.
    #[arg(long)]
    quick: bool,
    /// Directory for the raw samples.
    #[arg(long, value_name = "DIR", default_value = "benches/results")]
    results: PathBuf,
    /// Number of measurements of each contender.
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
    /// Act as one of the peers (the benchmark starts itself like this).
    #[arg(long, value_name = "ROLE", hide = true)]
    role: Option<String>,
    /// Argument of the role.
    #[arg(long, value_name = "TEXT", hide = true, default_value = "")]
    role_argument: String,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(role) = &options.role {
        return roles::run(role, &options.role_argument);
    }
    let chosen: Vec<&rows::Row> = if options.rows.is_empty() {
        rows::ROWS.iter().collect()
    } else {
        let mut chosen = Vec::new();
        for name in &options.rows {
            match rows::ROWS.iter().find(|row| row.name == name) {
                Some(row) => chosen.push(row),
                None => bail!("there is no row {name:?}; there are: {}", rows::ROWS.map(|row| row.name).join(", ")),
            }
        }
        chosen
    };
    let mut report = Report::new(&options)?;
    for row in chosen {
        report.heading(row.name, row.about);
        if let Err(error) = (row.run)(&options, &mut report) {
            report.failed(row.name, &error);
        }
        report.save()?;
    }
    report.finish()
}
