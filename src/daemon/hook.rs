//! The hook: a program that is run at each ban and unban, or for many of them together. Changes are queued, and worker threads, limited in
//! number, run the program for them; a change that finds its queue full is dropped, counted, and its number told to the next run, so the
//! table never waits for the program.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::hook_event::HookEvent;
use super::hook_program::{EndSignal, run};
use crate::client::{Client, Ipv6Prefix};
use crate::config::HookConfig;
use crate::control::status::HookStatus;
use crate::engine::{Change, Reach};
use crate::event::Scope;
use crate::time::Time;

/// How long the daemon waits at its end for the programs that it kills.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// One log line for each so many dropped changes.
const DROPPED_PER_LINE: u64 = 1000;

/// Changes that wait or were dropped, and runs of the program.
#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicU64,
    running: Mutex<u64>,
    /// Notified when `running` has become 0.
    idle: Condvar,
    done: AtomicU64,
    failed: AtomicU64,
    killed: AtomicU64,
    dropped: AtomicU64,
    /// Of those, how many no run has been told of.
    untold: AtomicU64,
}

/// The workers of one configuration. After a reload, the previous ones finish their queues and end.
struct Workers {
    config: HookConfig,
    /// One queue per worker. All changes of a client go to the same one, so they stay in order.
    queues: Vec<SyncSender<Queued>>,
}

/// A change that the program is told of, and the prefix of IPv6 clients then.
struct Told {
    change: Change,
    prefix: Ipv6Prefix,
}

impl Told {
    fn event(&self) -> Option<HookEvent<'_>> {
        HookEvent::of(&self.change, self.prefix)
    }
}

/// An entry of a worker's queue.
enum Queued {
    One(Told),
    /// Many clients are unbanned, because their rule refuses nobody any more.
    Unbans {
        clients: VecDeque<(Client, Scope)>,
        at: Time,
        prefix: Ipv6Prefix,
    },
}

impl Queued {
    /// Number of changes that the program is told of.
    fn number(&self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::Unbans { clients, .. } => u64::try_from(clients.len()).unwrap_or(u64::MAX),
        }
    }
}

/// The changes of a worker, one by one.
struct Changes {
    queue: Receiver<Queued>,
    /// What is left of an entry with many.
    rest: Option<Queued>,
}

impl Changes {
    /// The next change, from the queue by `receive` if nothing is left of the last entry. `None` if there is none.
    fn next(&mut self, receive: impl FnOnce(&Receiver<Queued>) -> Option<Queued>) -> Option<Told> {
        let mut queued = self.rest.take().or_else(|| receive(&self.queue))?;
        let Queued::Unbans { clients, at, prefix } = &mut queued else {
            let Queued::One(told) = queued else { return None };
            return Some(told);
        };
        let (client, scope) = clients.pop_front()?;
        let told = Told { change: Change::Unbanned { client, scope, at: *at, kept: Vec::new(), reach: Reach::Here }, prefix: *prefix };
        self.rest = Some(queued).filter(|rest| rest.number() > 0);
        Some(told)
    }
}

pub struct Hook {
    workers: Mutex<Option<Workers>>,
    counts: Arc<Counts>,
    hasher: ahash::RandomState,
    end: Arc<EndSignal>,
}

