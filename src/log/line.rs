//! One line of a log, parsed once. Exim's and access logs' lines are told apart by their first bytes, behind a syslog daemon's header by
//! the program that it names.

use std::net::IpAddr;

use super::access::{self, AccessLine};
use super::exim::{self, EximLine};
use super::syslog;
use super::time::{Zone, exim as exim_time};
use crate::event::Service;
use crate::event::exim_kind::EximKind;
use crate::time::Time;

/// A parsed line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLine<'a> {
    /// A line of an access log.
    Access(AccessLine<'a>),
    /// A line of Exim's.
    Exim(EximLine),
    /// A line of another program's, behind a syslog daemon's header.
    OtherProgram,
    /// Any other line.
    Unknown,
}

impl LogLine<'_> {
    /// The line's own time.
    #[must_use]
    pub fn time(&self) -> Option<Time> {
        match self {
            Self::Access(line) => Some(line.time),
            Self::Exim(line) => line.time,
            Self::OtherProgram | Self::Unknown => None,
        }
    }

    /// The client that the line is about, and the service that it used.
    #[must_use]
    pub fn client(&self) -> Option<(IpAddr, Service)> {
        match self {
            // Squid 5.7 logs `::` for a request that it answers 417 (Expect): it has not noted the address yet.
            Self::Access(line) => line.client.filter(|client| !client.is_unspecified()).map(|client| (client, Service::Web)),
            Self::Exim(line) => line.client.map(|client| (client, Service::Mail)),
            Self::OtherProgram | Self::Unknown => None,
        }
    }

    /// Whether the line records a refusal by Strikeout itself. Such lines never count, or a ban would prolong itself.
    #[must_use]
    pub fn is_our_refusal(&self) -> bool {
        match self {
            Self::Access(line) => line.is_our_refusal(),
            Self::Exim(line) => line.kind == EximKind::OurRefusal,
            Self::OtherProgram | Self::Unknown => false,
        }
    }

    /// Whether nothing in the line was left open. Most lines of Exim's are about no client; an access log's line always is about one.
    #[must_use]
    pub fn is_understood(&self) -> bool {
        match self {
            Self::Access(line) => line.client.is_some() || line.is_no_request(),
            Self::Exim(line) => line.time.is_some() && (line.client.is_some() || line.kind == EximKind::Other),
            Self::OtherProgram | Self::Unknown => false,
        }
    }
}

/// Parses lines of the formats that some rule of a log needs.
#[derive(Debug)]
pub struct LineParser {
    zone: Zone,
    pub(super) reads_access: bool,
    pub(super) reads_exim: bool,
}

impl LineParser {
    /// A parser of access log lines, Exim's lines, or both. Local times are in `zone`.
    #[must_use]
    pub fn new(zone: Zone, reads_access: bool, reads_exim: bool) -> Self {
        Self { zone, reads_access, reads_exim }
    }

    /// Tells what time it is; see [`Zone::set_latest`].
    pub fn set_latest(&mut self, now: Time) {
        self.zone.set_latest(now);
    }

    /// The zone of local times.
    #[must_use]
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Whether the last line's time was a local one.
    pub fn take_is_local(&mut self) -> bool {
        self.zone.take_is_used()
    }

    /// Parses a line, which comes without its newline.
    #[must_use]
    pub fn parse<'a>(&mut self, line: &'a [u8]) -> LogLine<'a> {
        if is_exim(line) {
            // Squid can be told to write such a time as well.
            if self.reads_access && may_be_squids(line) {
                let parsed = self.reads_exim.then(|| exim::parse(line, &mut self.zone));
                if parsed.is_none_or(|line| line.kind == EximKind::Other)
                    && let Some(line) = access::native_with_readable_time(line, &mut self.zone)
                {
                    return LogLine::Access(line);
                }
                return parsed.map_or(LogLine::Unknown, LogLine::Exim);
            }
            return if self.reads_exim { exims(line, &mut self.zone) } else { LogLine::Unknown };
        }
        let parsed = match syslog::header(line, &mut self.zone) {
            Some(header) if is_exims_program(header.program) => {
                return if self.reads_exim { LogLine::Exim(exim_behind(&header, &mut self.zone)) } else { LogLine::Unknown };
            }
            Some(header) => {
                // The line has a time of its own, which may have an offset.
                self.zone.take_is_used();
                return self.access(|zone| access::parse(header.text, zone)).unwrap_or(LogLine::OtherProgram);
            }
            None => self.access(|zone| access::parse(line, zone)),
        };
        parsed.unwrap_or(LogLine::Unknown)
    }

    fn access<'a>(&mut self, parse: impl FnOnce(&mut Zone) -> Option<AccessLine<'a>>) -> Option<LogLine<'a>> {
        if self.reads_access { parse(&mut self.zone).map(LogLine::Access) } else { None }
    }
}

