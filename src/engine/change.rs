//! Changes of the bans, as the journal and the observers receive them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ipnet::IpNet;

use crate::client::Client;
use crate::event::Scope;
use crate::geo::Network;
use crate::policy::Pause;
use crate::rule::Evidence;
use crate::table::Until;
use crate::time::Time;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Banned(BanRecord),
    /// A client is unbanned on the services of `scope`.
    Unbanned {
        client: Client,
        scope: Scope,
        at: Time,
        /// The rules under which its earlier bans still count, because they refuse on another service.
        kept: Vec<Arc<str>>,
        reach: Reach,
    },
    /// An operator had the earlier bans of many clients forgotten, whether these are banned or not.
    Forgotten(Forgotten),
    NetworkBanned(NetworkRecord),
    NetworkUnbanned {
        network: Network,
        at: Time,
        /// Whether its earlier bans, which make the next one longer, are forgotten.
        forgets: bool,
        reach: Reach,
    },
    /// The ban of a network by a rule ended early here, to make room for another. On other machines it stays.
    NetworkEvicted {
        network: Network,
        at: Time,
    },
    /// All bans of a rule ended, because the configuration of this machine says that it refuses nobody. Banned networks are changes of their own.
    RuleLifted {
        rule: Arc<str>,
        /// Whom it had banned, and on which services.
        clients: Arc<[(Client, Scope)]>,
        at: Time,
    },
    /// An operator's pause begins, in place of an earlier one.
    Paused(Pause),
    /// An operator ended the pause.
    Resumed,
}

/// Where an unban counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On all machines of a fleet.
    Everywhere,
    /// On this machine: the others hear of it by themselves.
    Here,
}

/// The earlier bans that are forgotten: those that match every condition given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// Under this rule.
    pub rule: Option<Arc<str>>,
    /// Of clients in this network.
    pub network: Option<IpNet>,
    /// Under none of these rules.
    pub kept: Vec<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanRecord {
    pub client: Client,
    pub scope: Scope,
    /// The rule's name: disk and sockets carry names, not numbers.
    pub rule: Arc<str>,
    /// When the first offence that counted happened.
    pub first: Time,
    pub since: Time,
    pub until: Until,
    /// Number of offences that led to it.
    pub count: u32,
    /// The ordinal of this ban among those of this client under this rule, from 1.
    pub times: u32,
    /// The last offence, or an operator's reason.
    pub evidence: Evidence,
    /// The node that made it; empty for this one.
    pub node: Arc<str>,
}

/// The ban of a network, by a rule that counts networks, an operator or another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRecord {
    pub network: Network,
    pub scope: Scope,
    /// The rule's name.
    pub rule: Arc<str>,
    pub since: Time,
    pub until: Until,
    /// How many different clients offended; 0 for a ban by hand.
    pub members: u32,
    /// Some of its members and the last offence, or an operator's reason.
    pub reason: Evidence,
}

impl Change {
    /// Whether it is a ban that can be saved later as well: it stays in memory, marked as unsaved. Other changes leave nothing there, or are
    /// few, because a person or another program made them.
    #[must_use]
    pub fn can_be_saved_later(&self) -> bool {
        match self {
            Self::Banned(_) => true,
            Self::NetworkBanned(record) => record.is_by_count(),
            _ => false,
        }
    }
}

impl NetworkRecord {
    /// Whether a rule made it, here or on another machine; otherwise a person or another program did.
    #[must_use]
    pub fn is_by_count(&self) -> bool {
        self.members > 0
    }

    /// A ban by hand, on every service.
    #[must_use]
    pub fn manual(network: impl Into<Network>, since: Time, until: Until, reason: Evidence) -> Self {
        let network = network.into();
        Self { network, scope: Scope::All, rule: "manual".into(), since, until, members: 0, reason }
    }
}

/// Runs a callback of another module, whose panic must stop nothing else. `caller` is named in the log.
pub fn contain_panic(caller: &str, callback: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        log::error!("a callback of {caller} panicked");
    }
}

/// Called once a change is saved, or saving has failed.
pub type OnPersisted = Box<dyn FnOnce(Persisted) + Send>;

/// Saves changes beyond the life of this process.
pub trait Journal: Send + Sync {
    /// Saves `change`, in the order of the calls and without blocking, and calls `on_persisted` when that is done or has failed. If too many
    /// changes are waiting, a ban fails at once, ahead of them; other changes always wait.
    fn persist(&self, change: Change, on_persisted: OnPersisted);

    /// Calls `on_persisted` when every earlier change is saved or has failed.
    fn flush(&self, on_persisted: OnPersisted);

    /// Whether a ban ever failed because too many changes were waiting.
    fn has_overflowed(&self) -> bool {
        false
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Persisted {
    /// It is: the kernel has it.
    Yes,
    /// It is in memory only, for this reason; the journal keeps trying.
    No(String),
}
