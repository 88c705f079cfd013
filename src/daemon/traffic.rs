//! Who asks, and when: the client that makes most of the traffic of each service, perhaps a balancer that nobody named, and when Squid and
//! Exim asked last. It costs a helper nothing: the daemon counts what it is told anyway.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::client::Client;
use crate::event::Service;
use crate::table::HeavyHitters;

/// Number of events below which nobody is said to make most of them.
const MIN_EVENTS: u64 = 500;

/// The client that makes most of the traffic of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heaviest {
    pub service: Service,
    pub client: Client,
    /// Its share, 51 to 100.
    pub percent: u64,
    /// The events of all clients that count at present.
    pub events: u64,
}

#[derive(Debug)]
pub struct Traffic {
    started: Instant,
    /// By service: the events, and when the server asked last, in milliseconds since the start and one more; 0 for never.
    services: [(Mutex<HeavyHitters>, AtomicU64); Service::ALL.len()],
}

impl Default for Traffic {
    fn default() -> Self {
        Self { started: Instant::now(), services: Default::default() }
    }
}

impl Traffic {
    /// Counts requests or connections of a client.
    pub fn record(&self, service: Service, client: Client, events: u64) {
        if let Some((heavy, _)) = self.services.get(service as usize) {
            heavy.lock().add(client, events);
        }
    }

    /// Notes that the server of a service asks now.
    pub fn asked(&self, service: Service) {
        if let Some((_, last)) = self.services.get(service as usize) {
            last.store(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
        }
    }

    /// How many seconds ago the server of a service asked last; none if it has not.
    #[must_use]
    pub fn last_asked(&self, service: Service) -> Option<u64> {
        let last = self.services.get(service as usize)?.1.load(Ordering::Relaxed).checked_sub(1)?;
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(now.saturating_sub(last) / 1000)
    }

    /// For each service the client with more than half of its traffic, if there is one.
    #[must_use]
    pub fn heaviest(&self) -> Vec<Heaviest> {
        let of = |service: &Service| {
            let heavy = self.services.get(*service as usize)?.0.lock();
            let (client, at_least) = heavy.heaviest()?;
            let percent = u64::try_from(u128::from(at_least) * 100 / u128::from(heavy.total().max(1))).unwrap_or(100);
            let is_most = heavy.total() >= MIN_EVENTS && percent > 50;
            is_most.then(|| Heaviest { service: *service, client, percent, events: heavy.total() })
        };
        Service::ALL.iter().filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn client(number: u8) -> Client {
        Client::from(Ipv4Addr::new(198, 51, 100, number))
    }

    #[test]
    fn a_client_with_more_than_half_of_many_events_is_named_for_its_service() {
        let traffic = Traffic::default();
        traffic.record(Service::Web, client(1), MIN_EVENTS - 1);
        assert_eq!(traffic.heaviest(), [], "too few");
        (0..50).for_each(|number| traffic.record(Service::Web, client(100 + number), 2));
        traffic.record(Service::Mail, client(1), MIN_EVENTS / 2);
        traffic.record(Service::Mail, client(2), MIN_EVENTS / 2);
        let heaviest = Heaviest { service: Service::Web, client: client(1), percent: 83, events: MIN_EVENTS + 99 };
        assert_eq!(traffic.heaviest(), [heaviest], "nobody makes more than half of the mail");
    }

    #[test]
    fn the_last_question_is_remembered_for_each_service() {
        let traffic = Traffic::default();
        assert_eq!(traffic.last_asked(Service::Web), None);
        traffic.asked(Service::Web);
        assert!(traffic.last_asked(Service::Web).is_some() && traffic.last_asked(Service::Mail).is_none());
    }
}
