//! The program `ext_strikeout_acl`: arguments, log and threads. It never exits because of a fault: Squid would deny everybody until it has
//! started another one, and would end itself if helpers exit too often.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};

use super::embedded::Embedded;
use super::output::Output;
use super::session::{End, Session};
use super::{Backend, BackendSlot};
use crate::event::headers::HeaderNames;
use crate::list::own::OwnAddressWatch;
use crate::logging::{self, FAULT_INTERVAL, FaultLog};
use crate::prefilter::files::LoadedPrefilter;

/// How often a configuration that cannot be used is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How long the first query may wait for the table to be ready.
const FIRST_TABLE: Duration = Duration::from_secs(5);
/// How often expired bans are dropped and changes of the configuration file and own addresses are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between two saves of the strikes.
const STRIKE_TICKS: u64 = 60;

/// Squid external ACL helper: refuses clients that probe and flood.
///
/// Reads queries in Squid's helper protocol on stdin and answers `OK` (refuse) or `ERR` (serve) on stdout.
/// The line in squid.conf: external_acl_type strike ttl=0 negative_ttl=0 cache=0 grace=0 children-max=1 children-startup=1
/// concurrency=200 queue-size=5000 %>a %>rm %#>ru %#.300{User-Agent}>h %#{Sec-Fetch-Site}>h /usr/lib/squid/ext_strikeout_acl
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "ext_strikeout_acl", version)]
pub struct HelperArguments {
    /// The configuration file; not read with --table [default: /etc/strikeout/strikeout.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Share the table of the daemon (`strikeout serve`) that listens on this socket
    #[arg(long, value_name = "SOCKET", conflicts_with = "state")]
    table: Option<PathBuf>,
    /// Keep the bans of the helper's own table in this file
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Squid asks only about requests that the expressions in this directory match (`strikeout prefilter`): say when they are outdated
    #[arg(long, value_name = "DIR")]
    prefilter: Option<PathBuf>,
    /// The headers whose values follow the Referer in Squid's FORMAT, in the same order, such as Cookie,Next-Action: rules over `header` look at them
    #[arg(long, value_name = "NAMES", value_parser = header_names)]
    headers: Option<HeaderNames>,
    /// Log every query and its answer
    #[arg(short = 'd')]
    debug: bool,
}

/// Parses the names of headers, separated by commas.
fn header_names(text: &str) -> Result<HeaderNames, String> {
    HeaderNames::new(text.split(','))
}

/// The command line, for the manual page.
#[must_use]
pub fn command() -> clap::Command {
    HelperArguments::command()
}

