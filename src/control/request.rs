//! The requests that a peer sends to the daemon, a line each: parsed by the daemon, written by the operator's program. The bytes are
//! untrusted: every line yields a request or an error, never a panic.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::answer::one_line;
use crate::client::parse_address;
use crate::config::fleet::is_node;
use crate::event::Scope;
use crate::list::file::parse_network;
use crate::rule_id::is_rule_name;
use crate::time::Span;

/// Maximum length of a line in bytes, without its newline.
pub const MAX_LINE: usize = 8 * 1024;

/// A request on the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketRequest<'a> {
    /// Exim asks whether to accept a connection.
    Check(Check),
    /// Exim reports an incident under a rule.
    Strike {
        /// The client's address; `None` for an empty one, which is accepted.
        address: Option<IpAddr>,
        rule: &'a str,
    },
    /// A helper says for the log what it did not understand.
    Report(&'a str),
    /// Turns the connection into a stream of rules, lists and bans, in this version of the stream's protocol.
    Subscribe(u32),
    /// A request by an operator's program.
    Admin(AdminRequest),
}

/// A request by an operator's program. It owns its data, because another thread of the daemon answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminRequest {
    /// Explains why an address is refused or served.
    Why(IpAddr),
    List(BanFilter),
    Status,
    /// Reports metrics in Prometheus' text format.
    Metrics,
    /// Bans a client or a network by hand.
    Ban(BanRequest),
    /// Unbans clients and networks.
    Unban {
        target: IpNet,
        scope: Scope,
    },
    /// Drops everything that a node of the fleet published.
    Forget(String),
    /// Reads the configuration again.
    Reload,
}

impl AdminRequest {
    /// Whether only root and the daemon's own user may send this request.
    #[must_use]
    pub fn needs_privilege(&self) -> bool {
        matches!(self, Self::Ban(_) | Self::Unban { .. } | Self::Forget(_) | Self::Reload)
    }
}

/// The line that the daemon parses as this request, without its newline. Control characters in the reason become spaces.
impl fmt::Display for AdminRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Why(address) => write!(f, "why {address}"),
            Self::List(filter) => {
                f.write_str("list")?;
                filter.rule.as_ref().map_or(Ok(()), |rule| write!(f, " rule={rule}"))?;
                filter.network.map_or(Ok(()), |network| write!(f, " network={network}"))?;
                filter.scope.map_or(Ok(()), |scope| write!(f, " scope={}", scope.as_str()))
            }
            Self::Status => f.write_str("status"),
            Self::Metrics => f.write_str("metrics"),
            Self::Ban(ban) => {
                write!(f, "ban {} scope={}", ban.target, ban.scope.as_str())?;
                match ban.length {
                    BanLength::Default => {}
                    BanLength::For(span) => write!(f, " for={}", span.secs_ceil())?,
                    BanLength::Permanent => f.write_str(" for=-1")?,
                }
                if ban.reason.is_empty() { Ok(()) } else { write!(f, " reason={}", one_line(&ban.reason)) }
            }
            Self::Unban { target, scope } => write!(f, "unban {target} scope={}", scope.as_str()),
            Self::Forget(node) => write!(f, "forget {node}"),
            Self::Reload => f.write_str("reload"),
        }
    }
}

/// Which bans `list` returns: those that match every condition given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BanFilter {
    /// The name of the rule that banned.
    pub rule: Option<String>,
    /// Selects clients and networks inside this network, and banned networks that contain it.
    pub network: Option<IpNet>,
    /// Selects bans that refuse in this scope: `Some(Web)` includes bans of scope `all`, `Some(All)` only those.
    pub scope: Option<Scope>,
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

/// A ban by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanRequest {
    /// The client or network.
    pub target: IpNet,
    pub length: BanLength,
    /// Always `all` for a network.
    pub scope: Scope,
    /// The operator's reason; empty if none was given.
    pub reason: String,
}

/// How long a ban by hand lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BanLength {
    /// The daemon's default for bans by hand.
    Default,
    For(Span),
    Permanent,
}

/// Why a line is not a request: what was found, escaped and truncated, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError(String);

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RequestError {}

const VERBS: &str = "check, strike, why, list, status, metrics, ban, unban, forget, reload or subscribe";

