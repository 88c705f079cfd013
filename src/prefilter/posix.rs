//! Translates patterns into POSIX extended expressions, which Squid uses, and texts and sets of bytes for use in them.
//!
//! What is written is printable ASCII, and bytes from 0x80 on as characters of the same number, which [`super::files`] writes as bytes. It means
//! the same to the `regex` crate (with `(?is-u)` and such a byte as an escape), which the tests use.

use regex_syntax::hir::{Class, ClassBytes, Hir, HirKind, Literal, Repetition};

use super::cost;
use super::seen::Field;

/// Bytes besides letters and digits that mean themselves between brackets, in both dialects and wherever they stand. Without `#`: where a
/// space stands before one, Squid takes the rest of the line for a comment.
const PLAIN: &[u8] = b" !\"%'()*+,/;<>?@_`{|}$";
/// Maximum length of a translated pattern, in bytes.
const MAX_LENGTH: usize = 500;
/// Maximum number of times that a repeated part is written.
const MAX_REPEATED: u32 = 4;

/// An expression that matches wherever the folded pattern `hir` does, and its cost; `None` if there is none, or no short one.
pub(super) fn translate(hir: &Hir, field: Field) -> Option<(String, f64)> {
    let Found { text, probability } = certain(hir, field)?;
    if text.len() > MAX_LENGTH {
        return None;
    }
    let cost = cost::of_expression(text.len(), probability, field) + cost::of_ordinary(&text);
    Some((text, cost))
}

struct Found {
    text: String,
    /// That it matches at a given place.
    probability: f64,
}

/// The part of `hir` that Squid is certain to see as the rule does: one that can match no percent sign, and does not begin within an escape.
/// See [`super::seen`].
fn certain(hir: &Hir, field: Field) -> Option<Found> {
    match hir.kind() {
        HirKind::Concat(parts) => {
            let mut best: Option<Found> = None;
            let mut start = 0;
            while start < parts.len() {
                let run = parts.iter().skip(start).take_while(|part| !holds_percent(part)).count();
                let whole = parts.get(start..start + run).unwrap_or_default();
                let next = parts.get(start + run);
                let whole: Vec<Hir> = whole.iter().cloned().chain(next.map(head)).collect();
                let found = seen(&Hir::concat(whole), field);
                let inside = next.and_then(|part| certain(part, field));
                best = [best, found, inside].into_iter().flatten().min_by(|one, other| one.probability.total_cmp(&other.probability));
                start += run + 1;
            }
            best
        }
        HirKind::Alternation(branches) => {
            let found: Option<Vec<Found>> = branches.iter().map(|branch| certain(branch, field)).collect();
            let found = found?;
            let texts: Vec<&str> = found.iter().map(|found| found.text.as_str()).collect();
            Some(Found { text: format!("({})", texts.join("|")), probability: found.iter().map(|found| found.probability).sum() })
        }
        HirKind::Repetition(repetition) if repetition.min > 0 && holds_percent(hir) => certain(&repetition.sub, field),
        _ if holds_percent(hir) => None,
        _ => seen(hir, field),
    }
}

/// What Squid sees of a match of `hir`, which holds no percent sign.
fn seen(hir: &Hir, field: Field) -> Option<Found> {
    let stripped = if field == Field::Agent { hir.clone() } else { without_digits(hir, ESCAPE_DIGITS).0 };
    let found = Found { text: expression(&stripped), probability: probability(&stripped, field) };
    (!found.text.is_empty() && found.probability < 1.0).then_some(found)
}

/// Whether a match can hold a percent sign, which matters in a URL.
fn holds_percent(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => false,
        HirKind::Literal(Literal(bytes)) => bytes.contains(&b'%'),
        HirKind::Class(class) => bytes_of(class).contains(&b'%'),
        HirKind::Repetition(repetition) => holds_percent(&repetition.sub),
        HirKind::Capture(capture) => holds_percent(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(holds_percent),
    }
}

/// The beginning of `hir`, up to where a match may hold a percent sign.
fn head(hir: &Hir) -> Hir {
    if !holds_percent(hir) {
        return hir.clone();
    }
    match hir.kind() {
        HirKind::Literal(Literal(bytes)) => Hir::literal(bytes.split(|byte| *byte == b'%').next().unwrap_or_default()),
        HirKind::Repetition(repetition) if repetition.min > 0 => head(&repetition.sub),
        HirKind::Capture(capture) => head(&capture.sub),
        HirKind::Concat(parts) => {
            let whole = parts.iter().take_while(|part| !holds_percent(part)).count();
            Hir::concat(parts.iter().take(whole + 1).map(head).collect())
        }
        HirKind::Alternation(branches) => Hir::alternation(branches.iter().map(head).collect()),
        _ => Hir::empty(),
    }
}

