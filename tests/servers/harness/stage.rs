//! The stage of one test: directories of its own, binaries where the servers' users may run them,
//! and a look at which servers are installed.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Directories and binaries of one test; removed at its end.
pub(crate) struct Stage {
    dir: TempDir,
}

impl Stage {
    /// A stage for a test that needs Squid, if it is installed.
    pub(crate) fn with_squid() -> Option<Self> {
        Self::needing(&[squid_fault()])
    }

    /// A stage for a test that needs Exim, if one with the PROXY protocol is installed.
    pub(crate) fn with_exim() -> Option<Self> {
        Self::needing(&[exim_fault()])
    }

    /// A stage for a test that needs both servers.
    pub(crate) fn with_both() -> Option<Self> {
        Self::needing(&[squid_fault(), exim_fault()])
    }

    /// Where a server is missing, a test under `tests/run` fails, and a bare `cargo test` says why
    /// the test is skipped (past the capture of test output: a skip must be seen).
    fn needing(faults: &[Option<String>]) -> Option<Self> {
        if let Some(fault) = faults.iter().flatten().next() {
            assert!(std::env::var_os("STRIKEOUT_REQUIRE_SERVERS").is_none(), "{fault}");
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "skipped {test}: {fault}; tests/run installs what is needed");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("strikeout-").tempdir().expect("a directory for the test");
        // The servers' own users must reach their directories below.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let stage = Self { dir };
        stage.make("bin", None);
        for built in [env!("CARGO_BIN_EXE_ext_strikeout_acl"), env!("CARGO_BIN_EXE_exim_strikeout_acl"), env!("CARGO_BIN_EXE_strikeout")] {
            let built = Path::new(built);
            let own = stage.path("bin").join(built.file_name().expect("a file name"));
            // The checkout may lie where `proxy` cannot look, so the binaries move here.
            if fs::hard_link(built, &own).is_err() {
                fs::copy(built, &own).expect("copy a binary");
            }
        }
        Some(stage)
    }

    /// The path of `name` on this stage.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The path of a built binary that every user may run.
    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.path("bin").join(name)
    }

    /// The path of the resident's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("strikeout.sock")
    }

    /// Makes a directory, and gives it to `user` where the test runs as root.
    pub(crate) fn make(&self, name: &str, user: Option<&str>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("make a directory");
        if let Some(user) = user {
            give(&path, user);
        }
        path
    }

    /// Writes a file below the stage, readable by all.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("write a file");
        path
    }
}

/// Gives a file or directory to `user`; only root can, and only then is there a need.
pub(crate) fn give(path: &Path, user: &str) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let fields: Vec<&str> = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&user))
        .unwrap_or_else(|| panic!("no user {user} in /etc/passwd"));
    chown(path, fields[2].parse().ok(), fields[3].parse().ok()).expect("chown");
}

/// A free port on loopback, asked from the kernel.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("an address").port()
}

/// A file of `conf-examples` with the given texts replaced; each of them must be in the file.
#[track_caller]
pub(crate) fn example(name: &str, replacements: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf-examples").join(name);
    let mut text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (from, to) in replacements {
        assert!(text.contains(from), "{name} does not say {from:?}");
        text = text.replace(from, to);
    }
    text
}

/// How often a fault is repeated: `short` in `tests/run`, `long` in `tests/run --long`.
pub(crate) fn long(short: usize, long: usize) -> usize {
    if std::env::var_os("STRIKEOUT_LONG").is_some() { long } else { short }
}

/// The full path of a server's program.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

fn squid_fault() -> Option<String> {
    program("squid").is_none().then(|| "squid is not installed".to_owned())
}

fn exim_fault() -> Option<String> {
    let Some(exim) = program("exim4") else {
        return Some("exim4 is not installed".to_owned());
    };
    let output = Command::new(exim).arg("-bV").output().expect("run exim4 -bV");
    let version = String::from_utf8_lossy(&output.stdout);
    let support = version.lines().find(|line| line.starts_with("Support for:")).unwrap_or_default();
    (!support.split(' ').any(|word| word == "PROXY")).then(|| "this exim4 has no PROXY protocol (exim4-daemon-heavy has)".to_owned())
}

impl Stage {
    /// An example for Squid with this stage's helper and socket in place of the installed ones.
    pub(crate) fn squid_example(&self, name: &str) -> String {
        example(
            name,
            &[
                ("/usr/lib/squid/ext_strikeout_acl", text(&self.binary("ext_strikeout_acl"))),
                ("/run/strikeout/strikeout.sock", text(&self.socket())),
            ],
        )
    }

    /// The same, for Squid alone: as the example says, with a state file in place of the resident.
    pub(crate) fn squid_example_alone(&self, name: &str) -> String {
        let dir = self.make("state", Some("proxy"));
        let state = format!("--state {}", dir.join("strikeout.db").display());
        example(
            name,
            &[
                ("/usr/lib/squid/ext_strikeout_acl", text(&self.binary("ext_strikeout_acl"))),
                ("--table /run/strikeout/strikeout.sock", &state),
            ],
        )
    }

    /// An example for Exim with this stage's socket and, where it runs one, helper.
    pub(crate) fn exim_example(&self, name: &str) -> String {
        if name == "exim-run.acl" {
            // The helper has its socket compiled in; here it is told of another.
            let command = format!("{} --table {}", self.binary("exim_strikeout_acl").display(), self.socket().display());
            example(name, &[("/usr/lib/exim4/exim_strikeout_acl", &command)])
        } else {
            example(name, &[("/run/strikeout/strikeout.sock", text(&self.socket()))])
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
