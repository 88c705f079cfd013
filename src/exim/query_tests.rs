//! Queries of the Exim helper: how its arguments are read and what the daemon is asked.

use super::*;
use crate::control::request::{SocketRequest, parse};
use proptest::prelude::*;

fn query(words: &[&str]) -> EximQuery {
    EximQuery::from_words(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>(), &[], Ignored::default())
}

#[track_caller]
fn assert_asks(words: &[&str], requests: &[&str], ignored: &str) {
    let query = query(words);
    assert_eq!((query.requests, query.ignored.to_string()), (requests.iter().map(|line| (*line).to_owned()).collect(), ignored.to_owned()));
}

#[test]
fn arguments_become_a_request() {
    for (words, request) in [
        (&["check", "192.0.2.1", "pid=7", "port=25"][..], "check 192.0.2.1 pid=7 port=25 via=run"),
        (&["check", "::ffff:192.0.2.1"], "check 192.0.2.1 via=run"),
        (&["check", "2001:db8::1", "pid=7", "port=", ""], "check 2001:db8::1 pid=7 via=run"),
        (&["strike", "192.0.2.1", "bad-helo"], "strike 192.0.2.1 bad-helo"),
        (&["clear", "192.0.2.1", "exim-auth"], "clear 192.0.2.1 exim-auth"),
    ] {
        assert_asks(words, &[request], "");
    }
}

#[test]
fn local_mail_asks_nothing_and_is_no_fault() {
    for words in [
        &["check", ""][..],
        &["check", "", "pid=7", "port="],
        &["check", "pid=7"],
        &["check"],
        &["strike", "", "bad-helo"],
        &["strike", "bad-helo"],
    ] {
        assert_asks(words, &[], "");
    }
}

#[test]
fn a_query_without_an_address_asks_nothing_and_is_reported() {
    assert_asks(&["check", "mail.example.org"], &[], "\"check\", \"mail.example.org\"");
    assert_asks(&["check", "", "junk"], &[], "\"check\", \"junk\"");
    assert_asks(&["sing", "a", "b", "c", "d", "e"], &[], "\"sing\", \"a\", \"b\", \"c\" and 2 more");
    assert_eq!(
        query(&["sing"]).lines(),
        "report found \"sing\", expected check ADDRESS [pid=N] [port=N], or strike or clear ADDRESS RULE [account=TEXT]"
    );
}

#[test]
fn more_words_than_understood_are_reported_and_change_no_verdict() {
    assert_asks(
        &["check", "192.0.2.1", "port=25", "junk", "helo=203.0.113.9"],
        &["check 192.0.2.1 port=25 via=run"],
        "\"junk\", \"helo=\"",
    );
    assert_asks(&["strike", "192.0.2.1", "bad-helo", "203.0.113.9"], &["strike 192.0.2.1 bad-helo"], "\"203.0.113.9\"");
    assert_asks(&["check", "192.0.2.1", "pid=x", "port=25"], &["check 192.0.2.1 port=25 via=run"], "\"pid=\"");
}

#[test]
fn a_connection_whose_port_may_not_be_understood_is_looked_up_and_not_counted() {
    for word in ["port=smtps", "ports=465", "PORT=465", "junk"] {
        let named = if word == "junk" { "\"junk\"".to_owned() } else { format!("\"{}=\"", word.split('=').next().unwrap()) };
        assert_asks(&["check", "192.0.2.1", word], &["check 192.0.2.1 via=run count=no"], &named);
    }
    let mut ignored = Ignored::default();
    ignored.add(b"--port=465");
    let query = EximQuery::from_words(&[b"check", b"192.0.2.1"], &[b"--port=465"], ignored);
    assert_eq!(query.requests, ["check 192.0.2.1 via=run count=no"]);
}

#[test]
fn the_first_of_two_ports_counts_and_behind_two_dashes_no_key_is_read() {
    let counted = "check 192.0.2.1 port=25 via=run";
    assert_asks(&["check", "192.0.2.1", "port=25", "port=587"], &[counted], "\"port=\"");
    assert_asks(&["check", "192.0.2.1", "port=25", "--", "port=587"], &[counted], "\"port=\"");
    assert_asks(&["--", "check", "192.0.2.1", "port=25", "--", "port=587"], &[counted], "\"port=\"");
    for first in ["port=", "port=-1", "port=smtp"] {
        assert_eq!(query(&["check", "192.0.2.1", first, "port=587"]).requests, ["check 192.0.2.1 via=run count=no"], "{first}");
    }
    assert_asks(&["check", "192.0.2.1", "pid=7", "pid=8", "port=25"], &["check 192.0.2.1 pid=7 port=25 via=run"], "\"pid=\"");
    assert_asks(&["check", "--", "192.0.2.1", "port=587"], &["check 192.0.2.1 count=no"], "\"check\", \"192.0.2.1\", \"port=\"");
    assert_asks(&["check", "[192.0.2.1]", "--", "port=587"], &["check 192.0.2.1 count=no"], "\"check\", \"[192.0.2.1]\", \"port=\"");
    assert_asks(&["check", "", "--", "mail.example.org"], &[], "\"mail.example.org\"");
}