/// Number of digits behind the percent sign of an escape.
const ESCAPE_DIGITS: usize = 2;

/// What is left of `hir` if up to `digits` digits at the beginning of a match belong to an escape: each match ends with a match of that. Also
/// returns how many of the digits may belong to what follows.
fn without_digits(hir: &Hir, digits: usize) -> (Hir, usize) {
    if digits == 0 {
        return (hir.clone(), 0);
    }
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => (Hir::empty(), digits),
        HirKind::Literal(Literal(bytes)) => {
            let count = bytes.iter().take(digits).take_while(|byte| byte.is_ascii_hexdigit()).count();
            let rest = bytes.get(count..).unwrap_or_default();
            if rest.is_empty() { (Hir::empty(), digits - count) } else { (Hir::literal(rest), 0) }
        }
        HirKind::Class(class) if bytes_of(class).iter().any(u8::is_ascii_hexdigit) => (Hir::empty(), digits - 1),
        HirKind::Class(_) => (hir.clone(), 0),
        // What may be missing leaves the beginning to what follows, so it is not looked for.
        HirKind::Repetition(repetition) if repetition.min == 0 => (Hir::empty(), digits),
        HirKind::Repetition(repetition) => match without_digits(&repetition.sub, digits) {
            (sub, 0) if sub == *repetition.sub => (hir.clone(), 0),
            (_, left) => (Hir::empty(), left),
        },
        HirKind::Capture(capture) => without_digits(&capture.sub, digits),
        HirKind::Concat(parts) => {
            let mut left = digits;
            let mut stripped = Vec::with_capacity(parts.len());
            for part in parts {
                let (part, after) = without_digits(part, left);
                stripped.push(part);
                left = after;
            }
            (Hir::concat(stripped), left)
        }
        HirKind::Alternation(branches) => {
            let (branches, left): (Vec<Hir>, Vec<usize>) = branches.iter().map(|branch| without_digits(branch, digits)).unzip();
            match left.into_iter().max() {
                None | Some(0) => (Hir::alternation(branches), 0),
                // Some leave digits to what follows, and some do not.
                Some(left) => (Hir::empty(), left),
            }
        }
    }
}

fn probability(hir: &Hir, field: Field) -> f64 {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 1.0,
        HirKind::Literal(Literal(bytes)) => bytes.iter().map(|byte| cost::of_set([*byte].into_iter(), field)).product(),
        HirKind::Class(class) => cost::of_set(bytes_of(class).into_iter(), field),
        HirKind::Repetition(Repetition { min: 0, .. }) => 1.0,
        HirKind::Repetition(Repetition { min, sub, .. }) => probability(sub, field).powi((*min).min(MAX_REPEATED).cast_signed()),
        HirKind::Capture(capture) => probability(&capture.sub, field),
        HirKind::Concat(parts) => parts.iter().map(|part| probability(part, field)).product(),
        HirKind::Alternation(branches) => branches.iter().map(|branch| probability(branch, field)).sum::<f64>().min(1.0),
    }
}

/// An expression that matches at least what the folded pattern `hir` does.
fn expression(hir: &Hir) -> String {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => String::new(),
        HirKind::Literal(Literal(bytes)) => bytes.iter().map(|byte| set(&[*byte])).collect(),
        HirKind::Class(class) => set(&bytes_of(class)),
        HirKind::Repetition(repetition) => repeated(repetition),
        HirKind::Capture(capture) => expression(&capture.sub),
        HirKind::Concat(parts) => parts.iter().map(expression).collect(),
        HirKind::Alternation(branches) => {
            let texts: Vec<String> = branches.iter().map(expression).collect();
            let optional = if texts.iter().any(String::is_empty) { "?" } else { "" };
            let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
            if texts.is_empty() { String::new() } else { format!("({}){optional}", texts.join("|")) }
        }
    }
}

/// A repetition, without its upper limit and with at most so many parts: glibc copies a part for each of them.
fn repeated(repetition: &Repetition) -> String {
    let part = expression(&repetition.sub);
    if part.is_empty() {
        return part;
    }
    let is_one = matches!(repetition.sub.kind(), HirKind::Class(_)) && !part.contains('|');
    let (part, times) = (if is_one { part } else { format!("({part})") }, repetition.min.min(MAX_REPEATED));
    match (times, repetition.max) {
        (0, Some(1)) => part + "?",
        (0, _) => part + "*",
        (times, max) if max == Some(times) => part.repeat(times as usize),
        // The last one may be repeated.
        (times, _) => part.repeat(times as usize) + "+",
    }
}

fn bytes_in(class: &ClassBytes) -> Vec<u8> {
    class.iter().flat_map(|range| range.start()..=range.end()).collect()
}

