//! The daemon's socket against clients of every kind: each gets its answer or the close, and the next one is served.

#[path = "harness/mod.rs"]
mod harness;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Daemon, STRIKEOUT};

#[test]
fn a_client_that_half_closes_gets_its_answer_and_the_close() {
    let daemon = Daemon::start("");
    assert_eq!(daemon.ask("check 198.51.100.1 port=25"), "accept\n");
    assert_eq!(daemon.ask_bytes(b"check 198.51.100.1 port=25"), "accept\n", "the end of input ends the line");
}

#[test]
fn an_empty_address_is_accepted() {
    let daemon = Daemon::start("");
    assert_eq!(daemon.ask("check  pid=1 port=25"), "accept\n");
}

#[test]
fn a_malformed_request_is_an_error_that_says_what_was_expected() {
    let daemon = Daemon::start("");
    for line in [
        "sing",
        "CHECK 198.51.100.1",
        "check not-an-address",
        "check 198.51.100.1 pid=x",
        "check 198.51.100.1 port=99999",
        "check 198.51.100.1 and more",
        "strike 198.51.100.1",
        "strike 198.51.100.1 no-such-rule",
        "clear 198.51.100.1",
        "clear 198.51.100.1 w00tw00t",
        "ban",
        "ban 198.51.100.0/40",
        "subscribe",
        "subscribe 99",
        "why",
    ] {
        let answer = daemon.ask(line);
        assert!(answer.starts_with("error "), "{line}: {answer:?}");
        assert!(answer.len() > "error ".len() + 5, "{line}: {answer:?}");
    }
    assert_eq!(daemon.ask("check 198.51.100.1 port=25"), "accept\n");
}

#[test]
fn bytes_that_are_not_text_get_an_error_or_the_close() {
    let daemon = Daemon::start("");
    for bytes in [b"\xff\xfe\x00\x01\n".to_vec(), vec![0; 4_000], b"check \xff\n".to_vec(), vec![b'a'; 100_000], b"\n\n\n".to_vec()] {
        let answer = daemon.ask_bytes(&bytes);
        assert!(answer.lines().all(|line| line.starts_with("error ")), "{answer:?}");
    }
    assert_eq!(daemon.ask("check 198.51.100.1 port=25"), "accept\n");
}

#[test]
fn half_a_line_closes_the_connection_after_a_second() {
    let daemon = Daemon::start("");
    let mut stream = daemon.connect();
    stream.write_all(b"check 198.5").unwrap();
    let start = Instant::now();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let waited = start.elapsed();
    assert!((Duration::from_millis(800)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
    assert!(answer.is_empty() || answer.starts_with("error "), "{answer:?}");
}

#[test]
fn hundreds_of_silent_connections_delay_nobody() {
    let daemon = Daemon::start("");
    let silent: Vec<UnixStream> = (0..400).map(|_| daemon.connect()).collect();
    let start = Instant::now();
    assert_eq!(daemon.ask("check 198.51.100.1 port=25"), "accept\n");
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    drop(silent);
}

#[test]
fn a_client_that_disconnects_early_harms_nobody() {
    let daemon = Daemon::start("");
    for _ in 0..200 {
        let mut stream = daemon.connect();
        stream.write_all(b"list\nstatus\n").unwrap();
        drop(stream);
    }
    assert_eq!(daemon.ask("check 198.51.100.1 port=25"), "accept\n");
}

#[test]
fn a_ban_by_hand_is_refused_until_an_unban() {
    let daemon = Daemon::start("");
    let answer = daemon.ask("ban 198.51.100.1 for=1h");
    assert!(!answer.starts_with("error"), "{answer}");
    let answer = daemon.ask("check 198.51.100.1 port=25");
    assert!(answer.starts_with("defer rule=manual until="), "{answer}");
    assert_eq!(daemon.ask("check 198.51.100.2 port=25"), "accept\n");
    let answer = daemon.ask("unban 198.51.100.1");
    assert!(!answer.starts_with("error"), "{answer}");
    assert_eq!(daemon.ask("check 198.51.100.1 port=25"), "accept\n");
}

#[test]
fn loopback_cannot_be_banned_by_hand_and_the_error_says_why() {
    let daemon = Daemon::start("");
    let answer = daemon.ask("ban 127.0.0.1 for=1h");
    assert!(answer.starts_with("error "), "{answer}");
    assert_eq!(daemon.ask("check 127.0.0.1 port=25"), "accept\n");
}

#[test]
fn a_faulty_configuration_is_an_error_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("strikeout.toml");
    fs::write(&config, "[table]\n\nclients = \"many\"\n").unwrap();
    for verb in ["serve", "check"] {
        let output = Command::new(STRIKEOUT).arg(verb).arg("--config").arg(&config).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{verb}: {stderr}");
        assert!(stderr.contains(&format!("{}:3: ", config.display())), "{verb}: {stderr}");
    }
}

#[test]
fn a_second_daemon_on_the_same_socket_does_not_take_it_away() {
    let daemon = Daemon::start("");
    let output = Command::new(STRIKEOUT).args(["serve", "--config"]).arg(daemon.stage().config()).output().unwrap();
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty());
    assert_eq!(daemon.ask("check 198.51.100.1 port=25"), "accept\n");
}

