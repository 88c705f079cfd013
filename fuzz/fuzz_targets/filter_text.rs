//! Any text as a fail2ban filter, and any line for it: the filter loads, or the error names its file.
#![no_main]

use std::sync::Arc;

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use strikeout::internals::fail2ban::{Filter, Matcher};
use strikeout_fuzz::parts;

thread_local!(static FOLDER: tempfile::TempDir = tempfile::tempdir_in("/dev/shm").expect("a directory"));

fuzz_target!(|data: &[u8]| {
    let [text, line] = parts::<2>(data);
    // An include would read this machine's files.
    if text.windows(7).any(|window| window == b"INCLUDE") {
        return;
    }
    FOLDER.with(|folder| {
        let file = folder.path().join("fuzz.conf");
        std::fs::write(&file, text).expect("written");
        match Filter::load(&file, &[]) {
            Ok(filter) => {
                let _ = Matcher::new(Arc::new(filter), TimeZone::UTC).line(line, 1_800_000_000.0);
            }
            Err(error) => assert!(error.to_string().contains("fuzz.conf"), "{error}"),
        }
    });
});
