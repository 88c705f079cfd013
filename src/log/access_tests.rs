//! Lines of each format of access logs, and that no text of a client's names another client.

use super::*;
use proptest::prelude::*;

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn parsed(line: &str) -> AccessLine<'_> {
    parse(line.as_bytes(), &mut Zone::utc()).unwrap_or_else(|| panic!("no access line: {line}"))
}

#[test]
fn squids_own_format_is_parsed() {
    let line =
        parsed("1386543323.000      4 91.188.124.227 TCP_DENIED/403 4099 GET http://www.example.org/azenv.php - HIER_NONE/- text/html");
    assert_eq!(
        line,
        AccessLine {
            time: Time::from_millis(1_386_543_323_000),
            client: ip("91.188.124.227"),
            method: b"GET",
            url: b"http://www.example.org/azenv.php",
            status: Some(403),
            user: None,
            user_agent: None,
            sec_fetch_site: None,
            referer: None,
            credentials: None,
            result: Some(SquidResult::Denied),
            asked: Asked::Unknown,
        }
    );
}

#[test]
fn squid_writes_000_where_nothing_was_answered_and_a_name_for_a_user() {
    let line = parsed("1386543500.000      5 2001:db8::1 NONE_NONE/000 0 - error:transaction-end-before-headers anna HIER_NONE/- -");
    assert_eq!((line.client, line.status, line.method), (None, None, &b""[..]), "an idle connection names nobody");
    assert_eq!(line.user, Some(&b"anna"[..]));
    assert!(!line.is_authenticated());
}

#[test]
fn our_format_is_read_with_its_escapes() {
    let line = parsed("1795932767.058 10.9.0.37 404 TCP_MISS GET http://site/a%2520b?x yes a%20b%22c%2520%80 http://x/%20y same-origin");
    assert_eq!(
        line,
        AccessLine {
            time: Time::from_millis(1_795_932_767_058),
            client: ip("10.9.0.37"),
            method: b"GET",
            url: b"http://site/a%2520b?x",
            status: Some(404),
            user: None,
            user_agent: Some(b"a%20b%22c%2520%80"),
            sec_fetch_site: Some(b"same-origin"),
            referer: Some(b"http://x/%20y"),
            credentials: Some(false),
            result: Some(SquidResult::Other),
            asked: Asked::Yes,
        }
    );
    assert_eq!(line.decode(line.url).as_ref(), b"http://site/a%20b?x", "as the client sent it");
    assert_eq!(line.decode(b"a%20b%22c%2520%80").as_ref(), b"a b\"c%20\x80");
}

#[test]
fn the_source_and_the_credentials_of_a_request_are_read_where_a_format_has_them() {
    let ours = "1795932767.058 10.9.0.37 401 TCP_MISS GET http://site/a";
    let combined = "192.0.2.1 - anna [23/Nov/2026:01:02:03 +0000] \"GET / HTTP/1.1\" 401 12";
    for (text, referer, credentials) in [
        (format!("{ours} password agent http://x/ none"), Some(&b"http://x/"[..]), Some(true)),
        (format!("{ours} yes agent - none"), Some(b""), Some(false)),
        (format!("{ours} - agent - none"), Some(b""), None),
        (format!("{ours} failed agent"), None, None),
        (ours.to_owned(), None, None),
        (format!("{combined} \"http://x/\" \"agent\""), Some(b"http://x/"), Some(true)),
        (format!("{} \"-\" \"agent\"", combined.replace("anna", "-")), Some(b""), Some(false)),
        (combined.to_owned(), None, Some(true)),
    ] {
        let line = parsed(&text);
        assert_eq!((line.referer, line.credentials), (referer, credentials), "{text}");
    }
}

