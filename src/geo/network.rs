//! What is banned as a whole: a block of addresses, an autonomous system or a country.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use ipnet::IpNet;

use super::{Asn, OriginEntry};

/// A network, either way in which it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// Its addresses. Host bits are zero.
    Block(IpNet),
    /// The system or country. Which addresses it has, a database says at each lookup.
    Origin(OriginEntry),
}

impl Network {
    /// The addresses, if they are known without a database.
    #[must_use]
    pub fn block(self) -> Option<IpNet> {
        match self {
            Self::Block(block) => Some(block),
            Self::Origin(_) => None,
        }
    }
}

/// In one or two pieces: requests of crowds are counted by network, and the derived hash takes each part by itself.
impl Hash for Network {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Block(IpNet::V4(block)) => state.write_u64((u64::from(block.addr().to_bits()) << 8) | u64::from(block.prefix_len())),
            Self::Block(IpNet::V6(block)) => {
                state.write_u64(u64::from(block.prefix_len()));
                state.write_u128(block.addr().to_bits());
            }
            Self::Origin(OriginEntry::Asn(asn)) => state.write_u64((1 << 63) | u64::from(asn.number())),
            Self::Origin(OriginEntry::Country(country)) => state.write_u64((1 << 62) | u64::from(country.number())),
        }
    }
}

impl From<IpNet> for Network {
    fn from(block: IpNet) -> Self {
        Self::Block(block)
    }
}

impl From<Asn> for Network {
    fn from(asn: Asn) -> Self {
        Self::Origin(OriginEntry::Asn(asn))
    }
}

impl From<OriginEntry> for Network {
    fn from(entry: OriginEntry) -> Self {
        Self::Origin(entry)
    }
}

/// `192.0.2.0/24`, `AS64496` or `country:XX`.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(block) => block.fmt(f),
            Self::Origin(entry) => entry.fmt(f),
        }
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().map(Self::Block).or_else(|_| text.parse().map(Self::Origin))
    }
}

#[cfg(test)]
impl PartialEq<IpNet> for Network {
    fn eq(&self, block: &IpNet) -> bool {
        self.block() == Some(*block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_network_is_parsed_as_it_is_shown_and_no_two_are_the_same() {
        let texts = ["192.0.2.0/24", "192.0.2.0/25", "2001:db8::/32", "AS64496", "AS17477", "country:DE", "country:ED"];
        let networks: HashSet<Network> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(networks.len(), texts.len());
        for text in texts {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        assert_eq!("country:de".parse::<Network>().unwrap().to_string(), "country:DE");
        for text in ["", "country:", "country:D", "country:DEU", "country:D1", "country:D\u{e9}", "DE", "AS0", "192.0.2.1"] {
            assert_eq!(text.parse::<Network>(), Err(()), "{text}");
        }
    }
}
