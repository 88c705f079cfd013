//! The system's own resolver. Its calls block.

use std::net::{IpAddr, ToSocketAddrs};

/// The addresses of a host name.
///
/// # Errors
/// The system's reason, such as "Name or service not known".
pub fn addresses(name: &str) -> Result<Vec<IpAddr>, String> {
    match (name, 0).to_socket_addrs() {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        Err(error) => {
            let text = error.to_string();
            // The standard library's own words say nothing more.
            Err(text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned())
        }
    }
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
