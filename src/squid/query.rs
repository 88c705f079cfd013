//! Parses a line of Squid's helper protocol: `[ID] address [method [URL [User-Agent [Sec-Fetch-Site [Referer [header…]]]]]] DATA`.

use std::fmt;
use std::net::IpAddr;

use memchr::memchr;

use crate::client::parse_address_bytes;
use crate::event::headers::{HeaderNames, Headers};
use crate::event::percent::decode_onto;
use crate::event::{Event, Header, Request, Service};
use crate::log::token;

/// Maximum number of digits in a channel ID: Squid's are below 2^64.
const MAX_ID_DIGITS: usize = 20;
/// Maximum number of tokens between ID and DATA, without further headers.
const MAX_FIELDS: usize = 6;
/// The number of the User-Agent among them.
const USER_AGENT: usize = 3;
/// The number of the Referer among them.
const REFERER: usize = 5;

/// Parses lines. It reuses its buffer.
#[derive(Debug, Default)]
pub struct Parser {
    decoded: Vec<u8>,
    /// The headers behind the other fields.
    headers: HeaderNames,
}

/// A query: an address and the event seen of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The full address, not cut to a prefix.
    pub address: IpAddr,
    pub event: Event<'a>,
    /// Whether Squid refuses a response by the answer, so that the one that bans its client can be refused as well.
    pub refuses_response: bool,
}

/// Why a line is not a query. It is answered `ERR` and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Address or DATA is missing. Holds the number of tokens.
    TooFewTokens(usize),
    /// More tokens than fields, if there are no further headers.
    TooManyTokens,
    /// As many headers as are found, in place of as many as were named to the helper.
    OtherHeaders { found: usize, named: usize },
    /// The first token is not an address.
    NotAnAddress,
    /// DATA is neither `-` nor `status=NNN`, alone or with words behind it.
    UnknownData,
    /// A status without the request that it belongs to.
    StatusWithoutUrl,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewTokens(found) => write!(f, "found {found} tokens, expected at least an address and DATA"),
            Self::TooManyTokens => {
                f.write_str("found more than 7 tokens, expected at most address, method, URL, User-Agent, Sec-Fetch-Site, Referer and DATA, or --headers")
            }
            Self::OtherHeaders { found, named } => {
                write!(f, "found {found} headers behind the Referer, expected the {named} that --headers names, in the same order")
            }
            Self::NotAnAddress => {
                f.write_str("found no address as the first token, expected the format %>a %>rm %#>ru %#{User-Agent}>h %#{Sec-Fetch-Site}>h")
            }
            Self::UnknownData => {
                f.write_str("found an unknown argument on the acl line, expected none or status=NNN, alone or with \",credentials\" or \",refuse\"")
            }
            Self::StatusWithoutUrl => f.write_str("found status=NNN without a URL, expected the format to send %#>ru too"),
        }
    }
}

