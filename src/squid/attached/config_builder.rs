//! Builds a policy from the configuration lines that the daemon sends.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::client::Ipv6Prefix;
use crate::control::subscribe::List;
use crate::crawler::{Crawlers, known};
use crate::geo::{AskedOrigins, Geo, OriginEntry};
use crate::list::{ListSource, Lists, Networks, OwnAddresses};
use crate::policy::{DEFAULT_FALSE_BAN_SHARE, OnFailure, Policy};
use crate::rule::{Rule, RuleSet};

/// The configuration being received, and the thread that may still be building the previous one.
#[derive(Default)]
pub struct ConfigBuilder {
    pub lines: ConfigLines,
    /// Sorting a million networks takes a while, and answers and bans must not wait for it, so another thread does it.
    building: Option<JoinHandle<io::Result<()>>>,
}

impl ConfigBuilder {
    /// Starts building the configuration, which is complete now. It comes into force once it is built, and after the previous one.
    pub fn build(&mut self, origins: Arc<AskedOrigins>, put_in_force: impl FnOnce(Policy) + Send + 'static) -> io::Result<()> {
        let lines = std::mem::take(&mut self.lines);
        let mut previous = Self { lines: ConfigLines::default(), building: self.building.take() };
        let build = move || {
            let policy = lines.into_policy(origins).map_err(invalid)?;
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
    pub rules: Vec<Rule>,
    pub listed: Vec<(List, ipnet::IpNet)>,
    pub denied_origins: Vec<OriginEntry>,
    /// The names of the crawlers of which the daemon wants to know.
    pub crawlers: Vec<String>,
}

impl ConfigLines {
    /// The policy. Where clients belong, the daemon has said in `origins`.
    pub fn into_policy(self, origins: Arc<AskedOrigins>) -> Result<Policy, String> {
        let networks = |wanted: List| self.listed.iter().filter(move |(list, _)| *list == wanted).map(|(_, network)| *network);
        let source = |list: List, name: &str| vec![ListSource::new(name, networks(list))];
        let addresses = |list: List| networks(list).map(|network| network.addr());
        let mut lists = Lists::default();
        lists.set_own(OwnAddresses::new(addresses(List::Own), addresses(List::Gateway)));
        lists.set_ignoreip(source(List::IgnoreIp, "the daemon's ignoreip"));
        lists.set_trusted_proxies(source(List::TrustedProxies, "the daemon's trusted_proxies"));
        lists.set_deny(source(List::Deny, "the daemon's deny lists"));
        lists.set_denied_origins(self.denied_origins.into_iter().collect());
        Ok(Policy {
            rules: Arc::new(RuleSet::new(self.rules)?),
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
