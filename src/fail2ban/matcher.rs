//! A filter over the lines of one log: fail2ban's `processLine` and `findFailure`, for filters of one line.

use super::expression::{Expression, Groups};
use super::filter::Filter;
use super::pending::Connections;
use crate::python_regex::Outcome;
use crate::timestamp::{DateInLine, Detector};
use ipnet::IpNet;
use jiff::tz::TimeZone;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// How long a date counts for lines without one, in seconds.
const DATE_COUNTS: f64 = 60.0;

/// Who is blamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address, IPv4-mapped IPv6 as IPv4.
    Address(IpAddr),
    /// A network (`<SUBNET>`, `<CIDR>`).
    Network(IpNet),
    /// A host name, or an identifier that is no address. Names are never looked up.
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

/// A failure that a line completes.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Who is blamed.
    pub host: Host,
    /// What fail2ban counts by, where the filter says so (`<F-ID>`) and it is not the host.
    pub id: Option<String>,
    /// The moment that the line itself says, in seconds since 1970.
    pub time: Option<f64>,
    /// The moment that fail2ban would count it at: the line's, or the last one read if that is less than a minute ago, or the present.
    pub counted_at: f64,
    /// Which failregex matched, from 0.
    pub expression: usize,
}

/// What a filter remembers from line to line of one log.
#[derive(Debug)]
pub struct Matcher {
    filter: Arc<Filter>,
    dates: Detector,
    connections: Connections,
    last_date: Option<f64>,
    gave_up: u64,
    text: String,
}

impl Matcher {
    /// A matcher that has seen no line. Dates without a zone are in `local`, unless the filter names another.
    #[must_use]
    pub fn new(filter: Arc<Filter>, local: TimeZone) -> Self {
        let dates = Detector::new(&filter.dates, local, filter.default_offset);
        Self { filter, dates, connections: Connections::default(), last_date: None, gave_up: 0, text: String::new() }
    }

    /// The filter.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// How many lines were given up because an expression took too many steps: they match nothing.
    #[must_use]
    pub fn gave_up(&self) -> u64 {
        self.gave_up
    }

    /// The failure that a line completes, if it does. `now` is the present, in seconds since 1970.
    ///
    /// The line may hold any bytes; a line end may follow.
    pub fn line(&mut self, line: &[u8], now: f64) -> Option<Found> {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches(['\r', '\n']);
        let recent = self.last_date.filter(|date| *date > now - DATE_COUNTS);
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let mut time = None;
        match self.dates.find(line, now) {
            DateInLine::Present { cut: (start, end), moment } if moment.is_some() || recent.is_none() => {
                time = moment;
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
                return None;
            }
        };
        Some(Found { host, id, time, counted_at: time.or(recent).unwrap_or(now), expression })
    }

