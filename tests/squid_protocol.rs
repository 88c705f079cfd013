//! The Squid helper over its standard streams: every query is answered exactly once, whatever it contains, and nothing else is written.

#[path = "harness/mod.rs"]
mod harness;

use std::fs;
use std::time::{Duration, Instant};

use harness::{Daemon, SquidHelper, Stage, wait_until};

/// Maximum number of bytes that Squid 5 reads at a time.
const SQUID_READS: usize = 32_767;

fn probe(client: &str) -> String {
    format!("{client} GET http://example.test/w00tw00t.at.ISC.SANS.DFind:) ZmEu - -")
}

fn is_ban(answer: &str) -> bool {
    answer.starts_with("OK ban_=yes rule_=w00tw00t until_=")
}

#[test]
fn without_concurrency_answers_have_no_channel_id() {
    let mut helper = SquidHelper::embedded();
    assert_eq!(helper.ask("198.51.100.1 GET http://example.test/ curl - -"), "ERR");
    let ban = helper.ask(&probe("198.51.100.1"));
    assert!(is_ban(&ban), "{ban}");
    assert!(is_ban(&helper.ask("198.51.100.1 GET http://example.test/ curl - -")));
    assert_eq!(helper.ask("198.51.100.2 GET http://example.test/ curl - -"), "ERR");
}

#[test]
fn how_many_bans_have_no_line_in_the_log_is_told_at_the_end() {
    let mut helper = SquidHelper::embedded();
    for client in 0..103 {
        assert!(is_ban(&helper.ask(&probe(&format!("203.0.113.{client}")))));
    }
    let (_, log) = helper.close();
    assert_eq!(log.matches(" banned 203.0.113.").count(), 100, "{log}");
    assert!(log.contains("info: banned 3 more: w00tw00t 3"), "{log}");
}

#[test]
fn with_concurrency_each_answer_has_its_channel_id() {
    let mut helper = SquidHelper::embedded();
    helper.send(format!("1 203.0.113.9 GET http://example.test/ curl - -\n2 {}\n3 203.0.113.9 -\n", probe("198.51.100.1")).as_bytes());
    let mut answers = helper.lines(3);
    answers.sort();
    assert_eq!((answers[0].as_str(), answers[2].as_str()), ("1 ERR", "3 ERR"));
    assert!(is_ban(answers[1].strip_prefix("2 ").unwrap()), "{answers:?}");
}

