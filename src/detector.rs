//! The detector: an event and a time go in, a verdict or an offence comes out. It judges, and does not count.

use std::net::IpAddr;
use std::sync::Arc;

use crate::client::{Client, Ipv6Prefix};
use crate::event::{Connection, Event, Request, Surface};
use crate::list::Lists;
use crate::rule::set::Scratch;
use crate::rule::{Evidence, Mode, Offence, Rule, RuleId, RuleSet, SmtpRefusal};
use crate::table::{Ban, Bans, Until};
use crate::time::Time;
use crate::verdict::{Grounds, Innocence, Refusal, Verdict};

/// What judging an event came to.
#[derive(Debug)]
pub enum Judgement {
    /// The answer; nothing is to be counted, except the rate that `counts` names.
    Settled {
        /// The answer.
        verdict: Verdict,
        /// Whether the event belongs into the rates of its client.
        counts: bool,
    },
    /// A refusal that rests on a ban which the state file does not have yet: it waits until it has.
    Unkept(Verdict),
    /// An offence: the table must count it, and then says what the answer is.
    Offence(Offence),
}

/// Everything that a judgement looks at. Borrowed for one read's worth of events.
#[derive(Clone, Copy)]
pub struct Detector<'a> {
    /// The rules in force.
    pub rules: &'a RuleSet,
    /// The never-ban and deny lists, and the banned networks.
    pub lists: &'a Lists,
    /// The bans.
    pub bans: &'a Bans,
    /// How IPv6 addresses are cut.
    pub prefix: Ipv6Prefix,
}

impl Detector<'_> {
    /// Judges one event of `address` at `now`.
    ///
    /// An innocent request costs one never-ban lookup, one ban lookup and one pass over the rules, and allocates nothing.
    #[must_use]
    pub fn judge(&self, now: Time, address: IpAddr, event: &Event<'_>, scratch: &mut Scratch) -> Judgement {
        let surface = match event {
            Event::Request(_) | Event::Response { .. } => Surface::Web,
            Event::Lookup(surface) => *surface,
            Event::Connection(_) => Surface::Mail,
        };
        if let Some(reason) = self.lists.never_banned(address) {
            return settled(Verdict::Allow(Innocence::NeverBanned(reason)), false);
        }
        let client = Client::of(address, self.prefix);
        if let Some((refusal, kept)) = self.standing(now, address, client, surface) {
            let verdict = self.refuse(refusal, surface);
            return if kept { settled(verdict, false) } else { Judgement::Unkept(verdict) };
        }
        match event {
            Event::Lookup(_) => settled(Verdict::Allow(Innocence::NothingFound), false),
            Event::Request(request) => self.request(now, address, client, request, scratch),
            Event::Response { request, status } => {
                let rules = self.rules.offended_by_response(*status, request, scratch);
                let evidence = || Evidence::new(&[status.to_string().as_bytes(), request.method, request.url]);
                offence_or_allow(address, client, rules, evidence, false)
            }
            Event::Connection(connection) => self.connection(address, client, connection),
        }
    }

    /// The refusal that stands against `address` already (a ban, a banned network or a deny list), and whether it is kept.
    #[must_use]
    pub fn standing(&self, now: Time, address: IpAddr, client: Client, surface: Surface) -> Option<(Refusal, bool)> {
        if let Some(Ban { until, rule, saved }) = self.bans.get(client, surface, now).or_else(|| self.banned_network(now, address)) {
            return Some((Refusal { rule, until, grounds: Grounds::Banned }, saved));
        }
        self.lists.denied(address)?;
        Some((Refusal { rule: RuleId::DENY_LIST, until: Until::NEVER, grounds: Grounds::DenyList }, true))
    }

    /// The verdict that a refusal is on `surface`.
    #[must_use]
    pub fn refuse(&self, refusal: Refusal, surface: Surface) -> Verdict {
        match surface {
            Surface::Web => refusal.on_web(),
            Surface::Mail => refusal.on_mail(self.rules.get(refusal.rule).map_or(SmtpRefusal::Defer, |rule| rule.smtp)),
        }
    }

    fn banned_network(&self, now: Time, address: IpAddr) -> Option<Ban> {
        let network = self.lists.banned.lookup(address, now)?;
        Some(Ban { until: network.until.map_or(Until::NEVER, Until::at), rule: RuleId::MANUAL, saved: true })
    }

    fn request(&self, now: Time, address: IpAddr, client: Client, request: &Request<'_>, scratch: &mut Scratch) -> Judgement {
        let rules = self.rules.offended_by_request(request, scratch);
        // Somebody else's page can send an innocent person's browser anywhere: such a request is refused, and strikes nobody.
        if request.was_sent_by_a_page() {
            let refusing = rules.iter().find(|rule| rule.mode == Mode::Enforce && rule.refuses_offence);
            let verdict = match refusing {
                Some(rule) => Refusal { rule: rule.id, until: Until::at(now), grounds: Grounds::Offence }.on_web(),
                None => Verdict::Allow(Innocence::NothingFound),
            };
            return settled(verdict, true);
        }
        let evidence = || Evidence::new(&[request.method, request.url, &request.user_agent.text()]);
        offence_or_allow(address, client, rules, evidence, true)
    }

    fn connection(&self, address: IpAddr, client: Client, connection: &Connection) -> Judgement {
        if connection.is_submission() {
            return settled(Verdict::Allow(Innocence::NothingFound), false);
        }
        let mut rules: Vec<Arc<Rule>> = self.rules.connection_rates().to_vec();
        rules.extend(self.rules.offended_by_open(connection.open).cloned());
        let evidence = || Evidence::new(&[b"SMTP connection,", connection.open.to_string().as_bytes(), b"open"]);
        offence_or_allow(address, client, rules, evidence, false)
    }
}

