//! `ext_strikeout_acl` as a program: its arguments, its threads, and that it never exits for a fault of its own.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{CommandFactory as _, Parser as _};

use super::Place;
use super::embedded::Embedded;
use super::output::Output;
use super::session::{End, Session};

/// How often a fault that lasts is logged again, and how often what failed is tried again.
const SAY_AGAIN: Duration = Duration::from_secs(60);
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How long the first query may wait for the table.
const FIRST_TABLE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);
/// Strikes are saved each so many seconds.
const KEEP_STRIKES: u64 = 60;

/// Squid external ACL helper: refuses clients that probe and flood.
///
/// Reads queries in Squid's helper protocol on stdin and answers `OK` (refuse) or `ERR` (serve) on stdout.
/// The line in squid.conf: external_acl_type strike ttl=0 negative_ttl=0 cache=0 grace=0 children-max=1 children-startup=1
/// concurrency=200 queue-size=5000 %>a %>rm %#>ru %#.300{User-Agent}>h %#{Sec-Fetch-Site}>h /usr/lib/squid/ext_strikeout_acl
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "ext_strikeout_acl", version)]
pub struct Args {
    /// The configuration file; not read with --table [default: /etc/strikeout/strikeout.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Share the table of the resident (`strikeout serve`) that listens on this socket
    #[arg(long, value_name = "SOCKET", conflicts_with = "state")]
    table: Option<PathBuf>,
    /// Keep the bans of the helper's own table in this file
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Log every query and its answer
    #[arg(short = 'd')]
    debug: bool,
}

/// The program's arguments, for its manual page.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs the helper until Squid closes its input.
pub fn run() -> ExitCode {
    let args = Args::try_parse();
    start_log(args.as_ref().is_ok_and(|args| args.debug));
    let place = Place::default();
    match args {
        Ok(args) => {
            let place = place.clone();
            let (ready, is_ready) = std::sync::mpsc::channel();
            let started = std::thread::Builder::new().name("table".into()).spawn(move || keep_table(&args, &place, &ready));
            match started {
                // The first query meets a table, if there can be one.
                Ok(_) => drop(is_ready.recv_timeout(FIRST_TABLE)),
                Err(error) => log::error!("no thread could be started: every query is answered ERR: {error}"),
            }
        }
        // Somebody at a terminal, or who asks for help, wants to read this.
        Err(error) if std::io::stdin().is_terminal() || !error.use_stderr() => error.exit(),
        // Squid would start the helper again and again, deny everybody, and end after a few times.
        Err(error) => keep_saying(format!("every query is answered ERR, for the arguments are wrong: {}", one_line(&error.to_string()))),
    }
    let output = match rustix::io::dup(std::io::stdout()) {
        Ok(fd) => Output::new(fd),
        Err(error) => {
            log::error!("there is no stdout: {error}");
            return ExitCode::FAILURE;
        }
    };
    match Session::new(place, output).run(std::os::fd::AsFd::as_fd(&std::io::stdin())) {
        End::Eof | End::Broken => {}
        End::IdsRunOut => log::info!("channel IDs are running out: this helper ends, and Squid starts a new one"),
    }
    ExitCode::SUCCESS
}

/// Squid copies stderr into cache.log as it is, so each line brings its own time and name.
fn start_log(debug: bool) {
    use std::io::Write as _;
    let level = if debug { log::LevelFilter::Debug } else { log::LevelFilter::Info };
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("strikeout", level)
        .parse_default_env()
        .format(|line, record| {
            let now = jiff::Zoned::now().strftime("%Y/%m/%d %H:%M:%S").to_string();
            writeln!(line, "{now}| ext_strikeout_acl: {}: {}", record.level().as_str().to_ascii_lowercase(), record.args())
        })
        .init();
    // A panic is contained where it happens; this only says so in one line.
    std::panic::set_hook(Box::new(|panic| log::error!("internal fault: {}", one_line(&panic.to_string()))));
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Logs a fault that will not go away, now and each minute.
fn keep_saying(fault: String) {
    log::error!("{fault}");
    let _ = std::thread::Builder::new().name("fault".into()).spawn(move || {
        loop {
            std::thread::sleep(SAY_AGAIN);
            log::error!("{fault}");
        }
    });
}

/// A fault that lasts: logged when it begins or changes, and each minute.
#[derive(Default)]
pub(super) struct Fault(Option<(String, Instant)>);

impl Fault {
    pub(super) fn say(&mut self, fault: &str) {
        if self.0.as_ref().is_some_and(|(said, at)| said == fault && at.elapsed() < SAY_AGAIN) {
            return;
        }
        log::error!("{fault}");
        self.0 = Some((fault.to_owned(), Instant::now()));
    }

    pub(super) fn over(&mut self, what: &str) {
        if self.0.take().is_some() {
            log::info!("{what}");
        }
    }
}

/// Puts the table in its place and looks after it, for the life of the process.
fn keep_table(args: &Args, place: &Place, ready: &std::sync::mpsc::Sender<()>) {
    if let Some(socket) = &args.table {
        return super::attached::keep(socket, place, ready);
    }
    let mut fault = Fault::default();
    let table = loop {
        match Embedded::open(args.config.as_deref(), args.state.as_deref()) {
            Ok(table) => break Arc::new(table),
            Err(error) => {
                fault.say(&format!("every query is answered ERR until this is mended: {error}"));
                let _ = ready.send(());
            }
        }
        std::thread::sleep(TRY_AGAIN);
    };
    fault.over("the configuration is sound: queries are judged");
    let mut seen = table.look();
    place.put(Arc::clone(&table) as Arc<dyn super::Backend>);
    let _ = ready.send(());
    let mut own = crate::list::own::Watch::new(table.engine().in_force().lists.own().clone());
    if args.state.is_some() {
        log::info!("bans are shared through the state file, strikes are not: for several helpers use strikeout serve and --table");
    }
    for second in 1_u64.. {
        std::thread::sleep(TICK);
        table.sweep();
        if second.is_multiple_of(KEEP_STRIKES) {
            table.keep_strikes();
        }
        if let Ok(Some(addresses)) = own.look() {
            let addresses = addresses.clone();
            table.engine().change_lists(|lists| lists.set_own(addresses));
        }
        let now = table.look();
        if now != seen {
            seen = now;
            match table.reload() {
                Ok(()) => {
                    fault.over("the configuration is sound again");
                    log::info!("the configuration was read again");
                }
                Err(error) => fault.say(&format!("the old configuration stays in force: {error}")),
            }
        }
    }
}