#[test]
fn text_behind_two_dashes_does_not_keep_a_connection_from_counting() {
    for text in ["junk", "port=587", "port=smtp", "count=no", "via=lines", "203.0.113.9"] {
        assert_eq!(query(&["check", "192.0.2.1", "--", text]).requests, ["check 192.0.2.1 via=run"], "{text}");
        let line = format!("check 192.0.2.1 -- {text} {}", "x".repeat(MAX_LINE));
        assert_eq!(EximQuery::from_line(line.as_bytes()).requests, ["check 192.0.2.1 via=lines"], "{text}");
    }
    let one_word = format!("check 192.0.2.1 -- {}", "x".repeat(MAX_LINE));
    assert_eq!(EximQuery::from_line(one_word.as_bytes()).requests, ["check 192.0.2.1 via=lines"]);
}

#[test]
fn the_helper_takes_no_key_but_pid_and_port_and_counts_nothing_after_count_no() {
    assert_asks(&["check", "192.0.2.1", "count=no", "port=25"], &["check 192.0.2.1 port=25 via=run count=no"], "\"count=\"");
    assert_asks(&["check", "192.0.2.1", "count=no"], &["check 192.0.2.1 via=run count=no"], "\"count=\"");
    assert_asks(&["check", "192.0.2.1", "via=lines", "port=25"], &["check 192.0.2.1 port=25 via=run"], "\"via=\"");
}

#[test]
fn a_query_that_is_not_understood_looks_up_its_addresses_and_counts_nothing() {
    for words in [
        &["check", "192.0.2.1\nban 192.0.2.1"][..],
        &["check", "192.0.2.1 pid=7"],
        &["check 192.0.2.1 pid=7"],
        &["CHECK", "192.0.2.1"],
        &["unban", "192.0.2.1"],
        &["192.0.2.1"],
        &["check", "", "192.0.2.1"],
        &["check", "pid=7", "192.0.2.1"],
        &["check", "[192.0.2.1]:25"],
        &["check", "192.0.2.1:4711"],
        &["check", "192.0.2.1/32"],
        &["check", "address=192.0.2.1"],
        &["check", "IPv6:::ffff:192.0.2.1"],
        &["check", "<192.0.2.1>"],
        &["check", "\"192.0.2.1."],
        &["strike", "192.0.2.1"],
        &["strike", "192.0.2.1", "A rule"],
        &["strike", "192.0.2.1", "a\nb"],
        &["strike", "bad-helo", "192.0.2.1"],
        &["strike", "", "192.0.2.1"],
    ] {
        let query = query(words);
        assert_eq!(query.requests, ["check 192.0.2.1 count=no"], "{words:?}");
        assert!(query.ignored.report().is_some(), "{words:?}");
    }
    assert_asks(
        &["check", "helo.example", "192.0.2.1", "2001:db8::1", "192.0.2.1", "port=587"],
        &["check 192.0.2.1 port=587 count=no", "check 2001:db8::1 port=587 count=no"],
        "\"check\", \"helo.example\", \"192.0.2.1\", \"2001:db8::1\" and 2 more",
    );
    let unknown = EximQuery::from_words(&[], &[b"--check=192.0.2.1"], Ignored::default());
    assert_eq!(unknown.requests, ["check 192.0.2.1 count=no"]);
    let text = (1..=MAX_ADDRESSES).map(|number| format!("203.0.113.{number}")).collect::<Vec<_>>();
    assert_eq!(query(&["check", &text.join(" "), "192.0.2.1"]).requests[0], "check 192.0.2.1 count=no");
    let behind = [vec!["check", "[192.0.2.1]:25", "--"], text.iter().map(String::as_str).collect()].concat();
    assert_eq!(query(&behind).requests[0], "check 192.0.2.1 count=no");
    let many: Vec<String> = (0..100).map(|number| format!("192.0.2.{number}")).collect();
    assert_eq!(query(&many.iter().map(String::as_str).collect::<Vec<_>>()).requests.len(), MAX_ADDRESSES);
}

