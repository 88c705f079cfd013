//! A botnet at four helpers while their daemon is killed, held up, ended and started again.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::either;
use super::load::{HELPERS, attach, attack_each, percentile, status};
use crate::child::Process;
use crate::report::{Goal, Report};
use crate::series::median;
use crate::world::{World, wait_for};
use crate::{Options, traffic};

/// What happens to the daemon, in turn.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Trouble {
    Kill,
    End,
    /// SIGSTOP for [`HELD_UP`].
    HoldUp,
}

/// Longer than a helper waits for an answer, shorter than it takes to give a daemon up.
const HELD_UP: Duration = Duration::from_millis(500);
/// Time between the helpers' return and the next trouble.
const QUIET: Duration = Duration::from_millis(700);
/// Time without a daemon.
const AWAY: Duration = Duration::from_millis(300);

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let offenders: u32 = either(options, 200_000, 1_000_000);
    let world = World::new()?;
    let state = world.state("daemon.db", 0)?;
    let config = world.config_with("daemon.toml", &state, 1_000_000, "")?;
    let mut daemon = world.daemon(&config)?;
    let mut helpers = attach(&world)?;
    wait_for("the helpers", || subscribers(&world) == Some(u64::from(HELPERS)))?;
    let has_ended = AtomicBool::new(false);
    let (outcome, troubles) = std::thread::scope(|scope| {
        let troubles = scope.spawn(|| make_trouble(&world, &config, &mut daemon, &has_ended));
        let outcome = attack_each(&mut helpers, offenders / HELPERS);
        has_ended.store(true, Ordering::Relaxed);
        (outcome, troubles.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the thread that makes trouble panicked"))))
    });
    let (outcome, troubles) = (outcome?, troubles?);

    // Deferred offences are counted or dropped after ten seconds at most.
    std::thread::sleep(Duration::from_secs(11));
    let bans = status(&world)?["bans"].as_u64().context("no number of bans in the status")?;
    let answered: HashSet<u32> = outcome.banned.iter().copied().collect();
    let lost = |helper: &mut crate::pipe::Helper| -> Result<u64> {
        let mut lost = 0;
        for clients in outcome.banned.chunks(256) {
            let queries: String = clients
                .iter()
                .map(|client| format!("{client} {} GET http://www.example.org/ - - -\n", traffic::tracked(*client)))
                .collect();
            let answers = helper.ask_all(queries.as_bytes(), clients.len())?;
            lost += clients.len() as u64 - answers.windows(4).filter(|text| text == b" OK ").count() as u64;
        }
        Ok(lost)
    };
    let lost = helpers.iter_mut().map(lost).sum::<Result<u64>>()?;

    let case = format!("{offenders} offenders");
    let one = |number: f64| median(&[number]);
    let none = Some(Goal::AtMost(0.0));
    report.finding(&case, "daemon killed, ended or held up", "times", one(troubles.len() as f64), None);
    report.finding(&case, "offences/s", "", one(f64::from(offenders) / outcome.wall.as_secs_f64()), None);
    report.finding(&case, "offenders answered as banned", "clients", one(answered.len() as f64), None);
    report.finding(&case, "of them not refused by some helper at the end", "clients", one(lost as f64), none);
    report.finding(&case, "offences that were served", "queries", one(outcome.served as f64), none);
    report.finding(&case, "offenders banned at the end", "clients", one(bans as f64), None);
    report.finding(&case, "innocents refused", "queries", one(outcome.innocents_refused as f64), none);
    report.finding(&case, "innocent query to answer, p99", "ms", one(percentile(&outcome, 99)), Some(Goal::AtMost(20.0)));
    for kind in [Trouble::Kill, Trouble::End] {
        let back: Vec<f64> = troubles.iter().filter(|(one, _)| *one == kind).map(|(_, back)| back.as_secs_f64()).collect();
        if back.is_empty() {
            report.note(&format!("no {kind:?} within the attack: too few offenders"));
            continue;
        }
        report.series(&case, &format!("all helpers back after {kind:?}"), "s", &back);
        let longest = back.iter().fold(0.0, |longest: f64, span| longest.max(*span));
        report.finding(&case, &format!("the same after {kind:?}, at most"), "s", one(longest), Some(Goal::AtMost(1.0)));
    }
    Ok(())
}

/// Makes one trouble after another until `has_ended`. Returns each with the time from the daemon listening to all helpers being attached.
fn make_trouble(world: &World, config: &std::path::Path, daemon: &mut Process, has_ended: &AtomicBool) -> Result<Vec<(Trouble, Duration)>> {
    let mut troubles = Vec::new();
    for trouble in [Trouble::Kill, Trouble::HoldUp, Trouble::End].into_iter().cycle() {
        std::thread::sleep(QUIET);
        if has_ended.load(Ordering::Relaxed) {
            break;
        }
        match trouble {
            Trouble::HoldUp => {
                daemon.send(Signal::SIGSTOP)?;
                std::thread::sleep(HELD_UP);
                daemon.send(Signal::SIGCONT)?;
            }
            Trouble::Kill => daemon.kill()?,
            Trouble::End => daemon.stop(Duration::from_secs(10))?,
        }
        if trouble != Trouble::HoldUp {
            std::thread::sleep(AWAY);
            *daemon = world.daemon(config)?;
        }
        let listening = Instant::now();
        wait_for("the helpers", || subscribers(world) == Some(u64::from(HELPERS)))?;
        troubles.push((trouble, listening.elapsed()));
    }
    Ok(troubles)
}

fn subscribers(world: &World) -> Option<u64> {
    status(world).ok()?["subscribers"].as_u64()
}
