//! Lines of an access log, pure: Squid's own format, and the common and combined formats as Squid, Apache and nginx write them.
//!
//! Whom a line is about stands before everything that a client can write, and is read from there alone.

use super::time;
use crate::client::parse_address_bytes;
use crate::time::Time;
use crate::token;
use memchr::{memchr, memchr2, memrchr};
use std::borrow::Cow;
use std::net::IpAddr;

/// One request, as an access log tells it. Texts are as they stand in the line; see [`unescape`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessLine<'a> {
    /// When the line says that it was: Squid and nginx write it at the end of a request, Apache gives its beginning.
    pub time: Time,
    /// The client, where the field is an address: a server that looks names up writes a host name, which blames nobody.
    pub client: Option<IpAddr>,
    /// The method; empty where the request could not be read.
    pub method: &'a [u8],
    /// The URL or path, with its query.
    pub url: &'a [u8],
    /// The status that was answered; none where nothing was (Squid's `000`).
    pub status: Option<u16>,
    /// The user's name, which need not be proven: see [`AccessLine::is_authenticated`].
    pub user: Option<&'a [u8]>,
    /// The User-Agent, in the combined format.
    pub user_agent: Option<&'a [u8]>,
    /// Squid's result code (`TCP_DENIED`), where Squid wrote the line.
    pub result: Option<&'a [u8]>,
}

impl AccessLine<'_> {
    /// Whether this is a refusal of our own coming back: it never counts, or a ban would extend itself.
    #[must_use]
    pub fn is_our_refusal(&self) -> bool {
        self.status == Some(429) && self.result.is_some_and(|code| code.starts_with(b"TCP_DENIED"))
    }

    /// Whether the answer was an ordinary one: 2xx or 3xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status.is_some_and(|status| (200..400).contains(&status))
    }

    /// Whether the line names a user whom the server did not turn away: servers also log the name of somebody with a wrong password.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.user.is_some() && self.is_success()
    }
}

/// Reads a line of either format; none if it is neither. The line comes without its newline.
#[must_use]
pub fn parse(line: &[u8]) -> Option<AccessLine<'_>> {
    match time::epoch(line) {
        Some((time, rest)) => native(time, rest),
        None => common(line),
    }
}

/// A field that says nothing is `-`.
fn present(field: &[u8]) -> Option<&[u8]> {
    (!field.is_empty() && field != b"-").then_some(field)
}

/// The first word and what comes behind the white space after it.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = text.iter().position(|byte| *byte != b' ')?;
    let text = text.get(start..)?;
    let (word, rest) = text.split_at_checked(token::length(text))?;
    Some((word, rest.get(1..).unwrap_or_default()))
}

/// The last word and what comes before the space in front of it.
fn last_word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = memrchr(b' ', text)?;
    Some((text.get(..space)?, text.get(space + 1..)?))
}

/// `404`; Squid writes `000` where nothing was answered.
fn status(text: &[u8]) -> Option<u16> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = *text else { return None };
    Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
}

/// `1386543323.000      4 192.0.2.1 TCP_DENIED/403 4099 GET http://site/ user HIER_NONE/- text/html`, behind the time.
///
/// What follows the URL is read from the end, so that blanks in a URL (`uri_whitespace allow`) decide nothing.
fn native(time: Time, rest: &[u8]) -> Option<AccessLine<'_>> {
    let (_elapsed, rest) = word(rest)?;
    let (client, rest) = word(rest)?;
    let (code, rest) = word(rest)?;
    let (result, code) = match code.split_last_chunk() {
        // Nearly always, and found without a search.
        Some((result, code @ [b'/', _, _, _])) => (result, code.as_slice()),
        _ => code.split_at_checked(memchr(b'/', code)?)?,
    };
    let (_bytes, rest) = word(rest)?;
    let (method, rest) = word(rest)?;
    let (rest, _mime) = last_word(rest)?;
    let (rest, _peer) = last_word(rest)?;
    let (url, user) = last_word(rest)?;
    Some(AccessLine {
        time,
        client: parse_address_bytes(client).ok(),
        method: present(method).unwrap_or_default(),
        url,
        status: status(code.get(1..)?),
        user: present(user),
        user_agent: None,
        result: Some(result),
    })
}

