//! `why`: bans, lists and strikes of one client, and how to undo a refusal.

use std::process::Command;

use serde_json::{Value, json};

use crate::RULES;
use crate::harness::{Daemon, STRIKEOUT};

#[test]
fn why_shows_a_ban_with_its_evidence_and_the_command_that_undoes_it() {
    let daemon = Daemon::start(RULES);
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\n");
    let text = daemon.text(&["why", "203.0.113.11"]);
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
    assert_eq!(undo, format!("strikeout unban 203.0.113.11 --table {}", daemon.socket().display()));
    let why = daemon.json(&["why", "203.0.113.11"]);
    assert_eq!((&why["refused"], &why["services"]["web"]), (&json!(true), &Value::Null));
    assert_eq!(why["services"]["mail"]["rule"], "helo");
    assert_eq!((&why["ban"]["active"], &why["ban"]["count"]), (&json!(true), &json!(2)));
    assert_eq!(why["undo"], json!([undo]));
    // In a shell, as an operator would run it.
    let done = Command::new("/bin/sh").arg("-c").arg(undo.replacen("strikeout", STRIKEOUT, 1)).status().unwrap();
    assert!(done.success());
    let text = daemon.text(&["why", "203.0.113.11"]);
    assert!(text.contains("not refused") && text.contains("earlier") && text.contains("it is no longer active"), "{text}");
    assert_eq!(daemon.json(&["why", "203.0.113.11"])["ban"]["active"], false);
}

#[test]
fn why_also_explains_a_client_that_is_not_refused() {
    let daemon = Daemon::start(RULES);
    daemon.ask("strike 203.0.113.12 helo\nstrike 203.0.113.13 quiet\n");
    let contains = |address: &str, expected: &str| {
        let text = daemon.text(&["why", address]);
        assert!(text.contains(expected) && text.contains("not refused"), "{expected} is not in\n{text}");
    };
    contains("203.0.113.12", "1 of 2 under helo, the last ");
    contains("203.0.113.13", "quiet would refuse it (web) until ");
    contains("203.0.113.99", "it is never banned: ignored network 203.0.113.99 (ignoreip in ");
    contains("127.0.0.1", "it is never banned: loopback 127.0.0.0/8");
    contains("203.0.113.14", "it has no active ban, no entry in a list and no strikes");
    let why = daemon.json(&["why", "203.0.113.12"]);
    assert_eq!(
        (&why["strikes"][0]["rule"], &why["strikes"][0]["count"], &why["strikes"][0]["maxretry"]),
        (&json!("helo"), &json!(1), &json!(2))
    );
    assert_eq!((&why["ban"], &why["undo"]), (&Value::Null, &json!([])));
    assert_eq!(daemon.json(&["why", "203.0.113.13"])["shadow"][0]["rule"], "quiet");
    let (_, stderr, code) = daemon.run(&["why", "mail.example.org"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("found \"mail.example.org\", expected an IP address"), "{stderr}");
}

#[test]
fn why_names_the_network_and_the_list_that_refuse() {
    let daemon = Daemon::start(RULES);
    daemon.text(&["ban", "198.51.100.0/24", "--reason", "floods us"]);
    let text = daemon.text(&["why", "198.51.100.77"]);
    assert!(text.contains("198.51.100.0/24 is banned by hand since ") && text.contains("reason    floods us\n"), "{text}");
    assert_eq!(daemon.json(&["why", "198.51.100.77"])["network"]["reason"], "floods us");
    assert!(text.contains("strikeout unban 198.51.100.0/24"), "{text}");
    let text = daemon.text(&["why", "203.0.113.66"]);
    assert!(text.contains("refused on the web and in mail") && text.contains("deny in ") && text.contains("strikeout reload"), "{text}");
    assert_eq!(daemon.json(&["why", "203.0.113.66"])["services"]["web"]["by"], "list");
}
