//! What is answered when the resident cannot be: always within 200 ms, as `on_failure` says.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::processes::{Helper, Resident, Stage, is_root, until};

/// No answer takes longer by itself. Of a few the quickest counts: the machine may be busy with something else.
const LIMIT: Duration = Duration::from_millis(200);
const TRIES: u8 = 5;

const RULE: &str = "[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 3\n";

/// What the first offence of some clients is answered, which must be the same each time, within the limit.
#[track_caller]
fn offence(helper: &mut Helper, subnet: u8) -> String {
    let mut quickest = Duration::MAX;
    let answers: Vec<String> = (1..=TRIES)
        .map(|number| {
            let (answer, took) = helper.timed(&format!("203.0.{subnet}.{number} GET http://example.test/admin Mozilla/5.0 - -"));
            quickest = quickest.min(took);
            answer.split(" until_").next().unwrap().to_owned()
        })
        .collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert!(quickest < LIMIT, "{quickest:?}");
    answers[0].clone()
}

#[track_caller]
fn check(stage: &Stage, configured: bool) -> String {
    let runs: Vec<(String, Duration)> =
        (1..=TRIES).map(|number| stage.exim(&["check", &format!("203.0.113.{number}"), "port=25"], configured)).collect();
    assert!(runs.iter().any(|(_, took)| *took < LIMIT), "{runs:?}");
    let answers: Vec<&str> = runs.iter().map(|(answer, _)| answer.split(" until").next().unwrap()).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    answers[0].to_owned()
}

#[test]
fn gone_or_hung_the_resident_makes_nobody_wait_and_on_failure_decides() {
    for (on_failure, web, mail) in [("allow", "ERR", "accept"), ("deny", "OK ban_=yes rule_=on-failure", "defer rule=on-failure")] {
        let stage = Stage::new();
        let resident = Resident::start(&stage, &format!("on_failure = {on_failure:?}\n"), RULE);
        let mut helper = Helper::attach(&stage);
        assert_eq!(offence(&mut helper, 1), "ERR");
        assert_eq!(check(&stage, true), "accept");
        assert!(helper.get("198.51.100.1", "/w00tw00t").starts_with("OK "));
        for fault in ["hung", "gone"] {
            resident.signal(if fault == "hung" { Signal::STOP } else { Signal::KILL });
            if fault == "gone" {
                helper.logs("cannot be reached");
                let status = stage.strikeout(&["status"]);
                assert!(status.status.code() == Some(1) && !status.stderr.is_empty(), "the operator is told: {status:?}");
            }
            assert_eq!(offence(&mut helper, 2), web, "{on_failure}, {fault}: an offence that does not refuse by itself");
            assert_eq!(check(&stage, true), mail, "{on_failure}, {fault}: a connection");
            assert_eq!(check(&stage, false), "accept", "{fault}: the helper for Exim without a configuration");
            assert!(!helper.refuses("192.0.2.1"), "{on_failure}, {fault}: an ordinary request needs no resident");
            assert!(helper.refuses("198.51.100.1"), "{on_failure}, {fault}: a known ban stands");
            assert!(helper.get("198.51.100.2", "/w00tw00t").starts_with("OK "), "{on_failure}, {fault}: one strike refuses by itself");
            resident.signal(Signal::CONT);
        }
    }
}

#[test]
fn thousands_of_clients_and_hundreds_that_stop_half_way_through_a_line_make_nobody_wait() {
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
    let stage = Stage::new();
    let _resident = Resident::start(&stage, "", &RULE.replace("maxretry = 3", "maxretry = 1"));
    let mut helper = Helper::attach(&stage);
    assert!(helper.get("198.51.100.1", "/w00tw00t").starts_with("OK "));
    let connect = |said: &[u8]| {
        let mut stream = UnixStream::connect(stage.socket()).unwrap();
        stream.write_all(said).unwrap();
        stream
    };
    let idle: Vec<UnixStream> = (0..3000).map(|_| connect(b"")).collect();
    for round in 1..=3 {
        let halves: Vec<UnixStream> = (0..500).map(|_| connect(b"check 203.0")).collect();
        assert_eq!(offence(&mut helper, round), "OK ban_=yes rule_=admin");
        assert_eq!(check(&stage, false), "accept");
        let bans: Vec<(String, Duration)> = (0..TRIES).map(|_| stage.exim(&["check", "198.51.100.1", "port=25"], false)).collect();
        assert!(bans.iter().any(|(answer, took)| answer.starts_with("defer rule=w00tw00t") && *took < LIMIT), "{bans:?}");
        drop(halves);
    }
    assert!(!helper.log().contains("cannot be reached"), "{}", helper.log());
    drop(idle);
}

#[test]
fn who_may_not_use_the_socket_is_told_which_group_to_join() {
    if !is_root("start a helper as another user") {
        return;
    }
    for (on_failure, mail) in [("allow", "accept"), ("deny", "defer rule=on-failure")] {
        let stage = Stage::new();
        let resident = Resident::start(&stage, &format!("on_failure = {on_failure:?}\ngroup = 'daemon'\nmode = '0660'\n"), RULE);
        let mut helper = Helper::attach_as_nobody(&stage);
        helper.logs("the user that Squid runs helpers as must join the group daemon; every query is answered ERR");
        assert_eq!(helper.get("203.0.113.1", "/w00tw00t"), "ERR");
        // For the helper of Exim and the operator's program the same, by a shell that gives up its rights.
        let as_nobody = |command: String| {
            let script = format!("exec setpriv --reuid 65534 --regid 65534 --clear-groups {command}");
            std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap()
        };
        let (socket, config) = (stage.socket(), stage.path("strikeout.toml"));
        let exim = format!(
            "{} --table {} --config {} check 203.0.113.1 port=25",
            stage.path("exim_strikeout_acl").display(),
            socket.display(),
            config.display()
        );
        let answer = as_nobody(exim);
        assert!(answer.stderr.is_empty() && answer.status.success(), "{answer:?}");
        assert!(String::from_utf8(answer.stdout.clone()).unwrap().starts_with(mail), "{answer:?}");
        let status = as_nobody(format!("{} status --table {}", stage.path("strikeout").display(), socket.display()));
        assert!(String::from_utf8(status.stderr.clone()).unwrap().contains("join the group daemon"), "{status:?}");
        assert_eq!(status.status.code(), Some(1));
        // Let in, the helper comes by itself.
        let run = socket.parent().unwrap();
        chown(run, Some(65534), None).unwrap();
        chown(&socket, Some(65534), None).unwrap();
        std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o750)).unwrap();
        until("the helper attaches", || helper.get("203.0.113.1", "/w00tw00t").starts_with("OK ").then_some(()));
        drop(resident);
    }
}
