//! `strikeout serve`, driven over its socket, by its helpers and by signals: what one process after another does to the table, and that
//! nothing that a peer, a disk or an operator does stops it.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

const STRIKEOUT: &str = env!("CARGO_BIN_EXE_strikeout");
const HELPER: &str = env!("CARGO_BIN_EXE_exim_strikeout_acl");
/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// An incident rule that bans at the second strike.
const INCIDENT: &str = "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 2\nscope = 'mail'\n";

/// Waits until `done` is true.
#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running `strikeout serve` with everything in a directory of its own.
struct Resident {
    child: Child,
    dir: tempfile::TempDir,
}

impl Resident {
    fn start(rest: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "0600", rest)
    }

    /// Starts in a directory where another one may have been before.
    fn start_in(dir: tempfile::TempDir, mode: &str, rest: &str) -> Self {
        Self::configure(dir.path(), mode, rest);
        let log = fs::File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
        let child = Command::new(STRIKEOUT).args(["serve", "--config"]).arg(dir.path().join("strikeout.toml")).stderr(log).spawn().unwrap();
        let mut resident = Self { child, dir };
        wait_until("it listens", || {
            assert!(resident.child.try_wait().unwrap().is_none(), "it has ended: {}", resident.log());
            UnixStream::connect(resident.socket()).is_ok()
        });
        resident
    }

    fn configure(dir: &Path, mode: &str, rest: &str) {
        let (socket, state) = (dir.join("socket"), dir.join("state/strikeout.db"));
        let table = format!("[table]\nsocket = {socket:?}\nmode = '{mode}'\nstate = {state:?}\ngroup = ''\n");
        fs::write(dir.join("strikeout.toml"), table + rest).unwrap();
    }

    fn reconfigure(&self, rest: &str) {
        Self::configure(self.dir.path(), "0600", rest);
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends lines, says that there are no more, and reads to the close: as `${readsocket}` does.
    #[track_caller]
    fn ask(&self, lines: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(lines.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A number out of `status`.
    fn status(&self, key: &str) -> String {
        let status = self.ask("status");
        let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        value.unwrap_or_else(|| unreachable!("no {key} in {status}"))
    }

    /// What the operator's program prints and says.
    fn operator(&self, arguments: &[&str]) -> (String, String, Option<i32>) {
        let output = Command::new(STRIKEOUT).args(arguments).arg("--table").arg(self.socket()).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap(), output.status.code())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it by `signal` and gives the directory back.
    fn end(mut self, signal: Signal) -> (ExitStatus, tempfile::TempDir) {
        self.signal(signal);
        let status = self.child.wait().unwrap();
        (status, std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap()))
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking()
            && let Ok(log) = fs::read_to_string(self.dir.path().join("log"))
        {
            let _ = writeln!(std::io::stderr(), "the resident's log:\n{log}");
        }
    }
}

/// A connection process of Exim's: a shell that asks as `conf-examples/exim-run.acl` does, and then lives on.
struct ConnectionProcess {
    shell: Child,
    answer: String,
}

impl ConnectionProcess {
    fn start(resident: &Resident, address: &str) -> Self {
        Self::start_naming(resident, address, "$$")
    }

    /// One that says it is the process `pid`.
    fn start_naming(resident: &Resident, address: &str, pid: &str) -> Self {
        let ask = format!("/bin/sh -c \"timeout -s KILL 5 $0 --table $1 check $2 pid={pid} port=25 || :\"; echo; read x");
        let mut shell = Command::new("/bin/sh")
            .args(["-c", &ask, HELPER])
            .arg(resident.socket())
            .arg(address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answer = Vec::new();
        let stdout = shell.stdout.as_mut().unwrap();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            answer.extend(byte);
        }
        Self { shell, answer: String::from_utf8(answer).unwrap() }
    }

    fn end(mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }
}

#[test]
fn connections_at_once_are_counted_by_their_processes_and_until_these_end() {
    let rule = "[[rule]]\nname = 'exim-simultaneous'\nsimultaneous = 3\nmaxretry = 1000\n";
    let resident = Resident::start(rule);
    let mut open: Vec<_> = (0..3).map(|_| ConnectionProcess::start(&resident, "203.0.113.7")).collect();
    assert!(open.iter().all(|process| process.answer == "accept"));
    assert_eq!(resident.status("mail_connections_watched"), "3");
    let refused = ConnectionProcess::start(&resident, "203.0.113.7");
    assert!(refused.answer.starts_with("defer rule=exim-simultaneous until="), "{}", refused.answer);
    let other = ConnectionProcess::start(&resident, "203.0.113.8");
    assert_eq!(other.answer, "accept", "another client");
    assert_eq!(resident.status("mail_connections_watched"), "4", "a refused connection is not held");
    open.pop().unwrap().end();
    wait_until("the end of a process is noticed", || resident.status("mail_connections_watched") == "3");
    let next = ConnectionProcess::start(&resident, "203.0.113.7");
    assert_eq!(next.answer, "accept");
    for process in open.into_iter().chain([refused, other, next]) {
        process.end();
    }
    wait_until("all ends are noticed", || resident.status("mail_connections_watched") == "0");
}

#[test]
fn only_an_ancestor_of_the_helper_is_believed_to_wait() {
    let resident = Resident::start("");
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let process = ConnectionProcess::start_naming(&resident, "203.0.113.7", &stranger.id().to_string());
    assert_eq!(process.answer, "accept");
    // The helper's parent was held instead, which is `timeout` and has ended: the stranger lives on, and holds nothing.
    wait_until("nobody is watched", || resident.status("mail_connections_watched") == "0");
    process.end();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn the_end_of_the_last_process_is_noticed_also_where_nobody_asks() {
    let resident = Resident::start("[metrics]\nlisten = '127.0.0.1:0'\n");
    let logged = || Some(resident.log().split_once("metrics on http://")?.1.split_once('/')?.0.to_owned());
    wait_until("the listener's address is logged", || logged().is_some());
    let address = logged().unwrap();
    // Over HTTP another thread answers: nothing wakes the one that watches.
    let watched = || {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page.lines().find_map(|line| line.strip_prefix("strikeout_mail_connections ")).map(str::to_owned)
    };
    let process = ConnectionProcess::start(&resident, "203.0.113.7");
    wait_until("it is watched", || watched().as_deref() == Some("1"));
    process.end();
    wait_until("its end is noticed", || watched().as_deref() == Some("0"));
}

#[test]
fn one_connection_process_counts_once_however_often_it_asks() {
    let resident = Resident::start("[[rule]]\nname = 'exim-rate'\nmaxretry = 3\n");
    for _ in 0..10 {
        assert_eq!(resident.ask("check 203.0.113.7 port=25\n"), "accept\n");
    }
    for _ in 0..2 {
        let process = ConnectionProcess::start(&resident, "203.0.113.7");
        let is_third = process.answer.starts_with("defer rule=exim-rate until=");
        process.end();
        if is_third {
            return;
        }
    }
    panic!("the third process was not refused");
}

#[test]
fn lines_of_one_connection_are_answered_in_their_order_and_a_fault_ends_it() {
    let resident = Resident::start(INCIDENT);
    let lines = "check 203.0.113.1\nstrike 203.0.113.2 helo\nunban 203.0.113.9\nstrike 203.0.113.2 helo\nnonsense\ncheck 203.0.113.3\n";
    let answers = resident.ask(lines);
    let words: Vec<&str> = answers.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["accept", "accept", "not", ".", "defer", "error"], "{answers}");
}

#[test]
fn only_an_incident_rule_can_be_reported() {
    let resident = Resident::start(INCIDENT);
    for (rule, expected) in
        [("w00tw00t", "error found \"w00tw00t\", expected"), ("nix", "error found \"nix\", expected"), ("helo", "accept")]
    {
        assert!(resident.ask(&format!("strike 203.0.113.1 {rule}")).starts_with(expected), "{rule}");
    }
    assert_eq!(resident.ask("strike  helo"), "accept\n", "no address");
    assert!(resident.ask("strike 203.0.113.1 helo").starts_with("defer rule=helo"));
    assert!(resident.ask("check 203.0.113.1 port=25").starts_with("defer rule=helo"));
    assert_eq!(resident.ask("strike 127.0.0.1 helo\nstrike 127.0.0.1 helo\nstrike 127.0.0.1 helo"), "accept\n".repeat(3), "never banned");
}

#[test]
fn who_reports_too_many_strikes_is_told_and_others_are_served() {
    let resident = Resident::start("[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1000000\n");
    let lines: String = (0..4000).map(|number| format!("strike 203.0.{}.{} helo\n", number / 250, number % 250)).collect();
    let mut stream = resident.connect();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        writer.write_all(lines.as_bytes()).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    writing.join().unwrap();
    assert_eq!(answers.lines().count(), 4000, "each is answered");
    let refused = answers.lines().filter(|line| line.starts_with("error user ")).count();
    assert!((1..=3000).contains(&refused), "{refused}");
    assert_eq!(resident.ask("check 203.0.113.1 port=25"), "accept\n");
}

#[test]
fn a_burst_that_came_before_it_was_looked_at_is_answered_whole() {
    let resident = Resident::start("");
    resident.signal(Signal::STOP);
    let mut stream = resident.connect();
    stream.write_all("check 203.0.113.1 port=25\n".repeat(3000).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    resident.signal(Signal::CONT);
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.lines().count(), 3000);
}

#[test]
fn thousands_of_clients_that_say_nothing_hold_nobody_up() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(100_000);
    let resident = Resident::start("");
    let mut idle = Vec::new();
    for number in 0..5000.min(files.saturating_sub(200)) {
        idle.push(resident.connect());
        if number % 500 == 0 {
            assert_eq!(resident.ask(&format!("check 203.0.113.{} port=25", number / 500)), "accept\n");
        }
    }
    assert_eq!(resident.ask("check 203.0.113.200 port=25"), "accept\n");
    let mut halves: Vec<_> = (0..500)
        .map(|_| {
            let mut stream = resident.connect();
            stream.write_all(b"che").unwrap();
            stream
        })
        .collect();
    assert_eq!(resident.ask("check 203.0.113.201 port=25"), "accept\n");
    let mut rest = Vec::new();
    assert_eq!(halves[0].read_to_end(&mut rest).unwrap(), 0, "half a line is closed");
}