#[test]
fn our_format_says_what_was_asked_about() {
    for (mark, asked) in [("-", Asked::No), ("yes", Asked::Yes), ("password", Asked::Yes), ("failed", Asked::Failed)] {
        let text = format!("1795932767.058 2001:db8::1 403 TCP_DENIED GET http://192.0.2.1/.env {mark} - - -");
        let line = parsed(&text);
        assert_eq!((line.client, line.asked, line.user_agent), (ip("2001:db8::1"), asked, Some(&b""[..])), "{mark}");
    }
    let cut = parsed("1795932767.058 192.0.2.1 400 NONE_NONE GET http://site/aaaaaaa");
    assert_eq!((cut.client, cut.asked), (ip("192.0.2.1"), Asked::Yes), "unknown, so the request does not count");
    assert_eq!(cut.user_agent, None, "the line does not say whether there was one");
    assert_eq!(parse(b"1795932767.058 192.0.2.1 400 NONE_NONE GET", &mut Zone::utc()), None);
    assert_eq!(parse(b"1795932767.058 192.0.2.1 TCP_DENIED/403 GET http://site/.env x - - - -", &mut Zone::utc()), None, "another format");
}

#[test]
fn datagrams_and_idle_connections_name_nobody_in_any_format() {
    for line in [
        "1795860000.000      0 198.51.100.31 UDP_DENIED/000 69 ICP_QUERY http://example.test/w00tw00t - HIER_NONE/- -",
        "1795860000.000      0 198.51.100.31 UDP_HIT/000 69 ICP_QUERY http://example.test/w00tw00t - HIER_NONE/- -",
        "1795860000.000  60000 198.51.100.32 NONE_NONE/000 0 - error:transaction-end-before-headers - HIER_NONE/- -",
        r#"198.51.100.32 - - [23/Nov/2026:01:02:03 +0000] "- error:transaction-end-before-headers HTTP/0.0" 0 0 "-" "-" NONE_NONE:HIER_NONE"#,
        r#"198.51.100.31 - - [23/Nov/2026:01:02:03 +0000] "ICP_QUERY http://example.test/w00tw00t ICP/0.0" 0 69 "-" "-" UDP_DENIED:HIER_NONE"#,
        "1795860000.000 198.51.100.32 0 NONE_NONE - error:transaction-end-before-headers - - - -",
        "1795860000.000 198.51.100.31 0 UDP_DENIED ICP_QUERY http://example.test/w00tw00t - - - -",
    ] {
        let read = parsed(line);
        assert!(read.client.is_none() && read.is_no_request(), "{line}");
    }
    let line = parsed("1795860000.000 198.51.100.32 400 NONE_NONE - error:invalid-request - - - -");
    assert_eq!(line.client, ip("198.51.100.32"), "something was sent, and was answered");
}

#[test]
fn squids_native_format_may_start_with_another_time_or_with_the_address() {
    let expected = parsed("1795395723.000      4 192.0.2.1 TCP_DENIED/403 498 GET http://site/x - HIER_NONE/- text/html");
    for start in [
        "1795395723.000 192.0.2.1      4",
        "1795395723.000      4 192.0.2.1:51812",
        "23-Nov-2026 01:02:03  192.0.2.1      4",
        "23-Nov-2026 01:02:03      4 192.0.2.1",
        "23/Nov/2026:02:02:03 +0100      4 192.0.2.1",
        "[23/Nov/2026:01:02:03 +0000]      4 192.0.2.1",
        "2026-11-23T01:02:03.000Z      4 192.0.2.1",
        "Mon Nov 23 01:02:03 2026      4 192.0.2.1",
    ] {
        let line = format!("{start} TCP_DENIED/403 498 GET http://site/x - HIER_NONE/- text/html");
        assert_eq!(parsed(&line), expected, "{start}");
    }
    let line = "23-Nov-2026 01:02:03 192.0.2.1 198.51.100.9 TCP_DENIED/403 498 GET http://site/x - HIER_NONE/- text/html";
    assert_eq!(parse(line.as_bytes(), &mut Zone::utc()), None, "two addresses");
    let line = parsed("23-Nov-2026 01:02:03  4 198.51.100.31 UDP_DENIED/000 69 ICP_QUERY http://site/x - HIER_NONE/- -");
    assert!(line.client.is_none() && line.is_no_request());
}

