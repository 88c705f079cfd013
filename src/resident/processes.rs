//! Which connection processes of Exim live, and for which clients: Exim itself tells nobody.
//!
//! A pidfd of the process is taken while it waits for its answer, and becomes readable when it ends, however it ends. Nobody's word is
//! taken for a process: the peer is what the kernel says, and another process is believed only if it is an ancestor of the peer.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use ahash::RandomState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::client::Client;

/// So many processes are watched at most, if there are file descriptors for them: each costs one.
pub const MOST_PROCESSES: usize = 16_384;
/// One connection process has one client; an oddity must not make its list grow.
const MOST_CLIENTS: usize = 16;
/// So far up the process that waits is looked for: the helper, `timeout`, a shell, Exim.
const MOST_GENERATIONS: usize = 5;

/// A process, and the client that it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// The process.
    pub pid: u32,
    /// The client.
    pub client: Client,
}

/// What is known when a connection process asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It asked before for the same client: this counts nothing.
    Repeat,
    /// It is new, and held from now on.
    New {
        /// How many processes of this client are held, this one included.
        open: u32,
    },
    /// It cannot be watched: how many are open is not known.
    Unknown,
}

/// The processes that are watched.
#[derive(Debug)]
pub struct Processes {
    most: usize,
    watched: HashMap<u32, Process, RandomState>,
    open: HashMap<Client, u32, RandomState>,
}

#[derive(Debug)]
struct Process {
    pidfd: OwnedFd,
    clients: Vec<Client>,
}

impl Processes {
    /// None yet, and `most` at a time.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, watched: HashMap::default(), open: HashMap::default() }
    }

    /// The process `pid` asks for `client`. `is_still_it` is asked once the process is held fast: whether the process that is meant
    /// still lives, so that it cannot be another one by now that got its number. `watch` is handed a new pidfd to wait for.
    pub fn arrive(
        &mut self,
        holding: Holding,
        is_still_it: impl FnOnce() -> bool,
        watch: impl FnOnce(&OwnedFd) -> std::io::Result<()>,
    ) -> Arrival {
        let Holding { pid, client } = holding;
        self.ended(pid);
        if let Some(process) = self.watched.get_mut(&pid) {
            if process.clients.contains(&client) {
                return Arrival::Repeat;
            }
            if process.clients.len() >= MOST_CLIENTS {
                return Arrival::Unknown;
            }
            process.clients.push(client);
        } else {
            let Some(pidfd) = self.take(pid).filter(|_| is_still_it()).filter(|pidfd| watch(pidfd).is_ok()) else {
                return Arrival::Unknown;
            };
            self.watched.insert(pid, Process { pidfd, clients: vec![client] });
        }
        let open = self.open.entry(client).or_default();
        *open += 1;
        Arrival::New { open: *open }
    }

    fn take(&self, pid: u32) -> Option<OwnedFd> {
        if self.watched.len() >= self.most {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok()
    }

    /// The connection was refused: it counts no longer.
    pub fn release(&mut self, holding: Holding) {
        if let Some(process) = self.watched.get_mut(&holding.pid)
            && let Some(index) = process.clients.iter().position(|client| *client == holding.client)
        {
            process.clients.swap_remove(index);
            if process.clients.is_empty() {
                self.watched.remove(&holding.pid);
            }
            close(&mut self.open, holding.client);
        }
    }

    /// Looks whether the process `pid` has ended, and forgets it if so.
    pub fn ended(&mut self, pid: u32) {
        if self.watched.get(&pid).is_some_and(|process| is_readable(&process.pidfd))
            && let Some(process) = self.watched.remove(&pid)
        {
            for client in process.clients {
                close(&mut self.open, client);
            }
        }
    }

    /// How many processes are watched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.watched.len()
    }

    /// Whether no process is watched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }
}

fn close(open: &mut HashMap<Client, u32, RandomState>, client: Client) {
    if let Some(count) = open.get_mut(&client) {
        *count -= 1;
        if *count == 0 {
            open.remove(&client);
        }
    }
}

fn is_readable(fd: &OwnedFd) -> bool {
    happens(fd, PollFlags::IN)
}

/// Whether the other end of a connection is gone for good; one that only will send nothing more is still there.
#[must_use]
pub fn is_gone(socket: &impl AsFd) -> bool {
    happens(socket, PollFlags::empty())
}

/// Whether any of `flags`, or a hang-up, is there now.
fn happens(fd: &impl AsFd, flags: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, flags)];
    let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&nothing)).is_ok_and(|count| count > 0)
}

/// The ancestors of the process `pid`, its parent first, as `/proc` has them; empty if that may not be read.
#[must_use]
pub fn ancestors(pid: u32) -> Vec<u32> {
    let mut ancestors = Vec::new();
    let mut pid = pid;
    while ancestors.len() < MOST_GENERATIONS {
        match std::fs::read(format!("/proc/{pid}/stat")).ok().and_then(|stat| parent(&stat)) {
            Some(parent) if parent > 1 => {
                ancestors.push(parent);
                pid = parent;
            }
            _ => break,
        }
    }
    ancestors
}

