//! The requests that an operator's program sends to the daemon, a line each.

use std::fmt;

use ipnet::IpNet;

use super::answer::one_line;
use super::request_error::{RequestError, expected};
use crate::client::{Ipv6Prefix, is_single};
use crate::event::Scope;
use crate::geo::Network;
use crate::list::file::{parse_network, parse_target};
use crate::rule_id::{is_origin, is_rule_name};
use crate::time::{Span, Time};

/// A request by an operator's program. It owns its data, because another thread of the daemon answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminRequest {
    /// Explains why an address is refused or served, or what is banned in a network, of a system or of a country.
    Why(Network),
    List(BanFilter),
    Status,
    /// Reports metrics in Prometheus' text format.
    Metrics,
    /// Bans a client or a network by hand.
    Ban(BanRequest),
    /// Unbans clients and networks.
    Unban(UnbanRequest),
    /// Takes back bans that another program made.
    Release(ReleaseRequest),
    /// Serves everybody for so long.
    Pause(Span),
    /// Ends the pause.
    Resume,
    /// Drops everything that a node of the fleet published.
    Forget(String),
    /// Reads the configuration again.
    Reload,
}

impl AdminRequest {
    /// Whether only root and the daemon's own user may send this request.
    #[must_use]
    pub fn needs_privilege(&self) -> bool {
        matches!(self, Self::Ban(_) | Self::Unban(_) | Self::Release(_) | Self::Pause(_) | Self::Resume | Self::Forget(_) | Self::Reload)
    }
}

/// The line that the daemon parses as this request, without its newline. Control characters in the reason become spaces.
impl fmt::Display for AdminRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Why(target) => write!(f, "why {target}"),
            Self::List(filter) => {
                f.write_str("list")?;
                filter.rule.as_ref().map_or(Ok(()), |rule| write!(f, " rule={rule}"))?;
                filter.network.map_or(Ok(()), |network| write!(f, " network={network}"))?;
                filter.scope.map_or(Ok(()), |scope| write!(f, " scope={}", scope.as_str()))?;
                f.write_str(if filter.evidence { " evidence" } else { "" })?;
                f.write_str(if filter.shadow { " shadow" } else { "" })
            }
            Self::Status => f.write_str("status"),
            Self::Metrics => f.write_str("metrics"),
            Self::Ban(ban) => {
                write!(f, "ban {} scope={}", ban.target, ban.scope.as_str())?;
                match ban.length {
                    BanLength::Default => {}
                    BanLength::For(span) => write!(f, " for={}", span.secs_ceil())?,
                    BanLength::Until(end) => write!(f, " until={}", end.secs())?,
                    BanLength::Permanent => f.write_str(" for=-1")?,
                }
                ban.rule.as_ref().map_or(Ok(()), |rule| write!(f, " rule={rule}"))?;
                if ban.reason.is_empty() { Ok(()) } else { write!(f, " reason={}", one_line(&ban.reason)) }
            }
            Self::Unban(UnbanRequest { what, scope }) => {
                match what {
                    UnbanTarget::One(target) => write!(f, "unban {target}"),
                    UnbanTarget::Inside(network) => write!(f, "unban {network} inside"),
                    UnbanTarget::Rule(rule) => write!(f, "unban rule={rule}"),
                    UnbanTarget::All => f.write_str("unban all"),
                }?;
                write!(f, " scope={}", scope.as_str())
            }
            Self::Release(ReleaseRequest { target, rule, until }) => {
                match target {
                    Some(target) => write!(f, "release {target} rule={rule}"),
                    None => write!(f, "release all rule={rule}"),
                }?;
                until.map_or(Ok(()), |until| write!(f, " until={until}"))
            }
            Self::Pause(length) => write!(f, "pause {}", length.secs_ceil()),
            Self::Resume => f.write_str("resume"),
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
    /// Whether to tell the evidence of each ban.
    pub evidence: bool,
    /// Selects the bans that rules in shadow mode would have made instead of those in force.
    pub shadow: bool,
}

/// An unban by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnbanRequest {
    pub what: UnbanTarget,
    /// Where to unban. The ban of a network is taken back if it refuses nowhere else.
    pub scope: Scope,
}

/// What is unbanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnbanTarget {
    /// A client, or exactly this network, system or country.
    One(Network),
    /// This network, and all clients and networks inside it.
    Inside(IpNet),
    /// All clients and networks that a rule banned; `manual` for those banned by hand.
    Rule(String),
    All,
}

