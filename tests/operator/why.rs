//! `why`: bans, lists and strikes of one client, and how to undo a refusal.

use std::process::Command;

use rustix::process::Signal;
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
fn the_exit_code_of_why_and_unban_is_3_while_the_client_is_refused_and_0_otherwise() {
    let daemon = Daemon::start(RULES);
    let code = |arguments: &[&str]| daemon.run(arguments).2;
    assert_eq!(code(&["why", "203.0.113.10"]), Some(0));
    daemon.text(&["ban", "203.0.113.10"]);
    assert_eq!((code(&["why", "203.0.113.10"]), code(&["why", "203.0.113.10", "--json"])), (Some(3), Some(3)));
    daemon.text(&["pause"]);
    assert_eq!(code(&["why", "203.0.113.10"]), Some(0), "served because of the pause");
    daemon.text(&["resume"]);
    assert_eq!((code(&["unban", "203.0.113.10"]), code(&["unban", "203.0.113.10"])), (Some(0), Some(0)));
    assert_eq!((code(&["unban", "203.0.113.66"]), code(&["why", "203.0.113.66"])), (Some(3), Some(3)), "on the deny list");
    assert_eq!((code(&["why", "nobody"]), code(&["unban", "nobody"])), (Some(2), Some(2)));
}

#[test]
fn who_banned_and_who_unbanned_stands_in_why_and_in_the_journal_also_after_a_restart() {
    let daemon = Daemon::start(RULES);
    let stage = daemon.stage().clone();
    let uid = rustix::process::geteuid().as_raw();
    let user =
        nix::unistd::User::from_uid(uid.into()).unwrap().map_or(format!("user {uid}"), |user| format!("user {} (uid {uid})", user.name));
    for target in ["203.0.113.10", "203.0.113.11", "198.51.100.0/24", "198.51.100.7"] {
        daemon.text(&["ban", target, "--reason", "floods us"]);
    }
    daemon.ask("strike 203.0.113.12 helo\nstrike 203.0.113.12 helo\n");
    daemon.text(&["unban", "203.0.113.11"]);
    let why = daemon.json(&["why", "203.0.113.11"]);
    assert_eq!((&why["unbanned"]["by"], &why["unbanned"]["what"]), (&json!(user), &json!("203.0.113.11")));
    assert!(daemon.text(&["why", "203.0.113.11"]).contains(&format!(" ago) by {user} (203.0.113.11)\n")));
    daemon.text(&["unban", "--rule", "helo"]);
    assert_eq!(daemon.json(&["why", "203.0.113.12"])["unbanned"]["what"], "rule helo");
    assert!(daemon.json(&["why", "203.0.113.13"])["unbanned"].is_null(), "never banned");
    assert!(daemon.json(&["why", "203.0.113.10"])["unbanned"].is_null(), "banned");
    assert!(daemon.json(&["pause"])["paused"]["by"] == user);
    let log = daemon.log();
    for expected in [
        format!(" by {user}: floods us"),
        format!("unbanned 203.0.113.11 by {user}"),
        format!("unbanned rule helo by {user}: 1 clients"),
        format!("paused by {user} until "),
    ] {
        assert!(log.contains(&expected), "{expected} is not in\n{log}");
    }
    daemon.end(Signal::KILL);
    let daemon = Daemon::start_again(&stage);
    assert_eq!(daemon.json(&["why", "203.0.113.10"])["ban"]["by"], user);
    let text = daemon.text(&["why", "198.51.100.9"]);
    assert!(text.contains(&format!("  by        {user}\n  reason    floods us\n")), "{text}");
    assert!(daemon.text(&["status"]).contains(&format!(", paused by {user}; to end that: strikeout resume\n")));
    daemon.text(&["resume"]);
    assert!(daemon.log().contains(&format!("resumed by {user}")));
}

#[test]
fn why_explains_a_network() {
    let daemon = Daemon::start(RULES);
    for target in ["198.51.100.7", "198.51.100.128/25", "198.51.0.0/16"] {
        daemon.text(&["ban", target, "--reason", "floods us"]);
    }
    let (text, _, code) = daemon.run(&["why", "198.51.100.0/24"]);
    assert_eq!(code, Some(3));
    for expected in [
        "198.51.100.0/24 is refused as a whole\n",
        "198.51.0.0/16 is banned by hand since ",
        "1 client and 1 network banned\n",
        "198.51.100.128/25 by manual until ",
        "198.51.100.7 by manual until ",
        "strikeout unban 198.51.0.0/16",
        "strikeout unban 198.51.100.0/24 --inside",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let why = daemon.json(&["why", "198.51.100.0/24"]);
    assert_eq!((&why["refused"], &why["inside"]["clients"], &why["bans"][0]["reason"]), (&json!(true), &json!(1), &json!("floods us")));
    let (text, _, code) = daemon.run(&["why", "203.0.113.0/24"]);
    assert_eq!(code, Some(0));
    assert!(
        text.contains("203.0.113.0/24 is not refused as a whole\n")
            && text.contains("not all of it can be banned: ignored network 203.0.113.99"),
        "{text}"
    );
    assert!(text.contains("203.0.113.66 (deny in "), "{text}");
    daemon.text(&["ban", "2001:db8:1:2::7"]);
    assert_eq!(daemon.json(&["why", "2001:db8:1:2::/64"])["ban"]["rule"], "manual", "an IPv6 client is shown as a network");
}

#[test]
fn why_names_the_network_and_the_list_that_refuse() {
    let daemon = Daemon::start(RULES);
    daemon.text(&["ban", "198.51.100.0/24", "--reason", "floods us"]);
    let text = daemon.text(&["why", "198.51.100.77"]);
    assert!(text.contains("198.51.100.0/24 is banned by hand since ") && text.contains("reason    floods us\n"), "{text}");
    assert_eq!(daemon.json(&["why", "198.51.100.77"])["networks"][0]["reason"], "floods us");
    assert!(text.contains("strikeout unban 198.51.100.0/24"), "{text}");
    let text = daemon.text(&["why", "203.0.113.66"]);
    assert!(text.contains("refused on the web and in mail") && text.contains("deny in ") && text.contains("strikeout reload"), "{text}");
    assert_eq!(daemon.json(&["why", "203.0.113.66"])["services"]["web"]["by"], "list");
}
