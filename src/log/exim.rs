//! Parses lines of Exim's main and reject log: the kind of the line, and the one socket address that Exim itself wrote into it.
//!
//! Exim puts text of the client's (HELO, sender, login, command) into the same line, even before the address. The formats are those of
//! `host_and_ident` and the `log_write` calls in Exim 4.96 to 4.99 (`smtp_in.c`, `receive.c`, `daemon.c`, `tls.c`).
//!
//! A line is read from its start by Exim's own format, and the first address at a place where Exim writes one is the client's. With
//! `helo_accept_junk_hosts` a later one could be the true one instead, so a line with two different addresses at such places blames nobody:
//! a missed offence is better than a ban of somebody else.

use super::time::{Zone, exim as exim_time};
use crate::client::parse_address_bytes;
use crate::event::exim_kind::EximKind;
use crate::time::Time;
use memchr::memmem;
use std::net::IpAddr;

/// A parsed line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EximLine {
    /// The line's own time. Some lines have none, such as the message headers that Exim copies into the reject log.
    pub time: Option<Time>,
    /// The socket address that Exim wrote; none if the line has none or is ambiguous.
    pub client: Option<IpAddr>,
    pub kind: EximKind,
    /// The local port of an [`EximKind::Connection`], logged with `log_selector = +incoming_interface`.
    pub local_port: Option<u16>,
}

impl EximLine {
    const fn new(kind: EximKind, client: Option<IpAddr>) -> Self {
        Self { time: None, client, kind, local_port: None }
    }
}

/// What Exim appends to a line that did not fit into its buffer. The true address may be in the part that was dropped.
const OVERFLOWED: &[u8] = b"**** log string overflowed log buffer ****";

/// Text in the messages of the example ACLs for Exim; see [`EximKind::OurRefusal`].
const OUR_MARK: &[u8] = b"strikeout";

/// Parses a line, which comes without its newline. A time without an offset is local time in `zone`.
#[must_use]
pub fn parse(line: &[u8], zone: &mut Zone) -> EximLine {
    match exim_time(line, zone) {
        Some((time, text)) => message(Some(time), text),
        None => OTHER,
    }
}

/// Parses what follows the time of a line.
#[must_use]
pub fn message(time: Option<Time>, text: &[u8]) -> EximLine {
    let text = without_id(without_pid(without_program(text.trim_ascii_end())));
    // Nothing borrows `line`, so the compiler writes it where the caller wants it. A copy would stall the processor for longer than most
    // lines take: it has just written the address in parts, and would read it whole.
    let mut line = parse_text(text);
    line.time = time;
    if matches!(line.kind, EximKind::Connection) {
        line.local_port = local_port(text);
    }
    if matches!(text, [.., b'*']) && text.ends_with(OVERFLOWED) {
        line.client = None;
    }
    line
}

/// Strips `mx1 exim[29786]: `, which a syslog daemon may put behind a time of its own. No text of the client's comes this early.
fn without_program(text: &[u8]) -> &[u8] {
    let after = memchr::memchr(b' ', text).and_then(|host| text.get(host + 1..)).and_then(|rest| rest.strip_prefix(b"exim"));
    let after = after.map(|rest| rest.strip_prefix(b"4").unwrap_or(rest)).and_then(|rest| rest.strip_prefix(b"["));
    let Some(pid) = after else { return text };
    match pid.get(pid.iter().take_while(|byte| byte.is_ascii_digit()).count()..) {
        Some([b']', b':', b' ', rest @ ..]) => rest,
        _ => text,
    }
}

/// Strips `[22093] `, which `log_selector = +pid` puts behind the time.
fn without_pid(text: &[u8]) -> &[u8] {
    let Some(inside) = text.strip_prefix(b"[") else { return text };
    let digits = inside.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match inside.get(digits..) {
        Some([b']', b' ', rest @ ..]) if digits > 0 => rest,
        _ => text,
    }
}

