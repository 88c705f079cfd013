//! Tests of the requests on the socket.

use super::*;
use crate::control::admin::*;
use crate::event::Scope;
use crate::geo::Network;
use crate::time::{Span, Time};
use ipnet::IpNet;
use proptest::prelude::*;

fn check_of(line: &str) -> Check {
    match parse(line.as_bytes()).unwrap() {
        SocketRequest::Check(check) => check,
        other => panic!("{other:?}"),
    }
}

fn fault(line: &[u8]) -> String {
    parse(line).unwrap_err().to_string()
}

#[test]
fn a_check_carries_address_process_and_port() {
    assert_eq!(
        check_of("check 192.0.2.1 pid=4711 port=25"),
        Check { address: "192.0.2.1".parse().ok(), pid: Some(4711), port: Some(25), via: Via::Peer, counts: true }
    );
    assert_eq!(check_of("check ::ffff:192.0.2.1").address, "192.0.2.1".parse().ok(), "canonical");
    assert_eq!(check_of("check 2001:db8::1 via=run\r").via, Via::Run);
    assert_eq!(check_of("check 2001:db8::1 via=lines").via, Via::Lines);
    assert!(!check_of("check 2001:db8::1 count=no").counts);
    for line in ["check 192.0.2.1 pid=4711 port=25 via=run", "check 2001:db8::1 via=lines", "check 192.0.2.1 port=0 count=no", "check "] {
        assert_eq!(check_of(line).to_string(), line);
    }
}

#[test]
fn local_mail_has_no_address_and_no_port() {
    let local = Check { pid: Some(7), ..Check::of(None) };
    assert_eq!(check_of("check  pid=7 port="), local);
    assert_eq!(check_of("check pid=7 port="), local);
    assert_eq!(check_of("check 192.0.2.1 port=-1").port, None, "a simulated connection");
    assert_eq!(check_of("check").address, None);
    assert_eq!(parse(b"strike  helo-is-ip"), Ok(SocketRequest::Strike(Incident { address: None, rule: "helo-is-ip", account: None })));
}

#[test]
fn the_account_of_an_incident_is_all_the_rest_of_the_line() {
    let incident = |line: &str| match parse(line.as_bytes()) {
        Ok(SocketRequest::Strike(Incident { address, rule, account }) | SocketRequest::Clear(Incident { address, rule, account })) => {
            (address.map(|address| address.to_string()), rule.to_owned(), account.map(str::to_owned))
        }
        other => panic!("{line}: {other:?}"),
    };
    for verb in ["strike", "clear"] {
        for account in ["", "alice", "Alice B. <\"a\"@example.org>", "x account=y", " ", "x\ty\u{7}\u{e9}", "192.0.2.2 exim-auth"] {
            let found = incident(&format!("{verb} 192.0.2.1 exim-auth account={account}"));
            assert_eq!(found, (Some("192.0.2.1".to_owned()), "exim-auth".to_owned(), Some(account.to_owned())));
        }
        assert_eq!(incident(&format!("{verb} 192.0.2.1 exim-auth")), (Some("192.0.2.1".to_owned()), "exim-auth".to_owned(), None));
        assert_eq!(incident(&format!("{verb}  exim-auth account=alice")).0, None, "mail from this machine");
    }
}

#[test]
fn no_error_shows_an_account() {
    for line in [
        &b"strike 192.0.2.1 account=secret"[..],
        b"strike account=secret",
        b"strike 192.0.2.1 a b account=secret",
        b"strike 192.0.2.300 exim-auth account=secret",
        b"strike 192.0.2.1 exim-auth account=secret \xff",
        b"strike 192.0.2.1 exim-auth account=secret \0",
        b"Strike 192.0.2.1 exim-auth account=secret",
        b"check 192.0.2.1 account=secret word",
        b"why 192.0.2.1 account=secret",
    ] {
        let fault = fault(line);
        assert!(fault.contains("found") && !fault.contains("secret"), "{fault}");
    }
}

#[test]
fn a_ban_has_a_length_a_scope_and_a_reason_up_to_the_end_of_the_line() {
    assert_eq!(
        parse(b"ban 192.0.2.7 for=600 scope=mail reason=floods us, for=ever"),
        Ok(SocketRequest::Admin(AdminRequest::Ban(BanRequest {
            target: "192.0.2.7/32".parse().unwrap(),
            length: BanLength::For(Span::from_secs(600)),
            scope: Scope::Mail,
            rule: None,
            reason: "floods us, for=ever".to_owned()
        })))
    );
    assert!(fault(b"ban AS64496 scope=web").contains("expected all: the ban of a network refuses on every service"));
    let length = |line: &[u8]| match parse(line) {
        Ok(SocketRequest::Admin(AdminRequest::Ban(request))) => request.length,
        other => panic!("{other:?}"),
    };
    assert_eq!(length(b"ban 192.0.2.1 10m"), BanLength::For(Span::from_secs(600)));
    assert_eq!(length(b"ban 192.0.2.1 for=-1"), BanLength::Permanent);
    assert_eq!(length(b"ban 192.0.2.1 until=1800000000"), BanLength::Until(Time::from_secs(1_800_000_000)));
    assert_eq!(length(b"ban 192.0.2.1"), BanLength::Default);
    assert!(matches!(
        parse(b"unban 192.0.2.1 scope=web"),
        Ok(SocketRequest::Admin(AdminRequest::Unban(UnbanRequest { scope: Scope::Web, .. })))
    ));
}

