//! Judges the decisions of one answer of the local API: each is taken, skipped for a reason, or finds no room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::body::{Part, WireDecision};
use super::decision::{Decision, Scenarios, Skipped, judge};
use super::known::Known;
use crate::config::crowdsec::CrowdsecConfig;
use crate::geo::Network;
use crate::policy::Policy;
use crate::time::Time;

/// Maximum number of decisions about more than a single client: each change of the banned networks may copy their list, and half of what a
/// machine's own rules may ban is left to them.
pub const MAX_NETWORKS: usize = 8192;

/// How many decisions may be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// All together.
    pub decisions: usize,
    /// About more than a single client.
    pub networks: usize,
}

impl Room {
    /// Whether there is any for one more, beside `known` and `new`.
    fn is_left(self, is_about_network: bool, known: &Known, new: &Known) -> bool {
        known.len() + new.len() < self.decisions && (!is_about_network || known.networks() + new.networks() < self.networks)
    }

    /// Whether one of those that found none before would find some now.
    pub fn is_left_for(self, missed: Missed, known: &Known) -> bool {
        let is_left = |is_about_network| self.is_left(is_about_network, known, &Known::default());
        (missed.clients && is_left(false)) || (missed.networks && is_left(true))
    }
}

/// Which decisions found no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Missed {
    pub clients: bool,
    pub networks: bool,
}

/// What an answer said.
#[derive(Debug, Default)]
pub struct Taken {
    /// The decisions that are taken.
    pub new: Known,
    /// Those of the known ones that are deleted.
    pub deleted: BTreeSet<u64>,
    /// How many were not taken, by reason.
    pub skipped: BTreeMap<Skipped, u64>,
    pub missed: Missed,
}

impl Taken {
    /// Everything that this changes beside `known`.
    pub fn targets(&self, known: &Known) -> BTreeSet<Network> {
        let replaced = self.new.ids().filter_map(|id| known.target(id));
        let deleted = self.deleted.iter().filter_map(|id| known.target(*id));
        self.new.targets().chain(replaced).chain(deleted).collect()
    }
}

/// Takes the decisions of one answer.
pub struct Intake<'a> {
    config: &'a CrowdsecConfig,
    policy: Arc<Policy>,
    scenarios: &'a mut Scenarios,
    /// What was known before. Of a whole list, nothing is.
    known: &'a Known,
    room: Room,
    now: Time,
    taken: Taken,
}

impl<'a> Intake<'a> {
    pub fn new(
        config: &'a CrowdsecConfig,
        policy: Arc<Policy>,
        scenarios: &'a mut Scenarios,
        known: &'a Known,
        room: Room,
        now: Time,
    ) -> Self {
        Self { config, policy, scenarios, known, room, now, taken: Taken::default() }
    }

    /// Takes the next decision.
    pub fn take(&mut self, part: Part, wire: &WireDecision) {
        let id = wire.id.0.parse().ok();
        match part {
            Part::Deleted => self.taken.deleted.extend(id.filter(|id| self.known.contains(*id))),
            Part::New => match self.judge(id, wire) {
                Ok((id, decision)) => _ = self.taken.new.insert(id, decision),
                // It ended on its way, and its deletion is said as well.
                Err(Skipped::Over) => {}
                Err(reason) => *self.taken.skipped.entry(reason).or_default() += 1,
            },
        }
    }

    fn judge(&mut self, id: Option<u64>, wire: &WireDecision) -> Result<(u64, Decision), Skipped> {
        let id = id.ok_or(Skipped::Unreadable)?;
        let decision = judge(wire, self.now, self.config, &self.policy, self.scenarios)?;
        let has_room = self.known.contains(id)
            || self.taken.new.contains(id)
            || self.room.is_left(decision.is_about_network, self.known, &self.taken.new);
        if has_room {
            return Ok((id, decision));
        }
        let Missed { clients, networks } = &mut self.taken.missed;
        *(if decision.is_about_network { networks } else { clients }) = true;
        Err(Skipped::NoRoom)
    }

    pub fn finish(self) -> Taken {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::Field;
    use super::super::decision;
    use super::*;
    use crate::rule_id::RuleNames;

    const NOW: Time = Time::from_secs(1_800_000_000);

    fn wire(id: &str, scope: &str, value: &str) -> WireDecision {
        WireDecision { id: Field(id.to_owned()), ..decision::tests::wire(scope, value) }
    }

    /// What is taken of `answer` beside `known`.
    fn take(known: &Known, room: Room, answer: &[(Part, WireDecision)]) -> Taken {
        let config: CrowdsecConfig = toml::from_str("url = 'http://127.0.0.1'\nkey_file = '/k'").unwrap();
        let (policy, mut scenarios) = (Policy::for_tests("", &RuleNames::default()), Scenarios::default());
        let mut intake = Intake::new(&config, Arc::new(policy), &mut scenarios, known, room, NOW);
        answer.iter().for_each(|(part, wire)| intake.take(*part, wire));
        intake.finish()
    }

    const ROOM: Room = Room { decisions: 3, networks: 1 };

    #[test]
    fn each_decision_is_taken_or_skipped_for_a_reason_or_finds_no_room() {
        let first = [
            (Part::New, wire("1", "Ip", "192.0.2.1")),
            (Part::New, wire("2", "Range", "198.51.100.0/24")),
            (Part::New, wire("3", "Range", "203.0.113.0/24")),
            (Part::New, wire("x", "Ip", "192.0.2.2")),
            (Part::New, wire("4", "Ip", "127.0.0.1")),
            (Part::New, WireDecision { duration: Field("-1s".into()), ..wire("5", "Ip", "192.0.2.5") }),
            (Part::Deleted, wire("1", "Ip", "192.0.2.1")),
        ];
        let taken = take(&Known::default(), ROOM, &first);
        assert_eq!((taken.new.len(), taken.new.networks(), taken.deleted.len()), (2, 1, 0));
        let skipped = [(Skipped::Unreadable, 1), (Skipped::NeverBanned, 1), (Skipped::NoRoom, 1)];
        assert_eq!(taken.skipped, BTreeMap::from(skipped));
        assert_eq!(taken.missed, Missed { clients: false, networks: true });
        let (known, clients) = (taken.new, Missed { clients: true, networks: false });
        assert!(!ROOM.is_left_for(taken.missed, &known) && ROOM.is_left_for(clients, &known));
        assert!(!Room { decisions: 2, networks: 2 }.is_left_for(clients, &known));

        // A known one takes no more room when it is said again, nor does one that is said twice.
        let second = [
            (Part::New, wire("2", "Ip", "192.0.2.9")),
            (Part::New, wire("6", "Ip", "192.0.2.6")),
            (Part::New, wire("6", "Ip", "192.0.2.6")),
            (Part::New, wire("7", "Ip", "192.0.2.7")),
            (Part::Deleted, wire("1", "Ip", "192.0.2.1")),
            (Part::Deleted, wire("99", "Ip", "192.0.2.99")),
        ];
        let taken = take(&known, Room { decisions: 4, networks: 1 }, &second);
        assert_eq!(
            (taken.new.len(), taken.deleted.clone(), taken.skipped.clone()),
            (2, BTreeSet::from([1]), BTreeMap::from([(Skipped::NoRoom, 1)]))
        );
        let targets: Vec<String> = taken.targets(&known).iter().map(ToString::to_string).collect();
        assert_eq!(targets, ["192.0.2.1/32", "192.0.2.6/32", "192.0.2.9/32", "198.51.100.0/24"]);
    }
}
