//! `strikeout replay`: arguments, progress bar and output.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::merge;
use super::report::{Report, RunInfo};
use super::run::Replay;
use super::source::LogSource;
use super::{page, text};
use crate::clock::Clock;
use crate::config::{Config, DEFAULT_FILE, LogConfig};
use crate::list::own::OwnAddresses;
use crate::log::time::Zone;
use crate::rule_id::RuleNames;
use crate::time::Time;

/// Runs the rules over old logs and reports what they would have done. Nothing is banned.
///
/// Reads Exim's main log, Squid's access.log, and access logs of Apache and nginx (common and combined), merged in the order of their
/// times; with rules in fail2ban's language, any text log.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArguments {
    /// The configuration to try. [default: /etc/strikeout/strikeout.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the report as JSON to standard output.
    #[arg(long)]
    pub json: bool,
    /// Write the report to FILE as a self-contained HTML page with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// The time zone of times without an offset in all logs, such as Europe/Berlin or +05:30. [default: that of the [[log]] with this path,
    /// of which a rotated log has the name, else this machine's; it must be given for a copy that may belong to logs of different zones]
    #[arg(long, value_name = "ZONE", allow_hyphen_values = true)]
    pub zone: Option<String>,
    /// The logs: plain, .gz or .zst, in any order. "-" is standard input.
    #[arg(required = true, value_name = "LOG")]
    pub logs: Vec<PathBuf>,
}

/// Runs the command. The exit code is 0 when done, 1 if a log could not be read to its end or the page not be written, 2 if the
/// configuration or a log cannot be used at all.
#[must_use]
pub fn run(args: &ReplayArguments) -> ExitCode {
    // The engine logs each ban at info; the report shows them instead.
    log::set_max_level(log::LevelFilter::Warn.min(log::max_level()));
    let mut errors = std::io::stderr();
    match run_with(args, &mut std::io::stdout(), &mut errors) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // If standard error cannot be written either, the exit code remains.
            let _ = writeln!(errors, "strikeout replay: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Like [`run`], with the given outputs. Returns whether everything could be read and written.
///
/// # Errors
/// The configuration cannot be used, or a log cannot be opened.
pub fn run_with(args: &ReplayArguments, output: &mut dyn Write, errors: &mut dyn Write) -> anyhow::Result<bool> {
    let names = Arc::new(RuleNames::default());
    let mut config = Config::load(args.config.as_deref(), &names)?;
    config.lists.set_own(OwnAddresses::read().unwrap_or_default());
    let zone = args.zone.as_deref().map(Zone::parse).transpose().map_err(anyhow::Error::msg)?;
    let now = Clock::start().now();
    let zones: Vec<Zone> = args.logs.iter().map(|log| zone_of(log, zone.as_ref(), &config.logs, now)).collect::<anyhow::Result<_>>()?;
    let opened = args.logs.iter().zip(&zones).map(|(log, zone)| LogSource::open(log, zone.clone()));
    let mut sources = opened.collect::<Result<Vec<_>, _>>()?;
    let info = RunInfo { config: config_name(args.config.as_deref()), false_ban_share: config.false_ban_share, seconds: 0.0 };
    let mut replay = Replay::new(config, names, &args.logs, &zones).context("cannot replay")?;
    let bar = progress_bar(&sources);
    let start = Instant::now();
    merge::run(
        &mut sources,
        |log, line, parsed| replay.line(log, line, parsed),
        |sources| bar.set_position(sources.iter().map(|source| source.progress().0).sum()),
    );
    let info = RunInfo { seconds: start.elapsed().as_secs_f64(), ..info };
    bar.finish_and_clear();
    let report = Report::new(replay.finish(), &sources, info);
    let mut done = report.logs.iter().all(|log| log.fault.is_none());
    if let Some(file) = &args.html
        && let Err(error) = std::fs::write(file, page::html(&report))
    {
        writeln!(errors, "strikeout replay: {}: cannot be written: {error}", file.display())?;
        done = false;
    }
    let written = if args.json {
        serde_json::to_writer_pretty(&mut *output, &report).map_err(std::io::Error::from).and_then(|()| writeln!(output))
    } else {
        text::write(&report, output)
    };
    match written.and_then(|()| output.flush()) {
        // A reader such as `head` closes its end early.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(done),
        written => written.map(|()| done).context("standard output"),
    }
}

/// The zone of the local times in a log: the one that was asked for, or that of the `[[log]]` to which it belongs.
///
/// # Errors
/// It may belong to several logs, which have different zones.
fn zone_of(log: &Path, asked_for: Option<&Zone>, configured: &[LogConfig], now: Time) -> anyhow::Result<Zone> {
    let mut zone = match asked_for {
        Some(zone) => zone.clone(),
        None => configured_zone(log, &LogConfig::named_like(log, configured))?,
    };
    zone.set_latest(now);
    Ok(zone)
}

/// The zone that all of the logs have to which a file may belong; without any, this machine's.
fn configured_zone(log: &Path, like: &[&LogConfig]) -> anyhow::Result<Zone> {
    let Some(one) = like.first() else { return Ok(Zone::of_this_machine()) };
    if let Some(other) = like.iter().find(|other| other.zone != one.zone) {
        let zone = |log: &LogConfig| log.zone.clone().unwrap_or_else(|| "this machine's".into());
        anyhow::bail!(
            "{}: found the name of {} (zone: {}) and of {} (zone: {}), expected --zone or the log's own path",
            log.display(),
            one.path.display(),
            zone(one),
            other.path.display(),
            zone(other)
        );
    }
    Ok(one.zone())
}

fn config_name(file: Option<&Path>) -> String {
    let file = file.or_else(|| Some(Path::new(DEFAULT_FILE)).filter(|file| file.exists()));
    file.map(|file| file.display().to_string()).unwrap_or_default()
}

/// A progress bar over the bytes on disk; hidden if standard error is not a terminal.
fn progress_bar(sources: &[LogSource]) -> ProgressBar {
    let total: Option<u64> = sources.iter().map(|source| source.progress().1).sum();
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let Some(total) = total else { return ProgressBar::new_spinner() };
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left") {
        bar.set_style(style);
    }
    bar
}
