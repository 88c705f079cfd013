//! Tests of how single events are judged.

use super::*;
use crate::event::{Header, Scope};
use crate::geo::{AskedOrigins, Origin};
use crate::list::BannedNetwork;
use crate::policy::Policy;
use crate::rule_id::RuleNames;
use crate::time::Span;

const NOW: Time = Time::from_secs(1_800_000_000);

/// What a detector borrows.
struct Fixture {
    policy: Policy,
    bans: Bans,
    names: RuleNames,
}

impl Fixture {
    fn new(text: &str) -> Self {
        let names = RuleNames::default();
        let policy = Policy::for_tests(text, &names);
        Self { policy, bans: Bans::new(100), names }
    }

    fn judge(&self, address: &str, event: &Event<'_>) -> Judgement {
        Detector::new(&self.policy, &self.bans).judge(NOW, address.parse().unwrap(), event, &mut Scratch::default())
    }

    /// The names of the rules that a request offends.
    fn offended(&self, request: Request<'_>) -> Vec<String> {
        match self.judge("192.0.2.1", &Event::Request(request)) {
            Judgement::Offence(offence) => offence.rules.iter().map(|rule| rule.name.to_string()).collect(),
            _ => Vec::new(),
        }
    }

    fn ban(&self, address: &str, scope: Scope, rule: &str) {
        let ban = Ban { until: Until::at(NOW.after(Span::from_secs(60))), rule: self.names.intern(rule), saved: true };
        self.bans.ban(Client::of(address.parse().unwrap(), Ipv6Prefix::default()), scope, ban, NOW);
    }
}

fn get(url: &str) -> Request<'_> {
    Request { method: b"GET", url: url.as_bytes(), ..Request::default() }
}

