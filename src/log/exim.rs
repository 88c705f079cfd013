//! Lines of Exim's main and reject log, pure: what kind of line it is, and the one socket address that Exim itself wrote into it.
//!
//! Exim puts text of the client's (HELO, sender, login, command) into the same line, also before the address. Formats: `host_and_ident` and
//! the `log_write` calls of Exim 4.96 to 4.99. Where a client wrote text that looks just like Exim's, so that the line can be read in two
//! ways which blame two addresses, it blames nobody: better an offence missed than somebody else's ban.

use super::time::{Zone, exim as exim_time};
use crate::client::parse_address_bytes;
use crate::time::Time;
use memchr::memmem;
use std::net::IpAddr;

/// What a line of Exim's says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `Connection from [IP] refused: too many connections`: the global limit. It names whoever came next, often an innocent.
    ConnectionRefusedGlobal,
    /// `… from that IP address`: the limit per host. It names an offender.
    ConnectionRefusedPerHost,
    /// `Connection from [IP] refused: load average = …`.
    LoadRefused,
    /// `… authenticator failed for H: 535 …`.
    AuthFailed,
    /// `H=… rejected RCPT …`, also temporarily.
    RejectedRcpt,
    /// `SMTP syntax error in "…" H=…`.
    SyntaxError,
    /// `SMTP protocol error in "…" H=…`.
    ProtocolError,
    /// `SMTP call from H dropped: too many syntax or protocol errors`.
    TooManyErrors,
    /// `SMTP call from H dropped: too many nonmail commands`.
    TooManyNonmail,
    /// `SMTP call from H dropped: too many unrecognized commands`.
    TooManyUnrecognized,
    /// `SMTP protocol synchronization error (…): rejected … H=…`.
    Synchronization,
    /// `no MAIL in SMTP connection from H`.
    NoMail,
    /// `TLS error on connection from H (…)`.
    TlsError,
    /// `rejected EHLO from H: syntactically invalid argument(s)`.
    RejectedHelo,
    /// `H=… rejected …` at any other point than a recipient.
    RejectedByAcl,
    /// The same at the connect ACL by a message of ours: never counts.
    OurRefusal,
    /// `SMTP connection from [IP] (TCP/IP connection count = 3)`, with `log_selector = +smtp_connection`.
    Connection,
    /// `ID <= … H=…`: a message was taken from this client, here without authentication.
    Accepted,
    /// The same from a client that had authenticated.
    AcceptedAuthenticated,
    /// A client wrote text that looks like Exim's own, so that two addresses could be meant. It blames nobody.
    Ambiguous,
    /// Anything else. It blames nobody.
    Other,
}

impl Kind {
    /// The kinds that a rule can name (`exim = "refused-per-host"`), and their names.
    pub const NAMED: [(&'static str, Self); 15] = [
        ("refused-per-host", Self::ConnectionRefusedPerHost),
        ("refused-global", Self::ConnectionRefusedGlobal),
        ("refused-load", Self::LoadRefused),
        ("auth-failed", Self::AuthFailed),
        ("rejected-rcpt", Self::RejectedRcpt),
        ("rejected-helo", Self::RejectedHelo),
        ("rejected-by-acl", Self::RejectedByAcl),
        ("syntax-error", Self::SyntaxError),
        ("protocol-error", Self::ProtocolError),
        ("too-many-errors", Self::TooManyErrors),
        ("too-many-nonmail", Self::TooManyNonmail),
        ("too-many-unrecognized", Self::TooManyUnrecognized),
        ("synchronization", Self::Synchronization),
        ("no-mail", Self::NoMail),
        ("tls-error", Self::TlsError),
    ];

    /// The kind that a rule calls `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(its, _)| *its == name).map(|(_, kind)| *kind)
    }

