//! Finds the first of two equal keys in one file: the `toml` crate tells the place of the second alone.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// The key of `text` at `second`, and where it stood before.
pub(super) fn first(text: &str, second: Range<usize>) -> Option<(&str, usize)> {
    let name = text.get(second.clone())?.trim_matches(['"', '\'']);
    let line = text.get(..second.start)?.rfind('\n').map_or(0, |at| at + 1);
    // The parser keeps the second of two tables, so the lines before are parsed by themselves.
    let before = earlier(text.get(..line)?, name, &second);
    // A table is written in one place, so the nearest one before is meant: a key at the start of its line, or a name in the same brackets.
    let is_same_kind = |offset: &usize| before_on_line(text, *offset) == before_on_line(text, second.start);
    let first = before.into_iter().filter(is_same_kind).max().or_else(|| earlier(text, name, &second).into_iter().max())?;
    Some((name, first))
}

/// The places of the keys that are called `name` in `part`, which is the start of a text, before `second`.
fn earlier(part: &str, name: &str, second: &Range<usize>) -> Vec<usize> {
    let (table, _) = DeTable::parse_recoverable(part);
    let mut found = Vec::new();
    collect(table.get_ref(), name, &mut found);
    found.retain(|offset| *offset < second.start);
    found
}

fn before_on_line(text: &str, offset: usize) -> &str {
    let before = text.get(..offset).unwrap_or_default();
    before.rsplit('\n').next().unwrap_or_default().trim_start()
}

/// The places of all keys that are called `name`.
fn collect(table: &DeTable<'_>, name: &str, found: &mut Vec<usize>) {
    for (key, value) in table.iter() {
        if &**key.get_ref() == name {
            found.push(key.span().start);
        }
        collect_value(value.get_ref(), name, found);
    }
}

fn collect_value(value: &DeValue<'_>, name: &str, found: &mut Vec<usize>) {
    match value {
        DeValue::Table(table) => collect(table, name, found),
        DeValue::Array(values) => values.iter().for_each(|value| collect_value(value.get_ref(), name, found)),
        _ => {}
    }
}