/// Another program takes back bans of its own. Bans of others, also of the same client, stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseRequest {
    /// The client or network; `None` for all that the program banned under this name.
    pub target: Option<Network>,
    /// The name under which they stand, such as `fail2ban-sshd`.
    pub rule: String,
    /// Seconds since 1970: a ban that ends later stays, because it was made for another address of the same client. `None` takes back all.
    pub until: Option<i64>,
}

/// A ban by an operator, or by another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanRequest {
    /// The client or network.
    pub target: Network,
    pub length: BanLength,
    /// Always `all` for a network.
    pub scope: Scope,
    /// The rule that made the ban which is restored, `manual` if that was by hand; or the name under which another program's bans stand; `None`
    /// for a new ban by hand.
    pub rule: Option<String>,
    /// The operator's reason; empty if none was given. Of a ban which is restored, its evidence as it was shown.
    pub reason: String,
}

/// Maximum length of an operator's reason, in characters: far less than a line of the socket holds.
pub const MAX_REASON: usize = 500;

/// When a ban by hand ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BanLength {
    /// The daemon's default for bans by hand.
    Default,
    For(Span),
    /// To this end by the wall clock, of a ban that began elsewhere: it is the same however late the request comes.
    Until(Time),
    Permanent,
}

/// A length; `None` is one without an end.
impl From<Option<Span>> for BanLength {
    fn from(length: Option<Span>) -> Self {
        length.map_or(Self::Permanent, Self::For)
    }
}

/// `[rule=NAME] [network=CIDR] [scope=SCOPE] [evidence] [shadow]`.
pub(super) fn filter(text: &str) -> Result<BanFilter, RequestError> {
    let mut filter = BanFilter::default();
    for word in text.split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("rule", name)) if is_rule_name(name) => filter.rule = Some(name.to_owned()),
            Some(("network", text)) => filter.network = Some(block(text)?),
            Some(("scope", name)) => filter.scope = Some(scope(name)?),
            None if word == "evidence" => filter.evidence = true,
            None if word == "shadow" => filter.shadow = true,
            _ => return Err(expected(word, "rule=NAME, network=CIDR, scope=SCOPE, evidence or shadow")),
        }
    }
    Ok(filter)
}

/// `TARGET [LENGTH] [for=LENGTH] [until=EPOCH] [scope=SCOPE] [rule=NAME] [reason=…]`; the reason is the rest of the line.
pub(super) fn ban(text: &str) -> Result<BanRequest, RequestError> {
    let (words, reason) = text.split_once(" reason=").unwrap_or((text, ""));
    let mut words = words.split_ascii_whitespace();
    let mut ban = BanRequest {
        target: target(words.next().unwrap_or_default())?,
        length: BanLength::Default,
        scope: Scope::All,
        rule: None,
        reason: reason.to_owned(),
    };
    for word in words {
        match word.split_once('=') {
            Some(("for", text)) => ban.length = length(text)?.into(),
            Some(("until", number)) => {
                let end = number.parse().map_err(|_| expected(word, "until= and seconds since 1970"))?;
                ban.length = BanLength::Until(Time::from_secs(end));
            }
            Some(("scope", name)) => ban.scope = scope(name)?,
            Some(("rule", name)) if is_rule_name(name) => ban.rule = Some(name.to_owned()),
            Some(_) => return Err(expected(word, "for=LENGTH, until=EPOCH, scope=SCOPE, rule=NAME or reason=TEXT")),
            None => ban.length = length(word)?.into(),
        }
    }
    // A rule that counts networks bans them on its services, and such a ban may be restored.
    if ban.rule.is_none() {
        check_scope(ban.target, ban.scope, None)?;
    }
    Ok(ban)
}

/// What may be banned by hand: an address, a network, a system or a country.
///
/// # Errors
/// It is none of these.
pub fn target(word: &str) -> Result<Network, RequestError> {
    let wanted = "an IP address, a network such as 192.0.2.0/24, a system such as AS64496 or a country such as country:XX";
    parse_target(word).map_err(|_| expected(word, wanted))
}

/// An address or a network.
///
/// # Errors
/// It is neither.
pub fn block(word: &str) -> Result<IpNet, RequestError> {
    parse_network(word).map_err(|_| expected(word, "an IP address or a network"))
}

/// Length of a pause if the operator gives none.
pub const DEFAULT_PAUSE: Span = Span::from_secs(3600);

/// Maximum length of a pause: one that is longer was meant as one without an end.
pub const MAX_PAUSE: Span = Span::from_secs(30 * 86_400);

