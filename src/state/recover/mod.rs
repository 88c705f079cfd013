//! Recovers the rows of a damaged state file without SQLite, which stops at the first damaged page of a table.
//!
//! Every row is on some leaf page, and its columns show which table it belongs to. So each page is read by itself, and damage costs only the
//! rows of the damaged page, even if it hits the schema or the pages that lead to others. Pages that SQLite has freed hold no rows, because
//! the file is written with `secure_delete` (<https://www.sqlite.org/pragma.html#pragma_secure_delete>).

mod pages;
mod record;

use std::fmt;
use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::log::follow::Position;
use pages::Pages;
use record::cells;

/// The tables of [`super::schema`] whose rows are recovered. No two have rows that look the same.
const TABLES: [&str; 6] = ["ban", "evidence", "network", "strike", "history", "position"];

/// The last columns of `network`, which files of earlier programs do not have: their texts, or none for a number.
const NETWORK_DEFAULTS: [Option<&str>; 3] = [Some(""), Some(""), None];

/// What a column of a table can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    /// The row's id, which stands beside the record and is null in it.
    Id,
    Blob,
    Text,
    Integer,
    IntegerOrNull,
}

/// A table, with its columns in the order of its records.
struct Table {
    name: &'static str,
    columns: Vec<(String, Column)>,
}

impl Table {
    /// The columns as the new file has them: `TABLES` of [`super::schema`] is the only list of them.
    fn of(new: &Connection, name: &'static str) -> rusqlite::Result<Self> {
        let mut statement = new.prepare("SELECT name, type, \"notnull\", pk FROM pragma_table_info(?)")?;
        let column = |row: &rusqlite::Row<'_>| {
            let (is_required, is_key): (bool, bool) = (row.get(2)?, row.get(3)?);
            Ok((
                row.get(0)?,
                match row.get_ref(1)?.as_str()? {
                    // An integer key is the row's id; the tables without ids have other keys.
                    "INTEGER" if is_key => Column::Id,
                    "INTEGER" if is_required => Column::Integer,
                    "INTEGER" => Column::IntegerOrNull,
                    "BLOB" => Column::Blob,
                    _ => Column::Text,
                },
            ))
        };
        let columns = statement.query_map([name], column)?.collect::<rusqlite::Result<_>>()?;
        Ok(Self { name, columns })
    }

    fn insert(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let holes = vec!["?"; names.len()].join(", ");
        format!("INSERT OR IGNORE INTO {} ({}) VALUES ({holes})", self.name, names.join(", "))
    }

    /// A record as a row of this table; `None` if it is not one.
    fn row(&self, id: Option<i64>, values: &[Value]) -> Option<Vec<Value>> {
        // A row that was written before its table got more columns.
        let mut values = values.to_vec();
        if self.name == "network" && values.len() + NETWORK_DEFAULTS.len() == self.columns.len() {
            values.extend(NETWORK_DEFAULTS.map(|value| value.map_or(Value::Integer(0), |text| Value::Text(text.to_owned()))));
        }
        // Only tables without ids keep their rows in the tree of an index.
        let has_id = matches!(self.columns.as_slice(), [(_, Column::Id), ..]);
        if values.len() != self.columns.len() || has_id != id.is_some() {
            return None;
        }
        let column = |((name, column), value): (&(String, Column), &Value)| match (column, value) {
            (Column::Id, Value::Null) => id.map(Value::Integer),
            (Column::Integer, Value::Integer(_)) if name == "writer" => Some(Value::Integer(0)),
            (Column::Blob, Value::Blob(_))
            | (Column::Text, Value::Text(_))
            | (Column::Integer, Value::Integer(_))
            | (Column::IntegerOrNull, Value::Integer(_) | Value::Null) => Some(value.clone()),
            _ => None,
        };
        let row: Vec<Value> = self.columns.iter().zip(&values).map(column).collect::<Option<_>>()?;
        // A database of another program may well have a table of two texts.
        let is_position = |row: &[Value]| matches!(row, [_, Value::Text(text)] if serde_json::from_str::<Position>(text).is_ok());
        (self.name != "position" || is_position(&row)).then_some(row)
    }
}

/// Number of rows recovered, by table.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recovered([usize; TABLES.len()]);

impl Recovered {
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|rows| *rows == 0)
    }
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [bans, _, networks, strikes, earlier, positions] = self.0;
        write!(
            f,
            "{bans} bans, {networks} banned networks, {strikes} counts of strikes, {earlier} counts of earlier bans, {positions} log positions"
        )
    }
}

/// Copies all rows that can be read from the damaged file at `path`, and from its `-wal` file, into `new`.
///
/// Bans get writer 0, which no process has, so every process that shares the file loads them.
///
/// # Errors
/// The damaged file cannot be opened, or `new` cannot be written; then `new` is unchanged.
pub(super) fn recover(path: &Path, new: &Connection) -> Result<Recovered, rusqlite::Error> {
    let mut pages = Pages::open(path).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let transaction = new.unchecked_transaction()?;
    let mut recovered = Recovered::default();
    {
        let tables = TABLES.into_iter().map(|name| Table::of(&transaction, name)).collect::<rusqlite::Result<Vec<_>>>()?;
        let inserts = tables.iter().map(|table| Ok((transaction.prepare(&table.insert())?, table)));
        let mut inserts = inserts.collect::<rusqlite::Result<Vec<_>>>()?;
        for number in pages.numbers() {
            for (id, values) in cells(&mut pages, number) {
                for ((insert, table), rows) in inserts.iter_mut().zip(&mut recovered.0) {
                    if let Some(row) = table.row(id, &values) {
                        *rows += insert.execute(params_from_iter(row))?;
                    }
                }
            }
        }
    }
    transaction.execute("DELETE FROM evidence WHERE ban NOT IN (SELECT id FROM ban)", [])?;
    transaction.commit()?;
    Ok(recovered)
}

#[cfg(test)]
mod tests;
