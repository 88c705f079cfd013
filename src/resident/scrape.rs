//! The HTTP listener for Prometheus, on loopback: one request of one scraper at a time, each within limits, on a thread of its own.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::numbers::Numbers;

/// The longest request.
const LONGEST: usize = 8 * 1024;
/// A request is read, and its answer is taken, within this time.
const LIMIT: Duration = Duration::from_secs(2);

/// The listener. Dropped, it ends.
pub struct Scrape {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scrape {
    /// Listens on `address`.
    ///
    /// # Errors
    /// Somebody else listens there, or the thread could not be started.
    pub fn start(address: SocketAddr, numbers: Arc<Numbers>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("scrape".into()).spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                match stream {
                    // Whoever goes away early misses something, nobody else.
                    Ok(stream) => drop(serve(stream, &numbers)),
                    // No file descriptor is left: not again at once.
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        })?;
        Ok(Self { address, ended, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Scrape {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // It sees that when somebody comes.
        let woken = TcpStream::connect_timeout(&self.address, LIMIT).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

/// Answers the one request of `stream`.
fn serve(mut stream: TcpStream, numbers: &Numbers) -> io::Result<()> {
    let deadline = Instant::now() + LIMIT;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut request = Vec::new();
    let (status, body) = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || request.len() > LONGEST {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        let mut chunk = [0; 2048];
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if let Some(answer) = answer(&request, numbers) {
            break answer;
        }
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// Status and text for a request; none while it is not whole.
fn answer(request: &[u8], numbers: &Numbers) -> Option<(&'static str, String)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Partial) => None,
        Err(_) => Some(("400 Bad Request", "found no HTTP request, expected GET /metrics\n".into())),
        Ok(httparse::Status::Complete(_)) => Some(match (parsed.method, parsed.path) {
            (Some("GET"), Some("/metrics")) => ("200 OK", numbers.prometheus()),
            (Some("GET"), _) => ("404 Not Found", "expected /metrics\n".into()),
            _ => ("405 Method Not Allowed", "expected GET\n".into()),
        }),
    }
}
