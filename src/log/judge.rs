//! Judges the lines of logs: a line goes in, the offences that it records and what it says about its client come out. No clock, no I/O.
//!
//! The daemon, `strikeout replay` and `strikeout test` all judge lines here; each decides for itself what to do with an offence.

use std::net::IpAddr;
use std::sync::Arc;

use super::access::{AccessLine, Asked};
use super::exim::EximLine;
use super::health::{LogHealth, Quarters};
use super::line::{LineParser, LogLine};
use super::offence::{LogOffence, OffenceKind, Received};
use super::text_rule::TextRules;
use super::time::Zone;
use crate::client::Client;
use crate::crawler::Crawler;
use crate::detector::{Detector, Judgement};
use crate::event::behaviour::Outcome;
use crate::event::exim_kind::{EximKind, unknown_kind};
use crate::event::{Connection, Event, Header, Request, Service};
use crate::rule::set::Scratch;
use crate::rule::{Cleared, CountBy, Evidence, LinePattern, Mode, Offence, Rule, RuleSet, Trigger};
use crate::rule_id::RuleId;
use crate::time::Time;
use crate::verdict::{AllowReason, Verdict};

/// What a line says about its client.
#[derive(Debug)]
pub struct LineJudgement {
    /// The line's own time.
    pub time: Time,
    /// The client.
    pub client: Client,
    pub service: Service,
    /// How the client behaved.
    pub outcome: Outcome,
    /// Whether the client proved its identity.
    pub authenticated: bool,
    /// The rule whose ban was active when the event happened.
    pub banned_by: Option<RuleId>,
    /// The rules that the event offends although its client is never banned.
    pub spared: Vec<Arc<Rule>>,
    /// The rules whose strikes the event clears.
    pub cleared: Option<Cleared>,
    /// The crawler that it says it is, with its full address.
    pub claimed: Option<(IpAddr, Arc<Crawler>)>,
}

/// Judges the lines of one log by the rules that the log names.
#[derive(Debug)]
pub struct LogJudge {
    parser: LineParser,
    lines: LineJudge,
    texts: TextRules,
    health: LogHealth,
    /// Number of lines of no known format since the last line of Exim's, which has the headers of a message behind it in the reject log.
    since_exim: u32,
}

/// Maximum number of lines of no known format that belong to a line of Exim's.
const MAX_HEADERS: u32 = 500;

impl LogJudge {
    /// Compiles `rules` for a log whose local times are in `zone`, and reads only the formats that these rules are about. For `inline` see
    /// [`LineJudge::new`].
    ///
    /// # Errors
    /// A message about the rule that cannot be used.
    pub fn new(rules: &[Arc<Rule>], zone: &Zone, inline: bool) -> Result<Self, String> {
        let is_about_exim = |rule: &Arc<Rule>| matches!(rule.trigger, Trigger::ConnectionRate | Trigger::Line(LinePattern::Exim(_)));
        let parser =
            LineParser::new(zone.clone(), rules.iter().any(|rule| rule.trigger.is_about_requests()), rules.iter().any(is_about_exim));
        let texts = TextRules::new(rules, zone)?;
        let rules = Arc::new(RuleSet::new(rules.iter().map(|rule| Rule::clone(rule)).collect())?);
        Ok(Self::from_parts(parser, LineJudge::new(rules, inline)?, texts))
    }

    /// The judge of a log by those of `rules` that it names, or if it names none, by all rules over requests and responses.
    ///
    /// # Errors
    /// As for [`LogJudge::new`].
    pub fn of_log(rules: &Arc<RuleSet>, named: Option<&[String]>, zone: &Zone, inline: bool) -> Result<Self, String> {
        match named {
            None => {
                let parser = LineParser::new(zone.clone(), true, false);
                Ok(Self::from_parts(parser, LineJudge::new(Arc::clone(rules), inline)?, TextRules::default()))
            }
            Some(names) => {
                let named: Vec<Arc<Rule>> = names.iter().filter_map(|name| rules.by_name(name)).map(Arc::clone).collect();
                Self::new(&named, zone, inline)
            }
        }
    }

    fn from_parts(parser: LineParser, lines: LineJudge, texts: TextRules) -> Self {
        Self { parser, lines, texts, health: LogHealth::default(), since_exim: MAX_HEADERS }
    }

    /// What speaks against the log, by the lines judged so far.
    #[must_use]
    pub fn health(&self) -> &LogHealth {
        &self.health
    }

