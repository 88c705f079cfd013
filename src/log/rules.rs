//! The rules that look at one log: a line goes in, the offences that it tells of come out. No clock, no I/O.

use std::net::IpAddr;
use std::sync::Arc;

use aho_corasick::AhoCorasick;

use super::access::{self, AccessLine};
use super::exim::{self, EximLine, Kind};
use super::text::TextRule;
use super::time::Zone;
use crate::client::Client;
use crate::conduct::Deed;
use crate::detector::{Detector, Judgement};
use crate::event::{Event, Header, Request, Surface};
use crate::rule::set::Scratch;
use crate::rule::{Evidence, LinePattern, Mode, Offence, Rule, RuleSet, Trigger};
use crate::time::{Span, Time};

/// A clock that is set wrong, or a zone that is read wrong, must not make strikes that lie in the future: at most so much.
const AHEAD: Span = Span::from_secs(60);

/// An offence that a line tells of.
#[derive(Debug)]
pub struct Seen {
    /// When it was: the line's own time.
    pub time: Time,
    /// Where.
    pub surface: Surface,
    /// What.
    pub offence: Offence,
}

/// The rules that look at one log.
#[derive(Debug)]
pub struct LogRules {
    zone: Zone,
    /// Rules over requests and responses, if there are any.
    web: Option<RuleSet>,
    /// Whether it is a log of requests, also one that is not judged by them.
    is_web: bool,
    /// The status codes that some rule looks at, sorted.
    statuses: Vec<u16>,
    exim: Vec<(Kind, Arc<Rule>)>,
    /// Text without which no line of Exim's can matter: looking for it costs much less than reading the line.
    exim_gate: Option<AhoCorasick>,
    texts: Vec<TextRule>,
    inline: bool,
    scratch: Scratch,
}