#[test]
fn a_success_clears_the_strikes_under_its_rule_alone_and_no_ban() {
    let daemon = Daemon::start("[[rule]]\nname = 'exim-auth'\nmaxretry = 3\n[[rule]]\nname = 'exim-helo'\nmaxretry = 3\n");
    for _ in 0..5 {
        assert_eq!(daemon.ask("strike 198.51.100.1 exim-auth"), "accept\n");
        assert_eq!(daemon.ask("strike 198.51.100.1 exim-auth"), "accept\n");
        assert_eq!(daemon.ask("clear 198.51.100.1 exim-auth"), "accept\n");
    }
    assert_eq!(daemon.ask("clear  exim-auth"), "accept\n", "mail from this machine");
    for answer in ["accept", "accept", "defer "] {
        assert!(daemon.ask("strike 198.51.100.1 exim-helo").starts_with(answer));
        assert_eq!(daemon.ask("clear 198.51.100.1 exim-auth"), "accept\n");
    }
    assert_eq!(daemon.ask("clear 198.51.100.1 exim-helo"), "accept\n");
    assert!(daemon.ask("check 198.51.100.1 port=25").starts_with("defer rule=exim-helo "));
}

#[test]
fn guesses_at_one_account_count_together_by_every_way_and_no_name_is_shown_or_blames_anybody() {
    let rule = "[[rule]]\nname = 'guessed'\nevent = 'incident'\ncount_by = 'account'\nmembers = 4\nmaxretry = 4\n";
    let daemon = Daemon::start(rule);
    let name = "Secret <\"a\"@b> account=x 203.0.113.9";
    assert_eq!(daemon.ask(&format!("strike 198.51.100.1 guessed account={name}")), "accept\n");
    let by_argument = daemon.stage().exim_helper(&["strike", "198.51.100.2", "guessed", &format!("account={}", name.to_uppercase())]);
    assert_eq!(by_argument.0, "accept");
    assert_eq!(daemon.ask_bytes(format!("strike 198.51.100.3 guessed account= {name} \r\n").as_bytes()), "accept\n");
    assert_eq!(daemon.ask(&format!("clear 198.51.100.4 guessed account={name}")), "accept\n");
    assert_eq!(daemon.ask(&format!("strike 198.51.100.4 guessed account={name}")), "accept\n", "it has logged in");
    assert_eq!(daemon.ask("strike 198.51.100.5 guessed account="), "accept\n", "no account");
    assert!(daemon.ask(&format!("strike 198.51.100.6 guessed account={name}")).starts_with("defer rule=guessed"));

    let faults = [
        "strike 198.51.100.7 guessed".to_owned(),
        format!("strike 198.51.100.7 no-such-rule account={name}"),
        format!("strike 198.51.100.7 guessed more account={name}"),
        format!("strike account={name}"),
        format!("strike 198.51.100.7 guessed account={}", "secret ".repeat(2000)),
    ];
    for line in faults {
        let answer = daemon.ask(&line);
        assert!(answer.starts_with("error found ") && !answer.to_lowercase().contains("secret"), "{answer}");
    }
    daemon.stage().exim_helper(&["strike", "198.51.100.7", "No Rule", &format!("account={name}\nban 203.0.113.9")]);
    assert_eq!(daemon.ask("check 203.0.113.9"), "accept\n");
    assert!(daemon.text(&["why", "198.51.100.6"]).contains("4 wrong passwords for one account by 4 clients or more"));
    assert!(!daemon.log().to_lowercase().contains("secret"), "{}", daemon.log());
}
