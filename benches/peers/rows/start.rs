//! Time from the start of a helper to its first answer.

use std::time::Instant;

use anyhow::Result;

use super::either;
use crate::Options;
use crate::pipe::Helper;
use crate::report::{Goal, Report};
use crate::traffic::banned;
use crate::world::World;

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let world = World::new()?;
    let config = world.config("strikeout.toml", "")?;
    let repeat = options.repeat.unwrap_or(either(options, 3, 9));
    for bans in [0, 1_000_000] {
        let state = world.state(&format!("bans-{bans}.db"), bans)?;
        let (mut seconds, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..repeat {
            let mut command = world.embedded(&config, Some(&state))?;
            let start = Instant::now();
            let mut helper = Helper::start(&mut command)?;
            let client = banned(bans.saturating_sub(1));
            let answer = helper.ask(format!("1 {client} GET http://www.example.org/ - - -\n").as_bytes())?;
            seconds.push(start.elapsed().as_secs_f64());
            cpu.push(helper.process.cpu()?.as_secs_f64());
            anyhow::ensure!(answer.starts_with(b"1 OK") == (bans > 0), "the first answer was {:?}", String::from_utf8_lossy(&answer));
        }
        let case = format!("{bans} bans");
        let median = report.series(&case, "to the first answer", "s", &seconds);
        report.series(&case, "CPU", "s", &cpu);
        report.finding(&case, "start to first answer", "s", median, Some(Goal::AtMost(1.0)));
    }
    Ok(())
}