#[test]
fn who_does_not_read_is_not_written_to_for_ever_and_holds_nobody_up() {
    let resident = Resident::start("");
    let bans: String = (0..2000).map(|number| format!("ban 2001:db8:{number:x}::/48\n")).collect();
    assert!(resident.ask(&bans).lines().all(|line| line == "." || line.starts_with("banned ")));
    let mut greedy = resident.connect();
    greedy.write_all("list\n".repeat(4).as_bytes()).unwrap();
    for number in 0..50 {
        assert_eq!(resident.ask(&format!("check 203.0.113.{number} port=25")), "accept\n");
    }
    // It is let go after five seconds in which it read nothing, or, if it reads, gets everything.
    greedy.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    greedy.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.lines().filter(|line| *line == ".").count(), 4);
    assert_eq!(answers.lines().count(), 4 * 2001);
}

#[test]
fn a_handful_of_lists_is_made_at_a_time() {
    let resident = Resident::start("");
    // More than the sockets hold: none of the lists comes to its end before it is read, and leaves its place to the one that looks.
    let bans: String = (0..8000).map(|number| format!("ban 2001:db8:{number:x}::/48\n")).collect();
    resident.ask(&bans);
    let mut unread: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = resident.connect();
            stream.write_all(b"list\n").unwrap();
            // It has begun.
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect();
    wait_until("one more is refused", || resident.ask("list").starts_with("error 4 lists are being read already"));
    assert_eq!(resident.ask("check 203.0.113.1 port=25"), "accept\n");
    unread.clear();
    wait_until("there is room again", || resident.ask("list").ends_with("\n.\n"));
}

