//! What Squid does with the expressions of a prefilter: `url_regex` sees the URL decoded once, `browser` the User-Agent as sent.

use regex::bytes::Regex;
use strikeout::internals::event::Request;
use strikeout::internals::prefilter::{ORDINARY_METHODS, Prefilter};

/// The expressions, compiled by another engine than Squid's.
pub struct Model {
    path: Vec<Regex>,
    agent: Vec<Regex>,
}

impl Model {
    pub fn new(prefilter: &Prefilter) -> Self {
        // A character from 0x80 on is a byte.
        let escaped = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\x{:02x}", u32::from(c)) };
        let compile = |text: &String| {
            let text: String = text.chars().map(escaped).collect();
            Regex::new(&format!("(?is-u){text}")).unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        Self { path: prefilter.path.iter().map(compile).collect(), agent: prefilter.agent.iter().map(compile).collect() }
    }

    /// Whether Squid asks about the request. Its URL must be absolute, as Squid's are.
    pub fn asks(&self, request: &Request<'_>) -> bool {
        let url = unescaped(request.url);
        !ORDINARY_METHODS.iter().any(|method| method.as_bytes() == request.method)
            || self.path.iter().any(|regex| regex.is_match(&url))
            || self.agent.iter().any(|regex| regex.is_match(&request.user_agent.text()))
    }
}

/// Squid's `rfc1738_unescape`: `%%` is `%`, and `%00` and broken escapes stay.
fn unescaped(url: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), url);
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let escape = digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok()).filter(|byte| *byte > 0);
        let (byte, length) = match (first, after.first(), escape) {
            (b'%', Some(b'%'), _) => (b'%', 2),
            (b'%', _, Some(byte)) => (byte, 3),
            _ => (*first, 1),
        };
        out.push(byte);
        rest = &rest[length..];
    }
    out
}
