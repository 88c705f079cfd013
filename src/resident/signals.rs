//! Signals, as something that the event loop can wait for: SIGTERM and SIGINT end the resident, SIGHUP makes it read its configuration.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What the signals since the last look said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// End.
    pub end: bool,
    /// Read the configuration again.
    pub reload: bool,
}

/// Signals of this process from now on.
#[derive(Debug)]
pub struct Signals {
    pipe: UnixStream,
    end: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take_over() -> io::Result<Self> {
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let (end, reload) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        for (signal, flag) in [(SIGTERM, &end), (SIGINT, &end), (SIGHUP, &reload)] {
            // The flag first: whoever is woken by the pipe finds it set.
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { pipe, end, reload })
    }

    /// What was told since the last look.
    pub fn take(&mut self) -> Told {
        let mut bytes = [0; 64];
        while matches!(self.pipe.read(&mut bytes), Ok(read) if read > 0) {}
        Told { end: self.end.swap(false, Ordering::AcqRel), reload: self.reload.swap(false, Ordering::AcqRel) }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
