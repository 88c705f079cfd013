//! Finds the client of a matching line, and the lines that could as well blame another one.
//!
//! An expression takes the first match in its own order. Text that a client writes can hold another, so a line is also read with the
//! earliest and the longest match, and with any text where the expression has brackets or quotes. If they take the address from different
//! places, a client may have written one of them, and nobody is blamed. fail2ban blames the address of the first match, or a part of an
//! address (`.*<ADDR>` on `client: 198.51.100.56` names 8.51.100.56).

use super::expression::{ADDRESSES, Expression};
use super::filter::Filter;
use super::regex::reorder::Order;
use super::regex::{MatchResult, Pattern, Spans};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An expression reached the backtracking limit.
pub struct GaveUp;

/// The first match of an expression.
pub fn search(pattern: &Pattern, text: &str) -> Result<Option<Spans>, GaveUp> {
    match pattern.search(text, 0) {
        MatchResult::Match(spans) => Ok(Some(spans)),
        MatchResult::No => Ok(None),
        MatchResult::GaveUp => Err(GaveUp),
    }
}

/// A line that a failregex matches.
pub struct Line<'a> {
    pub filter: &'a Filter,
    /// The failregex.
    pub expression: &'a Expression,
    /// The line without its date, with its line feed.
    pub text: &'a str,
    /// The lines of a match that joins several, without what the prefregex takes away, behind a line feed if the match begins with one.
    pub joined: Option<&'a str>,
}

/// The client that a line blames.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientOfLine {
    /// The client in the groups of the match.
    AsFound,
    /// This group with this address, of which the match took a part only.
    Is(&'static str, String),
    /// It could be another client, or the address is a part of something that is no address.
    Uncertain,
}

/// A range of bytes in the text of a line.
type Place = (usize, usize);

/// Where a match takes the client from.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    /// The groups of [`ADDRESSES`].
    addresses: [Option<Place>; 3],
    id: Option<Place>,
    /// What the prefregex leaves to the failregex.
    content: Option<Place>,
}

impl Places {
    fn of(pattern: &Pattern, spans: &Spans, offset: usize) -> Self {
        let place = |name: &str| {
            let (start, end) = spans.group(pattern.group(name)?)?;
            Some((start + offset, end + offset))
        };
        Self { addresses: ADDRESSES.map(place), id: place("fid"), content: place("content").filter(|(start, end)| start < end) }
    }

    /// Adds the places of a failregex to those of the prefregex, as [`Expression::add_to`] does.
    fn add(&mut self, pattern: &Pattern, own: Self) {
        if own.addresses.iter().any(Option::is_some) {
            for (place, name) in self.addresses.iter_mut().zip(ADDRESSES) {
                if pattern.group(name).is_some() {
                    *place = None;
                }
            }
        }
        for (place, own) in self.addresses.iter_mut().zip(own.addresses) {
            *place = own.or(*place);
        }
        self.id = own.id.or(self.id);
    }

    /// The group that is blamed, and its place: fail2ban prefers the groups in this order. An address counts as one in any group.
    fn client(&self, text: &str) -> Option<(&'static str, Place)> {
        let address = ADDRESSES.iter().zip(self.addresses).find_map(|(name, place)| Some((*name, place?)));
        let (name, place) = address.or_else(|| Some(("fid", self.id?)))?;
        let name = match text.get(place.0..place.1)?.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) if !is_address(name) => "ip4",
            Ok(IpAddr::V6(_)) if !is_address(name) => "ip6",
            _ => name,
        };
        Some((name, place))
    }
}

fn is_address(group: &str) -> bool {
    matches!(group, "ip4" | "ip6")
}

/// The orders of the prefregex and of the failregex in which a line is read besides the ones that are written.
const OTHER_READINGS: [(Option<Order>, Order); 4] =
    [(None, Order::Shortest), (None, Order::Longest), (Some(Order::Shortest), Order::Shortest), (Some(Order::Longest), Order::Longest)];

