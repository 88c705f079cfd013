//! What followers are sent: the configuration and the bans whole, then every change; and what becomes of the offences that they send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::mailbox::{Mailbox, Post};
use super::meters::{Meters, Question};
use crate::client::Client;
use crate::clock::Clock;
use crate::engine::{Change, Engine, InForce};
use crate::event::{Scope, Surface};
use crate::reply::Reply;
use crate::rule::{Offence, Rule, Trigger};
use crate::socket::follow::{self, FromFollower, FromResident, List, RuleLine};
use crate::table::{Ban, Tallied};
use crate::time::Time;
use crate::verdict::{Innocence, Verdict};

/// So many may follow at a time: what each has not read yet is kept for it.
pub const MOST: usize = 256;

/// So many bans make one piece of a snapshot.
const PIECE: usize = 1024;

/// What the event loop remembers of those who follow.
pub struct Followers {
    /// How many follow: while nobody does, changes are not posted.
    count: Arc<AtomicUsize>,
    /// The configuration that they have.
    sent: Arc<InForce>,
}

impl Followers {
    /// Nobody follows yet; changes of the table will be posted to `mailbox` once somebody does.
    #[must_use]
    pub fn new(engine: &Arc<Engine>, mailbox: &Arc<Mailbox>, clock: Clock) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let (counted, mailbox) = (Arc::clone(&count), Arc::clone(mailbox));
        engine.observe(move |change| {
            if counted.load(Ordering::Relaxed) > 0 {
                mailbox.post(Post::Change(self::change(change, clock.now())));
            }
        });
        Self { count, sent: engine.in_force() }
    }

    /// Somebody more follows.
    pub fn begin(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many follow; some of them may just have gone.
    #[must_use]
    pub fn number(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// So many follow.
    pub fn count(&self, followers: usize) {
        self.count.store(followers, Ordering::Relaxed);
    }

    /// The configuration in force, if it is another one than followers have.
    pub fn changed_config(&mut self, engine: &Engine) -> Option<String> {
        let in_force = engine.in_force();
        let same = Arc::ptr_eq(&in_force, &self.sent)
            || (Arc::ptr_eq(&in_force.rules, &self.sent.rules)
                && in_force.lists.are_the_lists_of(&self.sent.lists)
                && (in_force.prefix, in_force.on_failure) == (self.sent.prefix, self.sent.on_failure));
        self.sent = in_force;
        (!same).then(|| config(&self.sent))
    }
}

/// The greeting, the configuration and all bans, piece by piece.
///
/// The table is looked at now; what changes while the pieces go out must be sent after the last one.
pub fn snapshot(engine: &Engine, now: Time) -> impl Iterator<Item = String> + Send + 'static {
    let in_force = engine.in_force();
    let hello = format!("{}\n{}{}\n", FromResident::Hello(follow::VERSION), config(&in_force), FromResident::BeginBans);
    let networks: String = in_force
        .lists
        .banned
        .iter()
        .map(|ban| line(&FromResident::BanNetwork { network: ban.network, remaining: ban.until.map(|until| until.since(now)) }))
        .collect();
    let mut bans: Vec<(Client, Surface, Ban)> = Vec::with_capacity(engine.bans().len());
    engine.bans().for_each(now, |client, surface, ban| bans.push((client, surface, ban)));
    let names = Arc::clone(engine.names());
    let mut rest = bans.into_iter().peekable();
    let pieces = std::iter::from_fn(move || {
        rest.peek()?;
        Some(
            rest.by_ref()
                .take(PIECE)
                .map(|(client, surface, ban)| {
                    let scope = match surface {
                        Surface::Web => Scope::Web,
                        Surface::Mail => Scope::Mail,
                    };
                    line(&FromResident::Ban { client, scope, rule: names.name(ban.rule), remaining: ban.until.remaining(now) })
                })
                .collect(),
        )
    });
    [hello, networks].into_iter().chain(pieces).chain(std::iter::once(line(&FromResident::EndBans)))
}

