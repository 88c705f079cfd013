//! Prints results as they come, and writes every raw sample to a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::series::{Median, median};
use crate::{Options, machine};

/// All results of a run.
#[derive(Serialize)]
pub struct Report {
    machine: BTreeMap<&'static str, String>,
    quick: bool,
    series: Vec<Series>,
    findings: Vec<Finding>,
    failures: Vec<String>,
    #[serde(skip)]
    row: String,
    #[serde(skip)]
    file: PathBuf,
}

/// Raw samples of one contender in one case.
#[derive(Serialize)]
struct Series {
    row: String,
    case: String,
    who: String,
    unit: &'static str,
    samples: Vec<f64>,
}

/// A result that BENCHMARKS.md lists, with its goal if it has one.
#[derive(Serialize)]
struct Finding {
    row: String,
    case: String,
    what: String,
    unit: &'static str,
    #[serde(flatten)]
    median: Median,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<Goal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<bool>,
}

/// A goal for a median.
#[derive(Serialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {}", number(*limit)),
            Self::AtLeast(limit) => write!(f, "≥ {}", number(*limit)),
        }
    }
}

impl Report {
    pub fn new(options: &Options) -> Result<Self> {
        let machine = machine::describe();
        for (name, value) in &machine {
            println!("{name:>18}  {value}");
        }
        fs::create_dir_all(&options.results).with_context(|| format!("cannot make {}", options.results.display()))?;
        let started = machine.get("date").map_or("", String::as_str).replace(':', "");
        let rows = if options.rows.is_empty() { "all".to_owned() } else { options.rows.join("-") };
        let quick = if options.quick { "-quick" } else { "" };
        let file = options.results.join(format!("{started}-{rows}{quick}.json"));
        Ok(Self { machine, quick: options.quick, series: Vec::new(), findings: Vec::new(), failures: Vec::new(), row: String::new(), file })
    }

    pub fn heading(&mut self, row: &str, about: &str) {
        row.clone_into(&mut self.row);
        println!("\n{row}: {about}");
    }

    /// Stores raw samples, prints their median and returns it.
    pub fn series(&mut self, case: &str, who: &str, unit: &'static str, samples: &[f64]) -> Median {
        let median = median(samples);
        println!("  {case:<34} {who:<24} {:>11} {unit:<22} [{} … {}]", number(median.value), number(median.low), number(median.high));
        self.series.push(Series { row: self.row.clone(), case: case.into(), who: who.into(), unit, samples: samples.to_vec() });
        median
    }

    /// Stores and prints a result.
    pub fn finding(&mut self, case: &str, what: &str, unit: &'static str, median: Median, goal: Option<Goal>) {
        let reached = goal.map(|goal| goal.is_reached(median.value));
        let verdict = match (goal, reached) {
            (Some(goal), Some(true)) => format!("goal {goal}: reached"),
            (Some(goal), _) => format!("goal {goal}: NOT reached"),
            _ => String::new(),
        };
        println!(
            "→ {case:<34} {what:<36} {:>9} {unit} [{} … {}]  {verdict}",
            number(median.value),
            number(median.low),
            number(median.high)
        );
        self.findings.push(Finding { row: self.row.clone(), case: case.into(), what: what.into(), unit, median, goal, reached });
    }

    pub fn note(&self, text: &str) {
        println!("  {text}");
    }

    pub fn failed(&mut self, row: &str, error: &anyhow::Error) {
        println!("  could not be measured: {error:#}");
        self.failures.push(format!("{row}: {error:#}"));
    }

    /// The findings as a table, for BENCHMARKS.md.
    fn markdown(&self) -> String {
        let mut text = String::from("| row | case | measured | median | 95 % | goal | |\n|---|---|---|---|---|---|---|\n");
        for finding in &self.findings {
            let Finding { row, case, what, unit, median, goal, reached } = finding;
            let goal = goal.map_or(String::new(), |goal| goal.to_string());
            let reached = match reached {
                Some(true) => "reached",
                Some(false) => "**not reached**",
                None => "",
            };
            let [value, low, high] = [median.value, median.low, median.high].map(number);
            text.push_str(&format!("| {row} | {case} | {what} | {value} {unit} | {low} … {high} | {goal} | {reached} |\n"));
        }
        text
    }

    pub fn save(&self) -> Result<()> {
        fs::write(self.file.with_extension("md"), self.markdown())?;
        let text = serde_json::to_string_pretty(self)?;
        fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }

    pub fn finish(&self) -> Result<()> {
        self.save()?;
        println!("\nraw samples: {}", self.file.display());
        anyhow::ensure!(self.failures.is_empty(), "not measured:\n{}", self.failures.join("\n"));
        Ok(())
    }
}

/// Formats a number with three or four significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100_000.0 => format!("{:.0}k", value / 1000.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
