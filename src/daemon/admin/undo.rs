//! Undoes many bans, some at a time, on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::ban::not_saved;
use super::context::AdminContext;
use crate::client::Client;
use crate::control::answer::{error, object};
use crate::control::bans::UnbanReport;
use crate::daemon::conn::replies::ReplyHandle;
use crate::engine::{Abandoned, Completion};
use crate::geo::Network;

/// Number of unbans that are under way at a time, well below the length of the journal's queue: a ban that is made meanwhile waits for them to
/// be saved before it.
const AT_ONCE: usize = 512;

/// What happens to a request to undo many bans while another is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is refused: an operator can try again.
    Now,
    /// It waits for its turn, since a program that ends does not come again. At most so many wait.
    Next(usize),
}

impl AdminContext {
    /// Has a thread of its own `undo` many bans, one request at a time, and answer with its report, so that other requests are answered
    /// meanwhile.
    ///
    /// # Errors
    /// Another request is carried out and this one may not wait, or the thread could not be started.
    pub(super) fn undo_in_thread(
        &self,
        turn: Turn,
        to: &ReplyHandle,
        undo: impl FnOnce() -> Result<UnbanReport, String> + Send + 'static,
    ) -> Result<(), String> {
        let under_way = Arc::strong_count(&self.unbans) - 1;
        let most = if let Turn::Next(most) = turn { most } else { 0 };
        if under_way > most {
            return Err("the bans of another unban of many are still being undone, try again".to_owned());
        }
        let (turns, to) = (Arc::clone(&self.unbans), to.clone());
        let work = move || {
            let _turn = turns.lock();
            let answer = catch_unwind(AssertUnwindSafe(undo)).unwrap_or_else(|_| Err("internal fault".to_owned()));
            to.answer(answer.map_or_else(|fault| error(&fault), |report| object(&report)));
        };
        let spawned = std::thread::Builder::new().name("unban".into()).spawn(work);
        spawned.map(drop).map_err(|error| format!("a thread cannot be started: {error}"))
    }
}

/// Whose ban is undone.
pub enum Target {
    Client(Client),
    Network(Network),
}

/// Has `unban` undo the bans of these, waits until that is saved, and notes in `report` how many there were.
///
/// # Errors
/// A change was not completed.
pub fn undo(
    clients: impl IntoIterator<Item = Client>,
    networks: impl IntoIterator<Item = Network>,
    report: &mut UnbanReport,
    unban: impl Fn(Target, Completion),
) -> Result<(), String> {
    let mut targets = clients.into_iter().map(Target::Client).chain(networks.into_iter().map(Target::Network)).peekable();
    while targets.peek().is_some() {
        let (sender, results) = channel();
        for target in targets.by_ref().take(AT_ONCE) {
            let sender = sender.clone();
            // The receiver waits for every one.
            unban(target, Completion::new(move |result| drop(sender.send(result))));
        }
        drop(sender);
        for result in results {
            let applied = result.map_err(|Abandoned| "internal fault: the change was not completed".to_owned())?;
            report.unbanned += usize::from(applied.changed);
            report.not_saved = report.not_saved.take().or(not_saved(applied.persisted));
        }
    }
    Ok(())
}
