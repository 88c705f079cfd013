//! The daemon from its start to its end: configuration, state, logs, reloads and restarts.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::INCIDENT;
use super::harness::{DEADLINE, Daemon, STRIKEOUT, Stage, wait_until};
#[test]
fn how_many_bans_have_no_line_in_the_log_is_told_at_the_end() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", INCIDENT);
    let lines: String = (0..103).map(|number| format!("strike 203.0.113.{number} helo\n").repeat(2)).collect();
    assert_eq!(daemon.ask(&lines).matches("defer rule=helo").count(), 103);
    assert!(daemon.end(Signal::TERM).success());
    let log = fs::read_to_string(stage.path("log")).unwrap();
    assert!(log.matches(" banned 203.0.113.").count() == 100 && log.contains(" banned 3 more: helo 3\n"), "{log}");
}

#[test]
fn bans_and_strikes_survive_a_restart_and_a_stale_socket_is_replaced() {
    let daemon = Daemon::start(INCIDENT);
    assert!(daemon.ask("strike 203.0.113.1 helo\nstrike 203.0.113.1 helo").starts_with("accept\ndefer rule=helo until="));
    assert!(daemon.ask("check 203.0.113.1 port=25").starts_with("defer rule=helo"));
    let stage = daemon.stage().clone();
    daemon.end(Signal::KILL);
    assert!(stage.socket().exists(), "a killed daemon leaves its socket");
    let daemon = Daemon::start_again(&stage);
    assert!(daemon.ask("check 203.0.113.1 port=25").starts_with("defer rule=helo"));
    assert_eq!(daemon.ask("strike 203.0.113.2 helo"), "accept\n");
    assert!(daemon.end(Signal::TERM).success());
    assert!(!stage.socket().exists(), "a clean end removes the socket");
    let daemon = Daemon::start_again(&stage);
    assert!(daemon.ask("strike 203.0.113.2 helo").starts_with("defer rule=helo"), "the first strike was saved");
    let why = daemon.object("why 203.0.113.1");
    assert_eq!(
        (&why["services"]["mail"]["rule"], &why["ban"]["evidence"]),
        (&"helo".into(), &"reported by the mail server".into()),
        "{why}"
    );
}

#[test]
fn it_serves_without_a_usable_state_file() {
    let stage = Stage::new();
    // The state file's directory is a file.
    stage.write("state", "");
    let daemon = Daemon::start_on(&stage, "", INCIDENT);
    assert!(daemon.status("state").starts_with("degraded: "), "{}", daemon.status("state"));
    assert!(daemon.ask("strike 203.0.113.1 helo\nstrike 203.0.113.1 helo").contains("defer rule=helo until="));
    assert!(daemon.log().contains("bans are in memory only"));
}

#[test]
fn a_socket_that_cannot_be_created_is_a_clear_error() {
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
fn a_missing_group_and_an_open_mode_are_warned_about() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "mode = '0666'", "");
    assert!(daemon.log().contains("mode 0666 lets every user of this machine name clients"), "{}", daemon.log());
    assert_eq!(fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o777, 0o666);
    daemon.end(Signal::TERM);
    let daemon = Daemon::start_on(&stage, "group = 'no-such-group'", "");
    let log = daemon.log();
    assert!(log.contains("found no group \"no-such-group\""), "{log}");
}

