//! The requests that a peer sends to the daemon, a line each: parsed by the daemon, written by the operator's program. The bytes are
//! untrusted: every line yields a request or an error, never a panic.

use std::fmt;
use std::net::IpAddr;

use super::admin::{AdminRequest, ban, filter, pause_length, release, unban, why};
use super::request_error::expected;
pub use super::request_error::{ACCOUNT, RequestError, quoted};
use crate::client::parse_address;
use crate::config::fleet::is_node;

/// Maximum length of a line in bytes, without its newline.
pub const MAX_LINE: usize = 8 * 1024;

/// A request on the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketRequest<'a> {
    /// Exim asks whether to accept a connection.
    Check(Check),
    /// Exim reports an incident under a rule.
    Strike(Incident<'a>),
    /// Exim reports a success, such as a login: the client's strikes under the rule no longer count.
    Clear(Incident<'a>),
    /// A helper says for the log what it did not understand.
    Report(&'a str),
    /// Turns the connection into a stream of rules, lists and bans, in this version of the stream's protocol.
    Subscribe(u32),
    /// A request by an operator's program.
    Admin(AdminRequest),
}

/// What Exim reports of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident<'a> {
    /// The client's address; `None` for an empty one, which is accepted.
    pub address: Option<IpAddr>,
    pub rule: &'a str,
    /// The account that the client named at its login: its own text, which is never shown.
    pub account: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// The client's address; `None` for an empty one (mail from this machine), which is accepted.
    pub address: Option<IpAddr>,
    /// The process ID that Exim reports. It can be forged, so it is logged, and trusted only if it is an ancestor of the peer.
    pub pid: Option<u32>,
    /// The local port of the connection.
    pub port: Option<u16>,
    /// Which process asks.
    pub via: Via,
    /// Whether the connection counts. Otherwise the address is only looked up.
    pub counts: bool,
}

impl Check {
    /// Asks about `address`, and nothing else is known.
    #[must_use]
    pub fn of(address: Option<IpAddr>) -> Self {
        Self { address, pid: None, port: None, via: Via::Peer, counts: true }
    }
}

/// Reads a check's words after the address, one by one.
#[derive(Debug)]
pub struct CheckReader {
    check: Check,
    has_pid: bool,
    has_port: bool,
}

impl CheckReader {
    #[must_use]
    pub fn new(address: Option<IpAddr>) -> Self {
        Self { check: Check::of(address), has_pid: false, has_port: false }
    }

    /// Reads a word. Exim's ACL sends an empty `port=` for local mail, and `port=-1` for a simulated connection (`exim4 -bh`).
    ///
    /// # Errors
    /// There is no such word, or it is a second `pid=` or `port=`. The first one is the server's own, even if it is empty or not a number:
    /// a client's text behind it must not turn a connection on port 25 into one on a submission port.
    pub fn read(&mut self, word: &str) -> Result<(), RequestError> {
        let is_second = match word.split_once('=') {
            Some(("pid", _)) => std::mem::replace(&mut self.has_pid, true),
            Some(("port", _)) => std::mem::replace(&mut self.has_port, true),
            _ => false,
        };
        if is_second {
            return Err(expected(word, "pid= and port= only once"));
        }
        let check = &mut self.check;
        match word.split_once('=') {
            Some(("pid" | "port", "")) | Some(("port", "-1")) => {}
            Some(("pid", number)) => check.pid = Some(digits(number).ok_or_else(|| expected(word, "pid= and a number"))?),
            Some(("port", number)) => check.port = Some(digits(number).ok_or_else(|| expected(word, "port= and 0 to 65535"))?),
            Some(("via", "run")) => check.via = Via::Run,
            Some(("via", "lines")) => check.via = Via::Lines,
            Some(("count", "no")) => check.counts = false,
            _ => return Err(expected(word, "pid=N, port=N, via=run or count=no")),
        }
        Ok(())
    }

    /// The check as read so far.
    #[must_use]
    pub fn check(&self) -> Check {
        self.check
    }
}

/// The request as a line without its newline.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "check {address}")?,
            None => f.write_str("check ")?,
        }
        for (key, number) in [("pid", self.pid), ("port", self.port.map(u32::from))] {
            if let Some(number) = number {
                write!(f, " {key}={number}")?;
            }
        }
        f.write_str(match self.via {
            Via::Peer => "",
            Via::Run => " via=run",
            Via::Lines => " via=lines",
        })?;
        f.write_str(if self.counts { "" } else { " count=no" })
    }
}

/// Which process asks about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Via {
    /// The connection process itself: `${readsocket}`.
    #[default]
    Peer,
    /// A child of the connection process: `${run}`.
    Run,
    /// A process that asks about many connections one after the other, so that open ones cannot be counted.
    Lines,
}

const VERBS: &str = "check, strike, clear, why, list, status, metrics, ban, unban, release, pause, resume, forget, reload or subscribe";

