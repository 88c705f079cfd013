//! Tests of how a rule's keys are read and checked.

use super::*;
use crate::rule::{LinePattern, RequestPattern, ResponsePattern, Trigger};

fn spec(keys: &str) -> RuleSpec {
    toml::from_str(&format!("name = 'rule'\n{keys}")).unwrap()
}

fn check(spec: RuleSpec) -> Result<Rule, SpecError> {
    spec.check(&RuleNames::default(), &RuleDefaults::default())
}

fn trigger(keys: &str) -> Trigger {
    check(spec(keys)).unwrap().trigger
}

fn error(keys: &str) -> String {
    check(spec(keys)).unwrap_err().message
}

fn response(statuses: &[u16], path: Option<&str>) -> Trigger {
    Trigger::Response(ResponsePattern { statuses: statuses.to_vec(), path: path.map(str::to_owned), ..ResponsePattern::default() })
}

#[test]
fn a_rule_has_one_kind_of_trigger() {
    let line = |pattern| Trigger::Line(pattern);
    let request = |pattern| Trigger::Request(pattern);
    let some = |text: &str| Some(text.to_owned());
    for (keys, expected) in [
        ("event = 'request'", Trigger::RequestRate),
        ("event = 'page-probe'\nmaxretry = 2", Trigger::PageProbe),
        ("event = 'connection'", Trigger::ConnectionRate),
        ("event = 'incident'", Trigger::Incident),
        ("simultaneous = 3", Trigger::Simultaneous { limit: 3 }),
        ("status = 404", response(&[404], None)),
        ("status = [500, 404, 500]\npath = '/a'", response(&[404, 500], Some("/a"))),
        ("method = 'PUT'", request(RequestPattern { methods: vec!["PUT".to_owned()], ..RequestPattern::default() })),
        ("path = '/a'", request(RequestPattern { path: some("/a"), ..RequestPattern::default() })),
        ("query = 'a'", request(RequestPattern { query: some("a"), ..RequestPattern::default() })),
        ("user_agent = 'a'", request(RequestPattern { user_agent: some("a"), ..RequestPattern::default() })),
        ("url = 'a'", request(RequestPattern { url: some("a"), ..RequestPattern::default() })),
        ("header = 'a'", request(RequestPattern { header: some("a"), ..RequestPattern::default() })),
        (
            "failregex = 'a'\nignoreregex = ['b', 'c']",
            line(LinePattern::Regex { failregex: vec!["a".into()], ignoreregex: vec!["b".into(), "c".into()] }),
        ),
        (
            "filter = '/a.conf'\nfilter_options = { mode = 'extra' }",
            line(LinePattern::Filter { path: "/a.conf".into(), options: vec![("mode".into(), "extra".into())] }),
        ),
    ] {
        assert_eq!(trigger(keys), expected, "{keys}");
    }
    assert!(error("").contains("nothing that says what it matches"));
    assert!(error("event = 'request'\npath = '/a'").contains("event together with method, path, query, user_agent, url or header"));
}

#[test]
fn any_key_that_selects_events_replaces_the_whole_built_in_pattern() {
    let builtin = || RuleSpec { is_tested: true, ..spec("method = 'PUT'\npath = '/builtin'\nmaxretry = 9") };
    for keys in [
        "event = 'incident'",
        "method = 'GET'",
        "path = '/a'",
        "query = 'a'",
        "user_agent = 'a'",
        "url = 'a'",
        "status = 404",
        "simultaneous = 3",
        "exim = 'x'",
        "failregex = 'a'",
        "filter = '/a'",
    ] {
        let merged = spec(keys).inheriting(&builtin());
        assert!(
            merged.path.is_none_or(|path| path.get_ref() == "/a")
                && merged.method.is_none_or(|method| method == OneOrMany::One("GET".into())),
            "{keys}"
        );
        assert!(!merged.is_tested && merged.maxretry.is_some(), "{keys}");
    }
    let merged = spec("findtime = '1h'").inheriting(&builtin());
    assert!(merged.is_tested && merged.path.is_some() && merged.method.is_some());
}

