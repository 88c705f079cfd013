//! Messages of other machines: any text is a message with a valid node, target and evidence, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strikeout::internals::client::ShortNetwork;
use strikeout::internals::config::fleet::is_node;
use strikeout::internals::fleet::message::{Message, letters, parse, parse_until, scope_of};
use strikeout::internals::list::file::parse_network;
use strikeout::internals::rule::Evidence;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let _ = parse_until(&text);
    match parse(&text) {
        Some(Message::Ban { ban, .. }) => {
            assert!(is_node(&ban.node));
            assert!(ban.record.evidence().as_str().len() <= Evidence::MAX);
            assert_eq!(scope_of(letters(ban.scope)), Some(ban.scope));
            assert_eq!(parse_network(&ShortNetwork(ban.target).to_string()), Ok(ban.target));
        }
        Some(Message::Unban { target, .. }) => assert_eq!(parse_network(&ShortNetwork(target).to_string()), Ok(target)),
        Some(Message::Forget { node, .. }) => assert!(is_node(&node)),
        None => {}
    }
});
