//! List files: an error names its line, and a lookup agrees with a linear search.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use strikeout::internals::list::Networks;
use strikeout::internals::list::file::parse;

fuzz_target!(|data: &[u8]| {
    let lines = data.iter().filter(|byte| **byte == b'\n').count() + 1;
    if let Err(bad) = parse(data) {
        assert!((1..=lines).contains(&bad.line) && !bad.to_string().contains('\n'));
    }
    let listed: Vec<ipnet::IpNet> = data.split(|byte| *byte == b'\n').filter_map(|line| parse(line).ok()).flatten().collect();
    assert!(listed.len() <= lines);
    let networks = Networks::new(listed.iter().copied());
    let edges = listed.iter().take(50).flat_map(|network| [network.network(), network.broadcast()]);
    let others = ["0.0.0.0", "192.0.2.1", "255.255.255.255", "::", "2001:db8::1"].map(|text| text.parse().expect("an address"));
    for address in edges.chain(others) {
        let address: IpAddr = address.to_canonical();
        let is_in = |network: &ipnet::IpNet| strikeout::internals::list::networks::canonical(*network).contains(&address);
        assert_eq!(networks.contains(address), listed.iter().any(is_in), "{address}");
    }
});
