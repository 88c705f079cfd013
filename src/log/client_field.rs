//! Finds the client among the words that a web server writes in front of the time: its address, alone or with a port, and with the
//! virtual host or a port before or behind it, as many servers are set up to log.

use std::net::IpAddr;

use memchr::{memchr, memrchr};

use super::token::word;
use crate::client::parse_address_bytes;

/// The client and the user in `[host[:port]] [port] address[:port] [port] [host[:port]] ident user`.
///
/// A client may choose the virtual host (nginx's `$host`) as well as the user. So text that could name two clients names none.
pub(super) fn client_and_user(words: &[u8]) -> Option<(Option<IpAddr>, &[u8])> {
    let (first, rest) = word(words)?;
    let (second, behind) = word(rest)?;
    if let Some(client) = address(first) {
        if second == b"-" {
            return Some((Some(client), behind));
        }
        let is_ambiguous = address(second).is_some_and(|other| other != client);
        // A virtual host or a port behind the address shifts the other two by one.
        let user = behind.strip_prefix(b"- ").unwrap_or(behind);
        return Some((Some(client).filter(|_| !is_ambiguous), user));
    }
    // A list of proxies (X-Forwarded-For) is the client's own text, whatever its last word says.
    let nobody = Some((None, behind));
    if first.contains(&b',') {
        return nobody;
    }
    let (candidate, behind) = if is_port(second) { word(behind)? } else { (second, behind) };
    let Some(client) = address(candidate) else { return nobody };
    // Both words must follow: in `host ident user`, where the server looks names up, an address would be the client's own text (RFC 1413).
    let Some((b"-", user)) = word(behind) else { return nobody };
    let names_another = user.split(|byte| *byte == b' ').filter_map(address).any(|other| other != client);
    if user.is_empty() || names_another { nobody } else { Some((Some(client), user)) }
}

/// An address, alone, in brackets, or with the client's port: `192.0.2.1:51812`, `[2001:db8::1]:51812`.
pub(super) fn address(word: &[u8]) -> Option<IpAddr> {
    if let Ok(address) = parse_address_bytes(word) {
        return Some(address);
    }
    if let Some(inside) = word.strip_prefix(b"[") {
        let (inside, rest) = inside.split_at_checked(memchr(b']', inside)?)?;
        let is_end = matches!(rest, [_]) || rest.strip_prefix(b"]:").is_some_and(is_port);
        return parse_address_bytes(inside).ok().filter(|_| is_end);
    }
    let (host, port) = word.split_at_checked(memrchr(b':', word)?)?;
    parse_address_bytes(host).ok().filter(|address| address.is_ipv4() && port.get(1..).is_some_and(is_port))
}

fn is_port(word: &[u8]) -> bool {
    matches!(word.len(), 1..=5) && word.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(words: &str) -> (Option<String>, String) {
        let (client, user) = client_and_user(words.as_bytes()).unwrap_or_else(|| panic!("no words: {words}"));
        (client.map(|client| client.to_string()), String::from_utf8(user.to_vec()).unwrap())
    }

    #[test]
    fn hosts_and_ports_around_the_address_make_no_difference() {
        for words in [
            "192.0.2.1 - anna",
            "192.0.2.1:51812 - anna",
            "[::ffff:192.0.2.1]:51812 - anna",
            "www.example.org 192.0.2.1 - anna",
            "www.example.org:443 192.0.2.1 - anna",
            "www.example.org:443 192.0.2.1:51812 - anna",
            "www.example.org 443 192.0.2.1 - anna",
            "443 192.0.2.1 - anna",
            "_ 192.0.2.1 - anna",
            "- 192.0.2.1 - anna",
            "192.0.2.1 www.example.org - anna",
            "192.0.2.1 www.example.org:80 - anna",
            "192.0.2.1 51812 - anna",
            "192.0.2.1 www.example.org anna",
            "192.0.2.1 192.0.2.1 - anna",
        ] {
            assert_eq!(found(words), (Some("192.0.2.1".to_owned()), "anna".to_owned()), "{words}");
        }
        for words in ["2001:db8::1 - -", "[2001:db8::1] - -", "[2001:db8::1]:443 - -", "x:80 [2001:db8::1]:443 - -", "443 2001:db8::1 - -"]
        {
            assert_eq!(found(words), (Some("2001:db8::1".to_owned()), "-".to_owned()), "{words}");
        }
    }

    #[test]
    fn no_text_of_the_clients_is_taken_for_its_address() {
        for words in [
            // The virtual host is what the client asked for, and it asked for an address.
            "198.51.100.9 192.0.2.1 - -",
            "192.0.2.1 198.51.100.9 - -",
            "192.0.2.1:80 198.51.100.9 - -",
            // A host name that was looked up, and what the client's own identd or its login says.
            "client.example - 192.0.2.1",
            "client.example 192.0.2.1 -",
            "client.example 192.0.2.1 anna",
            "client.example - 192.0.2.1 - -",
            // X-Forwarded-For.
            "unknown, 192.0.2.1 - -",
            "198.51.100.9, 192.0.2.1 - -",
            // A virtual host with blanks.
            "a 192.0.2.1 - - 198.51.100.9 - -",
            "a 192.0.2.1 198.51.100.9 - -",
        ] {
            assert_eq!(found(words).0, None, "{words}");
        }
    }

    #[test]
    fn a_user_named_like_an_address_hides_nobody() {
        assert_eq!(found("192.0.2.1 - 198.51.100.9"), (Some("192.0.2.1".to_owned()), "198.51.100.9".to_owned()));
        assert_eq!(found("192.0.2.1 - anna b").1, "anna b");
    }

    #[test]
    fn only_whole_ports_follow_an_address() {
        for word in ["192.0.2.1:", "192.0.2.1:x", "192.0.2.1:123456", "[2001:db8::1", "[2001:db8::1]x", "[2001:db8::1]:", "x:1", "::1:"] {
            assert_eq!(address(word.as_bytes()), None, "{word}");
        }
        assert_eq!(address(b"[::ffff:192.0.2.1]:80"), Some("192.0.2.1".parse().unwrap()), "a mapped address in an IPv6 socket");
    }
}
