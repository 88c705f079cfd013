//! A failregex, ignoreregex or prefregex: fail2ban's tags written out, and what its groups say about a failure.

use crate::python_regex::engine::PatternError;
use crate::python_regex::{Outcome, Pattern, Spans};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

const IP4: &str = r"(?:::f{4,6}:)?(?P<ip4>(?:\d{1,3}\.){3}\d{1,3})";
// fail2ban's has a look behind before the last colon, which the part before it makes true at all times.
const IP6: &str = r"(?P<ip6>(?:[0-9a-fA-F]{1,4}::?|::){1,7}(?:[0-9a-fA-F]{1,4}|:))";
const DNS: &str = r"(?P<dns>[\w\-.^_]*\w)";
const CIDR: &str = r"(?P<cidr>\d+)";

/// The groups that name who is blamed.
const BLAMED: [&str; 5] = ["fid", "ip4", "ip6", "dns", "mlfid"];

static TAG: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"</?[\w\-]+/?>"));
static INNER_FLAGS: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?<!\\)\((?:\?:)?(\(\?[a-z]+)\)"));
static COMPOSED: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"^(alt_|tuple_)(.*?)(?:_\d+)?$"));

/// The named groups of a match: those that took part.
pub type Groups = BTreeMap<String, String>;

/// An expression of a filter.
#[derive(Debug)]
pub struct Expression {
    pattern: Pattern,
    /// Groups and the names that they stand in for: `alt_user` for `user`.
    alternatives: Vec<(usize, String)>,
    /// Groups and the names that they are joined to.
    joined: Vec<(usize, String)>,
}

impl Expression {
    /// Compiles an expression with fail2ban's tags. `names_match`: whether `<HOST>` matches a host name too (unless `usedns = no`).
    ///
    /// # Errors
    /// Why it is none.
    pub fn new(text: &str, names_match: bool) -> Result<Self, PatternError> {
        let written = write_out(text, names_match);
        // Flags that begin a group count for it alone: ((?i)x) is (?i:x).
        let written = INNER_FLAGS.replace_all(&written, |group| format!("{}:", group(1)));
        let pattern = Pattern::new(&written)?;
        let mut alternatives = Vec::new();
        let mut joined = Vec::new();
        let mut named: Vec<(&str, usize)> =
            pattern.names().iter().enumerate().filter_map(|(group, name)| Some((name.as_deref()?, group))).collect();
        named.sort_unstable();
        for (name, group) in named {
            let Outcome::Match(parts) = COMPOSED.search(name, 0) else { continue };
            let part = |number| parts.group(number).and_then(|(start, end)| name.get(start..end)).unwrap_or_default();
            let target = (group, option_name(part(2)));
            if part(1) == "alt_" { &mut alternatives } else { &mut joined }.push(target);
        }
        Ok(Self { pattern, alternatives, joined })
    }

    /// The compiled pattern.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Whether a match can say who is blamed, or to which connection it belongs.
    #[must_use]
    pub fn names_somebody(&self) -> bool {
        BLAMED.iter().any(|name| self.pattern.group(name).is_some())
    }

    /// Puts the groups of a match into `groups`; a group that took no part is removed.
    pub fn collect(&self, text: &str, spans: &Spans, groups: &mut Groups) {
        for (group, name) in self.pattern.names().iter().enumerate() {
            let Some(name) = name else { continue };
            match spans.group(group).and_then(|(start, end)| text.get(start..end)) {
                Some(part) => groups.insert(name.clone(), part.to_owned()),
                None => groups.remove(name),
            };
        }
        let part = |group: usize| spans.group(group).and_then(|(start, end)| text.get(start..end));
        for (group, name) in &self.alternatives {
            if let Some(part) = part(*group).filter(|part| !part.is_empty())
                && groups.get(name).is_none_or(String::is_empty)
            {
                groups.insert(name.clone(), part.to_owned());
            }
        }
        for (group, name) in &self.joined {
            let first = groups.get(name).map(String::as_str).unwrap_or_default();
            let both = format!("{first}, {}", part(*group).unwrap_or_default());
            groups.insert(name.clone(), both);
        }
    }
}

/// The option of a group: lower case, and two names of fail2ban's own.
fn option_name(name: &str) -> String {
    match name.to_lowercase().as_str() {
        "id" => "fid".to_owned(),
        "port" => "fport".to_owned(),
        other => other.to_owned(),
    }
}

