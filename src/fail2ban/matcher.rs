//! Applies a filter to the lines of one log: fail2ban's `Filter.processLine` and `findFailure`.

use super::ambiguity::{ClientOfLine, GaveUp, Line, client_of, search};
use super::dates::{DateDetector, DateInLine};
use super::expression::{ADDRESSES, Groups};
use super::filter::Filter;
use super::line_buffer::LineBuffer;
use super::pending::Connections;
use ipnet::IpNet;
use jiff::tz::TimeZone;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::client::is_single;

/// How long the last date read stands in for lines without one, in seconds.
const DATE_VALIDITY: f64 = 60.0;

/// The client that a line blames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address; an IPv4-mapped one as IPv4.
    Address(IpAddr),
    /// A network (`<SUBNET>`, `<CIDR>`).
    Network(IpNet),
    /// A host name or another identifier that is no address. Host names are never looked up.
    Text(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A failure that a line completes: fail2ban's `FailTicket` before it is counted.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundFailure {
    /// The client to blame.
    pub host: Host,
    /// The identifier that fail2ban counts by (`<F-ID>`), if the filter names one that is not the host.
    pub id: Option<String>,
    /// The date in the line, in seconds since 1970.
    pub time: Option<f64>,
    /// The time at which fail2ban counts the failure: the line's date, else the last date read if that is less than a minute old, else now.
    pub counted_at: f64,
    /// Index of the failregex that matched.
    pub expression: usize,
}

/// A filter's state from line to line of one log.
#[derive(Debug)]
pub struct Matcher {
    filter: Arc<Filter>,
    dates: DateDetector,
    connections: Connections,
    /// The last lines that are part of no failure yet, where an expression joins several.
    lines: Option<LineBuffer>,
    last_date: Option<f64>,
    gave_up: u64,
    uncertain: u64,
    text: String,
    /// Whether a line that could blame two clients still blames the one that fail2ban would.
    is_trusting: bool,
}

impl Matcher {
    /// A matcher before its first line. Dates without a zone are in `local` unless the filter names a zone.
    #[must_use]
    pub fn new(filter: Arc<Filter>, local: TimeZone) -> Self {
        let dates = DateDetector::new(&filter.dates, local, filter.default_offset);
        let lines = filter.joins_lines().then(|| LineBuffer::new(filter.max_lines));
        Self {
            filter,
            dates,
            connections: Connections::default(),
            lines,
            last_date: None,
            gave_up: 0,
            uncertain: 0,
            text: String::new(),
            is_trusting: false,
        }
    }

    /// A matcher that blames the client that fail2ban blames, even if the expression could blame another client of the same line.
    #[must_use]
    pub fn trusting(filter: Arc<Filter>, local: TimeZone) -> Self {
        Self { is_trusting: true, ..Self::new(filter, local) }
    }

    /// The filter that it applies.
    #[must_use]
    pub fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// Number of lines on which an expression reached the backtracking limit; they match nothing.
    #[must_use]
    pub fn gave_up(&self) -> u64 {
        self.gave_up
    }

    /// Number of lines that match but could blame another client, and so blame nobody.
    #[must_use]
    pub fn uncertain(&self) -> u64 {
        self.uncertain
    }

    /// The failure that a line completes, if any. `now` is in seconds since 1970.
    ///
    /// The line may hold any bytes, and may end with a line feed.
    pub fn line(&mut self, line: &[u8], now: f64) -> Option<FoundFailure> {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches(['\r', '\n']);
        let recent = self.last_date.filter(|date| *date > now - DATE_VALIDITY);
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let mut time = None;
        match self.dates.find(line, now) {
            DateInLine::Present { cut: (start, end), time: date } if date.is_some() || recent.is_none() => {
                time = date;
                text.push_str(line.get(..start).unwrap_or_default());
                text.push_str(line.get(end..).unwrap_or_default());
            }
            DateInLine::Present { .. } | DateInLine::Absent | DateInLine::Empty => text.push_str(line),
        }
        text.push('\n');
        self.last_date = time.or(self.last_date);
        let found = self.failure(&text, now);
        self.text = text;
        let (host, id, expression) = match found {
            Ok(found) => found?,
            Err(GaveUp) => {
                self.gave_up = self.gave_up.saturating_add(1);
                // Or the same lines would exhaust the limit again and again, and hide the failures that come after.
                if let Some(lines) = &mut self.lines {
                    lines.clear();
                }
                return None;
            }
        };
        Some(FoundFailure { host, id, time, counted_at: time.or(recent).unwrap_or(now), expression })
    }

