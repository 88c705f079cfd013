//! `name[option=value, …]`, and `<name>` tags in values.

use super::ini::Options;
use super::regex::engine::{boundary_from, boundary_until};
use super::regex::{MatchResult, Pattern, Spans};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// Maximum number of times that one tag is replaced within one value: fail2ban's `MAX_TAG_REPLACE_COUNT`.
const MAX_REPLACEMENTS: usize = 25;

/// Maximum length of a value after replacement, in bytes.
const MAX_VALUE_LENGTH: usize = 1 << 20;

// fail2ban's own expressions (`helpers.py`), so that every spelling is read in the same way.
static NAME_AND_OPTIONS: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?s)^([^\[]+)(?:\[(.*)\])?\s*$"));
static OPTION: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::constant(r#"(?s)\s*([\w\-_\.]+)=(?:"([^"]*)"|\'([^\']*)\'|([^,\]]*))(?:,|\]\s*\[|$|(?P<wrngA>.+))|,?\s*$|(?P<wrngB>.+)"#)
});
static TAG: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant("<([^ <>]+)>"));

/// Splits `name[option=value, option="value"][option='value']` into the name and its options: fail2ban's `extractOptions`.
///
/// # Errors
/// What was found, and what was expected.
pub fn split_options(text: &str) -> Result<(String, Vec<(String, String)>), String> {
    let MatchResult::Match(parts) = NAME_AND_OPTIONS.search(text, 0) else {
        return Err(format!("found {text:?}, expected a name or name[option=value]"));
    };
    let part = |spans: &Spans, text: &str, group| spans.group(group).and_then(|(s, e)| text.get(s..e)).map(str::to_owned);
    let name = part(&parts, text, 1).unwrap_or_default();
    let options = part(&parts, text, 2).unwrap_or_default();
    let mut found: Vec<(String, String)> = Vec::new();
    let mut from = 0;
    while from < options.len() {
        let MatchResult::Match(spans) = OPTION.search(&options, from) else { break };
        if let Some(wrong) = part(&spans, &options, 5).or_else(|| part(&spans, &options, 6)) {
            let shown: String = wrong.chars().take(25).collect();
            return Err(format!("found {shown:?} in {text:?}, expected option=value"));
        }
        if let Some(option) = part(&spans, &options, 1) {
            let value = (2..=4).find_map(|group| part(&spans, &options, group)).unwrap_or_default().trim().to_owned();
            found.retain(|(known, _)| *known != option);
            found.push((option, value));
        }
        let end = spans.group(0).map_or(options.len(), |(_, end)| end);
        from = if end > from { end } else { boundary_from(&options, from + 1) };
    }
    Ok((name.trim().to_owned(), found))
}

/// Replaces `<name>` in every value by the value of that name, repeatedly: fail2ban's `substituteRecursiveTags`.
///
/// `more` resolves names that are not among the values. A tag that neither knows stays as it is.
///
/// # Errors
/// A value that refers to itself or grows too long, or an error of `more`.
pub fn substitute(values: &Options, more: &mut dyn FnMut(&str) -> Result<Option<String>, String>) -> Result<Options, String> {
    // A name that also has a conditional form (`name?family=inet6`) is only replaced when the condition is known.
    let ignored: BTreeSet<&str> = values.keys().filter_map(|name| name.split_once('?')).map(|(name, _)| name).collect();
    let mut result = values.clone();
    let mut counts: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut done: BTreeSet<String> = BTreeSet::new();
    loop {
        let mut again = false;
        for name in values.keys() {
            if ignored.contains(name.as_str()) || done.contains(name) {
                continue;
            }
            let Some(mut value) = result.get(name).cloned() else { continue };
            let count = counts.entry(name.clone()).or_default();
            let mut changed = false;
            let mut from = 0;
            while let Some((start, end)) = next_tag(&value, from) {
                let tag = value.get(start + 1..end - 1).unwrap_or_default().to_owned();
                if ignored.contains(tag.as_str()) {
                    from = end;
                    continue;
                }
                let times = count.entry(tag.clone()).or_insert(0);
                if tag == *name || *times >= MAX_REPLACEMENTS {
                    return Err(format!("found {name:?}, which refers to itself through <{tag}>"));
                }
                let replacement = match result.get(&tag) {
                    Some(known) => Some(known.clone()),
                    None => more(&tag)?,
                };
                let Some(replacement) = replacement else {
                    from = end;
                    continue;
                };
                value = value.replace(&format!("<{tag}>"), &replacement);
                if value.len() > MAX_VALUE_LENGTH {
                    return Err(format!("found {name:?} longer than {MAX_VALUE_LENGTH} bytes with its tags replaced, expected less"));
                }
                *times += 1;
                changed = true;
                from = boundary_until(&value, start);
            }
            if changed {
                again |= next_tag(&value, 0).is_some();
            }
            if !value.contains('<') {
                done.insert(name.clone());
            }
            result.insert(name.clone(), value);
        }
        if !again {
            return Ok(result);
        }
    }
}

fn next_tag(value: &str, from: usize) -> Option<(usize, usize)> {
    match TAG.search(value, from) {
        MatchResult::Match(spans) => spans.group(0),
        MatchResult::No | MatchResult::GaveUp => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_may_be_quoted_and_grouped() {
        let (name, found) = split_options(r#"sshd[mode=aggressive, a="x,]y", b='z'][c=1]"#).expect("read");
        assert_eq!(name, "sshd");
        let pairs: Vec<_> = found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(pairs, [("mode", "aggressive"), ("a", "x,]y"), ("b", "z"), ("c", "1")]);
        assert_eq!(split_options("sshd").expect("read"), ("sshd".to_owned(), vec![]));
        assert!(split_options("sshd[mode]").expect_err("no value").contains("expected option=value"));
        assert!(split_options("").is_err());
    }

    #[test]
    fn a_tag_inside_a_tag_is_replaced_first() {
        let values = options(&[("mode", "b"), ("re-a", "A"), ("re-b", "B<mode>"), ("x", "<re-<mode>> <HOST>")]);
        assert_eq!(substitute(&values, &mut |_| Ok(None)).expect("replaced")["x"], "Bb <HOST>");
        let values = options(&[("x", "<lt_<type>/y>"), ("type", "file")]);
        let replaced = substitute(&values, &mut |tag| Ok((tag == "lt_file/y").then(|| "Y".to_owned()))).expect("replaced");
        assert_eq!(replaced["x"], "Y");
    }

    #[test]
    fn tags_that_refer_to_each_other_are_an_error() {
        assert!(substitute(&options(&[("a", "<b>"), ("b", "<a>")]), &mut |_| Ok(None)).expect_err("a circle").contains("refers to itself"));
        assert!(substitute(&options(&[("a", "<a>")]), &mut |_| Ok(None)).is_err());
        let wide = options(&[("a", &"<b>".repeat(1000)), ("b", &"<c>".repeat(1000)), ("c", &"x".repeat(1000))]);
        assert!(substitute(&wide, &mut |_| Ok(None)).expect_err("too long").contains("longer than"));
    }
}
