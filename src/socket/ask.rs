//! Asking the resident: one request, one answer, within a time limit that counts everything.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// At least so much is read at a time, if the answer may be that long.
const CHUNK: usize = 16 * 1024;

/// Sends `request` (a line without its newline) to the resident at `socket` and returns all that it answers.
///
/// Connecting, waiting and reading together take `limit` at most, and the answer has at most `most` bytes.
///
/// # Errors
/// The resident could not be asked, did not answer in time ([`io::ErrorKind::TimedOut`]) or answered nonsense.
pub fn ask(socket: &Path, request: &str, most: usize, limit: Duration) -> io::Result<String> {
    let deadline = Instant::now() + limit;
    let mut stream = connect(socket, deadline)?;
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(remaining(deadline)?))?;
    stream.write_all(format!("{request}\n").as_bytes()).map_err(timed_out)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    loop {
        // One byte more than there may be is enough to see that there is too much.
        answer.reserve(CHUNK.min(most.saturating_sub(answer.len()).saturating_add(1)));
        sockopt::set_socket_timeout(&stream, sockopt::Timeout::Recv, Some(remaining(deadline)?))?;
        match rustix::io::read(&stream, spare_capacity(&mut answer)) {
            Ok(0) => break,
            Ok(_) if answer.len() <= most => {}
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the answer has more than {most} bytes"))),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(timed_out(error.into())),
        }
    }
    String::from_utf8(answer).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the answer is no UTF-8"))
}

/// Connects, until `deadline` at the latest.
///
/// A non-blocking connect to a Unix socket whose queue is full fails at once and cannot be polled for; a blocking one waits as long as
/// the time limit for sending says.
///
/// # Errors
/// What the kernel said.
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

/// What is left until `deadline`: never nothing, which would mean no limit to the kernel.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining < Duration::from_micros(1) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(remaining) }
}

/// The kernel says "would block" when a time limit of a socket has passed.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    const SOON: Duration = Duration::from_millis(100);
    const MOST: usize = 1000;

    /// A socket that somebody listens on, in a folder of its own.
    fn listener() -> (tempfile::TempDir, PathBuf, UnixListener) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        (folder, path, listener)
    }

    #[test]
    fn what_is_answered_until_the_close_is_returned() {
        let (_folder, path, listener) = listener();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            stream.read_to_string(&mut request).unwrap();
            stream.write_all(b"a\nb\n.\n").unwrap();
            request
        });
        assert_eq!(ask(&path, "list", MOST, Duration::from_secs(10)).unwrap(), "a\nb\n.\n");
        assert_eq!(server.join().unwrap(), "list\n");
    }

    #[test]
    fn an_answer_may_have_as_many_bytes_as_are_allowed_and_no_more() {
        let (_folder, path, listener) = listener();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.read_to_string(&mut String::new()).unwrap();
                let _ = stream.write_all(&[b'x'; 3 * CHUNK]);
            }
        });
        let ask = |most| ask(&path, "list", most, Duration::from_secs(10));
        assert_eq!(ask(3 * CHUNK).unwrap().len(), 3 * CHUNK);
        assert_eq!(ask(3 * CHUNK - 1).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(ask(usize::MAX).unwrap().len(), 3 * CHUNK);
    }

    #[test]
    fn an_answer_without_end_is_cut_off() {
        let (_folder, path, listener) = listener();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(&[b'x'; 100]).is_ok() {}
        });
        assert_eq!(ask(&path, "list", MOST, Duration::from_secs(10)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nobody_there_is_said_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ask(&folder.path().join("socket"), "list", MOST, SOON).unwrap_err().kind(), io::ErrorKind::NotFound);
        let stale = folder.path().join("stale");
        drop(UnixListener::bind(&stale).unwrap());
        assert_eq!(ask(&stale, "list", MOST, SOON).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_resident_that_hangs_is_given_up_also_when_its_queue_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let mut waiting = Vec::new();
        while waiting.len() < 2 {
            waiting.push(UnixStream::connect(&path).unwrap());
        }
        assert_eq!(ask(&path, "list", MOST, SOON).unwrap_err().kind(), io::ErrorKind::TimedOut, "the queue is full");
        drop(waiting.pop());
        let _ = rustix::net::accept(&listener).unwrap();
        assert_eq!(ask(&path, "list", MOST, SOON).unwrap_err().kind(), io::ErrorKind::TimedOut, "no answer");
    }
}