#[test]
fn a_refusal_names_its_rule_and_its_end_in_epoch_seconds() {
    let mut helper = SquidHelper::embedded();
    let answer = helper.ask(&probe("198.51.100.1"));
    let until: u64 = answer.split("until_=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((3_590..=3_610).contains(&(until - now)), "an hour from now: {answer}");
    assert!(answer.contains(" message=\"") && answer.contains(" log="), "{answer}");
    assert!(answer.len() <= 150, "{answer}");
}

#[test]
fn fields_may_be_omitted_from_the_right() {
    let mut helper = SquidHelper::embedded();
    for (client, query) in [
        ("198.51.100.1", "GET http://example.test/w00tw00t agent none -"),
        ("198.51.100.2", "GET http://example.test/w00tw00t agent -"),
        ("198.51.100.3", "GET http://example.test/w00tw00t -"),
    ] {
        let answer = helper.ask(&format!("{client} {query}"));
        assert!(is_ban(&answer), "{query}: {answer}");
        assert!(is_ban(&helper.ask(&format!("{client} -"))), "the address alone");
    }
    assert_eq!(helper.ask("198.51.100.4 -"), "ERR");
    assert_eq!(helper.ask("198.51.100.4 GET -"), "ERR");
}

/// `Sec-Fetch-Site` excuses the visitor of a page, but not a client with more probes than a page holds.
#[test]
fn the_three_hundredth_refused_probe_in_the_name_of_a_page_bans() {
    let stage = Stage::new();
    let _daemon = Daemon::start_on(&stage, "", "");
    for mut helper in [SquidHelper::embedded(), SquidHelper::attach(&stage)] {
        wait_until("the helper knows the rules", || is_ban(&helper.ask(&probe("192.0.2.9"))));
        let mut refused = 0;
        for number in 1..=300 {
            let answer = helper.ask(&format!("198.51.100.1 GET http://example.test/w00tw00t?{number} Mozilla cross-site -"));
            refused += usize::from(answer.starts_with("OK ban_=yes"));
            if number == 299 {
                assert_eq!(helper.ask("198.51.100.1 GET http://example.test/ Mozilla cross-site -"), "ERR");
            }
        }
        assert_eq!(refused, 300);
        wait_until("the last one bans", || {
            helper.ask("198.51.100.1 GET http://example.test/ Mozilla none -").contains("rule_=page-probes")
        });
        assert_eq!(helper.ask("198.51.100.2 GET http://example.test/ Mozilla none -"), "ERR");
    }
}

#[test]
fn a_query_with_a_status_is_not_a_request() {
    let mut helper = SquidHelper::embedded();
    let query = "198.51.100.1 GET http://example.test/w00tw00t agent -";
    assert_eq!(helper.ask(&format!("{query} status=404")), "ERR");
    assert_eq!(helper.ask("198.51.100.1 -"), "ERR", "a response is never an offence of w00tw00t");
    assert!(is_ban(&helper.ask(&format!("{query} -"))));
}

#[test]
fn unknown_data_is_answered_err_and_logged() {
    let mut helper = SquidHelper::embedded();
    for data in ["foo", "status=", "status=abc", "status=99999999999", "status=404%20x", "--"] {
        let answer = helper.ask(&format!("7 198.51.100.1 GET http://example.test/w00tw00t agent - {data}"));
        assert_eq!(answer, "7 ERR", "{data}");
    }
    helper.logs("expected none or status=NNN");
    assert_eq!(helper.ask("198.51.100.1 -"), "ERR", "it counted for nothing");
}

#[test]
fn escapes_are_decoded_once() {
    let mut helper = SquidHelper::embedded();
    // `%#>ru` escapes `%` too, so this is a request for /%770%30tw0%30t.
    assert!(is_ban(&helper.ask("198.51.100.1 GET http://example.test/%25770%2530tw0%2530t a - -")));
    // And this is one for /%25770..., which a server behind another one decodes to the same.
    assert!(is_ban(&helper.ask("198.51.100.2 GET http://example.test/%2525770%252530tw0%252530t a - -")));
    // And this is one for /%2525770..., which is harmless even decoded twice, as rules over paths do. A helper that decoded once more would ban.
    assert_eq!(helper.ask("198.51.100.3 GET http://example.test/%252525770%25252530tw0%25252530t a - -"), "ERR");
}

#[test]
fn a_path_is_judged_in_every_spelling_that_a_server_takes_for_it() {
    let mut helper = SquidHelper::embedded();
    // As `%#>ru` escapes them: `%`, `#`, a space and `\` are three bytes.
    let spellings = [
        "/.env",
        "/./.env",
        "/%252e/.env",
        "/a/../.env",
        "//.env",
        "/;a/.env",
        "/.env;p=1",
        "/.env/",
        "/.env.",
        "/a%5c..%5c.env",
        "/%25252eenv",
        "/.ENV",
        "/a/..;x/.env",
        "/.env%23x",
        "/.env%2520",
        "/a%5cb/../.env",
        "/%253b/.env%252f",
    ];
    for (number, path) in spellings.into_iter().enumerate() {
        for (host, authority) in ["site.example", "user:password@site.example"].into_iter().enumerate() {
            let client = format!("198.51.{}.{}", 100 + host, number + 1);
            let answer = helper.ask(&format!("{client} GET http://{authority}{path} a - -"));
            assert!(answer.starts_with("OK ban_=yes rule_=env-file "), "{path}: {answer}");
        }
    }
    for path in
        ["/", "/environment/", "/docs/../about.", "/a;jsessionid=1/b", "/wiki/C%5cD", "/me/src/./branch/x/.env-how-to", "/100%25/x/"]
    {
        assert_eq!(helper.ask(&format!("203.0.113.1 GET http://site.example{path} a - -")), "ERR", "{path}");
    }
}

#[test]
fn every_form_of_address_that_squid_writes_is_understood() {
    let mut helper = SquidHelper::embedded();
    assert!(is_ban(&helper.ask(&probe("2001:db8::1"))));
    assert!(is_ban(&helper.ask("2001:db8::2 -")), "one client for each /64");
    assert_eq!(helper.ask("2001:db8:0:1::2 -"), "ERR");
    assert!(is_ban(&helper.ask(&probe("::ffff:198.51.100.1"))));
    assert!(is_ban(&helper.ask("198.51.100.1 -")), "an IPv4-mapped address is the IPv4 address");
}

#[test]
fn loopback_is_never_banned() {
    let mut helper = SquidHelper::embedded();
    for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        helper.ask(&probe(own));
        assert_eq!(helper.ask(&format!("{own} -")), "ERR", "{own}");
    }
}

