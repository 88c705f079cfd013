//! One line to the resident, and one that Exim's helper passes on: what is passed on is read there as it was meant here.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strikeout::exim::query::{Query, understood};
use strikeout::socket::request::{Request, parse};

fuzz_target!(|data: &[u8]| {
    match parse(data) {
        Ok(Request::Check(check)) => {
            let text = std::str::from_utf8(data).expect("UTF-8 is asked for");
            if let Some(address) = check.address {
                let word = text.split_whitespace().nth(1).expect("a check has an address");
                assert_eq!(word.parse::<std::net::IpAddr>().expect("an address").to_canonical(), address);
            }
        }
        Ok(_) => {}
        Err(fault) => {
            let text = fault.to_string();
            assert!(text.len() < 1000 && !text.contains('\n'), "{text:?}");
        }
    }
    if let Ok(Some(query)) = Query::of_line(data) {
        let line = query.request();
        assert!(!line.trim_end_matches('\n').contains('\n'), "{line:?}");
        match (&query, parse(line.trim_end_matches('\n').as_bytes()).expect("the helper's own lines are read")) {
            (Query::Check { address, pid, port, via }, Request::Check(check)) => {
                assert_eq!((Some(*address), *pid, *port, *via), (check.address, check.pid, check.port, check.via));
            }
            (Query::Strike { address, rule }, Request::Strike { address: found, rule: named }) => {
                assert_eq!((Some(*address), rule.as_str()), (found, named));
            }
            (query, request) => panic!("{query:?} is read as {request:?}"),
        }
    }
    let answer = String::from_utf8_lossy(data);
    let handed_on = understood(&answer);
    assert!(["accept", "defer", "deny"].iter().any(|word| handed_on.starts_with(word)), "{handed_on:?}");
});
