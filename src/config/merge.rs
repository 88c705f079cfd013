//! Merges the pieces of a configuration into one.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::text::{ConfigError, ConfigText};

/// The lists that several pieces may add to: section and key.
const ADDED_UP: [(&str, &str); 4] =
    [("defaults", "ignoreip"), ("defaults", "trusted_proxies"), ("defaults", "deny"), ("defaults", "verified_crawlers")];

impl ConfigText {
    /// Deserializes all pieces together.
    ///
    /// # Errors
    /// The first fault, in one line of text: the message of the `toml` crate spans several.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let mut whole = DeTable::new();
        for piece in self.pieces() {
            let table = DeTable::parse(&piece.text).map_err(|error| self.toml_error(&error, piece.start))?;
            merge(&mut whole, shifted(table.into_inner(), piece.start), self)?;
        }
        let end = self.pieces().last().map_or(0, |last| last.start + last.text.len());
        T::deserialize(Deserializer::from(Spanned::new(0..end, whole))).map_err(|error| self.toml_error(&error, 0))
    }
}

/// Moves all places in `table` by `start` bytes.
fn shifted(table: DeTable<'_>, start: usize) -> DeTable<'_> {
    let key = |key: Spanned<_>| Spanned::new(key.span().start + start..key.span().end + start, key.into_inner());
    table.into_iter().map(|(name, value)| (key(name), shifted_value(value, start))).collect()
}

fn shifted_value(value: Spanned<DeValue<'_>>, start: usize) -> Spanned<DeValue<'_>> {
    let span = value.span().start + start..value.span().end + start;
    let value = match value.into_inner() {
        DeValue::Array(values) => DeValue::Array(values.into_iter().map(|value| shifted_value(value, start)).collect()),
        DeValue::Table(table) => DeValue::Table(shifted(table, start)),
        other => other,
    };
    Spanned::new(span, value)
}

/// Merges a piece into the pieces before it: sections by their keys, `[[rule]]` and `[[log]]` one after the other.
///
/// # Errors
/// A key of a section that both have, with both places.
fn merge<'t>(whole: &mut DeTable<'t>, piece: DeTable<'t>, text: &ConfigText) -> Result<(), ConfigError> {
    for (section, value) in piece {
        let offset = section.span().start;
        let Some(known) = whole.get_mut(&**section.get_ref()) else {
            whole.insert(section, value);
            continue;
        };
        let first = known.span().start;
        match (known.get_mut(), value.into_inner()) {
            (DeValue::Table(known), DeValue::Table(keys)) => merge_section(section.get_ref(), known, keys, text)?,
            (DeValue::Array(known), DeValue::Array(tables)) => tables.into_iter().for_each(|table| known.push(table)),
            // One of them is wrong, and its type will be found to be so.
            _ => return Err(second(text, offset, &format!("{:?}", section.get_ref()), first)),
        }
    }
    Ok(())
}

fn merge_section<'t>(section: &str, known: &mut DeTable<'t>, keys: DeTable<'t>, text: &ConfigText) -> Result<(), ConfigError> {
    for (key, value) in keys {
        let first = known.iter().find(|(known, _)| known.get_ref() == key.get_ref()).map(|(known, _)| known.span().start);
        let Some(first) = first else {
            known.insert(key, value);
            continue;
        };
        let is_added_up = ADDED_UP.contains(&(section, &**key.get_ref()));
        match (known.get_mut(&**key.get_ref()).map(Spanned::get_mut), value.into_inner()) {
            (Some(DeValue::Array(known)), DeValue::Array(entries)) if is_added_up => {
                entries.into_iter().for_each(|entry| known.push(entry))
            }
            _ => return Err(second(text, key.span().start, &format!("{} in [{section}]", key.get_ref()), first)),
        }
    }
    Ok(())
}

/// The error for something that two pieces say.
fn second(text: &ConfigText, offset: usize, what: &str, first: usize) -> ConfigError {
    text.error_at(offset, format!("found a second {what}, the first is at {}; expected it in one place", text.place(first)))
}
