//! The kind and the client of each line of Exim's, and that no text of a client's decides who is blamed.

use super::exim_composed::Session;
use super::*;
use proptest::prelude::*;

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn blames(line: &str) -> (EximKind, Option<IpAddr>) {
    let read = parse(line.as_bytes(), &mut Zone::utc());
    (read.kind, read.client)
}

#[test]
fn the_limit_per_host_and_the_global_limit_are_told_apart() {
    for (line, kind) in [
        ("Connection from [2.38.90.63] refused: too many connections", EximKind::ConnectionRefusedGlobal),
        ("Connection from [2.38.90.63] refused: too many connections from that IP address", EximKind::ConnectionRefusedPerHost),
        ("Connection from [2.38.90.63] refused: load average = 12.34", EximKind::LoadRefused),
        ("Connection from [2.38.90.63] refused: too many connections for that AS", EximKind::Other),
    ] {
        let client = if kind == EximKind::Other { None } else { ip("2.38.90.63") };
        assert_eq!(blames(&format!("2026-11-23 01:02:03 {line}")), (kind, client), "{line}");
    }
}

#[test]
fn pid_port_interface_milliseconds_and_offset_are_never_taken_for_the_client() {
    for prefix in ["", ".123"] {
        for zone in ["", " +0000", " -0330"] {
            for pid in ["", " [22093]"] {
                for port in ["", ":43099"] {
                    for interface in ["", " I=[192.0.2.99]:25", " I=[2001:db8::99]:25", " I=[192.0.2.99]:25 Ci=7326"] {
                        let line = format!(
                            "2026-11-23 01:02:03{prefix}{zone}{pid} Connection from [2001:db8::5]{port}{interface} refused: too many connections"
                        );
                        let read = parse(line.as_bytes(), &mut Zone::utc());
                        assert_eq!((read.kind, read.client), (EximKind::ConnectionRefusedGlobal, ip("2001:db8::5")), "{line}");
                        assert!(read.time.is_some(), "{line}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_kind_of_line_blames_the_bracket_outside_the_parentheses() {
    let client = ip("198.51.100.7");
    for (line, kind) in [
        (
            "login authenticator failed for host.example ([192.168.2.33]) [198.51.100.7]: 535 Incorrect authentication data (set_id=brian)",
            EximKind::AuthFailed,
        ),
        (
            "plain authenticator failed for (ylmf-pc) [198.51.100.7]:41556 I=[10.0.0.1]:25: 535 Incorrect authentication data",
            EximKind::AuthFailed,
        ),
        (
            "plain authenticator failed for H=(u) [198.51.100.7]:21298 I=[22.33.44.55]:465 Ci=30416: 535 Incorrect authentication data (set_id=a)",
            EximKind::AuthFailed,
        ),
        (
            "H=(yakult.com.tw) [198.51.100.7]:3755 I=[1.2.3.4]:25 F=<a@b> rejected RCPT <dir@ml3.ru>: relay not permitted",
            EximKind::RejectedRcpt,
        ),
        (
            "H=m05.horp.tld [198.51.100.7]:43030 I=[10.0.0.2]:25 Ci=7326 CV=no SNI=mail.tld F=<u@e.tld> rejected RCPT <l@leone.tld>: relay not permitted",
            EximKind::RejectedRcpt,
        ),
        (
            "H=(x) [198.51.100.7] X=TLS1.3:ECDHE:256 CV=no F=<> A=plain:u temporarily rejected RCPT <l@leone.tld>: later",
            EximKind::RejectedRcpt,
        ),
        ("1qHd2z-0003Xb-1A H=(x) [198.51.100.7] F=<a@b> rejected after DATA: spam", EximKind::RejectedByAcl),
        ("1qHd2z-00000003XbX-1A0s H=(x) [198.51.100.7] F=<a@b> rejected after DATA: spam (8.8.8.8) [9.9.9.9]", EximKind::RejectedByAcl),
        ("H=[198.51.100.7] rejected connection in \"connect\" ACL: listed", EximKind::RejectedByAcl),
        (
            "H=[198.51.100.7]:62839 temporarily rejected connection in \"connect\" ACL: 4.7.0 Strikeout: too many offences",
            EximKind::OurRefusal,
        ),
        (
            "SMTP protocol error in \"AUTH LOGIN\" H=(ylmf-pc) [198.51.100.7]:60723 I=[172.89.0.6]:587 AUTH command used when not advertised",
            EximKind::ProtocolError,
        ),
        ("SMTP syntax error in \"GET / HTTP/1.1\" H=[198.51.100.7] unrecognized command", EximKind::SyntaxError),
        (
            "SMTP call from [198.51.100.7] dropped: too many syntax or protocol errors (last command was \"AUTH\",  C=EHLO,MAIL)",
            EximKind::TooManyErrors,
        ),
        (
            "SMTP call from a.b (c) [198.51.100.7]:3767 I=[172.89.0.6]:25 dropped: too many nonmail commands (last was \"RSET\")",
            EximKind::TooManyNonmail,
        ),
        (
            "SMTP call from H=(c) [198.51.100.7] dropped: too many unrecognized commands (last was \"\\033%-12345X\")",
            EximKind::TooManyUnrecognized,
        ),
        ("rejected EHLO from [198.51.100.7]: syntactically invalid argument(s): [10.0.0.1", EximKind::RejectedHelo),
        (
            "SMTP protocol synchronization error (input sent without waiting for greeting): rejected connection from H=[198.51.100.7]:2 I=[1.2.3.4]:25 input=\"GET / HTTP/1.1\\r\\n\\r\\n\"",
            EximKind::Synchronization,
        ),
        (
            "SMTP protocol synchronization error (next input sent too soon: pipelining was not advertised): rejected \"RSET\" H=ba77.mx83.fr [198.51.100.7]:58302 I=[1.2.3.4]:25 next input=\"QUIT\\r\\n\"",
            EximKind::Synchronization,
        ),
        ("no MAIL in SMTP connection from www.sakura.ne.jp [198.51.100.7]:28890 I=[172.89.0.6]:25 D=21s C=EHLO,STARTTLS", EximKind::NoMail),
        (
            "TLS error on connection from (x) [198.51.100.7] (gnutls_handshake): The TLS connection was non-properly terminated.",
            EximKind::TlsError,
        ),
        ("1qHd2z-0003Xb-1A <= a@b.c H=(x) [198.51.100.7] P=esmtp S=123", EximKind::Accepted),
        (
            "1qHd2z-0003Xb-1A <= a@b.c H=h.example (x) [198.51.100.7] P=esmtpsa X=TLS1.3 CV=no A=plain:anna S=123",
            EximKind::AcceptedAuthenticated,
        ),
    ] {
        assert_eq!(blames(&format!("2026-11-23 01:02:03 {line}")), (kind, client), "{line}");
        assert_eq!(blames(&format!("2026-11-23 01:02:03.004 +0100 [7] {line}")), (kind, client), "{line}");
        assert_eq!(blames(&format!("2026-11-23 01:02:03 mx1.example exim[8003]: [8003] {line}")), (kind, client), "{line}");
    }
}

#[test]
fn a_connection_has_its_local_port() {
    let read = |line: &str| parse(format!("2026-11-23 01:02:03 [7] SMTP connection from {line}").as_bytes(), &mut Zone::utc());
    let line = read("[198.51.100.7]:59801 I=[127.0.0.1]:465 (TCP/IP connection count = 1)");
    assert_eq!((line.kind, line.client, line.local_port), (EximKind::Connection, ip("198.51.100.7"), Some(465)));
    let line = read("[198.51.100.7]:25 I=[127.0.0.1]:465 (TCP/IP connection count = 1)");
    assert_eq!((line.client, line.local_port), (ip("198.51.100.7"), Some(465)), "the client's port is short");
    let line = read("[2001:db8::7] (TCP/IP connection count = 1)");
    assert_eq!((line.kind, line.client, line.local_port), (EximKind::Connection, ip("2001:db8::7"), None));
    for line in [
        "[198.51.100.7] closed by QUIT",
        "(x) [198.51.100.7] (TCP/IP connection count = 1)",
        "(x [8.8.8.8] (TCP/IP connection count = 1)) [198.51.100.7] lost",
    ] {
        assert_eq!(read(line).kind, EximKind::Other, "{line}");
    }
}

#[test]
fn lines_about_servers_to_which_exim_connects_blame_nobody() {
    for line in [
        "1qHd2z-0003Xb-1A H=mx.example [198.51.100.7]: SMTP error from remote mail server after RCPT TO:<a@b>: 550 rejected RCPT <a@b>",
        "1qHd2z-0003Xb-1A H=mx.example [198.51.100.7] Connection timed out",
        "1qHd2z-0003Xb-1A H=mx.example [198.51.100.7] TLS error on connection (gnutls_handshake): rejected by peer",
        "plain authenticator failed H=mx.example [198.51.100.7] 535 no",
        "1qHd2z-0003Xb-1A => a@b R=dnslookup T=remote_smtp H=mx.example [198.51.100.7] C=\"250 ok\"",
        "login authenticator failed for (x) [198.51.100.7]: 435 Unable to authenticate at present: no server",
        "no host name found for IP address 198.51.100.7",
    ] {
        assert_eq!(blames(&format!("2026-11-23 01:02:03 {line}")), (EximKind::Other, None), "{line}");
    }
}

#[test]
fn brackets_without_a_number_are_no_pid() {
    for pid in ["[]", "[x]", "[7x]", "[7"] {
        let line = format!("2026-11-23 01:02:03 {pid} Connection from [198.51.100.7] refused: too many connections");
        assert_eq!(blames(&line), (EximKind::Other, None), "{line}");
    }
}

#[test]
fn a_line_without_a_time_blames_nobody() {
    // Exim copies message headers, written by the sender, into the reject log.
    for line in [
        "",
        "T Subject: x",
        "\tConnection from [198.51.100.7] refused: too many connections",
        "Connection from [198.51.100.7] refused: too many connections",
    ] {
        assert_eq!(
            parse(line.as_bytes(), &mut Zone::utc()),
            EximLine { time: None, client: None, kind: EximKind::Other, local_port: None }
        );
    }
}

#[test]
fn client_text_that_looks_like_exims_blames_nobody_rather_than_somebody_else() {
    for line in [
        // A HELO that closes its own parenthesis and continues like Exim.
        "H=(x) [8.8.8.8] F=<a@b> rejected RCPT <(y) [198.51.100.7] F=<a@b> rejected RCPT <c@d>: no",
        // A quoted sender that contains such text.
        "H=(x) [198.51.100.7] F=<\"y) [8.8.8.8] F=<\"@b> rejected RCPT <c@d>: no",
        "SMTP syntax error in \"x\" H=[8.8.8.8] unrecognized command\" H=[198.51.100.7] unrecognized command",
        "1qHd2z-0003Xb-1A <= \"a H=[8.8.8.8] P=esmtp\"@b H=(x) [198.51.100.7] P=esmtp S=1",
    ] {
        assert_eq!(blames(&format!("2026-11-23 01:02:03 {line}")), (EximKind::Ambiguous, None), "{line}");
    }
    // Only one of the two can be the address: Exim never continues like this after the other one.
    assert_eq!(
        blames(
            "2026-11-23 01:02:03 SMTP protocol error in \"aUtH lOgIn\" H=(test) [8.8.8.8]\" H=(x) [192.0.2.6] AUTH command used when not advertised"
        ),
        (EximKind::ProtocolError, ip("192.0.2.6"))
    );
}

#[test]
fn what_stands_behind_the_client_s_first_text_never_names_another_client() {
    for line in [
        "H=(attacker.example) [198.51.100.7] sender verify fail for <\"x) [8.8.8.8] F=<a> rejected RCPT <b>\"@c.d>: Unrouteable address",
        "H=(attacker.example) [198.51.100.7] incomplete transaction (RSET) from <\"x) [8.8.8.8] X=TLS1.3 rejected RCPT <b>\"@c.d>",
        "H=host.example (x) [198.51.100.7] Warning: subject is y) [8.8.8.8] temporarily rejected after DATA",
        "H=[198.51.100.7] Warning: sni is y) [8.8.8.8] F=<a> rejected RCPT <b>",
        "H=host.example [198.51.100.7] sender verify defer for <\"x) [8.8.8.8] P=esmtp rejected RCPT <b>\"@c.d>",
        "plain authenticator failed for (x) [198.51.100.7]: 435 Unable to authenticate at present (set_id=x) [8.8.8.8]: 535): no backend",
        "plain authenticator failed for host.example [198.51.100.7]: 435 Unable to authenticate (set_id=(x) [8.8.8.8]: 535)",
        "rejected MAIL FROM:<\"from [8.8.8.8]: no HELO/EHLO given\"@c.d> H=(x) [198.51.100.7]: message too big: size=9 max=1",
        "unqualified sender rejected: <\"MAIL from [8.8.8.8]: no HELO/EHLO given\"> H=(x) [198.51.100.7]",
        "rejected \"EHLO x\" from [8.8.8.8] y\" from (x) [198.51.100.7]",
        "rejected \"EHLO from [8.8.8.8]: no HELO/EHLO given\" from (x) [198.51.100.7]",
        "no MAIL in VRFY connection from [8.8.8.8] D=0s",
        "VRFY failed for from [8.8.8.8]: no HELO/EHLO given H=(x) [198.51.100.7]",
        "ETRN #x) [8.8.8.8] F=<a> rejected received from (x) [198.51.100.7]",
        "SMTP call from (x) [198.51.100.7] lost: y) [8.8.8.8] dropped: too many nonmail commands (last was \"x\")",
    ] {
        let (_, client) = blames(&format!("2026-11-23 01:02:03 {line}"));
        assert!(client.is_none() || client == ip("198.51.100.7"), "{line}: {client:?}");
    }
}

#[test]
fn refusals_by_the_administrators_limits_have_kinds_of_their_own() {
    let client = ip("198.51.100.7");
    for (line, kind) in [
        ("unqualified sender rejected: <x> H=(x) [198.51.100.7]", EximKind::Unqualified),
        (
            "unqualified recipient rejected: <x y> H=a.b (x) [198.51.100.7]:2525 (failed to find host name from IP address)",
            EximKind::Unqualified,
        ),
        ("too many recipients: message rejected: sender=<a@b> H=(x) [198.51.100.7]", EximKind::TooManyRecipients),
        ("too many recipients: excess temporarily rejected: sender=<> H=(x) [198.51.100.7] I=[192.0.2.9]:25", EximKind::TooManyRecipients),
        ("rejected MAIL FROM:<a@b> H=(x) [198.51.100.7]: message too big: size=9 max=1", EximKind::MessageTooBig),
        ("rejected MAIL command H=(x) [198.51.100.7]: too many messages in one connection", EximKind::TooManyMessages),
        ("refused connection from [198.51.100.7] (host_reject_connection)", EximKind::HostRefused),
        ("refused connection from H=a.b [198.51.100.7]:99 (host_reject_connection)", EximKind::HostRefused),
        ("temporarily refused connection from [198.51.100.7]: not in reserve list: connected=9 max=9 reserve=1", EximKind::ReserveRefused),
        ("temporarily refused connection from a.b [198.51.100.7]: not in reserve list and load average = 9.00", EximKind::ReserveRefused),
        ("rejected \"EHLO other.example\" from (other.example) [198.51.100.7]", EximKind::RejectedHelo),
        ("temporarily rejected \"HELO other.example\" from a.b (other.example) [198.51.100.7]", EximKind::RejectedHelo),
        ("rejected MAIL from [198.51.100.7]: no HELO/EHLO given", EximKind::RejectedHelo),
        ("H=[198.51.100.7] dropped by 'connect' ACL: go away", EximKind::RejectedByAcl),
        ("no MAIL in TFO* SMTP connection from (x) [198.51.100.7] D=1s C=EHLO", EximKind::NoMail),
        ("TLS error on SMTP connection from [198.51.100.7] (gnutls_handshake): timed out", EximKind::TlsError),
    ] {
        assert_eq!(blames(&format!("2026-11-23 01:02:03 {line}")), (kind, client), "{line}");
        assert_eq!(EximKind::from_name(kind.description()), Some(kind), "{line}");
    }
}

#[test]
fn our_own_refusals_are_told_from_those_of_others_at_every_command() {
    for line in [
        "H=[198.51.100.7] temporarily rejected connection in \"connect\" ACL: strikeout: defer rule=exim-rate until=1795395723",
        "H=[198.51.100.7] dropped by 'connect' ACL: strikeout: deny rule=x until=1",
        "H=(x) [198.51.100.7] X=TLS1.3:ECDHE:256 CV=no temporarily rejected AUTH plain: strikeout: defer rule=exim-auth until=1795395723",
        "H=(x) [198.51.100.7] F=<> temporarily rejected RCPT <a@x.test>: strikeout: defer rule=exim-rcpt until=1795395723",
        "H=(x) [198.51.100.7] F=<\": \"@b> temporarily rejected after DATA: strikeout: defer rule=exim-rcpt until=1",
    ] {
        assert_eq!(blames(&format!("2026-11-23 01:02:03 {line}")), (EximKind::OurRefusal, ip("198.51.100.7")), "{line}");
    }
    for line in [
        "H=(x) [198.51.100.7] F=<a> rejected RCPT <\": strikeout: defer rule=x until=1\"@b>: Unknown user",
        "H=(x) [198.51.100.7] F=<a> rejected RCPT <\"x>: strikeout: defer rule=x until=1\"@b>: Unknown user",
        "H=(x) [198.51.100.7] F=<\"rejected AUTH x: strikeout: defer rule=x until=1\"@b> rejected RCPT <a@b>: no",
        "H=(x) [198.51.100.7] rejected EHLO or HELO x: strikeout: defer rule=x until=1",
        "H=(x) [198.51.100.7] rejected AUTH a b: strikeout: defer rule=x until=1",
        "H=(x) [198.51.100.7] rejected AUTH a: strikeout: defer rule=x until=1 more",
        "H=(x) [198.51.100.7] rejected AUTH a: strikeout: defer rule=X until=1",
        "H=(x) [198.51.100.7] rejected AUTH a: strikeout: defer rule= until=1",
        "H=(x) [198.51.100.7] rejected AUTH a: strikeout: defer rule=a until=",
    ] {
        let (kind, client) = blames(&format!("2026-11-23 01:02:03 {line}"));
        assert!(kind != EximKind::OurRefusal && client == ip("198.51.100.7"), "{line}: {kind:?} {client:?}");
    }
}

#[test]
fn a_line_that_exim_had_to_cut_blames_nobody() {
    let line = "2026-11-23 01:02:03 SMTP syntax error in \"x\" H=[8.8.8.8] unrecognized command**** log string overflowed log buffer ****";
    assert_eq!(blames(line).1, None);
}

#[test]
fn a_client_cannot_pass_its_offence_off_as_our_refusal() {
    let line = "2026-11-23 01:02:03 H=(x rejected connection in \"connect\" ACL: strikeout) [198.51.100.7] F=<a@b> rejected RCPT <c@d>: no";
    assert_eq!(blames(line), (EximKind::RejectedRcpt, ip("198.51.100.7")));
}

#[test]
fn a_hostile_line_names_nobody_else_however_often_it_repeats_what_exim_writes() {
    for piece in ["\" H=(x) [8.8.8.8] ", "> H=([8.8.8.8]) ", ") [8.8.8.8] F=<a> ", " H=(", "\" from (x) [8.8.8.8]", ": strikeout: "] {
        for start in ["SMTP syntax error in \"", "H=(", "<= ", "rejected \"EHLO ", "unqualified sender rejected: <", "rejected MAIL FROM:<"]
        {
            let line = format!("2026-11-23 01:02:03 {start}{}", piece.repeat(60_000 / piece.len()));
            let (_, client) = blames(&line);
            assert!(client.is_none() || client == ip("8.8.8.8"), "{start} {piece}");
        }
    }
}

#[test]
fn readings_agree_if_they_blame_one_address_and_the_explained_one_counts() {
    let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|text| ip(text).unwrap());
    let (one, unexplained) = (Blame::One(a, b"first"), Blame::Unexplained(a, b"second"));
    let merged = |left: Blame<'_>, right: Blame<'_>| format!("{:?}", left.merge(right));
    let is = |blame: Blame<'_>| format!("{blame:?}");
    for blame in [one, unexplained, Blame::Nobody, Blame::Several] {
        assert_eq!((merged(blame, Blame::Nobody), merged(Blame::Nobody, blame)), (is(blame), is(blame)));
    }
    assert_eq!((merged(one, unexplained), merged(unexplained, one)), (is(one), is(one)));
    assert_eq!(merged(one, Blame::One(a, b"other")), is(one), "the first of two");
    assert_eq!(merged(unexplained, Blame::Unexplained(a, b"other")), is(Blame::Unexplained(a, b"other")));
    for (left, right) in [one, unexplained].into_iter().flat_map(|left| [(left, Blame::One(b, b"")), (left, Blame::Unexplained(b, b""))]) {
        assert_eq!((merged(left, right), merged(right, left)), (is(Blame::Several), is(Blame::Several)));
    }
}

#[test]
fn a_rejection_is_only_one_that_stands_behind_the_address() {
    let line = |helo: &str, rest: &str| format!("2026-11-23 01:02:03 H=({helo}) [192.0.2.1] F=<a@example.org>{rest}");
    assert_eq!(blames(&line("x", " rejected RCPT <b@example.org>: no")), (EximKind::RejectedRcpt, ip("192.0.2.1")));
    assert_eq!(blames(&line("a rejected b", " is something else")), (EximKind::Other, None));
}

/// Escapes text as Exim's `string_printing` does: octal escapes for bytes that do not print.
fn printing(text: &[u8]) -> String {
    text.iter()
        .map(|byte| match byte {
            b'\\' => "\\\\".to_owned(),
            b'\n' => "\\n".to_owned(),
            b'\r' => "\\r".to_owned(),
            b'\t' => "\\t".to_owned(),
            0x20..=0x7e => char::from(*byte).to_string(),
            _ => format!("\\{byte:03o}"),
        })
        .collect()
}

/// Text that a client may send: any bytes, and pieces of Exim's own lines with an innocent address.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| printing(&bytes)),
        proptest::sample::select(vec![
            "[8.8.8.8]",
            "8.8.8.8",
            ") [8.8.8.8]",
            "(x) [8.8.8.8]",
            " [8.8.8.8]",
            "[8.8.8.8]:25",
            " I=[8.8.8.8]:25",
            "\" H=[8.8.8.8]",
            "\" H=(y) [8.8.8.8]",
            " H=[8.8.8.8]",
            " H=(z) [8.8.8.8]",
            ": 535 Incorrect",
            " F=<a@b>",
            " rejected RCPT <",
            ": ",
            " D=0s",
            " P=esmtp",
            " (",
            ") ",
            "(",
            " ",
            " unrecognized command",
            " dropped: too many nonmail commands",
            " input=\"",
            " next input=\"",
            "from ",
            "for ",
            "[2001:db8::8]",
            "H=",
            "[1] ",
            " refused: too many connections",
            "Connection from [8.8.8.8] refused: too many connections",
        ])
        .prop_map(str::to_owned),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// A HELO that Exim accepts without `helo_accept_junk_hosts`: a name or an address literal.
fn plain_helo() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "ylmf-pc",
        "[8.8.8.8]",
        "mail.example.org",
        "8.8.8.8",
        "[IPv6:2001:db8::8]",
        "a_b-c.d",
        "[8.8.8.8]:25",
        "[1]",
    ])
    .prop_map(str::to_owned)
}

fn session(helo: impl Strategy<Value = String>) -> impl Strategy<Value = Session> {
    let client = prop_oneof![
        (1_u8..=223, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d])),
        any::<u64>().prop_map(|low| IpAddr::from((0x2001_0db8_u128 << 96 | 7 << 64 | u128::from(low)).to_be_bytes())),
    ];
    // The resolver escapes parentheses in host names.
    let host = proptest::option::of(proptest::sample::select(vec![
        "mail.example.org",
        "x[8.8.8.8].example.org",
        "[8.8.8.8]:5.example.org",
        "1.2.3.4",
        "\\(.example",
    ]));
    let interface = proptest::option::of(Just("192.0.2.99".parse().unwrap()));
    (host, proptest::option::of(helo), client, proptest::option::of(any::<u16>()), interface, proptest::option::of(any::<u32>())).prop_map(
        |(host, helo, client, port, interface, pid)| Session { host: host.map(str::to_owned), helo, client, port, interface, pid },
    )
}

