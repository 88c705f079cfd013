//! One line to the daemon, and one that Exim's helper passes on: what is passed on is read there as it was meant here.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use strikeout::internals::control::request::{SocketRequest, parse};
use strikeout::internals::exim::query::EximQuery;

fuzz_target!(|data: &[u8]| {
    match parse(data) {
        Ok(SocketRequest::Check(check)) => {
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
    let query = EximQuery::from_line(data);
    let counted = data.split(|byte| *byte == b' ').nth(1).and_then(|word| std::str::from_utf8(word).ok()?.trim_end().parse().ok());
    let counted = counted.map(|address: IpAddr| address.to_canonical());
    for line in query.lines().lines() {
        match parse(line.as_bytes()).expect("the helper's own lines are read") {
            SocketRequest::Check(check) => assert!(check.address.is_some() && (!check.counts || check.address == counted), "{line:?}"),
            SocketRequest::Strike(incident) => assert!(incident.address.is_some() && incident.address == counted, "{line:?}"),
            SocketRequest::Report(_) => {}
            request => panic!("{line:?} is read as {request:?}"),
        }
    }
    let answer = String::from_utf8_lossy(data);
    let handed_on = query.verdict(&answer);
    assert!(["accept", "defer", "deny"].iter().any(|word| handed_on.starts_with(word)), "{handed_on:?}");
});
