//! Tries many templates on the lines of one log, and remembers the place of the last date: fail2ban's `DateDetector`.

use super::template::{DateMatch, DateTemplate, Years, unbound};
use crate::fail2ban::regex::Pattern;
use jiff::tz::TimeZone;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZero;
use std::sync::{Arc, LazyLock};

/// How long a template must be unused, in seconds, before another takes its place: fail2ban's `__unusedTime`.
const UNUSED_TIME: f64 = 300.0;

/// The distance of a template that has not matched yet: greater than any real one.
const FAR: usize = 0x7fff_ffff;

/// fail2ban's default patterns. Each is tried at the start of a line before it is tried elsewhere.
const DEFAULTS: [&str; 17] = [
    // 2005-01-23T21:59:59.981746+0100, 2005/01/23 21:59:59, 2006.12.21 06:43:20
    r"%ExY(?P<_sep>[-/.])%m(?P=_sep)%d(?:T|  ?)%H:%M:%S(?:[.,]%f)?(?:\s*%z)?",
    // Sun Jan 23 21:59:59.011 2005
    r"(?:%a )?%b %d %k:%M:%S(?:\.%f)?(?: %ExY)?",
    // Sun Jan 23 2005 21:59:59.011
    r"(?:%a )?%b %d %ExY %k:%M:%S(?:\.%f)?",
    // 23/01/2005 21:59:59, 23-01-05 21:59:59
    r"%d(?P<_sep>[-/])%m(?P=_sep)(?:%ExY|%Exy) %k:%M:%S",
    // 31/Oct/2006:09:22:55 -0000, 26-Jul-2007 15:20:52.252
    r"%d(?P<_sep>[-/])%b(?P=_sep)%ExY[ :]?%H:%M:%S(?:\.%f)?(?: %z)?",
    // 05/20/2008:01:57:39
    r"%m/%d/%ExY:%H:%M:%S",
    // 01-27-2012 16:22:44.252
    r"%m-%d-%ExY %k:%M:%S(?:\.%f)?",
    "EPOCH",
    r"{^LN-BEG}%H:%M:%S",
    // <09/16/08@05:03:30>
    r"^<%m/%d/%Exy@%H:%M:%S>",
    // 130322 11:46:11
    r"%Exy%Exm%Exd  ?%H:%M:%S",
    // Apr 27, 2013 02:33:06 PM
    r"%b %d, %ExY %I:%M:%S %p",
    // Apr-27-13 02:33:06
    r"^%b-%d-%Exy %k:%M:%S",
    // 20050123T215959, 20050123 21:59:59, 20050123-21:59:59; the colons and the hyphen came with fail2ban 1.1
    r"%ExY%Exm%Exd(?:-|T|  ?)%ExH:?%ExM:?%ExS(?:[.,]%f)?(?:\s*%z)?",
    // PDT Apr 16 21:05:29
    r"(?:%Z )?(?:%a )?%b %d %k:%M:%S(?:\.%f)?(?: %ExY)?",
    // +00:00 Jan 23 21:59:59.011 2005
    r"(?:%z )?(?:%a )?%b %d %k:%M:%S(?:\.%f)?(?: %ExY)?",
    "TAI64N",
];

static DATE_TAG: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?i)(?<!\\)\{DATE\}"));

/// The templates of a filter, shared by the detectors of several logs.
#[derive(Debug, Clone)]
pub struct DatePatterns {
    /// Each template with its weight.
    templates: Vec<(Arc<DateTemplate>, f64)>,
}

impl DatePatterns {
    /// The templates of `datepattern`, one pattern per line; fail2ban's defaults without any.
    ///
    /// Compiling them takes longer than all the rest of a filter, and most filters have the same, so the last few are kept.
    ///
    /// # Errors
    /// What was found in a pattern, and what was expected.
    pub fn new(datepattern: Option<&str>, years: Years) -> Result<Self, String> {
        static COMPILED: LazyLock<Mutex<LruCache<(String, Years), DatePatterns>>> =
            LazyLock::new(|| Mutex::new(LruCache::new(NonZero::<usize>::MIN.saturating_add(15))));
        let key = (datepattern.unwrap_or_default().to_owned(), years);
        if let Some(known) = COMPILED.lock().get(&key) {
            return Ok(known.clone());
        }
        let compiled = Self::compile(datepattern, years)?;
        COMPILED.lock().put(key, compiled.clone());
        Ok(compiled)
    }

