//! The site profile for idno: an innocent crawl of a whole site, feed readers and webmentions ban nobody; probes of it do.

#![expect(clippy::unwrap_used, reason = "tests may")]

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use strikeout::internals::client::{Client, Ipv6Prefix};
use strikeout::internals::config::Config;
use strikeout::internals::detector::Detector;
use strikeout::internals::detector::Judgement;
use strikeout::internals::engine::Engine;
use strikeout::internals::engine::reply::Reply;
use strikeout::internals::event::{Event, Header, Request, Service};
use strikeout::internals::policy::Policy;
use strikeout::internals::rule::set::Scratch;
use strikeout::internals::rule_id::RuleNames;
use strikeout::internals::table::RequestTally;
use strikeout::internals::time::{Span, Time};

const BEGIN: Time = Time::from_secs(1_800_000_000);

/// A table with a configuration, and a clock that the visitors move on.
struct Site {
    engine: Arc<Engine>,
    now: Time,
}

impl Site {
    fn new(text: &str) -> Self {
        let names = Arc::new(RuleNames::default());
        let config = Config::parse(text.as_bytes(), Path::new("test.toml"), &names).unwrap();
        Self { engine: Arc::new(Engine::new(names, Policy::from(config), 10_000, 10_000).unwrap()), now: BEGIN }
    }

    fn wait(&mut self, span: Span) {
        self.now = self.now.after(span);
    }

    /// One request and its answer's status, as Squid reports them; whether either was refused.
    fn visit(&self, address: &str, agent: &str, line: &str, status: u16) -> bool {
        let (method, path) = line.split_once(' ').unwrap_or(("GET", line));
        let url = format!("https://known.example{path}");
        let request = Request {
            method: method.as_bytes(),
            url: url.as_bytes(),
            user_agent: Header::plain(agent.as_bytes()),
            sec_fetch_site: b"",
            ..Request::default()
        };
        self.event(address, &Event::Request(request)) || self.event(address, &Event::Response { request, status })
    }

    fn event(&self, address: &str, event: &Event<'_>) -> bool {
        let address: IpAddr = address.parse().unwrap();
        let policy = self.engine.policy();
        let judgement = Detector::new(&policy, self.engine.bans()).judge(self.now, address, event, &mut Scratch::default());
        let (verdict, counts) = match judgement {
            Judgement::Settled { verdict, counts } => (verdict, counts),
            Judgement::Unsaved(verdict) => (verdict, false),
            Judgement::Ask { .. } => unreachable!("only an attached helper asks"),
            Judgement::Offence(offence) => {
                let (sender, verdicts) = std::sync::mpsc::channel();
                self.engine.record_offence(self.now, &offence, Service::Web, Reply::new(move |verdict| sender.send(verdict).unwrap()));
                (verdicts.recv().unwrap(), matches!(event, Event::Request(_)))
            }
        };
        if counts {
            self.engine.count_requests(self.now, &mut vec![RequestTally::new(address, Client::of(address, Ipv6Prefix::default()), 1)]);
        }
        verdict.refusal().is_some()
    }

    fn would_ban(&self, address: &str) -> bool {
        let client = Client::of(address.parse().unwrap(), Ipv6Prefix::default());
        self.engine.shadow_ban(client, Service::Web, self.now).is_some() || self.engine.bans().get(client, Service::Web, self.now).is_some()
    }
}

fn profile() -> Site {
    Site::new(include_str!("../conf-examples/site-idno.toml"))
}

fn both() -> [Site; 2] {
    [Site::new(""), profile()]
}

/// The paths of idno in the list of what ordinary sites serve.
fn paths() -> Vec<&'static str> {
    let text = include_str!("data/ordinary.txt");
    let idno = text.lines().skip_while(|line| *line != "# idno").skip(1).take_while(|line| !line.starts_with("# "));
    idno.filter(|line| !line.is_empty()).collect()
}

