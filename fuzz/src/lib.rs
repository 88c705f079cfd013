//! Shared by the fuzz targets: an engine with the built-in rules, a helper's backend around it, and functions that split and escape input.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use strikeout::internals::config::Config;
use strikeout::internals::engine::Engine;
use strikeout::internals::engine::reply::Reply;
use strikeout::internals::event::Service;
use strikeout::internals::policy::Policy;
use strikeout::internals::rule::Offence;
use strikeout::internals::rule_id::RuleNames;
use strikeout::internals::squid::Backend;
use strikeout::internals::table::{Bans, RequestTally};
use strikeout::internals::time::Time;
use strikeout::internals::verdict::Verdict;

/// The lines that the reader's property tests compose.
#[path = "../../src/log/exim_composed.rs"]
pub mod exim_composed;

/// The table time of every run, so that findings are reproducible.
pub const NOW: Time = Time::from_secs(1_800_000_000);

/// The address of the connection in targets that surround it with text of the client, which will not contain it by chance.
pub const SOCKET: &str = "203.0.113.77";

/// Rules that short inputs can offend, besides the built-in ones.
const RULES: &str = r#"
[defaults]
ignoreip = ["127.0.0.0/8", "::1", "10.0.0.0/8"]

[[rule]]
name = "fuzz-path"
path = "/x"
maxretry = 1

[[rule]]
name = "fuzz-query"
query = "(?i)q=1"
maxretry = 2

[[rule]]
name = "fuzz-rate"
event = "request"
maxretry = 3
"#;

/// The rules, compiled once for all runs: compiling takes longer than many runs.
static RULES_AND_NAMES: LazyLock<(Arc<RuleNames>, Policy)> = LazyLock::new(|| {
    let names = Arc::new(RuleNames::default());
    let config = Config::parse(RULES.as_bytes(), Path::new("fuzz.toml"), &names).expect("the rules above are valid");
    (names, config.into())
});

/// An engine with an empty table.
pub fn engine() -> Arc<Engine> {
    let (names, policy) = &*RULES_AND_NAMES;
    Arc::new(Engine::new(Arc::clone(names), policy.clone(), 1000, 1000).expect("a thread can be started"))
}

/// A backend with an embedded table, at [`NOW`].
pub struct Table(pub Arc<Engine>);

impl Backend for Table {
    fn now(&self) -> Time {
        NOW
    }

    fn policy(&self) -> Arc<Policy> {
        self.0.policy()
    }

    fn bans(&self) -> &Bans {
        self.0.bans()
    }

    fn names(&self) -> &RuleNames {
        self.0.names()
    }

    fn record_offence(&self, now: Time, offence: Offence, reply: Reply) {
        self.0.record_offence(now, &offence, Service::Web, reply);
    }

    fn when_persisted(&self, verdict: Verdict, reply: Reply) {
        self.0.when_persisted(verdict, reply);
    }

    fn count_requests(&self, now: Time, tallied: &mut Vec<RequestTally>) {
        self.0.count_requests(now, tallied);
    }

    fn close(&self) {}
}

/// The address in the first token of a query, parsed independently of the helper; `None` if there is none.
pub fn first_token_address(query: &[u8]) -> Option<IpAddr> {
    let token = query.split(|byte| *byte == b' ').find(|token| !token.is_empty())?;
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < token.len() {
        let hex = (token[at] == b'%').then(|| token.get(at + 1..at + 3)).flatten();
        let hex = hex.filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        match hex {
            Some(hex) => {
                decoded.push(u8::from_str_radix(std::str::from_utf8(hex).expect("two digits"), 16).expect("two digits"));
                at += 3;
            }
            None => {
                decoded.push(token[at]);
                at += 1;
            }
        }
    }
    std::str::from_utf8(&decoded).ok()?.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Escapes a value like `%#` in Squid's format codes.
pub fn squid_escaped(value: &[u8]) -> String {
    if value.is_empty() {
        return "-".to_owned();
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:.?=&-".contains(&byte);
    value.iter().map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Escapes text like Exim's `string_printing`: no byte of it ends the line.
pub fn exim_printing(text: &[u8]) -> Vec<u8> {
    let mut printed = Vec::new();
    for byte in text {
        match byte {
            b'\n' => printed.extend_from_slice(b"\\n"),
            b'\r' => printed.extend_from_slice(b"\\r"),
            b'\t' => printed.extend_from_slice(b"\\t"),
            b'\\' => printed.extend_from_slice(b"\\\\"),
            b' '..=b'~' | 0x80.. => printed.push(*byte),
            _ => printed.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
    }
    printed
}

/// Splits the input at NUL bytes into `N - 1` parts and the rest.
pub fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |byte| *byte == 0);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}