    fn compile(datepattern: Option<&str>, years: Years) -> Result<Self, String> {
        let mut all = Self { templates: Vec::new() };
        for pattern in datepattern.unwrap_or_default().lines().map(str::trim).filter(|pattern| !pattern.is_empty()) {
            let key = if pattern.contains('%') { pattern.to_owned() } else { pattern.to_uppercase() };
            match key.as_str() {
                "{^LN-BEG}" => all.add_defaults(years, true)?,
                // fail2ban adds nothing here either; without any other pattern it takes its defaults.
                "{DEFAULT}" => {}
                "{NONE}" => all.add(DateTemplate::new("{UNB}^", years)?, 1.0),
                _ if key.contains("{DATE}") => {
                    for default in DEFAULTS {
                        // Epoch and TAI64N have no pattern to insert: fail2ban inserts their names as text.
                        let inside = match default {
                            "EPOCH" => "Epoch",
                            pattern => unbound(pattern),
                        };
                        all.add(DateTemplate::new(&DATE_TAG.replace_all(pattern, |_| inside.to_owned()), years)?, 1.0);
                    }
                }
                _ => all.add(DateTemplate::new(pattern, years)?, 1.0),
            }
        }
        if all.templates.is_empty() {
            all.add_defaults(years, false)?;
        }
        Ok(all)
    }

    fn add(&mut self, template: DateTemplate, weight: f64) {
        if !self.templates.iter().any(|(known, _)| known.name == template.name) {
            self.templates.push((Arc::new(template), weight));
        }
    }

    fn add_defaults(&mut self, years: Years, only_line_begin: bool) -> Result<(), String> {
        let defaults = DEFAULTS.map(|pattern| DateTemplate::new(pattern, years));
        for template in &defaults {
            let template = template.as_ref().map_err(Clone::clone)?;
            if template.name.starts_with("{^LN-BEG}") || template.name.starts_with('^') {
                continue;
            }
            let bound = DateTemplate::new(&format!("{{^LN-BEG}}{}", template.pattern.as_ref().unwrap_or(&template.name)), years)?;
            if !only_line_begin || bound.line_begin {
                self.add(bound, 100.0);
            }
        }
        for template in defaults {
            let template = template?;
            if !only_line_begin || template.line_begin {
                self.add(template, 1.0);
            }
        }
        Ok(())
    }
}

/// The result of a search for the date of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DateInLine {
    /// No template matched.
    Absent,
    /// A template matched the empty text (`{NONE}`): the log has no dates.
    Empty,
    /// A template matched.
    Present {
        /// The bytes to cut out of the line.
        cut: (usize, usize),
        /// Seconds since 1970; none if there is no such date.
        time: Option<f64>,
    },
}

/// A template and how well it did so far: fail2ban's `DateDetectorTemplate`.
#[derive(Debug)]
struct RankedTemplate {
    template: Arc<DateTemplate>,
    weight: f64,
    /// Number of times its match was chosen.
    hits: u32,
    /// Number of its matches, chosen or not.
    matches: u32,
    last_used: f64,
    /// Start of its last chosen match in the line.
    distance: usize,
}

impl RankedTemplate {
    #[expect(clippy::cast_precision_loss, reason = "weights are only compared")]
    fn weight(&self) -> f64 {
        f64::from(self.hits) * self.weight / self.distance.max(1) as f64
    }

    fn find(&mut self, line: &str, from: usize) -> Option<DateMatch> {
        let found = self.template.find(line, from)?;
        self.matches = self.matches.saturating_add(1);
        Some(found)
    }
}

/// The place of the last date, and the characters on both sides of its ends.
#[derive(Debug, Clone, Copy)]
struct LastDate {
    rank: usize,
    start: usize,
    before_start: Option<char>,
    at_start: Option<char>,
    end: usize,
    before_end: Option<char>,
    at_end: Option<char>,
}

/// Finds the dates in the lines of one log.
#[derive(Debug)]
pub struct DateDetector {
    /// In the order in which they are tried.
    templates: Vec<RankedTemplate>,
    last: Option<LastDate>,
    /// Rank of the first template without a hit.
    first_unused: usize,
    local: TimeZone,
    default_offset: Option<i32>,
}

impl DateDetector {
    /// A detector before its first line. Dates without a zone are in `default_offset` (minutes) if given, else in `local`.
    #[must_use]
    pub fn new(patterns: &DatePatterns, local: TimeZone, default_offset: Option<i32>) -> Self {
        let templates = patterns
            .templates
            .iter()
            .map(|(template, weight)| RankedTemplate {
                template: Arc::clone(template),
                weight: *weight,
                hits: 0,
                matches: 0,
                last_used: 0.0,
                distance: FAR,
            })
            .collect();
        Self { templates, last: None, first_unused: 0, local, default_offset }
    }

