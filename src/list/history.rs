//! Notices lists that lost most of their entries between two configurations: a feed that is broken, or was cut while it was written.

use std::collections::HashMap;
use std::sync::Arc;

use super::{ListSource, Lists};

/// What a list is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListKind {
    IgnoreIp,
    TrustedProxies,
    Deny,
}

impl ListKind {
    /// The configuration option.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IgnoreIp => "ignoreip",
            Self::TrustedProxies => "trusted_proxies",
            Self::Deny => "deny",
        }
    }
}

/// How many entries each list file had.
#[derive(Debug, Default)]
pub struct ListHistory {
    known: HashMap<(ListKind, Arc<str>), Entries>,
}

#[derive(Debug, Clone, Copy)]
struct Entries {
    now: usize,
    /// How many there were before more than half of them were lost, until the list has grown again.
    shrunk_from: Option<usize>,
}

impl ListHistory {
    /// Takes note of the lists that are in force now. Returns those that have just lost more than half of their entries, with the number
    /// before and now.
    pub fn update(&mut self, lists: &Lists) -> Vec<(Arc<str>, usize, usize)> {
        let before = std::mem::take(&mut self.known);
        let mut shrunk = Vec::new();
        for (kind, source) in lists.files() {
            let key = (kind, Arc::clone(source.origin()));
            let now = source.entries();
            let earlier = before.get(&key).copied();
            // The larger number, so that a list that shrinks step by step is noticed as well.
            let from = earlier.map_or(0, |earlier| earlier.shrunk_from.unwrap_or(earlier.now));
            let is_shrunk = now < from.div_ceil(2);
            if is_shrunk && earlier.is_some_and(|earlier| earlier.shrunk_from.is_none()) {
                shrunk.push((Arc::clone(source.origin()), from, now));
            }
            self.known.insert(key, Entries { now, shrunk_from: Some(from).filter(|_| is_shrunk) });
        }
        shrunk
    }

    /// How many entries this list had before it lost more than half of them; `None` if it has not.
    #[must_use]
    pub fn shrunk_from(&self, kind: ListKind, source: &ListSource) -> Option<usize> {
        self.known.get(&(kind, Arc::clone(source.origin())))?.shrunk_from
    }
}

impl Lists {
    /// All lists of the configuration.
    pub fn sources(&self) -> impl Iterator<Item = (ListKind, &ListSource)> {
        let with = |kind: ListKind| move |source| (kind, source);
        let ignoreip = self.ignoreip.iter().map(with(ListKind::IgnoreIp));
        let trusted = self.trusted_proxies.iter().map(with(ListKind::TrustedProxies));
        ignoreip.chain(trusted).chain(self.deny.iter().map(with(ListKind::Deny)))
    }

    /// The lists that are files.
    fn files(&self) -> impl Iterator<Item = (ListKind, &ListSource)> {
        self.sources().filter(|(_, source)| source.modified().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::file::ListFile;
    use std::path::Path;
    use std::time::SystemTime;

    fn lists(entries: u32) -> Lists {
        let networks = (0..entries).map(|number| std::net::IpAddr::V4(std::net::Ipv4Addr::from_bits(number * 2)).into()).collect();
        let mut lists = Lists::default();
        lists.set_deny(vec![
            ListSource::of_file(Path::new("/deny.txt"), ListFile { networks, origins: Vec::new(), modified: SystemTime::UNIX_EPOCH }),
            ListSource::new("deny in strikeout.toml", Vec::new()),
        ]);
        lists
    }

    /// What `update` tells of each number of entries in turn, and from how many the list has shrunk then.
    fn told(steps: &[u32]) -> Vec<(bool, Option<usize>)> {
        let mut history = ListHistory::default();
        let told = steps.iter().map(|entries| {
            let lists = lists(*entries);
            let is_told = !history.update(&lists).is_empty();
            (is_told, history.shrunk_from(ListKind::Deny, &lists.deny()[0]))
        });
        told.collect()
    }

    #[test]
    fn a_list_that_lost_more_than_half_is_told_once_and_known_until_it_has_grown_again() {
        assert_eq!(told(&[100, 50]), [(false, None), (false, None)], "half is left");
        assert_eq!(told(&[100, 49, 40, 60, 10]), [(false, None), (true, Some(100)), (false, Some(100)), (false, None), (true, Some(60))],);
        assert_eq!(told(&[100, 0, 0]), [(false, None), (true, Some(100)), (false, Some(100))]);
        assert_eq!(told(&[0, 0, 1]), [(false, None), (false, None), (false, None)]);
    }

    #[test]
    fn a_list_that_is_no_longer_configured_is_forgotten() {
        let mut history = ListHistory::default();
        history.update(&lists(100));
        history.update(&Lists::default());
        assert!(history.update(&lists(1)).is_empty());
    }

    #[test]
    fn the_message_names_the_list_and_both_numbers() {
        let mut history = ListHistory::default();
        history.update(&lists(9));
        assert_eq!(history.update(&lists(4)), [(Arc::from("/deny.txt"), 9, 4)]);
    }
}