impl Hook {
    /// A hook without a program.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        let end = Arc::new(EndSignal::new()?);
        Ok(Self { workers: Mutex::default(), counts: Arc::default(), hasher: ahash::RandomState::new(), end })
    }

    /// Replaces the configuration; with `None` no program is run.
    ///
    /// # Errors
    /// A thread could not be started. The old configuration stays.
    pub fn configure(&self, config: Option<&HookConfig>) -> std::io::Result<()> {
        let mut workers = self.workers.lock();
        if workers.as_ref().map(|workers| &workers.config) == config {
            return Ok(());
        }
        *workers = config.map(|config| self.start(config)).transpose()?;
        Ok(())
    }

    fn start(&self, config: &HookConfig) -> std::io::Result<Workers> {
        let capacity = config.queue.get().div_ceil(config.workers());
        let queues = (0..config.workers()).map(|_| {
            let (sender, changes) = sync_channel(capacity);
            let (config, counts, end) = (config.clone(), Arc::clone(&self.counts), Arc::clone(&self.end));
            std::thread::Builder::new()
                .name("hook".into())
                .spawn(move || work(&config, Changes { queue: changes, rest: None }, &counts, &end))?;
            Ok(sender)
        });
        Ok(Workers { config: config.clone(), queues: queues.collect::<std::io::Result<_>>()? })
    }

    /// Queues `change`.
    pub fn notify(&self, change: &Change, prefix: Ipv6Prefix) {
        let workers = self.workers.lock();
        let Some(workers) = workers.as_ref() else { return };
        if let Change::RuleLifted { clients, at, .. } = change {
            return self.notify_of_lifted(workers, clients, *at, prefix);
        }
        let Some(event) = HookEvent::of(change, prefix) else { return };
        let told = Told { change: change.clone(), prefix };
        self.send(workers, self.worker(workers, event.client()), Queued::One(told));
    }

    /// Queues an unban of each of `clients`, as one entry of each queue. As many of them wait as a queue has room for; the others are dropped,
    /// or a slow program would hear of nothing else for hours.
    fn notify_of_lifted(&self, workers: &Workers, clients: &[(Client, Scope)], at: Time, prefix: Ipv6Prefix) {
        let most = workers.config.queue.get().div_ceil(workers.queues.len().max(1));
        let mut shares = vec![Vec::new(); workers.queues.len()];
        let mut beyond = 0;
        for (client, scope) in clients {
            match shares.get_mut(self.worker(workers, &client.display(prefix).to_string())) {
                Some(share) if share.len() < most => share.push((*client, *scope)),
                _ => beyond += 1,
            }
        }
        self.note_dropped(beyond);
        for (worker, share) in shares.into_iter().enumerate().filter(|(_, share)| !share.is_empty()) {
            self.send(workers, worker, Queued::Unbans { clients: share.into(), at, prefix });
        }
    }

    /// The number of the worker for this client or network.
    fn worker(&self, workers: &Workers, client: &str) -> usize {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(client.as_bytes());
        usize::try_from(hasher.finish() >> 32).unwrap_or(0) % workers.queues.len().max(1)
    }

    fn send(&self, workers: &Workers, worker: usize, queued: Queued) {
        let number = queued.number();
        self.counts.waiting.fetch_add(number, Ordering::Relaxed);
        if workers.queues.get(worker).is_none_or(|queue| queue.try_send(queued).is_err()) {
            self.counts.waiting.fetch_sub(number, Ordering::Relaxed);
            self.note_dropped(number);
        }
    }

    fn note_dropped(&self, number: u64) {
        self.counts.untold.fetch_add(number, Ordering::Relaxed);
        let before = self.counts.dropped.fetch_add(number, Ordering::Relaxed);
        let after = before + number;
        if before.div_ceil(DROPPED_PER_LINE) != after.div_ceil(DROPPED_PER_LINE) {
            log::warn!("the hook is too slow: {after} bans and unbans dropped so far; `batch` or `group` gives it many at once");
        }
    }

    /// What became of the changes; `None` without a hook.
    #[must_use]
    pub fn stats(&self) -> Option<HookStatus> {
        self.workers.lock().as_ref()?;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { waiting, running, done, failed, killed, dropped, .. } = &*self.counts;
        Some(HookStatus {
            waiting: load(waiting),
            running: *running.lock(),
            done: load(done),
            failed: load(failed),
            killed: load(killed),
            dropped: load(dropped),
        })
    }

    /// Runs the program no more, kills it where it is running, and logs how many changes it was not run for.
    pub fn end(&self) {
        *self.workers.lock() = None;
        let mut running = self.counts.running.lock();
        self.end.raise();
        let [waiting, dropped] = [&self.counts.waiting, &self.counts.dropped].map(|counter| counter.load(Ordering::Relaxed));
        if waiting + dropped > 0 {
            log::warn!("the hook was not run for {waiting} bans and unbans that still wait, nor for {dropped} dropped ones");
        }
        self.counts.idle.wait_while_for(&mut running, |running| *running > 0, END_TIMEOUT);
    }
}