/// Malformed queries, which Squid would not send.
const BAD: &[&[u8]] = &[
    b"",
    b" ",
    b"-",
    b"- -",
    b"   198.51.100.1   GET",
    b"not-an-address GET http://example.test/w00tw00t agent - -",
    b"999.1.1.1 GET http://example.test/w00tw00t agent - -",
    b"198.51.100.1:8080 GET http://example.test/w00tw00t agent - -",
    b"198.51.100.1 GET http://example.test/w00tw00t agent - too many fields here -",
    b"\x00\x01\x02\xff\xfe",
    b"\xff\xff \xfe\xfe \xfd -",
    b"198.51.100.1 \x00 \xff%zz%%%1 \x80 %",
    b"%31%39%38.51.100.1 GET http://example.test/w00tw00t agent - -\t",
    b"OK ban_=yes",
    b"\r",
];

#[test]
fn malformed_queries_are_answered_once_and_count_for_nobody() {
    let mut helper = SquidHelper::embedded();
    for bad in BAD {
        assert_eq!(helper.ask_bytes(bad), "ERR", "{:?}", String::from_utf8_lossy(bad));
        let with_id = [b"42 ".as_slice(), bad].concat();
        assert_eq!(helper.ask_bytes(&with_id), "42 ERR", "{:?}", String::from_utf8_lossy(&with_id));
    }
    assert_eq!(helper.ask_bytes(b"42"), "42 ERR", "a channel ID alone");
    assert_eq!(helper.ask("198.51.100.1 -"), "ERR");
    assert!(is_ban(&helper.ask(&probe("198.51.100.1"))), "it still works");
}

#[test]
fn random_bytes_get_one_answer_per_line() {
    let mut helper = SquidHelper::embedded();
    // splitmix64 with a fixed seed: the same bytes every time.
    let mut state = 0x5eed_u64;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    };
    for _ in 0..40 {
        let mut soup = Vec::new();
        while soup.len() < 4_000 {
            soup.extend(random());
        }
        let mut queries = soup.iter().filter(|byte| **byte == b'\n').count();
        if soup.last() != Some(&b'\n') {
            soup.push(b'\n');
            queries += 1;
        }
        helper.send(&soup);
        helper.lines(queries);
    }
    assert!(is_ban(&helper.ask(&probe("198.51.100.1"))));
}

#[test]
fn channel_ids_are_returned_unchanged() {
    let mut helper = SquidHelper::embedded();
    for id in ["0", "1", "007", "2147400000"] {
        assert_eq!(helper.ask(&format!("{id} 203.0.113.9 -")), format!("{id} ERR"));
    }
}

#[test]
fn a_query_of_200_kilobytes_is_judged() {
    let mut helper = SquidHelper::embedded();
    let agent = "a%20".repeat(50_000);
    let answer = helper.ask(&format!("9 198.51.100.1 GET http://example.test/w00tw00t {agent} - -"));
    assert!(is_ban(answer.strip_prefix("9 ").unwrap()), "{answer}");
}

