//! What Squid sees of a text that a rule matches.
//!
//! `url_regex` sees the whole URL, decoded once (Squid's Acl::UrlCheck), `urlpath_regex` path and query, decoded once (Acl::UrlPathCheck), and
//! `dstdom_regex` the host as it is, which is what a rule sees where it holds no escape. A rule sees path and query as sent, decoded once, and for
//! the path in further forms, and the URL as sent. `browser` sees the User-Agent as sent; a rule sees the same, but the helper may get it cut
//! after 300 escaped bytes.

use super::hiding;

/// A part of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Path,
    Query,
    /// The whole URL.
    Url,
    Agent,
}

/// What is certain of a request whose field holds a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// Squid asks about it in any case.
    Always,
    /// Squid sees this text, which may be empty: in path and query if it is not of the User-Agent.
    Text(Vec<u8>),
    /// Squid sees one of these texts in its place.
    PathOrHost { path: Vec<u8>, host: Vec<u8> },
}

/// The schemes that Squid knows (anyp/ProtocolType.h), as far as a URL with one of them may come to a helper.
const SCHEMES: [&[u8]; 11] =
    [b"http:/", b"https:/", b"ftp:/", b"coap:/", b"coaps:/", b"gopher:/", b"wais:/", b"cache_object:/", b"icp:/", b"urn:/", b"whois:/"];

impl Field {
    /// What Squid is certain to see if the field holds `text`, which is in lower case.
    pub(super) fn seen(self, text: &[u8]) -> Seen {
        match self {
            Self::Agent => Seen::Text(in_agent(text).to_vec()),
            // The scheme is not searched, and of the authority what follows the second slash may match by chance: see `expressions::IN_URL`.
            Self::Url if SCHEMES.iter().any(|scheme| scheme.windows(text.len().max(1)).any(|part| part == text)) => Seen::Text(Vec::new()),
            Self::Url => match text.windows(2).position(|pair| pair == b"//") {
                Some(at) => in_whole_url(text.get(at + 2..).unwrap_or_default()),
                None => in_whole_url(text),
            },
            Self::Path | Self::Query => in_url(text),
        }
    }
}

/// What a URL that Squid has decoded holds, if the URL as sent, or decoded once as we do it, holds `text`.
///
/// If there is no `%` in what Squid sees, then each `%` as sent began an escape of two digits, and ours and Squid's decoding agree. Decoded, the URL
/// holds `text`. As sent, `text` may begin within an escape, whose digits are gone then, and its own escapes are decoded.
fn in_url(text: &[u8]) -> Seen {
    let is_hex = |at: usize| text.get(at).is_some_and(u8::is_ascii_hexdigit);
    let cut = if !is_hex(0) { 0 } else { 1 + usize::from(is_hex(1)) };
    let mut rest = text.get(cut..).unwrap_or_default();
    let mut seen = Vec::with_capacity(rest.len());
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            seen.push(*byte);
            continue;
        }
        // The text may end within an escape.
        let Some((digits, after)) = after.split_at_checked(2) else { break };
        let decoded = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_hexdigit));
        match decoded.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            None | Some(0 | b'%') => return Seen::Always,
            Some(byte) => seen.push(byte.to_ascii_lowercase()),
        }
        rest = after;
    }
    if hiding::asks(&seen) { Seen::Always } else { Seen::Text(seen) }
}

/// Minimum length of a text that says something by itself.
const SELECTIVE: usize = 4;

