//! Bans that get longer each time and survive a restart, and the effect of setting the wall clock.

use rustix::process::Signal;

use crate::harness::{Daemon, Stage};

const DAY: i64 = 86_400_000;

/// The seconds for which `client` is still banned: -1 forever, 0 if it is not.
fn remaining(daemon: &Daemon, client: &str) -> i64 {
    let list = daemon.objects("list");
    list.iter().find(|ban| ban["client"] == client).map_or(0, |ban| ban["remaining"].as_i64().unwrap())
}

/// Bans `client` with a strike, and returns the length of the ban.
fn ban_for(daemon: &Daemon, client: &str, rule: &str) -> i64 {
    assert!(daemon.ask(&format!("strike {client} {rule}")).starts_with("defer "));
    remaining(daemon, client)
}

/// Starts the daemon on a state file without the bans of the one before, as if they had ended.
fn start_after_the_bans(stage: &Stage) -> Daemon {
    edit(stage, "DELETE FROM ban");
    Daemon::start_again(stage)
}

/// Allows for seconds that passed since the ban, and for rounding up to a whole second.
fn about(seconds: i64, wanted: i64) -> bool {
    (wanted - 30..=wanted + 1).contains(&seconds)
}

/// Changes the state file while no daemon runs.
fn edit(stage: &Stage, sql: &str) {
    let file = rusqlite::Connection::open(stage.state()).unwrap();
    assert!(file.execute(sql, []).unwrap() > 0, "{sql}");
}

#[test]
fn each_ban_lasts_longer_up_to_maxtime_across_restarts_until_earlier_ones_are_forgotten() {
    let stage = Stage::new();
    let rule = "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\n\
                bantime = { initial = '10m', increment = true, factor = 2, maxtime = '70m', forget = '2h' }\n";
    let daemon = Daemon::start_on(&stage, "", rule);
    let client = "203.0.113.1";
    let first = ban_for(&daemon, client, "helo");
    assert!(about(first, 600), "{first}");
    // Killed right after the answer.
    daemon.end(Signal::KILL);
    let daemon = start_after_the_bans(&stage);
    let second = ban_for(&daemon, client, "helo");
    assert!(about(second, 2400), "initial * factor * 2^1: {second}");
    assert!(about(ban_for(&daemon, "203.0.113.2", "helo"), 600), "another client starts with the initial length");
    daemon.end(Signal::TERM);
    let daemon = start_after_the_bans(&stage);
    let third = ban_for(&daemon, client, "helo");
    assert!(about(third, 4200), "maxtime, not 4800: {third}");
    daemon.end(Signal::TERM);
    // The last ban began a little less than two hours ago, then a little more.
    edit(&stage, "UPDATE history SET last = last - 7000 * 1000");
    let daemon = start_after_the_bans(&stage);
    let fourth = ban_for(&daemon, client, "helo");
    assert!(about(fourth, 4200), "{fourth}");
    daemon.end(Signal::TERM);
    edit(&stage, "UPDATE history SET last = last - 7300 * 1000");
    let daemon = start_after_the_bans(&stage);
    let fifth = ban_for(&daemon, client, "helo");
    assert!(about(fifth, 600), "forgotten: {fifth}");
}

#[test]
fn an_unban_forgets_the_bans_that_made_the_next_one_longer() {
    let stage = Stage::new();
    let rule = "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\nbantime = { initial = '10m', increment = true }\n";
    let mut daemon = Daemon::start_on(&stage, "", rule);
    for restart in [false, true] {
        let client = if restart { "203.0.113.2" } else { "203.0.113.1" };
        assert!(about(ban_for(&daemon, client, "helo"), 600));
        daemon.object(&format!("unban {client}"));
        if restart {
            daemon.end(Signal::KILL);
            daemon = Daemon::start_again(&stage);
        }
        let seconds = ban_for(&daemon, client, "helo");
        assert!(about(seconds, 600), "its first ban again: {seconds}");
    }
}

