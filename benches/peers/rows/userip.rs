//! Squid's own `ext_file_userip_acl`, which does not support channel IDs; our helper does without them here too.

use anyhow::Result;

use super::either;
use super::lookups::{LOADS, column, in_turn, report_samples};
use crate::pipe::{Helper, Sample};
use crate::report::{Goal, Report};
use crate::series::{paired, ratio};
use crate::traffic::{Clients, Traffic};
use crate::world::{World, browsing, prepare};
use crate::{Options, programs};

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let program = programs::find(&["ext_file_userip_acl"])?;
    let world = World::new()?;
    let bans = either(options, 20_000, 1_000_000);
    let state = world.state("strikeout.db", bans)?;
    let config = world.config("strikeout.toml", "")?;
    let mut ours = Helper::start(&mut world.embedded(&config, Some(&state))?)?;
    prepare(&mut ours, bans, either(options, 10_000, 100_000))?;
    let mut peers = Vec::new();
    for entries in [1_u32, 1000] {
        let list: String = (0..entries).map(|number| format!("203.0.{}.{}/255.255.255.255 user\n", number / 256, number % 256)).collect();
        let list = world.write(&format!("userip-{entries}"), list)?;
        let mut command = std::process::Command::new(&program);
        peers.push(Helper::start(command.arg("-f").arg(list).stderr(world.log("userip")?))?);
    }
    let [one, thousand] = &mut peers[..] else { unreachable!("two peers") };
    // The echo helper shows how much faster any helper could be on this pipe.
    let mut echo = Helper::start(&mut programs::role("echo", "")?)?;
    for load in LOADS {
        let case = load.name();
        let theirs = || Traffic::with_tails(Clients::Strangers, vec![b" somebody\n".to_vec()]).without_ids();
        let mut contenders =
            [("strikeout", &mut ours), ("userip, 1 entry", &mut *one), ("userip, 1,000 entries", &mut *thousand), ("echo", &mut echo)];
        // Each gets lines of its own format; theirs are a third as long as ours.
        let is_theirs = |number| matches!(number, 1 | 2);
        let samples =
            in_turn(options, &mut contenders, load, |number| if is_theirs(number) { theirs() } else { browsing().without_ids() })?;
        report_samples(report, &case, &contenders.map(|(name, _)| name), &samples);
        let rate = |number: usize| column(&samples[number], Sample::per_second);
        report.finding(&case, "lookups/s to 1 entry", "×", paired(&rate(0), &rate(1), ratio), Some(Goal::AtLeast(1.5)));
        report.finding(&case, "lookups/s of echo to 1 entry", "×", paired(&rate(3), &rate(1), ratio), None);
        report.finding(&case, "lookups/s to 1,000 entries", "×", paired(&rate(0), &rate(2), ratio), Some(Goal::AtLeast(20.0)));
    }
    Ok(())
}
