//! The Exim helper: puts one query from its arguments, or queries line by line, to the daemon.
//!
//! Exim's `${run}` adds standard error to the answer, fails the expansion if the helper is killed by a signal, and waits for it for a
//! minute. So the one-shot form prints nothing but its answer, catches its own panics, and waits for the daemon no longer than [`LIMIT`].

mod arguments;
mod lines;
pub mod query;

use std::ffi::OsString;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{CommandFactory as _, Parser};

use crate::config::{DEFAULT_SOCKET, TableConfig};
use crate::control::answer::ACCEPT;
use crate::control::client::ask;
use crate::policy::OnFailure;
use arguments::ParsedArguments;
use query::{EximQuery, Ignored};

/// Time limit for asking the daemon, counted from the start of `main`. With the time to start a process, the helper answers within 200 ms; the daemon may
/// wait up to 150 ms of it for its disk.
pub const LIMIT: Duration = Duration::from_millis(180);

/// Maximum number of bytes read from the daemon. A verdict is much shorter.
const MAX_ANSWER: usize = 4096;

/// Asks Strikeout about a client of Exim's.
///
/// With a query, answers it: "accept", "defer rule=NAME until=EPOCH" or "deny rule=NAME until=EPOCH", without a newline. Without one,
/// answers the queries on standard input line by line.
///
/// Options may stand before and behind the query. An argument that is not understood is ignored and named in the daemon's log. A check
/// with such an argument and without "port=" is only looked up, not counted. A query that is not understood is answered by the bans of the
/// addresses in it, eight at most, and nothing is counted. Put text that a client may write only behind the query and "--": nothing there
/// is an option, "pid=" or "port=". Of two "pid=" or "port=" the first one counts.
#[derive(Debug, Parser)]
#[command(name = "exim_strikeout_acl", version)]
struct Arguments {
    /// Take the socket and `on_failure` from this configuration; without it nothing is read.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's socket.
    #[arg(long, value_name = "SOCKET")]
    table: Option<PathBuf>,
    /// check ADDRESS [pid=N] [port=N], strike ADDRESS RULE [account=TEXT], or clear ADDRESS RULE [account=TEXT].
    #[arg(value_name = "QUERY")]
    query: Vec<OsString>,
}

/// The command line, for the manual page.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The daemon's socket, and what to answer when it cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSocket {
    socket: PathBuf,
    on_failure: OnFailure,
}

impl DaemonSocket {
    /// Takes the socket from `table`, else from the file `config`, else the default one.
    ///
    /// An unreadable configuration counts as none, because mail must go on; the fault is added to `ignored`.
    #[must_use]
    pub fn find(config: Option<&Path>, table: Option<&Path>, ignored: &mut Ignored) -> Self {
        let configured = config.and_then(|config| TableConfig::load(config).map_err(|fault| ignored.config = Some(fault.to_string())).ok());
        let on_failure = configured.as_ref().map_or(OnFailure::Allow, |configured| configured.on_failure);
        let socket = table.map(Path::to_owned).or_else(|| configured.map(|configured| configured.socket));
        Self { socket: socket.unwrap_or_else(|| DEFAULT_SOCKET.into()), on_failure }
    }

    /// Puts a query to the daemon, and returns the answer by `deadline`.
    #[must_use]
    pub fn ask(&self, query: &EximQuery, deadline: Instant) -> String {
        let lines = query.lines();
        if lines.is_empty() {
            return ACCEPT.to_owned();
        }
        let answer = ask(&self.socket, &lines, MAX_ANSWER, deadline.saturating_duration_since(Instant::now()));
        match answer {
            Ok(answer) if !answer.is_empty() => query.verdict(&answer).to_owned(),
            _ if query.requests.is_empty() => ACCEPT.to_owned(),
            _ => self.failure(),
        }
    }

    /// The answer when the daemon cannot be asked. It is never a permanent refusal.
    fn failure(&self) -> String {
        match self.on_failure {
            OnFailure::Allow => ACCEPT.to_owned(),
            OnFailure::Deny => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
                format!("defer rule=on-failure until={now}")
            }
        }
    }
}

