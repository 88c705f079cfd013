//! Tests of the compiled rules.

use super::*;
use crate::rule::spec::{RuleDefaults, RuleSpec};
use crate::rule_id::RuleNames;
use proptest::prelude::*;

/// Compiles the `[[rule]]` tables of `text`, without the built-in rules.
fn rules(text: &str) -> RuleSet {
    #[derive(serde::Deserialize)]
    struct Tables {
        rule: Vec<RuleSpec>,
    }
    let names = RuleNames::default();
    let tables: Tables = toml::from_str(text).unwrap();
    RuleSet::new(tables.rule.into_iter().map(|spec| spec.check(&names, &RuleDefaults::default()).unwrap()).collect()).unwrap()
}

fn names<'a>(rules: impl IntoIterator<Item = &'a Arc<Rule>>) -> Vec<&'a str> {
    rules.into_iter().map(|rule| &*rule.name).collect()
}

fn get<'a>(url: &'a str, agent: &'a str) -> Request<'a> {
    Request { method: b"GET", url: url.as_bytes(), user_agent: Header::plain(agent.as_bytes()), sec_fetch_site: b"", ..Request::default() }
}

fn offended(rules: &RuleSet, request: &Request<'_>) -> Vec<String> {
    names(&rules.offended_by_request(request, &mut Scratch::default())).into_iter().map(str::to_owned).collect()
}

#[test]
fn rules_are_in_order_of_strictness_with_shadow_rules_last_and_found_by_id_and_name() {
    let rules = rules(
        "[[rule]]\nname = 'five'\nevent = 'incident'\nmaxretry = 5\n[[rule]]\nname = 'shadow'\nevent = 'incident'\nmaxretry = 1\nmode = 'shadow'\n\
         [[rule]]\nname = 'two'\nevent = 'incident'\nmaxretry = 2",
    );
    assert_eq!(names(rules.rules()), ["two", "five", "shadow"]);
    for name in ["two", "five", "shadow"] {
        let rule = rules.by_name(name).unwrap();
        assert_eq!((&*rule.name, rules.get(rule.id).map(|rule| &*rule.name)), (name, Some(name)));
    }
    assert!(rules.by_name("other").is_none());
}

#[test]
fn a_pattern_matches_in_its_own_field_only_also_as_the_only_rule() {
    let fields =
        [("path", "http://h/evil", ""), ("query", "http://h/?evil", ""), ("user_agent", "http://h/", "evil"), ("url", "evil:1", "")];
    let text = |field: &str| format!("[[rule]]\nname = '{}'\n{field} = 'evil'\n", field.replace('_', "-"));
    let all = rules(&fields.map(|(field, _, _)| text(field)).concat());
    for (field, url, agent) in fields {
        let name = field.replace('_', "-");
        // A path or query is part of the URL, so the rule over the URL matches there, too.
        let also = if field == "path" || field == "query" { vec![name.clone(), "url".to_owned()] } else { vec![name.clone()] };
        assert_eq!(offended(&all, &get(url, agent)), also, "{field}");
        assert_eq!(offended(&rules(&text(field)), &get(url, agent)), [name], "{field} alone");
    }
    assert!(offended(&all, &get("http://h/?x", "y")).is_empty());
}

#[test]
fn a_rule_with_a_method_alone_matches_every_request_with_it() {
    let rules = rules("[[rule]]\nname = 'track'\nmethod = ['TRACK', 'DEBUG']");
    for (method, is_offence) in [("TRACK", true), ("DEBUG", true), ("track", false), ("GET", false)] {
        let request = Request { method: method.as_bytes(), ..get("http://h/", "") };
        assert_eq!(!offended(&rules, &request).is_empty(), is_offence, "{method}");
    }
}

#[test]
fn a_rule_with_several_patterns_matches_only_if_all_of_them_do() {
    let rules = rules("[[rule]]\nname = 'all'\nmethod = 'POST'\npath = '/p$'\nquery = 'q'\nuser_agent = 'a'\nurl = '^http:'");
    let hit = Request { method: b"POST", ..get("http://h/p?q", "a") };
    assert_eq!(offended(&rules, &hit), ["all"]);
    for (field, miss) in [
        ("method", Request { method: b"GET", ..hit }),
        ("path", Request { url: b"http://h/other?q", ..hit }),
        ("query", Request { url: b"http://h/p?x", ..hit }),
        ("user_agent", Request { user_agent: Header::plain(b"b"), ..hit }),
        ("url", Request { url: b"https://h/p?q", ..hit }),
    ] {
        assert!(offended(&rules, &miss).is_empty(), "{field}");
    }
}