/// Replaces fail2ban's tags by the expressions that they stand for.
fn write_out(text: &str, names_match: bool) -> String {
    let address = format!(r"\[?(?:{IP4}|{IP6})\]?");
    let subnet = format!(r"\[?(?:{IP4}|{IP6})(?:/{CIDR})?\]?");
    let opened = std::cell::RefCell::new(BTreeSet::new());
    TAG.replace_all(text, |group| {
        let tag = group(0);
        let name = tag.get(1..tag.len() - 1).unwrap_or_default();
        match name {
            "HOST" if names_match => format!("(?:{address}|{DNS})"),
            "HOST" | "ADDR" | "F-ADDR/" => address.clone(),
            "IP4" | "F-IP4/" => IP4.to_owned(),
            "IP6" | "F-IP6/" => IP6.to_owned(),
            "CIDR" | "F-CIDR/" => CIDR.to_owned(),
            "SUBNET" | "F-SUBNET/" => subnet.clone(),
            "DNS" | "F-DNS/" => DNS.to_owned(),
            "F-ID/" => r"(?P<fid>\S+)".to_owned(),
            "F-PORT/" => r"(?P<fport>\w+)".to_owned(),
            _ => {
                let (closing, own) = match name.strip_prefix('/') {
                    Some(rest) => (true, rest),
                    None => (false, name),
                };
                let custom = own.strip_prefix("F-").filter(|own| {
                    !own.is_empty() && own.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
                });
                match custom {
                    Some(custom) if !closing => {
                        opened.borrow_mut().insert(custom.to_owned());
                        format!("(?P<{}>", option_name(custom))
                    }
                    Some(custom) if opened.borrow().contains(custom) => ")".to_owned(),
                    _ => tag.to_owned(),
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(expression: &str, text: &str) -> Option<Groups> {
        let expression = Expression::new(expression, true).expect(expression);
        let Outcome::Match(spans) = expression.pattern().search(text, 0) else { return None };
        let mut groups = Groups::new();
        expression.collect(text, &spans, &mut groups);
        Some(groups)
    }

    fn pairs(expression: &str, text: &str) -> Vec<(String, String)> {
        groups(expression, text).expect("a match").into_iter().collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn host_is_an_address_or_a_name() {
        assert_eq!(pairs("^<HOST>$", "192.0.2.1"), owned(&[("ip4", "192.0.2.1")]));
        assert_eq!(pairs("^<HOST>$", "[2001:db8::1]"), owned(&[("ip6", "2001:db8::1")]));
        assert_eq!(pairs("^<HOST>$", "::ffff:192.0.2.1"), owned(&[("ip4", "192.0.2.1")]));
        assert_eq!(pairs("^<HOST>$", "a.example"), owned(&[("dns", "a.example")]));
        assert_eq!(groups("^<ADDR>$", "a.example"), None);
        assert_eq!(pairs("^<SUBNET>$", "192.0.2.0/24"), owned(&[("cidr", "24"), ("ip4", "192.0.2.0")]));
        let numeric = Expression::new("^<HOST>$", false).expect("compiles");
        assert_eq!(numeric.pattern().search("a.example", 0), Outcome::No);
    }

    #[test]
    fn own_tags_are_groups_and_unknown_ones_are_text() {
        assert_eq!(pairs("^<F-USER>a+</F-USER> <F-ID>b</F-ID>$", "aa b"), owned(&[("fid", "b"), ("user", "aa")]));
        assert_eq!(pairs("^<F-ID/> <x></F-USER>$", "b <x></F-USER>"), owned(&[("fid", "b")]));
    }

    #[test]
    fn alternatives_stand_in_and_parts_are_joined() {
        let all = pairs("^(?:<F-USER>a</F-USER>)?<F-ALT_USER>b</F-ALT_USER><F-TUPLE_ID>c</F-TUPLE_ID>$", "bc");
        assert!(all.contains(&("user".to_owned(), "b".to_owned())));
        assert!(all.contains(&("fid".to_owned(), ", c".to_owned())));
    }

    #[test]
    fn flags_at_the_beginning_of_a_group_count_for_it() {
        assert!(groups("^((?i)a)b<HOST>", "Ab1.2.3.4").is_some());
        assert!(groups("^((?i)a)b<HOST>", "AB1.2.3.4").is_none());
    }
}