/// Runs the program for the changes of one queue, in order.
fn work(config: &HookConfig, mut changes: Changes, counts: &Counts, end: &EndSignal) {
    while let Some(batch) = collect(config, &mut changes) {
        {
            // Under the lock, so that `Hook::end` either sees this run or prevents it, and knows what still waits.
            let mut running = counts.running.lock();
            if end.is_raised() {
                return;
            }
            counts.waiting.fetch_sub(u64::try_from(batch.len()).unwrap_or(0), Ordering::Relaxed);
            *running += 1;
        }
        let dropped = counts.untold.swap(0, Ordering::Relaxed);
        let result = run(config, batch.iter().filter_map(Told::event), dropped, end);
        if !matches!(&result, Ok(Some(status)) if status.success()) {
            // The next run is told.
            counts.untold.fetch_add(dropped, Ordering::Relaxed);
        }
        let (counter, fault) = match result {
            Ok(Some(status)) if status.success() => (&counts.done, None),
            Ok(Some(status)) => (&counts.failed, Some(status.to_string())),
            Ok(None) => (&counts.killed, Some(format!("killed after {}", config.timeout.0))),
            Err(error) => (&counts.failed, Some(error.to_string())),
        };
        // One log line for each hundred outcomes of a kind: a program may fail every time.
        let is_logged = counter.fetch_add(1, Ordering::Relaxed).is_multiple_of(100);
        if let Some(fault) = fault.filter(|_| is_logged) {
            let more = if batch.len() > 1 { format!(" and {} more", batch.len() - 1) } else { String::new() };
            let first = batch.iter().find_map(Told::event).map(|event| event.words().join(" "));
            let first = first.unwrap_or_default();
            log::warn!("hook {} {first}{more}: {fault}", config.command.program);
        }
        let mut running = counts.running.lock();
        *running -= 1;
        if *running == 0 {
            counts.idle.notify_all();
        }
    }
}

