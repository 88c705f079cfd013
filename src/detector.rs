//! Judges one event by the lists, bans and rules. Judging has no side effects; the engine counts offences.

use std::net::IpAddr;
use std::sync::Arc;

use crate::client::{Client, Ipv6Prefix};
use crate::crawler::Crawlers;
use crate::event::headers::shown;
use crate::event::{Connection, Event, Request, Service};
use crate::geo::{Geo, Origin};
use crate::list::{BannedNetwork, Lists};
use crate::policy::Policy;
use crate::rule::set::Scratch;
use crate::rule::{Cleared, Evidence, LinePattern, Marks, Mode, Offence, Rule, RuleSet, SmtpRefusal, Trigger};
use crate::rule_id::RuleId;
use crate::table::{Ban, Bans, Until};
use crate::time::Time;
use crate::verdict::{AllowReason, DenyReason, Refusal, Verdict};

/// The result of judging an event.
#[derive(Debug)]
pub enum Judgement {
    /// The answer is known, and there is no strike to count.
    Settled {
        verdict: Verdict,
        /// Whether the event counts towards the client's request rates.
        counts: bool,
    },
    /// A refusal by a ban that is not in the state file yet. The answer must wait until it is, or a crash could lose an answered ban.
    Unsaved(Verdict),
    /// An offence: the engine counts it and decides on the answer.
    Offence(Offence),
    /// Only the daemon knows where the client belongs, and that decides whether it is refused.
    Ask {
        /// Whether the event counts towards the client's request rates.
        counts: bool,
        /// The rules that refuse the request if the client belongs where they say.
        rules: Vec<Arc<Rule>>,
    },
}

/// The data that a judgement depends on, borrowed for the events of one read.
#[derive(Clone, Copy)]
pub struct Detector<'a> {
    pub rules: &'a RuleSet,
    /// The never-ban and deny lists, and the banned networks.
    pub lists: &'a Lists,
    pub bans: &'a Bans,
    /// How many bits of an IPv6 address identify a client.
    pub prefix: Ipv6Prefix,
    /// Where clients belong.
    pub geo: &'a Geo,
    pub crawlers: &'a Crawlers,
}

impl<'a> Detector<'a> {
    #[must_use]
    pub fn new(policy: &'a Policy, bans: &'a Bans) -> Self {
        Self { rules: &policy.rules, lists: &policy.lists, bans, prefix: policy.prefix, geo: &policy.geo, crawlers: &policy.crawlers }
    }
}

