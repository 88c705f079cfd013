//! One line that somebody sends to the resident, read: pure, of any bytes, never a panic.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::client::parse_address;
use crate::event::Scope;
use crate::fleet::config::is_node;
use crate::list::file::parse_network;
use crate::time::Span;

/// The longest line in bytes, without its newline.
pub const LONGEST_LINE: usize = 8 * 1024;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Exim has accepted a connection: may it go on?
    Check(Check),
    /// Exim reports an incident under a rule.
    Strike {
        /// Whom it is about; `None` for an empty address, which is accepted.
        address: Option<IpAddr>,
        /// The rule's name, as sent.
        rule: &'a str,
    },
    /// Why is this address refused, or not?
    Why(IpAddr),
    /// Every ban, or those that are wanted.
    List(Wanted<'a>),
    /// How the resident is.
    Status,
    /// Its numbers, for Prometheus.
    Metrics,
    /// Ban somebody by hand.
    Ban(Ban<'a>),
    /// Lift bans.
    Unban {
        /// Of whom.
        target: IpNet,
        /// On which surfaces.
        scope: Scope,
    },
    /// Drop all that this node of the fleet said.
    Forget(&'a str),
    /// Read the configuration again.
    Reload,
    /// Turn this connection into a stream of rules, lists and bans, in this version of its protocol.
    Follow(u32),
}

/// Which bans a `list` is about: those for which everything that is given is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted<'a> {
    /// By this rule.
    pub rule: Option<&'a str>,
    /// Of clients and networks inside this network.
    pub network: Option<IpNet>,
    /// Refused there: a ban of scope `all` is refused on the web as well. `Some(All)` wants those alone that are refused everywhere.
    pub scope: Option<Scope>,
}

/// A `check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Whom it is about; `None` for an empty address (mail from this machine), which is accepted.
    pub address: Option<IpAddr>,
    /// What Exim says its process is. It can be forged: it is logged, and believed only of an ancestor of the peer.
    pub pid: Option<u32>,
    /// The port that the connection came in on.
    pub port: Option<u16>,
    /// Who asks.
    pub via: Via,
}

/// Who asks for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Via {
    /// The connection process itself: `${readsocket}`.
    #[default]
    Peer,
    /// A child of the connection process: `${run}`.
    Run,
    /// A process that asks for many connections, one after the other: which of them still live cannot be known.
    Lines,
}

/// A `ban`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban<'a> {
    /// Who.
    pub target: IpNet,
    /// For how long.
    pub length: Length,
    /// Where.
    pub scope: Scope,
    /// Why, in the operator's words; empty if they gave none.
    pub reason: &'a str,
}

/// How long a ban by hand lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// As long as bans by hand usually last.
    Default,
    /// So long.
    For(Span),
    /// For ever.
    Permanent,
}

/// A line that is no request: what was found, and what was expected. It quotes the line escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

const VERBS: &str = "check, strike, why, list, status, metrics, ban, unban, forget, reload or follow";

/// Reads one line, without its newline; a carriage return before it is ignored.
///
/// # Errors
/// [`Unreadable`] for everything that is no request.
pub fn parse(line: &[u8]) -> Result<Request<'_>, Unreadable> {
    if line.len() > LONGEST_LINE {
        return Err(Unreadable(format!("found a line of more than {LONGEST_LINE} bytes, expected less")));
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| Unreadable(format!("found {}, expected UTF-8", quoted(line))))?;
    if text.contains('\0') {
        return Err(Unreadable(format!("found a NUL byte in {}, expected text", quoted(line))));
    }
    let (verb, rest) = match text.split_once(' ') {
        Some((verb, rest)) => (verb, Some(rest)),
        None => (text, None),
    };
    match verb {
        "check" => check(rest.unwrap_or_default()).map(Request::Check),
        "strike" => strike(rest.unwrap_or_default()),
        "why" => Ok(Request::Why(address(rest.unwrap_or_default().trim())?)),
        "list" => wanted(rest.unwrap_or_default()).map(Request::List),
        "status" => alone(rest, Request::Status),
        "metrics" => alone(rest, Request::Metrics),
        "reload" => alone(rest, Request::Reload),
        "forget" => {
            let node = rest.unwrap_or_default().trim();
            if is_node(node) { Ok(Request::Forget(node)) } else { Err(expected(node, "the name of a node after \"forget\"")) }
        }
        "ban" => ban(rest.unwrap_or_default()).map(Request::Ban),
        "unban" => unban(rest.unwrap_or_default()),
        "follow" => {
            let version = rest.unwrap_or_default().trim();
            let number = digits(version).ok_or_else(|| expected(version, "the number of a version after \"follow\""))?;
            Ok(Request::Follow(number))
        }
        _ => Err(expected(text, &format!("one of {VERBS}"))),
    }
}