#[test]
fn a_reload_takes_a_valid_configuration_and_rejects_an_invalid_one_entirely() {
    let daemon = Daemon::start("");
    assert!(daemon.ask("strike 203.0.113.1 helo").starts_with("error "));
    daemon.configure(INCIDENT);
    assert!(daemon.ask("reload").starts_with("{\"reloaded\":true,\"notes\":[],"));
    assert_eq!(daemon.ask("strike 203.0.113.1 helo"), "accept\n");
    daemon.configure(&INCIDENT.replace("maxretry = 2", "maxretry = 0"));
    let (_, stderr, code) = daemon.run(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("strikeout.toml:9: found maxretry = 0"), "{stderr}");
    assert!(daemon.ask("strike 203.0.113.1 helo").starts_with("defer rule=helo"), "rules and strikes stay");
    daemon.signal(Signal::HUP);
    wait_until("the fault is logged", || daemon.log().contains("Z stays in force"));
    daemon.configure("");
    daemon.signal(Signal::HUP);
    // A new client each time: two strikes before the reload would ban it, and a banned client is refused whatever the rule.
    let mut clients = u32::from(std::net::Ipv4Addr::new(198, 18, 0, 0))..;
    wait_until("the rule is gone", || {
        let client = std::net::Ipv4Addr::from(clients.next().unwrap());
        daemon.ask(&format!("strike {client} helo")).starts_with("error ")
    });
    wait_until("the bans of the rule end with it", || daemon.ask("check 203.0.113.1 port=25") == "accept\n");
    daemon.ask("ban 203.0.113.1");
    assert!(daemon.ask("strike 203.0.113.1 helo").starts_with("defer rule=manual"), "a banned client is refused whatever the rule");
}

#[test]
fn a_log_is_followed_through_rotation_and_a_restart() {
    let stage = Stage::new();
    let log = stage.write("mainlog", "");
    let daemon = Daemon::start_on(&stage, "", &format!("[[log]]\npath = {log:?}\nrules = ['exim-per-host']\n"));
    let line = |address: &str| {
        let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        let text =
            format!("{now} [99] Connection from [{address}]:4 I=[198.51.100.1]:25 refused: too many connections from that IP address\n");
        fs::File::options().create(true).append(true).open(&log).unwrap().write_all(text.as_bytes()).unwrap();
    };
    let is_refused =
        |daemon: &Daemon, address: &str| daemon.ask(&format!("check {address} port=25")).starts_with("defer rule=exim-per-host");
    // A log without a saved position is followed from its end, and nothing shows when that was found. So the line is written until it counts.
    wait_until("the line counts", || {
        line("203.0.113.1");
        is_refused(&daemon, "203.0.113.1")
    });
    assert!(!is_refused(&daemon, "198.51.100.1"), "the interface is not blamed");
    fs::rename(&log, log.with_extension("1")).unwrap();
    line("203.0.113.2");
    wait_until("the new file is read", || is_refused(&daemon, "203.0.113.2"));
    daemon.end(Signal::TERM);
    line("203.0.113.3");
    let daemon = Daemon::start_again(&stage);
    wait_until("lines written meanwhile are read", || is_refused(&daemon, "203.0.113.3"));
}

#[test]
fn the_service_manager_is_notified_once_it_answers_and_then_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let (config, socket, manager) = (dir.path().join("strikeout.toml"), dir.path().join("socket"), dir.path().join("notify"));
    fs::write(&config, format!("[table]\nsocket = {socket:?}\ngroup = ''\nstate = ''\n")).unwrap();
    let notifications = UnixDatagram::bind(&manager).unwrap();
    notifications.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = Command::new(STRIKEOUT);
    let mut child =
        command.args(["serve", "--config"]).arg(&config).env("NOTIFY_SOCKET", &manager).env("WATCHDOG_USEC", "300000").spawn().unwrap();
    let next = || {
        let mut message = [0; 100];
        let length = notifications.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    assert_eq!(next(), "READY=1\n");
    let status = Command::new(STRIKEOUT).args(["status", "--table"]).arg(&socket).output().unwrap();
    assert!(status.status.success(), "{status:?}");
    // Heartbeats, although nothing else happens.
    (0..5).for_each(|_| assert_eq!(next(), "WATCHDOG=1\n"));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let last = std::iter::repeat_with(next).find(|message| message != "WATCHDOG=1\n");
    assert_eq!(last.as_deref(), Some("STOPPING=1\n"));
    assert!(child.wait().unwrap().success());
}