    fn failure(&mut self, text: &str, now: f64) -> Result<Option<(Host, Option<String>, usize)>, GaveUp> {
        let filter = Arc::clone(&self.filter);
        // fail2ban tries the ignoreregexes first where they are few. With several lines, that would let one ignored line hide the next.
        if self.lines.is_none() && filter.ignoreregex.len() + 2 < filter.failregex.len() && ignored(&filter, text)? {
            return Ok(None);
        }
        let mut before = Groups::new();
        let mut content = None;
        // fail2ban tries the prefregex on all lines of the buffer together, where it hardly ever matches (`findFailure`). Here each line has
        // its own, and the buffer holds the contents.
        if let Some(prefregex) = &filter.prefregex {
            let Some(spans) = search(prefregex.pattern(), text)? else { return Ok(None) };
            before = prefregex.groups(text, &spans);
            content = before.remove("content").filter(|content| !content.is_empty());
        }
        let content = content.map(|content| content + "\n");
        let whole = text;
        let text = content.as_deref().unwrap_or(text);
        if let Some(lines) = &mut self.lines {
            lines.push(text);
        }
        for (number, expression) in filter.failregex.iter().enumerate() {
            let joined = self.lines.as_mut().filter(|_| expression.spans_lines());
            let searched = joined.as_deref().map_or(text, LineBuffer::text);
            let Some(spans) = search(expression.pattern(), searched)? else { continue };
            let mut found = before.clone();
            expression.add_to(&mut found, expression.groups(searched, &spans));
            // The line feed of the line before, if the match begins with it.
            let mut before_joined = "";
            let matched = match (joined, spans.group(0)) {
                (Some(lines), Some(place)) => {
                    before_joined = if lines.text().as_bytes().get(place.0) == Some(&b'\n') { "\n" } else { "" };
                    Some(lines.take(place, &expression.skipped(&spans)))
                }
                _ => {
                    if let Some(lines) = &mut self.lines {
                        lines.pop();
                    }
                    None
                }
            };
            if !filter.ignoreregex.is_empty() && ignored(&filter, matched.as_deref().unwrap_or(text))? {
                return Ok(None);
            }
            if !self.is_trusting {
                let joined = matched.map(|matched| format!("{before_joined}{matched}"));
                match client_of(&Line { filter: &filter, expression, text: whole, joined: joined.as_deref() })? {
                    ClientOfLine::AsFound => {}
                    ClientOfLine::Is(name, address) => {
                        for other in ADDRESSES {
                            found.remove(other);
                        }
                        found.insert(name.to_owned(), address);
                    }
                    ClientOfLine::Uncertain => {
                        self.uncertain = self.uncertain.saturating_add(1);
                        return Ok(None);
                    }
                }
            }
            let blame = match found.get("mlfid").cloned() {
                Some(id) => self.connections.merge(&id, found, now, |failure| {
                    if failure.has("nofail") {
                        return None;
                    }
                    let blame = blame(&failure.groups);
                    if blame.is_none() {
                        failure.pending = true;
                    }
                    blame
                }),
                None => blame(&found),
            };
            return Ok(blame.map(|(host, id)| (host, id, number)));
        }
        Ok(None)
    }
}