    /// Finds the date in a line. `now` is in seconds since 1970.
    pub fn find(&mut self, line: &str, now: f64) -> DateInLine {
        let Some((rank, found)) = self.choose(line) else { return DateInLine::Absent };
        let Some(template) = self.templates.get(rank).map(|ranked| Arc::clone(&ranked.template)) else { return DateInLine::Absent };
        self.remember(rank, &found, line, now);
        match found.place.cut {
            Some(cut) if cut.0 < cut.1 => {
                DateInLine::Present { cut, time: template.time(line, &found, now, &self.local, self.default_offset) }
            }
            _ => DateInLine::Empty,
        }
    }

    /// The rank of the template whose match is taken, and the match.
    fn choose(&mut self, line: &str) -> Option<(usize, DateMatch)> {
        let count = self.templates.len();
        let mut fallback: Option<(usize, DateMatch)> = None;
        let mut tried = None;
        if let Some(last) = self.last
            && let Some(ranked) = self.templates.get_mut(last.rank)
        {
            let anchored = ranked.template.anchored;
            let found = if !anchored && last.looks_alike(line) {
                line.get(..last.end.min(line.len())).and_then(|part| ranked.find(part, last.start))
            } else {
                tried = Some(last.rank);
                ranked.find(line, 0)
            };
            if let Some(found) = found {
                if count == 1 || anchored || (found.place.start == last.start && found.place.end == last.end) {
                    return Some((last.rank, found));
                }
                fallback = Some((last.rank, found));
            }
        }
        let usual = self.last.map_or(1, |last| last.start);
        for rank in (0..count).filter(|rank| Some(*rank) != tried) {
            let next_is_new = self.templates.get(rank + 1).is_none_or(|next| next.matches == 0);
            let ranked = self.templates.get_mut(rank)?;
            let Some(found) = ranked.find(line, 0) else { continue };
            let start = found.place.start;
            let settled = rank + 1 >= count || ranked.template.anchored || (start == 0 && ranked.hits > 0 && next_is_new);
            if !settled && (start > ranked.distance || start > usual) {
                // Farther in than usual: it may be a date in the message. Another template may find one nearer to the start.
                if fallback.as_ref().is_none_or(|(_, other)| start < other.place.start) {
                    fallback = Some((rank, found));
                }
                continue;
            }
            return Some((rank, found));
        }
        fallback
    }

    fn remember(&mut self, rank: usize, found: &DateMatch, line: &str, now: f64) {
        let Some(ranked) = self.templates.get_mut(rank) else { return };
        let (start, end) = (found.place.start, found.place.end);
        ranked.hits = ranked.hits.saturating_add(1);
        ranked.last_used = now;
        ranked.distance = start;
        self.first_unused += usize::from(self.first_unused == rank);
        let rank = if rank > 0 && self.last.is_none_or(|last| last.rank != rank) { self.move_up(rank) } else { rank };
        self.last = Some(LastDate {
            rank,
            start,
            before_start: before(line, start),
            at_start: at(line, start),
            end,
            before_end: if end == 0 { line.chars().next_back() } else { before(line, end) },
            at_end: at(line, end),
        });
    }

    /// Moves a template that had a hit towards the front, and returns its new rank: fail2ban's `_reorderTemplate`.
    fn move_up(&mut self, rank: usize) -> usize {
        let Some((weight, last_used)) = self.templates.get(rank).map(|ranked| (ranked.weight(), ranked.last_used)) else { return rank };
        let moves_to = |templates: &[RankedTemplate], target: usize| {
            templates.get(target).is_some_and(|other| weight > other.weight() || last_used - UNUSED_TIME > other.last_used)
        };
        let mut target = if self.first_unused < rank { self.first_unused } else { rank / 2 };
        if !moves_to(&self.templates, target) {
            if target + 1 == rank {
                return rank;
            }
            target = rank - 1;
            if !moves_to(&self.templates, target) {
                return rank;
            }
        }
        let ranked = self.templates.remove(rank);
        self.templates.insert(target, ranked);
        while self.templates.get(self.first_unused).is_some_and(|ranked| ranked.hits > 0) {
            self.first_unused += 1;
        }
        target
    }
}

impl LastDate {
    /// Whether the characters at both ends of the last date's place are the same in this line.
    fn looks_alike(&self, line: &str) -> bool {
        let solid = |character: Option<char>| character.is_some_and(|c| !c.is_alphanumeric());
        if !line.is_char_boundary(self.start.min(line.len())) || !line.is_char_boundary(self.end.min(line.len())) {
            return false;
        }
        let start = before(line, self.start) == self.before_start || (at(line, self.start) == self.at_start && solid(self.at_start));
        let end = at(line, self.end) == self.at_end || (before(line, self.end) == self.before_end && solid(self.before_end));
        start && end
    }
}

