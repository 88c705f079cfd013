//! `unban`: of one client or network, of all inside a network, of a rule's, or of all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;

use super::ban::{not_saved, shown, shown_network};
use super::context::AdminContext;
use super::undo::{Target, Turn, undo};
use super::undone::{Undone, UndoneBans};
use crate::client::{Client, is_single};
use crate::clock::Clock;
use crate::control::admin::{UnbanRequest, UnbanTarget};
use crate::control::answer::object;
use crate::control::bans::UnbanReport;
use crate::daemon::conn::replies::ReplyHandle;
use crate::engine::{Applied, Completion, Engine, Persisted, Reach, SLOW};
use crate::event::Scope;
use crate::geo::{Network, OriginEntry};
use crate::rule_id::RuleId;
use crate::time::Time;

/// How long to wait for the disk before an unban of many is reported as not saved.
const LAST_SAVE: Duration = Duration::from_secs(60);

/// What to unban.
#[derive(Default)]
struct Targets {
    clients: BTreeSet<Client>,
    networks: BTreeSet<Network>,
}

/// An unban that is carried out.
struct Unban {
    engine: Arc<Engine>,
    clock: Clock,
    request: UnbanRequest,
    /// The rule whose bans end, if that is what was asked for.
    rule: Option<RuleId>,
    user: String,
    undone: Arc<Mutex<UndoneBans>>,
}

impl AdminContext {
    /// Unbans on behalf of `user`, and answers when everything is saved, or the disk was too slow. Many bans are undone by a thread of its own,
    /// so that other requests are answered meanwhile.
    ///
    /// # Errors
    /// There is no such rule, a network is banned on more services, or as many as possible are being unbanned already.
    pub(super) fn unban(&self, request: UnbanRequest, user: String, to: &ReplyHandle) -> Result<(), String> {
        let rule = if let UnbanTarget::Rule(name) = &request.what { Some(self.find_rule(name)?) } else { None };
        let is_one = matches!(request.what, UnbanTarget::One(_));
        let unban = Unban { engine: Arc::clone(&self.engine), clock: self.clock, request, rule, user, undone: Arc::clone(&self.undone) };
        if is_one {
            to.answer(object(&unban.run()?));
            return Ok(());
        }
        self.undo_in_thread(Turn::Now, to, move || unban.run())
    }
}

impl Unban {
    fn run(&self) -> Result<UnbanReport, String> {
        let (now, prefix, scope) = (self.clock.now(), self.engine.policy().prefix, self.request.scope);
        let mut single = None;
        let (sender, forgetting) = channel();
        let forgotten = Completion::new(move |result| drop(sender.send(result)));
        let (target, targets) = match &self.request.what {
            UnbanTarget::One(target) => {
                forgotten.complete(Applied { changed: false, persisted: Persisted::Yes });
                let targets = match target {
                    Network::Block(block) => self.one(*block)?,
                    Network::Origin(entry) => self.origin(*entry)?,
                };
                let client = targets.clients.first();
                single = client.map(|client| client.network(prefix));
                (client.map_or_else(|| shown_network(*target, prefix), |client| client.display(prefix).to_string()), targets)
            }
            UnbanTarget::Inside(network) => {
                self.engine.forget_all_earlier_bans(None, Some(*network), scope, forgotten);
                (shown(*network, prefix), self.banned(scope, now, |_, found| found.block().is_some_and(|found| network.contains(&found))))
            }
            UnbanTarget::Rule(name) => {
                self.engine.forget_all_earlier_bans(self.rule, None, scope, forgotten);
                (format!("rule {name}"), self.banned(scope, now, |by, _| Some(by) == self.rule))
            }
            UnbanTarget::All => {
                self.engine.forget_all_earlier_bans(None, None, scope, forgotten);
                ("all".to_owned(), self.banned(scope, now, |_, _| true))
            }
        };
        let mut report = UnbanReport { target, found: false, unbanned: 0, inside: 0, not_saved: None };
        undo(targets.clients, targets.networks, &mut report, |target, completion| {
            let now = self.clock.now();
            match (target, self.rule) {
                // Another rule, or an operator, may have banned the client on the other service.
                (Target::Client(client), Some(rule)) => {
                    self.engine.release(now, client, scope, |ban| ban.rule == rule, Reach::Everywhere, completion)
                }
                (Target::Client(client), None) => self.engine.unban(now, client, scope, completion),
                (Target::Network(network), _) => self.engine.unban_network(now, network, completion),
            }
        })?;
        // Saved before everything else, but there may be nothing else.
        if let Ok(Ok(applied)) = forgetting.recv() {
            report.not_saved = report.not_saved.take().or(not_saved(applied.persisted));
        }
        if report.not_saved.as_deref() == Some(SLOW) && !matches!(self.request.what, UnbanTarget::One(_)) {
            // Of many, some are saved late where the disk is busy with them: only what stays unsaved is worth a word.
            let (sender, saved) = channel();
            self.engine.when_all_saved(move |persisted| drop(sender.send(persisted)));
            if saved.recv_timeout(LAST_SAVE) == Ok(Persisted::Yes) {
                report.not_saved = None;
            }
        }
        report.found = report.unbanned > 0;
        if let UnbanTarget::One(target) = self.request.what {
            report.inside = self.number_inside(target, now);
        }
        self.log(&report);
        // What was not banned is remembered too: a fleet, or another process on the same state file, may have had its ban.
        let named = match self.request.what {
            UnbanTarget::One(Network::Block(network)) => Some(single.unwrap_or(network)),
            UnbanTarget::One(Network::Origin(_)) | UnbanTarget::Inside(_) | UnbanTarget::Rule(_) | UnbanTarget::All => None,
        };
        self.undone.lock().remember(Undone { at: now, by: self.user.as_str().into(), what: self.request.what.clone() }, named);
        Ok(report)
    }

