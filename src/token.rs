//! Where a word of a line ends: Squid's queries and access logs are words with a space between them.

use memchr::memchr;

/// The number of bytes in front of the first space; all of them if there is none.
///
/// Most words are shorter than what it takes a vector search to begin, so the first eight bytes are looked at as one number (Mycroft's test
/// for a zero byte, 1987).
pub(crate) fn length(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const SPACES: u64 = u64::from_ne_bytes([b' '; 8]);
    let Some(word) = text.first_chunk() else { return text.iter().position(|byte| *byte == b' ').unwrap_or(text.len()) };
    let zero_where_space = u64::from_le_bytes(*word) ^ SPACES;
    let spaces = zero_where_space.wrapping_sub(ONES) & !zero_where_space & (ONES << 7);
    match spaces.trailing_zeros() {
        64 => text.get(word.len()..).and_then(|rest| memchr(b' ', rest)).map_or(text.len(), |length| word.len() + length),
        // Only the lowest mark is certain to be a space, and it is the first one.
        bits => bits as usize / 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_word_ends_at_the_first_space(text in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'!'), any::<u8>()], 0..30)) {
            prop_assert_eq!(length(&text), text.iter().position(|byte| *byte == b' ').unwrap_or(text.len()));
        }
    }
}
