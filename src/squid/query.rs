//! One line of Squid's helper protocol, taken apart: `[ID] address [method [URL [User-Agent [Sec-Fetch-Site]]]] DATA`.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use crate::client::parse_address_bytes;
use crate::event::{Event, Request, Surface};
use crate::percent::decode_onto;

/// The longest channel ID that is one: Squid's are below 2^64.
const ID_DIGITS: usize = 20;
/// The tokens between ID and DATA, at most.
const FIELDS: usize = 5;

/// Takes lines apart. Its buffer is used again and again.
#[derive(Debug, Default)]
pub struct Parser {
    decoded: Vec<u8>,
}

/// A query: who, and what was seen of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The full address.
    pub address: IpAddr,
    /// What was seen.
    pub event: Event<'a>,
}

/// A line that is no query: it is answered `ERR`, and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer tokens than an address and DATA.
    TooFewTokens(usize),
    /// More tokens than there are fields.
    TooManyTokens,
    /// The first token is no address.
    NotAnAddress,
    /// DATA is neither `-` nor `status=NNN`.
    UnknownData,
    /// A status without a request that it answers.
    StatusWithoutUrl,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewTokens(found) => write!(f, "found {found} tokens, expected an address and DATA at least"),
            Self::TooManyTokens => {
                f.write_str("found more than 6 tokens, expected address, method, URL, User-Agent, Sec-Fetch-Site and DATA at most")
            }
            Self::NotAnAddress => {
                f.write_str("found no address as the first token, expected the format %>a %>rm %#>ru %#{User-Agent}>h %#{Sec-Fetch-Site}>h")
            }
            Self::UnknownData => f.write_str("found an unknown argument on the acl line, expected none or status=NNN"),
            Self::StatusWithoutUrl => f.write_str("found status=NNN without a URL, expected the format to send %#>ru too"),
        }
    }
}

