//! The hook, a program that is run for each ban and unban.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::RULES;
use crate::harness::{Daemon, wait_for, wait_until};

#[test]
fn the_hook_is_called_for_each_ban_and_unban_and_a_reload_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("hook");
    let calls = dir.path().join("calls");
    fs::write(&program, format!("#!/bin/sh\necho \"$*\" >> {}\n", calls.display())).unwrap();
    Command::new("chmod").arg("755").arg(&program).status().unwrap();
    let hook = |word: &str| format!("{RULES}[hook]\ncommand = [{program:?}, '{word}']\n");
    let daemon = Daemon::start(&hook("one"));
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\nstrike 203.0.113.13 quiet\n");
    daemon.text(&["unban", "203.0.113.11"]);
    let lines = wait_for("the hook was called for both", || {
        let text = fs::read_to_string(&calls).unwrap_or_default();
        (text.lines().count() == 2).then(|| text.lines().map(str::to_owned).collect::<Vec<_>>())
    });
    let until = lines[0].strip_prefix("one ban 203.0.113.11 helo ").unwrap();
    let now = jiff::Timestamp::now().as_second();
    assert!((now + 3500..=now + 3602).contains(&until.parse::<i64>().unwrap()), "{until}");
    assert_eq!(lines[1], "one unban 203.0.113.11");
    daemon.configure(&hook("two"));
    assert!(daemon.text(&["reload"]).starts_with("reloaded: "));
    daemon.text(&["ban", "198.51.100.0/24", "-1"]);
    wait_until("the new hook was called", || fs::read_to_string(&calls).unwrap().contains("two ban 198.51.100.0/24 manual -1"));
    let status = wait_for("the calls have ended", || {
        let status = daemon.json(&["status"]);
        (status["hook"]["done"] == 3).then_some(status)
    });
    assert_eq!(status["hook"], json!({"waiting": 0, "running": 0, "done": 3, "failed": 0, "killed": 0, "dropped": 0}));
}