/// The configuration as a follower needs it.
#[must_use]
pub fn config(in_force: &InForce) -> String {
    let mut text = line(&FromResident::BeginConfig { prefix: in_force.prefix, on_failure: in_force.on_failure });
    for rule in in_force.rules.rules().iter().filter_map(|rule| RuleLine::of(rule)) {
        text.push_str(&line(&FromResident::Rule(rule)));
    }
    let lists = &in_force.lists;
    let mut listed = |list, network| text.push_str(&line(&FromResident::Listed(list, network)));
    lists.own().addresses().iter().for_each(|address| listed(List::Own, (*address).into()));
    lists.own().gateways().iter().for_each(|address| listed(List::Gateway, (*address).into()));
    for (list, sources) in [(List::IgnoreIp, lists.ignoreip()), (List::TrustedProxies, lists.trusted_proxies()), (List::Deny, lists.deny())]
    {
        sources.iter().flat_map(|source| source.networks().iter()).for_each(|network| listed(list, network));
    }
    text.push_str(&line(&FromResident::EndConfig));
    text
}

/// What followers hear of a change.
#[must_use]
pub fn change(change: &Change, now: Time) -> String {
    line(&match change {
        Change::Banned(record) => FromResident::Ban {
            client: record.client,
            scope: record.scope,
            rule: Arc::clone(&record.rule),
            remaining: record.until.remaining(now),
        },
        Change::Unbanned { client, scope, .. } => FromResident::Unban { client: *client, scope: *scope },
        Change::NetworkBanned { network, until, .. } => FromResident::BanNetwork { network: *network, remaining: until.remaining(now) },
        Change::NetworkUnbanned { network, .. } => FromResident::UnbanNetwork(*network),
    })
}

/// Works on a line of a follower. `send` sends it bytes, from any thread.
///
/// # Errors
/// What was found and expected, where the line is none of the protocol's.
pub fn hear(
    engine: &Arc<Engine>,
    now: Time,
    text: &str,
    meters: &Arc<Meters>,
    send: impl FnOnce(String) + Send + 'static,
) -> Result<(), String> {
    match FromFollower::parse(text).map_err(|error| error.to_string())? {
        FromFollower::Requests { address, count } => {
            meters.requests.fetch_add(count.into(), Ordering::Relaxed);
            let in_force = engine.in_force();
            if in_force.lists.never_banned(address).is_none() {
                engine.tally(now, &mut vec![Tallied::new(address, Client::of(address, in_force.prefix), count)]);
            }
        }
        FromFollower::Offence { number, address, rules, evidence } => {
            let names = Arc::clone(engine.names());
            let (meters, asked) = (Arc::clone(meters), Instant::now());
            let reply = Reply::new(move |verdict| {
                meters.answered(Question::Offence, asked.elapsed(), &verdict);
                send(line(&FromResident::answer(number, &verdict, &names, now)));
            });
            let in_force = engine.in_force();
            let client = Client::of(address, in_force.prefix);
            // The follower may not know yet what this table does.
            if in_force.lists.never_banned(address).is_some() {
                reply.send(Verdict::Allow(Innocence::NothingFound));
            } else if let Some((refusal, _)) = in_force.detector(engine.bans()).standing(now, address, client, Surface::Web) {
                engine.when_kept(refusal.on_web(), reply);
            } else {
                let rules: Vec<Arc<Rule>> = rules
                    .iter()
                    .filter_map(|name| in_force.rules.get(engine.names().find(name)?))
                    .filter(|rule| can_be_met(rule))
                    .cloned()
                    .collect();
                if rules.is_empty() {
                    // Its rules are older than a reload: the next requests are judged by the new ones.
                    reply.send(Verdict::Allow(Innocence::NothingFound));
                } else {
                    engine.offend(now, &Offence { address, client, rules, evidence }, Surface::Web, reply);
                }
            }
        }
    }
    Ok(())
}

/// Whether a follower can meet an offence under this rule at all.
fn can_be_met(rule: &Rule) -> bool {
    matches!(rule.trigger, Trigger::Request(_) | Trigger::Response { .. })
}

