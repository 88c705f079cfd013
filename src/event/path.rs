//! The path of a URL, and the other spellings that a web server may read as the same path.

use memchr::{memchr, memchr3, memrchr};

use super::percent::decode_onto;

/// Splits the path and the query off a URL as sent, which is absolute or starts with the path. A CONNECT target has neither.
pub(crate) fn path_and_query(url: &[u8]) -> (&[u8], &[u8]) {
    let rest = if matches!(url.first(), Some(b'/' | b'\\')) {
        url
    } else if let Some(authority) = url.strip_prefix(b"http://").or_else(|| url.strip_prefix(b"https://")) {
        after_authority(authority)
    } else {
        // The scheme ends before the first `/`, so that a `://` in the query is not mistaken for one.
        let first_slash = memchr(b'/', url);
        let authority = first_slash.and_then(|slash| {
            let before = url.get(..slash)?;
            let after = url.get(slash..)?.strip_prefix(b"//")?;
            let scheme = before.strip_suffix(b":")?;
            scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')).then_some(after)
        });
        let Some(authority) = authority else { return (b"", b"") };
        after_authority(authority)
    };
    match memchr(b'?', rest) {
        Some(mark) => (rest.get(..mark).unwrap_or_default(), rest.get(mark + 1..).unwrap_or_default()),
        None => (rest, b""),
    }
}

fn after_authority(authority: &[u8]) -> &[u8] {
    let end = memchr3(b'/', b'?', b'#', authority).unwrap_or(authority.len());
    authority.get(end..).unwrap_or_default()
}

/// Percent-decodes `text` once into `decoded`. Returns whether that changed anything.
pub(crate) fn decode_into(text: &[u8], decoded: &mut Vec<u8>) -> bool {
    decoded.clear();
    if memchr(b'%', text).is_none() {
        return false;
    }
    decode_onto(text, decoded);
    decoded.len() != text.len()
}

/// Produces the forms of a path. Owns the buffers, so that a thread allocates them once.
#[derive(Debug, Default)]
pub(crate) struct PathForms {
    decoded: Vec<u8>,
    decoded_twice: Vec<u8>,
    resolver: Resolver,
}

/// Produces the canonical form of a path, and the forms that less lenient servers read.
#[derive(Debug, Default)]
struct Resolver {
    resolved: Vec<u8>,
    canonical: Vec<u8>,
}

impl PathForms {
    /// Whether `test` is true for any form of `path`: as sent, percent-decoded once, decoded twice (a server behind another one decodes
    /// again), and the canonical form of each of these.
    ///
    /// There are at most 24 forms, each produced in linear time and no longer than `path`. A path without `%`, `;`, `\`, `#`, an empty or a dot
    /// segment, or a slash or a dot at its end has one form, itself.
    pub(crate) fn any(&mut self, path: &[u8], mut test: impl FnMut(&[u8]) -> bool) -> bool {
        test(path) || (!has_one_form(path) && self.any_other(path, test))
    }

    #[cold]
    fn any_other(&mut self, path: &[u8], mut test: impl FnMut(&[u8]) -> bool) -> bool {
        if self.any_decoding(path, &mut test) {
            return true;
        }
        // nginx ends the path at a `#` (ngx_http_parse_complex_uri); other servers treat it as part of a name.
        let before_fragment = memchr(b'#', path).and_then(|mark| path.get(..mark));
        before_fragment.is_some_and(|path| test(path) || self.any_decoding(path, &mut test))
    }

    /// The forms of `path` except `path` itself.
    fn any_decoding(&mut self, path: &[u8], test: &mut impl FnMut(&[u8]) -> bool) -> bool {
        let Self { decoded, decoded_twice, resolver } = self;
        if resolver.any(path, test) {
            return true;
        }
        if !decode_into(path, decoded) {
            return false;
        }
        if test(decoded) || resolver.any(decoded, test) {
            return true;
        }
        if !decode_into(decoded, decoded_twice) {
            return false;
        }
        // An encoded zero byte may be part of a name, such as that of a page about zero bytes. A program that decodes again ends the name
        // there.
        decoded_twice.truncate(memchr(0, decoded_twice).unwrap_or(decoded_twice.len()));
        test(decoded_twice) || resolver.any(decoded_twice, test)
    }
}

