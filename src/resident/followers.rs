//! What followers are sent: the configuration and the bans whole, then every change; and what becomes of the offences that they send.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use ipnet::IpNet;

use super::mailbox::{Mailbox, Pieces, Post};
use super::meters::{Meters, Question};
use crate::client::Client;
use crate::clock::Clock;
use crate::engine::{Change, Engine, InForce};
use crate::event::{Scope, Surface};
use crate::list::{Lists, Source};
use crate::reply::Reply;
use crate::rule::{Offence, Rule, Trigger};
use crate::socket::follow::{self, FromFollower, FromResident, List, RuleLine};
use crate::table::{Ban, Tallied};
use crate::time::Time;
use crate::verdict::{Innocence, Verdict};

/// So many may follow at a time: what each has not read yet is kept for it.
pub const MOST: usize = 256;

/// So many lines make one piece of what is sent.
const PIECE: usize = 1024;

/// So many copies of the bans are on their way at a time: each takes as much memory as the table until its followers have read it.
const MOST_SNAPSHOTS: usize = 8;

/// The bans of one moment, and the banned networks.
struct Standing {
    clients: Vec<(Client, Surface, Ban)>,
    networks: Vec<(IpNet, Option<Time>)>,
}

/// What the event loop remembers of those who follow.
pub struct Followers {
    /// How many follow: while nobody does, changes are not posted.
    count: Arc<AtomicUsize>,
    /// The configuration that they have, or are being sent.
    sent: Arc<InForce>,
    /// The bans that somebody has not read to their end yet.
    snapshots: Vec<Weak<Standing>>,
    /// The one of these that are the bans of now.
    fresh: Weak<Standing>,
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
        Self { count, sent: engine.in_force(), snapshots: Vec::new(), fresh: Weak::new() }
    }

    /// Somebody more follows, and is sent this: the greeting, the configuration and all bans, piece by piece. What changes from now on must
    /// be sent after it. `None` if too many others are still reading what was sent to them.
    ///
    /// After a restart all come back at once: as long as nothing changes they share one copy of the bans.
    pub fn begin(&mut self, engine: &Engine, clock: Clock) -> Option<Pieces> {
        self.snapshots.retain(|standing| standing.strong_count() > 0);
        let shared = self.fresh.upgrade();
        if shared.is_none() && self.snapshots.len() >= MOST_SNAPSHOTS {
            return None;
        }
        // Counted first: a change that another thread makes while the table is looked at is posted.
        self.count.fetch_add(1, Ordering::Relaxed);
        let standing = shared.unwrap_or_else(|| {
            let standing = Arc::new(standing(engine, clock.now()));
            self.fresh = Arc::downgrade(&standing);
            self.snapshots.push(Weak::clone(&self.fresh));
            standing
        });
        Some(Box::new(snapshot(engine, standing, move || clock.now())))
    }

    /// A change was posted: who follows from now on needs the bans as they are now.
    pub fn changed(&mut self) {
        self.fresh = Weak::new();
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
    pub fn changed_config(&mut self, engine: &Engine) -> Option<Arc<InForce>> {
        let in_force = engine.in_force();
        let same = Arc::ptr_eq(&in_force, &self.sent)
            || (Arc::ptr_eq(&in_force.rules, &self.sent.rules)
                && in_force.lists.are_the_lists_of(&self.sent.lists)
                && (in_force.prefix, in_force.on_failure) == (self.sent.prefix, self.sent.on_failure));
        self.sent = in_force;
        (!same).then(|| Arc::clone(&self.sent))
    }
}

/// The bans and banned networks that stand at `now`.
fn standing(engine: &Engine, now: Time) -> Standing {
    let networks = engine.in_force().lists.banned.iter().map(|ban| (ban.network, ban.until)).collect();
    let mut clients = Vec::with_capacity(engine.bans().len());
    engine.bans().for_each(now, |client, surface, ban| clients.push((client, surface, ban)));
    Standing { clients, networks }
}

/// The greeting, the configuration and all bans. `now` tells the time at which a piece is made.
fn snapshot(
    engine: &Engine,
    standing: Arc<Standing>,
    now: impl Fn() -> Time + Clone + Send + 'static,
) -> impl Iterator<Item = String> + Send + 'static {
    let hello = line(&FromResident::Hello(follow::VERSION));
    let of_network = {
        let (standing, now) = (Arc::clone(&standing), now.clone());
        move |numbers: Range<usize>| {
            let now = now();
            let networks = standing.networks.get(numbers).unwrap_or_default().iter();
            let lines = networks.filter(|(_, until)| until.is_none_or(|until| until > now)).map(|(network, until)| {
                line(&FromResident::BanNetwork { network: *network, remaining: until.map(|until| until.since(now)) })
            });
            lines.collect()
        }
    };
    let networks = parts(standing.networks.len()).map(of_network);
    let names = Arc::clone(engine.names());
    let clients = parts(standing.clients.len()).map(move |numbers| {
        let now = now();
        // Who reads slowly shall not hear of what has ended meanwhile.
        let bans = standing.clients.get(numbers).unwrap_or_default().iter().filter(|(_, _, ban)| !ban.until.is_over(now));
        let lines = bans.map(|(client, surface, ban)| {
            let scope = match surface {
                Surface::Web => Scope::Web,
                Surface::Mail => Scope::Mail,
            };
            line(&FromResident::Ban { client: *client, scope, rule: names.name(ban.rule), remaining: ban.until.remaining(now) })
        });
        lines.collect()
    });
    let begin = [line(&FromResident::BeginBans)];
    let end = [line(&FromResident::EndBans)];
    [hello].into_iter().chain(config(engine.in_force())).chain(begin).chain(networks).chain(clients).chain(end)
}