fn verdict(judgement: Judgement) -> Verdict {
    match judgement {
        Judgement::Settled { verdict, .. } => verdict,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_spelling_of_w00tw00t_is_an_offence_even_percent_encoded() {
    let fixture = Fixture::new("");
    for path in [
        "/w00tw00t.at.ISC.SANS.DFind:)",
        "/wootwoot",
        "/WootWoot",
        "/WooTWooT",
        "/a/W0oTw0Ot",
        "/%77%30%30%74w00t",
        "/%57ootwoot?x",
        "/%2577ootwoot",
    ] {
        assert_eq!(fixture.offended(get(&format!("http://www.example.org{path}"))), ["w00tw00t"], "{path}");
    }
    for path in ["/", "/w00t", "/%252577ootwoot", "/?q=/w00tw00t", "/search/wootw", "/w/00tw00t"] {
        assert!(fixture.offended(get(&format!("http://www.example.org{path}"))).is_empty(), "{path}");
    }
}

#[test]
fn a_request_sent_by_a_page_is_refused_without_a_strike() {
    let fixture = Fixture::new("");
    for (site, struck) in
        [("", true), ("none", true), ("None", true), ("cross-site", false), ("same-origin", false), ("same-site", false), ("junk", false)]
    {
        let request = Request { sec_fetch_site: site.as_bytes(), ..get("/w00tw00t") };
        match fixture.judge("192.0.2.1", &Event::Request(request)) {
            Judgement::Offence(_) => assert!(struck, "{site}"),
            Judgement::Settled { verdict, .. } => {
                assert!(!struck, "{site}");
                assert_eq!(verdict.refusal().map(|refusal| refusal.reason), Some(DenyReason::Offence));
            }
            Judgement::Unsaved(_) | Judgement::Ask { .. } => panic!("no ban exists"),
        }
    }
}

#[test]
fn no_page_sends_a_connect_or_a_trace_whatever_the_header_says() {
    let fixture = Fixture::new("");
    let from_a_page = |method| Request { method, sec_fetch_site: b"cross-site", ..get("mail.example.org:25") };
    for (method, rule) in
        [(&b"CONNECT"[..], "proxy-mail-relay"), (b"TRACE", "trace-method"), (b"TRACK", "trace-method"), (b"track", "track")]
    {
        let fixture = if rule == "track" { Fixture::new("[[rule]]\nname = 'track'\nmethod = 'track'") } else { Fixture::new("") };
        assert_eq!(fixture.offended(from_a_page(method)), [rule]);
    }
    for method in [&b"DEBUG"[..], b"GET", b"POST"] {
        assert!(fixture.offended(Request { url: b"/w00tw00t", ..from_a_page(method) }).is_empty());
    }
}

#[test]
fn a_page_probe_is_a_refusal_that_rests_on_the_header_alone() {
    let mut fixture = Fixture::new("");
    let page_probe = |fixture: &Fixture, request: Request<'_>| {
        let Judgement::Settled { verdict, .. } = fixture.judge("192.0.2.1", &Event::Request(request)) else { return None };
        let offence = Detector::new(&fixture.policy, &fixture.bans).page_probe("192.0.2.1".parse().unwrap(), &request, &verdict)?;
        Some((offence.rules.iter().map(|rule| rule.name.to_string()).collect(), offence.evidence.as_str().to_owned()))
    };
    let probe = Request { sec_fetch_site: b"cross-site", ..get("/w00tw00t") };
    let evidence = "GET /w00tw00t Sec-Fetch-Site: cross-site".to_owned();
    assert_eq!(page_probe(&fixture, probe), Some((vec!["page-probes".to_owned()], evidence)));
    assert_eq!(page_probe(&fixture, Request { url: b"/", ..probe }), None, "an ordinary request");
    assert_eq!(page_probe(&fixture, Request { sec_fetch_site: b"none", ..probe }), None, "an offence of its client");
    fixture.policy.lists.set_ignoreip(vec![crate::list::ListSource::new("x", vec!["192.0.2.1/32".parse().unwrap()])]);
    assert_eq!(page_probe(&fixture, probe), None, "never banned");
    let fixture = Fixture::new("[[rule]]\nname = 'page-probes'\nenabled = false");
    assert_eq!(page_probe(&fixture, probe), None, "switched off");
    let fixture = Fixture::new("");
    fixture.ban("192.0.2.1", Scope::Web, "w00tw00t");
    assert_eq!(page_probe(&fixture, probe), None, "a banned client");
}

#[test]
fn rules_that_serve_single_offences_see_no_request_of_a_page_unless_they_refuse_each() {
    let count = |text: &str| {
        let fixture = Fixture::new(text);
        let request = Request { sec_fetch_site: b"same-origin", ..get("/actuator/heapdump") };
        let verdict = verdict(fixture.judge("192.0.2.1", &Event::Request(request)));
        Detector::new(&fixture.policy, &fixture.bans).page_probe("192.0.2.1".parse().unwrap(), &request, &verdict).is_some()
    };
    assert!(!count(""), "the pages of an application send hundreds");
    assert!(count("[[rule]]\nname = 'actuator'\nrefuse = 'offence'"));
}

#[test]
fn a_request_sent_by_a_page_is_served_unless_an_enforced_rule_refuses_each_offence() {
    for (keys, reason) in [
        ("maxretry = 1", Some(DenyReason::Offence)),
        ("maxretry = 1\nmode = 'shadow'", None),
        ("maxretry = 2", None),
        ("maxretry = 2\nrefuse = 'offence'", Some(DenyReason::Offence)),
    ] {
        let fixture = Fixture::new(&format!("[[rule]]\nname = 'admin'\npath = '^/admin$'\n{keys}"));
        let request = Request { sec_fetch_site: b"cross-site", ..get("/admin") };
        let verdict = verdict(fixture.judge("192.0.2.1", &Event::Request(request)));
        assert_eq!(verdict.refusal().map(|refusal| refusal.reason), reason, "{keys}");
    }
}

#[test]
fn a_banned_network_refuses_its_addresses_on_every_service_until_its_end() {
    let mut fixture = Fixture::new("");
    for (network, until) in
        [("192.0.2.0/24", Some(NOW.after(Span::from_secs(60)))), ("198.51.100.0/24", None), ("203.0.113.0/24", Some(NOW))]
    {
        let network = network.parse::<crate::geo::Network>().unwrap();
        fixture.policy.lists.banned.insert(BannedNetwork { until, ..BannedNetwork::manual(network, NOW) });
    }
    for (address, until) in
        [("192.0.2.7", Some(Until::at(NOW.after(Span::from_secs(60))))), ("198.51.100.7", Some(Until::NEVER)), ("203.0.113.7", None)]
    {
        for event in [Event::Request(get("/")), Event::Lookup(Service::Mail)] {
            let verdict = verdict(fixture.judge(address, &event));
            assert_eq!(
                verdict.refusal().map(|refusal| (refusal.until, refusal.rule)),
                until.map(|until| (until, RuleId::MANUAL)),
                "{address}"
            );
        }
    }
}

#[test]
fn the_never_ban_lists_apply_to_the_full_address_before_the_prefix_cut() {
    let fixture = Fixture::new("[defaults]\nignoreip = ['198.51.100.0/24', '2001:db8::1']\ntrusted_proxies = ['203.0.113.7']");
    for address in ["127.0.0.1", "::1", "198.51.100.9", "203.0.113.7", "2001:db8::1", "::ffff:198.51.100.9"] {
        let verdict = verdict(fixture.judge(address, &Event::Request(get("/w00tw00t"))));
        assert!(matches!(verdict, Verdict::Allow(AllowReason::NeverBanned(_))), "{address}: {verdict:?}");
    }
    assert!(matches!(fixture.judge("2001:db8::2", &Event::Request(get("/w00tw00t"))), Judgement::Offence(_)));
}

#[test]
fn a_ban_refuses_every_event_on_its_service_without_counting_it() {
    let fixture = Fixture::new("");
    fixture.ban("192.0.2.1", Scope::Web, "w00tw00t");
    for event in [
        Event::Request(get("/w00tw00t")),
        Event::Request(get("/")),
        Event::Lookup(Service::Web),
        Event::Response { request: get("/"), status: 404 },
    ] {
        let verdict = verdict(fixture.judge("192.0.2.1", &event));
        assert_eq!(verdict.refusal().map(|refusal| refusal.reason), Some(DenyReason::Banned));
    }
    assert_eq!(verdict(fixture.judge("192.0.2.1", &Event::Lookup(Service::Mail))), Verdict::Allow(AllowReason::NothingFound));
}

#[test]
fn a_refusal_by_an_unsaved_ban_is_marked() {
    let fixture = Fixture::new("");
    let ban = Ban { until: Until::NEVER, rule: RuleId::MANUAL, saved: false };
    fixture.bans.ban(Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1)), Scope::All, ban, NOW);
    assert!(matches!(fixture.judge("192.0.2.1", &Event::Request(get("/"))), Judgement::Unsaved(Verdict::Deny(_))));
}

