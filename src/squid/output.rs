//! The helper's stdout: whole lines per write, from whichever thread has an answer, and nothing else ever.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::answer::{self, Burst};
use crate::rule::Names;
use crate::time::Time;
use crate::verdict::Verdict;

/// A write never carries more than this: Squid reads 32,767 bytes at a time, and an answer split there counts as a refusal.
const WRITE_AT_MOST: usize = 16 * 1024;

/// Stdout, shared by everybody who answers.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

struct Shared {
    fd: OwnedFd,
    /// Held while writing, so that lines never mix.
    burst: Mutex<Burst>,
    closed: AtomicBool,
    waiting: AtomicUsize,
    settled: (Mutex<()>, Condvar),
}

impl Output {
    /// Writes to `fd`, which nobody else must write to.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(Shared {
            fd,
            burst: Mutex::default(),
            closed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            settled: (Mutex::new(()), Condvar::new()),
        }))
    }

    /// Appends the answer to one query to `out`, within the budget of the burst.
    pub fn format(&self, id: Option<&[u8]>, verdict: &Verdict, names: &Names, now: Time, out: &mut Vec<u8>) {
        if verdict.refusal().is_none() {
            return answer::write_err(id, out);
        }
        answer::write(id, verdict, names, now, &mut self.0.burst.lock().unwrap_or_else(PoisonError::into_inner), out);
    }

    /// Writes whole lines.
    pub fn write(&self, lines: &[u8]) {
        let _whole_lines = self.0.burst.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = lines;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(whole_lines(rest));
            self.write_all(now);
            rest = later;
        }
    }

    /// Whether nobody reads any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }

    /// Notes that an answer will come later, from another thread.
    pub fn expect(&self) {
        self.0.waiting.fetch_add(1, Ordering::AcqRel);
    }

    /// Writes an answer that was [expected](Output::expect).
    pub fn write_expected(&self, lines: &[u8]) {
        self.write(lines);
        let _guard = self.0.settled.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.settled.1.notify_all();
    }

    /// How many answers are still to come from other threads.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Acquire)
    }

    /// Waits until all expected answers are written, `limit` at most.
    pub fn wait_for_all(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut guard = self.0.settled.0.lock().unwrap_or_else(PoisonError::into_inner);
        while self.waiting() > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            guard = self.0.settled.1.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_all(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_closed() {
            match rustix::io::write(&self.0.fd, bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&self.0.fd, PollFlags::OUT)], None);
                }
                Err(error) => {
                    log::debug!("stdout: {error}");
                    self.0.closed.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

/// How many bytes of `lines` one write takes: all, or whole lines of [`WRITE_AT_MOST`] bytes at most.
fn whole_lines(lines: &[u8]) -> usize {
    if lines.len() <= WRITE_AT_MOST {
        return lines.len();
    }
    let head = lines.get(..WRITE_AT_MOST).unwrap_or(lines);
    memchr::memrchr(b'\n', head).map_or(lines.len(), |newline| newline + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_takes_whole_lines_and_less_than_squid_reads_at_once() {
        let lines = b"12345 ERR\n".repeat(10_000);
        let mut rest = &lines[..];
        while !rest.is_empty() {
            let taken = whole_lines(rest);
            assert!(taken > 0 && taken <= WRITE_AT_MOST && rest[taken - 1] == b'\n');
            rest = &rest[taken..];
        }
    }

    #[test]
    fn a_closed_reader_is_noticed_and_writing_goes_on_harmlessly() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let output = Output::new(writer);
        drop(reader);
        output.write(b"ERR\n");
        assert!(output.is_closed());
        output.write(b"ERR\n");
    }

    #[test]
    fn waiting_ends_when_the_last_expected_answer_is_written() {
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        let output = Output::new(writer);
        output.expect();
        let other = output.clone();
        let thread = std::thread::spawn(move || other.write_expected(b"1 ERR\n"));
        output.wait_for_all(Duration::from_secs(60));
        assert_eq!(output.waiting(), 0);
        thread.join().unwrap();
    }
}
