//! A real Squid as a reverse proxy on loopback, with its own directory, ports and service name.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;

use super::process::Process;
use super::{Origin, give, request};
use crate::harness::{Stage, children, free_port, kill, program, wait_for};

/// Messages that cache.log must not contain while the helper works: each means a refused request, a lost answer or an aborted Squid.
const FORBIDDEN: &[&str] = &[
    "queue full. Request rejected",
    "processes are busy",
    "pending requests queued",
    "crashing too rapidly",
    "unexpected reply on channel",
    "unexpected read",
    "ERROR: helper",
    "exited",
    "assertion failed",
    "Received Segment Violation",
    "overflowed",
    "name reserved for Squid use",
];

/// What Squid writes when it dies because a helper died while Squid wrote to it: 5.7 fails an assertion, because it begins a second write on
/// the same connection (Write.cc); 7.6 does so too, or crashes.
const DEATHS: [&str; 2] = ["assertion failed: Write.cc", "Received Segment Violation"];

/// Numbers the service names, which must differ because they name Squid's shared memory.
static NAMES: AtomicU32 = AtomicU32::new(0);

/// A running Squid.
pub(crate) struct Squid {
    process: Process,
    port: u16,
    dir: PathBuf,
    config: PathBuf,
    service: String,
    helper: PathBuf,
}

impl Squid {
    /// Starts Squid with `fragment` where Debian includes `conf.d`: before the `allow`.
    pub(crate) fn start(stage: &Stage, origin: &Origin, fragment: &str) -> Self {
        // -N is Squid without the monitor that restarts it, so a crash is noticed.
        Self::launch(stage, origin, fragment, 1, "-N")
    }

    /// Starts Squid with this many SMP workers, which need a monitor.
    pub(crate) fn start_with(stage: &Stage, origin: &Origin, fragment: &str, workers: u32) -> Self {
        Self::launch(stage, origin, fragment, workers, "--foreground")
    }

    fn launch(stage: &Stage, origin: &Origin, fragment: &str, workers: u32, monitor: &str) -> Self {
        let service = format!("strikeout{}x{}", std::process::id(), NAMES.fetch_add(1, Ordering::SeqCst));
        let dir = stage.make(&service, Some("proxy"));
        let port = free_port();
        let own = dir.display();
        let origin = origin.port();
        let no_cache = if fragment.contains("\ncache ") { "" } else { "cache deny all\n" };
        let config = stage.write(
            &format!("{service}.conf"),
            &format!(
                "workers {workers}\n\
                 http_port 127.0.0.1:{port} accel defaultsite=example.test no-vhost\n\
                 cache_peer 127.0.0.1 parent {origin} 0 no-query no-digest originserver login=PASSTHRU connect-fail-limit=1000000\n\
                 {no_cache}\
                 cache_mem 8 MB\n\
                 max_filedescriptors 4096\n\
                 pid_filename {own}/squid.pid\n\
                 cache_log {own}/cache.log\n\
                 access_log stdio:{own}/access.log\n\
                 logformat refusals %>a %>Hs %{{ban_}}note\n\
                 access_log stdio:{own}/refusals.log rotate=0 logformat=refusals\n\
                 coredump_dir {own}\n\
                 netdb_filename none\n\
                 pinger_enable off\n\
                 shutdown_lifetime 0 seconds\n\
                 visible_hostname squid.example.test\n\
                 follow_x_forwarded_for allow localhost\n\
                 acl_uses_indirect_client on\n\
                 log_uses_indirect_client on\n\
                 {fragment}\n\
                 http_access allow all\n"
            ),
        );
        give(&config, "proxy");
        let mut command = Command::new(program("squid").expect("squid"));
        command.arg(monitor).arg("-n").arg(&service).arg("-f").arg(&config);
        let logs = vec![dir.join("output"), dir.join("cache.log")];
        let process = Process::start("squid", &mut command, logs);
        let helper = stage.program("ext_strikeout_acl");
        let mut squid = Self { process, port, dir, config, service, helper };
        wait_for("Squid accepts connections", || {
            squid.process.assert_running();
            let log = squid.cache_log();
            let ready = log.matches("Accepting reverse-proxy HTTP Socket connections").count();
            (ready >= workers as usize && TcpStream::connect(("127.0.0.1", port)).is_ok()).then_some(())
        });
        squid
    }

