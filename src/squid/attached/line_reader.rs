//! Reads the daemon's stream in large pieces and splits it into lines.

use std::io;
use std::os::unix::net::UnixStream;

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
    /// Reads what has arrived, without blocking. Returns false if nothing has.
    ///
    /// # Errors
    /// The daemon closed the connection, or sent a line that is too long.
    pub fn read(&mut self, stream: &UnixStream) -> io::Result<bool> {
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
