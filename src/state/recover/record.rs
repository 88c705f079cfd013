//! The records on one page of an SQLite database.
//!
//! The formats are those of <https://www.sqlite.org/fileformat2.html>, "B-tree Pages" and "Record Format".

use rusqlite::types::Value;

use super::pages::Pages;

/// Maximum length of a record. The longest ones written hold the path of a log.
const MAX_RECORD: usize = 65_536;

/// Maximum number of columns of a record: more than any table has.
const MAX_COLUMNS: usize = 16;

/// The kinds of page that hold records, by their first byte.
const INDEX_INTERIOR: u8 = 0x02;
const INDEX_LEAF: u8 = 0x0a;
const TABLE_LEAF: u8 = 0x0d;

/// The records on a page, with their row IDs on a table page. Damaged records are left out.
pub(super) fn cells(pages: &mut Pages, number: u32) -> Vec<(Option<i64>, Vec<Value>)> {
    let Some(page) = pages.read(number) else { return Vec::new() };
    // The first page starts with the file's header.
    let begin = if number == 1 { 100 } else { 0 };
    let Some(&[kind, _, _, high, low, ..]) = page.get(begin..) else { return Vec::new() };
    let header = match kind {
        TABLE_LEAF | INDEX_LEAF => 8,
        INDEX_INTERIOR => 12,
        _ => return Vec::new(),
    };
    let count = usize::from(u16::from_be_bytes([high, low]));
    let pointers = page.get(begin + header..).unwrap_or_default().chunks_exact(2).take(count);
    let starts = pointers.filter_map(|pointer| Some(usize::from(u16::from_be_bytes(pointer.try_into().ok()?))));
    starts.filter_map(|start| cell(pages, kind, page.get(start..)?, page.len())).collect()
}

fn cell(pages: &Pages, kind: u8, cell: &[u8], page_size: usize) -> Option<(Option<i64>, Vec<Value>)> {
    // On an interior page, each cell starts with the number of a child page.
    let cell = if kind == INDEX_INTERIOR { cell.get(4..)? } else { cell };
    let (length, mut rest) = varint(cell)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_RECORD)?;
    let mut id = None;
    if kind == TABLE_LEAF {
        let (number, after) = varint(rest)?;
        (id, rest) = (Some(number.cast_signed()), after);
    }
    let local = local_length(kind, length, page_size)?;
    let mut record = rest.get(..local)?.to_vec();
    if local < length {
        let mut next = u32::from_be_bytes(rest.get(local..local + 4)?.try_into().ok()?);
        while record.len() < length {
            let page = pages.read(next)?;
            let (link, content) = page.split_at_checked(4)?;
            record.extend_from_slice(content.get(..(length - record.len()).min(content.len()))?);
            next = u32::from_be_bytes(link.try_into().ok()?);
        }
    }
    Some((id, decode(&record)?))
}

/// How many bytes of a record are on the page itself; the rest is on a chain of overflow pages.
fn local_length(kind: u8, length: usize, page_size: usize) -> Option<usize> {
    let most = if kind == TABLE_LEAF { page_size.checked_sub(35)? } else { page_size.checked_sub(12)? * 64 / 255 - 23 };
    if length <= most {
        return Some(length);
    }
    let least = page_size.checked_sub(12)? * 32 / 255 - 23;
    let wanted = least + (length - least) % page_size.checked_sub(4)?;
    Some(if wanted <= most { wanted } else { least })
}

/// The values of a record; `None` if it is damaged, or holds a floating-point number, which no table does.
fn decode(record: &[u8]) -> Option<Vec<Value>> {
    let (length, _) = varint(record)?;
    let (header, mut body) = record.split_at_checked(usize::try_from(length).ok()?)?;
    let (_, mut types) = varint(header)?;
    let mut values = Vec::new();
    while !types.is_empty() && values.len() < MAX_COLUMNS {
        let (kind, after) = varint(types)?;
        types = after;
        let size = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 => 8,
            12.. => usize::try_from((kind - 12) / 2).ok()?,
            _ => return None,
        };
        let (content, after) = body.split_at_checked(size)?;
        body = after;
        values.push(match kind {
            0 => Value::Null,
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            1..=6 => Value::Integer(integer(content)),
            _ if kind % 2 == 0 => Value::Blob(content.to_vec()),
            _ => Value::Text(String::from_utf8(content.to_vec()).ok()?),
        });
    }
    (types.is_empty() && body.is_empty()).then_some(values)
}

/// A big-endian number in two's complement, of one to eight bytes.
fn integer(bytes: &[u8]) -> i64 {
    let sign = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte))
}

/// Splits off a varint of one to nine bytes: seven bits in each of the first eight, eight bits in the ninth.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (place, byte) in bytes.iter().enumerate() {
        if place == 8 {
            return Some((number << 8 | u64::from(*byte), bytes.get(9..)?));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(place + 1..)?));
        }
    }
    None
}
