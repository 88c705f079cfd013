//! Bans to save, and a writer whose events and loaded bans are recorded.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use strikeout::internals::client::Client;
use strikeout::internals::clock::Clock;
use strikeout::internals::engine::{BanRecord, Change, Journal, Persisted};
use strikeout::internals::event::Scope;
use strikeout::internals::rule::Evidence;
use strikeout::internals::state::{Loaded, Writer, WriterEvent};
use strikeout::internals::table::Until;
use strikeout::internals::time::{Span, Time};

use crate::harness::DEADLINE;

pub(crate) fn now() -> Time {
    Clock::start().now()
}

pub(crate) fn ban(number: u32) -> Change {
    let now = now();
    Change::Banned(BanRecord {
        client: client(number),
        scope: Scope::All,
        rule: Arc::from("w00tw00t"),
        first: now,
        since: now,
        until: Until::at(now.after(Span::from_secs(3600))),
        count: 1,
        times: 1,
        evidence: Evidence::new(&[b"GET /w00tw00t"]),
        node: Arc::from(""),
    })
}

pub(crate) fn client(number: u32) -> Client {
    Client::from(Ipv4Addr::from(0x0a00_0000 + number))
}

/// The clients whose bans a writer has loaded from the file, and its events.
#[derive(Clone, Default)]
pub(crate) struct Observed {
    events: Arc<Mutex<Vec<WriterEvent>>>,
    clients: Arc<Mutex<BTreeSet<Client>>>,
}

impl Observed {
    fn record(&self, record: &Loaded) {
        let mut clients = self.clients.lock().unwrap();
        match record {
            Loaded::Change(Change::Banned(ban)) => _ = clients.insert(ban.client),
            Loaded::Change(Change::Unbanned { client, .. }) => _ = clients.remove(client),
            _ => {}
        }
    }

    pub(crate) fn event_count(&self) -> usize {
        self.events.lock().unwrap().len()
    }

    pub(crate) fn clients(&self) -> BTreeSet<Client> {
        self.clients.lock().unwrap().clone()
    }

    pub(crate) fn notices(&self) -> Vec<String> {
        let notice = |event: &WriterEvent| if let WriterEvent::Notice(text) = event { Some(text.clone()) } else { None };
        self.events.lock().unwrap().iter().filter_map(notice).collect()
    }

    pub(crate) fn has(&self, wanted: impl Fn(&WriterEvent) -> bool) -> bool {
        self.events.lock().unwrap().iter().any(wanted)
    }
}

pub(crate) fn start(path: &Path) -> (Writer, Observed) {
    let observed = Observed::default();
    let (listener, loaded) = (observed.clone(), observed.clone());
    let on_event = move |event: WriterEvent| {
        if let WriterEvent::Changed(records) = &event {
            records.iter().for_each(|record| listener.record(record));
        }
        listener.events.lock().unwrap().push(event);
    };
    let writer = Writer::start(path.to_owned(), Clock::start(), on_event, &mut |record| loaded.record(&record)).unwrap();
    (writer, observed)
}

pub(crate) fn persist(writer: &Writer, change: Change) -> Receiver<Persisted> {
    let (sender, receiver) = channel();
    writer.persist(change, Box::new(move |persisted| sender.send(persisted).unwrap_or_default()));
    receiver
}

pub(crate) fn persist_and_wait(writer: &Writer, change: Change) -> Persisted {
    persist(writer, change).recv_timeout(DEADLINE).unwrap()
}