fn ignored(filter: &Filter, text: &str) -> Result<bool, GaveUp> {
    for expression in &filter.ignoreregex {
        if search(expression.pattern(), text)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The client to blame, and the identifier to count by if that is something else.
fn blame(groups: &Groups) -> Option<(Host, Option<String>)> {
    let cidr = || groups.get("cidr").filter(|cidr| !cidr.is_empty());
    let id = groups.get("fid");
    let (text, host) = if let Some(text) = groups.get("ip4") {
        (text, network(text.parse::<Ipv4Addr>().ok().map(IpAddr::V4), cidr(), text))
    } else if let Some(text) = groups.get("ip6") {
        (text, network(text.parse::<Ipv6Addr>().ok().map(IpAddr::V6), cidr(), text))
    } else {
        let text = groups.get("dns").or(id)?;
        (text, network(text.parse::<IpAddr>().ok(), None, text))
    };
    Some((host, id.filter(|id| *id != text).cloned()))
}

fn network(address: Option<IpAddr>, cidr: Option<&String>, text: &str) -> Host {
    let Some(address) = address else { return Host::Text(text.to_owned()) };
    let Some(cidr) = cidr else { return Host::Address(address.to_canonical()) };
    match cidr.parse::<u8>().ok().and_then(|bits| IpNet::new(address, bits).ok()) {
        Some(network) if is_single(network) => Host::Address(address.to_canonical()),
        Some(network) => Host::Network(network.trunc()),
        None => Host::Text(format!("{text}/{cidr}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2013-05-21 01:03:00 UTC.
    const NOW: f64 = 1_369_098_180.0;

    fn matcher(definition: &str) -> Matcher {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.conf");
        std::fs::write(&path, format!("[Definition]\n{definition}")).expect("written");
        Matcher::new(Arc::new(Filter::load(&path, &[]).expect("loaded")), TimeZone::UTC)
    }

    fn host(found: Option<FoundFailure>) -> Option<String> {
        found.map(|found| found.host.to_string())
    }

    #[test]
    fn the_date_is_cut_out_before_the_expressions_are_tried() {
        let mut matcher = matcher("failregex = ^ host x: bad <HOST>$\n");
        let found = matcher.line(b"May 21 01:01:52 host x: bad 192.0.2.1\n", NOW).expect("found");
        assert_eq!((found.host, found.time), (Host::Address("192.0.2.1".parse().expect("an address")), Some(1_369_098_112.0)));
        assert_eq!(host(matcher.line(b"host x: bad 192.0.2.1", NOW)), None);
    }

    #[test]
    fn a_line_without_a_date_has_no_time() {
        let mut matcher = matcher("failregex = ^bad <HOST>$\n");
        let found = matcher.line(b"bad 192.0.2.1", NOW).expect("found");
        assert_eq!((found.time, found.counted_at), (None, NOW));
        matcher.line(b"2013-05-21 01:02:30 x", NOW);
        let found = matcher.line(b"bad 192.0.2.1", NOW).expect("found");
        assert_eq!((found.time, found.counted_at), (None, 1_369_098_150.0));
    }

    #[test]
    fn an_ignored_line_is_no_failure() {
        let mut matcher = matcher("failregex = bad <HOST>\nignoreregex = good\n");
        assert_eq!(host(matcher.line(b"bad 192.0.2.1", NOW)).as_deref(), Some("192.0.2.1"));
        assert_eq!(host(matcher.line(b"bad 192.0.2.1 good", NOW)), None);
    }

    #[test]
    fn a_failregex_sees_only_the_content_of_the_prefix() {
        let mut matcher = matcher("prefregex = ^x\\[(?:<F-ID>\\d+</F-ID>)\\]: <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^bad <ADDR>$\n");
        let found = matcher.line(b"x[7]: bad 192.0.2.1", NOW).expect("found");
        assert_eq!((found.host.to_string().as_str(), found.id.as_deref()), ("192.0.2.1", Some("7")));
        assert_eq!(host(matcher.line(b"bad 192.0.2.1", NOW)), None);
    }

    #[test]
    fn addresses_are_canonical_and_names_stay_text() {
        let mut matcher = matcher("failregex = ^<SUBNET>$\n  ^to <HOST>$\n");
        let mut all = |line: &str| host(matcher.line(line.as_bytes(), NOW)).expect(line);
        assert_eq!(all("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(all("2001:DB8:0::1"), "2001:db8::1");
        assert_eq!(all("192.0.2.77/24"), "192.0.2.0/24");
        assert_eq!(all("192.0.2.77/99"), "192.0.2.77/99");
        assert_eq!(all("999.0.2.77"), "999.0.2.77");
        assert_eq!(all("to a.example"), "a.example");
    }

    #[test]
    fn the_address_of_an_earlier_line_is_blamed_for_a_later_line_of_its_connection() {
        let mut matcher = matcher(
            "prefregex = ^<F-MLFID>\\d+</F-MLFID>: <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^<F-NOFAIL>from</F-NOFAIL> <HOST>$\n  ^bad$\n  ^<F-MLFFORGET>bye</F-MLFFORGET>$\n",
        );
        assert_eq!(host(matcher.line(b"1: from 192.0.2.1", NOW)), None);
        assert_eq!(host(matcher.line(b"2: bad", NOW)), None);
        assert_eq!(host(matcher.line(b"1: bad", NOW)).as_deref(), Some("192.0.2.1"));
        assert_eq!(host(matcher.line(b"2: from 192.0.2.2", NOW)).as_deref(), Some("192.0.2.2"), "its failure was pending");
    }

    /// The hosts that several lines blame, one after the other.
    fn hosts(matcher: &mut Matcher, lines: &str) -> Vec<String> {
        lines.lines().filter_map(|line| host(matcher.line(line.as_bytes(), NOW))).collect()
    }

    #[test]
    fn an_address_that_takes_no_part_leaves_that_of_the_prefix() {
        let mut matcher = matcher("prefregex = ^a\\(<HOST>\\): <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^(?:b\\(<ADDR>\\): )?bad\n");
        assert_eq!(host(matcher.line(b"a(192.0.2.1): bad", NOW)).as_deref(), Some("192.0.2.1"));
        assert_eq!(host(matcher.line(b"a(192.0.2.1): b(192.0.2.2): bad", NOW)).as_deref(), Some("192.0.2.2"));
        assert_eq!(host(matcher.line(b"a(192.0.2.1): b(2001:db8::2): bad", NOW)).as_deref(), Some("2001:db8::2"));
        assert_eq!(host(matcher.line(b"a(a.example): b(2001:db8::2): bad", NOW)).as_deref(), Some("2001:db8::2"));
        assert_eq!(host(matcher.line(b"a: b(192.0.2.2): bad", NOW)), None);
    }

    #[test]
    fn maxlines_does_not_join_lines_for_expressions_over_one_line() {
        let mut matcher = matcher("failregex = ^bad [^,]+, \\w+ <HOST>$\n  ^worse\\s<HOST>$\nmaxlines = 20\n");
        assert_eq!(hosts(&mut matcher, "bad x\n, from 192.0.2.1\nworse\n192.0.2.2"), [""; 0]);
        assert_eq!(hosts(&mut matcher, "bad x, from 192.0.2.1\nworse 192.0.2.2"), ["192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn an_expression_over_several_lines_joins_those_that_are_part_of_no_failure_yet() {
        let definition = "failregex = ^user \\S+ failed<SKIPLINES>^client <HOST> left$\n  ^refused <HOST>$\n";
        let mut three = matcher(&format!("{definition}maxlines = 3\n"));
        assert_eq!(hosts(&mut three, "user a failed\nclient 192.0.2.1 left"), ["192.0.2.1"]);
        assert_eq!(hosts(&mut three, "client 192.0.2.1 left"), [""; 0], "its line is used up");
        assert_eq!(hosts(&mut three, "user a failed\nx\nclient 192.0.2.2 left"), ["192.0.2.2"]);
        assert_eq!(hosts(&mut three, "user a failed\nrefused 192.0.2.3\nx\nclient 192.0.2.4 left"), ["192.0.2.3", "192.0.2.4"]);
        assert_eq!(hosts(&mut three, "user a failed\nx\nx\nclient 192.0.2.5 left"), [""; 0], "too far apart");
        let mut ignoring = matcher(&format!("{definition}maxlines = 3\nignoreregex = user b\n"));
        assert_eq!(hosts(&mut ignoring, "user b failed\nclient 192.0.2.1 left\nclient 192.0.2.2 left"), [""; 0]);
    }

    #[test]
    fn the_date_of_several_lines_is_that_of_the_last() {
        let mut matcher = matcher("failregex = ^ a\\n <HOST>$\nmaxlines = 2\n");
        assert_eq!(matcher.line(b"May 21 01:01:52 a", NOW), None);
        let found = matcher.line(b"May 21 01:01:53 192.0.2.1", NOW).expect("found");
        assert_eq!((found.host.to_string().as_str(), found.time), ("192.0.2.1", Some(1_369_098_113.0)));
    }

    #[test]
    fn lines_that_exhaust_the_backtracking_limit_are_forgotten() {
        let mut matcher = matcher("failregex = ^a\\n((a|aa)+)+(?<!a)<HOST>$\nmaxlines = 9\n");
        let long = "a".repeat(80);
        assert_eq!(hosts(&mut matcher, &format!("a\n{long}192.0.2.1")), [""; 0]);
        assert_eq!(matcher.gave_up(), 1);
        assert_eq!(hosts(&mut matcher, "a\nab\nx"), [""; 0]);
        assert_eq!(matcher.gave_up(), 1);
    }

    #[test]
    fn a_line_may_hold_any_bytes() {
        let mut matcher = matcher("failregex = bad <HOST>\n");
        assert_eq!(host(matcher.line(b"\xff\xfe\0 bad 192.0.2.1 \xc3", NOW)).as_deref(), Some("192.0.2.1"));
        assert_eq!(host(matcher.line(b"", NOW)), None);
        assert_eq!(host(matcher.line(b"\r\n", f64::NAN)), None);
    }

    #[test]
    fn a_line_that_reaches_the_backtracking_limit_matches_nothing_and_is_counted() {
        let mut matcher = matcher("failregex = ^<HOST> ((a|aa)+)+(?<!a)$\n");
        assert_eq!(host(matcher.line(format!("192.0.2.1 {}", "a".repeat(80)).as_bytes(), NOW)), None);
        assert_eq!(matcher.gave_up(), 1);
    }
}
