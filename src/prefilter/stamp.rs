//! Which rules a prefilter was made of, so that a newer rule is noticed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::rule::{Rule, Trigger};

/// Raised by a change of this program that makes other expressions of the same rules.
const GENERATION: u64 = 2;

/// Maximum number of rules that are told apart. A prefilter of more is always stale.
const MAX_RULES: usize = 20_000;

/// Rules by their patterns: a new description or another `maxretry` changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stamp(BTreeSet<u64>);

impl Stamp {
    #[must_use]
    pub fn of(rules: &[Arc<Rule>]) -> Self {
        Self(rules.iter().filter_map(|rule| fingerprint(rule)).collect())
    }

    /// Identifies the rules and the program's way to make expressions of them.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.iter().fold(fnv(fnv(SEED, &GENERATION.to_le_bytes()), b"prefilter"), |hash, rule| fnv(hash, &rule.to_le_bytes()))
    }

    /// The names of those of `rules` that are not among the stamp's: a request that only they match may not be asked about.
    #[must_use]
    pub fn newer<'a>(&self, rules: &'a [Arc<Rule>]) -> Vec<&'a str> {
        rules.iter().filter(|rule| fingerprint(rule).is_some_and(|print| !self.0.contains(&print))).map(|rule| &*rule.name).collect()
    }

    /// Stamps of at most `length` rules each, at least one of them, which together are this one.
    #[must_use]
    pub fn parts(&self, length: usize) -> Vec<Self> {
        let prints: Vec<u64> = self.0.iter().copied().collect();
        let parts = prints.chunks(length.max(1)).map(|part| Self(part.iter().copied().collect()));
        if prints.is_empty() { vec![Self::default()] } else { parts.collect() }
    }

    /// Adds the rules of another stamp, up to [`MAX_RULES`].
    pub fn merge(&mut self, other: &Self) {
        self.0.extend(other.0.iter().take(MAX_RULES.saturating_sub(self.0.len())));
    }

    /// Lines with at most `per_line` rules each: what [`Stamp::add`] reads.
    pub fn lines(&self, per_line: usize) -> impl Iterator<Item = String> {
        let prints: Vec<u64> = self.0.iter().copied().collect();
        let lines: Vec<String> = prints
            .chunks(per_line.max(1))
            .map(|chunk| {
                chunk.iter().fold(String::new(), |mut line, print| {
                    // Writing to a string cannot fail.
                    let _ = write!(line, "{}{print:016x}", if line.is_empty() { "" } else { " " });
                    line
                })
            })
            .collect();
        lines.into_iter()
    }

    /// Adds the rules of a line. Returns false if it is not such a line, or there are too many.
    pub fn add(&mut self, line: &str) -> bool {
        line.split(' ').all(|word| {
            let print = Some(word).filter(|word| word.len() == 16).and_then(|word| u64::from_str_radix(word, 16).ok());
            print.is_some_and(|print| {
                self.0.insert(print);
                self.0.len() <= MAX_RULES
            })
        })
    }
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a of 64 bits, which is the same in each process and after each upgrade. An administrator writes the rules, so nobody looks for
/// collisions.
fn fnv(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Identifies what a rule's expressions are made of; `None` for a rule that needs none.
fn fingerprint(rule: &Rule) -> Option<u64> {
    let json = match &rule.trigger {
        Trigger::Request(pattern) => serde_json::to_vec(pattern),
        Trigger::Response(pattern) if pattern.credentials == Some(false) => serde_json::to_vec(pattern),
        _ => return None,
    };
    // A pattern of strings and numbers always becomes JSON.
    Some(fnv(SEED, &json.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::rule_id::RuleNames;

    fn rules(text: &str) -> Vec<Arc<Rule>> {
        Config::parse(text.as_bytes(), std::path::Path::new("test.toml"), &RuleNames::default()).unwrap().rules.rules().to_vec()
    }

    #[test]
    fn a_stamp_outlives_its_lines() {
        let stamp = Stamp::of(&rules(""));
        let mut read = Stamp::default();
        assert!(stamp.lines(7).all(|line| line.len() <= 7 * 17 && read.add(&line)));
        assert_eq!((read.version(), &read), (stamp.version(), &stamp));
        assert!(!read.add("0123") && !read.add("") && !read.add("0123456789abcdeg"));
    }

    #[test]
    fn only_a_new_or_changed_pattern_is_newer() {
        let old = Stamp::of(&rules("[[rule]]\nname = 'one'\npath = '^/one$'"));
        let newer = |text: &str| {
            let rules = rules(text);
            let newer: Vec<String> = old.newer(&rules).into_iter().map(str::to_owned).collect();
            (newer, Stamp::of(&rules) == old)
        };
        let one = "[[rule]]\nname = 'one'\npath = '^/one$'\n";
        assert_eq!(newer(one), (vec![], true));
        assert_eq!(newer(&format!("{one}maxretry = 9\nmode = 'shadow'")), (vec![], true));
        assert_eq!(newer(""), (vec![], false), "a rule that is gone is asked about in vain");
        assert_eq!(newer(&format!("{one}method = 'GET'")), (vec!["one".into()], false));
        assert_eq!(newer(&format!("{one}[[rule]]\nname = 'two'\npath = '^/two$'")), (vec!["two".into()], false));
        assert_eq!(newer(&format!("{one}[[rule]]\nname = 'all'\nevent = 'request'")), (vec![], true), "told by the log");
    }
}
