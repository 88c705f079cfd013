//! `status`, its live view, and the documentation of the JSON.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Daemon, STRIKEOUT, wait_for};
use crate::{RULES, row};

#[test]
fn status_is_shown_in_groups_and_as_json() {
    let daemon = Daemon::start(RULES);
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\nstrike 203.0.113.12 helo\nstrike 203.0.113.13 quiet\n");
    let mut subscriber = UnixStream::connect(daemon.socket()).unwrap();
    subscriber.write_all(b"subscribe 1\n").unwrap();
    let status = wait_for("the subscriber is counted", || {
        let status = daemon.json(&["status"]);
        (status["subscribers"] == 1).then_some(status)
    });
    // One strike under `helo`, and the ban, which `recidive` counts.
    for (key, expected) in [("bans", 1), ("strikes", 2), ("shadow_bans", 1), ("answers_to_strike", 4), ("answers_failed_open", 0)] {
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
    let text = daemon.text(&["status"]);
    assert!(
        text.contains("1 client, 0 networks, 1 in shadow; 1 made")
            && text.contains("1 helper attached; 0 queries answered there, 0 offences here"),
        "{text}"
    );
    assert_eq!(row(&text, "helo"), ["helo", "enforce", "mail", "1", "0", "1", "1", "1"]);
    let (_, stderr, code) = daemon.run(&["status", "--watch"]);
    assert!(code == Some(2) && stderr.contains("expected status or status --json"), "{stderr}");
}

#[test]
fn the_live_view_is_refreshed_until_a_signal_arrives() {
    let daemon = Daemon::start(RULES);
    let terminal = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&terminal).unwrap();
    rustix::pty::unlockpt(&terminal).unwrap();
    let name = rustix::pty::ptsname(&terminal, Vec::new()).unwrap();
    let slave = fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = Command::new(STRIKEOUT);
    command.args(["status", "--watch", "--table"]).arg(daemon.socket()).env_remove("NO_COLOR").env("TERM", "xterm");
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

#[test]
fn an_unreachable_daemon_is_reported_with_its_socket_and_advice() {
    let output = Command::new(STRIKEOUT).args(["status", "--table", "/no/such/socket"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("strikeout: /no/such/socket: ") && stderr.contains("is strikeout serve running?"), "{stderr}");
}

/// All keys of a JSON value, nested ones included.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
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
    let daemon = Daemon::start(&format!("{RULES}[hook]\ncommand = ['/bin/true']\n[fleet]\nurl = 'redis://127.0.0.1:1/0'\nnode = 'mx1'\n"));
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\nstrike 203.0.113.12 helo\nstrike 203.0.113.13 quiet\n");
    let mut found = BTreeSet::new();
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
        keys(&daemon.json(arguments), &mut found);
    }
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operators.md")).unwrap();
    let missing: Vec<_> = found.iter().filter(|key| !page.contains(&format!("`{key}`")) && !page.contains(&format!("\"{key}\""))).collect();
    assert_eq!(missing, Vec::<&String>::new());
    assert!(found.len() > 60, "{found:?}");
}
