//! The running connection processes of Exim and their clients, which Exim itself does not publish.
//!
//! A pidfd is opened while the process waits for its answer; it becomes readable when the process ends, however it ends (pidfd_open(2)).
//! Ended processes are collected when the number matters, so they wake nobody. A client cannot forge a process: it is the peer that the
//! kernel reports, or one that Exim names and that is an ancestor of that peer.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use ahash::RandomState;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::client::Client;

/// Maximum number of watched processes; each costs a file descriptor.
pub const MAX_PROCESSES: usize = 16_384;
/// Maximum number of clients per process. Exim's have one each; this bounds what anything else can add.
const MAX_CLIENTS: usize = 16;
/// How many ancestors of the peer are considered: `timeout`, a shell and Exim may stand above the helper.
const MAX_GENERATIONS: usize = 5;
/// Bytes read of `/proc/PID/stat`: the parent's PID follows the PID, a name of at most 64 bytes and the state's letter (proc_pid_stat(5)).
const STAT_BYTES: usize = 128;
/// Ended processes taken from epoll at a time.
const EVENT_BATCH: usize = 64;
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A connection process and the client that it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionProcess {
    pub pid: u32,
    pub client: Client,
}

/// The result of [`Processes::register`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// The process has asked about this client before.
    AlreadyCounted,
    /// The process is new, and watched from now on.
    New {
        /// How many watched processes serve the client, this one included.
        open: u32,
    },
    /// The process cannot be watched, so the number of connections is unknown.
    Unwatchable,
    /// No process has this PID, or not the one that was meant.
    WrongProcess,
}

#[derive(Debug)]
pub struct Processes {
    max: usize,
    /// Reports pidfds that have become readable. Closing a pidfd removes it from here.
    epoll: OwnedFd,
    watched: HashMap<u32, WatchedProcess, RandomState>,
    open: HashMap<Client, u32, RandomState>,
}

#[derive(Debug)]
struct WatchedProcess {
    _pidfd: OwnedFd,
    clients: Vec<Client>,
}

impl Processes {
    /// Watches at most `max` processes.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new(max: usize) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { max, epoll, watched: HashMap::default(), open: HashMap::default() })
    }

    /// Counts a process that asks about its client. `is_meant` is called once a pidfd pins the process, and tells whether its PID still belongs
    /// to the process that was meant.
    pub fn register(&mut self, process: ConnectionProcess, is_meant: impl FnOnce() -> bool) -> Registration {
        let ConnectionProcess { pid, client } = process;
        self.forget_ended();
        if let Some(watched) = self.watched.get_mut(&pid) {
            if watched.clients.contains(&client) {
                return Registration::AlreadyCounted;
            }
            if watched.clients.len() >= MAX_CLIENTS {
                return Registration::Unwatchable;
            }
            if !is_meant() {
                return Registration::WrongProcess;
            }
            watched.clients.push(client);
        } else {
            if self.watched.len() >= self.max {
                return Registration::Unwatchable;
            }
            let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Registration::WrongProcess };
            let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
                Ok(pidfd) if is_meant() => pidfd,
                Ok(_) | Err(Errno::SRCH) => return Registration::WrongProcess,
                Err(_) => return Registration::Unwatchable,
            };
            if epoll::add(&self.epoll, &pidfd, epoll::EventData::new_u64(pid.into()), epoll::EventFlags::IN).is_err() {
                return Registration::Unwatchable;
            }
            self.watched.insert(pid, WatchedProcess { _pidfd: pidfd, clients: vec![client] });
        }
        let open = self.open.entry(client).or_default();
        *open += 1;
        Registration::New { open: *open }
    }

    /// Stops counting a connection, because it was refused.
    pub fn release(&mut self, process: ConnectionProcess) {
        if let Some(watched) = self.watched.get_mut(&process.pid)
            && let Some(index) = watched.clients.iter().position(|client| *client == process.client)
        {
            watched.clients.swap_remove(index);
            if watched.clients.is_empty() {
                self.watched.remove(&process.pid);
            }
            count_down(&mut self.open, process.client);
        }
    }

    /// Forgets processes that have ended.
    pub fn forget_ended(&mut self) {
        if self.watched.is_empty() {
            return;
        }
        let mut events = [MaybeUninit::uninit(); EVENT_BATCH];
        loop {
            let ended = match epoll::wait(&self.epoll, &mut events, Some(&NO_WAIT)) {
                Ok((ended, _)) => &*ended,
                Err(Errno::INTR) => continue,
                Err(error) => return log::error!("ended connection processes cannot be collected: {error}"),
            };
            for event in ended {
                let process = u32::try_from(event.data.u64()).ok().and_then(|pid| self.watched.remove(&pid));
                for client in process.into_iter().flat_map(|process| process.clients) {
                    count_down(&mut self.open, client);
                }
            }
            if ended.len() < EVENT_BATCH {
                return;
            }
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.watched.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }
}

fn count_down(open: &mut HashMap<Client, u32, RandomState>, client: Client) {
    if let Some(count) = open.get_mut(&client) {
        *count -= 1;
        if *count == 0 {
            open.remove(&client);
        }
    }
}

/// Whether the peer has closed its socket. One that has only shut down its sending side is still there.
#[must_use]
pub fn has_hung_up(socket: &impl AsFd) -> bool {
    // Without requested events poll reports only HUP and ERR.
    poll(&mut [PollFd::new(socket, PollFlags::empty())], Some(&NO_WAIT)).is_ok_and(|count| count > 0)
}

/// The ancestors of a process according to `/proc`, its parent first, read one by one as they are asked for. Ends where `/proc` may not be
/// read.
pub fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(parent_pid(pid), |pid| parent_pid(*pid)).take_while(|pid| *pid > 1).take(MAX_GENERATIONS)
}

