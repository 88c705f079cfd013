//! What was written, renamed or copied while nobody followed the log.

use super::*;
use std::fs::File;

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
    for other in ["log.bak", "logs1"] {
        log.append(other, b"no rotated log's\n");
        File::options().append(true).open(log.path(other)).unwrap().set_modified(later).unwrap();
    }
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
fn after_a_restart_the_rest_of_a_linked_log_is_read_from_the_folder_of_its_target() {
    let mut log = Log::new();
    fs::create_dir(log.path("data")).unwrap();
    log.append("data/real", b"1\n");
    std::os::unix::fs::symlink(log.path("data/real"), log.path("log")).unwrap();
    log.poll();
    log.append("data/real", b"2\n");
    log.restart();
    log.rename("data/real", "data/real.1");
    log.append("data/real", b"3\n");
    assert_eq!(log.poll(), ["2", "3"]);
}

#[test]
fn after_a_restart_lines_that_come_back_into_an_emptied_log_are_not_read_again() {
    let mut log = read_log(6);
    let content = log.content();
    log.rewrite(Rewrite::InPlace, "");
    assert!(log.poll().is_empty());
    log.restart();
    log.append("log", content.as_bytes());
    assert!(log.poll().is_empty());
    log.append("log", b"new\n");
    assert_eq!(log.poll(), ["new"]);
}

#[test]
fn after_a_restart_more_lines_are_remembered_than_a_position_holds() {
    let mut log = read_log(400);
    log.restart();
    assert!(log.poll().is_empty());
    let content = log.content();
    log.rewrite(Rewrite::Replaced, &content.split_inclusive('\n').skip(1).take(100).collect::<String>());
    assert!(log.poll().is_empty(), "an earlier state without its first line");
}
