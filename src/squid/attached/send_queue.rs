//! Lines on their way to the daemon. They wait here while its socket is full, and are written together as soon as there is room.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// Bytes above which no further line is queued. Several thousand offences: the daemon works them off within the 190 ms that an answer may
/// take, so a longer queue would only hold offences that are answered already.
const CAPACITY: usize = 768 * 1024;
/// Bytes below [`CAPACITY`] that lines of deferred offences leave to others. Deferred offences are answered already, but those that happen
/// now wait for their answer, and reports must not wait for long either.
const RESERVE: usize = 256 * 1024;
/// A daemon that takes nothing for this long while lines wait is given up.
pub const STALL_LIMIT: Duration = Duration::from_secs(5);

/// A line that the daemon's socket has not taken whole.
struct Waiting {
    /// With its newline.
    length: usize,
    since: Instant,
    /// How many deferred offences it reports.
    deferred: u32,
}

/// A line that the daemon certainly has not handled.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsent {
    /// Without its newline.
    pub text: String,
    /// When that happened which it reports.
    pub since: Instant,
}

/// Whole lines, oldest first. The time is an argument.
#[derive(Default)]
pub struct SendQueue {
    lines: String,
    /// How many bytes of `lines` the daemon's socket has taken.
    taken: usize,
    /// How many of these bytes are whole lines.
    taken_whole: usize,
    /// The lines behind these.
    waiting: VecDeque<Waiting>,
    /// Deferred offences that the daemon's socket has taken since this number was last taken.
    deferred: u64,
    /// Since when the socket has taken nothing although lines wait.
    stalled_since: Option<Instant>,
}