#[test]
fn with_few_file_descriptors_the_longest_idle_make_room() {
    let mut resident = Resident::start("");
    resident.signal(Signal::TERM);
    resident.child.wait().unwrap();
    resident.child = Command::new("/bin/sh")
        .args(["-c", "ulimit -n 100; exec \"$@\"", "sh", STRIKEOUT, "serve", "--config"])
        .arg(resident.dir.path().join("strikeout.toml"))
        .stderr(fs::File::create(resident.dir.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    wait_until("it listens again", || UnixStream::connect(resident.socket()).is_ok());
    let mut idle: Vec<_> = (0..300).map(|_| resident.connect()).collect();
    for number in 0..20 {
        assert_eq!(resident.ask(&format!("check 203.0.113.{number} port=25")), "accept\n");
    }
    assert_eq!(idle[0].read(&mut [0]).unwrap(), 0, "it was closed");
    let processes: Vec<_> = (0..30).map(|number| ConnectionProcess::start(&resident, &format!("198.51.100.{number}"))).collect();
    assert!(processes.iter().all(|process| process.answer == "accept"));
    assert_eq!(resident.ask("check 203.0.113.200 port=25"), "accept\n");
    processes.into_iter().for_each(ConnectionProcess::end);
}

#[test]
fn whatever_bytes_come_it_goes_on() {
    let resident = Resident::start("");
    // A small generator of its own: the same bytes each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = ["check", "strike", "ban", "follow 1", "list", "192.0.2.1", "pid=", "\n", " ", "=", "\0", "\u{e4}", "203.0.113.1/24", "-1"];
    for round in 0..300 {
        let mut stream = resident.connect();
        let bytes: Vec<u8> = if round % 2 == 0 {
            (0..random() % 4000).map(|_| random().to_le_bytes()[3]).collect()
        } else {
            (0..random() % 60).flat_map(|_| words[usize::try_from(random() % 14).unwrap()].bytes()).collect()
        };
        // It may close before it has read all of it.
        let _ = stream.write_all(&bytes);
        if round % 3 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 100]);
        }
    }
    assert_eq!(resident.ask("check 198.51.100.200 port=25"), "accept\n");
    assert!(!resident.log().contains("fault of ours") && !resident.log().contains("panicked"), "{}", resident.log());
}

