//! Which provider's network and which country an address belongs to, by databases in MaxMind's format.

mod asked;
mod database;
mod network;
mod origin;
mod ranges;
pub mod watch;

use std::fmt;
use std::sync::Arc;

pub use asked::AskedOrigins;
pub use database::Database;
pub use network::Network;
pub use origin::{Asn, Country, Origin, OriginCondition, OriginEntry, OriginSet};

use crate::client::Client;

/// What a database tells of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeoKind {
    Asn,
    Country,
}

impl GeoKind {
    /// The key of `[geo]`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asn => "asn",
            Self::Country => "country",
        }
    }
}

/// Who knows where clients belong. Cloning is cheap.
#[derive(Debug, Clone)]
pub enum Geo {
    /// This process.
    Here(Databases),
    /// The daemon, which this process is attached to: it is asked about each client.
    Daemon(Arc<AskedOrigins>),
}

impl Default for Geo {
    fn default() -> Self {
        Self::Here(Databases::default())
    }
}

impl Geo {
    /// Where `client` belongs; `None` if the daemon must be asked.
    #[must_use]
    pub fn origin(&self, client: Client) -> Option<Origin> {
        match self {
            Self::Here(databases) => Some(databases.origin(client)),
            Self::Daemon(asked) => asked.get(client),
        }
    }

    /// Whether there is a database of this kind.
    #[must_use]
    pub fn knows(&self, kind: GeoKind) -> bool {
        match (self, kind) {
            (Self::Here(databases), GeoKind::Asn) => databases.asn.is_some(),
            (Self::Here(databases), GeoKind::Country) => databases.country.is_some(),
            (Self::Daemon(_), _) => false,
        }
    }

    /// Whether `client` belongs to this system or country, as far as it is known here.
    #[must_use]
    pub fn belongs(&self, client: Client, entry: OriginEntry) -> bool {
        self.origin(client).is_some_and(|origin| origin.entries().any(|found| found == entry))
    }

    /// Whether `client` is in `network`, by its address or as far as it is known here where it belongs.
    #[must_use]
    pub fn is_in(&self, client: Client, network: Network) -> bool {
        match network {
            Network::Block(block) => block.contains(&client.address()),
            Network::Origin(entry) => self.belongs(client, entry),
        }
    }

    /// The autonomous system of `client`, as far as it is known here.
    #[must_use]
    pub fn asn(&self, client: Client) -> Option<Asn> {
        match self {
            Self::Here(databases) => databases.asn.as_ref()?.lookup(client.address()),
            Self::Daemon(asked) => asked.get(client)?.asn,
        }
    }

    /// Whether it knows the same of everybody.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Here(this), Self::Here(that)) => is_same(&this.asn, &that.asn) && is_same(&this.country, &that.country),
            (Self::Daemon(this), Self::Daemon(that)) => Arc::ptr_eq(this, that),
            _ => false,
        }
    }
}

fn is_same<V>(this: &Option<Arc<Database<V>>>, that: &Option<Arc<Database<V>>>) -> bool {
    match (this, that) {
        (Some(this), Some(that)) => Arc::ptr_eq(this, that),
        (this, that) => this.is_none() && that.is_none(),
    }
}

/// The databases in use, none by default.
///
/// What is not known, because an address is in no database or there is none, matches no condition and is in no list.
#[derive(Clone, Default)]
pub struct Databases {
    asn: Option<Arc<Database<Asn>>>,
    country: Option<Arc<Database<Country>>>,
}

impl fmt::Debug for Databases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = |entries: Option<usize>| entries.map_or_else(|| "none".to_owned(), |entries| entries.to_string());
        let (asn, country) = (self.asn.as_ref().map(|asn| asn.entries()), self.country.as_ref().map(|country| country.entries()));
        write!(f, "Databases(asn: {}, country: {})", entries(asn), entries(country))
    }
}

impl Databases {
    /// Where `client` belongs, as far as that is known.
    #[must_use]
    fn origin(&self, client: Client) -> Origin {
        let address = client.address();
        Origin {
            asn: self.asn.as_ref().and_then(|database| database.lookup(address)),
            country: self.country.as_ref().and_then(|database| database.lookup(address)),
        }
    }
}