#[test]
fn client_text_that_starts_like_a_connection_id_does_not_hide_the_address() {
    for text in ["Ci={", "Ci=", "Ci=a{", "Ci=abc"] {
        let line = format!(
            "2026-11-23 01:02:03 SMTP protocol error in \"AUTH {text}\" H=[192.0.2.1] {text} authentication mechanism not supported"
        );
        assert_eq!(parse(line.as_bytes(), &mut Zone::utc()).client, Some("192.0.2.1".parse().unwrap()), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nobody_but_the_client_is_blamed_whatever_it_sends(session in session(prop_oneof![text(), plain_helo()]), text in text()) {
        for line in session.lines(&text).into_iter().chain(session.ordinary_lines(&text)) {
            let read = parse(line.as_bytes(), &mut Zone::utc());
            prop_assert!(read.client.is_none() || read.client == Some(session.client), "{}: {:?}", line, read);
        }
    }

    #[test]
    fn a_client_whose_text_has_no_second_address_is_always_blamed(session in session(plain_helo()), text in text()) {
        for line in session.lines(&text.replace("8.8", "8,8").replace("::8", ";;8")) {
            let read = parse(line.as_bytes(), &mut Zone::utc());
            prop_assert_eq!(read.client, Some(session.client), "{}: {:?}", line, read.kind);
        }
    }

    #[test]
    fn a_client_without_a_helo_cannot_make_its_line_ambiguous(session in session(plain_helo()), text in text()) {
        let session = Session { helo: None, ..session };
        for line in session.lines(&text).into_iter().filter(|line| !line.contains(" in \"") && !line.contains("rejected \"") && !line.contains(" <= ") && !line.contains("unqualified ") && !line.contains("sender=<") && !line.contains("FROM:<")) {
            prop_assert_eq!(parse(line.as_bytes(), &mut Zone::utc()).client, Some(session.client), "{}", line);
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in text()) {
        let _ = parse(&bytes, &mut Zone::utc());
        for start in ["", "H=", "SMTP call from ", "SMTP syntax error in \"", "<= ", "rejected ", "no MAIL in ", "x authenticator failed for ", "Connection from ["] {
            let mut line = format!("2026-11-23 01:02:03 {start}{text}").into_bytes();
            line.extend_from_slice(&bytes);
            let _ = parse(&line, &mut Zone::utc());
        }
    }
}
