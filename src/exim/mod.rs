//! The Exim helper: one query from its arguments, or queries line by line; the resident answers, and nobody is ever held up.
//!
//! Exim puts standard error into the answer, takes a death by a signal for a failure of its own, and waits for a minute: so the one-shot
//! form prints nothing but its answer, catches its own panics, and gives the resident [`LIMIT`].

pub mod lines;
pub mod query;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{CommandFactory as _, Parser};

use crate::config::{DEFAULT_SOCKET, OnFailure, TableConfig};
use crate::socket::ask::ask;
use query::Query;

/// How long asking the resident takes at most, counted from the start of the process: with what it takes to start one, 200 ms.
pub const LIMIT: Duration = Duration::from_millis(160);

/// A verdict is a short line: more than this is none.
const LONGEST_ANSWER: usize = 4096;

/// Asks Strikeout about a client of Exim's.
///
/// With a query, answers it: "accept", "defer rule=NAME until=EPOCH" or "deny rule=NAME until=EPOCH", without a newline. Without one,
/// answers the queries on standard input line by line.
#[derive(Debug, Parser)]
#[command(name = "exim_strikeout_acl", version)]
struct Arguments {
    /// Take the socket and `on_failure` from this configuration; without it nothing is read.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The resident's socket.
    #[arg(long, value_name = "SOCKET")]
    table: Option<PathBuf>,
    /// check ADDRESS [pid=N] [port=N], or strike ADDRESS RULE.
    #[arg(value_name = "QUERY")]
    query: Vec<OsString>,
}

/// The program's arguments, for its manual page.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Where to ask, and what to answer if nobody can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    socket: PathBuf,
    on_failure: OnFailure,
}

impl Resident {
    /// The socket that was named, or that of the configuration that was named, or the usual one.
    ///
    /// A configuration that cannot be read is as good as none: mail must go on.
    #[must_use]
    pub fn find(config: Option<&Path>, table: Option<PathBuf>) -> Self {
        let configured = config.and_then(|config| TableConfig::load(config).ok());
        let on_failure = configured.as_ref().map_or(OnFailure::Allow, |configured| configured.on_failure);
        let socket = table.or_else(|| configured.map(|configured| configured.socket)).unwrap_or_else(|| DEFAULT_SOCKET.into());
        Self { socket, on_failure }
    }

    /// The answer to a request, until `deadline` at the latest.
    #[must_use]
    pub fn ask(&self, request: &str, deadline: Instant) -> String {
        let answer = ask(&self.socket, request, LONGEST_ANSWER, deadline.saturating_duration_since(Instant::now()));
        match answer {
            Ok(answer) if !answer.is_empty() => query::understood(&answer).to_owned(),
            _ => self.failure(),
        }
    }

    /// What is answered when the resident cannot be asked: never a refusal for good.
    fn failure(&self) -> String {
        match self.on_failure {
            OnFailure::Allow => query::ACCEPT.to_owned(),
            OnFailure::Deny => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
                format!("defer rule=on-failure until={now}")
            }
        }
    }
}

/// The whole helper.
pub fn run() -> ExitCode {
    let deadline = Instant::now() + LIMIT;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Without clap: a process for each connection should start fast.
    if let Some(one) = OneShot::of(&arguments) {
        return one.run(deadline);
    }
    let arguments = Arguments::parse();
    if !arguments.query.is_empty() {
        return OneShot { config: arguments.config, table: arguments.table, query: arguments.query }.run(deadline);
    }
    crate::operator::start_logging();
    lines::run(&Resident::find(arguments.config.as_deref(), arguments.table))
}

/// One query from the arguments.
#[derive(Debug, PartialEq, Eq)]
struct OneShot {
    config: Option<PathBuf>,
    table: Option<PathBuf>,
    query: Vec<OsString>,
}

impl OneShot {
    /// `[--config FILE] [--table SOCKET] WORD …`; none for every other form.
    fn of(arguments: &[OsString]) -> Option<Self> {
        let (mut config, mut table) = (None, None);
        let mut rest = arguments;
        loop {
            match rest {
                [option, value, more @ ..] if option == "--config" => (config, rest) = (Some(value.into()), more),
                [option, value, more @ ..] if option == "--table" => (table, rest) = (Some(value.into()), more),
                [word, ..] if !word.as_encoded_bytes().starts_with(b"-") => return Some(Self { config, table, query: rest.to_vec() }),
                _ => return None,
            }
        }
    }

    fn run(self, deadline: Instant) -> ExitCode {
        // Nothing on standard error: it would be part of the answer.
        std::panic::set_hook(Box::new(|_| ()));
        let answer = std::panic::catch_unwind(|| self.answer(deadline)).unwrap_or_else(|_| query::ACCEPT.to_owned());
        let mut out = std::io::stdout().lock();
        // Nobody is left to be told if this fails.
        let _ = out.write_all(answer.as_bytes()).and_then(|()| out.flush());
        ExitCode::SUCCESS
    }

    fn answer(self, deadline: Instant) -> String {
        match Query::of_arguments(&self.query) {
            Some(query) => Resident::find(self.config.as_deref(), self.table).ask(&query.request(), deadline),
            // Local mail, or nothing that could be asked.
            None => query::ACCEPT.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(arguments: &[&str]) -> Option<OneShot> {
        OneShot::of(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_usual_forms_need_no_argument_parser() {
        let query = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(one(&["check", "192.0.2.1"]), Some(OneShot { config: None, table: None, query: query(&["check", "192.0.2.1"]) }));
        assert_eq!(
            one(&["--table", "/s", "--config", "/c", "strike", "192.0.2.1", "rule"]),
            Some(OneShot { config: Some("/c".into()), table: Some("/s".into()), query: query(&["strike", "192.0.2.1", "rule"]) })
        );
        for other in [&[][..], &["--help"], &["--version"], &["--table"], &["--table", "/s"]] {
            assert_eq!(one(other), None, "{other:?}");
        }
    }

    #[test]
    fn who_cannot_be_asked_is_accepted_or_deferred_as_configured_and_never_denied() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("none");
        let config = folder.path().join("strikeout.toml");
        let ask = |config: Option<&Path>| Resident::find(config, Some(socket.clone())).ask("check 192.0.2.1", Instant::now() + LIMIT);
        assert_eq!(ask(None), "accept");
        std::fs::write(&config, "[table]\non_failure = 'deny'").unwrap();
        assert!(ask(Some(&config)).starts_with("defer rule=on-failure until="));
        std::fs::write(&config, "nonsense").unwrap();
        assert_eq!(ask(Some(&config)), "accept");
    }

    #[test]
    fn the_socket_is_the_one_named_or_the_configured_or_the_usual_one() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("strikeout.toml");
        std::fs::write(&config, "[table]\nsocket = '/from/config'\n[[rule]]\nname = 'whatever, it is not looked at'").unwrap();
        let socket = |config, table: Option<&str>| Resident::find(config, table.map(Into::into)).socket;
        assert_eq!(socket(None, None), Path::new(DEFAULT_SOCKET));
        assert_eq!(socket(Some(&config), None), Path::new("/from/config"));
        assert_eq!(socket(Some(&config), Some("/named")), Path::new("/named"));
    }
}
