//! What Exim's clients see: a client that opens too many connections gets a 421, everybody else is greeted.

use std::fs::{self, OpenOptions};
use std::io::Write;

use crate::harness::{Stage, wait_for, wait_until};
use crate::rig::{Exim, Mail};

const EXAMPLES: [&str; 2] = ["exim-readsocket.acl", "exim-run.acl"];

/// The sessions of a client that opens this many connections and keeps them open.
fn at_once(port: u16, client: &str, connections: usize) -> Vec<Mail> {
    (0..connections).map(|_| Mail::connect(port, client).unwrap()).collect()
}

fn greeted(sessions: &[Mail]) -> usize {
    sessions.iter().filter(|session| session.code == 220).count()
}

fn more_than_ten_at_once(example: &str) {
    let Some(stage) = Stage::with_exim() else { return };
    let _daemon = stage.daemon("");
    let exim = Exim::start(&stage, &stage.exim_example(example));
    let mut sessions = at_once(exim.port(), "198.51.100.1", 13);
    assert_eq!(greeted(&sessions), 10);
    let refused = &sessions[10];
    assert_eq!((refused.code, refused.greeting.as_str()), (421, "421 4.7.0 Refused for now: 198.51.100.1\r\n"));
    assert_eq!(Mail::connect(exim.port(), "203.0.113.9").unwrap().send().unwrap(), 250, "another client");
    // After closing one, the client may open one.
    drop(sessions.pop_if(|session| session.code == 421));
    assert_eq!(sessions[0].command("QUIT").unwrap(), 221);
    drop(sessions.remove(0));
    wait_until("a connection may be opened again", || Mail::code(exim.port(), "198.51.100.1") == 220);
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn readsocket_acl_refuses_the_eleventh_connection_at_once() {
    more_than_ten_at_once(EXAMPLES[0]);
}

#[test]
fn run_acl_refuses_the_eleventh_connection_at_once() {
    more_than_ten_at_once(EXAMPLES[1]);
}

fn more_than_a_hundred_in_a_minute(example: &str) {
    let Some(stage) = Stage::with_exim() else { return };
    let daemon = stage.daemon("");
    let exim = Exim::start(&stage, &stage.exim_example(example));
    let codes: Vec<u16> = (0..110).map(|_| Mail::code(exim.port(), "198.51.100.1")).collect();
    let greeted = codes.iter().filter(|code| **code == 220).count();
    // On a busy machine an answer may come too late, and then accepts.
    assert!((99..=105).contains(&greeted), "{greeted} of 110 were greeted: {codes:?}");
    assert_eq!(codes.last(), Some(&421));
    assert_eq!(Mail::connect(exim.port(), "203.0.113.9").unwrap().send().unwrap(), 250, "another client");
    let answer = daemon.ask("check 198.51.100.1");
    assert!(answer.starts_with("defer rule=exim-rate until="), "{answer}");
    assert!(exim.mainlog().contains("strikeout: defer rule=exim-rate until="), "the reason is in mainlog");
    assert_eq!(exim.paniclog(), "");
}

#[test]
fn readsocket_acl_refuses_a_client_after_100_connections_in_a_minute() {
    more_than_a_hundred_in_a_minute(EXAMPLES[0]);
}

#[test]
fn run_acl_refuses_a_client_after_100_connections_in_a_minute() {
    more_than_a_hundred_in_a_minute(EXAMPLES[1]);
}

#[test]
fn ten_refusals_within_a_minute_ban_a_client_with_too_many_connections_at_once() {
    let Some(stage) = Stage::with_exim() else { return };
    let _daemon = stage.daemon("");
    let exim = Exim::start(&stage, &stage.exim_example(EXAMPLES[0]));
    let sessions = at_once(exim.port(), "198.51.100.1", 20);
    assert_eq!(greeted(&sessions), 10);
    drop(sessions);
    // No connection is open any more, so this refusal is the ban.
    assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 421);
    assert_eq!(Mail::code(exim.port(), "203.0.113.9"), 220);
}

#[test]
fn a_rule_with_smtp_deny_refuses_with_554() {
    for example in EXAMPLES {
        let Some(stage) = Stage::with_exim() else { return };
        let daemon = stage.daemon("[[rule]]\nname = \"exim-rate\"\nmaxretry = 3\nsmtp = \"deny\"\n");
        let exim = Exim::start(&stage, &stage.exim_example(example));
        let codes: Vec<u16> = (0..5).map(|_| Mail::code(exim.port(), "198.51.100.1")).collect();
        assert_eq!(codes[3..], [554, 554], "{example}: {codes:?}");
        assert!(daemon.ask("check 198.51.100.1").starts_with("deny rule=exim-rate until="));
    }
}

#[test]
fn submission_ports_are_exempt() {
    for example in EXAMPLES {
        let Some(stage) = Stage::with_exim() else { return };
        let _daemon = stage.daemon("[[rule]]\nname = \"exim-rate\"\nmaxretry = 3\n");
        let exim = Exim::start(&stage, &stage.exim_example(example));
        let codes: Vec<u16> = (0..5).map(|_| Mail::code(exim.port(), "198.51.100.1")).collect();
        assert_eq!(codes[4], 421, "{example}");
        let sessions = at_once(exim.submission(), "198.51.100.1", 12);
        assert_eq!(greeted(&sessions), 12, "{example}: banned on port 25, but a user of this server");
    }
}

