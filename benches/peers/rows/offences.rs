//! Number of requests that an offender is served after its offence, for our helper; for fail2ban, which reads the log, the time from the log
//! line to the ban.

use std::collections::HashSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::either;
use crate::child::Process;
use crate::pipe::Helper;
use crate::report::{Goal, Report};
use crate::series::median;
use crate::world::{World, now, wait_for};
use crate::{Options, programs};

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let world = World::new()?;
    let config = world.config("strikeout.toml", "")?;
    let state = world.state("strikeout.db", 0)?;
    let offenders = either(options, 200, 5000);
    for (case, state) in [("with a state file", Some(state.as_path())), ("without", None)] {
        let mut helper = Helper::start(&mut world.embedded(&config, state)?)?;
        let mut served = Vec::new();
        for offender in 0..offenders {
            served.push(served_after_offence(&mut helper, offender)? as f64);
        }
        let worst = served.iter().fold(0.0_f64, |worst, served| worst.max(*served));
        report.series(case, "strikeout", "requests served", &served);
        report.finding(case, "served at worst, of 99", "requests", median(&[worst]), Some(Goal::AtMost(0.0)));
    }
    match fail2ban(options, &world) {
        Ok(seconds) => {
            report.series("log line to ban", "fail2ban", "s", &seconds);
        }
        Err(error) => report.note(&format!("fail2ban was not measured: {error:#}")),
    }
    Ok(())
}

/// Sends an offence and 99 innocent requests of the same client in one write, and returns how many of them are served.
fn served_after_offence(helper: &mut Helper, offender: u32) -> Result<usize> {
    let client = format!("18.{}.{}.7", offender / 256, offender % 256);
    let mut lines = format!("1 {client} GET http://www.example.org/bench-ban - - -\n");
    for id in 2..=100 {
        lines.push_str(&format!("{id} {client} GET http://www.example.org/ - - -\n"));
    }
    let answers = helper.ask_all(lines.as_bytes(), 100)?;
    let mut ids = HashSet::new();
    let mut served = 0;
    for answer in answers.split(|byte| *byte == b'\n').filter(|answer| !answer.is_empty()) {
        let text = String::from_utf8_lossy(answer);
        let (id, verdict) = text.split_once(' ').context("an answer without an ID")?;
        anyhow::ensure!(ids.insert(id.to_owned()), "query {id} was answered twice");
        served += usize::from(!verdict.starts_with("OK"));
    }
    Ok(served)
}

/// The seconds from writing a log line to fail2ban's ban action, with fail2ban's default backend.
fn fail2ban(options: &Options, world: &World) -> Result<Vec<f64>> {
    let server = programs::find(&["fail2ban-server"])?;
    let directory = world.path("fail2ban");
    for part in ["filter.d", "action.d"] {
        std::fs::create_dir_all(directory.join(part))?;
    }
    let here = directory.display();
    let log = directory.join("access.log");
    std::fs::write(&log, "")?;
    world.write("fail2ban/fail2ban.conf", format!(
        "[Definition]\nloglevel = INFO\nlogtarget = {here}/log\nsyslogsocket = auto\nsocket = {here}/sock\npidfile = {here}/pid\ndbfile = None\ndbpurgeage = 1d\ndbmaxmatches = 10\n"
    ))?;
    world.write(
        "fail2ban/filter.d/bench.conf",
        "[Definition]\nfailregex = ^<HOST> .*/bench-ban\ndatepattern = \\[%%d/%%b/%%Y:%%H:%%M:%%S %%z\\]\n",
    )?;
    world.write("fail2ban/action.d/bench.conf", format!("[Definition]\nactionban = touch {here}/banned-<ip>\nactionunban =\n"))?;
    world.write("fail2ban/jail.conf", format!(
        "[bench]\nenabled = true\nbackend = auto\nfilter = bench\naction = bench\nlogpath = {}\nmaxretry = 1\nfindtime = 600\nbantime = 600\n",
        log.display()
    ))?;
    let mut command = Command::new(server);
    command.args(["-f", "-c"]).arg(&directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(world.log("fail2ban")?);
    let mut process = Process::start(&mut command)?;
    let started = || std::fs::read_to_string(directory.join("log")).is_ok_and(|log| log.contains("Jail 'bench' started"));
    wait_for("fail2ban", started)?;
    let mut seconds = Vec::new();
    for number in 0..either(options, 3, 20) {
        let date = Command::new("date").arg("+%d/%b/%Y:%H:%M:%S %z").env("LC_ALL", "C").output()?;
        let client = format!("18.250.0.{number}");
        let mark = directory.join(format!("banned-{client}"));
        let line = format!("{client} - - [{}] \"GET /bench-ban HTTP/1.1\" 404 0\n", String::from_utf8_lossy(&date.stdout).trim());
        // Varies the phase within fail2ban's polling interval of a second.
        std::thread::sleep(Duration::from_millis(137 * number % 1000));
        let start = Instant::now();
        std::fs::OpenOptions::new().append(true).open(&log)?.write_all(line.as_bytes())?;
        while !mark.exists() {
            anyhow::ensure!(start.elapsed() < Duration::from_secs(20), "no ban within 20 s of {}", now().secs());
            std::thread::sleep(Duration::from_millis(1));
        }
        seconds.push(start.elapsed().as_secs_f64());
    }
    process.stop(Duration::from_secs(10))?;
    Ok(seconds)
}
