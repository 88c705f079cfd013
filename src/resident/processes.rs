//! Which connection processes of Exim live, and for which clients: Exim itself tells nobody.
//!
//! A pidfd of the process is taken while it waits for its answer, and becomes readable when it ends, however it ends. Nobody is woken by
//! that: who has ended is asked for when it matters. Nobody's word is taken for a process: the peer is what the kernel says, and another
//! process is believed only if it is an ancestor of the peer.

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

/// So many processes are watched at most, if there are file descriptors for them: each costs one.
pub const MOST_PROCESSES: usize = 16_384;
/// One connection process has one client; an oddity must not make its list grow.
const MOST_CLIENTS: usize = 16;
/// So far up the process that waits is looked for: the helper, `timeout`, a shell, Exim.
const MOST_GENERATIONS: usize = 5;
/// So much of `/proc/PID/stat` is read: the parent stands behind a number, a name of 64 bytes at most and a letter.
const STAT_LENGTH: usize = 128;
/// How many ended processes are taken at a time.
const EVENTS: usize = 64;
/// No time to wait.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

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
    /// It is not the process that is meant, or there is none of this number.
    Another,
}

/// The processes that are watched.
#[derive(Debug)]
pub struct Processes {
    most: usize,
    /// Gathers the pidfds that have become readable.
    epoll: OwnedFd,
    watched: HashMap<u32, Process, RandomState>,
    open: HashMap<Client, u32, RandomState>,
}

#[derive(Debug)]
struct Process {
    /// While it is open it is waited for.
    _pidfd: OwnedFd,
    clients: Vec<Client>,
}

impl Processes {
    /// None yet, and `most` at a time.
    ///
    /// # Errors
    /// The kernel's: no file descriptor is left.
    pub fn new(most: usize) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { most, epoll, watched: HashMap::default(), open: HashMap::default() })
    }

    /// The process `pid` asks for `client`. `is_it` is asked once the process is held fast: whether this is the process that is meant, and
    /// none that got its number by now.
    pub fn arrive(&mut self, holding: Holding, is_it: impl FnOnce() -> bool) -> Arrival {
        let Holding { pid, client } = holding;
        self.forget_ended();
        if let Some(process) = self.watched.get_mut(&pid) {
            if process.clients.contains(&client) {
                return Arrival::Repeat;
            }
            if process.clients.len() >= MOST_CLIENTS {
                return Arrival::Unknown;
            }
            if !is_it() {
                return Arrival::Another;
            }
            process.clients.push(client);
        } else {
            if self.watched.len() >= self.most {
                return Arrival::Unknown;
            }
            let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Arrival::Another };
            let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
                Ok(pidfd) if is_it() => pidfd,
                Ok(_) | Err(Errno::SRCH) => return Arrival::Another,
                Err(_) => return Arrival::Unknown,
            };
            if epoll::add(&self.epoll, &pidfd, epoll::EventData::new_u64(pid.into()), epoll::EventFlags::IN).is_err() {
                return Arrival::Unknown;
            }
            self.watched.insert(pid, Process { _pidfd: pidfd, clients: vec![client] });
        }
        let open = self.open.entry(client).or_default();
        *open += 1;
        Arrival::New { open: *open }
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

    /// Forgets the processes that have ended.
    pub fn forget_ended(&mut self) {
        if self.watched.is_empty() {
            return;
        }
        let mut events = [MaybeUninit::uninit(); EVENTS];
        loop {
            let ended = match epoll::wait(&self.epoll, &mut events, Some(&NOW)) {
                Ok((ended, _)) => &*ended,
                Err(Errno::INTR) => continue,
                Err(error) => return log::error!("which processes have ended cannot be seen: {error}"),
            };
            for event in ended {
                let process = u32::try_from(event.data.u64()).ok().and_then(|pid| self.watched.remove(&pid));
                for client in process.into_iter().flat_map(|process| process.clients) {
                    close(&mut self.open, client);
                }
            }
            if ended.len() < EVENTS {
                return;
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

/// Whether the other end of a connection is gone for good; one that only will send nothing more is still there.
#[must_use]
pub fn is_gone(socket: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(socket, PollFlags::empty())], Some(&NOW)).is_ok_and(|count| count > 0)
}

/// The ancestors of the process `pid`, its parent first, as `/proc` has them: each is looked for when it is asked for. None if that may
/// not be read.
pub fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(parent_of(pid), |pid| parent_of(*pid)).take_while(|pid| *pid > 1).take(MOST_GENERATIONS)
}

