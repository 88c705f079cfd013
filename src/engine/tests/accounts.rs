//! Tests of rules that count wrong passwords for one account.

use super::*;
use crate::rule::{Evidence, Offence};

const GUESSED: &str = "[[rule]]\nname = 'guessed'\nevent = 'incident'\ncount_by = 'account'\nmembers = 3\nmaxretry = 3\nfindtime = '10m'\nbantime = '1h'\nscope = 'mail'\n";

fn offence(engine: &Engine, address: &str, account: &str) -> Offence {
    let address: std::net::IpAddr = address.parse().unwrap();
    Offence {
        address,
        client: Client::of(address, Ipv6Prefix::default()),
        rules: vec![Arc::clone(engine.policy().rules.by_name("guessed").unwrap())],
        evidence: Evidence::new(&[b"reported by the mail server"]),
        marks: None,
        account: engine.accounts().named(account),
    }
}

/// The answer to a wrong password of `address` for `account`.
fn guess(engine: &Arc<Engine>, second: u64, address: &str, account: &str) -> Option<DenyReason> {
    let (sender, receiver) = channel();
    let reply = Reply::new(move |verdict| sender.send(verdict).unwrap());
    engine.record_offence(at(second), &offence(engine, address, account), Service::Mail, reply);
    reason(&receiver.recv().unwrap())
}

fn log_in(engine: &Engine, second: u64, address: &str, account: &str) {
    let Offence { client, rules, account, .. } = offence(engine, address, account);
    engine.note_login(at(second), &rules[0], account.unwrap(), client);
}

fn client_of(address: &str) -> Client {
    Client::of(address.parse().unwrap(), Ipv6Prefix::default())
}

/// Whether `address` is refused before its password is checked.
fn is_refused(engine: &Arc<Engine>, second: u64, address: &str) -> bool {
    reason(&ask(engine, at(second), address, &Event::Lookup(Service::Mail))).is_some()
}

const BANNED: Option<DenyReason> = Some(DenyReason::Struck);

/// Three clients guess at "alice", the last of which is banned for it.
fn attack(engine: &Arc<Engine>) {
    assert_eq!([1, 2, 3].map(|host| guess(engine, host, &format!("192.0.2.{host}"), "alice")), [None, None, BANNED]);
}

#[test]
fn once_enough_clients_have_guessed_at_an_account_each_further_guess_bans_its_sender_at_once() {
    let engine = engine(GUESSED);
    attack(&engine);
    for host in 10..60 {
        let address = format!("198.51.100.{host}");
        assert!(!is_refused(&engine, host, &address), "nobody is refused before he guesses");
        assert_eq!(guess(&engine, host, &address, "Alice"), BANNED);
        assert!(is_refused(&engine, host, &address));
    }
    assert_eq!(guess(&engine, 60, "203.0.113.1", "bob"), None, "another account");
    let record = engine.ban_record(client_of("198.51.100.59")).unwrap();
    assert_eq!((&*record.rule, record.evidence.as_str()), ("guessed", "53 wrong passwords for one account by 3 clients or more"));
}

#[test]
fn one_client_alone_puts_no_account_under_attack() {
    let engine = engine(GUESSED);
    for second in 0..100 {
        assert_eq!(guess(&engine, second, "192.0.2.1", "alice"), None);
        assert_eq!(guess(&engine, second, &format!("2001:db8:1:{second}::1"), "alice"), None, "an IPv6 /48 is one client");
    }
    assert_eq!(guess(&engine, 100, "2001:db8:2::1", "alice"), BANNED);
}

#[test]
fn an_attack_is_over_when_too_few_clients_have_guessed_within_findtime() {
    let engine = engine(GUESSED);
    attack(&engine);
    assert_eq!(guess(&engine, 604, "198.51.100.1", "alice"), None);
    for second in 605..1500 {
        assert_eq!(guess(&engine, second, "198.51.100.1", "alice"), None, "whoever has an old password keeps no attack alive");
    }
}

#[test]
fn a_client_that_has_logged_in_to_the_account_lately_may_mistype_under_attack() {
    let engine = engine(GUESSED);
    log_in(&engine, 0, "203.0.113.7", "alice@example.org");
    log_in(&engine, 0, "203.0.113.7", "alice");
    attack(&engine);
    for second in 10..30 {
        assert_eq!(guess(&engine, second, "203.0.113.7", "alice"), None);
    }
    log_in(&engine, 30, "203.0.113.8", "mallory");
    assert_eq!(guess(&engine, 31, "203.0.113.8", "alice"), BANNED, "a login to another account does not count");
}

#[test]
fn clients_that_log_in_after_all_do_not_put_their_account_under_attack() {
    let engine = engine(GUESSED);
    for host in 1..100 {
        let address = format!("192.0.2.{host}");
        assert_eq!(guess(&engine, host, &address, "office"), None);
        log_in(&engine, host, &address, "office");
    }
}

#[test]
fn guesses_without_an_account_or_from_ignored_addresses_count_nowhere() {
    let engine = engine(&format!("{GUESSED}ignoreip = ['192.0.2.0/24']\n"));
    for host in 1..100 {
        assert_eq!(guess(&engine, host, &format!("192.0.2.{host}"), "alice"), None);
        assert_eq!(guess(&engine, host, &format!("198.51.100.{host}"), ""), None);
    }
    assert_eq!(engine.guesses.len(), 0);
}

#[test]
fn in_shadow_mode_nobody_is_refused_and_what_would_be_is_shown() {
    let engine = engine(&format!("{GUESSED}mode = 'shadow'\n"));
    for host in 1..10 {
        let address = format!("192.0.2.{host}");
        assert_eq!(guess(&engine, host, &address, "alice"), None);
        assert_eq!(guess(&engine, host, &address, "alice"), None);
        assert!(!is_refused(&engine, host, &address));
        assert_eq!(engine.shadow_ban(client_of(&address), Service::Mail, at(host)).is_some(), host >= 3);
    }
    assert_eq!(engine.stats().shadow_bans.load(Ordering::Relaxed), 7);
}

#[test]
fn made_up_accounts_take_no_more_memory_than_configured() {
    let names = Arc::new(RuleNames::default());
    let policy = Policy::for_tests(GUESSED, &names);
    let engine = Arc::new(Engine::new(names, policy, 1000, 1000).unwrap().with_accounts(64));
    for number in 0..10_000 {
        guess(&engine, 0, "192.0.2.1", &format!("account{number}"));
    }
    assert!(engine.guesses.len() <= 64);
}
