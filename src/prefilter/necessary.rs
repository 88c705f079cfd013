//! What every text that a pattern matches is certain to hold.

use std::collections::{BTreeMap, BTreeSet};

use regex_syntax::ParserBuilder;
use regex_syntax::hir::literal::{ExtractKind, Extractor, Seq};
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir, HirKind, Literal, Look, Repetition};

use super::seen::{Field, Seen};
use super::{cost, hiding, posix};

/// A part of a text is taken in place of its beginning if it is so many times cheaper: texts that begin alike share their beginning.
const WORTH_MOVING: f64 = 1.5;
/// Maximum number of parts of a pattern that are looked at together.
const WINDOW: usize = 16;

/// Texts and expressions of which each match of a pattern holds at least one, with the estimated microseconds that each costs a request. None
/// of either is for a pattern whose matches are asked about in any case.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Needs {
    /// In lower case, not empty.
    pub texts: BTreeMap<Vec<u8>, f64>,
    /// POSIX extended expressions without anchors.
    pub expressions: BTreeMap<String, f64>,
    /// Texts of the host that stand for texts of the URL; in lower case, not empty.
    pub hosts: BTreeSet<Vec<u8>>,
}

impl Needs {
    pub fn add(&mut self, other: Self) {
        self.texts.extend(other.texts);
        self.expressions.extend(other.expressions);
        self.hosts.extend(other.hosts);
    }

    /// Estimated microseconds for each request.
    pub fn cost(&self) -> f64 {
        self.texts.values().chain(self.expressions.values()).sum()
    }
}

/// What Squid sees whenever `pattern` matches `field`; `None` if there is nothing that it is certain to see.
pub(super) fn of(pattern: &str, field: Field) -> Option<Needs> {
    // As in `crate::rule::automaton`.
    let hir = ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern).ok()?;
    // An empty query may have no question mark before it.
    let is_first = hir.properties().minimum_len().is_some_and(|length| length > 0);
    Search::new(field).best_or_translated(&Folding { field }.fold(&hir, is_first))
}