#[test]
fn mail_is_deferred_unless_the_rule_says_deny() {
    let fixture = Fixture::new("[[rule]]\nname = 'hard'\nevent = 'incident'\nsmtp = 'deny'");
    fixture.ban("192.0.2.1", Scope::All, "w00tw00t");
    fixture.ban("192.0.2.2", Scope::All, "hard");
    assert!(matches!(verdict(fixture.judge("192.0.2.1", &Event::Lookup(Service::Mail))), Verdict::Defer(_)));
    assert!(matches!(verdict(fixture.judge("192.0.2.2", &Event::Lookup(Service::Mail))), Verdict::Deny(_)));
    assert!(matches!(verdict(fixture.judge("192.0.2.2", &Event::Lookup(Service::Web))), Verdict::Deny(_)));
}

#[test]
fn a_deny_list_refuses_permanently_but_yields_to_the_never_ban_lists() {
    let fixture = Fixture::new("[defaults]\ndeny = ['192.0.2.0/24', '127.0.0.0/8']");
    let refused = verdict(fixture.judge("192.0.2.200", &Event::Lookup(Service::Web)));
    assert_eq!(refused, Verdict::Deny(Refusal { rule: RuleId::DENY_LIST, until: Until::NEVER, reason: DenyReason::DenyList }));
    assert!(matches!(verdict(fixture.judge("127.0.0.1", &Event::Lookup(Service::Web))), Verdict::Allow(_)));
}