/// Finds the client that a matching line blames.
///
/// # Errors
/// An expression reached the backtracking limit.
pub fn client_of(line: &Line<'_>) -> Result<ClientOfLine, GaveUp> {
    let joined;
    let text = match line.joined {
        Some(lines) => {
            joined = format!("{lines}{}", line.text);
            joined.as_str()
        }
        None => line.text,
    };
    let part = |(start, end): Place| text.get(start..end).unwrap_or_default();
    // A match that depends on what stands before its lines cannot be read again.
    let Some(written) = places(line, None, None)? else { return Ok(ClientOfLine::Uncertain) };
    let Some((found, found_place)) = written.client(text) else { return Ok(ClientOfLine::AsFound) };
    let Some(mut client) = whole(text, found, found_place) else { return Ok(ClientOfLine::Uncertain) };
    // The addresses of which a reading takes the start.
    let mut begun = Vec::new();
    let mut add = |(start, _): Place, whole: Place| {
        if start == whole.0 {
            begun.push(part(whole));
        }
    };
    add(found_place, client.1);
    for (prefix, order) in OTHER_READINGS {
        // Without a prefregex, two of them are the same.
        if prefix.is_some() && line.filter.prefregex.is_none() {
            continue;
        }
        let Some(other) = places(line, prefix, Some(order))? else { continue };
        let differ = |mine: Option<Place>, theirs: Option<Place>| matches!((mine, theirs), (Some(mine), Some(theirs)) if part(mine).trim_end() != part(theirs).trim_end());
        // The content of the last line is among the joined lines already.
        if differ(written.id, other.id) || line.joined.is_some() && differ(written.content, other.content) {
            return Ok(ClientOfLine::Uncertain);
        }
        let Some((other_name, their_group)) = other.client(text) else { continue };
        let (name, mine) = client;
        if name == "fid" || other_name == "fid" {
            continue;
        }
        let Some((other_name, theirs)) = whole(text, other_name, their_group) else {
            if name == "dns" {
                continue;
            }
            return Ok(ClientOfLine::Uncertain);
        };
        add(their_group, theirs);
        if name == "dns" || other_name == "dns" {
            // Most words are host names to `<HOST>`; one with a full stop may be the client's.
            if name != "dns" && part(theirs).contains('.') && !overlap(mine, theirs) {
                return Ok(ClientOfLine::Uncertain);
            }
            if other_name != "dns" && overlap(mine, theirs) {
                client = (other_name, theirs);
            }
        } else if contains(theirs, mine) {
            client = (other_name, theirs);
        } else if !contains(mine, theirs) && (overlap(mine, theirs) || part(mine) != part(theirs)) {
            return Ok(ClientOfLine::Uncertain);
        }
    }
    let (name, place) = client;
    // What stands before the group in every reading may be a client's text that looks like the start of an address.
    if !begun.contains(&part(place)) {
        return Ok(ClientOfLine::Uncertain);
    }
    let is_as_found = found == name && part(found_place) == part(place);
    Ok(if is_as_found { ClientOfLine::AsFound } else { ClientOfLine::Is(name, part(place).to_owned()) })
}

fn contains(outer: Place, inner: Place) -> bool {
    outer.0 <= inner.0 && inner.1 <= outer.1
}

fn overlap(one: Place, other: Place) -> bool {
    one.0 < other.1 && other.0 < one.1
}

/// Where the match takes the client from, in the orders that are written or in others. The lines that it joins come before the last one.
fn places(line: &Line<'_>, prefix: Option<Order>, own: Option<Order>) -> Result<Option<Places>, GaveUp> {
    let in_order = |expression: &Expression, order: Option<Order>, text: &str| {
        search(order.map_or(expression.pattern(), |order| expression.reordered(order)), text)
    };
    let mut places = Places::default();
    let mut content = None;
    if let Some(prefregex) = &line.filter.prefregex {
        let Some(spans) = in_order(prefregex, prefix, line.text)? else { return Ok(None) };
        places = Places::of(prefregex.pattern(), &spans, line.joined.map_or(0, str::len));
        content = places.content.filter(|_| line.joined.is_none());
    }
    let (spans, offset) = match content {
        Some((start, end)) => {
            let content = format!("{}\n", line.text.get(start..end).unwrap_or_default());
            (in_order(line.expression, own, &content)?, start)
        }
        None => (in_order(line.expression, own, line.joined.unwrap_or(line.text))?, 0),
    };
    let Some(spans) = spans else { return Ok(None) };
    let pattern = line.expression.pattern();
    places.add(pattern, Places::of(pattern, &spans, offset));
    Ok(Some(places))
}