/// The configuration as a follower needs it, piece by piece. Until the last one is made the lists are held as they are in memory, and no
/// text of them: a million networks take a fifth of their text, however many followers read it.
pub fn config(in_force: Arc<InForce>) -> impl Iterator<Item = String> + Send + 'static {
    let begin = [line(&FromResident::BeginConfig { prefix: in_force.prefix, on_failure: in_force.on_failure })];
    let of_rules = {
        let in_force = Arc::clone(&in_force);
        move |numbers: Range<usize>| {
            let rules = in_force.rules.rules().get(numbers).unwrap_or_default().iter();
            rules.filter_map(|rule| RuleLine::of(rule)).map(|rule| line(&FromResident::Rule(rule))).collect()
        }
    };
    let rules = parts(in_force.rules.rules().len()).map(of_rules);
    let own = in_force.lists.own();
    let addresses = own.addresses().iter().map(|address| (List::Own, *address));
    let gateways = own.gateways().iter().map(|address| (List::Gateway, *address));
    let own = [addresses.chain(gateways).map(|(list, address)| line(&FromResident::Listed(list, address.into()))).collect()];
    let mut places = Vec::new();
    for list in [List::IgnoreIp, List::TrustedProxies, List::Deny] {
        for (number, source) in sources(&in_force.lists, list).iter().enumerate() {
            places.extend(parts(source.networks().len()).map(|numbers| (list, number, numbers)));
        }
    }
    let lists = places.into_iter().map(move |(list, number, numbers)| {
        let source = sources(&in_force.lists, list).get(number);
        let networks = source.into_iter().flat_map(|source| source.networks().part(numbers.clone()));
        networks.map(|network| line(&FromResident::Listed(list, network))).collect()
    });
    begin.into_iter().chain(rules).chain(own).chain(lists).chain([line(&FromResident::EndConfig)])
}

/// What is in the list of this name.
fn sources(lists: &Lists, list: List) -> &[Source] {
    match list {
        List::IgnoreIp => lists.ignoreip(),
        List::TrustedProxies => lists.trusted_proxies(),
        List::Deny => lists.deny(),
        // These are addresses, and few.
        List::Own | List::Gateway => &[],
    }
}

/// The numbers below `len`, as many at a time as make one piece.
fn parts(len: usize) -> impl Iterator<Item = Range<usize>> + Send + 'static {
    (0..len).step_by(PIECE).map(move |from| from..len.min(from + PIECE))
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
        FromFollower::Answered { served, failed_open } => meters.told(served, failed_open),
        // A rule that this table never had has no metric.
        FromFollower::Refused { rule, count } => {
            if let Some(rule) = engine.names().find(&rule) {
                meters.told_refused(rule, count);
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
    use crate::rule::{Evidence, Names, RuleId};
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
        let text: String = snapshot(&engine, Arc::new(standing(&engine, NOW)), || NOW).collect();
        let lines: Vec<FromResident> = text.lines().map(|line| FromResident::parse(line).unwrap()).collect();
        assert_eq!(lines.first(), Some(&FromResident::Hello(1)));
        assert_eq!(lines.last(), Some(&FromResident::EndBans));
        assert!(lines.contains(&FromResident::Listed(List::Deny, "203.0.113.9/32".parse().unwrap())));
        assert_eq!(lines.iter().filter(|line| matches!(line, FromResident::Ban { scope: Scope::Web, .. })).count(), 3000);
        assert!(text.lines().all(|line| line.len() < 8192));
    }

    #[test]
    fn as_long_as_nothing_changes_all_who_come_share_one_copy_of_the_bans_and_few_copies_are_kept() {
        let engine = engine("");
        let (mailbox, clock) = (Arc::new(Mailbox::new().unwrap()), Clock::start());
        let mut followers = Followers::new(&engine, &mailbox, clock);
        let mut reading = Vec::new();
        for _ in 0..100 {
            reading.push(followers.begin(&engine, clock).unwrap());
        }
        assert_eq!((followers.snapshots.len(), followers.number()), (1, 100));
        for _ in 1..MOST_SNAPSHOTS {
            followers.changed();
            reading.push(followers.begin(&engine, clock).unwrap());
        }
        followers.changed();
        assert!(followers.begin(&engine, clock).is_none(), "nobody has read anything");
        reading.truncate(1);
        assert!(followers.begin(&engine, clock).is_some());
    }

    #[test]
    fn who_comes_when_a_newer_copy_was_read_already_does_not_get_the_older_one_that_somebody_still_reads() {
        let engine = engine("");
        let (mailbox, clock) = (Arc::new(Mailbox::new().unwrap()), Clock::start());
        let mut followers = Followers::new(&engine, &mailbox, clock);
        let slow = followers.begin(&engine, clock).unwrap();
        engine.bans().ban(client(1), Scope::Web, Ban { until: Until::NEVER, rule: RuleId::MANUAL, saved: true }, clock.now());
        followers.changed();
        drop(followers.begin(&engine, clock).unwrap());
        let text: String = followers.begin(&engine, clock).unwrap().collect();
        assert!(text.contains("\nban 198.51.100.1 web manual -1\n"), "{text}");
        drop(slow);
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
