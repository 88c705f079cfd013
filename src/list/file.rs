//! Reads lists of networks: one address or CIDR a line, as block lists are published and `ignoreip` is written.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::networks::canonical;

/// A longer file is no list of networks: 1,000,000 IPv6 ones with comments stay below.
const LONGEST_FILE: u64 = 256 * 1024 * 1024;

/// So many faults are kept word for word; the rest is counted.
const FAULTS_KEPT: usize = 10;

/// Of a faulty line so many characters are shown.
const SHOWN: usize = 60;

/// Reads an address or a network, in canonical form: `192.0.2.7`, `192.0.2.0/24`, `192.0.2.0/255.255.255.0`, `2001:db8::/32`.
///
/// Bits behind the prefix are cleared, as fail2ban does; IPv4-mapped IPv6 is IPv4.
///
/// # Errors
/// [`NotANetwork`] for everything else: names are not looked up.
pub fn parse_network(text: &str) -> Result<IpNet, NotANetwork> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
    let network = match prefix {
        None => IpNet::from(address),
        // Digits alone: `parse` would take a sign.
        Some(prefix) if prefix.len() <= 3 && prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length: u8 = prefix.parse().map_err(|_| NotANetwork)?;
            IpNet::new(address, length).map_err(|_| NotANetwork)?
        }
        Some(mask) if address.is_ipv4() => {
            let mask: Ipv4Addr = mask.parse().map_err(|_| NotANetwork)?;
            IpNet::with_netmask(address, IpAddr::V4(mask)).map_err(|_| NotANetwork)?
        }
        Some(_) => return Err(NotANetwork),
    };
    Ok(canonical(network))
}

/// A text that is neither an address nor a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotANetwork;

impl fmt::Display for NotANetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected an IP address or a network such as 192.0.2.0/24")
    }
}

impl std::error::Error for NotANetwork {}

/// What a list's text holds: its networks as listed, and the lines that could not be read. The caller decides whether faults void it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// The networks in the order of their lines.
    pub networks: Vec<IpNet>,
    /// The first faulty lines, ten at most.
    pub faults: Vec<Fault>,
    /// How many lines are faulty.
    pub fault_count: usize,
}

impl Parsed {
    /// The faults for people, a line each, `FILE:LINE: found "…", expected …`; the last one counts those that are not shown.
    #[must_use]
    pub fn describe_faults(&self, file: &str) -> Vec<String> {
        let mut lines: Vec<String> = self.faults.iter().map(|fault| format!("{file}:{fault}")).collect();
        if self.fault_count > self.faults.len() {
            lines.push(format!("{file}: {} more lines are no networks", self.fault_count - self.faults.len()));
        }
        lines
    }
}

/// One line that is neither blank, nor a comment, nor a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line's number, from 1.
    pub line: usize,
    /// Its text, escaped and cut.
    pub found: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found \"{}\", {NotANetwork}", self.line, self.found)
    }
}

/// Reads the text of a list: one address or network a line; `#` or `;` starts a comment, also behind a network; blank lines, CRLF and
/// a byte order mark are passed over. Takes any bytes.
#[must_use]
pub fn parse(text: &[u8]) -> Parsed {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut parsed = Parsed::default();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.split(|byte| matches!(byte, b'#' | b';')).next().unwrap_or_default().trim_ascii();
        if line.is_empty() {
            continue;
        }
        match std::str::from_utf8(line).map_err(|_| NotANetwork).and_then(parse_network) {
            Ok(network) => parsed.networks.push(network),
            Err(NotANetwork) => {
                parsed.fault_count += 1;
                if parsed.faults.len() < FAULTS_KEPT {
                    parsed.faults.push(Fault { line: index + 1, found: shown(line) });
                }
            }
        }
    }
    parsed
}