/// Whether a line starts as all of Exim's do: `2026-11-23 `.
fn is_exim(line: &[u8]) -> bool {
    matches!(line, [b'0'..=b'9', _, _, _, b'-', _, _, b'-', _, _, b' ', ..])
}

/// A line of Exim's.
fn exims<'a>(line: &[u8], zone: &mut Zone) -> LogLine<'a> {
    // By itself, so that the compiler writes the result where the caller wants it; see `exim::message`.
    #[inline(never)]
    fn behind_time<'a>(time: Time, text: &[u8]) -> LogLine<'a> {
        LogLine::Exim(exim::message(Some(time), text))
    }
    match exim_time(line, zone) {
        Some((time, text)) => behind_time(time, text),
        None => LogLine::Exim(exim::OTHER),
    }
}

/// Whether a line that starts with Exim's time may be of Squid's native format all the same.
fn may_be_squids(line: &[u8]) -> bool {
    // Behind `2026-11-23 01:02:03`, most lines of Exim's have a message ID or a word: they end here, before anything is parsed.
    let Some(behind) = line.get(19..) else { return false };
    let has_more_time = !matches!(behind, [b' ', next, ..] if !matches!(next, b'+' | b'-'));
    has_more_time || access::may_be_native(behind)
}

/// Whether syslog lines of this program are Exim's. Those of others may start with a client's text that looks like Exim's.
fn is_exims_program(program: &[u8]) -> bool {
    program.starts_with(b"exim")
}

