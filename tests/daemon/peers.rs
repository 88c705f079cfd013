//! Whoever asks on the socket: order and number of answers, limits, silence, garbage, rights.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::INCIDENT;
use super::connections::ConnectionProcess;
use super::harness::{Daemon, STRIKEOUT, Stage, is_root, wait_until};
#[test]
fn requests_of_a_connection_are_answered_in_order_and_an_error_closes_it() {
    let daemon = Daemon::start(INCIDENT);
    let lines = "check 203.0.113.1\nstrike 203.0.113.2 helo\nunban 203.0.113.9\nstrike 203.0.113.2 helo\nnonsense\ncheck 203.0.113.3\n";
    let answers = daemon.ask(lines);
    let words: Vec<&str> = answers.lines().map(|line| line.split([' ', ',']).next().unwrap()).collect();
    assert_eq!(words, ["accept", "accept", r#"{"target":"203.0.113.9""#, ".", "defer", "error"], "{answers}");
}

#[test]
fn only_an_incident_rule_can_be_reported() {
    let daemon = Daemon::start(INCIDENT);
    for (rule, expected) in
        [("w00tw00t", "error found \"w00tw00t\", expected"), ("nix", "error found \"nix\", expected"), ("helo", "accept")]
    {
        assert!(daemon.ask(&format!("strike 203.0.113.1 {rule}")).starts_with(expected), "{rule}");
    }
    assert_eq!(daemon.ask("strike  helo"), "accept\n", "no address");
    assert!(daemon.ask("strike 203.0.113.1 helo").starts_with("defer rule=helo"));
    assert!(daemon.ask("check 203.0.113.1 port=25").starts_with("defer rule=helo"));
    assert_eq!(daemon.ask("strike 127.0.0.1 helo\nstrike 127.0.0.1 helo\nstrike 127.0.0.1 helo"), "accept\n".repeat(3), "never banned");
}

#[test]
fn too_many_reported_strikes_get_errors_and_others_are_served() {
    let daemon = Daemon::start("[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1000000\n");
    let lines: String = (0..4000).map(|number| format!("strike 203.0.{}.{} helo\n", number / 250, number % 250)).collect();
    let mut stream = daemon.connect();
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
    assert_eq!(daemon.ask("check 203.0.113.1 port=25"), "accept\n");
}

#[test]
fn a_burst_that_arrived_before_the_first_read_is_answered_in_full() {
    let daemon = Daemon::start("");
    daemon.signal(Signal::STOP);
    let mut stream = daemon.connect();
    stream.write_all("check 203.0.113.1 port=25\n".repeat(3000).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    daemon.signal(Signal::CONT);
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.lines().count(), 3000);
}

#[test]
fn thousands_of_silent_connections_delay_nobody() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(100_000);
    let daemon = Daemon::start("");
    let mut idle = Vec::new();
    for number in 0..5000.min(files.saturating_sub(200)) {
        idle.push(daemon.connect());
        if number % 500 == 0 {
            assert_eq!(daemon.ask(&format!("check 203.0.113.{} port=25", number / 500)), "accept\n");
        }
    }
    assert_eq!(daemon.ask("check 203.0.113.200 port=25"), "accept\n");
    let mut halves: Vec<_> = (0..500)
        .map(|_| {
            let mut stream = daemon.connect();
            stream.write_all(b"che").unwrap();
            stream
        })
        .collect();
    assert_eq!(daemon.ask("check 203.0.113.201 port=25"), "accept\n");
    let mut rest = Vec::new();
    assert_eq!(halves[0].read_to_end(&mut rest).unwrap(), 0, "half a line is closed");
}

#[test]
fn a_peer_that_does_not_read_delays_nobody() {
    let daemon = Daemon::start("");
    let bans: String = (0..2000).map(|number| format!("ban 2001:db8:{number:x}::/48\n")).collect();
    assert!(daemon.ask(&bans).lines().all(|line| line == "." || line.starts_with(r#"{"banned":"#)));
    let mut greedy = daemon.connect();
    greedy.write_all("list\n".repeat(4).as_bytes()).unwrap();
    for number in 0..50 {
        assert_eq!(daemon.ask(&format!("check 203.0.113.{number} port=25")), "accept\n");
    }
    // Reading again within the timeout of five seconds, it gets everything.
    greedy.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    greedy.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.lines().filter(|line| *line == ".").count(), 4);
    assert_eq!(answers.lines().count(), 4 * 2001);
}

#[test]
fn only_a_few_lists_are_sent_at_a_time() {
    let daemon = Daemon::start("");
    // More than the socket buffers hold, so that no list is complete before it is read.
    let bans: String = (0..8000).map(|number| format!("ban 2001:db8:{number:x}::/48\n")).collect();
    daemon.ask(&bans);
    let mut unread: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = daemon.connect();
            stream.write_all(b"list\n").unwrap();
            // The first byte shows that the list has begun.
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect();
    wait_until("one more is refused", || daemon.ask("list").starts_with("error 4 lists are being read already"));
    assert_eq!(daemon.ask("check 203.0.113.1 port=25"), "accept\n");
    unread.clear();
    wait_until("there is room again", || daemon.ask("list").ends_with("\n.\n"));
}

#[test]
fn with_few_file_descriptors_the_longest_idle_connections_are_closed() {
    let stage = Stage::new();
    stage.configure("", "");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -n 100; exec \"$@\"", "sh", STRIKEOUT]);
    let daemon = Daemon::start_by(&stage, command);
    let mut idle: Vec<_> = (0..300).map(|_| daemon.connect()).collect();
    for number in 0..20 {
        assert_eq!(daemon.ask(&format!("check 203.0.113.{number} port=25")), "accept\n");
    }
    assert_eq!(idle[0].read(&mut [0]).unwrap(), 0, "it was closed");
    let processes: Vec<_> = (0..30).map(|number| ConnectionProcess::start(&daemon, &format!("198.51.100.{number}"))).collect();
    assert!(processes.iter().all(|process| process.answer == "accept"));
    assert_eq!(daemon.ask("check 203.0.113.200 port=25"), "accept\n");
    processes.into_iter().for_each(ConnectionProcess::end);
}

#[test]
fn random_bytes_do_not_stop_it() {
    let daemon = Daemon::start("");
    // Xorshift with a fixed seed: the same bytes each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words =
        ["check", "strike", "ban", "subscribe 1", "list", "192.0.2.1", "pid=", "\n", " ", "=", "\0", "\u{e4}", "203.0.113.1/24", "-1"];
    for round in 0..300 {
        let mut stream = daemon.connect();
        let bytes: Vec<u8> = if round % 2 == 0 {
            (0..random() % 4000).map(|_| random().to_le_bytes()[3]).collect()
        } else {
            (0..random() % 60).flat_map(|_| words[usize::try_from(random() % 14).unwrap()].bytes()).collect()
        };
        // The daemon may close the connection before it has read everything.
        let _ = stream.write_all(&bytes);
        if round % 3 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 100]);
        }
    }
    assert_eq!(daemon.ask("check 198.51.100.200 port=25"), "accept\n");
    assert!(!daemon.log().contains("internal fault") && !daemon.log().contains("panicked"), "{}", daemon.log());
}

