//! The processes of a test, each ended with it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Far longer than anything here takes, on a machine that does much else.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The user and group "nobody".
const NOBODY: u32 = 65534;

/// Waits until `look` finds something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a test that needs root may run; it says so if not.
pub(crate) fn is_root(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        let _ = writeln!(std::io::stderr(), "skipped: only root can {what}");
    }
    is_root
}

/// So often, in `tests/run`, and so often in `tests/run --long`.
pub(crate) fn long(short: usize, long: usize) -> usize {
    if std::env::var_os("STRIKEOUT_LONG").is_some() { long } else { short }
}

/// The median of some spans.
pub(crate) fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans[spans.len() / 2]
}

/// Where a test's processes live: a directory that every user can look into, with the binaries.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("strikeout-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for built in [env!("CARGO_BIN_EXE_ext_strikeout_acl"), env!("CARGO_BIN_EXE_exim_strikeout_acl"), env!("CARGO_BIN_EXE_strikeout")] {
            let own = dir.path().join(Path::new(built).file_name().unwrap());
            if fs::hard_link(built, &own).is_err() {
                fs::copy(built, &own).unwrap();
            }
        }
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/socket")
    }

    /// Writes the resident's configuration: `table` is more of its `[table]`, `rest` follows it.
    pub(crate) fn configure(&self, table: &str, rest: &str) {
        let (socket, state) = (self.socket(), self.path("state/strikeout.db"));
        let group = if table.contains("group") { "" } else { "group = ''\n" };
        let text = format!("[table]\nsocket = {socket:?}\nstate = {state:?}\n{group}{table}\n{rest}");
        fs::write(self.path("strikeout.toml"), text).unwrap();
    }

    /// The operator's program.
    pub(crate) fn strikeout(&self, arguments: &[&str]) -> Output {
        Command::new(self.path("strikeout")).args(arguments).arg("--table").arg(self.socket()).output().unwrap()
    }

    /// What `exim_strikeout_acl` answers, and how long that took.
    pub(crate) fn exim(&self, arguments: &[&str], configured: bool) -> (String, Duration) {
        let mut command = Command::new(self.path("exim_strikeout_acl"));
        command.arg("--table").arg(self.socket()).env_clear();
        if configured {
            command.arg("--config").arg(self.path("strikeout.toml"));
        }
        let start = Instant::now();
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), start.elapsed())
    }
}

/// `strikeout serve`.
pub(crate) struct Resident<'a> {
    stage: &'a Stage,
    child: Child,
}

impl<'a> Resident<'a> {
    /// Starts it with a configuration of its own.
    pub(crate) fn start(stage: &'a Stage, table: &str, rest: &str) -> Self {
        stage.configure(table, rest);
        Self::start_again(stage)
    }

    /// Starts it as it is configured already.
    pub(crate) fn start_again(stage: &'a Stage) -> Self {
        let mut command = Command::new(stage.path("strikeout"));
        command.args(["serve", "--config"]).arg(stage.path("strikeout.toml"));
        Self::start_by(stage, command)
    }

    /// Starts it by a command of the test's own.
    pub(crate) fn start_by(stage: &'a Stage, mut command: Command) -> Self {
        let log = fs::File::options().create(true).append(true).open(stage.path("log")).unwrap();
        let child = command.stderr(log).spawn().unwrap();
        let mut resident = Self { stage, child };
        until("the resident listens", || {
            assert!(resident.child.try_wait().unwrap().is_none(), "it has ended: {}", resident.log());
            UnixStream::connect(stage.socket()).ok()
        });
        resident
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.stage.path("log")).unwrap()
    }

    /// Sends lines, says that there are no more, and reads to the close.
    #[track_caller]
    pub(crate) fn ask(&self, lines: &str) -> String {
        let mut stream = UnixStream::connect(self.stage.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(lines.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A value out of `status`.
    #[track_caller]
    pub(crate) fn status(&self, key: &str) -> String {
        let status = self.ask("status");
        let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        value.unwrap_or_else(|| unreachable!("no {key} in {status}"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it by a signal, and waits for the end.
    pub(crate) fn end(mut self, signal: Signal) {
        self.signal(signal);
        self.child.wait().unwrap();
    }

    /// The memory that it has, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Resident<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "--- the resident's log\n{}", self.log());
        }
    }
}

/// `ext_strikeout_acl`, asked without concurrency: one query, one answer.
pub(crate) struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    log: Arc<Mutex<String>>,
}

impl Helper {
    /// One that follows the resident of the stage.
    pub(crate) fn attach(stage: &Stage) -> Self {
        Self::start(stage, &["--table", stage.socket().to_str().unwrap()], false)
    }

    /// The same as a user who is in no group.
    pub(crate) fn attach_as_nobody(stage: &Stage) -> Self {
        Self::start(stage, &["--table", stage.socket().to_str().unwrap()], true)
    }

    pub(crate) fn start(stage: &Stage, arguments: &[&str], as_nobody: bool) -> Self {
        let mut command = Command::new(stage.path("ext_strikeout_acl"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if as_nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn().unwrap();
        let (sender, answers) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, sink) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| *sink.lock().unwrap() += &(line + "\n")));
        Self { stdin: child.stdin.take(), child, answers, log }
    }

    /// Asks, and says what is answered and how long that took.
    #[track_caller]
    pub(crate) fn timed(&mut self, query: &str) -> (String, Duration) {
        let start = Instant::now();
        self.stdin.as_mut().unwrap().write_all(format!("{query}\n").as_bytes()).unwrap();
        let answer = self.answers.recv_timeout(DEADLINE).unwrap();
        (answer, start.elapsed())
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, query: &str) -> String {
        self.timed(query).0
    }

    /// Whether an ordinary request of `client` is refused.
    #[track_caller]
    pub(crate) fn refuses(&mut self, client: &str) -> bool {
        self.ask(&format!("{client} GET http://example.test/ Mozilla/5.0 - -")).starts_with("OK ")
    }

    /// What a request of `client` for `path` is answered.
    #[track_caller]
    pub(crate) fn get(&mut self, client: &str, path: &str) -> String {
        self.ask(&format!("{client} GET http://example.test{path} Mozilla/5.0 - -"))
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until its log has `text`.
    #[track_caller]
    pub(crate) fn logs(&self, text: &str) {
        until(&format!("{text:?} in the helper's log"), || self.log().contains(text).then_some(()));
    }

    /// How often it has attached anew, or failed to.
    pub(crate) fn breaks(&self) -> usize {
        self.log().matches("cannot be reached").count()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "--- a helper's log\n{}", self.log());
        }
    }
}
