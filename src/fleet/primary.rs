//! Finds the server that takes changes: the one of the URL, the primary that a Sentinel names, or the node of a Cluster that has the slot of
//! the fleet's keys. The redis crate's own clients of Sentinel and Cluster read without limit, see [`super::resp_connection`].
//!
//! A Cluster is asked by its redirections alone (`MOVED`, <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>):
//! all keys of a fleet are in one slot, so one of them leads to the node, without a map of all slots.

use std::fmt::Write as _;
use std::time::Duration;

use redis::{RedisError, RedisResult, Value};

use super::client::{RedisClient, sentence};
use super::resp_connection::{RespConnection, SILENCE};
use crate::config::fleet_url::{CLUSTER_PORT, HostPort, Servers};

/// Timeout for a connection to a Sentinel: short, because the one on the primary's machine may be gone with it.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of redirections that are followed from one node.
const MAX_REDIRECTIONS: usize = 5;

impl RedisClient {
    /// Connects to the server that takes changes, and authenticates. Passwords and certificates are read each time, so that they can be
    /// changed without a restart. [`RespConnection`] limits how long this and every later call take.
    ///
    /// # Errors
    /// A file cannot be read, or no such server can be reached, or it refuses.
    pub fn connect(&self) -> RedisResult<RespConnection> {
        match &self.url.servers {
            Servers::One => self.connect_one(),
            Servers::Sentinels { hosts, name } => self.connect_by_sentinels(hosts, name),
            Servers::Cluster { hosts } => self.connect_in_cluster(hosts),
        }
    }

    /// Asks the Sentinels in turn, the one that answered last first. If the primary that one of them names cannot be used, the others may know
    /// a newer one.
    fn connect_by_sentinels(&self, hosts: &[HostPort], name: &str) -> RedisResult<RespConnection> {
        let (mut tried, mut without_name, mut silent) = (Vec::new(), Vec::new(), String::new());
        let mut failure: Option<RedisError> = None;
        let last = self.answered.lock().clone();
        for sentinel in preferred_first(hosts, last.as_ref()) {
            match self.ask_sentinel(&sentinel, name) {
                Err(error) => {
                    let _ = write!(silent, "; {}", self.describe_at(&format!("Sentinel {sentinel}"), &error));
                }
                Ok(None) => without_name.push(sentinel.to_string()),
                Ok(Some(primary)) => {
                    *self.answered.lock() = Some(sentinel.clone());
                    if tried.contains(&primary) {
                        continue;
                    }
                    match self.greet(&primary, SILENCE) {
                        Ok(connection) => return Ok(connection),
                        Err(error) => {
                            failure = Some(self.unusable(&format!("Sentinel {sentinel} says that the primary of {name}"), &primary, &error))
                        }
                    }
                    tried.push(primary);
                }
            }
        }
        Err(failure.unwrap_or_else(|| {
            if without_name.is_empty() {
                sentence(format!("no Sentinel answers{silent}"))
            } else {
                sentence(format!("no Sentinel knows a primary named {name:?}: asked {}{silent}", without_name.join(", ")))
            }
        }))
    }

