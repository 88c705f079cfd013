//! Looks up whether an address is a crawler's: its name must be in a domain of the crawler, and that name must have the address. Whoever holds
//! an address chooses its name, but only the owner of the domain says which addresses a name in it has.

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::questions::Questions;
use super::system::{self, NoAnswer};
use crate::clock::Clock;
use crate::crawler::{Asked, Finding, Question};
use crate::engine::Engine;

/// Maximum number of lookups at a time.
const MAX_RUNNING: usize = 8;

/// What waits, and how many threads work it off.
#[derive(Default)]
struct Queue {
    questions: Questions,
    threads: usize,
}

/// Answers the questions of `engine` about crawlers from now on. Threads run only while there are questions.
pub fn start(engine: &Arc<Engine>, clock: Clock) {
    let (weak, queue) = (Arc::downgrade(engine), Arc::new(Mutex::new(Queue::default())));
    engine.claims().ask_by(move |question| {
        let mut locked = queue.lock();
        let asked = locked.questions.add(question);
        // A full queue, and a network whose lookups all run, give another thread nothing to do.
        if !matches!(asked, Asked::Full) && locked.threads < MAX_RUNNING && locked.questions.may_begin() {
            let (engine, queue) = (Weak::clone(&weak), Arc::clone(&queue));
            let started = std::thread::Builder::new().name("crawlers".into()).spawn(move || work_off(&engine, clock, &queue));
            if started.is_ok() {
                locked.threads += 1;
            }
        }
        if locked.threads > 0 {
            return asked;
        }
        // No thread runs and none could be started. Nothing else waits then, and nobody would take this one.
        if let Some(question) = locked.questions.take() {
            locked.questions.finish(question.address);
        }
        Asked::Full
    });
}

fn work_off(engine: &Weak<Engine>, clock: Clock, queue: &Mutex<Queue>) {
    loop {
        let mut locked = queue.lock();
        // What may not begin yet is taken by the thread that ends the lookup before it.
        let Some(question) = locked.questions.take() else {
            locked.threads -= 1;
            return;
        };
        drop(locked);
        let finding = find(&question, system::name, system::addresses_of);
        if let Some(engine) = engine.upgrade() {
            engine.claims().answer(clock.now(), &question, finding);
        }
        queue.lock().questions.finish(question.address);
    }
}

/// Looks an address up, forth and back.
fn find(
    question: &Question,
    name: impl Fn(IpAddr) -> Result<String, NoAnswer>,
    addresses: impl Fn(&str) -> Result<Vec<IpAddr>, NoAnswer>,
) -> Finding {
    let failed = |no_answer| if no_answer == NoAnswer::None { Finding::Refuted } else { Finding::Unknown };
    let host = match name(question.address) {
        Ok(host) if question.crawler.has_host(&host) => host,
        Ok(_) => return Finding::Refuted,
        Err(no_answer) => return failed(no_answer),
    };
    // With the dot at its end no search domain is tried.
    match addresses(&format!("{}.", host.trim_end_matches('.'))) {
        Ok(found) if found.iter().any(|found| found.to_canonical() == question.address.to_canonical()) => Finding::Verified,
        Ok(_) => Finding::Refuted,
        Err(no_answer) => failed(no_answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crawler::known;
    use crate::list::Networks;

    fn found(name: Result<&str, NoAnswer>, addresses: Result<&[&str], NoAnswer>) -> Finding {
        let crawler = Arc::new(known::find("googlebot").unwrap().crawler(Networks::default()));
        let question = Question { address: "192.0.2.7".parse().unwrap(), crawler };
        let parse = |found: &[&str]| found.iter().map(|address| address.parse().unwrap()).collect();
        find(
            &question,
            |_| name.map(str::to_owned),
            |host| {
                assert_eq!(host, "crawl.googlebot.com.");
                addresses.map(parse)
            },
        )
    }

    #[test]
    fn a_name_in_the_domain_must_have_the_address() {
        let google = Ok("crawl.googlebot.com");
        assert_eq!(found(google, Ok(&["192.0.2.9", "192.0.2.7"])), Finding::Verified);
        assert_eq!(found(google, Ok(&["::ffff:192.0.2.7"])), Finding::Verified);
        assert_eq!(found(google, Ok(&["192.0.2.8"])), Finding::Refuted, "a forged name");
        assert_eq!(found(google, Err(NoAnswer::None)), Finding::Refuted);
        assert_eq!(found(Ok("host.example"), Ok(&["192.0.2.7"])), Finding::Refuted);
        assert_eq!(found(Err(NoAnswer::None), Ok(&[])), Finding::Refuted);
    }

    #[test]
    fn without_an_answer_nothing_is_known() {
        assert_eq!(found(Err(NoAnswer::Failed), Ok(&[])), Finding::Unknown);
        assert_eq!(found(Ok("crawl.googlebot.com"), Err(NoAnswer::Failed)), Finding::Unknown);
    }
}
