//! Parses lines of access logs: the format of ours that conf-examples/squid-failopen.conf sets up, Squid's native format, also with a time
//! that people can read, and the common and combined formats as Squid, Apache and nginx write them.
//!
//! The client's address comes before everything that a client can write, and is only ever read from there.

use super::client_field::{address, client_and_user};
use super::readable_time;
use super::time::{self, Zone};
use super::token;
use crate::client::parse_address_bytes;
use crate::event::percent;
use crate::time::Time;
use memchr::{memchr, memchr2, memrchr};
use std::borrow::Cow;
use std::net::IpAddr;

/// Whether the server asked Strikeout about a request before it answered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The format of the log does not say.
    Unknown,
    /// It asked and was answered, so the request has counted already.
    Yes,
    /// It did not ask: it refused the request by itself.
    No,
    /// It asked in vain, so the request has not counted, and it may have refused the request for that: its status counts for nothing.
    Failed,
}

/// What Squid's result code says about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SquidResult {
    /// `http_access` denied it (`TCP_DENIED`).
    Denied,
    /// It was denied at a later place (`TCP_DENIED_REPLY`).
    DeniedLater,
    /// Nothing was done for it (`NONE_NONE`, before Squid 5 `NONE`), such as for a malformed request.
    Nothing,
    /// It was an ICP datagram (`UDP_*`).
    Datagram,
    /// Any other, such as `TCP_MISS`.
    Other,
}

impl SquidResult {
    fn new(code: &[u8]) -> Self {
        match code.strip_suffix(b"_ABORTED").unwrap_or(code) {
            b"TCP_DENIED" => Self::Denied,
            b"NONE_NONE" | b"NONE" => Self::Nothing,
            code if code.starts_with(b"TCP_DENIED") => Self::DeniedLater,
            code if code.starts_with(b"UDP_") => Self::Datagram,
            _ => Self::Other,
        }
    }
}

/// One request in an access log. Texts are as they appear in the line; see [`AccessLine::decode`].
///
/// It has 128 bytes: one byte more, and each move of it is a call of `memcpy`, which made `replay` measurably slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessLine<'a> {
    /// The line's own time: the end of the request in Squid and nginx, its start in Apache.
    pub time: Time,
    /// The client; none if the server looks names up and has written a host name, which blames nobody.
    pub client: Option<IpAddr>,
    /// The method; empty if the server could not parse the request.
    pub method: &'a [u8],
    /// The URL or path, with its query.
    pub url: &'a [u8],
    /// The status of the response; none if there was none (Squid's `000`).
    pub status: Option<u16>,
    /// The name of the user, who may have failed to authenticate; see [`AccessLine::is_authenticated`].
    pub user: Option<&'a [u8]>,
    /// The User-Agent, empty if the client sent none; our format and the combined one only.
    pub user_agent: Option<&'a [u8]>,
    /// The Sec-Fetch-Site header; our format only.
    pub sec_fetch_site: Option<&'a [u8]>,
    /// The Referer, empty if the client sent none; our format and the combined one only.
    pub referer: Option<&'a [u8]>,
    /// Whether the request carried a user's name and password; none if the line does not say.
    pub credentials: Option<bool>,
    /// Squid's result, if Squid wrote the line.
    pub result: Option<SquidResult>,
    /// Whether the server asked about the request.
    pub asked: Asked,
}

impl AccessLine<'_> {
    /// A text of this line as the client sent it.
    #[must_use]
    pub fn decode<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        match self.asked {
            Asked::Unknown => unescape(text),
            // Our format, the only one that says it: Squid's `%#` escapes `%` too, so that decoding once is lossless.
            Asked::Yes | Asked::No | Asked::Failed => percent::decode(text),
        }
    }

    /// Whether Squid refused the request before `url_rewrite_access`, where it asks about each: `http_access` denied it (`TCP_DENIED`), or
    /// it was malformed and never came as far (`NONE_NONE`, before Squid 5 `NONE`). `TCP_DENIED_REPLY` is a refusal after the question.
    #[must_use]
    pub fn is_refused_unasked(&self) -> bool {
        matches!(self.result, Some(SquidResult::Denied | SquidResult::Nothing)) && !self.is_our_refusal()
    }

    /// Whether the line records no request. An ICP datagram (`UDP_*`) may have a forged source, and a connection that ended before a request
    /// (`error:transaction-end-before-headers`, status 000) asked for nothing.
    #[must_use]
    pub fn is_no_request(&self) -> bool {
        self.result == Some(SquidResult::Datagram) || (self.status.is_none() && self.url.starts_with(b"error:"))
    }

    /// Whether this is a refusal by Strikeout itself, a 429. It never counts, or a ban would prolong itself.
    #[must_use]
    pub fn is_our_refusal(&self) -> bool {
        self.status == Some(429) && matches!(self.result, Some(SquidResult::Denied | SquidResult::DeniedLater))
    }

    /// Whether the status is 2xx or 3xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status.is_some_and(|status| (200..400).contains(&status))
    }

    /// Whether the line names a user and the server accepted the request: servers also log the name given with a wrong password.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.user.is_some() && self.is_success()
    }
}

