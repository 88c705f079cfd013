//! A botnet: a million clients that each offend once, 500 queries in flight at each of four helpers on one daemon, beside the same at one
//! helper with an embedded table.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Command;

use anyhow::{Context, Result};

use super::either;
use crate::botnet::{Outcome, attack};
use crate::pipe::Helper;
use crate::report::{Goal, Report};
use crate::series::{median, paired, ratio};
use crate::world::{World, wait_for};
use crate::{Options, programs, traffic};

pub(super) const HELPERS: u32 = 4;

/// The results of one attack on the daemon's table.
struct Attack {
    outcome: Outcome,
    unbanned: u64,
    /// Whether each helper refuses the last client of each other one.
    is_known_everywhere: bool,
    breaks: usize,
    daemon_memory: u64,
}

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let offenders: u32 = either(options, 100_000, 1_000_000);
    let (mut embedded, mut attached) = (Vec::new(), Vec::new());
    for _ in 0..options.repeat.unwrap_or(either(options, 1, 3)) {
        embedded.push(on_embedded(offenders)?);
        attached.push(on_daemon(offenders)?);
    }
    let rate = |outcome: &Outcome| f64::from(offenders) / outcome.wall.as_secs_f64();
    let ours: Vec<f64> = attached.iter().map(|attack| rate(&attack.outcome)).collect();
    let own: Vec<f64> = embedded.iter().map(rate).collect();
    let case = format!("{offenders} offenders");
    report.series(&case, "embedded, one helper", "offences/s", &own);
    report.series(&case, "--table, four helpers", "offences/s", &ours);
    report.finding(&case, "offences/s, --table to embedded", "×", paired(&ours, &own, ratio), Some(Goal::AtLeast(0.5)));
    let sum = |number: fn(&Attack) -> u64| median(&[attached.iter().map(number).sum::<u64>() as f64]);
    let none = Some(Goal::AtMost(0.0));
    report.finding(&case, "offenders without a ban, sum", "clients", sum(|attack| attack.unbanned), none);
    report.finding(&case, "offences that were served, sum", "queries", sum(|attack| attack.outcome.served), none);
    report.finding(&case, "daemon given up by a helper, sum", "times", sum(|attack| attack.breaks as u64), none);
    report.finding(&case, "runs after which a helper lacks bans", "runs", sum(|attack| u64::from(!attack.is_known_everywhere)), none);
    report.finding(&case, "innocents refused, sum", "queries", sum(|attack| attack.outcome.innocents_refused), none);
    report.finding(
        &case,
        "the daemon's memory, at most",
        "MiB",
        median(&[attached.iter().map(|attack| attack.daemon_memory).max().unwrap_or(0) as f64 / f64::from(1 << 20)]),
        None,
    );
    for (percent, goal) in [(50, None), (99, Some(Goal::AtMost(20.0))), (100, None)] {
        let of = |outcome: &Outcome| percentile(outcome, percent);
        report.series(
            &case,
            "embedded, one helper",
            if percent == 99 { "ms, innocents' p99" } else { "ms, innocents" },
            &embedded.iter().map(of).collect::<Vec<_>>(),
        );
        let spans: Vec<f64> = attached.iter().map(|attack| of(&attack.outcome)).collect();
        report.finding(&case, &format!("innocent query to answer, p{percent}"), "ms", median(&spans), goal);
    }
    Ok(())
}

/// The time in milliseconds that `percent` of the innocent queries took at most.
pub(super) fn percentile(outcome: &Outcome, percent: usize) -> f64 {
    let mut spans = outcome.innocents.clone();
    spans.sort_unstable();
    let index = (spans.len() * percent / 100).min(spans.len().saturating_sub(1));
    spans.get(index).map_or(f64::NAN, |span| span.as_secs_f64() * 1000.0)
}

fn on_embedded(offenders: u32) -> Result<Outcome> {
    let world = World::new()?;
    let config = world.config("embedded.toml", "")?;
    let state = world.state("embedded.db", 0)?;
    attack(&mut Helper::start(&mut world.embedded(&config, Some(&state))?)?, 0..offenders)
}

/// Four helpers on the daemon's table.
pub(super) fn attach(world: &World) -> Result<Vec<Helper>> {
    let start = |number| {
        let mut command = Command::new(programs::EXT_STRIKEOUT_ACL);
        command.arg("--table").arg(world.path("strikeout.sock")).stderr(world.log(&format!("attached-{number}"))?);
        Helper::start(&mut command)
    };
    (0..HELPERS).map(start).collect()
}

/// Attacks all of `helpers` at once, each with `share` other clients.
pub(super) fn attack_each(helpers: &mut [Helper], share: u32) -> Result<Outcome> {
    let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
        let attacks =
            helpers.iter_mut().zip(0..).map(|(helper, number)| scope.spawn(move || attack(helper, number * share..(number + 1) * share)));
        let attacks: Vec<_> = attacks.collect();
        attacks.into_iter().map(|attack| attack.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a driver panicked")))).collect()
    });
    let mut sum = Outcome::default();
    for outcome in outcomes {
        let outcome = outcome?;
        sum.refused += outcome.refused;
        sum.banned.extend(outcome.banned);
        sum.served += outcome.served;
        sum.innocents_refused += outcome.innocents_refused;
        sum.innocents.extend(outcome.innocents);
        sum.wall = sum.wall.max(outcome.wall);
    }
    Ok(sum)
}

fn on_daemon(offenders: u32) -> Result<Attack> {
    let world = World::new()?;
    let state = world.state("daemon.db", 0)?;
    let config = world.config_with("daemon.toml", &state, 1_000_000, "")?;
    let daemon = world.daemon(&config)?;
    let share = offenders / HELPERS;
    let mut helpers = attach(&world)?;
    let sum = attack_each(&mut helpers, share)?;
    // Offences that exceeded a queue are counted a little later than they are answered.
    let bans = || status(&world).ok()?["bans"].as_u64();
    let _ = wait_for("all bans", || bans() == Some(u64::from(share * HELPERS)));
    let banned = bans().context("no number of bans in the status")?;
    // Each helper has them, too: the last client of each.
    let mut knows = |client: u32| {
        let query = format!("1 {} GET http://www.example.org/ - - -\n", traffic::tracked(client));
        helpers.iter_mut().all(|helper| helper.ask(query.as_bytes()).is_ok_and(|answer| answer.starts_with(b"1 OK")))
    };
    let is_known_everywhere = wait_for("bans at each helper", || (1..=HELPERS).all(|number| knows(number * share - 1))).is_ok();
    let breaks = (0..HELPERS).map(|number| {
        let log = std::fs::read_to_string(world.path(&format!("attached-{number}.log")))?;
        Ok(log.matches("cannot be reached").count())
    });
    Ok(Attack {
        outcome: sum,
        unbanned: u64::from(share * HELPERS).saturating_sub(banned),
        is_known_everywhere,
        breaks: breaks.sum::<Result<usize>>()?,
        daemon_memory: daemon.memory()?,
    })
}

/// The daemon's answer to `status`.
pub(super) fn status(world: &World) -> Result<serde_json::Value> {
    let mut stream = UnixStream::connect(world.path("strikeout.sock"))?;
    stream.write_all(b"status\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(serde_json::from_str(text.lines().next().context("no answer")?)?)
}
