//! Many templates over the lines of one log: fail2ban's `DateDetector`, which remembers where the last date stood.

use super::template::{Found, Template, Years, unbound};
use crate::python_regex::Pattern;
use jiff::tz::TimeZone;
use std::sync::{Arc, LazyLock};

/// A template that was not used for this long (seconds) gives its place to another.
const UNUSED: f64 = 300.0;

/// A distance greater than any.
const FAR: usize = 0x7fff_ffff;

/// The forms that are tried where a filter names none; one starting a line is preferred to the same form elsewhere.
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
    // 20050123T215959
    r"%ExY%Exm%Exd(?:T|  ?)%ExH%ExM%ExS(?:[.,]%f)?(?:\s*%z)?",
    // PDT Apr 16 21:05:29
    r"(?:%Z )?(?:%a )?%b %d %k:%M:%S(?:\.%f)?(?: %ExY)?",
    // +00:00 Jan 23 21:59:59.011 2005
    r"(?:%z )?(?:%a )?%b %d %k:%M:%S(?:\.%f)?(?: %ExY)?",
    "TAI64N",
];

static DATE_TAG: LazyLock<Pattern> = LazyLock::new(|| Pattern::constant(r"(?i)(?<!\\)\{DATE\}"));

/// The templates of a filter, to be shared by the detectors of many logs.
#[derive(Debug, Clone)]
pub struct Patterns {
    templates: Vec<(Arc<Template>, f64)>,
}

impl Patterns {
    /// The templates of `datepattern`, one pattern a line; fail2ban's own if there is none.
    ///
    /// # Errors
    /// What is wrong with a pattern.
    pub fn new(datepattern: Option<&str>, years: Years) -> Result<Self, String> {
        let mut all = Self { templates: Vec::new() };
        for pattern in datepattern.unwrap_or_default().lines().map(str::trim).filter(|pattern| !pattern.is_empty()) {
            let key = if pattern.contains('%') { pattern.to_owned() } else { pattern.to_uppercase() };
            match key.as_str() {
                "{^LN-BEG}" => all.add_defaults(years, true)?,
                // fail2ban adds nothing here; without any other pattern its own are taken.
                "{DEFAULT}" => {}
                "{NONE}" => all.add(Template::new("{UNB}^", years)?, 1.0),
                _ if key.contains("{DATE}") => {
                    for default in DEFAULTS {
                        // Epoch and TAI64N have no pattern that could stand inside: fail2ban puts their names there.
                        let inside = match default {
                            "EPOCH" => "Epoch",
                            pattern => unbound(pattern),
                        };
                        all.add(Template::new(&DATE_TAG.replace_all(pattern, |_| inside.to_owned()), years)?, 1.0);
                    }
                }
                _ => all.add(Template::new(pattern, years)?, 1.0),
            }
        }
        if all.templates.is_empty() {
            all.add_defaults(years, false)?;
        }
        Ok(all)
    }

    fn add(&mut self, template: Template, weight: f64) {
        if !self.templates.iter().any(|(known, _)| known.name == template.name) {
            self.templates.push((Arc::new(template), weight));
        }
    }

