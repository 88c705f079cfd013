//! Lines of Exim's log: whatever a client says, it is the address in Exim's own brackets that is blamed, or nobody.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;
use strikeout::log::exim::parse;
use strikeout::log::time::Zone;
use strikeout_fuzz::{SOCKET, exim_printing, parts};

fuzz_target!(|data: &[u8]| {
    let mut zone = Zone::utc();
    let _ = parse(data, &mut zone);

    let [helo, text] = parts::<2>(data).map(exim_printing);
    // A HELO ends at the first white space unless junk is accepted, and holds no parenthesis of its own then.
    let helo: Vec<u8> = helo.into_iter().filter(|byte| !byte.is_ascii_whitespace() && !b"()".contains(byte)).take(200).collect();
    let (helo, text) = (String::from_utf8_lossy(&helo), String::from_utf8_lossy(&text));
    let socket: IpAddr = SOCKET.parse().expect("an address");
    for line in [
        format!("H=({helo}) [{SOCKET}]:40000 F=<a@example.org> rejected RCPT <{text}>: relay not permitted"),
        format!("H=({helo}) [{SOCKET}] rejected EHLO or HELO {text}: syntactically invalid argument(s)"),
        format!("login authenticator failed for ({helo}) [{SOCKET}]: 535 Incorrect authentication data (set_id={text})"),
        format!("SMTP call from ({helo}) [{SOCKET}] dropped: too many unrecognized commands (last was \"{text}\")"),
        format!(
            "SMTP protocol synchronization error (input sent without waiting for greeting): rejected connection from H=[{SOCKET}] input=\"{text}\""
        ),
        format!("Connection from [{SOCKET}]:40000 refused: too many connections from that IP address"),
        format!("no host name found for IP address {SOCKET} {text}"),
        format!("rejected HELO from [{SOCKET}]: syntactically invalid argument(s): {text}"),
    ] {
        let read = parse(format!("2026-11-23 01:02:03 {line}").as_bytes(), &mut zone);
        assert!(read.client.is_none_or(|client| client == socket), "{line:?} blames {:?}", read.client);
    }
});
