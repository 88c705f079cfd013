//! The thread that polls the followers of all logs and hands on their lines.

use super::watch::Watch;
use crate::log::follow::{Counts, Follower, Position, Progress};
use crate::log::health::LogHealth;
use parking_lot::Mutex;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often each file is polled, at the cost of one `stat`, if none is written to.
const INTERVAL: Duration = Duration::from_millis(50);

/// The shortest time between two polls: a busy log costs at most a thousand of them a second.
const PAUSE: Duration = Duration::from_millis(1);

/// How often a persistent fault is logged.
const REMINDER_INTERVAL: Duration = Duration::from_secs(60);

/// The status of one followed log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStatus {
    pub path: PathBuf,
    /// Where reading stopped; none before the file was found.
    pub position: Option<Position>,
    /// Number of unread bytes.
    pub lag: u64,
    /// Lines read since the start.
    pub lines: u64,
    /// Bytes read since the start.
    pub bytes: u64,
    pub counts: Counts,
    /// Why the log cannot be followed.
    pub fault: Option<String>,
    /// What is wrong with its file all the same.
    pub file_fault: Option<&'static str>,
    /// Whether no file was at the path yet.
    pub is_missing: bool,
    pub health: LogHealth,
}

impl LogStatus {
    /// Why the log cannot be followed, or what is wrong with its lines.
    #[must_use]
    pub fn any_fault(&self) -> Option<String> {
        self.fault.clone().or_else(|| self.file_fault.map(str::to_owned)).or_else(|| self.health.fault())
    }
}

/// Where the lines of all logs go, each with the number of its follower.
pub trait LineSink {
    /// Takes a line, and whether it was written just before.
    fn line(&mut self, number: usize, line: &[u8], is_live: bool);

    /// What speaks against a log, by its lines so far.
    fn health(&self, number: usize) -> LogHealth;
}

/// A thread that follows logs until this is dropped.
#[derive(Debug)]
pub struct LogThread {
    stop: Arc<AtomicBool>,
    status: Arc<Mutex<Vec<LogStatus>>>,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Starts following. A position appears in [`LogThread::status`] only after `sink`
    /// has returned from every line before it.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(mut followers: Vec<Follower>, mut sink: impl LineSink + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let status = followers.iter().map(|follower| LogStatus {
            path: follower.path().into(),
            position: follower.position(),
            lag: 0,
            lines: 0,
            bytes: 0,
            counts: Counts::default(),
            fault: None,
            file_fault: None,
            is_missing: false,
            health: LogHealth::default(),
        });
        let status = Arc::new(Mutex::new(status.collect::<Vec<_>>()));
        let (stopped, shown) = (Arc::clone(&stop), Arc::clone(&status));
        let thread = std::thread::Builder::new().name("logs".into()).spawn(move || {
            let mut reminders = vec![Reminders::default(); followers.len()];
            let mut watch = Watch::new(followers.len());
            while !stopped.load(Ordering::Acquire) {
                let mut more = false;
                for (number, (follower, reminder)) in followers.iter_mut().zip(&mut reminders).enumerate() {
                    watch.watch(number, follower.path());
                    let polled = follower.poll(&mut |line, is_live| sink.line(number, line, is_live));
                    let mut shown = shown.lock();
                    let Some(status) = shown.get_mut(number) else { continue };
                    if polled.as_ref().is_ok_and(|progress| progress.lines > 0) {
                        update_health(status, sink.health(number));
                    }
                    more |= update(status, follower, polled, reminder, Instant::now());
                }
                if !more {
                    // Lines that are written one by one are read a few at a time.
                    std::thread::sleep(PAUSE);
                    watch.wait(INTERVAL);
                }
            }
        })?;
        Ok(Self { stop, status, thread: Some(thread) })
    }

    /// The status of each log, in the order of the followers.
    #[must_use]
    pub fn status(&self) -> Vec<LogStatus> {
        self.status.lock().clone()
    }

    /// Ends the thread and returns the final status of each log.
    #[must_use]
    pub fn stop(mut self) -> Vec<LogStatus> {
        self.end();
        self.status()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The panic hook has already reported a panic in `sink`.
            let _ = thread.join();
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.end();
    }
}

/// Enters what speaks against a log. Logs a fault when it begins.
fn update_health(status: &mut LogStatus, health: LogHealth) {
    if status.health.fault().is_none()
        && let Some(fault) = health.fault()
    {
        log::warn!("log {}: {fault}", status.path.display());
    }
    status.health = health;
}

