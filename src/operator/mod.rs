//! The operator's program: arguments, and one call for each subcommand.

pub mod ask;
pub mod check;
pub mod fields;
pub mod list;
pub mod order;
pub mod screen;
pub mod status;
pub mod try_line;
pub mod why;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::{DEFAULT_FILE, DEFAULT_SOCKET, TableConfig};
use crate::{filter_test, import, replay, resident};

/// Refuses repeat offenders inside Squid and Exim.
#[derive(Debug, Parser)]
#[command(name = "strikeout", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hold the table, and answer Exim, Squid's helpers and operators until SIGTERM. SIGHUP reads the configuration again.
    Serve(ConfigArgument),
    /// Check the configuration.
    Check {
        #[command(flatten)]
        config: ConfigArgument,
        /// Show all rules, not only those that the file names.
        #[arg(long)]
        rules: bool,
    },
    /// Show how the resident is.
    Status(status::Args),
    /// Show the bans.
    List(list::Args),
    /// Show why an address is refused, or is not.
    Why {
        /// The client's IP address.
        address: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Ban an address or a network.
    Ban {
        /// An IP address, or a network such as 192.0.2.0/24.
        target: String,
        /// Such as 90s, 10m or 2d; -1 for ever. [default: 1h]
        #[arg(allow_hyphen_values = true)]
        duration: Option<String>,
        /// Where: web, mail or all.
        #[arg(long, default_value = "all")]
        scope: String,
        /// Why, for those who ask later.
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Lift the ban of an address or a network.
    Unban {
        /// An IP address, or a network exactly as it was banned.
        target: String,
        /// Where: web, mail or all.
        #[arg(long, default_value = "all")]
        scope: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Drop all that another machine of the fleet said.
    Forget {
        /// The machine's name in the fleet.
        node: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Make the resident read its configuration again.
    Reload(Asking),
    /// Show the resident's numbers in Prometheus' text format.
    Metrics(Asking),
    /// Try a URL or a log line on the rules, or a fail2ban filter on a log: exit code 0 if something matches, 1 if nothing does.
    Test(TestArguments),
    /// Run the rules over old logs, and say what they would have done.
    Replay(replay::command::Args),
    /// Translate another program's configuration, to the standard output.
    Import(import::Args),
}

/// What `test` takes: a filter and a log, or a line for the rules of the configuration.
#[derive(Debug, Args)]
struct TestArguments {
    /// Try this fail2ban filter on a log, such as /etc/fail2ban/filter.d/sshd.conf
    #[arg(long, value_name = "FILE")]
    filter: Option<PathBuf>,
    /// An option of the filter, such as mode=aggressive; may be given several times
    #[arg(short = 'o', long = "option", value_name = "NAME=VALUE", value_parser = filter_test::option, requires = "filter")]
    options: Vec<(String, String)>,
    /// Dates without a year or a day are guessed as at this moment (seconds since 1970), not as now
    #[arg(long, value_name = "EPOCH", requires = "filter")]
    now: Option<f64>,
    /// The configuration whose rules are tried [default: /etc/strikeout/strikeout.toml, if it is there]
    #[arg(long, value_name = "FILE", conflicts_with = "filter")]
    config: Option<PathBuf>,
    /// The method of the request that a URL stands for
    #[arg(long, default_value = "GET", conflicts_with = "filter")]
    method: String,
    /// Its User-Agent
    #[arg(long, default_value = "", conflicts_with = "filter")]
    user_agent: String,
    /// With --filter the log (- is the standard input); else a URL, a path, or a line of a log
    #[arg(value_name = "LOG or LINE")]
    text: std::ffi::OsString,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl TestArguments {
    /// Exit code 0: something matched; 1: nothing did; 2: filter, log or configuration cannot be used.
    fn run(self) -> ExitCode {
        if let Some(filter) = self.filter {
            let arguments = filter_test::Args { filter, options: self.options, log: self.text.into(), json: self.json, now: self.now };
            return filter_test::run(&arguments);
        }
        let line = self.text.to_string_lossy();
        let trial = try_line::Trial { line: &line, method: &self.method, user_agent: &self.user_agent };
        match try_line::run(self.config.as_deref(), &trial, self.json) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(failure) => failure.tell(),
        }
    }
}

#[derive(Debug, Args)]
struct ConfigArgument {
    /// The configuration. [default: /etc/strikeout/strikeout.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Arguments of whatever asks the resident.
#[derive(Debug, Args)]
pub struct Asking {
    /// Take the resident's socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The resident's socket. [default: as the configuration says]
    #[arg(long, value_name = "SOCKET")]
    table: Option<PathBuf>,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

impl Asking {
    /// The arguments, for a command line that a person may copy, that name the same resident again.
    fn again(&self) -> String {
        let quoted = |path: &std::path::Path| {
            let text = path.display().to_string();
            let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if is_plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
        };
        let table = self.table.as_deref().map(|path| format!(" --table {}", quoted(path)));
        let config = self.config.as_deref().map(|path| format!(" --config {}", quoted(path)));
        table.or(config).unwrap_or_default()
    }

    /// The resident's socket.
    ///
    /// # Errors
    /// The configuration that was named cannot be used.
    fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(table) = &self.table {
            return Ok(table.clone());
        }
        if let Some(config) = &self.config {
            return TableConfig::load(config).map(|table| table.socket).map_err(|fault| Failure::Usage(fault.to_string()));
        }
        let usual = std::path::Path::new(DEFAULT_FILE);
        if !usual.exists() {
            return Ok(DEFAULT_SOCKET.into());
        }
        // A file that somebody is in the middle of changing must not keep others from asking a resident that runs well.
        Ok(TableConfig::load(usual).map(|table| table.socket).unwrap_or_else(|fault| {
            log::warn!("{fault}; asking at {DEFAULT_SOCKET}");
            DEFAULT_SOCKET.into()
        }))
    }
}

/// Why a subcommand did not do what it was to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It failed: exit code 1.
    Failed(String),
    /// The arguments or the configuration cannot be used: exit code 2.
    Usage(String),
}

/// The program's arguments, for its manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The whole program.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging();
    let done = match arguments.command {
        Command::Serve(ConfigArgument { config }) => resident::serve(config.as_deref()).map_err(|fault| match fault {
            resident::Fault::Config(fault) => Failure::Usage(fault.to_string()),
            resident::Fault::System(fault) => Failure::Failed(fault),
        }),
        Command::Check { config: ConfigArgument { config }, rules } => {
            check::run(config.as_deref(), rules).and_then(|summary| show(&summary))
        }
        Command::Status(arguments) => status::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Why { address, asking } => why::run(&address, &asking),
        Command::Ban { target, duration, scope, reason, asking } => order::ban(&asking, &target, duration.as_deref(), &scope, &reason),
        Command::Unban { target, scope, asking } => order::unban(&asking, &target, &scope),
        Command::Forget { node, asking } => order::forget(&asking, &node),
        Command::Reload(asking) => order::reload(&asking),
        Command::Metrics(asking) => order::metrics(&asking),
        Command::Test(arguments) => return arguments.run(),
        Command::Replay(arguments) => return replay::command::run(&arguments),
        Command::Import(arguments) => return import::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

impl Failure {
    /// Says on standard error what it is. Returns the exit code.
    fn tell(self) -> ExitCode {
        let (text, code) = match self {
            Self::Failed(text) => (text, 1),
            Self::Usage(text) => (text, 2),
        };
        // Without standard error there is nobody to tell.
        let _ = writeln!(std::io::stderr().lock(), "strikeout: {text}");
        ExitCode::from(code)
    }
}

/// Prints a result.
///
/// # Errors
/// Standard output does not take it.
fn show(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `strikeout list | head` is no fault.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Failed(format!("standard output: {error}"))),
        _ => Ok(()),
    }
}

/// Logs to standard error, from level info on or as `RUST_LOG` says. The journal has times of its own.
pub fn start_logging() {
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        // The number in front is the priority, as journald reads it.
        builder.format(|out, record| {
            let priority = match record.level() {
                log::Level::Error => 3,
                log::Level::Warn => 4,
                log::Level::Info => 6,
                log::Level::Debug | log::Level::Trace => 7,
            };
            writeln!(out, "<{priority}>{}", record.args())
        });
    } else {
        builder.format_target(false);
    }
    // A second call changes nothing.
    let _ = builder.try_init();
}
