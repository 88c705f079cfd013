//! `check` and `strike`: judges connections and incidents that Exim asks about, and counts them.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use ahash::RandomState;

use super::processes::{ConnectionProcess, Processes, Registration, ancestors, has_hung_up};
use crate::client::Client;
use crate::control::request::{Check, Incident, Via};
use crate::daemon::conn::peer::{Peer, StrikeRates};
use crate::daemon::conn::replies::ConnectionId;
use crate::detector::{Detector, Judgement};
use crate::engine::Engine;
use crate::engine::reply::Reply;
use crate::event::{Connection, Event, Service};
use crate::policy::Policy;
use crate::rule::set::Scratch;
use crate::rule::{Cleared, CountBy, Evidence, Offence, Rule, Trigger};
use crate::time::Time;
use crate::verdict::{AllowReason, Verdict};

/// A request: its connection and number.
pub type RequestId = (ConnectionId, u64);

/// A strike that is not counted.
pub struct RejectedStrike {
    pub fault: String,
    /// The reply, unless the client was refused anyway.
    pub reply: Option<Reply>,
}

/// Answers `check` and `strike`.
pub struct SmtpChecks {
    engine: Arc<Engine>,
    processes: Processes,
    strike_rates: StrikeRates,
    scratch: Scratch,
    /// Connections counted as open while the verdict on them is pending.
    pending: HashMap<RequestId, ConnectionProcess, RandomState>,
    /// Whether the warning about peers in other PID namespaces was logged.
    warned_about_namespace: bool,
    /// Whether the warning about processes that cannot be watched was logged.
    warned_about_watching: bool,
}

