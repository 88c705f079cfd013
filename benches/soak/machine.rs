//! The machines: each has a daemon with a state file, a log that it follows, and two Squid helpers; all share their bans through one Redis.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::SECRET;
use crate::harness::{DEADLINE, Daemon, Stage};
use crate::server::Redis;

/// Squid helpers of each machine.
pub(crate) const HELPERS: usize = 2;
/// A client that is banned for good before the traffic begins.
pub(crate) const BANNED: &str = "198.51.100.1";
/// Small, so that the strikes fill their table within a minute. There is room for all bans: a full table would refuse the other machines'
/// bans by hand.
const LIMITS: &str = "clients = 20_000\nbans = 10_000";
const RULES: &str = "\
    [[rule]]\nname = 'soak-probe'\npath = '^/soak-probe'\nmaxretry = 1\nbantime = '30s'\nscope = 'all'\n\
    [[rule]]\nname = 'soak-guess'\npath = '^/soak-guess'\nmaxretry = 3\nfindtime = '10s'\nbantime = '30s'\nfleet = true\n\
    [[rule]]\nname = 'soak-helo'\nevent = 'incident'\nmaxretry = 2\nfindtime = '10s'\nbantime = '30s'\n\
    [[rule]]\nname = 'exim-per-host'\nbantime = '2m'\n";
/// Faults beyond this number are only counted.
const MAX_FAULTS: usize = 20;

pub(crate) struct World {
    pub(crate) machines: [Machine; 3],
    pub(crate) redis: Mutex<Redis>,
    pub(crate) redis_pid: AtomicU32,
    /// The directory of the helper that has a table of its own.
    pub(crate) embedded: Stage,
    pub(crate) embedded_pid: AtomicU32,
    pub(crate) kill_embedded: AtomicBool,
    pub(crate) ends: AtomicBool,
    pub(crate) counts: Counts,
    pub(crate) faults: Mutex<Vec<String>>,
    next_client: AtomicU32,
}

pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) stage: Stage,
    /// What follows `[table]` in its configuration.
    rest: String,
    pub(crate) daemon: Mutex<Option<Daemon>>,
    pub(crate) pid: AtomicU32,
    pub(crate) helper_pids: [AtomicU32; HELPERS],
    /// Set to have a helper killed in the midst of its queries.
    pub(crate) kill_helper: [AtomicBool; HELPERS],
    /// The client that was banned last, according to an answer of a helper.
    pub(crate) last_banned: Mutex<Option<(String, Instant)>>,
}

/// What has happened so far.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) web_innocents: AtomicU64,
    pub(crate) web_offences: AtomicU64,
    pub(crate) web_bans: AtomicU64,
    pub(crate) mail_checks: AtomicU64,
    pub(crate) mail_accepted_late: AtomicU64,
    pub(crate) log_lines: AtomicU64,
    pub(crate) rotations: AtomicU64,
    pub(crate) requests_of_operators: AtomicU64,
    pub(crate) reloads: AtomicU64,
    pub(crate) daemons_killed: AtomicU64,
    pub(crate) daemons_ended: AtomicU64,
    pub(crate) daemons_stopped: AtomicU64,
    pub(crate) helpers_killed: AtomicU64,
    pub(crate) redis_killed: AtomicU64,
    pub(crate) redis_stopped: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counts {
    pub(crate) fn print(&self) {
        let Self { web_innocents, web_offences, web_bans, mail_checks, mail_accepted_late, .. } = self;
        let Self { log_lines, rotations, requests_of_operators, reloads, daemons_killed, daemons_ended, .. } = self;
        let Self { daemons_stopped, helpers_killed, redis_killed, redis_stopped, .. } = self;
        let counts = [
            ("web: innocent queries", web_innocents),
            ("web: offences", web_offences),
            ("web: of these answered with a ban", web_bans),
            ("mail: checks and strikes", mail_checks),
            ("mail: banned clients accepted because the answer came late", mail_accepted_late),
            ("logs: lines", log_lines),
            ("logs: rotations", rotations),
            ("operators: requests", requests_of_operators),
            ("reloads", reloads),
            ("daemons killed", daemons_killed),
            ("daemons ended", daemons_ended),
            ("daemons stopped for a second", daemons_stopped),
            ("helpers killed", helpers_killed),
            ("Redis killed", redis_killed),
            ("Redis stopped for 3 s", redis_stopped),
        ];
        counts.iter().for_each(|(name, count)| println!("{name:<60} {:>10}", count.load(Ordering::Relaxed)));
    }
}

