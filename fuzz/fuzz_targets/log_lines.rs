//! Lines out of a log that grows in pieces: the same ones, however it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strikeout::log::lines::Lines;

fuzz_target!(|data: &[u8]| {
    let Some((sizes, text)) = data.split_first_chunk::<4>() else { return };
    let mut whole = Vec::new();
    Lines::default().feed(text, &mut |line| whole.push(line.to_vec()));
    let mut cut = Vec::new();
    let mut lines = Lines::default();
    let mut rest = text;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, later) = rest.split_at((usize::from(*size) + 1).min(rest.len()));
        lines.feed(piece, &mut |line| cut.push(line.to_vec()));
        rest = later;
    }
    assert_eq!(whole, cut);
    let half = text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    assert_eq!(lines.half(), half);
});
