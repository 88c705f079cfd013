//! The HTTP listener for Prometheus, on loopback: serves one request of one scraper at a time, on a thread of its own.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::report::MetricsReport;

/// Maximum length of a request in bytes.
const MAX_REQUEST: usize = 8 * 1024;
/// Timeout for reading a request, and for writing its answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The listener, which ends when this is dropped.
pub struct MetricsServer {
    address: SocketAddr,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Starts listening on `address`.
    ///
    /// # Errors
    /// The address is in use, or the thread could not be started.
    pub fn start(address: SocketAddr, metrics: Arc<MetricsReport>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let is_ending = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&is_ending);
        let thread = std::thread::Builder::new().name("metrics".into()).spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                match stream {
                    // A scraper that disconnects early only misses its own answer.
                    Ok(stream) => drop(serve(stream, &metrics)),
                    // Most likely no file descriptor is left: accepting again at once would fail again, and keep a core busy.
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        })?;
        Ok(Self { address, is_ending, thread: Some(thread) })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Relaxed);
        // The thread waits in accept(2); a connection wakes it.
        let woken = TcpStream::connect_timeout(&self.address, TIMEOUT).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

/// Answers one request.
fn serve(mut stream: TcpStream, metrics: &MetricsReport) -> io::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut request = Vec::new();
    let (status, body) = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || request.len() > MAX_REQUEST {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        let mut chunk = [0; 2048];
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if let Some(answer) = answer(&request, metrics) {
            break answer;
        }
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// The status and body that answer a request; `None` while it is incomplete.
fn answer(request: &[u8], metrics: &MetricsReport) -> Option<(&'static str, String)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Partial) => None,
        Err(_) => Some(("400 Bad Request", "expected an HTTP request: GET /metrics\n".into())),
        Ok(httparse::Status::Complete(_)) => Some(match (parsed.method, parsed.path) {
            (Some("GET"), Some("/metrics")) => ("200 OK", metrics.prometheus()),
            (Some("GET"), _) => ("404 Not Found", "expected /metrics\n".into()),
            _ => ("405 Method Not Allowed", "expected GET\n".into()),
        }),
    }
}
