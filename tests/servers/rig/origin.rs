//! A small origin server: 404 for paths that contain `missing`; 401 for paths that contain `private`, unless the password is "right"; the form
//! again for a POST to a path that contains `login`, unless the password is in its query; 200 for all others, with [`LARGE`] bytes if the path
//! contains `large`; a path that contains `held` is answered when [`Origin::release`] is called; caches may keep it if the path contains `cached`.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// The credentials that the origin accepts: "user" and "right".
pub(crate) const RIGHT: &str = "dXNlcjpyaWdodA==";

/// Number of bytes of a large answer.
pub(crate) const LARGE: usize = 400_000;

/// The origin behind Squid; it stops with the test.
pub(crate) struct Origin {
    port: u16,
    served: Arc<AtomicUsize>,
    /// Whether held answers may be sent.
    released: Arc<(Mutex<bool>, Condvar)>,
    stop: Arc<AtomicBool>,
}

impl Origin {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let origin = Self {
            port: listener.local_addr().expect("an address").port(),
            served: Arc::default(),
            released: Arc::default(),
            stop: Arc::default(),
        };
        let (served, released, stop) = (Arc::clone(&origin.served), Arc::clone(&origin.released), Arc::clone(&origin.stop));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (served, released) = (Arc::clone(&served), Arc::clone(&released));
                std::thread::spawn(move || answer(stream, &served, &released));
            }
        });
        origin
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Number of requests that have reached it.
    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// Answers what was held, and holds nothing any more.
    pub(crate) fn release(&self) {
        *self.released.0.lock().unwrap() = true;
        self.released.1.notify_all();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.release();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Answers the requests of one connection until Squid closes it.
fn answer(stream: TcpStream, served: &AtomicUsize, (released, release): &(Mutex<bool>, Condvar)) {
    let Ok(mut writer) = stream.try_clone() else { return };
    // Without Nagle's delay: Squid waits for each answer.
    let _ = writer.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut is_right = first.contains("password=right");
        loop {
            let mut header = Vec::new();
            if reader.read_until(b'\n', &mut header).unwrap_or(0) == 0 {
                return;
            }
            if header == b"\r\n" {
                break;
            }
            is_right |= header.windows(RIGHT.len()).any(|part| part == RIGHT.as_bytes());
        }
        served.fetch_add(1, Ordering::SeqCst);
        if first.contains("held") {
            drop(release.wait_while(released.lock().unwrap(), |released| !*released).unwrap());
        }
        let status = match first.split(' ').next() {
            _ if first.contains("missing") => "404 Not Found",
            _ if first.contains("private") && !is_right => "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"",
            Some("POST") if first.contains("login") && is_right => "302 Found\r\nLocation: /",
            _ => "200 OK",
        };
        let body = if first.contains("large") { "x".repeat(LARGE) } else { "hello\n".to_owned() };
        let length = body.len();
        let cached =
            if first.contains("cached") { "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nCache-Control: max-age=2000000000\r\n" } else { "" };
        let reply = format!("HTTP/1.1 {status}\r\n{cached}Content-Length: {length}\r\nContent-Type: text/plain\r\n\r\n{body}");
        if writer.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}