    /// The address of the primary `name`; `None` if the Sentinel monitors none of that name.
    fn ask_sentinel(&self, sentinel: &HostPort, name: &str) -> RedisResult<Option<HostPort>> {
        let mut connection = self.open(sentinel, SENTINEL_TIMEOUT)?;
        if let Some(password) = self.sentinel_password()? {
            let mut auth = redis::cmd("AUTH");
            auth.arg(self.sentinel_user()).arg(password);
            auth.exec(&mut connection)?;
        }
        let answer: Value = redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).query(&mut connection)?;
        if answer == Value::Nil {
            return Ok(None);
        }
        let (host, port): (String, u16) = redis::from_redis_value(answer)?;
        HostPort::new(&host, port)
            .map(Some)
            .ok_or_else(|| sentence(format!("Sentinel {sentinel} gives {host:?} as address of the primary")))
    }

    /// Asks another Sentinel first the next time: the one that answered last named a server that cannot be written to. It may have missed a
    /// failover.
    pub(super) fn ask_another_sentinel(&self) {
        let Servers::Sentinels { hosts, .. } = &self.url.servers else { return };
        let mut answered = self.answered.lock();
        let next = hosts.iter().position(|host| Some(host) == answered.as_ref()).map_or(0, |position| position + 1);
        *answered = hosts.get(next).or(hosts.first()).cloned();
    }

    /// Follows the redirections of the nodes in turn, the primary that was used last first.
    fn connect_in_cluster(&self, hosts: &[HostPort]) -> RedisResult<RespConnection> {
        let mut failures: Vec<String> = Vec::new();
        let last = self.answered.lock().clone();
        let others: Vec<HostPort> = hosts.iter().filter(|host| Some(*host) != last.as_ref()).cloned().collect();
        for start in last.into_iter().chain(others) {
            match self.follow_redirections(&start) {
                Ok((connection, owner)) => {
                    *self.answered.lock() = Some(owner);
                    return Ok(connection);
                }
                Err(error) => {
                    let failure = self.describe(&error);
                    if !failures.contains(&failure) {
                        failures.push(failure);
                    }
                }
            }
        }
        Err(sentence(failures.join("; ")))
    }

    fn follow_redirections(&self, start: &HostPort) -> RedisResult<(RespConnection, HostPort)> {
        let (mut node, mut whose) = (start.clone(), String::new());
        for _ in 0..MAX_REDIRECTIONS {
            let mut connection = self.greet(&node, SILENCE).map_err(|error| {
                if whose.is_empty() {
                    sentence(self.describe_at(&format!("cluster node {node}"), &error))
                } else {
                    self.unusable(&whose, &node, &error)
                }
            })?;
            let error = match self.check_slot(&mut connection) {
                Ok(()) => return Ok((connection, node)),
                Err(error) => error,
            };
            let Some(next) = moved_to(&error, &node) else {
                return Err(sentence(self.describe_at(&format!("cluster node {node}"), &error)));
            };
            whose = format!("cluster node {node} says that the primary of the fleet's slot");
            node = next;
        }
        Err(sentence(format!("the nodes of the cluster, {start} first, disagree about which one has the fleet's slot")))
    }

    /// In a Cluster, an error unless the node has the slot of the fleet's keys.
    ///
    /// # Errors
    /// The server has not, or is in no Cluster, or cannot be reached.
    pub fn check_slot(&self, connection: &mut RespConnection) -> RedisResult<()> {
        if !self.is_cluster() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        // The default of a connection. A server in no Cluster refuses it.
        pipe.cmd("READWRITE");
        pipe.cmd("HGET").arg(self.forgotten_key()).arg(&self.node);
        for answer in connection.request(&pipe.get_packed_pipeline(), pipe.len())? {
            match answer.extract_error() {
                // A stranger's key of another type is in the slot as well.
                Err(error) if error.code() == Some("WRONGTYPE") => {}
                answer => drop(answer?),
            }
        }
        Ok(())
    }

    /// An error unless `connection` leads where changes are published: after a failover the old primary may stay connected, and hear nothing.
    ///
    /// # Errors
    /// The primary is another one now.
    pub fn check_primary(&self, connection: &RespConnection) -> RedisResult<()> {
        match &*self.primary.lock() {
            Some(primary) if *primary != connection.peer => {
                // In a Cluster the same server may have two names. The next connection goes by the one that changes are published under.
                if self.is_cluster() {
                    *self.answered.lock() = HostPort::parse(primary, CLUSTER_PORT);
                }
                Err(sentence(format!("the primary is {primary} now, no longer {}", connection.peer)))
            }
            _ => Ok(()),
        }
    }

    /// Whether changes are published to the server of `connection`.
    pub fn is_primary(&self, connection: &RespConnection) -> bool {
        self.primary.lock().as_ref() == Some(&connection.peer)
    }

    /// `whose` names the server and who says so.
    fn unusable(&self, whose: &str, server: &HostPort, error: &RedisError) -> RedisError {
        if error.is_timeout() || error.is_connection_refusal() || error.is_connection_dropped() {
            sentence(format!("{whose} is {server}, which does not answer: {error}"))
        } else {
            sentence(format!("{whose} is {server}; {}", self.describe_at(&format!("Redis at {server}"), error)))
        }
    }
}

/// All hosts, `preferred` first.
fn preferred_first(hosts: &[HostPort], preferred: Option<&HostPort>) -> Vec<HostPort> {
    let mut ordered = hosts.to_vec();
    ordered.sort_by_key(|host| Some(host) != preferred);
    ordered
}

/// The node to which `from` redirects. It may leave out the host, which then is its own.
fn moved_to(error: &RedisError, from: &HostPort) -> Option<HostPort> {
    let (address, _) = error.redirect_node().filter(|_| error.code() == Some("MOVED"))?;
    let (host, port) = address.rsplit_once(':')?;
    HostPort::new(if host.is_empty() { &from.host } else { host }, port.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPort {
        HostPort::parse(text, 1).unwrap()
    }

    fn answer(line: &str) -> RedisError {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).and_then(Value::extract_error).unwrap_err()
    }

    #[test]
    fn a_redirection_names_the_node_or_only_its_port() {
        let from = host("c1:7000");
        for (line, expected) in [
            ("MOVED 3999 10.0.0.5:7001", Some("10.0.0.5:7001")),
            ("MOVED 3999 2001:db8::1:7001", Some("[2001:db8::1]:7001")),
            ("MOVED 3999 c2.example:7001", Some("c2.example:7001")),
            ("MOVED 3999 :7001", Some("c1:7001")),
            ("MOVED 3999 ?:7001", None),
            ("MOVED 3999 10.0.0.5", None),
            ("MOVED", None),
            ("ASK 3999 10.0.0.5:7001", None),
            ("CLUSTERDOWN Hash slot not served", None),
        ] {
            assert_eq!(moved_to(&answer(line), &from).map(|to| to.to_string()).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn the_sentinel_that_answered_last_is_asked_first() {
        let hosts = ["s1", "s2", "s3"].map(host);
        let order = |preferred: Option<&HostPort>| preferred_first(&hosts, preferred).into_iter().map(|host| host.host).collect::<Vec<_>>();
        assert_eq!(order(None), ["s1", "s2", "s3"]);
        assert_eq!(order(Some(&host("s3"))), ["s3", "s1", "s2"]);
        assert_eq!(order(Some(&host("elsewhere"))), ["s1", "s2", "s3"]);
    }
}
