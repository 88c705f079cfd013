//! Files that are written anew without some of their lines.

use super::*;

/// A follower that starts anew where the last one stopped, or the same one.
fn maybe_restarted(log: &mut Log, restarts: bool) {
    if restarts {
        log.restart();
    }
}

#[test]
fn a_log_from_which_lines_were_removed_is_read_on_behind_the_others() {
    for (how, restarts) in REWRITES.into_iter().flat_map(|how| [(how, false), (how, true)]) {
        for removed in [0, 1, 50, 98, 99] {
            let mut log = read_log(100);
            maybe_restarted(&mut log, restarts);
            let rest: Vec<String> =
                log.content().lines().enumerate().filter(|(at, _)| *at != removed).map(|(_, line)| format!("{line}\n")).collect();
            log.rewrite(how, &rest.concat());
            assert!(log.poll().is_empty(), "{how:?} {restarts} {removed}");
            log.append("log", b"new\n");
            assert_eq!(log.poll(), ["new"], "{how:?} {restarts} {removed}");
        }
    }
}

#[test]
fn six_lines_that_are_all_the_same_are_read_once_when_the_line_between_them_is_removed() {
    for (how, restarts) in REWRITES.into_iter().flat_map(|how| [(how, false), (how, true)]) {
        let mut log = Log::new();
        log.poll();
        log.append("log", b"attempt\nattempt\nattempt\nother\nattempt\nattempt\nattempt\n");
        assert_eq!(log.poll().len(), 7);
        maybe_restarted(&mut log, restarts);
        log.rewrite(how, &log.content().replace("other\n", ""));
        assert!(log.poll().is_empty(), "{how:?} {restarts}");
    }
}

#[test]
fn a_log_that_is_replaced_by_its_copy_is_read_on_at_its_end() {
    for (how, restarts) in REWRITES.into_iter().flat_map(|how| [(how, false), (how, true)]) {
        let mut log = read_log(300);
        maybe_restarted(&mut log, restarts);
        log.rewrite(how, &log.content());
        assert!(log.poll().is_empty(), "{how:?} {restarts}");
        log.append("log", b"new\n");
        assert_eq!(log.poll(), ["new"], "{how:?} {restarts}");
    }
}

#[test]
fn a_log_that_keeps_only_its_last_lines_is_read_on() {
    for (how, restarts) in REWRITES.into_iter().flat_map(|how| [(how, false), (how, true)]) {
        for kept in [1, 2, 60] {
            let mut log = read_log(100);
            maybe_restarted(&mut log, restarts);
            let content = log.content();
            let lines: Vec<&str> = content.split_inclusive('\n').collect();
            log.rewrite(how, &(lines[lines.len() - kept..].concat() + "new\n"));
            assert_eq!(log.poll(), ["new"], "{how:?} {restarts} {kept}");
        }
    }
}

#[test]
fn an_earlier_state_that_is_put_back_is_not_read_again() {
    for (how, restarts) in REWRITES.into_iter().flat_map(|how| [(how, false), (how, true)]) {
        // More lines are missing than a position remembers, and more than the daemon does.
        for (number, kept) in [(400, 100), (crate::log::seen_lines::REMEMBERED + 400, 200)] {
            let mut log = read_log(number);
            maybe_restarted(&mut log, restarts);
            let content = log.content();
            let before: String = content.split_inclusive('\n').take(kept).collect();
            log.rewrite(how, &before);
            assert!(log.poll().is_empty(), "{how:?} {restarts} {number}");
            log.append("log", b"new\n");
            assert_eq!(log.poll(), ["new"], "{how:?} {restarts} {number}");
        }
    }
}

#[test]
fn lines_written_just_before_a_rewrite_are_read_once() {
    for how in REWRITES {
        let mut log = read_log(20);
        log.append("log", b"unread\n");
        log.rewrite(how, &log.content().replacen("line 0", "changed", 1));
        assert_eq!(log.poll(), ["unread"], "{how:?}");
    }
}

#[test]
fn a_log_that_is_seen_while_it_is_being_rewritten_is_not_read_again() {
    // More lines than the daemon remembers, fewer, and fewer than a restart would know.
    for number in [crate::log::seen_lines::REMEMBERED + 5000, 400, 6] {
        for parts in [1, 2, 5] {
            let mut log = read_log(number);
            let content = log.content();
            log.rewrite(Rewrite::InPlace, "");
            assert!(log.poll().is_empty());
            let lines: Vec<&str> = content.split_inclusive('\n').collect();
            for part in lines.chunks(number.div_ceil(parts)) {
                log.append("log", part.concat().as_bytes());
                assert!(log.poll().is_empty(), "{number} in {parts}");
            }
            log.append("log", b"new\n");
            assert_eq!(log.poll(), ["new"], "{number} in {parts}");
        }
    }
}

