//! Logs that are not as they should be: what `status` and `check` say about them, and that nothing in them counts twice.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{Daemon, STRIKEOUT, Stage, wait_until};

const CLIENT: &str = "203.0.113.30";

/// A daemon in a time zone, which has seen that its log is not there yet.
fn start(stage: &Stage, zone: &str, keys: &str) -> (Daemon, PathBuf) {
    let log = stage.path("mainlog");
    stage.configure("", &format!("[[rule]]\nname = 'guesses'\nexim = 'auth-failed'\nmaxretry = 10\n[[log]]\npath = {log:?}\n{keys}\n"));
    let mut command = Command::new(STRIKEOUT);
    command.env("TZ", zone);
    let daemon = Daemon::start_by(stage, command);
    wait_until("the path was looked at", || {
        state(&daemon).get("missing").is_some_and(|missing| missing == true) || !fault(&daemon).is_empty()
    });
    (daemon, log)
}

fn state(daemon: &Daemon) -> serde_json::Value {
    daemon.object("status").pointer("/logs/0").unwrap().clone()
}

fn lines(daemon: &Daemon) -> Option<u64> {
    state(daemon).get("lines")?.as_u64()
}

fn fault(daemon: &Daemon) -> String {
    state(daemon).get("fault").unwrap().as_str().unwrap_or_default().to_owned()
}

fn append(log: &Path, text: &str) {
    fs::File::options().create(true).append(true).open(log).unwrap().write_all(text.as_bytes()).unwrap();
}

/// A line that Exim writes now, in UTC and without saying so.
fn line(text: &str) -> String {
    format!("{} {text}\n", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S"))
}

fn attempt(number: usize) -> String {
    line(&format!("[{number}] plain authenticator failed for (x) [{CLIENT}]: 535 Incorrect authentication data (set_id=a)"))
}

fn strikes(daemon: &Daemon) -> u64 {
    daemon.number("offences_counted")
}

/// The rules over bans count bans as offences, too.
fn bans_made(daemon: &Daemon) -> u64 {
    daemon.number("bans_made")
}

#[test]
fn a_log_in_another_time_zone_counts_as_of_now_and_its_zone_is_named() {
    for zone in ["Europe/Berlin", "Asia/Kolkata", "America/New_York"] {
        let stage = Stage::new();
        let (daemon, log) = start(&stage, zone, "rules = ['exim-per-host']\noptional = true");
        append(&log, &line(&format!("Connection from [{CLIENT}] refused: too many connections from that IP address")));
        wait_until("the line counts", || bans_made(&daemon) == 1);
        let ban = daemon.objects("list").remove(0);
        let left = ban.get("remaining").and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("{ban}"));
        assert!((3500..=3600).contains(&left), "{zone}: an hour from now, and not {left} s");
        wait_until("the zone is named", || fault(&daemon).contains("expected zone = \"UTC\" in this [[log]]"));
        let text = daemon.text(&["status"]);
        assert!(text.contains("mainlog: ") && text.contains("zone = \"UTC\""), "{text}");
        let output = Command::new(STRIKEOUT).env("TZ", zone).args(["check", "--config"]).arg(stage.config()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("FAULT: its times are ") && text.contains("zone = \"UTC\""), "{text}");
        daemon.end(rustix::process::Signal::TERM);

        let (daemon, log) = start(&Stage::new(), zone, "rules = ['exim-per-host']\noptional = true\nzone = 'UTC'");
        append(&log, &line(&format!("Connection from [{CLIENT}] refused: too many connections from that IP address")));
        wait_until("the line counts", || bans_made(&daemon) == 1);
        assert_eq!(fault(&daemon), "", "{zone}");
    }
}

#[test]
fn nothing_counts_twice_when_a_log_is_rewritten() {
    for way in ["sed -i /other/d LOG", "sed -i.bak /other/d LOG", "cp LOG copy && mv copy LOG", "grep -v other LOG > copy; cat copy > LOG"]
    {
        let stage = Stage::new();
        let (daemon, log) = start(&stage, "UTC", "rules = ['guesses']\noptional = true");
        for number in 0..3 {
            append(&log, &attempt(number));
        }
        append(&log, &line("other"));
        append(&log, &attempt(3).repeat(3));
        wait_until("all lines are read", || lines(&daemon) == Some(7));
        assert_eq!(strikes(&daemon), 6, "{way}");
        let command = way.replace("LOG", "mainlog");
        let done = Command::new("sh").current_dir(log.parent().unwrap()).args(["-c", &command]).status().unwrap();
        assert!(done.success(), "{way}");
        append(&log, &attempt(4));
        wait_until("the new line is read", || lines(&daemon) >= Some(8));
        assert_eq!((strikes(&daemon), lines(&daemon)), (7, Some(8)), "{way}");
    }
}