    fn log(&self, report: &UnbanReport) {
        let (UnbanReport { target, unbanned, .. }, user) = (report, &self.user);
        match self.request.what {
            UnbanTarget::One(_) if report.found => log::info!("unbanned {target} by {user}"),
            UnbanTarget::One(_) => log::info!("unban of {target} by {user}: it was not banned"),
            UnbanTarget::Inside(_) => log::info!("unbanned {unbanned} clients and networks inside {target} by {user}"),
            UnbanTarget::Rule(_) | UnbanTarget::All => log::info!("unbanned {target} by {user}: {unbanned} clients and networks"),
        }
    }

    /// A client, or a network. An IPv6 client is shown as a network, so a network of that length is both, and a smaller one is part of a
    /// client unless it is banned by itself.
    ///
    /// # Errors
    /// The network is banned on more services than those where it is to be unbanned.
    fn one(&self, target: IpNet) -> Result<Targets, String> {
        let (policy, scope) = (self.engine.policy(), self.request.scope);
        let mut targets = Targets::default();
        let ban = policy.lists.banned.get(target).filter(|_| !is_single(target));
        let is_banned = ban.is_some_and(|ban| scope.covers(ban.scope));
        let is_in_client = is_single(target) || (matches!(target, IpNet::V6(_)) && target.prefix_len() >= policy.prefix.bits());
        let is_client = is_in_client && (is_single(target) || target.prefix_len() == policy.prefix.bits() || !is_banned);
        // Also what is not banned here: another process or machine may know of its ban.
        if is_client {
            targets.clients.insert(Client::of(target.addr(), policy.prefix));
        }
        if is_banned || (!is_in_client && scope == Scope::All) {
            targets.networks.insert(target.into());
        }
        if let Some(ban) = ban.filter(|_| targets.clients.is_empty() && targets.networks.is_empty()).filter(|ban| ban.scope == Scope::All) {
            let network = ban.network;
            return Err(format!("found the scope {}, expected all: the ban of {network} refuses on every service", scope.as_str()));
        }
        Ok(targets)
    }

    /// A system or a country.
    ///
    /// # Errors
    /// It is banned on more services than those where it is to be unbanned.
    fn origin(&self, entry: OriginEntry) -> Result<Targets, String> {
        let (policy, scope) = (self.engine.policy(), self.request.scope);
        if policy.lists.banned.get(entry).is_some_and(|ban| !scope.covers(ban.scope)) {
            return Err(format!("found the scope {}, expected all: the ban of {entry} refuses on every service", scope.as_str()));
        }
        Ok(Targets { networks: [entry.into()].into(), ..Targets::default() })
    }

    /// How many clients and networks are banned by themselves inside `target`, and only clients of a system or a country.
    fn number_inside(&self, target: Network, now: Time) -> usize {
        let policy = self.engine.policy();
        let inside = match target {
            Network::Block(target) if is_single(target) => return 0,
            Network::Block(target) => {
                self.banned(Scope::All, now, |_, found| found.block().is_some_and(|found| target.contains(&found) && found != target))
            }
            Network::Origin(entry) => {
                let is_client = |found: IpNet| policy.geo.belongs(Client::of(found.addr(), policy.prefix), entry);
                let banned = self.banned(Scope::All, now, |_, found| found.block().is_some_and(is_client));
                return banned.clients.len();
            }
        };
        inside.clients.len() + inside.networks.len()
    }

    /// The banned clients and networks for which `is_wanted`, by rule and network. A network is unbanned if it is banned nowhere else.
    fn banned(&self, scope: Scope, now: Time, is_wanted: impl Fn(RuleId, Network) -> bool) -> Targets {
        let (engine, policy) = (&self.engine, self.engine.policy());
        let mut targets = Targets::default();
        engine.bans().for_each(now, |client, service, ban| {
            if scope.services().contains(&service) && is_wanted(ban.rule, client.network(policy.prefix).into()) {
                targets.clients.insert(client);
            }
        });
        let is_wanted =
            |ban: &&crate::list::BannedNetwork| ban.is_active(now) && scope.covers(ban.scope) && is_wanted(ban.rule, ban.network);
        targets.networks = policy.lists.banned.iter().filter(is_wanted).map(|ban| ban.network).collect();
        targets
    }
}
