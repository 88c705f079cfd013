//! Where a word of a line ends: Squid's queries and access logs are words with a space between them.

use memchr::memchr;

/// So many bytes are looked at together.
const WORD: usize = 8;

/// The number of bytes in front of the first space; all of them if there is none.
///
/// Most words are shorter than what it takes a vector search to begin, so the first bytes are looked at a [`WORD`] at a time.
pub(crate) fn length(text: &[u8]) -> usize {
    let mut rest = text;
    for start in [0, WORD] {
        let Some((word, behind)) = rest.split_first_chunk() else {
            return start + rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        };
        if let Some(at) = first_space(*word) {
            return start + at;
        }
        rest = behind;
    }
    2 * WORD + memchr(b' ', rest).unwrap_or(rest.len())
}

/// Where the first space is, by Mycroft's test of a whole number for a zero byte (1987).
fn first_space(word: [u8; WORD]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; WORD]);
    const SPACES: u64 = u64::from_ne_bytes([b' '; WORD]);
    let zero_where_space = u64::from_le_bytes(word) ^ SPACES;
    let spaces = zero_where_space.wrapping_sub(ONES) & !zero_where_space & (ONES << 7);
    // Only the lowest mark is certain to be a space, and it is the first one.
    (spaces != 0).then(|| spaces.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_word_ends_at_the_first_space(text in proptest::collection::vec(prop_oneof![1 => Just(b' '), 2 => Just(b'!'), 20 => any::<u8>()], 0..60)) {
            prop_assert_eq!(length(&text), text.iter().position(|byte| *byte == b' ').unwrap_or(text.len()));
        }
    }
}
