//! `ext_strikeout_acl`, driven over its standard streams as Squid drives it.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::process::{end, memory, show_log};
use super::{SQUID_HELPER, Stage, wait_for, wait_until};

/// The user and group "nobody".
const NOBODY: u32 = 65534;

/// A running helper. Its stdout is a datagram socket, so that each of its writes is seen by itself.
pub(crate) struct SquidHelper {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: UnixDatagram,
    log: Arc<Mutex<String>>,
    /// Reads its stderr to the end.
    reader: Option<JoinHandle<()>>,
    /// Only held, so that the directory lives as long as the helper.
    own_stage: Option<Stage>,
}

impl SquidHelper {
    /// Built-in rules and a table of its own.
    pub(crate) fn embedded() -> Self {
        let stage = Stage::new();
        let config = stage.write("strikeout.toml", "");
        let mut helper = Self::start(&["--config", config.to_str().unwrap()]).until_ready();
        helper.own_stage = Some(stage);
        helper
    }

    /// Waits until a helper with built-in rules has its table, which it does for five seconds itself: on a busy machine the first queries may
    /// come before. It is asked with a probe that a page may have sent, which is refused and bans nobody.
    #[track_caller]
    pub(crate) fn until_ready(mut self) -> Self {
        let probe = "192.0.2.255 GET http://example.test/w00tw00t Mozilla/5.0 cross-site -";
        wait_until("the helper has its table", || self.ask(probe).starts_with("OK "));
        self
    }

    /// On the table of the stage's daemon.
    pub(crate) fn attach(stage: &Stage) -> Self {
        Self::start(&["--table", stage.socket().to_str().unwrap()])
    }

    /// The same as a user who is in no group.
    pub(crate) fn attach_as_nobody(stage: &Stage) -> Self {
        let mut command = Command::new(stage.program("ext_strikeout_acl"));
        command.arg("--table").arg(stage.socket()).uid(NOBODY).gid(NOBODY);
        Self::spawn(command)
    }

    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(SQUID_HELPER);
        command.args(arguments);
        Self::spawn(command)
    }

    /// Starts it by a command of the test's own, such as `nsenter`.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let (stdout, theirs) = UnixDatagram::pair().unwrap();
        stdout.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(OwnedFd::from(theirs)).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stderr, sink) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut bytes) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Self { stdin: child.stdin.take(), child, stdout, log, reader: Some(reader), own_stage: None }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// The bytes of its next write; fails if the helper has ended or the deadline passes.
    #[track_caller]
    pub(crate) fn next_write(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        let length = wait_for("the helper answers", || {
            let received = self.stdout.recv(&mut bytes).ok().filter(|length| *length > 0);
            assert!(received.is_some() || self.is_running(), "the helper has ended: {}", self.log());
            received
        });
        bytes.truncate(length);
        bytes
    }

    /// The next `count` answers, which must end with a whole write.
    #[track_caller]
    pub(crate) fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            let written = String::from_utf8(self.next_write()).expect("answers are text");
            lines.extend(written.lines().map(str::to_owned));
        }
        assert_eq!(lines.len(), count, "{lines:?}; stderr: {}", self.log());
        lines
    }

    /// Sends one query and reads its one answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, query: &str) -> String {
        self.ask_bytes(query.as_bytes())
    }

    #[track_caller]
    pub(crate) fn ask_bytes(&mut self, query: &[u8]) -> String {
        self.send(&[query, b"\n"].concat());
        self.lines(1).remove(0)
    }

    /// The answer, and how long it took.
    #[track_caller]
    pub(crate) fn timed(&mut self, query: &str) -> (String, Duration) {
        let start = Instant::now();
        let answer = self.ask(query);
        (answer, start.elapsed())
    }

    /// The answer to a request of `client` for `path`.
    #[track_caller]
    pub(crate) fn get(&mut self, client: &str, path: &str) -> String {
        self.ask(&format!("{client} GET http://example.test{path} Mozilla/5.0 - -"))
    }

    /// Whether an ordinary request of `client` is refused.
    #[track_caller]
    pub(crate) fn refuses(&mut self, client: &str) -> bool {
        self.get(client, "/").starts_with("OK ")
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until its log holds `text`.
    #[track_caller]
    pub(crate) fn logs(&self, text: &str) {
        wait_until(&format!("{text:?} in the helper's log"), || self.log().contains(text));
    }

    /// How often it lost the daemon or could not reach it.
    pub(crate) fn breaks(&self) -> usize {
        self.log().matches("cannot be reached").count()
    }

    /// The most resident memory that it ever had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        memory(self.child.id(), "VmHWM")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn status(&mut self) -> ExitStatus {
        wait_for("the helper ends", || self.child.try_wait().unwrap())
    }

    /// Closes its stdin, as Squid does, and waits for the end: its exit status and its log.
    #[track_caller]
    pub(crate) fn close(mut self) -> (ExitStatus, String) {
        drop(self.stdin.take());
        let status = self.status();
        self.reader.take().unwrap().join().unwrap();
        (status, self.log())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for SquidHelper {
    fn drop(&mut self) {
        end(&mut self.child);
        show_log("the Squid helper's log", &self.log());
    }
}