    /// The expressions of its rules in which a client's text decides who is blamed, each with a line that shows it.
    #[must_use]
    pub fn forgeries(&self) -> Vec<String> {
        self.texts.forgeries()
    }

    /// Goes on from what another judge of the same log knew.
    #[must_use]
    pub fn with_health(self, health: LogHealth) -> Self {
        Self { health, ..self }
    }

    /// Judges one line and hands each offence to `count`. `detector` brings the lists, the bans and the IPv6 prefix.
    ///
    /// None for a line that says nothing about a client's behaviour.
    pub fn judge(
        &mut self,
        line: &[u8],
        received: Received,
        detector: &Detector<'_>,
        count: &mut dyn FnMut(&LogOffence),
    ) -> Option<LineJudgement> {
        self.parser.set_latest(received.at);
        self.parser.take_is_local();
        let parsed = self.parser.parse(line);
        let corrected = self.correct(&parsed, received);
        let judgement = self.lines.judge(&parsed, corrected, detector, count);
        let texts = self.texts.judge(line, received, detector);
        self.note(line, &parsed, !texts.is_empty());
        for LogOffence { time, behind, .. } in &texts {
            if let Some(behind) = behind {
                self.note_time(time.shifted(-behind.millis()), *behind);
            }
        }
        texts.iter().for_each(count);
        judgement
    }

    /// Corrects the local times of a log that is written in another zone than expected.
    fn correct(&mut self, line: &LogLine<'_>, received: Received) -> Received {
        let Some(time) = line.time().filter(|_| self.parser.take_is_local()) else { return received };
        match received.behind(time) {
            Some(behind) => {
                self.note_time(time, behind);
                received.corrected_by(behind.millis())
            }
            None => received.corrected_by(self.health.correction()),
        }
    }

    /// Notes how far the time of a line that has just been written is behind the clock.
    fn note_time(&mut self, time: Time, behind: Quarters) {
        let zone = self.parser.zone();
        let is_second_of_two = behind.is_one_hour() && zone.is_repeated(time);
        if !is_second_of_two {
            self.health.time(time, behind, zone);
        }
    }

    /// Notes whether a line was understood. In a log of text rules alone, nobody knows which lines should be.
    fn note(&mut self, line: &[u8], parsed: &LogLine<'_>, offends: bool) {
        let LineParser { reads_access, reads_exim, .. } = self.parser;
        if !reads_access && !reads_exim {
            return;
        }
        let is_understood = match parsed {
            LogLine::Access(_) => parsed.is_understood(),
            LogLine::Exim(line) => line.time.is_some(),
            // Exim shares a log with others that way, but a web server does not.
            LogLine::OtherProgram => !reads_access,
            LogLine::Unknown => offends,
        };
        match parsed {
            LogLine::Exim(_) => self.since_exim = 0,
            LogLine::Unknown if self.since_exim < MAX_HEADERS => {
                self.since_exim += 1;
                return;
            }
            _ => {}
        }
        self.health.line(line, is_understood);
    }
}

/// Judges parsed lines; expressions in fail2ban's language are judged by [`TextRules`].
#[derive(Debug)]
pub struct LineJudge {
    rules: Arc<RuleSet>,
    exim: Vec<(EximKind, Arc<Rule>)>,
    /// The status codes that response rules name, sorted.
    statuses: Vec<u16>,
    inline: bool,
    scratch: Scratch,
    /// An ordinary request with a source of its own, or none, and one without: most lines are. Kept to allocate nothing for each.
    one_of_many: [Option<LogOffence>; 2],
    /// The rules over rates whose crowds a request with a source of its own takes its client out of.
    left: Vec<Arc<Rule>>,
}

impl LineJudge {
    /// Judges by `rules`.
    ///
    /// `inline`: the server that writes the log asks Strikeout about each request and connection as well, so that counting their lines
    /// would count them twice. What such a query cannot see counts all the same: the status of a response, what Squid refused before it
    /// asked, and Exim's own refusals. Our own log format says of each request whether it was asked about, whatever `inline` is.
    ///
    /// # Errors
    /// A message about the rule that cannot be used.
    pub fn new(rules: Arc<RuleSet>, inline: bool) -> Result<Self, String> {
        let (mut exim, mut statuses) = (Vec::new(), Vec::new());
        for rule in rules.rules() {
            match &rule.trigger {
                Trigger::Response(pattern) => statuses.extend(pattern.statuses.iter().chain(&pattern.cleared_by)),
                Trigger::Line(LinePattern::Exim(kinds)) => {
                    for name in kinds {
                        let kind = EximKind::from_name(name).ok_or_else(|| unknown_kind(name))?;
                        exim.push((kind, Arc::clone(rule)));
                    }
                }
                _ => {}
            }
        }
        statuses.sort_unstable();
        let is_left = |rule: &&Arc<Rule>| rule.trigger == Trigger::UnreferredRate && rule.count_by != CountBy::Client;
        let left = rules.request_rates().iter().filter(is_left).cloned().collect();
        Ok(Self { rules, exim, statuses, inline, scratch: Scratch::default(), one_of_many: [None, None], left })
    }

