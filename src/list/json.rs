//! Lists in JSON, as search engines, clouds and Spamhaus publish their networks: one document, or one on each line.

use std::fmt;

use ipnet::IpNet;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::entry::{BadLine, MAX_ENTRIES, parse_network, quoted};

/// The keys that hold a network, or a list of them, in lower case.
const KEYS: [&str; 15] = [
    // Google, Bing, DuckDuckGo, OpenAI and others: {"prefixes": [{"ipv4Prefix": "192.0.2.0/24"}, {"ipv6Prefix": …}]}
    "ipv4prefix",
    "ipv6prefix",
    // Amazon: {"prefixes": [{"ip_prefix": …}], "ipv6_prefixes": [{"ipv6_prefix": …}]}
    "ip_prefix",
    "ipv6_prefix",
    // Microsoft Azure: {"values": [{"properties": {"addressPrefixes": […]}}]}
    "addressprefixes",
    // Cloudflare: {"result": {"ipv4_cidrs": […], "ipv6_cidrs": […]}}
    "ipv4_cidrs",
    "ipv6_cidrs",
    // Spamhaus: {"cidr": …} on each line; Oracle: {"cidrs": [{"cidr": …}]}
    "cidr",
    "cidrs",
    // Fastly: {"addresses": […], "ipv6_addresses": […]}
    "addresses",
    "ipv6_addresses",
    // Strings in an array, as others publish them.
    "prefixes",
    "prefix",
    "networks",
    "ips",
];

/// Whether `text` is JSON and no list by lines: no address begins with a brace or a bracket.
pub fn is_json(text: &[u8]) -> bool {
    matches!(text.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// Parses the networks of a list in JSON: the strings under [`KEYS`], and those of an array that is the whole document.
///
/// # Errors
/// The first line that is no JSON, or holds something else where a network is expected; the first line if there is no network at all.
pub fn parse(text: &[u8]) -> Result<Vec<IpNet>, BadLine> {
    let mut found = Found::default();
    let mut document = serde_json::Deserializer::from_slice(text);
    let mut parsed = Ok(());
    while parsed.is_ok() && document.end().is_err() {
        parsed = Walk { found: &mut found, is_prefix: true }.deserialize(&mut document);
    }
    match parsed {
        Err(error) => {
            Err(BadLine { line: error.line().max(1), found: found.fault.unwrap_or_else(|| quoted(error.to_string().as_bytes())) })
        }
        Ok(()) if found.networks.is_empty() => Err(BadLine { line: 1, found: "JSON without any network".into() }),
        Ok(()) => Ok(found.networks),
    }
}

#[derive(Default)]
struct Found {
    networks: Vec<IpNet>,
    /// What stands where a network is expected.
    fault: Option<String>,
}

/// Walks through a value without keeping it: a list may be large.
struct Walk<'f> {
    found: &'f mut Found,
    /// Whether a string here is a network.
    is_prefix: bool,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of networks")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if !self.is_prefix {
            return Ok(());
        }
        match parse_network(text) {
            Ok(_) if self.found.networks.len() >= MAX_ENTRIES => {
                self.found.fault = Some(format!("more than {MAX_ENTRIES} networks"));
                Err(E::custom("too many"))
            }
            Ok(network) => {
                self.found.networks.push(network);
                Ok(())
            }
            Err(error) => {
                self.found.fault = Some(quoted(text.as_bytes()));
                Err(E::custom(error))
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Walk { found: &mut *self.found, is_prefix: self.is_prefix })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<String>()? {
            let is_prefix = KEYS.contains(&key.to_ascii_lowercase().as_str());
            entries.next_value_seed(Walk { found: &mut *self.found, is_prefix })?;
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(text: &str) -> Vec<String> {
        parse(text.as_bytes()).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_lists_of_search_engines_clouds_and_spamhaus_are_read() {
        for (text, expected) in [
            (
                r#"{"creationTime": "2026-11-01T00:00:00", "prefixes": [{"ipv6Prefix": "2001:db8:1::/64"}, {"ipv4Prefix": "192.0.2.0/27"}]}"#,
                vec!["2001:db8:1::/64", "192.0.2.0/27"],
            ),
            (
                r#"{"syncToken": "1", "createDate": "x", "prefixes": [{"ip_prefix": "192.0.2.0/26", "region": "eu", "service": "EC2"}],
                    "ipv6_prefixes": [{"ipv6_prefix": "2001:db8::/48", "network_border_group": "eu"}]}"#,
                vec!["192.0.2.0/26", "2001:db8::/48"],
            ),
            (
                r#"{"changeNumber": 1, "values": [{"name": "A", "properties": {"region": "", "addressPrefixes": ["192.0.2.0/31", "2001:db8::/64"]}}]}"#,
                vec!["192.0.2.0/31", "2001:db8::/64"],
            ),
            (r#"{"result": {"ipv4_cidrs": ["192.0.2.0/24"], "ipv6_cidrs": [], "etag": "1"}, "success": true}"#, vec!["192.0.2.0/24"]),
            (
                "{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"SBL1\",\"rir\":\"x\"}\n{\"cidr\":\"198.51.100.0/24\",\"sblid\":\"SBL2\"}\n\
                 {\"type\":\"metadata\",\"timestamp\":1,\"size\":2.5,\"x\":null,\"y\":-1}\n",
                vec!["192.0.2.0/24", "198.51.100.0/24"],
            ),
            (r#"{"addresses": ["192.0.2.0/24"], "ipv6_addresses": ["2001:db8::/32"]}"#, vec!["192.0.2.0/24", "2001:db8::/32"]),
            (r#" ["192.0.2.1", "2001:db8::1"] "#, vec!["192.0.2.1/32", "2001:db8::1/128"]),
        ] {
            assert!(is_json(text.as_bytes()));
            assert_eq!(networks(text), expected, "{text}");
        }
        assert!(!is_json(b"192.0.2.1\n[x]") && !is_json(b""));
    }

    #[test]
    fn text_that_only_looks_like_a_network_is_none_under_another_key() {
        assert_eq!(networks(r#"{"comment": "0.0.0.0/0", "prefixes": [{"ipv4Prefix": "192.0.2.0/24", "note": "::/0"}]}"#), ["192.0.2.0/24"]);
    }

    #[test]
    fn a_fault_names_its_line_and_what_was_found() {
        for (text, line, found) in [
            ("{\"prefixes\": [\n{\"ipv4Prefix\": \"everybody\"}]}", 2, "everybody"),
            ("{\"prefixes\": [\n{\"ipv4Prefix\": \"192.0.2.0/24\"", 2, "EOF while parsing"),
            ("{\"cidr\":\"192.0.2.0/24\"}\nnobody", 2, "expected"),
            ("{}", 1, "JSON without any network"),
            ("[1, 2]", 1, "JSON without any network"),
            ("{\"message\": \"192.0.2.1\", \"error\": 403}", 1, "JSON without any network"),
        ] {
            let bad = parse(text.as_bytes()).unwrap_err();
            assert_eq!(bad.line, line, "{text}: {bad}");
            assert!(bad.found.starts_with(found), "{text}: {bad}");
        }
    }

    #[test]
    fn nesting_without_end_is_a_fault_and_no_overflow() {
        assert!(parse("[".repeat(1_000_000).as_bytes()).is_err());
        assert!(parse("{\"cidr\":".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_parse_without_a_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&text);
        }

        #[test]
        fn any_words_of_json_parse_without_a_panic(text in "([\\[\\]{},:0-9 \n]|\"cidr\"|\"192.0.2.1\"|\"x\"){0,60}") {
            let _ = parse(text.as_bytes());
        }
    }
}
