//! Lines of the follow protocol, both ways: what is read is written as it was, on one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strikeout::rule::Evidence;
use strikeout::socket::follow::{FromFollower, FromResident};

fuzz_target!(|data: &[u8]| {
    for line in String::from_utf8_lossy(data).lines() {
        if let Ok(read) = FromResident::parse(line) {
            let written = read.to_string();
            assert!(!written.contains('\n'), "{written:?}");
            assert_eq!(FromResident::parse(&written).as_ref(), Ok(&read), "{written:?}");
        }
        if let Ok(read) = FromFollower::parse(line) {
            if let FromFollower::Offence { evidence, .. } = &read {
                assert!(evidence.as_str().len() <= Evidence::MAX);
            }
            let written = read.to_string();
            assert!(!written.contains('\n'), "{written:?}");
            assert_eq!(FromFollower::parse(&written).as_ref(), Ok(&read), "{written:?}");
        }
    }
});
