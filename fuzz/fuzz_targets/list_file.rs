//! Lists of networks: a fault says its line, and a lookup says what a search through all of them would.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use strikeout::list::Networks;
use strikeout::list::file::parse;

fuzz_target!(|data: &[u8]| {
    let parsed = parse(data);
    let lines = data.iter().filter(|byte| **byte == b'\n').count() + 1;
    assert!(parsed.faults.iter().all(|fault| (1..=lines).contains(&fault.line)));
    assert!(parsed.faults.len() <= parsed.fault_count);
    assert!(parsed.describe_faults("list").iter().all(|fault| !fault.contains('\n')));
    let networks = Networks::new(parsed.networks.iter().copied());
    let edges = parsed.networks.iter().take(50).flat_map(|network| [network.network(), network.broadcast()]);
    let others = ["0.0.0.0", "192.0.2.1", "255.255.255.255", "::", "2001:db8::1"].map(|text| text.parse().expect("an address"));
    for address in edges.chain(others) {
        let address: IpAddr = address.to_canonical();
        let is_in = |network: &ipnet::IpNet| strikeout::list::networks::canonical(*network).contains(&address);
        assert_eq!(networks.contains(address), parsed.networks.iter().any(is_in), "{address}");
    }
});
