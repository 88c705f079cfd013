//! The Squid helper's side of Squid's protocol, driven over its standard streams: every query is
//! answered once, whatever is in it, and nothing else is ever written.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The most that Squid 5 reads at a time.
const SQUID_READS: usize = 32_767;

/// A running helper. Its stdout is a datagram socket, so each of its writes is seen by itself.
struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: UnixDatagram,
    log: Arc<Mutex<String>>,
    /// What was written, write by write.
    writes: Vec<Vec<u8>>,
}

impl Helper {
    fn start(arguments: &[&str]) -> Self {
        let (stdout, theirs) = UnixDatagram::pair().unwrap();
        stdout.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ext_strikeout_acl"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(OwnedFd::from(theirs))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stderr, sink) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = stderr.read(&mut bytes) {
                if count == 0 {
                    return;
                }
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { stdin: child.stdin.take(), child, stdout, log, writes: Vec::new() }
    }

    /// A helper without a configuration file: built-in rules, a table of its own.
    fn plain() -> (Self, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("strikeout.toml");
        fs::write(&config, "").unwrap();
        (Self::start(&["--config", config.to_str().unwrap()]), dir)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Collects writes until there are `count` lines, or 20 seconds have passed.
    fn lines(&mut self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut bytes = vec![0; 1 << 20];
        while self.answers().len() < count && Instant::now() < deadline {
            if let Ok(length) = self.stdout.recv(&mut bytes) {
                if length == 0 {
                    break;
                }
                self.writes.push(bytes[..length].to_vec());
            }
        }
        let lines = self.answers();
        self.writes.clear();
        assert_eq!(lines.len(), count, "answers: {lines:?}; stderr: {}", self.log());
        lines
    }

    fn answers(&self) -> Vec<String> {
        let all = self.writes.concat();
        String::from_utf8(all).expect("answers are text").lines().map(str::to_owned).collect()
    }

    /// Sends one query and reads its one answer.
    #[track_caller]
    fn ask(&mut self, query: &str) -> String {
        self.ask_bytes(query.as_bytes())
    }

    #[track_caller]
    fn ask_bytes(&mut self, query: &[u8]) -> String {
        self.send(query);
        self.send(b"\n");
        self.lines(1).remove(0)
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until stderr holds `text`.
    #[track_caller]
    fn logs(&self, text: &str) {
        until(&format!("{text:?} on stderr"), || self.log().contains(text));
    }

    /// Closes stdin, as Squid does, and waits for the end.
    fn end(mut self) -> (std::process::ExitStatus, String) {
        drop(self.stdin.take());
        let mut status = None;
        until("the helper ends at EOF", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let log = self.log();
        (status.unwrap(), log)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_true() {
        assert!(Instant::now() < deadline, "20 s have passed without: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn probe(client: &str) -> String {
    format!("{client} GET http://example.test/w00tw00t.at.ISC.SANS.DFind:) ZmEu - -")
}

fn is_ban(answer: &str) -> bool {
    answer.starts_with("OK ban_=yes rule_=w00tw00t until_=")
}

#[test]
fn without_concurrency_answers_have_no_channel_id() {
    let (mut helper, _dir) = Helper::plain();
    assert_eq!(helper.ask("198.51.100.1 GET http://example.test/ curl - -"), "ERR");
    let ban = helper.ask(&probe("198.51.100.1"));
    assert!(is_ban(&ban), "{ban}");
    assert!(is_ban(&helper.ask("198.51.100.1 GET http://example.test/ curl - -")));
    assert_eq!(helper.ask("198.51.100.2 GET http://example.test/ curl - -"), "ERR");
}

#[test]
fn with_concurrency_each_answer_bears_its_channel_id() {
    let (mut helper, _dir) = Helper::plain();
    helper.send(format!("1 203.0.113.9 GET http://example.test/ curl - -\n2 {}\n3 203.0.113.9 -\n", probe("198.51.100.1")).as_bytes());
    let mut answers = helper.lines(3);
    answers.sort();
    assert_eq!((answers[0].as_str(), answers[2].as_str()), ("1 ERR", "3 ERR"));
    assert!(is_ban(answers[1].strip_prefix("2 ").unwrap()), "{answers:?}");
}

#[test]
fn the_answer_of_a_ban_says_which_rule_and_until_when_in_seconds() {
    let (mut helper, _dir) = Helper::plain();
    let answer = helper.ask(&probe("198.51.100.1"));
    let until: u64 = answer.split("until_=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((3_590..=3_610).contains(&(until - now)), "an hour from now: {answer}");
    assert!(answer.contains(" message=\"") && answer.contains(" log="), "{answer}");
    assert!(answer.len() <= 150, "{answer}");
}

#[test]
fn fields_may_be_left_off_from_the_right() {
    let (mut helper, _dir) = Helper::plain();
    for (client, query) in [
        ("198.51.100.1", "GET http://example.test/w00tw00t agent none -"),
        ("198.51.100.2", "GET http://example.test/w00tw00t agent -"),
        ("198.51.100.3", "GET http://example.test/w00tw00t -"),
    ] {
        let answer = helper.ask(&format!("{client} {query}"));
        assert!(is_ban(&answer), "{query}: {answer}");
        assert!(is_ban(&helper.ask(&format!("{client} -"))), "the address alone");
    }
    assert_eq!(helper.ask("198.51.100.4 -"), "ERR");
    assert_eq!(helper.ask("198.51.100.4 GET -"), "ERR");
}

#[test]
fn a_status_query_is_no_request() {
    let (mut helper, _dir) = Helper::plain();
    let query = "198.51.100.1 GET http://example.test/w00tw00t agent -";
    assert_eq!(helper.ask(&format!("{query} status=404")), "ERR");
    assert_eq!(helper.ask("198.51.100.1 -"), "ERR", "a response is never an offence of w00tw00t");
    assert!(is_ban(&helper.ask(&format!("{query} -"))));
}

#[test]
fn unknown_data_is_answered_err_and_logged() {
    let (mut helper, _dir) = Helper::plain();
    for data in ["foo", "status=", "status=abc", "status=99999999999", "status=404%20x", "--"] {
        let answer = helper.ask(&format!("7 198.51.100.1 GET http://example.test/w00tw00t agent - {data}"));
        assert_eq!(answer, "7 ERR", "{data}");
    }
    helper.logs("expected none or status=NNN");
    assert_eq!(helper.ask("198.51.100.1 -"), "ERR", "it counted for nothing");
}

#[test]
fn escapes_are_decoded_once() {
    let (mut helper, _dir) = Helper::plain();
    // `%#>ru` escapes `%` too: this is the request for /%770%30tw0%30t.
    assert!(is_ban(&helper.ask("198.51.100.1 GET http://example.test/%25770%2530tw0%2530t a - -")));
    // And this one for /%25770..., which decodes to something harmless.
    assert_eq!(helper.ask("198.51.100.2 GET http://example.test/%2525770%252530tw0%252530t a - -"), "ERR");
}

#[test]
fn addresses_come_in_every_form_that_squid_writes() {
    let (mut helper, _dir) = Helper::plain();
    assert!(is_ban(&helper.ask(&probe("2001:db8::1"))));
    assert!(is_ban(&helper.ask("2001:db8::2 -")), "one client for each /64");
    assert_eq!(helper.ask("2001:db8:0:1::2 -"), "ERR");
    assert!(is_ban(&helper.ask(&probe("::ffff:198.51.100.1"))));
    assert!(is_ban(&helper.ask("198.51.100.1 -")), "an IPv4-mapped address is the IPv4 address");
}

#[test]
fn loopback_is_never_banned() {
    let (mut helper, _dir) = Helper::plain();
    for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        helper.ask(&probe(own));
        assert_eq!(helper.ask(&format!("{own} -")), "ERR", "{own}");
    }
}

/// Queries that no Squid would send, each of them answered `ERR`.
const BAD: &[&[u8]] = &[
    b"",
    b" ",
    b"-",
    b"- -",
    b"   198.51.100.1   GET",
    b"not-an-address GET http://example.test/w00tw00t agent - -",
    b"999.1.1.1 GET http://example.test/w00tw00t agent - -",
    b"198.51.100.1:8080 GET http://example.test/w00tw00t agent - -",
    b"198.51.100.1 GET http://example.test/w00tw00t agent - too many fields here -",
    b"\x00\x01\x02\xff\xfe",
    b"\xff\xff \xfe\xfe \xfd -",
    b"198.51.100.1 \x00 \xff%zz%%%1 \x80 %",
    b"%31%39%38.51.100.1 GET http://example.test/w00tw00t agent - -\t",
    b"OK ban_=yes",
    b"\r",
];

#[test]
fn bad_queries_are_answered_once_each_and_blame_nobody() {
    let (mut helper, _dir) = Helper::plain();
    for bad in BAD {
        assert_eq!(helper.ask_bytes(bad), "ERR", "{:?}", String::from_utf8_lossy(bad));
        let with_id = [b"42 ".as_slice(), bad].concat();
        assert_eq!(helper.ask_bytes(&with_id), "42 ERR", "{:?}", String::from_utf8_lossy(&with_id));
    }
    assert_eq!(helper.ask_bytes(b"42"), "42 ERR", "a channel ID alone");
    assert_eq!(helper.ask("198.51.100.1 -"), "ERR");
    assert!(is_ban(&helper.ask(&probe("198.51.100.1"))), "it still works");
}

#[test]
fn random_bytes_get_as_many_answers_as_they_have_lines() {
    let (mut helper, _dir) = Helper::plain();
    // A small generator (splitmix64) with a fixed seed: the same soup every time.
    let mut state = 0x5eed_u64;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    };
    for _ in 0..40 {
        let mut soup = Vec::new();
        while soup.len() < 4_000 {
            soup.extend(random());
        }
        let mut queries = soup.iter().filter(|byte| **byte == b'\n').count();
        if soup.last() != Some(&b'\n') {
            soup.push(b'\n');
            queries += 1;
        }
        helper.send(&soup);
        helper.lines(queries);
    }
    assert!(is_ban(&helper.ask(&probe("198.51.100.1"))));
}

#[test]
fn channel_ids_of_any_size_come_back_as_they_were() {
    let (mut helper, _dir) = Helper::plain();
    for id in ["0", "1", "007", "2147400000"] {
        assert_eq!(helper.ask(&format!("{id} 203.0.113.9 -")), format!("{id} ERR"));
    }
}

#[test]
fn a_query_of_200_kilobytes_is_judged() {
    let (mut helper, _dir) = Helper::plain();
    let agent = "a%20".repeat(50_000);
    let answer = helper.ask(&format!("9 198.51.100.1 GET http://example.test/w00tw00t {agent} - -"));
    assert!(is_ban(answer.strip_prefix("9 ").unwrap()), "{answer}");
}

#[test]
fn a_query_without_end_costs_bounded_memory_and_gets_one_answer() {
    let (mut helper, _dir) = Helper::plain();
    helper.send(b"9 198.51.100.1 GET http://example.test/");
    let block = vec![b'a'; 1 << 20];
    for _ in 0..32 {
        helper.send(&block);
    }
    helper.send(b" agent - -\n");
    assert_eq!(helper.lines(1), ["9 ERR"]);
    let status = fs::read_to_string(format!("/proc/{}/status", helper.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 64 * 1024, "{kilobytes} kB after a query of 32 MB");
    assert_eq!(helper.ask("10 203.0.113.9 -"), "10 ERR");
}

#[test]
fn a_burst_is_answered_in_whole_lines_and_within_what_squid_can_read() {
    let (mut helper, _dir) = Helper::plain();
    assert!(is_ban(&helper.ask(&probe("198.51.100.1"))));
    // As many queries as the examples allow in flight, all of them of the banned client.
    let burst: String = (1_000_000_000..1_000_000_500).map(|id| format!("{id} 198.51.100.1 -\n")).collect();
    helper.send(burst.as_bytes());
    let mut unread = 0;
    let mut bytes = vec![0; 1 << 20];
    let mut answers = 0;
    let deadline = Instant::now() + Duration::from_secs(20);
    while answers < 500 {
        assert!(Instant::now() < deadline, "{answers} answers in 20 s");
        let Ok(length) = helper.stdout.recv(&mut bytes) else { continue };
        let written = &bytes[..length];
        assert_eq!(written.last(), Some(&b'\n'), "a line is split between two writes");
        unread += length;
        answers += written.iter().filter(|byte| **byte == b'\n').count();
        for line in written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            assert!(line[10..].starts_with(b" OK ban_=yes"), "{:?}", String::from_utf8_lossy(line));
        }
    }
    assert!(unread <= SQUID_READS, "{unread} bytes for one burst");
}

#[test]
fn nothing_of_the_client_gets_into_an_answer() {
    let (mut helper, _dir) = Helper::plain();
    let evil = "%0a1%20OK%20ban_=yes\"user=root";
    let answer = helper.ask(&format!("5 198.51.100.1 {evil} http://example.test/w00tw00t{evil} {evil} - -"));
    assert!(is_ban(answer.strip_prefix("5 ").unwrap()), "{answer}");
    assert!(!answer.contains("root"), "{answer}");
}

#[test]
fn the_end_of_input_is_a_clean_end() {
    let (mut helper, _dir) = Helper::plain();
    assert_eq!(helper.ask("1 203.0.113.9 -"), "1 ERR");
    // Half a query at the end is none.
    helper.send(b"2 203.0.113.9");
    let (status, log) = helper.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("panick"), "{log}");
}

#[test]
fn it_ends_by_itself_while_idle_before_the_ids_overflow() {
    let (mut helper, _dir) = Helper::plain();
    assert_eq!(helper.ask("2147483000 203.0.113.9 -"), "2147483000 ERR");
    let mut status = None;
    until("the helper makes room for a new one", || {
        status = helper.child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
fn a_fault_in_the_configuration_is_logged_and_answered_err_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("strikeout.toml");
    fs::write(&config, "[defaults]\nmaxretry = 3\nbantiem = \"1h\"\n").unwrap();
    let mut helper = Helper::start(&["--config", config.to_str().unwrap()]);
    assert_eq!(helper.ask(&format!("1 {}", probe("198.51.100.1"))), "1 ERR");
    helper.logs(&format!("{}:3:", config.display()));
    helper.logs("bantiem");
    fs::write(&config, "[defaults]\nmaxretry = 3\nbantime = \"1h\"\n").unwrap();
    until("it reads the mended file", || is_ban(&helper.ask(&probe("198.51.100.1"))));
}

#[test]
fn a_missing_configuration_that_was_asked_for_is_a_fault_and_no_end() {
    let mut helper = Helper::start(&["--config", "/nonexistent/strikeout.toml"]);
    assert_eq!(helper.ask("1 203.0.113.9 -"), "1 ERR");
    helper.logs("/nonexistent/strikeout.toml");
}

#[test]
fn without_rules_from_its_resident_it_serves_everybody_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nobody.sock");
    let mut helper = Helper::start(&["--table", socket.to_str().unwrap()]);
    // Nobody has told it whom it must never ban, so it bans nobody.
    let start = Instant::now();
    assert_eq!(helper.ask(&probe("198.51.100.1")), "ERR");
    assert_eq!(helper.ask("203.0.113.9 GET http://example.test/ a - -"), "ERR");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    helper.logs("nobody.sock");
    helper.logs("every query is answered ERR");
}

#[test]
fn wrong_arguments_are_logged_and_every_query_is_answered_err() {
    // Squid would start a helper that exits again and again, and deny everybody meanwhile.
    let mut helper = Helper::start(&["--tabel", "/run/strikeout/strikeout.sock"]);
    assert_eq!(helper.ask(&format!("1 {}", probe("198.51.100.1"))), "1 ERR");
    helper.logs("--tabel");
}

#[test]
fn it_is_quiet_about_ordinary_queries_unless_told_otherwise() {
    let (mut helper, _dir) = Helper::plain();
    for _ in 0..100 {
        assert_eq!(helper.ask("203.0.113.9 GET http://example.test/ a - -"), "ERR");
    }
    let (_, log) = helper.end();
    assert!(log.lines().count() < 5, "stderr goes into cache.log: {log}");
}
#[test]
fn two_helpers_with_one_state_file_share_their_bans() {
    let dir = tempfile::tempdir().unwrap();
    let (config, state) = (dir.path().join("strikeout.toml"), dir.path().join("strikeout.db"));
    fs::write(&config, "").unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap()];
    let (mut one, mut two) = (Helper::start(&arguments), Helper::start(&arguments));
    assert_eq!(two.ask("198.51.100.1 -"), "ERR");
    assert!(is_ban(&one.ask(&probe("198.51.100.1"))));
    until("the other sees the ban", || is_ban(&two.ask("198.51.100.1 -")));
    let mut three = Helper::start(&arguments);
    assert!(is_ban(&three.ask("198.51.100.1 -")), "and a new one from its first answer on");
}

#[test]
fn a_ban_outlives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let (config, state) = (dir.path().join("strikeout.toml"), dir.path().join("strikeout.db"));
    fs::write(&config, "").unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap()];
    let mut helper = Helper::start(&arguments);
    assert!(is_ban(&helper.ask(&probe("198.51.100.1"))));
    // Dropped is killed, at once after the answer.
    drop(helper);
    assert!(is_ban(&Helper::start(&arguments).ask("198.51.100.1 -")));
}
