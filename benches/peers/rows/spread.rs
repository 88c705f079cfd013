//! All that hears of a botnet's bans: the hook's program in groups, the fleet by a real Redis, the log and the state file. Beside it the same
//! botnet at a daemon with a state file alone.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::either;
use super::load::{HELPERS, attach, attack_each, percentile, status};
use crate::child::Process;
use crate::report::{Goal, Report};
use crate::series::{median, paired, ratio};
use crate::world::{World, free_port, wait_for};
use crate::{Options, programs};

/// Bans of one client each that a run of the hook's program is given at most.
const BATCH: u32 = 10_000;

/// What came of a botnet's bans.
struct Spread {
    offences_a_second: f64,
    innocents_p99: f64,
    status: Value,
    /// Lines that the hook's program was given.
    told: u64,
    /// Seconds after the last answer until the hook's queue was empty.
    hook_behind: f64,
    /// Bans of the botnet that the other machine of the fleet has.
    received: u64,
    log_lines: usize,
    state_bytes: u64,
}

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let offenders: u32 = either(options, 100_000, 1_000_000);
    let (mut alone, mut heard) = (Vec::new(), Vec::new());
    for _ in 0..options.repeat.unwrap_or(either(options, 1, 3)) {
        alone.push(without(offenders)?);
        heard.push(with(offenders)?);
    }
    let case = format!("{offenders} offenders");
    let rates: Vec<f64> = heard.iter().map(|spread| spread.offences_a_second).collect();
    report.series(&case, "state file alone", "offences/s", &alone);
    report.series(&case, "hook, fleet and state file", "offences/s", &rates);
    report.finding(&case, "offences/s, with all to without", "×", paired(&rates, &alone, ratio), Some(Goal::AtLeast(0.8)));
    let mut finding = |what: &str, unit, goal, of: &dyn Fn(&Spread) -> f64| {
        report.finding(&case, what, unit, median(&heard.iter().map(of).collect::<Vec<_>>()), goal);
    };
    let number = |spread: &Spread, name: &str| spread.status[name].as_f64().unwrap_or(f64::NAN);
    finding("bans", "clients", Some(Goal::AtLeast(f64::from(offenders / HELPERS * HELPERS))), &|spread| number(spread, "bans"));
    finding("innocent query to answer, p99", "ms", Some(Goal::AtMost(20.0)), &|spread| spread.innocents_p99);
    finding("hook: bans that its program was told of", "bans", None, &|spread| spread.told as f64);
    finding("hook: dropped, counted", "bans", None, &|spread| spread.status["hook"]["dropped"].as_f64().unwrap_or(f64::NAN));
    finding("hook: runs of the program", "runs", None, &|spread| spread.status["hook"]["done"].as_f64().unwrap_or(f64::NAN));
    finding("hook: behind the last answer", "s", None, &|spread| spread.hook_behind);
    finding("fleet: published within its limit", "bans", None, &|spread| number(spread, "fleet_published_total"));
    finding("fleet: kept here by the limit, counted", "bans", None, &|spread| number(spread, "fleet_refused_total"));
    finding("fleet: known at the other machine", "bans", None, &|spread| spread.received as f64);
    finding("lines in the daemon's log", "lines", None, &|spread| spread.log_lines as f64);
    finding("state file", "bytes/ban", None, &|spread| spread.state_bytes as f64 / f64::from(offenders));
    Ok(())
}

/// Offences a second of a daemon that nobody hears of.
fn without(offenders: u32) -> Result<f64> {
    let world = World::new()?;
    let config = world.config_with("daemon.toml", &world.state("daemon.db", 0)?, 1_000_000, "")?;
    let _daemon = world.daemon(&config)?;
    let outcome = attack_each(&mut attach(&world)?, offenders / HELPERS)?;
    Ok(f64::from(offenders) / outcome.wall.as_secs_f64())
}

fn with(offenders: u32) -> Result<Spread> {
    let redis = Redis::start()?;
    let (world, other) = (World::new()?, World::new()?);
    let told = world.path("told");
    let hook =
        format!("[hook]\ncommand = ['/bin/sh', '-c', 'wc -l >> {}']\ngroup = '1s'\nbatch = {BATCH}\nqueue = 1000000\n", told.display());
    let state = world.state("daemon.db", 0)?;
    let config = world.config_with("daemon.toml", &state, 1_000_000, &(hook + &redis.fleet("a")))?;
    let mut daemon = world.daemon(&config)?;
    let other_config = other.config_with("other.toml", &other.state("other.db", 0)?, 1_000_000, &redis.fleet("b"))?;
    let _other_daemon = other.daemon(&other_config)?;
    for world in [&world, &other] {
        wait_for("the fleet", || status(world).is_ok_and(|status| status["fleet_receiving"] == 1 && status["fleet_publishing"] == 1))?;
    }
    let outcome = attack_each(&mut attach(&world)?, offenders / HELPERS)?;
    let answered = Instant::now();
    let rest = u64::from(offenders / HELPERS * HELPERS);
    let _ = wait_for("all bans", || status(&world).is_ok_and(|status| status["bans"] == rest));
    while status(&world)?["hook"]["waiting"] != 0 || status(&world)?["hook"]["running"] != 0 {
        anyhow::ensure!(answered.elapsed().as_secs() < 120, "the hook is not done after two minutes: {}", status(&world)?["hook"]);
        std::thread::sleep(Duration::from_millis(50));
    }
    let hook_behind = answered.elapsed().as_secs_f64();
    let published = status(&world)?["fleet_published_total"].as_u64().context("no fleet_published_total in the status")?;
    let received = || status(&other).ok()?["bans"].as_u64();
    let _ = wait_for("the other machine", || received() >= Some(published));
    let spread = Spread {
        offences_a_second: f64::from(offenders) / outcome.wall.as_secs_f64(),
        innocents_p99: percentile(&outcome, 99),
        status: status(&world)?,
        told: std::fs::read_to_string(told)?.lines().filter_map(|line| line.trim().parse::<u64>().ok()).sum(),
        hook_behind,
        received: received().context("no number of bans in the status")?,
        log_lines: std::fs::read_to_string(world.path("serve.log"))?.lines().count(),
        state_bytes: 0,
    };
    // At its end it moves all that SQLite's log still holds into the file.
    daemon.stop(Duration::from_secs(30))?;
    Ok(Spread { state_bytes: std::fs::metadata(state)?.len(), ..spread })
}

/// A redis-server without persistence.
struct Redis {
    port: u16,
    _process: Process,
}

impl Redis {
    fn start() -> Result<Self> {
        let program = programs::find(&["redis-server"])?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        wait_for("redis-server", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
        Ok(Self { port, _process: process })
    }

    /// The configuration of the machine `node`.
    fn fleet(&self, node: &str) -> String {
        format!("[fleet]\nurl = 'redis://127.0.0.1:{}/0'\nnode = '{node}'\n", self.port)
    }
}
