//! A helper attached to the daemon and one with an embedded table: innocent requests must cost the same.

use anyhow::Result;

use super::either;
use super::lookups::{LOADS, column, in_turn, report_samples};
use crate::pipe::{Helper, Sample};
use crate::report::{Goal, Report};
use crate::series::{paired, ratio};
use crate::world::{World, browsing, prepare, wait_for};
use crate::{Options, programs, traffic};

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let world = World::new()?;
    let bans = either(options, 20_000, 1_000_000);
    let config = world.config("embedded.toml", "")?;
    let state = world.state("embedded.db", bans)?;
    let mut embedded = Helper::start(&mut world.embedded(&config, Some(&state))?)?;
    prepare(&mut embedded, bans, either(options, 10_000, 100_000))?;

    let shared = world.state("daemon.db", bans)?;
    let config = world.config_with("daemon.toml", &shared, 1_000_000, "")?;
    let _daemon = world.daemon(&config)?;
    let mut command = std::process::Command::new(programs::EXT_STRIKEOUT_ACL);
    let mut attached = Helper::start(command.arg("--table").arg(world.path("strikeout.sock")).stderr(world.log("attached")?))?;
    // The snapshot of a million bans takes a moment to arrive.
    let query = format!("1 {} GET http://www.example.org/ - - -\n", traffic::banned(bans - 1));
    wait_for("the snapshot", || attached.ask(query.as_bytes()).is_ok_and(|answer| answer.starts_with(b"1 OK")))?;
    prepare(&mut attached, bans, either(options, 10_000, 100_000))?;

    for load in LOADS {
        let case = load.name();
        let mut contenders = [("embedded", &mut embedded), ("--table", &mut attached)];
        let samples = in_turn(options, &mut contenders, load, |_| browsing())?;
        report_samples(report, &case, &contenders.map(|(name, _)| name), &samples);
        let rate = |number: usize| column(&samples[number], Sample::per_second);
        report.finding(&case, "lookups/s, --table to embedded", "×", paired(&rate(1), &rate(0), ratio), Some(Goal::AtLeast(0.9)));
    }
    Ok(())
}