    /// Judges a parsed line and hands each offence to `count`.
    ///
    /// A ban that `count` makes is active for the rest of the line: a request that it refuses gets no response to be judged.
    /// None for a line that names no client, and for a refusal by Strikeout itself.
    pub fn judge(
        &mut self,
        line: &LogLine<'_>,
        received: Received,
        detector: &Detector<'_>,
        count: &mut dyn FnMut(&LogOffence),
    ) -> Option<LineJudgement> {
        let (address, _) = line.client().filter(|_| !line.is_our_refusal())?;
        let time = received.counted_at(line.time()?);
        let client = Client::of(address, detector.prefix);
        let subject = Subject { time, address, client };
        match line {
            LogLine::Access(line) => Some(self.access(subject, line, detector, count)),
            LogLine::Exim(line) => Some(self.exim(subject, line, detector, count)),
            LogLine::OtherProgram | LogLine::Unknown => None,
        }
    }

    /// Judges a line of an access log: the request, and unless it is refused, the status of the response.
    fn access(
        &mut self,
        subject: Subject,
        line: &AccessLine<'_>,
        detector: &Detector<'_>,
        count: &mut dyn FnMut(&LogOffence),
    ) -> LineJudgement {
        let Subject { time, address, client } = subject;
        let mut judgement = subject.judgement(Service::Web, Outcome::from_status(line.status), line.is_authenticated());
        let (url, user_agent) = (line.decode(line.url), line.user_agent.map(|text| line.decode(text)));
        let user_agent = user_agent.as_deref().map(Header::plain).unwrap_or_default();
        let referer = line.referer.map(|text| line.decode(text));
        let request = Request {
            method: line.method,
            url: &url,
            user_agent,
            sec_fetch_site: line.sec_fetch_site.unwrap_or_default(),
            referer: referer.as_deref().map(Header::plain).unwrap_or_default(),
            credentials: line.credentials,
            ..Request::default()
        };
        judgement.claimed = detector.crawlers.claimed_by(user_agent.as_written()).map(|crawler| (address, Arc::clone(crawler)));
        let detector = Detector { rules: &self.rules, ..*detector };
        let of_line = |kind, offence| LogOffence { time, behind: None, service: Service::Web, kind, offence };
        let has_counted = match line.asked {
            Asked::Unknown => self.inline && !line.is_refused_unasked(),
            Asked::Yes => true,
            Asked::No | Asked::Failed => false,
        };
        if !has_counted {
            match detector.judge(time, address, &Event::Request(request), &mut self.scratch) {
                Judgement::Offence(offence) => {
                    judgement.outcome = judgement.outcome.as_offence();
                    let is_refused = offence.rules.iter().any(|rule| rule.mode == Mode::Enforce && rule.refuses_offence);
                    count(&of_line(OffenceKind::Request, offence));
                    if is_refused {
                        return judgement;
                    }
                }
                Judgement::Settled { verdict: Verdict::Allow(AllowReason::NeverBanned(_)), .. } => {
                    judgement.spared = self.rules.offended_by_request(&request, &mut self.scratch);
                    return judgement;
                }
                Judgement::Settled { verdict, .. } | Judgement::Unsaved(verdict) if verdict.refusal().is_some() => {
                    judgement.banned_by = verdict.refusal().map(|refusal| refusal.rule);
                    if !self.rules.offended_by_request(&request, &mut self.scratch).is_empty() {
                        judgement.outcome = judgement.outcome.as_offence();
                    }
                    if let Some(offence) = detector.page_probe(address, &request, &verdict) {
                        count(&of_line(OffenceKind::Request, offence));
                    }
                    return judgement;
                }
                Judgement::Settled { counts: true, .. } if !self.rules.request_rates().is_empty() => {
                    let has_source = request.names_its_source();
                    let [with_source, without] = &mut self.one_of_many;
                    let kept = if has_source == Some(false) { without } else { with_source };
                    let rates = || self.rules.request_rates().iter().filter(|rule| counts_request(rule, has_source)).cloned().collect();
                    let event = kept.get_or_insert_with(|| one_of_many(rates(), subject));
                    event.time = time;
                    (event.offence.address, event.offence.client) = (address, client);
                    event.offence.evidence.replace(&[b"one request of many:", request.method, request.url]);
                    count(event);
                    if has_source == Some(true) && !self.left.is_empty() {
                        judgement.cleared = Some(Cleared { rules: self.left.clone(), marks: None });
                    }
                }
                Judgement::Settled { .. } | Judgement::Unsaved(_) | Judgement::Ask { .. } => {}
            }
        }
        if let Some(status) = line.status
            && line.asked != Asked::Failed
            && self.statuses.binary_search(&status).is_ok()
        {
            if let Some(cleared) = detector.cleared(status, &request, &mut self.scratch) {
                let left = judgement.cleared.take().map(|left| left.rules).unwrap_or_default();
                judgement.cleared = Some(Cleared { rules: cleared.rules.into_iter().chain(left).collect(), marks: cleared.marks });
            }
            if let Judgement::Offence(offence) = detector.judge(time, address, &Event::Response { request, status }, &mut self.scratch) {
                judgement.outcome = judgement.outcome.as_offence();
                count(&of_line(OffenceKind::Response, offence));
            }
        }
        judgement
    }

