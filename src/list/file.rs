//! Reads list files, in the forms in which lists are published: an address, a network or a range on each line, or JSON.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use ipnet::IpNet;

pub use super::entry::{BadLine, ListedOrigin, NotANetwork, parse_network, parse_range, parse_target};
use super::entry::{MAX_ENTRIES, quoted};
use super::json;

/// Maximum size of a list file. A million IPv6 networks with comments are smaller.
const MAX_FILE_SIZE: u64 = 256 * 1024 * 1024;

/// The file that an entry of a list option names: `/path` or `file:/path`; `None` for any other entry.
#[must_use]
pub fn path_of(entry: &str) -> Option<&Path> {
    let path = entry.strip_prefix("file:").unwrap_or(entry);
    // `file:///path` is the same file as a URL.
    let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    (path.starts_with('/') && !path.starts_with("//")).then(|| Path::new(path))
}

/// The entries of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParsedList {
    pub networks: Vec<IpNet>,
    pub origins: Vec<ListedOrigin>,
}

/// Parses a list of networks: as [`parse_all`], and a system or a country is a bad line.
///
/// # Errors
/// The first [`BadLine`].
pub fn parse(text: &[u8]) -> Result<Vec<IpNet>, BadLine> {
    let ParsedList { networks, origins } = parse_all(text)?;
    match origins.first() {
        None => Ok(networks),
        Some(ListedOrigin { line, entry }) => Err(BadLine { line: *line, found: entry.to_string() }),
    }
}

/// Parses a list: an address, a network, a range `FIRST-LAST`, `AS64496` or `country:XX` on each line, or networks as JSON. `#` or `;` starts a
/// comment, also after an entry. Blank lines, CRLF and a byte order mark are ignored.
///
/// # Errors
/// The first [`BadLine`]. The rest is not used, because half a list would refuse or spare the wrong clients.
pub fn parse_all(text: &[u8]) -> Result<ParsedList, BadLine> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if json::is_json(text) {
        return Ok(ParsedList { networks: json::parse(text)?, origins: Vec::new() });
    }
    let (mut networks, mut origins) = (Vec::new(), Vec::new());
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.split(|byte| matches!(byte, b'#' | b';')).next().unwrap_or_default().trim_ascii();
        if line.is_empty() {
            continue;
        }
        let bad_line = |NotANetwork| BadLine { line: index + 1, found: quoted(line) };
        let text = std::str::from_utf8(line).map_err(|_| bad_line(NotANetwork))?;
        if let Ok(network) = parse_network(text) {
            networks.push(network);
        } else if let Ok(entry) = text.parse() {
            origins.push(ListedOrigin { line: index + 1, entry });
        } else {
            networks.extend(parse_range(text).map_err(bad_line)?);
        }
        if networks.len() + origins.len() > MAX_ENTRIES {
            return Err(BadLine { line: index + 1, found: format!("more than {MAX_ENTRIES} networks") });
        }
    }
    Ok(ParsedList { networks, origins })
}

/// A list as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFile {
    pub networks: Vec<IpNet>,
    pub origins: Vec<ListedOrigin>,
    /// When the file was last changed.
    pub modified: SystemTime,
}

/// Reads a list file.
///
/// # Errors
/// See [`ListFileError`].
pub fn read(path: &Path) -> Result<ListFile, ListFileError> {
    read_up_to(MAX_FILE_SIZE, path)
}

fn read_up_to(max_size: u64, path: &Path) -> Result<ListFile, ListFileError> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(ListFileError::NotAFile);
    }
    let mut text = Vec::with_capacity(usize::try_from(metadata.len().min(max_size)).unwrap_or_default() + 1);
    File::open(path)?.take(max_size + 1).read_to_end(&mut text)?;
    if text.len() as u64 > max_size {
        return Err(ListFileError::TooLong);
    }
    let ParsedList { networks, origins } = parse_all(&text).map_err(ListFileError::BadLine)?;
    Ok(ListFile { networks, origins, modified: metadata.modified()? })
}

/// Why a list file cannot be used.
#[derive(Debug)]
pub enum ListFileError {
    /// It cannot be opened or read.
    Io(io::Error),
    /// It is a directory, a pipe or a device. Reading a pipe could block forever.
    NotAFile,
    /// It exceeds [`MAX_FILE_SIZE`].
    TooLong,
    /// One of its lines is not a network.
    BadLine(BadLine),
}

