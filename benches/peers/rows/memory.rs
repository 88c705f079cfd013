//! Memory per tracked client: the resident memory of a helper before and after each of many clients has one strike.

use std::path::Path;

use anyhow::Result;

use super::either;
use crate::Options;
use crate::pipe::Helper;
use crate::report::{Goal, Report};
use crate::series::median;
use crate::world::{World, strike};

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let world = World::new()?;
    let config = world.config_with("strikeout.toml", Path::new(""), 20_000_000, "")?;
    for clients in either(options, [100_000, 200_000], [1_000_000, 10_000_000]) {
        let mut helper = Helper::start(&mut world.embedded(&config, None)?)?;
        // Memory that the first queries allocate does not belong to a client.
        strike(&mut helper, 1000)?;
        let empty = helper.process.memory()?;
        strike(&mut helper, clients)?;
        let one_each = helper.process.memory()?;
        strike(&mut helper, clients)?;
        let two_each = helper.process.memory()?;
        let case = format!("{clients} clients");
        let each = |more: u64, less: u64| median(&[more.saturating_sub(less) as f64 / f64::from(clients)]);
        report.series(&case, "resident before", "bytes", &[empty as f64]);
        report.series(&case, "resident after", "bytes", &[one_each as f64]);
        report.finding(&case, "one strike", "B/client", each(one_each, empty), Some(Goal::AtMost(110.0)));
        report.finding(&case, "a further strike", "B/client", each(two_each, one_each), Some(Goal::AtMost(4.0)));
    }
    Ok(())
}