#[test]
fn an_endless_query_takes_bounded_memory_and_gets_one_answer() {
    let mut helper = SquidHelper::embedded();
    helper.send(b"9 198.51.100.1 GET http://example.test/");
    let block = vec![b'a'; 1 << 20];
    for _ in 0..32 {
        helper.send(&block);
    }
    helper.send(b" agent - -\n");
    assert_eq!(helper.lines(1), ["9 ERR"]);
    let kilobytes = helper.peak_memory() / 1024;
    assert!(kilobytes < 64 * 1024, "{kilobytes} kB after a query of 32 MB");
    assert_eq!(helper.ask("10 203.0.113.9 -"), "10 ERR");
}

#[test]
fn answers_to_a_burst_are_whole_lines_and_fit_into_one_read_of_squids() {
    let mut helper = SquidHelper::embedded();
    assert!(is_ban(&helper.ask(&probe("198.51.100.1"))));
    // As many queries as the examples allow at a time, all from the banned client.
    let burst: String = (1_000_000_000..1_000_000_500).map(|id| format!("{id} 198.51.100.1 -\n")).collect();
    helper.send(burst.as_bytes());
    let mut unread = 0;
    let mut answers = 0;
    while answers < 500 {
        let written = helper.next_write();
        assert_eq!(written.last(), Some(&b'\n'), "a line is split between two writes");
        unread += written.len();
        answers += written.iter().filter(|byte| **byte == b'\n').count();
        for line in written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            assert!(line[10..].starts_with(b" OK ban_=yes"), "{:?}", String::from_utf8_lossy(line));
        }
    }
    assert!(unread <= SQUID_READS, "{unread} bytes for one burst");
}

#[test]
fn no_text_of_the_clients_gets_into_an_answer() {
    let mut helper = SquidHelper::embedded();
    let evil = "%0a1%20OK%20ban_=yes\"user=root";
    let answer = helper.ask(&format!("5 198.51.100.1 {evil} http://example.test/w00tw00t{evil} {evil} - -"));
    assert!(is_ban(answer.strip_prefix("5 ").unwrap()), "{answer}");
    assert!(!answer.contains("root"), "{answer}");
}

#[test]
fn the_end_of_input_is_a_clean_end() {
    let mut helper = SquidHelper::embedded();
    assert_eq!(helper.ask("1 203.0.113.9 -"), "1 ERR");
    // An incomplete query at the end of input does no harm.
    helper.send(b"2 203.0.113.9");
    let (status, log) = helper.close();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("panick"), "{log}");
}

#[test]
fn it_ends_while_idle_before_channel_ids_overflow() {
    let mut helper = SquidHelper::embedded();
    assert_eq!(helper.ask("2147483000 203.0.113.9 -"), "2147483000 ERR");
    assert_eq!(helper.status().code(), Some(0));
}

#[test]
fn with_an_invalid_configuration_it_answers_err_and_logs_until_that_is_fixed() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("strikeout.toml");
    fs::write(&config, "[defaults]\nmaxretry = 3\nbantiem = \"1h\"\n").unwrap();
    let mut helper = SquidHelper::start(&["--config", config.to_str().unwrap()]);
    assert_eq!(helper.ask(&format!("1 {}", probe("198.51.100.1"))), "1 ERR");
    helper.logs(&format!("{}:3:", config.display()));
    helper.logs("bantiem");
    fs::write(&config, "[defaults]\nmaxretry = 3\nbantime = \"1h\"\n").unwrap();
    wait_until("it reads the corrected file", || is_ban(&helper.ask(&probe("198.51.100.1"))));
}

