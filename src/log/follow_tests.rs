//! What a follower reads whatever is done to the file. Each test uses real files and lets no time pass.

use super::super::followed_file::MAX_PER_POLL;
use super::*;
use crate::log::lines::MAX_LENGTH;
use proptest::prelude::*;
use std::fs::{self, File, OpenOptions};
use std::io::Write;

struct Log {
    folder: tempfile::TempDir,
    follower: Follower,
}

impl Log {
    /// A follower of a log that does not exist yet.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let follower = Follower::new(&folder.path().join("log"), None);
        Self { folder, follower }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, name: &str, text: &[u8]) {
        OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap().write_all(text).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn poll(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while self.follower.poll(&mut |line, _| lines.push(String::from_utf8_lossy(line).into_owned())).unwrap().more {}
        lines
    }

    /// Replaces the follower by one that starts at its position.
    fn restart(&mut self) {
        let position = self.follower.position();
        let saved = serde_json::to_string(&position).unwrap();
        self.follower = Follower::new(&self.path("log"), serde_json::from_str(&saved).unwrap());
    }
}

/// A line longer than [`HEAD`].
fn long(text: &str) -> String {
    format!("{text}{}", ".".repeat(300))
}

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
fn an_incomplete_line_waits_for_its_newline() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"one\ntw");
    assert_eq!(log.poll(), ["one"]);
    log.append("log", b"o\r\n\nthree\n");
    assert_eq!(log.poll(), ["two", "", "three"]);
}

#[test]
fn a_renamed_log_is_read_while_it_is_still_written() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"1\n");
    assert_eq!(log.poll(), ["1"]);
    log.append("log", b"2\nha");
    log.rename("log", "log.1");
    log.append("log", b"4\n");
    assert_eq!(log.poll(), ["2", "4"]);
    log.append("log.1", b"lf\n");
    log.append("log", b"5\n");
    assert_eq!(log.poll(), ["half", "5"]);
    assert_eq!(log.follower.counts().rotations, 1);
}

#[test]
fn repeated_rotation_keeps_few_files_open() {
    let mut log = Log::new();
    log.poll();
    for number in 0..20 {
        log.append("log", format!("{number}\n").as_bytes());
        assert_eq!(log.poll(), [number.to_string()]);
        log.rename("log", &format!("log.{number}"));
        assert!(log.poll().is_empty());
        assert!(log.follower.rotated.len() <= MAX_ROTATED);
    }
}

#[test]
fn an_incomplete_line_of_a_closed_rotated_file_is_counted() {
    for (rest, incomplete_lines) in [("half", 1), ("", 0)] {
        let mut log = Log::new();
        log.poll();
        for number in 0..=MAX_ROTATED + 1 {
            assert_eq!(log.follower.counts().incomplete_lines, 0);
            log.append("log", format!("{number}\n{rest}").as_bytes());
            assert_eq!(log.poll(), [number.to_string()]);
            log.rename("log", &format!("log.{number}"));
        }
        assert_eq!((log.follower.rotated.len(), log.follower.counts().incomplete_lines), (MAX_ROTATED, incomplete_lines));
    }
}

#[test]
fn a_truncated_log_is_read_from_its_start_even_if_it_has_regrown() {
    for regrown in ["c\n", "cccc\n", "cccccccccc\n"] {
        let mut log = Log::new();
        log.poll();
        log.append("log", b"aa\nb\n");
        assert_eq!(log.poll(), ["aa", "b"]);
        let mut file = OpenOptions::new().write(true).truncate(true).open(log.path("log")).unwrap();
        // Only the modification time tells two files of the same length apart, and it is no finer than the kernel's tick.
        file.write_all(regrown.as_bytes()).unwrap();
        file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(1)).unwrap();
        assert_eq!(log.poll(), [regrown.trim_end()]);
        assert_eq!(log.follower.counts().truncations, 1);
    }
}

#[test]
fn lines_truncated_between_two_polls_are_read_from_the_copy() {
    let mut log = Log::new();
    log.poll();
    log.append("log", format!("{}\n", long("a")).as_bytes());
    log.poll();
    log.append("log", b"b\n");
    fs::copy(log.path("log"), log.path("log.1")).unwrap();
    fs::write(log.path("log"), b"c\n").unwrap();
    assert_eq!(log.poll(), ["b", "c"]);
}

