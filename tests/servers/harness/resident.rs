//! `strikeout serve` on a stage, and questions to its socket.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::Stage;
use super::process::Process;
use super::wait::until;

/// The running resident.
pub(crate) struct Resident {
    process: Process,
    command: Vec<PathBuf>,
    socket: PathBuf,
    log: PathBuf,
}

impl Resident {
    /// Starts the resident on `rules`, which follow a `[table]` with the stage's socket. (The servers'
    /// users are in no common group here, so the socket is open to all.)
    pub(crate) fn start(stage: &Stage, rules: &str) -> Self {
        let socket = stage.socket();
        let config = stage.write(
            "strikeout.toml",
            &format!(
                "[table]\nsocket = \"{}\"\nmode = \"0666\"\ngroup = \"\"\nstate = \"{}\"\n{rules}",
                socket.display(),
                stage.path("state.db").display()
            ),
        );
        let command = vec![stage.binary("strikeout"), "serve".into(), "--config".into(), config];
        let log = stage.path("resident.log");
        let process = Self::launch(&command, &log);
        let mut resident = Self { process, command, socket, log };
        resident.ready();
        resident
    }

    fn launch(command: &[PathBuf], log: &Path) -> Process {
        Process::start("strikeout serve", Command::new(&command[0]).args(&command[1..]), vec![log.to_path_buf()])
    }

    fn ready(&mut self) {
        until("the resident answers", || {
            self.process.assert_running();
            self.try_ask("status").filter(|answer| !answer.is_empty())
        });
    }

    /// Asks on the socket and reads to the close.
    #[track_caller]
    pub(crate) fn ask(&self, line: &str) -> String {
        self.try_ask(line).unwrap_or_else(|| panic!("no answer to {line:?}"))
    }

    fn try_ask(&self, line: &str) -> Option<String> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("{line}\n").as_bytes()).ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends the resident as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.process.kill_and_reap();
    }

    /// Starts it again after [`Resident::kill`].
    pub(crate) fn start_again(&mut self) {
        self.process = Self::launch(&self.command, &self.log);
        self.ready();
    }
}
