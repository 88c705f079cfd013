//! The counts of a replay: over time, by rule and by client.

use std::collections::{BTreeMap, HashMap};

use ahash::RandomState;

use crate::client::Client;
use crate::geo::Network;
use crate::rule_id::RuleId;
use crate::time::Time;

/// The counts of one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bin {
    /// Requests and mail events.
    pub events: u64,
    pub offences: u64,
    /// Bans, including those that rules in shadow mode would have made.
    pub bans: u64,
    /// Events that would have been refused.
    pub refused: u64,
    /// Ordinary events of clients that look good, among the refused ones.
    pub refused_good: u64,
}

impl Bin {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.offences += other.offences;
        self.bans += other.bans;
        self.refused += other.refused;
        self.refused_good += other.refused_good;
    }
}

/// Counts over time in at most [`Series::MAX_BINS`] bins, which grow wider as the time span grows.
#[derive(Debug, Clone)]
pub struct Series {
    width: u64,
    bins: BTreeMap<u64, Bin>,
    /// The bin that was changed last, kept out of the map: most lines belong in the same bin as the line before.
    current: (u64, Bin),
}

impl Default for Series {
    fn default() -> Self {
        Self { width: 1000, bins: BTreeMap::new(), current: (0, Bin::default()) }
    }
}

impl Series {
    /// Maximum number of bins from the first to the last.
    pub const MAX_BINS: u64 = 480;

    /// Adds the counts of `bin` at `time`.
    pub fn add(&mut self, time: Time, bin: Bin) {
        let number = time.millis() / self.width;
        if number != self.current.0 {
            self.close();
            self.current = (time.millis() / self.width, Bin::default());
        }
        self.current.1.add(bin);
    }

    /// Moves the current bin into the map, and widens the bins if there are too many.
    fn close(&mut self) {
        let (number, bin) = std::mem::take(&mut self.current);
        if bin != Bin::default() {
            self.bins.entry(number).or_default().add(bin);
        }
        while let (Some((first, _)), Some((last, _))) = (self.bins.first_key_value(), self.bins.last_key_value())
            && last - first >= Self::MAX_BINS
        {
            let wider = wider(self.width);
            let joined = wider / self.width;
            self.width = wider;
            let mut bins = BTreeMap::<u64, Bin>::new();
            for (number, bin) in &self.bins {
                bins.entry(number / joined).or_default().add(*bin);
            }
            self.bins = bins;
        }
    }

    /// The width of a bin in milliseconds, the start of the first bin, and all bins up to the last one, empty ones included.
    #[must_use]
    pub fn finish(mut self) -> (u64, Time, Vec<Bin>) {
        self.close();
        let (Some((first, _)), Some((last, _))) = (self.bins.first_key_value(), self.bins.last_key_value()) else {
            return (self.width, Time::default(), Vec::new());
        };
        let bins = (*first..=*last).map(|number| self.bins.get(&number).copied().unwrap_or_default()).collect();
        (self.width, Time::from_millis(first * self.width), bins)
    }
}

/// The next larger width of bins in milliseconds: a round length of time, and a multiple of `width`.
#[must_use]
pub fn wider(width: u64) -> u64 {
    const ROUND: [u64; 11] = [1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400];
    ROUND.into_iter().map(|seconds| seconds * 1000).find(|round| *round > width).unwrap_or(width * 2)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleTally {
    pub offences: u64,
    /// Bans, or for a rule in shadow mode, those that it would have made.
    pub bans: u64,
    /// Events that its bans, or the rule itself, would have refused.
    pub refused: u64,
    /// Requests and incidents of never-banned clients that offend the rule.
    pub spared: u64,
}

/// One client that one rule banned.
#[derive(Debug, Clone, Default)]
pub struct Banned {
    pub bans: u32,
    /// Events that were refused.
    pub refused: u32,
    /// The times of the first [`Banned::MAX_TIMES`] refused events that were ordinary.
    pub ordinary: Vec<Time>,
    /// Number of refused events that were ordinary.
    pub ordinary_count: u32,
    /// Start of the first ban.
    pub since: Time,
    /// The evidence of the first ban.
    pub evidence: String,
}

impl Banned {
    /// Maximum number of times stored for each client and rule.
    pub const MAX_TIMES: usize = 256;

    /// Counts a refused event that was ordinary.
    pub fn note_ordinary(&mut self, time: Time) {
        self.ordinary_count = self.ordinary_count.saturating_add(1);
        if self.ordinary.len() < Self::MAX_TIMES {
            self.ordinary.push(time);
        }
    }
}

/// One network that one rule banned.
#[derive(Debug, Clone, Default)]
pub struct BannedNetworkTally {
    pub bans: u64,
    /// The most different clients that led to a ban.
    pub members: u32,
    /// Events that were refused.
    pub refused: u64,
    /// Start of the first ban.
    pub since: Time,
    /// Members and last offence of the first ban.
    pub evidence: String,
    /// Refused events over time.
    pub series: Series,
}

/// All counts of a replay except the clients' behaviour.
#[derive(Debug, Default)]
pub struct Tally {
    pub series: Series,
    pub rules: HashMap<RuleId, RuleTally, RandomState>,
    /// Offences and bans of each rule over time, for its small plot.
    pub rule_series: HashMap<RuleId, Series, RandomState>,
    /// Banned clients by client and rule, at most as many as clients are tracked.
    pub banned: HashMap<(Client, RuleId), Banned, RandomState>,
    /// Networks that a rule banned or would have, at most as many as clients are tracked.
    pub networks: HashMap<(Network, RuleId), BannedNetworkTally, RandomState>,
    pub requests: u64,
    /// SMTP connections, messages and incidents.
    pub mail: u64,
    /// Requests and connections that Strikeout itself refused at the time. They are not judged again.
    pub refused_before: u64,
    /// Lines of no known format, or without an address.
    pub unread: u64,
    /// Events of clients beyond the maximum. They are judged, but missing from the lists of clients.
    pub forgotten_events: u64,
}

impl Tally {
    /// The entry of `client` under `rule`; none for a new client if there are `max_clients` already.
    pub fn banned(&mut self, client: Client, rule: RuleId, max_clients: usize) -> Option<&mut Banned> {
        if self.banned.len() >= max_clients && !self.banned.contains_key(&(client, rule)) {
            self.forgotten_events += 1;
            return None;
        }
        Some(self.banned.entry((client, rule)).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_series_has_no_bins() {
        assert_eq!(Series::default().finish().2, []);
    }

    proptest! {
        #[test]
        fn a_series_loses_no_event_whatever_the_time_span_and_the_order(times in proptest::collection::vec(0_u64..40_000_000_000, 1..200)) {
            let mut series = Series::default();
            for time in &times {
                series.add(Time::from_millis(*time), Bin { events: 1, ..Bin::default() });
            }
            let (width, start, bins) = series.finish();
            prop_assert_eq!(bins.iter().map(|bin| bin.events).sum::<u64>(), times.len() as u64);
            prop_assert!(bins.len() as u64 <= Series::MAX_BINS);
            for (number, bin) in bins.iter().enumerate() {
                let from = start.millis() + width * number as u64;
                let expected = times.iter().filter(|time| (from..from + width).contains(*time)).count();
                prop_assert_eq!(bin.events, expected as u64);
            }
        }
    }
}
