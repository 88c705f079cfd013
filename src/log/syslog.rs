//! Parses the header that a syslog daemon puts in front of a line: `Nov  1 10:00:00 web1 nginx[7]: `, the same with an ISO time as rsyslog
//! writes it by default since Debian 12, and with the priority as servers send it (RFC 3164, RFC 5424).

use super::readable_time;
use super::time::Zone;
use crate::time::Time;

/// A header, and what follows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyslogHeader<'a> {
    /// When the daemon got the line; none if only the year is missing and nobody said what year it is.
    pub time: Option<Time>,
    /// The name of the program, without its process ID.
    pub program: &'a [u8],
    pub text: &'a [u8],
}

/// The header at the start of a line, if it has one. A time without an offset is local time in `zone`.
#[must_use]
pub(super) fn header<'a>(line: &'a [u8], zone: &mut Zone) -> Option<SyslogHeader<'a>> {
    let (is_tagged, line) = match line.strip_prefix(b"<") {
        None => (false, line),
        Some(rest) => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let rest = rest.get(digits..)?.strip_prefix(b">").filter(|_| matches!(digits, 1..=3))?;
            (rest.starts_with(b"1 "), rest.strip_prefix(b"1 ").unwrap_or(rest))
        }
    };
    let (time, rest) = match line {
        // Any other line that starts with a digit is told apart by one byte, at no cost.
        [b'0'..=b'9', _, _, _, b'-', _, _, b'-', _, _, b'T', ..] => {
            let (time, rest) = readable_time::parse(line, zone)?;
            (Some(time), rest)
        }
        [b'A'..=b'S', b'a'..=b'u', b'b'..=b'y', b' ', _, b'0'..=b'9', b' ', _, _, b':', _, _, b':', _, b'0'..=b'9', rest @ ..] => {
            (readable_time::parse(line, zone).map(|(time, _)| time), rest)
        }
        _ => return None,
    };
    let rest = rest.strip_prefix(b" ")?;
    if is_tagged { structured(time, rest) } else { plain(time, rest) }
}

/// `web1 nginx[7]: text`; the host may be missing.
fn plain(time: Option<Time>, rest: &[u8]) -> Option<SyslogHeader<'_>> {
    let (first, behind) = word(rest)?;
    if let Some(program) = program(first) {
        return Some(SyslogHeader { time, program, text: behind });
    }
    let (second, text) = word(behind)?;
    Some(SyslogHeader { time, program: program(second)?, text })
}

/// RFC 5424, without structured data: `web1 nginx 7 ID - text`.
fn structured(time: Option<Time>, rest: &[u8]) -> Option<SyslogHeader<'_>> {
    let (_host, rest) = word(rest)?;
    let (program, rest) = word(rest)?;
    let (_process, rest) = word(rest)?;
    let (_message_id, rest) = word(rest)?;
    let (b"-", text) = word(rest)? else { return None };
    Some(SyslogHeader { time, program, text })
}

/// The program of a tag: `nginx:`, `exim[29786]:`, `(squid-1):`.
fn program(tag: &[u8]) -> Option<&[u8]> {
    let tag = tag.strip_suffix(b":")?;
    let tag = match tag.iter().position(|byte| *byte == b'[') {
        Some(at) if tag.ends_with(b"]") => tag.get(..at)?,
        _ => tag,
    };
    let name = tag.strip_prefix(b"(").and_then(|inside| inside.strip_suffix(b")")).unwrap_or(tag);
    // An IPv6 address that ends in a colon, or any other text, is no name.
    (!name.is_empty() && !name.contains(&b':')).then_some(name)
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b' ', text).filter(|end| *end > 0)?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOON: u64 = 1_793_534_400;

    fn zone() -> Zone {
        let mut zone = Zone::utc();
        zone.set_latest(Time::from_secs(NOON + 60));
        zone
    }

    #[test]
    fn the_headers_of_syslog_daemons_are_read() {
        for (header_text, program) in [
            ("Nov  1 12:00:00 web1 nginx: ", "nginx"),
            ("Nov  1 12:00:00 nginx: ", "nginx"),
            ("<190>Nov  1 12:00:00 web1 nginx: ", "nginx"),
            ("Nov  1 12:00:00 192.0.2.77 exim[29786]: ", "exim"),
            ("Nov  1 12:00:00 proxy (squid-1)[77]: ", "squid-1"),
            ("Nov  1 12:00:00 web1 ab[7: ", "ab[7"),
            ("2026-11-01T12:00:00+00:00 mx1 exim4[1]: ", "exim4"),
            ("2026-11-01T13:00:00.123456+01:00 mx1 exim[1]: ", "exim"),
            ("<22>1 2026-11-01T12:00:00Z mx1 exim 29786 - - ", "exim"),
        ] {
            let line = format!("{header_text}the text: of [it]");
            let found = header(line.as_bytes(), &mut zone()).unwrap_or_else(|| panic!("no header: {line}"));
            assert_eq!((found.program, found.text), (program.as_bytes(), &b"the text: of [it]"[..]), "{line}");
            assert_eq!(found.time.unwrap().secs(), NOON, "{line}");
        }
        let found = header(b"Nov  1 12:00:00 web1 nginx: x", &mut Zone::utc()).unwrap();
        assert_eq!((found.time, found.text), (None, &b"x"[..]), "the year is not known");
    }

    #[test]
    fn other_lines_have_no_header() {
        for line in [
            "",
            "<",
            "<>Nov  1 12:00:00 web1 nginx: x",
            "Nov  1 12:00:00 web1 says nothing: x",
            "Nov  1 12:00:00 web1",
            "Nov  1 12:00:00 web1 : x",
            "Nov  1 12:00:00 2001:db8::1: says x",
            "Nov  1 12:00:00  nginx: x",
            "Nov 31 web1 nginx: x",
            "2026-11-01 12:00:00 web1 nginx: x",
            "2026-11-23 01:02:03 H=(x) [192.0.2.1]: x",
            "192.0.2.1 - - [01/Nov/2026:12:00:00 +0000] \"GET / HTTP/1.1\" 200 1",
            "<22>1 2026-11-01T12:00:00Z mx1 exim 29786 - [x y=\"z\"] x",
        ] {
            assert_eq!(header(line.as_bytes(), &mut zone()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(start in proptest::sample::select(vec!["", "<1>", "<1>1 ", "Nov  1 12:00:00 ", "2026-11-01T12:00:00Z "]), bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = header(&[start.as_bytes(), &bytes].concat(), &mut zone());
        }
    }
}