    /// What a rule calls it; for people.
    #[must_use]
    pub fn description(self) -> &'static str {
        let named = Self::NAMED.iter().find(|(_, kind)| *kind == self).map(|(name, _)| *name);
        named.unwrap_or(match self {
            Self::OurRefusal => "our own refusal",
            Self::Connection => "connection",
            Self::Accepted => "accepted",
            Self::AcceptedAuthenticated => "accepted, authenticated",
            Self::Ambiguous => "ambiguous",
            _ => "other",
        })
    }

    /// Text that every line of this kind holds, and few others do.
    #[must_use]
    pub fn literal(self) -> &'static str {
        match self {
            Self::ConnectionRefusedGlobal | Self::ConnectionRefusedPerHost => " refused: too many connections",
            Self::LoadRefused => " refused: load average = ",
            Self::AuthFailed => " authenticator failed for ",
            Self::RejectedRcpt => " rejected RCPT ",
            Self::SyntaxError => "SMTP syntax error in ",
            Self::ProtocolError => "SMTP protocol error in ",
            Self::TooManyErrors => " dropped: too many syntax or protocol errors",
            Self::TooManyNonmail => " dropped: too many nonmail commands",
            Self::TooManyUnrecognized => " dropped: too many unrecognized commands",
            Self::Synchronization => "SMTP protocol synchronization error ",
            Self::NoMail => "no MAIL in ",
            Self::TlsError => "TLS error on ",
            Self::RejectedHelo => "rejected ",
            Self::RejectedByAcl | Self::OurRefusal => " rejected ",
            Self::Connection => "SMTP connection from ",
            Self::Accepted | Self::AcceptedAuthenticated => "<= ",
            Self::Ambiguous | Self::Other => "",
        }
    }
}

/// One line of Exim's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EximLine {
    /// The line's own time; none where a line has none, as the copied headers in the reject log.
    pub time: Option<Time>,
    /// The socket address that Exim wrote; none where the line has none, or can be read in two ways.
    pub client: Option<IpAddr>,
    /// What the line says.
    pub kind: Kind,
    /// The port that a [`Kind::Connection`] came in on, with `log_selector = +incoming_interface`.
    pub local_port: Option<u16>,
}

/// What Exim puts behind a line that did not fit into its buffer, dropping what may have been the true address.
const OVERFLOWED: &[u8] = b"**** log string overflowed log buffer ****";

/// What the messages of the example ACLs for Exim hold; see [`Kind::OurRefusal`].
pub const OUR_MARK: &[u8] = b"strikeout";

/// Reads one line, without its newline. A time without a zone is one of `zone`.
#[must_use]
pub fn parse(line: &[u8], zone: &mut Zone) -> EximLine {
    let Some((time, text)) = exim_time(line, zone) else {
        return EximLine { time: None, client: None, kind: Kind::Other, local_port: None };
    };
    let text = without_id(without_pid(without_program(text)));
    let (kind, client) = read(text);
    let local_port = if kind == Kind::Connection { local_port(text) } else { None };
    EximLine { time: Some(time), client: client.filter(|_| !line.trim_ascii_end().ends_with(OVERFLOWED)), kind, local_port }
}

/// Leaves off `mx1 exim[29786]: `, which a syslog daemon may put behind a time of its own. No text of a client's comes as early.
fn without_program(text: &[u8]) -> &[u8] {
    let after = memchr::memchr(b' ', text).and_then(|host| text.get(host + 1..)).and_then(|rest| rest.strip_prefix(b"exim"));
    let after = after.map(|rest| rest.strip_prefix(b"4").unwrap_or(rest)).and_then(|rest| rest.strip_prefix(b"["));
    let Some(pid) = after else { return text };
    match pid.get(pid.iter().take_while(|byte| byte.is_ascii_digit()).count()..) {
        Some([b']', b':', b' ', rest @ ..]) => rest,
        _ => text,
    }
}

/// Leaves off `[22093] `, which `log_selector = +pid` puts behind the time.
fn without_pid(text: &[u8]) -> &[u8] {
    let Some(inside) = text.strip_prefix(b"[") else { return text };
    let digits = inside.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match inside.get(digits..) {
        Some([b']', b' ', rest @ ..]) if digits > 0 => rest,
        _ => text,
    }
}

