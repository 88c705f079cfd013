//! `strikeout`'s subcommands against a running resident: what an operator sees as text and what a program gets as JSON.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const STRIKEOUT: &str = env!("CARGO_BIN_EXE_strikeout");
const SQUID_HELPER: &str = env!("CARGO_BIN_EXE_ext_strikeout_acl");
/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Two incident rules: one bans in mail at the second strike, one only counts.
const RULES: &str = "[defaults]\nignoreip = ['203.0.113.99']\ndeny = ['203.0.113.66']\n\
    [[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 2\nscope = 'mail'\ndescription = 'A bad greeting.'\n\
    [[rule]]\nname = 'quiet'\nevent = 'incident'\nmaxretry = 1\nmode = 'shadow'\n";

#[track_caller]
fn wait_until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Resident {
    child: Child,
    dir: tempfile::TempDir,
}

impl Resident {
    fn start(rest: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::configure(dir.path(), rest);
        let resident = Self { child: Self::serve(dir.path()), dir };
        wait_until("it listens", || UnixStream::connect(resident.socket()).ok());
        resident
    }

    fn serve(dir: &Path) -> Child {
        let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        Command::new(STRIKEOUT).args(["serve", "--config"]).arg(dir.join("strikeout.toml")).stderr(log).spawn().unwrap()
    }

    /// Ends it, and lets `meanwhile` happen before it serves again.
    fn restart(&mut self, meanwhile: impl FnOnce()) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
        meanwhile();
        self.child = Self::serve(self.dir.path());
        wait_until("it listens again", || UnixStream::connect(self.socket()).ok());
    }

    fn configure(dir: &Path, rest: &str) {
        let (socket, state) = (dir.join("socket"), dir.join("strikeout.db"));
        let table = format!("[table]\nsocket = {socket:?}\nmode = '0600'\ngroup = ''\nstate = {state:?}\n{rest}");
        fs::write(dir.join("strikeout.toml"), table).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// What Exim would send.
    fn ask(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// What the operator's program prints, says, and ends with.
    fn run(&self, arguments: &[&str]) -> (String, String, Option<i32>) {
        let output = Command::new(STRIKEOUT).args(arguments).arg("--table").arg(self.socket()).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap(), output.status.code())
    }

    #[track_caller]
    fn text(&self, arguments: &[&str]) -> String {
        let (stdout, stderr, code) = self.run(arguments);
        assert_eq!((stderr.as_str(), code), ("", Some(0)), "{arguments:?}: {stdout}");
        assert!(!stdout.contains('\x1b'), "no colour but on a terminal: {stdout}");
        stdout
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let (stdout, stderr, _) = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&stdout).unwrap_or_else(|error| unreachable!("{error}: {stdout}{stderr}"))
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "the resident's log:\n{}", self.log());
        }
    }
}