/// The length of a quoted text up to its closing quote; a backslash takes the next byte with it.
fn quoted_length(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let found = at + memchr2(b'"', b'\\', text.get(at..)?)?;
        match text.get(found)? {
            b'"' => return Some(found),
            _ => at = found + 2,
        }
    }
}

/// `192.0.2.1 - user [23/Nov/2026:01:02:03 +0000] "GET / HTTP/1.1" 200 12 "referer" "agent"`, the last two only if combined,
/// then `TCP_MISS:HIER_DIRECT` if Squid wrote it.
fn common(line: &[u8]) -> Option<AccessLine<'_>> {
    // A user's name may hold blanks and brackets (nginx) but no bare quote: the first one opens the request.
    let open = quoted_length(line)?;
    let before = line.get(..open)?.strip_suffix(b" ")?;
    let (before, stamp) = before.split_last_chunk::<{ time::COMMON_LENGTH }>()?;
    let time = time::common(stamp)?;
    let (client, rest) = word(before.strip_suffix(b" ")?)?;
    let (_ident, user) = word(rest)?;
    let rest = line.get(open + 1..)?;
    let close = quoted_length(rest)?;
    let (request, rest) = rest.split_at_checked(close)?;
    let rest = rest.strip_prefix(b"\" ")?;
    let (method, url) = request_line(request);
    let (code, rest) = word(rest)?;
    let user_agent = word(rest).and_then(|(_bytes, rest)| user_agent(rest));
    // Taken from the end: Squid writes a quote in a User-Agent as it is.
    let result = last_word(rest).map(|(_, last)| last).filter(|last| last.first().is_some_and(u8::is_ascii_uppercase));
    let result = result.and_then(|last| last.get(..memchr(b':', last)?));
    Some(AccessLine {
        time,
        client: parse_address_bytes(client).ok(),
        method,
        url,
        status: status(code),
        user: present(user),
        user_agent,
        result,
    })
}

/// The method and the URL of `GET /path HTTP/1.1`. What does not look like a request is all URL: rules shall see it.
fn request_line(request: &[u8]) -> (&[u8], &[u8]) {
    let Some((method, rest)) =
        word(request).filter(|(method, _)| method.iter().all(|b| b.is_ascii_alphabetic() || *b == b'_' || *b == b'-'))
    else {
        return (&[], request);
    };
    match last_word(rest) {
        Some((url, version)) if version.starts_with(b"HTTP/") => (method, url),
        _ if rest.is_empty() => (&[], request),
        _ => (method, rest),
    }
}

/// The second of the two quoted texts that `"referer" "agent"` starts with.
fn user_agent(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_prefix(b"\"")?;
    let text = text.get(quoted_length(text)?..)?.strip_prefix(b"\" \"")?;
    present(text.get(..quoted_length(text)?)?)
}

