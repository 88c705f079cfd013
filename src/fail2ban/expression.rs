//! A failregex, ignoreregex or prefregex: expands fail2ban's tags and reads the groups of a match.

use super::regex::engine::PatternError;
use super::regex::reorder::Order;
use super::regex::translate::contains_node;
use super::regex::tree::{ClassItem, Node};
use super::regex::{MatchResult, Pattern, Spans};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

const IP4: &str = r"(?:::f{4,6}:)?(?P<ip4>(?:\d{1,3}\.){3}\d{1,3})";
// fail2ban's own has a lookbehind before the last colon that is always true after the part before it.
const IP6: &str = r"(?P<ip6>(?:[0-9a-fA-F]{1,4}::?|::){1,7}(?:[0-9a-fA-F]{1,4}|:))";
const DNS: &str = r"(?P<dns>[\w\-.^_]*\w)";
const CIDR: &str = r"(?P<cidr>\d+)";

/// The groups that identify the client or its connection.
const IDENTIFYING: [&str; 5] = ["fid", "ip4", "ip6", "dns", "mlfid"];

/// The groups that hold an address or a host name.
pub const ADDRESSES: [&str; 3] = ["ip4", "ip6", "dns"];

/// The groups whose own repetitions keep their order: an address is always taken whole.
const REORDERED_AS_THEY_ARE: [&str; 5] = ["ip4", "ip6", "dns", "cidr", "fid"];

static TAG: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"</?[\w\-]+/?>"));
static INNER_FLAGS: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?<!\\)\((?:\?:)?(\(\?[a-z]+)\)"));
static COMPOSED: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"^(alt_|tuple_)(.*?)(?:_\d+)?$"));

/// The text of the named groups that took part in a match.
pub type Groups = BTreeMap<String, String>;

/// How many lines an expression sees at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    OneLine,
    /// The last lines (`maxlines`): `^` matches at the start of each.
    SeveralLines,
}

/// An expression of a filter.
#[derive(Debug)]
pub struct Expression {
    pattern: Pattern,
    /// Whether it asks for more than one line.
    spans_lines: bool,
    /// The groups of `<SKIPLINES>`, in order.
    skipped: Vec<usize>,
    /// The expression in the order [`Order::Shortest`].
    shortest: Pattern,
    /// The expression in the order [`Order::Longest`].
    longest: Pattern,
    /// Groups and the group that each of them replaces if that is empty: `alt_user` for `user`.
    alternatives: Vec<(usize, String)>,
    /// Groups and the group that each of them is appended to: `tuple_id` to `id`.
    joined: Vec<(usize, String)>,
}

impl Expression {
    /// Compiles an expression with fail2ban's tags. With `names_match`, `<HOST>` matches host names too, as it does unless `usedns = no`.
    ///
    /// # Errors
    /// The expression is invalid, or too large in another order.
    pub fn new(text: &str, names_match: bool, scope: Scope) -> Result<Self, PatternError> {
        let expanded = expand_tags(text, names_match);
        // Flags at the start of a group are meant for that group: ((?i)x) is (?i:x), as in fail2ban's `Regex.__init__`.
        let expanded = INNER_FLAGS.replace_all(&expanded, |group| format!("{}:", group(1)));
        let pattern = match scope {
            Scope::OneLine => Pattern::new(&expanded)?,
            Scope::SeveralLines => Pattern::multi_line(&expanded)?,
        };
        let spans_lines = contains_node(pattern.node(), &names_line_feed);
        let skipped = (0..).map_while(|number| pattern.group(&format!("skiplines{number}"))).collect();
        let mut alternatives = Vec::new();
        let mut joined = Vec::new();
        let mut named: Vec<(&str, usize)> =
            pattern.names().iter().enumerate().filter_map(|(group, name)| Some((name.as_deref()?, group))).collect();
        named.sort_unstable();
        for (name, group) in named {
            let MatchResult::Match(parts) = COMPOSED.search(name, 0) else { continue };
            let part = |number| parts.group(number).and_then(|(start, end)| name.get(start..end)).unwrap_or_default();
            let target = (group, group_name(part(2)));
            if part(1) == "alt_" { &mut alternatives } else { &mut joined }.push(target);
        }
        // A prefregex describes the header of a line, which no client writes.
        let quotes_hold_anything = pattern.group("content").is_none();
        let reordered = |order| pattern.reordered(order, &REORDERED_AS_THEY_ARE, quotes_hold_anything);
        let (shortest, longest) = (reordered(Order::Shortest)?, reordered(Order::Longest)?);
        Ok(Self { pattern, spans_lines, skipped, shortest, longest, alternatives, joined })
    }

    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// The expression with its matches in another order, the groups that identify the client as they are.
    #[must_use]
    pub fn reordered(&self, order: Order) -> &Pattern {
        match order {
            Order::Shortest => &self.shortest,
            Order::Longest => &self.longest,
        }
    }

    /// Whether the expression asks for more than one line: it has `<SKIPLINES>` or names a line feed. A set such as `[^,]` that happens to
    /// hold the line feed is meant for one line, and would join the lines of different clients.
    #[must_use]
    pub fn spans_lines(&self) -> bool {
        self.spans_lines
    }

    /// Whether it joins lines that may be of different clients: no back-reference ties them together.
    #[must_use]
    pub fn joins_unrelated_lines(&self) -> bool {
        self.spans_lines && !contains_node(self.pattern.node(), &|node| matches!(node, Node::Backreference(_)))
    }

    /// The bytes that `<SKIPLINES>` skipped in a match.
    pub fn skipped(&self, spans: &Spans) -> Vec<(usize, usize)> {
        self.skipped.iter().filter_map(|group| spans.group(*group)).collect()
    }

