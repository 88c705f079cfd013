//! The processes of this machine, from /proc: which servers run now, with which configuration and which groups.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, getgrouplist};

use crate::doctor::facts::Credentials;

/// The users that are people (Debian's policy, section 9.2.2). No server is run by one, and root must not take such a process's word for
/// which configuration to read. `nobody`, as which Squid may run, is above them.
const PEOPLE: std::ops::RangeInclusive<u32> = 1000..=59_999;
/// Ticks of a second in /proc/PID/stat: `USER_HZ`, which is 100 on all architectures that Debian has.
const TICKS: i64 = 100;
/// Maximum number of generations between a process and its ancestors.
pub const MAX_GENERATIONS: usize = 64;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    /// Its name, cut to 15 bytes.
    pub name: String,
    pub credentials: Credentials,
    pub arguments: Vec<String>,
    /// Seconds since 1970, give or take a second.
    pub started: Option<i64>,
}

impl Process {
    /// The argument of a short option, as in `-f FILE` or `-fFILE`.
    pub fn option(&self, option: &str) -> Option<PathBuf> {
        let mut arguments = self.arguments.iter().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix(option) {
                Some("") => return arguments.next().map(PathBuf::from),
                Some(value) => return Some(PathBuf::from(value)),
                None => {}
            }
        }
        None
    }

    /// Whether its program was replaced since it was started. Only root sees that of another user's process.
    pub fn is_replaced(&self) -> bool {
        is_replaced(self.pid)
    }
}

/// Whether the program of a process was replaced or deleted since it was started.
pub fn is_replaced(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.to_string_lossy().ends_with(" (deleted)"))
}

/// The processes of these names that belong to the system or to this user, in this mount namespace: the files of a container are not ours.
pub fn named(names: &[&str]) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let own = rustix::process::geteuid().as_raw();
    let boot = boot_time();
    let mut processes: Vec<Process> = pids.filter_map(|pid| read(pid, boot, |name| names.contains(&name))).collect();
    processes.retain(|process| is_of_system(process.credentials.user) || process.credentials.user == own);
    processes.retain(|process| is_here(process.pid));
    processes.sort_unstable_by_key(|process| process.pid);
    processes
}

fn is_of_system(user: u32) -> bool {
    !PEOPLE.contains(&user)
}

/// Whether the process sees the same files as this one; true where that cannot be told.
fn is_here(pid: u32) -> bool {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    match (namespace(&pid.to_string()), namespace("self")) {
        (Some(its), Some(own)) => its == own,
        _ => true,
    }
}

fn read(pid: u32, boot: Option<i64>, is_wanted: impl Fn(&str) -> bool) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let name = fields(&status, "Name").next()?.to_owned();
    is_wanted(&name).then_some(())?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = arguments.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned());
    Some(Process {
        pid,
        parent: fields(&status, "PPid").next()?.parse().ok()?,
        name,
        credentials: credentials(&status)?,
        arguments: arguments.filter(|argument| !argument.is_empty()).collect(),
        started: started(pid).zip(boot).map(|(started, boot)| boot + started),
    })
}

/// The words of one line of /proc/PID/status.
fn fields<'a>(status: &'a str, field: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace()
}

/// The effective user, and the effective and supplementary groups (proc(5)).
fn credentials(status: &str) -> Option<Credentials> {
    let user = fields(status, "Uid").nth(1)?.parse().ok()?;
    let groups = fields(status, "Gid").skip(1).take(1).chain(fields(status, "Groups")).filter_map(|group| group.parse().ok());
    Some(Credentials { user, groups: groups.collect() })
}

/// Seconds from the boot to the start of a process: field 22 of its stat; field 2 is a name in parentheses that may hold anything.
fn started(pid: u32) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks: i64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Some(ticks / TICKS)
}

fn boot_time() -> Option<i64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// The name of a user, and what the user database lets one of that user's new processes do.
pub fn user(id: u32) -> (String, Option<Credentials>) {
    let Some(user) = User::from_uid(Uid::from_raw(id)).ok().flatten() else { return (id.to_string(), None) };
    let groups = std::ffi::CString::new(user.name.clone()).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
    let credentials = groups.map(|groups| Credentials { user: id, groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect() });
    (user.name, credentials)
}

