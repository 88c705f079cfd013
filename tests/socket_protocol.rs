//! The resident's socket, with everything that a client may do to it: each gets its answer or the
//! close, and the next one is served.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running `strikeout serve` with its socket and state in a directory of its own.
struct Resident {
    child: Child,
    socket: PathBuf,
    dir: tempfile::TempDir,
}

impl Resident {
    fn start(rules: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("strikeout.sock");
        let config = dir.path().join("strikeout.toml");
        let table = format!("[table]\nsocket = {socket:?}\nstate = {:?}\ngroup = \"\"\n", dir.path().join("strikeout.db"));
        fs::write(&config, table + rules).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_strikeout"))
            .args(["serve", "--config"])
            .arg(&config)
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut resident = Self { child, socket, dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&resident.socket).is_err() {
            assert!(resident.child.try_wait().unwrap().is_none(), "it has ended: {}", resident.log());
            assert!(Instant::now() < deadline, "it does not listen: {}", resident.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        resident
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Sends bytes, says that there are no more, and reads to the close.
    #[track_caller]
    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // It may close before it has read all of it.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    #[track_caller]
    fn ask(&self, line: &str) -> String {
        self.say(format!("{line}\n").as_bytes())
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            panic_safe_print(&self.log());
        }
    }
}

/// Past the capture of test output is not needed here; stderr of a failed test is shown.
fn panic_safe_print(log: &str) {
    let _ = writeln!(std::io::stderr(), "--- the resident's log\n{log}");
}

#[test]
fn a_client_that_half_closes_gets_its_answer_and_the_close() {
    let resident = Resident::start("");
    assert_eq!(resident.ask("check 198.51.100.1 port=25"), "accept\n");
    assert_eq!(resident.say(b"check 198.51.100.1 port=25"), "accept\n", "the end of input ends the line");
}

#[test]
fn an_empty_address_is_accepted() {
    let resident = Resident::start("");
    assert_eq!(resident.ask("check  pid=1 port=25"), "accept\n");
}

#[test]
fn what_cannot_be_read_is_an_error_that_says_what_was_expected() {
    let resident = Resident::start("");
    for line in [
        "sing",
        "CHECK 198.51.100.1",
        "check not-an-address",
        "check 198.51.100.1 pid=x",
        "check 198.51.100.1 port=99999",
        "check 198.51.100.1 and more",
        "strike 198.51.100.1",
        "strike 198.51.100.1 no-such-rule",
        "ban",
        "ban 198.51.100.0/40",
        "follow",
        "follow 99",
        "why",
    ] {
        let answer = resident.ask(line);
        assert!(answer.starts_with("error "), "{line}: {answer:?}");
        assert!(answer.len() > "error ".len() + 5, "{line}: {answer:?}");
    }
    assert_eq!(resident.ask("check 198.51.100.1 port=25"), "accept\n");
}

#[test]
fn bytes_that_are_no_text_are_an_error_or_the_close() {
    let resident = Resident::start("");
    for bytes in [b"\xff\xfe\x00\x01\n".to_vec(), vec![0; 4_000], b"check \xff\n".to_vec(), vec![b'a'; 100_000], b"\n\n\n".to_vec()] {
        let answer = resident.say(&bytes);
        assert!(answer.lines().all(|line| line.starts_with("error ")), "{answer:?}");
    }
    assert_eq!(resident.ask("check 198.51.100.1 port=25"), "accept\n");
}

#[test]
fn half_a_line_is_closed_after_a_second() {
    let resident = Resident::start("");
    let mut stream = resident.connect();
    stream.write_all(b"check 198.5").unwrap();
    let start = Instant::now();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let waited = start.elapsed();
    assert!((Duration::from_millis(800)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
    assert!(answer.is_empty() || answer.starts_with("error "), "{answer:?}");
}

#[test]
fn hundreds_that_say_nothing_hold_nobody_up() {
    let resident = Resident::start("");
    let silent: Vec<UnixStream> = (0..400).map(|_| resident.connect()).collect();
    let start = Instant::now();
    assert_eq!(resident.ask("check 198.51.100.1 port=25"), "accept\n");
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    drop(silent);
}

#[test]
fn who_breaks_off_harms_nobody() {
    let resident = Resident::start("");
    for _ in 0..200 {
        let mut stream = resident.connect();
        stream.write_all(b"list\nstatus\n").unwrap();
        drop(stream);
    }
    assert_eq!(resident.ask("check 198.51.100.1 port=25"), "accept\n");
}

#[test]
fn a_ban_by_hand_is_refused_until_it_is_lifted() {
    let resident = Resident::start("");
    let answer = resident.ask("ban 198.51.100.1 for=1h");
    assert!(!answer.starts_with("error"), "{answer}");
    let answer = resident.ask("check 198.51.100.1 port=25");
    assert!(answer.starts_with("defer rule=manual until="), "{answer}");
    assert_eq!(resident.ask("check 198.51.100.2 port=25"), "accept\n");
    let answer = resident.ask("unban 198.51.100.1");
    assert!(!answer.starts_with("error"), "{answer}");
    assert_eq!(resident.ask("check 198.51.100.1 port=25"), "accept\n");
}

#[test]
fn loopback_cannot_be_banned_by_hand_and_the_error_says_why() {
    let resident = Resident::start("");
    let answer = resident.ask("ban 127.0.0.1 for=1h");
    assert!(answer.starts_with("error "), "{answer}");
    assert_eq!(resident.ask("check 127.0.0.1 port=25"), "accept\n");
}

#[test]
fn a_faulty_configuration_is_an_error_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("strikeout.toml");
    fs::write(&config, "[table]\n\nclients = \"many\"\n").unwrap();
    for verb in ["serve", "check"] {
        let output = Command::new(env!("CARGO_BIN_EXE_strikeout")).arg(verb).arg("--config").arg(&config).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{verb}: {said}");
        assert!(said.contains(&format!("{}:3: ", config.display())), "{verb}: {said}");
    }
}

#[test]
fn a_second_resident_on_the_same_socket_does_not_take_it_away() {
    let resident = Resident::start("");
    let output = Command::new(env!("CARGO_BIN_EXE_strikeout"))
        .args(["serve", "--config"])
        .arg(resident.dir.path().join("strikeout.toml"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty());
    assert_eq!(resident.ask("check 198.51.100.1 port=25"), "accept\n");
}