#[test]
fn with_its_own_table_it_sees_changed_lists_and_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let (config, list, pieces) = (dir.path().join("strikeout.toml"), dir.path().join("office"), dir.path().join("conf.d"));
    fs::write(&list, "192.0.2.1\n").unwrap();
    fs::write(&config, format!("[defaults]\nignoreip = [{list:?}]\n")).unwrap();
    let mut helper = SquidHelper::start(&["--config", config.to_str().unwrap()]);
    assert!(is_ban(&helper.ask(&probe("198.51.100.1"))));
    fs::write(&list, "192.0.2.1\n198.51.100.1\n").unwrap();
    wait_until("it reads the changed list", || !is_ban(&helper.ask(&probe("198.51.100.1"))));
    fs::create_dir(&pieces).unwrap();
    fs::write(pieces.join("own.toml"), "[[rule]]\nname = 'own'\npath = '/own'\nmaxretry = 1\n").unwrap();
    wait_until("it reads the new piece", || helper.ask("198.51.100.2 GET http://a.example/own -").starts_with("OK "));
    // A list that appears only after the configuration that names it.
    let late = dir.path().join("late");
    fs::write(pieces.join("late.toml"), format!("[defaults]\ndeny = [{late:?}]\n")).unwrap();
    helper.logs("late");
    fs::write(&late, "203.0.113.0/24\n").unwrap();
    wait_until("it reads the list that has appeared", || helper.ask("203.0.113.7 GET http://a.example/ -").starts_with("OK "));
}

#[test]
fn a_missing_configuration_file_is_logged_and_does_not_end_it() {
    let mut helper = SquidHelper::start(&["--config", "/nonexistent/strikeout.toml"]);
    assert_eq!(helper.ask("1 203.0.113.9 -"), "1 ERR");
    helper.logs("/nonexistent/strikeout.toml");
}

#[test]
fn without_its_daemon_it_serves_everybody_and_logs_that() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nobody.sock");
    let mut helper = SquidHelper::start(&["--table", socket.to_str().unwrap()]);
    // Without the never-ban lists it must not ban anybody.
    let start = Instant::now();
    assert_eq!(helper.ask(&probe("198.51.100.1")), "ERR");
    assert_eq!(helper.ask("203.0.113.9 GET http://example.test/ a - -"), "ERR");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    helper.logs("nobody.sock");
    helper.logs("every query is answered ERR");
}

#[test]
fn wrong_arguments_are_logged_and_every_query_is_answered_err() {
    // Squid would restart a helper that exits, and deny everybody meanwhile.
    let mut helper = SquidHelper::start(&["--tabel", "/run/strikeout/strikeout.sock"]);
    assert_eq!(helper.ask(&format!("1 {}", probe("198.51.100.1"))), "1 ERR");
    helper.logs("--tabel");
}

/// A helper with a table of its own and these names after `--headers`.
fn with_headers(stage: &Stage, names: &str, more: &[&str]) -> SquidHelper {
    let config = stage.write("strikeout.toml", "[[rule]]\nname = 'no-x'\nheader = '^cookie: x$'\nmaxretry = 2");
    let config = config.display().to_string();
    let arguments = ["--config", &config, "--headers", names];
    SquidHelper::start(&[&arguments, more].concat())
}

#[test]
fn headers_are_judged_by_the_names_that_the_helper_is_given() {
    let stage = Stage::new();
    let mut helper = with_headers(&stage, "Cookie,Next-Action", &[]).until_ready();
    let mut ask = |client: &str, headers: &str| helper.ask(&format!("{client} POST http://example.test/ curl - - {headers} -"));
    assert_eq!(ask("198.51.100.1", "y 0097e06455409910bf9b7005c13f2609f6f484fa94"), "ERR");
    assert!(ask("198.51.100.1", "x -").starts_with("OK ban_=yes rule_=no-x "));
    assert!(ask("198.51.100.2", "- x").starts_with("OK ban_=yes rule_=next-action-probe "));
    assert_eq!(ask("198.51.100.3", "status=404 -"), "ERR");
    assert_eq!(ask("198.51.100.3", "x"), "ERR", "one header in place of two: nobody knows which");
    assert_eq!(ask("198.51.100.3", "x - -"), "ERR");
    let (_, log) = helper.close();
    assert!(log.contains("found 1 headers behind the Referer, expected the 2 that --headers names"), "{log}");
}

#[test]
fn names_that_are_no_headers_are_wrong_arguments() {
    let stage = Stage::new();
    for names in ["", "Cookie,", "a b", "Referer", "Cookie,cookie"] {
        let mut helper = with_headers(&stage, names, &[]);
        assert_eq!(helper.ask("198.51.100.1 GET /w00tw00t curl - - x -"), "ERR", "{names}");
        let (_, log) = helper.close();
        assert!(log.contains("the arguments are wrong") && log.contains("--headers"), "{names}: {log}");
    }
}