impl Resolver {
    /// The forms of `path` except `path` itself.
    fn any(&mut self, path: &[u8], test: &mut impl FnMut(&[u8]) -> bool) -> bool {
        if is_canonical(path) {
            return false;
        }
        canonicalise(path, &mut self.canonical);
        if test(&self.canonical) {
            return true;
        }
        if !has_segments_to_remove(path) {
            return false;
        }
        // Most servers treat parameters and backslashes as part of a name, and some attacks depend on that. It also changes how far a `..`
        // goes back: `/a\b/../x` is `/x` for these servers, and `/a/x` for the others.
        remove_dot_segments(path, &mut self.resolved);
        if self.resolved == self.canonical {
            return false;
        }
        if test(&self.resolved) {
            return true;
        }
        canonicalise(&self.resolved, &mut self.canonical);
        test(&self.canonical)
    }
}

/// Whether `byte` stands before a slash, `next`, and [`canonicalise`] removes it there.
fn ends_a_segment(byte: u8, next: u8) -> bool {
    (next == b'/') & ((byte == b'/') | (byte == b'.') | (byte == b' '))
}

/// Number of bytes of a path that are looked at together.
const BLOCK: usize = 32;

/// Whether neither decoding nor [`canonicalise`] nor a fragment can change `path`. False also for a path that starts with a backslash.
fn has_one_form(path: &[u8]) -> bool {
    let (mut before, mut found) = (b'x', false);
    for chunk in path.chunks(BLOCK) {
        // Padded to a fixed length, so that the compiler uses vector instructions for short paths and for the ends of long ones.
        let mut block = [b'x'; BLOCK];
        block.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        let mut shifted = [before; BLOCK];
        shifted.iter_mut().skip(1).zip(&block).for_each(|(to, from)| *to = *from);
        found |= shifted.iter().zip(&block).fold(false, |found, (byte, next)| {
            found | ends_a_segment(*byte, *next) | (*next == b'\\') | (*next == b';') | (*next == b'%') | (*next == b'#')
        });
        before = chunk.last().copied().unwrap_or_default();
    }
    !found & !matches!(path, [_, .., b'/' | b'.' | b' '])
}

/// Whether [`canonicalise`] leaves `path` unchanged. A path is empty or starts with a slash.
fn is_canonical(path: &[u8]) -> bool {
    if matches!(path, [_, .., b'/' | b'.' | b' '] | [b'\\']) {
        return false;
    }
    let next = path.get(1..).unwrap_or_default();
    // Because this loop has no early exit, it is compiled to vector instructions.
    !path
        .iter()
        .zip(next)
        .fold(false, |found, (byte, next)| found | ends_a_segment(*byte, *next) | (*byte == b'\\') | (*next == b'\\') | (*next == b';'))
}

/// Whether `path` may have empty or dot segments; false only if it has none.
fn has_segments_to_remove(path: &[u8]) -> bool {
    path.windows(2).any(|pair| matches!(pair, b"//" | b"/."))
}

/// Writes the canonical form of `path` to `out`.
///
/// Backslashes count as slashes. Each segment loses its `;parameters` (RFC 3986, 3.3) and its trailing dots and spaces, which Windows
/// ignores. Dot segments (RFC 3986, 5.2.4), empty segments and a trailing slash are removed.
fn canonicalise(path: &[u8], out: &mut Vec<u8>) {
    out.clear();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        let end = name.iter().rposition(|byte| !matches!(byte, b'.' | b' ')).map_or(name.len(), |last| last + 1);
        push_segment(name, end, out);
    }
    if out.is_empty() {
        out.push(b'/');
    }
}

/// Writes `path` to `out` without dot segments (RFC 3986, 5.2.4) and empty ones. Parameters and backslashes stay part of the names.
fn remove_dot_segments(path: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut is_directory = false;
    for segment in path.split(|byte| *byte == b'/') {
        push_segment(segment, segment.len(), out);
        is_directory = matches!(segment, b"" | b"." | b"..");
    }
    if is_directory {
        out.push(b'/');
    }
}