#[test]
fn a_pattern_for_the_empty_text_matches_a_field_that_is_missing_but_none_that_is_unknown() {
    for (rule, missing, present) in [
        ("user_agent = '^$'", get("http://h/x?q", ""), get("http://h/x?q", "a")),
        ("user_agent = '^(?:|evil)$'", get("http://h/x?q", ""), get("http://h/x?q", "a")),
        ("query = '^$'", get("http://h/x", "a"), get("http://h/x?q", "a")),
        ("query = '^$'", get("http://h/x?", "a"), get("http://h/x?q", "a")),
        ("query = '^$'\nuser_agent = '^$'", get("http://h/x", ""), get("http://h/x", "a")),
    ] {
        for more in ["", "[[rule]]\nname = 'other'\npath = '^/x$'\n"] {
            let rules = rules(&format!("[[rule]]\nname = 'empty'\n{rule}\n{more}"));
            let has = |request: &Request<'_>| offended(&rules, request).contains(&"empty".to_owned());
            assert_eq!((has(&missing), has(&present)), (true, false), "{rule} {more}");
            let unknown = Request { user_agent: Header::default(), ..missing };
            assert_eq!(has(&unknown), !rule.contains("user_agent"), "{rule} {more}");
        }
    }
    let any = rules("[[rule]]\nname = 'any'\nuser_agent = '(?s).*'\n[[rule]]\nname = 'x'\npath = '^/x$'");
    assert_eq!(offended(&any, &Request { user_agent: Header::default(), ..get("/x", "") }), ["x"]);
}

#[test]
fn a_query_is_matched_as_sent_and_decoded_once() {
    let rules = rules("[[rule]]\nname = 'sent'\nquery = '%41'\n[[rule]]\nname = 'decoded'\nquery = 'A'");
    assert_eq!(offended(&rules, &get("/?%41", "")), ["sent", "decoded"]);
    assert_eq!(offended(&rules, &get("/?A", "")), ["decoded"]);
    assert_eq!(offended(&rules, &get("/?%2541", "")), ["sent"]);
    assert!(offended(&rules, &get("/?%2542", "")).is_empty());
}

#[test]
fn a_response_offends_the_rules_that_list_its_status_if_their_path_matches() {
    let rules = rules(
        "[[rule]]\nname = 'any'\nstatus = [404, 410]\n[[rule]]\nname = 'login'\nstatus = 404\npath = '/login'\n\
         [[rule]]\nname = 'admin'\nstatus = 404\npath = '/admin'",
    );
    let offended = |status, url| {
        let offended = rules.offended_by_response(status, &get(url, ""), &mut Scratch::default());
        names(&offended).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(offended(404, "/login"), ["any", "login"]);
    assert_eq!(offended(404, "/admin"), ["any", "admin"]);
    assert_eq!(offended(410, "/login"), ["any"]);
    assert!(offended(200, "/login").is_empty());
}

#[test]
fn a_response_to_what_the_script_of_a_page_asks_for_by_head_offends_nothing() {
    let rules = rules("[[rule]]\nname = 'plugins'\nstatus = 404\nmethod = 'HEAD'\npath = '/plugins/'\ndistinct = 'path'\nmaxretry = 12");
    let is_offended = |sec_fetch_site: &[u8]| {
        let request = Request { method: b"HEAD", sec_fetch_site, ..get("/plugins/a/", "") };
        !rules.offended_by_response(404, &request, &mut Scratch::default()).is_empty()
    };
    assert!(is_offended(b"") && is_offended(b"none"), "a program, and what a user typed");
    assert!(!is_offended(b"cross-site") && !is_offended(b"same-origin"));
}

#[test]
fn rates_and_open_connections_have_rules_of_their_own() {
    let rules = rules(
        "[[rule]]\nname = 'requests'\nevent = 'request'\n[[rule]]\nname = 'connections'\nevent = 'connection'\n\
         [[rule]]\nname = 'ten'\nsimultaneous = 10\n[[rule]]\nname = 'twenty'\nsimultaneous = 20",
    );
    assert_eq!(names(rules.request_rates()), ["requests"]);
    assert_eq!(names(rules.connection_rates()), ["connections"]);
    let open = [0, 10, 11, 20, 21].map(|open| names(rules.offended_by_open_connections(open)));
    assert_eq!(open, [vec![], vec![], vec!["ten"], vec!["ten"], vec!["ten", "twenty"]]);
}

proptest! {
    #[test]
    fn neither_the_first_pass_nor_the_caches_change_which_rules_a_request_offends(
        requests in proptest::collection::vec(("/[abx%.]{0,3}(\\?[aqx]{0,2})?", "[aux]{0,2}|x", prop_oneof![Just("GET"), Just("PUT")]), 1..60),
    ) {
        let text = "[[rule]]\nname = 'path'\npath = 'a'\n[[rule]]\nname = 'query'\nquery = 'q'\n[[rule]]\nname = 'agent'\nuser_agent = 'u'\n\
                    [[rule]]\nname = 'url'\nurl = 'b.*x'\n[[rule]]\nname = 'method'\nmethod = 'PUT'\n\
                    [[rule]]\nname = 'both'\npath = 'x'\nuser_agent = 'a'";
        let empty = "\n[[rule]]\nname = 'no-agent'\nuser_agent = '^$'\n[[rule]]\nname = 'no-query'\nquery = '^$'\npath = 'a'";
        for text in [text, &format!("{text}{empty}"), empty] {
            let rules = rules(text);
            let mut scratch = Scratch::default();
            for (url, agent, method) in &requests {
                let user_agent = if *agent == "x" { Header::default() } else { Header::plain(agent.as_bytes()) };
                let request = Request { method: method.as_bytes(), user_agent, ..get(url, agent) };
                let expected = rules.requests.offended(&request, &mut Scratch::default());
                let found = rules.offended_by_request(&request, &mut scratch);
                prop_assert_eq!(names(&found), names(&expected));
            }
        }
    }
}
