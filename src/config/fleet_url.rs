//! `url` of `[fleet]`: one server, the Sentinels that know it, or nodes of a Cluster.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// Maximum number of hosts in a URL: enough for any set of Sentinels, and few enough to try all of them.
const MAX_HOSTS: usize = 16;
/// Port of a Sentinel that is named without one.
const SENTINEL_PORT: u16 = 26379;
/// Port of a cluster node that is named without one.
pub const CLUSTER_PORT: u16 = 6379;

/// A host name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// Where the fleet's Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// The server of the URL.
    One,
    /// The primary of this name, which the Sentinels know.
    Sentinels { hosts: Vec<HostPort>, name: String },
    /// The node of a Cluster that has the slot of the fleet's keys.
    Cluster { hosts: Vec<HostPort> },
}

/// A URL that was taken apart.
#[derive(Debug, Clone)]
pub struct FleetUrl {
    /// User, password, database and version of the protocol; the address only if it is [`Servers::One`].
    pub info: ConnectionInfo,
    pub servers: Servers,
}

impl HostPort {
    /// Parses `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`; `None` if it is none of these.
    #[must_use]
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Some(default_port), |port| port.parse().ok().filter(|port| *port != 0))?;
        Self::new(host, port)
    }

    /// A host that another server named; `None` if it cannot be one.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Option<Self> {
        let is_host = (1..=253).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte));
        is_host.then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(out, "[{}]:{}", self.host, self.port) } else { write!(out, "{}:{}", self.host, self.port) }
    }
}

impl FleetUrl {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let (scheme, kind) = scheme.split_once('+').filter(|(_, kind)| *kind != "unix").unwrap_or((scheme, ""));
        match (scheme, kind) {
            ("redis" | "valkey" | "rediss" | "valkeys", "sentinel") => Self::sentinels(scheme, &Parts::of(rest, SENTINEL_PORT)?),
            ("redis" | "valkey" | "rediss" | "valkeys", "cluster") => Self::cluster(scheme, &Parts::of(rest, CLUSTER_PORT)?),
            (_, "") => {
                let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
                if authority.rsplit('@').next().is_some_and(|hosts| hosts.contains(',')) {
                    return Err("found several hosts in url, expected redis+sentinel://… or redis+cluster://… for them".into());
                }
                Ok(Self { info: connection_info(url)?, servers: Servers::One })
            }
            _ => Err(format!(
                "found a url that begins with {scheme}+{kind}://, expected redis:// or rediss://, with +sentinel or +cluster if it is that"
            )),
        }
    }

    fn sentinels(scheme: &str, parts: &Parts<'_>) -> Result<Self, String> {
        let (name, database) = parts.path.split_once('/').unwrap_or((parts.path, ""));
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Err(format!(
                "found {name:?} as name of the primary in url, expected the name that the Sentinels monitor: redis+sentinel://host:26379/NAME"
            ));
        }
        let info = parts.info(scheme, database)?;
        Ok(Self { info, servers: Servers::Sentinels { hosts: parts.hosts.clone(), name: name.to_owned() } })
    }

    fn cluster(scheme: &str, parts: &Parts<'_>) -> Result<Self, String> {
        if !matches!(parts.path, "" | "0") {
            return Err(format!("found the database {:?} in url, expected none: a Cluster has only database 0", parts.path));
        }
        Ok(Self { info: parts.info(scheme, "")?, servers: Servers::Cluster { hosts: parts.hosts.clone() } })
    }

    /// Whether the connections use TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.info.addr(), ConnectionAddr::TcpTls { .. })
    }
}

/// The parts of a URL with several hosts.
struct Parts<'a> {
    /// With its `@`, or empty.
    user: &'a str,
    hosts: Vec<HostPort>,
    /// Without the slash before it.
    path: &'a str,
    /// With its `?` or `#`, or empty.
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str, default_port: u16) -> Result<Self, String> {
        let (rest, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let host = |host: &str| {
            HostPort::parse(host, default_port)
                .ok_or_else(|| format!("found the host {host:?} in url, expected HOST, HOST:PORT or [IPv6]:PORT"))
        };
        let hosts = hosts.split(',').map(host).collect::<Result<Vec<HostPort>, String>>()?;
        if hosts.len() > MAX_HOSTS {
            return Err(format!("found {} hosts in url, expected {MAX_HOSTS} at most", hosts.len()));
        }
        Ok(Self { user, hosts, path, query })
    }

    /// User, password and the rest, as the redis crate reads them from the URL of a single server.
    fn info(&self, scheme: &str, database: &str) -> Result<ConnectionInfo, String> {
        let first = self.hosts.first().map(HostPort::to_string).unwrap_or_default();
        connection_info(&format!("{scheme}://{}{first}/{database}{}", self.user, self.query))
    }
}

