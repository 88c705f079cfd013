//! A real redis-server.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::SECRET;
use crate::harness::{free_port, wait_until};

/// A redis-server with a password and without persistence. Tests ask it over its Unix socket, whatever else it listens on.
pub(crate) struct Redis {
    pub(crate) child: Child,
    pub(crate) port: u16,
    pub(crate) dir: tempfile::TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_on(free_port())
    }

    pub(crate) fn start_on(port: u16) -> Self {
        Self::start_with(port, &format!("port {port}\nbind 127.0.0.1\n"), &[])
    }

    /// Starts it with the lines `listen` in its configuration, through `wrapper` (such as `nsenter`).
    pub(crate) fn start_with(port: u16, listen: &str, wrapper: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let config =
            format!("{listen}unixsocket {at}/socket\nunixsocketperm 700\ndir {at}\nsave \"\"\nappendonly no\nrequirepass {SECRET}\n");
        fs::write(dir.path().join("redis.conf"), config).unwrap();
        let words = [wrapper, &["redis-server".to_owned(), format!("{at}/redis.conf")]].concat();
        let child = Command::new(&words[0]).args(&words[1..]).stdout(Stdio::null()).spawn().unwrap();
        let redis = Self { child, port, dir };
        wait_until("redis-server answers", || UnixStream::connect(redis.socket()).is_ok() && redis.ask("PING").contains("PONG"));
        if listen.contains("127.0.0.1") {
            wait_until("it listens on its port", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        }
        redis
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The answer to an inline command.
    pub(crate) fn ask(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut request = String::new();
        write!(request, "AUTH {SECRET}\r\n{command}\r\nQUIT\r\n").unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        // A Sentinel does not know QUIT.
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// The integer that a command answers.
    pub(crate) fn number(&self, command: &str) -> u64 {
        let answer = self.ask(command);
        answer.lines().find_map(|line| line.strip_prefix(':')?.trim().parse().ok()).unwrap_or_else(|| panic!("{command}: {answer}"))
    }

    /// A number from `INFO`.
    pub(crate) fn info(&self, field: &str) -> u64 {
        let text = self.ask("INFO");
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok()).unwrap()
    }

    /// Number of calls of a command.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let text = self.ask("INFO commandstats");
        let start = format!("cmdstat_{command}:calls=");
        text.lines().find_map(|line| line.strip_prefix(&start)?.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    /// Processor time that Redis has used.
    pub(crate) fn processor_time(&self) -> Duration {
        let text = self.ask("INFO cpu");
        let number = |field: &str| text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse::<f64>().ok()).unwrap();
        Duration::from_secs_f64(number("used_cpu_user:") + number("used_cpu_sys:"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
