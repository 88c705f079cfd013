//! A walk through all that the engine holds, in steps, and no further than a fleet can reach: its keys are the engine's word.

use std::collections::HashMap;

use redis::{FromRedisValue, RedisResult, Value};

use super::config::is_node;
use super::link::Link;
use super::message::{LONGEST_STORY, Said, Story, parse_left, parse_story};
use super::wire::Wire;
use crate::event::Scope;
use crate::list::file::parse_network;
use crate::time::Span;
use ipnet::IpNet;

/// So many keys are looked at in one step.
const STEP: usize = 1000;
/// The hashes of so many keys are asked for at once: their stories at their longest stay below [`super::wire::LONGEST`].
pub const FEW: usize = 250;
/// So many steps a walk has at most: a database of a hundred million keys, most of them not ours.
const MOST_STEPS: usize = 100_000;

/// A walk.
pub struct Walk {
    cursor: u64,
    steps: usize,
    keys: usize,
    /// It was left before its end.
    pub is_cut: bool,
}

impl Walk {
    /// A walk that ends after `keys` keys of clients at the latest.
    #[must_use]
    pub fn new(keys: usize) -> Self {
        Self { cursor: 0, steps: MOST_STEPS, keys, is_cut: false }
    }

    /// The keys of one step, each with what it is about; and whether there is more.
    ///
    /// # Errors
    /// The engine's.
    pub fn step(&mut self, link: &Link, wire: &mut Wire) -> RedisResult<(Vec<(String, IpNet)>, bool)> {
        let (next, keys): (u64, Vec<Vec<u8>>) = link.scan(self.cursor, STEP).query(wire)?;
        self.cursor = next;
        let found = keys.len();
        let prefix = link.client_prefix();
        let of = |key: Vec<u8>| {
            let key = String::from_utf8(key).ok()?;
            let target = parse_network(key.strip_prefix(&prefix)?).ok()?;
            Some((key, target))
        };
        let ours = keys.into_iter().filter_map(of).collect();
        self.steps = self.steps.saturating_sub(1);
        self.keys = self.keys.saturating_sub(found);
        self.is_cut = next != 0 && (self.steps == 0 || self.keys == 0);
        Ok((ours, next != 0 && !self.is_cut))
    }
}

/// What the engine knows of one client on one surface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// A ban: how long it still lasts (`None` for ever), how old it is, and its story.
    pub ban: Option<(Option<Span>, Span, Story)>,
    /// How long ago the engine accepted it, and from whom.
    pub accepted: Option<(Span, String)>,
    /// How long ago a ban was lifted.
    pub lifted: Option<Span>,
}

/// What the engine knows of the clients whose hashes have these keys, for the web and for mail. What cannot be read is nothing.
///
/// # Errors
/// The engine's.
pub fn look_up(link: &Link, wire: &mut Wire, keys: &[&str]) -> RedisResult<Vec<[Known; 2]>> {
    let mut command = redis::cmd("EVALSHA");
    command.arg(link.load.get_hash()).arg(keys.len() + 1).arg(link.forgotten_key()).arg(keys).arg(LONGEST_STORY);
    let rows: Vec<Value> = command.query(wire)?;
    Ok(rows.iter().map(|row| read(row).unwrap_or_default()).collect())
}

/// The bans of `target` that the engine knows, as if they were said now. One on both surfaces stays one.
#[must_use]
pub fn said(target: IpNet, web: Known, mail: Known) -> Vec<Said> {
    let said = |scope, known: Known| {
        let (left, age, story) = known.ban?;
        let (accepted, node) = known.accepted.unwrap_or_else(|| (age, story.node.clone()));
        Some(Said { node, scope, left, age, accepted, target, story })
    };
    if web.ban == mail.ban {
        said(Scope::All, web).into_iter().collect()
    } else {
        [said(Scope::Web, web), said(Scope::Mail, mail)].into_iter().flatten().collect()
    }
}