#[test]
fn an_unban_of_many_forgets_the_earlier_bans_of_those_who_are_not_banned_now_too() {
    let rule =
        "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\nscope = 'mail'\nbantime = { initial = '10m', increment = true }\n";
    let client = "203.0.113.1";
    for (unban, seconds) in [
        ("unban all", 600),
        ("unban rule=helo", 600),
        ("unban 203.0.113.0/24 inside", 600),
        ("unban 203.0.113.1", 600),
        ("unban 198.51.100.0/24 inside", 1200),
        ("unban rule=manual", 1200),
        // The rule refuses in mail alone.
        ("unban all scope=web", 1200),
        ("unban 203.0.113.1 scope=web", 1200),
        ("unban all scope=mail", 600),
    ] {
        for restart in [false, true] {
            let stage = Stage::new();
            let daemon = Daemon::start_on(&stage, "", rule);
            assert!(about(ban_for(&daemon, client, "helo"), 600));
            daemon.end(Signal::KILL);
            let mut daemon = start_after_the_bans(&stage);
            daemon.object(unban);
            if restart {
                daemon.end(Signal::KILL);
                daemon = Daemon::start_again(&stage);
            }
            let next = ban_for(&daemon, client, "helo");
            assert!(about(next, seconds), "{unban}, restart {restart}: {next}");
        }
    }
}

#[test]
fn a_permanent_ban_survives_a_restart_and_eviction_until_an_unban() {
    let stage = Stage::new();
    let rule = "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\nbantime = -1\n";
    let daemon = Daemon::start_on(&stage, "bans = 10\n", rule);
    assert!(daemon.ask("strike 203.0.113.1 helo").starts_with("defer rule=helo until=-1"));
    for number in 1..=50 {
        assert!(daemon.ask(&format!("strike 198.51.100.{number} helo")).starts_with("defer "));
    }
    assert_eq!(remaining(&daemon, "203.0.113.1"), -1, "newer bans do not evict it");
    daemon.end(Signal::KILL);
    edit(&stage, "UPDATE ban SET since = since - 1000 * 86400000");
    let daemon = Daemon::start_again(&stage);
    assert_eq!(remaining(&daemon, "203.0.113.1"), -1, "a thousand days later");
    assert_eq!(daemon.object("unban 203.0.113.1")["found"], true);
    daemon.end(Signal::KILL);
    assert_eq!(remaining(&Daemon::start_again(&stage), "203.0.113.1"), 0);
}

/// A test cannot set the machine's clock. To the next process, a clock set back by a day looks like a file written a day ahead. A running
/// process does not follow the wall clock, which the tests of `src/clock.rs` cover.
#[test]
fn setting_the_clock_by_a_day_between_two_starts_makes_no_ban_longer() {
    let stage = Stage::new();
    let rule = "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 2\nfindtime = '10m'\n";
    let daemon = Daemon::start_on(&stage, "", rule);
    assert!(daemon.ask("ban 203.0.113.1 30m").starts_with(r#"{"banned":"#));
    assert!(daemon.ask("ban 203.0.113.2 -1").starts_with(r#"{"banned":"#));
    assert!(daemon.ask("ban 203.0.113.3 2d").starts_with(r#"{"banned":"#));
    assert_eq!(daemon.ask("strike 203.0.113.4 helo"), "accept\n");
    daemon.end(Signal::TERM);
    edit(&stage, &format!("UPDATE ban SET first = first + {DAY}, since = since + {DAY}, until = until + {DAY}"));
    edit(&stage, &format!("UPDATE strike SET first = first + {DAY}, last = last + {DAY}, until = until + {DAY}"));
    let daemon = Daemon::start_again(&stage);
    let after = remaining(&daemon, "203.0.113.1");
    assert!(about(after, 1800), "set back: {after}");
    assert_eq!(remaining(&daemon, "203.0.113.2"), -1);
    assert!(about(remaining(&daemon, "203.0.113.3"), 2 * 86_400));
    assert!(daemon.ask("strike 203.0.113.4 helo").starts_with("defer rule=helo"), "its strike still counts");
    daemon.end(Signal::TERM);
    edit(&stage, &format!("UPDATE ban SET first = first - 2 * {DAY}, since = since - 2 * {DAY}, until = until - 2 * {DAY}"));
    let daemon = Daemon::start_again(&stage);
    assert_eq!(remaining(&daemon, "203.0.113.1"), 0, "set forward: it has ended");
    assert_eq!(remaining(&daemon, "203.0.113.2"), -1);
    let after = remaining(&daemon, "203.0.113.3");
    assert!(about(after, 86_400), "{after}");
}