#[test]
fn a_resident_that_hangs_makes_nobody_wait_and_one_that_is_back_answers() {
    let resident = Resident::start("");
    let helper = |arguments: &[&str]| {
        let output = Command::new(HELPER).arg("--table").arg(resident.socket()).args(arguments).env_clear().output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    resident.ask("ban 203.0.113.9 10m");
    assert!(helper(&["check", "203.0.113.9", "port=25"]).starts_with("defer rule=manual until="));
    resident.signal(Signal::STOP);
    assert_eq!(helper(&["check", "203.0.113.9", "port=25"]), "accept");
    let config = resident.dir.path().join("strikeout.toml");
    fs::write(&config, fs::read_to_string(&config).unwrap() + "on_failure = 'deny'\n").unwrap();
    let deferred = helper(&["--config", config.to_str().unwrap(), "check", "203.0.113.1", "port=25"]);
    assert!(deferred.starts_with("defer rule=on-failure until="), "{deferred}");
    resident.signal(Signal::CONT);
    assert!(helper(&["check", "203.0.113.9", "port=25"]).starts_with("defer rule=manual until="));
}

#[test]
fn bans_and_strikes_outlive_it_and_a_socket_left_behind_is_replaced() {
    let resident = Resident::start(INCIDENT);
    assert!(resident.ask("strike 203.0.113.1 helo\nstrike 203.0.113.1 helo").starts_with("accept\ndefer rule=helo until="));
    assert!(resident.ask("check 203.0.113.1 port=25").starts_with("defer rule=helo"));
    let (_, dir) = resident.end(Signal::KILL);
    assert!(dir.path().join("socket").exists(), "killed, it leaves its socket");
    let resident = Resident::start_in(dir, "0600", INCIDENT);
    assert!(resident.ask("check 203.0.113.1 port=25").starts_with("defer rule=helo"));
    assert_eq!(resident.ask("strike 203.0.113.2 helo"), "accept\n");
    let (status, dir) = resident.end(Signal::TERM);
    assert!(status.success());
    assert!(!dir.path().join("socket").exists(), "at a clean end it removes its socket");
    let resident = Resident::start_in(dir, "0600", INCIDENT);
    assert!(resident.ask("strike 203.0.113.2 helo").starts_with("defer rule=helo"), "the first strike was saved");
    let why = resident.ask("why 203.0.113.1");
    assert!(why.contains("\nmail=refused rule=helo until=") && why.contains("\nevidence=reported by the mail server\n"), "{why}");
}

#[test]
fn a_state_file_that_cannot_be_used_is_no_reason_not_to_serve() {
    let dir = tempfile::tempdir().unwrap();
    // Its directory is a file.
    fs::write(dir.path().join("state"), "").unwrap();
    let resident = Resident::start_in(dir, "0600", INCIDENT);
    assert!(resident.status("state").starts_with("degraded: "), "{}", resident.status("state"));
    assert!(resident.ask("strike 203.0.113.1 helo\nstrike 203.0.113.1 helo").contains("defer rule=helo until="));
    assert!(resident.log().contains("bans are in memory only"));
}

#[test]
fn a_socket_that_cannot_be_made_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let socket = dir.path().join("file/socket");
    fs::write(dir.path().join("strikeout.toml"), format!("[table]\nsocket = {socket:?}\nstate = ''\ngroup = ''\n")).unwrap();
    let output = Command::new(STRIKEOUT).args(["serve", "--config"]).arg(dir.path().join("strikeout.toml")).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains(&format!("{}: cannot be used for the socket", dir.path().join("file").display())), "{stderr}");
}