/// Strips a message ID and a space: `1qHd2z-0003Xb-1A`, since Exim 4.97 `1qHd2z-00000003XbX-1A0s`.
fn without_id(text: &[u8]) -> &[u8] {
    for (middle, last) in [(6, 2), (11, 4)] {
        let length = 6 + 1 + middle + 1 + last;
        let Some((id, [b' ', rest @ ..])) = text.split_at_checked(length) else { continue };
        if id.iter().enumerate().all(|(at, byte)| if at == 6 || at == 7 + middle { *byte == b'-' } else { byte.is_ascii_alphanumeric() }) {
            return rest;
        }
    }
    text
}

/// The kind and the client of a line, without its time.
fn parse_text(text: &[u8]) -> EximLine {
    // The most frequent prefixes first. Each test compares a few bytes, so lines about no client, most of a log, end here at once.
    if let Some(rest) = text.strip_prefix(b"H=") {
        rejected(rest)
    } else if let Some(rest) = text.strip_prefix(b"<= ") {
        accepted(rest)
    } else if let Some(rest) = text.strip_prefix(b"Connection from ") {
        refused(rest)
    } else if let Some(rest) = text.strip_prefix(b"SMTP ") {
        smtp(rest)
    } else if let Some(rest) = text.strip_prefix(b"no MAIL in ") {
        let rest = rest.strip_prefix(b"TFO* ").or_else(|| rest.strip_prefix(b"TFO ")).unwrap_or(rest);
        after(rest, b"SMTP connection from ", EximKind::NoMail, |tail| tail.starts_with(b" D="))
    } else if let Some(rest) = text.strip_prefix(b"TLS error on ") {
        let rest = rest.strip_prefix(b"SMTP ").unwrap_or(rest);
        after(rest, b"connection from ", EximKind::TlsError, |tail| tail.starts_with(b" ("))
    } else if let Some(rest) = text.strip_prefix(b"rejected ") {
        rejected_command(rest)
    } else if let Some(rest) = text.strip_prefix(b"temporarily rejected \"") {
        helo_not_verified(rest)
    } else if let Some(rest) = text.strip_prefix(b"unqualified ") {
        let rest = rest.strip_prefix(b"sender ").or_else(|| rest.strip_prefix(b"recipient ")).unwrap_or_default();
        let is_end = |tail: &[u8]| tail.is_empty() || tail.starts_with(b" (");
        rest.strip_prefix(b"rejected: <").map_or(OTHER, |rest| behind(rest, b"> H=", is_end).into_kind(|_| EximKind::Unqualified))
    } else if let Some(rest) = text.strip_prefix(b"too many recipients: ") {
        let rest = rest.strip_prefix(b"message rejected: sender=<").or_else(|| rest.strip_prefix(b"excess temporarily rejected: sender=<"));
        rest.map_or(OTHER, |rest| behind(rest, b"> H=", <[u8]>::is_empty).into_kind(|_| EximKind::TooManyRecipients))
    } else if let Some(rest) = text.strip_prefix(b"refused connection from ") {
        host_address(rest, |tail| tail == b" (host_reject_connection)").into_kind(|_| EximKind::HostRefused)
    } else if let Some(rest) = text.strip_prefix(b"temporarily refused connection from ") {
        host_address(rest, |tail| tail.starts_with(b": not in reserve list")).into_kind(|_| EximKind::ReserveRefused)
    } else {
        authenticator(text)
    }
}

/// A line that blames nobody.
pub(super) const OTHER: EximLine = EximLine::new(EximKind::Other, None);

/// A host behind `words`, which are all Exim's own.
fn after(text: &[u8], words: &[u8], kind: EximKind, follows: impl Fn(&[u8]) -> bool) -> EximLine {
    text.strip_prefix(words).map_or(OTHER, |host| host_address(host, follows).into_kind(|_| kind))
}