#[test]
fn no_header_gets_into_the_log_not_even_with_d() {
    let stage = Stage::new();
    let mut helper = with_headers(&stage, "Cookie", &["-d"]).until_ready();
    assert_eq!(helper.ask("198.51.100.1 GET http://example.test/page curl - - session%3Dsecret -"), "ERR");
    assert!(helper.ask("198.51.100.1 GET http://example.test/page curl - - x -").starts_with("OK "));
    let (_, log) = helper.close();
    assert!(log.contains("http://example.test/page") && !log.contains("secret"), "{log}");
}

#[test]
fn with_a_prefilter_the_helper_says_that_it_does_not_look_at_headers() {
    let stage = Stage::new();
    let directory = stage.path("prefilter");
    let helper = with_headers(&stage, "Cookie", &["--prefilter", directory.to_str().unwrap()]).until_ready();
    let (_, log) = helper.close();
    assert!(log.contains("rules over headers are only tried on requests that the prefilter lets through"), "{log}");
}

#[test]
fn it_does_not_log_ordinary_queries_by_default() {
    let mut helper = SquidHelper::embedded();
    for _ in 0..100 {
        assert_eq!(helper.ask("203.0.113.9 GET http://example.test/ a - -"), "ERR");
    }
    let (_, log) = helper.close();
    assert!(log.lines().count() < 5, "stderr goes into cache.log: {log}");
}

#[test]
fn two_helpers_with_one_state_file_share_their_bans() {
    let dir = tempfile::tempdir().unwrap();
    let (config, state) = (dir.path().join("strikeout.toml"), dir.path().join("strikeout.db"));
    fs::write(&config, "").unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap()];
    let (mut one, mut two) = (SquidHelper::start(&arguments).until_ready(), SquidHelper::start(&arguments).until_ready());
    assert_eq!(two.ask("198.51.100.1 -"), "ERR");
    assert!(is_ban(&one.ask(&probe("198.51.100.1"))));
    wait_until("the other sees the ban", || is_ban(&two.ask("198.51.100.1 -")));
    let mut three = SquidHelper::start(&arguments).until_ready();
    assert!(is_ban(&three.ask("198.51.100.1 -")), "and a new one from its first answer on");
}

#[test]
fn a_helper_ends_no_ban_in_a_shared_state_file_by_a_rule_that_only_another_one_has() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (state, probing, other) = (file("state.db"), file("probing.toml"), file("other.toml"));
    std::fs::write(&probing, "[[rule]]\nname = 'own-probe'\npath = '/own-probe'\nmaxretry = 1\n").unwrap();
    let start = |config: &str| SquidHelper::start(&["--config", config, "--state", &state]).until_ready();
    let mut first = start(&probing);
    assert!(first.ask("198.51.100.1 GET http://example.test/own-probe -").starts_with("OK "));
    drop(first);
    for text in ["", "[[rule]]\nname = 'own-probe'\npath = '/own-probe'\nmaxretry = 1\nmode = 'shadow'\n"] {
        std::fs::write(&other, text).unwrap();
        let mut second = start(&other);
        // Without the rule, it takes the ban as that of the other one; by the same rule in shadow mode it refuses nobody.
        assert_eq!(second.refuses("198.51.100.1"), text.is_empty(), "{text}");
    }
    assert!(start(&probing).refuses("198.51.100.1"), "nor did it remove the ban from the file");
}

#[test]
fn a_ban_outlives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let (config, state) = (dir.path().join("strikeout.toml"), dir.path().join("strikeout.db"));
    fs::write(&config, "").unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap()];
    let mut helper = SquidHelper::start(&arguments).until_ready();
    assert!(is_ban(&helper.ask(&probe("198.51.100.1"))));
    // Dropping the helper kills it, right after its answer.
    drop(helper);
    assert!(is_ban(&SquidHelper::start(&arguments).until_ready().ask("198.51.100.1 -")));
}