fn alone<'a>(rest: Option<&str>, request: Request<'a>) -> Result<Request<'a>, Unreadable> {
    match rest.map(str::trim) {
        None | Some("") => Ok(request),
        Some(more) => Err(expected(more, "nothing more in this request")),
    }
}

/// `[rule=NAME] [network=CIDR] [scope=SCOPE]`.
fn wanted(text: &str) -> Result<Wanted<'_>, Unreadable> {
    let mut wanted = Wanted::default();
    for word in text.split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("rule", name)) => wanted.rule = Some(name),
            Some(("network", text)) => wanted.network = Some(target(text)?),
            Some(("scope", name)) => wanted.scope = Some(scope(name)?),
            _ => return Err(expected(word, "rule=NAME, network=CIDR or scope=SCOPE")),
        }
    }
    Ok(wanted)
}

/// `ADDRESS [pid=N] [port=N] [via=run|lines]`. Exim writes an empty address, and `port=` with nothing behind it, for local mail, and
/// `port=-1` when it only plays a connection (`exim4 -bh`).
fn check(text: &str) -> Result<Check, Unreadable> {
    let mut words = text.split(' ').peekable();
    let address = match words.next_if(|word| !word.contains('=')) {
        None | Some("") => None,
        Some(word) => Some(address(word)?),
    };
    let mut check = Check { address, pid: None, port: None, via: Via::Peer };
    for word in words.filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some(("pid" | "port", "")) | Some(("port", "-1")) => {}
            Some(("pid", number)) => check.pid = Some(digits(number).ok_or_else(|| expected(word, "pid= and a number"))?),
            Some(("port", number)) => check.port = Some(digits(number).ok_or_else(|| expected(word, "port= and 0 to 65535"))?),
            Some(("via", "run")) => check.via = Via::Run,
            Some(("via", "lines")) => check.via = Via::Lines,
            _ => return Err(expected(word, "pid=N, port=N or via=run")),
        }
    }
    Ok(check)
}

/// `ADDRESS RULE`, the address possibly empty.
fn strike(text: &str) -> Result<Request<'_>, Unreadable> {
    let (who, rule) = match text.split_once(' ') {
        Some((who, rule)) => (who, rule.trim()),
        None => (text, ""),
    };
    let address = if who.is_empty() { None } else { Some(address(who)?) };
    if address.is_some() && (rule.is_empty() || rule.contains(' ')) {
        return Err(expected(rule, "the name of one rule after the address"));
    }
    Ok(Request::Strike { address, rule })
}

/// `TARGET [LENGTH] [for=LENGTH] [scope=SCOPE] [reason=…]`; the reason goes to the end of the line.
fn ban(text: &str) -> Result<Ban<'_>, Unreadable> {
    let (words, reason) = text.split_once(" reason=").unwrap_or((text, ""));
    let mut words = words.split_ascii_whitespace();
    let mut ban = Ban { target: target(words.next().unwrap_or_default())?, length: Length::Default, scope: Scope::All, reason };
    for word in words {
        match word.split_once('=') {
            Some(("for", text)) => ban.length = length(text)?,
            Some(("scope", name)) => ban.scope = scope(name)?,
            Some(_) => return Err(expected(word, "for=LENGTH, scope=SCOPE or reason=TEXT")),
            None => ban.length = length(word)?,
        }
    }
    Ok(ban)
}