/// A line of Exim's behind a syslog daemon's header. Exim puts its own time there as well unless `syslog_timestamp` is off.
fn exim_behind(header: &syslog::SyslogHeader<'_>, zone: &mut Zone) -> EximLine {
    if !is_exim(header.text) {
        return exim::message(header.time, header.text);
    }
    zone.take_is_used();
    exim::parse(header.text, zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: &str = r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET / HTTP/1.1" 200 12 "-" "-""#;
    const REFUSED: &str = "2026-11-23 01:02:03 Connection from [192.0.2.1] refused: too many connections";

    fn parser(reads_access: bool, reads_exim: bool) -> LineParser {
        LineParser::new(Zone::utc(), reads_access, reads_exim)
    }

    #[test]
    fn a_line_is_told_by_its_beginning_and_parsed_if_its_format_is_read() {
        for (reads_access, reads_exim) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut parser = parser(reads_access, reads_exim);
            assert_eq!(matches!(parser.parse(ACCESS.as_bytes()), LogLine::Access(_)), reads_access);
            assert_eq!(matches!(parser.parse(REFUSED.as_bytes()), LogLine::Exim(_)), reads_exim);
            assert_eq!(parser.parse(b"something else"), LogLine::Unknown);
        }
    }

    #[test]
    fn a_line_of_exims_that_names_no_client_still_has_its_time() {
        let line = parser(false, true).parse(b"2026-11-23 01:02:03 1qHd2z-0003Xb-1A Completed");
        assert_eq!((line.time(), line.client(), line.is_understood()), (Some(Time::from_secs(1_795_395_723)), None, true));
    }

    #[test]
    fn a_syslog_header_in_front_makes_no_difference() {
        let mut parser = parser(true, true);
        parser.set_latest(Time::from_secs(1_795_400_000));
        for start in ["Nov 23 01:02:03 web1 nginx: ", "<190>Nov 23 01:02:03 nginx: ", "2026-11-23T02:02:03.5+01:00 web1 nginx[7]: "] {
            let line = format!("{start}{ACCESS}");
            assert_eq!(
                parser.parse(line.as_bytes()),
                LogLine::Access(access::parse(ACCESS.as_bytes(), &mut Zone::utc()).unwrap()),
                "{start}"
            );
        }
        let refused = LogLine::Exim(exim::parse(REFUSED.as_bytes(), &mut Zone::utc()));
        for start in ["Nov 23 01:02:03 mx1 exim[29786]: ", "2026-11-23T01:02:03Z mx1 exim4: "] {
            let line = format!("{start}{REFUSED}");
            assert_eq!(parser.parse(line.as_bytes()), refused, "{start} and Exim's own time");
            let line = format!("{start}{}", &REFUSED[20..]);
            assert_eq!(parser.parse(line.as_bytes()), refused, "{start}");
        }
    }

    #[test]
    fn only_exims_own_lines_in_a_shared_syslog_are_read_as_exims() {
        let line = format!("2026-11-23T01:02:03Z mx1 webform[7]: {REFUSED}");
        assert_eq!(parser(true, true).parse(line.as_bytes()), LogLine::OtherProgram, "what a form logs may be a client's text");
    }

    #[test]
    fn a_line_of_squids_with_an_iso_time_is_told_from_exims() {
        let line = b"2026-11-23 01:02:03      4 192.0.2.1 TCP_DENIED/403 498 GET http://site/x - HIER_NONE/- text/html";
        for reads_exim in [true, false] {
            let LogLine::Access(access) = parser(true, reads_exim).parse(line) else { panic!("another format") };
            assert_eq!((access.client, access.time), (Some("192.0.2.1".parse().unwrap()), Time::from_secs(1_795_395_723)));
        }
        for more in [".456", ",456", " +0000", ".456 -0000"] {
            let line = String::from_utf8_lossy(line).replace("01:02:03", &format!("01:02:03{more}"));
            let LogLine::Access(access) = parser(true, false).parse(line.as_bytes()) else { panic!("another format: {line}") };
            assert_eq!((access.client, access.time.secs()), (Some("192.0.2.1".parse().unwrap()), 1_795_395_723), "{line}");
        }
        assert_eq!(parser(false, true).parse(line).client(), None);
    }

    #[test]
    fn a_line_names_its_client_and_service_unless_the_address_is_not_known_yet() {
        let mut parser = parser(true, true);
        let mut client = |line: &str| parser.parse(line.as_bytes()).client();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!([ACCESS, REFUSED, "?"].map(&mut client), [Some((address, Service::Web)), Some((address, Service::Mail)), None]);
        assert_eq!(client(&ACCESS.replace("192.0.2.1", "::")), None);
    }

    #[test]
    fn refusals_by_strikeout_itself_are_told_from_others() {
        let mut parser = parser(true, true);
        let mut is_our_refusal = |line: &str| parser.parse(line.as_bytes()).is_our_refusal();
        let ours = "2026-11-23 01:02:03 H=[192.0.2.1] temporarily rejected connection in \"connect\" ACL: strikeout: defer rule=w00tw00t";
        assert!(is_our_refusal(ours));
        assert!(![ACCESS, REFUSED, "?"].map(is_our_refusal).contains(&true));
    }

    #[test]
    fn the_parser_knows_whether_the_last_time_was_a_local_one() {
        let mut parser = parser(true, true);
        let mut is_local = |line: &str| {
            let _ = parser.parse(line.as_bytes());
            parser.take_is_local()
        };
        assert!(is_local(REFUSED));
        assert!(!is_local(ACCESS) && !is_local(&REFUSED.replace("01:02:03", "01:02:03 +0000")));
        assert!(!is_local(&format!("2026-11-23T01:02:03 web1 nginx: {ACCESS}")), "the line's own time has an offset");
    }

    #[test]
    fn only_lines_with_a_client_or_known_to_have_none_are_understood() {
        let mut parser = parser(true, true);
        let mut is_understood = |line: &str| parser.parse(line.as_bytes()).is_understood();
        assert!(is_understood(ACCESS) && is_understood(REFUSED));
        assert!(!is_understood(&ACCESS.replace("192.0.2.1", "client.example")));
        assert!(!is_understood(
            "2026-11-23 01:02:03 H=(x) [8.8.8.8] F=<a@b> rejected RCPT <(y) [198.51.100.7] F=<a@b> rejected RCPT <c@d>: no"
        ));
        assert!(!is_understood("2026-11-23 25:02:03 Completed") && !is_understood("") && !is_understood("?"));
    }
}
