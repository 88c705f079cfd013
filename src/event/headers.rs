//! The headers of a request that Squid hands over beside its other fields, for rules over `header`.

use std::borrow::Cow;

use memchr::memchr;

use super::Header;

/// Maximum number of headers that a helper takes.
pub const MAX_HEADERS: usize = 64;
/// Maximum length of a header's name.
const MAX_NAME: usize = 64;
/// Bytes of a value, as the client sent it, that rules look at. An attack stands at the beginning; what is behind is not looked at.
pub const MAX_VALUE: usize = 4096;

/// Bytes of a value that evidence shows.
const MAX_SHOWN: usize = 200;

/// Headers that are fields of a query by themselves, and have keys of their own in rules where `header` does not see them.
const OWN_FIELDS: [&str; 3] = ["user-agent", "referer", "sec-fetch-site"];

/// The names of headers, in lower case, in the order in which Squid hands over their values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderNames(Vec<Box<str>>);

impl HeaderNames {
    /// Checks the names.
    ///
    /// # Errors
    /// A name is no header's (RFC 9110, 5.1), is there twice or has a field of its own; or there are too many.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut checked: Vec<Box<str>> = Vec::new();
        for name in names {
            let name = name.trim().to_ascii_lowercase();
            if !is_name(&name) {
                return Err(format!("found {name:?}, expected the name of a header"));
            }
            if OWN_FIELDS.contains(&name.as_str()) {
                return Err(format!("found {name:?}, which has a field of its own before the headers; expected others"));
            }
            if checked.iter().any(|known| **known == *name) {
                return Err(format!("found {name:?} twice, expected each header once"));
            }
            checked.push(name.into());
        }
        if checked.len() > MAX_HEADERS {
            return Err(format!("found {} headers, expected at most {MAX_HEADERS}", checked.len()));
        }
        Ok(Self(checked))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether `name` is a token (RFC 9110, 5.6.2) of acceptable length.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte))
}

/// The values of headers, each escaped as by Squid's `%#` and behind a space, in the order of their names. A missing one is `-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers<'a> {
    names: &'a [Box<str>],
    values: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Headers with these names. A value that is not there is as one that the client did not send.
    #[must_use]
    pub fn new(names: &'a HeaderNames, values: &'a [u8]) -> Self {
        Self { names: &names.0, values }
    }

    /// The headers that the client sent, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Header<'a>)> + use<'a> {
        let mut rest = self.values;
        let mut names = self.names.iter();
        std::iter::from_fn(move || {
            loop {
                rest = rest.trim_ascii_start();
                let (value, behind) = rest.split_at(memchr(b' ', rest).unwrap_or(rest.len()));
                rest = behind;
                let name = names.next().filter(|_| !value.is_empty())?;
                // Squid sends a missing header, an empty one and one that is a hyphen alike.
                if value != b"-" {
                    return Some((&**name, Header::escaped(value)));
                }
            }
        })
    }
}

/// Headers that own their text: what an operator gives to `strikeout test`.
#[derive(Debug, Clone, Default)]
pub struct OwnedHeaders {
    names: HeaderNames,
    values: Vec<u8>,
}

impl OwnedHeaders {
    /// Headers from lines such as `Cookie: a=b`.
    ///
    /// # Errors
    /// A line is no header, or its name cannot be taken.
    pub fn new<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("found {line:?}, expected NAME: VALUE"))?;
            names.push(name);
            values.push(b' ');
            let value = value.trim();
            values.extend(if value.is_empty() {
                b"-".to_vec()
            } else {
                value.bytes().flat_map(|byte| format!("%{byte:02X}").into_bytes()).collect()
            });
        }
        Ok(Self { names: HeaderNames::new(names)?, values })
    }

    #[must_use]
    pub fn as_headers(&self) -> Headers<'_> {
        Headers::new(&self.names, &self.values)
    }
}

/// Writes `name: value` as rules over `header` see it: in one line whatever the client sent, and no more than [`MAX_VALUE`] of the value.
pub fn write_line(name: &str, value: Header<'_>, line: &mut Vec<u8>) {
    line.clear();
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b": ");
    let start = line.len();
    // Escapes are three bytes long at most, so this is enough and a longer value is not decoded in vain.
    let text = head(value, 3 * MAX_VALUE);
    line.extend_from_slice(text.get(..MAX_VALUE).unwrap_or(&text));
    for byte in line.iter_mut().skip(start).filter(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        *byte = b' ';
    }
}

