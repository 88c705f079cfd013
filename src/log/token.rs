//! Finds the end of a word: Squid's queries and access log lines are words separated by spaces.

use memchr::memchr;

/// Number of bytes compared at a time.
const WORD: usize = 8;

/// The number of bytes before the first space, or of all bytes if there is none.
///
/// Most words are too short for a vector search to pay off, so the first bytes are compared a [`WORD`] at a time.
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

/// The first word, which starts here, and the text behind the space after it; `None` if there is no word.
pub(crate) fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (word, rest) = text.split_at_checked(length(text)).filter(|(word, _)| !word.is_empty())?;
    Some((word, rest.get(1..).unwrap_or_default()))
}

/// The position of the first space, by Mycroft's test for a zero byte in a word (1987).
fn first_space(word: [u8; WORD]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; WORD]);
    const SPACES: u64 = u64::from_ne_bytes([b' '; WORD]);
    let zero_where_space = u64::from_le_bytes(word) ^ SPACES;
    let spaces = zero_where_space.wrapping_sub(ONES) & !zero_where_space & (ONES << 7);
    // A borrow can set false marks above a space, but the lowest mark is always a space.
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
