//! A date pattern compiled to a regular expression: fail2ban's `DateTemplate` and its subclasses.

use super::fields::moment;
use crate::fail2ban::regex::engine::boundary_until;
use crate::fail2ban::regex::{MatchResult, Pattern};
use jiff::tz::TimeZone;
use std::sync::LazyLock;

/// A pattern that finds a date in a line and reads it.
#[derive(Debug)]
pub struct DateTemplate {
    /// The name: two templates with the same one are the same.
    pub name: String,
    /// The pattern it was made from; none for Epoch and TAI64N.
    pub pattern: Option<String>,
    /// Whether it is anchored to the start or the end of the line.
    pub anchored: bool,
    /// Whether it is anchored to the start of the line.
    pub line_begin: bool,
    kind: TemplateKind,
    regex: Pattern,
}

/// How the matched text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TemplateKind {
    /// Groups named by the letters of `strptime`.
    Fields,
    /// Seconds since 1970 in a group. With `long`, more digits make it milliseconds or microseconds. With `anywhere`, the expression
    /// also matches the text that must precede the digits.
    Epoch { group: usize, long: bool, anywhere: bool },
    /// A TAI64N label: seconds in hexadecimal.
    Tai64n,
}

/// The place of a date in a line, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatePlace {
    /// Start of the whole match.
    pub start: usize,
    /// End of the whole match.
    pub end: usize,
    /// The part to cut out of the line; none if its group took no part.
    pub cut: Option<(usize, usize)>,
}

/// A match of a template.
#[derive(Debug)]
pub struct DateMatch {
    /// The place of the match.
    pub place: DatePlace,
    spans: crate::fail2ban::regex::Spans,
}

/// The fields of `strptime` and fail2ban's expressions for them (`timeRE` in `strptime.py`). `{years}` is replaced by [`Years`].
const FIELDS: [(&str, &str); 39] = [
    ("ExZ", r"(?P<Z>[A-Z](?:[A-Z]{2,4})?)"),
    ("Exz", r"(?P<z>(?:[A-Z](?:[A-Z]{2,4})?)?[+-][01]\d(?::?\d{2})?|[A-Z](?:[A-Z]{2,4})?)"),
    ("Exd", r"(?P<d>[1-2]\d|0[1-9]|3[0-1])"),
    ("Exm", r"(?P<m>0[1-9]|1[0-2])"),
    ("ExH", r"(?P<H>[0-1]\d|2[0-3])"),
    ("Exk", r" ?(?P<H>[0-1]?\d|2[0-3])"),
    ("Exl", r" ?(?P<I>1[0-2]|\d)"),
    ("ExM", r"(?P<M>[0-5]\d)"),
    ("ExS", r"(?P<S>[0-5]\d|6[0-1])"),
    ("ExY", r"(?P<Y>{years}\d)"),
    ("Exy", r"(?P<y>\d{2})"),
    ("%", "%"),
    ("d", r"(?P<d>[1-2]\d|[0 ]?[1-9]|3[0-1])"),
    ("f", r"(?P<f>[0-9]{1,6})"),
    ("H", r"(?P<H>[0-1]?\d|2[0-3])"),
    ("I", r"(?P<I>1[0-2]|0[1-9]|[1-9])"),
    ("G", r"(?P<G>\d\d\d\d)"),
    ("j", r"(?P<j>36[0-6]|3[0-5]\d|[1-2]\d\d|0[1-9]\d|00[1-9]|[1-9]\d|0[1-9]|[1-9])"),
    ("m", r"(?P<m>0?[1-9]|1[0-2])"),
    ("M", r"(?P<M>[0-5]?\d)"),
    ("S", r"(?P<S>[0-5]?\d|6[0-1])"),
    ("U", r"(?P<U>5[0-3]|[0-4]\d|\d)"),
    ("w", r"(?P<w>[0-6])"),
    ("u", r"(?P<u>[1-7])"),
    ("V", r"(?P<V>5[0-3]|0[1-9]|[1-4]\d|\d)"),
    ("y", r"(?P<y>\d\d)"),
    ("Y", r"(?P<Y>\d{4})"),
    ("z", r"(?P<z>Z|UTC|GMT|[+-][01]\d(?::?\d{2})?)"),
    ("A", "(?P<A>wednesday|thursday|saturday|tuesday|monday|friday|sunday)"),
    ("a", "(?P<a>mon|tue|wed|thu|fri|sat|sun)"),
    ("B", "(?P<B>september|february|november|december|january|october|august|march|april|june|july|may)"),
    ("b", "(?P<b>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"),
    ("p", "(?P<p>am|pm)"),
    ("Z", "(?P<Z>Z|[A-Z]{3,5})"),
    ("W", r"(?P<W>5[0-3]|[0-4]\d|\d)"),
    ("k", r" ?(?P<H>[0-2]?\d)"),
    ("l", r" ?(?P<I>1?\d)"),
    ("x", r"(?P<m>1[0-2]|0[1-9]|[1-9])/(?P<d>3[0-1]|[1-2]\d|0[1-9]|[1-9]| [1-9])/(?P<y>\d\d)"),
    ("X", r"(?P<H>2[0-3]|[0-1]\d|\d):(?P<M>[0-5]\d|\d):(?P<S>6[0-1]|[0-5]\d|\d)"),
];