impl SendQueue {
    /// Number of bytes that wait.
    pub fn len(&self) -> usize {
        self.lines.len() - self.taken
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is room for another line.
    pub fn has_room(&self) -> bool {
        self.len() < CAPACITY
    }

    /// Whether there is room for another line of deferred offences.
    pub fn has_room_for_deferred(&self) -> bool {
        self.len() < CAPACITY - RESERVE
    }

    /// Appends a line, which must not hold a newline. The caller sees to it that there is room.
    pub fn push(&mut self, now: Instant, line: &impl std::fmt::Display) {
        self.push_deferred(now, 0, line);
    }

    /// Appends a line that reports `count` offences, the first of which happened at `since`.
    pub fn push_deferred(&mut self, since: Instant, count: u32, line: &impl std::fmt::Display) {
        let start = self.lines.len();
        // Writing to a string cannot fail.
        let _ = writeln!(self.lines, "{line}");
        self.waiting.push_back(Waiting { length: self.lines.len() - start, since, deferred: count });
    }

    /// Takes the number of deferred offences that the daemon's socket has taken since the last call.
    pub fn take_deferred(&mut self) -> u64 {
        std::mem::take(&mut self.deferred)
    }

    /// Gives what waits to `write`, which returns how much it has taken, until nothing is left or it takes no more. Returns whether it has
    /// just begun to take no more.
    ///
    /// # Errors
    /// The error of `write`, other than that it would block.
    pub fn write(&mut self, now: Instant, mut write: impl FnMut(&[u8]) -> Result<usize, Errno>) -> Result<bool, Errno> {
        let mut begins_to_stall = false;
        while let Some(rest) = self.lines.as_bytes().get(self.taken..).filter(|rest| !rest.is_empty()) {
            match write(rest) {
                Ok(taken) => {
                    self.taken += taken;
                    self.stalled_since = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    begins_to_stall = self.stalled_since.is_none();
                    self.stalled_since.get_or_insert(now);
                    break;
                }
                Err(error) => {
                    self.forget_taken();
                    return Err(error);
                }
            }
        }
        self.forget_taken();
        Ok(begins_to_stall)
    }

    /// Whether the daemon has taken nothing for [`STALL_LIMIT`].
    pub fn is_stalled(&self, now: Instant) -> bool {
        self.stalled_since.is_some_and(|since| now.saturating_duration_since(since) >= STALL_LIMIT)
    }

    /// Takes the lines that the daemon certainly has not handled: those that its socket has not taken whole, because a subscriber's line
    /// without its newline is ignored.
    pub fn take_unsent(&mut self) -> Vec<Unsent> {
        let rest = Self { deferred: self.deferred, ..Self::default() };
        let Self { lines, taken_whole, waiting, .. } = std::mem::replace(self, rest);
        let texts = lines.get(taken_whole..).unwrap_or_default().lines();
        texts.zip(waiting).map(|(text, line)| Unsent { text: text.to_owned(), since: line.since }).collect()
    }

    /// Drops lines that were taken whole, once they are the larger part: so each byte is moved at most once.
    fn forget_taken(&mut self) {
        while let Some(line) = self.waiting.front()
            && self.taken_whole + line.length <= self.taken
        {
            self.taken_whole += line.length;
            self.deferred += u64::from(line.deferred);
            self.waiting.pop_front();
        }
        if self.taken > self.len() {
            self.lines.drain(..self.taken_whole);
            self.taken -= self.taken_whole;
            self.taken_whole = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn queue(lines: &[&str]) -> SendQueue {
        let mut queue = SendQueue::default();
        lines.iter().for_each(|line| queue.push(Instant::now(), line));
        queue
    }

    #[test]
    fn everything_that_waits_is_one_write() {
        let mut writes = Vec::new();
        let mut queue = queue(&["one", "two"]);
        let write = |bytes: &[u8]| {
            writes.push(bytes.to_vec());
            Ok(bytes.len())
        };
        assert_eq!(queue.write(Instant::now(), write), Ok(false));
        assert_eq!(writes, [b"one\ntwo\n"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_full_socket_is_no_lost_daemon_until_it_has_taken_nothing_for_five_seconds() {
        let (start, mut queue) = (Instant::now(), queue(&["one", "two"]));
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(queue.write(after(0), |_| Err(Errno::AGAIN)), Ok(true), "it begins to stall");
        assert_eq!(queue.write(after(3), |_| Err(Errno::AGAIN)), Ok(false), "it has stalled before");
        assert_eq!([4, 5].map(|seconds| queue.is_stalled(after(seconds))), [false, true]);
        let mut room = 1;
        let one_byte = |_: &[u8]| if std::mem::take(&mut room) == 1 { Ok(1) } else { Err(Errno::AGAIN) };
        assert_eq!(queue.write(after(4), one_byte), Ok(true), "one byte is a sign of life");
        assert_eq!([8, 9].map(|seconds| queue.is_stalled(after(seconds))), [false, true]);
        assert_eq!(queue.write(after(8), |bytes| Ok(bytes.len())), Ok(false));
        assert!(!queue.is_stalled(after(100)), "nothing waits");
    }

    #[test]
    fn a_broken_connection_is_an_error_at_once() {
        assert_eq!(queue(&["one"]).write(Instant::now(), |_| Err(Errno::PIPE)), Err(Errno::PIPE));
    }

    #[test]
    fn deferred_offences_leave_room_to_those_that_happen_now() {
        let (mut queue, now) = (SendQueue::default(), Instant::now());
        let line = "x".repeat(300);
        while queue.has_room_for_deferred() {
            queue.push_deferred(now, 1, &line);
        }
        let before = queue.len();
        while queue.has_room() {
            queue.push(now, &line);
        }
        assert!(queue.len() - before > RESERVE - 301 && queue.len() < CAPACITY + 301);
        assert!(!queue.has_room_for_deferred());
    }

    #[test]
    fn deferred_offences_are_counted_when_their_line_is_taken_whole_and_keep_their_time_until_then() {
        let (start, mut queue) = (Instant::now(), SendQueue::default());
        let later = start + Duration::from_secs(1);
        queue.push(later, &"1234");
        queue.push_deferred(start, 7, &"1234");
        queue.push_deferred(start, 5, &"1234");
        let mut room = 14;
        let write = |_: &[u8]| if room > 0 { Ok(std::mem::take(&mut room)) } else { Err(Errno::AGAIN) };
        assert_eq!(queue.write(later, write), Ok(true));
        assert_eq!(queue.take_unsent(), [Unsent { text: "1234".into(), since: start }]);
        assert_eq!([queue.take_deferred(), queue.take_deferred()], [7, 0]);
    }

    proptest! {
        /// The naive twin: all lines in a list, and what the socket has taken in another string.
        #[test]
        fn lines_arrive_in_order_and_those_not_taken_whole_can_be_taken_back(
            lines in prop::collection::vec("[a-z]{0,12}", 1..60),
            takes in prop::collection::vec(0_usize..40, 0..60),
        ) {
            let (mut queue, mut received) = (SendQueue::default(), Vec::new());
            let mut takes = takes.into_iter();
            for line in &lines {
                queue.push(Instant::now(), line);
                let mut room = takes.next().unwrap_or(0);
                let write = |bytes: &[u8]| {
                    let taken = room.min(bytes.len());
                    room -= taken;
                    received.extend_from_slice(&bytes[..taken]);
                    if taken == 0 { Err(Errno::AGAIN) } else { Ok(taken) }
                };
                queue.write(Instant::now(), write).unwrap();
            }
            let all: String = lines.iter().map(|line| format!("{line}\n")).collect();
            prop_assert!(all.as_bytes().starts_with(&received));
            prop_assert_eq!(queue.len(), all.len() - received.len());
            let whole = received.iter().filter(|byte| **byte == b'\n').count();
            let unsent = queue.take_unsent();
            prop_assert_eq!(unsent.iter().map(|line| &line.text).collect::<Vec<_>>(), lines[whole..].iter().collect::<Vec<_>>());
            prop_assert!(queue.is_empty());
        }
    }
}
