//! Mail connections, counted by the process that serves each.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::harness::{Daemon, EXIM_HELPER, Stage, wait_for, wait_until};
/// Stands in for a connection process of Exim: a shell that asks as `conf-examples/exim-run.acl` does, then stays alive.
pub struct ConnectionProcess {
    shell: Child,
    pub answer: String,
}

impl ConnectionProcess {
    pub fn start(daemon: &Daemon, address: &str) -> Self {
        Self::start_naming(daemon, address, "$$")
    }

    /// Starts one until the helper has got the daemon's answer: on a busy machine that may take more than the 180 ms for which it waits.
    fn start_in_time(daemon: &Daemon, address: &str) -> Self {
        wait_for("an answer of the daemon's", || {
            let watched = daemon.status("mail_connections_watched");
            let process = Self::start(daemon, address);
            if !process.answer.contains("rule=on-failure") {
                return Some(process);
            }
            // The daemon may have counted the connection, and forgets it with the process.
            process.end();
            wait_until("its end is noticed", || daemon.status("mail_connections_watched") == watched);
            None
        })
    }

    /// Starts one that gives `pid` as its process number.
    fn start_naming(daemon: &Daemon, address: &str, pid: &str) -> Self {
        let config = daemon.stage().config();
        let ask = format!(
            "/bin/sh -c \"timeout -s KILL 5 $0 --config {} --table $1 check $2 pid={pid} port=25 || :\"; echo; read x",
            config.display()
        );
        let mut shell = Command::new("/bin/sh")
            .args(["-c", &ask, EXIM_HELPER])
            .arg(daemon.socket())
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

    pub fn end(mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }
}

#[test]
fn simultaneous_connections_are_counted_by_process_until_it_ends() {
    let rule = "[[rule]]\nname = 'exim-simultaneous'\nsimultaneous = 3\nmaxretry = 1000\n";
    let daemon = Daemon::start_on(&Stage::new(), "on_failure = 'deny'\n", rule);
    let mut open: Vec<_> = (0..3).map(|_| ConnectionProcess::start_in_time(&daemon, "203.0.113.7")).collect();
    assert!(open.iter().all(|process| process.answer == "accept"));
    assert_eq!(daemon.status("mail_connections_watched"), "3");
    let refused = ConnectionProcess::start_in_time(&daemon, "203.0.113.7");
    assert!(refused.answer.starts_with("defer rule=exim-simultaneous until="), "{}", refused.answer);
    let other = ConnectionProcess::start_in_time(&daemon, "203.0.113.8");
    assert_eq!(other.answer, "accept", "another client");
    assert_eq!(daemon.status("mail_connections_watched"), "4", "a refused connection is not watched");
    open.pop().unwrap().end();
    wait_until("the end of a process is noticed", || daemon.status("mail_connections_watched") == "3");
    let next = ConnectionProcess::start_in_time(&daemon, "203.0.113.7");
    assert_eq!(next.answer, "accept");
    for process in open.into_iter().chain([refused, other, next]) {
        process.end();
    }
    wait_until("all ends are noticed", || daemon.status("mail_connections_watched") == "0");
}

#[test]
fn only_an_ancestor_of_the_helper_counts_as_its_connection_process() {
    let daemon = Daemon::start("");
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let process = ConnectionProcess::start_naming(&daemon, "203.0.113.7", &stranger.id().to_string());
    assert_eq!(process.answer, "accept");
    // The helper's parent was watched instead. That was `timeout`, which has ended; the stranger is alive and not watched.
    wait_until("nobody is watched", || daemon.status("mail_connections_watched") == "0");
    process.end();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn the_end_of_the_last_process_is_noticed_without_another_request() {
    let daemon = Daemon::start("[metrics]\nlisten = '127.0.0.1:0'\n");
    let logged = || Some(daemon.log().split_once("metrics on http://")?.1.split_once('/')?.0.to_owned());
    wait_until("the listener's address is logged", || logged().is_some());
    let address = logged().unwrap();
    // HTTP is answered by another thread, so it does not wake the event loop.
    let watched = || {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page.lines().find_map(|line| line.strip_prefix("strikeout_mail_connections ")).map(str::to_owned)
    };
    let process = ConnectionProcess::start(&daemon, "203.0.113.7");
    wait_until("it is watched", || watched().as_deref() == Some("1"));
    process.end();
    wait_until("its end is noticed", || watched().as_deref() == Some("0"));
}

#[test]
fn one_connection_process_counts_once_however_often_it_asks() {
    let daemon = Daemon::start("[[rule]]\nname = 'exim-rate'\nmaxretry = 3\n");
    for _ in 0..10 {
        assert_eq!(daemon.ask("check 203.0.113.7 port=25\n"), "accept\n");
    }
    for _ in 0..2 {
        let process = ConnectionProcess::start(&daemon, "203.0.113.7");
        let is_third = process.answer.starts_with("defer rule=exim-rate until=");
        process.end();
        if is_third {
            return;
        }
    }
    panic!("the third process was not refused");
}