/// What follows `rejected ` at the start of a line: a HELO that was not accepted, or a MAIL command.
fn rejected_command(text: &[u8]) -> EximLine {
    if let Some(rest) = text.strip_prefix(b"\"") {
        helo_not_verified(rest)
    } else if let Some(rest) = text.strip_prefix(b"MAIL FROM:<") {
        behind(rest, b"> H=", |tail| tail.starts_with(b": message too big: size")).into_kind(|_| EximKind::MessageTooBig)
    } else if let Some(rest) = text.strip_prefix(b"MAIL command ") {
        let is_end = |tail: &[u8]| tail == b": too many messages in one connection";
        host_address(rest, is_end).into_kind(|_| EximKind::TooManyMessages)
    } else {
        let invalid = |tail: &[u8]| tail.starts_with(b": syntactically invalid argument(s)") || tail == b": no HELO/EHLO given";
        let commands: [&[u8]; 3] = [b"EHLO from ", b"HELO from ", b"MAIL from "];
        let host = commands.iter().find_map(|command| text.strip_prefix(*command));
        host.map_or(OTHER, |host| host_address(host, invalid).into_kind(|_| EximKind::RejectedHelo))
    }
}

/// `EHLO name" from H`: `helo_verify_hosts` asks for a HELO that belongs to the client.
fn helo_not_verified(text: &[u8]) -> EximLine {
    let is_helo = text.starts_with(b"EHLO ") || text.starts_with(b"HELO ");
    if is_helo { behind(text, b"\" from ", <[u8]>::is_empty).into_kind(|_| EximKind::RejectedHelo) } else { OTHER }
}

/// `plain authenticator failed for H: 535 Incorrect authentication data (set_id=login)`.
fn authenticator(text: &[u8]) -> EximLine {
    let failed =
        memchr::memchr(b' ', text).and_then(|name| text.get(name..)).and_then(|rest| rest.strip_prefix(b" authenticator failed for "));
    let Some(host) = failed else { return OTHER };
    // "435 Unable to authenticate at present" is a fault of our own server.
    host_address(host, |tail| matches!(tail, [b':', b' ', b'5', ..])).into_kind(|_| EximKind::AuthFailed)
}

/// `Connection from [IP] refused: …`. Exim's daemon writes it before the client has sent anything: the whole line is Exim's own.
fn refused(text: &[u8]) -> EximLine {
    let Some((client, tail)) = address(text) else { return OTHER };
    match without_interface(tail) {
        b" refused: too many connections" => EximLine::new(EximKind::ConnectionRefusedGlobal, Some(client)),
        b" refused: too many connections from that IP address" => EximLine::new(EximKind::ConnectionRefusedPerHost, Some(client)),
        tail if tail.starts_with(b" refused: load average = ") => EximLine::new(EximKind::LoadRefused, Some(client)),
        _ => OTHER,
    }
}

/// What follows `SMTP `.
fn smtp(text: &[u8]) -> EximLine {
    if let Some(host) = text.strip_prefix(b"call from ") {
        return host_address(host, |tail| too_many(tail).is_some()).into_kind(|tail| too_many(tail).unwrap_or(EximKind::Other));
    }
    if let Some(rest) = text.strip_prefix(b"protocol synchronization error (") {
        // The client's command is only in the other form of the line, whose parenthesis says "next input".
        let connection = memmem::find(rest, b"): rejected connection from ").and_then(|at| rest.get(at + 28..));
        let blame = match connection.filter(|_| !rest.starts_with(b"next input")) {
            Some(host) => host_address(host, |tail| tail.starts_with(b" input=\"")),
            None => behind(rest, b"\" H=", |tail| tail.starts_with(b" next input=\"")),
        };
        return blame.into_kind(|_| EximKind::Synchronization);
    }
    if let Some((client, tail)) = text.strip_prefix(b"connection from ").and_then(address)
        && without_interface(tail).starts_with(b" (TCP/IP connection count = ")
    {
        return EximLine::new(EximKind::Connection, Some(client));
    }
    let some_message = |tail: &[u8]| tail.starts_with(b" ");
    if let Some(rest) = text.strip_prefix(b"syntax error in \"") {
        return behind(rest, b"\" H=", some_message).into_kind(|_| EximKind::SyntaxError);
    }
    if let Some(rest) = text.strip_prefix(b"protocol error in \"") {
        return behind(rest, b"\" H=", some_message).into_kind(|_| EximKind::ProtocolError);
    }
    OTHER
}

/// The kind of a line in which ` dropped: too many …` follows the address.
fn too_many(text: &[u8]) -> Option<EximKind> {
    let what = text.strip_prefix(b" dropped: too many ")?;
    if what.starts_with(b"syntax or protocol errors") {
        Some(EximKind::TooManyErrors)
    } else if what.starts_with(b"nonmail commands") {
        Some(EximKind::TooManyNonmail)
    } else if what.starts_with(b"unrecognized commands") {
        Some(EximKind::TooManyUnrecognized)
    } else {
        None
    }
}

