//! Reads a database in MaxMind's format (MMDB) into a table of our own.
//!
//! The file is read whole and once: every network of its search tree and every record that one of them names. So a damaged file is found
//! before it is used, lookups cannot fail, and a file that is overwritten in place does no harm.

use std::collections::HashMap;
use std::fmt;
use std::io::Read as _;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::SystemTime;

use ahash::RandomState;
use ipnet::Ipv6Net;
use maxminddb::{LookupResult, MaxMindDbError, Reader, WithinOptions};
use serde::Deserialize;

use super::origin::{Asn, Country};
use super::ranges::Ranges;

/// Maximum size of a file in bytes. The largest that are published have a fifth of it.
const MAX_FILE: u64 = 1 << 30;
/// Maximum number of networks in a search tree, those counted that a tree holds several times. The largest that are published have ten
/// million; a tree whose branches lead back to each other has any number.
const MAX_NETWORKS: usize = 64_000_000;

/// Addresses whose networks a database repeats from its IPv4 tree: mapped, Teredo and 6to4.
const ALIASES: [Ipv6Net; 3] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// What one database says of addresses.
#[derive(Debug)]
pub struct Database<V> {
    ranges: Ranges<V>,
    entries: usize,
    built: u64,
}

/// Why a database cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFault(String);

impl fmt::Display for DatabaseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value that databases hold.
pub trait GeoValue: Copy + PartialEq {
    /// What a database of these must hold, for messages.
    const EXPECTED: &'static str;

    /// The value of a record; `None` if the record has none.
    ///
    /// # Errors
    /// The record is damaged.
    fn of(record: &LookupResult<'_, Vec<u8>>) -> Result<Option<Self>, MaxMindDbError>;
}

/// A record of GeoLite2-ASN, DB-IP's and others; or IPinfo's, which has text.
#[derive(Deserialize)]
struct AsnRecord<'a> {
    autonomous_system_number: Option<u32>,
    #[serde(borrow)]
    asn: Option<AsnField<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AsnField<'a> {
    Number(u32),
    Text(&'a str),
}

impl GeoValue for Asn {
    const EXPECTED: &'static str = "networks with an autonomous_system_number, as in GeoLite2-ASN.mmdb";

    fn of(record: &LookupResult<'_, Vec<u8>>) -> Result<Option<Self>, MaxMindDbError> {
        let Some(AsnRecord { autonomous_system_number, asn }) = record.decode()? else { return Ok(None) };
        Ok(match (autonomous_system_number, asn) {
            (Some(number), _) | (None, Some(AsnField::Number(number))) => Self::new(number),
            (None, Some(AsnField::Text(text))) => text.parse().ok(),
            (None, None) => None,
        })
    }
}

/// A record of GeoLite2-Country, GeoIP2-City, DB-IP's and others; or IPinfo's, which has text.
#[derive(Deserialize)]
struct CountryRecord<'a> {
    #[serde(borrow)]
    country_code: Option<&'a str>,
    #[serde(borrow)]
    country: Option<CountryField<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CountryField<'a> {
    Map {
        #[serde(borrow)]
        iso_code: Option<&'a str>,
    },
    Text(&'a str),
}

impl GeoValue for Country {
    const EXPECTED: &'static str = "networks with a country, as in GeoLite2-Country.mmdb";

    fn of(record: &LookupResult<'_, Vec<u8>>) -> Result<Option<Self>, MaxMindDbError> {
        let Some(CountryRecord { country_code, country }) = record.decode()? else { return Ok(None) };
        let country = country.and_then(|field| match field {
            CountryField::Map { iso_code } => iso_code,
            CountryField::Text(text) => Some(text),
        });
        Ok(country_code.or(country).and_then(|code| code.parse().ok()))
    }
}

impl<V: GeoValue> Database<V> {
    /// Reads `file`.
    ///
    /// # Errors
    /// The file cannot be read, is too large or damaged, or says of no address what it should.
    pub fn read(file: &Path) -> Result<Self, DatabaseFault> {
        let cannot = |error: std::io::Error| DatabaseFault(format!("cannot be read: {error}"));
        let mut bytes = Vec::new();
        // Opening a directory or a device works as well, and opening a pipe waits for whoever writes to it.
        if !std::fs::metadata(file).map_err(cannot)?.is_file() {
            return Err(DatabaseFault("found no regular file, expected a database".into()));
        }
        let opened = std::fs::File::open(file).map_err(cannot)?;
        opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(DatabaseFault(format!("found more than {} MiB, expected a smaller database", MAX_FILE >> 20)));
        }
        Self::parse(bytes, MAX_NETWORKS)
    }

