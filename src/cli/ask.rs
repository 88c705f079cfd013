//! Sends an operator's requests to the daemon. If that fails, the message says what to do.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::{DaemonArguments, Failure};
use crate::client::parse_address;
use crate::control::admin::{self, AdminRequest};
use crate::control::client;
use crate::event::Scope;
use crate::geo::Network;

/// Timeout for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for `list`, `why` and `reload`, which may concern a million bans or networks.
const LONG_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for `unban`: a million bans are undone in pieces, so that bans made meanwhile need not wait.
const UNBAN_TIMEOUT: Duration = Duration::from_secs(600);
/// Time between two attempts to reach a daemon that is away.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Maximum length of an answer in bytes.
const MAX_ANSWER: usize = 1 << 30;

/// Sends a request whose answer is one object.
///
/// # Errors
/// The daemon cannot be asked, or refuses.
pub fn ask<T: DeserializeOwned>(daemon: &DaemonArguments, request: &AdminRequest) -> Result<T, Failure> {
    parse(&ask_text(daemon, request)?)
}

/// As [`ask`], and asks again for `wait` while the daemon is away, as it is while it restarts.
///
/// # Errors
/// As for [`ask`].
pub fn ask_waiting<T: DeserializeOwned>(daemon: &DaemonArguments, request: &AdminRequest, wait: Duration) -> Result<T, Failure> {
    let end = Instant::now() + wait;
    let socket = daemon.socket()?;
    loop {
        let pause = RETRY_PAUSE.min(end.saturating_duration_since(Instant::now()));
        match client::ask(&socket, &request.to_string(), MAX_ANSWER, timeout(request)) {
            Ok(answer) if !answer.is_empty() || pause.is_zero() => return parse(&complete(answer)?),
            Err(error) if pause.is_zero() || error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(Failure::Failed(unreachable_text(&socket, &error)));
            }
            // An empty answer is that of a daemon that has just ended.
            Ok(_) | Err(_) => std::thread::sleep(pause),
        }
    }
}

/// Sends a request whose answer is a list.
///
/// # Errors
/// The daemon cannot be asked, or refuses.
pub fn ask_list<T: DeserializeOwned>(daemon: &DaemonArguments, request: &AdminRequest) -> Result<Vec<T>, Failure> {
    ask_text(daemon, request)?.lines().map(parse).collect()
}

/// Sends a request and returns the text of the answer, without the line that ends it.
///
/// # Errors
/// The daemon cannot be asked, or refuses.
pub fn ask_text(daemon: &DaemonArguments, request: &AdminRequest) -> Result<String, Failure> {
    let socket = daemon.socket()?;
    let answer = client::ask(&socket, &request.to_string(), MAX_ANSWER, timeout(request))
        .map_err(|error| Failure::Failed(unreachable_text(&socket, &error)))?;
    complete(answer)
}

fn timeout(request: &AdminRequest) -> Duration {
    match request {
        AdminRequest::Unban(_) | AdminRequest::Release(_) => UNBAN_TIMEOUT,
        AdminRequest::List(_) | AdminRequest::Why(_) | AdminRequest::Reload => LONG_TIMEOUT,
        _ => TIMEOUT,
    }
}