/// What follows `H=` at the start of a line: `(helo) [IP] F=<sender> rejected RCPT <recipient>: message`.
///
/// Lines about hosts to which Exim connects also start with `H=`, but none of them continues like this after the address.
fn rejected(text: &[u8]) -> EximLine {
    let last = memmem::rfind(text, b" rejected ");
    let has_rejected = |tail: &[u8]| last.is_some_and(|last| last + tail.len() >= text.len());
    let is_rejected = |tail: &[u8]| starts_with_any(tail, &BEFORE_REJECTED) && has_rejected(tail);
    // Exim 4.97 and later, on a port with TLS from the start: nothing can be said before the handshake.
    let is_dropped = |tail: &[u8]| tail.starts_with(DROPPED_AT_CONNECT);
    let continues = |tail: &[u8]| starts_with_any(tail, &BEFORE_REJECTED) || starts_with_any(tail, &BEHIND_OTHER_HOSTS);
    host_reading(text, |tail| is_rejected(tail) || is_dropped(tail), continues).into_kind(|tail| {
        if is_our_refusal(tail) {
            EximKind::OurRefusal
        } else if memmem::find(tail, b" rejected RCPT ").is_some() {
            EximKind::RejectedRcpt
        } else {
            EximKind::RejectedByAcl
        }
    })
}

/// How a line that starts with `H=` and reports a rejection continues behind the address.
const BEFORE_REJECTED: [&[u8]; 10] =
    [b" F=", b" rejected ", b" temporarily rejected ", b" X=", b" CV=", b" DN=", b" SNI=", b" P=", b" U=", b" A="];

/// How all other lines that start with `H=` continue there.
const BEHIND_OTHER_HOSTS: [&[u8]; 7] =
    [DROPPED_AT_CONNECT, b" sender verify", b" incomplete transaction", b" Warning:", b" DS", b" SPF=", b" DMARC="];

fn starts_with_any(text: &[u8], starts: &[&[u8]]) -> bool {
    starts.iter().any(|start| text.starts_with(start))
}

const DROPPED_AT_CONNECT: &[u8] = b" dropped by 'connect' ACL";

/// Whether the rest of a line, behind the address, has the message of Strikeout's example ACLs. A client must not be able to pass its
/// offences off as our refusals: so at the connect the message stands right behind the address, and later it is all that follows the last
/// text of the client's, and nothing follows it.
fn is_our_refusal(tail: &[u8]) -> bool {
    let at_connect = tail.strip_prefix(b" temporarily").unwrap_or(tail).strip_prefix(b" rejected connection in \"connect\" ACL");
    if let Some(message) = at_connect.or_else(|| tail.strip_prefix(DROPPED_AT_CONNECT)) {
        return message.windows(OUR_MARK.len()).any(|part| part.eq_ignore_ascii_case(OUR_MARK));
    }
    let Some((before, answer)) = rsplit_once(tail, b": strikeout: ") else { return false };
    let Some((_, command)) = rsplit_once(before, b" rejected ") else { return false };
    let is_whole = match command {
        [b'A', b'U', b'T', b'H', b' ', method @ ..] => !method.contains(&b' '),
        [b'R', b'C', b'P', b'T', b' ', b'<', .., b'>'] | [b'M', b'A', b'I', b'L', b' ', b'<', .., b'>'] => true,
        b"DATA" | b"after DATA" => true,
        _ => false,
    };
    is_whole && is_our_answer(answer)
}

/// The texts before and behind the last occurrence of `separator`.
fn rsplit_once<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (before, rest) = text.split_at_checked(memmem::rfind(text, separator)?)?;
    Some((before, rest.get(separator.len()..)?))
}

