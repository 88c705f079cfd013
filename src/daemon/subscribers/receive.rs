//! What subscribers send: offences, which are counted and answered here, and counts of requests and answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::client::Client;
use crate::control::subscribe::{FromDaemon, FromSubscriber};
use crate::daemon::conn::replies::ConnectionId;
use crate::daemon::metrics::counters::{Counters, Question};
use crate::detector::Detector;
use crate::engine::Engine;
use crate::engine::reply::Reply;
use crate::event::Service;
use crate::policy::Policy;
use crate::rule::{Cleared, Offence, Rule};
use crate::rule_id::RuleNames;
use crate::table::RequestTally;
use crate::time::Time;
use crate::verdict::{AllowReason, Verdict};

/// Handles a line from the subscriber on connection `id`. `send` sends the answer to it, if there is one, from any thread.
///
/// # Errors
/// What was found and what was expected, if the line is not part of the protocol.
pub fn receive(
    id: ConnectionId,
    engine: &Arc<Engine>,
    now: Time,
    text: &str,
    counters: &Arc<Counters>,
    send: impl FnOnce(String) + Send + 'static,
) -> Result<(), String> {
    match FromSubscriber::parse(text).map_err(|error| error.to_string())? {
        FromSubscriber::Requests { address, count, unreferred } => {
            counters.requests.fetch_add(count.into(), Ordering::Relaxed);
            let policy = engine.policy();
            counters.traffic.record(Service::Web, Client::of(address, policy.prefix), count.into());
            if policy.lists.never_banned(address).is_none() {
                let tally = RequestTally::new(address, Client::of(address, policy.prefix), count).with_unreferred(unreferred);
                engine.count_requests(now, &mut vec![tally]);
            }
        }
        FromSubscriber::Crawler { address, crawler } => {
            // One that a reload has removed is nobody.
            if let Some(crawler) = engine.policy().crawlers.by_name(&crawler) {
                engine.claims().note(now, address, crawler);
            }
        }
        FromSubscriber::Stats { served, failed_open } => counters.record_served_by_helper(served, failed_open),
        FromSubscriber::Overflow { deferred, dropped } => counters.record_overflow(deferred, dropped),
        FromSubscriber::Prefilter(prefilter) => counters.prefilters.report(id.0, *prefilter),
        FromSubscriber::Refused { rule, count } => {
            // A rule that this table has never had has no metric.
            if let Some(rule) = engine.names().find(&rule) {
                counters.record_refused_by_helper(rule, count);
            }
        }
        FromSubscriber::Origin(client) => {
            // The daemon has the databases itself.
            let origin = engine.policy().geo.origin(client).unwrap_or_default();
            send(format!("{}\n", FromDaemon::Origin { client, origin }));
        }
        FromSubscriber::Clear { address, rules, marks } => {
            let policy = engine.policy();
            let rules = rules_of_web(&policy, engine.names(), &rules);
            engine.clear(Client::of(address, policy.prefix), &Cleared { rules, marks });
        }
        FromSubscriber::Offence { number, address, rules, marks, evidence } => {
            let telling = counters;
            let (counters, since, answering) = (Arc::clone(counters), Instant::now(), Arc::clone(engine));
            let reply = Reply::new(move |verdict| {
                let answer = answering.policy().answer(now, verdict);
                counters.record_answer(Question::Offence, since.elapsed(), &answer);
                send(format!("{}\n", FromDaemon::answer(number, &answer, answering.names(), now)));
            });
            let policy = engine.policy();
            let client = Client::of(address, policy.prefix);
            telling.traffic.record(Service::Web, client, 1);
            // Lists and bans may have changed since the subscriber judged the request.
            if policy.lists.never_banned(address).is_some() {
                reply.send(Verdict::Allow(AllowReason::NothingFound));
                return Ok(());
            }
            if let Some((refusal, _)) = Detector::new(&policy, engine.bans()).active_refusal(now, address, client, Service::Web) {
                engine.when_persisted(refusal.on_web(), reply);
                return Ok(());
            }
            let rules = rules_of_web(&policy, engine.names(), &rules);
            if rules.is_empty() {
                // The subscriber's rules are older than a reload; its next requests are judged by the new ones.
                reply.send(Verdict::Allow(AllowReason::NothingFound));
            } else {
                engine.record_offence(now, &Offence { address, client, rules, evidence, marks, account: None }, Service::Web, reply);
            }
        }
        FromSubscriber::Strike { count, address, rules, marks, evidence } => {
            let policy = engine.policy();
            let client = Client::of(address, policy.prefix);
            let rules = rules_of_web(&policy, engine.names(), &rules);
            let is_refused = || Detector::new(&policy, engine.bans()).active_refusal(now, address, client, Service::Web).is_some();
            if !rules.is_empty() && policy.lists.never_banned(address).is_none() && !is_refused() {
                let offence = Offence { address, client, rules, evidence, marks, account: None };
                engine.record_offences(now, &offence, Service::Web, count, Reply::new(|_| ()));
            }
        }
    }
    Ok(())
}