/// Splits the channel ID off a line: a first token of digits alone.
#[must_use]
pub fn split_id(line: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let digits = line.iter().take(ID_DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
    match (digits, line.get(digits)) {
        (1..=ID_DIGITS, Some(b' ')) => (line.get(..digits), line.get(digits + 1..).unwrap_or_default()),
        (1..=ID_DIGITS, None) => (line.get(..digits), b""),
        _ => (None, line),
    }
}

/// Where a field's bytes are.
#[derive(Debug, Clone)]
enum Field {
    /// Squid had nothing to send: `-`.
    Missing,
    /// In the line, as they are.
    Plain(Range<usize>),
    /// In the buffer, decoded.
    Decoded(Range<usize>),
}

impl Parser {
    /// Takes apart what [`split_id`] left of a line.
    ///
    /// Squid escaped `%` too (`%#`), so decoding exactly once is lossless. A `%` without two hex digits (cut by a width) stays as it is.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong.
    pub fn parse<'a>(&'a mut self, line: &'a [u8]) -> Result<Query<'a>, Malformed> {
        self.decoded.clear();
        let mut tokens = [const { 0..0 }; FIELDS + 1];
        let mut count = 0;
        let mut start = 0;
        for end in memchr::memchr_iter(b' ', line).chain(std::iter::once(line.len())) {
            if end > start {
                let Some(token) = tokens.get_mut(count) else { return Err(Malformed::TooManyTokens) };
                *token = start..end;
                count += 1;
            }
            start = end + 1;
        }
        let Some((data, fields)) = tokens.get(..count).and_then(<[_]>::split_last).filter(|(_, fields)| !fields.is_empty()) else {
            return Err(Malformed::TooFewTokens(count));
        };
        let status = status(line.get(data.clone()).unwrap_or_default())?;
        let mut located = [const { Field::Missing }; FIELDS];
        for (range, field) in fields.iter().zip(&mut located) {
            *field = self.locate(line, range.clone());
        }
        let decoded = &self.decoded;
        let bytes = |field: &Field| match field {
            Field::Missing => &[][..],
            Field::Plain(range) => line.get(range.clone()).unwrap_or_default(),
            Field::Decoded(range) => decoded.get(range.clone()).unwrap_or_default(),
        };
        let [address, method, url, user_agent, sec_fetch_site] = located.each_ref().map(bytes);
        let address = parse_address_bytes(address).map_err(|_| Malformed::NotAnAddress)?;
        let request = Request { method, url, user_agent, sec_fetch_site };
        let event = match status {
            Some(_) if url.is_empty() => return Err(Malformed::StatusWithoutUrl),
            Some(status) => Event::Response { request, status },
            None if url.is_empty() => Event::Lookup(Surface::Web),
            None => Event::Request(request),
        };
        Ok(Query { address, event })
    }

    fn locate(&mut self, line: &[u8], range: Range<usize>) -> Field {
        let token = line.get(range.clone()).unwrap_or_default();
        if token == b"-" {
            return Field::Missing;
        }
        if memchr::memchr(b'%', token).is_none() {
            return Field::Plain(range);
        }
        let start = self.decoded.len();
        decode_onto(token, &mut self.decoded);
        Field::Decoded(start..self.decoded.len())
    }
}

/// What DATA says: nothing, or the status of a response.
fn status(data: &[u8]) -> Result<Option<u16>, Malformed> {
    if data == b"-" {
        return Ok(None);
    }
    match data.strip_prefix(b"status=") {
        Some(&[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']) => {
            Ok(Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')))
        }
        _ => Err(Malformed::UnknownData),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Result<(String, String), Malformed> {
        let mut parser = Parser::default();
        let query = parser.parse(line.as_bytes())?;
        Ok((query.address.to_string(), format!("{:?}", query.event)))
    }

    #[test]
    fn a_first_token_of_digits_alone_is_the_channel_id() {
        assert_eq!(split_id(b"12 192.0.2.1 -"), (Some(&b"12"[..]), &b"192.0.2.1 -"[..]));
        assert_eq!(split_id(b"192.0.2.1 -"), (None, &b"192.0.2.1 -"[..]));
        assert_eq!(split_id(b"7"), (Some(&b"7"[..]), &b""[..]));
        assert_eq!(split_id(b""), (None, &b""[..]));
        assert_eq!(split_id(b"123456789012345678901 x"), (None, &b"123456789012345678901 x"[..]));
    }

    #[test]
    fn fields_go_by_position_and_may_be_left_off_from_the_right() {
        let mut parser = Parser::default();
        let query = parser.parse(b"192.0.2.1 GET http://h/a%2520b?c Mozilla/5.0%20%28X%29 none -").unwrap();
        let request = Request { method: b"GET", url: b"http://h/a%20b?c", user_agent: b"Mozilla/5.0 (X)", sec_fetch_site: b"none" };
        assert_eq!(query, Query { address: "192.0.2.1".parse().unwrap(), event: Event::Request(request) });
        let query = parser.parse(b"192.0.2.1 GET http://h/ -").unwrap();
        assert_eq!(query.event, Event::Request(Request { method: b"GET", url: b"http://h/", ..Request::default() }));
        assert_eq!(parser.parse(b"192.0.2.1 -").unwrap().event, Event::Lookup(Surface::Web));
    }

    #[test]
    fn a_dash_is_a_missing_value() {
        let mut parser = Parser::default();
        assert_eq!(parser.parse(b"192.0.2.1 GET - - - -").unwrap().event, Event::Lookup(Surface::Web));
        let query = parser.parse(b"192.0.2.1 GET /x - - -").unwrap();
        assert_eq!(query.event, Event::Request(Request { method: b"GET", url: b"/x", ..Request::default() }));
    }

    #[test]
    fn a_status_makes_it_a_response_and_never_also_a_request() {
        let mut parser = Parser::default();
        let query = parser.parse(b"192.0.2.1 GET /x status=404").unwrap();
        assert_eq!(query.event, Event::Response { request: Request { method: b"GET", url: b"/x", ..Request::default() }, status: 404 });
    }

    #[test]
    fn what_is_no_query_says_why() {
        assert_eq!(parse(""), Err(Malformed::TooFewTokens(0)));
        assert_eq!(parse("192.0.2.1"), Err(Malformed::TooFewTokens(1)));
        assert_eq!(parse("192.0.2.1 GET /x ua site - more"), Err(Malformed::TooManyTokens));
        assert_eq!(parse("localhost GET /x -"), Err(Malformed::NotAnAddress));
        assert_eq!(parse("- GET /x -"), Err(Malformed::NotAnAddress));
        assert_eq!(parse("192.0.2.1 status=404"), Err(Malformed::StatusWithoutUrl));
        for data in ["status=", "status=4", "status=4044", "status=abc", "Status=404", "status=099", "other"] {
            assert_eq!(parse(&format!("192.0.2.1 GET /x {data}")), Err(Malformed::UnknownData), "{data}");
        }
    }

    #[test]
    fn an_escape_that_a_width_cut_in_half_stays_as_it_is() {
        let mut parser = Parser::default();
        let Event::Request(request) = parser.parse(b"192.0.2.1 GET /x Mozilla%2 -").unwrap().event else { panic!() };
        assert_eq!(request.user_agent, b"Mozilla%2");
    }

    /// What Squid's `%#` makes of a value.
    fn escape(value: &[u8]) -> String {
        if value.is_empty() {
            return "-".to_owned();
        }
        value
            .iter()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() || b"/:.?=&".contains(byte) {
                    char::from(*byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn whatever_is_in_url_and_headers_the_address_is_the_sockets(
            address in any::<std::net::IpAddr>(),
            url in proptest::collection::vec(any::<u8>(), 1..80),
            user_agent in proptest::collection::vec(any::<u8>(), 0..80),
            site in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            prop_assume!(url != b"-");
            let line = format!("{address} GET {} {} {} -", escape(&url), escape(&user_agent), escape(&site));
            let mut parser = Parser::default();
            let query = parser.parse(line.as_bytes()).unwrap();
            prop_assert_eq!(query.address, address.to_canonical());
            let Event::Request(request) = query.event else { panic!() };
            prop_assert_eq!(request.url, &url[..]);
            // A header whose value is "-" looks like a missing one: Squid sends both alike.
            prop_assert!(request.user_agent == user_agent || user_agent == b"-");
            prop_assert!(request.sec_fetch_site == site || site == b"-");
        }

        #[test]
        fn no_bytes_make_it_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (_, rest) = split_id(&line);
            let _ = Parser::default().parse(rest);
        }
    }
}