/// One row of `load.lua`'s answer.
fn read(row: &Value) -> Option<[Known; 2]> {
    let texts: Vec<String> = FromRedisValue::from_redis_value_ref(row).ok()?;
    let known = |texts: &[String]| {
        let [left, age, story, accepted, lifted] = texts else { return Known::default() };
        let millis = |text: &String| text.parse().ok().map(Span::from_millis);
        let ban = || Some((parse_left(left)?, millis(age)?, parse_story(story)?));
        let accepted = || {
            let (age, node) = accepted.split_once(' ')?;
            is_node(node).then_some((Span::from_millis(age.parse().ok()?), node.to_owned()))
        };
        Known { ban: ban(), accepted: accepted(), lifted: millis(lifted) }
    };
    let (web, mail) = texts.split_at_checked(5)?;
    Some([known(web), known(mail)])
}

/// What a node that was there all along would have believed: so many bans from each node for each minute in which they were accepted.
pub struct Belief {
    bans_per_minute: u32,
    most: usize,
    taken: usize,
    minutes: HashMap<u64, u32, ahash::RandomState>,
}

impl Belief {
    /// At most `most` bans in all.
    #[must_use]
    pub fn new(bans_per_minute: u32, most: usize) -> Self {
        Self { bans_per_minute, most, taken: 0, minutes: HashMap::default() }
    }

    /// Whether a ban is believed that was accepted from `node` so long ago.
    pub fn believes(&mut self, node: &str, accepted: Span) -> bool {
        let minute = self.minutes.hasher().hash_one((node, accepted.secs() / 60));
        if self.taken >= self.most || (self.minutes.len() >= self.most && !self.minutes.contains_key(&minute)) {
            return false;
        }
        let count = self.minutes.entry(minute).or_default();
        *count = count.saturating_add(1);
        let believed = *count <= self.bans_per_minute;
        self.taken += usize::from(believed);
        believed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(texts: [&str; 10]) -> Value {
        Value::Array(texts.iter().map(|text| Value::BulkString(text.as_bytes().to_vec())).collect())
    }

    const STORY: &str = r#"{"node":"mx1","rule":"r","count":1,"times":1,"evidence":"e"}"#;

    #[test]
    fn a_ban_and_a_lift_are_read() {
        let [web, mail] = read(&row(["-1", "7", STORY, "5 mx2", "", "", "", "", "", "3000"])).unwrap();
        let (left, age, story) = web.ban.unwrap();
        assert_eq!((left, age, story.node.as_str(), web.lifted), (None, Span::from_millis(7), "mx1", None));
        assert_eq!(web.accepted, Some((Span::from_millis(5), "mx2".to_owned())));
        assert_eq!(mail, Known { ban: None, accepted: None, lifted: Some(Span::from_secs(3)) });
    }

    #[test]
    fn what_no_node_writes_is_nothing() {
        let nonsense =
            [["", "7", STORY, "", ""], ["x", "7", STORY, "x mx1", ""], ["-2", "7", STORY, "3 MX", "-1"], ["5", "7", "{}", "3", "1e9"]];
        for faulty in nonsense {
            let [left, age, story, accepted, lifted] = faulty;
            let [web, mail] = read(&row([left, age, story, accepted, lifted, "", "", "", "", ""])).unwrap();
            assert_eq!((web, mail), (Known::default(), Known::default()), "{faulty:?}");
        }
        assert_eq!((read(&Value::Int(3)), read(&Value::Array(Vec::new())), read(&Value::Nil)), (None, None, None));
    }

    #[test]
    fn of_one_node_and_minute_so_many_are_believed_and_in_all_so_many() {
        let mut belief = Belief::new(2, 5);
        let minute = Span::from_secs(60);
        assert_eq!([1, 2, 3].map(|_| belief.believes("mx1", Span::ZERO)), [true, true, false]);
        assert!(belief.believes("mx2", Span::ZERO) && belief.believes("mx1", minute));
        assert!(belief.believes("mx3", minute));
        assert!(!belief.believes("mx4", minute), "five are enough");
    }

    proptest! {
        #[test]
        fn no_row_makes_it_panic(texts in prop::collection::vec(".{0,40}", 0..12)) {
            let row = Value::Array(texts.into_iter().map(|text| Value::BulkString(text.into_bytes())).collect());
            let _ = read(&row);
        }
    }
}