/// Parses a line of any of these formats, which comes without its newline. A time without an offset is local time in `zone`.
#[must_use]
pub fn parse<'a>(line: &'a [u8], zone: &mut Zone) -> Option<AccessLine<'a>> {
    let line = match time::epoch(line) {
        Some((time, rest)) => {
            let (first, rest) = word(rest)?;
            // Where our format has the address, Squid's native one has a number of milliseconds.
            if is_number(first) {
                native_behind_number(time, rest)
            } else {
                let ours = parse_address_bytes(first).ok().and_then(|client| ours(time, client, rest));
                ours.or_else(|| native_behind_address(time, first, rest))
            }
        }
        None => common(line).or_else(|| native_with_readable_time(line, zone)),
    };
    line.map(without_client_of_no_request)
}

/// Parses a line of Squid's native format that starts with a time such as `25-Jul-2016 11:32:47`, where Squid itself writes seconds.
#[must_use]
pub fn native_with_readable_time<'a>(line: &'a [u8], zone: &mut Zone) -> Option<AccessLine<'a>> {
    let (time, rest) = readable_time::parse(line, zone)?;
    native(time, rest).map(without_client_of_no_request)
}

/// Whether `text`, from behind the time of a line, may be of Squid's native format: it starts with a number or an address, but not with one
/// of Exim's message IDs, in which there are hyphens.
#[must_use]
pub fn may_be_native(text: &[u8]) -> bool {
    let mut word = text.iter().skip_while(|byte| **byte == b' ');
    word.find(|byte| !(byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'[' | b']'))) == Some(&b' ')
}

fn without_client_of_no_request(line: AccessLine<'_>) -> AccessLine<'_> {
    let client = line.client.filter(|_| !line.is_no_request());
    AccessLine { client, ..line }
}

/// The field, unless it is empty or `-`.
fn present(field: &[u8]) -> Option<&[u8]> {
    (!field.is_empty() && field != b"-").then_some(field)
}

/// A header in our format: empty if the client sent none, and none if the line is cut before it.
fn header(field: &[u8]) -> Option<&[u8]> {
    match field {
        b"" => None,
        b"-" => Some(b""),
        _ => Some(field),
    }
}

/// The first word, behind any spaces, and the text after the space that ends it.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = text.iter().position(|byte| *byte != b' ')?;
    token::word(text.get(start..)?)
}

fn is_number(word: &[u8]) -> bool {
    word.iter().all(u8::is_ascii_digit)
}

/// The text before the last space, and the last word.
fn last_word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = memrchr(b' ', text)?;
    Some((text.get(..space)?, text.get(space + 1..)?))
}

/// `404`; none for Squid's `000`, which means that no response was sent.
fn status(text: &[u8]) -> Option<u16> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = *text else { return None };
    Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
}

/// Our format after time and address: `403 TCP_DENIED GET http://site/ - agent referer none`.
///
/// Squid escapes spaces in every field, so the words are the fields. A line without the fields behind the URL was cut: Squid cuts lines at
/// 8 KiB (`logfilePrintf`), which the widths in our `logformat` prevent. It does not say whether the request has counted.
fn ours(time: Time, client: IpAddr, rest: &[u8]) -> Option<AccessLine<'_>> {
    // Squid writes 0 where nothing was answered. Anything else here is a `logformat` of the administrator's.
    let (code, rest) = word(rest).filter(|(code, _)| code.len() <= 3 && code.iter().all(u8::is_ascii_digit))?;
    let (result, rest) = word(rest).filter(|(result, _)| !result.contains(&b'/'))?;
    let (method, rest) = word(rest)?;
    let (url, rest) = word(rest)?;
    let (asked, rest) = word(rest).unwrap_or_default();
    let (user_agent, rest) = word(rest).unwrap_or_default();
    let (referer, rest) = word(rest).unwrap_or_default();
    let (sec_fetch_site, _) = word(rest).unwrap_or_default();
    Some(AccessLine {
        time,
        client: Some(client),
        method: present(method).unwrap_or_default(),
        url,
        status: status(code),
        user: None,
        user_agent: header(user_agent),
        sec_fetch_site: present(sec_fetch_site),
        referer: header(referer),
        credentials: match asked {
            b"password" => Some(true),
            b"yes" => Some(false),
            _ => None,
        },
        result: Some(SquidResult::new(result)),
        asked: match asked {
            b"-" => Asked::No,
            b"yes" | b"password" | b"" => Asked::Yes,
            _ => Asked::Failed,
        },
    })
}

