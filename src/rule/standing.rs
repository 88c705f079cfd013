//! Whether the bans of a rule refuse.

use std::collections::HashSet;
use std::fmt;

use super::{Mode, RuleSet};
use crate::rule_id::{RuleId, is_origin};

/// What the configuration says of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Enforced,
    /// It is in shadow mode: its bans refuse nobody.
    Shadow,
    /// It is defined, but not in force: its bans refuse nobody.
    Off,
    /// It is not defined here. Its bans may be those of another machine, which refuse.
    Unknown,
}

/// As in "12 bans of rule login ended: it is in shadow mode".
impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforced => "enforced",
            Self::Shadow => "in shadow mode",
            Self::Off => "switched off",
            Self::Unknown => "not in the configuration",
        })
    }
}

impl RuleSet {
    /// Notes the names of rules that are defined, but not in force.
    #[must_use]
    pub(super) fn with_off(mut self, off: HashSet<String>) -> Self {
        self.off = off;
        self
    }

    /// What the configuration says of the rule with this id and name. A name without an id is in no configuration of this process yet.
    #[must_use]
    pub fn standing(&self, id: Option<RuleId>, name: &str) -> Standing {
        match id.and_then(|id| self.get(id)).map(|rule| rule.mode) {
            Some(Mode::Enforce) => Standing::Enforced,
            Some(Mode::Shadow) => Standing::Shadow,
            None if self.off.contains(name) => Standing::Off,
            // The other program's configuration says what it bans for.
            None if is_origin(name) => Standing::Enforced,
            None => Standing::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::merge::rule_set;
    use crate::rule::spec::{RuleDefaults, RuleSpec};
    use crate::rule_id::RuleNames;

    #[derive(serde::Deserialize)]
    struct Tables {
        rule: Vec<RuleSpec>,
    }

    #[test]
    fn a_rule_is_enforced_in_shadow_switched_off_or_unknown() {
        let text = "[[rule]]\nname = 'a'\npath = '/a'\n[[rule]]\nname = 'b'\npath = '/b'\nmode = 'shadow'\n\
                    [[rule]]\nname = 'c'\npath = '/c'\nenabled = false\n[[rule]]\nname = 'w00tw00t'\nenabled = false";
        let names = RuleNames::default();
        let own = toml::from_str::<Tables>(text).unwrap().rule;
        let rules = rule_set(own, &RuleDefaults::default(), None, &names, |_| Ok(())).unwrap();
        let standing = |name| rules.standing(names.find(name), name);
        assert_eq!((standing("a"), standing("b")), (Standing::Enforced, Standing::Shadow));
        assert_eq!((standing("c"), standing("w00tw00t")), (Standing::Off, Standing::Off));
        assert_eq!(standing("proxy-connect"), Standing::Off, "a built-in rule that is off by itself");
        assert_eq!(standing("of-another-machine"), Standing::Unknown);
        assert_eq!(standing("fail2ban-sshd"), Standing::Enforced, "the bans of another program");
    }
}