/// Squid's helper on a resident's table, as Squid runs it.
struct SquidHelper {
    child: Child,
    queries: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl SquidHelper {
    fn attach(resident: &Resident) -> Self {
        let mut command = Command::new(SQUID_HELPER);
        command.arg("--table").arg(resident.socket()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (queries, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        wait_until("the helper is attached", || (resident.json(&["status"]).get("followers") == Some(&json!(1))).then_some(()));
        Self { child, queries, answers }
    }

    fn ask(&mut self, query: &str) -> String {
        writeln!(self.queries, "{query} -").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer
    }
}

impl Drop for SquidHelper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The words of the line that begins with `word`.
fn row<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| words.first() == Some(&word)).unwrap_or_default()
}

#[test]
fn list_filters_sorts_and_counts() {
    let resident = Resident::start(RULES);
    assert_eq!(resident.text(&["list"]), "no bans\n");
    resident.text(&["ban", "203.0.113.10", "2h"]);
    resident.text(&["ban", "203.0.113.9", "1h", "--scope", "web"]);
    resident.text(&["ban", "198.51.100.0/24", "-1"]);
    resident.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\n");
    let clients = |arguments: &[&str]| -> Vec<String> {
        let rows = resident.json(&[&["list"], arguments].concat());
        rows.as_array().unwrap().iter().map(|row| row["client"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(clients(&[]), ["198.51.100.0/24", "203.0.113.9", "203.0.113.10", "203.0.113.11"]);
    assert_eq!(clients(&["--sort", "until"])[2..], ["203.0.113.10", "198.51.100.0/24"]);
    assert_eq!(clients(&["--sort", "rule"])[0], "203.0.113.11");
    let sinces = resident.json(&["list", "--sort", "since"]);
    let sinces: Vec<i64> = sinces.as_array().unwrap().iter().map(|row| row["since"].as_i64().unwrap()).collect();
    assert!(sinces.len() == 4 && sinces.is_sorted(), "{sinces:?}");
    assert_eq!(clients(&["--rule", "helo"]), ["203.0.113.11"]);
    assert_eq!(clients(&["--network", "203.0.113.8/30"]), ["203.0.113.9", "203.0.113.10", "203.0.113.11"]);
    assert_eq!(clients(&["--network", "198.51.100.7"]), ["198.51.100.0/24"]);
    assert_eq!(clients(&["--scope", "web", "--network", "203.0.113.0/24"]), ["203.0.113.9", "203.0.113.10"]);
    assert_eq!(clients(&["--scope", "mail", "--rule", "manual"]), ["198.51.100.0/24", "203.0.113.10"]);
    assert_eq!(resident.text(&["list", "--count", "--rule", "manual"]), "3\n");
    assert_eq!(resident.json(&["list", "--count"]), json!({ "bans": 4 }));
    let text = resident.text(&["list"]);
    assert_eq!(row(&text, "203.0.113.11")[1..3], ["mail", "helo"]);
    assert_eq!(row(&text, "CLIENT"), ["CLIENT", "SCOPE", "RULE", "SINCE", "UNTIL", "LEFT"]);
    assert!(row(&text, "198.51.100.0/24").join(" ").ends_with("for ever -"), "{text}");
    let ban = &resident.json(&["list", "--rule", "helo"])[0];
    let (since, until) = (ban["since"].as_i64().unwrap(), ban["until"].as_i64().unwrap());
    assert!((3600..=3601).contains(&(until - since)) && (1..=3601).contains(&ban["remaining"].as_i64().unwrap()), "{ban}");
}

#[test]
fn a_rule_that_is_not_there_is_answered_with_the_one_that_was_meant() {
    let resident = Resident::start(RULES);
    let (_, stderr, code) = resident.run(&["list", "--rule", "hello"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("found \"hello\", expected the name of a rule; did you mean \"helo\"?"), "{stderr}");
    let (_, stderr, code) = resident.run(&["stauts"]);
    assert!(code == Some(2) && stderr.contains("'status'"), "{stderr}");
}

#[test]
fn why_tells_a_ban_from_its_evidence_to_the_command_that_undoes_it() {
    let resident = Resident::start(RULES);
    resident.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\n");
    let text = resident.text(&["why", "203.0.113.11"]);
    for expected in [
        "203.0.113.11 is refused in mail\n",
        "helo (enforce, scope mail; 2 in 10 min bans for 1 h)",
        "A bad greeting.",
        "reported by the mail server",
        "2 in all; its 1st ban under this rule",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let undo = text.lines().find_map(|line| line.trim().strip_prefix("undo")).unwrap().trim().to_owned();
    assert_eq!(undo, format!("strikeout unban 203.0.113.11 --table {}", resident.socket().display()));
    let why = resident.json(&["why", "203.0.113.11"]);
    assert_eq!((&why["refused"], &why["surfaces"]["web"]), (&json!(true), &Value::Null));
    assert_eq!(why["surfaces"]["mail"]["rule"], "helo");
    assert_eq!((&why["ban"]["stands"], &why["ban"]["count"]), (&json!(true), &json!(2)));
    assert_eq!(why["undo"], json!([undo]));
    // As a person would: by the shell.
    let done = Command::new("/bin/sh").arg("-c").arg(undo.replacen("strikeout", STRIKEOUT, 1)).status().unwrap();
    assert!(done.success());
    let text = resident.text(&["why", "203.0.113.11"]);
    assert!(text.contains("not refused") && text.contains("earlier") && text.contains("it does not stand any more"), "{text}");
    assert_eq!(resident.json(&["why", "203.0.113.11"])["ban"]["stands"], false);
}

#[test]
fn why_tells_who_is_not_refused_the_reason_as_well() {
    let resident = Resident::start(RULES);
    resident.ask("strike 203.0.113.12 helo\nstrike 203.0.113.13 quiet\n");
    let contains = |address: &str, expected: &str| {
        let text = resident.text(&["why", address]);
        assert!(text.contains(expected) && text.contains("not refused"), "{expected} is not in\n{text}");
    };
    contains("203.0.113.12", "1 of 2 under helo, the last ");
    contains("203.0.113.13", "quiet would refuse it (web) until ");
    contains("203.0.113.99", "it is never banned: ignored network 203.0.113.99 (ignoreip in ");
    contains("127.0.0.1", "it is never banned: loopback 127.0.0.0/8");
    contains("203.0.113.14", "no ban stands, no list names it, and no strikes are counted");
    let why = resident.json(&["why", "203.0.113.12"]);
    assert_eq!(
        (&why["strikes"][0]["rule"], &why["strikes"][0]["count"], &why["strikes"][0]["maxretry"]),
        (&json!("helo"), &json!(1), &json!(2))
    );
    assert_eq!((&why["ban"], &why["undo"]), (&Value::Null, &json!([])));
    assert_eq!(resident.json(&["why", "203.0.113.13"])["shadow"][0]["rule"], "quiet");
    let (_, stderr, code) = resident.run(&["why", "mail.example.org"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("found \"mail.example.org\", expected an IP address"), "{stderr}");
}

#[test]
fn why_names_the_network_and_the_list_that_refuse() {
    let resident = Resident::start(RULES);
    resident.text(&["ban", "198.51.100.0/24", "--reason", "floods us"]);
    let text = resident.text(&["why", "198.51.100.77"]);
    assert!(text.contains("198.51.100.0/24 is banned by hand since ") && text.contains("reason    floods us\n"), "{text}");
    assert_eq!(resident.json(&["why", "198.51.100.77"])["network"]["reason"], "floods us");
    assert!(text.contains("strikeout unban 198.51.100.0/24"), "{text}");
    let text = resident.text(&["why", "203.0.113.66"]);
    assert!(text.contains("refused on the web and in mail") && text.contains("deny in ") && text.contains("strikeout reload"), "{text}");
    assert_eq!(resident.json(&["why", "203.0.113.66"])["surfaces"]["web"]["by"], "list");
}

#[test]
fn bans_and_unbans_say_what_was_done_and_what_was_not() {
    let resident = Resident::start(RULES);
    let told = resident.text(&["ban", "203.0.113.10", "10m", "--reason", "floods us"]);
    assert!(told.starts_with("banned 203.0.113.10 on the web and in mail until 2") && told.ends_with(" (in 10 min)\n"), "{told}");
    assert_eq!(resident.json(&["why", "203.0.113.10"])["ban"]["evidence"], "floods us");
    let (_, stderr, code) = resident.run(&["ban", "203.0.113.99"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("203.0.113.99 is never banned: ignored network 203.0.113.99"), "{stderr}");
    assert_eq!(resident.text(&["unban", "203.0.113.10"]), "unbanned 203.0.113.10\n");
    assert_eq!(resident.text(&["unban", "203.0.113.10"]), "203.0.113.10 was not banned\n");
    assert_eq!(
        resident.json(&["unban", "203.0.113.10"]),
        json!({"target": "203.0.113.10", "found": false, "still_refused": false, "undo": []})
    );
    assert_eq!(
        resident.json(&["ban", "198.51.100.0/24", "-1"]),
        json!({"banned": "198.51.100.0/24", "until": -1, "remaining": -1, "scope": "all"})
    );
    let (stdout, stderr, code) = resident.run(&["unban", "198.51.100.7"]);
    assert_eq!((stdout.as_str(), code), ("198.51.100.7 was not banned\n", Some(1)));
    assert!(stderr.contains("refused all the same; expected: strikeout unban 198.51.100.0/24"), "{stderr}");
    for arguments in [&["ban", "everybody"][..], &["ban", "203.0.113.1", "soon"], &["unban", "203.0.113.1", "--scope", "ftp"]] {
        assert_eq!(resident.run(arguments).2, Some(2), "{arguments:?}");
    }
}

#[test]
fn status_tells_what_there_is_in_groups_and_in_a_stable_shape() {
    let resident = Resident::start(RULES);
    resident.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\nstrike 203.0.113.12 helo\nstrike 203.0.113.13 quiet\n");
    let mut follower = UnixStream::connect(resident.socket()).unwrap();
    follower.write_all(b"follow 1\n").unwrap();
    let status = wait_until("the follower is counted", || {
        let status = resident.json(&["status"]);
        (status["followers"] == 1).then_some(status)
    });
    for (key, expected) in [("bans", 1), ("strikes", 1), ("shadow_bans", 1), ("answers_to_strike", 4), ("answers_failed_open", 0)] {
        assert_eq!(status[key], expected, "{key} in {status}");
    }
    assert_eq!((&status["state"], &status["hook"], &status["logs"]), (&json!("ok"), &Value::Null, &json!([])));
    assert!(status["memory"].as_u64().unwrap() > 1_000_000);
    let rule = |name: &str| status["by_rule"].as_array().unwrap().iter().find(|rule| rule["name"] == name).unwrap().clone();
    assert_eq!(
        rule("helo"),
        json!({"name": "helo", "mode": "enforce", "scope": "mail", "bans": 1, "shadow_bans": 0, "strikes": 1, "bans_made": 1, "refused": 1})
    );
    assert_eq!(rule("quiet")["shadow_bans"], 1);
    let text = resident.text(&["status"]);
    assert!(
        text.contains("1 client, 0 networks, 1 in shadow; 1 made")
            && text.contains("1 helper attached; 0 queries answered there, 0 offences here"),
        "{text}"
    );
    assert_eq!(row(&text, "helo"), ["helo", "enforce", "mail", "1", "0", "1", "1", "1"]);
    let (_, stderr, code) = resident.run(&["status", "--watch"]);
    assert!(code == Some(2) && stderr.contains("expected status or status --json"), "{stderr}");
}

/// All keys of a JSON value, those inside it included.
fn keys(value: &Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            found.insert(key.clone());
            keys(value, found);
        }),
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn every_key_of_the_json_is_documented() {
    let resident =
        Resident::start(&format!("{RULES}[hook]\ncommand = ['/bin/true']\n[fleet]\nurl = 'redis://127.0.0.1:1/0'\nnode = 'mx1'\n"));
    resident.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\nstrike 203.0.113.12 helo\nstrike 203.0.113.13 quiet\n");
    let mut found = std::collections::BTreeSet::new();
    for arguments in [
        &["ban", "198.51.100.0/24", "1h", "--reason", "x"][..],
        &["status"],
        &["list"],
        &["list", "--count"],
        &["why", "203.0.113.11"],
        &["why", "203.0.113.12"],
        &["why", "203.0.113.13"],
        &["why", "198.51.100.1"],
        &["unban", "198.51.100.0/24"],
        &["reload"],
    ] {
        keys(&resident.json(arguments), &mut found);
    }
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operators.md")).unwrap();
    let missing: Vec<_> = found.iter().filter(|key| !page.contains(&format!("`{key}`")) && !page.contains(&format!("\"{key}\""))).collect();
    assert_eq!(missing, Vec::<&String>::new());
    assert!(found.len() > 60, "{found:?}");
}

#[test]
fn the_live_view_is_drawn_until_it_is_ended() {
    let resident = Resident::start(RULES);
    let terminal = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&terminal).unwrap();
    rustix::pty::unlockpt(&terminal).unwrap();
    let name = rustix::pty::ptsname(&terminal, Vec::new()).unwrap();
    let slave = fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = Command::new(STRIKEOUT);
    command.args(["status", "--watch", "--table"]).arg(resident.socket()).env_remove("NO_COLOR").env("TERM", "xterm");
    let mut viewer = command.stdin(Stdio::null()).stdout(slave).spawn().unwrap();
    drop(command);
    let mut screen = fs::File::from(terminal);
    let mut seen = String::new();
    let frames = |seen: &str| seen.matches("Ctrl-C ends this view").count();
    while frames(&seen) < 2 {
        let mut chunk = [0; 4096];
        let read = screen.read(&mut chunk).unwrap();
        seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    assert!(seen.contains("\x1b[1mstrikeout") && seen.contains("0 clients, 0 networks"), "{seen}");
    kill_process(Pid::from_child(&viewer), Signal::INT).unwrap();
    assert_eq!(viewer.wait().unwrap().code(), Some(0));
}

/// `(name, labels) → value`, and that every sample has its HELP and TYPE before it.
fn samples(page: &str) -> std::collections::HashMap<String, f64> {
    let mut samples = std::collections::HashMap::new();
    let mut about = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            about = rest.split(' ').next().unwrap().to_owned();
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(&about), "{name} stands under {about}");
            assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} comes twice");
        }
    }
    samples
}

#[test]
fn metrics_count_answers_by_rule_and_surface_and_how_long_they_took() {
    let resident = Resident::start(RULES);
    resident.ask("check 203.0.113.1 port=25\nstrike 203.0.113.11 helo\nstrike 203.0.113.11 helo\ncheck 203.0.113.11 port=25\nstrike 203.0.113.1 none\n");
    let mut follower = UnixStream::connect(resident.socket()).unwrap();
    // A helper's stream: an offence, and what it answered by itself.
    follower
        .write_all(b"follow 1\nanswered 40 3\nrefused w00tw00t 5\nrefused no-such-rule 9\noffence 1 198.51.100.7 w00tw00t GET /w00tw00t\n")
        .unwrap();
    let samples = wait_until("the offence is counted", || {
        let samples = samples(&resident.text(&["metrics"]));
        (samples["strikeout_answer_seconds_count{question=\"offence\"}"] >= 1.0).then_some(samples)
    });
    for (name, expected) in [
        ("strikeout_verdicts_total{surface=\"mail\",verdict=\"defer\",rule=\"helo\"}", 2.0),
        ("strikeout_verdicts_total{surface=\"web\",verdict=\"deny\",rule=\"w00tw00t\"}", 6.0),
        ("strikeout_verdicts_total{surface=\"web\",verdict=\"accept\",rule=\"\"}", 43.0),
        ("strikeout_queries_total{question=\"query\"}", 48.0),
        ("strikeout_queries_total{question=\"offence\"}", 1.0),
        ("strikeout_verdicts_total{surface=\"mail\",verdict=\"accept\",rule=\"\"}", 3.0),
        ("strikeout_queries_total{question=\"check\"}", 2.0),
        ("strikeout_queries_total{question=\"strike\"}", 3.0),
        ("strikeout_answer_seconds_count{question=\"check\"}", 2.0),
        ("strikeout_answer_seconds_bucket{question=\"check\",le=\"+Inf\"}", 2.0),
        ("strikeout_rule_bans{rule=\"helo\"}", 1.0),
        ("strikeout_rule_bans_total{rule=\"w00tw00t\"}", 1.0),
        ("strikeout_bans", 2.0),
        ("strikeout_failed_open_total", 3.0),
        ("strikeout_followers", 1.0),
        ("strikeout_state_degraded", 0.0),
    ] {
        assert!((samples[name] - expected).abs() < 0.5, "{name} is {}, expected {expected}", samples[name]);
    }
    let json = resident.json(&["metrics"]);
    assert_eq!(json["strikeout_bans"], 2);
}

#[test]
fn metrics_tell_what_fell_from_a_full_table_and_how_far_logs_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("mainlog");
    fs::write(&log, "").unwrap();
    let resident = Resident::start(&format!("clients = 1\nbans = 1\n{RULES}[[log]]\npath = {log:?}\nrules = ['exim-per-host']\n"));
    let strikes: String = (1..=200).map(|last| format!("strike 198.51.100.{last} helo\n")).collect();
    resident.ask(&strikes);
    resident.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\nstrike 203.0.113.12 helo\nstrike 203.0.113.12 helo\n");
    let mut file = fs::File::options().append(true).open(&log).unwrap();
    // What was there before the resident first looked is not read: so lines are written until some are.
    let name = |metric: &str| format!("strikeout_{metric}{{log=\"{}\"}}", log.display());
    let samples = wait_until("the lines are read", || {
        writeln!(file, "2026-11-23 01:02:03 Start queue run: pid=7").unwrap();
        let samples = samples(&resident.text(&["metrics"]));
        (samples[&name("log_lines_total")] >= 2.0 && samples["strikeout_bans_evicted_total"] > 0.0).then_some(samples)
    });
    assert!(samples["strikeout_strikes_evicted_total"] > 100.0 && samples["strikeout_bans"] < 1.5, "{samples:?}");
    assert_eq!((samples[&name("log_fault")], samples.contains_key(&name("log_lag_bytes"))), (0.0, true));
}

#[test]
fn what_a_squid_helper_answers_by_itself_is_counted_also_while_the_resident_is_away() {
    let mut resident = Resident::start(RULES);
    let mut helper = SquidHelper::attach(&resident);
    let told = |resident: &Resident, served: f64, refused: f64| {
        wait_until("the helper has told", || {
            let samples = samples(&resident.text(&["metrics"]));
            let of = |name: &str| samples.get(name).copied().unwrap_or(0.0);
            let verdicts = |verdict: &str| of(&format!("strikeout_verdicts_total{{surface=\"web\",{verdict}}}"));
            let found = (verdicts("verdict=\"accept\",rule=\"\""), verdicts("verdict=\"deny\",rule=\"w00tw00t\""));
            (found == (served, refused)).then_some(of("strikeout_queries_total{question=\"query\"}"))
        })
    };
    for _ in 0..3 {
        assert_eq!(helper.ask("203.0.113.50 GET http://a.example/"), "ERR\n");
    }
    assert!(helper.ask("203.0.113.51 GET http://a.example/w00tw00t").starts_with("OK "));
    for _ in 0..2 {
        assert!(helper.ask("203.0.113.51 GET http://a.example/").starts_with("OK "));
    }
    // The offence was the resident's to answer; the rest the helper's.
    assert_eq!(told(&resident, 3.0, 3.0), 5.0);
    resident.restart(|| {
        assert_eq!(helper.ask("203.0.113.50 GET http://a.example/"), "ERR\n");
        assert!(helper.ask("203.0.113.51 GET http://a.example/").starts_with("OK "));
        // One strike is enough: refused although nobody counts it.
        assert!(helper.ask("203.0.113.52 GET http://a.example/w00tw00t").starts_with("OK "));
    });
    assert_eq!(told(&resident, 1.0, 2.0), 3.0);
}

/// The names in the first column of the page's table of metrics: their list is between backticks, labels in braces.
fn documented_metrics() -> std::collections::BTreeSet<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operators.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("Metrics\n")).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
    let names = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(|name| format!("strikeout_{}", name.split('{').next().unwrap())).collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    // A fleet whose engine is away has its numbers all the same.
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("mainlog");
    fs::write(&log, "").unwrap();
    let resident = Resident::start(&format!(
        "[[log]]\npath = {log:?}\nrules = ['exim-per-host']\n[hook]\ncommand = ['/bin/true']\n[fleet]\nurl = 'redis://127.0.0.1:1/0'\nnode = 'mx1'\n"
    ));
    let page = resident.text(&["metrics"]);
    let told: std::collections::BTreeSet<String> =
        page.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned())).collect();
    let documented = documented_metrics();
    assert_eq!(documented.difference(&told).collect::<Vec<_>>(), Vec::<&String>::new(), "documented, and not told");
    assert_eq!(told.difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new(), "told, and not documented");
    let samples = samples(&page);
    assert!(samples.contains_key(&format!("strikeout_log_lag_bytes{{log=\"{}\"}}", log.display())), "{page}");
    let text = resident.text(&["status"]);
    assert!(row(&text, "fleet").join(" ").contains("0 changes said, 0 heard"), "{text}");
}