/// Those of the named rules that are in force, and under which a Squid helper can see an offence.
fn rules_of_web(policy: &Policy, names: &RuleNames, named: &[String]) -> Vec<Arc<Rule>> {
    let rules = named.iter().filter_map(|name| policy.rules.get(names.find(name)?));
    rules.filter(|rule| rule.trigger.is_about_requests() && !rule.trigger.is_request_rate()).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::engine;
    use super::*;

    use crate::rule::Evidence;

    use std::sync::mpsc::channel;

    const NOW: Time = Time::from_secs(1_800_000_000);
    const ID: ConnectionId = ConnectionId(7);

    fn receive_one(engine: &Arc<Engine>, text: &str) -> String {
        let (sender, receiver) = channel();
        receive(ID, engine, NOW, text, &Arc::default(), move |line| sender.send(line).unwrap()).unwrap();
        receiver.recv().unwrap()
    }

    #[test]
    fn an_offence_is_counted_and_answered_under_its_number() {
        let engine = engine("[[rule]]\nname = 'admin'\npath = '/admin'\nmaxretry = 2");
        assert_eq!(receive_one(&engine, "offence 1 198.51.100.7 admin GET /admin"), "answer 1 accept\n");
        assert_eq!(receive_one(&engine, "offence 2 198.51.100.7 admin GET /admin"), "answer 2 deny admin 3600 struck\n");
        assert_eq!(receive_one(&engine, "offence 3 198.51.100.7 admin GET /admin"), "answer 3 deny admin 3600 banned\n");
        assert_eq!(
            engine.ban_record(Client::from(std::net::Ipv4Addr::new(198, 51, 100, 7))).map(|record| record.evidence),
            Some(Evidence::restore("GET /admin"))
        );
    }

    #[test]
    fn never_banned_addresses_and_unknown_rules_are_not_struck() {
        let engine = engine("[defaults]\nignoreip = ['198.51.100.7']");
        assert_eq!(receive_one(&engine, "offence 1 198.51.100.7 w00tw00t x"), "answer 1 accept\n");
        assert_eq!(receive_one(&engine, "offence 2 198.51.100.8 gone,exim-rate x"), "answer 2 accept\n");
        assert!(engine.bans().is_empty());
        assert!(receive(ID, &engine, NOW, "check 1.2.3.4", &Arc::default(), |_| ()).is_err());
    }

    #[test]
    fn a_strike_counts_without_an_answer() {
        let engine = engine("[defaults]\nignoreip = ['198.51.100.9']\n[[rule]]\nname = 'page-probes'\nmaxretry = 3");
        let receive_some = |count: u32, address: &str, rule: &str| {
            receive(ID, &engine, NOW, &format!("strike {count} {address} {rule} GET /x"), &Arc::default(), |_| panic!("an answer"))
                .unwrap();
            engine.bans().len()
        };
        let receive = |address: &str, rule: &str| receive_some(1, address, rule);
        for rule in ["gone", "exim-rate", "web-rate"] {
            assert_eq!(receive("198.51.100.7", rule), 0);
        }
        assert_eq!([1, 2, 3].map(|_| receive("198.51.100.9", "page-probes")), [0, 0, 0], "never banned");
        assert_eq!([1, 2, 3, 4].map(|_| receive("198.51.100.7", "page-probes")), [0, 0, 1, 1]);
        assert_eq!([2, 1].map(|count| receive_some(count, "198.51.100.8", "page-probes")), [1, 2], "strikes that were merged add up");
    }

    #[test]
    fn marks_and_successes_reach_the_table() {
        let engine = engine(
            "[[rule]]\nname = 'x'\npath = '/x'\nmaxretry = 3\ndistinct = 'path'\n[[rule]]\nname = 'login'\nstatus = 401\npath = '/l'\ncleared_by_status = 200\nmaxretry = 2",
        );
        assert_eq!(receive_one(&engine, "offence 1 198.51.100.7 x@1.0.0 GET /x1"), "answer 1 accept\n");
        assert_eq!(receive_one(&engine, "offence 2 198.51.100.7 x@1.0.0 GET /x1"), "answer 2 accept\n");
        assert_eq!(receive_one(&engine, "offence 3 198.51.100.7 x@2.0.0 GET /x2"), "answer 3 accept\n");
        for _ in 0..3 {
            assert_eq!(receive_one(&engine, "offence 4 198.51.100.7 login 401 GET /l"), "answer 4 accept\n");
            receive(ID, &engine, NOW, "clear 198.51.100.7 login", &Arc::default(), |_| panic!("an answer")).unwrap();
        }
        assert_eq!(receive_one(&engine, "offence 5 198.51.100.7 x@3.0.0 GET /x3"), "answer 5 deny x 3600 struck\n");
    }

    #[test]
    fn requests_are_added_to_the_rates() {
        let engine = engine("[[rule]]\nname = 'rate'\nevent = 'request'\nmaxretry = 50\nfindtime = '1m'");
        for _ in 0..2 {
            receive(ID, &engine, NOW, "requests 198.51.100.7 25", &Arc::default(), |_| ()).unwrap();
        }
        assert_eq!(engine.bans().len(), 1);
    }
}
