//! The machines of the fleet: `strikeout serve`, or what it holds, in this process and with a clock of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use strikeout::client::Client;
use strikeout::clock::Clock;
use strikeout::config::Config;
use strikeout::engine::{BanRecord, Engine};
use strikeout::event::{Scope, Surface};
use strikeout::fleet::{Fleet, FleetConfig};
use strikeout::reply::Reply;
use strikeout::rule::{Evidence, Names, Offence};
use strikeout::table::Until;
use strikeout::time::Span;

use crate::{DEADLINE, SECRET, wait_until};

pub(crate) const STRIKEOUT: &str = env!("CARGO_BIN_EXE_strikeout");
/// Three strikes make a ban, wherever they are made; or one.
const RULES: &str = "[[rule]]\nname = 'spread'\nevent = 'incident'\nmaxretry = 3\nfindtime = '10m'\nfleet = true\n\
                     [[rule]]\nname = 'once'\nevent = 'incident'\nmaxretry = 1\n";

/// How many innocents have asked: one alone would be too fast.
static INNOCENT: AtomicU32 = AtomicU32::new(0);

/// One machine of the fleet.
pub(crate) struct Node {
    child: Child,
    dir: tempfile::TempDir,
}

impl Node {
    pub(crate) fn start(name: &str, port: u16, rest: &str) -> Self {
        Self::start_with(name, port, rest, "")
    }

    pub(crate) fn start_with(name: &str, port: u16, rest: &str, fleet: &str) -> Self {
        Self::start_at(name, &format!("redis://127.0.0.1:{port}/0"), rest, fleet, &[])
    }

    /// With any URL, and started by `wrapper` (such as `nsenter`).
    pub(crate) fn start_at(name: &str, url: &str, rest: &str, fleet: &str, wrapper: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |file: &str| dir.path().join(file);
        fs::create_dir(path("run")).unwrap();
        fs::write(path("secret"), format!("{SECRET}\n")).unwrap();
        let (table, options): (Vec<&str>, Vec<&str>) = rest.lines().partition(|line| line.starts_with("bans ="));
        let config = format!(
            "[table]\nsocket = {:?}\nstate = {:?}\ngroup = ''\n{}\n{}\n{RULES}\n[fleet]\nurl = '{url}'\nnode = '{name}'\npassword_file = {:?}\n{fleet}\n",
            path("run/socket"),
            path("state.db"),
            table.join("\n"),
            options.join("\n"),
            path("secret"),
        );
        fs::write(path("strikeout.toml"), config).unwrap();
        let child = Self::serve(dir.path(), wrapper);
        let node = Self { child, dir };
        wait_until("it listens", || UnixStream::connect(node.socket()).is_ok());
        node
    }

    fn serve(dir: &Path, wrapper: &[String]) -> Child {
        let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let config = dir.join("strikeout.toml").display().to_string();
        let words = [wrapper, &[STRIKEOUT.to_owned(), "serve".to_owned(), "--config".to_owned(), config]].concat();
        Command::new(&words[0]).args(&words[1..]).stderr(log).spawn().unwrap()
    }

    /// Kills it, does something, and starts it again on its state file.
    pub(crate) fn while_dead(&mut self, meanwhile: impl FnOnce()) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        meanwhile();
        self.child = Self::serve(self.dir.path(), &[]);
        wait_until("it listens again", || UnixStream::connect(self.socket()).is_ok());
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/socket")
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub(crate) fn ask(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// How long a verdict takes: an innocent address, and one that a rule bans at once.
    pub(crate) fn verdicts(&self, offender: &str) -> Duration {
        let number = INNOCENT.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        assert!(self.ask(&format!("check 198.18.{}.{} port=25 via=lines", number / 256 % 256, number % 256)).starts_with("accept"));
        let innocent = start.elapsed();
        let start = Instant::now();
        assert!(self.ask(&format!("strike {offender} once")).starts_with("defer rule=once"));
        innocent.max(start.elapsed())
    }

    pub(crate) fn refuses(&self, address: &str) -> bool {
        !self.ask(&format!("check {address} port=25 via=lines")).starts_with("accept")
    }

    pub(crate) fn why(&self, address: &str) -> String {
        self.ask(&format!("why {address}"))
    }

    pub(crate) fn is_banned(&self, address: &str) -> bool {
        self.why(address).contains("=refused ")
    }

    pub(crate) fn number(&self, field: &str) -> u64 {
        self.ask("status").lines().find_map(|line| line.strip_prefix(field)?.strip_prefix('=')?.parse().ok()).unwrap()
    }

    /// What `status` says of the fleet.
    pub(crate) fn fleet(&self) -> String {
        self.ask("status").lines().find_map(|line| line.strip_prefix("fleet=")).unwrap_or_default().to_owned()
    }

    pub(crate) fn is_joined(&self) -> bool {
        self.fleet() == "ok" && self.number("fleet_hears") == 1 && self.number("fleet_says") == 1
    }

    /// The most memory that it ever had, in bytes.
    pub(crate) fn most_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kilobytes.unwrap() * 1024
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(8000);
            eprintln!("--- log of a node\n{}", log.get(start..).unwrap_or(&log));
        }
    }
}