#[test]
fn metrics_are_served_over_http_on_loopback_if_configured() {
    let resident = Resident::start("[metrics]\nlisten = '127.0.0.1:0'\n");
    let address = wait_until("the listener's address is logged", || {
        let log = resident.log();
        log.split_once("metrics on http://").and_then(|(_, rest)| Some(rest.split_once('/')?.0.to_owned()))
    });
    let get = |request: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    // A scraper that says nothing does not keep another one out for long.
    let _silent = TcpStream::connect(&address).unwrap();
    let answer = get("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let page = answer.split("\r\n\r\n").nth(1).unwrap();
    assert!(samples(page).contains_key("strikeout_bans"), "{page}");
    assert!(get("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(get("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(get("\0\r\n\r\n").starts_with("HTTP/1.1 400 "));
}

#[test]
fn a_listener_beyond_this_machine_is_a_fault_in_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("strikeout.toml");
    fs::write(&config, "[metrics]\nlisten = '0.0.0.0:9471'\n").unwrap();
    let output = Command::new(STRIKEOUT).args(["check", "--config"]).arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(&format!("{}:2: found \"0.0.0.0:9471\", expected an address of loopback", config.display())), "{stderr}");
}

#[test]
fn a_hook_is_told_of_bans_and_unbans_and_a_reload_changes_it() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("hook");
    let told = dir.path().join("told");
    fs::write(&program, format!("#!/bin/sh\necho \"$*\" >> {}\n", told.display())).unwrap();
    Command::new("chmod").arg("755").arg(&program).status().unwrap();
    let hook = |word: &str| format!("{RULES}[hook]\ncommand = [{program:?}, '{word}']\n");
    let resident = Resident::start(&hook("one"));
    resident.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\nstrike 203.0.113.13 quiet\n");
    resident.text(&["unban", "203.0.113.11"]);
    let lines = wait_until("the hook was told of both", || {
        let text = fs::read_to_string(&told).unwrap_or_default();
        (text.lines().count() == 2).then(|| text.lines().map(str::to_owned).collect::<Vec<_>>())
    });
    let until = lines[0].strip_prefix("one ban 203.0.113.11 helo ").unwrap();
    let now = jiff::Timestamp::now().as_second();
    assert!((now + 3500..=now + 3602).contains(&until.parse::<i64>().unwrap()), "{until}");
    assert_eq!(lines[1], "one unban 203.0.113.11");
    Resident::configure(resident.dir.path(), &hook("two"));
    assert_eq!(resident.text(&["reload"]), "reloaded\n");
    resident.text(&["ban", "198.51.100.0/24", "-1"]);
    wait_until("the new hook is told", || fs::read_to_string(&told).unwrap().contains("two ban 198.51.100.0/24 manual -1").then_some(()));
    let status = wait_until("the calls have ended", || {
        let status = resident.json(&["status"]);
        (status["hook"]["done"] == 3).then_some(status)
    });
    assert_eq!(status["hook"], json!({"waiting": 0, "running": 0, "done": 3, "failed": 0, "killed": 0, "dropped": 0}));
}