/// `TARGET [scope=SCOPE]`.
fn unban(text: &str) -> Result<Request<'_>, Unreadable> {
    let mut words = text.split_ascii_whitespace();
    let target = target(words.next().unwrap_or_default())?;
    let scope = match words.next() {
        None => Scope::All,
        Some(word) => scope(word.strip_prefix("scope=").ok_or_else(|| expected(word, "scope=SCOPE"))?)?,
    };
    match words.next() {
        None => Ok(Request::Unban { target, scope }),
        Some(word) => Err(expected(word, "nothing more in this request")),
    }
}

fn address(word: &str) -> Result<IpAddr, Unreadable> {
    parse_address(word).map_err(|_| expected(word, "an IP address"))
}

fn target(word: &str) -> Result<IpNet, Unreadable> {
    parse_network(word).map_err(|_| expected(word, "an IP address or a network"))
}

fn length(text: &str) -> Result<Length, Unreadable> {
    match text {
        "-1" => Ok(Length::Permanent),
        _ => Span::parse(text).map(Length::For).map_err(|_| expected(text, "a length of time such as 600 or 10m, or -1")),
    }
}

fn scope(name: &str) -> Result<Scope, Unreadable> {
    Scope::from_name(name).ok_or_else(|| expected(name, "the scope web, mail or all"))
}

/// A number in plain digits: `parse` alone would take a sign.
fn digits<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn expected(found: &str, expected: &str) -> Unreadable {
    Unreadable(format!("found {}, expected {expected}", quoted(found.as_bytes())))
}