impl LogRules {
    /// Compiles `rules` for a log whose local times are in `zone`.
    ///
    /// `inline`: the server that writes the log asks about each request as well. Then its log tells only what such a query cannot see:
    /// the status of responses, and Exim's refusals before any ACL. A request would count twice.
    ///
    /// # Errors
    /// A sentence on the rule that cannot be used.
    pub fn new(rules: &[Arc<Rule>], zone: Zone, inline: bool) -> Result<Self, String> {
        let (mut web, mut exim, mut texts, mut statuses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut is_web = false;
        for rule in rules {
            if let Trigger::Response { statuses: its, .. } = &rule.trigger {
                statuses.extend(its);
            }
            is_web |= matches!(rule.trigger, Trigger::Request(_) | Trigger::RequestRate | Trigger::Response { .. });
            match &rule.trigger {
                Trigger::Request(_) | Trigger::RequestRate if inline => {}
                Trigger::Request(_) | Trigger::RequestRate | Trigger::Response { .. } => web.push(Rule::clone(rule)),
                Trigger::Line(LinePattern::Exim(kinds)) => {
                    for name in kinds {
                        let kind = Kind::from_name(name).ok_or_else(|| unknown_kind(name))?;
                        exim.push((kind, Arc::clone(rule)));
                    }
                }
                Trigger::Line(pattern) => texts.push(TextRule::new(rule, pattern, &zone)?),
                Trigger::ConnectionRate | Trigger::Simultaneous { .. } | Trigger::Incident => {}
            }
        }
        statuses.sort_unstable();
        let web = if web.is_empty() { None } else { Some(RuleSet::new(web)?) };
        let exim_gate = if exim.is_empty() {
            None
        } else {
            Some(AhoCorasick::new(exim.iter().map(|(kind, _)| kind.literal())).map_err(|error| error.to_string())?)
        };
        Ok(Self { zone, is_web, web, statuses, exim, exim_gate, texts, inline, scratch: Scratch::default() })
    }

    /// Hands the offences of `line` to `found`. `detector` gives lists, bans and prefix; the rules are this log's own.
    ///
    /// `received` is when the line was read: no offence is taken to be later than that and a minute.
    pub fn look(&mut self, line: &[u8], received: Time, detector: &Detector<'_>, found: &mut dyn FnMut(Seen)) {
        let latest = received.after(AHEAD);
        if self.exim_gate.as_ref().is_some_and(|gate| gate.is_match(line)) {
            let read = exim::parse(line, &mut self.zone);
            if let Some(seen) = self.mail(&read, latest, detector) {
                found(seen);
            }
        }
        if self.web.is_some()
            && let Some(read) = access::parse(line)
        {
            self.request(&read, latest, detector, found);
        }
        for text in &mut self.texts {
            if let Some(seen) = text.look(line, received, detector) {
                found(Seen { time: seen.time.min(latest), ..seen });
            }
        }
    }

    /// What a line says of its client's conduct, and whether the client proved in it who it is: for the false-ban budget.
    ///
    /// Only of a log whose rules look at requests or at Exim's lines. Our own refusals say nothing.
    pub fn conduct(&mut self, line: &[u8]) -> Option<(IpAddr, Deed, bool)> {
        if self.is_web
            && let Some(read) = access::parse(line)
        {
            let deed = Deed::of_status(read.status);
            return read.client.filter(|_| !read.is_our_refusal()).map(|client| (client, deed, read.is_authenticated()));
        }
        if self.exim.is_empty() {
            return None;
        }
        let read = exim::parse(line, &mut self.zone);
        let deed = match read.kind {
            Kind::Accepted | Kind::AcceptedAuthenticated => Deed::Success,
            Kind::OurRefusal | Kind::Connection | Kind::ConnectionRefusedGlobal | Kind::LoadRefused | Kind::Ambiguous | Kind::Other => {
                Deed::Neither
            }
            _ => Deed::Error,
        };
        read.client.map(|client| (client, deed, read.kind == Kind::AcceptedAuthenticated))
    }

    /// The offence that a line of Exim's is.
    #[must_use]
    pub fn mail(&self, line: &EximLine, latest: Time, detector: &Detector<'_>) -> Option<Seen> {
        let (time, address) = (line.time?.min(latest), line.client?);
        let rules: Vec<Arc<Rule>> = self.exim.iter().filter(|(kind, _)| *kind == line.kind).map(|(_, rule)| Arc::clone(rule)).collect();
        if rules.is_empty() || detector.lists.never_banned(address).is_some() {
            return None;
        }
        let client = Client::of(address, detector.prefix);
        if detector.standing(time, address, client, Surface::Mail).is_some() {
            return None;
        }
        // Not the line: it can hold what a client sent as a password.
        let evidence = Evidence::new(&[b"Exim log:", line.kind.description().as_bytes()]);
        Some(Seen { time, surface: Surface::Mail, offence: Offence { address, client, rules, evidence } })
    }

    /// Hands the offences of a line of an access log to `found`: as a request, and if it is served, by the status of its response.
    pub fn request(&mut self, line: &AccessLine<'_>, latest: Time, detector: &Detector<'_>, found: &mut dyn FnMut(Seen)) {
        let (Some(web), Some(address)) = (self.web.as_ref(), line.client) else { return };
        if line.is_our_refusal() {
            return;
        }
        let time = line.time.min(latest);
        let (url, user_agent) = (access::unescape(line.url), line.user_agent.map(access::unescape));
        let user_agent = Header::plain(user_agent.as_deref().unwrap_or_default());
        let request = Request { method: line.method, url: &url, user_agent, sec_fetch_site: b"" };
        let detector = Detector { rules: web, ..*detector };
        let mut tell = |offence| found(Seen { time, surface: Surface::Web, offence });
        if !self.inline {
            match detector.judge(time, address, &Event::Request(request), &mut self.scratch) {
                Judgement::Offence(offence) => {
                    let is_refused = offence.rules.iter().any(|rule| rule.mode == Mode::Enforce && rule.refuses_offence);
                    tell(offence);
                    if is_refused {
                        return;
                    }
                }
                Judgement::Settled { verdict, .. } | Judgement::Unkept(verdict) if verdict.refusal().is_some() => return,
                Judgement::Settled { counts: true, .. } if !web.request_rates().is_empty() => tell(Offence {
                    address,
                    client: Client::of(address, detector.prefix),
                    rules: web.request_rates().to_vec(),
                    evidence: Evidence::new(&[b"one request of many:", request.method, request.url]),
                }),
                Judgement::Settled { .. } | Judgement::Unkept(_) => {}
            }
        }
        if let Some(status) = line.status
            && self.statuses.binary_search(&status).is_ok()
            && let Judgement::Offence(offence) = detector.judge(time, address, &Event::Response { request, status }, &mut self.scratch)
        {
            tell(offence);
        }
    }
}

/// What is wrong with a rule's kind of Exim line.
#[must_use]
pub fn unknown_kind(name: &str) -> String {
    let known: Vec<&str> = Kind::NAMED.iter().map(|(name, _)| *name).collect();
    format!("found exim = {name:?}, expected one of {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Ipv6Prefix;
    use crate::config::Config;
    use crate::event::Scope;
    use crate::rule::Names;
    use crate::table::{Ban, Bans, Until};
    use std::path::Path;

    const NOW: Time = Time::from_secs(1_795_400_000);

    struct World {
        config: Config,
        bans: Bans,
        names: Names,
    }

    impl World {
        fn new(text: &str) -> Self {
            let names = Names::default();
            let config = Config::parse(text.as_bytes(), Path::new("test.toml"), &names).unwrap();
            Self { config, bans: Bans::new(10), names }
        }

        /// The rules, client and time of the offence that a line is under all rules.
        fn look(&self, line: &str, inline: bool) -> Vec<(String, String, u64)> {
            let mut rules = LogRules::new(self.config.rules.rules(), Zone::utc(), inline).unwrap();
            let detector =
                Detector { rules: &self.config.rules, lists: &self.config.lists, bans: &self.bans, prefix: Ipv6Prefix::default() };
            let mut found = Vec::new();
            rules.look(line.as_bytes(), NOW, &detector, &mut |seen| {
                for rule in &seen.offence.rules {
                    found.push((rule.name.to_string(), seen.offence.client.to_string(), seen.time.secs()));
                }
            });
            found
        }
    }

    const PROBE: &str = r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET /w00tw00t.at.ISC HTTP/1.1" 404 12 "-" "-""#;

    fn seen(rule: &str, client: &str, time: u64) -> Vec<(String, String, u64)> {
        vec![(rule.into(), client.into(), time)]
    }

    #[test]
    fn requests_and_refused_connections_are_offences_at_the_time_of_their_line() {
        let world = World::new("");
        assert_eq!(world.look(PROBE, false), seen("w00tw00t", "192.0.2.1", 1_795_395_723));
        let line = "2026-11-23 01:02:03 [7] Connection from [192.0.2.1]:999 I=[10.0.0.1]:25 refused: too many connections";
        assert_eq!(world.look(line, false), seen("exim-global", "192.0.2.1", 1_795_395_723));
        assert_eq!(world.look(&format!("{line} from that IP address"), true), seen("exim-per-host", "192.0.2.1", 1_795_395_723));
    }

    #[test]
    fn a_line_from_the_future_counts_as_of_now() {
        let world = World::new("");
        let line = "2027-01-01 01:02:03 Connection from [192.0.2.1] refused: too many connections";
        assert_eq!(world.look(line, false), seen("exim-global", "192.0.2.1", NOW.after(AHEAD).secs()));
    }

    #[test]
    fn the_log_of_a_server_that_asks_inline_tells_only_of_responses() {
        let off = "[[rule]]\nname = 'web-not-found'\nenabled = false\n[[rule]]\nname = 'web-rate'\nenabled = false\n";
        let world = World::new(&format!("{off}[[rule]]\nname = 'missing'\nstatus = 404\n[[rule]]\nname = 'rate'\nevent = 'request'"));
        assert_eq!(world.look(PROBE, true), seen("missing", "192.0.2.1", 1_795_395_723));
        assert_eq!(world.look(PROBE, false), seen("w00tw00t", "192.0.2.1", 1_795_395_723), "refused: there would have been no 404");
        let both: Vec<_> = ["rate", "missing"].iter().flat_map(|rule| seen(rule, "192.0.2.1", 1_795_395_723)).collect();
        assert_eq!(world.look(&PROBE.replace("w00tw00t", "x"), false), both);
    }

    #[test]
    fn our_own_refusals_never_count() {
        let world = World::new("[[rule]]\nname = 'refused'\nstatus = 429\n[[rule]]\nname = 'acl'\nexim = 'rejected-by-acl'");
        for line in [
            "1795395723.000 4 192.0.2.1 TCP_DENIED/429 4099 GET http://site/w00tw00t - HIER_NONE/- text/html",
            r#"192.0.2.1 - - [23/Nov/2026:01:02:03 +0000] "GET http://site/w00tw00t HTTP/1.1" 429 12 "-" "-" TCP_DENIED:HIER_NONE"#,
            "2026-11-23 01:02:03 H=[192.0.2.1] temporarily rejected connection in \"connect\" ACL: strikeout: defer rule=w00tw00t",
        ] {
            assert!(world.look(line, false).is_empty(), "{line}");
        }
        let by_another = "2026-11-23 01:02:03 H=[192.0.2.1] rejected connection in \"connect\" ACL: listed";
        assert_eq!(world.look(by_another, false), seen("acl", "192.0.2.1", 1_795_395_723));
    }

    #[test]
    fn never_banned_and_banned_clients_are_not_counted() {
        let world = World::new("[defaults]\nignoreip = ['192.0.2.1']");
        let line = "2026-11-23 01:02:03 Connection from [192.0.2.1] refused: too many connections";
        assert!(world.look(line, false).is_empty() && world.look(PROBE, false).is_empty());
        let ban = Ban { until: Until::at(NOW), rule: world.names.intern("x"), saved: true };
        world.bans.ban(Client::of("192.0.2.2".parse().unwrap(), Ipv6Prefix::default()), Scope::All, ban, Time::from_secs(1_795_395_000));
        for line in [line, PROBE] {
            assert!(world.look(&line.replace("192.0.2.1", "192.0.2.2"), false).is_empty());
            assert_eq!(world.look(&line.replace("192.0.2.1", "192.0.2.3"), false).len(), 1);
        }
    }

    #[test]
    fn a_line_tells_its_clients_conduct() {
        let world = World::new("");
        let mut rules = LogRules::new(world.config.rules.rules(), Zone::utc(), true).unwrap();
        let mut conduct = |line: &str| rules.conduct(line.as_bytes()).map(|(_, deed, authenticated)| (deed, authenticated));
        assert_eq!(conduct(&PROBE.replace("404", "200").replace("- - [", "- anna [")), Some((Deed::Success, true)));
        assert_eq!(conduct(PROBE), Some((Deed::Error, false)));
        let message = "2026-11-23 01:02:03 1qHd2z-0003Xb-1A <= a@b.c H=(x) [192.0.2.1] P=esmtpsa A=plain:anna S=123";
        assert_eq!(conduct(message), Some((Deed::Success, true)));
        assert_eq!(conduct("2026-11-23 01:02:03 Connection from [192.0.2.1] refused: too many connections"), Some((Deed::Neither, false)));
        assert_eq!(conduct("1795395723.000 4 192.0.2.1 TCP_DENIED/429 4099 GET http://site/ - HIER_NONE/- text/html"), None);
        assert_eq!(conduct("what is this?"), None);
    }

    #[test]
    fn an_unknown_kind_of_line_is_named_with_those_that_are_known() {
        let world = World::new("");
        let mut rule = Rule::clone(world.config.rules.by_name("exim-global").unwrap());
        rule.trigger = Trigger::Line(LinePattern::Exim(vec!["refused".into()]));
        let error = LogRules::new(&[Arc::new(rule)], Zone::utc(), false).unwrap_err();
        assert!(error.starts_with("found exim = \"refused\", expected one of refused-per-host, refused-global"), "{error}");
    }

    #[test]
    fn a_password_in_a_line_is_no_evidence() {
        let world = World::new("[[rule]]\nname = 'syntax'\nexim = 'syntax-error'");
        let rules = LogRules::new(world.config.rules.rules(), Zone::utc(), false).unwrap();
        let detector =
            Detector { rules: &world.config.rules, lists: &world.config.lists, bans: &world.bans, prefix: Ipv6Prefix::default() };
        let line = b"2026-11-23 01:02:03 SMTP syntax error in \"AUTH PLAIN c2VjcmV0\" H=[192.0.2.1] x";
        let seen = rules.mail(&exim::parse(line, &mut Zone::utc()), NOW, &detector).unwrap();
        assert_eq!(seen.offence.evidence.as_str(), "Exim log: syntax-error");
    }
}