    /// Whether a match can identify the client to blame, or the connection that the line belongs to.
    #[must_use]
    pub fn identifies_client(&self) -> bool {
        IDENTIFYING.iter().any(|name| self.pattern.group(name).is_some())
    }

    /// The groups of a match that took part.
    #[must_use]
    pub fn groups(&self, text: &str, spans: &Spans) -> Groups {
        let mut groups = Groups::new();
        for (group, name) in self.pattern.names().iter().enumerate() {
            if let Some(name) = name
                && let Some(part) = spans.group(group).and_then(|(start, end)| text.get(start..end))
            {
                groups.insert(name.clone(), part.to_owned());
            }
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
        groups
    }

    /// Adds the groups of a match to those of the prefregex.
    ///
    /// A group that took no part overrides nothing, as in fail2ban 1.1 (`findFailure`). An address does override the address of the other
    /// family, which fail2ban 1.1 would prefer.
    pub fn add_to(&self, groups: &mut Groups, found: Groups) {
        if ADDRESSES.iter().any(|name| found.contains_key(*name)) {
            for name in ADDRESSES.iter().chain(["cidr"].iter()).filter(|name| self.pattern.group(name).is_some()) {
                groups.remove(*name);
            }
        }
        groups.extend(found);
    }
}

/// Whether a node names a line feed, or matches any character whatever.
fn names_line_feed(node: &Node) -> bool {
    match node {
        Node::Literal('\n') | Node::Any { newline: true } => true,
        Node::Class(class) => !class.negated && class.items.contains(&ClassItem::Range('\n', '\n')),
        _ => false,
    }
}

/// The group name of a tag `<F-NAME>`: lower case, but for two tags that fail2ban maps to names of its own.
fn group_name(name: &str) -> String {
    match name.to_lowercase().as_str() {
        "id" => "fid".to_owned(),
        "port" => "fport".to_owned(),
        other => other.to_owned(),
    }
}

/// Replaces fail2ban's tags by the expressions that they stand for: fail2ban's `Regex._resolveHostTag`.
fn expand_tags(text: &str, names_match: bool) -> String {
    let address = format!(r"\[?(?:{IP4}|{IP6})\]?");
    let subnet = format!(r"\[?(?:{IP4}|{IP6})(?:/{CIDR})?\]?");
    let opened = std::cell::RefCell::new(BTreeSet::new());
    let skips = std::cell::Cell::new(0);
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
            "SKIPLINES" => {
                let number = skips.replace(skips.get() + 1);
                format!(r"\n(?P<skiplines{number}>(?:(?:.*\n)*?))")
            }
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
                        format!("(?P<{}>", group_name(custom))
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
        let expression = Expression::new(expression, true, Scope::OneLine).expect(expression);
        let MatchResult::Match(spans) = expression.pattern().search(text, 0) else { return None };
        Some(expression.groups(text, &spans))
    }

    fn pairs(expression: &str, text: &str) -> Vec<(String, String)> {
        groups(expression, text).expect("a match").into_iter().collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn host_matches_an_address_or_a_name() {
        assert_eq!(pairs("^<HOST>$", "192.0.2.1"), owned(&[("ip4", "192.0.2.1")]));
        assert_eq!(pairs("^<HOST>$", "[2001:db8::1]"), owned(&[("ip6", "2001:db8::1")]));
        assert_eq!(pairs("^<HOST>$", "::ffff:192.0.2.1"), owned(&[("ip4", "192.0.2.1")]));
        assert_eq!(pairs("^<HOST>$", "a.example"), owned(&[("dns", "a.example")]));
        assert_eq!(groups("^<ADDR>$", "a.example"), None);
        assert_eq!(pairs("^<SUBNET>$", "192.0.2.0/24"), owned(&[("cidr", "24"), ("ip4", "192.0.2.0")]));
        let numeric = Expression::new("^<HOST>$", false, Scope::OneLine).expect("compiles");
        assert_eq!(numeric.pattern().search("a.example", 0), MatchResult::No);
    }

    #[test]
    fn custom_tags_become_groups_and_unknown_tags_stay_text() {
        assert_eq!(pairs("^<F-USER>a+</F-USER> <F-ID>b</F-ID>$", "aa b"), owned(&[("fid", "b"), ("user", "aa")]));
        assert_eq!(pairs("^<F-ID/> <x></F-USER>$", "b <x></F-USER>"), owned(&[("fid", "b")]));
    }

    #[test]
    fn alt_groups_fill_empty_groups_and_tuple_groups_are_joined() {
        let all = pairs("^(?:<F-USER>a</F-USER>)?<F-ALT_USER>b</F-ALT_USER><F-TUPLE_ID>c</F-TUPLE_ID>$", "bc");
        assert!(all.contains(&("user".to_owned(), "b".to_owned())));
        assert!(all.contains(&("fid".to_owned(), ", c".to_owned())));
    }

    #[test]
    fn an_expression_spans_lines_if_it_names_a_line_feed() {
        let spans = |text: &str| Expression::new(text, true, Scope::SeveralLines).expect(text).spans_lines();
        assert!(spans(r"^a\n<HOST>$") && spans("^a<SKIPLINES><HOST>") && spans("(?s)^a.*<HOST>") && spans(r"^a[\r\n]+<HOST>"));
        assert!(!spans(r"^a[^,]+\s<HOST>\W*$") && !spans(r"^[^\n]+ <HOST>$"));
    }

    #[test]
    fn flags_at_the_start_of_a_group_apply_to_it_alone() {
        assert!(groups("^((?i)a)b<HOST>", "Ab1.2.3.4").is_some());
        assert!(groups("^((?i)a)b<HOST>", "AB1.2.3.4").is_none());
    }
}