fn bytes_of(class: &Class) -> Vec<u8> {
    match class {
        Class::Bytes(class) => bytes_in(class),
        // regex-syntax makes one of single characters that are alternatives.
        Class::Unicode(class) => class.to_byte_class().map_or_else(|| (0..=u8::MAX).collect(), |class| bytes_in(&class)),
    }
}

/// An expression for one of `bytes`, which are sorted and not empty: one for none would match anything. It may match further bytes that no URL
/// holds as sent.
pub(super) fn set(bytes: &[u8]) -> String {
    if let [byte] = bytes
        && (byte.is_ascii_graphic() || !byte.is_ascii())
    {
        return escaped(*byte);
    }
    if bytes.len() > 200 {
        return ".".to_owned();
    }
    let (mut plain, mut others) = (String::new(), Vec::new());
    // Many are written as what no URL holds as sent.
    let has_high = bytes.iter().filter(|byte| !byte.is_ascii()).count() > 16;
    let mut has_control = false;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || PLAIN.contains(&byte);
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match *first {
            // A zero byte is no part of what Squid sees.
            0..=0x1f | 0x7f => has_control = true,
            byte if !byte.is_ascii() && !has_high => plain.push(char::from(byte)),
            0x80.. => {}
            byte if is_plain(byte) => {
                let run = after.iter().zip(byte.saturating_add(1)..).take_while(|(next, expected)| {
                    *next == expected
                        && next.is_ascii_digit() == byte.is_ascii_digit()
                        && next.is_ascii_lowercase() == byte.is_ascii_lowercase()
                });
                let length = if byte.is_ascii_alphanumeric() { run.count() } else { 0 };
                plain.push(char::from(byte));
                if length > 2 {
                    plain.push('-');
                    plain.push(char::from(byte.saturating_add(u8::try_from(length).unwrap_or(0))));
                    rest = after.get(length..).unwrap_or_default();
                }
            }
            byte => others.push(byte),
        }
    }
    // These mean themselves where they do not begin a bracket, and the hyphen where it ends one.
    let fits = |byte: u8| !plain.is_empty() && (matches!(byte, b'.' | b':' | b'=') || (byte == b'-' && !has_control));
    let (inside, outside): (Vec<u8>, Vec<u8>) = others.into_iter().partition(|byte| fits(*byte));
    let mut others: Vec<String> = outside.into_iter().map(escaped).collect();
    let hyphen = if inside.contains(&b'-') { "-" } else { "" };
    plain.extend(inside.into_iter().filter(|byte| *byte != b'-').map(char::from));
    plain.push_str(hyphen);
    if has_control {
        plain.push_str("[:cntrl:]");
    }
    if has_high {
        others.push("[^ !-~]".to_owned());
    }
    if !plain.is_empty() {
        // A bracket may begin `[.`, `[:` or `[=`: none of these is first.
        others.push(format!("[{plain}]"));
    }
    match others.as_slice() {
        [one] => one.clone(),
        _ => format!("({})", others.join("|")),
    }
}

/// A printable byte, so that it means itself.
fn escaped(byte: u8) -> String {
    let is_special = matches!(byte, b'.' | b'[' | b'\\' | b'(' | b')' | b'*' | b'+' | b'?' | b'{' | b'|' | b'^' | b'$');
    format!("{}{}", if is_special { "\\" } else { "" }, char::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_written_for_both_dialects_and_means_at_least_itself() {
        for bytes in
            [vec![b'-'], vec![b']', b'^'], vec![b'['], vec![b'\n'], vec![b'a', b'b', b'c', b'd'], vec![0xaf, 0xc0], (0..=255).collect()]
        {
            let text: String =
                set(&bytes).chars().map(|c| if c.is_ascii() { c.to_string() } else { format!("\\x{:02x}", u32::from(c)) }).collect();
            let regex = regex::bytes::Regex::new(&format!("(?is-u)^{text}$")).unwrap();
            assert!(bytes.iter().all(|byte| regex.is_match(&[*byte])), "{bytes:?}: {}", set(&bytes));
        }
        assert_eq!(set(b"0123456789abc"), "[0-9abc]");
        assert_eq!(set(b"."), "\\.");
        assert_eq!(set(b"-."), "(-|\\.)");
        assert_eq!(set(b"-.:=_"), "[_.:=-]");
        assert_eq!(set(b"\n-a"), "(-|[a[:cntrl:]])");
    }

    #[test]
    fn no_set_holds_a_space_before_a_number_sign_which_begins_a_comment_in_squid() {
        assert_eq!(set(b" #"), "(#|[ ])");
        assert_eq!(set(b" #%"), "(#|[ %])");
    }
}
