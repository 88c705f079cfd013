//! A server's process: started with its own log files, ended by its PID. Its logs are shown if the test fails.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{kill, show_log};

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

    /// Ends the process by SIGTERM, and after ten seconds by SIGKILL.
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
        for log in &self.logs {
            let text = fs::read(log).unwrap_or_default();
            show_log(&format!("{} {}", self.name, log.display()), &String::from_utf8_lossy(&text));
        }
    }
}
