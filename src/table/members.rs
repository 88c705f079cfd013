//! The different clients of one group that offended lately.

use smallvec::SmallVec;

use crate::time::{Span, Time};

/// Number of hashes that are compared at a time, without an early exit: that compiles to vector instructions.
const LANES: usize = 16;

/// Members, each with four bytes of a keyed hash and the second of its last offence. There are at most some hundreds, so they are searched one
/// after the other, and their hashes lie side by side for that. Most groups have one or two, which take no memory of their own.
#[derive(Default)]
pub struct Members {
    hashes: SmallVec<[u32; 4]>,
    /// Seconds since 1970, which fit until 2106, in the order of the hashes.
    seen: SmallVec<[u32; 4]>,
}

impl Members {
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Notes that the member offended at `now`. Of `most` others, the one that has not offended for longest is forgotten. Returns whether it is a
    /// new member.
    pub fn note(&mut self, hash: u32, now: Time, most: usize) -> bool {
        let now = u32::try_from(now.secs()).unwrap_or(u32::MAX);
        if let Some(seen) = self.position(hash).and_then(|at| self.seen.get_mut(at)) {
            // Lines of a log may come late.
            *seen = now.max(*seen);
            return false;
        }
        // More than one, if a reload has lowered the limit.
        while self.len() >= most.max(1)
            && let Some(oldest) = self.seen.iter().min().and_then(|oldest| self.seen.iter().position(|seen| seen == oldest))
        {
            self.remove(oldest);
        }
        self.hashes.push(hash);
        self.seen.push(now);
        true
    }

    /// Forgets the member; returns whether there was one.
    pub fn forget(&mut self, hash: u32) -> bool {
        let at = self.position(hash);
        at.into_iter().for_each(|at| self.remove(at));
        at.is_some()
    }

    /// The hashes of all members.
    pub fn hashes(&self) -> impl Iterator<Item = u32> {
        self.hashes.iter().copied()
    }

    /// Number of members that offended within the `findtime` before `now`.
    #[must_use]
    pub fn live(&self, now: Time, findtime: Span) -> usize {
        // A part of a second counts as a whole one.
        self.seen.iter().filter(|seen| Time::from_secs(u64::from(**seen) + 1).after(findtime) > now).count()
    }

    fn remove(&mut self, at: usize) {
        self.hashes.swap_remove(at);
        self.seen.swap_remove(at);
    }

    fn position(&self, hash: u32) -> Option<usize> {
        let is_here = |lanes: &[u32]| lanes.iter().fold(false, |found, known| found | (*known == hash));
        let start = self.hashes.chunks(LANES).position(is_here)? * LANES;
        self.hashes.get(start..)?.iter().position(|known| *known == hash).map(|at| start + at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::strikes::fixtures::{FINDTIME, at};
    use super::*;

    use proptest::prelude::*;

    proptest! {
        /// The twin is a plain list. Of members that were seen in the same second, either may be forgotten, so each second has one.
        #[test]
        fn members_are_those_of_a_plain_list(events in proptest::collection::vec((any::<bool>(), 0_u32..60), 1..300), most in 1_usize..40) {
            let mut members = Members::default();
            let mut twin: Vec<(u32, u64)> = Vec::new();
            for (second, (notes, hash)) in events.into_iter().enumerate() {
                let second = second as u64 * 20;
                let is_known = twin.iter().any(|(known, _)| *known == hash);
                twin.retain(|(known, _)| *known != hash);
                if notes {
                    prop_assert_eq!(members.note(hash, at(second), most), !is_known);
                    if twin.len() == most {
                        twin.remove(0);
                    }
                    twin.push((hash, second));
                } else {
                    prop_assert_eq!(members.forget(hash), is_known);
                }
                let live = twin.iter().filter(|(_, seen)| seen + 1 + 600 > second).count();
                prop_assert_eq!((members.len(), members.live(at(second), FINDTIME)), (twin.len(), live));
            }
        }
    }
}