/// Whether `text` is an answer of the daemon's that refuses: `defer rule=exim-auth until=1795395723`.
fn is_our_answer(text: &[u8]) -> bool {
    let Some(rule) = text.strip_prefix(b"defer rule=").or_else(|| text.strip_prefix(b"deny rule=")) else { return false };
    let name = rule.iter().take_while(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')).count();
    let until = rule.get(name..).and_then(|rest| rest.strip_prefix(b" until="));
    name > 0 && until.is_some_and(|until| !until.is_empty() && until.iter().all(u8::is_ascii_digit))
}

/// What follows `<= `: `sender H=… P=esmtpsa A=plain:login S=…`.
fn accepted(text: &[u8]) -> EximLine {
    let blame = behind(text, b" H=", |tail| matches!(tail, [b' ', b'P' | b'X' | b'U', b'=', ..] | [b' ', b'L', b' ', ..]));
    blame.into_kind(|tail| if memmem::find(tail, b" A=").is_some() { EximKind::AcceptedAuthenticated } else { EximKind::Accepted })
}

/// A host behind text of the client's that ends with `end`. The client's text may contain the same: every place is a possible reading.
fn behind<'a>(text: &'a [u8], end: &[u8], follows: impl Fn(&[u8]) -> bool) -> Blame<'a> {
    let (mut blame, mut first_helo) = (Blame::Nobody, None);
    for start in memmem::find_iter(text, end).map(|at| at + end.len()) {
        match host_place(text, start) {
            Some(HostPlace::Address(at)) => blame = blame.merge(reading_at(text, at, &follows)),
            // The HELOs of all later places end at the same brackets.
            Some(HostPlace::Helo(at)) => _ = first_helo.get_or_insert(at),
            None => {}
        }
    }
    match first_helo {
        Some(helo) => helo_readings(text, helo, &follows).fold(blame, Blame::merge),
        None => blame,
    }
}

/// The address that all possible readings of a line blame.
#[derive(Debug, Clone, Copy)]
enum Blame<'a> {
    Nobody,
    /// One address, but Exim does not continue like this behind it.
    Unexplained(IpAddr, &'a [u8]),
    /// One address, and the text that follows it.
    One(IpAddr, &'a [u8]),
    Several,
}

impl<'a> Blame<'a> {
    fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, blame) | (blame, Self::Nobody) => blame,
            (Self::One(a, _), Self::One(b, _) | Self::Unexplained(b, _)) if a == b => self,
            (Self::Unexplained(a, _), Self::One(b, _) | Self::Unexplained(b, _)) if a == b => other,
            _ => Self::Several,
        }
    }

    /// The address, and the kind that `kind` returns for the text behind it.
    fn into_kind(self, kind: impl FnOnce(&'a [u8]) -> EximKind) -> EximLine {
        match self {
            Self::One(client, tail) => EximLine::new(kind(tail), Some(client)),
            Self::Nobody | Self::Unexplained(..) => OTHER,
            Self::Several => EximLine::new(EximKind::Ambiguous, None),
        }
    }
}

/// The address in `[host ](helo) [IP][:port][ I=[IP]:port]` at the start of `text`. `follows` checks how Exim continues after it.
fn host_address(text: &[u8], follows: impl Fn(&[u8]) -> bool) -> Blame<'_> {
    host_reading(text, follows, |_| true)
}

/// As [`host_address`], for a line whose other readings, as a line of another kind, continue as `is_possible` checks.
fn host_reading(text: &[u8], follows: impl Fn(&[u8]) -> bool, is_possible: impl Fn(&[u8]) -> bool) -> Blame<'_> {
    let helo = match host_place(text, 0) {
        Some(HostPlace::Address(at)) => return reading_at(text, at, &follows),
        Some(HostPlace::Helo(at)) => at,
        None => return Blame::Nobody,
    };
    let mut readings = helo_readings(text, helo, &follows);
    let first = readings.find(|blame| !matches!(blame, Blame::Nobody)).unwrap_or(Blame::Nobody);
    // Text behind the first address cannot explain it afterwards: of two readings that agree it is the first one that counts.
    let others = readings.filter(|blame| !matches!(blame, Blame::Unexplained(_, tail) if !is_possible(tail)));
    others.fold(first, |blame, other| if matches!(blame.merge(other), Blame::Several) { Blame::Several } else { blame })
}

