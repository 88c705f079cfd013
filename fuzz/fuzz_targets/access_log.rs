//! Access logs of Squid, Apache and nginx: whatever a client sends, a line blames the address in its client field or nobody.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;
use strikeout::internals::log::access::{AccessLine, parse as parse_in_zone, unescape};
use strikeout::internals::log::time::Zone;
use strikeout_fuzz::{SOCKET, parts, squid_escaped};

/// Escapes a client's text as Apache does.
fn apache(text: &[u8]) -> String {
    text.iter()
        .map(|byte| match byte {
            b'"' => "\\\"".to_owned(),
            b'\\' => "\\\\".to_owned(),
            b' '..=b'~' => char::from(*byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        })
        .collect()
}

fn parse(line: &[u8]) -> Option<AccessLine<'_>> {
    parse_in_zone(line, &mut Zone::utc())
}

fuzz_target!(|data: &[u8]| {
    let _ = parse(data);
    let _ = unescape(data);

    let socket: IpAddr = SOCKET.parse().expect("an address");
    let [user, url, agent] = parts::<3>(data);
    let (user, line_url, agent) = (apache(user), apache(url), apache(agent));
    for line in [
        format!("{SOCKET} - {user} [23/Nov/2026:01:02:03 +0000] \"GET {line_url} HTTP/1.1\" 404 7 \"{agent}\" \"{agent}\""),
        format!("{SOCKET} - - [23/Nov/2026:01:02:03 +0000] \"{line_url}\" 400 7 \"-\" \"{agent}\""),
        format!(
            "1386543323.000      4 {SOCKET} TCP_MISS/404 4099 GET {} {} HIER_NONE/- text/html",
            squid_escaped(url),
            squid_escaped(user.as_bytes())
        ),
        format!("1386543323.000      4 {SOCKET} TCP_MISS/404 4099 GET {line_url} {user} HIER_NONE/- text/html"),
        format!("1386543323.000 {SOCKET} 404 TCP_MISS GET {} yes {} - none", squid_escaped(url), squid_escaped(user.as_bytes())),
        format!("www.example.org:80 {SOCKET} - {user} [23/Nov/2026:01:02:03 +0000] \"{line_url}\" 404 7 \"-\" \"{agent}\""),
        format!("{SOCKET}:51812 - {user} [23/Nov/2026:01:02:03 +0000] \"{line_url}\" 404 7 \"-\" \"{agent}\""),
        format!("23-Nov-2026 01:02:03 {SOCKET} 4 TCP_MISS/404 4099 GET {line_url} {user} HIER_NONE/- text/html"),
        // As with a `logformat` that does not escape.
        format!("1386543323.000 {SOCKET} 404 TCP_MISS GET {line_url} yes {agent} {agent} none"),
    ] {
        if let Some(read) = parse(line.as_bytes()) {
            assert!(read.client.is_none_or(|client| client == socket), "{line:?} blames {:?}", read.client);
        }
    }
});