/// Waits for changes, and collects them for the time of a group if one is configured. `None` at the end of the queue.
fn collect(config: &HookConfig, changes: &mut Changes) -> Option<Vec<Told>> {
    let mut batch = vec![changes.next(|queue| queue.recv().ok())?];
    if let Some(group) = config.group {
        let deadline = Instant::now() + Duration::from_millis(group.0.millis());
        while batch.len() < config.most()
            && let Some(change) = changes.next(|queue| queue.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok())
        {
            batch.push(change);
        }
    }
    while batch.len() < config.most()
        && let Some(change) = changes.next(|queue| queue.try_recv().ok())
    {
        batch.push(change);
    }
    Some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::rule_id::RuleNames;
    use std::path::Path;

    fn hook(text: &str) -> Hook {
        let config = Config::parse(text.as_bytes(), Path::new("test.toml"), &RuleNames::default()).unwrap();
        let hook = Hook::new().unwrap();
        hook.configure(config.hook.as_ref()).unwrap();
        hook
    }

    fn unbanned(last: u8) -> Change {
        let client = Client::from(std::net::Ipv4Addr::new(198, 51, 100, last));
        Change::Unbanned { client, scope: Scope::All, at: Time::from_secs(0), kept: Vec::new(), reach: Reach::Everywhere }
    }

    #[track_caller]
    fn wait_for(hook: &Hook, is_true: impl Fn(HookStatus) -> bool) {
        let start = Instant::now();
        while !is_true(hook.stats().unwrap()) {
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", hook.stats());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_program_is_told_of_each_ban_that_ended_with_its_rule_and_how_many_it_was_not_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("told");
        let hook = hook(&format!(
            "[hook]\nqueue = 10\nat_once = 1\nbatch = 4\ncommand = ['/bin/sh', '-c', 'cat >> {}; echo -- >> {}']",
            file.display(),
            file.display()
        ));
        let client = |last| (Client::from(std::net::Ipv4Addr::new(198, 51, 100, last)), Scope::Web);
        let lifted = |clients: std::ops::Range<u8>| Change::RuleLifted {
            rule: "wp-login".into(),
            clients: clients.map(client).collect(),
            at: Time::from_secs(1_800_000_000),
        };
        hook.notify(&lifted(0..6), Ipv6Prefix::default());
        wait_for(&hook, |stats| stats.done == 2 && stats.waiting == 0);
        let unbans = |numbers: std::ops::Range<u8>| -> String {
            numbers
                .map(|last| format!("{{\"event\":\"unban\",\"client\":\"198.51.100.{last}\",\"scope\":\"web\",\"at\":1800000000}}\n"))
                .collect()
        };
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{}--\n{}--\n", unbans(0..4), unbans(4..6)));
        std::fs::remove_file(&file).unwrap();
        hook.notify(&lifted(0..100), Ipv6Prefix::default());
        wait_for(&hook, |stats| stats.done == 5 && stats.dropped == 90);
        let told = std::fs::read_to_string(&file).unwrap();
        assert!(told.starts_with("{\"event\":\"dropped\",\"number\":90}\n"), "{told}");
    }

    #[test]
    fn calls_for_one_client_stay_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("calls");
        let hook = hook(&format!("[hook]\ncommand = ['/bin/sh', '-c', 'echo \"$@\" >> {}', 'calls']", file.display()));
        for _ in 0..3 {
            hook.notify(
                &Change::NetworkBanned(crate::engine::NetworkRecord::manual(
                    "198.51.100.0/24".parse::<crate::geo::Network>().unwrap(),
                    Time::from_secs(0),
                    crate::table::Until::NEVER,
                    crate::rule::Evidence::new(&[]),
                )),
                Ipv6Prefix::default(),
            );
            hook.notify(
                &Change::NetworkUnbanned {
                    network: "198.51.100.0/24".parse().unwrap(),
                    at: Time::from_secs(0),
                    forgets: true,
                    reach: Reach::Everywhere,
                },
                Ipv6Prefix::default(),
            );
        }
        wait_for(&hook, |stats| stats.done == 6);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "ban 198.51.100.0/24 manual -1\nunban 198.51.100.0/24\n".repeat(3));
    }

    #[test]
    fn a_hanging_program_is_killed_and_calls_beyond_the_queue_are_dropped() {
        let failing = hook("[hook]\ncommand = ['/bin/sleep', '1000']\nat_once = 1\nqueue = 1\ntimeout = '1s'");
        // `sleep` fails: "unban" is not a time.
        failing.notify(&unbanned(1), Ipv6Prefix::default());
        wait_for(&failing, |stats| stats.failed == 1);
        let hook = hook("[hook]\ncommand = ['/bin/sh', '-c', 'sleep 1000']\nat_once = 1\nqueue = 1\ntimeout = '1s'");
        hook.notify(&unbanned(1), Ipv6Prefix::default());
        wait_for(&hook, |stats| stats.running == 1);
        hook.notify(&unbanned(2), Ipv6Prefix::default());
        hook.notify(&unbanned(3), Ipv6Prefix::default());
        assert_eq!(hook.stats().unwrap().dropped, 1);
        wait_for(&hook, |stats| stats.killed == 2);
    }

    #[test]
    fn a_batch_is_all_that_waits_in_order_as_lines_on_standard_input() {
        let folder = tempfile::tempdir().unwrap();
        let [lines, go] = ["lines", "go"].map(|name| folder.path().join(name));
        // The first run waits until all other changes have been queued.
        let script = format!("cat >> {0}; echo \"$# $1\" >> {0}; until [ -e {1} ]; do sleep 0.01; done", lines.display(), go.display());
        let hook = hook(&format!("[hook]\ncommand = ['/bin/sh', '-c', '{script}', 'sh', 'mine']\nat_once = 1\nbatch = 3"));
        hook.notify(&unbanned(1), Ipv6Prefix::default());
        wait_for(&hook, |stats| (stats.running, stats.waiting) == (1, 0));
        (2..=5).for_each(|last| hook.notify(&unbanned(last), Ipv6Prefix::default()));
        assert_eq!(hook.stats().unwrap().waiting, 4);
        std::fs::write(go, "").unwrap();
        wait_for(&hook, |stats| stats.done == 3);
        let change = |last: u8| format!("{{\"event\":\"unban\",\"client\":\"198.51.100.{last}\",\"scope\":\"all\",\"at\":0}}\n");
        let expected = [change(1), "1 mine\n".into(), change(2) + &change(3) + &change(4), "1 mine\n".into(), change(5), "1 mine\n".into()];
        assert_eq!(std::fs::read_to_string(lines).unwrap(), expected.concat());
    }

    #[test]
    fn a_group_is_one_run_with_all_of_its_time_and_a_run_alone_gets_its_change_as_json_too() {
        let folder = tempfile::tempdir().unwrap();
        let lines = folder.path().join("lines");
        let command = format!("command = ['/bin/sh', '-c', 'cat >> {0}; echo \"$#\" >> {0}', 'sh']", lines.display());
        let hook = hook(&format!("[hook]\n{command}\ngroup = '1s'"));
        (1..=50).for_each(|last| hook.notify(&unbanned(last), Ipv6Prefix::default()));
        wait_for(&hook, |stats| stats.done == 1);
        let text = std::fs::read_to_string(&lines).unwrap();
        assert!(text.lines().count() == 51 && text.ends_with("}\n0\n"), "{text}");
        std::fs::remove_file(&lines).unwrap();
        let alone = self::hook(&format!("[hook]\n{command}"));
        alone.notify(&unbanned(7), Ipv6Prefix::default());
        wait_for(&alone, |stats| stats.done == 1);
        let text = std::fs::read_to_string(lines).unwrap();
        assert_eq!(text, "{\"event\":\"unban\",\"client\":\"198.51.100.7\",\"scope\":\"all\",\"at\":0}\n2\n");
    }

    #[test]
    fn the_next_run_that_ends_well_is_told_how_many_were_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let [lines, go, fail] = ["lines", "go", "fail"].map(|name| folder.path().join(name).display().to_string());
        let script = format!("grep dropped >> {lines}; until [ -e {go} ]; do sleep 0.01; done; test ! -e {fail}");
        let hook = hook(&format!("[hook]\ncommand = ['/bin/sh', '-c', '{script}']\nat_once = 1\nqueue = 2"));
        std::fs::write(&fail, "").unwrap();
        hook.notify(&unbanned(1), Ipv6Prefix::default());
        wait_for(&hook, |stats| (stats.running, stats.waiting) == (1, 0));
        (2..=6).for_each(|last| hook.notify(&unbanned(last), Ipv6Prefix::default()));
        assert_eq!(hook.stats().unwrap().dropped, 3);
        std::fs::write(&go, "").unwrap();
        wait_for(&hook, |stats| stats.failed == 3);
        std::fs::remove_file(fail).unwrap();
        (7..=8).for_each(|last| hook.notify(&unbanned(last), Ipv6Prefix::default()));
        wait_for(&hook, |stats| stats.done == 2);
        let dropped = "{\"event\":\"dropped\",\"number\":3}\n";
        assert_eq!(std::fs::read_to_string(lines).unwrap(), dropped.repeat(3), "two runs that failed, and one that did not");
    }

    #[test]
    fn the_end_kills_running_programs_and_makes_no_more_calls() {
        let hook = hook("[hook]\ncommand = ['/bin/sh', '-c', 'sleep 1000']");
        hook.notify(&unbanned(1), Ipv6Prefix::default());
        wait_for(&hook, |stats| stats.running == 1);
        hook.notify(&unbanned(1), Ipv6Prefix::default());
        hook.end();
        let Counts { running, done, killed, waiting, .. } = &*hook.counts;
        let [done, killed, waiting] = [done, killed, waiting].map(|counter| counter.load(Ordering::Relaxed));
        assert_eq!((*running.lock(), done, killed, waiting), (0, 0, 1, 1));
    }
}
