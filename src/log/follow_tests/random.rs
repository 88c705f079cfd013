//! Random sequences of changes, after which each line must have been read once.

use super::*;
use proptest::prelude::*;

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