/// Leaves off a message's id and a space: `1qHd2z-0003Xb-1A`, from 4.97 on `1qHd2z-00000003XbX-1A0s`.
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

fn read(text: &[u8]) -> (Kind, Option<IpAddr>) {
    // The most frequent beginnings first; each test looks at a few bytes.
    if let Some(rest) = text.strip_prefix(b"H=") {
        rejected(rest)
    } else if let Some(rest) = text.strip_prefix(b"<= ") {
        accepted(rest)
    } else if let Some(rest) = text.strip_prefix(b"Connection from ") {
        refused(rest)
    } else if let Some(rest) = text.strip_prefix(b"SMTP ") {
        smtp(rest)
    } else if let Some(rest) = text.strip_prefix(b"no MAIL in ") {
        from(rest, Kind::NoMail, |tail| tail.starts_with(b" D="))
    } else if let Some(rest) = text.strip_prefix(b"TLS error on ") {
        from(rest, Kind::TlsError, |tail| tail.starts_with(b" ("))
    } else if let Some(rest) = text.strip_prefix(b"rejected ") {
        let invalid = |tail: &[u8]| tail.starts_with(b": syntactically invalid argument(s)") || tail.starts_with(b": no HELO/EHLO given");
        from(rest, Kind::RejectedHelo, invalid)
    } else {
        authenticator(text)
    }
}

/// `from H`, with the word that stands before it (`SMTP connection from`, `EHLO from`) all Exim's own.
fn from(text: &[u8], kind: Kind, follows: impl Fn(&[u8]) -> bool) -> (Kind, Option<IpAddr>) {
    match memmem::find(text.get(..40).unwrap_or(text), b"from ").and_then(|at| text.get(at + 5..)) {
        Some(host) => host_address(host, follows).as_kind(|_| kind),
        None => (Kind::Other, None),
    }
}

/// `plain authenticator failed for H: 535 Incorrect authentication data (set_id=login)`.
fn authenticator(text: &[u8]) -> (Kind, Option<IpAddr>) {
    let failed =
        memchr::memchr(b' ', text).and_then(|name| text.get(name..)).and_then(|rest| rest.strip_prefix(b" authenticator failed for "));
    let Some(host) = failed else { return (Kind::Other, None) };
    // "435 Unable to authenticate at present" is our own server's fault.
    host_address(host, |tail| matches!(tail, [b':', b' ', b'5', ..])).as_kind(|_| Kind::AuthFailed)
}

/// `Connection from [IP] refused: …`. The daemon writes it before any text of the client's is there: the whole line is Exim's.
fn refused(text: &[u8]) -> (Kind, Option<IpAddr>) {
    let Some((client, tail)) = address(text) else { return (Kind::Other, None) };
    match interface(tail).trim_ascii_end() {
        b" refused: too many connections" => (Kind::ConnectionRefusedGlobal, Some(client)),
        b" refused: too many connections from that IP address" => (Kind::ConnectionRefusedPerHost, Some(client)),
        tail if tail.starts_with(b" refused: load average = ") => (Kind::LoadRefused, Some(client)),
        _ => (Kind::Other, None),
    }
}