#[test]
fn after_a_poll_without_data_an_earlier_state_that_was_put_back_is_taken_to_be_complete() {
    let mut log = read_log(crate::log::seen_lines::REMEMBERED + 400);
    let content = log.content();
    log.rewrite(Rewrite::InPlace, "");
    assert!(log.poll().is_empty());
    log.append("log", content.split_inclusive('\n').take(200).collect::<String>().as_bytes());
    assert!(log.poll().is_empty() && log.poll().is_empty(), "too old to be remembered, but the start of the log");
    log.append("log", b"new\n");
    assert_eq!(log.poll(), ["new"]);
}

#[test]
fn an_earlier_state_that_is_put_back_in_too_many_parts_is_taken_to_be_new() {
    let mut log = read_log(crate::log::seen_lines::REMEMBERED + 400);
    let content = log.content();
    log.rewrite(Rewrite::InPlace, "");
    assert!(log.poll().is_empty());
    let mut lines = content.split_inclusive('\n');
    log.append("log", lines.by_ref().take(10).collect::<String>().as_bytes());
    let mut silent_polls = 0;
    while log.poll().is_empty() && silent_polls < 100 {
        silent_polls += 1;
        log.append("log", lines.next().unwrap().as_bytes());
    }
    // The first poll, and 40 more that found something.
    assert_eq!(silent_polls, 41);
}

#[test]
fn a_line_that_repeats_is_read_again_once_the_log_was_quiet_or_has_new_lines() {
    // Idle polls, new lines, and how many of the old lines are read again. The first of them may be the same as an old one by chance.
    for (idle_polls, new_lines, read_again) in [(40, 1, 1), (41, 1, 20), (0, 32, 1), (0, 33, 20)] {
        let mut log = read_log(20);
        let content = log.content();
        log.rename("log", "log.1");
        (0..new_lines).for_each(|number| log.append("log", format!("other {number}\n").as_bytes()));
        assert_eq!(log.poll().len(), new_lines);
        (0..idle_polls).for_each(|_| assert!(log.poll().is_empty()));
        log.append("log", content.as_bytes());
        assert_eq!(log.poll().len(), read_again, "{idle_polls} idle polls, {new_lines} new lines");
    }
}

#[test]
fn lines_that_are_not_read_again_are_not_counted() {
    let mut log = read_log(20);
    let content = log.content();
    log.rewrite(Rewrite::InPlace, "");
    assert!(log.poll().is_empty());
    let lines: Vec<&str> = content.split_inclusive('\n').collect();
    for part in lines.chunks(10) {
        log.append("log", part.concat().as_bytes());
        assert_eq!(log.follower.poll(&mut |_, _| ()).unwrap().lines, 0);
    }
    log.append("log", (lines.concat() + "new\n").as_bytes());
    assert_eq!(log.poll().last().map(String::as_str), Some("new"));
}

#[test]
fn a_log_that_is_rewritten_in_place_is_noticed_by_its_start_by_its_end_and_by_its_length() {
    let count = |how: &str| {
        let mut log = read_log(20);
        let content = log.content();
        let modified = fs::metadata(log.path("log")).unwrap().modified().unwrap();
        match how {
            "start" => log.rewrite(Rewrite::InPlace, &content.replacen("line 0", "LINE 0", 1)),
            "end" => log.rewrite(Rewrite::InPlace, &content.replacen("line 19", "LINE 19", 1)),
            "length" => {
                log.rewrite(Rewrite::InPlace, &(content.replacen("line 0", "LINE 0", 1) + "new\n"));
                OpenOptions::new().append(true).open(log.path("log")).unwrap().set_modified(modified).unwrap();
            }
            _ => log.rewrite(Rewrite::InPlace, &content),
        }
        log.poll();
        log.follower.counts().truncations
    };
    assert_eq!(["start", "end", "length", "not at all"].map(count), [1, 1, 1, 0]);
}

#[test]
fn a_new_installation_does_not_judge_the_past_when_a_log_is_rewritten() {
    for how in REWRITES {
        let mut log = Log::new();
        log.append("log", b"old 1\nold 2\nold 3\n");
        assert!(log.poll().is_empty());
        log.rewrite(how, "old 1\nold 3\n");
        assert!(log.poll().is_empty(), "{how:?}");
    }
}
