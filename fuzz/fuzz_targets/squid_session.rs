//! The helper's main loop: whatever the bytes and however reads cut them, each line gets one answer under its own ID, and only clients in
//! the first token of a line are banned.
#![no_main]

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use strikeout::internals::client::Client;
use strikeout::internals::squid::BackendSlot;
use strikeout::internals::squid::answer::MAX_LEN;
use strikeout::internals::squid::output::Output;
use strikeout::internals::squid::query::split_id;
use strikeout::internals::squid::session::{End, Session};
use strikeout_fuzz::{NOW, Table, engine, first_token_address};

/// Number of bytes at the beginning of the input that give the lengths of the first reads.
const CUTS: usize = 4;

/// Cuts the input into messages of a seqpacket socket, each of which is one read of the helper.
fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let Some((cuts, mut rest)) = data.split_first_chunk::<CUTS>() else { return Vec::new() };
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, later) = rest.split_at(usize::from(*cut).min(rest.len()));
        pieces.push(piece);
        rest = later;
    }
    pieces.push(rest);
    // An empty message would read as end of input.
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

fuzz_target!(|data: &[u8]| {
    let pieces = pieces(data);
    let input = pieces.concat();
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket pair");
    for piece in &pieces {
        send(&near, piece, SendFlags::empty()).expect("there is room for a few messages");
    }
    drop(near);
    let answers = rustix::fs::memfd_create("answers", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let engine = engine();
    let slot = BackendSlot::default();
    slot.put(Arc::new(Table(Arc::clone(&engine))));
    let mut session = Session::new(slot, Output::new(answers.try_clone().expect("a second handle")));
    let end = session.run(far.as_fd());
    assert_eq!(end, End::Eof);

    let mut lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    let queries: Vec<_> = lines.iter().map(|line| split_id(line.strip_suffix(b"\r").unwrap_or(line))).collect();

    let mut written = Vec::new();
    let mut answers = std::fs::File::from(answers);
    std::io::Seek::rewind(&mut answers).expect("a file in memory");
    std::io::Read::read_to_end(&mut answers, &mut written).expect("a file in memory");
    let mut answered = Vec::new();
    for answer in written.split_inclusive(|byte| *byte == b'\n') {
        let text = std::str::from_utf8(answer).expect("an answer is text");
        assert!(text.ends_with('\n') && text.len() <= MAX_LEN, "{text:?}");
        let (id, rest) = split_id(answer);
        assert!(rest == b"ERR\n" || rest.starts_with(b"OK ban_=yes"), "{text:?}");
        answered.push(id.map(<[u8]>::to_vec));
    }
    let mut asked: Vec<_> = queries.iter().map(|(id, _)| id.map(<[u8]>::to_vec)).collect();
    if asked.iter().any(Option::is_some) {
        // Answers with IDs may come in any order.
        asked.sort();
        answered.sort();
    }
    assert_eq!(asked, answered, "one answer for each query, under its ID");

    let prefix = engine.policy().prefix;
    let named: HashSet<Client> = queries.iter().filter_map(|(_, query)| Some(Client::of(first_token_address(query)?, prefix))).collect();
    engine.bans().for_each(NOW, |client, _, _| assert!(named.contains(&client), "{client} is banned and is in no query"));
    engine.strikes().for_each(|_, client, _| assert!(named.contains(&client), "{client} has a strike and is in no query"));
});