fn connection_info(url: &str) -> Result<ConnectionInfo, String> {
    url.into_connection_info()
        .map_err(|error| format!("found a url that cannot be used ({error}), expected one such as redis://user@host:6379/0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hosts(url: &FleetUrl) -> Vec<String> {
        match &url.servers {
            Servers::One => Vec::new(),
            Servers::Sentinels { hosts, .. } | Servers::Cluster { hosts } => hosts.iter().map(HostPort::to_string).collect(),
        }
    }

    #[test]
    fn a_url_names_sentinels_the_primary_and_its_database() {
        let url = FleetUrl::parse("redis+sentinel://me:p%40ss@s1,s2:26380,[2001:db8::1]:7/main.one/3?protocol=resp3").unwrap();
        assert_eq!(hosts(&url), ["s1:26379", "s2:26380", "[2001:db8::1]:7"]);
        assert!(matches!(&url.servers, Servers::Sentinels { name, .. } if name == "main.one"));
        let settings = url.info.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("me"), Some("p@ss"), 3));
        assert!(!url.is_tls() && settings.protocol() == redis::ProtocolVersion::RESP3);
        let url = FleetUrl::parse("valkeys+sentinel://s1/main").unwrap();
        assert!(url.is_tls() && url.info.redis_settings().db() == 0);
    }

    #[test]
    fn a_url_names_nodes_of_a_cluster() {
        for text in ["redis+cluster://me@c1,c2:6380", "valkey+cluster://me@c1,c2:6380/", "rediss+cluster://me@c1,c2:6380/0"] {
            let url = FleetUrl::parse(text).unwrap();
            assert_eq!(hosts(&url), ["c1:6379", "c2:6380"]);
            assert_eq!((url.info.redis_settings().username(), url.is_tls()), (Some("me"), text.starts_with("rediss")));
        }
    }

    #[test]
    fn one_server_is_named_as_before() {
        for text in
            ["redis://me@host:1/2", "rediss://host", "valkeys://[::1]/", "unix:///run/redis.sock?db=1", "redis+unix:///run/redis.sock"]
        {
            assert_eq!(FleetUrl::parse(text).unwrap().servers, Servers::One, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_without_the_password() {
        for (text, expected) in [
            ("redis+sentinel://h1", "found \"\" as name of the primary"),
            ("redis+sentinel://h1/a b", "found \"a b\" as name of the primary"),
            ("redis+sentinel://h1/main/x", "cannot be used"),
            ("redis+sentinel://u:secret@h1,,h2/main", "found the host \"\""),
            ("redis+sentinel://u:secret@h1:0/main", "found the host \"h1:0\""),
            ("redis+cluster://u:secret@2001:db8::1", "found the host \"2001:db8::1\""),
            ("redis+cluster://h1/3", "found the database \"3\""),
            ("redis://u:secret@h1,h2:6379/0", "found several hosts"),
            ("redis+nothing://u:secret@h1", "begins with redis+nothing://"),
            ("http+cluster://h1", "begins with http+cluster://"),
            ("nonsense", "cannot be used"),
        ] {
            let error = FleetUrl::parse(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("secret"), "{text}: {error}");
        }
        let many = format!("redis+cluster://{}", vec!["h"; 17].join(","));
        assert!(FleetUrl::parse(&many).unwrap_err().contains("found 17 hosts"));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_hosts_are_written_as_they_are_read(text in ".{0,60}", kind in "(redis|rediss)\\+(sentinel|cluster)://.{0,40}") {
            let _ = FleetUrl::parse(&text);
            if let Ok(url) = FleetUrl::parse(&kind) {
                for host in hosts(&url) {
                    prop_assert_eq!(HostPort::parse(&host, 1).map(|host| host.to_string()), Some(host));
                }
            }
        }
    }
}