#[test]
fn a_reload_reaches_who_follows_at_once_and_a_refused_one_nobody() {
    let resident = Resident::start(RULES);
    let mut follower = UnixStream::connect(resident.socket()).unwrap();
    follower.set_read_timeout(Some(DEADLINE)).unwrap();
    follower.write_all(b"follow 1\n").unwrap();
    let mut seen = String::new();
    let mut read_until = |what: &str, mark: &str| {
        seen.clear();
        wait_until(what, || {
            let mut chunk = [0; 65_536];
            let read = follower.read(&mut chunk).unwrap();
            seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
            seen.contains(mark).then(|| seen.clone())
        })
    };
    read_until("the snapshot is whole", "end bans");
    resident.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\n");
    Resident::configure(resident.dir.path(), "[[rule]]\nname = 'broken'\n");
    let (_, stderr, code) = resident.run(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("strikeout.toml:7: found nothing that says what it matches in rule \"broken\""), "{stderr}");
    let start = Instant::now();
    Resident::configure(resident.dir.path(), "[[rule]]\nname = 'new-probe'\npath = '/new-probe'\nmaxretry = 1\n");
    assert_eq!(resident.text(&["reload"]), "reloaded\n");
    let sent = read_until("the new rules arrive", "new-probe");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!sent.contains("broken"), "{sent}");
    assert_eq!(resident.json(&["list"])[0]["client"], "203.0.113.11", "bans stay");
    let status = resident.json(&["status"]);
    assert_eq!((&status["reloads"], &status["reloads_refused"]), (&json!(1), &json!(1)));
}

