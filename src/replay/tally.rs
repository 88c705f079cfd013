//! What a replay counts: over time, by rule and by client.

use std::collections::{BTreeMap, HashMap};

use ahash::RandomState;

use crate::client::Client;
use crate::rule::RuleId;
use crate::time::Time;

/// Numbers of one stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bin {
    /// Requests and mail events.
    pub events: u64,
    /// Offences.
    pub offences: u64,
    /// Bans, those of rules in shadow mode included.
    pub bans: u64,
    /// Events that would have been refused.
    pub refused: u64,
    /// Of those, the ordinary ones of clients that look good.
    pub hurt: u64,
}

impl Bin {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.offences += other.offences;
        self.bans += other.bans;
        self.refused += other.refused;
        self.hurt += other.hurt;
    }
}

/// Numbers over time, in at most [`Series::MOST`] bins, which grow wider as the time gets longer.
#[derive(Debug, Clone)]
pub struct Series {
    width: u64,
    bins: BTreeMap<u64, Bin>,
    /// The bin that was added to last, kept out of the map: most lines go into the same as the one before.
    open: (u64, Bin),
}

impl Default for Series {
    fn default() -> Self {
        Self { width: 1000, bins: BTreeMap::new(), open: (0, Bin::default()) }
    }
}

impl Series {
    /// The most bins from the first to the last.
    pub const MOST: u64 = 480;

    /// Adds `bin` at `time`.
    pub fn add(&mut self, time: Time, bin: Bin) {
        let number = time.millis() / self.width;
        if number != self.open.0 {
            self.close();
            self.open = (time.millis() / self.width, Bin::default());
        }
        self.open.1.add(bin);
    }

    /// Puts the open bin into the map, and makes the bins wider if they have become too many.
    fn close(&mut self) {
        let (number, bin) = std::mem::take(&mut self.open);
        if bin != Bin::default() {
            self.bins.entry(number).or_default().add(bin);
        }
        while let (Some((first, _)), Some((last, _))) = (self.bins.first_key_value(), self.bins.last_key_value())
            && last - first >= Self::MOST
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

    /// The width of a bin in milliseconds, the start of the first bin, and the bins without a gap.
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

/// The next width of bins, in milliseconds: a round length of time, and a multiple of the one before.
#[must_use]
pub fn wider(width: u64) -> u64 {
    const ROUND: [u64; 11] = [1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400];
    ROUND.into_iter().map(|seconds| seconds * 1000).find(|round| *round > width).unwrap_or(width * 2)
}

/// Numbers of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleTally {
    /// Offences.
    pub offences: u64,
    /// Bans; of a rule in shadow mode, those that it would have made.
    pub bans: u64,
    /// Events that its bans, or the rule itself, would have refused.
    pub refused: u64,
    /// Offences of clients that are never banned.
    pub spared: u64,
}

/// One client under one rule that banned it.
#[derive(Debug, Clone, Default)]
pub struct Banned {
    /// How often.
    pub bans: u32,
    /// Events that were refused.
    pub refused: u32,
    /// When those were that were refused although they were ordinary, up to [`Banned::MOST`] of them; then their number.
    pub ordinary: Vec<Time>,
    /// How many were ordinary.
    pub ordinary_count: u32,
    /// When the first ban began.
    pub since: Time,
    /// The evidence of the first ban.
    pub evidence: String,
}

impl Banned {
    /// So many times are remembered of each client and rule.
    pub const MOST: usize = 256;

    /// Notes an ordinary event that was refused.
    pub fn note_ordinary(&mut self, time: Time) {
        self.ordinary_count = self.ordinary_count.saturating_add(1);
        if self.ordinary.len() < Self::MOST {
            self.ordinary.push(time);
        }
    }
}

/// Everything that was counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Over time.
    pub series: Series,
    /// By rule.
    pub rules: HashMap<RuleId, RuleTally, RandomState>,
    /// Bans by rule over time, for its own small plot.
    pub rule_series: HashMap<RuleId, Series, RandomState>,
    /// By client and rule, of banned clients, up to as many as clients are told apart.
    pub banned: HashMap<(Client, RuleId), Banned, RandomState>,
    /// Requests.
    pub requests: u64,
    /// Mail events: connections, messages, incidents.
    pub mail: u64,
    /// Offences that were found in lines of other formats.
    pub texts: u64,
    /// Requests and connections that Strikeout itself had refused at the time: not judged again.
    pub refused_before: u64,
    /// Lines that are of no known format, or name no address.
    pub unread: u64,
    /// Clients beyond the most that are told apart: they are judged, and missing in the lists of clients.
    pub forgotten_clients: u64,
}

impl Tally {
    /// What happened to `client` under `rule`; none for one beyond the `most` that are told apart.
    pub fn banned(&mut self, client: Client, rule: RuleId, most: usize) -> Option<&mut Banned> {
        if self.banned.len() >= most && !self.banned.contains_key(&(client, rule)) {
            self.forgotten_clients += 1;
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
        fn a_series_loses_nothing_however_long_the_time_and_whatever_the_order(times in proptest::collection::vec(0_u64..40_000_000_000, 1..200)) {
            let mut series = Series::default();
            for time in &times {
                series.add(Time::from_millis(*time), Bin { events: 1, ..Bin::default() });
            }
            let (width, start, bins) = series.finish();
            prop_assert_eq!(bins.iter().map(|bin| bin.events).sum::<u64>(), times.len() as u64);
            prop_assert!(bins.len() as u64 <= Series::MOST);
            for (number, bin) in bins.iter().enumerate() {
                let from = start.millis() + width * number as u64;
                let expected = times.iter().filter(|time| (from..from + width).contains(*time)).count();
                prop_assert_eq!(bin.events, expected as u64);
            }
        }
    }
}