impl World {
    pub(crate) fn start() -> Self {
        let redis = Redis::start();
        let machines = ["mx1", "mx2", "mx3"].map(|name| Machine::start(name, redis.port));
        let embedded = Stage::new();
        embedded.write("strikeout.toml", &format!("[table]\n{LIMITS}\n{RULES}"));
        Self {
            machines,
            redis_pid: AtomicU32::new(redis.child.id()),
            redis: Mutex::new(redis),
            embedded,
            embedded_pid: AtomicU32::default(),
            kill_embedded: AtomicBool::default(),
            ends: AtomicBool::default(),
            counts: Counts::default(),
            faults: Mutex::default(),
            next_client: AtomicU32::default(),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Runs a thread's work. If it panics, everybody else ends too.
    pub(crate) fn guard<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Guard<'a>(&'a AtomicBool);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
        }
        let _guard = Guard(&self.ends);
        work()
    }

    pub(crate) fn fault(&self, text: String) {
        let mut faults = self.faults.lock().unwrap();
        if faults.len() < MAX_FAULTS {
            faults.push(text);
        }
    }

    /// A client that has never been seen.
    pub(crate) fn new_client(&self) -> String {
        let [_, a, b, c] = self.next_client.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        format!("10.{a}.{b}.{c}")
    }

    /// A ban by hand on one machine must reach the others, whatever has happened before.
    pub(crate) fn check_fleet(&self) {
        let client = self.new_client();
        let [first, others @ ..] = &self.machines;
        assert!(first.ask(&format!("ban {client} 10m")).is_some_and(|answer| answer.contains(&client)), "a ban by hand");
        let asked = Instant::now();
        for machine in others {
            while machine.is_refused(&client) != Some(true) {
                if asked.elapsed() > DEADLINE {
                    let states: Vec<String> =
                        self.machines.iter().map(|machine| format!("{}: {}", machine.name, machine.fleet())).collect();
                    return self.fault(format!("{} does not know a ban by hand; {}", machine.name, states.join("; ")));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Machine {
    fn start(name: &'static str, port: u16) -> Self {
        let stage = Stage::new();
        let secret = stage.write("secret", &format!("{SECRET}\n"));
        let log = stage.write("mainlog", "");
        let mut rest = format!("{RULES}[[log]]\npath = {log:?}\nrules = ['exim-per-host']\n");
        write!(
            rest,
            "[fleet]\nurl = 'redis://127.0.0.1:{port}/0'\nnode = '{name}'\npassword_file = {secret:?}\nbans_per_minute = 1_000_000\n"
        )
        .unwrap();
        if name == "mx1" {
            rest.push_str("[hook]\ncommand = ['/bin/true']\nat_once = 2\n");
        }
        let daemon = Daemon::start_on(&stage, LIMITS, &rest);
        assert_eq!(daemon.object(&format!("ban {BANNED} -1"))["banned"], BANNED);
        Self {
            name,
            stage,
            rest,
            pid: AtomicU32::new(daemon.pid()),
            daemon: Mutex::new(Some(daemon)),
            helper_pids: Default::default(),
            kill_helper: Default::default(),
            last_banned: Mutex::default(),
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.stage.path("mainlog")
    }

    /// Writes the configuration, of which `more` is a part.
    pub(crate) fn configure(&self, more: &str) {
        self.stage.configure(LIMITS, &format!("{}{more}", self.rest));
    }

    /// Ends the daemon by `end`, and starts it again after `wait`.
    pub(crate) fn restart(&self, wait: Duration, end: impl FnOnce(Daemon)) {
        let mut daemon = self.daemon.lock().unwrap();
        end(daemon.take().expect("a daemon"));
        std::thread::sleep(wait);
        let started = Daemon::start_again(&self.stage);
        self.pid.store(started.pid(), Ordering::Relaxed);
        *daemon = Some(started);
    }

    /// The daemon's answer, or `None` if it does not run.
    pub(crate) fn ask(&self, request: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.stage.socket()).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        writeln!(stream, "{request}").ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    }

    /// The daemon's status.
    pub(crate) fn status(&self) -> Option<serde_json::Value> {
        serde_json::from_str(self.ask("status")?.lines().next()?).ok()
    }

    /// What the status says about the fleet.
    fn fleet(&self) -> String {
        let status = self.status().unwrap_or_default();
        let fields = status.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("fleet"));
        fields.map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
    }

    /// Whether the client is refused; `None` if the daemon does not run.
    pub(crate) fn is_refused(&self, client: &str) -> Option<bool> {
        let answer = self.ask(&format!("why {client}"))?;
        let why: serde_json::Value = serde_json::from_str(answer.lines().next()?).ok()?;
        why["refused"].as_bool()
    }
}
