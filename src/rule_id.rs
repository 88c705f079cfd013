//! Interns rule names as small numbers. A number is never reused, so strikes and bans keep their rule across a reload.

use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

/// An interned rule name. Valid only with the [`RuleNames`] that issued it; files and sockets carry the name instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(u32);

impl RuleId {
    /// The rule of bans made by an operator.
    pub const MANUAL: Self = Self(0);
    /// The rule of refusals by a deny list.
    pub const DENY_LIST: Self = Self(1);
    /// The rule of refusals under `on_failure = "deny"`, when the table cannot be reached.
    pub const ON_FAILURE: Self = Self(2);
    /// The id of no rule: no ban has it.
    pub const NONE: Self = Self(u32::MAX);

    /// For packed storage in the table.
    #[must_use]
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    #[must_use]
    pub(crate) fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// The names of the reserved ids, in the order of their numbers. Configured rules must not use them.
pub const RESERVED: [&str; 3] = ["manual", "deny-list", "on-failure"];

/// The name of bans by rules that only other machines of the fleet have.
pub const FLEET: &str = "fleet";

/// The programs whose bans are taken over. Their bans stand under names that begin with the program's, such as `fail2ban-sshd`.
pub const ORIGINS: [&str; 2] = ["fail2ban", CROWDSEC];

/// The program whose decisions the daemon can take by itself.
pub const CROWDSEC: &str = "crowdsec";

/// Maximum length of a rule's name, in bytes.
const MAX_NAME: usize = 64;

/// Whether `name` is that of another program's bans, and so no rule's.
#[must_use]
pub fn is_origin(name: &str) -> bool {
    ORIGINS.iter().any(|program| is_of(program, name))
}

/// Whether other machines of a fleet are told of bans of this name. CrowdSec shares its decisions by itself, and each machine asks it.
#[cfg(feature = "fleet")]
#[must_use]
pub fn is_shared(name: &str) -> bool {
    !is_of(CROWDSEC, name)
}

/// Whether `name` is that of bans by `program`.
#[must_use]
pub fn is_of(program: &str, name: &str) -> bool {
    name.strip_prefix(program).is_some_and(|rest| rest.starts_with('-'))
}

/// The name under which bans that `program` made for `reason` (a jail, a scenario) stand. What a rule's name cannot hold becomes `-`.
#[must_use]
pub fn origin_name(program: &str, reason: &str) -> String {
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let reason = reason.chars().flat_map(char::to_lowercase).map(plain);
    program.chars().chain(std::iter::once('-')).chain(reason).take(MAX_NAME).collect()
}

/// What a rule's name must be, for messages.
pub const RULE_NAME: &str = "1 to 64 characters of a-z, 0-9 and \"-\"";

/// Whether `name` may name a rule: 1 to 64 characters of `[a-z0-9-]`.
#[must_use]
pub fn is_rule_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A hint at the one of the `known` names that was probably meant by `found`, to follow a message; empty if none is similar.
pub fn did_you_mean<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> String {
    let likeness = |name: &&str| strsim::jaro_winkler(name, found);
    let nearest = known.map(|name| (name, likeness(&name))).max_by(|(_, one), (_, other)| one.total_cmp(other));
    nearest.filter(|(_, likeness)| *likeness > 0.8).map_or_else(String::new, |(name, _)| format!("; did you mean `{name}`?"))
}

/// All rule names that this process has seen. Only configuration adds names, so clients cannot fill it.
#[derive(Debug)]
pub struct RuleNames(RwLock<Interned>);

#[derive(Debug, Default)]
struct Interned {
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, RuleId>,
}

impl Default for RuleNames {
    fn default() -> Self {
        let names = Self(RwLock::default());
        for name in RESERVED {
            names.intern(name);
        }
        names
    }
}

impl RuleNames {
    /// Returns the id of `name`, assigning one to a new name.
    pub fn intern(&self, name: &str) -> RuleId {
        if let Some(id) = self.find(name) {
            return id;
        }
        let mut interned = self.0.write();
        if let Some(id) = interned.ids.get(name) {
            return *id;
        }
        let id = RuleId(u32::try_from(interned.names.len()).unwrap_or(u32::MAX >> 1));
        let name: Arc<str> = name.into();
        interned.names.push(Arc::clone(&name));
        interned.ids.insert(name, id);
        id
    }

    /// The ids of all names.
    #[must_use]
    pub fn all(&self) -> Vec<RuleId> {
        (0..self.0.read().names.len()).filter_map(|number| u32::try_from(number).ok()).map(RuleId).collect()
    }

    /// Returns the id of `name`, if it has one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<RuleId> {
        self.0.read().ids.get(name).copied()
    }

    /// Returns the name of `id`, or `?` for an id that another [`RuleNames`] issued.
    #[must_use]
    pub fn name(&self, id: RuleId) -> Arc<str> {
        let interned = self.0.read();
        usize::try_from(id.0).ok().and_then(|index| interned.names.get(index)).map_or_else(|| "?".into(), Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_id() {
        let names = RuleNames::default();
        let id = names.intern("w00tw00t");
        assert_eq!(names.intern("w00tw00t"), id);
        assert_ne!(names.intern("other"), id);
        assert_eq!(&*names.name(id), "w00tw00t");
        assert_eq!(names.find("never-seen"), None);
    }

    #[test]
    fn bans_of_another_program_stand_under_a_name_that_no_rule_has() {
        for (reason, name) in [("sshd", "fail2ban-sshd"), ("My_Jail.2", "fail2ban-my-jail-2"), ("É", "fail2ban--"), ("", "fail2ban-")] {
            assert_eq!(origin_name("fail2ban", reason), name);
            assert!(is_rule_name(name) && is_origin(name), "{name}");
        }
        assert!(is_rule_name(&origin_name("crowdsec", &"x".repeat(500))));
        for name in ["fail2ban", "fail2bans-x", "w00tw00t", "manual", ""] {
            assert!(!is_origin(name), "{name}");
        }
    }

    #[test]
    fn reserved_names_have_the_reserved_ids() {
        let names = RuleNames::default();
        assert_eq!(names.find("manual"), Some(RuleId::MANUAL));
        assert_eq!(names.find("deny-list"), Some(RuleId::DENY_LIST));
        assert_eq!(names.find("on-failure"), Some(RuleId::ON_FAILURE));
    }
}
