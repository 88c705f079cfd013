//! Answers while the daemon hangs, has ended or cannot be reached: in a bounded time, as `on_failure` says.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::harness::{Daemon, SquidHelper, Stage, is_root, wait_until};

/// An answer is due within 200 ms; a busy machine takes longer to start the process that gives it. Whoever waited for the daemon itself would wait
/// for many seconds. The fastest of several counts.
const LIMIT: Duration = Duration::from_secs(2);
const TRIES: u8 = 5;

const RULE: &str = "[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 3\n";

/// The answer to the first offence of several clients, which must be the same for all and arrive within the limit.
#[track_caller]
fn offence(helper: &mut SquidHelper, subnet: u8) -> String {
    let mut fastest = Duration::MAX;
    let answers: Vec<String> = (1..=TRIES)
        .map(|number| {
            let (answer, took) = helper.timed(&format!("203.0.{subnet}.{number} GET http://example.test/admin Mozilla/5.0 - -"));
            fastest = fastest.min(took);
            answer.split(" until_").next().unwrap().to_owned()
        })
        .collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert!(fastest < LIMIT, "{fastest:?}");
    answers[0].clone()
}

#[track_caller]
fn check(stage: &Stage, configured: bool) -> String {
    let config = stage.config();
    let options = if configured { vec!["--config", config.to_str().unwrap()] } else { Vec::new() };
    let runs: Vec<(String, Duration)> = (1..=TRIES)
        .map(|number| stage.exim_helper(&[options.as_slice(), &["check", &format!("203.0.113.{number}"), "port=25"]].concat()))
        .collect();
    assert!(runs.iter().any(|(_, took)| *took < LIMIT), "{runs:?}");
    let answers: Vec<&str> = runs.iter().map(|(answer, _)| answer.split(" until").next().unwrap()).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    answers[0].to_owned()
}

#[test]
fn on_failure_decides_without_delay_while_the_daemon_hangs_or_is_gone() {
    for (on_failure, web, mail) in [("allow", "ERR", "accept"), ("deny", "OK ban_=yes rule_=on-failure", "defer rule=on-failure")] {
        let stage = Stage::new();
        let daemon = Daemon::start_on(&stage, &format!("on_failure = {on_failure:?}\n"), RULE);
        let mut helper = SquidHelper::attach(&stage);
        assert_eq!(offence(&mut helper, 1), "ERR");
        assert_eq!(check(&stage, true), "accept");
        assert!(helper.get("198.51.100.1", "/w00tw00t").starts_with("OK "));
        for fault in ["hung", "gone"] {
            daemon.signal(if fault == "hung" { Signal::STOP } else { Signal::KILL });
            if fault == "gone" {
                helper.logs("cannot be reached");
                let status = stage.strikeout(&["status"]);
                assert!(status.status.code() == Some(1) && !status.stderr.is_empty(), "status reports the fault: {status:?}");
            }
            assert_eq!(offence(&mut helper, 2), web, "{on_failure}, {fault}: an offence that is not refused by itself");
            assert_eq!(check(&stage, true), mail, "{on_failure}, {fault}: a connection");
            assert_eq!(check(&stage, false), "accept", "{fault}: the Exim helper without a configuration");
            assert!(!helper.refuses("192.0.2.1"), "{on_failure}, {fault}: an ordinary request needs no daemon");
            assert!(helper.refuses("198.51.100.1"), "{on_failure}, {fault}: a known ban is in force");
            assert!(
                helper.get("198.51.100.2", "/w00tw00t").starts_with("OK "),
                "{on_failure}, {fault}: a one-strike offence is refused without the daemon"
            );
            daemon.signal(Signal::CONT);
        }
    }
}

#[test]
fn thousands_of_idle_connections_and_hundreds_with_half_a_line_delay_no_answer() {
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
    let stage = Stage::new();
    let _daemon = Daemon::start_on(&stage, "", &RULE.replace("maxretry = 3", "maxretry = 1"));
    let mut helper = SquidHelper::attach(&stage);
    assert!(helper.get("198.51.100.1", "/w00tw00t").starts_with("OK "));
    let connect = |text: &[u8]| {
        let mut stream = UnixStream::connect(stage.socket()).unwrap();
        stream.write_all(text).unwrap();
        stream
    };
    let idle: Vec<UnixStream> = (0..3000).map(|_| connect(b"")).collect();
    for round in 1..=3 {
        let halves: Vec<UnixStream> = (0..500).map(|_| connect(b"check 203.0")).collect();
        assert_eq!(offence(&mut helper, round), "OK ban_=yes rule_=admin");
        assert_eq!(check(&stage, false), "accept");
        let bans: Vec<(String, Duration)> = (0..TRIES).map(|_| stage.exim_helper(&["check", "198.51.100.1", "port=25"])).collect();
        assert!(bans.iter().any(|(answer, took)| answer.starts_with("defer rule=w00tw00t") && *took < LIMIT), "{bans:?}");
        drop(halves);
    }
    assert!(!helper.log().contains("cannot be reached"), "{}", helper.log());
    drop(idle);
}

#[test]
fn a_user_without_access_to_the_socket_is_told_which_group_to_join() {
    if !is_root("start a helper as another user") {
        return;
    }
    for (on_failure, mail) in [("allow", "accept"), ("deny", "defer rule=on-failure")] {
        let stage = Stage::new();
        let daemon = Daemon::start_on(&stage, &format!("on_failure = {on_failure:?}\ngroup = 'daemon'\nmode = '0660'\n"), RULE);
        let mut helper = SquidHelper::attach_as_nobody(&stage);
        helper.logs("the user that Squid runs helpers as must join the group daemon; every query is answered ERR");
        assert_eq!(helper.get("203.0.113.1", "/w00tw00t"), "ERR");
        // Runs the Exim helper and the operator's program in a shell that drops its privileges.
        let as_nobody = |command: String| {
            let script = format!("exec setpriv --reuid 65534 --regid 65534 --clear-groups {command}");
            std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap()
        };
        let (socket, config) = (stage.socket(), stage.config());
        let exim = format!(
            "{} --table {} --config {} check 203.0.113.1 port=25",
            stage.program("exim_strikeout_acl").display(),
            socket.display(),
            config.display()
        );
        let answer = as_nobody(exim);
        assert!(answer.stderr.is_empty() && answer.status.success(), "{answer:?}");
        assert!(String::from_utf8(answer.stdout.clone()).unwrap().starts_with(mail), "{answer:?}");
        let status = as_nobody(format!("{} status --table {}", stage.program("strikeout").display(), socket.display()));
        assert!(String::from_utf8(status.stderr.clone()).unwrap().contains("join the group daemon"), "{status:?}");
        assert_eq!(status.status.code(), Some(1));
        // Once it has access, the helper attaches by itself.
        let run = socket.parent().unwrap();
        chown(run, Some(65534), None).unwrap();
        chown(&socket, Some(65534), None).unwrap();
        std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o750)).unwrap();
        wait_until("the helper attaches", || helper.get("203.0.113.1", "/w00tw00t").starts_with("OK "));
        drop(daemon);
    }
}
