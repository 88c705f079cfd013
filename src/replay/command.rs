//! `strikeout replay`: arguments, progress bar, and where the report goes.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::judge::Replay;
use super::merge::{self, Source};
use super::report::{Circumstances, Report};
use super::{page, text};
use crate::config::{Config, DEFAULT_FILE};
use crate::list::own::OwnAddresses;
use crate::log::time::Zone;
use crate::rule::Names;

/// Runs the rules over old logs, and says what they would have done. Nothing is banned.
///
/// Reads Exim's main log, Squid's access.log, and the access logs of Apache and nginx (common and combined), mixed in the order of their
/// times; and with rules in fail2ban's language any text log.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The configuration to try. [default: /etc/strikeout/strikeout.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the report as JSON to standard output.
    #[arg(long)]
    pub json: bool,
    /// Write the report as a page with plots, which needs no other file, to FILE.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// The time zone of times in the logs that name none, such as Europe/Berlin. [default: this machine's]
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// The logs: plain, .gz or .zst, in any order; "-" is standard input.
    #[arg(required = true, value_name = "LOG")]
    pub logs: Vec<PathBuf>,
}

/// Runs the command. Exit code 0 when done, 1 when a log could not be read to its end or the page not written, 2 for a configuration or
/// log that cannot be used at all.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    // A line for each ban of long ago is no news.
    log::set_max_level(log::LevelFilter::Warn.min(log::max_level()));
    let mut errors = std::io::stderr();
    match run_with(args, &mut std::io::stdout(), &mut errors) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Nobody is left to be told if that fails, too.
            let _ = writeln!(errors, "strikeout replay: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The same with given outputs. Says whether everything could be read and written.
///
/// # Errors
/// The configuration cannot be used, or a log cannot be opened.
pub fn run_with(args: &Args, output: &mut dyn Write, errors: &mut dyn Write) -> anyhow::Result<bool> {
    let names = Arc::new(Names::default());
    let mut config = Config::load(args.config.as_deref(), &names)?;
    config.lists.set_own(OwnAddresses::read().unwrap_or_default());
    let zone = match &args.zone {
        Some(name) => Zone::named(name).map_err(anyhow::Error::msg)?,
        None => Zone::of_this_machine(),
    };
    let mut sources = args.logs.iter().map(|log| Source::open(log)).collect::<Result<Vec<_>, _>>()?;
    let how =
        Circumstances { config: config_name(args.config.as_deref()), false_ban_share: config.false_ban_share, ..Circumstances::default() };
    let mut replay = Replay::new(config, names, &args.logs, zone.clone()).context("cannot replay")?;
    let bar = progress_bar(&sources);
    let begun = Instant::now();
    merge::run(
        &mut sources,
        &mut zone.clone(),
        |log, line| replay.line(log, line),
        |sources| bar.set_position(sources.iter().map(|source| source.progress().0).sum()),
    );
    let how = Circumstances { seconds: begun.elapsed().as_secs_f64(), ..how };
    bar.finish_and_clear();
    let report = Report::new(replay.finish(), &sources, how);
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
        // Whoever reads may have seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(done),
        written => written.map(|()| done).context("standard output"),
    }
}

fn config_name(file: Option<&Path>) -> String {
    let file = file.or_else(|| Some(Path::new(DEFAULT_FILE)).filter(|file| file.exists()));
    file.map(|file| file.display().to_string()).unwrap_or_default()
}

/// A bar over the bytes on disk; hidden where standard error is no terminal.
fn progress_bar(sources: &[Source]) -> ProgressBar {
    let whole: Option<u64> = sources.iter().map(|source| source.progress().1).sum();
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let Some(whole) = whole else { return ProgressBar::new_spinner() };
    let bar = ProgressBar::new(whole);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left") {
        bar.set_style(style);
    }
    bar
}