#[test]
fn the_combined_format_may_have_a_host_or_a_port_around_the_address() {
    for start in
        ["www.example.org:80 192.0.2.1", "192.0.2.1:51812", "[::ffff:192.0.2.1]:51812", "443 192.0.2.1", "192.0.2.1 www.example.org"]
    {
        let text = format!(r#"{start} - anna [23/Nov/2026:01:02:03 +0000] "GET /x HTTP/1.1" 404 1 "-" "x""#);
        let line = parsed(&text);
        assert_eq!(
            (line.client, line.user, line.url, line.status),
            (ip("192.0.2.1"), Some(&b"anna"[..]), &b"/x"[..], Some(404)),
            "{start}"
        );
    }
    let asked_for_an_address = parsed(r#"198.51.100.9 192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET /x HTTP/1.1" 404 1"#);
    assert_eq!(asked_for_an_address.client, None, "either could be the host");
}

#[test]
fn a_quote_in_a_path_that_squid_does_not_escape_does_not_end_the_request() {
    for url in
        [r#"http://site/missing"a"#, r#"http://site/""#, r#"http://site/"404"x"#, r#"http://site/a" HTTP/1.1""#, r#"http://site/a" b c"#]
    {
        let text = format!(r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET {url} HTTP/1.1" 404 345 "-" "x" TCP_MISS:HIER_DIRECT"#);
        let line = parsed(&text);
        assert_eq!((line.client, line.url, line.status), (ip("192.0.2.1"), url.as_bytes(), Some(404)), "{url}");
        assert_eq!((line.user_agent, line.result), (Some(&b"x"[..]), Some(SquidResult::Other)), "{url}");
    }
}

#[test]
fn squids_result_says_what_it_refused_unasked() {
    for (code, unasked) in [
        ("TCP_DENIED/403", true),
        ("TCP_DENIED_ABORTED/403", true),
        ("NONE_NONE/400", true),
        ("NONE_NONE_ABORTED/000", true),
        ("NONE/400", true),
        ("TCP_DENIED/429", false),
        ("TCP_DENIED_REPLY/403", false),
        ("TCP_MISS/404", false),
    ] {
        let text = format!("1795860000.000 4 192.0.2.1 {code} 4099 GET http://site/ - HIER_NONE/- text/html");
        assert_eq!(parsed(&text).is_refused_unasked(), unasked, "{code}");
    }
    assert!(!parsed(r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET / HTTP/1.1" 403 0"#).is_refused_unasked(), "no Squid");
}

#[test]
fn blanks_in_a_url_make_neither_a_user_nor_a_client() {
    let line = parsed(
        "1386543500.000 5 192.0.2.1 TCP_MISS/200 9 GET http://site/a root HIER_DIRECT/9.9.9.9 text/html - HIER_DIRECT/10.0.0.1 text/html",
    );
    assert_eq!((line.client, line.user), (ip("192.0.2.1"), None));
    assert_eq!(line.url, b"http://site/a root HIER_DIRECT/9.9.9.9 text/html");
}

#[test]
fn the_common_format_is_read_as_squid_writes_it() {
    let line = parsed(r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET http://site/x HTTP/1.1" 429 3897 TCP_DENIED:HIER_NONE"#);
    assert_eq!((line.time, line.client), (Time::from_secs(1_795_395_723), ip("192.0.2.1")));
    assert_eq!((line.method, line.url, line.status), (&b"GET"[..], &b"http://site/x"[..], Some(429)));
    assert_eq!(line.result, Some(SquidResult::Denied));
    assert!(line.is_our_refusal());
}

#[test]
fn the_combined_format_is_read_as_apache_nginx_and_squid_write_it() {
    let line =
        parsed(r#"2001:db8::7 - anna [23/Nov/2026:02:02:03 +0100] "POST /a?b=c HTTP/2.0" 200 12 "http://ref/" "Mozilla/5.0 (X; \"Y\")""#);
    assert_eq!((line.client, line.user, line.status), (ip("2001:db8::7"), Some(&b"anna"[..]), Some(200)));
    assert_eq!((line.method, line.url), (&b"POST"[..], &b"/a?b=c"[..]));
    assert_eq!(line.user_agent, Some(&br#"Mozilla/5.0 (X; \"Y\")"#[..]));
    assert!(line.is_authenticated() && line.result.is_none());
    let line =
        parsed(r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET http://s/ HTTP/1.1" 429 12 "-" "x" TCP_MISS:Z "y" TCP_DENIED:HIER_NONE"#);
    assert_eq!(line.result, Some(SquidResult::Denied), "what Squid wrote last, not what a client wrote");
}

#[test]
fn a_user_who_was_turned_away_is_not_authenticated() {
    let line = parsed(r#"192.0.2.1 - admin [23/Nov/2026:01:02:03 +0000] "GET / HTTP/1.1" 401 12 "-" "-""#);
    assert_eq!((line.user, line.is_authenticated(), line.user_agent), (Some(&b"admin"[..]), false, Some(&b""[..])));
}

#[test]
fn a_users_name_full_of_brackets_moves_nothing() {
    let line = parsed(
        r#"192.0.2.1 - a [23/Nov/2020:01:02:03 +0000] \"GET /x HTTP/1.1\" 200 [23/Nov/2026:01:02:03 +0000] "GET / HTTP/1.1" 401 12"#,
    );
    assert_eq!((line.time, line.status, line.url), (Time::from_secs(1_795_395_723), Some(401), &b"/"[..]));
}

#[test]
fn what_is_no_request_is_all_url() {
    for (request, method, url) in [
        (r"\x16\x03\x01", "", r"\x16\x03\x01"),
        ("-", "", "-"),
        ("", "", ""),
        ("GET", "", "GET"),
        ("GET /", "GET", "/"),
        ("GET /a b c HTTP/1.0", "GET", "/a b c"),
        (r"GET /\x22 HTTP/1.0", "GET", r"/\x22"),
        ("GET /a b", "GET", "/a b"),
        ("M-SEARCH * HTTP/1.1", "M-SEARCH", "*"),
        ("BASELINE_CONTROL /a HTTP/1.1", "BASELINE_CONTROL", "/a"),
        (r"\x16\x03 /a HTTP/1.1", "", r"\x16\x03 /a HTTP/1.1"),
    ] {
        let text = format!(r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "{request}" 400 0 "-" "-""#);
        let line = parsed(&text);
        assert_eq!((line.method, line.url, line.status), (method.as_bytes(), url.as_bytes(), Some(400)), "{request}");
    }
}

#[test]
fn a_host_name_instead_of_an_address_blames_nobody() {
    assert_eq!(parsed(r#"host.example - - [23/Nov/2026:01:02:03 +0000] "GET /192.0.2.9 HTTP/1.1" 404 0"#).client, None);
}

#[test]
fn other_lines_are_no_access_lines() {
    for line in [
        "",
        " ",
        "2026-11-23 01:02:03 hello",
        "1386543323.000",
        "1386543323.000 4 192.0.2.1",
        r#"192.0.2.1 - - "GET / HTTP/1.1" 200 1"#,
        "1795932767.058 10.9.0.37 4040 TCP_MISS GET http://site/ yes - - -",
        "1795932767.058 10.9.0.37 abc TCP_MISS GET http://site/ yes - - -",
    ] {
        assert_eq!(parse(line.as_bytes(), &mut Zone::utc()), None, "{line:?}");
    }
}

#[test]
fn escapes_are_undone_once() {
    assert_eq!(unescape(br#"a\x22\"\\x22\n%20\q"#).as_ref(), b"a\"\"\\x22\n%20q");
    assert_eq!(unescape(br"\").as_ref(), br"\");
    assert_eq!(unescape(br"\x2").as_ref(), b"x2");
    assert_eq!(unescape(br"\x2g\xg2\xgg\Xa9").as_ref(), b"x2gxg2xgg\xa9");
}

/// As Apache writes text of a client's between quotes.
fn escaped(text: &[u8]) -> String {
    text.iter()
        .map(|byte| match byte {
            b'"' => "\\\"".to_owned(),
            b'\\' => "\\\\".to_owned(),
            0x20..=0x7e => char::from(*byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        })
        .collect()
}

/// As Squid's `%#` writes text of a client's (rfc1738_do_escape), and a missing text.
fn percent_escaped(text: &[u8]) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let is_plain = |byte: &u8| (0x21..=0x7e).contains(byte) && !b"<>\"#%{}|\\^~[]`'".contains(byte);
    text.iter().map(|byte| if is_plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

proptest! {
    #[test]
    fn no_text_of_a_client_changes_whom_our_line_blames_or_whether_it_was_asked_about(
        client in any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())), asked in any::<bool>(),
        url in proptest::collection::vec(any::<u8>(), 1..80), agent in proptest::collection::vec(any::<u8>(), 0..80),
        width in 0_usize..80,
    ) {
        // A width in the format may cut an escape in half.
        let [line_url, mut line_agent] = [&url, &agent].map(|text| percent_escaped(text));
        line_agent.truncate(width.max(1));
        let mark = if asked { "yes" } else { "-" };
        let line = format!("1795395723.000 {client} 404 TCP_MISS GET {line_url} {mark} {line_agent} {line_agent} none");
        let read = parse(line.as_bytes(), &mut Zone::utc()).unwrap();
        prop_assert_eq!((read.client, read.status, read.time), (Some(client), Some(404), Time::from_secs(1_795_395_723)));
        prop_assert_eq!((read.asked, read.sec_fetch_site), (if asked { Asked::Yes } else { Asked::No }, Some(&b"none"[..])));
        if url != b"-" {
            prop_assert_eq!(read.decode(read.url).into_owned(), url);
        }
    }

    #[test]
    fn no_text_of_a_client_changes_whom_a_combined_line_blames(
        client in any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
        user in "[ -!#-\\[\\]-~]{1,30}", url in proptest::collection::vec(any::<u8>(), 0..80), agent in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let line = format!(
            "{client} - {user} [23/Nov/2026:01:02:03 +0000] \"GET {} HTTP/1.1\" 404 7 \"-\" \"{}\"", escaped(&url), escaped(&agent)
        );
        let read = parse(line.as_bytes(), &mut Zone::utc()).unwrap();
        prop_assert_eq!((read.client, read.status, read.time), (Some(client), Some(404), Time::from_secs(1_795_395_723)));
        prop_assert_eq!(unescape(read.url).into_owned(), url);
        if !agent.is_empty() && agent != b"-" {
            prop_assert_eq!(unescape(read.user_agent.unwrap()).into_owned(), agent);
        }
    }

    #[test]
    fn no_text_of_a_client_changes_the_status_or_client_of_squids_combined_line(
        client in any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())), url in r#"[!-\[\]-~]{1,40}"#,
    ) {
        let line = format!("www:80 {client} - - [23/Nov/2026:01:02:03 +0000] \"GET {url} HTTP/1.1\" 404 7 \"-\" \"-\" TCP_MISS:HIER_NONE");
        let read = parse(line.as_bytes(), &mut Zone::utc()).unwrap();
        prop_assert_eq!((read.client, read.url, read.status), (Some(client), url.as_bytes(), Some(404)));
    }

    #[test]
    fn no_text_of_a_client_changes_whom_a_line_of_squid_blames(
        client in any::<u128>().prop_map(|bits| IpAddr::from(bits.to_be_bytes()).to_canonical()), url in "[ -~]{1,80}",
    ) {
        let line = format!("1386543323.000      4 {client} TCP_MISS/404 4099 GET {url} - HIER_NONE/- text/html");
        let read = parse(line.as_bytes(), &mut Zone::utc()).unwrap();
        prop_assert_eq!((read.client, read.status, read.user), (Some(client), Some(404), None));
    }

    #[test]
    fn no_bytes_make_the_reader_fail(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&line, &mut Zone::utc());
        let _ = unescape(&line);
    }

    #[test]
    fn no_damage_to_a_line_makes_the_reader_fail(cut in 0_usize..140, byte in any::<u8>(), at in 0_usize..140) {
        let mut line = br#"192.0.2.1 - u [23/Nov/2026:01:02:03 +0000] "GET /x HTTP/1.1" 429 3897 "r" "a" TCP_DENIED:HIER_NONE"#.to_vec();
        if let Some(place) = line.get_mut(at) {
            *place = byte;
        }
        line.truncate(cut);
        let _ = parse(&line, &mut Zone::utc());
    }
}

#[test]
fn a_line_is_moved_without_a_call() {
    assert_eq!((size_of::<AccessLine<'_>>(), size_of::<crate::log::line::LogLine<'_>>()), (128, 128));
}
