//! The Exim helper's arguments against a real daemon: options in every place, and no argument that lets a banned client through.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "harness/mod.rs"]
mod harness;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Daemon, EXIM_HELPER, Stage, wait_until};

const BANNED: &str = "203.0.113.9";
const INNOCENT: &str = "203.0.113.77";

/// The third connection of a client is refused.
const RULES: &str = "[[rule]]\nname = 'connections'\nevent = 'connection'\nmaxretry = 3\n\
    [[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1000\n";

/// A daemon that has banned [`BANNED`].
fn daemon() -> Daemon {
    let daemon = Daemon::start_on(&Stage::new(), "mode = '0666'\n", RULES);
    daemon.text(&["ban", BANNED]);
    daemon
}

/// Runs the helper as Exim does: without an environment and standard input.
#[track_caller]
fn run<T: AsRef<OsStr>>(arguments: &[T]) -> String {
    let output = Command::new(EXIM_HELPER).args(arguments).env_clear().stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The result of `ask`, which is repeated only if it is not as expected and took so long that the daemon may have answered too late: the
/// helper waits for 180 ms, then it accepts.
fn in_time<T>(ask: impl Fn() -> T, is_expected: impl Fn(&T) -> bool) -> T {
    let mut runs = 0;
    loop {
        let start = Instant::now();
        let result = ask();
        runs += 1;
        if is_expected(&result) || start.elapsed() < Duration::from_millis(150) || runs == 10 {
            return result;
        }
    }
}

/// Whether the helper refuses by a ban of `rule`.
fn refuses_by<T: AsRef<OsStr>>(rule: &str, arguments: &[T]) -> bool {
    let is_refusal = |answer: &String| answer.starts_with(&format!("defer rule={rule} until="));
    is_refusal(&in_time(|| run(arguments), is_refusal))
}

/// Whether the helper refuses as the ban does.
fn refuses<T: AsRef<OsStr>>(arguments: &[T]) -> bool {
    refuses_by("manual", arguments)
}

/// The answers to lines on standard input.
#[track_caller]
fn run_lines(daemon: &Daemon, lines: &[u8]) -> Vec<String> {
    let mut helper = Command::new(EXIM_HELPER)
        .arg("--table")
        .arg(daemon.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    helper.stdin.take().unwrap().write_all(lines).unwrap();
    let output = helper.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn options_stand_anywhere_in_both_forms_for_each_query() {
    let daemon = daemon();
    let (socket, config) = (daemon.socket().display().to_string(), daemon.stage().config().display().to_string());
    let [table, file] = [format!("--table={socket}"), format!("--config={config}")];
    let options: [&[&str]; 6] = [
        &["--table", &socket],
        &[&table],
        &["--config", &config],
        &[&file],
        &["--config", "/none/strikeout.toml", &table],
        &[&table, "--config=/none/strikeout.toml"],
    ];
    for client in [BANNED, INNOCENT] {
        let queries: [&[&str]; 4] =
            [&["check", client], &["check", client, "pid=1"], &["check", client, "pid=1", "port=25"], &["strike", client, "helo"]];
        for query in queries {
            for option in options {
                for at in 0..=query.len() {
                    let arguments = [&query[..at], option, &query[at..]].concat();
                    assert!(if client == BANNED { refuses(&arguments) } else { run(&arguments) == "accept" }, "{arguments:?}");
                }
            }
        }
    }
}

#[test]
fn no_argument_that_is_not_understood_lets_a_banned_client_through() {
    let daemon = daemon();
    let socket = daemon.socket().display().to_string();
    let forms = |client: &str| -> Vec<Vec<OsString>> {
        let text = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let mut forms = vec![
            text(&["check", client, "junk"]),
            text(&["check", client, "junk", "more junk"]),
            text(&["check", client, "helo=mail.example.org"]),
            text(&["check", client, "pid=", "port=", "", "\u{e4}\n"]),
            text(&["check", client, "pid=x"]),
            text(&["check", client, "port=smtp"]),
            text(&["check", client, "pid=99999999999999999999"]),
            text(&["check", client, "--tabel=/none"]),
            text(&["check", client, "--timeout", "5"]),
            text(&["check", client, "-d"]),
            text(&["check", client, "--help"]),
            text(&["check", client, "--version"]),
            text(&["--help", "check", client]),
            text(&["-d", "check", client]),
            text(&["--timeout", "5", "check", client]),
            text(&["--timeout=5", "check", client]),
            text(&["check", "--", client]),
            text(&["--", "check", client]),
            text(&["check", client, "--", "--table", "/none"]),
            text(&["check", client, "port=25", "--", "port=587"]),
            text(&["check", &(1..=8).map(|number| format!("192.0.2.{number} ")).collect::<String>(), client]),
            text(&["check", client, "--table=/none"]),
            text(&["check", client, "--table", "/none"]),
            text(&["check", client, "--config"]),
            text(&["--config", "check", client]),
            text(&["--config=", "check", client]),
            text(&["check", client, "--config=/none"]),
            text(&["check", client, "--config", "/"]),
            text(&["check", "", client]),
            text(&["check", "pid=1", client]),
            text(&["check", "mail.example.org", client]),
            text(&["check", &format!("{client} pid=1")]),
            text(&["check", &format!("[{client}]:4711")]),
            text(&["check", &format!("address={client}")]),
            text(&[&format!("check {client} pid=1 port=25")]),
            text(&[client]),
            text(&[&format!("--check={client}")]),
            text(&["CHECK", client]),
            text(&["lookup", client]),
            text(&["unban", client]),
            text(&["why", client]),
            text(&["strike", client]),
            text(&["strike", client, "no-such-rule"]),
            text(&["strike", client, "Not a rule"]),
            text(&["strike", client, "helo", "junk"]),
            text(&["strike", client, "helo", "account=me"]),
            text(&["strike", "helo", client]),
            text(&["check", client, &"x".repeat(100_000)]),
            text(&[&["check", client][..], &["x"; 10_000]].concat()),
        ];
        forms.push([text(&["check", client]), vec![OsStr::from_bytes(b"\xff\xfe").to_owned()]].concat());
        forms.push([vec![OsStr::from_bytes(b"-\xff").to_owned()], text(&["check", client])].concat());
        forms
    };
    let with_socket = |form: &[OsString]| [&[OsString::from("--table"), OsString::from(&socket)], form].concat();
    for form in forms(BANNED) {
        assert!(refuses(&with_socket(&form)), "{:?}", &form[..form.len().min(5)]);
    }
    for form in forms(INNOCENT) {
        assert_eq!(run(&with_socket(&form)), "accept", "{:?}", &form[..form.len().min(5)]);
    }
}

#[test]
fn the_daemon_s_log_names_what_is_not_understood() {
    for (arguments, report) in [
        (
            &["check", BANNED, "--tabel=/s", "auth=secret", "junk\x1b[2J"][..],
            "found \"--tabel=\", \"auth=\", \"junk\\x1b[2J\", expected check ADDRESS",
        ),
        (&["check", INNOCENT, "--config=/none/strikeout.toml"], "/none/strikeout.toml"),
        (&["check", "mail.example.org"], "found \"check\", \"mail.example.org\", expected check ADDRESS"),
        (&["strike", BANNED, "no-such-rule"], "found \"no-such-rule\", expected the name of a rule"),
    ] {
        let daemon = daemon();
        let socket = daemon.socket().display().to_string();
        run(&[&["--table", &socket], arguments].concat());
        wait_until("the log has it", || daemon.log().contains(report));
        assert!(!daemon.log().contains("secret"), "{}", daemon.log());
    }
    let daemon = daemon();
    assert_eq!(daemon.ask(&format!("check {INNOCENT} helo=x")), "error found \"helo=x\", expected pid=N, port=N, via=run or count=no\n");
    assert!(daemon.log().contains("is not understood: found \"helo=x\""), "{}", daemon.log());
}

#[test]
fn local_mail_is_accepted_and_nothing_is_reported() {
    let daemon = daemon();
    let socket = daemon.socket().display().to_string();
    for query in [&["check", "", "pid=1", "port="][..], &["check", "pid=1", "port="], &["strike", "", "helo"], &["strike", "helo"]] {
        assert_eq!(run(&[&["--table", &socket], query].concat()), "accept");
    }
    assert!(!daemon.log().contains("exim_strikeout_acl"), "{}", daemon.log());
}

#[test]
fn lines_on_standard_input_are_read_in_the_same_way() {
    let daemon = daemon();
    let long = format!("check CLIENT {}", "x".repeat(20_000));
    let lines = [
        "check CLIENT",
        "check CLIENT junk",
        "check CLIENT helo=x pid=1",
        "check  CLIENT",
        "check\tCLIENT",
        "check mail.example.org CLIENT",
        "check CLIENT --table=/none",
        "unban CLIENT",
        "strike CLIENT no-such-rule",
        "strike CLIENT",
        "CLIENT",
        "check [CLIENT]:25",
        "check CLIENT \u{e4}\u{0}",
        &long,
    ];
    let answers = |client: &str| run_lines(&daemon, (lines.join("\n") + "\n").replace("CLIENT", client).as_bytes());
    let all_refused =
        |answers: &Vec<String>| answers.len() == lines.len() && answers.iter().all(|answer| answer.starts_with("defer rule=manual"));
    let refused = in_time(|| answers(BANNED), all_refused);
    assert!(all_refused(&refused), "{refused:?}");
    assert_eq!(answers(INNOCENT), ["accept"; 14]);
    // Of all these only the first line counted, and lookups never do.
    let lookups = format!("unban {INNOCENT}\ncheck {INNOCENT} port=smtp\n").repeat(20);
    assert!(run_lines(&daemon, lookups.as_bytes()).iter().all(|answer| answer == "accept"));
    assert_eq!(run_lines(&daemon, format!("check {INNOCENT}\n").as_bytes()), ["accept"]);
    ban_by_connections(&daemon, INNOCENT);
}

/// Has `client` banned by the rule `connections`.
#[track_caller]
fn ban_by_connections(daemon: &Daemon, client: &str) {
    let connect = || run_lines(daemon, format!("check {client} port=25\n").repeat(10).as_bytes());
    let is_refused = |answers: &Vec<String>| answers.get(9).is_some_and(|answer| answer.starts_with("defer rule=connections until="));
    let answers = in_time(connect, is_refused);
    assert!(is_refused(&answers), "{answers:?}");
}

#[test]
fn a_client_s_text_turns_no_connection_into_one_on_a_submission_port() {
    let daemon = daemon();
    ban_by_connections(&daemon, INNOCENT);
    let socket = daemon.socket().display().to_string();
    let with_socket = |query: &[&str]| [&["--table", &socket], query].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(run(&with_socket(&["check", INNOCENT, "port=587"])), "accept", "the ban is not one for logins");
    let queries: [&[&str]; 8] = [
        &["check", INNOCENT, "port=25", "port=587"],
        &["check", INNOCENT, "port=25", "--", "port=587"],
        &["--", "check", INNOCENT, "port=25", "--", "port=587"],
        &["check", INNOCENT, "pid=1", "port=", "port=587"],
        &["check", INNOCENT, "port=smtp", "port=587"],
        &["check", INNOCENT, "--", "port=587"],
        &["check", &format!("[{INNOCENT}]"), "port=25", "port=587"],
        &["check", &format!("[{INNOCENT}]"), "--", "port=587"],
    ];
    for query in queries {
        assert!(refuses_by("connections", &with_socket(query)), "{query:?}");
        let line = query.join(" ") + "\n";
        let is_refusal = |answers: &Vec<String>| answers.iter().all(|answer| answer.starts_with("defer rule=connections until="));
        let answers = in_time(|| run_lines(&daemon, line.as_bytes()), is_refusal);
        assert!(answers.len() == 1 && is_refusal(&answers), "{line:?}: {answers:?}");
    }
    let answer = daemon.ask(&format!("check {INNOCENT} port=25 port=587"));
    assert_eq!(answer, "error found \"port=587\", expected pid= and port= only once\n");
}

#[test]
fn a_person_is_told_what_is_wrong() {
    let output = Command::new(EXIM_HELPER).arg("--tabel=/s").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--tabel"), "{output:?}");
    let output = Command::new(EXIM_HELPER).arg("--help").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("--table <SOCKET>"), "{output:?}");
}