/// A variable of the environment of this process or of the next of its ancestors that has it: `sudo` and `su` pass few of them on.
pub fn inherited_variable(name: &str) -> Option<String> {
    if let Ok(value) = std::env::var(name) {
        return Some(value);
    }
    let mut pid = std::process::id();
    for _ in 0..MAX_GENERATIONS {
        pid = fields(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "PPid").next()?.parse().ok()?;
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let found = environment.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        if let Some(value) = found {
            return Some(String::from_utf8_lossy(value).into_owned());
        }
    }
    None
}

/// The canonical path of a file which root can run or read without doing what another user has written into it.
///
/// The file and every directory that leads to it must belong to root or to this user and be writable by nobody else, so that what is
/// opened later by that path is the file that was looked at.
///
/// # Errors
/// The file is not there, or another user can change or replace it.
pub fn trustworthy(path: &Path) -> Result<PathBuf, String> {
    use std::os::unix::fs::MetadataExt as _;
    let own = rustix::process::geteuid().as_raw();
    let path = fs::canonicalize(path).map_err(|error| error.to_string())?;
    let is_safe = |path: &Path| fs::metadata(path).is_ok_and(|file| (file.uid() == 0 || file.uid() == own) && file.mode() & 0o022 == 0);
    if path.is_file() && path.ancestors().all(is_safe) { Ok(path) } else { Err("it is not a file that only root can change".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_and_all_groups_count() {
        let status = "Name:\tsquid\nUid:\t0\t13\t0\t13\nGid:\t13\t14\t13\t13\nGroups:\t13 901 \n";
        assert_eq!(credentials(status), Some(Credentials { user: 13, groups: vec![14, 13, 901] }));
        assert_eq!(
            credentials("Name:\tx\nUid:\t0\t0\t0\t0\nGid:\t0\t7\t0\t0\nGroups:\t\n"),
            Some(Credentials { user: 0, groups: vec![7] })
        );
        assert_eq!(credentials("nonsense"), None);
    }

    #[test]
    fn an_option_may_have_its_value_in_the_same_word() {
        let process = |arguments: &[&str]| Process {
            pid: 1,
            parent: 0,
            name: String::new(),
            credentials: Credentials::default(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            started: None,
        };
        assert_eq!(process(&["squid", "-N", "-f", "/x"]).option("-f"), Some("/x".into()));
        assert_eq!(process(&["exim4", "-C/y", "-bd"]).option("-C"), Some("/y".into()));
        assert_eq!(process(&["-f"]).option("-f"), None);
    }

    #[test]
    fn a_server_may_run_as_nobody_and_not_as_a_person() {
        assert!([0, 13, 999, 60_000, 65_534].into_iter().all(is_of_system));
        assert!(![1000, 59_999].into_iter().any(is_of_system));
    }

    #[test]
    fn a_file_is_trustworthy_if_nobody_else_can_change_it_or_a_directory_before_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let echo = fs::canonicalize("/bin/echo").unwrap();
        assert_eq!(trustworthy(Path::new("/bin/../bin/echo")), Ok(echo.clone()));
        assert!(trustworthy(Path::new("/")).is_err() && trustworthy(Path::new("/no/such")).is_err());
        // The file is safe, and its directory or one above it is not.
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(trustworthy(&file).unwrap_err().contains("only root"));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/bin/echo", &link).unwrap();
        assert_eq!(trustworthy(&link), Ok(echo), "the path to run is the one that was looked at");
    }

    #[test]
    fn this_process_is_found_by_its_name_with_the_time_of_its_start() {
        let pid = std::process::id();
        let process = read(pid, boot_time(), |_| true).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(process.credentials.user, rustix::process::geteuid().as_raw());
        assert!(process.started.unwrap().unsigned_abs().abs_diff(now) < 3600, "{process:?}");
        assert!(!process.is_replaced());
    }
}
