//! Bans of networks by rules: in the helper, in `list` and `why`, across a restart, and undone.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Daemon, wait_until};
use crate::{attach, row};

const CROWD: &str = "[defaults]\nignoreip = ['203.0.113.99']\n\
    [[rule]]\nname = 'crowd'\npath = '^/x'\ncount_by = 'network'\nmembers = 5\nmaxretry = 10\nrefuse = 'ban'\nscope = 'web'\n";

#[test]
fn a_crowd_is_refused_by_a_helper_as_a_network_until_an_operator_unbans_it() {
    let daemon = Daemon::start(CROWD);
    let mut helper = attach(&daemon);
    for number in 0..10 {
        let answer = helper.get(&format!("203.0.113.{}", number % 5), "/x");
        assert_eq!(answer.starts_with("OK"), number == 9, "request {number}: {answer}");
    }
    wait_until("the helper refuses the network", || helper.refuses("203.0.113.200"));
    assert!(!helper.refuses("203.0.113.99"), "never banned");
    assert!(!helper.refuses("203.0.114.1"));
    assert!(helper.get("203.0.113.7", "/").contains("rule_=crowd"));
    assert_eq!(daemon.ask("check 203.0.113.7\n"), "accept\n", "its scope is the web");

    let list = daemon.text(&["list"]);
    let words = row(&list, "203.0.113.0/24");
    assert!(words.contains(&"web") && words.contains(&"crowd"), "{list}");
    let text = daemon.text(&["why", "203.0.113.7"]);
    for expected in [
        "203.0.113.0/24 is banned by crowd (scope web)",
        "5 clients or more",
        "such as 203.0.113.",
        "undo      strikeout unban 203.0.113.0/24",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let stage = daemon.stage().clone();
    daemon.end(Signal::KILL);
    let daemon = Daemon::start_again(&stage);
    let why = daemon.json(&["why", "203.0.113.7"]);
    assert_eq!(
        (&why["networks"][0]["rule"], &why["networks"][0]["scope"], &why["networks"][0]["members"]),
        (&json!("crowd"), &json!("web"), &json!(5))
    );
    assert!(why["networks"][0]["reason"].as_str().unwrap().contains("last: GET "), "{why}");
    daemon.text(&["unban", "203.0.113.0/24"]);
    wait_until("the helper serves the network again", || !helper.refuses("203.0.113.200"));
    assert_eq!(daemon.text(&["list"]).lines().filter(|line| line.contains("203.0.113")).count(), 0);
}

#[test]
fn a_crowd_in_shadow_mode_is_shown_and_served() {
    let daemon = Daemon::start(&CROWD.replace("scope = 'web'", "mode = 'shadow'"));
    let mut helper = attach(&daemon);
    for number in 0..10 {
        assert!(helper.get(&format!("203.0.113.{}", number % 5), "/x").starts_with("ERR"));
    }
    let list = daemon.json(&["list", "--shadow", "--evidence"]);
    assert_eq!((&list[0]["client"], &list[0]["rule"]), (&json!("203.0.113.0/24"), &json!("crowd")), "{list}");
    let text = daemon.text(&["why", "203.0.113.200"]);
    assert!(text.contains("crowd would refuse 203.0.113.0/24"), "{text}");
    assert_eq!(daemon.json(&["list"]), json!([]));
}