/// Parses a line without its newline. A carriage return at the end is ignored.
///
/// # Errors
/// The line is not a request.
pub fn parse(line: &[u8]) -> Result<SocketRequest<'_>, RequestError> {
    if line.len() > MAX_LINE {
        return Err(RequestError::new(format!("found a line of more than {MAX_LINE} bytes, expected a shorter one")));
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| RequestError::new(format!("found {}, expected UTF-8", quoted(line))))?;
    if text.contains('\0') {
        return Err(RequestError::new(format!("found a NUL byte in {}, expected text", quoted(line))));
    }
    let (verb, rest) = match text.split_once(' ') {
        Some((verb, rest)) => (verb, Some(rest)),
        None => (text, None),
    };
    match verb {
        "check" => check(rest.unwrap_or_default()).map(SocketRequest::Check),
        "strike" => incident(rest.unwrap_or_default()).map(SocketRequest::Strike),
        "clear" => incident(rest.unwrap_or_default()).map(SocketRequest::Clear),
        "report" => report(rest.unwrap_or_default()),
        "why" => Ok(SocketRequest::Admin(why(rest.unwrap_or_default().trim())?)),
        "list" => filter(rest.unwrap_or_default()).map(|filter| SocketRequest::Admin(AdminRequest::List(filter))),
        "status" => without_arguments(rest, AdminRequest::Status),
        "metrics" => without_arguments(rest, AdminRequest::Metrics),
        "pause" => Ok(SocketRequest::Admin(AdminRequest::Pause(pause_length(rest.unwrap_or_default().trim())?))),
        "resume" => without_arguments(rest, AdminRequest::Resume),
        "reload" => without_arguments(rest, AdminRequest::Reload),
        "forget" => {
            let node = rest.unwrap_or_default().trim();
            if !is_node(node) {
                return Err(expected(node, "the name of a node after \"forget\""));
            }
            Ok(SocketRequest::Admin(AdminRequest::Forget(node.to_owned())))
        }
        "ban" => ban(rest.unwrap_or_default()).map(|request| SocketRequest::Admin(AdminRequest::Ban(request))),
        "unban" => unban(rest.unwrap_or_default()).map(SocketRequest::Admin),
        "release" => release(rest.unwrap_or_default()).map(SocketRequest::Admin),
        "subscribe" => {
            let version = rest.unwrap_or_default().trim();
            let number = digits(version).ok_or_else(|| expected(version, "the number of a version after \"subscribe\""))?;
            Ok(SocketRequest::Subscribe(number))
        }
        _ => Err(expected(text, &format!("one of {VERBS}"))),
    }
}

fn without_arguments(rest: Option<&str>, request: AdminRequest) -> Result<SocketRequest<'_>, RequestError> {
    match rest.map(str::trim) {
        None | Some("") => Ok(SocketRequest::Admin(request)),
        Some(more) => Err(expected(more, "nothing more in this request")),
    }
}

/// `ADDRESS [pid=N] [port=N] [via=run|lines] [count=no]`. Exim's ACL sends an empty address for local mail.
fn check(text: &str) -> Result<Check, RequestError> {
    let mut words = text.split(' ').peekable();
    let address = match words.next_if(|word| !word.contains('=')) {
        None | Some("") => None,
        Some(word) => Some(address(word)?),
    };
    let mut reader = CheckReader::new(address);
    for word in words.filter(|word| !word.is_empty()) {
        reader.read(word)?;
    }
    Ok(reader.check())
}

/// Maximum length in bytes of what a helper reports.
pub const MAX_REPORT: usize = 400;

/// `TEXT`, which goes into the log as it is.
fn report(text: &str) -> Result<SocketRequest<'_>, RequestError> {
    if text.is_empty() || text.len() > MAX_REPORT || !text.chars().all(is_printable_ascii) {
        return Err(expected(text, &format!("1 to {MAX_REPORT} bytes of printable ASCII after \"report\"")));
    }
    Ok(SocketRequest::Report(text))
}

/// Whether a report may contain `c`.
#[must_use]
pub fn is_printable_ascii(c: char) -> bool {
    matches!(c, ' '..='~')
}

/// `ADDRESS RULE [account=TEXT]`. The address may be empty. TEXT is all the rest of the line, whatever it contains.
fn incident(text: &str) -> Result<Incident<'_>, RequestError> {
    let (text, account) = match text.split_once(&format!(" {ACCOUNT}")) {
        Some((text, account)) => (text, Some(account)),
        None => (text, None),
    };
    let (who, rule) = match text.split_once(' ') {
        Some((who, rule)) => (who, rule.trim()),
        None => (text, ""),
    };
    let address = if who.is_empty() { None } else { Some(address(who)?) };
    if address.is_some() && (rule.is_empty() || rule.contains(' ')) {
        return Err(expected(rule, "the name of one rule after the address, and then nothing but account="));
    }
    Ok(Incident { address, rule, account })
}

fn address(word: &str) -> Result<IpAddr, RequestError> {
    parse_address(word).map_err(|_| expected(word, "an IP address"))
}

/// Parses a number of only digits; `parse` alone would also accept a sign.
fn digits<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
