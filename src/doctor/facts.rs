//! What the checks are made on, gathered beforehand: files, processes and answers of the daemon. Nothing in here asks for more.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::squid_config::SquidConfig;
use crate::config::{Config, ConfigError};
use crate::control::status::DaemonStatus;

/// Everything that was found on this machine.
#[derive(Debug)]
pub struct Facts {
    /// The version of this program.
    pub version: String,
    pub config_file: PathBuf,
    pub config: Result<Config, ConfigError>,
    /// The rules that the configuration names itself and no log feeds.
    pub unfed_rules: Vec<String>,
    /// The files of the configuration and its lists.
    pub config_files: Vec<FileFacts>,
    pub daemon: Result<DaemonStatus, DaemonFault>,
    /// Whether the daemon's program was replaced since it was started.
    pub daemon_is_replaced: bool,
    pub socket: SocketFacts,
    pub squids: Vec<SquidFacts>,
    pub exims: Vec<EximFacts>,
    /// Whether a Squid or an Exim is configured to ask, of those that do not run.
    pub stopped: StoppedServers,
    pub session: Option<SessionFacts>,
    /// Whether the hook's program can be run.
    pub hook: Option<Result<(), String>>,
    /// Whether the metrics are served at the address that the configuration names.
    pub metrics: Option<Result<(), String>>,
    /// Free bytes on the disk of the state file.
    pub state_free: Option<u64>,
    /// What could not be looked at.
    pub unseen: Vec<String>,
}

impl Facts {
    /// The daemon's status and the configuration, if there are both: what follows from them is looked at only then.
    pub fn running(&self) -> Option<(&DaemonStatus, &Config)> {
        Some((self.daemon.as_ref().ok()?, self.config.as_ref().ok()?))
    }
}

/// A file, and when it was changed last (seconds since 1970).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    pub path: PathBuf,
    pub changed: i64,
}

/// Why there is no answer from the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonFault {
    /// Nothing listens on the socket.
    NotRunning(String),
    /// This user may not ask.
    NotAllowed(String),
    /// It listens and does not answer, or not in a way that this version reads.
    NoAnswer(String),
}

/// The daemon's socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketFacts {
    pub path: PathBuf,
    /// Whether the configuration that names it cannot be read, so that this is the default one.
    pub is_guessed: bool,
    /// Owner and mode of the socket and of the directories that lead to it, outermost first; none if they cannot be seen.
    pub access: Option<Vec<Access>>,
    /// The name of the socket's group.
    pub group: String,
}

/// Who may pass or open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub user: u32,
    pub group: u32,
    pub mode: u32,
    pub is_directory: bool,
}

/// What a process may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    pub user: u32,
    /// Its effective group and the supplementary ones.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Whether these may pass the directories and open the file at their end for reading and writing.
    pub fn may_open(&self, access: &[Access]) -> bool {
        access.iter().all(|file| {
            let bits = if self.user == file.user {
                file.mode >> 6
            } else if self.groups.contains(&file.group) {
                file.mode >> 3
            } else {
                file.mode
            };
            let needed = if file.is_directory { 0o1 } else { 0o2 };
            self.user == 0 || bits & needed != 0
        })
    }
}

/// A running server, which may consist of several processes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFacts {
    pub pid: u32,
    pub config: PathBuf,
    /// When it read its configuration last (seconds since 1970), if that is known.
    pub read_config: Option<i64>,
    pub version: Option<String>,
    /// What its processes that ask may do.
    pub credentials: Credentials,
    /// The name of their user.
    pub user: String,
    /// Whether the user database has that user in the socket's group: then a restart is all that is missing.
    pub is_user_in_group: bool,
}

/// A Squid that runs.
#[derive(Debug, Default)]
pub struct SquidFacts {
    pub server: ServerFacts,
    pub config: SquidConfig,
    /// The programs that its configuration names as our helper.
    pub helpers: Vec<HelperFacts>,
    /// How many of its processes are our helper.
    pub running_helpers: usize,
    /// Whether one of them runs a program that was replaced since.
    pub helper_is_replaced: bool,
    /// The newest file of its configuration.
    pub newest: Option<FileFacts>,
    /// The expressions of the fast form, for each directory that a helper is told.
    pub prefilters: Vec<PrefilterFacts>,
    /// The lines whose acl names a file of expressions that cannot be read, and why.
    pub unread_expressions: Vec<(String, String)>,
}

/// The servers that do not run although their configuration asks: it, and none if there is no such server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoppedServers {
    pub squid: Option<PathBuf>,
    pub exim: Option<String>,
}

/// The expressions of the fast form in a directory, as they are on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefilterFacts {
    pub directory: PathBuf,
    /// Why they cannot be used.
    pub fault: Option<String>,
    /// Which rules of the configuration they lack.
    pub stale: Option<String>,
}

/// A helper's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperFacts {
    pub program: PathBuf,
    /// Its version, or why it cannot be run.
    pub version: Result<String, String>,
}

/// An Exim that runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EximFacts {
    pub server: ServerFacts,
    /// What `exim4 -bP` prints; none if this user may not see it.
    pub settings: Option<EximSettings>,
    pub newest: Option<FileFacts>,
}

/// The settings of Exim that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EximSettings {
    pub connect: Option<EximAcl>,
    pub auth: Option<EximAcl>,
    pub quit: Option<EximAcl>,
    pub notquit: Option<EximAcl>,
    pub ports: Vec<String>,
    /// The path of the main log; none if it goes to syslog alone.
    pub main_log: Option<PathBuf>,
    /// Whether clients can log in.
    pub has_authenticators: bool,
}

/// One of Exim's ACLs: the option's value, and its text where it could be found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EximAcl {
    pub value: String,
    /// None if it could not be found or read.
    pub text: Option<String>,
    /// Whether Exim's own user may not read the file that holds it: then Exim answers 451 to everybody.
    pub is_unreadable: bool,
}

/// The operator's own SSH session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFacts {
    pub address: IpAddr,
    /// Which list protects it.
    pub never_banned: Option<String>,
    pub is_refused: bool,
}

/// Whether two paths name the same file, as far as that can be told without looking.
pub fn is_same_path(one: &Path, other: &Path) -> bool {
    one.components().eq(other.components())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(user: u32, group: u32, mode: u32) -> Access {
        Access { user, group, mode, is_directory: mode & 0o100 != 0 }
    }

    #[test]
    fn a_process_may_ask_if_it_may_pass_every_directory_and_write_the_socket() {
        let path = [access(0, 0, 0o755), access(900, 901, 0o750), access(900, 901, 0o660)];
        let may = |user, groups: &[u32]| Credentials { user, groups: groups.into() }.may_open(&path);
        assert!(may(0, &[]) && may(900, &[]) && may(13, &[13, 901]));
        assert!(!may(13, &[13]), "in no group");
        let shut = [access(900, 901, 0o700), access(900, 901, 0o666)];
        assert!(!Credentials { user: 13, groups: vec![901] }.may_open(&shut), "the directory");
        let own = [access(13, 901, 0o070)];
        assert!(!Credentials { user: 13, groups: vec![901] }.may_open(&own), "the owner's bits count for the owner");
    }

    #[test]
    fn paths_are_compared_without_detours() {
        assert!(is_same_path(Path::new("/run/strikeout/./strikeout.sock"), Path::new("/run/strikeout//strikeout.sock")));
        assert!(!is_same_path(Path::new("/run/strikeout.sock"), Path::new("/run/strikeout/strikeout.sock")));
    }
}