#[test]
fn a_name_has_1_to_64_characters_of_a_small_alphabet() {
    let named = |name: &str| check(toml::from_str(&format!("name = '{name}'\nevent = 'incident'")).unwrap());
    for name in ["a", "a-0", &"x".repeat(64)] {
        assert!(named(name).is_ok(), "{name}");
    }
    for name in ["", "A", "a_b", "a b", "é", &"x".repeat(65)] {
        let error = named(name).unwrap_err();
        assert!(error.message.contains("expected 1 to 64 characters"), "{}", error.message);
    }
    for name in [RESERVED[0], "fail2ban-sshd", "crowdsec-x"] {
        assert!(named(name).unwrap_err().message.contains("reserved"), "{name}");
    }
}

#[test]
fn a_rule_that_any_page_can_trigger_needs_two_strikes_unless_it_is_a_shadow_rule() {
    for field in ["query", "user_agent", "url"] {
        assert!(error(&format!("{field} = 'a'\nmaxretry = 1")).contains("expected 2 or more"), "{field}");
        assert!(check(spec(&format!("{field} = 'a'\nmaxretry = 2"))).is_ok(), "{field}");
        assert!(check(spec(&format!("{field} = 'a'\nmaxretry = 1\nmode = 'shadow'"))).is_ok(), "{field}");
    }
    assert!(error("event = 'page-probe'\nmaxretry = 1").contains("expected 2 or more"));
    assert!(check(spec("path = '/a'\nmaxretry = 1")).is_ok());
    assert!(error("path = '/a'\nmaxretry = 0").contains("expected 1 or more"));
}

#[test]
fn findtime_is_1_ms_to_49_days() {
    let findtime = |findtime: &str| check(spec(&format!("event = 'incident'\nfindtime = '{findtime}'"))).map(|rule| rule.findtime);
    assert_eq!(findtime("0.001"), Ok(Span::from_millis(1)));
    assert_eq!(findtime("49d"), Ok(MAX_FINDTIME));
    for wrong in ["0", "50d", "49d 1s"] {
        assert!(findtime(wrong).unwrap_err().message.contains("expected 1 ms to 7w"), "{wrong}");
    }
}

#[test]
fn an_offence_is_refused_at_once_if_it_bans_or_is_forgeable_or_exceeds_a_limit() {
    for (keys, refuses) in [
        ("path = '/a'\nmaxretry = 1", true),
        ("path = '/a'\nmaxretry = 2", false),
        ("query = 'a'\nmaxretry = 2", true),
        ("status = 200\nquery = 'a'\nmaxretry = 2", false),
        ("simultaneous = 3\nmaxretry = 9", true),
        ("query = 'a'\nmaxretry = 2\nrefuse = 'ban'", false),
        ("path = '/a'\nmaxretry = 2\nrefuse = 'offence'", true),
        ("event = 'page-probe'\nmaxretry = 2", false),
    ] {
        assert_eq!(check(spec(keys)).unwrap().refuses_offence, refuses, "{keys}");
    }
}

#[test]
fn a_status_goes_with_conditions_over_its_request_and_has_three_digits() {
    for field in ["user_agent", "url"] {
        assert!(error(&format!("status = 404\n{field} = 'a'")).contains("expected status alone or with method, path"), "{field}");
    }
    for status in [99, 1000] {
        assert!(error(&format!("status = [404, {status}]")).contains("expected 100 to 999"), "{status}");
        assert!(error(&format!("status = 404\ncleared_by_status = {status}")).contains("expected 100 to 999"), "{status}");
    }
    assert_eq!(trigger("status = [999, 100]"), response(&[100, 999], None));
    let keys = "status = 401\nmethod = 'POST'\npath = '/a'\nquery = 'd'\nnot_path = '/b'\nnot_query = 'c'\nreferer = false\ncredentials = true\ncleared_by_status = [302, 200, 302]";
    let expected = ResponsePattern {
        statuses: vec![401],
        methods: vec!["POST".to_owned()],
        path: Some("/a".to_owned()),
        query: Some("d".to_owned()),
        not_path: Some("/b".to_owned()),
        not_query: Some("c".to_owned()),
        referer: Some(false),
        credentials: Some(true),
        cleared_by: vec![200, 302],
    };
    assert_eq!(trigger(keys), Trigger::Response(expected));
}

