//! What tells two offences of a client apart, for rules that count different paths or queries once, and for successes that clear strikes.

use std::fmt;

use memchr::memchr;

use crate::event::Request;
use crate::event::path::path_and_query;
use crate::event::percent::decode;

/// Hashes of parts of a request. Two parts with the same hash count as one, so a collision blames nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Marks {
    /// Of the path as sent.
    pub path: u32,
    /// Of those parameters of the query that offend, decoded, or of the whole query.
    pub query: u32,
    /// Of the site and the first directory: a browser sends a password that was accepted for a page to all pages below its directory (RFC 7617,
    /// 2.2).
    pub area: u32,
}

impl Marks {
    /// The marks of `request`. `offends` says whether a parameter of the query is what offends: the others, such as the time of a dashboard
    /// that is loaded again and again, make no query a different one.
    #[must_use]
    pub fn of(request: &Request<'_>, mut offends: impl FnMut(&[u8]) -> bool) -> Self {
        let (path, query) = path_and_query(request.url);
        let mut offending = Hash::default();
        for parameter in parameters(query).filter(|parameter| offends(parameter)) {
            offending.add(&decode(parameter));
        }
        if offending == Hash::default() {
            offending.add(&decode(query));
        }
        // Neither a scheme nor an authority holds a question mark.
        let end = memchr(b'?', request.url).unwrap_or(request.url.len());
        let site = request.url.get(..end.saturating_sub(path.len())).unwrap_or_default();
        let directory = path.iter().skip(1).position(|byte| *byte == b'/').and_then(|at| path.get(..=at)).unwrap_or_default();
        let mut area = Hash::default();
        area.add(site);
        area.add(directory);
        let mut whole = Hash::default();
        whole.add(path);
        Self { path: whole.0, query: offending.0, area: area.0 }
    }

    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|number| u32::from_str_radix(number, 16).ok());
        let marks = Self { path: numbers.next()??, query: numbers.next()??, area: numbers.next()?? };
        numbers.next().is_none().then_some(marks)
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}.{:x}", self.path, self.query, self.area)
    }
}

/// The parameters of a query, each with its name.
pub(super) fn parameters(query: &[u8]) -> impl Iterator<Item = &[u8]> {
    query.split(|byte| *byte == b'&')
}

/// FNV-1a of 32 bits, which is the same in each process and after each upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hash(u32);

impl Default for Hash {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Hash {
    /// Adds a text and its end, so that the parts `a`, `bc` and `ab`, `c` differ.
    fn add(&mut self, text: &[u8]) {
        for byte in text.iter().chain(b"\0") {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marks(url: &str) -> Marks {
        let request = Request { url: url.as_bytes(), ..Request::default() };
        Marks::of(&request, |parameter| decode(parameter).windows(3).any(|word| word == b"bad"))
    }

    #[test]
    fn the_path_is_told_from_other_paths_but_not_by_its_query_or_site() {
        assert_eq!(marks("/a?x=1").path, marks("http://h/a?x=2").path);
        assert_ne!(marks("/a").path, marks("/b").path);
        assert_ne!(marks("/a").path, marks("/a/").path);
    }

    #[test]
    fn the_query_is_told_from_others_by_the_parameters_that_offend_or_if_there_are_none_as_a_whole() {
        assert_eq!(marks("/a?q=bad&t=1").query, marks("/b?t=2&q=b%61d").query);
        assert_ne!(marks("/a?q=bad1&t=1").query, marks("/a?q=bad2&t=1").query);
        assert_ne!(marks("/a?q=bad&r=bad").query, marks("/a?q=bad").query);
        assert_ne!(marks("/a?t=1").query, marks("/a?t=2").query);
    }

    #[test]
    fn the_area_is_the_site_and_the_first_directory() {
        assert_eq!(marks("http://h/dav/alice/x?a").area, marks("http://h/dav/bob").area);
        assert_eq!(marks("http://h/").area, marks("http://h/index.html?").area);
        for other in ["http://h/dav/x", "http://g/", "/"] {
            assert_ne!(marks("http://h/").area, marks(other).area, "{other}");
        }
    }

    proptest! {
        #[test]
        fn marks_survive_a_round_trip_and_no_text_or_url_panics(path: u32, query: u32, area: u32, text in ".{0,40}", url in proptest::collection::vec(any::<u8>(), 0..60)) {
            let marks = Marks { path, query, area };
            prop_assert_eq!(Marks::parse(&marks.to_string()), Some(marks));
            let _ = (Marks::parse(&text), Marks::of(&Request { url: &url, ..Request::default() }, |_| false));
        }
    }
}