impl SmtpChecks {
    /// Judges with `engine`, and watches at most `max_processes` connection processes.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new(engine: Arc<Engine>, max_processes: usize) -> std::io::Result<Self> {
        Ok(Self {
            engine,
            processes: Processes::new(max_processes)?,
            strike_rates: StrikeRates::default(),
            scratch: Scratch::default(),
            pending: HashMap::default(),
            warned_about_namespace: false,
            warned_about_watching: false,
        })
    }

    #[must_use]
    pub fn processes(&mut self) -> &mut Processes {
        &mut self.processes
    }

    /// Answers a `check` from `peer`, which waits at the other end of `socket`.
    pub fn check(&mut self, now: Time, id: RequestId, check: &Check, peer: &Peer, socket: &impl AsFd, reply: Reply) {
        let Some(address) = check.address else { return reply.send(Verdict::Allow(AllowReason::NotApplicable)) };
        let engine = Arc::clone(&self.engine);
        let policy = engine.policy();
        let detector = Detector::new(&policy, engine.bans());
        // The connection of a client that is refused anyway, or never banned, is not counted.
        let lookup = detector.judge(now, address, &Event::Lookup(Service::Mail), &mut self.scratch);
        let mut connection = Connection { port: check.port, open: 0 };
        if connection.is_submission() && detector.admits_login(&lookup) {
            return reply.send(Verdict::Allow(AllowReason::NothingFound));
        }
        let is_settled = !matches!(&lookup, Judgement::Settled { verdict: Verdict::Allow(AllowReason::NothingFound), .. });
        if is_settled || connection.is_submission() || !check.counts {
            return finish(&engine, now, lookup, reply);
        }
        let client = Client::of(address, policy.prefix);
        match self.register(check, peer, client, socket) {
            (Registration::AlreadyCounted, _) => return finish(&engine, now, lookup, reply),
            (Registration::New { open }, Some(process)) => {
                connection.open = open;
                self.pending.insert(id, process);
            }
            _ => {}
        }
        log::debug!("{address} has {} connections open (port {:?}, pid {:?} according to Exim)", connection.open, check.port, check.pid);
        let judgement = detector.judge(now, address, &Event::Connection(connection), &mut self.scratch);
        finish(&engine, now, judgement, reply);
    }

    /// Counts the connection process that waits for the answer.
    fn register(&mut self, check: &Check, peer: &Peer, client: Client, socket: &impl AsFd) -> (Registration, Option<ConnectionProcess>) {
        if check.via == Via::Lines {
            return (Registration::Unwatchable, None);
        }
        let Some(peer_pid) = peer.pid else {
            if !self.warned_about_namespace {
                self.warned_about_namespace = true;
                log::warn!("a peer is in another PID namespace: its simultaneous connections cannot be counted");
            }
            return (Registration::Unwatchable, None);
        };
        // While the peer's end of the socket is open, its PID and its ancestors' PIDs cannot have been reused.
        let is_meant = |pid| (check.via != Via::Run || ancestors(peer_pid).any(|ancestor| ancestor == pid)) && !has_hung_up(socket);
        let mut register = |pid| {
            let process = ConnectionProcess { pid, client };
            (self.processes.register(process, || is_meant(pid)), Some(process))
        };
        let (registration, process) = match (check.via, check.pid) {
            (Via::Run, named) => {
                // A shell or `timeout` may stand between Exim and its helper, so Exim passes its own PID. Without a valid one, the helper's
                // parent is taken for Exim's process.
                let named = named.map(&mut register).filter(|(registration, _)| *registration != Registration::WrongProcess);
                named.or_else(|| ancestors(peer_pid).next().map(&mut register)).unwrap_or((Registration::WrongProcess, None))
            }
            _ => register(peer_pid),
        };
        let is_unknown = matches!(registration, Registration::Unwatchable | Registration::WrongProcess);
        if is_unknown && !has_hung_up(socket) && !self.warned_about_watching {
            self.warned_about_watching = true;
            log::warn!("process {peer_pid} cannot be watched: not all simultaneous connections are counted");
        }
        (registration, process)
    }

    /// Takes note of the verdict on a request: a refused connection no longer counts as open.
    pub fn decided(&mut self, id: RequestId, verdict: &Verdict) {
        if let Some(process) = self.pending.remove(&id)
            && verdict.refusal().is_some()
        {
            self.processes.release(process);
        }
    }

    /// Counts an incident, and answers with the verdict after it.
    ///
    /// A client that is refused already gets that verdict, whatever is reported of it.
    ///
    /// # Errors
    /// The strike is not counted: there is no such incident rule, it names no account for a rule that counts accounts, or the peer reports too
    /// many strikes.
    pub fn strike(&mut self, now: Time, incident: Incident<'_>, peer: &Peer, instant: Instant, reply: Reply) -> Result<(), RejectedStrike> {
        let Some(address) = incident.address else {
            reply.send(Verdict::Allow(AllowReason::NotApplicable));
            return Ok(());
        };
        let engine = Arc::clone(&self.engine);
        let policy = engine.policy();
        let detector = Detector::new(&policy, engine.bans());
        let lookup = detector.judge(now, address, &Event::Lookup(Service::Mail), &mut self.scratch);
        let is_allowed = matches!(&lookup, Judgement::Settled { verdict: Verdict::Allow(_), .. });
        let rule = match incident_rule(&policy, &incident) {
            Ok(rule) => rule,
            Err(fault) if is_allowed => return Err(RejectedStrike { fault, reply: Some(reply) }),
            Err(fault) => {
                finish(&engine, now, lookup, reply);
                return Err(RejectedStrike { fault, reply: None });
            }
        };
        if !matches!(&lookup, Judgement::Settled { verdict: Verdict::Allow(AllowReason::NothingFound), .. }) {
            finish(&engine, now, lookup, reply);
            return Ok(());
        }
        if !self.strike_rates.allow(peer.user, instant) {
            let fault = format!("user {} reports more than {} strikes a second", peer.user, StrikeRates::PER_SECOND);
            return Err(RejectedStrike { fault, reply: Some(reply) });
        }
        let offence = Offence {
            address,
            client: Client::of(address, policy.prefix),
            rules: vec![Arc::clone(rule)],
            evidence: Evidence::new(&[b"reported by the mail server"]),
            marks: None,
            account: incident.account.and_then(|name| engine.accounts().named(name)),
        };
        engine.record_offence(now, &offence, Service::Mail, reply);
        Ok(())
    }
}