/// The parent in the text of `/proc/PID/stat`: `PID (NAME) STATE PARENT …`, where the name may hold anything.
fn parent(stat: &[u8]) -> Option<u32> {
    let behind_name = stat.get(memchr::memrchr(b')', stat)? + 1..)?;
    let word = behind_name.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(1)?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Of the ancestors of a helper, the one that waits for its answer: the one that Exim named, if it is among them; else the parent.
///
/// A shell or `timeout` may stand between Exim and its helper.
#[must_use]
pub fn waiting(ancestors: &[u32], named: Option<u32>) -> Option<u32> {
    named.filter(|named| ancestors.contains(named)).or_else(|| ancestors.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::process::{Child, Command};

    fn client(last: u8) -> Client {
        Client::from(Ipv4Addr::new(192, 0, 2, last))
    }

    /// A process that lives until it is killed.
    fn process() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn arrive(processes: &mut Processes, pid: u32, last: u8) -> Arrival {
        processes.arrive(Holding { pid, client: client(last) }, || true, |_| Ok(()))
    }

    #[test]
    fn each_process_counts_once_and_until_it_ends() {
        let mut processes = Processes::new(3);
        let (one, two) = (process(), process());
        assert_eq!(arrive(&mut processes, one.id(), 1), Arrival::New { open: 1 });
        assert_eq!(arrive(&mut processes, one.id(), 1), Arrival::Repeat);
        assert_eq!(arrive(&mut processes, two.id(), 1), Arrival::New { open: 2 });
        assert_eq!(arrive(&mut processes, two.id(), 2), Arrival::New { open: 1 }, "another client");
        processes.ended(one.id());
        assert_eq!(processes.len(), 2, "it lives");
        let pid = one.id();
        end(one);
        processes.ended(pid);
        assert_eq!(processes.len(), 1);
        let three = process();
        assert_eq!(arrive(&mut processes, three.id(), 1), Arrival::New { open: 2 });
        end(two);
        end(three);
    }

    #[test]
    fn a_refused_connection_is_not_held() {
        let mut processes = Processes::new(3);
        let one = process();
        let holding = Holding { pid: one.id(), client: client(1) };
        assert_eq!(arrive(&mut processes, one.id(), 1), Arrival::New { open: 1 });
        processes.release(holding);
        processes.release(holding);
        assert!(processes.is_empty() && processes.open.is_empty());
        assert_eq!(arrive(&mut processes, one.id(), 1), Arrival::New { open: 1 });
        end(one);
    }

    #[test]
    fn a_process_that_is_gone_or_was_replaced_is_not_counted() {
        let mut processes = Processes::new(3);
        let one = process();
        let holding = Holding { pid: one.id(), client: client(1) };
        assert_eq!(processes.arrive(holding, || false, |_| Ok(())), Arrival::Unknown);
        assert_eq!(processes.arrive(holding, || true, |_| Err(std::io::ErrorKind::OutOfMemory.into())), Arrival::Unknown);
        end(one);
        assert_eq!(arrive(&mut processes, holding.pid, 1), Arrival::Unknown);
        assert!(processes.is_empty() && processes.open.is_empty());
    }

    #[test]
    fn no_more_processes_are_watched_than_there_is_room_for() {
        let mut processes = Processes::new(1);
        let (one, two) = (process(), process());
        assert_eq!(arrive(&mut processes, one.id(), 1), Arrival::New { open: 1 });
        assert_eq!(arrive(&mut processes, two.id(), 1), Arrival::Unknown);
        end(one);
        end(two);
    }

    #[test]
    fn a_number_that_a_new_process_got_is_a_new_process() {
        let mut processes = Processes::new(3);
        let one = process();
        let pid = one.id();
        assert_eq!(arrive(&mut processes, pid, 1), Arrival::New { open: 1 });
        end(one);
        // Its end was not told yet; whoever has the number now is somebody else.
        assert_ne!(arrive(&mut processes, pid, 1), Arrival::Repeat);
    }

    #[test]
    fn the_parent_is_read_whatever_the_process_is_called() {
        assert_eq!(parent(b"42 (exim4) S 7 42 42 0 -1"), Some(7));
        assert_eq!(parent(b"42 (a) S 1 (b) R 7 42"), Some(7));
        assert_eq!(parent(b"42 (exim4"), None);
        assert_eq!(parent(b""), None);
        let child = process();
        assert_eq!(ancestors(child.id()).first(), Some(&std::process::id()));
        end(child);
        assert!(ancestors(u32::MAX).is_empty());
    }

    #[test]
    fn only_an_ancestor_is_believed_to_wait() {
        assert_eq!(waiting(&[30, 20, 10], Some(10)), Some(10), "behind a shell and timeout");
        assert_eq!(waiting(&[30, 20, 10], Some(99)), Some(30));
        assert_eq!(waiting(&[30, 20, 10], None), Some(30));
        assert_eq!(waiting(&[], Some(10)), None);
    }

    #[test]
    fn a_peer_that_will_send_nothing_more_is_still_there() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!is_gone(&ours));
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!is_gone(&ours));
        drop(theirs);
        assert!(is_gone(&ours));
    }
}