/// The years that `%ExY` accepts, to the decade: from 2000 to three years from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Years {
    last: i32,
}

impl Years {
    /// The years for the current year `present`.
    #[must_use]
    pub fn until(present: i32) -> Self {
        Self { last: (present + 3).clamp(2000, 2099) }
    }

    fn expression(self) -> String {
        let digits: String = (200..=self.last / 10).filter_map(|three| char::from_digit(u32::try_from(three % 10).ok()?, 10)).collect();
        format!("20[{digits}]")
    }
}

/// Where a match may begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// At a word boundary.
    Word,
    /// At the start of the line, after up to two other characters.
    Line,
    /// Anywhere.
    Free,
}

// These expressions decide which boundaries a pattern gets. They are fail2ban's own (`datetemplate.py`), so that every pattern gets the same.
static GLOBAL_FLAGS: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?<!\\)\(\?[a-z]+\)"));
static GROUPED: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?<!(?:\(\?))(?<!\\)\((?!\?)"));
static NO_WORD_BEGIN: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"^\(*(?:\(\?\w+\))?(?:\^|\(*\*\*|\((?:\?:)?\^)"));
static NO_WORD_END: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?<!\\)(?:\$\)?|\\b|\\s|\*\*\)*)$"));
static STARS_BEGIN: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"^\(*(?:\(\?\w+\))?\(*\*\*"));
static STARS_END: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?<!\\)\*\*\)*$"));
static LINE_BEGIN: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"^(?:\(\?\w+\))?(?:\^|\((?:\?:)?\^(?!\|))"));
static LINE_END: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?<![\\\|])(?:\$\)?)$"));
static TO_GROUP: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"^((?:\(\?\w+\))?\^?(?:\(\?\w+\))?)(.*?)(\$?)$"));
static ALPHA: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?<!\%)\%[aAbBpc]"));
static EPOCH: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?i)(?<!\\)\{L?EPOCH\}"));

fn span(pattern: &Pattern, text: &str) -> Option<(usize, usize)> {
    match pattern.search(text, 0) {
        MatchResult::Match(spans) => spans.group(0),
        MatchResult::No | MatchResult::GaveUp => None,
    }
}

fn found(pattern: &Pattern, text: &str) -> bool {
    span(pattern, text).is_some()
}

/// A pattern without its line and word boundaries, for use inside another.
#[must_use]
pub fn unbound(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix("{UNB}").unwrap_or(pattern);
    let pattern = pattern.strip_prefix("{^LN-BEG}").unwrap_or(pattern);
    let pattern = pattern.strip_prefix(r"(^|\b|\W)").or_else(|| pattern.strip_prefix(r"(?:^|\b|\W)")).unwrap_or(pattern);
    pattern.strip_suffix(r"(?=\b|\W|$)").unwrap_or(pattern)
}

/// The number of groups that open before the first `{EPOCH}` of a pattern.
fn groups_before_epoch(pattern: &str) -> Result<usize, String> {
    let Some((start, end)) = span(&EPOCH, pattern) else { return Ok(0) };
    let part = |from, to| pattern.get(from..to).unwrap_or_default();
    let named = format!("{}(?P<strikeout_epoch>){}", part(0, start), EPOCH.replace_all(part(end, pattern.len()), |_| "()".to_owned()));
    let compiled = Pattern::new(&named).map_err(|error| format!("the date pattern {pattern:?}: {error}"))?;
    Ok(compiled.group("strikeout_epoch").map_or(0, |group| group.saturating_sub(1)))
}

const EPOCH_SECONDS: &str = r"\d{10,11}\b(?:\.\d{3,6})?";
const EPOCH_LONG: &str = r"\d{10,11}(?:\d{3}(?:\.\d{1,6}|\d{3})?)?";

