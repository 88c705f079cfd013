//! Reads the daemon's stream in large pieces and splits it into lines.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;

/// Maximum length of a line; the longest ones are rules with their patterns.
const MAX_LINE: usize = 256 * 1024;
/// Bytes read at a time.
const READ_SIZE: usize = 64 * 1024;

#[derive(Default)]
pub struct LineReader {
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
}

impl LineReader {
    /// Waits up to `limit`, which must be below a second, for more bytes, and reads them. Returns false if none came.
    pub fn wait(&mut self, stream: &UnixStream, limit: Duration) -> io::Result<bool> {
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
        match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.len() > MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it sends a line that is too long"));
        }
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_SIZE, 0);
        let read = rustix::net::recv(stream, self.buffer.get_mut(filled..).unwrap_or_default(), RecvFlags::DONTWAIT);
        self.buffer.truncate(filled + read.as_ref().map_or(0, |(read, _)| *read));
        match read {
            Ok((0, _)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The next whole line, without its newline.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let line = rest.get(..memchr::memchr(b'\n', rest)?)?.to_vec();
        self.start += line.len() + 1;
        Some(line)
    }
}
