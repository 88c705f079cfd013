//! A real Squid as a reverse proxy on loopback, with its own directory, ports and service name.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;

use super::process::{Process, children};
use super::stage::{free_port, give, program};
use super::wait::until;
use super::{Origin, Stage, request};

/// What must never stand in cache.log while the helper is well: each of these is a request refused,
/// an answer lost or a Squid gone.
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
    "overflowed",
    "name reserved for Squid use",
];

/// Squid's service names must differ, since they name its shared memory.
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
    /// Starts Squid on `fragment`, which stands where Debian includes `conf.d`: before the `allow`.
    pub(crate) fn start(stage: &Stage, origin: &Origin, fragment: &str) -> Self {
        // -N is Squid without a monitor that starts it again: a crash is seen.
        Self::launch(stage, origin, fragment, 1, "-N")
    }

    /// Starts Squid with this many SMP workers (and a monitor, without which there are none).
    pub(crate) fn start_with(stage: &Stage, origin: &Origin, fragment: &str, workers: u32) -> Self {
        Self::launch(stage, origin, fragment, workers, "--foreground")
    }

    fn launch(stage: &Stage, origin: &Origin, fragment: &str, workers: u32, monitor: &str) -> Self {
        let service = format!("strikeout{}x{}", std::process::id(), NAMES.fetch_add(1, Ordering::SeqCst));
        let dir = stage.make(&service, Some("proxy"));
        let port = free_port();
        let own = dir.display();
        let origin = origin.port();
        let config = stage.write(
            &format!("{service}.conf"),
            &format!(
                "workers {workers}\n\
                 http_port 127.0.0.1:{port} accel defaultsite=example.test no-vhost\n\
                 cache_peer 127.0.0.1 parent {origin} 0 no-query no-digest originserver connect-fail-limit=1000000\n\
                 cache deny all\n\
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
        let helper = stage.binary("ext_strikeout_acl");
        let mut squid = Self { process, port, dir, config, service, helper };
        until("Squid accepts connections", || {
            squid.process.assert_running();
            let log = squid.cache_log();
            let ready = log.matches("Accepting reverse-proxy HTTP Socket connections").count();
            (ready >= workers as usize && TcpStream::connect(("127.0.0.1", port)).is_ok()).then_some(())
        });
        squid
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
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

    /// Runs `squid -k what` and waits for the command (not for its effect).
    pub(crate) fn control(&self, what: &str) {
        let output = Command::new(program("squid").expect("squid"))
            .args(["-k", what, "-n", &self.service, "-f"])
            .arg(&self.config)
            .output()
            .expect("run squid -k");
        assert!(output.status.success(), "squid -k {what}: {output:?}");
    }

    /// Whether Squid 5.7 has aborted by a bug of its own: when a helper dies just as Squid writes to it, Squid may begin a second
    /// write ("helperDispatch: Helper … has crashed", then the assertion), whatever the helper and its concurrency.
    pub(crate) fn has_aborted(&self) -> bool {
        self.cache_log().contains("assertion failed: Write.cc")
    }

    /// How often this Squid, or one of its workers, has aborted so.
    pub(crate) fn aborts(&self) -> usize {
        self.cache_log().matches("assertion failed: Write.cc").count()
    }

    /// How many requests of clients below `network` were refused, by a verdict of the helper's and by Squid itself: because a helper died
    /// with the question in its hands.
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
        helpers.iter().for_each(|pid| super::kill(*pid, Signal::KILL));
        helpers.len()
    }

    #[track_caller]
    pub(crate) fn assert_running(&mut self) {
        self.process.assert_running();
    }

    /// Fails if cache.log holds a line that tells of a fault with the helper.
    #[track_caller]
    pub(crate) fn assert_clean_log(&self) {
        self.assert_clean_log_but(&[]);
    }

    /// The same, but for faults that the test itself has caused.
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
    /// Removes what a Squid that was killed leaves outside its own directory.
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
    /// How many requests Squid has sent to its helpers so far, as it counts them itself.
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
