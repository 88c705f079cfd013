//! Access logs of Squid, Apache and nginx: whatever a client says, the line's own client field is blamed, or nobody.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;
use strikeout::log::access::{parse, unescape};
use strikeout_fuzz::{SOCKET, parts, squid_escaped};

/// How Apache writes what a client sent.
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
    ] {
        if let Some(read) = parse(line.as_bytes()) {
            assert!(read.client.is_none_or(|client| client == socket), "{line:?} blames {:?}", read.client);
        }
    }
});