/// Sends many requests whose answers are one object each, and calls `each` with every answer, in their order; with the daemon's reason where it
/// refuses one.
///
/// # Errors
/// The daemon cannot be asked, or does not answer one of them.
pub fn ask_all<T: DeserializeOwned>(
    daemon: &DaemonArguments,
    requests: impl Iterator<Item = AdminRequest>,
    mut each: impl FnMut(Result<T, String>),
) -> Result<(), Failure> {
    let socket = daemon.socket()?;
    let mut unreadable = None;
    let answered = |answer: Result<&str, &str>| match answer.map(parse) {
        Ok(Ok(answer)) => each(Ok(answer)),
        Ok(Err(failure)) => unreadable = unreadable.take().or(Some(failure)),
        Err(refusal) => each(Err(refusal.to_owned())),
    };
    client::ask_all(&socket, requests.map(|request| request.to_string()), TIMEOUT, answered)
        .map_err(|error| Failure::Failed(unreachable_text(&socket, &error)))?;
    unreadable.map_or(Ok(()), Err)
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T, Failure> {
    serde_json::from_str(line).map_err(|fault| {
        let found: String = line.chars().take(80).collect();
        Failure::Failed(format!("the daemon answered {found:?}, which this version cannot read: {fault}"))
    })
}

/// The answer without the line that ends it.
///
/// # Errors
/// The answer is an error or breaks off.
fn complete(mut answer: String) -> Result<String, Failure> {
    let last_line = answer.trim_end().rfind('\n').map_or(0, |at| at + 1);
    match answer.get(last_line..).map(str::trim_end) {
        Some(".") => {
            answer.truncate(last_line);
            Ok(answer)
        }
        Some("") | None => Err(Failure::Failed("the daemon closed the connection without an answer".to_owned())),
        Some(line) => Err(Failure::Failed(match line.strip_prefix("error ") {
            Some(fault) => fault.to_owned(),
            None => "the daemon's answer breaks off".to_owned(),
        })),
    }
}

/// Parses an argument as an address.
///
/// # Errors
/// It is not an address.
pub fn address(argument: &str) -> Result<IpAddr, Failure> {
    parse_address(argument).map_err(|_| Failure::Usage(format!("found {argument:?}, expected an IP address such as 198.51.100.7")))
}

/// Parses an argument as an address, a network, a system or a country.
///
/// # Errors
/// It is none of these.
pub fn target(argument: &str) -> Result<Network, Failure> {
    admin::target(argument).map_err(|fault| Failure::Usage(fault.to_string()))
}

/// Parses an argument as an address or a network.
///
/// # Errors
/// It is neither.
pub fn block(argument: &str) -> Result<IpNet, Failure> {
    admin::block(argument).map_err(|fault| Failure::Usage(fault.to_string()))
}

/// Parses an argument as a scope.
///
/// # Errors
/// It is not a scope.
pub fn scope(argument: &str) -> Result<Scope, Failure> {
    Scope::from_name(argument).ok_or_else(|| Failure::Usage(format!("found the scope {argument:?}, expected web, mail or all")))
}

/// Why the daemon cannot be reached, and what to do about it.
fn unreachable_text(socket: &Path, error: &std::io::Error) -> String {
    let advice = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            use std::os::unix::fs::MetadataExt;
            let group = std::fs::metadata(socket).or_else(|_| std::fs::metadata(socket.parent().unwrap_or(socket))).ok();
            let group = group.and_then(|metadata| nix::unistd::Group::from_gid(metadata.gid().into()).ok().flatten());
            format!("ask as root, or join the group {}", group.map_or_else(|| "strikeout".to_owned(), |group| group.name))
        }
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            "is strikeout serve running? See: systemctl status strikeout".to_owned()
        }
        std::io::ErrorKind::TimedOut => "the daemon does not answer in time".to_owned(),
        _ => "expected the socket of strikeout serve".to_owned(),
    };
    format!("{}: {error}: {advice}", socket.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_a_dot_and_an_error_is_a_failure() {
        assert_eq!(complete("{}\n{}\n.\n".into()), Ok("{}\n{}\n".into()));
        assert_eq!(complete(".\n".into()), Ok(String::new()));
        assert_eq!(complete("error user 33 may not do this\n".into()), Err(Failure::Failed("user 33 may not do this".into())));
        assert!(complete("{}\n".into()).is_err() && complete(String::new()).is_err());
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_a_failure_that_quotes_it() {
        assert_eq!(parse::<u32>("7"), Ok(7));
        let Err(Failure::Failed(fault)) = parse::<u32>("web=served") else { panic!("expected a failure") };
        assert!(fault.starts_with("the daemon answered \"web=served\", which this version cannot read: "), "{fault}");
    }

    #[test]
    fn arguments_are_checked_before_the_daemon_is_asked() {
        assert!(address("198.51.100.7").is_ok() && target("198.51.100.0/24").is_ok() && scope("web").is_ok());
        assert_eq!(
            address("mail.example.org"),
            Err(Failure::Usage("found \"mail.example.org\", expected an IP address such as 198.51.100.7".into()))
        );
        assert!(matches!(target("1 2"), Err(Failure::Usage(_))) && matches!(scope("ftp"), Err(Failure::Usage(_))));
    }

    #[test]
    fn an_unreachable_daemon_is_reported_with_its_socket_and_advice() {
        let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
        let text = unreachable_text(Path::new("/no/such/socket"), &gone);
        assert!(text.starts_with("/no/such/socket: ") && text.contains("is strikeout serve running?"), "{text}");
    }
}