#[test]
fn a_squid_helper_goes_by_the_new_rules_at_once_and_keeps_the_bans() {
    let resident = Resident::start(RULES);
    let mut helper = SquidHelper::attach(&resident);
    assert!(helper.ask("203.0.113.51 GET http://a.example/w00tw00t").starts_with("OK "));
    assert_eq!(helper.ask("203.0.113.52 GET http://a.example/new-probe"), "ERR\n");
    Resident::configure(resident.dir.path(), "[[rule]]\nname = 'broken'\n");
    assert_eq!(resident.run(&["reload"]).2, Some(1));
    assert!(helper.ask("203.0.113.53 GET http://a.example/w00tw00t").starts_with("OK "), "the old rules are in force");
    Resident::configure(resident.dir.path(), "[[rule]]\nname = 'new-probe'\npath = '/new-probe'\nmaxretry = 1\n");
    assert_eq!(resident.text(&["reload"]), "reloaded\n");
    wait_until("the helper refuses by the new rule", || {
        helper.ask("203.0.113.52 GET http://a.example/new-probe").starts_with("OK ").then_some(())
    });
    assert!(helper.ask("203.0.113.51 GET http://a.example/").starts_with("OK "), "bans stay");
}

#[test]
fn a_reload_says_what_of_the_configuration_waits_for_a_restart() {
    let resident = Resident::start(RULES);
    let config = resident.dir.path().join("strikeout.toml");
    let text = fs::read_to_string(&config).unwrap().replace("mode = '0600'", "mode = '0660'") + "[metrics]\nlisten = '127.0.0.1:9471'\n";
    fs::write(&config, text).unwrap();
    let told = resident.text(&["reload"]);
    assert!(told.starts_with("reloaded\nbut socket, mode, ") && told.contains("\nbut [metrics] changes only with a restart\n"), "{told}");
    let told = resident.json(&["reload"]);
    assert_eq!((&told["reloaded"], told["notes"].as_array().unwrap().len()), (&json!(true), 2));
    assert_eq!(resident.json(&["status"])["reloads"], 2, "the rest is in force");
}

#[test]
fn what_cannot_be_asked_is_said_with_the_socket_and_what_to_do() {
    let output = Command::new(STRIKEOUT).args(["status", "--table", "/no/such/socket"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("strikeout: /no/such/socket: ") && stderr.contains("is strikeout serve running?"), "{stderr}");
}
