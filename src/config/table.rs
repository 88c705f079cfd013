//! `[table]`: the socket, the state file and the size of the table.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Bounded, ConfigError, pieces};
use crate::client::Ipv6Prefix;
use crate::engine::{DEFAULT_ACCOUNTS, DEFAULT_NETWORKS};
use crate::policy::OnFailure;

/// The socket that the daemon listens on and all other programs connect to, unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/strikeout/strikeout.sock";

/// The `[table]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableConfig {
    /// The daemon's Unix socket.
    pub socket: PathBuf,
    /// The socket's mode, in octal digits.
    pub mode: FileMode,
    /// The group that owns the socket.
    pub group: String,
    /// The state file; empty for none.
    pub state: PathBuf,
    /// Maximum number of clients with strikes, 1 to 100,000,000.
    pub clients: Bounded<100_000_000>,
    /// Maximum number of clients banned by rules, 1 to 100,000,000.
    pub bans: Bounded<100_000_000>,
    /// Maximum number of networks whose offences are counted, 1 to 10,000,000.
    pub networks: Bounded<10_000_000>,
    /// Maximum number of accounts at which guesses are counted, 1 to 10,000,000.
    pub accounts: Bounded<10_000_000>,
    /// Prefix length that IPv6 addresses are cut to, 1 to 128 bits.
    pub ipv6_prefix: Ipv6Prefix,
    /// The answer of a helper that cannot reach the table.
    pub on_failure: OnFailure,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            mode: FileMode(0o660),
            group: "strikeout".into(),
            state: "/var/lib/strikeout/strikeout.db".into(),
            clients: Bounded(1_000_000),
            bans: Bounded(1_000_000),
            networks: Bounded(DEFAULT_NETWORKS),
            accounts: Bounded(DEFAULT_ACCOUNTS),
            ipv6_prefix: Ipv6Prefix::default(),
            on_failure: OnFailure::Allow,
        }
    }
}

impl TableConfig {
    /// Reads `[table]` from `file` and the pieces beside it, and ignores everything else: for programs that only ask the daemon and must start
    /// fast.
    ///
    /// # Errors
    /// A file cannot be read, is not TOML, or has a fault in `[table]`.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct TableOnly {
            table: TableConfig,
        }
        let parsed: TableOnly = pieces::read(file, false)?.deserialize()?;
        Ok(parsed.table)
    }
}

/// File permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(serde::de::Error::custom(format!("found mode {text:?}, expected octal digits such as \"0660\""))),
        }
    }
}

impl<'de> Deserialize<'de> for Ipv6Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bits = i64::deserialize(deserializer)?;
        u8::try_from(bits)
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| serde::de::Error::custom(format!("found ipv6_prefix = {bits}, expected 1 to 128")))
    }
}
