//! The operator's program: arguments, and one call for each subcommand.

mod ask;
mod ban;
mod ban_from;
mod check;
mod check_log;
mod doctor;
mod forget;
mod import;
mod list;
mod list_format;
mod metrics;
mod origin;
mod pause;
mod prefilter;
mod printer;
mod reload;
mod status;
mod terminal;
mod test;
mod test_line;
mod unban;
mod why;
mod why_network;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::{DEFAULT_FILE, DEFAULT_SOCKET, TableConfig};
use crate::{daemon, replay};

/// Refuses repeat offenders inside Squid and Exim.
#[derive(Debug, Parser)]
#[command(name = "strikeout", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: hold the table and answer Exim, Squid's helpers and operators until SIGTERM. SIGHUP reloads the configuration.
    Serve(ConfigArgument),
    /// Check the configuration and its logs. Exit code 2 if the configuration has an error, 1 if a log has a fault.
    Check {
        #[command(flatten)]
        config: ConfigArgument,
        #[command(flatten)]
        options: check::CheckOptions,
    },
    /// Look at every link from a client to the verdict on this machine, and name what is broken and the command that mends it. Changes
    /// nothing. Exit code 1 if there is a fault.
    Doctor(doctor::DoctorArguments),
    /// Show the daemon's status.
    Status(status::StatusArguments),
    /// Show the bans.
    List(list::ListArguments),
    /// Show why an address is refused, or why it is not; of a network also what is banned inside. Exit code 0 if it is served, 3 if it is
    /// refused.
    Why {
        /// An IP address, a network such as 192.0.2.0/24, a system such as AS64496, or a country such as country:XX.
        target: String,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// Ban an address, a network, a system or a country, or everybody in a file.
    Ban(ban::BanArguments),
    /// Unban addresses, networks, systems and countries, and forget their earlier bans. Exit code 0 if they are served then, 3 if something still refuses one.
    Unban(unban::UnbanArguments),
    /// Serve everybody for a while: stop refusing at once, on the web and in mail. Counting goes on, and the pause ends by itself.
    Pause {
        /// How long, such as 30m or 2h, at most 30d. [default: 1h]
        #[arg(allow_hyphen_values = true)]
        duration: Option<String>,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// End the pause: refuse banned clients again.
    Resume(DaemonArguments),
    /// Drop every ban that another machine of the fleet published.
    Forget {
        /// The machine's name in the fleet.
        node: String,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// Write the expressions by which Squid knows requests that no rule can match, and need not ask about them.
    Prefilter(prefilter::PrefilterArguments),
    /// Make the daemon reload its configuration.
    Reload(DaemonArguments),
    /// Show the daemon's metrics in Prometheus' text format.
    Metrics(DaemonArguments),
    /// Test a URL or a log line against the rules, or a fail2ban filter against a log. Exit code 0 if something matches, 1 if nothing does.
    Test(test::TestArguments),
    /// Run the rules over old logs and report what they would have done.
    Replay(replay::command::ReplayArguments),
    /// Translate another program's configuration and print the result.
    Import(import::ImportArguments),
}

#[derive(Debug, Args)]
struct ConfigArgument {
    /// The configuration. [default: /etc/strikeout/strikeout.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The arguments of every command that asks the daemon.
#[derive(Debug, Args)]
pub struct DaemonArguments {
    /// Read the daemon's socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's socket. [default: from the configuration]
    #[arg(long, value_name = "SOCKET")]
    table: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl DaemonArguments {
    /// The arguments that select the same daemon, quoted for a shell, to be appended to a command that is shown.
    fn repeated(&self) -> String {
        let quoted = |path: &std::path::Path| {
            let text = path.display().to_string();
            let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if is_plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
        };
        let table = self.table.as_deref().map(|path| format!(" --table {}", quoted(path)));
        let config = self.config.as_deref().map(|path| format!(" --config {}", quoted(path)));
        table.or(config).unwrap_or_default()
    }

    /// The daemon's socket.
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
        let default = std::path::Path::new(DEFAULT_FILE);
        if !default.exists() {
            return Ok(DEFAULT_SOCKET.into());
        }
        // While somebody edits the file, others must still be able to ask a daemon that runs well.
        Ok(TableConfig::load(default).map(|table| table.socket).unwrap_or_else(|fault| {
            log::warn!("{fault}; asking the daemon on {DEFAULT_SOCKET}");
            DEFAULT_SOCKET.into()
        }))
    }
}

/// Why a subcommand failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The command failed: exit code 1.
    Failed(String),
    /// The arguments or the configuration cannot be used: exit code 2.
    Usage(String),
    /// The command is done, and a client that it is about is refused: exit code 3. The text is for standard error; empty if there is none.
    Refused(String),
}

/// The program's arguments, for its manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    crate::logging::start_logging();
    let done = match arguments.command {
        Command::Serve(ConfigArgument { config }) => daemon::serve(config.as_deref()).map_err(|fault| match fault {
            daemon::ServeError::Config(fault) => Failure::Usage(fault.to_string()),
            daemon::ServeError::System(fault) => Failure::Failed(fault),
        }),
        Command::Check { config: ConfigArgument { config }, options } => check::run(config.as_deref(), options),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Why { target, daemon } => why::run(&target, &daemon),
        Command::Ban(arguments) => ban::run(&arguments),
        Command::Unban(arguments) => unban::run(&arguments),
        Command::Pause { duration, daemon } => pause::pause(&daemon, duration.as_deref()),
        Command::Resume(daemon) => pause::resume(&daemon),
        Command::Forget { node, daemon } => forget::run(&daemon, &node),
        Command::Prefilter(arguments) => prefilter::run(&arguments),
        Command::Reload(daemon) => reload::run(&daemon),
        Command::Metrics(daemon) => metrics::run(&daemon),
        Command::Test(arguments) => return test::run(arguments),
        Command::Replay(arguments) => return replay::command::run(&arguments),
        Command::Import(arguments) => return import::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

impl Failure {
    /// Prints the failure on standard error and returns the exit code.
    fn report(self) -> ExitCode {
        let (text, code) = match self {
            Self::Failed(text) => (text, 1),
            Self::Usage(text) => (text, 2),
            Self::Refused(text) => (text, 3),
        };
        if !text.is_empty() {
            // A failure to write on standard error cannot be reported anywhere.
            let _ = writeln!(std::io::stderr().lock(), "strikeout: {text}");
        }
        ExitCode::from(code)
    }
}

/// Prints a result on standard output.
///
/// # Errors
/// Standard output cannot be written.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `strikeout list | head` closes its end early.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Failed(format!("standard output: {error}"))),
        _ => Ok(()),
    }
}

/// Prints a result as JSON, on one line.
///
/// # Errors
/// Standard output cannot be written.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string(value).map_err(|fault| Failure::Failed(format!("the answer cannot be printed as JSON: {fault}")))?;
    print(&(json + "\n"))
}
