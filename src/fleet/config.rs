//! `[fleet]`: which engine, under which name.

use std::path::PathBuf;

use serde::Deserialize;

/// `[fleet]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetConfig {
    /// The engine: a Valkey or Redis URL, with user and database if need be; `rediss://` and `valkeys://` are TLS, `unix://` is a socket.
    pub url: String,
    /// This machine's name in the fleet: `[a-z0-9.-]`, 64 at most. The host's name if it is not given.
    #[serde(default = "host_name")]
    pub node: String,
    /// A file whose first line is the engine's password. Only the resident reads it.
    pub password_file: Option<PathBuf>,
    /// Certificates in PEM: with TLS the engine's must be signed by one of them. The system's authorities if it is not given.
    pub ca_file: Option<PathBuf>,
    /// This machine's certificate in PEM, if the engine asks for one.
    pub cert_file: Option<PathBuf>,
    /// Its key in PEM. Only the resident reads it.
    pub key_file: Option<PathBuf>,
    /// What all keys in the engine begin with.
    #[serde(default = "prefix")]
    pub prefix: String,
    /// So many bans of one node are believed in a minute.
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
    /// Checks what its form alone does not.
    ///
    /// # Errors
    /// What was found and expected.
    pub fn check(&self) -> Result<(), String> {
        if cfg!(not(feature = "fleet")) {
            return Err(
                "found [fleet], but this program was built without the feature \"fleet\"; expected a build with it, or no [fleet]".into()
            );
        }
        if !is_node(&self.node) {
            return Err(format!("found the node name {:?}, expected 1 to 64 characters of a-z, 0-9, \".\" and \"-\"", self.node));
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
        #[cfg(feature = "fleet")]
        self.check_url()?;
        Ok(())
    }

    #[cfg(feature = "fleet")]
    fn check_url(&self) -> Result<(), String> {
        let info = redis::IntoConnectionInfo::into_connection_info(self.url.as_str())
            .map_err(|error| format!("found a url that cannot be used ({error}), expected such as redis://user@host:6379/0"))?;
        match info.addr() {
            redis::ConnectionAddr::TcpTls { insecure: true, .. } => {
                Err("found #insecure in url, expected ca_file: who does not look at the certificate talks to anybody".into())
            }
            redis::ConnectionAddr::TcpTls { .. } => Ok(()),
            _ if self.ca_file.is_some() || self.cert_file.is_some() => {
                Err("found ca_file or cert_file without TLS, expected a url that begins with rediss://".into())
            }
            _ => Ok(()),
        }
    }
}

/// Whether `name` can be a node's.
#[must_use]
pub fn is_node(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'-')
}