/// What follows `SMTP `.
fn smtp(text: &[u8]) -> (Kind, Option<IpAddr>) {
    if let Some(host) = text.strip_prefix(b"call from ") {
        return host_address(host, |tail| too_many(tail).is_some()).as_kind(|tail| too_many(tail).unwrap_or(Kind::Other));
    }
    if let Some(rest) = text.strip_prefix(b"protocol synchronization error (") {
        // The command, which the client wrote, comes only in the other form of the line, whose parenthesis says "next input".
        let connection = memmem::find(rest, b"): rejected connection from ").and_then(|at| rest.get(at + 28..));
        let blame = match connection.filter(|_| !rest.starts_with(b"next input")) {
            Some(host) => host_address(host, |tail| tail.starts_with(b" input=\"")),
            None => quoted(rest, |tail| tail.starts_with(b" next input=\"")),
        };
        return blame.as_kind(|_| Kind::Synchronization);
    }
    if let Some((client, tail)) = text.strip_prefix(b"connection from ").and_then(address)
        && interface(tail).starts_with(b" (TCP/IP connection count = ")
    {
        return (Kind::Connection, Some(client));
    }
    let some_message = |tail: &[u8]| tail.starts_with(b" ");
    if let Some(rest) = text.strip_prefix(b"syntax error in \"") {
        return quoted(rest, some_message).as_kind(|_| Kind::SyntaxError);
    }
    if let Some(rest) = text.strip_prefix(b"protocol error in \"") {
        return quoted(rest, some_message).as_kind(|_| Kind::ProtocolError);
    }
    (Kind::Other, None)
}

/// What there was too much of, at the start of `text`.
fn too_many(text: &[u8]) -> Option<Kind> {
    let what = text.strip_prefix(b" dropped: too many ")?;
    if what.starts_with(b"syntax or protocol errors") {
        Some(Kind::TooManyErrors)
    } else if what.starts_with(b"nonmail commands") {
        Some(Kind::TooManyNonmail)
    } else if what.starts_with(b"unrecognized commands") {
        Some(Kind::TooManyUnrecognized)
    } else {
        None
    }
}

/// What follows `H=` at the beginning of a line: `(helo) [IP] F=<sender> rejected RCPT <recipient>: message`.
///
/// Lines about hosts that we connect to start with `H=` as well; none of them goes on like this behind the address.
fn rejected(text: &[u8]) -> (Kind, Option<IpAddr>) {
    const NEXT: [&[u8]; 10] =
        [b" F=", b" rejected ", b" temporarily rejected ", b" X=", b" CV=", b" DN=", b" SNI=", b" P=", b" U=", b" A="];
    let blame = host_address(text, |tail| NEXT.iter().any(|next| tail.starts_with(next)) && memmem::find(tail, b" rejected ").is_some());
    blame.as_kind(|tail| {
        // Asked of the very beginning: a client must not be able to write its offences off as refusals of ours.
        let at_connect = tail.strip_prefix(b" temporarily").unwrap_or(tail).strip_prefix(b" rejected connection in \"connect\" ACL");
        if at_connect.is_some_and(|message| message.windows(OUR_MARK.len()).any(|part| part.eq_ignore_ascii_case(OUR_MARK))) {
            Kind::OurRefusal
        } else if memmem::find(tail, b" rejected RCPT ").is_some() {
            Kind::RejectedRcpt
        } else {
            Kind::RejectedByAcl
        }
    })
}

/// What follows `<= `: `sender H=… P=esmtpsa A=plain:login S=…`.
fn accepted(text: &[u8]) -> (Kind, Option<IpAddr>) {
    const NEXT: [&[u8]; 4] = [b" P=", b" X=", b" U=", b" L "];
    let follows = |tail: &[u8]| NEXT.iter().any(|next| tail.starts_with(next));
    let blame = memmem::find_iter(text, b" H=")
        .fold(Blame::Nobody, |blame, at| blame.and(host_address(text.get(at + 3..).unwrap_or_default(), follows)));
    blame.as_kind(|tail| if memmem::find(tail, b" A=").is_some() { Kind::AcceptedAuthenticated } else { Kind::Accepted })
}

/// What follows an opening quote: the client's command, which may hold quotes of its own, then `" H=…`.
fn quoted<'a>(text: &'a [u8], follows: impl Fn(&[u8]) -> bool) -> Blame<'a> {
    memmem::find_iter(text, b"\" H=")
        .fold(Blame::Nobody, |blame, at| blame.and(host_address(text.get(at + 4..).unwrap_or_default(), &follows)))
}

/// Whom all possible readings of a line blame.
#[derive(Debug, Clone, Copy)]
enum Blame<'a> {
    Nobody,
    /// One address, and what follows it.
    One(IpAddr, &'a [u8]),
    Several,
}

