//! The machines of the fleet: `strikeout serve`, or its engine in this process with a clock of its own.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use strikeout::internals::client::Client;
use strikeout::internals::clock::Clock;
use strikeout::internals::config::Config;
use strikeout::internals::config::fleet::FleetConfig;
use strikeout::internals::engine::reply::Reply;
use strikeout::internals::engine::{BanRecord, Completion, Engine};
use strikeout::internals::event::{Scope, Service};
use strikeout::internals::fleet::Fleet;
use strikeout::internals::rule::{Evidence, Offence};
use strikeout::internals::rule_id::RuleNames;
use strikeout::internals::table::Until;
use strikeout::internals::time::Span;

use crate::SECRET;
use crate::harness::{Daemon, STRIKEOUT, Stage, wait_until};

/// Three strikes on any machines make a ban; or one.
const RULES: &str = "[[rule]]\nname = 'spread'\nevent = 'incident'\nmaxretry = 3\nfindtime = '10m'\nfleet = true\n\
                     [[rule]]\nname = 'once'\nevent = 'incident'\nmaxretry = 1\n";

/// Number of innocent clients so far; each check is of another one, because one alone would be banned for its rate.
static INNOCENT: AtomicU32 = AtomicU32::new(0);

/// One machine of the fleet.
pub(crate) struct Node {
    daemon: Daemon,
}

impl Node {
    pub(crate) fn start(name: &str, port: u16, rest: &str) -> Self {
        Self::start_with(name, port, rest, "")
    }

    pub(crate) fn start_with(name: &str, port: u16, rest: &str, fleet: &str) -> Self {
        Self::start_at(name, &format!("redis://127.0.0.1:{port}/0"), rest, fleet, &[])
    }

    /// Starts it with any URL, through `wrapper` (such as `nsenter`).
    pub(crate) fn start_at(name: &str, url: &str, rest: &str, fleet: &str, wrapper: &[String]) -> Self {
        let stage = Stage::new();
        let secret = stage.write("secret", &format!("{SECRET}\n"));
        let (table, options): (Vec<&str>, Vec<&str>) =
            rest.lines().partition(|line| line.starts_with("bans =") || line.starts_with("ipv6_prefix ="));
        let rest =
            format!("{}\n{RULES}\n[fleet]\nurl = '{url}'\nnode = '{name}'\npassword_file = {secret:?}\n{fleet}\n", options.join("\n"));
        stage.configure(&table.join("\n"), &rest);
        let words = [wrapper, &[STRIKEOUT.to_owned()]].concat();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        Self { daemon: Daemon::start_by(&stage, command) }
    }

    /// Kills it, calls `meanwhile`, and starts it again on its state file.
    pub(crate) fn while_dead(&mut self, meanwhile: impl FnOnce()) {
        self.daemon.kill();
        meanwhile();
        self.daemon = Daemon::start_again(&self.daemon.stage().clone());
    }

    /// Asks for two verdicts, on an innocent address and on one that a rule bans at once; returns the longer time.
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

    pub(crate) fn why(&self, address: &str) -> serde_json::Value {
        self.object(&format!("why {address}"))
    }

    pub(crate) fn is_banned(&self, address: &str) -> bool {
        self.why(address)["refused"] == true
    }

    /// The state of the fleet in `status`.
    pub(crate) fn fleet(&self) -> String {
        self.status("fleet")
    }

    pub(crate) fn is_joined(&self) -> bool {
        self.fleet() == "ok" && self.number("fleet_receiving") == 1 && self.number("fleet_publishing") == 1
    }
}

impl Deref for Node {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

pub(crate) fn wait_joined(nodes: &[&Node]) {
    for node in nodes {
        wait_until("it has joined", || node.is_joined());
    }
}

/// A daemon's engine and its part in the fleet, in this process, with a clock that may be wrong.
pub(crate) struct InProcessNode {
    pub(crate) engine: Arc<Engine>,
    pub(crate) clock: Clock,
    pub(crate) fleet: Fleet,
}

impl InProcessNode {
    pub(crate) fn join(name: &str, url: &str, ahead: i64, bans_per_minute: u32) -> Self {
        let names = Arc::new(RuleNames::default());
        let config = Config::parse(RULES.as_bytes(), Path::new("test.toml"), &names).unwrap();
        let engine = Arc::new(Engine::new(names, config.into(), 1000, 1_000_000).unwrap());
        let clock = Clock::start().ahead(ahead);
        let config = FleetConfig {
            url: url.to_owned(),
            node: name.to_owned(),
            password_file: None,
            sentinel_user: None,
            sentinel_password_file: None,
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
        serde_json::to_value(self.fleet.health.counts()).unwrap()[name].as_u64().unwrap()
    }

    pub(crate) fn wait_joined(&self) {
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
        self.engine.ban(record, Completion::ignored());
    }

    pub(crate) fn unban(&self, address: &str) {
        self.unban_on(address, Scope::All);
    }

    pub(crate) fn unban_on(&self, address: &str, scope: Scope) {
        let client = Client::from(address.parse::<std::net::Ipv4Addr>().unwrap());
        self.engine.unban(self.clock.now(), client, scope, Completion::ignored());
    }

    pub(crate) fn strike(&self, address: &str) {
        let address: std::net::Ipv4Addr = address.parse().unwrap();
        let rule = Arc::clone(self.engine.policy().rules.by_name("spread").unwrap());
        let offence = Offence {
            address: address.into(),
            client: Client::from(address),
            rules: vec![rule],
            evidence: Evidence::new(&[]),
            marks: None,
            account: None,
        };
        self.engine.record_offence(self.clock.now(), &offence, Service::Mail, Reply::new(|_| ()));
    }

    /// Time left of the ban by this machine's clock.
    pub(crate) fn remaining(&self, address: &str) -> Option<Option<Span>> {
        let client = Client::from(address.parse::<std::net::Ipv4Addr>().unwrap());
        let now = self.clock.now();
        self.engine.bans().get(client, Service::Mail, now).map(|ban| ban.until.remaining(now))
    }

    pub(crate) fn is_banned(&self, address: &str) -> bool {
        self.remaining(address).is_some()
    }
}
