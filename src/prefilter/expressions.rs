//! Packs texts into few expressions for Squid's acls. Texts that begin alike share their beginning, as in `/(adm(in|x)|boa)`.
//!
//! glibc matches an expression that is anchored in one pass over the text; without an anchor it begins anew at each byte. Squid removes `^.*`
//! from the beginning of an expression, and with it the anchor (RegexData.cc: `removeUnnecessaryWildcards`).
//!
//! A pass takes as long whatever the expression's length, so a request costs less with one long expression than with several short ones. Memory
//! does not grow by that: glibc's automaton has a state for each place within a text, and texts share their beginnings.

use aho_corasick::AhoCorasick;

use super::necessary::Needs;
use super::posix::set;

/// Maximum length of an expression, in bytes: Squid cuts a line of 2,048 bytes in two (ConfigParser.cc, `CONFIG_LINE_LIMIT`).
pub(super) const MAX_LENGTH: usize = 2040;

/// Before the texts: in a URL, the scheme and its first slash are skipped, so that a second `//` stands out.
pub(super) const IN_URL: &str = "^[^/]*/.*";
/// Before the texts in a User-Agent, which may begin with one of them.
pub(super) const IN_AGENT: &str = "^.?.*";

/// An expression that matches every text.
pub(super) const EVERYTHING: &str = ".";
/// An expression that matches none: Squid warns about a file without any.
pub(super) const NOTHING: &str = "^$.";

/// Expressions that match what begins with `before` and holds one of the texts, or something that one of the expressions in `needs` matches.
pub(super) fn of(before: &str, needs: Needs) -> Vec<String> {
    let texts = without_longer(needs.texts.into_keys().collect());
    let room = MAX_LENGTH - before.len() - 2;
    let mut groups = pack(&texts, room);
    for expression in needs.expressions.into_keys() {
        match groups.iter_mut().find(|group| group.len() + 1 + expression.len() <= room) {
            Some(group) => *group = format!("{group}|{expression}"),
            None => groups.push(expression),
        }
    }
    groups.into_iter().map(|group| format!("{before}({group})")).collect()
}

/// Drops texts that hold another one. They are sorted then.
fn without_longer(texts: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let Ok(automaton) = AhoCorasick::new(&texts) else { return texts };
    let is_shortest = |text: &Vec<u8>| automaton.find_overlapping_iter(text).all(|found| found.len() == text.len());
    let mut texts: Vec<Vec<u8>> = texts.iter().filter(|text| is_shortest(text)).cloned().collect();
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// Splits sorted texts into groups, each an alternation of at most `room` bytes.
fn pack(texts: &[Vec<u8>], room: usize) -> Vec<String> {
    let mut groups = Vec::new();
    let (mut start, mut last) = (0, String::new());
    for end in 1..=texts.len() {
        let group: Vec<&[u8]> = texts.get(start..end).unwrap_or_default().iter().map(Vec::as_slice).collect();
        let text = alternation(&group);
        if text.len() > room && end - start > 1 {
            groups.push(std::mem::replace(&mut last, alternation(group.get(group.len() - 1..).unwrap_or_default())));
            start = end - 1;
        } else {
            last = text;
        }
    }
    groups.extend((!last.is_empty()).then_some(last));
    groups
}

/// Sorted texts, none of which begins another, as alternatives without the parentheses around them.
fn alternation(texts: &[&[u8]]) -> String {
    // What follows the first byte, for each first byte.
    let mut branches: Vec<(Vec<u8>, String)> = Vec::new();
    for group in texts.chunk_by(|one, other| one.first() == other.first()) {
        let Some(first) = group.first().and_then(|text| text.first()) else { continue };
        let rests: Vec<&[u8]> = group.iter().filter_map(|text| text.get(1..)).filter(|rest| !rest.is_empty()).collect();
        let rest = if rests.is_empty() { String::new() } else { grouped(&rests) };
        match branches.iter_mut().find(|(_, known)| *known == rest) {
            Some((bytes, _)) => bytes.push(*first),
            None => branches.push((vec![*first], rest)),
        }
    }
    let branches: Vec<String> = branches.iter().map(|(bytes, rest)| format!("{}{rest}", set(bytes))).collect();
    branches.join("|")
}

/// The same with parentheses, where they are needed.
fn grouped(texts: &[&[u8]]) -> String {
    let text = alternation(texts);
    let is_one = texts.iter().all(|other| other.first() == texts.first().and_then(|text| text.first()));
    let single_bytes = texts.iter().all(|text| text.len() == 1);
    if is_one || (single_bytes && !text.starts_with('(')) || !text.contains('|') { text } else { format!("({text})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(texts: &[&str]) -> Needs {
        Needs { texts: texts.iter().map(|text| (text.as_bytes().to_vec(), 0.0)).collect(), ..Needs::default() }
    }

    #[test]
    fn texts_share_their_beginnings_and_equal_ends() {
        assert_eq!(of("^", needs(&["/admin", "/adm1n", "/boa", "/adx", "x/adx"])), ["^(/(ad(m[1i]n|x)|boa))"]);
        assert_eq!(of("^", needs(&["a.", "b.", "c(", "c|"])), ["^([ab]\\.|c[(|])"]);
        assert_eq!(of("^", needs(&["a-", "a.", "a/b"])), ["^(a((-|\\.)|/b))"]);
    }

    #[test]
    fn many_texts_are_spread_over_expressions_and_each_is_matched() {
        let texts: Vec<String> = (0..2_000_u32).map(|number| format!("/{:x}", number.wrapping_mul(2_654_435_761))).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let expressions = of(IN_URL, needs(&texts));
        let lengths: Vec<usize> = expressions.iter().map(String::len).collect();
        assert!(lengths.len() > 2 && lengths.iter().all(|length| *length <= MAX_LENGTH), "{lengths:?}");
        assert!(lengths.iter().rev().skip(1).all(|length| *length > MAX_LENGTH - 50), "{lengths:?}");
        let regexes: Vec<_> = expressions.iter().map(|text| regex::bytes::Regex::new(&format!("(?is-u){text}")).unwrap()).collect();
        for text in texts {
            let url = format!("http://site.example{text}");
            assert!(regexes.iter().any(|regex| regex.is_match(url.as_bytes())), "{url}");
        }
        assert!(!regexes.iter().any(|regex| regex.is_match(b"http://site.example/index.html")));
    }
}
