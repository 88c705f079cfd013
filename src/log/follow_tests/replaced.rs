//! Files that another one replaced while their server had them open. The time is a number of polls.

use super::*;

/// A log of two lines that were read, and its server.
fn log_and_server() -> (Log, fs::File) {
    let mut log = Log::new();
    assert!(log.poll().is_empty());
    log.append("log", b"1\n2\n");
    let server = OpenOptions::new().append(true).open(log.path("log")).unwrap();
    assert_eq!(log.poll(), ["1", "2"]);
    (log, server)
}

/// The same once `sed -i` has deleted its first line.
fn replaced() -> (Log, fs::File) {
    let (mut log, server) = log_and_server();
    log.rewrite(Rewrite::Replaced, "2\n");
    assert!(log.poll().is_empty());
    (log, server)
}

impl Log {
    /// Lets time pass in which nothing is written.
    fn idle(&mut self, polls: u32) {
        (0..polls).for_each(|_| assert!(self.poll().is_empty()));
    }

    /// Reads the line that is written to the file at the path.
    fn grow(&mut self, line: &str) {
        self.append("log", format!("{line}\n").as_bytes());
        assert_eq!(self.poll(), [line]);
    }

    /// Reads the line that `server` writes.
    fn write(&mut self, server: &mut fs::File, line: &str) {
        server.write_all(format!("{line}\n").as_bytes()).unwrap();
        assert_eq!(self.poll(), [line]);
    }

    fn open_files(&self) -> usize {
        self.follower.rotated.len() + usize::from(self.follower.current.is_some())
    }
}

#[test]
fn lines_that_a_server_writes_to_a_file_that_was_replaced_are_read_and_the_fault_is_named() {
    let (mut log, mut server) = log_and_server();
    // As `sed -i` does, with a line that came meanwhile.
    log.append("new", b"2\n");
    server.write_all(b"3\n").unwrap();
    log.rename("new", "log");
    assert_eq!(log.poll(), ["3"]);
    assert_eq!(log.follower.fault(), None, "it was written before");
    for line in ["4", "5"] {
        log.idle(5 * POLLS_BEFORE_CLOSING_REPLACED);
        log.write(&mut server, line);
        assert_eq!(log.follower.fault(), Some(WRITTEN_ELSEWHERE));
    }
    log.grow("6");
    log.idle(POLLS_BEFORE_CLOSING_REPLACED - 1);
    assert_eq!(log.follower.fault(), Some(WRITTEN_ELSEWHERE), "the server may have written the line by a process that ends");
    log.idle(1);
    assert_eq!(log.follower.fault(), None, "the server has opened its log again");
    log.write(&mut server, "7");
    assert_eq!(log.follower.fault(), Some(WRITTEN_ELSEWHERE), "not all of it has");
    log.idle(2 * POLLS_BEFORE_CLOSING_REPLACED);
    assert_eq!(log.follower.fault(), Some(WRITTEN_ELSEWHERE), "the new file must grow after the last line in the old one");
}

#[test]
fn a_fault_does_not_come_and_go_while_one_process_writes_the_old_file_and_another_the_new_one() {
    let (mut log, mut server) = replaced();
    let mut changes = 0;
    for number in 10..40 {
        let before = log.follower.fault();
        log.write(&mut server, &format!("old {number}"));
        log.grow(&format!("new {number}"));
        log.idle(POLLS_BEFORE_CLOSING_REPLACED / 2);
        log.grow(&format!("newer {number}"));
        changes += u32::from(log.follower.fault() != before);
    }
    assert_eq!((changes, log.follower.fault()), (1, Some(WRITTEN_ELSEWHERE)));
}

#[test]
fn a_quiet_file_that_was_replaced_is_read_for_an_hour_unless_the_new_one_grows() {
    let (mut log, mut server) = replaced();
    log.idle(POLLS_BEFORE_CLOSING_WRITTEN - 1);
    assert_eq!((log.open_files(), log.follower.fault()), (2, None));
    log.write(&mut server, "3");
    assert_eq!(log.follower.fault(), Some(WRITTEN_ELSEWHERE));

    let (mut log, _server) = replaced();
    log.grow("3");
    log.idle(POLLS_BEFORE_CLOSING_REPLACED);
    assert_eq!(log.open_files(), 1, "which frees the disk space");
    assert_eq!(log.follower.fault(), None);
}

#[test]
fn a_replaced_file_that_is_given_up_although_the_new_one_never_grew_is_a_fault_until_it_does() {
    let (mut log, mut server) = replaced();
    log.idle(POLLS_BEFORE_CLOSING_WRITTEN);
    assert_eq!((log.open_files(), log.follower.fault()), (1, Some(GIVEN_UP)), "no line came at all");
    server.write_all(b"3\n").unwrap();
    log.idle(10);
    assert_eq!(log.follower.fault(), Some(GIVEN_UP), "this line is lost, as the fault says");
    log.grow("4");
    assert_eq!(log.follower.fault(), None);

    let (mut log, mut server) = replaced();
    log.write(&mut server, "3");
    log.idle(POLLS_BEFORE_CLOSING_WRITTEN);
    assert_eq!((log.open_files(), log.follower.fault()), (2, Some(WRITTEN_ELSEWHERE)));
    log.idle(1);
    assert_eq!((log.open_files(), log.follower.fault()), (1, Some(GIVEN_UP)), "the fault was shown before an hour of quiet");
    log.grow("4");
    assert_eq!(log.follower.fault(), None);
}

