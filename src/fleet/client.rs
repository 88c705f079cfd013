//! The client of the Redis server: address, password, names of keys, and scripts.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;

use redis::{Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError, RedisResult, Script, ServerErrorKind};

use super::resp_connection::{Address, RespConnection};
use super::tls;
use crate::config::fleet::FleetConfig;
use crate::control::answer::one_line;

const PROBE: &str = include_str!("probe.lua");
const BAN: &str = concat!(include_str!("client.lua"), include_str!("ban.lua"));
const UNBAN: &str = concat!(include_str!("client.lua"), include_str!("unban.lua"));
const STRIKE: &str = concat!(include_str!("client.lua"), include_str!("strike.lua"));
const LOAD: &str = concat!(include_str!("client.lua"), include_str!("load.lua"));
const FORGET: &str = concat!(include_str!("client.lua"), include_str!("forget.lua"));

/// Maximum number of characters of an error that are shown.
const MAX_ERROR: usize = 300;

/// Everything that a connection needs.
pub struct RedisClient {
    config: FleetConfig,
    info: ConnectionInfo,
    /// This machine's name.
    pub node: String,
    /// A random number that tells this process from others, even from one of the same name.
    pub instance: u64,
    /// Maximum number of bans that a node may publish in a minute.
    pub bans_per_minute: u32,
    pub(super) ban: Script,
    pub(super) unban: Script,
    pub(super) strike: Script,
    pub(super) load: Script,
    pub(super) forget: Script,
}

impl RedisClient {
    /// A client of the server that `config` names. It connects nowhere yet.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub fn new(config: FleetConfig) -> io::Result<Self> {
        Ok(Self {
            info: config.url.as_str().into_connection_info().map_err(io::Error::other)?,
            node: config.node.clone(),
            instance: RandomState::new().build_hasher().finish(),
            bans_per_minute: config.bans_per_minute,
            ban: Script::new(BAN),
            unban: Script::new(UNBAN),
            strike: Script::new(STRIKE),
            load: Script::new(LOAD),
            forget: Script::new(FORGET),
            config,
        })
    }

    /// Connects and authenticates. Password and certificates are read each time, so that they can be changed without a restart.
    /// [`RespConnection`] limits how long this and every later call take.
    ///
    /// # Errors
    /// A file cannot be read, or Redis cannot be reached or refuses.
    pub fn connect(&self) -> RedisResult<RespConnection> {
        let mut settings = self.info.redis_settings().clone();
        if let Some(file) = &self.config.password_file {
            let text = tls::read(file)?;
            settings = settings.set_password(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim());
        }
        let mut connection = RespConnection::connect(&self.address()?)?;
        let mut greeting = redis::pipe();
        if settings.protocol() == redis::ProtocolVersion::RESP3 {
            greeting.cmd("HELLO").arg(3);
            if let Some(password) = settings.password() {
                greeting.arg("AUTH").arg(settings.username().unwrap_or("default")).arg(password);
            }
        } else if let Some(password) = settings.password() {
            let auth = greeting.cmd("AUTH");
            settings.username().map(|user| auth.arg(user));
            greeting.arg(password);
        }
        if settings.db() != 0 {
            greeting.cmd("SELECT").arg(settings.db());
        }
        for answer in connection.request(&greeting.get_packed_pipeline(), greeting.len())? {
            answer.extract_error()?;
        }
        Ok(connection)
    }

    fn address(&self) -> io::Result<Address> {
        Ok(match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => Address::Tcp(host.clone(), *port, None),
            ConnectionAddr::TcpTls { host, port, .. } => {
                Address::Tcp(host.clone(), *port, Some(Arc::new(tls::client_config(&self.config)?)))
            }
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            other => return Err(io::Error::other(format!("{other} is not a usable address"))),
        })
    }

    /// Connects, loads all scripts, and uses every right that they need once, so that a missing right shows when a node connects.
    ///
    /// # Errors
    /// As [`RedisClient::connect`].
    pub fn connect_publisher(&self) -> RedisResult<RespConnection> {
        let mut connection = self.connect()?;
        let mut pipe = redis::pipe();
        for script in [BAN, UNBAN, STRIKE, LOAD, FORGET, PROBE] {
            pipe.cmd("SCRIPT").arg("LOAD").arg(script);
        }
        pipe.cmd("EVALSHA").arg(Script::new(PROBE).get_hash()).arg(1).arg(self.key(&format!("probe:{}", self.node)));
        pipe.arg(self.key("probe"));
        for answer in connection.request(&pipe.get_packed_pipeline(), pipe.len())? {
            answer.extract_error()?;
        }
        Ok(connection)
    }

    /// An error in a sentence for log and `status`: one line of limited length, whatever Redis says.
    #[must_use]
    pub fn describe(&self, error: &RedisError) -> String {
        let user = self.info.redis_settings().username().unwrap_or("default");
        let detail = match (error.code(), error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            _ => error.to_string(),
        };
        let text = if error.is_timeout() {
            "it does not answer in time".to_owned()
        } else if error.code() == Some("WRONGPASS") {
            format!("it refuses the password of user {user}: {detail}")
        } else if error.code() == Some("NOAUTH") {
            format!("it asks for a password, see password_file: {detail}")
        } else if lacks_right(error) {
            format!("user {user} lacks a right, see docs/fleet.md: {detail}")
        } else {
            detail
        };
        let text = format!("Redis at {}: {text}", self.info.addr());
        one_line(&text).chars().take(MAX_ERROR).collect()
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.config.prefix)
    }

    /// The channel on which changes are published.
    #[must_use]
    pub fn channel(&self) -> String {
        self.key("news")
    }

    /// The hash of a client or a network.
    #[must_use]
    pub fn client_key(&self, target: &str) -> String {
        self.key(&format!("client:{target}"))
    }

    /// The counter of this node's bans in a minute.
    #[must_use]
    pub fn rate_key(&self) -> String {
        self.key(&format!("rate:{}", self.node))
    }

    /// The hash of forgotten nodes.
    #[must_use]
    pub fn forgotten_key(&self) -> String {
        self.key("forgotten")
    }

    /// The counter of a client's strikes under a rule.
    #[must_use]
    pub fn strike_key(&self, rule: &str, target: &str) -> String {
        self.key(&format!("strike:{rule}:{target}"))
    }

    /// The command for one step of a scan through the keys of all clients and networks.
    #[must_use]
    pub fn scan(&self, cursor: u64, count: usize) -> Cmd {
        let mut scan = Cmd::new();
        // A prefix has no character that is special in a pattern, see `FleetConfig::check`.
        scan.arg("SCAN").arg(cursor).arg("MATCH").arg(self.client_key("*")).arg("COUNT").arg(count);
        scan
    }
}

/// Whether Redis refuses because the user lacks a right.
fn lacks_right(error: &RedisError) -> bool {
    // Versions of Redis word a refusal inside a script differently.
    let text = error.detail().unwrap_or_default();
    error.code() == Some("NOPERM") || text.contains("ACL failure in script") || text.contains("user executing the script can't")
}

/// Whether an error concerns only one change, such as a key of another type: others would be accepted.
#[must_use]
pub fn concerns_one_change(error: &RedisError) -> bool {
    let is_known = matches!(error.kind(), redis::ErrorKind::Server(kind) if kind != ServerErrorKind::ResponseError);
    !is_known && !lacks_right(error) && matches!(error.code(), Some("ERR" | "WRONGTYPE"))
}
