//! A line for a filter whose expressions are anchored at both ends: only the address that the server wrote is ever blamed.
#![no_main]

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use strikeout::internals::fail2ban::{Filter, Host, Matcher};
use strikeout_fuzz::SOCKET;

static FILTER: LazyLock<Arc<Filter>> = LazyLock::new(|| {
    let expressions =
        [r"^ ?\S+ sshd\[\d+\]: Failed password for (?:invalid user )?.* from <HOST> port \d+ ssh2$", r"^ ?<HOST> \S+ denied: .*$"];
    Arc::new(Filter::of(&expressions.map(str::to_owned), &[]).expect("valid expressions"))
});

// Compiling the filter must not count as the time of the first input.
fuzz_target!(init: { LazyLock::force(&FILTER); }, |data: &[u8]| {
    let mut matcher = Matcher::new(Arc::clone(&FILTER), TimeZone::UTC);
    let _ = matcher.line(data, 1_800_000_000.0);
    let text: String = String::from_utf8_lossy(data).chars().filter(|c| !c.is_control()).collect();
    let socket: IpAddr = SOCKET.parse().expect("an address");
    for line in [
        format!("2026-11-23 01:02:03 mx sshd[1]: Failed password for invalid user {text} from {SOCKET} port 40000 ssh2"),
        format!("2026-11-23 01:02:03 {SOCKET} user denied: {text}"),
    ] {
        if let Some(found) = matcher.line(line.as_bytes(), 1_800_000_000.0) {
            assert_eq!(found.host, Host::Address(socket), "{line:?}");
        }
    }
});
