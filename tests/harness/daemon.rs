//! `strikeout serve` on a stage, and questions to its socket.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

use super::process::{end, memory, show_log};
use super::{DEADLINE, STRIKEOUT, Stage, wait_until};

/// A running daemon. It is killed when the value is dropped, and its log shown if the test fails.
pub(crate) struct Daemon {
    stage: Stage,
    child: Child,
}

impl Daemon {
    /// Starts it on a stage of its own; `rest` follows the configuration's `[table]`.
    #[track_caller]
    pub(crate) fn start(rest: &str) -> Self {
        Self::start_on(&Stage::new(), "", rest)
    }

    /// Starts it with a new configuration: `table` is more of the `[table]`, `rest` follows it.
    #[track_caller]
    pub(crate) fn start_on(stage: &Stage, table: &str, rest: &str) -> Self {
        stage.configure(table, rest);
        Self::start_again(stage)
    }

    /// Starts it with the configuration that is there.
    #[track_caller]
    pub(crate) fn start_again(stage: &Stage) -> Self {
        Self::start_by(stage, Command::new(STRIKEOUT))
    }

    /// Starts it by a command of the test's own, such as `nsenter`, which gets the daemon's arguments.
    #[track_caller]
    pub(crate) fn start_by(stage: &Stage, mut command: Command) -> Self {
        let log = fs::File::options().create(true).append(true).open(stage.path("log")).unwrap();
        let child = command.args(["serve", "--config"]).arg(stage.config()).stderr(log).spawn().unwrap();
        let mut daemon = Self { stage: stage.clone(), child };
        wait_until("the daemon listens", || {
            assert!(daemon.is_running(), "the daemon has ended: {}", daemon.log());
            UnixStream::connect(daemon.socket()).is_ok()
        });
        daemon
    }

    pub(crate) fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Writes a new configuration, for a reload.
    pub(crate) fn configure(&self, rest: &str) {
        self.stage.configure("", rest);
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.stage.socket()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.stage.path("log")).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends lines, half-closes, and reads to the close, as `${readsocket}` does.
    #[track_caller]
    pub(crate) fn ask(&self, lines: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(lines.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The same for bytes that the daemon may not read to their end.
    #[track_caller]
    pub(crate) fn ask_bytes(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    /// The answer to a request for one object.
    #[track_caller]
    pub(crate) fn object(&self, request: &str) -> serde_json::Value {
        let mut objects = self.objects(request);
        assert_eq!(objects.len(), 1, "{request}: {objects:?}");
        objects.remove(0)
    }

    /// The answer to a request for objects, one on a line.
    #[track_caller]
    pub(crate) fn objects(&self, request: &str) -> Vec<serde_json::Value> {
        let answer = self.ask(request);
        let lines = answer.strip_suffix(".\n").unwrap_or_else(|| panic!("{request}: {answer}"));
        lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// A value of `status`.
    #[track_caller]
    pub(crate) fn status(&self, key: &str) -> String {
        let status = self.object("status");
        match status.get(key).unwrap_or_else(|| panic!("no {key} in {status}")) {
            serde_json::Value::String(text) => text.clone(),
            value => value.to_string(),
        }
    }

    /// A number of `status`.
    #[track_caller]
    pub(crate) fn number(&self, key: &str) -> u64 {
        self.status(key).parse().unwrap()
    }

    /// Runs the operator's program: its stdout, its stderr and its exit code.
    pub(crate) fn run(&self, arguments: &[&str]) -> (String, String, Option<i32>) {
        let output = self.stage.strikeout(arguments);
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap(), output.status.code())
    }

    /// What the operator's program prints when all is well.
    #[track_caller]
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let (stdout, stderr, code) = self.run(arguments);
        // 3 is the answer of `why` about a client that is refused.
        assert!(stderr.is_empty() && matches!(code, Some(0 | 3)), "{arguments:?} gave {code:?}: {stdout}{stderr}");
        assert!(!stdout.contains('\x1b'), "colour, though stdout is no terminal: {stdout}");
        stdout
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let (stdout, stderr, _) = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"))
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        if signal == Signal::STOP {
            // A thread that runs on another core goes on until the kernel interrupts it.
            wait_until("the daemon has stopped", || self.has_stopped());
        }
    }

    /// Whether each of its threads is stopped (`T` behind the name in `/proc/PID/task/TID/stat`).
    fn has_stopped(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        threads.map(|thread| thread.unwrap().path().join("stat")).all(|stat| {
            let stat = fs::read_to_string(stat).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        })
    }

    /// Ends it by `signal`; [`Daemon::start_again`] starts another one on the same stage.
    pub(crate) fn end(mut self, signal: Signal) -> ExitStatus {
        if signal == Signal::KILL {
            self.outlast_a_stall();
        }
        self.signal(signal);
        self.wait()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.outlast_a_stall();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What was answered outlives `kill -9`, unless the disk stalled for longer than an answer waits; then the daemon says so, and a test
    /// must wait for the disk before it kills. An unban is saved after all that was answered before it, also where nobody is banned.
    fn outlast_a_stall(&self) {
        if self.number("answers_before_saved") > 0 {
            wait_until("the disk has what was answered", || self.object("unban 192.0.2.254")["not_saved"].is_null());
        }
    }

    /// Its resident memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        memory(self.pid(), "VmRSS")
    }

    /// The most resident memory that it ever had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        memory(self.pid(), "VmHWM")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.child);
        show_log("the daemon's log", &self.log());
    }
}