/// The first `max` bytes of a value as the server wrote it, decoded.
fn head(value: Header<'_>, max: usize) -> Cow<'_, [u8]> {
    Header { bytes: value.bytes.get(..max).unwrap_or(value.bytes), ..value }.text()
}

/// The value as evidence shows it, where it may be shown: what logs somebody in is not written to files.
#[must_use]
pub fn shown<'a>(name: &str, value: Header<'a>) -> Cow<'a, [u8]> {
    let is_secret = ["cookie", "auth", "token", "key", "session", "secret", "password"].iter().any(|word| name.contains(word));
    if is_secret { Cow::Borrowed(b"(not shown)") } else { head(value, MAX_SHOWN) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(names: &[&str], values: &[u8]) -> Vec<String> {
        let names = HeaderNames::new(names.iter().copied()).unwrap();
        let mut line = Vec::new();
        let text = |(name, value): (&str, Header<'_>)| {
            write_line(name, value, &mut line);
            String::from_utf8_lossy(&line).into_owned()
        };
        Headers::new(&names, values).iter().map(text).collect()
    }

    #[test]
    fn values_get_their_names_by_position_and_a_hyphen_is_a_missing_header() {
        assert_eq!(lines(&["Cookie", "X-Api-Version", "Next-Action"], b" a%3Db - x"), ["cookie: a=b", "next-action: x"]);
        assert_eq!(lines(&["Cookie", "Accept"], b" - -"), [""; 0]);
        assert_eq!(lines(&["Cookie", "Accept"], b" a"), ["cookie: a"], "the rest is unknown");
        assert_eq!(lines(&["Cookie"], b" a b"), ["cookie: a"], "a value without a name");
    }

    #[test]
    fn a_value_is_one_line_whatever_it_holds() {
        assert_eq!(lines(&["Cookie"], b"a%0D%0ANext-Action:%20x%00%ff"), ["cookie: a  Next-Action: x \u{fffd}"]);
    }

    #[test]
    fn what_is_behind_the_first_bytes_of_a_value_is_not_looked_at() {
        let (plain, escaped) = ("a".repeat(100_000), "%41".repeat(100_000));
        for values in [plain, escaped] {
            let line = lines(&["Cookie"], values.as_bytes()).remove(0);
            assert_eq!(line.len(), "cookie: ".len() + MAX_VALUE);
        }
    }

    #[test]
    fn names_are_checked() {
        for (names, found) in [
            (vec!["a b"], "\"a b\""),
            (vec![""], "\"\""),
            (vec!["cookie:"], "\"cookie:\""),
            (vec!["Referer"], "\"referer\", which has a field of its own"),
            (vec!["Cookie", "cookie"], "\"cookie\" twice"),
        ] {
            let error = HeaderNames::new(names).unwrap_err();
            assert!(error.starts_with(&format!("found {found}")), "{error}");
        }
        let many: Vec<String> = (0..=MAX_HEADERS).map(|number| format!("x-{number}")).collect();
        assert_eq!(HeaderNames::new(many.iter().map(String::as_str)).unwrap_err(), "found 65 headers, expected at most 64");
    }

    #[test]
    fn evidence_shows_no_secret() {
        for (name, is_shown) in
            [("cookie", false), ("authorization", false), ("x-api-key", false), ("content-type", true), ("next-action", true)]
        {
            assert_eq!(shown(name, Header::plain(b"value")).as_ref() == b"value", is_shown, "{name}");
        }
    }

    #[test]
    fn an_operators_headers_are_read_as_squids() {
        let headers = OwnedHeaders::new(["Cookie: a=b; c=%20", "X-Empty:", "next-action:x"]).unwrap();
        let found: Vec<_> = headers.as_headers().iter().map(|(name, value)| (name, value.text().into_owned())).collect();
        assert_eq!(found, [("cookie", b"a=b; c=%20".to_vec()), ("next-action", b"x".to_vec())]);
        assert!(OwnedHeaders::new(["Cookie"]).is_err());
    }

    proptest! {
        #[test]
        fn no_values_make_it_panic(values in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'%'), Just(b'-'), any::<u8>()], 0..80)) {
            let _ = lines(&["a", "b", "c"], &values);
        }
    }
}