#[test]
fn list_takes_conditions() {
    assert_eq!(parse(b"list"), Ok(SocketRequest::Admin(AdminRequest::List(BanFilter::default()))));
    let filter = BanFilter {
        rule: Some("helo".to_owned()),
        network: "198.51.100.0/24".parse().ok(),
        scope: Some(Scope::Web),
        ..BanFilter::default()
    };
    assert_eq!(parse(b"list rule=helo scope=web network=198.51.100.0/24"), Ok(SocketRequest::Admin(AdminRequest::List(filter))));
    let filter = BanFilter { evidence: true, shadow: true, ..BanFilter::default() };
    assert_eq!(parse(b"list shadow evidence"), Ok(SocketRequest::Admin(AdminRequest::List(filter))));
    assert!(fault(b"list all").contains("expected rule=NAME, network=CIDR, scope=SCOPE, evidence or shadow"));
}

#[test]
fn an_error_says_what_was_found_and_what_was_expected() {
    for (line, expected) in [
        (&b"chekc 192.0.2.1"[..], "found \"chekc 192.0.2.1\", expected one of check, strike,"),
        (b"", "found \"\", expected one of check,"),
        (b"check mail.example.org", "found \"mail.example.org\", expected an IP address"),
        (b"check 192.0.2.1 pid=x", "found \"pid=x\", expected pid= and a number"),
        (b"check 192.0.2.1 port=65536", "found \"port=65536\", expected port= and 0 to 65535"),
        (b"check 192.0.2.1 port=+25", "found \"port=+25\", expected port="),
        (b"check 192.0.2.1 exim", "found \"exim\", expected pid=N"),
        (b"check 192.0.2.1 port=25 port=587", "found \"port=587\", expected pid= and port= only once"),
        (b"check 192.0.2.1 port= pid=7 port=587", "found \"port=587\", expected pid= and port= only once"),
        (b"check 192.0.2.1 pid=7 pid=", "found \"pid=\", expected pid= and port= only once"),
        (b"report caf\xc3\xa9", "found \"caf\\xc3\\xa9\", expected 1 to 400 bytes"),
        (b"strike 192.0.2.1", "found \"\", expected the name of one rule after the address, and then nothing but account="),
        (b"strike 192.0.2.1 a b", "found \"a b\", expected the name of one rule"),
        (
            b"why",
            "found \"\", expected an IP address, a network such as 192.0.2.0/24, a system such as AS64496 or a country such as country:XX",
        ),
        (b"pause -1", "found \"-1\", expected a duration such as 30m or 2h, at most 30d: a pause always ends by itself"),
        (b"pause 36500d", "found \"36500d\", expected a duration such as 30m or 2h, at most 30d"),
        (b"pause 2592001", "found \"2592001\", expected a duration"),
        (b"resume now", "found \"now\", expected nothing more"),
        (b"status all", "found \"all\", expected nothing more"),
        (b"ban 192.0.2.1 until=10m", "found \"until=10m\", expected until= and seconds since 1970"),
        (b"ban 192.0.2.1 for=soon", "found \"soon\", expected a duration"),
        (
            b"ban everybody",
            "found \"everybody\", expected an IP address, a network such as 192.0.2.0/24, a system such as AS64496 or a country such as country:XX",
        ),
        (
            b"ban country:DEU",
            "found \"country:DEU\", expected an IP address, a network such as 192.0.2.0/24, a system such as AS64496 or a country",
        ),
        (b"ban 192.0.2.0/24 scope=web", "found the scope web for the network 192.0.2.0/24, expected all"),
        (
            b"unban everybody",
            "found \"everybody\", expected an IP address, a network, a system such as AS64496, a country such as country:XX, rule=NAME or all",
        ),
        (
            b"unban rule=a_b",
            "found \"rule=a_b\", expected an IP address, a network, a system such as AS64496, a country such as country:XX, rule=NAME or all",
        ),
        (b"unban 192.0.2.0/24 outside", "found \"outside\", expected scope=SCOPE"),
        (b"unban 192.0.2.1 scope=ftp", "found \"ftp\", expected the scope web, mail or all"),
        (b"release 192.0.2.1 rule=helo", "found \"rule=helo\", expected rule=NAME of another program's bans"),
        (b"release 192.0.2.1", "found \"192.0.2.1\", expected rule=NAME of another program's bans"),
        (b"release everybody rule=fail2ban-a", "found \"everybody\", expected an IP address, a network such as 192.0.2.0/24, a system"),
        (b"release all rule=fail2ban-a until=soon", "found \"until=soon\", expected until= and seconds since 1970"),
        (b"subscribe", "found \"\", expected the number of a version"),
        (b"report ", "found \"\", expected 1 to 400 bytes of printable ASCII"),
        (b"report a\x1bb", "found \"a\\x1bb\", expected 1 to 400 bytes"),
        (b"check \xff", "found \"check \\xff\", expected UTF-8"),
        (b"list\0", "found a NUL byte in \"list\\x00\""),
    ] {
        let fault = fault(line);
        assert!(fault.starts_with(expected), "{fault}");
    }
    assert!(fault(&[b'a'; MAX_LINE + 1]).contains("more than 8192 bytes"));
}

