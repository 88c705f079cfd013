//! A stage for real servers: what is installed, and the examples with this stage's paths in place of the installed ones.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Daemon, Stage, program, skip};

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

    fn needing(faults: &[Option<String>]) -> Option<Self> {
        if let Some(fault) = faults.iter().flatten().next() {
            skip(fault);
            return None;
        }
        let stage = Self::new();
        stage.open();
        Some(stage)
    }

    /// Starts the daemon. The servers' users share no group with it here, so its socket is open to all.
    #[track_caller]
    pub(crate) fn daemon(&self, rules: &str) -> Daemon {
        Daemon::start_on(self, "mode = '0666'", rules)
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
}

/// Gives a file or directory to `user` if the test runs as root; otherwise the servers run as the test's own user.
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

/// A file of `conf-examples` with these texts replaced. Fails if one of them is not in the file.
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
    /// Whether this Squid answers 411 to a GET with a body, before it asks anybody: 5.7 does, 6.13 does not.
    pub(crate) fn squid_refuses_bodies() -> bool {
        let output = Command::new(program("squid").unwrap()).arg("-v").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().find_map(|line| line.strip_prefix("Squid Cache: Version ")).unwrap();
        version.split('.').next().unwrap().parse::<u32>().unwrap() < 6
    }

    /// An example for Squid with this stage's helper and socket in place of the installed ones.
    pub(crate) fn squid_example(&self, name: &str) -> String {
        example(
            name,
            &[
                ("/usr/lib/squid/ext_strikeout_acl", text(&self.program("ext_strikeout_acl"))),
                ("/run/strikeout/strikeout.sock", text(&self.socket())),
                ("/var/log/squid/", &self.squid_logs()),
            ],
        )
    }

    /// The same for Squid alone, with a state file instead of the daemon, as the example describes.
    pub(crate) fn squid_example_alone(&self, name: &str) -> String {
        let dir = self.make("squid-state", Some("proxy"));
        let state = format!("--state {}", dir.join("strikeout.db").display());
        example(
            name,
            &[
                ("/usr/lib/squid/ext_strikeout_acl", text(&self.program("ext_strikeout_acl"))),
                ("--table /run/strikeout/strikeout.sock", &state),
                ("/var/log/squid/", &self.squid_logs()),
            ],
        )
    }

    /// The log in which Squid tells what it did not ask about.
    pub(crate) fn squid_log(&self) -> PathBuf {
        PathBuf::from(self.squid_logs()).join("strikeout.log")
    }

    /// A directory for the logs of the examples that Squid may write into, with its final slash.
    fn squid_logs(&self) -> String {
        format!("{}/", self.make("squid-log", Some("proxy")).display())
    }

    /// An example for Exim with this stage's socket and, where it runs one, helper.
    pub(crate) fn exim_example(&self, name: &str) -> String {
        if name == "exim-run.acl" {
            // The helper's default socket is compiled in.
            let command = format!("{} --table {}", self.program("exim_strikeout_acl").display(), self.socket().display());
            example(name, &[("/usr/lib/exim4/exim_strikeout_acl", &command)])
        } else {
            example(name, &[("/run/strikeout/strikeout.sock", text(&self.socket()))])
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