#[test]
fn a_stopped_daemon_delays_nobody_and_answers_once_it_continues() {
    let daemon = Daemon::start("");
    let helper = |arguments: &[&str]| daemon.stage().exim_helper(arguments).0;
    daemon.ask("ban 203.0.113.9 10m");
    assert!(helper(&["check", "203.0.113.9", "port=25"]).starts_with("defer rule=manual until="));
    daemon.signal(Signal::STOP);
    assert_eq!(helper(&["check", "203.0.113.9", "port=25"]), "accept");
    daemon.configure("on_failure = 'deny'\n");
    let config = daemon.stage().config();
    let deferred = helper(&["--config", config.to_str().unwrap(), "check", "203.0.113.1", "port=25"]);
    assert!(deferred.starts_with("defer rule=on-failure until="), "{deferred}");
    daemon.signal(Signal::CONT);
    assert!(helper(&["check", "203.0.113.9", "port=25"]).starts_with("defer rule=manual until="));
}

#[test]
fn only_root_and_the_daemons_user_may_ban_unban_and_reload() {
    if !is_root("become another user") {
        return;
    }
    let stage = Stage::new();
    stage.open();
    let program = stage.program("strikeout");
    let daemon = Daemon::start_on(&stage, "mode = '0666'", "");
    let as_user = |user: &str, arguments: &[&str]| {
        let output = Command::new("setpriv")
            .args(["--reuid", user, "--regid", user, "--clear-groups"])
            .arg(&program)
            .args(arguments)
            .arg("--table")
            .arg(daemon.socket())
            .output()
            .expect("setpriv belongs to util-linux");
        (String::from_utf8(output.stderr).unwrap(), output.status.code())
    };
    for user in ["65534", "33"] {
        let known = nix::unistd::User::from_uid(user.parse::<u32>().unwrap().into()).unwrap();
        let named = known.map_or(user.to_owned(), |known| format!("{} (uid {user})", known.name));
        for arguments in [&["ban", "203.0.113.1"][..], &["unban", "203.0.113.1"], &["reload"]] {
            let (stderr, code) = as_user(user, arguments);
            assert_eq!(code, Some(1), "{user} {arguments:?}: {stderr}");
            assert!(stderr.contains(&format!("user {named} may not do this")), "{stderr}");
        }
        assert_eq!(as_user(user, &["status"]).1, Some(0));
    }
    let (stdout, _, code) = daemon.run(&["ban", "203.0.113.1", "10m"]);
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with("banned 203.0.113.1"), "{stdout}");
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    let (stderr, code) = as_user("33", &["status"]);
    assert!(code == Some(1) && stderr.contains("ask as root, or join the group root"), "{stderr}");
}
