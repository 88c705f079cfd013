//! The Exim helper as `${run}` starts it, against daemons that behave and daemons that do not. Whatever happens, it soon answers `accept`
//! and exits with 0.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A fake daemon: a socket in a directory of its own.
struct FakeDaemon {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    received: Arc<Mutex<Vec<String>>>,
}

impl FakeDaemon {
    /// A socket that does not exist.
    fn absent() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { socket: dir.path().join("strikeout.sock"), _dir: dir, received: Arc::default() }
    }

    /// Reads one line from each connection, then calls `answer` with it.
    fn with(answer: impl Fn(&str, &mut UnixStream) + Send + 'static) -> Self {
        let daemon = Self::absent();
        let listener = UnixListener::bind(&daemon.socket).unwrap();
        let received = Arc::clone(&daemon.received);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut line = String::new();
                let _ = BufReader::new(stream.try_clone().unwrap()).read_line(&mut line);
                received.lock().unwrap().push(line.trim_end().to_owned());
                answer(&line, &mut stream);
            }
        });
        daemon
    }

    fn answering(answer: &'static [u8]) -> Self {
        Self::with(move |_, stream| {
            let _ = stream.write_all(answer);
        })
    }

    fn received(&self) -> Vec<String> {
        self.received.lock().unwrap().clone()
    }

    /// Runs the helper once, as Exim does: no environment, no standard input.
    fn run(&self, arguments: &[&str]) -> (Output, Duration) {
        let start = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_exim_strikeout_acl"))
            .arg("--table")
            .arg(&self.socket)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output, start.elapsed())
    }

    /// The answer to `check`, which must be the only output.
    #[track_caller]
    fn check(&self, arguments: &[&str]) -> String {
        let (output, took) = self.run(&[&["check"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(output.stderr, b"", "stderr lands in Exim's $value: {output:?}");
        assert!(!output.stdout.contains(&b'\n'), "no newline: {output:?}");
        // The helper takes up to 200 ms; the rest is for starting a process on a busy machine.
        assert!(took < Duration::from_millis(1_000), "{took:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn the_daemons_answer_is_passed_on() {
    for answer in ["accept", "defer rule=exim-rate until=1893456000", "deny rule=w00tw00t until=1893456000"] {
        let line: &'static str = format!("{answer}\n").leak();
        let daemon = FakeDaemon::answering(line.as_bytes());
        assert_eq!(daemon.check(&["198.51.100.1", "pid=42", "port=25"]), answer);
        assert!(daemon.received()[0].starts_with("check 198.51.100.1 pid=42 port=25"), "{:?}", daemon.received());
    }
}

#[test]
fn a_strike_is_passed_on() {
    let daemon = FakeDaemon::answering(b"accept\n");
    let (output, _) = daemon.run(&["strike", "198.51.100.1", "exim-auth"]);
    assert_eq!((output.stdout.as_slice(), output.status.code()), (b"accept".as_slice(), Some(0)));
    assert_eq!(daemon.received(), ["strike 198.51.100.1 exim-auth"]);
}

#[test]
fn without_a_daemon_it_accepts() {
    assert_eq!(FakeDaemon::absent().check(&["198.51.100.1"]), "accept");
}

#[test]
fn without_permission_it_accepts() {
    let daemon = FakeDaemon::answering(b"deny rule=x until=1\n");
    fs::set_permissions(&daemon.socket, fs::Permissions::from_mode(0o000)).unwrap();
    if rustix::process::geteuid().is_root() {
        // Root may do anything; the server tests cover this with Exim's own user.
        return;
    }
    assert_eq!(daemon.check(&["198.51.100.1"]), "accept");
}

#[test]
fn with_a_daemon_that_never_answers_it_accepts_in_time() {
    let daemon = FakeDaemon::with(|_, stream| {
        // Keeps the connection open until the helper gives up.
        let _ = stream.read(&mut [0; 1]);
    });
    assert_eq!(daemon.check(&["198.51.100.1"]), "accept");
}

#[test]
fn with_a_daemon_that_answers_byte_by_byte_it_accepts_in_time() {
    let daemon = FakeDaemon::with(|_, stream| {
        // One byte at a time: each arrives soon, but all together take longer than the limit.
        for byte in b"deny rule=w00tw00t until=1893456000, and so on and on and on" {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(daemon.check(&["198.51.100.1"]), "accept");
}

#[test]
fn invalid_answers_become_accept() {
    for answer in [
        b"".as_slice(),
        b"\n",
        b"denyyy\n",
        b"DENY rule=x until=1\n",
        b"error unknown verb\n",
        b"accepted\n",
        b"\xff\xfe\x00\n",
        b" deny rule=x until=1\n",
    ] {
        let shown = String::from_utf8_lossy(answer);
        assert_eq!(FakeDaemon::answering(answer).check(&["198.51.100.1"]), "accept", "{shown:?}");
    }
}

#[test]
fn an_endless_answer_becomes_accept() {
    let daemon = FakeDaemon::with(|_, stream| while stream.write_all(&[b'a'; 65_536]).is_ok() {});
    assert_eq!(daemon.check(&["198.51.100.1"]), "accept");
}

#[test]
fn an_empty_address_is_accepted() {
    // Exim passes an empty address for a message from this machine.
    assert_eq!(FakeDaemon::absent().check(&["", "pid=1", "port="]), "accept");
}

#[test]
fn invalid_arguments_are_not_passed_on_and_only_look_up_their_address() {
    let daemon = FakeDaemon::answering(b"deny rule=x until=1\n");
    for (arguments, answer) in [
        (&["check"][..], "accept"),
        (&["check", "not-an-address"], "accept"),
        (&["check", "198.51.100.1\nstrike 203.0.113.9 w00tw00t"], "deny rule=x until=1"),
        (&["strike", "198.51.100.1"], "deny rule=x until=1"),
        (&["strike", "198.51.100.1", "two words"], "deny rule=x until=1"),
        (&["unban", "198.51.100.1"], "deny rule=x until=1"),
        (&["subscribe", "1"], "accept"),
        (&["sing"], "accept"),
    ] {
        let (output, _) = daemon.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), answer, "{arguments:?}");
        assert_eq!(output.stderr, b"", "{arguments:?}");
    }
    for line in daemon.received() {
        assert!(line == "check 198.51.100.1 count=no" || line.starts_with("report found \""), "passed on: {line:?}");
    }
}

#[test]
fn only_the_first_answers_are_those_to_the_query() {
    // The daemon answers the report of "junk" too.
    let daemon = FakeDaemon::answering(b"accept\ndeny rule=x until=1\n");
    assert_eq!(daemon.check(&["198.51.100.1", "junk"]), "accept");
}

#[test]
fn without_arguments_it_answers_line_by_line() {
    let daemon = FakeDaemon::with(|line, stream| {
        let answer = if line.contains(" 198.51.100.1") { "defer rule=exim-rate until=1893456000\n" } else { "accept\n" };
        let _ = stream.write_all(answer.as_bytes());
    });
    let mut helper = Command::new(env!("CARGO_BIN_EXE_exim_strikeout_acl"))
        .arg("--table")
        .arg(&daemon.socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut queries = b"check 198.51.100.1\ncheck 203.0.113.9 port=25\n\n\xff\xfe\nsing\n".to_vec();
    queries.extend(vec![b'x'; 1 << 20]);
    queries.extend(b"\ncheck 198.51.100.1\ncheck 203.0.113.9");
    let mut stdin = helper.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&queries));
    let mut answers = String::new();
    helper.stdout.take().unwrap().read_to_string(&mut answers).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(helper.wait().unwrap().code(), Some(0));
    let words: Vec<&str> = answers.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words[..7], ["defer", "accept", "accept", "accept", "accept", "accept", "defer"], "{answers}");
}