impl DateTemplate {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What was found in the pattern, and what was expected.
    pub fn new(pattern: &str, years: Years) -> Result<Self, String> {
        let key = if pattern.contains('%') { pattern.to_owned() } else { pattern.to_uppercase() };
        let plain = key.strip_prefix("{^LN-BEG}").or_else(|| key.strip_prefix('^')).unwrap_or(&key);
        let bound = plain.len() < key.len();
        if key.contains("EPOCH") && found(&EPOCH, pattern) {
            return Self::epoch_inside(pattern, key.contains("LEPOCH"));
        }
        match plain {
            "EPOCH" => Self::epoch(bound, false),
            "LEPOCH" => Self::epoch(bound, true),
            "TAI64N" => Self::build(
                "TAI64N".to_owned(),
                None,
                TemplateKind::Tai64n,
                "@[0-9a-f]{24}",
                if bound { Begin::Line } else { Begin::Free },
                true,
            ),
            _ => Self::fields(pattern, years),
        }
    }

    fn epoch_inside(pattern: &str, long: bool) -> Result<Self, String> {
        let digits = format!("({})", if long { EPOCH_LONG } else { EPOCH_SECONDS });
        let mut regex = EPOCH.replace_all(pattern, |_| digits.clone());
        // Where the pattern has a group, only that is cut out of the line (since fail2ban 1.1). fail2ban reads group 2 whatever it is.
        let is_grouped = found(&GROUPED, pattern);
        let group = groups_before_epoch(pattern)? + if is_grouped { 1 } else { 2 };
        if !is_grouped {
            regex = format!("({regex})");
        }
        Self::build(pattern.to_owned(), None, TemplateKind::Epoch { group, long, anywhere: false }, &regex, Begin::Word, true)
    }

    fn epoch(bound: bool, long: bool) -> Result<Self, String> {
        let digits = if long { EPOCH_LONG } else { EPOCH_SECONDS };
        let name = if long { "LongEpoch" } else { "Epoch" }.to_owned();
        if bound {
            // fail2ban's optional lookbehind for `[` never decides anything.
            return Self::build(
                name,
                None,
                TemplateKind::Epoch { group: 1, long, anywhere: false },
                &format!("({digits})"),
                Begin::Line,
                true,
            );
        }
        // At the start, after a `[` there, or after `audit(`. fail2ban's closing conditions never decide anything.
        let regex = format!(r"(?:^\[?|\baudit\()({digits})");
        let mut template = Self::build(name, None, TemplateKind::Epoch { group: 1, long, anywhere: true }, &regex, Begin::Free, true)?;
        template.line_begin = false;
        template.anchored = false;
        Ok(template)
    }

    fn fields(pattern: &str, years: Years) -> Result<Self, String> {
        let mut begin = Begin::Word;
        let mut word_end = true;
        let mut rest = pattern;
        if let Some(free) = rest.strip_prefix("{UNB}") {
            rest = free;
            begin = Begin::Free;
            word_end = false;
        } else if let Some(bound) = rest.strip_prefix("{^LN-BEG}") {
            rest = bound;
            begin = Begin::Line;
        }
        let name = rest.to_owned();
        let mut regex = String::new();
        let century = years.expression();
        while let Some((before, after)) = rest.split_once('%') {
            regex.push_str(before);
            if let Some(after) = after.strip_prefix('c') {
                regex.push_str(
                    r"(?P<a>mon|tue|wed|thu|fri|sat|sun)\s+(?P<b>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\s+(?P<d>3[0-1]|[1-2]\d|0[1-9]|[1-9]| [1-9])\s+(?P<H>2[0-3]|[0-1]\d|\d):(?P<M>[0-5]\d|\d):(?P<S>6[0-1]|[0-5]\d|\d)\s+(?P<Y>\d\d\d\d)",
                );
                rest = after;
                continue;
            }
            let Some((letter, expression)) = FIELDS.iter().find(|(letter, _)| after.starts_with(letter)) else {
                let shown: String = after.chars().take(3).collect();
                return Err(format!(
                    "found \"%{shown}\" in the date pattern {pattern:?}, expected a field of strptime, or \"%%\" for a percent sign"
                ));
            };
            regex.push_str(&expression.replace("{years}", &century));
            rest = after.get(letter.len()..).unwrap_or_default();
        }
        regex.push_str(rest);
        if found(&ALPHA, pattern) {
            regex.insert_str(0, "(?iu)");
        }
        Self::build(name, Some(pattern.to_owned()), TemplateKind::Fields, &regex, begin, word_end)
    }

