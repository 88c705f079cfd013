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

/// Where Squid reads an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a file of expressions, of whose lines Squid cuts those of 2,048 bytes in two (ConfigParser.cc, `CONFIG_LINE_LIMIT`).
    File,
    /// In a line of the configuration, of which Squid reads 8,191 bytes (cache_cf.cc, `parseOneConfigFile`) and splits them at spaces.
    Line,
}

/// What stands for a space in [`Place::Line`]. A space is always within brackets: see [`set`].
const BLANK: &str = "[:blank:]";

impl Place {
    /// Maximum length of an expression, in bytes.
    pub(super) const fn maximum(self) -> usize {
        match self {
            Self::File => 2040,
            Self::Line => 8100,
        }
    }

    fn length(self, text: &str) -> usize {
        let spaces = if self == Self::Line { text.bytes().filter(|byte| *byte == b' ').count() } else { 0 };
        text.len() + spaces * (BLANK.len() - 1)
    }

    fn written(self, text: String) -> String {
        if self == Self::Line { text.replace(' ', BLANK) } else { text }
    }
}

/// Before the texts: they may begin a path, and in a URL, the scheme and its first slash are skipped, so that a second `//` stands out.
pub(super) const IN_URL: &str = "^([^/]*/.*)?";
/// Before the texts in a host, few of which begin alike: glibc looks for the first byte of one.
pub(super) const IN_HOST: &str = "";
/// Before the texts in a User-Agent, which may begin with one of them.
pub(super) const IN_AGENT: &str = "^.?.*";

/// An expression that matches every text.
pub(super) const EVERYTHING: &str = ".";
/// An expression that matches none: Squid warns about a file without any.
pub(super) const NOTHING: &str = "^$.";

/// Expressions that match what begins with `before` and holds one of the texts, or something that one of the expressions in `needs` matches.
pub(super) fn of(before: &str, needs: Needs, place: Place) -> Vec<String> {
    let texts = without_longer(needs.texts.into_keys().collect());
    let room = place.maximum() - before.len() - 2;
    let mut groups = pack(&texts, |text| place.length(text) <= room);
    for expression in needs.expressions.into_keys() {
        match groups.iter_mut().find(|group| place.length(group) + 1 + place.length(&expression) <= room) {
            Some(group) => *group = format!("{group}|{expression}"),
            None => groups.push(expression),
        }
    }
    groups.into_iter().map(|group| place.written(format!("{before}({group})"))).collect()
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

/// Splits sorted texts into groups, each an alternation that `fits`.
fn pack(texts: &[Vec<u8>], fits: impl Fn(&str) -> bool) -> Vec<String> {
    let mut groups = Vec::new();
    let mut rest: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    while !rest.is_empty() {
        let first = |count: usize| alternation(rest.get(..count).unwrap_or_default());
        // So many fit, or one that does not.
        let (mut least, mut most) = (1, rest.len());
        while least < most {
            let middle = (least + most).div_ceil(2);
            if fits(&first(middle)) { least = middle } else { most = middle - 1 }
        }
        groups.push(first(least));
        rest.drain(..least);
    }
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
        assert_eq!(of("^", needs(&["/admin", "/adm1n", "/boa", "/adx", "x/adx"]), Place::File), ["^(/(ad(m[1i]n|x)|boa))"]);
        assert_eq!(of("^", needs(&["a.", "b.", "c(", "c|"]), Place::File), ["^([ab]\\.|c[(|])"]);
        assert_eq!(of("^", needs(&["a-", "a.", "a/b"]), Place::File), ["^(a((-|\\.)|/b))"]);
    }

    #[test]
    fn a_line_of_the_configuration_holds_no_space() {
        assert_eq!(of("^", needs(&["a b", "c"]), Place::Line), ["^(a[[:blank:]]b|c)"]);
        let many: Vec<String> = (0..2_000).map(|number| format!(" {number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(of("^", needs(&many), Place::Line).iter().all(|text| text.len() <= Place::Line.maximum() && !text.contains(' ')));
    }

    #[test]
    fn many_texts_are_spread_over_expressions_and_each_is_matched() {
        let texts: Vec<String> = (0..2_000_u32).map(|number| format!("/{:x}", number.wrapping_mul(2_654_435_761))).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let expressions = of(IN_URL, needs(&texts), Place::File);
        let lengths: Vec<usize> = expressions.iter().map(String::len).collect();
        assert!(lengths.len() > 2 && lengths.iter().all(|length| *length <= Place::File.maximum()), "{lengths:?}");
        assert!(lengths.iter().rev().skip(1).all(|length| *length > Place::File.maximum() - 50), "{lengths:?}");
        let regexes: Vec<_> = expressions.iter().map(|text| regex::bytes::Regex::new(&format!("(?is-u){text}")).unwrap()).collect();
        for text in texts {
            let url = format!("http://site.example{text}");
            assert!(regexes.iter().any(|regex| regex.is_match(url.as_bytes())), "{url}");
        }
        assert!(!regexes.iter().any(|regex| regex.is_match(b"http://site.example/index.html")));
    }
}