    /// Reads a database of at most `max_networks` networks, and of at most eight for each node of its tree.
    ///
    /// # Errors
    /// As for [`Database::read`].
    pub fn parse(bytes: Vec<u8>, max_networks: usize) -> Result<Self, DatabaseFault> {
        let damaged = |error: MaxMindDbError| DatabaseFault(format!("found a damaged database, expected a whole one: {error}"));
        let reader = Reader::from_source(bytes).map_err(damaged)?;
        let built = reader.metadata().build_epoch;
        // A tree has one leaf more than nodes, and a few branches that lead to its IPv4 part again. Without this bound, a small file whose
        // branches lead to the same nodes would fill gigabytes.
        let nodes = usize::try_from(reader.metadata().node_count).unwrap_or(usize::MAX);
        let max_networks = max_networks.min(nodes.saturating_add(1).saturating_mul(8));
        let (mut ranges, mut entries) = (Ranges::default(), 0);
        let mut values: HashMap<usize, Option<V>, RandomState> = HashMap::default();
        // With all branches and those without data each step yields a network, so that the limit bounds the time whatever the tree is.
        let all = WithinOptions::default().include_aliased_networks().include_networks_without_data();
        for (number, found) in reader.networks(all).map_err(damaged)?.enumerate() {
            if number >= max_networks {
                return Err(DatabaseFault(format!(
                    "found more than {max_networks} networks, expected fewer: its tree may lead in circles"
                )));
            }
            let found = found.map_err(damaged)?;
            let Some(offset) = found.offset() else { continue };
            let network = found.network().map_err(damaged)?;
            if matches!(network.ip(), IpAddr::V6(v6) if ALIASES.iter().any(|alias| alias.contains(&v6))) {
                continue;
            }
            let value = match values.get(&offset) {
                Some(value) => *value,
                None => {
                    let value = V::of(&found).map_err(damaged)?;
                    values.insert(offset, value);
                    value
                }
            };
            let Some(value) = value else { continue };
            entries += 1;
            if !ranges.push(network.ip(), network.prefix(), value) {
                return Err(DatabaseFault(format!("found a damaged database, expected a whole one: {network} is in it twice")));
            }
        }
        if entries == 0 {
            return Err(DatabaseFault(format!("found none, expected {}", V::EXPECTED)));
        }
        ranges.shrink();
        Ok(Self { ranges, entries, built })
    }

    /// The value of the network that `address` is in.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<V> {
        self.ranges.lookup(address)
    }

    /// Number of networks with a value.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// When the database was built, in seconds since 1970.
    #[must_use]
    pub fn built(&self) -> u64 {
        self.built
    }
}

/// When a file was changed last, and its size: another one is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub modified: SystemTime,
    size: u64,
    inode: u64,
}

impl Stamp {
    /// `None` if there is no such file.
    #[must_use]
    pub fn of(file: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(file).ok()?;
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        Some(Self { modified: metadata.modified().ok()?, size: metadata.len(), inode })
    }
}

#[cfg(test)]
#[path = "../../tests/harness/mmdb.rs"]
pub mod mmdb;

#[cfg(test)]
mod tests {
    use super::mmdb::{Said, database, metadata};
    use super::*;
    use proptest::prelude::*;

    fn asns(bytes: Vec<u8>) -> Result<Database<Asn>, String> {
        Database::parse(bytes, 10_000).map_err(|fault| fault.to_string())
    }

    fn of<V: GeoValue + fmt::Display>(database: &Database<V>, address: &str) -> Option<String> {
        database.lookup(address.parse().unwrap()).map(|value| value.to_string())
    }

    fn sample() -> Vec<u8> {
        database(&[
            ("198.18.0.0/16", Said::Asn(64496)),
            ("198.19.0.0/17", Said::AsnText("AS64497")),
            ("198.19.128.0/17", Said::AsnText("unknown")),
            ("2001:db8::/33", Said::Asn(4_200_000_000)),
        ])
    }

