//! What Squid always asks about: spellings that could hide from it what a rule looks for, and what attacks hold and ordinary URLs hardly do.

/// Whether Squid asks about each URL that holds this byte once it is decoded.
///
/// * `;` and `\`: rules match a path also without parameters, and with backslashes as slashes (see [`crate::event::path`]).
/// * `#`: nginx ends the path there.
/// * The others are in most injections and in few URLs, so that the expressions need not say what stands beside them.
///
/// A zero byte is none of them, because Squid 5 and 6 leave `%00` as it is (rfc1738.c: `rfc1738_unescape`), and so is `%`: see [`super::seen`].
/// In `url_regex`, Squid 7 cuts the text there, but not in `urlpath_regex`, which acls.conf uses: with path.regex, `acl NAME urlpath_regex %` must be
/// tried first.
pub(super) const fn is_asked_about(byte: u8) -> bool {
    matches!(
        byte,
        0x01..=0x1f | 0x7f | b';' | b'\\' | b'#' | b'"' | b'\'' | b'<' | b'>' | b'^' | b'`' | b'{' | b'}' | b'(' | b'$' | b'*' | b'|'
    )
}

/// Further texts that make Squid ask.
///
/// * `%`: an escape was encoded twice, is broken, or is a zero byte.
/// * `//`, `./`, `/.`, `..` and ` /`: rules match a path also without empty and dot segments, and without dots and blanks at the end of a segment. What
///   is removed at the end of a path hides nothing: the rest stays as it is. Hidden files are no part of ordinary sites either.
const TEXTS: [&[u8]; 6] = [b"%", b"//", b"./", b"/.", b"..", b" /"];

/// All texts that make Squid ask.
pub(super) fn texts() -> impl Iterator<Item = Vec<u8>> {
    let bytes = (0..=u8::MAX).filter(|byte| is_asked_about(*byte)).map(|byte| vec![byte]);
    bytes.chain(TEXTS.iter().map(|text| text.to_vec()))
}

/// What makes Squid ask in a host. It has no slash, and Squid removes dots at its end and refuses those that begin it or stand in a row
/// (Uri.cc, `AnyP::Uri::parse`).
pub(super) fn in_host() -> impl Iterator<Item = Vec<u8>> {
    texts().filter(|text| text.len() == 1)
}

/// Whether Squid asks about each URL that holds `text` once it is decoded.
pub(super) fn asks(text: &[u8]) -> bool {
    text.iter().any(|byte| is_asked_about(*byte)) || TEXTS.iter().any(|hiding| text.windows(hiding.len()).any(|window| window == *hiding))
}
