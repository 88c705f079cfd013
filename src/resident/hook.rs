//! The hook: a program that is told of bans and unbans. No shell; so many at a time, each for so long; what cannot wait is dropped and
//! counted. Whoever changes the table never waits for it.

use std::hash::{BuildHasher, Hasher};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::client::Ipv6Prefix;
use crate::config::HookConfig;
use crate::engine::Change;

/// While a program runs, the end of the resident is looked for so often.
const LOOK: Duration = Duration::from_millis(100);

/// What became of the calls so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookNumbers {
    /// Calls that wait.
    pub waiting: u64,
    /// Programs that run now.
    pub running: u64,
    /// Calls that ended with exit code 0.
    pub done: u64,
    /// Calls that could not be made, or ended otherwise.
    pub failed: u64,
    /// Calls that took too long.
    pub killed: u64,
    /// Calls that were not made: too many waited.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicU64,
    running: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    killed: AtomicU64,
    dropped: AtomicU64,
}

/// One configuration's workers. Those of an earlier one work off what waits for them.
struct Workers {
    config: HookConfig,
    /// One queue each: what is told of one client is told in its order.
    queues: Vec<SyncSender<Call>>,
}

/// The arguments of one call.
type Call = Vec<String>;

/// The hook of one resident. Dropped, it kills what still runs.
#[derive(Default)]
pub struct Hook {
    workers: Mutex<Option<Workers>>,
    counts: Arc<Counts>,
    hasher: ahash::RandomState,
    ended: Arc<AtomicBool>,
}

impl Hook {
    /// From now on calls what `config` says; nothing, if there is none.
    ///
    /// # Errors
    /// A thread could not be started: then the old configuration stays.
    pub fn configure(&self, config: Option<&HookConfig>) -> std::io::Result<()> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if workers.as_ref().map(|workers| &workers.config) == config {
            return Ok(());
        }
        *workers = config.map(|config| self.start(config)).transpose()?;
        Ok(())
    }

    fn start(&self, config: &HookConfig) -> std::io::Result<Workers> {
        let each = config.queue.get().div_ceil(config.at_once.get());
        let queues = (0..config.at_once.get()).map(|_| {
            let (sender, calls) = sync_channel(each);
            let (config, counts, ended) = (config.clone(), Arc::clone(&self.counts), Arc::clone(&self.ended));
            std::thread::Builder::new().name("hook".into()).spawn(move || work(&config, &calls, &counts, &ended))?;
            Ok(sender)
        });
        Ok(Workers { config: config.clone(), queues: queues.collect::<std::io::Result<_>>()? })
    }

    /// Tells the program of `change`, some time.
    pub fn tell(&self, change: &Change, prefix: Ipv6Prefix) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(workers) = workers.as_ref() else { return };
        let call = arguments(change, prefix);
        let mut hasher = self.hasher.build_hasher();
        hasher.write(call.get(1).map(String::as_bytes).unwrap_or_default());
        let number = usize::try_from(hasher.finish() >> 32).unwrap_or(0) % workers.queues.len().max(1);
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        if workers.queues.get(number).is_none_or(|queue| queue.try_send(call).is_err()) {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            if self.counts.dropped.fetch_add(1, Ordering::Relaxed).is_multiple_of(1000) {
                log::warn!("the hook is too slow: it is not told of everything");
            }
        }
    }

    /// What became of the calls; none without a hook.
    #[must_use]
    pub fn numbers(&self) -> Option<HookNumbers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { waiting, running, done, failed, killed, dropped } = &*self.counts;
        Some(HookNumbers {
            waiting: of(waiting),
            running: of(running),
            done: of(done),
            failed: of(failed),
            killed: of(killed),
            dropped: of(dropped),
        })
    }

    /// Makes no more calls, and kills what runs.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        *self.workers.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let deadline = Instant::now() + 5 * LOOK;
        while self.counts.running.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            std::thread::sleep(LOOK / 10);
        }
    }
}

/// `ban TARGET RULE UNTIL` or `unban TARGET`. The end is in seconds since 1970, -1 for never.
fn arguments(change: &Change, prefix: Ipv6Prefix) -> Call {
    match change {
        Change::Banned(record) => {
            vec!["ban".into(), record.client.display(prefix).to_string(), record.rule.to_string(), record.until.to_string()]
        }
        Change::NetworkBanned { network, until, .. } => vec!["ban".into(), network.to_string(), "manual".into(), until.to_string()],
        Change::Unbanned { client, .. } => vec!["unban".into(), client.display(prefix).to_string()],
        Change::NetworkUnbanned { network, .. } => vec!["unban".into(), network.to_string()],
    }
}