    fn failure(&mut self, text: &str, now: f64) -> Result<Option<(Host, Option<String>, usize)>, GaveUp> {
        let filter = Arc::clone(&self.filter);
        // With few ignoreregexes they are tried first.
        if filter.ignoreregex.len() + 2 < filter.failregex.len() && ignored(&filter, text)? {
            return Ok(None);
        }
        let mut before = Groups::new();
        let mut content = None;
        if let Some(prefregex) = &filter.prefregex {
            let Some(()) = groups(prefregex, text, &mut before)? else { return Ok(None) };
            content = before.remove("content").filter(|content| !content.is_empty());
        }
        let content = content.map(|content| content + "\n");
        let text = content.as_deref().unwrap_or(text);
        for (number, expression) in filter.failregex.iter().enumerate() {
            let mut found = before.clone();
            let Some(()) = groups(expression, text, &mut found)? else { continue };
            if !filter.ignoreregex.is_empty() && ignored(&filter, text)? {
                return Ok(None);
            }
            let blame = match found.get("mlfid").cloned() {
                Some(id) => self.connections.merge(&id, found, now, |failure| {
                    if failure.says("nofail") {
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

/// The limit of the backtracking engine was reached.
struct GaveUp;

fn groups(expression: &Expression, text: &str, groups: &mut Groups) -> Result<Option<()>, GaveUp> {
    match expression.pattern().search(text, 0) {
        Outcome::Match(spans) => {
            expression.collect(text, &spans, groups);
            Ok(Some(()))
        }
        Outcome::No => Ok(None),
        Outcome::GaveUp => Err(GaveUp),
    }
}

fn ignored(filter: &Filter, text: &str) -> Result<bool, GaveUp> {
    for expression in &filter.ignoreregex {
        match expression.pattern().search(text, 0) {
            Outcome::Match(_) => return Ok(true),
            Outcome::No => {}
            Outcome::GaveUp => return Err(GaveUp),
        }
    }
    Ok(false)
}

/// Who is blamed, and by what it is counted if that is something else.
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
        Some(network) if network.prefix_len() == network.max_prefix_len() => Host::Address(address.to_canonical()),
        Some(network) => Host::Network(network.trunc()),
        None => Host::Text(format!("{text}/{cidr}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2013-05-21 01:01:52 UTC and a minute and a bit.
    const NOW: f64 = 1_369_098_180.0;

    fn matcher(definition: &str) -> Matcher {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.conf");
        std::fs::write(&path, format!("[Definition]\n{definition}")).expect("written");
        Matcher::new(Arc::new(Filter::load(&path, &[]).expect("loaded")), TimeZone::UTC)
    }

    fn host(found: Option<Found>) -> Option<String> {
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
    fn what_is_ignored_blames_nobody() {
        let mut matcher = matcher("failregex = bad <HOST>\nignoreregex = good\n");
        assert_eq!(host(matcher.line(b"bad 192.0.2.1", NOW)).as_deref(), Some("192.0.2.1"));
        assert_eq!(host(matcher.line(b"bad 192.0.2.1 good", NOW)), None);
    }

    #[test]
    fn the_content_of_the_prefix_is_all_that_is_matched() {
        let mut matcher = matcher("prefregex = ^x\\[(?:<F-ID>\\d+</F-ID>)\\]: <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^bad <ADDR>$\n");
        let found = matcher.line(b"x[7]: bad 192.0.2.1", NOW).expect("found");
        assert_eq!((found.host.to_string().as_str(), found.id.as_deref()), ("192.0.2.1", Some("7")));
        assert_eq!(host(matcher.line(b"bad 192.0.2.1", NOW)), None);
    }

    #[test]
    fn addresses_are_canonical_and_names_are_kept() {
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
    fn an_address_of_an_earlier_line_is_blamed_for_a_later_one() {
        let mut matcher = matcher(
            "prefregex = ^<F-MLFID>\\d+</F-MLFID>: <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^<F-NOFAIL>from</F-NOFAIL> <HOST>$\n  ^bad$\n  ^<F-MLFFORGET>bye</F-MLFFORGET>$\n",
        );
        assert_eq!(host(matcher.line(b"1: from 192.0.2.1", NOW)), None);
        assert_eq!(host(matcher.line(b"2: bad", NOW)), None);
        assert_eq!(host(matcher.line(b"1: bad", NOW)).as_deref(), Some("192.0.2.1"));
        assert_eq!(host(matcher.line(b"2: from 192.0.2.2", NOW)).as_deref(), Some("192.0.2.2"), "its failure was waiting");
    }

    #[test]
    fn any_bytes_are_a_line() {
        let mut matcher = matcher("failregex = bad <HOST>\n");
        assert_eq!(host(matcher.line(b"\xff\xfe\0 bad 192.0.2.1 \xc3", NOW)).as_deref(), Some("192.0.2.1"));
        assert_eq!(host(matcher.line(b"", NOW)), None);
        assert_eq!(host(matcher.line(b"\r\n", f64::NAN)), None);
    }

    #[test]
    fn a_line_that_takes_too_many_steps_matches_nothing_and_is_counted() {
        let mut matcher = matcher("failregex = ^<HOST> ((a|aa)+)+(?<!a)$\n");
        assert_eq!(host(matcher.line(format!("192.0.2.1 {}", "a".repeat(80)).as_bytes(), NOW)), None);
        assert_eq!(matcher.gave_up(), 1);
    }
}