/// Runs the helper until Squid closes its input.
pub fn run() -> ExitCode {
    let args = HelperArguments::try_parse();
    logging::start_squid_logging(args.as_ref().is_ok_and(|args| args.debug));
    // Panics are caught where they happen; this only logs them in one line.
    std::panic::set_hook(Box::new(|panic| log::error!("internal fault: {}", one_line(&panic.to_string()))));
    let slot = BackendSlot::default();
    let mut headers = HeaderNames::default();
    match args {
        Ok(args) => {
            headers = args.headers.clone().unwrap_or_default();
            if !headers.is_empty() && args.prefilter.is_some() {
                log::warn!("rules over headers are only tried on requests that the prefilter lets through: it does not look at headers");
            }
            let slot = slot.clone();
            let (ready, is_ready) = std::sync::mpsc::channel();
            let started = std::thread::Builder::new().name("table".into()).spawn(move || run_backend(&args, &slot, &ready));
            match started {
                // Without this wait the first queries would be answered `ERR`, because there is no table yet.
                Ok(_) => drop(is_ready.recv_timeout(FIRST_TABLE)),
                Err(error) => log::error!("every query is answered ERR, because a thread cannot be started: {error}"),
            }
        }
        // At a terminal, or with --help, a person reads this.
        Err(error) if std::io::stdin().is_terminal() || !error.use_stderr() => error.exit(),
        // Squid would restart a helper that exits, deny everybody meanwhile, and end itself after a few attempts.
        Err(error) => {
            keep_logging(format!("every query is answered ERR, because the arguments are wrong: {}", one_line(&error.to_string())))
        }
    }
    let output = match rustix::io::dup(std::io::stdout()) {
        Ok(fd) => Output::new(fd),
        Err(error) => {
            log::error!("stdout is not open: {error}");
            return ExitCode::FAILURE;
        }
    };
    match Session::new(slot, output, headers).run(std::os::fd::AsFd::as_fd(&std::io::stdin())) {
        End::Eof | End::Broken => {}
        End::IdsRunOut => log::info!("channel IDs are running out: this helper ends, and Squid starts a new one"),
    }
    ExitCode::SUCCESS
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Logs a permanent fault, now and every minute.
fn keep_logging(fault: String) {
    log::error!("{fault}");
    let _ = std::thread::Builder::new().name("fault".into()).spawn(move || {
        loop {
            std::thread::sleep(FAULT_INTERVAL);
            log::error!("{fault}");
        }
    });
}

/// Puts the backend into `slot` and does its periodic work, for the life of the process.
fn run_backend(args: &HelperArguments, slot: &BackendSlot, ready: &std::sync::mpsc::Sender<()>) {
    // Squid has just read the files as well: it starts its helpers anew whenever it does.
    let prefilter = args.prefilter.as_deref().map(LoadedPrefilter::read);
    if let Some(socket) = &args.table {
        return super::attached::run(socket, prefilter, slot, ready);
    }
    let mut faults = FaultLog::default();
    let table = loop {
        match Embedded::open(args.config.as_deref(), args.state.as_deref()) {
            Ok(table) => break Arc::new(table),
            Err(error) => {
                faults.report(&format!("every query is answered ERR until this is fixed: {error}"));
                let _ = ready.send(());
            }
        }
        std::thread::sleep(RETRY);
    };
    faults.resolve("the configuration is valid: queries are judged");
    let warn_if_stale = || prefilter.iter().for_each(|prefilter| prefilter.warn_if_stale(table.engine().policy().rules.rules()));
    warn_if_stale();
    let warn_of_geo = || {
        if let Some(warning) = table.engine().policy().warning_without_geo() {
            log::warn!("{warning}");
        }
    };
    warn_of_geo();
    let mut stamp = table.config_stamp();
    slot.put(Arc::clone(&table) as Arc<dyn Backend>);
    let _ = ready.send(());
    let mut has_failed = false;
    let mut own = OwnAddressWatch::new(table.engine().policy().lists.own().clone());
    if args.state.is_some() {
        log::info!("bans are shared through the state file, but strikes are not: for several helpers use strikeout serve and --table");
    }
    for tick in 1_u64.. {
        std::thread::sleep(TICK);
        table.sweep();
        if tick.is_multiple_of(STRIKE_TICKS) {
            table.save_strikes();
        }
        if let Ok(Some(addresses)) = own.refresh() {
            let addresses = addresses.clone();
            table.engine().change_lists(|lists| lists.set_own(addresses));
        }
        let current = table.config_stamp();
        // What a refused configuration names may appear later, without a change of the configuration itself.
        if current != stamp || (has_failed && tick.is_multiple_of(RETRY.as_secs())) {
            // Of before the reading, so that no change meanwhile is missed. If other lists are named now, the next tick reads all once more.
            stamp = current;
            let reloaded = table.reload();
            has_failed = reloaded.is_err();
            match reloaded {
                Ok(()) => {
                    faults.resolve("the configuration is valid again");
                    log::info!("the configuration was read again");
                    warn_if_stale();
                    warn_of_geo();
                }
                Err(error) => faults.report(&format!("the old configuration stays in force: {error}")),
            }
        }
    }
}