/// What Squid sees in path or host if the URL holds `text`, which may begin anywhere behind the scheme.
///
/// A slash or question mark behind other text begins the path, or is in it. A slash that begins the text may also be the last one before the
/// authority. A port and the name of an FTP user are in neither; a text of digits alone may be a port.
fn in_whole_url(text: &[u8]) -> Seen {
    let text = match in_url(text) {
        Seen::Text(text) => text,
        other => return other,
    };
    let ends_authority = |byte: &u8| matches!(byte, b'/' | b'?');
    let path_from = |start: usize| {
        let at = text.iter().skip(start).position(ends_authority)?;
        text.get(start + at..)
    };
    let host = |authority: &[u8]| {
        let authority = authority.split(ends_authority).next().unwrap_or_default();
        let parts = authority.split(|byte| !(byte.is_ascii_alphanumeric() || b".-_".contains(byte)));
        parts.filter(|part| !part.iter().all(u8::is_ascii_digit)).max_by_key(|part| part.len()).map(<[u8]>::to_vec)
    };
    match text.split_first() {
        Some((b'/', authority)) => match host(authority) {
            Some(host) => Seen::PathOrHost { path: text, host },
            None => Seen::Text(path_from(1).unwrap_or_default().to_vec()),
        },
        _ => match (path_from(0), host(&text)) {
            // Otherwise the rest is in the path, wherever the slash is.
            (Some(path), Some(host)) if path.len() < SELECTIVE => Seen::PathOrHost { host, path: text },
            (Some(path), _) => Seen::Text(path.to_vec()),
            (None, Some(host)) => Seen::PathOrHost { path: text, host },
            (None, None) => Seen::Text(Vec::new()),
        },
    }
}

/// What a User-Agent holds if the helper's, which may be cut within an escape, holds `text`: the rest of that escape is not in it.
fn in_agent(text: &[u8]) -> &[u8] {
    let text = text.split(|byte| *byte == b'%').next().unwrap_or_default();
    if matches!(text, [digit] if digit.is_ascii_hexdigit()) { b"" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Seen {
        Field::Path.seen(text.as_bytes())
    }

    fn text(text: &str) -> Seen {
        Seen::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn digits_that_may_belong_to_an_escape_are_not_seen() {
        assert_eq!(seen("/etc/passwd"), text("/etc/passwd"));
        assert_eq!(seen("etc/passwd"), text("tc/passwd"));
        assert_eq!(seen("dana-na"), text("na-na"));
        assert_eq!(seen("c99"), text("9"));
    }

    #[test]
    fn escapes_are_seen_decoded_and_those_that_stay_in_the_url_always_ask() {
        assert_eq!(seen("/x%2d%41"), text("/x-a"));
        assert_eq!(seen("/x%2"), text("/x"));
        for always in ["/%25", "/%2525", "/%%41", "/%zz", "/%00", "/x%3b", "/%5c", "/a%2f%2f", "/..%2f", "a;b", "//"] {
            assert_eq!(seen(always), Seen::Always, "{always}");
        }
    }

    #[test]
    fn neither_a_scheme_nor_what_is_before_the_authority_identifies_a_url() {
        assert_eq!(Field::Url.seen(b"http:/"), text(""));
        assert_eq!(Field::Url.seen(b"http://azenv.net"), path_or_host("zenv.net", "zenv.net"));
        assert_eq!(Field::Url.seen(b"judge.net"), path_or_host("judge.net", "judge.net"));
    }

    fn path_or_host(path: &str, host: &str) -> Seen {
        Seen::PathOrHost { path: path.into(), host: host.into() }
    }

    #[test]
    fn a_text_of_a_whole_url_is_seen_in_the_path_or_in_the_host() {
        assert_eq!(Field::Url.seen(b"/judge/x"), path_or_host("/judge/x", "judge"));
        assert_eq!(Field::Url.seen(b"judge.net/"), path_or_host("judge.net/", "judge.net"));
        assert_eq!(Field::Url.seen(b"judge.net/page"), text("/page"));
        assert_eq!(Field::Url.seen(b"judge.net:80"), path_or_host("judge.net:80", "judge.net"));
        assert_eq!(Field::Url.seen(b"//judge.net/x"), path_or_host("judge.net/x", "judge.net"));
        assert_eq!(Field::Url.seen(b"x?judge"), text("?judge"));
        for port in [":8080", "8080", "/8080"] {
            assert_eq!(Field::Url.seen(port.as_bytes()), text(""), "{port}");
        }
        assert_eq!(Field::Url.seen(b":8080/x"), text("/x"));
    }

    #[test]
    fn an_agent_that_is_cut_within_an_escape_holds_nothing_behind_the_percent_sign() {
        assert_eq!(Field::Agent.seen(b"x%2f"), text("x"));
        assert_eq!(Field::Agent.seen(b"2"), text(""));
        assert_eq!(Field::Agent.seen(b"{"), text("{"));
    }
}
