//! The way to the engine: its address, its secret, its keys and its scripts.

use std::io;
use std::time::Duration;

use redis::{Client, Connection, IntoConnectionInfo, RedisResult, Script};

use super::config::FleetConfig;

/// An engine that takes longer is away.
pub const LIMIT: Duration = Duration::from_secs(2);

/// Everything that a connection needs.
pub struct Link {
    client: Client,
    /// This machine's name.
    pub node: String,
    /// So many bans of one node are believed in a minute.
    pub bans_per_minute: u32,
    prefix: String,
    /// `ban.lua`.
    pub ban: Script,
    /// `lift.lua`.
    pub lift: Script,
    /// `strike.lua`.
    pub strike: Script,
}

impl Link {
    /// A way to the engine that `config` names. Connects nowhere yet.
    ///
    /// # Errors
    /// The password file cannot be read, or the URL cannot be used.
    pub fn new(config: &FleetConfig) -> io::Result<Self> {
        let mut info = config.url.as_str().into_connection_info().map_err(io::Error::other)?;
        if let Some(file) = &config.password_file {
            let text =
                std::fs::read_to_string(file).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
            let password = text.lines().next().unwrap_or_default().trim();
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        Ok(Self {
            client: Client::open(info).map_err(io::Error::other)?,
            node: config.node.clone(),
            bans_per_minute: config.bans_per_minute,
            prefix: config.prefix.clone(),
            ban: Script::new(include_str!("ban.lua")),
            lift: Script::new(include_str!("lift.lua")),
            strike: Script::new(include_str!("strike.lua")),
        })
    }

    /// Connects. Whatever the engine does, a call on the connection ends within [`LIMIT`].
    ///
    /// # Errors
    /// The engine's.
    pub fn connect(&self) -> RedisResult<Connection> {
        let mut connection = self.client.get_connection_with_timeout(LIMIT)?;
        connection.set_read_timeout(Some(LIMIT))?;
        connection.set_write_timeout(Some(LIMIT))?;
        for script in [&self.ban, &self.lift, &self.strike] {
            script.load(&mut connection)?;
        }
        Ok(connection)
    }

    /// The channel on which changes are told.
    #[must_use]
    pub fn channel(&self) -> String {
        format!("{}news", self.prefix)
    }

    /// The key of a client's or a network's hash.
    #[must_use]
    pub fn client_key(&self, target: &str) -> String {
        format!("{}client:{target}", self.prefix)
    }

    /// What all such keys begin with.
    #[must_use]
    pub fn client_prefix(&self) -> String {
        self.client_key("")
    }

    /// The key of a node's rate.
    #[must_use]
    pub fn rate_key(&self, node: &str) -> String {
        format!("{}rate:{node}", self.prefix)
    }

    /// The key of a counter.
    #[must_use]
    pub fn strike_key(&self, rule: &str, target: &str) -> String {
        format!("{}strike:{rule}:{target}", self.prefix)
    }
}