impl Detector<'_> {
    /// Judges one event of `address` at `now`.
    ///
    /// The cost of an innocent request is one never-ban lookup, one ban lookup and one pass over the rules, without an allocation.
    #[must_use]
    pub fn judge(&self, now: Time, address: IpAddr, event: &Event<'_>, scratch: &mut Scratch) -> Judgement {
        let service = match event {
            Event::Request(_) | Event::Response { .. } => Service::Web,
            Event::Lookup(service) => *service,
            Event::Connection(_) => Service::Mail,
        };
        if let Some(reason) = self.lists.never_banned(address) {
            return settled(Verdict::Allow(AllowReason::NeverBanned(reason)), false);
        }
        let client = Client::of(address, self.prefix);
        let whom = self.whom(address, client);
        if let Some((refusal, saved)) = self.refusal(now, whom, service) {
            let verdict = self.refuse(refusal, service);
            return if saved { settled(verdict, false) } else { Judgement::Unsaved(verdict) };
        }
        match event {
            Event::Lookup(_) => self.serve(whom, false),
            Event::Request(request) => self.request(now, whom, request, scratch),
            Event::Response { request, status } => {
                let rules = self.rules.offended_by_response(*status, request, scratch);
                let evidence = || Evidence::new(&[status.to_string().as_bytes(), request.method, request.url]);
                let marks = self.rules.marks(&rules, request, scratch);
                match self.offence_or_allow(whom, rules, evidence, marks, false) {
                    // Nobody needs to be asked: it is too late to refuse a response.
                    Judgement::Ask { counts, .. } => settled(Verdict::Allow(AllowReason::NothingFound), counts),
                    judgement => judgement,
                }
            }
            Event::Connection(connection) => self.connection(whom, connection),
        }
    }

    /// The refusal in force against `address` (a ban, a banned network or a deny list), and whether it is saved.
    #[must_use]
    pub fn active_refusal(&self, now: Time, address: IpAddr, client: Client, service: Service) -> Option<(Refusal, bool)> {
        self.refusal(now, self.whom(address, client), service)
    }

    fn refusal(&self, now: Time, whom: Whom, service: Service) -> Option<(Refusal, bool)> {
        let Whom { address, client, origin } = whom;
        // The ban of an IPv6 prefix may be due to another of its addresses.
        let is_meant = |ban: &Ban| !self.rules.get(ban.rule).is_some_and(|rule| rule.ignoreip.contains(address));
        let own = || self.bans.get(client, service, now).filter(is_meant);
        if let Some(Ban { until, rule, saved }) = own().or_else(|| self.banned_network(now, whom, service)) {
            return Some((Refusal { rule, until, reason: DenyReason::Banned }, saved));
        }
        let is_denied_by_origin = || origin.is_some_and(|origin| self.lists.denied_origins().find(origin).is_some());
        if self.lists.denied(address).is_none() && !is_denied_by_origin() {
            return None;
        }
        Some((Refusal { rule: RuleId::DENY_LIST, until: Until::NEVER, reason: DenyReason::DenyList }, true))
    }

    /// The offence behind a refusal of `request` for which its client was not blamed, because a page may have sent the request. It is counted
    /// besides the answer: a client that sends more of them than a page holds is a scanner, whatever its Sec-Fetch-Site says.
    #[must_use]
    pub fn page_probe(&self, address: IpAddr, request: &Request<'_>, refused: &Verdict) -> Option<Offence> {
        // Any other refusal that is settled when the request is judged rests on a ban or a deny list.
        let is_refused_alone = refused.refusal().is_some_and(|refusal| refusal.reason == DenyReason::Offence);
        if is_refused_alone { self.probe(address, request) } else { None }
    }

    /// The offence that [`Detector::page_probe`] finds, if `request` is refused.
    #[must_use]
    pub fn probe(&self, address: IpAddr, request: &Request<'_>) -> Option<Offence> {
        let rules = self.concerning(address, self.rules.page_probes().to_vec());
        (!rules.is_empty()).then(|| Offence {
            address,
            client: Client::of(address, self.prefix),
            rules,
            evidence: Evidence::new(&[request.method, request.url, b"Sec-Fetch-Site:", request.sec_fetch_site]),
            marks: None,
            account: None,
        })
    }

    /// The rules whose strikes against `address` a response clears, and what tells the request from others.
    #[must_use]
    pub fn cleared(&self, status: u16, request: &Request<'_>, scratch: &mut Scratch) -> Option<Cleared> {
        let rules = self.rules.cleared_by_response(status, request, scratch);
        if rules.is_empty() {
            return None;
        }
        let marks = self.rules.marks(&rules, request, scratch);
        Some(Cleared { rules, marks })
    }

    /// Whether a user may log in on a submission port although `lookup` refuses the client.
    ///
    /// There, bans refuse for failed logins and other incidents of SMTP, by what fail2ban's filters find in logs, for
    /// many bans, by hand, and by a deny list. A
    /// scan of web pages or a flood on port 25 may well come from somebody else behind the same address.
    #[must_use]
    pub fn admits_login(&self, lookup: &Judgement) -> bool {
        let (Judgement::Settled { verdict, .. } | Judgement::Unsaved(verdict)) = lookup else { return false };
        let rule = verdict.refusal().and_then(|refusal| self.rules.get(refusal.rule));
        rule.is_some_and(|rule| match &rule.trigger {
            Trigger::Incident | Trigger::Ban | Trigger::Line(LinePattern::Regex { .. } | LinePattern::Filter { .. }) => false,
            Trigger::Line(LinePattern::Exim(kinds)) => !kinds.iter().any(|kind| kind == "auth-failed"),
            _ => true,
        })
    }

    /// The verdict for a refusal on `service`. In mail, the rule decides between `defer` and `deny`.
    #[must_use]
    pub fn refuse(&self, refusal: Refusal, service: Service) -> Verdict {
        match service {
            Service::Web => refusal.on_web(),
            Service::Mail => refusal.on_mail(self.rules.get(refusal.rule).map_or(SmtpRefusal::Defer, |rule| rule.smtp)),
        }
    }

    fn whom(&self, address: IpAddr, client: Client) -> Whom {
        Whom { address, client, origin: if self.lists.refuses_by_origin() { self.geo.origin(client) } else { None } }
    }

    /// The judgement of an event for which nothing is found against its client.
    fn serve(&self, whom: Whom, counts: bool) -> Judgement {
        if whom.origin.is_none() && self.lists.refuses_by_origin() {
            return Judgement::Ask { counts, rules: Vec::new() };
        }
        settled(Verdict::Allow(AllowReason::NothingFound), counts)
    }

    fn banned_network(&self, now: Time, whom: Whom, service: Service) -> Option<Ban> {
        let network = self.network_ban_of(now, whom, service)?;
        Some(Ban { until: network.until.map_or(Until::NEVER, Until::at), rule: network.rule, saved: network.saved.get() })
    }

    /// The banned network that refuses `address` on `service`, unless the client's own ban does.
    #[must_use]
    pub fn network_ban(&self, now: Time, address: IpAddr, service: Service) -> Option<&BannedNetwork> {
        self.network_ban_of(now, self.whom(address, Client::of(address, self.prefix)), service)
    }

    fn network_ban_of(&self, now: Time, whom: Whom, service: Service) -> Option<&BannedNetwork> {
        let Whom { address, origin, .. } = whom;
        let is_ignored = |rule| self.rules.get(rule).is_some_and(|rule| rule.ignoreip.contains(address));
        let is_meant = |ban: &BannedNetwork| ban.scope.services().contains(&service) && !is_ignored(ban.rule);
        let banned = &self.lists.banned;
        banned.lookup(address, now, is_meant).or_else(|| banned.lookup_origin(|| origin, now, is_meant))
    }

    fn request(&self, now: Time, whom: Whom, request: &Request<'_>, scratch: &mut Scratch) -> Judgement {
        let rules = self.rules.offended_by_request(request, scratch);
        if rules.is_empty() {
            return self.serve(whom, true);
        }
        let rules = self.concerning(whom.address, rules);
        // Any page can make its visitors' browsers request any URL. Such a request is refused, but it is no strike against the visitor.
        if request.was_sent_by_a_page() {
            let is_certain =
                |rule: &Rule| rule.origin.is_empty() || self.geo.origin(whom.client).is_some_and(|origin| rule.origin.holds(origin));
            let refusing = rules.iter().find(|rule| rule.mode == Mode::Enforce && rule.refuses_offence && is_certain(rule));
            if let Some(rule) = refusing {
                return settled(Refusal { rule: rule.id, until: Until::at(now), reason: DenyReason::Offence }.on_web(), true);
            }
            let rules: Vec<_> = rules.into_iter().filter(|rule| rule.mode == Mode::Enforce && rule.refuses_offence).collect();
            return if rules.is_empty() { self.serve(whom, true) } else { Judgement::Ask { counts: true, rules } };
        }
        let header = self.rules.offending_header(&rules, request, scratch);
        let evidence = || match header {
            Some((name, value)) => Evidence::new(&[request.method, request.url, format!("{name}:").as_bytes(), &shown(name, value)]),
            None => Evidence::new(&[request.method, request.url, &request.user_agent.text()]),
        };
        let marks = self.rules.marks(&rules, request, scratch);
        self.offence_or_allow(whom, rules, evidence, marks, true)
    }

    fn connection(&self, whom: Whom, connection: &Connection) -> Judgement {
        if connection.is_submission() {
            return settled(Verdict::Allow(AllowReason::NothingFound), false);
        }
        let mut rules: Vec<Arc<Rule>> = self.rules.connection_rates().to_vec();
        rules.extend(self.rules.offended_by_open_connections(connection.open).cloned());
        let evidence = || Evidence::new(&[b"SMTP connection,", connection.open.to_string().as_bytes(), b"open"]);
        self.offence_or_allow(whom, rules, evidence, None, false)
    }

    fn offence_or_allow(
        &self,
        whom: Whom,
        rules: Vec<Arc<Rule>>,
        evidence: impl FnOnce() -> Evidence,
        marks: Option<Marks>,
        counts: bool,
    ) -> Judgement {
        let Whom { address, client, .. } = whom;
        let rules = self.concerning(address, rules);
        if rules.is_empty() {
            return self.serve(whom, counts);
        }
        Judgement::Offence(Offence { address, client, rules, evidence: evidence(), marks, account: None })
    }

    /// Those of `rules` that concern `address`.
    fn concerning(&self, address: IpAddr, mut rules: Vec<Arc<Rule>>) -> Vec<Arc<Rule>> {
        rules.retain(|rule| rule.concerns(address, self.prefix, self.geo));
        rules
    }
}

/// Whom an event is about.
#[derive(Clone, Copy)]
struct Whom {
    address: IpAddr,
    client: Client,
    /// Where the client belongs, if that is known here and somebody is refused for it. Looked at once for refusing and for asking: a helper may
    /// learn or forget it meanwhile, and then would do neither.
    origin: Option<Origin>,
}

fn settled(verdict: Verdict, counts: bool) -> Judgement {
    Judgement::Settled { verdict, counts }
}

#[cfg(test)]
mod tests;