impl ListFileError {
    /// The number of the bad line, if that is the reason.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::BadLine(bad) => Some(bad.line),
            Self::Io(_) | Self::NotAFile | Self::TooLong => None,
        }
    }
}

impl From<io::Error> for ListFileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for ListFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::NotAFile => f.write_str("found no regular file, expected a list of networks"),
            Self::TooLong => write!(f, "found more than {} MiB, expected a list of networks", MAX_FILE_SIZE >> 20),
            Self::BadLine(bad) => bad.fmt(f),
        }
    }
}

impl std::error::Error for ListFileError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::entry::MAX_QUOTED;
    use crate::list::networks::canonical;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn networks(text: &str) -> Vec<String> {
        parse(text.as_bytes()).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_list_has_one_address_or_network_per_line() {
        assert_eq!(
            networks("192.0.2.7\n198.51.100.0/24\n2001:db8::1\n2001:db8:1::/48"),
            ["192.0.2.7/32", "198.51.100.0/24", "2001:db8::1/128", "2001:db8:1::/48"]
        );
    }

    #[test]
    fn comments_blank_lines_crlf_and_a_byte_order_mark_are_ignored() {
        let text = "\u{feff}# a list\r\n\r\n  192.0.2.7\t# an office\r\n1.10.16.0/20 ; SBL256894\r\n;end\r\n   \n";
        assert_eq!(networks(text), ["192.0.2.7/32", "1.10.16.0/20"]);
    }

    #[test]
    fn host_bits_are_cleared_and_netmasks_accepted_as_in_fail2ban() {
        assert_eq!(
            networks("192.0.2.77/24\n192.0.2.77/255.255.255.0\n2001:db8::5/64\n::ffff:192.0.2.77/120"),
            ["192.0.2.0/24", "192.0.2.0/24", "2001:db8::/64", "192.0.2.0/24"]
        );
    }

    #[test]
    fn a_range_is_the_networks_from_its_first_to_its_last_address() {
        assert_eq!(networks("192.0.2.0-192.0.2.255"), ["192.0.2.0/24"]);
        assert_eq!(networks("192.0.2.7 - 192.0.2.9 # three"), ["192.0.2.7/32", "192.0.2.8/31"]);
        assert_eq!(networks("2001:db8::-2001:db8::1\n192.0.2.1-192.0.2.1"), ["2001:db8::/127", "192.0.2.1/32"]);
        assert_eq!(networks("0.0.0.0-255.255.255.255"), ["0.0.0.0/0"]);
        for text in ["192.0.2.9-192.0.2.7", "192.0.2.1-", "-192.0.2.1", "192.0.2.1-2001:db8::1", "192.0.2.1-192.0.2.2-192.0.2.3", "1-2"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_entry_names_a_file_by_its_path_or_as_a_url() {
        for entry in ["/etc/deny.txt", "file:/etc/deny.txt", "file:///etc/deny.txt"] {
            assert_eq!(path_of(entry), Some(Path::new("/etc/deny.txt")), "{entry}");
        }
        for entry in ["192.0.2.0/24", "file:deny.txt", "file://host/x", "", "deny.txt", "2001:db8::/32"] {
            assert_eq!(path_of(entry), None, "{entry}");
        }
    }

    #[test]
    fn the_first_bad_line_is_reported_with_what_was_found_and_expected() {
        let error = parse(b"192.0.2.1\nexample.com # a name\n192.0.2.2\n?\n").unwrap_err();
        assert_eq!(error.line, 2);
        let expected = "expected an IP address or a network such as 192.0.2.0/24";
        assert_eq!(error.to_string(), format!("found \"example.com\", {expected}; host names stand in ignoreip itself, not in files"));
        assert_eq!(parse(b"192.0.2.1\n?\n").unwrap_err().to_string(), format!("found \"?\", {expected}"));
    }

    #[test]
    fn a_list_may_have_systems_and_countries_which_a_list_of_networks_may_not() {
        let text = b"192.0.2.1\nAS64496 # a provider\n as64497\ncountry:de ; a country\n";
        let list = parse_all(text).unwrap();
        let origins: Vec<_> = list.origins.iter().map(|origin| (origin.line, origin.entry.to_string())).collect();
        assert_eq!(list.networks.len(), 1);
        assert_eq!(origins, [(2, "AS64496".to_owned()), (3, "AS64497".to_owned()), (4, "country:DE".to_owned())]);
        let error = parse(text).unwrap_err();
        assert_eq!((error.line, error.to_string().starts_with("found \"AS64496\", expected an IP address")), (2, true));
        for text in ["AS0", "AS 64496", "64496", "country:", "country:DEU", "country: DE", "DE"] {
            assert!(parse_all(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn anything_else_is_a_bad_line() {
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
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_bad_line_is_quoted_escaped_and_cut() {
        let mut line = b"\x1b[31m\xff\"".to_vec();
        line.extend(vec![b'x'; 100_000]);
        let found = parse(&line).unwrap_err().found;
        assert!(found.starts_with("\\u{1b}[31m\u{fffd}\\\"xxx") && found.ends_with("x…"), "{found}");
        assert!(found.chars().count() < 2 * MAX_QUOTED);
    }

    #[test]
    fn sixty_characters_of_a_bad_line_are_quoted_however_many_bytes_they_take() {
        for (character, count) in [("x", 61), ("\u{1f525}", 61), ("\u{1f525}", 1000)] {
            let found = parse(character.repeat(count).as_bytes()).unwrap_err().found;
            assert_eq!(found, character.repeat(MAX_QUOTED) + "…");
        }
        assert_eq!(parse("x".repeat(60).as_bytes()).unwrap_err().found, "x".repeat(60));
    }

    #[test]
    fn a_file_above_the_maximum_size_is_an_error_and_not_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deny.txt");
        std::fs::write(&path, "192.0.2.1\n192.0.2.2\n").unwrap();
        assert_eq!(read_up_to(20, &path).unwrap().networks.len(), 2);
        for max_size in [19, 10, 0] {
            let error = read_up_to(max_size, &path).unwrap_err();
            assert!(matches!(error, ListFileError::TooLong), "{error}");
        }
        assert_eq!(ListFileError::TooLong.to_string(), "found more than 256 MiB, expected a list of networks");
    }

    #[test]
    fn only_a_bad_line_has_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deny.txt");
        std::fs::write(&path, "192.0.2.1\n\nhost\n").unwrap();
        assert_eq!(read(&path).unwrap_err().line(), Some(3));
        assert_eq!(read(dir.path()).unwrap_err().line(), None);
    }

    #[test]
    fn a_missing_file_and_a_directory_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing.txt");
        assert!(read(&missing).unwrap_err().to_string().starts_with("cannot be read: "));
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("expected a list of networks"), "{error}");
    }

    #[test]
    fn a_last_line_without_a_newline_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deny.txt");
        std::fs::write(&path, "192.0.2.1\n# end\n192.0.2.2").unwrap();
        assert_eq!(read(&path).unwrap().networks.len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_give_networks_or_a_bad_line(text in prop::collection::vec(any::<u8>(), 0..400)) {
            let lines = text.split(|byte| *byte == b'\n').count();
            if let Err(bad) = parse(&text) {
                prop_assert!((1..=lines).contains(&bad.line));
            }
        }

        #[test]
        fn a_range_holds_what_lies_between_its_ends(first in 0u32..600, length in 0u32..300, probe in 0u32..1000) {
            let [start, end, asked] = [first, first + length, probe].map(|low| Ipv4Addr::from_bits(0xc000_0000 + low));
            let mut networks = parse_range(&format!("{start}-{end}")).unwrap();
            prop_assert_eq!(networks.any(|network| network.contains(&IpAddr::V4(asked))), (start..=end).contains(&asked));
        }

        #[test]
        fn a_displayed_network_parses_back(bits in any::<u128>(), v4 in any::<bool>(), length in 0u8..=128) {
            let network = if v4 {
                IpNet::new(IpAddr::V4(Ipv4Addr::from_bits(bits as u32)), length.min(32)).unwrap()
            } else {
                IpNet::new(IpAddr::V6(bits.into()), length).unwrap()
            };
            prop_assert_eq!(parse_network(&network.to_string()), Ok(canonical(network)));
        }
    }
}
