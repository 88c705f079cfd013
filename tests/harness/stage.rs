//! The directory of one test: configuration, socket, state file and log of the processes that it starts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{EXIM_HELPER, SQUID_HELPER, STRIKEOUT};

/// A directory that every user may look into. It is removed with the last clone.
#[derive(Clone)]
pub(crate) struct Stage {
    dir: Arc<TempDir>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    pub(crate) fn new_in(folder: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("strikeout-").tempdir_in(folder).unwrap();
        // The users of Squid and Exim must reach what is in it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir: Arc::new(dir) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("strikeout.toml")
    }

    /// The daemon makes its directory, 0750, unless [`Stage::open`] has made it.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/socket")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state/strikeout.db")
    }

    /// Makes the socket's directory one that every user may enter. With `mode = '0666'` everybody may ask.
    pub(crate) fn open(&self) {
        fs::create_dir_all(self.path("run")).unwrap();
    }

    /// A built program under a path that every user can reach, unlike that of the checkout.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let built = [STRIKEOUT, SQUID_HELPER, EXIM_HELPER].map(Path::new);
        let built = built.into_iter().find(|path| path.ends_with(name)).unwrap();
        let own = self.path("bin").join(name);
        if !own.exists() {
            fs::create_dir_all(self.path("bin")).unwrap();
            if fs::hard_link(built, &own).is_err() {
                fs::copy(built, &own).unwrap();
            }
        }
        own
    }

    /// Writes a file, readable by all.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes the daemon's configuration: `table` is more of its `[table]`, `rest` follows it and begins on line 6.
    pub(crate) fn configure(&self, table: &str, rest: &str) {
        let group = if table.contains("group") { "" } else { "group = ''\n" };
        self.write("strikeout.toml", &format!("[table]\nsocket = {:?}\nstate = {:?}\n{group}{table}\n{rest}", self.socket(), self.state()));
    }

    /// Runs the operator's program against the daemon's socket.
    pub(crate) fn strikeout(&self, arguments: &[&str]) -> Output {
        Command::new(STRIKEOUT).args(arguments).arg("--table").arg(self.socket()).output().unwrap()
    }

    /// Runs `exim_strikeout_acl` as Exim does, and returns its answer and how long that took.
    #[track_caller]
    pub(crate) fn exim_helper(&self, arguments: &[&str]) -> (String, Duration) {
        let start = Instant::now();
        let output = Command::new(EXIM_HELPER).arg("--table").arg(self.socket()).args(arguments).env_clear().output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), start.elapsed())
    }
}