#[test]
fn a_ban_keeps_a_user_from_logging_in_only_for_incidents_of_smtp_or_by_hand() {
    let fixture = Fixture::new(
        "[defaults]\ndeny = ['198.51.100.0/24']\n[[rule]]\nname = 'own'\nfailregex = 'from <HOST>'\n\
         [[rule]]\nname = 'errors'\nexim = 'too-many-errors'",
    );
    let bans = [
        ("w00tw00t", true),
        ("exim-rate", true),
        ("exim-per-host", true),
        ("errors", true),
        ("exim-auth", false),
        ("exim-helo", false),
        ("exim-auth-log", false),
        ("own", false),
        ("recidive", false),
        ("banned-network", false),
        ("a-rule-that-is-gone", false),
    ];
    let admits = |address: &str| {
        let lookup = fixture.judge(address, &Event::Lookup(Service::Mail));
        Detector::new(&fixture.policy, &fixture.bans).admits_login(&lookup)
    };
    for (number, (rule, is_admitted)) in bans.into_iter().enumerate() {
        let address = format!("192.0.2.{number}");
        fixture.ban(&address, Scope::All, rule);
        assert_eq!(admits(&address), is_admitted, "{rule}");
    }
    assert!(!admits("198.51.100.1"), "a deny list");
    assert!(!admits("203.0.113.1"), "nothing to be admitted in spite of");
}

#[test]
fn connections_offend_the_rate_and_simultaneous_rules_except_on_submission_ports() {
    let fixture = Fixture::new("");
    let rules = |connection| match fixture.judge("192.0.2.1", &Event::Connection(connection)) {
        Judgement::Offence(offence) => offence.rules.iter().map(|rule| rule.name.to_string()).collect(),
        _ => Vec::new(),
    };
    assert_eq!(rules(Connection { port: Some(25), open: 10 }), ["exim-rate"]);
    assert_eq!(rules(Connection { port: None, open: 11 }), ["exim-rate", "exim-simultaneous"]);
    for port in [465, 587] {
        assert!(rules(Connection { port: Some(port), open: 99 }).is_empty());
    }
}

#[test]
fn a_rule_matches_only_if_all_its_patterns_do() {
    let fixture = Fixture::new("[[rule]]\nname = 'post-login'\nmethod = 'POST'\npath = '^/login$'\nuser_agent = 'Evil'\nmaxretry = 2");
    let hit = Request {
        method: b"POST",
        url: b"http://h/login",
        user_agent: Header::plain(b"Mozilla Evil/1"),
        sec_fetch_site: b"",
        ..Request::default()
    };
    assert_eq!(fixture.offended(hit), ["post-login"]);
    for miss in
        [Request { method: b"GET", ..hit }, Request { url: b"http://h/login2", ..hit }, Request { user_agent: Header::default(), ..hit }]
    {
        assert!(fixture.offended(miss).is_empty(), "{miss:?}");
    }
}

#[test]
fn a_status_offends_the_rules_that_list_it_on_the_paths_they_match() {
    let fixture = Fixture::new("[[rule]]\nname = 'gone'\nstatus = 410\n[[rule]]\nname = 'login'\nstatus = [402, 451]\npath = '/login'");
    let rules = |status, url| match fixture.judge("192.0.2.1", &Event::Response { request: get(url), status }) {
        Judgement::Offence(offence) => offence.rules.iter().map(|rule| rule.name.to_string()).collect(),
        _ => Vec::new(),
    };
    assert_eq!(rules(410, "/x"), ["gone"]);
    assert_eq!(rules(451, "/login"), ["login"]);
    assert_eq!(rules(451, "/a/..;/x\\..//%256c%256fgin"), ["login"], "in any spelling");
    assert!(rules(451, "/x").is_empty() && rules(200, "/login").is_empty());
    let ordinary = fixture.judge("192.0.2.1", &Event::Response { request: get("/login"), status: 200 });
    assert!(matches!(ordinary, Judgement::Settled { counts: false, .. }), "it is no request: {ordinary:?}");
}