pub(crate) fn joined(nodes: &[&Node]) {
    for node in nodes {
        wait_until("it has joined", || node.is_joined());
    }
}

/// What a resident holds, in this process: its table, its part in the fleet, and a clock that may be wrong.
pub(crate) struct Inside {
    pub(crate) engine: Arc<Engine>,
    pub(crate) clock: Clock,
    pub(crate) fleet: Fleet,
}

impl Inside {
    pub(crate) fn join(name: &str, url: &str, ahead: i64, bans_per_minute: u32) -> Self {
        let names = Arc::new(Names::default());
        let config = Config::parse(RULES.as_bytes(), Path::new("test.toml"), &names).unwrap();
        let engine = Arc::new(Engine::new(names, config.into(), 1000, 1_000_000).unwrap());
        let clock = Clock::start().ahead(ahead);
        let config = FleetConfig {
            url: url.to_owned(),
            node: name.to_owned(),
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            prefix: "strikeout:".into(),
            bans_per_minute,
        };
        let fleet = Fleet::join(config, &engine, None, clock, 1_000_000).unwrap();
        Self { engine, clock, fleet }
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        self.fleet.health.numbers().iter().find(|(its, _)| *its == name).unwrap().1
    }

    pub(crate) fn joined(&self) {
        wait_until("it has joined", || self.fleet.health.error().is_none());
    }

    pub(crate) fn ban(&self, address: &str, length: Option<Span>) {
        self.ban_on(address, Scope::All, length);
    }

    pub(crate) fn ban_on(&self, address: &str, scope: Scope, length: Option<Span>) {
        let now = self.clock.now();
        let record = BanRecord {
            client: Client::from(address.parse::<std::net::Ipv4Addr>().unwrap()),
            scope,
            rule: "once".into(),
            first: now,
            since: now,
            until: length.map_or(Until::NEVER, |length| Until::at(now.after(length))),
            count: 1,
            times: 1,
            evidence: Evidence::new(&[b"a test"]),
            node: "".into(),
        };
        self.engine.ban(record, Reply::new(|_| ()));
    }

    pub(crate) fn unban(&self, address: &str) {
        self.unban_on(address, Scope::All);
    }

    pub(crate) fn unban_on(&self, address: &str, scope: Scope) {
        let client = Client::from(address.parse::<std::net::Ipv4Addr>().unwrap());
        self.engine.unban(self.clock.now(), client, scope, Reply::new(|_| ()));
    }

    pub(crate) fn strike(&self, address: &str) {
        let address: std::net::Ipv4Addr = address.parse().unwrap();
        let rule = Arc::clone(self.engine.in_force().rules.by_name("spread").unwrap());
        let offence = Offence { address: address.into(), client: Client::from(address), rules: vec![rule], evidence: Evidence::new(&[]) };
        self.engine.offend(self.clock.now(), &offence, Surface::Mail, Reply::new(|_| ()));
    }

    /// How long the ban still lasts, by this machine's clock.
    pub(crate) fn remaining(&self, address: &str) -> Option<Option<Span>> {
        let client = Client::from(address.parse::<std::net::Ipv4Addr>().unwrap());
        let now = self.clock.now();
        self.engine.bans().get(client, Surface::Mail, now).map(|ban| ban.until.remaining(now))
    }

    pub(crate) fn is_banned(&self, address: &str) -> bool {
        self.remaining(address).is_some()
    }
}
