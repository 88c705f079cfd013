//! Autonomous systems and countries, and conditions on them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::GeoKind;

/// The number of an autonomous system: a provider's network, as BGP knows it (RFC 6793).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Asn(u32);

impl Asn {
    /// `None` for 0, which no network has (RFC 7607).
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// As people write it: `AS64496`.
impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AS{}", self.0)
    }
}

/// Parses `AS64496`, whatever the case of its letters.
impl FromStr for Asn {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix("AS").or_else(|| text.strip_prefix("as")).ok_or(())?;
        let is_plain = digits.bytes().all(|digit| digit.is_ascii_digit()) && !digits.starts_with('0');
        digits.parse().ok().filter(|_| is_plain).and_then(Self::new).ok_or(())
    }
}

/// A country by its two letters (ISO 3166-1 alpha-2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

impl Country {
    /// Different for each country.
    #[must_use]
    pub fn number(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, two] = self.0.map(char::from);
        write!(f, "{one}{two}")
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Country({self})")
    }
}

/// Parses two letters of any case.
impl FromStr for Country {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.as_bytes() {
            [one, two] if one.is_ascii_alphabetic() && two.is_ascii_alphabetic() => {
                Ok(Self([one.to_ascii_uppercase(), two.to_ascii_uppercase()]))
            }
            _ => Err(()),
        }
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom(format!("found {text:?}, expected the two letters of a country")))
    }
}

/// Where a client belongs; `None` for what is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    pub asn: Option<Asn>,
    pub country: Option<Country>,
}

impl Origin {
    /// The system and the country, as far as they are known.
    pub fn entries(self) -> impl Iterator<Item = OriginEntry> {
        self.asn.map(OriginEntry::Asn).into_iter().chain(self.country.map(OriginEntry::Country))
    }
}

/// Which clients a rule is about, by where they belong. All that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OriginCondition {
    /// One of these; empty for any.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub asn: BTreeSet<Asn>,
    /// None of these.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub not_asn: BTreeSet<Asn>,
    /// One of these; empty for any.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub country: BTreeSet<Country>,
    /// None of these.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub not_country: BTreeSet<Country>,
}

impl OriginCondition {
    /// Whether it holds for everybody, known or not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.needs_asn() && !self.needs_country()
    }

    #[must_use]
    pub fn needs_asn(&self) -> bool {
        !self.asn.is_empty() || !self.not_asn.is_empty()
    }

    #[must_use]
    pub fn needs_country(&self) -> bool {
        !self.country.is_empty() || !self.not_country.is_empty()
    }

    /// Whether it holds for a client that belongs to `origin`. A condition on what is not known does not hold: also `not_asn` and
    /// `not_country`, since the client may well belong there.
    #[must_use]
    pub fn holds(&self, origin: Origin) -> bool {
        holds(&self.asn, &self.not_asn, origin.asn) && holds(&self.country, &self.not_country, origin.country)
    }
}

fn holds<T: Ord>(wanted: &BTreeSet<T>, unwanted: &BTreeSet<T>, found: Option<T>) -> bool {
    match found {
        None => wanted.is_empty() && unwanted.is_empty(),
        Some(found) => (wanted.is_empty() || wanted.contains(&found)) && !unwanted.contains(&found),
    }
}

/// What clients belong to: an autonomous system or a country, as lists and operators name it (`AS64496`, `country:XX`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OriginEntry {
    Asn(Asn),
    Country(Country),
}

impl fmt::Display for OriginEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asn(asn) => asn.fmt(f),
            Self::Country(country) => write!(f, "country:{country}"),
        }
    }
}

impl OriginEntry {
    /// Which database says whether a client belongs to it.
    #[must_use]
    pub fn kind(self) -> GeoKind {
        match self {
            Self::Asn(_) => GeoKind::Asn,
            Self::Country(_) => GeoKind::Country,
        }
    }
}

impl FromStr for OriginEntry {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.strip_prefix("country:") {
            Some(country) => country.parse().map(Self::Country),
            None => text.parse().map(Self::Asn),
        }
    }
}

