//! Many clients that guess at one account: each further one is stopped at its first wrong password, and the owner logs in all the time.

use crate::exim_incidents::{session_on, start, strikes};
use crate::harness::{Daemon, Stage, wait_until};
use crate::rig::Exim;

const RULES: &str = "[[rule]]\nname = \"guessed-account\"\nmode = \"enforce\"\nmembers = 5\nmaxretry = 5\n";

/// The command that logs in with PLAIN (RFC 4616).
fn login(account: &[u8], password: &str) -> String {
    let message = [b"\0", account, b"\0", password.as_bytes()].concat();
    let digit = |group: u32, shift: u32| {
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[(group >> shift & 63) as usize])
    };
    let mut text = String::from("AUTH PLAIN ");
    for bytes in message.chunks(3) {
        let group = bytes.iter().chain(&[0, 0]).take(3).fold(0, |group, byte| group << 8 | u32::from(*byte));
        let digits = [18, 12, 6, 0].map(|shift| digit(group, shift));
        text.extend(digits.iter().take(bytes.len() + 1));
        text.extend(std::iter::repeat_n('=', 3 - bytes.len()));
    }
    text
}

/// The answers to logins in one session on the submission port.
fn log_in(exim: &Exim, client: &str, logins: &[(&str, &str)]) -> Vec<u16> {
    let mut commands: Vec<String> = logins.iter().map(|(account, password)| login(account.as_bytes(), password)).collect();
    commands.push("QUIT".to_owned());
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let mut codes = session_on(exim.submission(), client, &commands).unwrap();
    assert!(codes.pop_if(|code| *code == 221).is_some() || codes.last() == Some(&421), "{codes:?}");
    codes
}

#[test]
fn a_botnet_on_one_account_is_stopped_and_its_owner_logs_in_all_the_time() {
    let Some(stage) = Stage::with_exim() else { return };
    let daemon = stage.daemon(RULES);
    let exim = start(&stage);
    let wrong = |client: &str, account: &str| log_in(&exim, client, &[(account, "wrong")]);
    let owner = "203.0.113.7";
    assert_eq!(log_in(&exim, owner, &[("alice@example.org", "right")]), [235]);
    for host in 1..=5 {
        let address = format!("198.51.100.{host}");
        assert_eq!(wrong(&address, if host % 2 == 0 { "alice@example.org" } else { "Alice@Example.ORG" }), [535]);
        let is_banned = daemon.ask(&format!("check {address} port=587")).starts_with("defer rule=guessed-account");
        assert_eq!(is_banned, host == 5, "{address}");
    }
    for host in 6..=20 {
        let address = format!("198.51.100.{host}");
        assert_eq!(wrong(&address, "alice@example.org"), [535], "the first wrong password of {address}");
        assert_eq!(log_in(&exim, &address, &[("alice@example.org", "right")]), [421], "not even the right one is checked any more");
        assert_eq!(log_in(&exim, owner, &[("alice@example.org", "right")]), [235]);
    }
    assert_eq!(log_in(&exim, owner, &[("alice@example.org", "wrong"), ("alice@example.org", "right")]), [535, 235], "who mistypes once");
    // In one session as well.
    let twice = [("alice@example.org", "wrong"), ("alice@example.org", "wrong2")];
    assert_eq!(log_in(&exim, "198.51.100.21", &twice), [535, 421]);
    // From elsewhere the owner logs in too, and others do not notice anything.
    assert_eq!(log_in(&exim, "203.0.113.8", &[("alice@example.org", "right")]), [235]);
    for account in ["alice", "alice@example.com", "bob@example.org"] {
        let address = format!("192.0.2.{}", account.len());
        assert_eq!(log_in(&exim, &address, &[(account, "wrong"), (account, "right")]), [535, 235], "{account}");
    }
    assert_eq!(daemon.objects("list rule=guessed-account").len(), 17);
    assert_shown_nowhere(&daemon, "alice");
    assert_eq!(exim.paniclog(), "");
}

/// The rule and the number are shown; the account is not, nor does any file hold it.
fn assert_shown_nowhere(daemon: &Daemon, account: &str) {
    let why = daemon.text(&["why", "198.51.100.10"]);
    assert!(why.contains("guessed-account") && why.contains("10 wrong passwords for one account by 5 clients or more"), "{why}");
    let shown = [
        why,
        daemon.text(&["list", "--evidence"]),
        daemon.text(&["list", "--json"]),
        daemon.ask("status"),
        daemon.ask("metrics"),
        daemon.log(),
    ];
    assert!(shown.iter().all(|text| !text.to_lowercase().contains(account)));
    let state = daemon.stage().state();
    for file in std::fs::read_dir(state.parent().unwrap()).unwrap().map(|file| file.unwrap().path()) {
        if file.file_name().unwrap().to_string_lossy().starts_with(&*state.file_name().unwrap().to_string_lossy()) {
            let bytes = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).to_lowercase();
            assert!(!bytes.contains(account), "{}", file.display());
        }
    }
}

#[test]
fn whatever_an_account_is_called_it_counts_once_for_its_own_client_and_nobody_else_is_blamed() {
    let Some(stage) = Stage::with_exim() else { return };
    let daemon = stage.daemon(RULES);
    let exim = start(&stage);
    let long = "x".repeat(8 * 1024);
    let names: [&[u8]; 9] = [
        b"a b",
        b"\"q\" 'q' \\ ${run{/bin/false}} $1",
        b"x\nstrike 203.0.113.99 exim-auth",
        b"x\r\nban 203.0.113.99 for=-1",
        b"x account=y 203.0.113.99",
        b"x} {1s}{203.0.113.99",
        b") (set_id=x)",
        b"\x01\x1b[31m\x7f\xff\xfe",
        long.as_bytes(),
    ];
    for (number, name) in names.iter().enumerate() {
        let address = format!("198.51.100.{}", number + 1);
        let commands = [login(name, "wrong"), "QUIT".to_owned()];
        let codes = session_on(exim.submission(), &address, &[&commands[0], &commands[1]]).unwrap();
        assert_eq!(codes.last(), Some(&221), "{:?}", name.escape_ascii().to_string());
        let is_checked = codes[0] == 535;
        assert!(is_checked || name.len() > 1000, "{codes:?} for {:?}", name.escape_ascii().to_string());
        wait_until("the wrong password counts", || !is_checked || strikes(&daemon, &address, "exim-auth") == 1);
        // Under attack by four more clients, each of which is called the same.
        for other in 1..5 {
            let client = format!("100.64.{number}.{other}");
            assert_eq!(session_on(exim.submission(), &client, &[&commands[0], "QUIT"]).unwrap(), codes);
        }
        let is_banned = daemon.ask(&format!("check 100.64.{number}.4 port=587")).starts_with("defer rule=guessed-account");
        assert_eq!(is_banned, is_checked, "{:?}", name.escape_ascii().to_string());
    }
    assert_eq!(daemon.ask("check 203.0.113.99"), "accept\n");
    assert_eq!(strikes(&daemon, "203.0.113.99", "exim-auth"), 0);
    assert!(!daemon.log().contains("not understood") && !daemon.log().contains("203.0.113.99"), "{}", daemon.log());
    assert_eq!(exim.paniclog(), "");
}