fn line(line: &FromResident) -> String {
    format!("{line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::rule::{Evidence, Names};
    use crate::table::Until;
    use crate::time::Span;
    use std::path::Path;
    use std::sync::mpsc::channel;

    const NOW: Time = Time::from_secs(1_800_000_000);

    fn engine(text: &str) -> Arc<Engine> {
        let names = Arc::new(Names::default());
        let config = Config::parse(text.as_bytes(), Path::new("test.toml"), &names).unwrap();
        Arc::new(Engine::new(names, config.into(), 100, 100_000).unwrap())
    }

    fn client(number: u32) -> Client {
        Client::from(std::net::Ipv4Addr::from(0xc633_6400 + number))
    }

    fn hear_one(engine: &Arc<Engine>, text: &str) -> String {
        let (sender, receiver) = channel();
        hear(engine, NOW, text, &Arc::default(), move |line| sender.send(line).unwrap()).unwrap();
        receiver.recv().unwrap()
    }

    #[test]
    fn a_snapshot_is_hello_configuration_and_bans_and_every_line_can_be_read() {
        let engine = engine("[defaults]\nignoreip = ['198.51.100.0/24']\ndeny = ['203.0.113.9']");
        let until = Until::at(NOW.after(Span::from_secs(60)));
        for number in 0..3000 {
            engine.bans().ban(client(number), Scope::Web, Ban { until, rule: engine.names().intern("w00tw00t"), saved: true }, NOW);
        }
        let text: String = snapshot(&engine, NOW).collect();
        let lines: Vec<FromResident> = text.lines().map(|line| FromResident::parse(line).unwrap()).collect();
        assert_eq!(lines.first(), Some(&FromResident::Hello(1)));
        assert_eq!(lines.last(), Some(&FromResident::EndBans));
        assert!(lines.contains(&FromResident::Listed(List::Deny, "203.0.113.9/32".parse().unwrap())));
        assert_eq!(lines.iter().filter(|line| matches!(line, FromResident::Ban { scope: Scope::Web, .. })).count(), 3000);
        assert!(text.lines().all(|line| line.len() < 8192));
    }

    #[test]
    fn an_offence_is_counted_here_and_answered_under_its_number() {
        let engine = engine("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 2");
        assert_eq!(hear_one(&engine, "offence 1 198.51.100.7 admin GET /admin"), "answer 1 accept\n");
        assert_eq!(hear_one(&engine, "offence 2 198.51.100.7 admin GET /admin"), "answer 2 deny admin 3600 struck\n");
        assert_eq!(hear_one(&engine, "offence 3 198.51.100.7 admin GET /admin"), "answer 3 deny admin 3600 banned\n");
        assert_eq!(
            engine.story(Client::from(std::net::Ipv4Addr::new(198, 51, 100, 7))).map(|story| story.evidence),
            Some(Evidence::restore("GET /admin"))
        );
    }

    #[test]
    fn a_never_banned_address_and_rules_that_are_not_here_strike_nobody() {
        let engine = engine("[defaults]\nignoreip = ['198.51.100.7']");
        assert_eq!(hear_one(&engine, "offence 1 198.51.100.7 w00tw00t x"), "answer 1 accept\n");
        assert_eq!(hear_one(&engine, "offence 2 198.51.100.8 gone,exim-rate x"), "answer 2 accept\n");
        assert!(engine.bans().is_empty());
        assert!(hear(&engine, NOW, "check 1.2.3.4", &Arc::default(), |_| ()).is_err());
    }

    #[test]
    fn requests_are_added_to_the_rates() {
        let engine = engine("[[rule]]\nname = 'rate'\nevent = 'request'\nmaxretry = 50\nfindtime = '1m'");
        for _ in 0..2 {
            hear(&engine, NOW, "requests 198.51.100.7 25", &Arc::default(), |_| ()).unwrap();
        }
        assert_eq!(engine.bans().len(), 1);
    }

    #[test]
    fn every_change_is_a_line() {
        let at = NOW;
        assert_eq!(change(&Change::Unbanned { client: client(1), scope: Scope::All, at }, NOW), "unban 198.51.100.1 all\n");
        assert_eq!(change(&Change::NetworkUnbanned { network: "10.0.0.0/8".parse().unwrap(), at }, NOW), "unban-network 10.0.0.0/8\n");
    }
}
