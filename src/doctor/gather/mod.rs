//! Gathers the facts: reads files and /proc, and asks the daemon and the servers' own programs. It changes nothing.

mod expressions;
mod files;
mod processes;
mod servers;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::facts::{DaemonFault, Facts, SessionFacts, SocketFacts, StoppedServers};
use crate::client::parse_address;
use crate::config::logs::unfed_rules;
use crate::config::{Config, DEFAULT_FILE, DEFAULT_SOCKET, HookConfig, TableConfig};
use crate::control::admin::AdminRequest;
use crate::control::client;
use crate::control::explanation::Explanation;
use crate::control::status::DaemonStatus;
use crate::list::OwnAddresses;
use crate::rule_id::RuleNames;

/// How long the daemon and the listener for metrics may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long after the daemon's start its helpers may take to be back; they try several times a second.
const ATTACHED: Duration = Duration::from_secs(5);
/// Maximum length of an answer of the daemon's, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// What to look at, where it is not what the system uses.
#[derive(Debug, Clone, Default)]
pub struct Where {
    pub config: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    /// Only the Squid that runs with this configuration.
    pub squid: Option<PathBuf>,
    /// Only the Exim that runs with this configuration.
    pub exim: Option<PathBuf>,
}

/// Gathers everything.
#[must_use]
pub fn gather(place: &Where) -> Facts {
    let mut unseen = Vec::new();
    let mut config = Config::load(place.config.as_deref(), &RuleNames::default());
    if let (Ok(config), Ok(own)) = (&mut config, OwnAddresses::read()) {
        config.lists.set_own(own);
    }
    // Where the configuration has a fault, its [table] may be sound.
    let table = || TableConfig::load(place.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE))).ok().map(|table| table.socket);
    let named = place.socket.clone().or_else(|| config.as_ref().map_or_else(|_| table(), |config| Some(config.table.socket.clone())));
    let is_guessed = named.is_none();
    let path = named.unwrap_or_else(|| DEFAULT_SOCKET.into());
    let mut daemon = ask::<DaemonStatus>(&path, &AdminRequest::Status);
    let socket = socket(path, is_guessed, &mut unseen);
    let running = config.as_ref().ok().filter(|_| daemon.is_ok());
    let metrics = running.and_then(|config| config.metrics.listen).map(|listen| listen.0).filter(|address| address.port() != 0);
    let files = |config: &Config| config.files.iter().chain(&config.list_files).filter_map(|path| files::changed(path)).collect();
    let rules = config.as_ref().ok().map(|config| config.rules.rules());
    let squids = servers::squids(place.squid.as_deref(), &socket, rules, &mut unseen);
    let has_helpers = squids.iter().any(|squid| squid.running_helpers > 0);
    let deadline = Instant::now() + ATTACHED;
    while has_helpers
        && Instant::now() < deadline
        && daemon.as_ref().is_ok_and(|status| status.subscribers == 0 && status.uptime < ATTACHED.as_secs())
    {
        std::thread::sleep(Duration::from_millis(100));
        daemon = ask(&socket.path, &AdminRequest::Status);
    }
    let exims = servers::exims(place.exim.as_deref(), &socket, &mut unseen);
    let stopped = StoppedServers {
        squid: if squids.is_empty() { servers::stopped_squid(place.squid.as_deref()) } else { None },
        exim: if exims.is_empty() { servers::stopped_exim(place.exim.as_deref()) } else { None },
    };
    Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_file: place.config.clone().unwrap_or_else(|| DEFAULT_FILE.into()),
        unfed_rules: config.as_ref().map(named_unfed_rules).unwrap_or_default(),
        config_files: config.as_ref().map(files).unwrap_or_default(),
        daemon_is_replaced: daemon.as_ref().is_ok_and(|status| processes::is_replaced(status.pid)),
        squids,
        exims,
        stopped,
        session: session(config.as_ref().ok(), &socket.path),
        hook: running.and_then(|config| config.hook.as_ref()).map(hook),
        metrics: metrics.map(metrics_fault),
        state_free: running.and_then(|config| free(&config.table.state)),
        config,
        daemon,
        socket,
        unseen,
    }
}

fn named_unfed_rules(config: &Config) -> Vec<String> {
    let unfed = unfed_rules(config.rules.rules(), &config.logs).into_iter();
    unfed.filter(|rule| config.named_rules.contains(*rule)).map(str::to_owned).collect()
}

/// Asks the daemon for one object.
fn ask<T: serde::de::DeserializeOwned>(socket: &Path, request: &AdminRequest) -> Result<T, DaemonFault> {
    use std::io::ErrorKind;
    let answer = client::ask(socket, &request.to_string(), MAX_ANSWER, TIMEOUT).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => DaemonFault::NotRunning(error.to_string()),
        ErrorKind::PermissionDenied => DaemonFault::NotAllowed(error.to_string()),
        _ => DaemonFault::NoAnswer(error.to_string()),
    })?;
    let first = answer.lines().next().unwrap_or_default();
    serde_json::from_str(first).map_err(|fault| {
        let found: String = first.chars().take(80).collect();
        DaemonFault::NoAnswer(format!("found {found:?}: {fault}"))
    })
}

fn socket(path: PathBuf, is_guessed: bool, unseen: &mut Vec<String>) -> SocketFacts {
    use std::os::unix::fs::MetadataExt as _;
    let access = files::access(&path);
    let is_hidden = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    if access.is_none() && std::fs::metadata(&path).is_err_and(is_hidden) {
        unseen.push(format!("who may ask on {}", path.display()));
    }
    let group = std::fs::metadata(&path).ok().and_then(|socket| nix::unistd::Group::from_gid(socket.gid().into()).ok().flatten());
    SocketFacts { access, is_guessed, group: group.map(|group| group.name).unwrap_or_default(), path }
}

/// The operator's own address, by `SSH_CONNECTION`.
fn session(config: Option<&Config>, socket: &Path) -> Option<SessionFacts> {
    let connection = processes::inherited_variable("SSH_CONNECTION")?;
    let address = parse_address(connection.split(' ').next()?).ok()?;
    let explained = ask::<Explanation>(socket, &AdminRequest::Why(IpNet::from(address).into()));
    let by_configuration = || config?.lists.never_banned(address).map(|reason| reason.to_string());
    Some(match explained {
        Ok(explanation) => SessionFacts { address, never_banned: explanation.never_banned, is_refused: explanation.refused },
        Err(_) => SessionFacts { address, never_banned: by_configuration(), is_refused: false },
    })
}

/// Whether the hook's program is there and may be run by somebody.
fn hook(hook: &HookConfig) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let program = &hook.command.program;
    match std::fs::metadata(program) {
        Err(error) => Err(format!("{program}: {error}")),
        Ok(file) if !file.is_file() => Err(format!("{program} is no file")),
        Ok(file) if file.mode() & 0o111 == 0 => Err(format!("{program} is not executable")),
        Ok(_) => Ok(()),
    }
}

/// Scrapes the metrics once.
fn metrics_fault(address: SocketAddr) -> Result<(), String> {
    let scrape = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = Vec::new();
        stream.take(1 << 20).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    match scrape() {
        Ok(text) if text.contains("strikeout_") => Ok(()),
        Ok(_) => Err(format!("{address} answers with something else")),
        Err(error) => Err(format!("{address}: {error}")),
    }
}

/// Free bytes on the disk of a file.
fn free(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path.parent()?).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
