//! Innocent clients that ask continuously while a test breaks things, and counts of their answers.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::client::{Mail, request};
use crate::harness::wait_until;

/// The clients' answers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Served or greeted.
    pub(crate) served: usize,
    /// Refused, by 403 or 429, or by 4xx or 5xx in SMTP.
    pub(crate) refused: usize,
    /// Neither: the connection failed or was closed, or the answer was malformed.
    pub(crate) broken: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.served += other.served;
        self.refused += other.refused;
        self.broken += other.broken;
    }
}

/// Innocent clients, each of which asks again as soon as it is answered.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Web clients of the Squid on `port`.
    pub(crate) fn web(port: u16, clients: u8) -> Self {
        Self::start(clients, move |client, count| {
            let path = format!("/page/{count}");
            match request(port, &format!("192.0.2.{client}"), "GET", &path, "") {
                Ok(reply) if reply.status == 200 => Ok(true),
                Ok(reply) if matches!(reply.status, 403 | 429) => {
                    eprintln!("refused {path}: {}", reply.status);
                    Ok(false)
                }
                Ok(reply) => Err(std::io::Error::other(format!("status {}", reply.status))),
                Err(error) => Err(error),
            }
        })
    }

    /// Mail clients of the Exim on `port`, with so many addresses that none exceeds a rate.
    pub(crate) fn mail(port: u16, clients: u8) -> Self {
        Self::mail_from(port, clients, |client, count| format!("10.{client}.{}.{}", count / 250 % 250, count % 250 + 1))
    }

    /// The same, with the address of each client and connection from `address`.
    pub(crate) fn mail_from(port: u16, clients: u8, address: impl Fn(u8, usize) -> String + Clone + Send + 'static) -> Self {
        Self::start(clients, move |client, count| Ok(Mail::connect(port, &address(client, count))?.code == 220))
    }

    fn start(clients: u8, ask: impl Fn(u8, usize) -> std::io::Result<bool> + Clone + Send + 'static) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (1..=clients)
            .map(|client| {
                let (stop, served, ask) = (Arc::clone(&stop), Arc::clone(&served), ask.clone());
                std::thread::spawn(move || {
                    let mut tally = Tally::default();
                    for count in 0.. {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        match ask(client, count) {
                            Ok(true) => {
                                tally.served += 1;
                                served.fetch_add(1, Ordering::SeqCst);
                            }
                            Ok(false) => tally.refused += 1,
                            Err(error) => {
                                tally.broken += 1;
                                if tally.broken < 10 {
                                    eprintln!("client {client}: {error}");
                                }
                                // While nobody listens, more attempts would show nothing new.
                                std::thread::sleep(Duration::from_millis(20));
                            }
                        }
                    }
                    tally
                })
            })
            .collect();
        Self { stop, served, clients }
    }

    /// Waits until this many more requests have been served.
    #[track_caller]
    pub(crate) fn serve(&self, more: usize) {
        self.serve_unless(more, || false);
    }

    /// The same, or until `is_over`, when nothing is left that could serve.
    #[track_caller]
    pub(crate) fn serve_unless(&self, more: usize, is_over: impl Fn() -> bool) {
        let goal = self.served.load(Ordering::SeqCst) + more;
        wait_until(&format!("{more} more requests served"), || self.served.load(Ordering::SeqCst) >= goal || is_over());
    }

    /// Stops the clients, each after its answer.
    pub(crate) fn finish(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let mut sum = Tally::default();
        for client in self.clients {
            sum += client.join().expect("a client panicked");
        }
        sum
    }
}
