//! Percent-decoding, for what Squid escaped and for paths as a web server reads them.

use std::borrow::Cow;

/// Decodes `text` once. See [`decode_onto`].
pub(crate) fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    decode_onto(text, &mut decoded);
    Cow::Owned(decoded)
}

/// Appends `text` to `out`, replacing each `%` and two hex digits by their byte. A `%` without two hex digits stays.
///
/// Does the same as the `percent-encoding` crate, which the tests compare it with, in one loop without an iterator.
pub(crate) fn decode_onto(text: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + text.len(), 0);
    let mut rest = text;
    let mut written = start;
    for slot in out.iter_mut().skip(start) {
        let (byte, after) = match rest {
            [b'%', high, low, after @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', rest.get(1..).unwrap_or_default()),
            },
            [byte, after @ ..] => (*byte, after),
            [] => break,
        };
        *slot = byte;
        rest = after;
        written += 1;
    }
    out.truncate(written);
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(text: &[u8]) -> Vec<u8> {
        let mut out = b"before ".to_vec();
        decode_onto(text, &mut out);
        out.split_off(7)
    }

    #[test]
    fn decoding_happens_once_and_keeps_a_percent_sign_without_two_digits() {
        assert_eq!(decoded(b"/%77%2530%zz%4"), b"/w%30%zz%4");
        assert_eq!(decoded(b"%"), b"%");
        assert_eq!(decoded(b"%%41"), b"%A");
        assert_eq!(decoded(b""), b"");
        assert_eq!(decoded(b"%C3%bf"), [0xc3, 0xbf]);
    }

    proptest! {
        #[test]
        fn decoding_equals_the_percent_encoding_crate(text in proptest::collection::vec(prop_oneof![Just(b'%'), Just(b'4'), Just(b'f'), Just(b'G'), any::<u8>()], 0..60)) {
            prop_assert_eq!(decoded(&text), percent_encoding::percent_decode(&text).collect::<Vec<u8>>());
        }
    }
}