/// The beginning of what a client sent, escaped to printable ASCII without quotes of its own.
fn quoted(text: &[u8]) -> String {
    const MOST: usize = 60;
    let mut quoted = String::from("\"");
    for byte in text.iter().take(MOST) {
        quoted.extend(std::ascii::escape_default(*byte).map(char::from));
    }
    quoted.push_str(if text.len() > MOST { "…\"" } else { "\"" });
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check_of(line: &str) -> Check {
        match parse(line.as_bytes()).unwrap() {
            Request::Check(check) => check,
            other => panic!("{other:?}"),
        }
    }

    fn fault(line: &[u8]) -> String {
        parse(line).unwrap_err().to_string()
    }

    #[test]
    fn a_check_is_what_exims_acl_sends() {
        assert_eq!(
            check_of("check 192.0.2.1 pid=4711 port=25"),
            Check { address: "192.0.2.1".parse().ok(), pid: Some(4711), port: Some(25), via: Via::Peer }
        );
        assert_eq!(check_of("check ::ffff:192.0.2.1").address, "192.0.2.1".parse().ok(), "canonical");
        assert_eq!(check_of("check 2001:db8::1 via=run\r").via, Via::Run);
        assert_eq!(check_of("check 2001:db8::1 via=lines").via, Via::Lines);
    }

    #[test]
    fn local_mail_has_no_address_and_no_port() {
        let local = Check { address: None, pid: Some(7), port: None, via: Via::Peer };
        assert_eq!(check_of("check  pid=7 port="), local);
        assert_eq!(check_of("check pid=7 port="), local);
        assert_eq!(check_of("check 192.0.2.1 port=-1").port, None, "a connection that Exim only plays");
        assert_eq!(check_of("check").address, None);
        assert_eq!(parse(b"strike  helo-is-ip"), Ok(Request::Strike { address: None, rule: "helo-is-ip" }));
    }

    #[test]
    fn a_ban_has_a_length_a_scope_and_a_reason_to_the_end_of_the_line() {
        assert_eq!(
            parse(b"ban 192.0.2.0/24 for=600 scope=mail reason=floods us, for=ever"),
            Ok(Request::Ban(Ban {
                target: "192.0.2.0/24".parse().unwrap(),
                length: Length::For(Span::from_secs(600)),
                scope: Scope::Mail,
                reason: "floods us, for=ever"
            }))
        );
        assert!(matches!(parse(b"ban 192.0.2.1 10m"), Ok(Request::Ban(Ban { length: Length::For(_), .. }))));
        assert!(matches!(parse(b"ban 192.0.2.1 for=-1"), Ok(Request::Ban(Ban { length: Length::Permanent, .. }))));
        assert!(matches!(parse(b"unban 192.0.2.1 scope=web"), Ok(Request::Unban { scope: Scope::Web, .. })));
    }

    #[test]
    fn a_list_may_be_of_some_bans_only() {
        assert_eq!(parse(b"list"), Ok(Request::List(Wanted::default())));
        let wanted = Wanted { rule: Some("helo"), network: "198.51.100.0/24".parse().ok(), scope: Some(Scope::Web) };
        assert_eq!(parse(b"list rule=helo scope=web network=198.51.100.0/24"), Ok(Request::List(wanted)));
        assert!(fault(b"list all").contains("expected rule=NAME, network=CIDR or scope=SCOPE"));
    }

    #[test]
    fn a_fault_says_what_was_found_and_what_was_expected() {
        for (line, expected) in [
            (&b"chekc 192.0.2.1"[..], "found \"chekc 192.0.2.1\", expected one of check, strike,"),
            (b"", "found \"\", expected one of check,"),
            (b"check mail.example.org", "found \"mail.example.org\", expected an IP address"),
            (b"check 192.0.2.1 pid=x", "found \"pid=x\", expected pid= and a number"),
            (b"check 192.0.2.1 port=65536", "found \"port=65536\", expected port= and 0 to 65535"),
            (b"check 192.0.2.1 port=+25", "found \"port=+25\", expected port="),
            (b"check 192.0.2.1 exim", "found \"exim\", expected pid=N"),
            (b"strike 192.0.2.1", "found \"\", expected the name of one rule after the address"),
            (b"strike 192.0.2.1 a b", "found \"a b\", expected the name of one rule"),
            (b"why", "found \"\", expected an IP address"),
            (b"status all", "found \"all\", expected nothing more"),
            (b"ban 192.0.2.1 for=soon", "found \"soon\", expected a length of time"),
            (b"ban everybody", "found \"everybody\", expected an IP address or a network"),
            (b"unban 192.0.2.1 scope=ftp", "found \"ftp\", expected the scope web, mail or all"),
            (b"follow", "found \"\", expected the number of a version"),
            (b"check \xff", "found \"check \\xff\", expected UTF-8"),
            (b"list\0", "found a NUL byte in \"list\\x00\""),
        ] {
            let fault = fault(line);
            assert!(fault.starts_with(expected), "{fault}");
        }
        assert!(fault(&[b'a'; LONGEST_LINE + 1]).contains("more than 8192 bytes"));
    }

    #[test]
    fn what_a_client_sent_is_quoted_escaped_and_cut() {
        let fault = fault(format!("\x1b[31m\"{}", "x".repeat(8000)).as_bytes());
        assert!(fault.starts_with("found \"\\x1b[31m\\\"xxx") && fault.len() < 250, "{fault}");
        assert!(fault.chars().all(|c| c == '…' || (' '..='~').contains(&c)), "{fault}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_no_fault_holds_raw_bytes(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Err(fault) = parse(&line) {
                prop_assert!(fault.to_string().chars().all(|c| c == '…' || (' '..='~').contains(&c)));
            }
        }

        #[test]
        fn no_words_make_it_panic(
            verb in "check|strike|why|list|status|metrics|ban|unban|reload|follow",
            rest in "[ =.:/0-9a-f\u{e4}-]{0,60}|( ?(192\\.0\\.2\\.1|pid=|port=|for=|scope=|reason=|via=|\\PC{0,9})){0,8}"
        ) {
            let _ = parse(format!("{verb} {rest}").as_bytes());
        }

        #[test]
        fn every_address_is_read_as_itself(bits in any::<u128>(), v4 in any::<bool>()) {
            #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
            let address: IpAddr = if v4 { std::net::Ipv4Addr::from_bits(bits as u32).into() } else { std::net::Ipv6Addr::from_bits(bits).into() };
            prop_assert_eq!(check_of(&format!("check {address} pid=1")).address, Some(address.to_canonical()));
        }
    }
}