#[test]
fn an_error_quotes_the_line_escaped_and_cut() {
    let fault = fault(format!("\x1b[31m\"{}", "x".repeat(8000)).as_bytes());
    assert!(fault.starts_with("found \"\\x1b[31m\\\"xxx") && fault.len() < 250, "{fault}");
    assert!(fault.chars().all(is_printable_ascii), "{fault}");
}

proptest! {
    #[test]
    fn what_a_program_writes_is_what_the_daemon_parses(
        bits in any::<u128>(),
        prefix in 0_u8..=32,
        which in 0..12,
        scope in prop::sample::select(vec![Scope::Web, Scope::Mail, Scope::All]),
        seconds in 1_u64..100_000_000,
        name in "[a-z0-9-]{1,64}",
        reason in "(\\PC{0,40})?",
    ) {
        let address = IpAddr::from(std::net::Ipv6Addr::from_bits(bits)).to_canonical();
        let target = if prefix % 2 == 0 { IpNet::from(address) } else { IpNet::new(address, prefix).unwrap().trunc() };
        let scope = if prefix % 2 == 0 { scope } else { Scope::All };
        let any: Network = match prefix % 10 {
            1 => "AS64496".parse().unwrap(),
            3 => "country:DE".parse().unwrap(),
            _ => target.into(),
        };
        let filter = |rule, network, scope| AdminRequest::List(BanFilter { rule, network, scope, evidence: prefix % 3 == 0, shadow: prefix % 5 == 0 });
        let lengths = [BanLength::Default, BanLength::For(Span::from_secs(seconds)), BanLength::Until(Time::from_secs(seconds)), BanLength::Permanent];
        let length = lengths[usize::from(prefix) % lengths.len()];
        let request = match which {
            0 => AdminRequest::Why(any),
            1 => filter(None, None, None),
            2 => filter(Some(name), Some(target), Some(scope)),
            3 => AdminRequest::Status,
            4 => AdminRequest::Metrics,
            5 => AdminRequest::Ban(BanRequest { target: any, length, scope, rule: Some(name).filter(|_| prefix % 3 == 0), reason }),
            6 => {
                let what = match prefix % 4 {
                    1 => UnbanTarget::Inside(target),
                    2 => UnbanTarget::Rule(name),
                    3 => UnbanTarget::All,
                    _ => UnbanTarget::One(any),
                };
                AdminRequest::Unban(UnbanRequest { what, scope })
            }
            7 => AdminRequest::Forget(name),
            8 => AdminRequest::Pause(Span::from_secs(seconds).min(MAX_PAUSE)),
            9 => AdminRequest::Resume,
            10 => AdminRequest::Release(ReleaseRequest {
                target: Some(any).filter(|_| prefix % 3 == 0),
                rule: crate::rule_id::origin_name("fail2ban", &name),
                until: i64::try_from(seconds).ok().filter(|_| prefix % 4 == 0),
            }),
            _ => AdminRequest::Reload,
        };
        let line = request.to_string();
        prop_assert_eq!(parse(line.as_bytes()), Ok(SocketRequest::Admin(request)));
    }

    #[test]
    fn any_bytes_parse_without_a_panic_and_errors_hold_no_raw_bytes(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Err(fault) = parse(&line) {
            prop_assert!(fault.to_string().chars().all(is_printable_ascii));
        }
    }

    #[test]
    fn any_words_parse_without_a_panic(
        verb in "check|strike|why|list|status|metrics|ban|unban|pause|resume|reload|subscribe",
        rest in "[ =.:/0-9a-f\u{e4}-]{0,60}|( ?(192\\.0\\.2\\.1|pid=|port=|for=|scope=|reason=|via=|\\PC{0,9})){0,8}"
    ) {
        let _ = parse(format!("{verb} {rest}").as_bytes());
    }

    #[test]
    fn every_address_is_parsed_as_itself(bits in any::<u128>(), v4 in any::<bool>()) {
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let address: IpAddr = if v4 { std::net::Ipv4Addr::from_bits(bits as u32).into() } else { std::net::Ipv6Addr::from_bits(bits).into() };
        prop_assert_eq!(check_of(&format!("check {address} pid=1")).address, Some(address.to_canonical()));
    }
}
