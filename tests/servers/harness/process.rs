//! A server's process: started with its own log files, ended by its PID, its logs shown when the
//! test fails.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A running server. It ends with the test.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    logs: Vec<PathBuf>,
}

impl Process {
    /// Starts `command`; what it prints goes to the first of `logs`.
    pub(crate) fn start(name: &'static str, command: &mut Command, logs: Vec<PathBuf>) -> Self {
        let output = File::create(&logs[0]).expect("create a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("clone a file"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        Self { name, child, logs }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Fails if the process has ended by itself.
    #[track_caller]
    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("wait") {
            panic!("{} has ended by itself: {status}", self.name);
        }
    }

    /// Kills the process as `kill -9` does and waits until it is gone.
    pub(crate) fn kill_and_reap(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("wait");
    }

    /// Ends the process: asks it to, and kills it if it has not followed in ten seconds.
    pub(crate) fn end(&mut self) {
        let Ok(None) = self.child.try_wait() else { return };
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            for log in &self.logs {
                let text = fs::read(log).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let from = text.lines().count().saturating_sub(60);
                eprintln!("--- {} {} (its last 60 lines)", self.name, log.display());
                text.lines().skip(from).for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// Sends a signal to a process that this test started, directly or through a server.
pub(crate) fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended in the meantime, and that is what a kill is for.
        let _ = kill_process(pid, signal);
    }
}

/// The processes whose program is the file `program`: one on a test's own stage, so nobody else's.
pub(crate) fn running(program: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program))
        .collect()
}

/// The children of `parent` whose program is the file `program`.
pub(crate) fn children(parent: u32, program: &Path) -> Vec<u32> {
    running(program).into_iter().filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
