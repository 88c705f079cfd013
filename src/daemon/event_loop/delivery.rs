//! Input and output of connections: reads what arrived, writes what is ready, and keeps epoll's interest in step.

use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll;

use super::{EventLoop, Token};
use crate::control::answer;
use crate::daemon::conn::replies::{ConnectionId, QueueItem};
use crate::daemon::subscribers;

/// Maximum number of reads from a connection that is being closed: more than a socket's buffer holds.
const MAX_LAST_READS: usize = 64;

impl EventLoop {
    /// Reads a connection's input, handles it, and writes the answers that are ready.
    pub(super) fn serve(&mut self, id: ConnectionId, flags: epoll::EventFlags, now: Instant) {
        let Some(entry) = self.connections.get_mut(&id) else { return };
        entry.connection.read(now);
        self.process_lines(id, now);
        self.deliver(now);
        self.flush(id, now);
        self.deliver(now);
        // HUP, unlike RDHUP, means that the peer can no longer read an answer either.
        if flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            self.close(id, now);
        }
    }

    /// Closes all subscribers' connections.
    pub(super) fn close_subscribers(&mut self, now: Instant) {
        let ids: Vec<ConnectionId> = self.subscribers.open(|_| true).to_vec();
        ids.into_iter().for_each(|id| self.close(id, now));
    }

    /// Closes a connection. What a subscriber has sent before is handled, because it does not send that again.
    pub(super) fn close(&mut self, id: ConnectionId, now: Instant) {
        if let Some(entry) = self.connections.get(&id) {
            entry.connection.receive_no_more();
        }
        for _ in 0..MAX_LAST_READS {
            if !self.connections.get_mut(&id).is_some_and(|entry| entry.connection.read_rest(now)) {
                break;
            }
            self.process_lines(id, now);
        }
        self.connections.remove(&id);
    }

    /// Delivers queued items and handles connections that have become ready, until there are none.
    pub(super) fn deliver(&mut self, now: Instant) {
        loop {
            let mut touched = self.take_queued();
            touched.append(&mut self.ready);
            if touched.is_empty() {
                return;
            }
            for id in touched {
                self.process_lines(id, now);
                self.flush(id, now);
            }
        }
    }

    /// Moves queued items to their connections, and returns those connections.
    fn take_queued(&mut self) -> Vec<ConnectionId> {
        let mut touched = Vec::new();
        let mut has_changes = false;
        for item in self.queue.take() {
            let id = match item {
                QueueItem::Verdict(id, number, verdict) => {
                    self.smtp.decided((id, number), &verdict);
                    if let Some(entry) = self.connections.get_mut(&id) {
                        entry.connection.answer(number, answer::verdict(&verdict, self.engine.names()).into());
                    }
                    id
                }
                QueueItem::Answer(id, number, answer) => {
                    if let Some(entry) = self.connections.get_mut(&id) {
                        entry.connection.answer(number, answer);
                    }
                    id
                }
                QueueItem::Change(line) => {
                    self.push_to_subscribers(&line);
                    has_changes = true;
                    continue;
                }
                QueueItem::BansCopied => {
                    let connections = &mut self.connections;
                    touched.extend(self.subscribers.open(|id| connections.get_mut(&id).map(|entry| entry.connection.resume()).is_some()));
                    continue;
                }
                QueueItem::Push(id, bytes) => {
                    if let Some(entry) = self.connections.get_mut(&id) {
                        entry.connection.push(&bytes);
                    }
                    id
                }
            };
            if touched.last() != Some(&id) {
                touched.push(id);
            }
        }
        if has_changes {
            self.cut_off_the_furthest_behind();
            touched.extend(self.subscribers.open(|_| true));
        }
        // Under load each subscriber has hundreds of items here, and one visit serves them all.
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// Queues a line for every subscriber.
    fn push_to_subscribers(&mut self, line: &str) {
        self.subscribers.table_changed();
        self.subscribers.open(|id| {
            let entry = self.connections.get_mut(&id);
            entry.map(|entry| entry.connection.push(line.as_bytes())).is_some()
        });
    }

    /// Cuts off the subscribers that lag furthest, if all together have too much to read.
    fn cut_off_the_furthest_behind(&mut self) {
        let connections = &mut self.connections;
        let unread = self.subscribers.open(|_| true).iter().filter_map(|id| Some((connections.get(id)?.connection.unread(), *id)));
        for (bytes, id) in subscribers::furthest_behind(unread.collect()) {
            log::warn!("a helper is disconnected, because it and others do not keep up: it has {bytes} bytes to read");
            if let Some(entry) = connections.get_mut(&id) {
                entry.connection.cut_off();
            }
        }
    }

    /// Starts sending the configuration to every subscriber, if it differs from the one they have.
    pub(super) fn send_new_config(&mut self, now: Instant) {
        let Some(policy) = self.subscribers.changed_config(&self.engine) else { return };
        let subscribers = self.subscribers.open(|id| {
            let entry = self.connections.get_mut(&id);
            entry.map(|entry| entry.connection.queue_config(Box::new(subscribers::config_lines(Arc::clone(&policy))))).is_some()
        });
        let ids: Vec<ConnectionId> = subscribers.to_vec();
        ids.into_iter().for_each(|id| self.flush(id, now));
    }

    /// Writes what is ready. Then closes the connection if it is done; otherwise registers with epoll what it waits for.
    fn flush(&mut self, id: ConnectionId, now: Instant) {
        let Some(entry) = self.connections.get_mut(&id) else { return };
        let is_new = entry.interest.is_none();
        // `${readsocket}` sends one request and shuts down its side: reading once more finds the end without another epoll_wait.
        let has_input = entry.connection.write(now) && is_new && entry.connection.read(now);
        if entry.connection.is_done() {
            return self.close(id, now);
        }
        // An answer that left makes room for the next request.
        if has_input || entry.connection.has_line() {
            self.ready.push(id);
            if !is_new {
                return;
            }
        }
        let mut interest = epoll::EventFlags::empty();
        if entry.connection.wants_read() {
            interest |= epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        }
        if entry.connection.wants_write() {
            interest |= epoll::EventFlags::OUT;
        }
        if entry.interest == Some(interest) {
            return;
        }
        let (stream, data) = (entry.connection.stream(), Token::Connection(id).data());
        let watched = match entry.interest.replace(interest) {
            Some(_) => epoll::modify(&self.epoll, stream, data, interest),
            None => epoll::add(&self.epoll, stream, data, interest),
        };
        if let Err(error) = watched {
            log::warn!("a connection cannot be watched and is closed: {error}");
            self.close(id, now);
        }
    }
}
