//! Asking the resident for an operator: the request goes over the socket; whatever cannot be done is said with what to do about it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::{Asking, Failure};
use crate::client::parse_address;
use crate::event::Scope;
use crate::list::file::parse_network;
use crate::socket::ask as socket;

/// How long a person waits for a resident that hangs.
const LIMIT: Duration = Duration::from_secs(10);
/// A list of a million bans takes its time, and so does a configuration with as many networks.
const LONG_LIMIT: Duration = Duration::from_secs(60);
const MOST: usize = 1 << 30;

/// An answer of the resident, without the line that ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer(String);

impl Answer {
    /// Its lines.
    #[must_use]
    pub fn lines(&self) -> Vec<&str> {
        self.0.lines().collect()
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.clone()
    }
}

/// Asks.
///
/// # Errors
/// The resident cannot be asked, or refuses.
pub fn ask(asking: &Asking, request: &str) -> Result<Answer, Failure> {
    let socket = asking.socket()?;
    let is_long = ["list", "reload"].contains(&request.split(' ').next().unwrap_or_default());
    let answer = socket::ask(&socket, request, MOST, if is_long { LONG_LIMIT } else { LIMIT })
        .map_err(|error| Failure::Failed(unreachable_text(&socket, &error)))?;
    whole(answer)
}

/// An answer that came to its end, without that.
fn whole(mut answer: String) -> Result<Answer, Failure> {
    let begins = answer.trim_end().rfind('\n').map_or(0, |at| at + 1);
    match answer.get(begins..).map(str::trim_end) {
        Some(".") => {
            answer.truncate(begins);
            Ok(Answer(answer))
        }
        Some("") | None => Err(Failure::Failed("the resident did not answer".to_owned())),
        Some(line) => Err(Failure::Failed(match line.strip_prefix("error ") {
            Some(fault) => fault.to_owned(),
            None => "the resident did not answer to the end".to_owned(),
        })),
    }
}

/// An argument that must be an address.
///
/// # Errors
/// It is none.
pub fn address(argument: &str) -> Result<IpAddr, Failure> {
    parse_address(argument).map_err(|_| Failure::Usage(format!("found {argument:?}, expected an IP address such as 198.51.100.7")))
}

/// An argument that must be an address or a network; returned as it was given.
///
/// # Errors
/// It is neither.
pub fn target(argument: &str) -> Result<String, Failure> {
    match parse_network(argument) {
        Ok(_) => Ok(argument.to_owned()),
        Err(_) => Err(Failure::Usage(format!("found {argument:?}, expected an IP address or a network such as 198.51.100.0/24"))),
    }
}

/// An argument that must be a scope.
///
/// # Errors
/// It is none.
pub fn scope(argument: &str) -> Result<&'static str, Failure> {
    let scope = Scope::from_name(argument).map(Scope::as_str);
    scope.ok_or_else(|| Failure::Usage(format!("found the scope {argument:?}, expected web, mail or all")))
}

/// What it means that the resident cannot be asked, and what to do.
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
        std::io::ErrorKind::TimedOut => "the resident hangs".to_owned(),
        _ => "expected the socket of strikeout serve".to_owned(),
    };
    format!("{}: {error}: {advice}", socket.display())
}

/// An argument as one word of a request: what is no word is left to the resident to name as a fault.
#[must_use]
pub fn word(argument: &str) -> String {
    argument.chars().map(|c| if c.is_whitespace() || c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_a_dot_and_an_error_is_a_failure() {
        assert_eq!(whole("a=1\nb\n.\n".into()).map(|answer| answer.text()), Ok("a=1\nb\n".into()));
        assert_eq!(whole(".\n".into()).map(|answer| answer.text()), Ok(String::new()));
        assert_eq!(whole("error user 33 may not do this\n".into()), Err(Failure::Failed("user 33 may not do this".into())));
        assert!(whole("a=1\n".into()).is_err() && whole(String::new()).is_err());
    }

    #[test]
    fn arguments_are_looked_at_before_anybody_is_asked() {
        assert!(address("198.51.100.7").is_ok() && target("198.51.100.0/24").is_ok() && scope("web").is_ok());
        assert_eq!(
            address("mail.example.org"),
            Err(Failure::Usage("found \"mail.example.org\", expected an IP address such as 198.51.100.7".into()))
        );
        assert!(matches!(target("1 2"), Err(Failure::Usage(_))) && matches!(scope("ftp"), Err(Failure::Usage(_))));
    }

    #[test]
    fn who_cannot_ask_is_told_which_socket_and_what_to_do() {
        let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
        let text = unreachable_text(Path::new("/no/such/socket"), &gone);
        assert!(text.starts_with("/no/such/socket: ") && text.contains("is strikeout serve running?"), "{text}");
    }
}