/// The character that ends at byte `place`.
fn before(line: &str, place: usize) -> Option<char> {
    line.get(..place)?.chars().next_back()
}

/// The character that starts at byte `place`.
fn at(line: &str, place: usize) -> Option<char> {
    line.get(place..)?.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2013-05-21 01:02:52 UTC, a minute after the dates in the lines.
    const NOW: f64 = 1_369_098_172.0;

    fn detector(datepattern: Option<&str>) -> DateDetector {
        DateDetector::new(&DatePatterns::new(datepattern, Years::until(2026)).expect("patterns"), TimeZone::UTC, None)
    }

    fn time(found: DateInLine) -> Option<f64> {
        match found {
            DateInLine::Present { time, .. } => time,
            DateInLine::Absent | DateInLine::Empty => None,
        }
    }

    #[test]
    fn the_usual_formats_are_read() {
        for line in [
            "2013-05-21T01:01:52.981746 host",
            "2013-05-21 03:01:52 +0200 host",
            "2013/05/21 01:01:52 host",
            "2013.05.21 01:01:52 host",
            "May 21 01:01:52 host",
            "Tue May 21 01:01:52.011 2013 x",
            "Tue May 21 2013 01:01:52 x",
            "21/05/2013 01:01:52 x",
            "21-05-13 01:01:52 x",
            "1.2.3.4 - - [21/May/2013:03:01:52 +0200] \"GET /\"",
            "21-May-2013 01:01:52.252 x",
            "05/21/2013:01:01:52 x",
            "05-21-2013 01:01:52.252 x",
            "1369098112 x",
            "1369098112.003   1 1.2.3.4 TCP_DENIED/403",
            "type=USER msg=audit(1369098112.003:4): x",
            "01:01:52 x",
            "<05/21/13@01:01:52> x",
            "130521  1:01:52 x",
            "May 21, 2013 1:01:52 AM x",
            "May-21-13 01:01:52 x",
            "20130521T010152 x",
            "20130521 01:01:52 x",
            "20130521-01:01:52 x",
            "20130521  010152.003 +0000 x",
            "PDT May 20 18:01:52 x",
            "+02:00 May 21 03:01:52.011 2013 x",
            "@40000000519ac78000000000 x",
        ] {
            let found = time(detector(None).find(line, NOW)).map(f64::floor);
            assert!(found == Some(1_369_098_112.0), "{line}: {found:?}");
        }
    }

    #[test]
    fn a_date_in_the_message_does_not_replace_the_one_at_the_start() {
        let mut detector = detector(None);
        assert_eq!(time(detector.find("May 21 01:01:52 host x", NOW)), Some(1_369_098_112.0));
        assert_eq!(time(detector.find("May 21 01:01:53 host 2012-01-01 00:00:00", NOW)), Some(1_369_098_113.0));
    }

    #[test]
    fn the_pattern_none_means_that_lines_have_no_dates() {
        assert_eq!(detector(Some("{NONE}")).find("May 21 01:01:52 x", NOW), DateInLine::Empty);
        assert_eq!(detector(Some("%Y")).find("x", NOW), DateInLine::Absent);
    }

    #[test]
    fn date_in_a_pattern_stands_for_every_format() {
        let mut detector = detector(Some(r"^[^\[]*\[({DATE})"));
        let DateInLine::Present { cut, time } = detector.find("x [Tue May 21 01:01:52 2013] y", NOW) else { panic!("no date") };
        assert_eq!((cut, time), ((3, 27), Some(1_369_098_112.0)));
    }

    #[test]
    fn several_patterns_are_tried_in_order() {
        let mut detector = detector(Some("^%Y-%m-%d\n{^LN-BEG}"));
        assert_eq!(time(detector.find("2013-05-21 01:01:52 x", NOW)), Some(1_369_094_400.0));
        assert_eq!(time(detector.find("May 21 01:01:52 x", NOW)), Some(1_369_098_112.0));
    }

    #[test]
    fn no_line_makes_the_detector_panic() {
        let mut detector = detector(None);
        for line in ["", "ü", "May 21 01:01:52 x", "üüüüüüüüüüü", "ü", "\u{0}", "99999999999", "May 31 99:99:99", "Feb 30 01:01:01 x"]
        {
            let _ = detector.find(line, NOW);
            let _ = detector.find(line, f64::NAN);
        }
    }
}