fn settled(verdict: Verdict, counts: bool) -> Judgement {
    Judgement::Settled { verdict, counts }
}

fn offence_or_allow(
    address: IpAddr,
    client: Client,
    rules: Vec<Arc<Rule>>,
    evidence: impl FnOnce() -> Evidence,
    counts: bool,
) -> Judgement {
    if rules.is_empty() {
        return settled(Verdict::Allow(Innocence::NothingFound), counts);
    }
    Judgement::Offence(Offence { address, client, rules, evidence: evidence() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::event::{Header, Scope};
    use crate::rule::Names;
    use crate::time::Span;
    use std::path::Path;

    const NOW: Time = Time::from_secs(1_800_000_000);

    /// A detector's world, from a configuration text.
    struct World {
        config: Config,
        bans: Bans,
        names: Names,
    }

    impl World {
        fn new(text: &str) -> Self {
            let names = Names::default();
            let config = Config::parse(text.as_bytes(), Path::new("test.toml"), &names).unwrap();
            Self { config, bans: Bans::new(100), names }
        }

        fn judge(&self, address: &str, event: &Event<'_>) -> Judgement {
            let detector =
                Detector { rules: &self.config.rules, lists: &self.config.lists, bans: &self.bans, prefix: Ipv6Prefix::default() };
            detector.judge(NOW, address.parse().unwrap(), event, &mut Scratch::default())
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
    fn w00tw00t_is_an_offence_in_every_spelling_also_percent_encoded_once() {
        let world = World::new("");
        for path in
            ["/w00tw00t.at.ISC.SANS.DFind:)", "/wootwoot", "/WootWoot", "/WooTWooT", "/a/W0oTw0Ot", "/%77%30%30%74w00t", "/%57ootwoot?x"]
        {
            assert_eq!(world.offended(get(&format!("http://www.example.org{path}"))), ["w00tw00t"], "{path}");
        }
        for path in ["/", "/w00t", "/%2577ootwoot", "/?q=/w00tw00t", "/search/wootw", "/w/00tw00t"] {
            assert!(world.offended(get(&format!("http://www.example.org{path}"))).is_empty(), "{path}");
        }
    }

    #[test]
    fn a_request_that_a_page_sent_is_refused_and_strikes_nobody() {
        let world = World::new("");
        for (site, struck) in [
            ("", true),
            ("none", true),
            ("None", true),
            ("cross-site", false),
            ("same-origin", false),
            ("same-site", false),
            ("junk", false),
        ] {
            let request = Request { sec_fetch_site: site.as_bytes(), ..get("/w00tw00t") };
            match world.judge("192.0.2.1", &Event::Request(request)) {
                Judgement::Offence(_) => assert!(struck, "{site}"),
                Judgement::Settled { verdict, .. } => {
                    assert!(!struck, "{site}");
                    assert_eq!(verdict.refusal().map(|refusal| refusal.grounds), Some(Grounds::Offence));
                }
                Judgement::Unkept(_) => panic!("there is no ban"),
            }
        }
    }

    #[test]
    fn a_never_banned_address_offends_nobody_and_is_asked_about_before_the_prefix_cut() {
        let world = World::new("[defaults]\nignoreip = ['198.51.100.0/24', '2001:db8::1']\ntrusted_proxies = ['203.0.113.7']");
        for address in ["127.0.0.1", "::1", "198.51.100.9", "203.0.113.7", "2001:db8::1", "::ffff:198.51.100.9"] {
            let verdict = verdict(world.judge(address, &Event::Request(get("/w00tw00t"))));
            assert!(matches!(verdict, Verdict::Allow(Innocence::NeverBanned(_))), "{address}: {verdict:?}");
        }
        assert!(matches!(world.judge("2001:db8::2", &Event::Request(get("/w00tw00t"))), Judgement::Offence(_)));
    }

    #[test]
    fn a_ban_stands_for_every_event_on_its_surface_and_is_not_counted_again() {
        let world = World::new("");
        world.ban("192.0.2.1", Scope::Web, "w00tw00t");
        for event in [
            Event::Request(get("/w00tw00t")),
            Event::Request(get("/")),
            Event::Lookup(Surface::Web),
            Event::Response { request: get("/"), status: 404 },
        ] {
            let verdict = verdict(world.judge("192.0.2.1", &event));
            assert_eq!(verdict.refusal().map(|refusal| refusal.grounds), Some(Grounds::Banned));
        }
        assert_eq!(verdict(world.judge("192.0.2.1", &Event::Lookup(Surface::Mail))), Verdict::Allow(Innocence::NothingFound));
    }

    #[test]
    fn a_refusal_by_a_ban_that_is_not_saved_yet_says_so() {
        let world = World::new("");
        let ban = Ban { until: Until::NEVER, rule: RuleId::MANUAL, saved: false };
        world.bans.ban(Client::from(std::net::Ipv4Addr::new(192, 0, 2, 1)), Scope::All, ban, NOW);
        assert!(matches!(world.judge("192.0.2.1", &Event::Request(get("/"))), Judgement::Unkept(Verdict::Deny(_))));
    }

    #[test]
    fn smtp_is_deferred_unless_the_rule_denies() {
        let world = World::new("[[rule]]\nname = 'hard'\nevent = 'incident'\nsmtp = 'deny'");
        world.ban("192.0.2.1", Scope::All, "w00tw00t");
        world.ban("192.0.2.2", Scope::All, "hard");
        assert!(matches!(verdict(world.judge("192.0.2.1", &Event::Lookup(Surface::Mail))), Verdict::Defer(_)));
        assert!(matches!(verdict(world.judge("192.0.2.2", &Event::Lookup(Surface::Mail))), Verdict::Deny(_)));
        assert!(matches!(verdict(world.judge("192.0.2.2", &Event::Lookup(Surface::Web))), Verdict::Deny(_)));
    }

    #[test]
    fn a_deny_list_refuses_for_ever_and_never_ban_goes_before_it() {
        let world = World::new("[defaults]\ndeny = ['192.0.2.0/24', '127.0.0.0/8']");
        let refused = verdict(world.judge("192.0.2.200", &Event::Lookup(Surface::Web)));
        assert_eq!(refused, Verdict::Deny(Refusal { rule: RuleId::DENY_LIST, until: Until::NEVER, grounds: Grounds::DenyList }));
        assert!(matches!(verdict(world.judge("127.0.0.1", &Event::Lookup(Surface::Web))), Verdict::Allow(_)));
    }

    #[test]
    fn a_connection_offends_the_rates_and_too_many_at_once_but_never_on_submission_ports() {
        let world = World::new("");
        let rules = |connection| match world.judge("192.0.2.1", &Event::Connection(connection)) {
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
    fn a_rule_needs_all_its_parts_to_match() {
        let world = World::new("[[rule]]\nname = 'post-login'\nmethod = 'POST'\npath = '^/login$'\nuser_agent = 'Evil'\nmaxretry = 2");
        let hit = Request { method: b"POST", url: b"http://h/login", user_agent: Header::plain(b"Mozilla Evil/1"), sec_fetch_site: b"" };
        assert_eq!(world.offended(hit), ["post-login"]);
        for miss in [
            Request { method: b"GET", ..hit },
            Request { url: b"http://h/login2", ..hit },
            Request { user_agent: Header::default(), ..hit },
        ] {
            assert!(world.offended(miss).is_empty(), "{miss:?}");
        }
    }

    #[test]
    fn a_status_offends_the_rules_that_name_it_on_their_paths() {
        let world = World::new("[[rule]]\nname = 'gone'\nstatus = 410\n[[rule]]\nname = 'login'\nstatus = [402, 451]\npath = '/login'");
        let rules = |status, url| match world.judge("192.0.2.1", &Event::Response { request: get(url), status }) {
            Judgement::Offence(offence) => offence.rules.iter().map(|rule| rule.name.to_string()).collect(),
            _ => Vec::new(),
        };
        assert_eq!(rules(410, "/x"), ["gone"]);
        assert_eq!(rules(451, "/login"), ["login"]);
        assert!(rules(451, "/x").is_empty() && rules(200, "/login").is_empty());
    }
}
