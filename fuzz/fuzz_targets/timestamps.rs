//! Dates in lines: the built-in parsers, fail2ban's templates, and templates of any text.
#![no_main]

use std::sync::LazyLock;

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use strikeout::internals::log::time::{COMMON_LENGTH, Zone, common, epoch, exim};
use strikeout::internals::time::Span;
use strikeout::internals::fail2ban::dates::template::Years;
use strikeout::internals::fail2ban::dates::{DateDetector, DateInLine, DatePatterns};
use strikeout_fuzz::parts;

static DEFAULTS: LazyLock<DatePatterns> = LazyLock::new(|| DatePatterns::new(None, Years::until(2026)).expect("fail2ban's default patterns"));

fn find(patterns: &DatePatterns, line: &str) {
    let mut detector = DateDetector::new(patterns, TimeZone::UTC, None);
    // The second search starts with the place that the first one found.
    for _ in 0..2 {
        if let DateInLine::Present { cut: (start, end), .. } = detector.find(line, 1_800_000_000.0) {
            assert!(line.get(start..end).is_some(), "{start}..{end} of {line:?}");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut zone = Zone::fixed(3600).expect("an hour");
    if let Some((_, rest)) = exim(data, &mut zone) {
        assert!(data.ends_with(rest));
    }
    if let Some((_, rest)) = epoch(data) {
        assert!(data.ends_with(rest));
    }
    if let Some(text) = data.first_chunk::<COMMON_LENGTH>() {
        let _ = common(text);
    }
    let [line, pattern] = parts::<2>(data).map(String::from_utf8_lossy);
    let _ = Span::parse(&line);
    find(&DEFAULTS, &line);
    if !pattern.is_empty()
        && let Ok(patterns) = DatePatterns::new(Some(&pattern), Years::until(2026))
    {
        find(&patterns, &line);
    }
});
