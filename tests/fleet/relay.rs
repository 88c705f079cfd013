//! A TCP relay to Redis that can be cut or slow.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// While it is cut, everything that is sent is lost, as in a network partition.
pub(crate) struct Relay {
    pub(crate) port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    /// Delay in each direction in milliseconds.
    delay: AtomicU64,
}

impl Relay {
    pub(crate) fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.cut.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { continue };
                for (from, to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                    let state = Arc::clone(&shared);
                    std::thread::spawn(move || carry(from, to, &state));
                }
            }
        });
        Self { port, state }
    }

    pub(crate) fn cut(&self, cut: bool) {
        self.state.cut.store(cut, Ordering::Relaxed);
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.state.delay.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

/// Copies bytes in order, each after the delay, however many are in flight.
fn carry(mut from: TcpStream, mut to: TcpStream, state: &Arc<State>) {
    let (sender, receiver) = channel::<(Instant, Vec<u8>)>();
    let (end, shared) = (from.try_clone().unwrap(), Arc::clone(state));
    std::thread::spawn(move || {
        for (due, bytes) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if shared.cut.load(Ordering::Relaxed) || to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = end.shutdown(Shutdown::Both);
    });
    let mut buffer = [0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        let due = Instant::now() + Duration::from_millis(state.delay.load(Ordering::Relaxed));
        if read == 0 || state.cut.load(Ordering::Relaxed) || sender.send((due, buffer[..read].to_vec())).is_err() {
            break;
        }
    }
}
