//! The helper's stdout: any thread writes whole lines of answers, and nothing else is ever written.

use parking_lot::{Condvar, Mutex};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::answer;
use super::burst::Burst;
use crate::rule_id::RuleNames;
use crate::time::Time;
use crate::verdict::Verdict;

/// Maximum bytes per write: Squid reads 32,767 bytes at a time, and takes an answer that is split there for a refusal (see `burst.rs`).
const MAX_WRITE: usize = 16 * 1024;

/// A handle of stdout, shared by all threads that answer.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

struct Shared {
    fd: OwnedFd,
    /// Locked while writing, so that lines never mix.
    burst: Mutex<Burst>,
    closed: AtomicBool,
    waiting: AtomicUsize,
    written: (Mutex<()>, Condvar),
}

impl Output {
    /// Writes to `fd`, which nothing else may write to.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(Shared {
            fd,
            burst: Mutex::default(),
            closed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            written: (Mutex::new(()), Condvar::new()),
        }))
    }

    /// Appends the answer to a query to `out`, shortened if the burst is used up.
    pub fn format(&self, id: Option<&[u8]>, verdict: &Verdict, names: &RuleNames, now: Time, out: &mut Vec<u8>) {
        if verdict.refusal().is_none() {
            return answer::write_err(id, out);
        }
        answer::write(id, verdict, names, now, &mut self.0.burst.lock(), out);
    }

    /// Writes whole lines.
    pub fn write(&self, lines: &[u8]) {
        let _whole_lines = self.0.burst.lock();
        let mut rest = lines;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(whole_lines(rest));
            self.write_all(now);
            rest = later;
        }
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }

    /// Announces an answer that another thread will write.
    pub fn expect(&self) {
        self.0.waiting.fetch_add(1, Ordering::AcqRel);
    }

    /// Writes an answer that was announced with [`Output::expect`].
    pub fn write_expected(&self, lines: &[u8]) {
        self.write(lines);
        let _guard = self.0.written.0.lock();
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.written.1.notify_all();
    }

    /// The number of expected answers not yet written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Acquire)
    }

    /// Waits until all expected answers are written, but no longer than `limit`.
    pub fn wait_for_all(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut guard = self.0.written.0.lock();
        while self.waiting() > 0 && !self.0.written.1.wait_until(&mut guard, end).timed_out() {}
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

/// The bytes of `lines` for one write: all of them, or as many whole lines as fit into [`MAX_WRITE`].
fn whole_lines(lines: &[u8]) -> usize {
    if lines.len() <= MAX_WRITE {
        return lines.len();
    }
    let head = lines.get(..MAX_WRITE).unwrap_or(lines);
    memchr::memrchr(b'\n', head).map_or(lines.len(), |newline| newline + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_whole_lines_and_less_than_squid_reads_at_once() {
        let lines = b"12345 ERR\n".repeat(10_000);
        let mut rest = &lines[..];
        while !rest.is_empty() {
            let taken = whole_lines(rest);
            assert!(taken > 0 && taken <= MAX_WRITE && rest[taken - 1] == b'\n');
            rest = &rest[taken..];
        }
    }

    #[test]
    fn a_closed_reader_is_noticed_and_further_writes_do_no_harm() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let output = Output::new(writer);
        drop(reader);
        output.write(b"ERR\n");
        assert!(output.is_closed());
        output.write(b"ERR\n");
    }

    #[test]
    fn waiting_ends_with_the_last_expected_answer() {
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
