//! Rule names as small numbers: interned once, never reused, so that strikes and bans survive a reload.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// A rule's name as a number. It means something only beside the [`Names`] that gave it; files and sockets carry the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(u32);

impl RuleId {
    /// Bans that an operator made by hand.
    pub const MANUAL: Self = Self(0);
    /// Addresses on a deny list.
    pub const DENY_LIST: Self = Self(1);
    /// Refusals because the table could not be asked and `on_failure = "deny"`.
    pub const ON_FAILURE: Self = Self(2);

    /// The number itself, to be packed into a table.
    #[must_use]
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// The id with this number, as [`RuleId::number`] gave it.
    #[must_use]
    pub(crate) fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// Names of the reserved ids, in their order. No rule may be called so.
pub const RESERVED: [&str; 3] = ["manual", "deny-list", "on-failure"];

/// All rule names ever seen by this process. Only configuration adds to it.
#[derive(Debug)]
pub struct Names(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, RuleId>,
}

impl Default for Names {
    fn default() -> Self {
        let names = Self(RwLock::default());
        for name in RESERVED {
            names.intern(name);
        }
        names
    }
}

impl Names {
    /// The id of `name`, a new one if it was never seen.
    pub fn intern(&self, name: &str) -> RuleId {
        if let Some(id) = self.find(name) {
            return id;
        }
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = inner.ids.get(name) {
            return *id;
        }
        let id = RuleId(u32::try_from(inner.names.len()).unwrap_or(u32::MAX >> 1));
        let name: Arc<str> = name.into();
        inner.names.push(Arc::clone(&name));
        inner.ids.insert(name, id);
        id
    }

    /// The id of `name`, if it was seen.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<RuleId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).ids.get(name).copied()
    }

    /// The name of `id`; `?` for one that these names never gave.
    #[must_use]
    pub fn name(&self, id: RuleId) -> Arc<str> {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        usize::try_from(id.0).ok().and_then(|index| inner.names.get(index)).map_or_else(|| "?".into(), Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_id_for_ever() {
        let names = Names::default();
        let id = names.intern("w00tw00t");
        assert_eq!(names.intern("w00tw00t"), id);
        assert_ne!(names.intern("other"), id);
        assert_eq!(&*names.name(id), "w00tw00t");
        assert_eq!(names.find("never-seen"), None);
    }

    #[test]
    fn reserved_names_have_the_reserved_ids() {
        let names = Names::default();
        assert_eq!(names.find("manual"), Some(RuleId::MANUAL));
        assert_eq!(names.find("deny-list"), Some(RuleId::DENY_LIST));
        assert_eq!(names.find("on-failure"), Some(RuleId::ON_FAILURE));
    }
}