impl<'a> Blame<'a> {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, blame) | (blame, Self::Nobody) => blame,
            (Self::One(a, _), Self::One(b, _)) if a == b => self,
            _ => Self::Several,
        }
    }

    /// The kind that `name` makes of what follows the address, and the address.
    fn as_kind(self, name: impl FnOnce(&'a [u8]) -> Kind) -> (Kind, Option<IpAddr>) {
        match self {
            Self::One(client, tail) => (name(tail), Some(client)),
            Self::Nobody => (Kind::Other, None),
            Self::Several => (Kind::Ambiguous, None),
        }
    }
}

/// The address in `[host ](helo) [IP][:port][ I=[IP]:port]` at the start of `text`, given how Exim goes on behind it.
///
/// 4.99 writes `H=` before it everywhere.
fn host_address(text: &[u8], follows: impl Fn(&[u8]) -> bool) -> Blame<'_> {
    let text = text.strip_prefix(b"H=").unwrap_or(text);
    let address_at = |at: usize| match text.get(at..).and_then(address).map(|(client, tail)| (client, interface(tail))) {
        Some((client, tail)) if follows(tail) => Blame::One(client, tail),
        _ => Blame::Nobody,
    };
    // Without a HELO the address stands first, or behind the host name: no text of the client's comes before it.
    if let here @ Blame::One(..) = address_at(0) {
        return here;
    }
    let helo = match text.first() {
        Some(b'(') => 0,
        _ => {
            let Some(name) = memchr::memchr(b' ', text) else { return Blame::Nobody };
            match text.get(name + 1) {
                Some(b'[') => return address_at(name + 1),
                Some(b'(') => name + 1,
                _ => return Blame::Nobody,
            }
        }
    };
    // A HELO may hold anything if `helo_accept_junk_hosts` is set, and a sender may: so look at every place where it may have ended.
    memmem::find_iter(text.get(helo..).unwrap_or_default(), b") [").fold(Blame::Nobody, |blame, at| blame.and(address_at(helo + at + 2)))
}

/// `[IP]` or `[IP]:port` at the start of `text`, and what follows.
fn address(text: &[u8]) -> Option<(IpAddr, &[u8])> {
    let inside = text.strip_prefix(b"[")?;
    // The longest address has 45 bytes.
    let end = memchr::memchr(b']', inside.get(..46).unwrap_or(inside))?;
    let client = parse_address_bytes(inside.get(..end)?).ok()?;
    Some((client, port(inside.get(end + 1..)?)))
}

/// The port in ` I=[IP]:port`, in a line that holds no text of a client's.
fn local_port(text: &[u8]) -> Option<u16> {
    let interface = text.get(memmem::find(text, b" I=[")? + 4..)?;
    let port = interface.get(memmem::find(interface, b"]:")? + 2..)?;
    let digits = port.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(port.get(..digits)?).ok()?.parse().ok()
}

/// Leaves off `:port`.
fn port(text: &[u8]) -> &[u8] {
    let Some(number) = text.strip_prefix(b":") else { return text };
    match number.iter().take_while(|byte| byte.is_ascii_digit()).count() {
        digits @ 1..=5 => number.get(digits..).unwrap_or_default(),
        _ => text,
    }
}

/// Leaves off ` I=[IP]:port`, which `+incoming_interface` writes, and ` Ci=…`, which 4.97 and later do.
fn interface(text: &[u8]) -> &[u8] {
    let text = match text.strip_prefix(b" I=").and_then(address) {
        Some((_, rest)) => rest,
        None => text,
    };
    let Some(id) = text.strip_prefix(b" Ci=") else { return text };
    let (id, rest) = id.split_at_checked(id.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count()).unwrap_or_default();
    // What only begins like one is a client's text behind the address.
    if !id.is_empty() && matches!(rest, [] | [b' ' | b':' | b',', ..]) { rest } else { text }
}

#[cfg(test)]
#[path = "exim_tests.rs"]
mod tests;
