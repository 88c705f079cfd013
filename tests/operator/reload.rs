//! `reload`: what takes effect at once, and what needs a restart.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{DEADLINE, Daemon, wait_for, wait_until};
use crate::{RULES, attach};

#[test]
fn a_reload_reaches_subscribers_at_once_and_a_rejected_one_does_not() {
    let daemon = Daemon::start(RULES);
    let mut subscriber = UnixStream::connect(daemon.socket()).unwrap();
    subscriber.set_read_timeout(Some(DEADLINE)).unwrap();
    subscriber.write_all(b"subscribe 1\n").unwrap();
    let mut seen = String::new();
    let mut read_until = |what: &str, mark: &str| {
        seen.clear();
        wait_for(what, || {
            let mut chunk = [0; 65_536];
            let read = subscriber.read(&mut chunk).unwrap();
            seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
            seen.contains(mark).then(|| seen.clone())
        })
    };
    read_until("the snapshot is whole", "end bans");
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\n");
    daemon.configure("[[rule]]\nname = 'broken'\n");
    let (_, stderr, code) = daemon.run(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("strikeout.toml:7: found nothing that says what it matches in rule \"broken\""), "{stderr}");
    daemon.configure(&format!("{RULES}[[rule]]\nname = 'new-probe'\npath = '/new-probe'\nmaxretry = 1\n"));
    assert!(daemon.text(&["reload"]).starts_with("reloaded: "));
    let sent = read_until("the new rules arrive", "new-probe");
    assert!(!sent.contains("broken"), "{sent}");
    assert_eq!(daemon.json(&["list"])[0]["client"], "203.0.113.11", "bans stay");
    let status = daemon.json(&["status"]);
    assert_eq!((&status["reloads"], &status["reloads_refused"]), (&json!(1), &json!(1)));
}

#[test]
fn a_squid_helper_uses_the_new_rules_at_once_and_keeps_the_bans() {
    let daemon = Daemon::start(RULES);
    let mut helper = attach(&daemon);
    assert!(helper.ask("203.0.113.51 GET http://a.example/w00tw00t -").starts_with("OK "));
    assert_eq!(helper.ask("203.0.113.52 GET http://a.example/new-probe -"), "ERR");
    daemon.configure("[[rule]]\nname = 'broken'\n");
    let (_, stderr, code) = daemon.run(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("; what was read at ") && stderr.ends_with("Z stays in force\n"), "{stderr}");
    let status = daemon.text(&["status"]);
    assert!(status.contains("REFUSED    the configuration of ") && status.contains("strikeout.toml:7: found nothing"), "{status}");
    assert!(helper.ask("203.0.113.53 GET http://a.example/w00tw00t -").starts_with("OK "), "the old rules are in force");
    daemon.configure(&format!("{RULES}[[rule]]\nname = 'new-probe'\npath = '/new-probe'\nmaxretry = 1\n"));
    assert!(daemon.text(&["reload"]).starts_with("reloaded: "));
    let (status, json) = (daemon.text(&["status"]), daemon.json(&["status"]));
    assert!(!status.contains("the configuration of ") && json["config"]["refused"].is_null(), "only while it is the last: {status}");
    assert!(status.contains(&format!("{}, read ", daemon.stage().config().display())), "{status}");
    wait_until("the helper refuses by the new rule", || helper.ask("203.0.113.52 GET http://a.example/new-probe -").starts_with("OK "));
    assert!(helper.ask("203.0.113.51 GET http://a.example/ -").starts_with("OK "), "bans stay");
}

#[test]
fn a_reload_lists_the_changes_that_need_a_restart() {
    let daemon = Daemon::start(RULES);
    daemon.stage().configure("mode = '0600'", &format!("{RULES}[metrics]\nlisten = '127.0.0.1:9471'\n"));
    let report = daemon.text(&["reload"]);
    assert!(
        report.starts_with("reloaded: ")
            && report.contains("\nwarning: socket, mode, ")
            && report.contains("\nwarning: [metrics] changes only with a restart\n"),
        "{report}"
    );
    let report = daemon.json(&["reload"]);
    assert_eq!((&report["reloaded"], report["notes"].as_array().unwrap().len()), (&json!(true), 2));
    assert_eq!(daemon.json(&["status"])["reloads"], 2, "the rest is in force");
}

/// Rules that ban at the first request for their path or at the first incident, with more keys for the one named `probe`.
fn rules(probe: &str) -> String {
    format!(
        "[[rule]]\nname = 'probe'\npath = '/probe'\nmaxretry = 1\n{probe}\n\
         [[rule]]\nname = 'other'\nevent = 'incident'\nmaxretry = 1\n"
    )
}

#[test]
fn a_rule_that_is_switched_off_or_put_into_shadow_refuses_nobody_from_that_reload_on() {
    for (keys, because) in
        [("mode = 'shadow'", "in shadow mode"), ("enabled = false", "switched off"), ("gone", "not in the configuration")]
    {
        let daemon = Daemon::start(&rules(""));
        let mut helper = attach(&daemon);
        for client in ["203.0.113.1", "203.0.113.2"] {
            assert!(helper.ask(&format!("{client} GET http://a.example/probe -")).starts_with("OK "));
        }
        daemon.ask("strike 203.0.113.3 other\n");
        daemon.text(&["ban", "203.0.113.4"]);
        let changed =
            if keys == "gone" { rules("").replace("'probe'", "'another'").replace("'/probe'", "'/another'") } else { rules(keys) };
        daemon.configure(&changed);
        let report = daemon.text(&["reload"]);
        assert!(report.ends_with(&format!("\n2 bans of rule probe ended: it is {because}\n")), "{report}");
        wait_until("the helper serves both", || !helper.refuses("203.0.113.1") && !helper.refuses("203.0.113.2"));
        assert_eq!(daemon.ask("check 203.0.113.1\n"), "accept\n");
        wait_until("the helper refuses by the other bans", || helper.refuses("203.0.113.3") && helper.refuses("203.0.113.4"));
        assert_eq!(daemon.json(&["list", "--count"]), json!({ "bans": 2 }));
        // Nor does it refuse anybody after a restart, under its old configuration.
        let stage = daemon.stage().clone();
        daemon.end(Signal::TERM);
        stage.configure("", &rules(""));
        let daemon = Daemon::start_again(&stage);
        assert_eq!(daemon.ask("check 203.0.113.1\n"), "accept\n");
        assert!(daemon.text(&["reload"]).ends_with("in shadow\n"), "nothing more to end");
    }
}

#[test]
fn a_rule_that_was_switched_off_while_the_daemon_was_away_refuses_nobody_either() {
    for changed in [rules("mode = 'shadow'"), rules("enabled = false"), String::new()] {
        let daemon = Daemon::start(&rules(""));
        let stage = daemon.stage().clone();
        let mut helper = attach(&daemon);
        assert!(helper.ask("203.0.113.1 GET http://a.example/probe -").starts_with("OK "));
        daemon.text(&["ban", "203.0.113.4"]);
        daemon.end(Signal::TERM);
        stage.configure("", &changed);
        let daemon = Daemon::start_again(&stage);
        assert_eq!(daemon.ask("check 203.0.113.1\n"), "accept\n");
        assert!(daemon.ask("check 203.0.113.4\n").starts_with("defer rule=manual "));
        assert!(daemon.log().contains("1 bans of rule probe ended: it is "), "{}", daemon.log());
    }
}
