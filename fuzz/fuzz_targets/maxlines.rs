//! Lines for filters that join several: whoever is blamed, its address is in one of the last lines, whole and as it is there.
#![no_main]

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use strikeout::internals::fail2ban::{Filter, Host, Matcher};

/// Expressions that join lines in each way there is: lines skipped, tied together, a prefix, a line feed at the start, an address in the
/// first line, no anchor.
const DEFINITIONS: [&str; 7] = [
    r"failregex = ^user \S+ failed<SKIPLINES>^client <HOST> left$",
    r"failregex = ^(?P<id>\d+) failed<SKIPLINES>^(?P=id) from <ADDR>(?: port \d+)?$",
    "prefregex = ^\\S+\\[\\d+\\]: <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^failed .*\\n^left <ADDR>$",
    r"failregex = \nfailed .*<ADDR>",
    r"failregex = ^client <ADDR> came\n(?:.*\n)*?^failed$",
    "failregex = failed[\\s\\S]*<HOST>\n  ^one <HOST>$\nignoreregex = good",
    r"failregex = (?s)^failed.{0,40}<SUBNET>(?!x)",
];

static FILTERS: LazyLock<Vec<Arc<Filter>>> = LazyLock::new(|| {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let load = |definition: &str, max_lines: usize| {
        let file = folder.path().join("fuzz.conf");
        std::fs::write(&file, format!("[Definition]\n{definition}\nmaxlines = {max_lines}\n")).expect("written");
        Arc::new(Filter::load(&file, &[]).expect("a valid filter"))
    };
    DEFINITIONS.iter().flat_map(|definition| MAX_LINES.map(|max_lines| load(definition, max_lines))).collect()
});

const MAX_LINES: [usize; 3] = [2, 3, 7];

/// The longest text of an address.
const MAX_LENGTH: usize = 45;

/// Whether a text has this address or network, in any notation, and no number of it goes on before or behind it.
fn holds(text: &str, blamed: &Host) -> bool {
    let bytes = text.as_bytes();
    let is_char = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    let starts = (0..bytes.len()).filter(|start| is_char(bytes[*start]));
    starts.into_iter().any(|start| {
        let length = bytes[start..].iter().take(MAX_LENGTH).take_while(|byte| is_char(**byte)).count();
        (start + 2..=start + length).any(|end| {
            let Some(address) = text.get(start..end).and_then(|part| part.parse::<IpAddr>().ok()) else { return false };
            let goes_on = |byte: &u8| if address.is_ipv4() { byte.is_ascii_digit() } else { byte.is_ascii_hexdigit() };
            let is_whole = !bytes[..start].last().is_some_and(goes_on) && !bytes.get(end).is_some_and(goes_on);
            is_whole
                && match blamed {
                    Host::Address(blamed) => address.to_canonical() == *blamed,
                    Host::Network(network) => network.contains(&address),
                    Host::Text(_) => false,
                }
        })
    })
}

// Compiling the filters must not count as the time of the first input.
fuzz_target!(init: { LazyLock::force(&FILTERS); }, |data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let choice = usize::from(*choice) % FILTERS.len();
    let (filter, max_lines) = (&FILTERS[choice], MAX_LINES[choice % MAX_LINES.len()]);
    let mut matcher = Matcher::new(Arc::clone(filter), TimeZone::UTC);
    let mut last: Vec<String> = Vec::new();
    for line in data.split(|byte| *byte == b'\n') {
        last.push(String::from_utf8_lossy(line).into_owned());
        if last.len() > max_lines {
            last.remove(0);
        }
        if let Some(found) = matcher.line(line, 1_800_000_000.0) {
            let is_there = match &found.host {
                // A host name or a number that is no address is never refused.
                Host::Text(text) => last.iter().any(|line| line.contains(text.split('/').next().unwrap_or_default())),
                blamed => last.iter().any(|line| holds(line, blamed)),
            };
            assert!(is_there, "{:?} is blamed for {last:?}", found.host);
        }
    }
});