#[test]
fn a_deleted_log_is_read_until_another_takes_its_place() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"1\n");
    assert_eq!(log.poll(), ["1"]);
    let mut writer = OpenOptions::new().append(true).open(log.path("log")).unwrap();
    fs::remove_file(log.path("log")).unwrap();
    writer.write_all(b"2\n").unwrap();
    assert_eq!(log.poll(), ["2"]);
    writer.write_all(b"3\n").unwrap();
    log.append("log", b"4\n");
    assert_eq!(log.poll(), ["3", "4"]);
}

#[test]
fn a_deleted_log_is_closed_when_nobody_writes_to_it() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"1\n");
    log.poll();
    fs::remove_file(log.path("log")).unwrap();
    for _ in 0..POLLS_BEFORE_CLOSING_DELETED + 5 {
        log.poll();
    }
    assert!(log.follower.current.is_none());
    log.append("log", b"2\n");
    assert_eq!(log.poll(), ["2"]);
}

#[test]
fn a_deleted_log_is_closed_after_many_polls_without_data_and_its_incomplete_line_is_counted() {
    for (text, incomplete_lines) in [("1\nhalf", 1), ("1\n", 0)] {
        let mut log = Log::new();
        log.poll();
        log.append("log", text.as_bytes());
        log.poll();
        fs::remove_file(log.path("log")).unwrap();
        (0..POLLS_BEFORE_CLOSING_DELETED).for_each(|_| assert!(log.poll().is_empty()));
        assert!(log.follower.current.is_some());
        assert_eq!(log.follower.counts().incomplete_lines, 0);
        log.poll();
        assert!(log.follower.current.is_none());
        assert_eq!(log.follower.counts().incomplete_lines, incomplete_lines);
    }
}

#[test]
fn a_symbolic_link_is_followed_to_its_next_target() {
    let mut log = Log::new();
    log.append("monday", b"old\n");
    std::os::unix::fs::symlink(log.path("monday"), log.path("log")).unwrap();
    log.poll();
    log.append("monday", b"1\n");
    log.append("tuesday", b"2\n");
    fs::remove_file(log.path("log")).unwrap();
    std::os::unix::fs::symlink(log.path("tuesday"), log.path("log")).unwrap();
    assert_eq!(log.poll(), ["1", "2"]);
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
fn after_a_restart_reading_continues_where_it_stopped() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"1\nha");
    assert_eq!(log.poll(), ["1"]);
    log.restart();
    log.append("log", b"lf\n2\n");
    assert_eq!(log.poll(), ["half", "2"]);
    log.restart();
    assert!(log.poll().is_empty());
}

#[test]
fn after_a_restart_the_rest_of_a_renamed_log_and_all_later_ones_are_read() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"1\n");
    assert_eq!(log.poll(), ["1"]);
    log.append("log", b"2\n");
    log.restart();
    log.rename("log", "log.2");
    log.append("log.1", b"3\n");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    File::options().append(true).open(log.path("log.1")).unwrap().set_modified(later).unwrap();
    log.append("log", b"4\n");
    log.append("log.1.gz", b"no text\n");
    log.append("logger.1", b"another log's\n");
    assert_eq!(log.poll(), ["2", "3", "4"]);
}

#[test]
fn after_a_restart_a_log_copied_and_truncated_meanwhile_is_read_from_the_copy() {
    let mut log = Log::new();
    log.poll();
    log.append("log", format!("{}\n", long("a")).as_bytes());
    log.poll();
    log.append("log", b"b\n");
    log.restart();
    fs::copy(log.path("log"), log.path("log.1")).unwrap();
    fs::write(log.path("log"), b"c\n").unwrap();
    assert_eq!(log.poll(), ["b", "c"]);
}

#[test]
fn after_a_restart_another_file_is_not_mistaken_for_a_copy_of_the_log() {
    // A file that starts with the same few bytes, and one that is as long but starts differently.
    for (read, other) in
        [("1\n".to_owned(), "1\nnot a copy\n".to_owned()), (format!("{}\n", long("a")), format!("{}\nnot a copy\n", long("b")))]
    {
        let mut log = Log::new();
        log.poll();
        log.append("log", read.as_bytes());
        assert_eq!(log.poll().len(), 1);
        log.restart();
        log.append("log.1", other.as_bytes());
        fs::remove_file(log.path("log")).unwrap();
        log.append("log", b"2\n");
        assert_eq!(log.poll(), ["2"]);
    }
}