/// Splits off the channel ID, which is a first token of digits only.
#[must_use]
pub fn split_id(line: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let digits = line.iter().take(MAX_ID_DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
    match (digits, line.get(digits)) {
        (1..=MAX_ID_DIGITS, Some(b' ')) => (line.get(..digits), line.get(digits + 1..).unwrap_or_default()),
        (1..=MAX_ID_DIGITS, None) => (line.get(..digits), b""),
        _ => (None, line),
    }
}

/// The address in the first token of a query, exactly as [`Parser::parse`] finds it.
#[must_use]
pub fn address(query: &[u8]) -> Option<IpAddr> {
    parse_address_bytes(query.get(..token::length(query))?).ok()
}

impl Parser {
    /// A parser of queries with these headers behind the other fields.
    #[must_use]
    pub fn new(headers: HeaderNames) -> Self {
        Self { decoded: Vec::new(), headers }
    }

    /// The part of a query that a log may show: without further headers, which hold what logs somebody in.
    #[must_use]
    pub fn shown<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        let end = if self.headers.is_empty() { None } else { memchr::memchr_iter(b' ', line).nth(MAX_FIELDS - 1) };
        end.and_then(|end| line.get(..end)).unwrap_or(line)
    }

    /// Forgets what a query has left behind that could not be judged.
    pub fn reset(&mut self) {
        self.decoded = Vec::new();
    }

    /// Parses the rest of a line after [`split_id`].
    ///
    /// The format code `%#` escapes `%` too, so decoding exactly once is lossless. A `%` without two hex digits, where a width in the format has
    /// cut an escape in half, stays as it is.
    ///
    /// # Errors
    /// The line is not a query.
    pub fn parse<'a>(&'a mut self, line: &'a [u8]) -> Result<Query<'a>, Malformed> {
        let mut tokens: [&[u8]; MAX_FIELDS] = Default::default();
        let (mut count, mut data): (usize, &[u8]) = (0, b"");
        // Where the headers begin, and where DATA does, which is the last token.
        let (mut headers_at, mut data_at) = (line.len(), line.len());
        let mut rest = line;
        while !rest.is_empty() {
            let at = line.len() - rest.len();
            let (token, behind) = rest.split_at_checked(token::length(rest)).unwrap_or((rest, b""));
            if !token.is_empty() {
                if let Some(slot) = tokens.get_mut(count) {
                    *slot = token;
                } else if count == MAX_FIELDS {
                    headers_at = at;
                }
                (data, data_at) = (token, at);
                count += 1;
            }
            rest = behind.get(1..).unwrap_or_default();
        }
        let given = count.saturating_sub(1);
        if given == 0 {
            return Err(Malformed::TooFewTokens(count));
        }
        match given.checked_sub(MAX_FIELDS) {
            None | Some(0) => {}
            Some(_) if self.headers.is_empty() => return Err(Malformed::TooManyTokens),
            Some(found) if found == self.headers.len() => {}
            Some(found) => return Err(Malformed::OtherHeaders { found, named: self.headers.len() }),
        }
        let response = response(data)?;
        let mut fields: [&[u8]; MAX_FIELDS] = Default::default();
        for (field, token) in fields.iter_mut().zip(tokens).take(given) {
            // Squid writes a missing value as a dash.
            *field = if token == b"-" { b"" } else { token };
        }
        let [address, method, url, user_agent, sec_fetch_site, referer] = fields;
        let address = parse_address_bytes(address).map_err(|_| Malformed::NotAnAddress)?;
        let [method, url, sec_fetch_site] = decode(&mut self.decoded, [method, url, sec_fetch_site]);
        // A FORMAT without the User-Agent does not say whether the client sent one.
        let header = |number, value| if given > number { Header::escaped(value) } else { Header::default() };
        let (user_agent, referer) = (header(USER_AGENT, user_agent), header(REFERER, referer));
        let credentials = response.filter(|response| response.has_credentials).map(|_| true);
        let headers = Headers::new(&self.headers, line.get(headers_at..data_at).unwrap_or_default());
        let request = Request { method, url, user_agent, sec_fetch_site, referer, credentials, headers };
        let event = match response {
            Some(_) if url.is_empty() => return Err(Malformed::StatusWithoutUrl),
            Some(Response { status, .. }) => Event::Response { request, status },
            None if url.is_empty() => Event::Lookup(Service::Web),
            None => Event::Request(request),
        };
        Ok(Query { address, event, refuses_response: response.is_some_and(|response| response.is_refusable) })
    }
}

/// Decodes the fields into the buffer; without any escape they stay where they are.
fn decode<'a, const N: usize>(decoded: &'a mut Vec<u8>, fields: [&'a [u8]; N]) -> [&'a [u8]; N] {
    decoded.clear();
    if fields.iter().all(|field| memchr(b'%', field).is_none()) {
        return fields;
    }
    let ends = fields.map(|field| {
        decode_onto(field, decoded);
        decoded.len()
    });
    let mut start = 0;
    ends.map(|end| decoded.get(std::mem::replace(&mut start, end)..end).unwrap_or_default())
}

/// What DATA says of a response.
#[derive(Debug, Clone, Copy)]
struct Response {
    status: u16,
    has_credentials: bool,
    is_refusable: bool,
}

