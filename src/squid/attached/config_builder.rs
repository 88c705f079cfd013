//! Builds a policy from the configuration lines that the daemon sends.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::client::Ipv6Prefix;
use crate::control::subscribe::{List, RuleLine};
use crate::crawler::{Crawlers, known};
use crate::geo::{AskedOrigins, Geo, OriginEntry};
use crate::list::{ListSource, Lists, Networks, OwnAddresses};
use crate::policy::{DEFAULT_FALSE_BAN_SHARE, OnFailure, Policy};
use crate::rule::RuleSet;
use crate::rule_id::RuleNames;

/// The configuration being received, and the thread that may still be building the previous one.
#[derive(Default)]
pub struct ConfigBuilder {
    pub lines: ConfigLines,
    /// Sorting a million networks takes a while, and answers and bans must not wait for it, so another thread does it.
    building: Option<JoinHandle<io::Result<()>>>,
    compiled: Arc<Mutex<Compiled>>,
}

/// The rules that were compiled last: nearly always, a new configuration differs in its lists alone, such as by the address of a name.
#[derive(Default)]
pub struct Compiled(Option<(Vec<RuleLine>, Arc<RuleSet>)>);

impl Compiled {
    fn rules(&mut self, lines: Vec<RuleLine>, names: &RuleNames) -> Result<Arc<RuleSet>, String> {
        if let Some((known, rules)) = &self.0
            && *known == lines
        {
            return Ok(Arc::clone(rules));
        }
        let rules = Arc::new(RuleSet::new(lines.iter().cloned().map(|line| line.into_rule(names)).collect())?);
        self.0 = Some((lines, Arc::clone(&rules)));
        Ok(rules)
    }
}

impl ConfigBuilder {
    /// Starts building the configuration, which is complete now. It comes into force once it is built, and after the previous one.
    pub fn build(
        &mut self,
        names: Arc<RuleNames>,
        origins: Arc<AskedOrigins>,
        put_in_force: impl FnOnce(Policy) + Send + 'static,
    ) -> io::Result<()> {
        let lines = std::mem::take(&mut self.lines);
        let (mut previous, compiled) = (Self { building: self.building.take(), ..Self::default() }, Arc::clone(&self.compiled));
        let build = move || {
            let policy = lines.into_policy(origins, &names, &mut compiled.lock()).map_err(invalid)?;
            previous.finish()?;
            put_in_force(policy);
            Ok(())
        };
        self.building = Some(std::thread::Builder::new().name("lists".into()).spawn(build)?);
        Ok(())
    }

    /// Returns the error of a configuration whose thread has ended.
    pub fn check(&mut self) -> io::Result<()> {
        if self.building.as_ref().is_some_and(JoinHandle::is_finished) { self.finish() } else { Ok(()) }
    }

    /// Waits until the configuration is in force.
    pub fn finish(&mut self) -> io::Result<()> {
        let built = self.building.take().map(JoinHandle::join);
        built.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(io::Error::other("internal fault")))
    }
}

/// The error for a line that violates the subscribe protocol.
pub fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The parsed lines of one configuration.
#[derive(Default)]
pub struct ConfigLines {
    pub prefix: Ipv6Prefix,
    pub on_failure: OnFailure,
    pub rules: Vec<RuleLine>,
    pub listed: Vec<(List, ipnet::IpNet)>,
    pub denied_origins: Vec<OriginEntry>,
    /// The names of the crawlers of which the daemon wants to know.
    pub crawlers: Vec<String>,
}

impl ConfigLines {
    /// The policy. Where clients belong, the daemon has said in `origins`.
    pub fn into_policy(self, origins: Arc<AskedOrigins>, names: &RuleNames, compiled: &mut Compiled) -> Result<Policy, String> {
        let networks = |wanted: List| self.listed.iter().filter(move |(list, _)| *list == wanted).map(|(_, network)| *network);
        let source = |list: List, name: &str| vec![ListSource::new(name, networks(list))];
        let addresses = |list: List| networks(list).map(|network| network.addr());
        let mut lists = Lists::default();
        lists.set_own(OwnAddresses::new(addresses(List::Own), addresses(List::Gateway)));
        lists.set_ignoreip(source(List::IgnoreIp, "the daemon's ignoreip"));
        lists.set_trusted_proxies(source(List::TrustedProxies, "the daemon's trusted_proxies"));
        lists.set_deny(source(List::Deny, "the daemon's deny lists"));
        lists.set_denied_origins(self.denied_origins.into_iter().map(|entry| (entry, "the daemon's deny lists".into())).collect());
        Ok(Policy {
            rules: compiled.rules(self.rules, names)?,
            lists,
            prefix: self.prefix,
            on_failure: self.on_failure,
            false_ban_share: DEFAULT_FALSE_BAN_SHARE,
            geo: Geo::Daemon(origins),
            crawlers: Crawlers::new(self.crawlers.iter().map(|name| known::crawler(name, Networks::default())).collect())?,
            pause: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_compiled_again_only_if_they_have_changed() {
        let names = RuleNames::default();
        let mut compiled = Compiled::default();
        let mut build = |path: &str, address: &str| {
            let policy = Policy::for_tests(&format!("[[rule]]\nname = 'admin'\npath = '{path}'"), &names);
            let rules = policy.rules.rules().iter().filter_map(|rule| RuleLine::of(rule)).collect();
            let listed = vec![(List::IgnoreIp, address.parse().unwrap())];
            let lines = ConfigLines { rules, listed, ..ConfigLines::default() };
            lines.into_policy(Arc::default(), &names, &mut compiled).unwrap()
        };
        let (first, second, third) = (build("/admin", "192.0.2.1/32"), build("/admin", "192.0.2.2/32"), build("/other", "192.0.2.2/32"));
        assert!(Arc::ptr_eq(&first.rules, &second.rules) && !Arc::ptr_eq(&second.rules, &third.rules));
        let is_ignored = |policy: &Policy, address: &str| policy.lists.never_banned(address.parse().unwrap()).is_some();
        assert!(is_ignored(&first, "192.0.2.1") && !is_ignored(&second, "192.0.2.1") && is_ignored(&second, "192.0.2.2"));
    }
}
