//! What other machines say: any text is a message with a sound node, target and evidence, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strikeout::fleet::config::is_node;
use strikeout::fleet::message::{Message, letters, parse, parse_left, scope_of, target_text};
use strikeout::list::file::parse_network;
use strikeout::rule::Evidence;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let _ = parse_left(&text);
    match parse(&text) {
        Some(Message::Ban(said)) => {
            assert!(is_node(&said.node));
            assert!(said.story.evidence().as_str().len() <= Evidence::MAX);
            assert_eq!(scope_of(letters(said.scope)), Some(said.scope));
            assert_eq!(parse_network(&target_text(said.target)), Ok(said.target));
        }
        Some(Message::Lift { target, .. }) => assert_eq!(parse_network(&target_text(target)), Ok(target)),
        Some(Message::Forget { node, .. }) => assert!(is_node(&node)),
        None => {}
    }
});
