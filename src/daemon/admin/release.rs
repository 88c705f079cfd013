//! `release`: another program takes back bans that it made itself.

use std::sync::Arc;

use super::ban::shown_network;
use super::context::AdminContext;
use super::undo::{Target, Turn, undo};
use crate::client::{Client, is_single};
use crate::clock::Clock;
use crate::control::admin::ReleaseRequest;
use crate::control::answer::object;
use crate::control::bans::{UnbanReport, epoch};
use crate::daemon::conn::replies::ReplyHandle;
use crate::engine::{Engine, Reach};
use crate::event::Scope;
use crate::geo::Network;
use crate::list::BannedNetwork;
use crate::table::{Ban, Until};
use crate::time::Time;

/// A ban may end so many seconds later than the other program said: both ends are rounded, and the two clocks are read one after the other.
const ROUNDING: i64 = 2;

/// Number of requests to take back all bans of a name that may wait for their turn: a program that ends sends one for each of its names.
const MAX_WAITING: usize = 64;

impl AdminContext {
    /// Takes back what `request` names, and answers when that is saved. It is no error if there is nothing: the ban may have ended. All bans of
    /// a name are taken back by a thread of its own.
    ///
    /// # Errors
    /// The change was not completed, or too many requests wait for their turn.
    pub(super) fn release(&self, request: ReleaseRequest, to: &ReplyHandle) -> Result<(), String> {
        let is_one = request.target.is_some();
        let release = Release { engine: Arc::clone(&self.engine), clock: self.clock, request };
        if is_one {
            to.answer(object(&release.run()?));
            return Ok(());
        }
        self.undo_in_thread(Turn::Next(MAX_WAITING), to, move || release.run())
    }
}

/// A request that is carried out.
struct Release {
    engine: Arc<Engine>,
    clock: Clock,
    request: ReleaseRequest,
}

impl Release {
    /// An end by the wall clock in table time; -1 stays.
    fn in_table_time(&self, until: i64) -> i64 {
        let end = u64::try_from(until).map(|until| self.clock.table_time(Time::from_secs(until)));
        end.map_or(until, |end| i64::try_from(end.secs()).unwrap_or(i64::MAX))
    }

    fn run(&self) -> Result<UnbanReport, String> {
        let (request, now, policy) = (&self.request, self.clock.now(), self.engine.policy());
        let target = request.target.map_or_else(|| format!("rule {}", request.rule), |target| shown_network(target, policy.prefix));
        let mut report = UnbanReport { target, found: false, unbanned: 0, inside: 0, not_saved: None };
        // Whoever may only ask must not be able to add names.
        let Some(rule) = self.engine.names().find(&request.rule) else { return Ok(report) };
        let last = request.until.map(|until| self.in_table_time(until));
        let is_own = |ban: &Ban| ban.rule == rule && ends_by(ban.until, last);
        let (clients, networks) = match request.target {
            Some(Network::Block(block)) if is_single(block) => (vec![Client::of(block.addr(), policy.prefix)], Vec::new()),
            Some(target) => (Vec::new(), vec![target]),
            None => {
                let mut clients = Vec::new();
                self.engine.bans().for_each(now, |client, _, ban| clients.extend(is_own(&ban).then_some(client)));
                clients.dedup();
                (clients, policy.lists.banned.iter().map(|ban| ban.network).collect())
            }
        };
        let is_own_network = |ban: &BannedNetwork| ban.rule == rule && ends_by(ban.until.map_or(Until::NEVER, Until::at), last);
        let networks: Vec<Network> =
            networks.into_iter().filter(|network| policy.lists.banned.get(*network).is_some_and(is_own_network)).collect();
        undo(clients, networks, &mut report, |target, completion| {
            let now = self.clock.now();
            match target {
                Target::Client(client) => self.engine.release(now, client, Scope::All, is_own, Reach::Everywhere, completion),
                Target::Network(network) => self.engine.release_network(now, network, is_own_network, Reach::Everywhere, completion),
            }
        })?;
        report.found = report.unbanned > 0;
        match request.target {
            Some(_) if report.found => log::info!("unbanned {} for {}", report.target, request.rule),
            Some(_) => {}
            None => log::info!("unbanned all {} clients and networks of {}", report.unbanned, request.rule),
        }
        Ok(report)
    }
}

/// Whether a ban ends at `last`, in seconds of table time, or before. Without `last`, every one does.
fn ends_by(until: Until, last: Option<i64>) -> bool {
    match (last, epoch(until)) {
        (None | Some(-1), _) => true,
        (Some(_), -1) => false,
        (Some(last), until) => until <= last.saturating_add(ROUNDING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_that_ends_later_than_the_one_taken_back_is_another() {
        let until = |seconds| Until::at(Time::from_secs(seconds));
        for (until, last, expected) in [
            (until(100), Some(100), true),
            (until(102), Some(100), true),
            (until(103), Some(100), false),
            (until(99), Some(100), true),
            (Until::NEVER, Some(100), false),
            (Until::NEVER, Some(-1), true),
            (Until::NEVER, None, true),
            (until(100), Some(-1), true),
        ] {
            assert_eq!(ends_by(until, last), expected, "{until} {last:?}");
        }
    }
}
