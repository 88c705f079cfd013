//! Lines of Exim's log: composed around a client's text as Exim composes them, each blames the client's own address or nobody, and always
//! that address if the text contains no other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;
use strikeout::internals::log::exim::parse;
use strikeout::internals::log::time::Zone;
use strikeout_fuzz::exim_composed::Session;
use strikeout_fuzz::{SOCKET, exim_printing, parts};

/// Names that a client's resolver may give to its address. Exim's own resolver escapes parentheses.
const HOSTS: [&str; 4] = ["mail.example.org", "x[198.51.100.8].example.org", "[198.51.100.8]:5.example.org", "\\(.example"];

fuzz_target!(|data: &[u8]| {
    let mut zone = Zone::utc();
    let _ = parse(data, &mut zone);

    let (choices, data) = data.split_at_checked(2).unwrap_or_default();
    let is_chosen = |bit: u8| choices.first().is_some_and(|byte| byte >> bit & 1 == 1);
    let [helo, text] = parts::<2>(data).map(exim_printing);
    // Without `helo_accept_junk_hosts`, a HELO contains neither white space nor parentheses.
    let is_junk = is_chosen(0);
    let helo =
        helo.into_iter().filter(|byte| is_junk || !byte.is_ascii_whitespace() && !b"()".contains(byte)).take(200).collect::<Vec<u8>>();
    let (helo, text) = (String::from_utf8_lossy(&helo), String::from_utf8_lossy(&text));
    let client: IpAddr = if is_chosen(1) { "2001:db8::77".parse() } else { SOCKET.parse() }.expect("an address");
    let host = HOSTS.get(usize::from(choices.get(1).copied().unwrap_or_default()));
    let session = Session {
        host: host.map(|host| (*host).to_owned()),
        helo: is_chosen(2).then(|| helo.clone().into_owned()),
        client,
        port: is_chosen(3).then_some(40_000),
        interface: is_chosen(4).then(|| "192.0.2.99".parse().expect("an address")),
        pid: is_chosen(5).then_some(4711),
    };
    let h = session.host_and_ident();
    let others = [
        format!("H={h} rejected EHLO or HELO {text}: syntactically invalid argument(s)"),
        format!("Connection from [{client}]:40000 refused: too many connections from that IP address"),
        format!("no host name found for IP address {client} {text}"),
    ];
    let others = others.map(|line| format!("2026-11-23 01:02:03 {line}"));
    for line in session.lines(&text).into_iter().chain(session.ordinary_lines(&text)).chain(others) {
        let read = parse(line.as_bytes(), &mut zone);
        assert!(read.client.is_none_or(|blamed| blamed == client), "{line:?} blames {:?}", read.client);
    }
    // The text ends with "overflowed log buffer" where Exim had to cut the line, which then blames nobody.
    let is_plain = |text: &str| !text.contains(['[', '*']);
    if !is_junk && is_plain(&text) && is_plain(&helo) {
        for line in session.lines(&text) {
            let read = parse(line.as_bytes(), &mut zone);
            assert_eq!(read.client, Some(client), "{line:?} is read as {:?}", read.kind);
        }
    }
});