/// Parses a line without its newline. A carriage return at the end is ignored.
///
/// # Errors
/// The line is not a request.
pub fn parse(line: &[u8]) -> Result<SocketRequest<'_>, RequestError> {
    if line.len() > MAX_LINE {
        return Err(RequestError(format!("found a line of more than {MAX_LINE} bytes, expected a shorter one")));
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| RequestError(format!("found {}, expected UTF-8", quoted(line))))?;
    if text.contains('\0') {
        return Err(RequestError(format!("found a NUL byte in {}, expected text", quoted(line))));
    }
    let (verb, rest) = match text.split_once(' ') {
        Some((verb, rest)) => (verb, Some(rest)),
        None => (text, None),
    };
    match verb {
        "check" => check(rest.unwrap_or_default()).map(SocketRequest::Check),
        "strike" => strike(rest.unwrap_or_default()),
        "report" => report(rest.unwrap_or_default()),
        "why" => Ok(SocketRequest::Admin(AdminRequest::Why(address(rest.unwrap_or_default().trim())?))),
        "list" => filter(rest.unwrap_or_default()).map(|filter| SocketRequest::Admin(AdminRequest::List(filter))),
        "status" => without_arguments(rest, AdminRequest::Status),
        "metrics" => without_arguments(rest, AdminRequest::Metrics),
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

/// `[rule=NAME] [network=CIDR] [scope=SCOPE]`.
fn filter(text: &str) -> Result<BanFilter, RequestError> {
    let mut filter = BanFilter::default();
    for word in text.split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("rule", name)) if is_rule_name(name) => filter.rule = Some(name.to_owned()),
            Some(("network", text)) => filter.network = Some(target(text)?),
            Some(("scope", name)) => filter.scope = Some(scope(name)?),
            _ => return Err(expected(word, "rule=NAME, network=CIDR or scope=SCOPE")),
        }
    }
    Ok(filter)
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

/// `ADDRESS RULE`. The address may be empty.
fn strike(text: &str) -> Result<SocketRequest<'_>, RequestError> {
    let (who, rule) = match text.split_once(' ') {
        Some((who, rule)) => (who, rule.trim()),
        None => (text, ""),
    };
    let address = if who.is_empty() { None } else { Some(address(who)?) };
    if address.is_some() && (rule.is_empty() || rule.contains(' ')) {
        return Err(expected(rule, "the name of one rule after the address"));
    }
    Ok(SocketRequest::Strike { address, rule })
}

/// `TARGET [LENGTH] [for=LENGTH] [scope=SCOPE] [reason=…]`; the reason is the rest of the line.
fn ban(text: &str) -> Result<BanRequest, RequestError> {
    let (words, reason) = text.split_once(" reason=").unwrap_or((text, ""));
    let mut words = words.split_ascii_whitespace();
    let mut ban = BanRequest {
        target: target(words.next().unwrap_or_default())?,
        length: BanLength::Default,
        scope: Scope::All,
        reason: reason.to_owned(),
    };
    for word in words {
        match word.split_once('=') {
            Some(("for", text)) => ban.length = length(text)?,
            Some(("scope", name)) => ban.scope = scope(name)?,
            Some(_) => return Err(expected(word, "for=LENGTH, scope=SCOPE or reason=TEXT")),
            None => ban.length = length(word)?,
        }
    }
    check_scope(ban.target, ban.scope)?;
    Ok(ban)
}

/// `TARGET [scope=SCOPE]`.
fn unban(text: &str) -> Result<AdminRequest, RequestError> {
    let mut words = text.split_ascii_whitespace();
    let target = target(words.next().unwrap_or_default())?;
    let scope = match words.next() {
        None => Scope::All,
        Some(word) => scope(word.strip_prefix("scope=").ok_or_else(|| expected(word, "scope=SCOPE"))?)?,
    };
    check_scope(target, scope)?;
    match words.next() {
        None => Ok(AdminRequest::Unban { target, scope }),
        Some(word) => Err(expected(word, "nothing more in this request")),
    }
}

/// Checks that `scope` is possible for `target`: a network is always banned on every service.
///
/// # Errors
/// The target is a network, and the scope is narrower than `all`.
pub fn check_scope(target: IpNet, scope: Scope) -> Result<(), RequestError> {
    if scope == Scope::All || target.prefix_len() == target.max_prefix_len() {
        return Ok(());
    }
    let scope = scope.as_str();
    Err(RequestError(format!(
        "found the scope {scope} for the network {target}, expected all: the ban of a network refuses on every service"
    )))
}

fn address(word: &str) -> Result<IpAddr, RequestError> {
    parse_address(word).map_err(|_| expected(word, "an IP address"))
}

fn target(word: &str) -> Result<IpNet, RequestError> {
    parse_network(word).map_err(|_| expected(word, "an IP address or a network"))
}

/// How long a ban by hand lasts: a duration, or -1 for one without an end.
///
/// # Errors
/// It is neither.
pub fn length(text: &str) -> Result<BanLength, RequestError> {
    match text {
        "-1" => Ok(BanLength::Permanent),
        _ => Span::parse(text).map(BanLength::For).map_err(|_| expected(text, "a duration such as 600 or 10m, or -1")),
    }
}

fn scope(name: &str) -> Result<Scope, RequestError> {
    Scope::from_name(name).ok_or_else(|| expected(name, "the scope web, mail or all"))
}

/// Parses a number of only digits; `parse` alone would also accept a sign.
fn digits<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn expected(found: &str, expected: &str) -> RequestError {
    RequestError(format!("found {}, expected {expected}", quoted(found.as_bytes())))
}

/// The start of what a client sent, in quotes and escaped to printable ASCII.
#[must_use]
pub fn quoted(text: &[u8]) -> String {
    const MAX_QUOTED: usize = 60;
    let mut quoted = String::from("\"");
    for byte in text.iter().take(MAX_QUOTED) {
        quoted.extend(std::ascii::escape_default(*byte).map(char::from));
    }
    quoted.push_str(if text.len() > MAX_QUOTED { "...\"" } else { "\"" });
    quoted
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