/// Makes the calls of one queue, one after the other.
fn work(config: &HookConfig, calls: &Receiver<Call>, counts: &Counts, ended: &AtomicBool) {
    for call in calls {
        counts.waiting.fetch_sub(1, Ordering::Relaxed);
        if ended.load(Ordering::Relaxed) {
            continue;
        }
        counts.running.fetch_add(1, Ordering::Relaxed);
        let result = run(config, &call, ended);
        counts.running.fetch_sub(1, Ordering::Relaxed);
        let (counter, fault) = match result {
            Ok(Some(status)) if status.success() => (&counts.done, None),
            Ok(Some(status)) => (&counts.failed, Some(status.to_string())),
            Ok(None) => (&counts.killed, Some(format!("killed after {}", config.timeout.0))),
            Err(error) => (&counts.failed, Some(error.to_string())),
        };
        // A program that always fails says so now and then.
        let is_told = counter.fetch_add(1, Ordering::Relaxed).is_multiple_of(100);
        if let Some(fault) = fault.filter(|_| is_told) {
            log::warn!("hook {} {}: {fault}", config.command.program, call.join(" "));
        }
    }
}

/// Runs the program, in a process group of its own; without a status it was killed.
fn run(config: &HookConfig, call: &[String], ended: &AtomicBool) -> std::io::Result<Option<std::process::ExitStatus>> {
    let mut command = Command::new(&config.command.program);
    command
        .args(&config.command.arguments)
        .args(call)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn()?;
    let deadline = Instant::now() + Duration::from_millis(config.timeout.0.millis());
    match wait(&child, deadline, ended) {
        Ok(true) => child.wait().map(Some),
        result => {
            // What it started ends with it.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.kill();
            child.wait()?;
            result.map(|_| None)
        }
    }
}

/// Waits for the end of `child`. False: it has not ended in time.
fn wait(child: &Child, deadline: Instant, ended: &AtomicBool) -> std::io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || ended.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let step = left.min(LOOK);
        let step = Timespec { tv_sec: i64::try_from(step.as_secs()).unwrap_or(0), tv_nsec: step.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&step)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::config::Config;
    use crate::event::Scope;
    use crate::rule::Names;
    use crate::time::Time;
    use std::path::Path;

    fn hook(text: &str) -> Hook {
        let config = Config::parse(text.as_bytes(), Path::new("test.toml"), &Names::default()).unwrap();
        let hook = Hook::default();
        hook.configure(config.hook.as_ref()).unwrap();
        hook
    }

    fn unbanned(last: u8) -> Change {
        let client = Client::from(std::net::Ipv4Addr::new(198, 51, 100, last));
        Change::Unbanned { client, scope: Scope::All, at: Time::from_secs(0) }
    }

    #[track_caller]
    fn wait_for(hook: &Hook, is_true: impl Fn(HookNumbers) -> bool) {
        let start = Instant::now();
        while !is_true(hook.numbers().unwrap()) {
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", hook.numbers());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_is_told_of_one_client_comes_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("told");
        let hook = hook(&format!("[hook]\ncommand = ['/bin/sh', '-c', 'echo \"$@\" >> {}', 'told']", file.display()));
        for _ in 0..3 {
            hook.tell(
                &Change::NetworkBanned {
                    network: "198.51.100.0/24".parse().unwrap(),
                    since: Time::from_secs(0),
                    until: crate::table::Until::NEVER,
                    reason: crate::rule::Evidence::new(&[]),
                },
                Ipv6Prefix::default(),
            );
            hook.tell(
                &Change::NetworkUnbanned { network: "198.51.100.0/24".parse().unwrap(), at: Time::from_secs(0) },
                Ipv6Prefix::default(),
            );
        }
        wait_for(&hook, |numbers| numbers.done == 6);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "ban 198.51.100.0/24 manual -1\nunban 198.51.100.0/24\n".repeat(3));
    }

    #[test]
    fn a_program_that_hangs_is_killed_and_what_cannot_wait_is_dropped() {
        let failing = hook("[hook]\ncommand = ['/bin/sleep', '1000']\nat_once = 1\nqueue = 1\ntimeout = '1s'");
        // `sleep` cannot read "unban" as a time.
        failing.tell(&unbanned(1), Ipv6Prefix::default());
        wait_for(&failing, |numbers| numbers.failed == 1);
        let hook = hook("[hook]\ncommand = ['/bin/sh', '-c', 'sleep 1000']\nat_once = 1\nqueue = 1\ntimeout = '1s'");
        hook.tell(&unbanned(1), Ipv6Prefix::default());
        wait_for(&hook, |numbers| numbers.running == 1);
        hook.tell(&unbanned(2), Ipv6Prefix::default());
        hook.tell(&unbanned(3), Ipv6Prefix::default());
        assert_eq!(hook.numbers().unwrap().dropped, 1);
        wait_for(&hook, |numbers| numbers.killed == 2);
    }

    #[test]
    fn the_end_kills_what_runs() {
        let hook = hook("[hook]\ncommand = ['/bin/sh', '-c', 'sleep 1000']");
        hook.tell(&unbanned(1), Ipv6Prefix::default());
        wait_for(&hook, |numbers| numbers.running == 1);
        hook.end();
        assert_eq!(hook.counts.killed.load(Ordering::Relaxed), 1);
    }
}
