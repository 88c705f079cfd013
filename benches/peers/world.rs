//! A temporary directory with the configuration and the state file of a contender.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use strikeout::internals::client::Client;
use strikeout::internals::engine::{BanRecord, Change};
use strikeout::internals::event::Scope;
use strikeout::internals::rule::Evidence;
use strikeout::internals::state::{Store, WriteItem};
use strikeout::internals::table::Until as End;
use strikeout::internals::time::{Span, Time};
use tempfile::TempDir;

use crate::child::Process;
use crate::pipe::{Helper, Load, Until};
use crate::traffic::{Clients, Traffic, banned};
use crate::{programs, traffic};

/// Rules that only queries of this benchmark offend: one that counts, and one that bans.
const RULES: &str = "
[[rule]]
name = 'bench-strike'
description = 'Counts and never bans.'
path = '^/bench-strike$'
maxretry = 1000000
findtime = '4w'

[[rule]]
name = 'bench-ban'
description = 'Its bans fill the table.'
path = '^/bench-ban$'
maxretry = 1
bantime = '4w'
";

pub struct World {
    directory: TempDir,
}

impl World {
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("strikeout-bench-").tempdir()?;
        // Squid and Exim run as other users.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { directory })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// A configuration with the built-in rules, the benchmark's own, and `rules`.
    pub fn config(&self, name: &str, rules: &str) -> Result<PathBuf> {
        self.config_with(name, Path::new(""), 1_000_000, rules)
    }

    /// The same with a state file and with room for the strikes of `clients` clients.
    pub fn config_with(&self, name: &str, state: &Path, clients: u32, rules: &str) -> Result<PathBuf> {
        let (socket, state) = (self.path("strikeout.sock"), state.display());
        let table = format!(
            "[table]\nsocket = '{}'\ngroup = ''\nmode = '0666'\nstate = '{state}'\nclients = {clients}\nbans = 4000000\n",
            socket.display()
        );
        self.write(name, format!("{table}{RULES}{rules}"))
    }

    /// A state file with `count` bans of [`banned`] clients.
    pub fn state(&self, name: &str, count: u32) -> Result<PathBuf> {
        let path = self.path(name);
        let now = now();
        let (mut store, notes) = Store::open(&path, now).map_err(|failure| anyhow::anyhow!("{failure}"))?;
        anyhow::ensure!(notes.is_empty(), "{}", notes.join(", "));
        for start in (0..count).step_by(100_000) {
            let items: Vec<WriteItem> = (start..count.min(start + 100_000))
                .map(|index| {
                    WriteItem::Change(Change::Banned(BanRecord {
                        client: Client::from(banned(index)),
                        scope: Scope::All,
                        rule: "bench-ban".into(),
                        first: now,
                        since: now,
                        until: End::at(now.after(Span::from_secs(7 * 86_400))),
                        count: 1,
                        times: 1,
                        evidence: Evidence::new(&[b"GET", b"/bench-ban"]),
                        node: "".into(),
                    }))
                })
                .collect();
            store.save(&items, false).map_err(|failure| anyhow::anyhow!("{failure}"))?;
        }
        Ok(path)
    }

    /// The file for a contender's standard error.
    pub fn log(&self, name: &str) -> Result<Stdio> {
        Ok(File::create(self.path(&format!("{name}.log")))?.into())
    }

    /// Our Squid helper with this configuration and, if given, this state file.
    pub fn embedded(&self, config: &Path, state: Option<&Path>) -> Result<Command> {
        let mut command = Command::new(programs::EXT_STRIKEOUT_ACL);
        command.arg("--config").arg(config).stderr(self.log("ext_strikeout_acl")?);
        if let Some(state) = state {
            command.arg("--state").arg(state);
        }
        Ok(command)
    }

    /// Starts the daemon with this configuration and waits until it listens.
    pub fn daemon(&self, config: &Path) -> Result<Process> {
        let socket = self.path("strikeout.sock");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new(programs::STRIKEOUT);
        command.args(["serve", "--config"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.log("serve")?);
        let process = Process::start(&mut command)?;
        wait_for("the daemon's socket", || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
        Ok(process)
    }
}

/// Waits at most ten seconds for `condition`.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        if std::time::Instant::now() > deadline {
            bail!("waited ten seconds for {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A TCP port of the loopback interface that nobody listens on.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The wall time, which state files use.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(u64::try_from(since.as_millis()).unwrap_or(0))
}

/// Checks that `helper` has loaded its bans, and gives each of the first `clients` tracked clients one strike.
pub fn prepare(helper: &mut Helper, bans: u32, clients: u32) -> Result<()> {
    if bans > 0 {
        let answer = helper.ask(format!("1 {} GET http://www.example.org/ - - -\n", banned(bans - 1)).as_bytes())?;
        anyhow::ensure!(answer.starts_with(b"1 OK"), "the last of {bans} bans was answered {:?}", String::from_utf8_lossy(&answer));
    }
    if clients > 0 {
        strike(helper, clients)?;
    }
    Ok(())
}

/// Gives each of the first `clients` tracked clients one strike.
pub fn strike(helper: &mut Helper, clients: u32) -> Result<()> {
    let mut strikes = Traffic::with_tails(Clients::Each, vec![b" GET http://www.example.org/bench-strike - - -\n".to_vec()]);
    let sample = helper.drive(&mut strikes, Load { outstanding: 256, batch: 64 }, Until::Lookups(u64::from(clients)))?;
    anyhow::ensure!(sample.refused == 0, "{} strikes were refused", sample.refused);
    Ok(())
}

/// Ordinary requests of clients that are neither banned nor tracked.
pub fn browsing() -> Traffic {
    Traffic::browsing(traffic::Clients::Strangers)
}
