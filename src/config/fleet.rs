//! `[fleet]`: the Redis server, this machine's name, and the limits.

use std::path::PathBuf;

use serde::Deserialize;

#[cfg(feature = "fleet")]
use super::fleet_url::{FleetUrl, Servers};

/// The `[fleet]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetConfig {
    /// URL of a Valkey or Redis server, with user and database if needed; `rediss://` and `valkeys://` use TLS, `unix://` a socket,
    /// `redis+sentinel://` and `redis+cluster://` name Sentinels and nodes of a Cluster: see [`super::fleet_url`].
    pub url: String,
    /// This machine's name in the fleet: `[a-z0-9.-]`, 64 characters at most. Defaults to the host name.
    #[serde(default = "host_name")]
    pub node: String,
    /// File whose first line is the password. Only the daemon reads it.
    pub password_file: Option<PathBuf>,
    /// User of the Sentinels, with `sentinel_password_file`. Defaults to their default user.
    pub sentinel_user: Option<String>,
    /// File whose first line is the password of the Sentinels, if they ask for one. Only the daemon reads it.
    pub sentinel_password_file: Option<PathBuf>,
    /// PEM file of the authorities that may sign the server's certificate. Defaults to the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// PEM file of this machine's certificate, for a server that asks for one.
    pub cert_file: Option<PathBuf>,
    /// PEM file of its key. Only the daemon reads it.
    pub key_file: Option<PathBuf>,
    /// Prefix of all keys and of the channel.
    #[serde(default = "prefix")]
    pub prefix: String,
    /// Maximum number of bans of one node that are admitted in a minute.
    #[serde(default = "bans_per_minute")]
    pub bans_per_minute: u32,
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase()
}

fn prefix() -> String {
    "strikeout:".to_owned()
}

fn bans_per_minute() -> u32 {
    1000
}

impl FleetConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub fn check(&self) -> Result<(), String> {
        if cfg!(not(feature = "fleet")) {
            return Err(
                "found [fleet], but this program was built without the feature \"fleet\"; expected a build with it, or no [fleet]".into()
            );
        }
        if !is_node(&self.node) {
            return Err(format!("found the node name {:?}, expected {NODE_NAME}", self.node));
        }
        if self.prefix.is_empty()
            || self.prefix.len() > 64
            || !self.prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":._-".contains(&byte))
        {
            return Err(format!("found prefix = {:?}, expected 1 to 64 letters, digits, \":\", \".\", \"_\" or \"-\"", self.prefix));
        }
        if self.bans_per_minute == 0 {
            return Err("found bans_per_minute = 0, expected 1 or more".into());
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err("found one of cert_file and key_file, expected both or none".into());
        }
        if self.sentinel_user.is_some() && self.sentinel_password_file.is_none() {
            return Err("found sentinel_user alone, expected sentinel_password_file with it".into());
        }
        #[cfg(feature = "fleet")]
        self.check_url()?;
        Ok(())
    }

    #[cfg(feature = "fleet")]
    fn check_url(&self) -> Result<(), String> {
        let url = FleetUrl::parse(&self.url)?;
        if !matches!(url.servers, Servers::Sentinels { .. }) && self.sentinel_password_file.is_some() {
            return Err("found sentinel_password_file without Sentinels, expected a url that begins with redis+sentinel://".into());
        }
        match url.info.addr() {
            redis::ConnectionAddr::TcpTls { insecure: true, .. } => {
                Err("found #insecure in url, expected ca_file: without a check of its certificate any server would be trusted".into())
            }
            redis::ConnectionAddr::TcpTls { .. } => Ok(()),
            _ if self.ca_file.is_some() || self.cert_file.is_some() => {
                Err("found ca_file or cert_file without TLS, expected a url that begins with rediss".into())
            }
            _ => Ok(()),
        }
    }
}

/// What a node's name must be, for messages.
pub const NODE_NAME: &str = "1 to 64 characters of a-z, 0-9, \".\" and \"-\"";

/// Whether `name` is a valid name of a node.
#[must_use]
pub fn is_node(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'-')
}
