//! What each line of Exim's means, and that no text of a client's decides whom it blames.

use super::*;
use proptest::prelude::*;

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn blames(line: &str) -> (Kind, Option<IpAddr>) {
    let read = parse(line.as_bytes(), &mut Zone::utc());
    (read.kind, read.client)
}

#[test]
fn the_limit_per_host_and_the_global_one_are_told_apart() {
    for (line, kind) in [
        ("Connection from [2.38.90.63] refused: too many connections", Kind::ConnectionRefusedGlobal),
        ("Connection from [2.38.90.63] refused: too many connections from that IP address", Kind::ConnectionRefusedPerHost),
        ("Connection from [2.38.90.63] refused: load average = 12.34", Kind::LoadRefused),
        ("Connection from [2.38.90.63] refused: too many connections for that AS", Kind::Other),
    ] {
        let client = if kind == Kind::Other { None } else { ip("2.38.90.63") };
        assert_eq!(blames(&format!("2026-11-23 01:02:03 {line}")), (kind, client), "{line}");
    }
}

#[test]
fn pid_port_interface_milliseconds_and_zone_are_never_the_client() {
    for prefix in ["", ".123"] {
        for zone in ["", " +0000", " -0330"] {
            for pid in ["", " [22093]"] {
                for port in ["", ":43099"] {
                    for interface in ["", " I=[192.0.2.99]:25", " I=[2001:db8::99]:25", " I=[192.0.2.99]:25 Ci=7326"] {
                        let line = format!(
                            "2026-11-23 01:02:03{prefix}{zone}{pid} Connection from [2001:db8::5]{port}{interface} refused: too many connections"
                        );
                        let read = parse(line.as_bytes(), &mut Zone::utc());
                        assert_eq!((read.kind, read.client), (Kind::ConnectionRefusedGlobal, ip("2001:db8::5")), "{line}");
                        assert!(read.time.is_some(), "{line}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_kind_of_line_is_known_and_blames_the_bracket_outside_the_parentheses() {
    let client = ip("198.51.100.7");
    for (line, kind) in [
        (
            "login authenticator failed for host.example ([192.168.2.33]) [198.51.100.7]: 535 Incorrect authentication data (set_id=brian)",
            Kind::AuthFailed,
        ),
        (
            "plain authenticator failed for (ylmf-pc) [198.51.100.7]:41556 I=[10.0.0.1]:25: 535 Incorrect authentication data",
            Kind::AuthFailed,
        ),
        (
            "plain authenticator failed for H=(u) [198.51.100.7]:21298 I=[22.33.44.55]:465 Ci=30416: 535 Incorrect authentication data (set_id=a)",
            Kind::AuthFailed,
        ),
        (
            "H=(yakult.com.tw) [198.51.100.7]:3755 I=[1.2.3.4]:25 F=<a@b> rejected RCPT <dir@ml3.ru>: relay not permitted",
            Kind::RejectedRcpt,
        ),
        (
            "H=m05.horp.tld [198.51.100.7]:43030 I=[10.0.0.2]:25 Ci=7326 CV=no SNI=mail.tld F=<u@e.tld> rejected RCPT <l@leone.tld>: relay not permitted",
            Kind::RejectedRcpt,
        ),
        ("H=(x) [198.51.100.7] X=TLS1.3:ECDHE:256 CV=no F=<> A=plain:u temporarily rejected RCPT <l@leone.tld>: later", Kind::RejectedRcpt),
        ("1qHd2z-0003Xb-1A H=(x) [198.51.100.7] F=<a@b> rejected after DATA: spam", Kind::RejectedByAcl),
        ("1qHd2z-00000003XbX-1A0s H=(x) [198.51.100.7] F=<a@b> rejected after DATA: spam (8.8.8.8) [9.9.9.9]", Kind::RejectedByAcl),
        ("H=[198.51.100.7] rejected connection in \"connect\" ACL: listed", Kind::RejectedByAcl),
        ("H=[198.51.100.7]:62839 temporarily rejected connection in \"connect\" ACL: 4.7.0 Strikeout: too many offences", Kind::OurRefusal),
        (
            "SMTP protocol error in \"AUTH LOGIN\" H=(ylmf-pc) [198.51.100.7]:60723 I=[172.89.0.6]:587 AUTH command used when not advertised",
            Kind::ProtocolError,
        ),
        ("SMTP syntax error in \"GET / HTTP/1.1\" H=[198.51.100.7] unrecognized command", Kind::SyntaxError),
        (
            "SMTP call from [198.51.100.7] dropped: too many syntax or protocol errors (last command was \"AUTH\",  C=EHLO,MAIL)",
            Kind::TooManyErrors,
        ),
        (
            "SMTP call from a.b (c) [198.51.100.7]:3767 I=[172.89.0.6]:25 dropped: too many nonmail commands (last was \"RSET\")",
            Kind::TooManyNonmail,
        ),
        (
            "SMTP call from H=(c) [198.51.100.7] dropped: too many unrecognized commands (last was \"\\033%-12345X\")",
            Kind::TooManyUnrecognized,
        ),
        ("rejected EHLO from [198.51.100.7]: syntactically invalid argument(s): [10.0.0.1", Kind::RejectedHelo),
        (
            "SMTP protocol synchronization error (input sent without waiting for greeting): rejected connection from H=[198.51.100.7]:2 I=[1.2.3.4]:25 input=\"GET / HTTP/1.1\\r\\n\\r\\n\"",
            Kind::Synchronization,
        ),
        (
            "SMTP protocol synchronization error (next input sent too soon: pipelining was not advertised): rejected \"RSET\" H=ba77.mx83.fr [198.51.100.7]:58302 I=[1.2.3.4]:25 next input=\"QUIT\\r\\n\"",
            Kind::Synchronization,
        ),
        ("no MAIL in SMTP connection from www.sakura.ne.jp [198.51.100.7]:28890 I=[172.89.0.6]:25 D=21s C=EHLO,STARTTLS", Kind::NoMail),
        (
            "TLS error on connection from (x) [198.51.100.7] (gnutls_handshake): The TLS connection was non-properly terminated.",
            Kind::TlsError,
        ),
        ("1qHd2z-0003Xb-1A <= a@b.c H=(x) [198.51.100.7] P=esmtp S=123", Kind::Accepted),
        (
            "1qHd2z-0003Xb-1A <= a@b.c H=h.example (x) [198.51.100.7] P=esmtpsa X=TLS1.3 CV=no A=plain:anna S=123",
            Kind::AcceptedAuthenticated,
        ),
    ] {
        assert!(line.contains(kind.literal()), "{line}");
        assert_eq!(blames(&format!("2026-11-23 01:02:03 {line}")), (kind, client), "{line}");
        assert_eq!(blames(&format!("2026-11-23 01:02:03.004 +0100 [7] {line}")), (kind, client), "{line}");
        assert_eq!(blames(&format!("2026-11-23 01:02:03 mx1.example exim[8003]: [8003] {line}")), (kind, client), "{line}");
    }
}

#[test]
fn a_connection_is_told_with_the_port_that_it_came_in_on() {
    let read = |line: &str| parse(format!("2026-11-23 01:02:03 [7] SMTP connection from {line}").as_bytes(), &mut Zone::utc());
    let line = read("[198.51.100.7]:59801 I=[127.0.0.1]:465 (TCP/IP connection count = 1)");
    assert_eq!((line.kind, line.client, line.local_port), (Kind::Connection, ip("198.51.100.7"), Some(465)));
    let line = read("[2001:db8::7] (TCP/IP connection count = 1)");
    assert_eq!((line.kind, line.client, line.local_port), (Kind::Connection, ip("2001:db8::7"), None));
    for line in [
        "[198.51.100.7] closed by QUIT",
        "(x) [198.51.100.7] (TCP/IP connection count = 1)",
        "(x [8.8.8.8] (TCP/IP connection count = 1)) [198.51.100.7] lost",
    ] {
        assert_eq!(read(line).kind, Kind::Other, "{line}");
    }
}

#[test]
fn lines_about_servers_that_we_connect_to_blame_nobody() {
    for line in [
        "1qHd2z-0003Xb-1A H=mx.example [198.51.100.7]: SMTP error from remote mail server after RCPT TO:<a@b>: 550 rejected RCPT <a@b>",
        "1qHd2z-0003Xb-1A H=mx.example [198.51.100.7] Connection timed out",
        "1qHd2z-0003Xb-1A H=mx.example [198.51.100.7] TLS error on connection (gnutls_handshake): rejected by peer",
        "plain authenticator failed H=mx.example [198.51.100.7] 535 no",
        "1qHd2z-0003Xb-1A => a@b R=dnslookup T=remote_smtp H=mx.example [198.51.100.7] C=\"250 ok\"",
        "login authenticator failed for (x) [198.51.100.7]: 435 Unable to authenticate at present: no server",
        "no host name found for IP address 198.51.100.7",
    ] {
        assert_eq!(blames(&format!("2026-11-23 01:02:03 {line}")), (Kind::Other, None), "{line}");
    }
}

#[test]
fn a_line_without_a_time_blames_nobody() {
    // The reject log copies a message's headers, which its sender wrote.
    for line in [
        "",
        "T Subject: x",
        "\tConnection from [198.51.100.7] refused: too many connections",
        "Connection from [198.51.100.7] refused: too many connections",
    ] {
        assert_eq!(parse(line.as_bytes(), &mut Zone::utc()), EximLine { time: None, client: None, kind: Kind::Other, local_port: None });
    }
}

#[test]
fn text_of_a_client_that_looks_like_exims_blames_nobody_rather_than_another() {
    for line in [
        // A HELO that ends itself and goes on as Exim would.
        "H=(x) [8.8.8.8] F=<a@b> rejected RCPT <(y) [198.51.100.7] F=<a@b> rejected RCPT <c@d>: no",
        // A quoted sender that does the same from the other side.
        "H=(x) [198.51.100.7] F=<\"y) [8.8.8.8] F=<\"@b> rejected RCPT <c@d>: no",
        "SMTP syntax error in \"x\" H=[8.8.8.8] unrecognized command\" H=[198.51.100.7] unrecognized command",
        "1qHd2z-0003Xb-1A <= \"a H=[8.8.8.8] P=esmtp\"@b H=(x) [198.51.100.7] P=esmtp S=1",
    ] {
        assert_eq!(blames(&format!("2026-11-23 01:02:03 {line}")), (Kind::Ambiguous, None), "{line}");
    }
    // Here only one of the two can be the address: behind the other one Exim never goes on like that.
    assert_eq!(
        blames(
            "2026-11-23 01:02:03 SMTP protocol error in \"aUtH lOgIn\" H=(test) [8.8.8.8]\" H=(x) [192.0.2.6] AUTH command used when not advertised"
        ),
        (Kind::ProtocolError, ip("192.0.2.6"))
    );
}

#[test]
fn a_line_that_exim_had_to_cut_blames_nobody() {
    let line = "2026-11-23 01:02:03 SMTP syntax error in \"x\" H=[8.8.8.8] unrecognized command**** log string overflowed log buffer ****";
    assert_eq!(blames(line).1, None);
}

#[test]
fn a_client_cannot_write_its_offence_off_as_our_refusal() {
    let line = "2026-11-23 01:02:03 H=(x rejected connection in \"connect\" ACL: strikeout) [198.51.100.7] F=<a@b> rejected RCPT <c@d>: no";
    assert_eq!(blames(line), (Kind::RejectedRcpt, ip("198.51.100.7")));
}

/// What Exim's `string_printing` makes of text: what does not print becomes an octal escape.
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

/// Text that a client may write: any bytes, and pieces of Exim's own lines with an innocent address.
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

/// A HELO that Exim takes without `helo_accept_junk_hosts`: a name or an address literal.
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

#[derive(Debug, Clone)]
struct Session {
    host: Option<String>,
    helo: Option<String>,
    client: IpAddr,
    port: Option<u16>,
    interface: Option<IpAddr>,
    pid: Option<u32>,
}

impl Session {
    /// As Exim's `host_and_ident` writes it.
    fn host_and_ident(&self) -> String {
        let host = self.host.as_ref().map_or(String::new(), |host| format!("{host} "));
        let helo = self.helo.as_ref().map_or(String::new(), |helo| format!("({helo}) "));
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let interface = self.interface.map_or(String::new(), |ip| format!(" I=[{ip}]:25"));
        format!("{host}{helo}[{}]{port}{interface}", self.client)
    }

    /// One line of each kind, with the client's `text` wherever a client's text comes.
    fn lines(&self, text: &str) -> Vec<String> {
        let h = self.host_and_ident();
        let pid = self.pid.map_or(String::new(), |pid| format!("[{pid}] "));
        let [sender, recipient] = [format!("\"{text}\"@example.org"), format!("\"{text}\"@example.net")];
        [
            format!("plain authenticator failed for {h}: 535 Incorrect authentication data (set_id={text})"),
            format!("plain authenticator failed for H={h}: 535 Incorrect authentication data (set_id={text})"),
            format!("H={h} F=<{sender}> rejected RCPT <{recipient}>: {text}"),
            format!("H={h} X=TLS1.3:ECDHE:256 CV=no F=<{sender}> A=plain:{text} temporarily rejected RCPT <{recipient}>: no"),
            format!("1qHd2z-0003Xb-1A H={h} F=<{sender}> rejected after DATA: {text}"),
            format!("SMTP protocol error in \"{text}\" H={h} AUTH command used when not advertised"),
            format!("SMTP protocol error in \"AUTH {text}\" H={h} {text} authentication mechanism not supported"),
            format!("SMTP syntax error in \"{text}\" H={h} unrecognized command"),
            format!("SMTP call from {h} dropped: too many syntax or protocol errors (last command was \"{text}\",  C=EHLO,MAIL)"),
            format!("SMTP call from {h} dropped: too many nonmail commands (last was \"{text}\")"),
            format!("SMTP call from {h} dropped: too many unrecognized commands (last was \"{text}\")"),
            format!("rejected EHLO from {h}: syntactically invalid argument(s): {text}"),
            format!("SMTP protocol synchronization error (input sent without waiting for greeting): rejected connection from H={h} input=\"{text}\""),
            format!(
                "SMTP protocol synchronization error (next input sent too soon: pipelining was advertised): rejected \"{text}\" H={h} next input=\"{text}\""
            ),
            format!("no MAIL in SMTP connection from {h} D=0s C=EHLO"),
            format!("TLS error on connection from {h} (gnutls_handshake): error"),
            format!("1qHd2z-0003Xb-1A <= {sender} H={h} P=esmtpa A=plain:{text} S=123 id={text} T=\"{text}\""),
        ]
        .into_iter()
        .map(|line| format!("2026-11-23 01:02:03 {pid}{line}"))
        .collect()
    }
}

fn session(helo: impl Strategy<Value = String>) -> impl Strategy<Value = Session> {
    let client = prop_oneof![
        (1_u8..=223, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d])),
        any::<u64>().prop_map(|low| IpAddr::from((0x2001_0db8_u128 << 96 | 7 << 64 | u128::from(low)).to_be_bytes())),
    ];
    // A name server's parentheses come escaped out of the resolver.
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
fn text_of_a_client_that_only_begins_like_a_connection_id_does_not_hide_its_address() {
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
    fn whatever_a_client_writes_nobody_else_is_blamed(session in session(prop_oneof![text(), plain_helo()]), text in text()) {
        for line in session.lines(&text) {
            let read = parse(line.as_bytes(), &mut Zone::utc());
            prop_assert!(read.client.is_none() || read.client == Some(session.client), "{}: {:?}", line, read);
        }
    }

    #[test]
    fn a_client_without_a_second_address_in_its_text_is_always_blamed(session in session(plain_helo()), text in text()) {
        for line in session.lines(&text.replace("8.8", "8,8").replace("::8", ";;8")) {
            let read = parse(line.as_bytes(), &mut Zone::utc());
            prop_assert_eq!(read.client, Some(session.client), "{}: {:?}", line, read.kind);
        }
    }

    #[test]
    fn a_client_without_a_helo_cannot_hide_behind_its_text(session in session(plain_helo()), text in text()) {
        let session = Session { helo: None, ..session };
        for line in session.lines(&text).into_iter().filter(|line| !line.contains(" in \"") && !line.contains("rejected \"") && !line.contains(" <= ")) {
            prop_assert_eq!(parse(line.as_bytes(), &mut Zone::utc()).client, Some(session.client), "{}", line);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in text()) {
        let _ = parse(&bytes, &mut Zone::utc());
        for start in ["", "H=", "SMTP call from ", "SMTP syntax error in \"", "<= ", "rejected ", "no MAIL in ", "x authenticator failed for ", "Connection from ["] {
            let mut line = format!("2026-11-23 01:02:03 {start}{text}").into_bytes();
            line.extend_from_slice(&bytes);
            let _ = parse(&line, &mut Zone::utc());
        }
    }
}
