//! The listening socket: its directory, group and mode. Two daemons never share one, and none is left behind at the end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::control::client;

/// Length of the queue of connections not yet accepted; the kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Maximum length of a socket's path in bytes: `sun_path` has 108, and one is the terminating zero.
const MAX_PATH: usize = 107;

/// A listening socket. Dropping it removes the file, unless another socket has replaced it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the socket's file.
    file: (u64, u64),
}

impl Listener {
    /// Listens at `path`, with `mode`, for the members of `group` (empty: the process's own group). A missing directory is created.
    ///
    /// What is wrong but not fatal (an unknown group, a mode open to all) is logged.
    ///
    /// # Errors
    /// A message that names the path: another daemon listens there, or a system call failed.
    pub fn bind(path: &Path, mode: u32, group: &str) -> Result<Self, String> {
        let at = |what: &str, error: io::Error| format!("{}: {what}: {error}", path.display());
        if path.as_os_str().len() > MAX_PATH {
            let length = path.as_os_str().len();
            return Err(format!("{}: found a path of {length} bytes, expected {MAX_PATH} at most for a socket", path.display()));
        }
        let gid = group_id(group);
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        prepare_directory(directory, gid).map_err(|error| format!("{}: cannot be used for the socket: {error}", directory.display()))?;
        // Locked until the socket listens, so that the later of two daemons starting together finds the other.
        let lock = rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| at("its directory cannot be opened", error.into()))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| at("its directory cannot be locked", error.into()))?;
        remove_stale(path)?;
        let address = SocketAddrUnix::new(path).map_err(|error| at("not usable as a socket address", error.into()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| at("cannot create a socket", error.into()))?;
        // Nobody may connect until group and mode are set.
        let mask = rustix::process::umask(Mode::from_raw_mode(0o777));
        let bound = rustix::net::bind(&socket, &address);
        rustix::process::umask(mask);
        bound.map_err(|error| at("cannot listen", error.into()))?;
        let metadata = std::fs::symlink_metadata(path).map_err(|error| at("cannot be examined", error))?;
        let listener = Self { socket, path: path.into(), file: (metadata.dev(), metadata.ino()) };
        if let Some(gid) = gid
            && let Err(error) = std::os::unix::fs::lchown(path, None, Some(gid))
        {
            log::warn!("{}: cannot be given to the group {group:?}, so its members cannot ask: {error}", path.display());
        }
        if mode & 0o002 != 0 {
            log::warn!("{}: mode {mode:04o} lets every user of this machine name clients to refuse", path.display());
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|error| at("its mode cannot be set", error))?;
        rustix::net::listen(&listener.socket, BACKLOG).map_err(|error| at("cannot listen", error.into()))?;
        Ok(listener)
    }

    /// Accepts the next connection, as a non-blocking stream. `None` if none is waiting.
    ///
    /// # Errors
    /// For one, no file descriptor is left.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        use rustix::io::Errno;
        loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(stream) => return Ok(Some(UnixStream::from(stream))),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("{}: cannot be removed: {error}", self.path.display());
        }
    }
}

/// Looks up a group; warns if it does not exist. An empty name means no group.
fn group_id(group: &str) -> Option<u32> {
    if group.is_empty() {
        return None;
    }
    match nix::unistd::Group::from_name(group) {
        Ok(Some(found)) => Some(found.gid.as_raw()),
        Ok(None) => {
            log::warn!(
                "found no group {group:?}, expected one whose members may ask (addgroup --system {group}): only the daemon's own user may"
            );
            None
        }
        Err(error) => {
            log::warn!("the group {group:?} cannot be looked up, so only the daemon's own user may ask: {error}");
            None
        }
    }
}

/// Creates the directory with mode 0750 and the group, if it is missing. An existing one is left as it is.
fn prepare_directory(directory: &Path, gid: Option<u32>) -> io::Result<()> {
    match std::fs::metadata(directory) {
        Ok(metadata) if !metadata.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
        Ok(metadata) => {
            if metadata.mode() & 0o002 != 0 && metadata.mode() & 0o1000 == 0 {
                log::warn!("{}: every user of this machine may replace the socket in this directory", directory.display());
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = directory.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::DirBuilder::new().mode(0o750).create(directory)?;
            if let Some(gid) = gid
                && let Err(error) = std::os::unix::fs::chown(directory, None, Some(gid))
            {
                log::warn!("{}: cannot be given to its group: {error}", directory.display());
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Removes the socket of a daemon that was killed.
fn remove_stale(path: &Path) -> Result<(), String> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("{}: cannot be examined: {error}", path.display())),
    };
    if !std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) {
        return Err(format!("{}: found a file that is not a socket, expected nothing or an old socket", path.display()));
    }
    match client::connect(path, Instant::now() + Duration::from_millis(200)) {
        // No process listens.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| format!("{}: the old socket cannot be removed: {error}", path.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Another error, such as a full queue, comes from a process that listens.
        Ok(_) | Err(_) => Err(format!("{}: found another daemon that listens there, expected none", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path) -> Result<Listener, String> {
        Listener::bind(path, 0o600, "root")
    }

    #[test]
    fn a_missing_directory_is_created_for_the_group_alone_and_the_socket_goes_with_the_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/strikeout/strikeout.sock");
        let listener = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o750);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_daemon_on_one_socket_is_refused_and_a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = bind(&path).unwrap();
        let second = bind(&path).unwrap_err();
        assert!(second.contains("found another daemon that listens there"), "{second}");
        assert!(path.exists());
        drop(first);
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        std::fs::write(&path, "precious").unwrap();
        assert!(bind(&path).unwrap_err().contains("not a socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let long = folder.path().join("x".repeat(120));
        assert!(bind(&long).unwrap_err().contains("expected 107 at most"));
    }

    #[test]
    fn a_listener_does_not_remove_the_socket_that_replaced_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let old = bind(&path).unwrap();
        std::fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        let new = bind(&path).unwrap();
        drop(old);
        assert!(path.exists());
        drop(new);
    }
}