fn shown(line: &[u8]) -> String {
    // A character has at most 4 bytes: what lies beyond is never shown.
    let head = line.get(..4 * (SHOWN + 1)).unwrap_or(line);
    let text = String::from_utf8_lossy(head);
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Reads a list file. Faulty lines are no error here: they are in [`Parsed::faults`].
///
/// # Errors
/// See [`Unreadable`].
pub fn read(path: &Path) -> Result<Parsed, Unreadable> {
    let unreadable = |why| Unreadable { file: path.to_owned(), why };
    let failed = |error| unreadable(Why::Failed(error));
    let kind = std::fs::metadata(path).map_err(failed)?;
    if !kind.is_file() {
        return Err(unreadable(Why::NoRegularFile));
    }
    let file = File::open(path).map_err(failed)?;
    let mut text = Vec::with_capacity(usize::try_from(kind.len().min(LONGEST_FILE)).unwrap_or_default() + 1);
    file.take(LONGEST_FILE + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > LONGEST_FILE {
        return Err(unreadable(Why::TooLong));
    }
    Ok(parse(&text))
}

/// A list file that could not be read. Its text names the file.
#[derive(Debug)]
pub struct Unreadable {
    file: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Failed(io::Error),
    /// A pipe or a device would hang the reader.
    NoRegularFile,
    TooLong,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        match &self.why {
            Why::Failed(error) => write!(f, "cannot be read: {error}"),
            Why::NoRegularFile => f.write_str("found no regular file, expected a list of networks"),
            Why::TooLong => write!(f, "found more than {} MiB, expected a list of networks", LONGEST_FILE >> 20),
        }
    }
}

impl std::error::Error for Unreadable {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(text: &str) -> Vec<String> {
        let parsed = parse(text.as_bytes());
        assert_eq!(parsed.fault_count, 0, "{:?}", parsed.faults);
        parsed.networks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_list_has_an_address_or_a_network_a_line() {
        assert_eq!(
            networks("192.0.2.7\n198.51.100.0/24\n2001:db8::1\n2001:db8:1::/48"),
            ["192.0.2.7/32", "198.51.100.0/24", "2001:db8::1/128", "2001:db8:1::/48"]
        );
    }

    #[test]
    fn comments_blank_lines_crlf_and_a_byte_order_mark_are_passed_over() {
        let text = "\u{feff}# a list\r\n\r\n  192.0.2.7\t# an office\r\n1.10.16.0/20 ; SBL256894\r\n;end\r\n   \n";
        assert_eq!(networks(text), ["192.0.2.7/32", "1.10.16.0/20"]);
    }

    #[test]
    fn bits_behind_the_prefix_are_cleared_and_masks_understood_as_in_fail2ban() {
        assert_eq!(
            networks("192.0.2.77/24\n192.0.2.77/255.255.255.0\n2001:db8::5/64\n::ffff:192.0.2.77/120"),
            ["192.0.2.0/24", "192.0.2.0/24", "2001:db8::/64", "192.0.2.0/24"]
        );
    }

    #[test]
    fn a_faulty_line_is_named_with_what_was_found_and_expected() {
        let parsed = parse(b"192.0.2.1\nexample.com # a name\n192.0.2.2\n");
        assert_eq!(parsed.networks.len(), 2);
        assert_eq!(
            parsed.describe_faults("/etc/strikeout/deny.txt"),
            ["/etc/strikeout/deny.txt:2: found \"example.com\", expected an IP address or a network such as 192.0.2.0/24"]
        );
    }

    #[test]
    fn everything_else_is_no_network() {
        for text in [
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/",
            "1.2.3.4/+8",
            "1.2.3.4/ 8",
            "1.2.3.4/255.0.255.0",
            "::/129",
            "::/ffff::",
            "::1/255.0.0.0",
            "fe80::1%eth0",
            "[::1]",
            "1.2.3.4:25",
            "1.2.3.4 5.6.7.8",
            "01.2.3.4",
            "/24",
            "1.2.3.4/8/8",
            "1.2.3.4/0000008",
        ] {
            assert_eq!(parse(text.as_bytes()).fault_count, 1, "{text:?}");
        }
    }

    #[test]
    fn ten_faults_are_shown_and_the_rest_counted() {
        let parsed = parse("x\n".repeat(25).as_bytes());
        let lines = parsed.describe_faults("deny.txt");
        assert_eq!((parsed.fault_count, lines.len()), (25, 11));
        assert_eq!(lines.last().unwrap(), "deny.txt: 15 more lines are no networks");
    }

    #[test]
    fn a_fault_is_shown_escaped_and_cut() {
        let mut line = b"\x1b[31m\xff\"".to_vec();
        line.extend(vec![b'x'; 100_000]);
        let found = parse(&line).faults.remove(0).found;
        assert!(found.starts_with("\\u{1b}[31m\u{fffd}\\\"xxx") && found.ends_with("x…"), "{found}");
        assert!(found.chars().count() < 2 * SHOWN);
    }

    #[test]
    fn a_file_that_is_missing_or_no_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing.txt");
        assert!(read(&missing).unwrap_err().to_string().starts_with(&format!("{}: cannot be read", missing.display())));
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("expected a list of networks"), "{error}");
    }

    #[test]
    fn a_file_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deny.txt");
        std::fs::write(&path, "192.0.2.1\n# end\n192.0.2.2").unwrap();
        assert_eq!(read(&path).unwrap().networks.len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_and_every_line_is_a_network_a_fault_or_nothing(text in prop::collection::vec(any::<u8>(), 0..400)) {
            let parsed = parse(&text);
            let lines = text.split(|byte| *byte == b'\n').count();
            prop_assert!(parsed.networks.len() + parsed.fault_count <= lines);
            prop_assert!(parsed.faults.len() <= FAULTS_KEPT.min(parsed.fault_count));
        }

        #[test]
        fn a_network_is_read_back_as_it_was_shown(bits in any::<u128>(), v4 in any::<bool>(), length in 0u8..=128) {
            let network = if v4 {
                IpNet::new(IpAddr::V4(Ipv4Addr::from_bits(bits as u32)), length.min(32)).unwrap()
            } else {
                IpNet::new(IpAddr::V6(bits.into()), length).unwrap()
            };
            prop_assert_eq!(parse_network(&network.to_string()), Ok(canonical(network)));
        }
    }
}
