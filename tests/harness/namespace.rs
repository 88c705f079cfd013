//! Network namespaces, with addresses of the test's own, and with files of its own in place of the machine's.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{has, is_root, servers_are_required, skip};

/// A network namespace that lasts as long as a process in it.
pub(crate) struct Namespace {
    holder: Child,
    /// Whether it has files of its own.
    has_files: bool,
}

impl Namespace {
    /// Whether the test can make network namespaces on this machine; prints the reason if not.
    pub(crate) fn can_be_made() -> bool {
        if !(has("ip", "iproute2") && has("nsenter", "util-linux") && has("unshare", "util-linux") && is_root("make network namespaces")) {
            return false;
        }
        let made = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status().unwrap().success();
        if !made {
            skip("network namespaces cannot be made here");
        }
        made
    }

    pub(crate) fn new() -> Self {
        Self::with_files(&[])
    }

    /// One in which each of the machine's files (the second path) is replaced by another (the first).
    pub(crate) fn with_files(files: &[(&Path, &str)]) -> Self {
        // It writes a word once it is inside, and ends at the end of its input, so it does not outlive this process.
        let mut unshare = Command::new("unshare");
        unshare.arg("--net").args((!files.is_empty()).then_some("--mount"));
        unshare.args(["sh", "-c", "while [ $# -gt 1 ]; do mount --bind \"$1\" \"$2\" || exit; shift 2; done; echo inside; exec cat", "sh"]);
        files.iter().for_each(|(own, machines)| _ = unshare.arg(own).arg(machines));
        let mut holder = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut inside = [0; 7];
        holder.stdout.as_mut().unwrap().read_exact(&mut inside).unwrap();
        let namespace = Self { holder, has_files: !files.is_empty() };
        namespace.run("ip link set lo up");
        namespace
    }

    /// A process in this namespace, by whose PID `ip` names it.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Moves the calling thread into the namespace, with all threads and processes that it starts from now on.
    pub(crate) fn enter(&self) {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// The command prefix that runs a command in here.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let pid = self.pid().to_string();
        let mut words = vec!["nsenter", "--target", &pid, "--net"];
        words.extend(self.has_files.then_some("--mount"));
        words.push("--");
        words.into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn try_run(&self, command: &str) -> bool {
        let words: Vec<String> = self.wrapper().into_iter().chain(command.split(' ').map(str::to_owned)).collect();
        Command::new(&words[0]).args(&words[1..]).stderr(Stdio::null()).stdout(Stdio::null()).status().unwrap().success()
    }

    #[track_caller]
    pub(crate) fn run(&self, command: &str) {
        assert!(self.try_run(command), "{command}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
