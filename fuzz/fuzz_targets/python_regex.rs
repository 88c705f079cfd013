//! Python's regular expressions: any text is an expression or an error, and a match lies on character boundaries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strikeout::internals::fail2ban::regex::{MatchResult, Pattern};
use strikeout_fuzz::parts;

fuzz_target!(|data: &[u8]| {
    let [pattern, text] = parts::<2>(data).map(String::from_utf8_lossy);
    if let Ok(pattern) = Pattern::new(&pattern)
        && let MatchResult::Match(spans) = pattern.search(&text, 0)
        && let Some((start, end)) = spans.group(0)
    {
        assert!(text.get(start..end).is_some(), "{start}..{end} of {text:?}");
    }
});
