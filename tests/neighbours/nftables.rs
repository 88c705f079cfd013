//! `conf-examples/hook-nftables` with a real nft, in a network namespace.

use std::fs::File;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Daemon, Namespace, STRIKEOUT, end, has, wait_until};

const HOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf-examples/hook-nftables");

/// The program in a namespace of its own.
struct Hook {
    namespace: Namespace,
    child: Child,
}

impl Hook {
    fn start(daemon: &Daemon) -> Self {
        let namespace = Namespace::new();
        let wrapper = namespace.wrapper();
        let log = File::options().create(true).append(true).open(daemon.stage().path("hook.log")).unwrap();
        let mut command = Command::new(&wrapper[0]);
        command
            .args(&wrapper[1..])
            .args(["sh", HOOK])
            .env("STRIKEOUT", STRIKEOUT)
            .env("SECONDS_BETWEEN", "0.1")
            .env("ROUNDS_BETWEEN", "5")
            .stderr(log);
        let child = command.env("OPTIONS", format!("--table {}", daemon.socket().display())).spawn().unwrap();
        Self { namespace, child }
    }

    fn sets(&self) -> String {
        let wrapper = self.namespace.wrapper();
        let output = Command::new(&wrapper[0]).args(&wrapper[1..]).args(["nft", "list", "table", "inet", "strikeout"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

#[test]
fn the_sets_follow_bans_unbans_and_a_pause_and_are_emptied_at_the_end() {
    if !has("nft", "nftables") || !Namespace::can_be_made() {
        return;
    }
    let mut daemon = Daemon::start("");
    daemon.text(&["ban", "198.51.100.7", "1h"]);
    let mut hook = Hook::start(&daemon);
    wait_until("a ban from before is there", || hook.sets().contains("198.51.100.7 timeout"));
    daemon.text(&["ban", "203.0.113.0/24", "1h"]);
    daemon.text(&["ban", "2001:db8:1::7", "1h"]);
    wait_until("networks too", || {
        let sets = hook.sets();
        sets.contains("203.0.113.0/24") && sets.contains("2001:db8:1::/64")
    });
    daemon.text(&["unban", "198.51.100.7"]);
    wait_until("an unban is followed", || !hook.sets().contains("198.51.100.7"));

    hook.namespace.run("nft flush set inet strikeout banned_networks4");
    wait_until("a set that somebody has emptied is written again", || hook.sets().contains("203.0.113.0/24"));

    // A rule of the operator's stays through all of this.
    hook.namespace.run("nft add chain inet strikeout input { type filter hook input priority -10 ; }");
    hook.namespace.run("nft add rule inet strikeout input ip saddr @banned_networks4 drop");
    daemon.text(&["pause", "10m"]);
    wait_until("a pause is followed", || !hook.sets().contains("203.0.113.0/24"));
    daemon.text(&["resume"]);
    wait_until("and its end", || hook.sets().contains("203.0.113.0/24"));

    daemon.kill();
    let before = hook.sets();
    assert!(before.contains("203.0.113.0/24"), "without the daemon, what is known stands: {before}");
    kill_process(Pid::from_child(&hook.child), Signal::TERM).unwrap();
    assert!(hook.child.wait().unwrap().success());
    let sets = hook.sets();
    assert!(!sets.contains("203.0.113.0/24") && sets.contains("saddr @banned_networks4 drop"), "{sets}");
}