#[test]
fn a_group_that_is_missing_and_a_mode_that_is_open_are_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let resident = Resident::start_in(dir, "0666", "");
    assert!(resident.log().contains("mode 0666 lets every user of this machine name clients"), "{}", resident.log());
    assert_eq!(fs::metadata(resident.socket()).unwrap().permissions().mode() & 0o777, 0o666);
    let (_, dir) = resident.end(Signal::TERM);
    let config = dir.path().join("strikeout.toml");
    fs::write(&config, fs::read_to_string(&config).unwrap().replace("group = ''", "group = 'no-such-group'")).unwrap();
    let mut child = Command::new(STRIKEOUT).args(["serve", "--config"]).arg(&config).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it listens", || UnixStream::connect(dir.path().join("socket")).is_ok());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    child.wait().unwrap();
    assert!(log.contains("found no group \"no-such-group\""), "{log}");
}

#[test]
fn a_reload_takes_a_good_configuration_and_refuses_a_bad_one_whole() {
    let resident = Resident::start("");
    assert!(resident.ask("strike 203.0.113.1 helo").starts_with("error "));
    resident.reconfigure(INCIDENT);
    assert_eq!(resident.ask("reload"), "reloaded\n.\n");
    assert_eq!(resident.ask("strike 203.0.113.1 helo"), "accept\n");
    resident.reconfigure(&INCIDENT.replace("maxretry = 2", "maxretry = 0"));
    let (_, stderr, code) = resident.operator(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("strikeout.toml:9: found maxretry = 0"), "{stderr}");
    assert!(resident.ask("strike 203.0.113.1 helo").starts_with("defer rule=helo"), "rules and strikes stay");
    resident.signal(Signal::HUP);
    wait_until("the fault is logged", || resident.log().contains("the old one stays in force"));
    resident.reconfigure("");
    resident.signal(Signal::HUP);
    wait_until("the rule is gone", || resident.ask("strike 203.0.113.2 helo").starts_with("error "));
    assert!(resident.ask("check 203.0.113.1 port=25").starts_with("defer rule=helo"), "a ban outlives its rule");
}