/// Clears the strikes of a client under a rule, after a success.
///
/// # Errors
/// There is no such incident rule, or no account for a rule that counts accounts.
pub fn clear(engine: &Engine, now: Time, incident: Incident<'_>) -> Result<(), String> {
    let policy = engine.policy();
    let rule = incident_rule(&policy, &incident)?;
    let Some(address) = incident.address else { return Ok(()) };
    let client = Client::of(address, policy.prefix);
    if rule.count_by == CountBy::Account {
        if let Some(account) = incident.account.and_then(|name| engine.accounts().named(name)) {
            engine.note_login(now, rule, account, client);
        }
    } else {
        engine.clear(client, &Cleared { rules: vec![Arc::clone(rule)], marks: None });
    }
    Ok(())
}

/// The rule of an incident.
fn incident_rule<'a>(policy: &'a Policy, incident: &Incident<'_>) -> Result<&'a Arc<Rule>, String> {
    let Incident { rule: name, account, .. } = incident;
    let rule = policy.rules.by_name(name).filter(|rule| rule.trigger == Trigger::Incident).ok_or_else(|| {
        format!("found {:?}, expected the name of a rule with event = \"incident\"", Evidence::new(&[name.as_bytes()]).as_str())
    })?;
    if rule.count_by == CountBy::Account && account.is_none() {
        return Err(format!("found no account= for rule {name}, which counts accounts; expected one, which may be empty"));
    }
    Ok(rule)
}

/// Answers with a judgement; an offence is counted first.
fn finish(engine: &Arc<Engine>, now: Time, judgement: Judgement, reply: Reply) {
    match judgement {
        Judgement::Settled { verdict, .. } => reply.send(verdict),
        // The daemon knows by itself where clients belong.
        Judgement::Ask { .. } => reply.send(Verdict::Allow(AllowReason::NothingFound)),
        Judgement::Unsaved(verdict) => engine.when_persisted(verdict, reply),
        Judgement::Offence(offence) => engine.record_offence(now, &offence, Service::Mail, reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule_id::RuleNames;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;

    const NOW: Time = Time::from_secs(1_800_000_000);

    struct Fixture {
        checks: SmtpChecks,
        /// Both ends of a connection: this process is its own peer.
        sockets: (UnixStream, UnixStream),
    }

    impl Fixture {
        fn new(rules: &str) -> Self {
            let names = Arc::new(RuleNames::default());
            let policy = Policy::for_tests(rules, &names);
            let engine = Arc::new(Engine::new(names, policy, 100, 100).unwrap());
            Self { checks: SmtpChecks::new(engine, 10).unwrap(), sockets: UnixStream::pair().unwrap() }
        }

        fn check(&mut self, address: &str, port: Option<u16>) -> Verdict {
            let (sender, receiver) = channel();
            let reply = Reply::new(move |verdict| sender.send(verdict).unwrap());
            let check = Check { port, ..Check::of(Some(address.parse().unwrap())) };
            let peer = Peer { pid: Some(std::process::id()), user: 0 };
            self.checks.check(NOW, (ConnectionId(0), 0), &check, &peer, &self.sockets.0, reply);
            receiver.recv().unwrap()
        }
    }

    #[test]
    fn connections_to_submission_ports_are_neither_counted_as_open_nor_by_rate() {
        let mut fixture = Fixture::new("");
        for port in [465, 587] {
            for _ in 0..200 {
                assert_eq!(fixture.check("192.0.2.1", Some(port)), Verdict::Allow(AllowReason::NothingFound), "port {port}");
            }
            assert!(fixture.checks.processes().is_empty(), "port {port}");
        }
        assert_eq!(fixture.checks.engine.strikes().len(), 0);
        for (client, port) in [Some(25), Some(2525), None].into_iter().enumerate() {
            fixture.check(&format!("192.0.2.{client}"), port);
            assert_eq!(fixture.checks.engine.strikes().len(), client + 1, "port {port:?}");
        }
        assert_eq!(fixture.checks.processes().len(), 1);
    }

    #[test]
    fn a_repeated_check_of_one_connection_only_looks() {
        let mut fixture = Fixture::new("[[rule]]\nname = 'exim-rate'\nmaxretry = 2");
        for _ in 0..9 {
            assert!(matches!(fixture.check("192.0.2.1", Some(25)), Verdict::Allow(_)));
        }
    }
}