#[test]
fn after_a_restart_a_reused_inode_is_not_mistaken_for_the_old_log() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"1\n22222222\n");
    log.poll();
    let position = log.follower.position().unwrap();
    fs::write(log.path("log"), b"3\n4444444444444444\n").unwrap();
    let metadata = fs::metadata(log.path("log")).unwrap();
    assert_eq!((metadata.dev(), metadata.ino()), (position.device, position.inode), "written in place");
    log.follower = Follower::new(&log.path("log"), Some(position));
    assert_eq!(log.poll(), ["3", "4444444444444444"]);
}

#[test]
fn after_a_restart_no_line_of_a_deleted_log_is_read_twice() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"1\n");
    log.poll();
    log.restart();
    fs::remove_file(log.path("log")).unwrap();
    assert!(log.poll().is_empty());
    log.restart();
    log.append("log", b"2\n");
    assert_eq!(log.poll(), ["2"]);
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

/// How a file is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rewrite {
    /// Through the same inode, as an editor, `rsync --inplace` and capped logs do.
    InPlace,
    /// By another file that takes its place, as `sed -i`, `rsync` and `mv` do.
    Replaced,
    /// As [`Rewrite::Replaced`], and the old file stays under another name (`sed -i.bak`).
    KeptAside,
}

const REWRITES: [Rewrite; 3] = [Rewrite::InPlace, Rewrite::Replaced, Rewrite::KeptAside];

