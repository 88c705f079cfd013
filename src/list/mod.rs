//! Lists: which addresses are never banned, which are always refused, and which networks are banned.

mod banned;
mod entry;
pub mod file;
pub mod guard;
mod history;
mod host;
mod json;
pub mod networks;
mod never_ban;
pub mod own;

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::client::ShortNetwork;
use crate::geo::OriginSet;

use ipnet::IpNet;

pub use banned::{BannedNetwork, BannedNetworks, Room, Saved};
use file::ListFile;
pub use history::ListHistory;
pub use host::{HostAddresses, HostName, MAX_ADDRESSES, MAX_HOSTS};
pub use networks::Networks;
pub use never_ban::NeverBanReason;
pub use own::OwnAddresses;

/// The networks of one list, and its origin: a file or a configuration option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSource {
    origin: Arc<str>,
    networks: Networks,
    /// Number of networks as listed, before they are merged.
    entries: usize,
    /// When the file was last changed; `None` for a configuration option.
    modified: Option<SystemTime>,
    /// The host name whose addresses these are.
    host: Option<HostName>,
}

impl ListSource {
    #[must_use]
    pub fn new(origin: &str, networks: impl IntoIterator<Item = IpNet>) -> Self {
        let networks: Vec<IpNet> = networks.into_iter().collect();
        Self { origin: Arc::from(origin), entries: networks.len(), networks: Networks::new(networks), modified: None, host: None }
    }

    #[must_use]
    pub fn of_file(path: &Path, file: ListFile) -> Self {
        let source = Self::new(&path.display().to_string(), file.networks);
        Self { modified: Some(file.modified), entries: source.entries + file.origins.len(), ..source }
    }

    #[must_use]
    pub fn origin(&self) -> &Arc<str> {
        &self.origin
    }

    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    #[must_use]
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    #[must_use]
    pub fn networks(&self) -> &Networks {
        &self.networks
    }
}

/// The list entry that an address matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListMatch {
    /// The network. Adjacent networks are merged, so it may be larger than the listed one.
    pub network: IpNet,
    /// A file or a configuration option.
    pub origin: Arc<str>,
}

impl fmt::Display for ListMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", ShortNetwork(self.network), self.origin)
    }
}

/// All lists. Cloning is cheap: to change a list, a changed clone replaces the original as a whole.
///
/// Check [`Lists::never_banned`] first, with the full address instead of the client, so that an own address is served even inside the
/// banned /64 of an IPv6 offender.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    own: Arc<OwnAddresses>,
    ignoreip: Arc<[ListSource]>,
    trusted_proxies: Arc<[ListSource]>,
    deny: Arc<[ListSource]>,
    /// The entries of the deny lists that are no addresses.
    denied_origins: Arc<OriginSet>,
    /// Networks banned by hand or by another node of the fleet.
    pub banned: BannedNetworks,
}

impl Lists {
    pub fn set_own(&mut self, own: OwnAddresses) {
        self.own = Arc::new(own);
    }

    pub fn set_ignoreip(&mut self, sources: Vec<ListSource>) {
        self.ignoreip = sources.into();
    }

    pub fn set_trusted_proxies(&mut self, sources: Vec<ListSource>) {
        self.trusted_proxies = sources.into();
    }

    pub fn set_deny(&mut self, sources: Vec<ListSource>) {
        self.deny = sources.into();
    }

    pub fn set_denied_origins(&mut self, origins: OriginSet) {
        self.denied_origins = Arc::new(origins);
    }

    /// Whether the lists are those of `other`. Banned networks are not compared, and only own addresses are compared by value.
    #[must_use]
    pub fn has_same_lists_as(&self, other: &Self) -> bool {
        self.own == other.own
            && Arc::ptr_eq(&self.ignoreip, &other.ignoreip)
            && Arc::ptr_eq(&self.trusted_proxies, &other.trusted_proxies)
            && Arc::ptr_eq(&self.deny, &other.deny)
            && self.denied_origins == other.denied_origins
    }

    #[must_use]
    pub fn own(&self) -> &OwnAddresses {
        &self.own
    }

    #[must_use]
    pub fn ignoreip(&self) -> &[ListSource] {
        &self.ignoreip
    }

    #[must_use]
    pub fn trusted_proxies(&self) -> &[ListSource] {
        &self.trusted_proxies
    }

