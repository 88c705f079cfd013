//! What is banned as a whole: a block of addresses, or an autonomous system.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use ipnet::IpNet;

use super::Asn;

/// A network, either way in which it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// Its addresses. Host bits are zero.
    Block(IpNet),
    /// Its number. Which addresses it has, a database says at each lookup.
    Asn(Asn),
}

impl Network {
    /// The addresses, if they are known without a database.
    #[must_use]
    pub fn block(self) -> Option<IpNet> {
        match self {
            Self::Block(block) => Some(block),
            Self::Asn(_) => None,
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
            Self::Asn(asn) => state.write_u64((1 << 63) | u64::from(asn.number())),
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
        Self::Asn(asn)
    }
}

/// `192.0.2.0/24`, or `AS64496`.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(block) => block.fmt(f),
            Self::Asn(asn) => asn.fmt(f),
        }
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let asn = || text.parse().map(Self::Asn);
        text.parse::<IpNet>().map(Self::Block).or_else(|_| asn())
    }
}

#[cfg(test)]
impl PartialEq<IpNet> for Network {
    fn eq(&self, block: &IpNet) -> bool {
        self.block() == Some(*block)
    }
}