fn cheaper(one: Option<Needs>, other: Option<Needs>) -> Option<Needs> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.cost() < one.cost() { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// Simplifies a pattern.
struct Folding {
    field: Field,
}

impl Folding {
    /// The same pattern for texts in lower case, without groups and look-around: it matches at least the lower-case form of whatever `hir`
    /// matches, except in URLs that are asked about in any case.
    ///
    /// `is_first`: a match begins with this part. At the beginning of a query, a match has a question mark before it, which is then part of it:
    /// unlike the digits of an escape, it is certain to be seen.
    fn fold(&self, hir: &Hir, is_first: bool) -> Hir {
        match hir.kind() {
            HirKind::Look(Look::Start) if is_first && self.field == Field::Query => Hir::literal(*b"?"),
            HirKind::Empty | HirKind::Look(_) => Hir::empty(),
            HirKind::Literal(Literal(bytes)) if bytes.iter().all(|byte| self.is_possible(*byte)) => {
                Hir::literal(bytes.to_ascii_lowercase())
            }
            HirKind::Literal(_) => Hir::fail(),
            HirKind::Class(Class::Bytes(class)) => self.lower(class),
            HirKind::Class(Class::Unicode(class)) => match class.to_byte_class() {
                Some(class) => self.lower(&class),
                // A character may be several bytes.
                None => {
                    let any = ClassBytes::new([ClassBytesRange::new(0, u8::MAX)]);
                    Hir::repetition(Repetition { min: 1, max: Some(4), greedy: true, sub: Box::new(self.lower(&any)) })
                }
            },
            // A second time, it would not be first.
            HirKind::Repetition(repetition) => match self.fold(&repetition.sub, is_first && repetition.max == Some(1)) {
                sub if is_fail(&sub) && repetition.min == 0 => Hir::empty(),
                sub if is_fail(&sub) => sub,
                sub if is_slash(&sub) && matches!(self.field, Field::Path | Field::Query) => slashes(repetition.min, sub),
                sub => Hir::repetition(repetition.with(sub)),
            },
            HirKind::Capture(capture) => self.fold(&capture.sub, is_first),
            HirKind::Concat(parts) => {
                let parts: Vec<Hir> = parts.iter().enumerate().map(|(number, part)| self.fold(part, is_first && number == 0)).collect();
                if parts.iter().any(is_fail) { Hir::fail() } else { Hir::concat(parts) }
            }
            HirKind::Alternation(branches) => {
                let branches = branches.iter().map(|branch| self.fold(branch, is_first)).filter(|branch| !is_fail(branch));
                Hir::alternation(branches.collect())
            }
        }
    }

    /// Whether a text in which `byte` matters may be in a request that is not asked about in any case. A zero byte in a path is an escape
    /// that Squid leaves as it is.
    fn is_possible(&self, byte: u8) -> bool {
        self.field == Field::Agent || !(byte == 0 || hiding::is_asked_about(byte))
    }

    fn lower(&self, class: &ClassBytes) -> Hir {
        let bytes = class.iter().flat_map(|range| range.start()..=range.end()).filter(|byte| self.is_possible(*byte));
        let bytes = bytes.map(|byte| byte.to_ascii_lowercase());
        Hir::class(Class::Bytes(ClassBytes::new(bytes.map(|byte| ClassBytesRange::new(byte, byte)))))
    }
}

/// Whether only a slash matches.
fn is_slash(hir: &Hir) -> bool {
    matches!(hir.kind(), HirKind::Literal(Literal(bytes)) if bytes.as_ref() == b"/")
}

/// A slash repeated `min` times or more, where Squid asks about two in a row.
fn slashes(min: u32, slash: Hir) -> Hir {
    match min {
        0 => Hir::repetition(Repetition { min: 0, max: Some(1), greedy: true, sub: Box::new(slash) }),
        1 => slash,
        _ => Hir::fail(),
    }
}

/// Whether nothing matches.
fn is_fail(hir: &Hir) -> bool {
    matches!(hir.kind(), HirKind::Class(class) if class.is_empty())
}

/// Looks for the cheapest texts in the parts of a pattern.
struct Search {
    field: Field,
    prefixes: Extractor,
    suffixes: Extractor,
}

impl Search {
    fn new(field: Field) -> Self {
        let extractor = |kind: ExtractKind| {
            let mut extractor = Extractor::new();
            extractor.kind(kind).limit_class(12).limit_repeat(4).limit_literal_len(16).limit_total(500);
            extractor
        };
        Self { field, prefixes: extractor(ExtractKind::Prefix), suffixes: extractor(ExtractKind::Suffix) }
    }

    /// Texts, or if that is cheaper, an expression.
    fn best_or_translated(&self, hir: &Hir) -> Option<Needs> {
        // A pattern over the whole URL may match in its scheme, or the slashes behind it, where the expressions do not look.
        let translated = (self.field != Field::Url).then(|| posix::translate(hir, self.field)).flatten();
        let translated = translated.map(|expression| Needs { expressions: BTreeMap::from([expression]), ..Needs::default() });
        cheaper(self.best(hir), translated)
    }

    fn best(&self, hir: &Hir) -> Option<Needs> {
        let whole = cheaper(self.needs(self.prefixes.extract(hir)), self.needs(self.suffixes.extract(hir)));
        let of_parts = match hir.kind() {
            HirKind::Repetition(repetition) if repetition.min > 0 => self.best(&repetition.sub),
            HirKind::Concat(parts) => {
                let from = |start: usize| {
                    let window: Vec<Hir> = parts.iter().skip(start).take(WINDOW).cloned().collect();
                    let inside = if window.len() > 1 { self.needs(self.prefixes.extract(&Hir::concat(window))) } else { None };
                    cheaper(inside, parts.get(start).and_then(|part| self.best(part)))
                };
                (0..parts.len()).map(from).fold(None, cheaper)
            }
            HirKind::Alternation(branches) => branches.iter().try_fold(Needs::default(), |mut all, branch| {
                all.add(self.best_or_translated(branch)?);
                Some(all)
            }),
            _ => None,
        };
        cheaper(whole, of_parts)
    }

    /// What Squid is certain to see of texts one of which is in every match.
    fn needs(&self, texts: Seq) -> Option<Needs> {
        let mut needs = Needs::default();
        for text in texts.literals()? {
            let text = match self.field.seen(text.as_bytes()) {
                Seen::Always => continue,
                Seen::Text(text) => text,
                Seen::PathOrHost { path, host } => {
                    needs.hosts.insert(self.shortened(&host));
                    path
                }
            };
            if text.is_empty() {
                return None;
            }
            let text = self.shortened(&text);
            let cost = cost::of_text(&text, self.field);
            needs.texts.insert(text, cost);
        }
        Some(needs)
    }

    /// The part of a text that is looked for.
    fn shortened(&self, text: &[u8]) -> Vec<u8> {
        let head = text.get(..cost::LONGEST).unwrap_or(text);
        let cost = |text: &&[u8]| cost::of_text(text, self.field);
        let cheapest = text.windows(cost::LONGEST).min_by(|one, other| cost(one).total_cmp(&cost(other))).unwrap_or(head);
        if cost(&cheapest) * WORTH_MOVING < cost(&head) { cheapest.to_vec() } else { head.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pattern: &str) -> Vec<String> {
        let needs = of(pattern, Field::Path).unwrap();
        assert!(needs.expressions.is_empty(), "{needs:?}");
        needs.texts.into_keys().map(|text| String::from_utf8(text).unwrap()).collect()
    }

    #[test]
    fn the_rarest_texts_of_a_pattern_are_taken() {
        assert_eq!(texts("(?i)^/+HNAP1(?:/|$)"), ["/hnap1"]);
        assert_eq!(texts(r"(?i)^/+(?:tm|hnd)unblock\.cgi$"), ["unblock"]);
        assert_eq!(texts(r"^/(?:.*/)?cmd\.exe$"), ["/cmd.ex"]);
        assert_eq!(texts("(?:/wls-wsat/|/_async/)x"), ["/_async", "/wls-ws"]);
    }

    #[test]
    fn a_pattern_that_only_disguised_urls_match_needs_nothing() {
        assert_eq!(of(r"[/\\]\.\.(?:;|%3b)[^/\\]*[/\\]", Field::Path).unwrap(), Needs::default());
    }

    #[test]
    fn nothing_is_certain_of_a_pattern_that_matches_anything() {
        for pattern in ["", ".*", "a*", "^", "(?:wp-login)?", "[^/]+"] {
            assert_eq!(of(pattern, Field::Path).filter(|needs| needs.cost() < cost::OF_ASKING / 2.0), None, "{pattern}");
        }
    }
}