#[test]
fn a_log_is_followed_through_rotation_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("mainlog");
    fs::write(&log, "").unwrap();
    let config = format!("[[log]]\npath = {log:?}\nrules = ['exim-per-host']\n");
    let resident = Resident::start_in(dir, "0600", &config);
    let line = |address: &str| {
        let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        let text =
            format!("{now} [99] Connection from [{address}]:4 I=[198.51.100.1]:25 refused: too many connections from that IP address\n");
        fs::File::options().create(true).append(true).open(&log).unwrap().write_all(text.as_bytes()).unwrap();
    };
    let is_refused =
        |resident: &Resident, address: &str| resident.ask(&format!("check {address} port=587")).starts_with("defer rule=exim-per-host");
    wait_until("the log is open", || resident.ask("status").contains("log="));
    std::thread::sleep(Duration::from_millis(200));
    line("203.0.113.1");
    wait_until("the line counts", || is_refused(&resident, "203.0.113.1"));
    assert!(!is_refused(&resident, "198.51.100.1"), "the interface is not blamed");
    fs::rename(&log, log.with_extension("1")).unwrap();
    line("203.0.113.2");
    wait_until("the new file is read", || is_refused(&resident, "203.0.113.2"));
    let (_, dir) = resident.end(Signal::TERM);
    line("203.0.113.3");
    let resident = Resident::start_in(dir, "0600", &config);
    wait_until("what came meanwhile is read", || is_refused(&resident, "203.0.113.3"));
}

#[test]
fn only_root_and_the_own_user_may_ban_unban_and_reload() {
    if !rustix::process::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "skipped: only root can become another user");
        return;
    }
    let dir = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = dir.path().join("strikeout");
    fs::copy(STRIKEOUT, &program).unwrap();
    let resident = Resident::start_in(dir, "0666", "");
    let as_user = |user: &str, arguments: &[&str]| {
        let output = Command::new("setpriv")
            .args(["--reuid", user, "--regid", user, "--clear-groups"])
            .arg(&program)
            .args(arguments)
            .arg("--table")
            .arg(resident.socket())
            .output()
            .expect("setpriv belongs to util-linux");
        (String::from_utf8(output.stderr).unwrap(), output.status.code())
    };
    for user in ["65534", "33"] {
        let named = nix::unistd::User::from_uid(user.parse::<u32>().unwrap().into()).unwrap().map_or(user.to_owned(), |user| user.name);
        for arguments in [&["ban", "203.0.113.1"][..], &["unban", "203.0.113.1"], &["reload"]] {
            let (stderr, code) = as_user(user, arguments);
            assert_eq!(code, Some(1), "{user} {arguments:?}: {stderr}");
            assert!(stderr.contains(&format!("user {named} may not do this")), "{stderr}");
        }
        assert_eq!(as_user(user, &["status"]).1, Some(0));
    }
    let (stdout, _, code) = resident.operator(&["ban", "203.0.113.1", "10m"]);
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with("banned 203.0.113.1"), "{stdout}");
    fs::set_permissions(resident.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    let (stderr, code) = as_user("33", &["status"]);
    assert!(code == Some(1) && stderr.contains("ask as root, or join the group root"), "{stderr}");
}

#[test]
fn the_service_manager_is_told_once_it_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (config, socket, manager) = (dir.path().join("strikeout.toml"), dir.path().join("socket"), dir.path().join("notify"));
    fs::write(&config, format!("[table]\nsocket = {socket:?}\ngroup = ''\nstate = ''\n")).unwrap();
    let told = UnixDatagram::bind(&manager).unwrap();
    told.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut child = Command::new(STRIKEOUT).args(["serve", "--config"]).arg(&config).env("NOTIFY_SOCKET", &manager).spawn().unwrap();
    let next = || {
        let mut message = [0; 100];
        let length = told.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    assert_eq!(next(), "READY=1\n");
    let status = Command::new(STRIKEOUT).args(["status", "--table"]).arg(&socket).output().unwrap();
    assert!(status.status.success(), "{status:?}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(next(), "STOPPING=1\n");
    assert!(child.wait().unwrap().success());
}