/// Where a host goes on.
enum HostPlace {
    /// The address starts here, with no text of the client's before it: the client sent no HELO, or the name of its host.
    Address(usize),
    /// A HELO in parentheses starts here, and the address is behind it.
    Helo(usize),
}

/// Looks at the host that starts at `start`. Exim 4.99 writes `H=` in front of it everywhere.
fn host_place(text: &[u8], start: usize) -> Option<HostPlace> {
    let host = text.get(start..)?;
    let start = if host.starts_with(b"H=") { start + 2 } else { start };
    if !matches!(reading_at(text, start, &|_| true), Blame::Nobody) {
        return Some(HostPlace::Address(start));
    }
    let host = text.get(start..)?;
    let behind_name = if host.starts_with(b"(") { 0 } else { memchr::memchr(b' ', host)? + 1 };
    match host.get(behind_name)? {
        b'[' => Some(HostPlace::Address(start + behind_name)),
        b'(' => Some(HostPlace::Helo(start + behind_name)),
        _ => None,
    }
}

/// The readings of a host whose HELO starts at `helo`, one for each place where the HELO may end: with `helo_accept_junk_hosts` it may contain
/// anything, and a quoted sender behind it always may.
fn helo_readings<'a, F: Fn(&[u8]) -> bool>(text: &'a [u8], helo: usize, follows: &F) -> impl Iterator<Item = Blame<'a>> {
    memmem::find_iter(text.get(helo..).unwrap_or_default(), b") [").map(move |at| reading_at(text, helo + at + 2, follows))
}

/// The address at `at`, if it is a whole word there.
fn reading_at<'a>(text: &'a [u8], at: usize, follows: &impl Fn(&[u8]) -> bool) -> Blame<'a> {
    let Some((client, tail)) = text.get(at..).and_then(address) else { return Blame::Nobody };
    let tail = without_interface(tail);
    match tail.first() {
        None | Some(b' ' | b':') if follows(tail) => Blame::One(client, tail),
        None | Some(b' ' | b':') => Blame::Unexplained(client, tail),
        // The name of a host may begin like an address.
        Some(_) => Blame::Nobody,
    }
}

/// `[IP]` or `[IP]:port` at the start of `text`, and the text that follows.
fn address(text: &[u8]) -> Option<(IpAddr, &[u8])> {
    let inside = text.strip_prefix(b"[")?;
    // The longest textual address has 45 bytes (`INET6_ADDRSTRLEN` without the NUL).
    let end = memchr::memchr(b']', inside.get(..46).unwrap_or(inside))?;
    let client = parse_address_bytes(inside.get(..end)?).ok()?;
    Some((client, without_port(inside.get(end + 1..)?)))
}

/// The port in ` I=[IP]:port` of a line without any text of the client's.
fn local_port(text: &[u8]) -> Option<u16> {
    let interface = text.get(memmem::find(text, b" I=[")? + 4..)?;
    let port = interface.get(memmem::find(interface, b"]:")? + 2..)?;
    let digits = port.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(port.get(..digits)?).ok()?.parse().ok()
}

/// Strips `:port`.
fn without_port(text: &[u8]) -> &[u8] {
    let Some(number) = text.strip_prefix(b":") else { return text };
    match number.iter().take_while(|byte| byte.is_ascii_digit()).count() {
        digits @ 1..=5 => number.get(digits..).unwrap_or_default(),
        _ => text,
    }
}

/// Strips ` I=[IP]:port`, written with `+incoming_interface`, and ` Ci=…`, written by Exim 4.97 and later.
fn without_interface(text: &[u8]) -> &[u8] {
    let text = match text.strip_prefix(b" I=").and_then(address) {
        Some((_, rest)) => rest,
        None => text,
    };
    let Some(id) = text.strip_prefix(b" Ci=") else { return text };
    let (id, rest) = id.split_at_checked(id.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count()).unwrap_or_default();
    // Text that only starts like a connection ID is the client's, behind the address.
    if !id.is_empty() && matches!(rest, [] | [b' ' | b':' | b',', ..]) { rest } else { text }
}

#[cfg(test)]
#[path = "exim_composed.rs"]
pub(super) mod exim_composed;
#[cfg(test)]
#[path = "exim_tests.rs"]
mod tests;
