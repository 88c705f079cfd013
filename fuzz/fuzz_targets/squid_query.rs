//! One query of Squid's: whatever the bytes, the address that is blamed is the first token's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;
use strikeout::detector::Judgement;
use strikeout::engine::Engine;
use strikeout::event::Event;
use strikeout::rule::set::Scratch;
use strikeout::squid::query::{Parser, Query, split_id};
use strikeout_fuzz::{NOW, SOCKET, engine, first_token_address, parts, squid_escaped};

thread_local!(static ENGINE: std::sync::Arc<Engine> = engine());

fn judge(query: &Query<'_>, address: IpAddr) {
    ENGINE.with(|engine| {
        let in_force = engine.in_force();
        let judgement = in_force.detector(engine.bans()).judge(NOW, query.address, &query.event, &mut Scratch::default());
        if let Judgement::Offence(offence) = judgement {
            assert_eq!(offence.address, address);
            assert_eq!(offence.client, strikeout::client::Client::of(address, in_force.prefix));
            assert!(!offence.rules.is_empty());
            assert!(in_force.lists.never_banned(address).is_none(), "{address} is never banned");
        }
    });
}

fuzz_target!(|data: &[u8]| {
    // Any bytes at all.
    let (id, line) = split_id(data);
    if let Some(id) = id {
        assert!(!id.is_empty() && id.iter().all(u8::is_ascii_digit) && data.starts_with(id));
    }
    if let Ok(query) = Parser::default().parse(line) {
        let address = first_token_address(line).expect("a query has an address");
        assert_eq!(query.address, address);
        judge(&query, address);
    }

    // Any bytes in the fields of a client, escaped as Squid does it.
    let [method, url, user_agent, site] = parts::<4>(data).map(squid_escaped);
    let line = format!("{SOCKET} {method} {url} {user_agent} {site} -");
    let mut parser = Parser::default();
    let query = parser.parse(line.as_bytes()).expect("Squid's own escaping is always read");
    let address = SOCKET.parse().expect("an address");
    assert_eq!(query.address, address);
    if let Event::Request(request) = query.event {
        assert_eq!(request.url, parts::<4>(data)[1]);
    }
    judge(&query, address);
});
