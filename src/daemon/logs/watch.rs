//! Waits until a log is written to, so that a scanner is stopped after a few milliseconds and not only when the logs are polled next.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

/// Watches files by inotify(7). Without it, waiting only takes its time.
pub struct Watch {
    inotify: Option<OwnedFd>,
    /// The watch on each file, if there is one.
    files: Vec<Option<i32>>,
}

impl Watch {
    /// Watches no file yet.
    #[must_use]
    pub fn new(files: usize) -> Self {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let inotify = inotify::init(flags).map_err(|error| log::warn!("logs are polled, inotify cannot be used: {error}")).ok();
        Self { inotify, files: vec![None; files] }
    }

    /// Watches the file that is at the path now, instead of the one that was there before. The kernel knows a file that is watched already.
    pub fn watch(&mut self, number: usize, path: &Path) {
        let (Some(inotify), Some(file)) = (&self.inotify, self.files.get_mut(number)) else { return };
        let added = inotify::add_watch(inotify, path, inotify::WatchFlags::MODIFY).ok();
        if let Some(old) = std::mem::replace(file, added)
            && !self.files.contains(&Some(old))
        {
            // It is gone already if its file is.
            let _ = inotify::remove_watch(inotify, old);
        }
    }

    /// Waits until a watched file is written to, but no longer than `limit`. What was written since the last call counts.
    pub fn wait(&self, limit: Duration) {
        let Some(inotify) = &self.inotify else {
            std::thread::park_timeout(limit);
            return;
        };
        let limit = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
        let mut events = [MaybeUninit::uninit(); 4096];
        if poll(&mut [PollFd::new(inotify, PollFlags::IN)], Some(&limit)).is_ok_and(|ready| ready > 0) {
            // Which file it was does not matter: all are polled.
            while rustix::io::read(inotify, &mut events).is_ok_and(|(read, _)| !read.is_empty()) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::time::Instant;

    const LONG: Duration = Duration::from_millis(999);

    fn append(path: &Path) {
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(b"x\n").unwrap();
    }

    /// Whether a wait ends before its limit.
    fn is_woken(watch: &Watch) -> bool {
        let start = Instant::now();
        watch.wait(LONG);
        start.elapsed() < LONG
    }

    #[test]
    fn a_wait_ends_when_a_watched_file_was_written_to_also_after_it_was_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (log, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut watch = Watch::new(2);
        watch.watch(0, &log);
        append(&log);
        watch.watch(0, &log);
        append(&log);
        assert!(is_woken(&watch), "written to before the wait");
        std::fs::rename(&log, &old).unwrap();
        append(&log);
        watch.watch(0, &log);
        // The kernel says that the old watch is gone.
        watch.wait(LONG);
        append(&old);
        assert!(!is_woken(&watch), "nothing was written to the new file since");
        append(&log);
        assert!(is_woken(&watch));
    }

    #[test]
    fn two_logs_may_be_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        append(&one);
        append(&other);
        let mut watch = Watch::new(2);
        watch.watch(0, &one);
        watch.watch(1, &one);
        watch.watch(1, &other);
        append(&one);
        assert!(is_woken(&watch), "the first log still is that file");
    }
}