    /// Judges a line of Exim's.
    fn exim(&mut self, subject: Subject, line: &EximLine, detector: &Detector<'_>, count: &mut dyn FnMut(&LogOffence)) -> LineJudgement {
        let Subject { time, address, client } = subject;
        let rules: Vec<Arc<Rule>> = self.exim.iter().filter(|(kind, _)| *kind == line.kind).map(|(_, rule)| Arc::clone(rule)).collect();
        let outcome = match line.kind {
            EximKind::Accepted | EximKind::AcceptedAuthenticated => Outcome::Success,
            EximKind::Connection | EximKind::ConnectionRefusedGlobal | EximKind::LoadRefused => Outcome::Neutral,
            _ if rules.is_empty() => Outcome::Error,
            _ => Outcome::Offence,
        };
        let mut judgement = subject.judgement(Service::Mail, outcome, line.kind == EximKind::AcceptedAuthenticated);
        let detector = Detector { rules: &self.rules, ..*detector };
        let mut count = |kind, offence| count(&LogOffence { time, behind: None, service: Service::Mail, kind, offence });
        if detector.lists.never_banned(address).is_some() {
            judgement.spared = rules;
        } else if let Some((refusal, _)) = detector.active_refusal(time, address, client, Service::Mail) {
            judgement.banned_by = Some(refusal.rule);
        } else if !rules.is_empty() {
            judgement.outcome = Outcome::Offence;
            // The line itself is no evidence to show: it may hold what the client sent as a password.
            let evidence = Evidence::new(&[b"Exim log:", line.kind.description().as_bytes()]);
            count(OffenceKind::Mail, Offence { address, client, rules, evidence, marks: None, account: None });
        } else if line.kind == EximKind::Connection && !self.inline {
            let connection = Event::Connection(Connection { port: line.local_port, open: 0 });
            if let Judgement::Offence(offence) = detector.judge(time, address, &connection, &mut self.scratch) {
                let evidence = Evidence::new(&[b"one SMTP connection of many"]);
                count(OffenceKind::Rate, Offence { evidence, ..offence });
            }
        }
        judgement
    }
}

/// Whether a rule over rates counts a request with or without a source of its own.
fn counts_request(rule: &Rule, has_source: Option<bool>) -> bool {
    rule.trigger != Trigger::UnreferredRate || has_source == Some(false)
}

/// An event that counts under `rates`, without evidence yet.
fn one_of_many(rates: Vec<Arc<Rule>>, Subject { time, address, client }: Subject) -> LogOffence {
    let offence = Offence { address, client, rules: rates, evidence: Evidence::new(&[]), marks: None, account: None };
    LogOffence { time, behind: None, service: Service::Web, kind: OffenceKind::Rate, offence }
}

/// When a line's event happened, and to which client.
#[derive(Clone, Copy)]
struct Subject {
    time: Time,
    address: IpAddr,
    client: Client,
}

impl Subject {
    fn judgement(self, service: Service, outcome: Outcome, authenticated: bool) -> LineJudgement {
        let Self { time, client, .. } = self;
        LineJudgement { time, client, service, outcome, authenticated, banned_by: None, spared: Vec::new(), cleared: None, claimed: None }
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