/// Parses DATA: nothing, or the status of a response, whether its request carried a user's name and password, and whether it is refused by the
/// answer. Squid joins the arguments of an acl line by a blank, which it escapes.
fn response(data: &[u8]) -> Result<Option<Response>, Malformed> {
    if data == b"-" {
        return Ok(None);
    }
    let Some(&[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ref rest @ ..]) = data.strip_prefix(b"status=") else {
        return Err(Malformed::UnknownData);
    };
    let status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    let mut response = Response { status, has_credentials: false, is_refusable: false };
    let mut rest = rest;
    while let Some(word) = rest.strip_prefix(b",").or_else(|| rest.strip_prefix(b"%2C")) {
        let (flag, behind) = match (word.strip_prefix(b"credentials"), word.strip_prefix(b"refuse")) {
            (Some(behind), _) => (&mut response.has_credentials, behind),
            (_, Some(behind)) => (&mut response.is_refusable, behind),
            _ => return Err(Malformed::UnknownData),
        };
        *flag = true;
        rest = behind;
    }
    if rest.is_empty() { Ok(Some(response)) } else { Err(Malformed::UnknownData) }
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
    fn a_first_token_of_digits_is_the_channel_id() {
        assert_eq!(split_id(b"12 192.0.2.1 -"), (Some(&b"12"[..]), &b"192.0.2.1 -"[..]));
        assert_eq!(split_id(b"192.0.2.1 -"), (None, &b"192.0.2.1 -"[..]));
        assert_eq!(split_id(b"7"), (Some(&b"7"[..]), &b""[..]));
        assert_eq!(split_id(b""), (None, &b""[..]));
        assert_eq!(split_id(b"123456789012345678901 x"), (None, &b"123456789012345678901 x"[..]));
    }

    #[test]
    fn fields_are_positional_and_may_be_omitted_from_the_right() {
        let mut parser = Parser::default();
        let query = parser.parse(b"192.0.2.1 GET http://h/a%2520b?c Mozilla/5.0%20%28X%29 none -").unwrap();
        let request = Request {
            method: b"GET",
            url: b"http://h/a%20b?c",
            user_agent: Header::escaped(b"Mozilla/5.0%20%28X%29"),
            sec_fetch_site: b"none",
            ..Request::default()
        };
        assert_eq!(query, Query { address: "192.0.2.1".parse().unwrap(), event: Event::Request(request), refuses_response: false });
        assert_eq!(request.user_agent.text().as_ref(), b"Mozilla/5.0 (X)");
        let query = parser.parse(b"192.0.2.1 GET http://h/ -").unwrap();
        assert_eq!(query.event, Event::Request(Request { method: b"GET", url: b"http://h/", ..Request::default() }));
        assert_eq!(parser.parse(b"192.0.2.1 -").unwrap().event, Event::Lookup(Service::Web));
    }

    #[test]
    fn a_dash_is_a_missing_value() {
        let mut parser = Parser::default();
        assert_eq!(parser.parse(b"192.0.2.1 GET - - - -").unwrap().event, Event::Lookup(Service::Web));
        let query = parser.parse(b"192.0.2.1 GET /x - - -").unwrap();
        let none = Header::plain(b"");
        assert_eq!(query.event, Event::Request(Request { method: b"GET", url: b"/x", user_agent: none, ..Request::default() }));
    }

    #[test]
    fn a_query_with_a_status_is_a_response_and_not_a_request() {
        let mut parser = Parser::default();
        let query = parser.parse(b"192.0.2.1 GET /x status=404").unwrap();
        assert_eq!(query.event, Event::Response { request: Request { method: b"GET", url: b"/x", ..Request::default() }, status: 404 });
    }

    #[test]
    fn a_status_may_say_that_its_request_carried_credentials() {
        for (data, expected) in [("status=401,credentials", Some(true)), ("status=401", None)] {
            let mut parser = Parser::default();
            let line = format!("192.0.2.1 GET /x {data}");
            let Event::Response { request, status: 401 } = parser.parse(line.as_bytes()).unwrap().event else { panic!("{data}") };
            assert_eq!(request.credentials, expected, "{data}");
        }
        for data in ["status=401,password", "status=401,", "status=401,credentialsx", "status=401credentials"] {
            assert_eq!(parse(&format!("192.0.2.1 GET /x {data}")), Err(Malformed::UnknownData), "{data}");
        }
    }

    #[test]
    fn a_status_may_say_that_the_response_is_refused_by_the_answer() {
        for (data, expected) in
            [("status=404", false), ("status=404,refuse", true), ("status=401,credentials%2Crefuse", true), ("-", false)]
        {
            let mut parser = Parser::default();
            let line = format!("192.0.2.1 GET /x {data}");
            assert_eq!(parser.parse(line.as_bytes()).unwrap().refuses_response, expected, "{data}");
        }
    }

    #[test]
    fn a_source_is_missing_only_if_the_format_holds_the_referer() {
        for (line, names_source) in [
            ("192.0.2.1 GET /x ua - - status=404", Some(false)),
            ("192.0.2.1 GET /x ua - http://h/ status=404", Some(true)),
            ("192.0.2.1 GET /x ua none - status=404", Some(true)),
            ("192.0.2.1 GET /x ua none status=404", Some(true)),
            ("192.0.2.1 GET /x ua - status=404", None),
        ] {
            let mut parser = Parser::default();
            let Event::Response { request, .. } = parser.parse(line.as_bytes()).unwrap().event else { panic!("{line}") };
            assert_eq!(request.names_its_source(), names_source, "{line}");
        }
    }

    #[test]
    fn malformed_lines_say_what_is_wrong() {
        assert_eq!(parse(""), Err(Malformed::TooFewTokens(0)));
        assert_eq!(parse("192.0.2.1"), Err(Malformed::TooFewTokens(1)));
        assert_eq!(parse("192.0.2.1 GET /x ua site referer - more"), Err(Malformed::TooManyTokens));
        assert_eq!(parse("localhost GET /x -"), Err(Malformed::NotAnAddress));
        assert_eq!(parse("- GET /x -"), Err(Malformed::NotAnAddress));
        assert_eq!(parse("192.0.2.1 status=404"), Err(Malformed::StatusWithoutUrl));
        for data in ["status=", "status=4", "status=4044", "status=abc", "Status=404", "status=099", "other"] {
            assert_eq!(parse(&format!("192.0.2.1 GET /x {data}")), Err(Malformed::UnknownData), "{data}");
        }
    }

    #[test]
    fn headers_follow_the_other_fields_in_the_order_of_their_names() {
        let names = || HeaderNames::new(["Cookie", "Next-Action"]).unwrap();
        let mut parser = Parser::new(names());
        let mut lines = |line: &str| -> Result<Vec<(String, Vec<u8>)>, Malformed> {
            let Event::Request(request) = parser.parse(line.as_bytes())?.event else { panic!("{line}") };
            Ok(request.header_lines().map(|(name, value)| (name.to_owned(), value.text().into_owned())).collect())
        };
        let of = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        assert_eq!(
            lines("192.0.2.1 POST /x ua - http://h/ a%3Db%20c status=404 -"),
            Ok(vec![of("referer", "http://h/"), of("cookie", "a=b c"), of("next-action", "status=404")]),
            "a header is no argument of the acl line"
        );
        assert_eq!(lines("192.0.2.1 POST /x ua - - - - -"), Ok(vec![]));
        assert_eq!(
            lines("192.0.2.1 POST /x ua - http://h/ -"),
            Ok(vec![of("referer", "http://h/")]),
            "a shorter format says nothing of them"
        );
        assert_eq!(lines("192.0.2.1 POST /x ua - - a -"), Err(Malformed::OtherHeaders { found: 1, named: 2 }));
        assert_eq!(lines("192.0.2.1 POST /x ua - - a b c -"), Err(Malformed::OtherHeaders { found: 3, named: 2 }));
    }

    #[test]
    fn no_header_is_shown_in_a_log() {
        let line = b"192.0.2.1 POST /x ua none http://h/ session%3Dsecret - -";
        let parser = Parser::new(HeaderNames::new(["Cookie", "Next-Action"]).unwrap());
        assert_eq!(parser.shown(line), b"192.0.2.1 POST /x ua none http://h/");
        assert_eq!(parser.shown(b"192.0.2.1 -"), b"192.0.2.1 -");
    }

    #[test]
    fn a_dash_is_a_missing_user_agent_and_a_shorter_format_leaves_it_unknown() {
        for (line, is_known) in [("192.0.2.1 GET /x - - -", true), ("192.0.2.1 GET /x - -", true), ("192.0.2.1 GET /x -", false)] {
            let mut parser = Parser::default();
            let Event::Request(request) = parser.parse(line.as_bytes()).unwrap().event else { panic!() };
            assert_eq!((request.user_agent.is_known(), request.user_agent.is_empty()), (is_known, true), "{line}");
        }
    }

    #[test]
    fn an_escape_cut_in_half_by_a_width_stays_as_it_is() {
        let mut parser = Parser::default();
        let Event::Request(request) = parser.parse(b"192.0.2.1 GET /x Mozilla%2 -").unwrap().event else { panic!() };
        assert_eq!(request.user_agent.text().as_ref(), b"Mozilla%2");
    }

    /// Escapes a value as Squid's `%#` does.
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
        fn url_and_headers_never_change_the_address(
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
            prop_assert_eq!(super::address(line.as_bytes()), Some(query.address));
            let Event::Request(request) = query.event else { panic!() };
            prop_assert_eq!(request.url, &url[..]);
            // A header whose value is "-" looks like a missing one: Squid sends both alike.
            prop_assert!(*request.user_agent.text() == user_agent || user_agent == b"-");
            prop_assert!(request.sec_fetch_site == site || site == b"-");
        }

        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (_, rest) = split_id(&line);
            let _ = (address(rest), Parser::default().parse(rest));
        }
    }
}