/// Runs the helper.
pub fn run() -> ExitCode {
    let deadline = Instant::now() + LIMIT;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Standard error would become part of the answer.
    std::panic::set_hook(Box::new(|_| ()));
    let answer = std::panic::catch_unwind(AssertUnwindSafe(|| answer_once(&arguments, deadline)));
    let mut arguments = match answer {
        Ok(Answer::Given(answer)) => return print_answer(&answer),
        Ok(Answer::NoQuery(arguments)) => arguments,
        Err(_) => return print_answer(ACCEPT),
    };
    // Restores the default hook.
    let _ = std::panic::take_hook();
    if arguments.wants_help || !arguments.unknown.is_empty() {
        // Prints help, the version or the fault, and exits.
        Arguments::parse();
    }
    crate::logging::start_logging();
    let daemon = DaemonSocket::find(arguments.config, arguments.table, &mut arguments.ignored);
    if let Some(report) = arguments.ignored.report() {
        log::warn!("{report}");
    }
    lines::run(&daemon)
}

/// What the command line results in.
enum Answer<'a> {
    /// The answer to its query.
    Given(String),
    /// It has no query.
    NoQuery(ParsedArguments<'a>),
}

/// Answers the query of the command line. Exim starts a process per connection, so this does not load clap.
fn answer_once(arguments: &[OsString], deadline: Instant) -> Answer<'_> {
    let arguments = ParsedArguments::of(arguments);
    let mut query = EximQuery::from_words(&arguments.words, &arguments.unknown, arguments.ignored.clone());
    if query.requests.is_empty() && (arguments.words.is_empty() || arguments.wants_help) {
        return Answer::NoQuery(arguments);
    }
    let daemon = DaemonSocket::find(arguments.config, arguments.table, &mut query.ignored);
    Answer::Given(daemon.ask(&query, deadline))
}

fn print_answer(answer: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    // A failure cannot be reported anywhere.
    let _ = out.write_all(answer.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(config: Option<&Path>, table: Option<&Path>) -> (DaemonSocket, Ignored) {
        let mut ignored = Ignored::default();
        (DaemonSocket::find(config, table, &mut ignored), ignored)
    }

    #[test]
    fn without_a_daemon_clients_are_accepted_or_deferred_as_configured() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("none");
        let config = folder.path().join("strikeout.toml");
        let query = EximQuery::from_line(b"check 192.0.2.1");
        let ask = |config: Option<&Path>| find(config, Some(&socket)).0.ask(&query, Instant::now() + LIMIT);
        assert_eq!(ask(None), "accept");
        std::fs::write(&config, "[table]\non_failure = 'deny'").unwrap();
        assert!(ask(Some(&config)).starts_with("defer rule=on-failure until="));
        for line in ["check ", "check mail.example.org"] {
            let answer = find(Some(&config), Some(&socket)).0.ask(&EximQuery::from_line(line.as_bytes()), Instant::now() + LIMIT);
            assert_eq!(answer, "accept", "nobody to defer: {line}");
        }
        std::fs::write(&config, "nonsense").unwrap();
        assert_eq!(ask(Some(&config)), "accept");
    }

    #[test]
    fn the_socket_is_the_argument_or_the_configured_or_the_default_one() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("strikeout.toml");
        std::fs::write(&config, "[table]\nsocket = '/from/config'\n[[rule]]\nname = 'not a valid name, but not read either'").unwrap();
        let socket = |config, table: Option<&str>| find(config, table.map(Path::new)).0.socket;
        assert_eq!(socket(None, None), Path::new(DEFAULT_SOCKET));
        assert_eq!(socket(Some(&config), None), Path::new("/from/config"));
        assert_eq!(socket(Some(&config), Some("/named")), Path::new("/named"));
    }

    #[test]
    fn a_configuration_that_cannot_be_read_is_reported() {
        let (daemon, ignored) = find(Some(Path::new("/none/strikeout.toml")), None);
        assert_eq!(daemon.socket, Path::new(DEFAULT_SOCKET));
        assert!(ignored.report().unwrap().contains("/none/strikeout.toml"), "{ignored:?}");
    }
}