/// A helper that is attached to a daemon, which has said so of these clients.
fn attached(text: &str, known: &[(&str, &str)]) -> Fixture {
    let mut fixture = Fixture::new(text);
    let asked = AskedOrigins::default();
    for (address, asn) in known {
        let client = Client::of(address.parse().unwrap(), Ipv6Prefix::default());
        asked.insert(client, Origin { asn: asn.parse().ok(), country: None });
    }
    fixture.policy.geo = Geo::Daemon(Arc::new(asked));
    fixture
}

#[test]
fn a_helper_asks_where_a_client_belongs_only_while_that_decides() {
    let mut fixture = attached("[defaults]\nignoreip = ['192.0.2.9']", &[("192.0.2.1", "AS64496"), ("192.0.2.2", "AS64497")]);
    let request = || Event::Request(get("/"));
    assert!(matches!(fixture.judge("192.0.2.3", &request()), Judgement::Settled { .. }), "nobody is refused for that");
    fixture.policy.lists.set_denied_origins([("AS64496".parse().unwrap(), "deny".into())].into_iter().collect());
    let refused = verdict(fixture.judge("192.0.2.1", &request()));
    assert_eq!(refused.refusal().map(|refusal| refusal.reason), Some(DenyReason::DenyList));
    assert_eq!(verdict(fixture.judge("192.0.2.2", &request())).refusal(), None);
    assert_eq!(verdict(fixture.judge("192.0.2.9", &request())).refusal(), None, "never banned");
    assert!(matches!(fixture.judge("192.0.2.3", &request()), Judgement::Ask { counts: true, .. }));
    assert!(matches!(fixture.judge("192.0.2.3", &Event::Lookup(Service::Web)), Judgement::Ask { counts: false, .. }));
    assert!(matches!(fixture.judge("192.0.2.3", &Event::Request(get("/w00tw00t"))), Judgement::Offence(_)), "the daemon decides anyway");
    let response = Event::Response { request: get("/"), status: 200 };
    assert_eq!(verdict(fixture.judge("192.0.2.3", &response)).refusal(), None, "a response is on its way");
}

#[test]
fn a_helper_asks_about_a_page_s_request_that_a_rule_refuses_for_where_its_client_belongs() {
    let rules = "[[rule]]\nname = 'far'\npath = '^/far'\nmaxretry = 1\nasn = 64496";
    let fixture = attached(rules, &[("192.0.2.1", "AS64496"), ("192.0.2.2", "AS64497")]);
    let judge = |address| fixture.judge(address, &Event::Request(Request { sec_fetch_site: b"cross-site", ..get("/far") }));
    assert_eq!(verdict(judge("192.0.2.1")).refusal().map(|refusal| refusal.reason), Some(DenyReason::Offence));
    assert_eq!(verdict(judge("192.0.2.2")).refusal(), None);
    assert!(matches!(judge("192.0.2.3"), Judgement::Ask { rules, .. } if rules.len() == 1));
}

/// Answers come, and are forgotten, on another thread than that of the queries.
#[test]
fn a_denied_client_is_refused_or_asked_about_whenever_the_answer_about_it_comes_or_goes() {
    let mut fixture = attached("", &[]);
    fixture.policy.lists.set_denied_origins([("AS64496".parse().unwrap(), "deny".into())].into_iter().collect());
    let (client, asn) = (Client::of("192.0.2.1".parse().unwrap(), Ipv6Prefix::default()), "AS64496".parse().ok());
    let Geo::Daemon(asked) = &fixture.policy.geo else { unreachable!("as attached") };
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                asked.insert(client, Origin { asn, country: None });
                asked.clear();
            }
        });
        let judged = (0..5000).map(|_| fixture.judge("192.0.2.1", &Event::Request(get("/"))));
        let served =
            judged.filter(|judgement| matches!(judgement, Judgement::Settled { verdict, .. } if verdict.refusal().is_none())).count();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(served, 0);
    });
}
