//! Growth of the cost of a lookup with the number of rules, the number of tracked clients and the length of the URL.
//!
//! Every query has a different URL, so that the helper's cache of innocent URLs has no hits.

use std::path::Path;

use anyhow::Result;
use strikeout::internals::rule::builtin;

use super::either;
use super::lookups::{column, in_turn};
use crate::Options;
use crate::pipe::{Helper, Load, Sample, Until};
use crate::plot::{self, Curve, Panel};
use crate::report::{Goal, Report};
use crate::series::{median, paired, ratio};
use crate::traffic::{Clients, Random, Traffic, WORDS};
use crate::world::{World, browsing};

/// In batches the pipe costs least, so growth shows most clearly.
const LOAD: Load = Load { outstanding: 1000, batch: 100 };

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let panels = [rules(options, report)?, clients(options, report)?, urls(options, report)?];
    plot::write(&options.results.join("growth.svg"), &panels)
}

/// A curve through the medians.
fn curve(name: &'static str, sizes: &[f64], costs: &[Vec<f64>]) -> Curve {
    Curve { name, points: sizes.iter().copied().zip(costs.iter().map(|costs| median(costs).value)).collect() }
}

fn rules(options: &Options, report: &mut Report) -> Result<Panel> {
    let world = World::new()?;
    let start = |count: u32| -> Result<Helper> {
        let config = world.config(&format!("rules-{count}.toml"), &made_up_rules(count)?)?;
        Helper::start(&mut world.embedded(&config, None)?)
    };
    let (mut ten, mut hundred, mut thousand) = (start(10)?, start(100)?, start(1000)?);
    let mut contenders = [("10 rules", &mut ten), ("100 rules", &mut hundred), ("1,000 rules", &mut thousand)];
    let samples = in_turn(options, &mut contenders, LOAD, |_| browsing().for_distinct_urls())?;
    let cost: Vec<Vec<f64>> = samples.iter().map(|samples| column(samples, Sample::cpu_us)).collect();
    for (name, cost) in ["10", "100", "1000"].iter().zip(&cost) {
        report.series("rules", name, "µs CPU/lookup", cost);
    }
    report.finding("rules", "1,000 rules to 10", "× CPU", paired(&cost[2], &cost[0], ratio), Some(Goal::AtMost(1.5)));
    report.finding("rules", "100 rules to 10", "× CPU", paired(&cost[1], &cost[0], ratio), Some(Goal::AtMost(1.5)));
    Ok(Panel { title: "Rules", curves: vec![curve("rules", &[10.0, 100.0, 1000.0], &cost)], logarithmic: true })
}

/// A configuration with exactly `count` rules, none of them built in: seven in ten match the path, two the User-Agent, one the query.
fn made_up_rules(count: u32) -> Result<String> {
    let mut text = String::new();
    for spec in builtin::specs().map_err(anyhow::Error::msg)? {
        text.push_str(&format!("[[rule]]\nname = '{}'\nenabled = false\n", spec.name.get_ref()));
    }
    let mut random = Random(3);
    // The benchmark's own two rules are included in `count`.
    for number in 2..count {
        let (a, b) = (WORDS[random.below(WORDS.len() as u32) as usize], random.below(100_000));
        let pattern = match number % 10 {
            0..7 => format!("path = '(?i)/{a}-{b}(?:\\.bak|~|\\.php)?$'"),
            7 | 8 => format!("user_agent = '(?i)scanner{b}|{a}bot/{b}'"),
            _ => format!("query = '(?i){a}=[^&]*union\\W+select{b}'"),
        };
        text.push_str(&format!("[[rule]]\nname = 'made-up-{number}'\nmaxretry = 2\n{pattern}\n"));
    }
    Ok(text)
}

