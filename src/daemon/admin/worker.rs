//! The admin worker: a thread that answers operators' requests, so that a list of a million bans or a large configuration never delays an
//! answer to Exim.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::ban;
use super::context::AdminContext;
use crate::control::admin::AdminRequest;
use crate::control::answer::{END, error, object};
#[cfg(feature = "fleet")]
use crate::control::bans::ForgetReport;
use crate::daemon::conn::peer::Peer;
use crate::daemon::conn::replies::{ReplyHandle, ReplyText};

/// Maximum number of requests that wait for the worker.
const MAX_WAITING: usize = 64;

/// Something for the worker to do.
pub enum AdminTask {
    Answer {
        request: AdminRequest,
        peer: Peer,
        to: ReplyHandle,
    },
    /// Reload the configuration, because SIGHUP was received.
    Reload,
}

/// The event loop's handle to the worker thread, which ends when this is dropped.
pub struct AdminWorker {
    tasks: Option<SyncSender<AdminTask>>,
    thread: Option<JoinHandle<()>>,
}

impl AdminWorker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(mut context: AdminContext) -> io::Result<Self> {
        let (sender, tasks) = sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new().name("worker".into()).spawn(move || context.work(&tasks))?;
        Ok(Self { tasks: Some(sender), thread: Some(thread) })
    }

    /// Queues a task. Returns false if too many are waiting already.
    pub fn send(&self, task: AdminTask) -> bool {
        self.tasks.as_ref().is_some_and(|tasks| tasks.try_send(task).is_ok())
    }
}

impl Drop for AdminWorker {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // The panic hook has already reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

impl AdminContext {
    fn work(&mut self, tasks: &Receiver<AdminTask>) {
        for task in tasks {
            match task {
                AdminTask::Reload => {
                    if let Err(fault) = self.reload() {
                        log::error!("the configuration is refused: {fault}");
                    }
                }
                AdminTask::Answer { request, peer, to } => match catch_unwind(AssertUnwindSafe(|| self.answer(request, peer, &to))) {
                    Ok(Some(answer)) => to.answer(answer),
                    Ok(None) => {}
                    Err(_) => to.answer(error("internal fault")),
                },
            }
        }
    }

    /// The answer to a request; `None` if it follows when a change is saved.
    fn answer(&mut self, request: AdminRequest, peer: Peer, to: &ReplyHandle) -> Option<ReplyText> {
        let own = rustix::process::geteuid().as_raw();
        if request.needs_privilege() && !peer.is_privileged(own) {
            let fault =
                format!("{} may not do this: ban, unban, pause, resume, forget and reload are for root and {}", user(peer.user), user(own));
            return Some(error(&fault).into());
        }
        Some(match request {
            AdminRequest::Status => object(&self.status()).into(),
            AdminRequest::Metrics => (self.metrics.prometheus() + END).into(),
            AdminRequest::List(filter) => self.list(&filter),
            AdminRequest::Why(target) => self.why_target(target).into(),
            AdminRequest::Ban(request) => match ban::ban(&self.engine, self.clock, &request, &user(peer.user), to) {
                Ok(()) => return None,
                Err(fault) => error(&fault).into(),
            },
            AdminRequest::Unban(request) => match self.unban(request, user(peer.user), to) {
                Ok(()) => return None,
                Err(fault) => error(&fault).into(),
            },
            AdminRequest::Release(request) => match self.release(request, to) {
                Ok(()) => return None,
                Err(fault) => error(&fault).into(),
            },
            AdminRequest::Pause(length) => {
                self.pause(length, &user(peer.user), to);
                return None;
            }
            AdminRequest::Resume => {
                self.resume(&user(peer.user), to);
                return None;
            }
            AdminRequest::Forget(node) => self.forget(&node).into(),
            AdminRequest::Reload => match self.reload() {
                Ok(report) => object(&report).into(),
                Err(fault) => error(&fault).into(),
            },
        })
    }

    /// Drops everything that a node of the fleet published.
    fn forget(&self, node: &str) -> String {
        #[cfg(feature = "fleet")]
        if let Some(fleet) = &self.fleet {
            if node == fleet.node() {
                return error("found the name of this node itself, expected that of another");
            }
            return match fleet.forget(node) {
                Ok(()) => object(&ForgetReport { forgetting: node.to_owned(), waiting: fleet.health.error() }),
                Err(fault) => error(&fault),
            };
        }
        error(&format!("found no fleet that {node} could be in, expected [fleet] in the configuration"))
    }
}

/// A user by name, if the name is known.
fn user(id: u32) -> String {
    let user = nix::unistd::User::from_uid(id.into()).ok().flatten();
    user.map_or_else(|| format!("user {id}"), |user| format!("user {} (uid {id})", user.name))
}
