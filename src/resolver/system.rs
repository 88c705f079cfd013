//! The system's own resolver. Its calls block.

use std::net::{IpAddr, SocketAddr};

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType, getaddrinfo, getnameinfo};
use nix::libc::NI_NAMEREQD;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// There is no such name.
    None,
    /// The name server cannot be asked, or fails.
    Failed,
}

/// The addresses of a host name.
///
/// # Errors
/// The system's reason, such as "Name or service not known".
pub fn addresses(name: &str) -> Result<Vec<IpAddr>, String> {
    look_up(name).map_err(|error| {
        let text = error.to_string();
        // The words before the system's own say nothing more.
        text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
    })
}

/// The same, where only the kind of the failure matters.
///
/// # Errors
/// Whether there is no such name.
pub fn addresses_of(name: &str) -> Result<Vec<IpAddr>, NoAnswer> {
    look_up(name).map_err(|error| kind(&error))
}

/// The name of an address.
///
/// # Errors
/// Whether there is no such name.
pub fn name(address: IpAddr) -> Result<String, NoAnswer> {
    getnameinfo(&SocketAddr::new(address.to_canonical(), 0), NI_NAMEREQD).map(|(name, _)| name).map_err(|error| kind(&error))
}

fn look_up(name: &str) -> Result<Vec<IpAddr>, LookupError> {
    // Without a type of socket, each address would come three times.
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    Ok(getaddrinfo(Some(name), None, Some(hints))?.flatten().map(|found| found.sockaddr.ip()).collect())
}

fn kind(error: &LookupError) -> NoAnswer {
    if matches!(error.kind(), LookupErrorKind::NoName | LookupErrorKind::NoData) { NoAnswer::None } else { NoAnswer::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_as_the_system_does() {
        assert!(addresses("localhost").unwrap().iter().all(IpAddr::is_loopback));
        // Not even a name: no resolver is asked over the network (RFC 1035, 2.3.4: a label has 63 octets at most).
        let error = addresses(&"a".repeat(64)).unwrap_err();
        assert!(!error.is_empty() && !error.contains("failed to lookup"), "{error}");
    }
}