/// `[LENGTH]`: how long a pause lasts. It always has an end, so that nobody can forget to resume.
///
/// # Errors
/// It is no duration of at least a second and at most [`MAX_PAUSE`].
pub fn pause_length(text: &str) -> Result<Span, RequestError> {
    if text.is_empty() {
        return Ok(DEFAULT_PAUSE);
    }
    let length = Span::parse(text).ok().filter(|length| (Span::from_secs(1)..=MAX_PAUSE).contains(length));
    length.ok_or_else(|| expected(text, "a duration such as 30m or 2h, at most 30d: a pause always ends by itself"))
}

/// `TARGET`.
pub(super) fn why(text: &str) -> Result<AdminRequest, RequestError> {
    target(text).map(AdminRequest::Why)
}

/// `TARGET [inside] [scope=SCOPE]`, `rule=NAME [scope=SCOPE]` or `all [scope=SCOPE]`.
pub(super) fn unban(text: &str) -> Result<AdminRequest, RequestError> {
    let mut words = text.split_ascii_whitespace().peekable();
    let first = words.next().unwrap_or_default();
    let what = match first.split_once('=') {
        Some(("rule", name)) if is_rule_name(name) => UnbanTarget::Rule(name.to_owned()),
        None if first == "all" => UnbanTarget::All,
        _ => {
            let wanted = "an IP address, a network, a system such as AS64496, a country such as country:XX, rule=NAME or all";
            let target = target(first).map_err(|_| expected(first, wanted))?;
            match target.block().filter(|_| words.next_if(|word| *word == "inside").is_some()) {
                Some(block) => UnbanTarget::Inside(block),
                None => UnbanTarget::One(target),
            }
        }
    };
    let scope = match words.next() {
        None => Scope::All,
        Some(word) => scope(word.strip_prefix("scope=").ok_or_else(|| expected(word, "scope=SCOPE"))?)?,
    };
    match words.next() {
        None => Ok(AdminRequest::Unban(UnbanRequest { what, scope })),
        Some(word) => Err(expected(word, "nothing more in this request")),
    }
}

/// `TARGET rule=NAME [until=EPOCH]` or `all rule=NAME`.
pub(super) fn release(text: &str) -> Result<AdminRequest, RequestError> {
    let mut words = text.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let target = if first == "all" { None } else { Some(target(first)?) };
    let mut rule = None;
    let mut until = None;
    for word in words {
        match word.split_once('=') {
            Some(("rule", name)) if is_rule_name(name) && is_origin(name) => rule = Some(name.to_owned()),
            Some(("until", number)) => until = Some(number.parse().map_err(|_| expected(word, "until= and seconds since 1970"))?),
            _ => return Err(expected(word, "rule=NAME of another program's bans, such as fail2ban-sshd, or until=EPOCH")),
        }
    }
    let rule = rule.ok_or_else(|| expected(text, "rule=NAME of another program's bans"))?;
    Ok(AdminRequest::Release(ReleaseRequest { target, rule, until }))
}

/// Checks that `scope` is possible for `target`: an operator bans a network on every service. Of IPv6, an address and a network of exactly the length
/// `prefix` are a client; any network may be one where `prefix` is not known.
///
/// # Errors
/// The target is a network, and the scope is narrower than `all`.
pub fn check_scope(target: Network, scope: Scope, prefix: Option<Ipv6Prefix>) -> Result<(), RequestError> {
    let is_client = match target {
        Network::Origin(_) => false,
        Network::Block(block @ IpNet::V4(_)) => is_single(block),
        Network::Block(IpNet::V6(v6)) => prefix.is_none_or(|prefix| [prefix.bits(), v6.max_prefix_len()].contains(&v6.prefix_len())),
    };
    if scope == Scope::All || is_client {
        return Ok(());
    }
    let scope = scope.as_str();
    Err(RequestError::new(format!(
        "found the scope {scope} for the network {target}, expected all: the ban of a network refuses on every service"
    )))
}

/// How long a ban by hand lasts: a duration, or `None` for -1, without an end.
///
/// # Errors
/// It is neither.
pub fn length(text: &str) -> Result<Option<Span>, RequestError> {
    match text {
        "-1" => Ok(None),
        _ => Span::parse(text).map(Some).map_err(|_| expected(text, "a duration such as 600 or 10m, or -1")),
    }
}

fn scope(name: &str) -> Result<Scope, RequestError> {
    Scope::from_name(name).ok_or_else(|| expected(name, "the scope web, mail or all"))
}
