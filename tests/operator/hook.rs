//! The hook, a program that is run for each ban and unban.

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::RULES;
use crate::harness::{Daemon, Stage, wait_for, wait_until};

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

#[test]
fn the_hook_is_called_for_each_ban_that_a_reload_ends_with_its_rule() {
    let dir = tempfile::tempdir().unwrap();
    let calls = dir.path().join("calls");
    let configuration = |rules: &str| format!("{rules}[hook]\ncommand = ['/bin/sh', '-c', 'echo $* >> {}', 'hook']\n", calls.display());
    let daemon = Daemon::start(&configuration(RULES));
    daemon.ask("strike 203.0.113.11 helo\nstrike 203.0.113.11 helo\nstrike 203.0.113.12 helo\nstrike 203.0.113.12 helo\n");
    daemon.text(&["ban", "203.0.113.14", "-1"]);
    daemon.configure(&configuration(&RULES.replace("scope = 'mail'", "scope = 'mail'\nmode = 'shadow'")));
    assert!(daemon.text(&["reload"]).contains("2 bans"));
    let told = wait_for("the hook was called for both", || {
        let text = fs::read_to_string(&calls).unwrap_or_default();
        let mut told: Vec<_> = text.lines().filter(|line| line.starts_with("unban ")).map(str::to_owned).collect();
        told.sort();
        (told.len() == 2).then_some(told)
    });
    assert_eq!(told, ["unban 203.0.113.11", "unban 203.0.113.12"]);
}

/// A script that runs until `go` exists, and then writes its standard input to `lines`.
fn slow_hook(stage: &Stage, more: &str) -> String {
    let program =
        stage.write("hook", &format!("#!/bin/sh\nuntil [ -e {0}/go ]; do sleep 0.01; done\ncat >> {0}/lines\n", stage.path("").display()));
    Command::new("chmod").arg("755").arg(&program).status().unwrap();
    format!("{RULES}[hook]\ncommand = [{program:?}]\nat_once = 1\ntimeout = '1h'\n{more}")
}

/// Bans so many clients, the first of them before the others, so that the hook runs for it alone.
fn flood(daemon: &Daemon, clients: usize) {
    daemon.text(&["ban", "198.51.100.1", "1h"]);
    wait_until("the hook runs", || daemon.object("status").pointer("/hook/running").is_some_and(|running| running == 1));
    let strikes: Vec<String> = (0..clients).map(|number| format!("ban 10.0.{}.{} 1h\n", number / 256, number % 256)).collect();
    strikes.chunks(32).for_each(|some| drop(daemon.ask(&some.concat())));
    wait_until("all are banned", || daemon.number("bans") == clients as u64 + 1);
}

#[test]
fn under_a_flood_one_run_is_given_many_bans_and_none_is_lost() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", &slow_hook(&stage, "batch = 400\nqueue = 1000"));
    flood(&daemon, 900);
    stage.write("go", "");
    let status = wait_for("the hook is done", || {
        let status = daemon.object("status");
        (status["hook"]["waiting"] == 0 && status["hook"]["running"] == 0).then_some(status)
    });
    let lines = fs::read_to_string(stage.path("lines")).unwrap();
    let client = |line: &str| serde_json::from_str::<Value>(line).unwrap()["client"].as_str().unwrap().to_owned();
    let mut clients: Vec<String> = lines.lines().map(client).collect();
    clients.sort_unstable();
    clients.dedup();
    assert_eq!((lines.lines().count(), clients.len()), (901, 901));
    // One, and then 400, 400 and 100.
    assert_eq!(status["hook"], json!({"waiting": 0, "running": 0, "done": 4, "failed": 0, "killed": 0, "dropped": 0}));
}

#[test]
fn bans_beyond_the_hooks_queue_are_counted_and_the_end_says_how_many_it_was_not_run_for() {
    let stage = Stage::new();
    let daemon = Daemon::start_on(&stage, "", &slow_hook(&stage, "queue = 100"));
    flood(&daemon, 300);
    assert_eq!(daemon.object("status")["hook"], json!({"waiting": 100, "running": 1, "done": 0, "failed": 0, "killed": 0, "dropped": 200}));
    assert!(daemon.end(Signal::TERM).success());
    let log = fs::read_to_string(stage.path("log")).unwrap();
    assert!(log.contains("the hook was not run for 100 bans and unbans that still wait, nor for 200 dropped ones"), "{log}");
}
