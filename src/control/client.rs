//! Asks the daemon: one request and one answer, with a single timeout for both.

use std::io::{self, BufRead as _, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// Number of bytes requested by one read.
const CHUNK: usize = 16 * 1024;

/// Sends `request` (a line without its newline) to the daemon at `socket` and returns its whole answer, at most `max_bytes` long.
///
/// Connecting, sending and reading together take at most `timeout`.
///
/// # Errors
/// The daemon cannot be reached or does not answer in time ([`io::ErrorKind::TimedOut`]), or its answer is too long or not UTF-8
/// ([`io::ErrorKind::InvalidData`]).
pub fn ask(socket: &Path, request: &str, max_bytes: usize, timeout: Duration) -> io::Result<String> {
    let deadline = Instant::now() + timeout;
    let mut stream = connect(socket, deadline)?;
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(remaining(deadline)?))?;
    stream.write_all(format!("{request}\n").as_bytes()).map_err(timed_out)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    loop {
        // One byte more than allowed is enough to detect an answer that is too long.
        answer.reserve(CHUNK.min(max_bytes.saturating_sub(answer.len()).saturating_add(1)));
        sockopt::set_socket_timeout(&stream, sockopt::Timeout::Recv, Some(remaining(deadline)?))?;
        match rustix::io::read(&stream, spare_capacity(&mut answer)) {
            Ok(0) => break,
            Ok(_) if answer.len() <= max_bytes => {}
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the answer has more than {max_bytes} bytes"))),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(timed_out(error.into())),
        }
    }
    String::from_utf8(answer).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the answer is not UTF-8"))
}

/// Number of requests that wait for their answers at a time: fewer than the daemon takes from one connection, and than its worker queues.
const AT_ONCE: usize = 32;

/// Sends all `requests` (lines without their newlines, each answered by one object) over one connection. Calls `each` with every answer in their
/// order: the object, or the text of an error. Each answer may take up to `timeout`.
///
/// # Errors
/// As for [`ask`]. What was answered before has been handled.
pub fn ask_all(
    socket: &Path,
    mut requests: impl Iterator<Item = String>,
    timeout: Duration,
    mut each: impl FnMut(Result<&str, &str>),
) -> io::Result<()> {
    let mut stream = connect(socket, Instant::now() + timeout)?;
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(timeout))?;
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Recv, Some(timeout))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    let mut read_line = |line: &mut String| {
        line.clear();
        match answers.read_line(line).map_err(timed_out)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon closed the connection")),
            _ => Ok(()),
        }
    };
    loop {
        let batch: Vec<String> = requests.by_ref().take(AT_ONCE).collect();
        if batch.is_empty() {
            return Ok(());
        }
        stream.write_all((batch.join("\n") + "\n").as_bytes()).map_err(timed_out)?;
        for _ in batch {
            read_line(&mut line)?;
            match line.strip_prefix("error ") {
                Some(fault) => each(Err(fault.trim_end())),
                None => {
                    each(Ok(line.trim_end()));
                    read_line(&mut line)?;
                    if line.trim_end() != "." {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "the daemon's answer does not end"));
                    }
                }
            }
        }
    }
}

/// Connects, by `deadline` at the latest.
///
/// On a Unix socket with a full backlog, a non-blocking connect fails at once with EAGAIN and cannot be polled for (unix(7), connect(2)). A
/// blocking one waits as long as the send timeout (SO_SNDTIMEO) allows.
///
/// # Errors
/// The kernel's error; [`io::ErrorKind::TimedOut`] at the deadline.
pub fn connect(socket: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    loop {
        sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(remaining(deadline)?))?;
        match rustix::net::connect(&stream, &address) {
            Ok(()) => return Ok(UnixStream::from(stream)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(timed_out(error.into())),
        }
    }
}

/// The time left until `deadline`. Never zero, which the kernel reads as no timeout (socket(7), SO_RCVTIMEO).
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining < Duration::from_micros(1) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(remaining) }
}

/// Translates EAGAIN, which the kernel returns when a socket's timeout has passed (socket(7), SO_RCVTIMEO).
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    const SHORT: Duration = Duration::from_millis(100);
    const MAX_BYTES: usize = 1000;

    fn listener() -> (tempfile::TempDir, PathBuf, UnixListener) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        (dir, path, listener)
    }

    #[test]
    fn the_answer_is_everything_up_to_the_close() {
        let (_dir, path, listener) = listener();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            stream.read_to_string(&mut request).unwrap();
            stream.write_all(b"a\nb\n.\n").unwrap();
            request
        });
        assert_eq!(ask(&path, "list", MAX_BYTES, Duration::from_secs(10)).unwrap(), "a\nb\n.\n");
        assert_eq!(server.join().unwrap(), "list\n");
    }

    #[test]
    fn many_requests_are_answered_in_order_over_one_connection() {
        let (_dir, path, listener) = listener();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut answers = stream.try_clone().unwrap();
            for (number, line) in BufReader::new(stream).lines().enumerate() {
                let line = line.unwrap();
                let answer = if number == 1 { "error no\n".to_owned() } else { format!("\"{line}\"\n.\n") };
                answers.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut answers = Vec::new();
        let requests = (0..100).map(|number| number.to_string());
        ask_all(&path, requests, Duration::from_secs(10), |answer| answers.push(answer.map(str::to_owned).map_err(str::to_owned))).unwrap();
        server.join().unwrap();
        assert_eq!((answers.len(), &answers[1], &answers[99]), (100, &Err("no".to_owned()), &Ok("\"99\"".to_owned())));
    }

    #[test]
    fn an_answer_has_at_most_the_allowed_number_of_bytes() {
        let (_dir, path, listener) = listener();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.read_to_string(&mut String::new()).unwrap();
                let _ = stream.write_all(&[b'x'; 3 * CHUNK]);
            }
        });
        let ask = |max_bytes| ask(&path, "list", max_bytes, Duration::from_secs(10));
        assert_eq!(ask(3 * CHUNK).unwrap().len(), 3 * CHUNK);
        assert_eq!(ask(3 * CHUNK - 1).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(ask(usize::MAX).unwrap().len(), 3 * CHUNK);
    }

    #[test]
    fn an_endless_answer_is_an_error() {
        let (_dir, path, listener) = listener();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(&[b'x'; 100]).is_ok() {}
        });
        assert_eq!(ask(&path, "list", MAX_BYTES, Duration::from_secs(10)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_missing_daemon_is_reported_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ask(&dir.path().join("socket"), "list", MAX_BYTES, SHORT).unwrap_err().kind(), io::ErrorKind::NotFound);
        let stale = dir.path().join("stale");
        drop(UnixListener::bind(&stale).unwrap());
        assert_eq!(ask(&stale, "list", MAX_BYTES, SHORT).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_daemon_that_hangs_times_out_even_with_a_full_backlog() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let mut waiting = Vec::new();
        while waiting.len() < 2 {
            waiting.push(UnixStream::connect(&path).unwrap());
        }
        assert_eq!(ask(&path, "list", MAX_BYTES, SHORT).unwrap_err().kind(), io::ErrorKind::TimedOut, "the backlog is full");
        drop(waiting.pop());
        let _ = rustix::net::accept(&listener).unwrap();
        assert_eq!(ask(&path, "list", MAX_BYTES, SHORT).unwrap_err().kind(), io::ErrorKind::TimedOut, "no answer");
    }
}
