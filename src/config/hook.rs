//! `[hook]`: a program to run at each ban and unban, and its limits.

use serde::Deserialize;

use super::Bounded;
use crate::time::Span;

/// The `[hook]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    /// The program's absolute path, and arguments that precede those of each call. No shell is involved.
    pub command: HookCommand,
    /// Maximum number of runs at a time, 1 to 64.
    #[serde(default = "at_once")]
    pub at_once: Bounded<64>,
    /// Timeout of a run, after which it is killed.
    #[serde(default = "timeout")]
    pub timeout: HookTimeout,
    /// Maximum number of waiting bans and unbans; further ones are dropped and counted.
    #[serde(default = "queue")]
    pub queue: Bounded<1_000_000>,
    /// Maximum number of bans and unbans that one run is given: 1, or [`MAX_GROUP`] of a group, unless it is set.
    #[serde(default)]
    pub batch: Option<Bounded<MAX_GROUP>>,
    /// How long bans and unbans are collected for one run; they are not if none is given.
    #[serde(default)]
    pub group: Option<HookGroup>,
}

/// Maximum number of bans and unbans of one run: some 30 MB of JSON.
const MAX_GROUP: usize = 100_000;

impl HookConfig {
    /// Maximum number of bans and unbans that one run is given.
    #[must_use]
    pub fn most(&self) -> usize {
        let default = if self.group.is_some() { MAX_GROUP } else { 1 };
        self.batch.map_or(default, Bounded::get)
    }

    /// Number of queues, each with a thread that runs the program: a group goes to one.
    #[must_use]
    pub fn workers(&self) -> usize {
        if self.group.is_some() { 1 } else { self.at_once.get() }
    }
}

fn at_once() -> Bounded<64> {
    Bounded(4)
}

fn timeout() -> HookTimeout {
    HookTimeout(Span::from_secs(10))
}

fn queue() -> Bounded<1_000_000> {
    Bounded(1000)
}

/// The program and its first arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCommand {
    pub program: String,
    /// Arguments that precede those of each call.
    pub arguments: Vec<String>,
}

impl<'de> Deserialize<'de> for HookCommand {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut words = Vec::<String>::deserialize(deserializer)?.into_iter();
        match words.next() {
            Some(program) if program.starts_with('/') && !program.contains('\0') => Ok(Self { program, arguments: words.collect() }),
            found => Err(serde::de::Error::custom(format!(
                "found {:?}, expected the absolute path of a program, such as [\"/usr/local/bin/notify\", \"argument\"]",
                found.unwrap_or_default()
            ))),
        }
    }
}

/// The timeout of a run, 1 second to 1 hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookTimeout(pub Span);

impl<'de> Deserialize<'de> for HookTimeout {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        up_to_an_hour(deserializer, "timeout").map(Self)
    }
}

/// How long bans and unbans are collected, 1 second to 1 hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookGroup(pub Span);

impl<'de> Deserialize<'de> for HookGroup {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        up_to_an_hour(deserializer, "group").map(Self)
    }
}

/// Reads a duration of 1 second to 1 hour.
pub(super) fn up_to_an_hour<'de, D: serde::Deserializer<'de>>(deserializer: D, key: &str) -> Result<Span, D::Error> {
    let span = Span::deserialize(deserializer)?;
    if (Span::from_secs(1)..=Span::from_secs(3600)).contains(&span) {
        Ok(span)
    } else {
        Err(serde::de::Error::custom(format!("found {key} = {span}, expected 1s to 1h")))
    }
}
