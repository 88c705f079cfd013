//! Cost of a lookup beyond the pipe: our helper, the echo helper and a Python helper, measured alternately over a socket pair each.

use std::time::Duration;

use anyhow::Result;

use super::either;
use crate::pipe::{Helper, Load, Sample, Until};
use crate::report::{Goal, Report};
use crate::series::{difference, paired, ratio};
use crate::traffic::Traffic;
use crate::world::{World, browsing, prepare};
use crate::{Options, programs};

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let world = World::new()?;
    let bans = either(options, 20_000, 1_000_000);
    let state = world.state("strikeout.db", bans)?;
    let config = world.config("strikeout.toml", "")?;
    let mut ours = Helper::start(&mut world.embedded(&config, Some(&state))?)?;
    prepare(&mut ours, bans, either(options, 10_000, 100_000))?;
    let mut echo = Helper::start(&mut programs::role("echo", "")?)?;
    let mut python = Helper::start(&mut programs::python_helper())?;
    for load in LOADS {
        let case = load.name();
        let mut contenders = [("echo", &mut echo), ("strikeout", &mut ours), ("python", &mut python)];
        let samples = in_turn(options, &mut contenders, load, |_| browsing())?;
        let [echo, strikeout, python] = &samples[..] else { unreachable!("three contenders") };
        report_samples(report, &case, &contenders.map(|(name, _)| name), &samples);
        let cpu = paired(&column(strikeout, Sample::cpu_us), &column(echo, Sample::cpu_us), difference);
        report.finding(&case, "CPU beyond echo", "µs/lookup", cpu, Some(Goal::AtMost(1.0)));
        let rate = paired(&column(strikeout, Sample::per_second), &column(echo, Sample::per_second), ratio);
        report.finding(&case, "lookups/s to echo", "×", rate, (load.batch == 1).then_some(Goal::AtLeast(0.95)));
        let rate = paired(&column(strikeout, Sample::per_second), &column(python, Sample::per_second), ratio);
        report.finding(&case, "lookups/s to Python", "×", rate, None);
    }
    // The helper caches innocent URLs: this case measures lookups without cache hits.
    let [.., load] = LOADS;
    let case = format!("{}, every URL another one", load.name());
    let mut contenders = [("echo", &mut echo), ("strikeout", &mut ours)];
    let samples = in_turn(options, &mut contenders, load, |_| browsing().for_distinct_urls())?;
    report_samples(report, &case, &contenders.map(|(name, _)| name), &samples);
    let cpu = paired(&column(&samples[1], Sample::cpu_us), &column(&samples[0], Sample::cpu_us), difference);
    report.finding(&case, "CPU beyond echo", "µs/lookup", cpu, Some(Goal::AtMost(1.0)));
    Ok(())
}

/// Squid writes each query by itself. On a busy socket the helper reads them in batches, which show its own cost best.
pub const LOADS: [Load; 5] = [
    Load { outstanding: 1, batch: 1 },
    Load { outstanding: 256, batch: 1 },
    Load { outstanding: 1000, batch: 1 },
    Load { outstanding: 256, batch: 32 },
    Load { outstanding: 1000, batch: 100 },
];

/// How often the contenders are measured, each for how long at a time.
pub struct Turns {
    pub repeat: usize,
    pub stretch: Duration,
}

impl Turns {
    /// Measures the contenders alternately with the same queries. Returns the samples of each contender.
    pub fn measure<const N: usize>(
        &self,
        contenders: &mut [(&str, &mut Helper); N],
        load: Load,
        traffic: impl Fn(usize) -> Traffic,
    ) -> Result<Vec<Vec<Sample>>> {
        let mut samples = vec![Vec::new(); contenders.len()];
        let mut traffics: Vec<Traffic> = (0..contenders.len()).map(traffic).collect();
        for round in 0..=self.repeat {
            for position in 0..contenders.len() {
                // The first contender changes from round to round.
                let number = (position + round) % contenders.len();
                let (name, helper) = &mut contenders[number];
                let sample = helper.drive(&mut traffics[number], load, Until::Elapsed(self.stretch))?;
                anyhow::ensure!(sample.refused == 0, "{name} refused {} innocent queries", sample.refused);
                // The first round is a warm-up.
                if round > 0 {
                    samples[number].push(sample);
                }
            }
        }
        Ok(samples)
    }
}

/// Measures the contenders in turn as often and as long as the options say.
pub fn in_turn<const N: usize>(
    options: &Options,
    contenders: &mut [(&str, &mut Helper); N],
    load: Load,
    traffic: impl Fn(usize) -> Traffic,
) -> Result<Vec<Vec<Sample>>> {
    let repeat = options.repeat.unwrap_or(either(options, 3, 15));
    let stretch = Duration::from_millis(either(options, 100, 400));
    Turns { repeat, stretch }.measure(contenders, load, traffic)
}

pub fn column(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> Vec<f64> {
    samples.iter().map(value).collect()
}

pub fn report_samples(report: &mut Report, case: &str, names: &[&str], samples: &[Vec<Sample>]) {
    for (name, samples) in names.iter().zip(samples) {
        report.series(case, name, "µs CPU/lookup", &column(samples, Sample::cpu_us));
        report.series(case, name, "lookups/s", &column(samples, Sample::per_second));
    }
}