impl Log {
    fn content(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn rewrite(&self, how: Rewrite, content: &str) {
        if how == Rewrite::InPlace {
            let mut file = OpenOptions::new().write(true).truncate(true).open(self.path("log")).unwrap();
            file.write_all(content.as_bytes()).unwrap();
            // The kernel's tick may be coarser than the time between two writes.
            let later = file.metadata().unwrap().modified().unwrap() + std::time::Duration::from_millis(20);
            file.set_modified(later).unwrap();
            return;
        }
        fs::write(self.path("new"), content).unwrap();
        if how == Rewrite::KeptAside {
            self.rename("log", "log.bak");
        }
        self.rename("new", "log");
    }
}

/// A log of `number` lines, all of them read.
fn read_log(number: usize) -> Log {
    let mut log = Log::new();
    log.poll();
    (0..number).for_each(|number| log.append("log", format!("line {number} {}\n", "y".repeat(40)).as_bytes()));
    assert_eq!(log.poll().len(), number);
    log
}

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
        for (number, kept) in [(400, 100), (super::super::seen_lines::REMEMBERED + 400, 200)] {
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
    for number in [super::super::seen_lines::REMEMBERED + 5000, 400, 6] {
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
fn a_line_that_repeats_is_read_again_once_the_log_was_quiet_or_has_new_lines() {
    for is_quiet in [true, false] {
        let mut log = read_log(20);
        let content = log.content();
        log.rename("log", "log.1");
        log.append("log", b"first\n");
        assert_eq!(log.poll(), ["first"]);
        if is_quiet {
            (0..50).for_each(|_| assert!(log.poll().is_empty()));
        } else {
            (0..50).for_each(|number| log.append("log", format!("other {number}\n").as_bytes()));
            assert_eq!(log.poll().len(), 50);
        }
        log.append("log", content.as_bytes());
        assert_eq!(log.poll().len(), 20, "{is_quiet}");
    }
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

#[test]
fn a_position_of_an_older_version_is_still_found() {
    let mut log = read_log(3);
    let mut position = serde_json::to_value(log.follower.position()).unwrap();
    let fields = position.as_object_mut().unwrap();
    fields.retain(|name, _| ["device", "inode", "offset", "head_length", "head_hash"].contains(&name.as_str()));
    log.append("log", b"new\n");
    log.follower = Follower::new(&log.path("log"), serde_json::from_value(position).unwrap());
    assert_eq!(log.poll(), ["new"]);
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

/// Something that happens to a log.
#[derive(Debug, Clone)]
enum Step {
    Line(u16),
    Partial(u8),
    Rotate,
    Poll,
    Restart,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn with_renaming_each_line_is_read_once_and_in_order(steps in proptest::collection::vec(
        prop_oneof![
            4 => (0_u16..300).prop_map(Step::Line),
            1 => any::<u8>().prop_map(Step::Partial),
            1 => Just(Step::Rotate),
            3 => Just(Step::Poll),
            1 => Just(Step::Restart),
        ],
        1..60,
    )) {
        let mut log = Log::new();
        log.append("log", b"");
        log.poll();
        let (mut written, mut read) = (Vec::new(), Vec::new());
        let (mut partial, mut rotations, mut number) = (String::new(), 0, 0);
        for step in steps {
            match step {
                Step::Line(length) => {
                    number += 1;
                    let rest = format!("{number} {}", "z".repeat(length.into()));
                    log.append("log", format!("{rest}\n").as_bytes());
                    written.push(format!("{partial}{rest}"));
                    partial.clear();
                }
                Step::Partial(byte) => {
                    let text = format!("h{byte}");
                    log.append("log", text.as_bytes());
                    partial += &text;
                }
                // Servers rotate between two lines. Polling first leaves no two unread files to order by their mtime.
                Step::Rotate if partial.is_empty() => {
                    read.extend(log.poll());
                    rotations += 1;
                    log.rename("log", &format!("log.{rotations}"));
                    log.append("log", b"");
                }
                Step::Rotate => {}
                Step::Poll => read.extend(log.poll()),
                Step::Restart => log.restart(),
            }
        }
        read.extend(log.poll());
        prop_assert_eq!(read, written);
    }
}

/// Something that happens to a log, after which each line has to be read once.
#[derive(Debug, Clone)]
enum Change {
    Line(u16),
    Rotate,
    CopyAndTruncate,
    /// Rewrites the file without some of its lines: one bit for each of eight, and for the next eight again.
    Rewrite(Rewrite, u8),
    KeepLast(Rewrite, usize),
    PutBack(Rewrite),
    Poll,
    Restart,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_done_to_a_log_each_line_is_read_once(steps in proptest::collection::vec(
        prop_oneof![
            6 => (0_u16..60).prop_map(Change::Line),
            1 => Just(Change::Rotate),
            1 => Just(Change::CopyAndTruncate),
            1 => (proptest::sample::select(REWRITES.to_vec()), any::<u8>()).prop_map(|(how, kept)| Change::Rewrite(how, kept)),
            1 => (proptest::sample::select(REWRITES.to_vec()), 1_usize..8).prop_map(|(how, kept)| Change::KeepLast(how, kept)),
            1 => proptest::sample::select(REWRITES.to_vec()).prop_map(Change::PutBack),
            3 => Just(Change::Poll),
            1 => Just(Change::Restart),
        ],
        1..60,
    )) {
        let mut log = Log::new();
        log.append("log", b"");
        log.poll();
        let (mut written, mut read) = (Vec::new(), Vec::new());
        let mut rotations = 0;
        for step in steps {
            // What is removed before it was read is never read.
            if matches!(step, Change::Rotate | Change::CopyAndTruncate | Change::Rewrite(..) | Change::KeepLast(..) | Change::PutBack(_)) {
                read.extend(log.poll());
            }
            let content = log.content();
            let lines: Vec<&str> = content.split_inclusive('\n').collect();
            match step {
                Change::Line(length) => {
                    let line = format!("{} {}", written.len(), "z".repeat(length.into()));
                    log.append("log", format!("{line}\n").as_bytes());
                    written.push(line);
                }
                Change::Rotate => {
                    rotations += 1;
                    log.rename("log", &format!("log.{rotations}"));
                    log.append("log", b"");
                }
                Change::CopyAndTruncate => {
                    rotations += 1;
                    fs::write(log.path(&format!("log.{rotations}")), &content).unwrap();
                    log.rewrite(Rewrite::InPlace, "");
                }
                Change::Rewrite(how, kept) => {
                    let kept: String = lines.iter().enumerate().filter(|(at, _)| kept >> (at % 8) & 1 == 1).map(|(_, line)| *line).collect();
                    log.rewrite(how, &kept);
                }
                Change::KeepLast(how, kept) => log.rewrite(how, &lines[lines.len().saturating_sub(kept)..].concat()),
                Change::PutBack(how) => log.rewrite(how, &content),
                Change::Poll => read.extend(log.poll()),
                Change::Restart => log.restart(),
            }
        }
        read.extend(log.poll());
        prop_assert_eq!(read, written);
    }
}