    #[must_use]
    pub fn deny(&self) -> &[ListSource] {
        &self.deny
    }

    #[must_use]
    pub fn denied_origins(&self) -> &OriginSet {
        &self.denied_origins
    }

    /// Whether anybody is refused for where he belongs. Nobody needs to know where clients belong as long as that is not so.
    #[must_use]
    pub fn refuses_by_origin(&self) -> bool {
        !self.denied_origins.is_empty() || self.banned.has_origins()
    }

    /// The deny list entry that refuses `address`. [`Lists::never_banned`] takes precedence.
    #[must_use]
    pub fn denied(&self, address: IpAddr) -> Option<ListMatch> {
        listed(&self.deny, |networks| networks.lookup(address))
    }
}

impl Lists {
    /// A deny list entry that contains `network` or an address of it.
    #[must_use]
    pub fn deny_overlap(&self, network: IpNet) -> Option<ListMatch> {
        let network = networks::canonical(network);
        listed(&self.deny, |networks| networks.overlap(network))
    }
}

fn listed(sources: &[ListSource], find: impl Fn(&Networks) -> Option<IpNet>) -> Option<ListMatch> {
    sources.iter().find_map(|source| find(&source.networks).map(|network| ListMatch { network, origin: Arc::clone(&source.origin) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    pub(super) fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    pub(super) fn lists() -> Lists {
        let mut lists = Lists::default();
        lists.set_own(OwnAddresses::new([ip("192.0.2.10"), ip("2001:db8:1::10")], [ip("192.0.2.1"), ip("fe80::1")]));
        lists.set_ignoreip(vec![
            ListSource::new("ignoreip", [net("198.51.100.0/24")]),
            ListSource::new("/etc/strikeout/office.txt", [net("2001:db8:7::/48"), net("203.0.113.7/32")]),
        ]);
        lists.set_trusted_proxies(vec![ListSource::new("trusted_proxies", [net("203.0.113.80/32")])]);
        lists.set_deny(vec![ListSource::new("/etc/strikeout/deny.txt", [net("198.51.0.0/16")])]);
        lists
    }

    #[test]
    fn a_deny_list_match_names_the_file_of_the_list() {
        assert_eq!(lists().denied(ip("198.51.7.7")).unwrap().to_string(), "198.51.0.0/16 (/etc/strikeout/deny.txt)");
        assert_eq!(lists().denied(ip("192.0.2.77")), None);
        let both = ip("198.51.100.7");
        assert!(lists().denied(both).is_some() && lists().never_banned(both).is_some());
    }

    #[test]
    fn each_list_can_be_read_back() {
        let lists = lists();
        let networks = |sources: &[ListSource]| sources.iter().flat_map(|source| source.networks().iter()).collect::<Vec<_>>();
        assert_eq!(networks(lists.ignoreip()), ["198.51.100.0/24", "203.0.113.7/32", "2001:db8:7::/48"].map(net));
        assert_eq!(networks(lists.trusted_proxies()), [net("203.0.113.80/32")]);
        assert_eq!(networks(lists.deny()), [net("198.51.0.0/16")]);
        assert_eq!(lists.own().gateways(), [ip("192.0.2.1"), ip("fe80::1")]);
    }

    #[test]
    fn a_clone_has_the_same_lists_until_one_of_them_is_set() {
        let old = lists();
        let changed = |change: fn(&mut Lists)| {
            let mut new = old.clone();
            change(&mut new);
            !new.has_same_lists_as(&old)
        };
        assert!(!changed(|_| ()));
        assert!(changed(|lists| lists.set_own(OwnAddresses::default())));
        assert!(changed(|lists| lists.set_ignoreip(Vec::new())));
        assert!(changed(|lists| lists.set_trusted_proxies(Vec::new())));
        assert!(changed(|lists| lists.set_deny(Vec::new())));
        // The own addresses are read again and again, so they are compared by value.
        assert!(!changed(|lists| lists.set_own(self::lists().own().clone())));
    }

    #[test]
    fn changing_a_clone_does_not_change_the_original() {
        let old = lists();
        let mut new = old.clone();
        new.set_own(OwnAddresses::default());
        assert!(old.never_banned(ip("192.0.2.10")).is_some());
        assert!(new.never_banned(ip("192.0.2.10")).is_none());
    }
}