/// Appends the first `end` bytes of a segment to a path. `..` removes the last segment instead, and `.` adds nothing.
fn push_segment(segment: &[u8], end: usize, out: &mut Vec<u8>) {
    match segment {
        b"" | b"." => {}
        b".." => out.truncate(memrchr(b'/', out).unwrap_or(0)),
        name => {
            out.push(b'/');
            out.extend_from_slice(name.get(..end).unwrap_or(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn forms(path: &[u8]) -> Vec<Vec<u8>> {
        let mut forms = Vec::new();
        PathForms::default().any(path, |form| {
            forms.push(form.to_vec());
            false
        });
        forms
    }

    fn canonical(path: &str) -> String {
        let mut out = b"rubbish".to_vec();
        canonicalise(path.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn path_and_query_are_found_in_every_form_of_a_url() {
        for (url, path, query) in [
            ("http://host/a/b?c=d", "/a/b", "c=d"),
            ("/a?b?c", "/a", "b?c"),
            ("https://user@host:8443/", "/", ""),
            ("http://user:password@host/a?b", "/a", "b"),
            ("HTTP://host/a?b", "/a", "b"),
            ("ftp://host/a", "/a", ""),
            ("http://host", "", ""),
            ("http:///a", "/a", ""),
            ("http://host?x=http://y/z", "", "x=http://y/z"),
            ("host:443", "", ""),
            ("", "", ""),
            ("*", "", ""),
            ("/x://y", "/x://y", ""),
            ("//double/slash", "//double/slash", ""),
            ("\\a?b", "\\a", "b"),
            ("x?y=a://b/c", "", ""),
        ] {
            assert_eq!(path_and_query(url.as_bytes()), (path.as_bytes(), query.as_bytes()), "{url}");
        }
    }

    #[test]
    fn a_text_is_decoded_exactly_once() {
        let mut decoded = Vec::new();
        assert!(decode_into(b"/%77%2530%zz%4", &mut decoded));
        assert_eq!(decoded, b"/w%30%zz%4");
        assert!(!decode_into(b"/plain", &mut decoded));
        assert!(!decode_into(b"/100%", &mut decoded));
    }

    #[test]
    fn a_path_with_the_same_disguise_twice_has_another_form() {
        for part in ["//", "/./", "\\", ";x/", "%2f", "./", " /"] {
            let path = format!("/a{part}b{part}c");
            assert!(!has_one_form(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn the_canonical_form_is_what_a_lenient_server_opens() {
        for (path, expected) in [
            ("/a/b", "/a/b"),
            ("/", "/"),
            ("/.", "/"),
            ("/..", "/"),
            ("/./a", "/a"),
            ("/a/./b/.", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../b", "/b"),
            ("/a/b/..", "/a"),
            ("//a///b//", "/a/b"),
            ("/;x/a;p=1;q/b;", "/a/b"),
            ("/a/..;/b", "/b"),
            ("/a\\..\\b\\", "/b"),
            ("\\a", "/a"),
            ("/a./b. .", "/a/b"),
            ("/.env", "/.env"),
            ("/...", "/..."),
            ("/v1..v2/...a", "/v1..v2/...a"),
        ] {
            assert_eq!(canonical(path), expected, "{path}");
        }
    }

    #[test]
    fn the_forms_include_those_that_less_lenient_servers_read() {
        for (path, form) in [
            ("/a\\b/../x", "/x"),
            ("/a\\..\\x", "/x"),
            ("/x/;a/../y;p", "/x/y;p"),
            ("/x/;a/../y;p", "/x/y"),
            ("/a/./b\\c/", "/a/b\\c/"),
            ("/static../b/./c", "/static../b/c"),
            ("/a%2fb/../x", "/x"),
            ("/a%2fb/../x", "/a/x"),
            ("/x#/../y", "/x"),
            ("/x#/../y", "/y"),
            ("/%252e%252E/x", "/x"),
            ("/x%2500.png", "/x"),
            ("/%25%32%65/x", "/x"),
        ] {
            let forms: Vec<String> = forms(path.as_bytes()).into_iter().map(|form| String::from_utf8(form).unwrap()).collect();
            assert!(forms.iter().any(|found| found == form), "{path} has the forms {forms:?}");
        }
    }

    #[test]
    fn an_ordinary_path_has_one_form() {
        for path in ["", "/", "/a", "/index.html", "/a.b/c-d_e/.well-known/x", "/~user/a:b@c,d=e&f+g!h$i(j)*'k'"] {
            assert_eq!(forms(path.as_bytes()), [path.as_bytes()], "{path}");
        }
    }

    #[test]
    fn a_hostile_path_has_few_forms_and_none_is_longer_than_the_path() {
        for piece in ["/../", "/a/../", "\\..\\", "/;a/..", "//", ";", "#", "%252e%252e/", "%25", ". ", "a", "/.."] {
            let path = format!("/{}", piece.repeat(160_000 / piece.len()));
            let forms = forms(path.as_bytes());
            assert!(forms.len() <= 24, "{piece}: {} forms", forms.len());
            assert!(forms.iter().all(|form| form.len() <= path.len()), "{piece}");
        }
    }

    /// The canonical form, from a list of segments.
    fn naive_canonical(path: &[u8]) -> Vec<u8> {
        let slashes: Vec<u8> = path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect();
        let mut kept: Vec<Vec<u8>> = Vec::new();
        for segment in slashes.split(|byte| *byte == b'/') {
            let mut name: Vec<u8> = segment.iter().copied().take_while(|byte| *byte != b';').collect();
            if name == b".." {
                kept.pop();
                continue;
            }
            if name.is_empty() || name == b"." {
                continue;
            }
            if name.iter().any(|byte| !b". ".contains(byte)) {
                while name.ends_with(b".") || name.ends_with(b" ") {
                    name.pop();
                }
            }
            kept.push(name);
        }
        [b"/".to_vec(), kept.join(&b'/')].concat()
    }

    /// RFC 3986, 5.2.4, from a list of segments.
    fn naive_resolved(path: &[u8]) -> Vec<u8> {
        let mut kept: Vec<&[u8]> = Vec::new();
        for segment in path.split(|byte| *byte == b'/') {
            match segment {
                b"" | b"." => {}
                b".." => drop(kept.pop()),
                name => kept.push(name),
            }
        }
        let mut resolved: Vec<u8> = kept.iter().flat_map(|name| [b"/", *name].concat()).collect();
        if [&b"/"[..], b"/.", b"/.."].iter().any(|end| path.ends_with(end)) {
            resolved.push(b'/');
        }
        resolved
    }

    /// Every form, computed without any shortcut.
    fn naive_forms(path: &[u8]) -> BTreeSet<Vec<u8>> {
        let decode = |text: &Vec<u8>| percent_encoding::percent_decode(text).collect::<Vec<u8>>();
        let sent = [path.to_vec(), path.split(|byte| *byte == b'#').next().unwrap().to_vec()];
        let once = sent.each_ref().map(decode);
        let twice = once.each_ref().map(decode);
        let ended = [0, 1]
            .map(|at| if twice[at] == once[at] { once[at].clone() } else { twice[at].split(|byte| *byte == 0).next().unwrap().to_vec() });
        let texts: Vec<Vec<u8>> = [sent, once, ended].concat();
        let canonical = texts.iter().map(|text| naive_canonical(text));
        let resolved = texts.iter().map(|text| naive_resolved(text));
        let both = texts.iter().map(|text| naive_canonical(&naive_resolved(text)));
        canonical.chain(resolved).chain(both).chain(texts.clone()).collect()
    }

    proptest! {
        #[test]
        fn the_canonical_form_equals_the_naive_one(path in "/([/\\\\.; %#ab]|\\.\\.|%2[eEfF]|%5c|%3b|[\\x00-\\xff]){0,30}") {
            let path = path.as_bytes();
            let mut out = Vec::new();
            canonicalise(path, &mut out);
            prop_assert_eq!(&out, &naive_canonical(path));
            prop_assert!(!is_canonical(path) || out == path, "is_canonical is wrong");
            let mut again = Vec::new();
            canonicalise(&out, &mut again);
            prop_assert_eq!(out, again, "canonicalising again changes it");
        }

        #[test]
        fn a_path_has_one_form_if_it_is_canonical_without_escapes_and_fragments(path in "/[/\\\\.;#% a-c]{0,3}[a-z]{20,40}[/\\\\.;#% a-c]{0,3}([a-z]{30}[/.]{0,2})?") {
            let path = path.as_bytes();
            let naive = is_canonical(path) && !path.contains(&b'%') && !path.contains(&b'#');
            prop_assert_eq!(has_one_form(path), naive);
        }

        #[test]
        fn the_forms_equal_the_naive_ones(path in "/([/\\\\.;#ab]|\\.\\.|%(25)?2[eEfF3]|%(25)?5c|%(25)?3b|%(25)?00|%[0-9]{0,2}){0,14}") {
            let forms = forms(path.as_bytes());
            prop_assert!(forms.len() <= 24);
            prop_assert!(forms.iter().all(|form| form.len() <= path.len()));
            let forms: BTreeSet<Vec<u8>> = forms.into_iter().collect();
            let naive = naive_forms(path.as_bytes());
            prop_assert!(forms.is_subset(&naive), "{:?} of {:?}", forms.difference(&naive), path);
            // A trailing slash alone does not make another form.
            let missing: Vec<_> = naive.difference(&forms).filter(|form| !forms.contains(form.strip_suffix(b"/").unwrap_or(form))).collect();
            prop_assert!(missing.is_empty(), "{missing:?} of {path:?}");
        }

        #[test]
        fn any_bytes_have_forms_without_a_panic(path in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!forms(&path).is_empty());
        }
    }
}
