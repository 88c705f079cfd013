//! Signals as a file descriptor for the event loop: SIGTERM and SIGINT end the daemon, SIGHUP reloads its configuration.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What the signals received since the last call ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingSignals {
    pub end: bool,
    pub reload: bool,
}

#[derive(Debug)]
pub struct Signals {
    pipe: UnixStream,
    end: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// A handler could not be installed, or no file descriptor is left.
    pub fn install() -> io::Result<Self> {
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let (end, reload) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        for (signal, flag) in [(SIGTERM, &end), (SIGINT, &end), (SIGHUP, &reload)] {
            // The flag first: handlers run in this order, and the flag must be set by the time the pipe wakes the event loop.
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { pipe, end, reload })
    }

    /// Takes the signals received since the last call.
    pub fn take(&mut self) -> PendingSignals {
        let mut bytes = [0; 64];
        while matches!(self.pipe.read(&mut bytes), Ok(read) if read > 0) {}
        PendingSignals { end: self.end.swap(false, Ordering::AcqRel), reload: self.reload.swap(false, Ordering::AcqRel) }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
