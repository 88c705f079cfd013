//! The way to the engine: its address, its secret, its keys and its scripts.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use redis::{Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError, RedisResult, Script, ServerErrorKind};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::config::FleetConfig;
use super::wire::{Address, Wire};

const BAN: &str = include_str!("ban.lua");
const LIFT: &str = include_str!("lift.lua");
const STRIKE: &str = include_str!("strike.lua");
const LOAD: &str = include_str!("load.lua");
const FORGET: &str = include_str!("forget.lua");
const PROBE: &str = include_str!("probe.lua");
const SCRIPTS: [&str; 6] = [BAN, LIFT, STRIKE, LOAD, FORGET, PROBE];

/// So many characters of what went wrong are shown.
const LONGEST_FAULT: usize = 300;

/// Everything that a connection needs.
pub struct Link {
    config: FleetConfig,
    info: ConnectionInfo,
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
    /// `load.lua`.
    pub load: Script,
    /// `forget.lua`.
    pub forget: Script,
    /// `probe.lua`.
    probe: Script,
}

impl Link {
    /// A way to the engine that `config` names. Connects nowhere yet.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub fn new(config: &FleetConfig) -> io::Result<Self> {
        let info = config.url.as_str().into_connection_info().map_err(io::Error::other)?;
        Ok(Self {
            config: config.clone(),
            info,
            node: config.node.clone(),
            bans_per_minute: config.bans_per_minute,
            prefix: config.prefix.clone(),
            ban: Script::new(BAN),
            lift: Script::new(LIFT),
            strike: Script::new(STRIKE),
            load: Script::new(LOAD),
            forget: Script::new(FORGET),
            probe: Script::new(PROBE),
        })
    }

    /// Connects, and gives its name. The files are read each time, so that a password or a certificate can be changed. Whatever the engine does, this and every call on the connection end in time: see [`super::wire`].
    ///
    /// # Errors
    /// The engine's.
    pub fn connect(&self) -> RedisResult<Wire> {
        let mut settings = self.info.redis_settings().clone();
        if let Some(file) = &self.config.password_file {
            let text = read(file)?;
            settings = settings.set_password(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim());
        }
        let mut wire = Wire::connect(&self.address()?)?;
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
        let answers = wire.ask(&greeting.get_packed_pipeline(), greeting.len())?;
        for answer in answers {
            answer.extract_error()?;
        }
        Ok(wire)
    }

    fn address(&self) -> io::Result<Address> {
        Ok(match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => Address::Tcp(host.clone(), *port, None),
            ConnectionAddr::TcpTls { host, port, .. } => Address::Tcp(host.clone(), *port, Some(Arc::new(tls(&self.config)?))),
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            other => return Err(io::Error::other(format!("{other} is no address that can be used"))),
        })
    }

    /// Connects to say something: with all scripts, and once with every right that they need. So what is missing shows at once.
    ///
    /// # Errors
    /// The engine's.
    pub fn connect_to_say(&self) -> RedisResult<Wire> {
        let mut wire = self.connect()?;
        let mut pipe = redis::pipe();
        for script in SCRIPTS {
            pipe.cmd("SCRIPT").arg("LOAD").arg(script);
        }
        pipe.cmd("EVALSHA").arg(self.probe.get_hash()).arg(1).arg(format!("{}probe:{}", self.prefix, self.node));
        pipe.arg(format!("{}probe", self.prefix));
        for answer in wire.ask(&pipe.get_packed_pipeline(), pipe.len())? {
            answer.extract_error()?;
        }
        Ok(wire)
    }

    /// What went wrong, in a sentence for log and status. Text of the engine makes no lines of its own, and is cut.
    #[must_use]
    pub fn describe(&self, error: &RedisError) -> String {
        let user = self.info.redis_settings().username().unwrap_or("default");
        let said = || match (error.code(), error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            _ => error.to_string(),
        };
        let text = if error.is_timeout() {
            "it does not answer in time".to_owned()
        } else if error.code() == Some("WRONGPASS") {
            format!("it refuses the password of user {user}: {}", said())
        } else if error.code() == Some("NOAUTH") {
            format!("it asks for a password, see password_file: {}", said())
        } else if lacks_right(error) {
            format!("user {user} lacks a right, see docs/fleet.md: {}", said())
        } else {
            said()
        };
        let text = format!("engine {}: {text}", self.info.addr());
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_FAULT).collect()
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

    /// The key under which it stands whose bans were forgotten, and when.
    #[must_use]
    pub fn forgotten_key(&self) -> String {
        format!("{}forgotten", self.prefix)
    }

    /// The key of a counter.
    #[must_use]
    pub fn strike_key(&self, rule: &str, target: &str) -> String {
        format!("{}strike:{rule}:{target}", self.prefix)
    }

    /// One step of a walk through the keys of all clients and networks.
    #[must_use]
    pub fn scan(&self, cursor: u64, count: usize) -> Cmd {
        let mut scan = Cmd::new();
        scan.arg("SCAN").arg(cursor).arg("MATCH").arg(format!("{}*", escape(&self.client_prefix()))).arg("COUNT").arg(count);
        scan
    }
}

/// Whether the engine refuses because the user may not do it.
#[must_use]
pub fn lacks_right(error: &RedisError) -> bool {
    // Within a script the refusal has been wrapped in different words by different versions.
    let text = error.detail().unwrap_or_default();
    error.code() == Some("NOPERM") || text.contains("ACL failure in script") || text.contains("user executing the script can't")
}

/// Whether an error is about one item alone: all others would be taken.
#[must_use]
pub fn is_of_one_item(error: &RedisError) -> bool {
    let is_known = matches!(error.kind(), redis::ErrorKind::Server(kind) if kind != ServerErrorKind::ResponseError);
    !is_known && !lacks_right(error) && matches!(error.code(), Some("ERR" | "WRONGTYPE"))
}

/// Whom TLS trusts, and what this machine shows.
fn tls(config: &FleetConfig) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &config.ca_file {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| at(file, &error))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            let (_, _) = roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                let why = system.errors.first().map_or_else(|| "it is empty".to_owned(), ToString::to_string);
                return Err(io::Error::other(format!("the system's list of certificate authorities cannot be used, see ca_file: {why}")));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let builder = builder.with_root_certificates(roots);
    match (&config.cert_file, &config.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let key = PrivateKeyDer::from_pem_slice(&read(key_file)?).map_err(|error| at(key_file, &error))?;
            builder.with_client_auth_cert(certificates(cert_file)?, key).map_err(|error| at(cert_file, &error))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_slice_iter(&read(file)?).collect::<Result<Vec<_>, _>>().map_err(|error| at(file, &error))?;
    if read.is_empty() { Err(at(file, &"found no certificate, expected one at least, in PEM")) } else { Ok(read) }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    fs::read(file).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}

fn at(file: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", file.display()))
}

/// A pattern that matches `text` itself.
fn escape(text: &str) -> String {
    text.chars().flat_map(|c| if "*?[]\\^".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}