/// The whole address of which `place` may be a part; none if it is a part of something else, such as a host name.
fn whole(text: &str, group: &'static str, (start, end): Place) -> Option<(&'static str, Place)> {
    if !is_address(group) {
        return Some((group, (start, end)));
    }
    let before = text.get(..start)?;
    let after = text.get(end..)?;
    let is_digit = |character: char| character.is_ascii_digit();
    if group == "ip4" {
        let digits_before = before.len() - before.trim_end_matches(is_digit).len();
        let digits_after = after.len() - after.trim_start_matches(is_digit).len();
        let place = (start - digits_before, end + digits_after);
        // An IPv6 address can end with an IPv4 one; a mapped one is that IPv4 address.
        if let Some((longer, address)) = longer_ip6(text, place)
            && address.to_ipv4_mapped().is_none()
        {
            return Some(("ip6", longer));
        }
        let is_behind_number = text.get(..place.0)?.strip_suffix('.').is_some_and(|before| before.ends_with(is_digit));
        if is_behind_number || begins_name(text.get(place.1..)?) {
            return None;
        }
        let is_longer = place != (start, end);
        return (!is_longer || text.get(place.0..place.1)?.parse::<Ipv4Addr>().is_ok()).then_some(("ip4", place));
    }
    let dotted = after.len() - after.trim_start_matches(|character: char| character.is_ascii_digit() || character == '.').len();
    let dotted = after.get(..dotted)?.trim_end_matches('.').len();
    let place = if dotted > 0 && after.starts_with('.') && text.get(start..end + dotted)?.parse::<Ipv6Addr>().is_ok() {
        (start, end + dotted)
    } else if after.starts_with(|character: char| character.is_ascii_hexdigit()) {
        return None;
    } else {
        (start, end)
    };
    match longer_ip6(text, place) {
        Some((longer, _)) => Some(("ip6", longer)),
        None if before.ends_with(|character: char| character.is_ascii_hexdigit()) => None,
        None => Some(("ip6", place)),
    }
}

/// Maximum length of an IPv6 address, in characters (`INET6_ADDRSTRLEN` without its zero byte).
const MAX_IP6_LENGTH: usize = 45;

/// The longest IPv6 address that ends where `place` does and starts before it.
fn longer_ip6(text: &str, (start, end): Place) -> Option<(Place, Ipv6Addr)> {
    let before = text.get(..start)?;
    let first = before.trim_end_matches(|character: char| character.is_ascii_hexdigit() || character == ':').len();
    (first.max(end.saturating_sub(MAX_IP6_LENGTH))..start).find_map(|at| {
        let is_in_word = text.get(..at)?.ends_with(|character: char| character.is_alphanumeric() || character == '_');
        let address = text.get(at..end).filter(|_| !is_in_word)?.parse().ok()?;
        Some(((at, end), address))
    })
}

/// Whether the text behind an IPv4 address makes it a part of a host name (`192.0.2.1.example.org`) or of a word. A port may follow a full stop.
fn begins_name(after: &str) -> bool {
    let rest = after.trim_start_matches(|c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'));
    let tail = after.get(..after.len() - rest.len()).unwrap_or_default();
    if tail.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        return true;
    }
    let last = tail.trim_end_matches(['.', '-']).rsplit_once('.').map(|(_, last)| last);
    last.is_some_and(|last| last.starts_with(char::is_alphabetic))
}

#[cfg(test)]
mod tests {
    use super::super::matcher::{Host, Matcher};
    use super::*;
    use jiff::tz::TimeZone;
    use proptest::prelude::*;
    use std::sync::{Arc, LazyLock};

