//! Writes databases in MaxMind's format 2.0, for tests: <https://maxmind.github.io/MaxMind-DB/>.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// What is said of one network, given as `198.18.0.0/16`.
pub enum Said<'a> {
    Asn(u32),
    Country(&'a str),
    /// IPinfo's form of the same: text.
    AsnText(&'a str),
    CountryText(&'a str),
}

/// A child of a node of the search tree.
#[derive(Clone, Copy, PartialEq)]
enum Child {
    Nothing,
    Node(usize),
    /// By the place of its record in the data section.
    Data(usize),
}

/// A database that says so of these networks. They must not overlap. The tree is one of IPv6, which holds IPv4 in `::/96`.
pub fn database(networks: &[(&str, Said<'_>)]) -> Vec<u8> {
    let (mut nodes, mut data, mut places) = (vec![[Child::Nothing; 2]], Vec::<u8>::new(), BTreeMap::<Vec<u8>, usize>::new());
    for (network, said) in networks {
        let record = record(said);
        let place = *places.entry(record.clone()).or_insert_with(|| {
            data.extend(&record);
            data.len() - record.len()
        });
        insert(&mut nodes, network, place);
    }
    let mut bytes = Vec::new();
    let count = nodes.len();
    for node in &nodes {
        for child in node {
            let number = match child {
                Child::Nothing => count,
                Child::Node(number) => *number,
                Child::Data(place) => count + 16 + place,
            };
            bytes.extend(&u32::try_from(number).unwrap().to_be_bytes()[1..]);
        }
    }
    bytes.extend([0; 16]);
    bytes.extend(data);
    bytes.extend(metadata(count, 6, 24));
    bytes
}

/// The metadata of a database whose tree has `nodes` nodes of two records of `record_size` bits each.
pub fn metadata(nodes: usize, ip_version: u16, record_size: u16) -> Vec<u8> {
    let number = |size: u8, extended: &[u8], value: u64| {
        let mut bytes = vec![size];
        bytes.extend(extended);
        bytes.extend(&value.to_be_bytes()[8 - usize::from(size & 0x1f)..]);
        bytes
    };
    let (short, medium) = (|value: u16| number(0xa2, &[], value.into()), |value: usize| number(0xc4, &[], value as u64));
    let mut bytes = b"\xab\xcd\xefMaxMind.com".to_vec();
    bytes.extend(map(&[
        ("binary_format_major_version", short(2)),
        ("binary_format_minor_version", short(0)),
        // Extended type 9: an unsigned number of 64 bits.
        ("build_epoch", [vec![8, 2], 1_800_000_000_u64.to_be_bytes().to_vec()].concat()),
        ("database_type", string("Test")),
        ("description", map(&[("en", string("made by a test"))])),
        ("ip_version", short(ip_version)),
        ("languages", vec![0, 4]),
        ("node_count", medium(nodes)),
        ("record_size", short(record_size)),
    ]));
    bytes
}

fn insert(nodes: &mut Vec<[Child; 2]>, network: &str, place: usize) {
    let (address, length) = network.split_once('/').unwrap();
    let length: u32 = length.parse().unwrap();
    let (bits, length) = match address.parse().unwrap() {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), length + 96),
        IpAddr::V6(v6) => (v6.to_bits(), length),
    };
    let mut node = 0;
    for depth in 0..length {
        let side = usize::from(bits >> (127 - depth) & 1 == 1);
        if depth + 1 == length {
            assert!(nodes[node][side] == Child::Nothing, "{network} overlaps another");
            nodes[node][side] = Child::Data(place);
            return;
        }
        node = match nodes[node][side] {
            Child::Node(next) => next,
            Child::Nothing => {
                nodes.push([Child::Nothing; 2]);
                nodes[node][side] = Child::Node(nodes.len() - 1);
                nodes.len() - 1
            }
            Child::Data(_) => panic!("{network} is inside another"),
        };
    }
}

fn record(said: &Said<'_>) -> Vec<u8> {
    match said {
        Said::Asn(number) => map(&[
            ("autonomous_system_number", [vec![0xc4], number.to_be_bytes().to_vec()].concat()),
            ("autonomous_system_organization", string("Example")),
        ]),
        Said::Country(code) => map(&[
            ("continent", map(&[("code", string("EU"))])),
            ("country", map(&[("geoname_id", vec![0xc1, 7]), ("iso_code", string(code))])),
        ]),
        Said::AsnText(text) => map(&[("as_name", string("Example")), ("asn", string(text))]),
        Said::CountryText(text) => map(&[("country", string("Example")), ("country_code", string(text))]),
    }
}

/// A map of at most 28 entries.
fn map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0xe0 | u8::try_from(entries.len()).unwrap()];
    for (key, value) in entries {
        bytes.extend(string(key));
        bytes.extend(value);
    }
    bytes
}

/// A string of at most 284 bytes.
fn string(text: &str) -> Vec<u8> {
    let mut bytes = match text.len() {
        length @ ..29 => vec![0x40 | u8::try_from(length).unwrap()],
        length => vec![0x40 | 29, u8::try_from(length - 29).unwrap()],
    };
    bytes.extend(text.bytes());
    bytes
}