/// The parent of the process `pid`.
fn parent_of(pid: u32) -> Option<u32> {
    let mut stat = [0; STAT_LENGTH];
    // The kernel gives as much of it as there is room for.
    let length = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut stat)).ok()?;
    parent(stat.get(..length)?)
}

/// The parent in the text of `/proc/PID/stat`: `PID (NAME) STATE PARENT …`, where the name may hold anything.
fn parent(stat: &[u8]) -> Option<u32> {
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

    /// A process that lives until it is killed.
    fn process() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn arrive(processes: &mut Processes, pid: u32, last: u8) -> Arrival {
        processes.arrive(Holding { pid, client: client(last) }, || true)
    }

    #[test]
    fn each_process_counts_once_and_until_it_ends() {
        let mut processes = Processes::new(3).unwrap();
        let (one, two) = (process(), process());
        assert_eq!(arrive(&mut processes, one.id(), 1), Arrival::New { open: 1 });
        assert_eq!(arrive(&mut processes, one.id(), 1), Arrival::Repeat);
        assert_eq!(arrive(&mut processes, two.id(), 1), Arrival::New { open: 2 });
        assert_eq!(arrive(&mut processes, two.id(), 2), Arrival::New { open: 1 }, "another client");
        processes.forget_ended();
        assert_eq!(processes.len(), 2, "they live");
        end(one);
        processes.forget_ended();
        assert_eq!(processes.len(), 1);
        let three = process();
        assert_eq!(arrive(&mut processes, three.id(), 1), Arrival::New { open: 2 });
        end(two);
        end(three);
    }

    #[test]
    fn a_refused_connection_is_not_held() {
        let mut processes = Processes::new(3).unwrap();
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
        let mut processes = Processes::new(3).unwrap();
        let one = process();
        let holding = Holding { pid: one.id(), client: client(1) };
        assert_eq!(processes.arrive(holding, || false), Arrival::Another);
        let watched = Holding { pid: std::process::id(), client: client(1) };
        assert_eq!(processes.arrive(watched, || true), Arrival::New { open: 1 });
        assert_eq!(processes.arrive(Holding { client: client(2), ..watched }, || false), Arrival::Another);
        processes.release(watched);
        end(one);
        for pid in [holding.pid, 0, u32::MAX] {
            assert_eq!(arrive(&mut processes, pid, 1), Arrival::Another);
        }
        assert!(processes.is_empty() && processes.open.is_empty());
    }

    #[test]
    fn many_that_ended_are_forgotten_at_once() {
        let mut processes = Processes::new(1000).unwrap();
        let children: Vec<Child> = (0..EVENTS + 1).map(|_| process()).collect();
        for child in &children {
            arrive(&mut processes, child.id(), 1);
        }
        assert_eq!(processes.len(), children.len());
        children.into_iter().for_each(end);
        processes.forget_ended();
        assert!(processes.is_empty() && processes.open.is_empty());
    }

    #[test]
    fn no_more_processes_are_watched_than_there_is_room_for() {
        let mut processes = Processes::new(1).unwrap();
        let (one, two) = (process(), process());
        assert_eq!(arrive(&mut processes, one.id(), 1), Arrival::New { open: 1 });
        assert_eq!(arrive(&mut processes, two.id(), 1), Arrival::Unknown);
        end(one);
        end(two);
    }

    #[test]
    fn a_number_that_a_new_process_got_is_a_new_process() {
        let mut processes = Processes::new(3).unwrap();
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
        // In a container the test may be the first process, or its parent outside.
        let above = [std::process::id(), std::os::unix::process::parent_id()].into_iter().filter(|pid| *pid > 1);
        assert!(ancestors(child.id()).zip(above).all(|(found, expected)| found == expected));
        assert_eq!(parent_of(child.id()), Some(std::process::id()));
        end(child);
        assert_eq!(ancestors(u32::MAX).next(), None);
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
