//! Which lines a follower hands on, where it starts, and how much one poll reads.

use super::*;
use crate::log::followed_file::MAX_PER_POLL;
use crate::log::lines::MAX_LENGTH;

#[test]
fn a_required_file_that_is_missing_is_an_error_but_not_between_rotation_and_the_new_file() {
    let mut log = Log::new();
    log.follower = Follower::new(&log.path("log"), None).required();
    let poll = |log: &mut Log| log.follower.poll(&mut |_, _| ()).map_err(|error| error.to_string());
    assert!(poll(&mut log).unwrap_err().starts_with("found no such file, expected "));
    log.append("log", b"1\n");
    assert_eq!(poll(&mut log).unwrap().lines, 1);
    log.rename("log", "log.1");
    assert!(poll(&mut log).is_ok());
    let later = (1..=POLLS_BEFORE_MISSED).filter(|_| poll(&mut log).is_err()).count();
    assert_eq!(later, 1, "after that many polls");
    assert!(poll(&mut log).is_err(), "and from then on");
    log.append("log", b"2\n");
    assert_eq!(poll(&mut log).unwrap().lines, 1);
}

#[test]
fn a_new_installation_starts_at_the_end() {
    let mut log = Log::new();
    log.append("log", b"old\n");
    assert!(log.poll().is_empty());
    log.append("log", b"new\n");
    assert_eq!(log.poll(), ["new"]);
    assert_eq!(log.follower.lag(), 0);
}

#[test]
fn a_line_begun_before_the_start_is_skipped() {
    let mut log = Log::new();
    log.append("log", b"old\nGET /?x=");
    log.poll();
    log.append("log", b"Connection from [8.8.8.8]\nnew\n");
    assert_eq!(log.poll(), ["new"]);
}

#[test]
fn a_log_that_appears_late_is_read_from_its_start() {
    let mut log = Log::new();
    assert!(log.poll().is_empty());
    log.append("log", b"first\n");
    assert_eq!(log.poll(), ["first"]);
}

#[test]
fn a_log_is_missing_until_a_file_was_found() {
    let mut log = Log::new();
    assert!(!log.follower.is_missing(), "nobody has looked");
    log.poll();
    assert!(log.follower.is_missing());
    log.append("log", b"1\n");
    log.poll();
    assert!(!log.follower.is_missing());
    log.rename("log", "log.1");
    log.poll();
    assert!(!log.follower.is_missing(), "the old file is still read");
}

#[test]
fn an_incomplete_line_waits_for_its_newline() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"one\ntw");
    assert_eq!(log.poll(), ["one"]);
    log.append("log", b"o\r\n\nthree\n");
    assert_eq!(log.poll(), ["two", "", "three"]);
}

#[test]
fn the_rest_of_a_cut_line_is_not_a_line() {
    for length in [MAX_LENGTH - 1, MAX_LENGTH, MAX_LENGTH + 1, 5 * MAX_LENGTH + 17] {
        let mut log = Log::new();
        log.poll();
        let line = "x".repeat(length);
        log.append("log", format!("{line}\nnext\n").as_bytes());
        let lines = log.poll();
        assert_eq!((lines.len(), lines[0].len(), &*lines[1]), (2, length.min(MAX_LENGTH), "next"), "{length}");
        let counts = log.follower.counts();
        assert_eq!(counts.dropped_bytes, length.saturating_sub(MAX_LENGTH) as u64);
        assert!(length <= MAX_LENGTH || counts.cut_lines == 1);
    }
}

#[test]
fn a_path_below_a_file_is_an_error_and_not_a_log_that_appears_late() {
    let mut log = Log::new();
    log.append("file", b"1\n");
    log.follower = Follower::new(&log.path("file").join("log"), None);
    assert_eq!(log.follower.poll(&mut |_, _| {}).unwrap_err().kind(), io::ErrorKind::NotADirectory);
}

#[test]
fn a_fifo_or_a_folder_is_an_error_and_does_not_block() {
    let mut log = Log::new();
    rustix::fs::mknodat(rustix::fs::CWD, log.path("log"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    assert!(log.follower.poll(&mut |_, _| {}).unwrap_err().to_string().contains("expected a file"));
    fs::remove_file(log.path("log")).unwrap();
    fs::create_dir(log.path("log")).unwrap();
    assert!(log.follower.poll(&mut |_, _| {}).is_err());
    fs::remove_dir(log.path("log")).unwrap();
    log.append("log", b"1\n");
    assert_eq!(log.poll().len(), 0, "the follower never saw the path empty, so what is there counts as old");
    log.append("log", b"2\n");
    assert_eq!(log.poll(), ["2"]);
}

#[test]
fn one_poll_reads_a_limited_amount() {
    let mut log = Log::new();
    log.poll();
    let line = "y".repeat(1023);
    for _ in 0..10 {
        log.append("log", format!("{line}\n").repeat(1024).as_bytes());
    }
    let mut lines = 0_u64;
    let progress = log.follower.poll(&mut |_, _| lines += 1).unwrap();
    assert!(progress.more && progress.bytes <= MAX_PER_POLL + CHUNK as u64);
    assert!(progress.bytes >= 8 * 1024 * 1024, "{}", progress.bytes);
    assert_eq!((log.follower.lag(), progress.lines), (10 * (1 << 20) - progress.bytes, lines));
    assert_eq!(lines + log.poll().len() as u64, 10 * 1024);
}

#[test]
fn only_lines_that_follow_what_was_read_are_live() {
    let mut log = Log::new();
    let live = |log: &mut Log| {
        let mut live = Vec::new();
        log.follower.poll(&mut |_, is_live| live.push(is_live)).unwrap();
        live
    };
    live(&mut log);
    log.append("log", b"1\n");
    assert_eq!(live(&mut log), [true], "a file that has just appeared");
    log.append("log", b"2\n");
    assert_eq!(live(&mut log), [true]);
    log.append("log", b"3\n");
    log.restart();
    assert_eq!(live(&mut log), [false], "written while nobody read");
    log.append("log", b"4\n");
    assert_eq!(live(&mut log), [true]);
    log.rewrite(Rewrite::Replaced, "1\n3\n4\n5\n");
    assert_eq!(live(&mut log), [false], "a rewritten file may hold anything");
    log.append("log", b"6\n");
    assert_eq!(live(&mut log), [true]);
    log.rename("log", "log.1");
    log.append("log", b"7\n");
    assert_eq!(live(&mut log), [true]);
    log.append("log", format!("{}\n", "z".repeat(100)).repeat(2 * (MAX_PER_POLL as usize / 100)).as_bytes());
    assert!(live(&mut log).iter().all(|is_live| *is_live));
    assert!(live(&mut log).iter().all(|is_live| !is_live), "it lags behind");
}

#[test]
fn lines_of_a_new_file_are_live_unless_it_is_too_large_to_have_been_written_since_the_last_poll() {
    for (rest, is_live) in [("", true), ("\n", false)] {
        let mut log = Log::new();
        log.poll();
        // 64 KiB.
        log.append("log", (format!("{}\n", "z".repeat(63)).repeat(1024) + rest).as_bytes());
        let mut live = Vec::new();
        log.follower.poll(&mut |_, is_live| live.push(is_live)).unwrap();
        assert!(live.len() >= 1024 && live.iter().all(|live| *live == is_live), "{rest:?}");
    }
}
