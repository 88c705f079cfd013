//! The thread that follows a machine's logs: it polls each follower, and hands on what they read.

use super::follow::{Counts, Follower, Position};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a file is looked at. A look costs one `stat`.
pub const INTERVAL: Duration = Duration::from_millis(50);

/// A fault that lasts is logged again after so long.
const REMIND: Duration = Duration::from_secs(60);

/// How one log stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The path.
    pub path: PathBuf,
    /// Where reading stopped: to be saved. None until the file was found.
    pub position: Option<Position>,
    /// Bytes that are there and were not read yet.
    pub lag: u64,
    /// Lines read since the start.
    pub lines: u64,
    /// Bytes read since the start.
    pub bytes: u64,
    /// What has happened to the file.
    pub counts: Counts,
    /// What is wrong at present.
    pub fault: Option<String>,
}

/// A thread that follows logs. It ends when this is dropped.
#[derive(Debug)]
pub struct LogThread {
    stop: Arc<AtomicBool>,
    status: Arc<Mutex<Vec<Status>>>,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Starts following. `sink` gets the number of the follower and a line; when a position is in [`LogThread::status`], `sink` has
    /// returned from every line before it.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(mut followers: Vec<Follower>, mut sink: impl FnMut(usize, &[u8]) + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let status = followers.iter().map(|follower| Status {
            path: follower.path().into(),
            position: follower.position(),
            lag: 0,
            lines: 0,
            bytes: 0,
            counts: Counts::default(),
            fault: None,
        });
        let status = Arc::new(Mutex::new(status.collect::<Vec<_>>()));
        let (stopped, shown) = (Arc::clone(&stop), Arc::clone(&status));
        let thread = std::thread::Builder::new().name("logs".into()).spawn(move || {
            let mut reminders = vec![None; followers.len()];
            while !stopped.load(Ordering::Acquire) {
                let mut more = false;
                for (number, (follower, reminder)) in followers.iter_mut().zip(&mut reminders).enumerate() {
                    let polled = follower.poll(&mut |line| sink(number, line));
                    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                    let Some(status) = shown.get_mut(number) else { continue };
                    more |= note(status, follower, polled, reminder);
                }
                if !more {
                    std::thread::park_timeout(INTERVAL);
                }
            }
        })?;
        Ok(Self { stop, status, thread: Some(thread) })
    }

    /// How each log stands, in the order of the followers.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread and returns how each log stands then.
    #[must_use]
    pub fn stop(mut self) -> Vec<Status> {
        self.end();
        self.status()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in the sink was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.end();
    }
}

/// Notes what a poll did, logs a fault when it begins and each minute, and says whether there is more to read at once.
fn note(status: &mut Status, follower: &Follower, polled: io::Result<super::follow::Progress>, reminder: &mut Option<Instant>) -> bool {
    status.lag = follower.lag();
    status.counts = follower.counts();
    status.position = follower.position();
    match polled {
        Ok(progress) => {
            status.lines += progress.lines;
            status.bytes += progress.bytes;
            if status.fault.take().is_some() {
                *reminder = None;
                log::info!("log {}: followed again", status.path.display());
            }
            progress.more
        }
        Err(error) => {
            let fault = error.to_string();
            if status.fault.as_ref() != Some(&fault) || reminder.is_none_or(|since| since.elapsed() >= REMIND) {
                *reminder = Some(Instant::now());
                log::warn!("log {}: cannot be followed, trying again: {fault}", status.path.display());
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

    #[test]
    fn lines_of_several_logs_arrive_with_the_number_of_their_log() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().join("a"), folder.path().join("b")];
        std::fs::write(&paths[0], "1\n").unwrap();
        let followers = paths.iter().map(|path| Follower::starting(path, Start::Beginning, None)).collect();
        let (sender, lines) = channel();
        let thread = LogThread::start(followers, move |number, line| sender.send((number, line.to_vec())).unwrap()).unwrap();
        let next = || lines.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(next(), (0, b"1".to_vec()));
        std::fs::File::create(&paths[1]).unwrap().write_all(b"2\n").unwrap();
        assert_eq!(next(), (1, b"2".to_vec()));
        let status = thread.stop();
        assert_eq!(status.iter().map(|log| (log.lines, log.lag)).collect::<Vec<_>>(), [(1, 0), (1, 0)]);
        assert!(status[0].position.is_some() && status[0].fault.is_none());
    }

    #[test]
    fn a_log_that_cannot_be_read_says_so_and_holds_up_no_other() {
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