    /// Adds a group and boundaries where the pattern has none: fail2ban's `DateTemplate.setRegex`.
    fn build(name: String, pattern: Option<String>, kind: TemplateKind, regex: &str, begin: Begin, word_end: bool) -> Result<Self, String> {
        let mut name = name;
        let mut regex = regex.trim().to_owned();
        let flags = span(&GLOBAL_FLAGS, &regex).and_then(|(start, end)| {
            let flags = regex.get(start..end)?.to_owned();
            regex.replace_range(start..end, "");
            Some(flags)
        });
        let bound_begin = begin != Begin::Free && !found(&NO_WORD_BEGIN, &regex);
        let bound_end = word_end && !found(&NO_WORD_END, &regex);
        if !found(&GROUPED, &regex)
            && let MatchResult::Match(parts) = TO_GROUP.search(&regex, 0)
        {
            let part = |group| parts.group(group).and_then(|(start, end)| regex.get(start..end)).unwrap_or_default();
            regex = format!("{}({}){}", part(1), part(2), part(3));
        }
        let mut line_begin = false;
        if bound_begin {
            if begin == Begin::Line {
                line_begin = true;
                regex.insert_str(0, r"^(?:\W{0,2})?");
                name.insert_str(0, "{^LN-BEG}");
            } else {
                regex.insert_str(0, r"(?=^|\b|\W)");
            }
        }
        if bound_end {
            regex.push_str(r"(?=\b|\W|$)");
        }
        line_begin = line_begin || found(&LINE_BEGIN, &regex);
        let line_end = found(&LINE_END, &regex);
        for stars in [&STARS_BEGIN, &STARS_END] {
            if let Some((start, end)) = span(stars, &regex) {
                let without = regex.get(start..end).unwrap_or_default().replace("**", "");
                regex.replace_range(start..end, &without);
            }
        }
        if let Some(flags) = flags {
            regex.insert_str(0, &flags);
        }
        let compiled =
            Pattern::new(&regex).map_err(|error| format!("the date pattern {:?}: {error}", pattern.as_deref().unwrap_or(&name)))?;
        Ok(Self { name, pattern, anchored: line_begin || line_end, line_begin, kind, regex: compiled })
    }

    /// The first match in `line` that starts at byte `from` or later.
    #[must_use]
    pub fn find(&self, line: &str, from: usize) -> Option<DateMatch> {
        let anywhere = matches!(self.kind, TemplateKind::Epoch { anywhere: true, .. });
        // The match includes up to six bytes before the date: `audit(`.
        let mut at = if anywhere { boundary_until(line, from.saturating_sub(6)) } else { from };
        loop {
            let MatchResult::Match(spans) = self.regex.search(line, at) else { return None };
            let (mut start, end) = spans.group(0)?;
            let cut = spans.group(1);
            if anywhere {
                start = cut?.0;
                if start < from {
                    at = end.max(at + 1);
                    continue;
                }
            }
            return Some(DateMatch { place: DatePlace { start, end, cut }, spans });
        }
    }

