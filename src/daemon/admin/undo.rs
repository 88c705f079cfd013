//! Undoes many bans, some at a time.

use std::sync::mpsc::channel;

use ipnet::IpNet;

use super::ban::not_saved;
use crate::client::Client;
use crate::control::bans::UnbanReport;
use crate::engine::{Abandoned, Completion};

/// Number of unbans that are under way at a time, well below the length of the journal's queue: a ban that is made meanwhile waits for them to
/// be saved before it.
const AT_ONCE: usize = 512;

/// Whose ban is undone.
pub enum Target {
    Client(Client),
    Network(IpNet),
}

/// Has `unban` undo the bans of these, waits until that is saved, and notes in `report` how many there were.
///
/// # Errors
/// A change was not completed.
pub fn undo(
    clients: impl IntoIterator<Item = Client>,
    networks: impl IntoIterator<Item = IpNet>,
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