#[test]
fn connections_from_this_machine_are_never_refused() {
    for example in EXAMPLES {
        let Some(stage) = Stage::with_exim() else { return };
        let _daemon = stage.daemon("[[rule]]\nname = \"exim-rate\"\nmaxretry = 3\n");
        let exim = Exim::start(&stage, &stage.exim_example(example));
        for local in ["127.0.0.1", "127.0.0.9", "::1"] {
            let codes: Vec<u16> = (0..6).map(|_| Mail::code(exim.port(), local)).collect();
            assert_eq!(codes, [220; 6], "{example}: {local}");
        }
    }
}

#[test]
fn an_ipv6_network_of_64_bits_is_one_client() {
    let Some(stage) = Stage::with_exim() else { return };
    let _daemon = stage.daemon("[[rule]]\nname = \"exim-rate\"\nmaxretry = 3\n");
    let exim = Exim::start(&stage, &stage.exim_example(EXAMPLES[0]));
    for host in 1..=4 {
        Mail::code(exim.port(), &format!("2001:db8:1:1::{host}"));
    }
    assert_eq!(Mail::code(exim.port(), "2001:db8:1:1::5"), 421);
    assert_eq!(Mail::code(exim.port(), "2001:db8:1:2::5"), 220);
}

/// A configuration that follows the log of this Exim.
fn following(exim: &Exim) -> String {
    format!("[[log]]\npath = \"{}\"\nrules = [\"exim-per-host\", \"exim-global\"]\n", exim.mainlog_path().display())
}

fn log(exim: &Exim, line: &str) {
    let now = local_time();
    let mut file = OpenOptions::new().append(true).create(true).open(exim.mainlog_path()).unwrap();
    writeln!(file, "{now} {line}").unwrap();
}

/// The local time as Exim writes it.
fn local_time() -> String {
    let output = std::process::Command::new("date").arg("+%Y-%m-%d %H:%M:%S").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn refusals_in_mainlog_ban_through_rotation() {
    let Some(stage) = Stage::with_exim() else { return };
    let exim = Exim::start(&stage, &stage.exim_example(EXAMPLES[0]));
    let _daemon = stage.daemon(&following(&exim));
    log(&exim, "Connection from [198.51.100.1] refused: too many connections from that IP address");
    wait_until("the first is banned", || Mail::code(exim.port(), "198.51.100.1") == 421);
    fs::rename(exim.mainlog_path(), exim.mainlog_path().with_extension("1")).unwrap();
    // Run as root, Exim makes the new file itself.
    wait_for("Exim logs to a new file", || {
        Mail::connect(exim.port(), "203.0.113.9").unwrap().command("NONSENSE").unwrap();
        (exim.mainlog_path().exists() || !exim.logs_by_itself()).then_some(())
    });
    log(&exim, "[4242] Connection from [198.51.100.2]:43099 I=[192.0.2.25]:25 refused: too many connections from that IP address");
    wait_until("the second is banned", || Mail::code(exim.port(), "198.51.100.2") == 421);
    // Neither the PID nor the interface was taken for the client's address.
    assert_eq!(Mail::code(exim.port(), "0.0.16.146"), 220);
    assert_eq!(Mail::code(exim.port(), "192.0.2.25"), 220);
}

#[test]
fn one_line_of_the_global_limit_bans_nobody() {
    let Some(stage) = Stage::with_exim() else { return };
    let exim = Exim::start(&stage, &stage.exim_example(EXAMPLES[0]));
    let _daemon = stage.daemon(&following(&exim));
    log(&exim, "Connection from [198.51.100.1] refused: too many connections");
    // Lines are read in order: once the last one has had its effect, the first one has been read.
    log(&exim, "Connection from [198.51.100.2] refused: too many connections from that IP address");
    wait_until("the last line is read", || Mail::code(exim.port(), "198.51.100.2") == 421);
    assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 220);
}

#[test]
fn refusals_by_exim_itself_are_read_from_its_log() {
    let Some(stage) = Stage::with_exim() else { return };
    // Every log selector that changes the line is on.
    let selectors = "smtp_accept_max_per_host = 1\nlog_selector = +pid +millisec +incoming_port +incoming_interface\n";
    let exim = Exim::start_with(&stage, &stage.exim_example(EXAMPLES[0]), selectors);
    let daemon = stage.daemon(&following(&exim));
    // For this limit Exim takes the real peer, which is this machine. It logs the line, and nobody is banned.
    let _open = Mail::connect(exim.port(), "203.0.113.9").unwrap();
    let mut refused = Mail::connect(exim.port(), "203.0.113.8").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(refused.code, 421);
    assert!(refused.command("QUIT").is_err());
    wait_until("Exim logs its refusal", || exim.mainlog().contains("refused: too many connections from that IP address"));
    let real = exim.mainlog().lines().find(|line| line.contains("refused: too many")).unwrap().to_owned();
    // The same line with another address bans that address.
    let mut file = OpenOptions::new().append(true).open(exim.mainlog_path()).unwrap();
    writeln!(file, "{}", real.replacen("127.0.0.1", "198.51.100.7", 1)).unwrap();
    wait_until("the address is banned", || daemon.ask("check 198.51.100.7").starts_with("defer rule=exim-per-host"));
    assert!(daemon.ask("check 127.0.0.1").starts_with("accept"));
}