#[test]
fn conditions_need_something_to_be_conditions_of() {
    for keys in ["not_path = '/a'", "not_query = 'a'", "referer = true"] {
        assert!(error(keys).contains("nothing that says what it matches"), "{keys}");
        assert!(error(&format!("event = 'request'\n{keys}")).contains("found not_path, not_query or referer"), "{keys}");
    }
    for keys in ["credentials = true", "cleared_by_status = 200"] {
        assert!(error(&format!("path = '/a'\n{keys}")).contains("expected status as well"), "{keys}");
    }
    assert!(error("event = 'request'\ndistinct = 'path'").contains("found distinct in a rule that is not about requests"));
    assert!(error("status = 401\ncleared_by_status = 200\ndistinct = 'path'").contains("expected a path"));
    assert_eq!(error("path = '/a'\nmaxretry = 101\ndistinct = 'path'"), "found maxretry = 101 with distinct, expected at most 100");
    assert!(
        error("path = '/(a'\nnot_path = '/a'").contains("unclosed group")
            && error("path = '/a'\nnot_path = '/(a'").contains("unclosed group")
    );
    assert!(toml::from_str::<RuleSpec>("name = 'rule'\npath = '/a'\ndistinct = 'host'").is_err());
}

#[test]
fn a_rule_ignores_addresses_networks_and_lists_of_them() {
    let rule = check(spec("path = '/a'\nignoreip = ['192.0.2.1', '2001:db8::/32']")).unwrap();
    assert_eq!(
        ["192.0.2.1", "192.0.2.2", "2001:db8::7"].map(|address| rule.ignoreip.contains(address.parse().unwrap())),
        [true, false, true]
    );
    assert!(error("path = '/a'\nignoreip = ['mail']").starts_with("found \"mail\" in ignoreip, expected an IP address"));
    assert!(error("path = '/a'\nignoreip = ['/none/list']").starts_with("/none/list: "));
    let many: Vec<String> = (0..1001).map(|number| format!("'10.{}.{}.1'", number / 256, number % 256)).collect();
    assert!(error(&format!("path = '/a'\nignoreip = [{}]", many.join(", "))).starts_with("found 1001 networks in a rule's ignoreip"));
}

#[test]
fn conditions_and_addresses_may_be_added_to_a_built_in_pattern() {
    let builtin = spec("status = 401\nreferer = false\ndistinct = 'path'\npath = '/a'\nignoreip = ['192.0.2.1']");
    let merged = spec("cleared_by_status = 302\nreferer = true\nignoreip = ['192.0.2.2']").inheriting(&builtin);
    let rule = check(merged).unwrap();
    let Trigger::Response(pattern) = &rule.trigger else { panic!("{rule:?}") };
    assert_eq!(
        (&pattern.statuses[..], &pattern.cleared_by[..], pattern.referer, rule.distinct),
        (&[401][..], &[302][..], Some(true), Some(Distinct::Path))
    );
    assert_eq!(["192.0.2.1", "192.0.2.2"].map(|address| rule.ignoreip.contains(address.parse().unwrap())), [false, true]);
    let Trigger::Response(pattern) = trigger("status = 404") else { panic!() };
    assert_eq!((pattern.referer, pattern.cleared_by), (None, Vec::new()), "a pattern of its own replaces them");
}

#[test]
fn options_of_a_line_pattern_need_the_pattern() {
    assert!(error("event = 'incident'\nignoreregex = 'a'").contains("expected both or neither"));
    assert!(error("event = 'incident'\nfilter_options = { mode = 'a' }").contains("expected both or neither"));
    assert!(error("simultaneous = 0").contains("expected 1 or more"));
    assert!(error("event = 'request'\nfleet = true").contains("expected no fleet"));
}

#[test]
fn a_pattern_is_compiled_only_to_check_it_and_not_if_it_is_tested() {
    assert!(error("path = '('").contains("found the pattern '('"));
    assert!(check(RuleSpec { is_tested: true, ..spec("path = '('") }).is_ok());
}
