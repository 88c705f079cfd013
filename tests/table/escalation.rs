//! Bans that grow with each one, and that outlive the process which made them; and what a clock that was wrong does to them.

use rustix::process::Signal;

use super::processes::{Resident, Stage};

const DAY: i64 = 86_400_000;

/// For how many seconds `client` is refused from now; -1 for ever, 0 not at all.
fn remaining(resident: &Resident<'_>, client: &str) -> i64 {
    let list = resident.ask("list");
    let line = list.lines().find(|line| line.starts_with(&format!("{client} ")));
    line.map_or(0, |line| line.split(' ').find_map(|word| word.strip_prefix("remaining=")).unwrap().parse().unwrap())
}

/// Strikes `client` out, and says for how long. The ban is lifted again: the next offence is another one.
fn ban_for(resident: &Resident<'_>, client: &str, rule: &str) -> i64 {
    assert!(resident.ask(&format!("strike {client} {rule}")).starts_with("defer "));
    let seconds = remaining(resident, client);
    resident.ask(&format!("unban {client}"));
    seconds
}

/// A few seconds may have passed since the ban, and an end is a whole second, rounded up.
fn about(seconds: i64, wanted: i64) -> bool {
    (wanted - 30..=wanted + 1).contains(&seconds)
}

/// Changes the state file of a resident that does not run.
fn edit(stage: &Stage, sql: &str) {
    let file = rusqlite::Connection::open(stage.path("state/strikeout.db")).unwrap();
    assert!(file.execute(sql, []).unwrap() > 0, "{sql}");
}

#[test]
fn each_ban_lasts_longer_up_to_maxtime_over_kill_9_and_restart_until_it_is_forgotten() {
    let stage = Stage::new();
    let rule = "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\n\
                bantime = { initial = '10m', increment = true, factor = 2, maxtime = '70m', forget = '2h' }\n";
    let resident = Resident::start(&stage, "", rule);
    let client = "203.0.113.1";
    let first = ban_for(&resident, client, "helo");
    assert!(about(first, 600), "{first}");
    // Killed at once after the answer.
    resident.end(Signal::KILL);
    let resident = Resident::start_again(&stage);
    let second = ban_for(&resident, client, "helo");
    assert!(about(second, 2400), "initial * factor * 2^1: {second}");
    assert!(about(ban_for(&resident, "203.0.113.2", "helo"), 600), "another client begins at the beginning");
    resident.end(Signal::TERM);
    let resident = Resident::start_again(&stage);
    let third = ban_for(&resident, client, "helo");
    assert!(about(third, 4200), "maxtime, not 4800: {third}");
    resident.end(Signal::TERM);
    // Somewhat less than two hours ago, then somewhat more.
    edit(&stage, "UPDATE history SET last = last - 7000 * 1000");
    let resident = Resident::start_again(&stage);
    let fourth = ban_for(&resident, client, "helo");
    assert!(about(fourth, 4200), "{fourth}");
    resident.end(Signal::TERM);
    edit(&stage, "UPDATE history SET last = last - 7300 * 1000");
    let resident = Resident::start_again(&stage);
    let fifth = ban_for(&resident, client, "helo");
    assert!(about(fifth, 600), "forgotten: {fifth}");
}

#[test]
fn a_permanent_ban_outlives_a_restart_and_falls_only_by_hand() {
    let stage = Stage::new();
    let rule = "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 1\nbantime = -1\n";
    let resident = Resident::start(&stage, "bans = 10\n", rule);
    assert!(resident.ask("strike 203.0.113.1 helo").starts_with("defer rule=helo until=-1"));
    for number in 1..=50 {
        assert!(resident.ask(&format!("strike 198.51.100.{number} helo")).starts_with("defer "));
    }
    assert_eq!(remaining(&resident, "203.0.113.1"), -1, "no newer ban pushes it out");
    resident.end(Signal::KILL);
    edit(&stage, "UPDATE ban SET since = since - 1000 * 86400000");
    let resident = Resident::start_again(&stage);
    assert_eq!(remaining(&resident, "203.0.113.1"), -1, "a thousand days later");
    assert!(resident.ask("unban 203.0.113.1").starts_with("unbanned "));
    resident.end(Signal::KILL);
    assert_eq!(remaining(&Resident::start_again(&stage), "203.0.113.1"), 0);
}

/// A test cannot set the machine's clock; to the next process a clock that was set back by a day looks like a file written a day ahead.
/// That a running process does not follow the wall clock is in the clock's own tests.
#[test]
fn a_clock_set_by_a_day_between_two_starts_makes_no_ban_longer_than_it_was_meant() {
    let stage = Stage::new();
    let rule = "[[rule]]\nname = 'helo'\nevent = 'incident'\nmaxretry = 2\nfindtime = '10m'\n";
    let resident = Resident::start(&stage, "", rule);
    assert!(resident.ask("ban 203.0.113.1 30m").starts_with("banned "));
    assert!(resident.ask("ban 203.0.113.2 -1").starts_with("banned "));
    assert!(resident.ask("ban 203.0.113.3 2d").starts_with("banned "));
    assert_eq!(resident.ask("strike 203.0.113.4 helo"), "accept\n");
    resident.end(Signal::TERM);
    edit(&stage, &format!("UPDATE ban SET first = first + {DAY}, since = since + {DAY}, until = until + {DAY}"));
    edit(&stage, &format!("UPDATE strike SET first = first + {DAY}, last = last + {DAY}, until = until + {DAY}"));
    let resident = Resident::start_again(&stage);
    let after = remaining(&resident, "203.0.113.1");
    assert!(about(after, 1800), "set back: {after}");
    assert_eq!(remaining(&resident, "203.0.113.2"), -1);
    assert!(about(remaining(&resident, "203.0.113.3"), 2 * 86_400));
    assert!(resident.ask("strike 203.0.113.4 helo").starts_with("defer rule=helo"), "its strike counts");
    resident.end(Signal::TERM);
    edit(&stage, &format!("UPDATE ban SET first = first - 2 * {DAY}, since = since - 2 * {DAY}, until = until - 2 * {DAY}"));
    let resident = Resident::start_again(&stage);
    assert_eq!(remaining(&resident, "203.0.113.1"), 0, "set forward: it has ended");
    assert_eq!(remaining(&resident, "203.0.113.2"), -1);
    let after = remaining(&resident, "203.0.113.3");
    assert!(about(after, 86_400), "{after}");
}
