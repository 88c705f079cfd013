//! What the fuzz targets share: an engine with the built-in rules, a helper's backend around it, and ways to take fuzzed bytes apart.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use strikeout::client::Ipv6Prefix;
use strikeout::config::{Config, OnFailure};
use strikeout::engine::{Engine, InForce};
use strikeout::event::Surface;
use strikeout::list::Lists;
use strikeout::reply::Reply;
use strikeout::rule::{Names, Offence, RuleSet};
use strikeout::squid::Backend;
use strikeout::table::{Bans, Tallied};
use strikeout::time::Time;
use strikeout::verdict::Verdict;

/// The table time of every run: what is found must not depend on when it was found.
pub const NOW: Time = Time::from_secs(1_800_000_000);

/// The socket's address in targets that put a client's text around it: no text that a fuzzer makes up holds it by chance.
pub const SOCKET: &str = "203.0.113.77";

/// Rules that short inputs can reach, beside the built-in ones.
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

struct Rules {
    names: Arc<Names>,
    set: Arc<RuleSet>,
    lists: Lists,
    prefix: Ipv6Prefix,
    on_failure: OnFailure,
    false_ban_share: f64,
}

/// Compiled once: that takes longer than many runs.
static RULE_SET: LazyLock<Rules> = LazyLock::new(|| {
    let names = Arc::new(Names::default());
    let in_force = InForce::from(Config::parse(RULES.as_bytes(), Path::new("fuzz.toml"), &names).expect("the rules above are sound"));
    let InForce { rules: set, lists, prefix, on_failure, false_ban_share } = in_force;
    Rules { names, set, lists, prefix, on_failure, false_ban_share }
});

/// An engine with an empty table.
pub fn engine() -> Arc<Engine> {
    let rules = &*RULE_SET;
    let in_force = InForce {
        rules: Arc::clone(&rules.set),
        lists: rules.lists.clone(),
        prefix: rules.prefix,
        on_failure: rules.on_failure,
        false_ban_share: rules.false_ban_share,
    };
    Arc::new(Engine::new(Arc::clone(&rules.names), in_force, 1000, 1000).expect("a thread can be started"))
}

/// The helper's own table, at [`NOW`].
pub struct Table(pub Arc<Engine>);

impl Backend for Table {
    fn now(&self) -> Time {
        NOW
    }

    fn in_force(&self) -> Arc<InForce> {
        self.0.in_force()
    }

    fn bans(&self) -> &Bans {
        self.0.bans()
    }

    fn names(&self) -> &Names {
        self.0.names()
    }

    fn offend(&self, now: Time, offence: Offence, reply: Reply) {
        self.0.offend(now, &offence, Surface::Web, reply);
    }

    fn when_kept(&self, verdict: Verdict, reply: Reply) {
        self.0.when_kept(verdict, reply);
    }

    fn tally(&self, now: Time, tallied: &mut Vec<Tallied>) {
        self.0.tally(now, tallied);
    }

    fn close(&self) {}
}

/// The address that the first token of a query names, read by other means than the helper's: `None` if it names none.
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

/// What Squid's `%#` makes of a value.
pub fn squid_escaped(value: &[u8]) -> String {
    if value.is_empty() {
        return "-".to_owned();
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:.?=&-".contains(&byte);
    value.iter().map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What Exim's `string_printing` makes of a client's text: no byte of it ends the line.
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

/// Parts of the input, divided by NUL bytes: the first `N - 1`, and the rest.
pub fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |byte| *byte == 0);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}
