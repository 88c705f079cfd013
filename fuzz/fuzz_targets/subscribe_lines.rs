//! Lines of the subscribe protocol, both ways: what is read is written as it was, on one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strikeout::internals::control::subscribe::{FromDaemon, FromSubscriber};
use strikeout::internals::rule::Evidence;

fuzz_target!(|data: &[u8]| {
    for line in String::from_utf8_lossy(data).lines() {
        if let Ok(read) = FromDaemon::parse(line) {
            let written = read.to_string();
            assert!(!written.contains('\n'), "{written:?}");
            assert_eq!(FromDaemon::parse(&written).as_ref(), Ok(&read), "{written:?}");
        }
        if let Ok(read) = FromSubscriber::parse(line) {
            if let FromSubscriber::Offence { evidence, .. } | FromSubscriber::Strike { evidence, .. } = &read {
                assert!(evidence.as_str().len() <= Evidence::MAX);
            }
            let written = read.to_string();
            assert!(!written.contains('\n'), "{written:?}");
            assert_eq!(FromSubscriber::parse(&written).as_ref(), Ok(&read), "{written:?}");
        }
    }
});