    fn add_defaults(&mut self, years: Years, only_line_begin: bool) -> Result<(), String> {
        let defaults = DEFAULTS.map(|pattern| Template::new(pattern, years));
        for template in &defaults {
            let template = template.as_ref().map_err(Clone::clone)?;
            if template.name.starts_with("{^LN-BEG}") || template.name.starts_with('^') {
                continue;
            }
            let bound = Template::new(&format!("{{^LN-BEG}}{}", template.pattern.as_ref().unwrap_or(&template.name)), years)?;
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

/// What a detector found in a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DateInLine {
    /// No template matched.
    Absent,
    /// A template matched nothing at this place (`{NONE}`): the log has no dates.
    Empty,
    /// A template matched.
    Present {
        /// The bytes to cut out of the line.
        cut: (usize, usize),
        /// Seconds since 1970; nothing if there is no such date.
        moment: Option<f64>,
    },
}

#[derive(Debug)]
struct Slot {
    template: Arc<Template>,
    weight: f64,
    hits: u32,
    /// Matches of the template, whether it was chosen or not.
    matches: u32,
    last_used: f64,
    distance: usize,
}

impl Slot {
    #[expect(clippy::cast_precision_loss, reason = "a comparison of likelihoods")]
    fn weight(&self) -> f64 {
        f64::from(self.hits) * self.weight / self.distance.max(1) as f64
    }

    fn find(&mut self, line: &str, from: usize) -> Option<Found> {
        let found = self.template.find(line, from)?;
        self.matches = self.matches.saturating_add(1);
        Some(found)
    }
}

/// Where the last date stood, and the characters on both sides of its ends.
#[derive(Debug, Clone, Copy)]
struct LastPlace {
    slot: usize,
    start: usize,
    before_start: Option<char>,
    at_start: Option<char>,
    end: usize,
    before_end: Option<char>,
    at_end: Option<char>,
}

/// Finds the dates in the lines of one log.
#[derive(Debug)]
pub struct Detector {
    slots: Vec<Slot>,
    last: Option<LastPlace>,
    first_unused: usize,
    local: TimeZone,
    default_offset: Option<i32>,
}

impl Detector {
    /// A detector that has seen no line. Dates without a zone are in `default_offset` (minutes) if given, else in `local`.
    #[must_use]
    pub fn new(patterns: &Patterns, local: TimeZone, default_offset: Option<i32>) -> Self {
        let slots = patterns
            .templates
            .iter()
            .map(|(template, weight)| Slot {
                template: Arc::clone(template),
                weight: *weight,
                hits: 0,
                matches: 0,
                last_used: 0.0,
                distance: FAR,
            })
            .collect();
        Self { slots, last: None, first_unused: 0, local, default_offset }
    }

    /// The date in a line, given the present in seconds since 1970.
    pub fn find(&mut self, line: &str, now: f64) -> DateInLine {
        let Some((slot, found)) = self.choose(line) else { return DateInLine::Absent };
        let Some(template) = self.slots.get(slot).map(|slot| Arc::clone(&slot.template)) else { return DateInLine::Absent };
        self.remember(slot, &found, line, now);
        match found.place.cut {
            Some(cut) if cut.0 < cut.1 => {
                DateInLine::Present { cut, moment: template.moment(line, &found, now, &self.local, self.default_offset) }
            }
            _ => DateInLine::Empty,
        }
    }

    /// The slot whose match is taken, and the match.
    fn choose(&mut self, line: &str) -> Option<(usize, Found)> {
        let count = self.slots.len();
        let mut reserve: Option<(usize, Found)> = None;
        let mut tried = None;
        if let Some(last) = self.last
            && let Some(slot) = self.slots.get_mut(last.slot)
        {
            let anchored = slot.template.anchored;
            let found = if !anchored && last.looks_alike(line) {
                line.get(..last.end.min(line.len())).and_then(|part| slot.find(part, last.start))
            } else {
                tried = Some(last.slot);
                slot.find(line, 0)
            };
            if let Some(found) = found {
                if count == 1 || anchored || (found.place.start == last.start && found.place.end == last.end) {
                    return Some((last.slot, found));
                }
                reserve = Some((last.slot, found));
            }
        }
        let usual = self.last.map_or(1, |last| last.start);
        for number in (0..count).filter(|number| Some(*number) != tried) {
            let next_is_new = self.slots.get(number + 1).is_none_or(|next| next.matches == 0);
            let slot = self.slots.get_mut(number)?;
            let Some(found) = slot.find(line, 0) else { continue };
            let start = found.place.start;
            let settled = number + 1 >= count || slot.template.anchored || (start == 0 && slot.hits > 0 && next_is_new);
            if !settled && (start > slot.distance || start > usual) {
                // Farther than usual: it may be a date in the message. Another template may find one nearer to the beginning.
                if reserve.as_ref().is_none_or(|(_, other)| start < other.place.start) {
                    reserve = Some((number, found));
                }
                continue;
            }
            return Some((number, found));
        }
        reserve
    }

    fn remember(&mut self, number: usize, found: &Found, line: &str, now: f64) {
        let Some(slot) = self.slots.get_mut(number) else { return };
        let (start, end) = (found.place.start, found.place.end);
        slot.hits = slot.hits.saturating_add(1);
        slot.last_used = now;
        slot.distance = start;
        self.first_unused += usize::from(self.first_unused == number);
        let place = if number > 0 && self.last.is_none_or(|last| last.slot != number) { self.move_up(number) } else { number };
        self.last = Some(LastPlace {
            slot: place,
            start,
            before_start: before(line, start),
            at_start: at(line, start),
            end,
            before_end: if end == 0 { line.chars().next_back() } else { before(line, end) },
            at_end: at(line, end),
        });
    }

    /// Moves a template that hits towards the beginning; gives its new place.
    fn move_up(&mut self, number: usize) -> usize {
        let Some((weight, last_used)) = self.slots.get(number).map(|slot| (slot.weight(), slot.last_used)) else { return number };
        let moves_to = |slots: &[Slot], place: usize| {
            slots.get(place).is_some_and(|other| weight > other.weight() || last_used - UNUSED > other.last_used)
        };
        let mut place = if self.first_unused < number { self.first_unused } else { number / 2 };
        if !moves_to(&self.slots, place) {
            if place + 1 == number {
                return number;
            }
            place = number - 1;
            if !moves_to(&self.slots, place) {
                return number;
            }
        }
        let slot = self.slots.remove(number);
        self.slots.insert(place, slot);
        while self.slots.get(self.first_unused).is_some_and(|slot| slot.hits > 0) {
            self.first_unused += 1;
        }
        place
    }
}

impl LastPlace {
    /// Whether the characters around the place of the last date are the same in this line.
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

    /// 2013-05-21 01:01:52 UTC and a minute.
    const NOW: f64 = 1_369_098_172.0;

    fn detector(datepattern: Option<&str>) -> Detector {
        Detector::new(&Patterns::new(datepattern, Years::until(2026)).expect("patterns"), TimeZone::UTC, None)
    }

    fn moment(found: DateInLine) -> Option<f64> {
        match found {
            DateInLine::Present { moment, .. } => moment,
            DateInLine::Absent | DateInLine::Empty => None,
        }
    }

    #[test]
    fn the_usual_forms_are_read() {
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
            "PDT May 20 18:01:52 x",
            "+02:00 May 21 03:01:52.011 2013 x",
            "@40000000519ac78000000000 x",
        ] {
            let found = moment(detector(None).find(line, NOW)).map(f64::floor);
            assert!(found == Some(1_369_098_112.0), "{line}: {found:?}");
        }
    }

    #[test]
    fn a_date_in_the_message_does_not_replace_the_one_at_the_beginning() {
        let mut detector = detector(None);
        assert_eq!(moment(detector.find("May 21 01:01:52 host x", NOW)), Some(1_369_098_112.0));
        assert_eq!(moment(detector.find("May 21 01:01:53 host 2012-01-01 00:00:00", NOW)), Some(1_369_098_113.0));
    }

    #[test]
    fn a_pattern_of_none_says_that_there_are_no_dates() {
        assert_eq!(detector(Some("{NONE}")).find("May 21 01:01:52 x", NOW), DateInLine::Empty);
        assert_eq!(detector(Some("%Y")).find("x", NOW), DateInLine::Absent);
    }

    #[test]
    fn date_in_a_pattern_stands_for_every_form() {
        let mut detector = detector(Some(r"^[^\[]*\[({DATE})"));
        let DateInLine::Present { cut, moment } = detector.find("x [Tue May 21 01:01:52 2013] y", NOW) else { panic!("no date") };
        assert_eq!((cut, moment), ((3, 27), Some(1_369_098_112.0)));
    }

    #[test]
    fn several_patterns_are_tried_in_order() {
        let mut detector = detector(Some("^%Y-%m-%d\n{^LN-BEG}"));
        assert_eq!(moment(detector.find("2013-05-21 01:01:52 x", NOW)), Some(1_369_094_400.0));
        assert_eq!(moment(detector.find("May 21 01:01:52 x", NOW)), Some(1_369_098_112.0));
    }

    #[test]
    fn no_line_makes_it_panic() {
        let mut detector = detector(None);
        for line in ["", "ü", "May 21 01:01:52 x", "üüüüüüüüüüü", "ü", "\u{0}", "99999999999", "May 31 99:99:99", "Feb 30 01:01:01 x"]
        {
            let _ = detector.find(line, NOW);
            let _ = detector.find(line, f64::NAN);
        }
    }
}