    #[test]
    fn networks_have_the_number_of_their_record_and_nobody_else_has_one() {
        let database = asns(sample()).unwrap();
        assert_eq!((database.entries(), database.built()), (3, 1_800_000_000));
        let expected = [
            ("198.18.0.0", Some("AS64496")),
            ("198.18.255.255", Some("AS64496")),
            ("::ffff:198.18.7.7", Some("AS64496")),
            ("198.19.127.255", Some("AS64497")),
            ("198.19.128.0", None),
            ("198.17.255.255", None),
            ("2001:db8:7fff::1", Some("AS4200000000")),
            ("2001:db8:8000::1", None),
            ("::198.18.0.1", None),
        ];
        for (address, asn) in expected {
            assert_eq!(of(&database, address).as_deref(), asn, "{address}");
        }
    }

    #[test]
    fn countries_are_read_in_both_forms() {
        let bytes = database(&[("198.18.0.0/16", Said::Country("DE")), ("198.19.0.0/16", Said::CountryText("FR"))]);
        let database = Database::<Country>::parse(bytes, 1000).unwrap();
        assert_eq!((of(&database, "198.18.0.1").as_deref(), of(&database, "198.19.0.1").as_deref()), (Some("DE"), Some("FR")));
    }

    #[test]
    fn a_database_of_something_else_or_of_nothing_is_refused() {
        let countries = database(&[("198.18.0.0/16", Said::Country("DE"))]);
        let expected = "found none, expected networks with an autonomous_system_number, as in GeoLite2-ASN.mmdb";
        assert_eq!(asns(countries).unwrap_err(), expected);
        assert_eq!(asns(database(&[])).unwrap_err(), expected);
        assert!(asns(b"# no database\n".to_vec()).unwrap_err().starts_with("found a damaged database, expected a whole one: "));
    }

    #[test]
    fn a_database_cut_anywhere_is_refused() {
        let whole = sample();
        for end in 0..whole.len() {
            assert!(asns(whole[..end].to_vec()).is_err(), "cut after {end} of {} bytes", whole.len());
        }
    }

    #[test]
    fn a_tree_that_leads_in_circles_ends_at_the_limit() {
        let tree = |records: &[[u32; 2]], record: &[u8]| {
            let mut bytes: Vec<u8> = records.iter().flatten().flat_map(|record| record.to_be_bytes()[1..].to_vec()).collect();
            bytes.extend([0; 16]);
            bytes.extend(record);
            bytes.extend(metadata(records.len(), 6, 24));
            bytes
        };
        let one_record = b"\xe1\x58autonomous_system_number\xc1\x07";
        assert!(asns(tree(&[[0, 0]], one_record)).is_err(), "a node that is its own child");
        assert!(asns(tree(&[[1, 1], [0, 0]], one_record)).is_err(), "two nodes that are each other's");
        // Each of 40 levels has one node whose children are both the next one: two to the power of 40 networks.
        let mut doubling: Vec<[u32; 2]> = (1..40).map(|next| [next, next]).collect();
        doubling.push([40 + 16; 2]);
        assert!(asns(tree(&doubling, one_record)).unwrap_err().contains("found more than 328 networks"));
        doubling.pop();
        doubling.push([40; 2]);
        assert!(asns(tree(&doubling, one_record)).unwrap_err().contains("found more than 328 networks"), "without data");
    }

    #[test]
    fn a_record_whose_pointers_lead_in_circles_is_refused() {
        // A pointer to itself, and a map whose value points to the map.
        for record in [&b"\x20\x00"[..], b"\xe1\x43asn\x20\x00", b"\xe1\x41x\x20\x00"] {
            let mut bytes = [[0_u8, 0, 1 + 16], [0, 0, 1]].concat();
            bytes.extend([0; 16]);
            bytes.extend(record);
            bytes.extend(metadata(1, 6, 24));
            // A field that is not asked for may be skipped unread.
            assert!(asns(bytes).is_err(), "{}", record.escape_ascii());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// No bytes make it panic or run on, whatever it finds.
        #[test]
        fn a_database_with_wrong_bytes_is_read_or_refused(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8)) {
            let mut bytes = sample();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(database) = asns(bytes) {
                prop_assert!(database.entries() > 0);
                let _ = database.lookup([198, 18, 0, 1].into());
            }
        }
    }
}
