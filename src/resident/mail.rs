//! `check` and `strike`: what Exim asks, judged and counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use ahash::RandomState;

use super::mailbox::ConnectionId;
use super::peer::{Peer, StrikeRates};
use super::processes::{Arrival, Holding, Processes, ancestors, is_gone};
use crate::client::Client;
use crate::detector::{Detector, Judgement};
use crate::engine::Engine;
use crate::event::{Connection, Event, Surface};
use crate::reply::Reply;
use crate::rule::set::Scratch;
use crate::rule::{Evidence, Offence, Trigger};
use crate::socket::request::{Check, Via};
use crate::time::Time;
use crate::verdict::{Innocence, Verdict};

/// One request of one connection.
pub type RequestId = (ConnectionId, u64);

/// Everything that Exim's questions need beside the engine.
pub struct Mail {
    engine: Arc<Engine>,
    processes: Processes,
    rates: StrikeRates,
    scratch: Scratch,
    /// Connections that are held while the verdict on them is awaited.
    awaited: HashMap<RequestId, Holding, RandomState>,
    /// Each oddity is logged once.
    told_of_namespace: bool,
    told_of_watching: bool,
}

impl Mail {
    /// Judges for `engine`, and watches `most` connection processes at a time.
    ///
    /// # Errors
    /// The kernel's: no file descriptor is left.
    pub fn new(engine: Arc<Engine>, most: usize) -> std::io::Result<Self> {
        Ok(Self {
            engine,
            processes: Processes::new(most)?,
            rates: StrikeRates::default(),
            scratch: Scratch::default(),
            awaited: HashMap::default(),
            told_of_namespace: false,
            told_of_watching: false,
        })
    }

    /// The connection processes that are watched.
    #[must_use]
    pub fn processes(&mut self) -> &mut Processes {
        &mut self.processes
    }

    /// Answers a `check` of `peer`, which waits at the other end of `socket`.
    pub fn check(&mut self, now: Time, id: RequestId, check: &Check, peer: &Peer, socket: &impl AsFd, reply: Reply) {
        let Some(address) = check.address else { return reply.send(Verdict::Allow(Innocence::NotAQuestion)) };
        let engine = Arc::clone(&self.engine);
        let in_force = engine.in_force();
        let detector = in_force.detector(engine.bans());
        // Who is refused or never banned anyway is neither counted nor held.
        let standing = detector.judge(now, address, &Event::Lookup(Surface::Mail), &mut self.scratch);
        let mut connection = Connection { port: check.port, open: 0 };
        let is_settled = !matches!(&standing, Judgement::Settled { verdict: Verdict::Allow(Innocence::NothingFound), .. });
        if is_settled || connection.is_submission() {
            return finish(&engine, now, standing, reply);
        }
        let client = Client::of(address, in_force.prefix);
        match self.arrive(check, peer, client, socket) {
            (Arrival::Repeat, _) => return finish(&engine, now, standing, reply),
            (Arrival::New { open }, Some(holding)) => {
                connection.open = open;
                self.awaited.insert(id, holding);
            }
            _ => {}
        }
        log::debug!("{address} has {} connections open (port {:?}, pid {:?} as Exim says)", connection.open, check.port, check.pid);
        let judgement = detector.judge(now, address, &Event::Connection(connection), &mut self.scratch);
        finish(&engine, now, judgement, reply);
    }

    /// Holds the process that waits for the answer.
    fn arrive(&mut self, check: &Check, peer: &Peer, client: Client, socket: &impl AsFd) -> (Arrival, Option<Holding>) {
        if check.via == Via::Lines {
            return (Arrival::Unknown, None);
        }
        let Some(peer_pid) = peer.pid else {
            if !self.told_of_namespace {
                self.told_of_namespace = true;
                log::warn!("a peer is in another PID namespace: how many connections are open at once cannot be known there");
            }
            return (Arrival::Unknown, None);
        };
        // The peer lived all the time if its end of the socket is open even now, and so did those whose child it is.
        let is_it = |pid| (check.via != Via::Run || ancestors(peer_pid).any(|ancestor| ancestor == pid)) && !is_gone(socket);
        let mut arrive = |pid| {
            let holding = Holding { pid, client };
            (self.processes.arrive(holding, || is_it(pid)), Some(holding))
        };
        let (arrival, holding) = match (check.via, check.pid) {
            (Via::Run, named) => {
                // A shell or `timeout` may stand between Exim and its helper: Exim says who it is. Else it is taken for the parent.
                let believed = named.map(&mut arrive).filter(|(arrival, _)| *arrival != Arrival::Another);
                believed.or_else(|| ancestors(peer_pid).next().map(&mut arrive)).unwrap_or((Arrival::Another, None))
            }
            _ => arrive(peer_pid),
        };
        if matches!(arrival, Arrival::Unknown | Arrival::Another) && !is_gone(socket) && !self.told_of_watching {
            self.told_of_watching = true;
            log::warn!("the process {peer_pid} cannot be watched: how many connections are open at once is not known in full");
        }
        (arrival, holding)
    }

    /// The verdict on a request is known: a refused connection is not held.
    pub fn decided(&mut self, id: RequestId, verdict: &Verdict) {
        if let Some(holding) = self.awaited.remove(&id)
            && verdict.refusal().is_some()
        {
            self.processes.release(holding);
        }
    }

    /// Counts an incident of `address` under the rule called `rule` and answers what stands afterwards.
    ///
    /// # Errors
    /// A sentence, and the reply is given back: there is no such incident rule, or the peer reports too many.
    pub fn strike(
        &mut self,
        now: Time,
        address: Option<IpAddr>,
        rule: &str,
        peer: &Peer,
        instant: Instant,
        reply: Reply,
    ) -> Result<(), (String, Reply)> {
        let Some(address) = address else {
            reply.send(Verdict::Allow(Innocence::NotAQuestion));
            return Ok(());
        };
        let engine = Arc::clone(&self.engine);
        let in_force = engine.in_force();
        let Some(rule) = in_force.rules.by_name(rule).filter(|rule| rule.trigger == Trigger::Incident) else {
            return Err((
                format!("found {:?}, expected the name of a rule with event = \"incident\"", Evidence::new(&[rule.as_bytes()]).as_str()),
                reply,
            ));
        };
        if !self.rates.allow(peer.user, instant) {
            return Err((format!("user {} reports more than {} strikes a second", peer.user, StrikeRates::PER_SECOND), reply));
        }
        let detector: Detector<'_> = in_force.detector(engine.bans());
        let standing = detector.judge(now, address, &Event::Lookup(Surface::Mail), &mut self.scratch);
        if !matches!(&standing, Judgement::Settled { verdict: Verdict::Allow(Innocence::NothingFound), .. }) {
            finish(&engine, now, standing, reply);
            return Ok(());
        }
        let offence = Offence {
            address,
            client: Client::of(address, in_force.prefix),
            rules: vec![Arc::clone(rule)],
            evidence: Evidence::new(&[b"reported by the mail server"]),
        };
        engine.offend(now, &offence, Surface::Mail, reply);
        Ok(())
    }
}

/// Answers with a judgement, after counting it if it is an offence.
fn finish(engine: &Arc<Engine>, now: Time, judgement: Judgement, reply: Reply) {
    match judgement {
        Judgement::Settled { verdict, .. } => reply.send(verdict),
        Judgement::Unkept(verdict) => engine.when_kept(verdict, reply),
        Judgement::Offence(offence) => engine.offend(now, &offence, Surface::Mail, reply),
    }
}