#[test]
fn what_a_server_writes_to_a_log_that_was_replaced_counts_and_status_says_so() {
    let stage = Stage::new();
    let (daemon, log) = start(&stage, "UTC", "rules = ['guesses']\noptional = true");
    append(&log, &attempt(0));
    wait_until("the line is read", || lines(&daemon) == Some(1));
    let mut server = fs::File::options().append(true).open(&log).unwrap();
    let done = Command::new("sed").args(["-i", "/other/d"]).arg(&log).status().unwrap();
    assert!(done.success());
    append(&log, &line("something else"));
    wait_until("the new file is read", || lines(&daemon) == Some(2));
    server.write_all(attempt(1).as_bytes()).unwrap();
    wait_until("the fault is named", || fault(&daemon).contains("a file that another one has replaced"));
    assert_eq!((strikes(&daemon), lines(&daemon)), (2, Some(3)));
    append(&log, &attempt(2));
    wait_until("the line in the new file is read", || lines(&daemon) == Some(4));
    assert_eq!(strikes(&daemon), 3);
    assert!(!fault(&daemon).is_empty(), "another process of its server may still write to the old one");
}

#[test]
fn a_removed_ban_does_not_come_back_with_a_copy_of_the_log() {
    let stage = Stage::new();
    let (daemon, log) = start(&stage, "UTC", "rules = ['exim-per-host']\noptional = true");
    let is_refused = |daemon: &Daemon| daemon.ask(&format!("check {CLIENT} port=25")).starts_with("defer ");
    append(&log, &line(&format!("Connection from [{CLIENT}] refused: too many connections from that IP address")));
    wait_until("the client is banned", || is_refused(&daemon));
    daemon.text(&["unban", CLIENT]);
    let copy = stage.path("copy");
    fs::copy(&log, &copy).unwrap();
    fs::rename(&copy, &log).unwrap();
    append(&log, &line("something else"));
    wait_until("the copy is read", || lines(&daemon) == Some(2));
    assert!(!is_refused(&daemon));
    daemon.end(rustix::process::Signal::TERM);
    fs::copy(&log, &copy).unwrap();
    fs::rename(&copy, &log).unwrap();
    let daemon = Daemon::start_again(&stage);
    append(&log, &line("something else"));
    wait_until("the next copy is read", || lines(&daemon) == Some(1));
    assert!(!is_refused(&daemon));
}

#[test]
fn a_log_that_is_missing_or_not_understood_is_named_by_status_and_check() {
    let stage = Stage::new();
    let (daemon, log) = start(&stage, "UTC", "");
    assert!(fault(&daemon).starts_with("found no such file, expected the log's path"), "{}", fault(&daemon));
    let check = || {
        let output = Command::new(STRIKEOUT).args(["check", "--config"]).arg(stage.config()).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*errors), (Some(1), "strikeout: found a log with a FAULT, which is shown above\n"));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(check().contains("mainlog: FAULT: found no such file"), "{}", check());
    append(&log, "what is \x1b[31mthis?\n");
    wait_until("the line is read", || fault(&daemon).contains("not understood"));
    for text in [fault(&daemon), check(), daemon.text(&["status"])] {
        assert!(text.contains(r#"100 % of its last 1 lines are not understood, such as "what is \x1b[31mthis?"; expected "#), "{text}");
    }
    let exits_with = |option: Option<&str>| {
        let mut command = Command::new(STRIKEOUT);
        command.arg("check").args(option).arg("--config").arg(stage.config()).output().unwrap().status.code()
    };
    assert_eq!(exits_with(Some("--no-logs")), Some(0));
    append(&log, &"203.0.113.9 - - [23/Nov/2026:01:02:03 +0000] \"GET / HTTP/1.1\" 200 1\n".repeat(10));
    assert_eq!(exits_with(None), Some(0), "one line in eleven is no fault");
}
