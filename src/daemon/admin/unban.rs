//! `unban`: of one client or network, of all inside a network, of a rule's, or of all.

use std::collections::BTreeSet;
use std::sync::mpsc::channel;

use ipnet::IpNet;

use super::ban::{not_saved, shown};
use super::context::AdminContext;
use super::list::network_of;
use crate::client::Client;
use crate::control::admin::{UnbanRequest, UnbanTarget};
use crate::control::bans::UnbanReport;
use crate::engine::{Abandoned, Completion};
use crate::event::Scope;
use crate::rule_id::RuleId;
use crate::time::Time;

/// Number of unbans that are under way at a time, well below the length of the journal's queue.
const AT_ONCE: usize = 1024;

/// What to unban.
#[derive(Default)]
struct Targets {
    clients: BTreeSet<Client>,
    networks: BTreeSet<IpNet>,
}

impl AdminContext {
    /// Unbans on behalf of `user`, and returns when everything is saved, or the disk was too slow.
    ///
    /// # Errors
    /// There is no such rule, or the change was not completed.
    pub(super) fn unban(&self, request: &UnbanRequest, user: &str) -> Result<UnbanReport, String> {
        let (now, prefix) = (self.clock.now(), self.engine.policy().prefix);
        let (target, targets) = match &request.what {
            UnbanTarget::One(target) => (shown(*target, prefix), self.one(*target)),
            UnbanTarget::Inside(network) => (shown(*network, prefix), self.banned(request.scope, now, |_, found| network.contains(&found))),
            UnbanTarget::Rule(name) => {
                let rule = self.find_rule(name)?;
                (format!("rule {name}"), self.banned(request.scope, now, |by, _| by == rule))
            }
            UnbanTarget::All => ("all".to_owned(), self.banned(request.scope, now, |_, _| true)),
        };
        let mut report = UnbanReport { target, found: false, unbanned: 0, inside: 0, not_saved: None };
        let clients = targets.clients.into_iter().map(Ok);
        let mut all = clients.chain(targets.networks.into_iter().map(Err)).peekable();
        while all.peek().is_some() {
            let (sender, results) = channel();
            for target in all.by_ref().take(AT_ONCE) {
                let sender = sender.clone();
                // The receiver waits for every one.
                let completion = Completion::new(move |result| drop(sender.send(result)));
                match target {
                    Ok(client) => self.engine.unban(now, client, request.scope, completion),
                    Err(network) => self.engine.unban_network(now, network, completion),
                }
            }
            drop(sender);
            for result in results {
                let applied = result.map_err(|Abandoned| "internal fault: the change was not completed".to_owned())?;
                report.unbanned += usize::from(applied.changed);
                report.not_saved = report.not_saved.or(not_saved(applied.persisted));
            }
        }
        report.found = report.unbanned > 0;
        if let UnbanTarget::One(network) = request.what {
            let inside = self.banned(Scope::All, now, |_, found| network.contains(&found) && found != network);
            report.inside = if is_single(network) { 0 } else { inside.clients.len() + inside.networks.len() };
        }
        let UnbanReport { target, unbanned, .. } = &report;
        match request.what {
            UnbanTarget::One(_) if report.found => log::info!("unbanned {target} by {user}"),
            UnbanTarget::One(_) => log::info!("unban of {target} by {user}: it was not banned"),
            UnbanTarget::Inside(_) => log::info!("unbanned {unbanned} clients and networks inside {target} by {user}"),
            UnbanTarget::Rule(_) | UnbanTarget::All => log::info!("unbanned {target} by {user}: {unbanned} clients and networks"),
        }
        Ok(report)
    }

    /// A client, or a network. An IPv6 client is shown as a network, so a network of that length is both.
    fn one(&self, target: IpNet) -> Targets {
        let prefix = self.engine.policy().prefix;
        let mut targets = Targets::default();
        if is_single(target) || (matches!(target, IpNet::V6(_)) && target.prefix_len() == prefix.bits()) {
            targets.clients.insert(Client::of(target.addr(), prefix));
        }
        // Also one that is not banned here: another process or machine may know of its ban.
        if !is_single(target) && (targets.clients.is_empty() || self.engine.policy().lists.banned.get(target).is_some()) {
            targets.networks.insert(target);
        }
        targets
    }

    /// The banned clients and networks for which `is_wanted`, by rule and network. Networks are banned on every service.
    fn banned(&self, scope: Scope, now: Time, is_wanted: impl Fn(RuleId, IpNet) -> bool) -> Targets {
        let (engine, policy) = (&self.engine, self.engine.policy());
        let mut targets = Targets::default();
        engine.bans().for_each(now, |client, service, ban| {
            if scope.services().contains(&service) && is_wanted(ban.rule, network_of(client, policy.prefix)) {
                targets.clients.insert(client);
            }
        });
        let is_wanted = |ban: &&crate::list::BannedNetwork| {
            ban.is_active(now) && engine.names().find(&ban.rule).is_some_and(|rule| is_wanted(rule, ban.network))
        };
        if scope == Scope::All {
            targets.networks = policy.lists.banned.iter().filter(is_wanted).map(|ban| ban.network).collect();
        }
        targets
    }
}

fn is_single(network: IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}
