//! What a follower reads, whatever is done to the file; each test does it with a real file and needs no time to pass.

use super::super::lines::LONGEST_LINE;
use super::*;
use proptest::prelude::*;
use std::fs;
use std::io::Write;

struct Log {
    folder: tempfile::TempDir,
    follower: Follower,
}

impl Log {
    /// A follower of a log that is not there yet.
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
        while self.follower.poll(&mut |line| lines.push(String::from_utf8_lossy(line).into_owned())).unwrap().more {}
        lines
    }

    /// Ends the follower and starts another one at the position that it gave.
    fn restart(&mut self) {
        let position = self.follower.position();
        let saved = serde_json::to_string(&position).unwrap();
        self.follower = Follower::new(&self.path("log"), serde_json::from_str(&saved).unwrap());
    }
}

/// A line that is longer than what tells files apart.
fn long(text: &str) -> String {
    format!("{text}{}", ".".repeat(300))
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
fn a_line_that_was_begun_before_the_start_is_not_mistaken_for_a_whole_one() {
    let mut log = Log::new();
    log.append("log", b"old\nGET /?x=");
    log.poll();
    log.append("log", b"Connection from [8.8.8.8]\nnew\n");
    assert_eq!(log.poll(), ["new"]);
}

#[test]
fn a_log_that_appears_late_is_read_from_its_beginning() {
    let mut log = Log::new();
    assert!(log.poll().is_empty());
    log.append("log", b"first\n");
    assert_eq!(log.poll(), ["first"]);
}

#[test]
fn half_a_line_waits_for_its_other_half() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"one\ntw");
    assert_eq!(log.poll(), ["one"]);
    log.append("log", b"o\r\n\nthree\n");
    assert_eq!(log.poll(), ["two", "", "three"]);
}

#[test]
fn a_renamed_log_is_read_on_while_it_is_still_written() {
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
fn rotation_goes_on_for_ever_and_holds_few_files() {
    let mut log = Log::new();
    log.poll();
    for number in 0..20 {
        log.append("log", format!("{number}\n").as_bytes());
        assert_eq!(log.poll(), [number.to_string()]);
        log.rename("log", &format!("log.{number}"));
        assert!(log.poll().is_empty());
        assert!(log.follower.rotated.len() <= MOST_ROTATED);
    }
}

#[test]
fn a_truncated_log_is_read_from_its_beginning_also_if_it_has_grown_again() {
    for regrown in ["c\n", "cccc\n", "cccccccccc\n"] {
        let mut log = Log::new();
        log.poll();
        log.append("log", b"aa\nb\n");
        assert_eq!(log.poll(), ["aa", "b"]);
        let mut file = OpenOptions::new().write(true).truncate(true).open(log.path("log")).unwrap();
        // The time of change is what tells two files of one length apart; it is no finer than a tick of the kernel's.
        file.write_all(regrown.as_bytes()).unwrap();
        file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(1)).unwrap();
        assert_eq!(log.poll(), [regrown.trim_end()]);
        assert_eq!(log.follower.counts().truncations, 1);
    }
}

#[test]
fn what_copytruncate_took_away_between_two_polls_is_read_from_the_copy() {
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
fn a_deleted_log_is_read_on_until_another_takes_its_place() {
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
fn a_deleted_log_that_nobody_writes_is_let_go() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"1\n");
    log.poll();
    fs::remove_file(log.path("log")).unwrap();
    for _ in 0..POLLS_OF_DELETED + 5 {
        log.poll();
    }
    assert!(log.follower.current.is_none());
    log.append("log", b"2\n");
    assert_eq!(log.poll(), ["2"]);
}

#[test]
fn a_link_is_followed_to_its_next_target() {
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
fn a_long_line_is_cut_and_the_rest_of_it_is_no_line() {
    for length in [LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 1, 5 * LONGEST_LINE + 17] {
        let mut log = Log::new();
        log.poll();
        let line = "x".repeat(length);
        log.append("log", format!("{line}\nnext\n").as_bytes());
        let lines = log.poll();
        assert_eq!((lines.len(), lines[0].len(), &*lines[1]), (2, length.min(LONGEST_LINE), "next"), "{length}");
        let counts = log.follower.counts();
        assert_eq!(counts.dropped_bytes, length.saturating_sub(LONGEST_LINE) as u64);
        assert!(length <= LONGEST_LINE || counts.cut_lines == 1);
    }
}

#[test]
fn after_a_restart_it_goes_on_where_it_stopped() {
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
fn after_a_restart_it_reads_the_rest_of_a_renamed_log_and_everything_since() {
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
fn after_a_restart_a_log_copied_and_truncated_meanwhile_is_read_from_the_copy_on() {
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
fn after_a_restart_an_inode_used_again_is_not_mistaken_for_the_old_log() {
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
fn after_a_restart_nothing_of_a_vanished_log_is_read_twice() {
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
fn what_is_no_file_is_an_error_and_no_wait() {
    let mut log = Log::new();
    rustix::fs::mknodat(rustix::fs::CWD, log.path("log"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    assert!(log.follower.poll(&mut |_| {}).unwrap_err().to_string().contains("expected a file"));
    fs::remove_file(log.path("log")).unwrap();
    fs::create_dir(log.path("log")).unwrap();
    assert!(log.follower.poll(&mut |_| {}).is_err());
    fs::remove_dir(log.path("log")).unwrap();
    log.append("log", b"1\n");
    assert_eq!(log.poll().len(), 0, "it never saw the path empty: what is there counts as old");
    log.append("log", b"2\n");
    assert_eq!(log.poll(), ["2"]);
}

#[test]
fn a_huge_log_is_read_in_parts() {
    let mut log = Log::new();
    log.poll();
    let line = "y".repeat(1023);
    for _ in 0..10 {
        log.append("log", format!("{line}\n").repeat(1024).as_bytes());
    }
    let mut lines = 0_u64;
    let progress = log.follower.poll(&mut |_| lines += 1).unwrap();
    assert!(progress.more && progress.bytes <= MOST_PER_POLL + CHUNK as u64);
    assert_eq!((log.follower.lag(), progress.lines), (10 * (1 << 20) - progress.bytes, lines));
    assert_eq!(lines + log.poll().len() as u64, 10 * 1024);
}

/// What may happen to a log.
#[derive(Debug, Clone)]
enum Step {
    Line(u16),
    Half(u8),
    Rotate,
    Poll,
    Restart,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn with_renaming_every_line_is_read_once_and_in_order(steps in proptest::collection::vec(
        prop_oneof![
            4 => (0_u16..300).prop_map(Step::Line),
            1 => any::<u8>().prop_map(Step::Half),
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
        let (mut half, mut rotations, mut number) = (String::new(), 0, 0);
        for step in steps {
            match step {
                Step::Line(length) => {
                    number += 1;
                    let rest = format!("{number} {}", "z".repeat(length.into()));
                    log.append("log", format!("{rest}\n").as_bytes());
                    written.push(format!("{half}{rest}"));
                    half.clear();
                }
                Step::Half(byte) => {
                    let text = format!("h{byte}");
                    log.append("log", text.as_bytes());
                    half += &text;
                }
                // Servers rotate between two lines, and a follower that was off finds the files in the order of their times.
                Step::Rotate if half.is_empty() => {
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
