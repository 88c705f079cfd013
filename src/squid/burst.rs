//! How much is answered in one burst: no more than Squid surely takes in one read.

use crate::time::{Span, Time};

/// Maximum bytes of full answers in a burst. Beyond it, refusals are `OK ban_=yes` alone.
///
/// Squid reads at most 32,767 bytes at a time, and takes an answer that is split there for a refusal (`helperHandleRead` in helper.cc). The
/// helper cannot see how much Squid has read, so a burst must stay well below that.
const MAX_BURST: usize = 12 * 1024;
/// Length of a burst, from its first answer. By its end Squid's event loop has run, and has read the answers.
const BURST_TIME: Span = Span::from_millis(100);

/// The bytes answered in the current burst.
#[derive(Debug, Default)]
pub struct Burst {
    since: Time,
    bytes: usize,
}

impl Burst {
    /// Whether a full answer of `length` bytes fits.
    pub fn has_room(&mut self, length: usize, now: Time) -> bool {
        if now.since(self.since) >= BURST_TIME || now < self.since {
            *self = Self { since: now, bytes: 0 };
        }
        self.bytes + length <= MAX_BURST
    }

    /// Counts an answer of `length` bytes, full or short.
    pub fn add(&mut self, length: usize) {
        self.bytes += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(1_800_000_000);

    #[test]
    fn a_burst_has_room_for_12_kilobytes_until_it_ends() {
        let mut burst = Burst::default();
        assert!(burst.has_room(12 * 1024, NOW));
        burst.add(12 * 1024 - 150);
        assert!(burst.has_room(150, NOW));
        assert!(!burst.has_room(151, NOW));
        burst.add(150);
        assert!(!burst.has_room(1, NOW.after(Span::from_millis(99))));
        assert!(burst.has_room(150, NOW.after(Span::from_millis(100))));
    }

    #[test]
    fn a_clock_that_is_set_back_begins_a_new_burst() {
        let mut burst = Burst::default();
        assert!(burst.has_room(150, NOW));
        burst.add(12 * 1024);
        assert!(burst.has_room(150, NOW.before(Span::from_millis(1))));
    }
}
