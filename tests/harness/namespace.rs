//! Network namespaces, with addresses of the test's own.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{has, is_root, servers_are_required, skip};

/// A network namespace that lasts as long as a process in it.
pub(crate) struct Namespace {
    holder: Child,
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
        // It writes a word once it is inside, and ends at the end of its input, so it does not outlive this process.
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sh", "-c", "echo inside; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = unshare.spawn().unwrap();
        let mut inside = [0; 7];
        holder.stdout.as_mut().unwrap().read_exact(&mut inside).unwrap();
        let namespace = Self { holder };
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
        ["nsenter", "--target", &self.pid().to_string(), "--net", "--"].map(str::to_owned).to_vec()
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
