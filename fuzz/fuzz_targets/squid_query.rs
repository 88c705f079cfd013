//! One query from Squid: whatever the bytes, the blamed address is the one in the first token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;
use strikeout::internals::detector::{Detector, Judgement};
use strikeout::internals::engine::Engine;
use strikeout::internals::event::Event;
use strikeout::internals::event::headers::HeaderNames;
use strikeout::internals::rule::set::Scratch;
use strikeout::internals::squid::query::{Parser, Query, split_id};
use strikeout_fuzz::{NOW, SOCKET, engine, first_token_address, parts, squid_escaped};

thread_local!(static ENGINE: std::sync::Arc<Engine> = engine());

fn judge(query: &Query<'_>, address: IpAddr) {
    ENGINE.with(|engine| {
        let policy = engine.policy();
        let judgement = Detector::new(&policy, engine.bans()).judge(NOW, query.address, &query.event, &mut Scratch::default());
        if let Judgement::Offence(offence) = judgement {
            assert_eq!(offence.address, address);
            assert_eq!(offence.client, strikeout::internals::client::Client::of(address, policy.prefix));
            assert!(!offence.rules.is_empty());
            assert!(policy.lists.never_banned(address).is_none(), "{address} is never banned");
        }
    });
}

fuzz_target!(|data: &[u8]| {
    // Arbitrary bytes.
    let (id, line) = split_id(data);
    if let Some(id) = id {
        assert!(!id.is_empty() && id.iter().all(u8::is_ascii_digit) && data.starts_with(id));
    }
    if let Ok(query) = Parser::default().parse(line) {
        let address = first_token_address(line).expect("a query has an address");
        assert_eq!(query.address, address);
        judge(&query, address);
    }

    // Arbitrary bytes in the fields that a client controls, escaped by Squid.
    let [method, url, user_agent, site] = parts::<4>(data).map(squid_escaped);
    let line = format!("{SOCKET} {method} {url} {user_agent} {site} -");
    let mut parser = Parser::default();
    let query = parser.parse(line.as_bytes()).expect("fields escaped by Squid always parse");
    let address = SOCKET.parse().expect("an address");
    assert_eq!(query.address, address);
    if let Event::Request(request) = query.event {
        assert_eq!(request.url, parts::<4>(data)[1]);
    }
    judge(&query, address);

    // The same in headers.
    let values = parts::<2>(data);
    let [first, second] = values.map(squid_escaped);
    let mut parser = Parser::new(HeaderNames::new(["Cookie", "Next-Action"]).expect("names"));
    let line = format!("{SOCKET} POST http://h/ ua - - {first} {second} -");
    let query = parser.parse(line.as_bytes()).expect("headers escaped by Squid always parse");
    if let Event::Request(request) = query.event {
        for (name, value) in request.header_lines() {
            let sent = values[usize::from(name == "next-action")];
            assert_eq!(value.text().as_ref(), sent);
        }
    }
    judge(&query, address);
});
