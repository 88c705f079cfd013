//! Requests: parses each line, and answers it or hands it to the module or thread that does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::EventLoop;
use crate::client::Client;
use crate::clock::Clock;
use crate::control::request::{MAX_LINE, SocketRequest, parse};
use crate::control::{answer, subscribe};
use crate::daemon::admin::worker::AdminTask;
use crate::daemon::conn::connection::Line;
use crate::daemon::conn::replies::{ConnectionId, ReplyHandle};
use crate::daemon::metrics::counters::{Counters, Question};
use crate::daemon::smtp::check;
use crate::daemon::subscribers::{self, MAX_SUBSCRIBERS};
use crate::engine::Engine;
use crate::engine::reply::Reply;
use crate::event::Service;
use crate::verdict::{AllowReason, Verdict};

impl EventLoop {
    /// Handles the lines that a connection has received.
    pub(super) fn process_lines(&mut self, id: ConnectionId, now: Instant) {
        while let Some(entry) = self.connections.get_mut(&id) {
            let Some((number, line)) = entry.connection.next_line(now) else { break };
            let to = ReplyHandle::new(Arc::clone(&self.queue), id, number);
            match line {
                Line::Whole(line) => {
                    if catch_unwind(AssertUnwindSafe(|| self.dispatch(id, number, &line, &to, now))).is_err() {
                        log::error!("internal fault while handling a request");
                        // Reaches the peer only if the request had no Reply: a Reply accepts when the panic drops it, and the connection
                        // ignores a second answer.
                        to.answer(answer::error("internal fault"));
                    }
                }
                Line::TooLong => self.reject(id, &to, &format!("found a line of more than {MAX_LINE} bytes, expected a shorter one")),
            }
        }
    }

    /// Answers a line, or hands it to the module or thread that does.
    fn dispatch(&mut self, id: ConnectionId, number: u64, line: &[u8], to: &ReplyHandle, now: Instant) {
        let Some(entry) = self.connections.get_mut(&id) else { return };
        if entry.connection.is_subscriber() {
            return self.receive_from_subscriber(id, line, to);
        }
        let request = match parse(line) {
            Ok(request) => request,
            Err(fault) => {
                let fault = fault.to_string();
                let user = entry.connection.peer.user;
                // Exim takes an error for an accept, so nobody else would tell the administrator.
                self.not_understood.warn(|| format!("a request of user {user} is not understood: {fault}"));
                return self.reject(id, to, &fault);
            }
        };
        let peer = entry.connection.peer;
        let answering = Answering { counters: &self.counters, engine: &self.engine, clock: self.clock };
        match request {
            SocketRequest::Subscribe(subscribe::VERSION) if self.subscribers.len() >= MAX_SUBSCRIBERS => {
                self.reject(id, to, &format!("{MAX_SUBSCRIBERS} helpers are subscribed already, expected fewer"));
            }
            SocketRequest::Subscribe(subscribe::VERSION) => match self.subscribers.begin(id, &self.engine, self.clock) {
                Some(snapshot) => entry.connection.subscribe(snapshot),
                None => self.reject(id, to, "too many helpers are still reading their snapshots, try again"),
            },
            SocketRequest::Subscribe(version) => {
                let fault = format!(
                    "found version {version} of the subscribe protocol, expected {}: upgrade helper and daemon together",
                    subscribe::VERSION
                );
                self.reject(id, to, &fault);
            }
            SocketRequest::Check(check) => {
                if let Some(address) = check.address {
                    let client = Client::of(address, self.engine.policy().prefix);
                    self.counters.traffic.record(Service::Mail, client, 1);
                }
                let reply = answering.reply(Question::Check, now, to.reply());
                self.smtp.check(self.clock.now(), (id, number), &check, &peer, entry.connection.stream(), reply);
            }
            SocketRequest::Strike(incident) => {
                let reply = answering.reply(Question::Strike, now, to.reply());
                if let Err(rejected) = self.smtp.strike(self.clock.now(), incident, &peer, now, reply) {
                    self.not_understood.warn(|| format!("a strike by user {} is not counted: {}", peer.user, rejected.fault));
                    if let Some(reply) = rejected.reply {
                        to.answer(answer::error(&rejected.fault));
                        // Counts the request. The connection ignores this second answer.
                        reply.send(Verdict::Allow(AllowReason::NotApplicable));
                    }
                }
            }
            SocketRequest::Clear(incident) => match check::clear(&self.engine, self.clock.now(), incident) {
                Ok(()) => to.answer(format!("{}\n", answer::ACCEPT)),
                Err(fault) => {
                    self.not_understood.warn(|| format!("strikes are not cleared for user {}: {fault}", peer.user));
                    to.answer(answer::error(&fault));
                }
            },
            SocketRequest::Report(text) => {
                self.not_understood.warn(|| format!("exim_strikeout_acl of user {}: {text}", peer.user));
                to.answer(format!("{}\n", answer::ACCEPT));
            }
            SocketRequest::Admin(request) => {
                self.smtp.processes().forget_ended();
                self.publish_gauges();
                if !self.worker.send(AdminTask::Answer { request, peer, to: to.clone() }) {
                    to.answer(answer::error("too many operator requests are waiting, try again"));
                }
            }
        }
    }

    fn receive_from_subscriber(&mut self, id: ConnectionId, line: &[u8], to: &ReplyHandle) {
        let send = to.clone();
        let line = String::from_utf8_lossy(line);
        let received =
            subscribers::receive(id, &self.engine, self.clock.now(), &line, &self.counters, move |answer| send.push(answer.into_bytes()));
        if let Err(fault) = received {
            log::warn!("a helper is disconnected: {fault}");
            self.reject(id, to, &fault);
        }
    }

    /// Answers with an error, and closes the connection after it.
    fn reject(&mut self, id: ConnectionId, to: &ReplyHandle, fault: &str) {
        let error = answer::error(fault);
        if let Some(entry) = self.connections.get_mut(&id) {
            if entry.connection.is_subscriber() {
                entry.connection.push(error.as_bytes());
            } else {
                to.answer(error);
            }
            entry.connection.close_after_answers();
        }
    }
}

/// What the answers to Exim depend on besides the verdict.
struct Answering<'a> {
    counters: &'a Arc<Counters>,
    engine: &'a Arc<Engine>,
    clock: Clock,
}

impl Answering<'_> {
    /// Wraps `reply` so that a pause serves the client, and that the answer to `question`, asked at `since`, is counted when it is sent.
    fn reply(&self, question: Question, since: Instant, reply: Reply) -> Reply {
        let (counters, engine, clock) = (Arc::clone(self.counters), Arc::clone(self.engine), self.clock);
        Reply::new(move |verdict| {
            let answer = engine.policy().answer(clock.now(), verdict);
            counters.record_answer(question, since.elapsed(), &answer);
            reply.send(answer);
        })
    }
}