fn parent_pid(pid: u32) -> Option<u32> {
    let mut stat = [0; STAT_BYTES];
    // One read suffices: procfs fills the buffer.
    let length = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut stat)).ok()?;
    parse_parent(stat.get(..length)?)
}

/// The parent in the text of `/proc/PID/stat`, which is `PID (NAME) STATE PARENT …`. The name may hold spaces and parentheses.
fn parse_parent(stat: &[u8]) -> Option<u32> {
    let behind_name = stat.get(memchr::memrchr(b')', stat)? + 1..)?;
    let word = behind_name.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(1)?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::process::{Child, Command};

    fn client(last: u8) -> Client {
        Client::from(Ipv4Addr::new(192, 0, 2, last))
    }

    /// A process that runs until it is killed.
    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn register(processes: &mut Processes, pid: u32, last: u8) -> Registration {
        processes.register(ConnectionProcess { pid, client: client(last) }, || true)
    }

    #[test]
    fn each_process_counts_once_until_it_ends() {
        let mut processes = Processes::new(3).unwrap();
        let (one, two) = (sleeper(), sleeper());
        assert_eq!(register(&mut processes, one.id(), 1), Registration::New { open: 1 });
        assert_eq!(register(&mut processes, one.id(), 1), Registration::AlreadyCounted);
        assert_eq!(register(&mut processes, two.id(), 1), Registration::New { open: 2 });
        assert_eq!(register(&mut processes, two.id(), 2), Registration::New { open: 1 }, "another client");
        processes.forget_ended();
        assert_eq!(processes.len(), 2, "both are alive");
        end(one);
        processes.forget_ended();
        assert_eq!(processes.len(), 1);
        let three = sleeper();
        assert_eq!(register(&mut processes, three.id(), 1), Registration::New { open: 2 });
        end(two);
        end(three);
    }

    #[test]
    fn a_refused_connection_is_not_counted() {
        let mut processes = Processes::new(3).unwrap();
        let one = sleeper();
        let process = ConnectionProcess { pid: one.id(), client: client(1) };
        assert_eq!(register(&mut processes, one.id(), 1), Registration::New { open: 1 });
        processes.release(process);
        processes.release(process);
        assert!(processes.is_empty() && processes.open.is_empty());
        assert_eq!(register(&mut processes, one.id(), 1), Registration::New { open: 1 });
        end(one);
    }

    #[test]
    fn a_process_that_ended_or_was_replaced_is_not_counted() {
        let mut processes = Processes::new(3).unwrap();
        let one = sleeper();
        let process = ConnectionProcess { pid: one.id(), client: client(1) };
        assert_eq!(processes.register(process, || false), Registration::WrongProcess);
        let watched = ConnectionProcess { pid: std::process::id(), client: client(1) };
        assert_eq!(processes.register(watched, || true), Registration::New { open: 1 });
        assert_eq!(processes.register(ConnectionProcess { client: client(2), ..watched }, || false), Registration::WrongProcess);
        processes.release(watched);
        end(one);
        for pid in [process.pid, 0, u32::MAX] {
            assert_eq!(register(&mut processes, pid, 1), Registration::WrongProcess);
        }
        assert!(processes.is_empty() && processes.open.is_empty());
    }

    #[test]
    fn all_ended_processes_are_forgotten_at_once() {
        let mut processes = Processes::new(1000).unwrap();
        let children: Vec<Child> = (0..EVENT_BATCH + 1).map(|_| sleeper()).collect();
        for child in &children {
            register(&mut processes, child.id(), 1);
        }
        assert_eq!(processes.len(), children.len());
        children.into_iter().for_each(end);
        processes.forget_ended();
        assert!(processes.is_empty() && processes.open.is_empty());
    }

    #[test]
    fn at_most_max_processes_are_watched() {
        let mut processes = Processes::new(1).unwrap();
        let (one, two) = (sleeper(), sleeper());
        assert_eq!(register(&mut processes, one.id(), 1), Registration::New { open: 1 });
        assert_eq!(register(&mut processes, two.id(), 1), Registration::Unwatchable);
        end(one);
        end(two);
    }

    #[test]
    fn a_reused_process_number_is_a_new_process() {
        let mut processes = Processes::new(3).unwrap();
        let one = sleeper();
        let pid = one.id();
        assert_eq!(register(&mut processes, pid, 1), Registration::New { open: 1 });
        end(one);
        // Its end has not been collected, but the number is now free for another process.
        assert_ne!(register(&mut processes, pid, 1), Registration::AlreadyCounted);
    }

    #[test]
    fn the_parent_is_parsed_whatever_the_process_name() {
        assert_eq!(parse_parent(b"42 (exim4) S 7 42 42 0 -1"), Some(7));
        assert_eq!(parse_parent(b"42 (a) S 1 (b) R 7 42"), Some(7));
        assert_eq!(parse_parent(b"42 (exim4"), None);
        assert_eq!(parse_parent(b""), None);
        let child = sleeper();
        // In a container the test may be process 1, or its parent may be outside.
        let above = [std::process::id(), std::os::unix::process::parent_id()].into_iter().filter(|pid| *pid > 1);
        assert!(ancestors(child.id()).zip(above).all(|(found, expected)| found == expected));
        assert_eq!(parent_pid(child.id()), Some(std::process::id()));
        end(child);
        assert_eq!(ancestors(u32::MAX).next(), None);
    }

    #[test]
    fn a_peer_that_shut_down_its_sending_side_has_not_hung_up() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!has_hung_up(&ours));
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!has_hung_up(&ours));
        drop(theirs);
        assert!(has_hung_up(&ours));
    }
}
