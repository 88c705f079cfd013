//! The Exim helper as `${run}` starts it, against a resident that behaves and against some that do
//! not: whatever happens, it says `accept`, soon, and exits with 0.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A socket in a directory of its own, and what answers there.
struct Resident {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Resident {
    /// Nobody listens: the socket does not even exist.
    fn absent() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { socket: dir.path().join("strikeout.sock"), _dir: dir, heard: Arc::default() }
    }

    /// Reads one line from each connection and then does as told.
    fn that(answers: impl Fn(&str, &mut UnixStream) + Send + 'static) -> Self {
        let resident = Self::absent();
        let listener = UnixListener::bind(&resident.socket).unwrap();
        let heard = Arc::clone(&resident.heard);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut line = String::new();
                let _ = BufReader::new(stream.try_clone().unwrap()).read_line(&mut line);
                heard.lock().unwrap().push(line.trim_end().to_owned());
                answers(&line, &mut stream);
            }
        });
        resident
    }

    fn saying(answer: &'static [u8]) -> Self {
        Self::that(move |_, stream| {
            let _ = stream.write_all(answer);
        })
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
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

    /// The answer to `check`, which must be all that is printed.
    #[track_caller]
    fn check(&self, arguments: &[&str]) -> String {
        let (output, took) = self.run(&[&["check"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(output.stderr, b"", "stderr lands in Exim's $value: {output:?}");
        assert!(!output.stdout.contains(&b'\n'), "no newline: {output:?}");
        // 200 ms are its own; the rest is for a busy machine to start a process.
        assert!(took < Duration::from_millis(1_000), "{took:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn the_answer_of_the_resident_is_passed_on() {
    for answer in ["accept", "defer rule=exim-rate until=1893456000", "deny rule=w00tw00t until=1893456000"] {
        let line: &'static str = format!("{answer}\n").leak();
        let resident = Resident::saying(line.as_bytes());
        assert_eq!(resident.check(&["198.51.100.1", "pid=42", "port=25"]), answer);
        assert!(resident.heard()[0].starts_with("check 198.51.100.1 pid=42 port=25"), "{:?}", resident.heard());
    }
}

#[test]
fn a_strike_is_passed_on() {
    let resident = Resident::saying(b"accept\n");
    let (output, _) = resident.run(&["strike", "198.51.100.1", "exim-auth"]);
    assert_eq!((output.stdout.as_slice(), output.status.code()), (b"accept".as_slice(), Some(0)));
    assert_eq!(resident.heard(), ["strike 198.51.100.1 exim-auth"]);
}

#[test]
fn without_a_resident_it_accepts() {
    assert_eq!(Resident::absent().check(&["198.51.100.1"]), "accept");
}

#[test]
fn without_permission_it_accepts() {
    let resident = Resident::saying(b"deny rule=x until=1\n");
    fs::set_permissions(&resident.socket, fs::Permissions::from_mode(0o000)).unwrap();
    if rustix::process::geteuid().is_root() {
        // Nothing is forbidden to root: the permission shows on Exim's side, in the server tests.
        return;
    }
    assert_eq!(resident.check(&["198.51.100.1"]), "accept");
}

#[test]
fn with_a_resident_that_never_answers_it_accepts_in_time() {
    let resident = Resident::that(|_, stream| {
        // Held open until the helper gives up.
        let _ = stream.read(&mut [0; 1]);
    });
    assert_eq!(resident.check(&["198.51.100.1"]), "accept");
}

#[test]
fn with_a_resident_that_dribbles_it_accepts_in_time() {
    let resident = Resident::that(|_, stream| {
        // One byte at a time, for longer than it may wait in all, though never long for one byte.
        for byte in b"deny rule=w00tw00t until=1893456000, and so on and on and on" {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(resident.check(&["198.51.100.1"]), "accept");
}

#[test]
fn foolish_answers_are_accept() {
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
        assert_eq!(Resident::saying(answer).check(&["198.51.100.1"]), "accept", "{shown:?}");
    }
}

#[test]
fn an_endless_answer_is_accept() {
    let resident = Resident::that(|_, stream| while stream.write_all(&[b'a'; 65_536]).is_ok() {});
    assert_eq!(resident.check(&["198.51.100.1"]), "accept");
}

#[test]
fn an_empty_address_is_accepted() {
    // What Exim passes for a message from this machine.
    assert_eq!(Resident::absent().check(&["", "pid=1", "port="]), "accept");
}

#[test]
fn foolish_arguments_are_accept_and_reach_nobody() {
    let resident = Resident::saying(b"deny rule=x until=1\n");
    for arguments in [
        &["check"][..],
        &["check", "not-an-address"],
        &["check", "198.51.100.1\nstrike 203.0.113.9 w00tw00t"],
        &["strike", "198.51.100.1"],
        &["strike", "198.51.100.1", "two words"],
        &["unban", "198.51.100.1"],
        &["follow", "1"],
        &["sing"],
    ] {
        let (output, _) = resident.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, b"accept", "{arguments:?}");
        assert_eq!(output.stderr, b"", "{arguments:?}");
    }
    for line in resident.heard() {
        assert!(line.starts_with("check 198.51.100.1 ") || line == "check 198.51.100.1", "passed on: {line:?}");
    }
}

#[test]
fn without_arguments_it_answers_line_by_line() {
    let resident = Resident::that(|line, stream| {
        let answer = if line.contains(" 198.51.100.1") { "defer rule=exim-rate until=1893456000\n" } else { "accept\n" };
        let _ = stream.write_all(answer.as_bytes());
    });
    let mut helper = Command::new(env!("CARGO_BIN_EXE_exim_strikeout_acl"))
        .arg("--table")
        .arg(&resident.socket)
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