/// Undoes the escapes that Apache and nginx put into a quoted text: `\"`, `\\`, `\xHH` and C's letters. Percent signs stay.
#[must_use]
pub fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr(b'\\', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Cow::Owned(plain),
            [b'\\', b'x' | b'X', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or_default();
                plain.push(digit(*high) << 4 | digit(*low));
                after
            }
            [b'\\', letter, after @ ..] => {
                plain.push(match letter {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'v' => 0x0b,
                    other => *other,
                });
                after
            }
            [byte, after @ ..] => {
                plain.push(*byte);
                after
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn read(line: &str) -> AccessLine<'_> {
        parse(line.as_bytes()).unwrap_or_else(|| panic!("no access line: {line}"))
    }

    #[test]
    fn squids_own_format_is_read() {
        let line =
            read("1386543323.000      4 91.188.124.227 TCP_DENIED/403 4099 GET http://www.example.org/azenv.php - HIER_NONE/- text/html");
        assert_eq!(
            line,
            AccessLine {
                time: Time::from_millis(1_386_543_323_000),
                client: ip("91.188.124.227"),
                method: b"GET",
                url: b"http://www.example.org/azenv.php",
                status: Some(403),
                user: None,
                user_agent: None,
                result: Some(b"TCP_DENIED"),
            }
        );
    }

    #[test]
    fn squid_writes_000_where_nothing_was_answered_and_a_name_for_a_user() {
        let line = read("1386543500.000      5 2001:db8::1 NONE_NONE/000 0 - error:transaction-end-before-headers anna HIER_NONE/- -");
        assert_eq!((line.client, line.status, line.method), (ip("2001:db8::1"), None, &b""[..]));
        assert_eq!(line.user, Some(&b"anna"[..]));
        assert!(!line.is_authenticated());
    }

    #[test]
    fn blanks_in_a_url_make_neither_a_user_nor_a_client() {
        let line = read(
            "1386543500.000 5 192.0.2.1 TCP_MISS/200 9 GET http://site/a root HIER_DIRECT/9.9.9.9 text/html - HIER_DIRECT/10.0.0.1 text/html",
        );
        assert_eq!((line.client, line.user), (ip("192.0.2.1"), None));
        assert_eq!(line.url, b"http://site/a root HIER_DIRECT/9.9.9.9 text/html");
    }

    #[test]
    fn the_common_format_is_read_as_squid_writes_it() {
        let line = read(r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET http://site/x HTTP/1.1" 429 3897 TCP_DENIED:HIER_NONE"#);
        assert_eq!((line.time, line.client), (Time::from_secs(1_795_395_723), ip("192.0.2.1")));
        assert_eq!((line.method, line.url, line.status), (&b"GET"[..], &b"http://site/x"[..], Some(429)));
        assert_eq!(line.result, Some(&b"TCP_DENIED"[..]));
        assert!(line.is_our_refusal());
    }

    #[test]
    fn the_combined_format_is_read_as_apache_nginx_and_squid_write_it() {
        let line =
            read(r#"2001:db8::7 - anna [23/Nov/2026:02:02:03 +0100] "POST /a?b=c HTTP/2.0" 200 12 "http://ref/" "Mozilla/5.0 (X; \"Y\")""#);
        assert_eq!((line.client, line.user, line.status), (ip("2001:db8::7"), Some(&b"anna"[..]), Some(200)));
        assert_eq!((line.method, line.url), (&b"POST"[..], &b"/a?b=c"[..]));
        assert_eq!(line.user_agent, Some(&br#"Mozilla/5.0 (X; \"Y\")"#[..]));
        assert!(line.is_authenticated() && line.result.is_none());
        let line = read(
            r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET http://s/ HTTP/1.1" 429 12 "-" "x" TCP_MISS:Z "y" TCP_DENIED:HIER_NONE"#,
        );
        assert_eq!(line.result, Some(&b"TCP_DENIED"[..]), "what Squid wrote last, not what a client wrote");
    }

    #[test]
    fn a_user_who_was_turned_away_is_not_authenticated() {
        let line = read(r#"192.0.2.1 - admin [23/Nov/2026:01:02:03 +0000] "GET / HTTP/1.1" 401 12 "-" "-""#);
        assert_eq!((line.user, line.is_authenticated(), line.user_agent), (Some(&b"admin"[..]), false, None));
    }

    #[test]
    fn a_users_name_full_of_brackets_moves_nothing() {
        let line = read(
            r#"192.0.2.1 - a [23/Nov/2020:01:02:03 +0000] \"GET /x HTTP/1.1\" 200 [23/Nov/2026:01:02:03 +0000] "GET / HTTP/1.1" 401 12"#,
        );
        assert_eq!((line.time, line.status, line.url), (Time::from_secs(1_795_395_723), Some(401), &b"/"[..]));
    }

    #[test]
    fn what_is_no_request_is_all_url() {
        for (request, method, url) in [
            (r"\x16\x03\x01", "", r"\x16\x03\x01"),
            ("-", "", "-"),
            ("", "", ""),
            ("GET", "", "GET"),
            ("GET /", "GET", "/"),
            ("GET /a b c HTTP/1.0", "GET", "/a b c"),
            (r"GET /\x22 HTTP/1.0", "GET", r"/\x22"),
        ] {
            let text = format!(r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "{request}" 400 0 "-" "-""#);
            let line = read(&text);
            assert_eq!((line.method, line.url, line.status), (method.as_bytes(), url.as_bytes(), Some(400)), "{request}");
        }
    }

    #[test]
    fn a_host_name_instead_of_an_address_blames_nobody() {
        assert_eq!(read(r#"host.example - - [23/Nov/2026:01:02:03 +0000] "GET /192.0.2.9 HTTP/1.1" 404 0"#).client, None);
    }

    #[test]
    fn other_lines_are_no_access_lines() {
        for line in [
            "",
            " ",
            "2026-11-23 01:02:03 hello",
            "1386543323.000",
            "1386543323.000 4 192.0.2.1",
            r#"192.0.2.1 - - "GET / HTTP/1.1" 200 1"#,
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(unescape(br#"a\x22\"\\x22\n%20\q"#).as_ref(), b"a\"\"\\x22\n%20q");
        assert_eq!(unescape(br"\").as_ref(), br"\");
        assert_eq!(unescape(br"\x2").as_ref(), b"x2");
    }

    /// As Apache writes text of a client's between quotes.
    fn escaped(text: &[u8]) -> String {
        text.iter()
            .map(|byte| match byte {
                b'"' => "\\\"".to_owned(),
                b'\\' => "\\\\".to_owned(),
                0x20..=0x7e => char::from(*byte).to_string(),
                _ => format!("\\x{byte:02x}"),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn no_text_of_a_client_changes_whom_a_combined_line_blames(
            client in any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
            user in "[ -!#-\\[\\]-~]{1,30}", url in proptest::collection::vec(any::<u8>(), 0..80), agent in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let line = format!(
                "{client} - {user} [23/Nov/2026:01:02:03 +0000] \"GET {} HTTP/1.1\" 404 7 \"-\" \"{}\"", escaped(&url), escaped(&agent)
            );
            let read = parse(line.as_bytes()).unwrap();
            prop_assert_eq!((read.client, read.status, read.time), (Some(client), Some(404), Time::from_secs(1_795_395_723)));
            prop_assert_eq!(unescape(read.url).into_owned(), url);
            if !agent.is_empty() && agent != b"-" {
                prop_assert_eq!(unescape(read.user_agent.unwrap()).into_owned(), agent);
            }
        }

        #[test]
        fn no_text_of_a_client_changes_whom_a_line_of_squid_blames(
            client in any::<u128>().prop_map(|bits| IpAddr::from(bits.to_be_bytes()).to_canonical()), url in "[ -~]{1,80}",
        ) {
            let line = format!("1386543323.000      4 {client} TCP_MISS/404 4099 GET {url} - HIER_NONE/- text/html");
            let read = parse(line.as_bytes()).unwrap();
            prop_assert_eq!((read.client, read.status, read.user), (Some(client), Some(404), None));
        }

        #[test]
        fn no_bytes_make_the_reader_fail(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
            let _ = unescape(&line);
        }

        #[test]
        fn no_damage_to_a_line_makes_the_reader_fail(cut in 0_usize..140, byte in any::<u8>(), at in 0_usize..140) {
            let mut line = br#"192.0.2.1 - u [23/Nov/2026:01:02:03 +0000] "GET /x HTTP/1.1" 429 3897 "r" "a" TCP_DENIED:HIER_NONE"#.to_vec();
            if let Some(place) = line.get_mut(at) {
                *place = byte;
            }
            line.truncate(cut);
            let _ = parse(&line);
        }
    }
}
