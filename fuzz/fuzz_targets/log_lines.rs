//! Splitting a log into lines: the same lines whatever the chunks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strikeout::internals::log::lines::LineSplitter;

fuzz_target!(|data: &[u8]| {
    let Some((sizes, text)) = data.split_first_chunk::<4>() else { return };
    let mut whole = Vec::new();
    LineSplitter::default().feed(text, &mut |line| whole.push(line.to_vec()));
    let mut cut = Vec::new();
    let mut lines = LineSplitter::default();
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
    let incomplete = text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    assert_eq!(lines.incomplete(), incomplete);
});
