//! `pause` and `resume`: everybody is served, by helpers and in mail, until the end.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Daemon, wait_until};
use crate::{RULES, attach};

#[test]
fn a_pause_serves_everybody_at_once_and_counting_goes_on() {
    let daemon = Daemon::start(RULES);
    let mut helper = attach(&daemon);
    daemon.text(&["ban", "203.0.113.10"]);
    wait_until("the helper refuses", || helper.refuses("203.0.113.10"));
    assert!(daemon.text(&["pause", "30m"]).ends_with(" (for 30 min)\n"));
    wait_until("the helper serves", || !helper.refuses("203.0.113.10"));
    // A ban by hand, a deny list, a probe that is refused by itself, and the second strike of a client.
    assert_eq!(daemon.ask("check 203.0.113.10\n"), "accept\n");
    assert_eq!(daemon.ask("check 203.0.113.66\n"), "accept\n");
    assert_eq!(helper.ask("203.0.113.51 GET http://a.example/w00tw00t -"), "ERR");
    assert_eq!(daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\n"), "accept\naccept\n");
    assert_eq!(daemon.json(&["list", "--count"]), json!({ "bans": 3 }), "counting goes on");
    assert_eq!(daemon.text(&["resume"]), "resumed: banned clients are refused again\n");
    wait_until("the helper refuses again", || helper.refuses("203.0.113.10"));
    assert!(helper.refuses("203.0.113.51"), "banned during the pause");
    assert!(daemon.ask("check 203.0.113.11\n").starts_with("defer rule=helo "));
    assert_eq!(daemon.text(&["resume"]), "there was no pause\n");
}

#[test]
fn status_and_why_tell_of_a_pause() {
    let daemon = Daemon::start(RULES);
    daemon.text(&["ban", "203.0.113.10"]);
    let paused = daemon.json(&["pause"]);
    assert!((3599..=3600).contains(&paused["paused"]["remaining"].as_i64().unwrap()), "an hour unless given: {paused}");
    let status = daemon.text(&["status"]);
    assert!(
        status.contains("PAUSED     everybody is served for another ") && status.contains("to end that: strikeout resume\n"),
        "{status}"
    );
    let why = daemon.text(&["why", "203.0.113.10"]);
    assert!(why.starts_with("203.0.113.10 is served because of a pause until "), "{why}");
    assert!(
        why.contains("without it, it would be refused on the web and in mail\n") && why.contains("strikeout unban 203.0.113.10"),
        "{why}"
    );
    let why = daemon.json(&["why", "203.0.113.10"]);
    assert_eq!((&why["refused"], &why["paused"]["until"]), (&json!(false), &paused["paused"]["until"]));
    assert_eq!(why["services"]["web"]["rule"], "manual");
    assert!(daemon.text(&["metrics"]).contains("\nstrikeout_paused 1\n"));
    assert!(daemon.log().contains("paused by user "), "{}", daemon.log());
    daemon.text(&["resume"]);
    assert_eq!(daemon.json(&["status"])["paused"], Value::Null);
    assert!(daemon.text(&["metrics"]).contains("\nstrikeout_paused 0\n"));
}

#[test]
fn a_pause_ends_by_itself_in_the_daemon_and_in_its_helpers() {
    let daemon = Daemon::start(RULES);
    daemon.text(&["ban", "203.0.113.10"]);
    daemon.text(&["pause", "1s"]);
    let mut helper = attach(&daemon);
    wait_until("both refuse again", || helper.refuses("203.0.113.10") && daemon.ask("check 203.0.113.10\n").starts_with("defer "));
    wait_until("the log says so", || daemon.log().contains("the pause has ended by itself"));
}

#[test]
fn a_pause_outlives_a_restart_and_so_does_its_end() {
    let daemon = Daemon::start(RULES);
    let stage = daemon.stage().clone();
    daemon.text(&["ban", "203.0.113.10"]);
    let until = daemon.json(&["pause", "2h"])["paused"]["until"].clone();
    daemon.end(Signal::KILL);
    let daemon = Daemon::start_again(&stage);
    assert_eq!(daemon.json(&["status"])["paused"]["until"], until);
    let mut helper = attach(&daemon);
    assert!(!helper.refuses("203.0.113.10"), "the snapshot holds the pause");
    assert_eq!(daemon.ask("check 203.0.113.10\n"), "accept\n");
    assert!(daemon.text(&["reload"]).starts_with("reloaded: "));
    assert_eq!(daemon.ask("check 203.0.113.10\n"), "accept\n", "a reload ends no pause");
    daemon.text(&["resume"]);
    daemon.end(Signal::KILL);
    let daemon = Daemon::start_again(&stage);
    assert!(daemon.ask("check 203.0.113.10\n").starts_with("defer "));
}

#[test]
fn a_pause_without_an_end_is_refused_and_so_is_one_by_anybody() {
    let daemon = Daemon::start(RULES);
    for length in ["-1", "0", "soon", "36500d", "31d"] {
        let (_, stderr, code) = daemon.run(&["pause", length]);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("expected a duration such as 30m or 2h, at most 30d: a pause always ends by itself"), "{stderr}");
    }
    assert!(daemon.ask("pause -1\n").starts_with("error found \"-1\", expected a duration"));
    assert_eq!(daemon.json(&["status"])["paused"], Value::Null);
}