fn clients(options: &Options, report: &mut Report) -> Result<Panel> {
    let world = World::new()?;
    // The built-in request rate drops a client after a minute.
    let rules = "[[rule]]\nname = 'web-rate'\nenabled = false\n[[rule]]\nname = 'bench-rate'\nevent = 'request'\nmaxretry = 1000000\nfindtime = '4w'\n";
    let config = world.config_with("strikeout.toml", Path::new(""), 20_000_000, rules)?;
    let populations: [u32; 3] = either(options, [1000, 10_000, 100_000], [1000, 1_000_000, 10_000_000]);
    let start = |population: u32| -> Result<Helper> {
        let mut helper = Helper::start(&mut world.embedded(&config, None)?)?;
        helper.drive(&mut Traffic::browsing(Clients::Each), LOAD, Until::Lookups(u64::from(population)))?;
        Ok(helper)
    };
    let (mut few, mut many, mut most) = (start(populations[0])?, start(populations[1])?, start(populations[2])?);
    type Kind = fn(u32) -> Clients;
    let kinds: [(&str, Kind, f64); 2] = [("uniform", Clients::Uniform, 2.0), ("Zipf", Clients::Zipf, 1.3)];
    let mut curves = Vec::new();
    for (kind, clients, goal) in kinds {
        let case = format!("tracked clients, {kind}");
        let mut contenders = [("few", &mut few), ("many", &mut many), ("most", &mut most)];
        let samples =
            in_turn(options, &mut contenders, LOAD, |number| Traffic::browsing(clients(populations[number])).for_distinct_urls())?;
        let cost: Vec<Vec<f64>> = samples.iter().map(|samples| column(samples, Sample::cpu_us)).collect();
        for (population, cost) in populations.iter().zip(&cost) {
            report.series(&case, &population.to_string(), "µs CPU/lookup", cost);
        }
        for number in [1, 2] {
            let what = format!("{} clients to {}", populations[number], populations[0]);
            report.finding(&case, &what, "× CPU", paired(&cost[number], &cost[0], ratio), Some(Goal::AtMost(goal)));
        }
        curves.push(curve(kind, &populations.map(f64::from), &cost));
    }
    Ok(Panel { title: "Tracked clients", curves, logarithmic: true })
}

fn urls(options: &Options, report: &mut Report) -> Result<Panel> {
    const LENGTHS: [usize; 6] = [40, 200, 1000, 2000, 4000, 8000];
    let world = World::new()?;
    let config = world.config("strikeout.toml", "")?;
    let mut helpers = Vec::new();
    for _ in LENGTHS {
        helpers.push(Helper::start(&mut world.embedded(&config, None)?)?);
    }
    let mut helpers = helpers.iter_mut();
    let mut contenders = LENGTHS.map(|_| ("strikeout", helpers.next().unwrap_or_else(|| unreachable!("one for each length"))));
    let load = Load { outstanding: 64, batch: 8 };
    let samples =
        in_turn(options, &mut contenders, load, |number| Traffic::of_url_length(Clients::Strangers, LENGTHS[number]).for_distinct_urls())?;
    let cost: Vec<Vec<f64>> = samples.iter().map(|samples| column(samples, Sample::cpu_us)).collect();
    for (length, cost) in LENGTHS.iter().zip(&cost) {
        report.series("URL length", &length.to_string(), "µs CPU/lookup", cost);
    }
    // Linear: the second half of the length costs what the first half does.
    let slope = |from: usize, to: usize| -> Vec<f64> {
        cost[to].iter().zip(&cost[from]).map(|(to_cost, from_cost)| (to_cost - from_cost) / (LENGTHS[to] - LENGTHS[from]) as f64).collect()
    };
    report.series("URL length", "each byte, 40 to 4,000", "ns CPU/byte", &slope(0, 4).iter().map(|us| us * 1000.0).collect::<Vec<_>>());
    report.series("URL length", "each byte, 4,000 to 8,000", "ns CPU/byte", &slope(4, 5).iter().map(|us| us * 1000.0).collect::<Vec<_>>());
    report.finding(
        "URL length",
        "a byte beyond 4,000 to one below",
        "×",
        paired(&slope(4, 5), &slope(0, 4), ratio),
        Some(Goal::AtMost(1.25)),
    );
    let curves = vec![curve("URL", &LENGTHS.map(|length| length as f64), &cost)];
    Ok(Panel { title: "Bytes in the URL", curves, logarithmic: false })
}