#[test]
fn a_file_that_was_written_after_it_was_replaced_is_read_for_an_hour_even_if_the_new_one_grows() {
    let (mut log, mut server) = replaced();
    log.write(&mut server, "3");
    log.grow("4");
    log.idle(POLLS_BEFORE_CLOSING_WRITTEN - 10);
    assert_eq!((log.open_files(), log.follower.fault()), (2, None));
    log.write(&mut server, "5");
    log.grow("6");
    log.idle(POLLS_BEFORE_CLOSING_WRITTEN);
    assert_eq!((log.open_files(), log.follower.fault()), (1, None));
}

#[test]
fn a_log_that_is_quiet_after_an_ordinary_rotation_has_no_fault() {
    // logrotate's `create`, with compression or `rotate 0` the old file is deleted.
    let (mut log, server) = log_and_server();
    log.rename("log", "log.1");
    log.append("log", b"");
    log.idle(20);
    fs::remove_file(log.path("log.1")).unwrap();
    log.idle(POLLS_BEFORE_CLOSING_WRITTEN + 1);
    assert_eq!((log.open_files(), log.follower.fault()), (1, None), "create");
    drop(server);
    // `copytruncate`: the copy is deleted.
    for number in 0..40 {
        log.grow(&long(&number.to_string()));
    }
    log.append("log", b"late\n");
    fs::copy(log.path("log"), log.path("log.1")).unwrap();
    log.rewrite(Rewrite::InPlace, "");
    assert_eq!(log.poll(), ["late"]);
    fs::remove_file(log.path("log.1")).unwrap();
    log.idle(POLLS_BEFORE_CLOSING_WRITTEN + 1);
    assert_eq!((log.open_files(), log.follower.fault()), (1, None), "copytruncate");
}

#[test]
fn the_first_line_after_an_ordinary_rotation_ends_the_fault_of_a_server_that_opened_its_log_late() {
    let (mut log, mut server) = log_and_server();
    log.rename("log", "log.1");
    log.append("log", b"");
    log.idle(20);
    fs::remove_file(log.path("log.1")).unwrap();
    log.idle(2);
    log.write(&mut server, "3");
    assert_eq!(log.follower.fault(), Some(WRITTEN_ELSEWHERE));
    log.grow("4");
    log.idle(POLLS_BEFORE_CLOSING_REPLACED);
    assert_eq!(log.follower.fault(), None);
}

#[test]
fn a_program_that_puts_a_new_file_in_place_for_each_line_is_no_fault_when_it_is_quiet() {
    let (mut log, _) = log_and_server();
    for number in 3..9 {
        log.rewrite(Rewrite::Replaced, &format!("{}\n{number}\n", number - 1));
        assert_eq!(log.poll(), [number.to_string()]);
    }
    log.idle(POLLS_BEFORE_CLOSING_WRITTEN + 1);
    assert_eq!((log.open_files(), log.follower.fault()), (1, None));
}

#[test]
fn lines_that_a_new_file_brings_along_do_not_show_that_its_server_writes_to_it() {
    // Each line was changed, as to anonymise them: in one poll, and in several.
    for length in [10, 60_000] {
        let (mut log, mut server) = log_and_server();
        log.rewrite(Rewrite::Replaced, &format!("{}\n", "x".repeat(length)).repeat(200));
        assert_eq!(log.poll().len(), 200);
        log.idle(POLLS_BEFORE_CLOSING_REPLACED * 2);
        log.write(&mut server, "3");
        assert_eq!(log.follower.fault(), Some(WRITTEN_ELSEWHERE));
    }
}

#[test]
fn a_copy_beside_the_log_is_closed_a_minute_after_it_was_deleted() {
    let mut log = Log::new();
    assert!(log.poll().is_empty());
    let line = long("1");
    log.append("log", format!("{line}\n").as_bytes());
    assert_eq!(log.poll(), [line]);
    fs::copy(log.path("log"), log.path("log.1")).unwrap();
    log.rewrite(Rewrite::InPlace, "");
    log.idle(1);
    assert_eq!(log.open_files(), 2);
    fs::remove_file(log.path("log.1")).unwrap();
    log.idle(POLLS_BEFORE_CLOSING_REPLACED);
    assert_eq!((log.open_files(), log.follower.fault()), (1, None));
}

#[test]
fn one_of_two_replaced_files_is_given_up_without_a_word_while_lines_come_in_the_other_and_the_new_one() {
    let (mut log, mut first) = replaced();
    let mut second = OpenOptions::new().append(true).open(log.path("log")).unwrap();
    log.rewrite(Rewrite::Replaced, "2\n");
    log.write(&mut first, "3");
    for number in (4..).take(POLLS_BEFORE_CLOSING_WRITTEN as usize / 1000 + 1) {
        log.idle(998);
        assert_eq!(log.follower.fault(), Some(WRITTEN_ELSEWHERE));
        log.write(&mut second, &format!("second {number}"));
        log.grow(&format!("new {number}"));
    }
    assert_eq!(log.open_files(), 2);
}