    fn filter(definition: &str) -> Arc<Filter> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.conf");
        std::fs::write(&path, format!("[Definition]\n{definition}\n")).expect("written");
        Arc::new(Filter::load(&path, &[]).expect("loaded"))
    }

    /// The address that a filter blames for the last of some lines.
    fn blames(filter: &Arc<Filter>, lines: &str) -> Option<String> {
        let mut matcher = Matcher::new(Arc::clone(filter), TimeZone::UTC);
        let found: Vec<_> = lines.lines().filter_map(|line| matcher.line(line.as_bytes(), 1_369_098_180.0)).collect();
        found.last().filter(|found| matches!(found.host, Host::Address(_))).map(|found| found.host.to_string())
    }

    fn blamed(definition: &str, lines: &str) -> Option<String> {
        blames(&filter(definition), lines)
    }

    #[test]
    fn a_part_of_an_address_is_never_blamed() {
        for expression in
            ["^.*denied.*<ADDR>.*$", "denied.*<ADDR>", r"^\S+ denied \S*<ADDR>", r"^.+denied.+?<ADDR>", "denied.*<HOST>,", "<ADDR>"]
        {
            let filter = filter(&format!("failregex = {expression}"));
            for address in ["198.51.100.56", "8.8.8.8", "2001:db8::56", "2001:db8:0:1:2:3:4:56", "fe80::1", "::1", "64:ff9b::c633:6438"] {
                for line in [
                    "[3] denied by rule, client: ADDRESS, server: x",
                    "x denied ADDRESS, x",
                    "x denied by-ADDRESS, x",
                    "x denied (ADDRESS), x",
                ] {
                    let line = line.replace("ADDRESS", address);
                    let found = blames(&filter, &line);
                    assert!(found.as_deref().is_none_or(|found| found == address), "{expression} blames {found:?} for {line:?}");
                }
            }
        }
        let first = |expression: &str, line: &str| blamed(&format!("failregex = {expression}"), line);
        assert_eq!(first("^.*denied.*<ADDR>.*$", "denied, client: 198.51.100.56, server: x").as_deref(), Some("198.51.100.56"));
        assert_eq!(first("^.*denied.*<ADDR>.*$", "denied, client: 2001:db8::56, server: x").as_deref(), Some("2001:db8::56"));
        assert_eq!(first(r"^denied \S*<ADDR>", "denied 198.51.100.56").as_deref(), Some("198.51.100.56"));
        assert_eq!(first(r"^denied \S*<ADDR>", "denied 2001:db8::56").as_deref(), Some("2001:db8::56"));
        assert_eq!(first(r"^denied \S+<ADDR>", "denied 198.51.100.56"), None, "the first digit may be a client's text");
        assert_eq!(first(r"^denied \S+<ADDR>", "denied 2001:db8::56"), None);
        assert_eq!(first(r"^denied \S+:<ADDR>", "denied 2001:db8::56"), None);
        assert_eq!(first(r"^denied \S+:<ADDR>", "denied :2001:db8::56"), None);
        assert_eq!(first(r"^denied \S+:<ADDR>", "denied user:2001:db8::56").as_deref(), Some("2001:db8::56"));
        assert_eq!(first("^denied .*<ADDR>", "denied 64:ff9b::198.51.100.56").as_deref(), Some("64:ff9b::c633:6438"));
        assert_eq!(first("^denied .*<ADDR>", "denied ::ffff:198.51.100.56").as_deref(), Some("198.51.100.56"));
    }

    #[test]
    fn a_text_that_looks_like_the_start_of_an_address_blames_nobody_else() {
        let failed = |line: &str| blamed(r"failregex = ^failed \S+:<ADDR>$", line);
        assert_eq!(failed("failed joe:192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(failed("failed joe:::ffff:192.0.2.1").as_deref(), Some("192.0.2.1"));
        for user in ["2001:db8:5:", ":2001:db8:5:", "x=2001:db8:5:", "2001:db8:5::0", "64:ff9b:"] {
            assert_eq!(failed(&format!("failed {user}:192.0.2.1")), None, "{user}");
        }
        assert_eq!(failed("failed 2001:db8:5:2001:db8::1"), None);
        assert_eq!(blamed(r"failregex = ^failed \S+<IP4>$", "failed 1192.0.2.1"), None);
    }

    #[test]
    fn a_part_of_a_host_name_or_a_number_is_never_blamed() {
        let denied = |line: &str| blamed("failregex = ^denied .*<ADDR>", line);
        for line in [
            "denied 192.0.2.1.example.org",
            "denied 7.192.0.2.1",
            "denied 192.0.2.1-static.example.org",
            "denied 192.0.2.1abc",
            "denied 192.0.2.1234",
        ] {
            assert_eq!(denied(line), None, "{line}");
        }
        for line in ["denied 192.0.2.1.", "denied 192.0.2.1-joe", "denied 192.0.2.1:x.y", "denied x=192.0.2.1/24", "denied 192.0.2.1, x"] {
            assert_eq!(denied(line).as_deref(), Some("192.0.2.1"), "{line}");
        }
    }

    #[test]
    fn a_port_may_follow_a_full_stop() {
        assert_eq!(blamed(r"failregex = ^IP <ADDR>\.\d+ >", "IP 192.0.2.1.51234 > x").as_deref(), Some("192.0.2.1"));
        assert_eq!(blamed(r"failregex = ^IP .*<ADDR>", "IP 192.0.2.1.51234 > x"), None, "where it could be 0.2.1.512");
    }

    #[test]
    fn a_line_that_could_blame_two_clients_blames_nobody() {
        for expression in
            ["^.*denied.*<ADDR>.*$", "denied .*?<ADDR>", "^denied .* ?from <HOST>", "from <HOST>", r"(?:for|from) <HOST>(?!x)"]
        {
            let expression = format!("failregex = {expression}");
            assert_eq!(blamed(&expression, "denied x from 192.0.2.1").as_deref(), Some("192.0.2.1"), "{expression}");
            assert_eq!(blamed(&expression, "denied x from 198.51.100.9 from 192.0.2.1"), None, "{expression}");
            assert_eq!(blamed(&expression, "denied x from 192.0.2.1 from 192.0.2.1").as_deref(), Some("192.0.2.1"), "{expression}");
        }
        let expression = "failregex = ^denied .*? from <HOST>";
        assert_eq!(blamed(expression, "denied x from 198.51.100.9 from evil.example"), None, "the client may be logged by its name");
        assert_eq!(blamed(expression, "denied x from 192.0.2.1 far from home").as_deref(), Some("192.0.2.1"));
        let sound = "failregex = ^denied .* from <HOST>$";
        assert_eq!(blamed(sound, "denied x from 198.51.100.9 from 192.0.2.1").as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn text_in_brackets_that_could_end_them_blames_nobody() {
        let exim = r"failregex = ^ H=(?:\w+ )?\(\S+\) \[<HOST>\](?::\d+)?(?: F=(?:<>|[^@]+@\S+))? rejected RCPT [^@]+@\S+: denied$";
        assert_eq!(blamed(exim, " H=x (y) [192.0.2.1]:7 F=<a@b> rejected RCPT <c@d>: denied").as_deref(), Some("192.0.2.1"));
        assert_eq!(blamed(exim, " H=(x) [198.51.100.9] F=<q>) [192.0.2.1]:7 F=<a@b> rejected RCPT <c@d>: denied"), None);
        let quoted = "failregex = ^ user \"[^\"]*\" from <HOST>, .*$";
        assert_eq!(blamed(quoted, " user \"x\" from 192.0.2.1, said \"y\"").as_deref(), Some("192.0.2.1"));
        assert_eq!(blamed(quoted, " user \"x\" from 192.0.2.1, said \"y\" from 198.51.100.9, z"), None, "the name may be all up to y");
        assert_eq!(blamed(quoted, " user \"x\" from 198.51.100.9, \" from 192.0.2.1, said y"), None);
    }

    #[test]
    fn the_prefix_is_read_in_every_way_too() {
        let definition = "prefregex = prog: <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^denied \\S+ from <HOST>";
        assert_eq!(blamed(definition, "x prog: denied a from 192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(blamed(definition, "x prog: denied a from 192.0.2.1 prog: denied b from 198.51.100.9"), None);
        let definition = "prefregex = ^\\S+(?: \\S+)* prog: <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^denied \\S+,<HOST>(?:,\\S*)?$";
        assert_eq!(blamed(definition, "x prog: denied a,192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(blamed(definition, "x prog: denied a,192.0.2.1,198.51.100.9"), None);
        let definition = "prefregex = ^.*\\(<ADDR>\\): <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^bad";
        assert_eq!(blamed(definition, "a(192.0.2.1): bad").as_deref(), Some("192.0.2.1"));
        assert_eq!(blamed(definition, "a(192.0.2.1): bad (198.51.100.9): bad"), None);
    }

    #[test]
    fn an_identifier_that_is_an_address_must_be_certain_too() {
        let definition = "failregex = ^bad .* id=<F-ID>\\S+</F-ID>";
        assert_eq!(blamed(definition, "bad x id=192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(blamed(definition, "bad x id=192.0.2.1 id=198.51.100.9"), None);
        let definition = r"failregex = ^bad \S*<F-ID>\d+\.\d+\.\d+\.\d+</F-ID>";
        assert_eq!(blamed(definition, "bad 198.51.100.56"), None, "it may be 8.51.100.56");
        assert_eq!(blamed(r"failregex = ^bad x<F-ID>\S+</F-ID>", "bad x198.51.100.56").as_deref(), Some("198.51.100.56"));
        assert_eq!(blamed(r"failregex = ^bad \d<F-ID>\S+</F-ID>", "bad 198.51.100.56"), None);
        assert_eq!(blamed(r"failregex = ^bad \d<DNS>", "bad 198.51.100.56"), None);
    }

    #[test]
    fn joined_lines_are_read_without_what_is_skipped() {
        let definition = "failregex = ^failed .*<SKIPLINES>^left <ADDR>.*$\nmaxlines = 5";
        assert_eq!(blamed(definition, "failed x\nother\nleft 192.0.2.1 x").as_deref(), Some("192.0.2.1"));
        let definition = "failregex = ^failed .*\\n^.*left .*<ADDR>\nmaxlines = 5";
        assert_eq!(blamed(definition, "failed x\nx left 198.51.100.9 left 192.0.2.1"), None);
    }

    #[test]
    fn the_prefix_of_joined_lines_is_read_in_every_way_too() {
        let definition = "prefregex = ^.*\\(<ADDR>\\): <F-CONTENT>.+</F-CONTENT>$\nfailregex = ^failed\\n^left$\nmaxlines = 5";
        assert_eq!(blamed(definition, "a(192.0.2.1): failed\na(192.0.2.1): left").as_deref(), Some("192.0.2.1"));
        assert_eq!(blamed(definition, "a(192.0.2.1): failed\na(192.0.2.1): (198.51.100.9): left"), None);
    }

    #[test]
    fn a_match_may_begin_with_the_line_feed_of_the_line_before() {
        let definition = "failregex = \\nfailed .*<ADDR>\nmaxlines = 5";
        assert_eq!(blamed(definition, "x\nfailed 198.51.100.56").as_deref(), Some("198.51.100.56"));
        assert_eq!(blamed(definition, "failed 198.51.100.56"), None, "there is no line before");
        assert_eq!(blamed(definition, "x\nfailed 198.51.100.9 from 198.51.100.56"), None);
        let definition = "failregex = \\n+(?:.*\\n)?failed <ADDR>$\nmaxlines = 5";
        assert_eq!(blamed(definition, "x\n\ny\nfailed 198.51.100.56").as_deref(), Some("198.51.100.56"));
    }

    #[test]
    fn a_match_that_depends_on_the_text_of_a_line_before_its_own_blames_nobody() {
        assert_eq!(blamed("failregex = (?<=x\\n)failed .*<ADDR>\nmaxlines = 5", "x\nfailed 198.51.100.56"), None);
    }

    const SLOPPY: [&str; 5] = ["^.*a.*<ADDR>.*$", r"a\S*<ADDR>", "<HOST>", "^[^b]*<ADDR>", "a.*?<ADDR>:"];

    static SLOPPY_FILTERS: LazyLock<Vec<Arc<Filter>>> =
        LazyLock::new(|| SLOPPY.iter().map(|expression| filter(&format!("failregex = {expression}"))).collect());

    proptest! {
        #[test]
        fn whatever_surrounds_an_address_no_part_of_it_is_blamed(
            number in 0..SLOPPY.len(),
            before in "[ab0-9:. \\[]{0,8}",
            after in "[ab0-9:. \\]]{0,8}",
            address in proptest::sample::select(vec!["198.51.100.56", "203.0.113.199", "2001:db8:77::56", "2001:db8:1:2:3:4:5:56"]),
        ) {
            let line = format!("a{before} {address} {after}");
            if let Some(found) = blames(&SLOPPY_FILTERS[number], &line) {
                let is_part = address.contains(&found) && address != found;
                prop_assert!(!is_part || before.contains(&found) || after.contains(&found), "{:?} blames {found}: {line:?}", SLOPPY[number]);
            }
        }
    }
}
