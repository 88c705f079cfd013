//! Files that are renamed, truncated, deleted or linked elsewhere while they are followed.

use super::*;

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
fn a_rotated_log_that_is_deleted_is_closed_when_nobody_writes_to_it() {
    let mut log = Log::new();
    log.poll();
    log.append("log", b"1\n");
    log.poll();
    log.rename("log", "log.1");
    log.append("log", b"2\n");
    log.poll();
    assert_eq!(log.follower.rotated.len(), 1);
    fs::remove_file(log.path("log.1")).unwrap();
    log.poll();
    log.append("log", b"3\n");
    assert_eq!(log.poll(), ["3"]);
    assert_eq!(log.follower.rotated.len(), 1, "not all of its server's processes may have opened the new one yet");
    (0..POLLS_BEFORE_CLOSING_REPLACED).for_each(|_| assert!(log.poll().is_empty()));
    assert!(log.follower.rotated.is_empty());
}