/// When the faults of a log were last logged.
#[derive(Debug, Clone, Default)]
struct Reminders {
    /// That it cannot be followed; none while it can.
    unfollowed: Option<Instant>,
    file: Option<(&'static str, Instant)>,
}

impl Reminders {
    /// Whether a fault of a file is to be logged, which has just begun: not if it is the one that was logged within the last minute.
    fn is_due(&mut self, fault: &'static str, now: Instant) -> bool {
        let is_recent = |(logged, at): (&str, Instant)| logged == fault && now.saturating_duration_since(at) < REMINDER_INTERVAL;
        if self.file.is_some_and(is_recent) {
            return false;
        }
        self.file = Some((fault, now));
        true
    }
}

/// Enters the result of a poll into `status` and returns whether to poll again at once. Logs when a fault begins, and each minute that a log
/// cannot be followed.
fn update(status: &mut LogStatus, follower: &Follower, polled: io::Result<Progress>, reminders: &mut Reminders, now: Instant) -> bool {
    status.lag = follower.lag();
    status.counts = follower.counts();
    status.position = follower.position();
    status.is_missing = follower.is_missing();
    let file_fault = follower.fault();
    if let Some(fault) = file_fault.filter(|fault| status.file_fault != Some(fault) && reminders.is_due(fault, now)) {
        log::warn!("log {}: {fault}", status.path.display());
    }
    status.file_fault = file_fault;
    match polled {
        Ok(progress) => {
            status.lines += progress.lines;
            status.bytes += progress.bytes;
            if status.fault.take().is_some() {
                reminders.unfollowed = None;
                log::info!("log {}: followed again", status.path.display());
            }
            progress.more
        }
        Err(error) => {
            let fault = error.to_string();
            let is_due = |logged| now.saturating_duration_since(logged) >= REMINDER_INTERVAL;
            if status.fault.as_ref() != Some(&fault) || reminders.unfollowed.is_none_or(is_due) {
                reminders.unfollowed = Some(now);
                log::warn!("log {}: cannot be followed, will try again: {fault}", status.path.display());
            }
            status.fault = Some(fault);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::follow::Start;
    use std::io::Write;
    use std::sync::mpsc::channel;

    impl<F: FnMut(usize, &[u8])> LineSink for F {
        fn line(&mut self, number: usize, line: &[u8], _: bool) {
            self(number, line);
        }

        fn health(&self, _: usize) -> LogHealth {
            LogHealth::default()
        }
    }

    #[test]
    fn lines_arrive_with_the_number_of_their_log() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().join("a"), folder.path().join("b")];
        std::fs::write(&paths[0], "1\n").unwrap();
        let followers = paths.iter().map(|path| Follower::starting(path, Start::Beginning, None)).collect();
        let (sender, lines) = channel();
        let thread = LogThread::start(followers, move |number, line: &[u8]| sender.send((number, line.to_vec())).unwrap()).unwrap();
        let next = || lines.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(next(), (0, b"1".to_vec()));
        std::fs::File::create(&paths[1]).unwrap().write_all(b"2\n").unwrap();
        assert_eq!(next(), (1, b"2".to_vec()));
        let status = thread.stop();
        assert_eq!(status.iter().map(|log| (log.lines, log.lag)).collect::<Vec<_>>(), [(1, 0), (1, 0)]);
        assert!(status[0].position.is_some() && status[0].fault.is_none());
    }

    #[test]
    fn a_fault_of_a_file_that_comes_and_goes_is_logged_once_a_minute() {
        let (mut reminders, start) = (Reminders::default(), Instant::now());
        let logged = (0..300).filter(|second| reminders.is_due("written elsewhere", start + Duration::from_secs(*second)));
        assert_eq!(logged.collect::<Vec<_>>(), [0, 60, 120, 180, 240]);
        assert!(reminders.is_due("given up", start + Duration::from_secs(241)), "another fault");
    }

    #[test]
    fn a_log_that_is_missing_is_a_fault_unless_it_is_optional() {
        let folder = tempfile::tempdir().unwrap();
        let followers = vec![
            Follower::new(&folder.path().join("a"), None).required(),
            Follower::new(&folder.path().join("b"), None),
            Follower::starting(&folder.path().join("c"), Start::Beginning, None),
        ];
        std::fs::write(folder.path().join("c"), "1\n").unwrap();
        let (sender, lines) = channel();
        let thread = LogThread::start(followers, move |number, _: &[u8]| sender.send(number).unwrap()).unwrap();
        assert_eq!(lines.recv_timeout(Duration::from_secs(10)), Ok(2));
        let faults: Vec<_> = thread.stop().into_iter().map(|log| log.fault).collect();
        assert!(faults[0].as_ref().is_some_and(|fault| fault.starts_with("found no such file, expected ")), "{faults:?}");
        assert_eq!(faults[1..], [None, None]);
    }

    #[test]
    fn a_log_that_cannot_be_read_reports_a_fault_and_delays_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().to_owned(), folder.path().join("b")];
        std::fs::write(&paths[1], "1\n").unwrap();
        let followers = paths.iter().map(|path| Follower::starting(path, Start::Beginning, None)).collect();
        let (sender, lines) = channel();
        let thread = LogThread::start(followers, move |number, _: &[u8]| sender.send(number).unwrap()).unwrap();
        assert_eq!(lines.recv_timeout(Duration::from_secs(10)), Ok(1));
        assert!(thread.stop()[0].fault.as_ref().is_some_and(|fault| fault.contains("expected a file")));
    }
}