/// A list of autonomous systems and countries, each with the place where it stands: a file or a configuration option.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OriginSet(BTreeMap<OriginEntry, Arc<str>>);

impl OriginSet {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entry that a client which belongs to `origin` is on, and its place.
    #[must_use]
    pub fn find(&self, origin: Origin) -> Option<(OriginEntry, &Arc<str>)> {
        origin.entries().find_map(|entry| Some((entry, self.place(entry)?)))
    }

    /// The place where this entry stands.
    #[must_use]
    pub fn place(&self, entry: OriginEntry) -> Option<&Arc<str>> {
        self.0.get(&entry)
    }

    pub fn iter(&self) -> impl Iterator<Item = OriginEntry> {
        self.0.keys().copied()
    }
}

impl FromIterator<(OriginEntry, Arc<str>)> for OriginSet {
    fn from_iter<I: IntoIterator<Item = (OriginEntry, Arc<str>)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asn(number: u32) -> Asn {
        Asn::new(number).unwrap()
    }

    fn country(text: &str) -> Country {
        text.parse().unwrap()
    }

    #[test]
    fn systems_and_countries_are_parsed_as_they_are_shown() {
        for text in ["AS1", "AS64496", "AS4294967295"] {
            assert_eq!(text.parse::<Asn>().unwrap().to_string(), text);
        }
        for text in ["AS64496", "country:DE"] {
            assert_eq!(text.parse::<OriginEntry>().unwrap().to_string(), text);
        }
        assert_eq!(["", "country:", "country:D1", "DE", "AS0"].map(str::parse::<OriginEntry>), [Err(()); 5]);
        assert_eq!("as64496".parse(), Ok(asn(64496)));
        assert_eq!("de".parse(), Ok(country("DE")));
        for text in ["", "AS", "AS0", "AS01", "AS+1", "AS-1", "AS4294967296", "64496", "AS1 "] {
            assert_eq!(text.parse::<Asn>(), Err(()), "{text}");
        }
        assert_eq!(["", "D", "D1", "DEU"].map(str::parse::<Country>), [Err(()); 4]);
    }

    #[test]
    fn a_condition_holds_only_for_what_is_known() {
        let nowhere = Origin::default();
        let here = Origin { asn: Some(asn(64496)), country: Some(country("DE")) };
        let elsewhere = Origin { asn: Some(asn(64497)), country: Some(country("FR")) };
        let of = |condition: &OriginCondition| [nowhere, here, elsewhere].map(|origin| condition.holds(origin));
        let asns = || BTreeSet::from([asn(64496)]);
        let countries = || BTreeSet::from([country("DE")]);
        assert_eq!(of(&OriginCondition::default()), [true; 3]);
        assert_eq!(of(&OriginCondition { asn: asns(), ..OriginCondition::default() }), [false, true, false]);
        assert_eq!(of(&OriginCondition { not_asn: asns(), ..OriginCondition::default() }), [false, false, true]);
        assert_eq!(of(&OriginCondition { country: countries(), ..OriginCondition::default() }), [false, true, false]);
        assert_eq!(of(&OriginCondition { not_country: countries(), ..OriginCondition::default() }), [false, false, true]);
        let both = OriginCondition { asn: asns(), not_country: countries(), ..OriginCondition::default() };
        assert_eq!(of(&both), [false; 3], "all conditions must hold");
    }

    #[test]
    fn a_list_finds_a_client_by_its_system_or_its_country() {
        let list: OriginSet = ["AS64496", "country:FR"].iter().map(|entry| (entry.parse().unwrap(), "deny".into())).collect();
        let find = |number, letters: &str| {
            list.find(Origin { asn: Asn::new(number), country: letters.parse().ok() }).map(|(entry, _)| entry.to_string())
        };
        assert_eq!(find(64496, "DE").as_deref(), Some("AS64496"));
        assert_eq!(find(64497, "FR").as_deref(), Some("country:FR"));
        assert_eq!((find(64497, "DE"), find(0, "")), (None, None));
    }
}