#[test]
fn a_crawl_of_a_whole_site_bans_nobody_not_even_in_shadow() {
    for mut site in both() {
        let crawler = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
        let pages = (0..3000).map(|number| format!("/{}/post-{number}-about-php-and-shells", 2010 + number % 15));
        let lists = (0..300).map(|number| format!("/content/all/?offset={}", number * 10));
        let files = (0..2000).map(|number| format!("/file/{number:024x}/photo%20{number}.jpg"));
        let rest = paths().into_iter().filter(|line| !line.starts_with("POST")).map(str::to_owned);
        let mut refused = Vec::new();
        for (number, path) in pages.chain(lists).chain(files).chain(rest).enumerate() {
            // Five each second, and one link in a hundred is dead.
            site.wait(Span::from_millis(200));
            if site.visit("192.0.2.1", crawler, &path, if number % 100 == 0 { 404 } else { 200 }) {
                refused.push(path);
            }
        }
        assert!(refused.is_empty(), "{refused:?}");
        assert!(!site.would_ban("192.0.2.1"));
    }
}

#[test]
fn feed_readers_and_federated_servers_that_come_all_day_are_served() {
    for mut site in both() {
        for round in 0..96 {
            site.wait(Span::from_secs(900));
            for (number, path) in
                ["/?_t=rss", "/content/posts/?_t=rss", "/profile/me/feed", "/feed", "/.well-known/webfinger?resource=acct:me@known.example"]
                    .iter()
                    .enumerate()
            {
                let status = if round % 2 == 0 { 200 } else { 304 };
                assert!(
                    !site.visit(&format!("192.0.2.{}", number + 10), "FreshRSS/1.24.3 (Linux; https://freshrss.org)", path, status),
                    "{path}"
                );
            }
            // One reader that follows a hundred tags through one address.
            for tag in 0..100 {
                assert!(!site.visit("192.0.2.9", "Tiny Tiny RSS/23.05 (https://tt-rss.org/)", &format!("/tag/t{tag}?_t=rss"), 200));
            }
        }
        assert!(!site.would_ban("192.0.2.9"));
    }
}

#[test]
fn hundreds_of_webmentions_from_one_server_are_taken() {
    for mut site in both() {
        for number in 0..600 {
            site.wait(Span::from_millis(500));
            // Bridgy sends the answers to a popular post; one in twenty no longer links here.
            let status = if number % 20 == 0 { 400 } else { 202 };
            for (line, agent) in
                [("POST /webmention/", "Bridgy (https://brid.gy/about)"), ("GET /2024/a-first-post", "Bridgy (https://brid.gy/about)")]
            {
                assert!(!site.visit("192.0.2.20", agent, line, if line.starts_with("GET") { 200 } else { status }));
            }
        }
        assert!(!site.would_ban("192.0.2.20"));
    }
}

#[test]
fn a_person_who_forgot_the_password_and_reads_on_is_served() {
    for mut site in both() {
        for _ in 0..8 {
            site.wait(Span::from_secs(15));
            assert!(!site.visit("192.0.2.30", "Mozilla/5.0 Firefox/133.0", "POST /session/login", 302));
            assert!(!site.visit("192.0.2.30", "Mozilla/5.0 Firefox/133.0", "/session/login", 200));
        }
        for line in paths() {
            site.wait(Span::from_secs(1));
            let status = if line.starts_with("POST") { 403 } else { 200 };
            assert!(!site.visit("192.0.2.30", "Mozilla/5.0 Firefox/133.0", line, status), "{line}");
        }
        assert!(!site.would_ban("192.0.2.30"));
    }
}

#[test]
fn a_probe_is_refused_at_once_and_everything_after_it() {
    for site in both() {
        for (number, probe) in
            ["/.env", "/wp-config.php.bak", "/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php", "/.git/config"].iter().enumerate()
        {
            let address = format!("198.51.100.{number}");
            assert!(site.visit(&address, "curl/8.5.0", probe, 404), "{probe}");
            assert!(site.visit(&address, "curl/8.5.0", "/", 200), "banned after {probe}");
        }
    }
}

#[test]
fn passwords_tried_one_after_another_are_stopped_by_the_profile() {
    let mut site = profile();
    let refused_at = (1..=40).find(|_| {
        site.wait(Span::from_secs(2));
        site.visit("198.51.100.50", "curl/8.5.0", "POST /session/login", 302)
    });
    assert_eq!(refused_at, Some(30));
}

#[test]
fn webmention_spam_by_the_dozen_is_stopped_by_the_profile() {
    let mut site = profile();
    let refused_at = (1..=80).find(|_| {
        site.wait(Span::from_secs(1));
        site.visit("198.51.100.60", "curl/8.5.0", "POST /webmention/", 400)
    });
    assert!(refused_at.is_some_and(|at| (60..=61).contains(&at)), "{refused_at:?}");
}