    /// The time of a match, in seconds since 1970; none if there is no such date.
    #[must_use]
    pub fn time(&self, line: &str, found: &DateMatch, now: f64, local: &TimeZone, default_offset: Option<i32>) -> Option<f64> {
        let text = |group| found.spans.group(group).and_then(|(start, end)| line.get(start..end));
        match self.kind {
            TemplateKind::Fields => {
                let fields = self.regex.names().iter().enumerate().filter_map(|(group, name)| Some((name.as_deref()?, text(group)?)));
                moment(fields, now, local, default_offset)
            }
            TemplateKind::Epoch { group, long, .. } => {
                let digits = text(group)?;
                let value: f64 = digits.parse().ok()?;
                Some(if long && digits.len() >= 16 && !digits.contains('.') {
                    value / 1_000_000.0
                } else if long && digits.len() >= 13 {
                    value / 1000.0
                } else {
                    value
                })
            }
            TemplateKind::Tai64n => {
                let digits = text(1)?.get(2..17)?;
                #[expect(clippy::cast_precision_loss, reason = "an f64 counts the seconds of this century exactly")]
                Some(u64::from_str_radix(digits, 16).ok()? as f64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(pattern: &str) -> DateTemplate {
        DateTemplate::new(pattern, Years::until(2026)).expect(pattern)
    }

    #[test]
    fn boundaries_are_added_where_fail2ban_adds_them() {
        for (pattern, expected, anchored) in [
            ("%H", r"(?=^|\b|\W)((?P<H>[0-1]?\d|2[0-3]))(?=\b|\W|$)", false),
            ("{^LN-BEG}%H", r"^(?:\W{0,2})?((?P<H>[0-1]?\d|2[0-3]))(?=\b|\W|$)", true),
            ("^%H", r"^((?P<H>[0-1]?\d|2[0-3]))(?=\b|\W|$)", true),
            ("{UNB}%H", r"((?P<H>[0-1]?\d|2[0-3]))", false),
            ("**%H**", r"((?P<H>[0-1]?\d|2[0-3]))", false),
            ("%H$", r"(?=^|\b|\W)((?P<H>[0-1]?\d|2[0-3]))$", true),
            ("^x (%H)", r"^x ((?P<H>[0-1]?\d|2[0-3]))(?=\b|\W|$)", true),
            ("%b", r"(?iu)(?=^|\b|\W)((?P<b>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))(?=\b|\W|$)", false),
            ("%ExY", r"(?=^|\b|\W)((?P<Y>20[012]\d))(?=\b|\W|$)", false),
            ("{UNB}^", r"^()", true),
            ("{^LN-BEG}TAI64N", r"^(?:\W{0,2})?(@[0-9a-f]{24})(?=\b|\W|$)", true),
            ("^ts={EPOCH} x", r"(^ts=(\d{10,11}\b(?:\.\d{3,6})?) x)(?=\b|\W|$)", true),
        ] {
            let built = template(pattern);
            assert_eq!(built.regex.text(), expected, "{pattern}");
            assert_eq!(built.anchored, anchored, "{pattern}");
        }
    }

    #[test]
    fn an_epoch_is_found_at_the_start_or_after_audit() {
        let epoch = template("EPOCH");
        for (line, start) in [("1369098112 x", 0), ("[1369098112.123] x", 1), ("type=X msg=audit(1369098112.123:4): x", 17)] {
            let found = epoch.find(line, 0).expect(line);
            assert_eq!(found.place.start, start, "{line}");
            assert_eq!(epoch.find(line, start).expect(line).place.start, start, "{line}");
            assert_eq!(epoch.time(line, &found, 0.0, &TimeZone::UTC, None).expect(line).floor(), 1_369_098_112.0);
        }
        assert!(epoch.find("x 1369098112", 0).is_none());
        assert!(epoch.find("136909811", 0).is_none());
        let long = template("{^LN-BEG}LEPOCH");
        let found = long.find("1369098112123 x", 0).expect("found");
        assert_eq!(long.time("1369098112123 x", &found, 0.0, &TimeZone::UTC, None), Some(1_369_098_112.123));
    }

    #[test]
    fn only_the_group_of_a_pattern_with_a_group_is_cut_out() {
        let line = "type=USER msg=audit(1369098112.123:55): x";
        for (pattern, cut) in [
            (r"^type=\S+ msg=audit\(({EPOCH})", "1369098112.123"),
            (r"^type=\S+ msg=(audit\({LEPOCH})", "audit(1369098112"),
            (r"^type=\S+ msg=audit\({EPOCH}", "type=USER msg=audit(1369098112.123"),
            (r"^type=(?:USER|X) msg=audit\({EPOCH}", "type=USER msg=audit(1369098112.123"),
            (r"^(type)=(\S+) msg=audit\({EPOCH}", "type"),
        ] {
            let template = template(pattern);
            let found = template.find(line, 0).expect(pattern);
            let (start, end) = found.place.cut.expect(pattern);
            assert_eq!(&line[start..end], cut, "{pattern}");
            let time = template.time(line, &found, 0.0, &TimeZone::UTC, None).expect(pattern);
            assert_eq!(time.floor(), 1_369_098_112.0, "{pattern}");
        }
    }

    #[test]
    fn a_tai64n_label_is_hexadecimal() {
        let tai = template("TAI64N");
        let line = "@4000000050d0b5d50d0b5d50 x";
        let found = tai.find(line, 0).expect("found");
        assert_eq!(tai.time(line, &found, 0.0, &TimeZone::UTC, None), Some(1_355_855_317.0));
    }

    #[test]
    fn an_unknown_field_is_an_error_that_names_it() {
        let error = DateTemplate::new("%Y %q", Years::until(2026)).expect_err("no field");
        assert_eq!(error, "found \"%q\" in the date pattern \"%Y %q\", expected a field of strptime, or \"%%\" for a percent sign");
    }

    #[test]
    fn the_expressions_of_this_file_compile() {
        for (letter, expression) in FIELDS {
            Pattern::new(&expression.replace("{years}", "20[0]")).expect(letter);
        }
        for pattern in [
            &GLOBAL_FLAGS,
            &GROUPED,
            &NO_WORD_BEGIN,
            &NO_WORD_END,
            &STARS_BEGIN,
            &STARS_END,
            &LINE_BEGIN,
            &LINE_END,
            &TO_GROUP,
            &ALPHA,
            &EPOCH,
        ] {
            assert!(!pattern.text().is_empty());
        }
    }
}