    /// The process, which serves by itself unless it has workers.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    pub(crate) fn cache_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("cache.log")).unwrap_or_default()).into_owned()
    }

    /// The helpers that this Squid runs at the moment.
    pub(crate) fn helpers(&self) -> Vec<u32> {
        let squid = program("squid").and_then(|path| fs::canonicalize(path).ok()).unwrap_or_default();
        let mut parents = children(self.process.pid(), &squid);
        parents.push(self.process.pid());
        parents.iter().flat_map(|parent| children(*parent, &self.helper)).collect()
    }

    /// The command that `squid -k what` has to be for this Squid.
    pub(crate) fn command(&self) -> Vec<String> {
        let program = program("squid").expect("squid").display().to_string();
        vec![program, "-n".into(), self.service.clone(), "-f".into(), self.config.display().to_string()]
    }

    /// Runs `squid -k what`, and waits for the command but not for its effect.
    pub(crate) fn control(&self, what: &str) {
        let output = Command::new(program("squid").expect("squid"))
            .args(["-k", what, "-n", &self.service, "-f"])
            .arg(&self.config)
            .output()
            .expect("run squid -k");
        assert!(output.status.success(), "squid -k {what}: {output:?}");
    }

    /// Whether Squid has died because of a bug of its own: about one kill in four of a helper under load brings Squid down, with any helper
    /// at any concurrency. See [`DEATHS`].
    pub(crate) fn has_aborted(&self) -> bool {
        self.aborts() > 0
    }

    /// How often this Squid or one of its workers has died because of that bug.
    pub(crate) fn aborts(&self) -> usize {
        let log = self.cache_log();
        DEATHS.iter().map(|death| log.matches(death).count()).sum()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.process.pid(), signal);
    }

    /// Number of refused requests of clients in `network`: by a verdict, and by Squid itself because a helper died before it answered.
    pub(crate) fn refusals(&self, network: &str) -> (usize, usize) {
        let log = fs::read_to_string(self.dir.join("refusals.log")).unwrap_or_default();
        let refused = log.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let refused = refused.filter(|fields| fields.len() == 3 && fields[0].starts_with(network) && matches!(fields[1], "403" | "429"));
        let (by_verdict, by_squid): (Vec<_>, Vec<_>) = refused.partition(|fields| fields[2] == "yes");
        (by_verdict.len(), by_squid.len())
    }

    /// Kills every helper of this Squid as `kill -9` does.
    pub(crate) fn kill_helpers(&self) -> usize {
        let helpers = self.helpers();
        helpers.iter().for_each(|pid| kill(*pid, Signal::KILL));
        helpers.len()
    }

    #[track_caller]
    pub(crate) fn assert_running(&mut self) {
        self.process.assert_running();
    }

    /// Fails if cache.log has a message about a fault of the helper.
    #[track_caller]
    pub(crate) fn assert_clean_log(&self) {
        self.assert_clean_log_but(&[]);
    }

    /// The same, except for messages that the test itself has caused.
    #[track_caller]
    pub(crate) fn assert_clean_log_but(&self, caused: &[&str]) {
        let log = self.cache_log();
        for line in log.lines() {
            let found = FORBIDDEN.iter().find(|text| line.contains(**text) && !caused.contains(text));
            assert_eq!(found, None, "in cache.log: {line}");
        }
    }
}

impl Drop for Squid {
    /// Removes the files that a killed Squid leaves outside its own directory.
    fn drop(&mut self) {
        self.process.end();
        for dir in ["/dev/shm", "/run/squid"] {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&format!("{}-", self.service)) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}

impl Squid {
    /// Number of requests that Squid has sent to its helpers, from its cache manager.
    pub(crate) fn helper_requests(&self) -> usize {
        let page = request(self.port, "127.0.0.1", "GET", "/squid-internal-mgr/external_acl", "").expect("the cache manager's page").text;
        let counts: Vec<usize> = page
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("requests sent:"))
            .map(|count| count.trim().parse().expect("a number"))
            .collect();
        assert!(!counts.is_empty(), "no numbers in {page}");
        counts.iter().sum()
    }
}
