//! A parsed line without its text, which needs no borrow: one thread parses lines, another one judges them.

use std::net::IpAddr;

use super::access::{AccessLine, Asked, SquidResult};
use super::exim::EximLine;
use super::line::LogLine;
use crate::time::Time;

/// What was parsed of a line; [`LineOutline::on`] puts it and the line together again.
#[derive(Debug, Clone, Copy)]
pub struct LineOutline(Kind);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Access(AccessOutline),
    Exim(EximLine),
    OtherProgram,
    Unknown,
}

/// An [`AccessLine`] with places instead of texts.
#[derive(Debug, Clone, Copy)]
struct AccessOutline {
    time: Time,
    client: Option<IpAddr>,
    status: Option<u16>,
    credentials: Option<bool>,
    result: Option<SquidResult>,
    asked: Asked,
    method: Place,
    url: Place,
    user: Option<Place>,
    user_agent: Option<Place>,
    sec_fetch_site: Option<Place>,
    referer: Option<Place>,
}

/// Where a text is in its line, which has at most [`super::lines::MAX_LENGTH`] bytes.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u32,
    length: u32,
}

impl Place {
    fn of(text: &[u8], line: &[u8]) -> Self {
        let start = text.as_ptr().addr().checked_sub(line.as_ptr().addr());
        // An empty text need not be a part of the line.
        let start = start.filter(|start| !text.is_empty() && start + text.len() <= line.len());
        let place = start.and_then(|start| Some(Self { start: u32::try_from(start).ok()?, length: u32::try_from(text.len()).ok()? }));
        place.unwrap_or(Self { start: 0, length: 0 })
    }

    fn on(self, line: &[u8]) -> &[u8] {
        let (start, length) = (self.start as usize, self.length as usize);
        line.get(start..start + length).unwrap_or_default()
    }
}

impl LineOutline {
    /// The outline of `parsed`, whose texts are parts of `line`.
    #[must_use]
    pub fn of(parsed: &LogLine<'_>, line: &[u8]) -> Self {
        let place = |text: Option<&[u8]>| text.map(|text| Place::of(text, line));
        Self(match parsed {
            LogLine::Access(access) => Kind::Access(AccessOutline {
                time: access.time,
                client: access.client,
                status: access.status,
                credentials: access.credentials,
                result: access.result,
                asked: access.asked,
                method: Place::of(access.method, line),
                url: Place::of(access.url, line),
                user: place(access.user),
                user_agent: place(access.user_agent),
                sec_fetch_site: place(access.sec_fetch_site),
                referer: place(access.referer),
            }),
            LogLine::Exim(exim) => Kind::Exim(*exim),
            LogLine::OtherProgram => Kind::OtherProgram,
            LogLine::Unknown => Kind::Unknown,
        })
    }

    /// The parsed line, whose text `line` must be the same.
    #[must_use]
    pub fn on<'a>(&self, line: &'a [u8]) -> LogLine<'a> {
        match &self.0 {
            Kind::Access(access) => LogLine::Access(AccessLine {
                time: access.time,
                client: access.client,
                status: access.status,
                credentials: access.credentials,
                result: access.result,
                asked: access.asked,
                method: access.method.on(line),
                url: access.url.on(line),
                user: access.user.map(|place| place.on(line)),
                user_agent: access.user_agent.map(|place| place.on(line)),
                sec_fetch_site: access.sec_fetch_site.map(|place| place.on(line)),
                referer: access.referer.map(|place| place.on(line)),
            }),
            Kind::Exim(exim) => LogLine::Exim(*exim),
            Kind::OtherProgram => LogLine::OtherProgram,
            Kind::Unknown => LogLine::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::line::LineParser;
    use crate::log::time::Zone;
    use proptest::prelude::*;

    const LINES: [&str; 6] = [
        "1764400000.006     48 198.51.100.2 TCP_MISS/200 11982 GET http://www.example.org/index.html anna FIRSTUP_PARENT/127.0.0.1 text/html",
        "1764400000.006 198.51.100.2 403 TCP_DENIED GET http://site/%20a - agent referer none",
        "1764400000.006 198.51.100.2 200 TCP_MISS POST http://site/ password - - -",
        r#"192.0.2.1 - anna [23/Nov/2026:01:02:03 +0000] "GET / HTTP/1.1" 401 12 "http://r/" "agent" TCP_MISS:HIER_DIRECT"#,
        "2026-11-23 01:02:03 Connection from [192.0.2.1] refused: too many connections",
        "Nov 23 01:02:03 web1 app[7]: text",
    ];

    proptest! {
        #[test]
        fn outline_and_line_make_the_parsed_line_again(line in 0..LINES.len(), at in 0_usize..140, with in "[ -~]{0,3}") {
            let mut line = LINES[line].as_bytes().to_vec();
            let at = at.min(line.len());
            line.splice(at..(at + with.len() / 2).min(line.len()), with.bytes());
            let parsed = LineParser::new(Zone::utc(), true, true).parse(&line);
            let outline = LineOutline::of(&parsed, &line);
            let copy = line.clone();
            prop_assert_eq!(outline.on(&copy), parsed);
        }
    }
}