/// Squid's native format after the time: `     4 192.0.2.1 TCP_DENIED/403 4099 GET http://site/ user HIER_NONE/- text/html`. Some put
/// the address before the milliseconds.
fn native(time: Time, rest: &[u8]) -> Option<AccessLine<'_>> {
    let (first, rest) = word(rest)?;
    if is_number(first) { native_behind_number(time, rest) } else { native_behind_address(time, first, rest) }
}

/// The usual order, after the milliseconds.
fn native_behind_number(time: Time, rest: &[u8]) -> Option<AccessLine<'_>> {
    let (second, rest) = word(rest)?;
    native_behind_client(time, address(second), rest)
}

/// The other order: `first` should be the address. Where it is none, the address may follow behind a word of another kind.
fn native_behind_address<'a>(time: Time, first: &[u8], rest: &'a [u8]) -> Option<AccessLine<'a>> {
    let (second, rest) = word(rest)?;
    let client = match address(first) {
        Some(_) if !is_number(second) => return None,
        Some(client) => Some(client),
        None => address(second),
    };
    native_behind_client(time, client, rest)
}

/// The fields behind the URL are read from the end, so that blanks in a URL (`uri_whitespace allow`) cannot pass for fields.
fn native_behind_client(time: Time, client: Option<IpAddr>, rest: &[u8]) -> Option<AccessLine<'_>> {
    let (code, rest) = word(rest)?;
    let (result, code) = match code.split_last_chunk() {
        // The usual case, which needs no search.
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
        client,
        method: present(method).unwrap_or_default(),
        url,
        status: status(code.get(1..)?),
        user: present(user),
        user_agent: None,
        sec_fetch_site: None,
        referer: None,
        credentials: None,
        result: Some(SquidResult::new(result)),
        asked: Asked::Unknown,
    })
}

/// The length of a quoted text up to its closing quote. A backslash escapes the next byte.
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

/// The length of a request up to the quote that closes it: the first one that a status follows. Apache and nginx escape all others, but
/// Squid writes the quotes in a path as they are.
fn request_length(text: &[u8]) -> Option<usize> {
    let first = quoted_length(text)?;
    let mut quote = first;
    loop {
        let behind = text.get(quote + 1..)?;
        let code = behind.strip_prefix(b" ").and_then(word).map(|(code, _)| code).unwrap_or_default();
        if matches!(code.len(), 1..=3) && code.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') {
            return Some(quote);
        }
        match quoted_length(behind) {
            Some(length) => quote += 1 + length,
            None => return Some(first),
        }
    }
}

/// `192.0.2.1 - user [23/Nov/2026:01:02:03 +0000] "GET / HTTP/1.1" 200 12 "referer" "agent"`, the last two in the combined format only,
/// then `TCP_MISS:HIER_DIRECT` if Squid wrote the line. More words may precede the time: see [`client_and_user`].
fn common(line: &[u8]) -> Option<AccessLine<'_>> {
    // A user name may contain blanks and brackets (nginx) but no bare quote: the first quote opens the request.
    let open = quoted_length(line)?;
    let before = line.get(..open)?.strip_suffix(b" ")?;
    let (before, stamp) = before.split_last_chunk::<{ time::COMMON_LENGTH }>()?;
    let time = time::common(stamp)?;
    let (client, user) = client_and_user(before.strip_suffix(b" ")?)?;
    let rest = line.get(open + 1..)?;
    let close = request_length(rest)?;
    let (request, rest) = rest.split_at_checked(close)?;
    let rest = rest.strip_prefix(b"\" ")?;
    let (method, url) = request_line(request);
    let (code, rest) = word(rest)?;
    let (referer, user_agent) = word(rest).and_then(|(_bytes, rest)| referer_and_agent(rest)).unzip();
    // Read from the end: Squid does not escape quotes in a User-Agent.
    let result = last_word(rest).map(|(_, last)| last).filter(|last| last.first().is_some_and(u8::is_ascii_uppercase));
    let result = result.and_then(|last| last.get(..memchr(b':', last)?)).map(SquidResult::new);
    Some(AccessLine {
        time,
        client,
        method,
        url,
        status: status(code),
        user: present(user),
        user_agent,
        sec_fetch_site: None,
        referer,
        credentials: Some(user != b"-"),
        result,
        asked: Asked::Unknown,
    })
}

/// The method and the URL of `GET /path HTTP/1.1`. Anything else counts as the URL, so that rules can match it.
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

/// The two quoted texts at the start of `text`: `"referer" "agent"`. A dash is a missing header.
fn referer_and_agent(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"\"")?;
    let (referer, text) = text.split_at_checked(quoted_length(text)?)?;
    let text = text.strip_prefix(b"\" \"")?;
    let agent = text.get(..quoted_length(text)?)?;
    Some((present(referer).unwrap_or_default(), present(agent).unwrap_or_default()))
}

/// Undoes the escapes of Apache and nginx in quoted texts: `\"`, `\\`, `\xHH` and C's letters. Percent-encoding is left as it is.
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
#[path = "access_tests.rs"]
mod tests;