#[test]
fn an_account_is_all_the_rest_of_the_query_and_stands_in_one_line() {
    let asked = |account: &[u8]| {
        let query = EximQuery::from_words(&[b"strike", b"192.0.2.1", b"exim-auth", account], &[], Ignored::default());
        assert_eq!((query.requests.len(), query.ignored.to_string().as_str()), (1, ""), "{account:?}");
        query.requests[0].strip_prefix("strike 192.0.2.1 exim-auth account=").unwrap().to_owned()
    };
    assert_eq!(asked(b"account="), "");
    assert_eq!(asked(b"account=A \"b\" <c@d> 203.0.113.9 --"), "A \"b\" <c@d> 203.0.113.9 --");
    assert_eq!(asked(b"account=a\nban 203.0.113.9\r\0\x1b\xff"), "a\u{fffd}ban 203.0.113.9\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
    assert_eq!(asked(&[b"account=".as_slice(), &[b'x'; 2 * MAX_LINE]].concat()), "x".repeat(MAX_ACCOUNT));
    assert_asks(
        &["clear", "192.0.2.1", "exim-auth", "account=a", "b", "account=c"],
        &["clear 192.0.2.1 exim-auth account=a b account=c"],
        "",
    );
    for line in ["strike 192.0.2.1 exim-auth account=a b", "strike 192.0.2.1 exim-auth account=a -- b"] {
        let query = EximQuery::from_line(line.as_bytes());
        assert_eq!((query.requests, query.ignored.to_string()), (vec![line.to_owned()], String::new()));
    }
    let long = [b"strike 192.0.2.1 exim-auth account=a ".as_slice(), &[b'x'; MAX_LINE]].concat();
    assert_eq!(EximQuery::from_line(&long).requests, ["strike 192.0.2.1 exim-auth account=a "], "a word that was cut is left out");
}

#[test]
fn an_account_is_not_reported_and_nobody_is_blamed_for_what_it_contains() {
    for words in [
        &["strike", "192.0.2.1", "account=secret", "word"][..],
        &["strike", "192.0.2.1", "A rule", "account=secret", "word"],
        &["check", "192.0.2.1", "port=25", "account=secret", "word"],
        &["account=secret", "word", "strike", "192.0.2.1", "exim-auth"],
    ] {
        let query = query(words);
        assert!(query.requests.iter().all(|request| request.ends_with(" count=no")) && !query.requests.is_empty(), "{words:?}");
        let report = query.ignored.report().unwrap();
        assert!(report.contains("account=") && !report.contains("secret") && !report.contains("word"), "{report}");
    }
    assert_asks(&["strike", "", "exim-auth", "account=secret"], &[], "");
}

#[test]
fn lines_are_read_as_arguments_are() {
    let requests = |line: &[u8]| EximQuery::from_line(line).requests;
    assert_eq!(requests(b"check 192.0.2.1 port=25"), ["check 192.0.2.1 port=25 via=lines"]);
    assert_eq!(requests(b"check 192.0.2.1\r"), ["check 192.0.2.1 via=lines"]);
    assert_eq!(requests(b"strike 192.0.2.1 bad-helo \xff"), ["strike 192.0.2.1 bad-helo"]);
    for line in [&b"ban 192.0.2.1"[..], b"check\t192.0.2.1", b"check  192.0.2.1", b"strike 192.0.2.1 \x1b[2J"] {
        assert_eq!(requests(line), ["check 192.0.2.1 count=no"], "{line:?}");
    }
    for line in [&b"check "[..], b"strike  rule", b"", b"\xff", b"check \xff"] {
        assert_eq!(requests(line), [""; 0], "{line:?}");
    }
}

#[test]
fn a_line_that_is_too_long_is_cut_between_words() {
    let line = [b"check 192.0.2.1 port=25 ".as_slice(), &vec![b'x'; MAX_LINE - 22]].concat();
    assert_eq!(EximQuery::from_line(&line).requests, ["check 192.0.2.1 port=25 via=lines"]);
    let address = EximQuery::from_line(&[&vec![b'x'; MAX_LINE - 9], b" 192.0.2.10".as_slice()].concat());
    assert_eq!((address.requests, address.ignored.named.len()), (Vec::new(), 2));
}

#[test]
fn a_line_of_the_maximum_length_is_not_cut_and_a_shorter_one_with_text_is_not_reported_whole() {
    let line = [&vec![b'x'; MAX_LINE - 10], b" 192.0.2.1".as_slice()].concat();
    assert_eq!(EximQuery::from_line(&line).requests.len(), 1, "its last word is looked up");
    let read = EximQuery::from_line(b"check 192.0.2.1 port=25 -- a helo");
    let report = read.ignored.report().unwrap();
    assert!(read.requests.len() == 1 && report.starts_with("found \"a\", \"helo\", expected "), "{report}");
}

#[test]
fn a_report_is_short_and_printable_and_names_no_value() {
    let report = query(&["check", "\x1b[31m\u{e4}", "auth=c2VjcmV0", &"x".repeat(100_000), "\"", "\n"]).ignored.report().unwrap();
    assert!(report.len() < 400 && report.chars().all(is_printable_ascii) && !report.contains("c2VjcmV0"), "{report}");
    let escaped = EximQuery::from_line(&[b'\xff'; 300].chunks(70).collect::<Vec<_>>().join(&b' '));
    assert!(matches!(parse(escaped.lines().as_bytes()), Ok(SocketRequest::Report(_))), "{escaped:?}");
    let unreadable = Ignored { config: Some(format!("/\u{e4}\n{}: missing", "x".repeat(1000))), ..Ignored::default() };
    let report = unreadable.report().unwrap();
    assert!(report.len() < 400 && report.chars().all(is_printable_ascii), "{report}");
    let mut everything = unreadable;
    (0..9).for_each(|_| everything.add(&[b'\xff'; 300]));
    assert_eq!(everything.report().unwrap().len(), MAX_REPORT, "as long as a report may be");
}

#[test]
fn only_verdicts_are_passed_on() {
    let verdict = |answer: &str| query(&["check", "192.0.2.1"]).verdict(answer).to_owned();
    assert_eq!(verdict("defer rule=exim-rate until=1800000000\n"), "defer rule=exim-rate until=1800000000");
    assert_eq!(verdict("deny rule=x until=-1\nmore\n"), "deny rule=x until=-1");
    for other in [
        "",
        "\n",
        "error found x\n",
        "accepted\n",
        "defer\n",
        "deny rule=x until=18",
        "deny rule=x until=\n",
        "deny rule=X until=1\n",
        "deny rule=x until=1 \x1b\n",
        " deny rule=x until=1\n",
        "accept\ndeny rule=x until=1\n",
        &format!("deny rule=x until=1 {}\n", "x".repeat(200)),
    ] {
        assert_eq!(verdict(other), "accept", "{other:?}");
    }
    assert_eq!(query(&["192.0.2.1", "192.0.2.2"]).verdict("accept\ndeny rule=x until=1\n"), "deny rule=x until=1");
}

proptest! {
    #[test]
    fn every_request_is_one_line_and_every_answer_a_verdict(words in proptest::collection::vec("\\PC{0,20}|check|strike|exim-auth|account=\\PC{0,9}|192\\.0\\.2\\.1|pid=[0-9]{0,9}|\n", 0..6), answer in "(accept|deny |defer |error )?(rule=x )?(until=)?\\PC{0,40}\n?") {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for query in [query(&words), EximQuery::from_line(words.join(" ").as_bytes())] {
            for line in query.lines().lines() {
                prop_assert!(matches!(parse(line.as_bytes()), Ok(SocketRequest::Check(_) | SocketRequest::Strike(_) | SocketRequest::Report(_))), "{}", line);
            }
            let verdict = query.verdict(&answer);
            prop_assert!(["accept", "defer", "deny"].iter().any(|word| verdict.starts_with(word)));
        }
    }

    #[test]
    fn only_the_address_behind_the_verb_is_ever_counted(words in proptest::collection::vec("192\\.0\\.2\\.[1-3]|check|strike|--table|pid=7|port=25|bad-helo|account=x?|x", 1..6)) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for request in query(&words).requests {
            let counts = !request.ends_with(" count=no");
            prop_assert!(!counts || (words[0] == "check" || words[0] == "strike") && request.split(' ').nth(1) == Some(words[1]), "{:?}: {}", words, request);
        }
    }

    #[test]
    fn whatever_else_the_arguments_contain_their_address_is_asked_about(before in proptest::collection::vec("\\PC{0,9}|check|strike", 0..3), after in proptest::collection::vec("\\PC{0,9}|pid=7|port=25|bad-helo", 0..3)) {
        let words: Vec<&str> = before.iter().map(String::as_str).chain(["198.51.100.77"]).chain(after.iter().map(String::as_str)).collect();
        prop_assert!(query(&words).requests.iter().any(|request| request.split(' ').nth(1) == Some("198.51.100.77")), "{:?}", words);
    }
}
