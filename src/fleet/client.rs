//! The client of the Redis server: password, names of keys, scripts, and what its errors mean. [`super::primary`] finds the server.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, ConnectionAddr, RedisError, RedisResult, Script, ServerErrorKind};

use super::resp_connection::{Address, RespConnection, SILENCE};
use super::tls;
use crate::config::fleet::FleetConfig;
use crate::config::fleet_url::{FleetUrl, HostPort, Servers};
use crate::config::secret::first_line;
use crate::control::answer::one_line;
use crate::control::unit::explained;

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
    pub(super) url: FleetUrl,
    /// The Sentinel that answered last, or the cluster node that had the fleet's slot.
    pub(super) answered: Mutex<Option<HostPort>>,
    /// The server to which changes are published.
    pub(super) primary: Mutex<Option<String>>,
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
            url: FleetUrl::parse(&config.url).map_err(io::Error::other)?,
            answered: Mutex::default(),
            primary: Mutex::default(),
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

    /// Connects to the server of a URL that names one.
    pub(super) fn connect_one(&self) -> RedisResult<RespConnection> {
        let address = match self.url.info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Address::Tcp(host.clone(), *port, self.tls()?),
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            other => return Err(io::Error::other(format!("{other} is not a usable address")).into()),
        };
        self.authenticate(RespConnection::connect(&address, SILENCE, self.url.info.addr().to_string())?)
    }

    /// Connects to `server` and authenticates.
    pub(super) fn greet(&self, server: &HostPort, timeout: Duration) -> RedisResult<RespConnection> {
        self.authenticate(self.open(server, timeout)?)
    }

    /// Connects to `server`, within `timeout`.
    pub(super) fn open(&self, server: &HostPort, timeout: Duration) -> RedisResult<RespConnection> {
        RespConnection::connect(&Address::Tcp(server.host.clone(), server.port, self.tls()?), timeout, server.to_string())
    }

    fn tls(&self) -> io::Result<Option<Arc<rustls::ClientConfig>>> {
        self.url.is_tls().then(|| tls::client_config(&self.config).map(Arc::new)).transpose()
    }

    fn authenticate(&self, mut connection: RespConnection) -> RedisResult<RespConnection> {
        let mut settings = self.url.info.redis_settings().clone();
        if let Some(file) = &self.config.password_file {
            settings = settings.set_password(first_line(file)?);
        }
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

    /// The password of the Sentinels, if they have one.
    pub(super) fn sentinel_password(&self) -> io::Result<Option<String>> {
        self.config.sentinel_password_file.as_deref().map(first_line).transpose()
    }

    pub(super) fn sentinel_user(&self) -> &str {
        self.config.sentinel_user.as_deref().unwrap_or("default")
    }

    /// Connects, loads all scripts, and uses every right that they need once, so that a missing right shows when a node connects.
    ///
    /// # Errors
    /// As [`RedisClient::connect`].
    pub fn connect_publisher(&self) -> RedisResult<RespConnection> {
        let mut connection = self.connect()?;
        if let Err(error) = self.prepare(&mut connection) {
            self.ask_another_sentinel();
            return Err(sentence(self.describe_at(&format!("Redis at {}", connection.peer), &error)));
        }
        *self.primary.lock() = Some(connection.peer.clone());
        Ok(connection)
    }

    fn prepare(&self, connection: &mut RespConnection) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        for script in [BAN, UNBAN, STRIKE, LOAD, FORGET, PROBE] {
            pipe.cmd("SCRIPT").arg("LOAD").arg(script);
        }
        // The second key is only named: a cluster node refuses two keys of different slots, which shows that the URL is not that of a Cluster.
        pipe.cmd("EVALSHA").arg(Script::new(PROBE).get_hash()).arg(2).arg(self.key(&format!("probe:{}", self.node)));
        pipe.arg(self.forgotten_key()).arg(self.key("probe"));
        for answer in connection.request(&pipe.get_packed_pipeline(), pipe.len())? {
            answer.extract_error()?;
        }
        Ok(())
    }

    /// An error in a sentence for log and `status`: one line of limited length, whatever Redis says.
    #[must_use]
    pub fn describe(&self, error: &RedisError) -> String {
        let server = || match (&*self.primary.lock(), &self.url.servers) {
            (Some(primary), _) => format!("Redis at {primary}"),
            (None, Servers::One) => format!("Redis at {}", self.url.info.addr()),
            (None, _) => "Redis".to_owned(),
        };
        self.describe_at(&server(), error)
    }

    /// The same of an error of `server`.
    pub(super) fn describe_at(&self, server: &str, error: &RedisError) -> String {
        let user = if server.starts_with("Sentinel ") {
            self.sentinel_user()
        } else {
            self.url.info.redis_settings().username().unwrap_or("default")
        };
        let detail = match (error.code(), error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            _ => explained(error.to_string()),
        };
        let key = if server.starts_with("Sentinel ") { "sentinel_password_file" } else { "password_file" };
        let text = if error.kind() == SENTENCE {
            error.detail().unwrap_or_default().to_owned()
        } else if error.is_timeout() {
            format!("{server}: it does not answer in time")
        } else if error.code() == Some("WRONGPASS") {
            format!("{server}: it refuses the password of user {user}: {detail}")
        } else if error.code() == Some("NOAUTH") {
            format!("{server}: it asks for a password, see {key}: {detail}")
        } else if lacks_right(error) {
            format!("{server}: user {user} lacks a right, see docs/fleet.md: {detail}")
        } else if let Some(meaning) = self.meaning(error) {
            format!("{server}: {meaning}: {detail}")
        } else {
            format!("{server}: {detail}")
        };
        one_line(&text).chars().take(MAX_ERROR).collect()
    }

    /// What an error says about the kind of server that the URL should name, or about its state; `None` if nothing.
    fn meaning(&self, error: &RedisError) -> Option<&'static str> {
        let detail = error.detail().unwrap_or_default();
        let does_not_know = |command: &str| {
            detail.starts_with(&format!("unknown command '{command}'")) || detail.starts_with(&format!("unknown command `{command}`"))
        };
        Some(match (error.code()?, &self.url.servers) {
            ("READONLY", Servers::One) => "it is a replica, expected the url of its primary, or redis+sentinel://",
            ("READONLY", _) => "it is a replica, and no primary has taken over yet",
            ("MOVED" | "ASK" | "CROSSSLOT", Servers::One | Servers::Sentinels { .. }) => {
                "found a cluster node at a redis:// or redis+sentinel:// url, expected redis+cluster://"
            }
            ("MOVED", Servers::Cluster { .. }) => "the fleet's slot has moved to another node",
            ("ASK" | "TRYAGAIN", _) => "the fleet's slot is being moved to another node",
            ("CLUSTERDOWN", _) => "the cluster is down",
            ("ERR", Servers::Cluster { .. }) if detail.contains("cluster support disabled") => {
                "found no cluster node at a redis+cluster:// url, expected redis://"
            }
            ("ERR", Servers::Sentinels { .. }) if does_not_know("SENTINEL") => {
                "found no Sentinel at a redis+sentinel:// url, expected redis://"
            }
            ("ERR", Servers::One) if does_not_know("SCRIPT") => {
                "found a Sentinel at a redis:// url, expected redis+sentinel://HOST:PORT/NAME"
            }
            _ => return None,
        })
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.url.servers, Servers::Cluster { .. })
    }

    /// In a Cluster the prefix is a hash tag, so that all keys are in one slot, as the scripts need it.
    fn key(&self, name: &str) -> String {
        let prefix = &self.config.prefix;
        if self.is_cluster() { format!("{{{prefix}}}{name}") } else { format!("{prefix}{name}") }
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

/// Marks an error whose detail is a sentence that needs no explanation.
const SENTENCE: redis::ErrorKind = redis::ErrorKind::InvalidClientConfig;

/// An error that is described by `text` alone.
pub(super) fn sentence(text: String) -> RedisError {
    (SENTENCE, "the fleet is cut off", text).into()
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
