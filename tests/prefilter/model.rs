//! What Squid does with the expressions of a prefilter: `url_regex` sees the URL decoded once, `urlpath_regex` its path, `dstdom_regex` the host,
//! and `browser` the User-Agent as sent.

use regex::bytes::Regex;
use strikeout::internals::event::Request;
use strikeout::internals::prefilter::{ORDINARY_METHODS, Prefilter};

/// The expressions, compiled by another engine than Squid's.
pub struct Model {
    path: Vec<Regex>,
    long_path: Vec<Regex>,
    host: Vec<Regex>,
    agent: Vec<Regex>,
    long_agent: Vec<Regex>,
}

impl Model {
    pub fn new(prefilter: &Prefilter) -> Self {
        // A character from 0x80 on is a byte.
        let escaped = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\x{:02x}", u32::from(c)) };
        let compile = |text: &String| {
            let text: String = text.chars().map(escaped).collect();
            Regex::new(&format!("(?is-u){text}")).unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        let all = |texts: &[String]| texts.iter().map(compile).collect();
        Self {
            path: all(&prefilter.path),
            long_path: all(&prefilter.long_path),
            host: all(&prefilter.host),
            agent: all(&prefilter.agent),
            long_agent: all(&prefilter.long_agent),
        }
    }

    /// Whether Squid asks about the request, with `urlpath_regex` and `dstdom_regex` as well as with `url_regex` alone. Its URL must be absolute, as
    /// Squid's are.
    pub fn asks(&self, request: &Request<'_>) -> bool {
        let matches = |regexes: &[Regex], text: &[u8]| regexes.iter().any(|regex| regex.is_match(text));
        let (host, path) = host_and_path(request.url);
        !ORDINARY_METHODS.iter().any(|method| method.as_bytes() == request.method)
            || !has_ordinary_scheme(request.url)
            || (matches(&self.agent, &request.user_agent.text()) && matches(&self.long_agent, &request.user_agent.text()))
            || (matches(&self.path, &unescaped(request.url))
                && (matches(&self.host, host) || (matches(&self.path, &unescaped(path)) && matches(&self.long_path, &unescaped(path)))))
    }
}

/// Whether Squid's acl for the schemes http and https holds: a URL without a scheme is that of a reverse proxy's client.
fn has_ordinary_scheme(url: &[u8]) -> bool {
    let has = |scheme: &[u8]| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    url.first().is_none_or(|byte| *byte == b'/') || has(b"http://") || has(b"https://")
}

/// The host without its port, and what follows the authority.
fn host_and_path(url: &[u8]) -> (&[u8], &[u8]) {
    let at = url.windows(3).position(|text| text == b"://").map_or(0, |at| at + 3);
    let rest = &url[at..];
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let is_port = |port: &[u8]| port.iter().all(u8::is_ascii_digit);
    let host = authority
        .iter()
        .rposition(|byte| *byte == b':')
        .filter(|at| is_port(&authority[at + 1..]))
        .map_or(authority, |at| &authority[..at]);
    (host, path)
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
