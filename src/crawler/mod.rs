//! Crawlers that are wanted: how they call themselves, and how their publishers say that an address is theirs.

pub mod claims;
pub mod known;

use std::net::IpAddr;
use std::sync::Arc;

use aho_corasick::AhoCorasick;

use crate::list::Networks;

pub use claims::{Asked, ClaimCounts, Claims, Finding, Question};

/// A crawler of `verified_crawlers`.
#[derive(Debug, Clone)]
pub struct Crawler {
    pub name: Arc<str>,
    /// What stands in its User-Agent, in any case.
    pub agents: Vec<String>,
    /// The domains in which the names of its addresses are; with a `*`, the names themselves.
    pub domains: Vec<&'static str>,
    /// Its published networks.
    pub networks: Networks,
}

/// The crawlers of a policy.
#[derive(Debug, Clone, Default)]
pub struct Crawlers {
    all: Vec<Arc<Crawler>>,
    /// Finds what the crawlers call themselves, and the crawler of each.
    agents: Option<(AhoCorasick, Vec<usize>)>,
}

impl Crawlers {
    /// # Errors
    /// The names are too many to search for.
    pub fn new(all: Vec<Crawler>) -> Result<Self, String> {
        let (mut agents, mut owners) = (Vec::new(), Vec::new());
        for (number, crawler) in all.iter().enumerate() {
            agents.extend(crawler.agents.iter().map(String::as_str));
            owners.resize(agents.len(), number);
        }
        let search = AhoCorasick::builder().ascii_case_insensitive(true).build(&agents).map_err(|error| error.to_string())?;
        let agents = (!owners.is_empty()).then_some((search, owners));
        Ok(Self { all: all.into_iter().map(Arc::new).collect(), agents })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Crawler>> {
        self.all.iter()
    }

    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<Crawler>> {
        self.all.iter().find(|crawler| &*crawler.name == name)
    }

    /// The crawler that a User-Agent says it is. Linear in its length; nothing where no crawler is configured.
    #[must_use]
    pub fn claimed_by(&self, user_agent: &[u8]) -> Option<&Arc<Crawler>> {
        let (search, owners) = self.agents.as_ref()?;
        self.all.get(*owners.get(search.find(user_agent)?.pattern().as_usize())?)
    }
}

impl Crawler {
    /// Whether the name of a host is in one of its domains. The host itself chose the name, so it proves nothing yet.
    #[must_use]
    pub fn has_host(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.domains.iter().any(|domain| match domain.split_once('*') {
            Some((start, end)) => host.strip_prefix(start).is_some_and(|rest| rest.len() > end.len() && rest.ends_with(end)),
            None => host.strip_suffix(domain).is_some_and(|front| front.is_empty() || front.ends_with('.')),
        })
    }

    /// Whether its publisher lists the address.
    #[must_use]
    pub fn lists(&self, address: IpAddr) -> bool {
        self.networks.contains(address)
    }
}

#[cfg(test)]
pub mod fixtures {
    use super::*;

    /// Googlebot, by its names and by one network.
    pub fn crawlers() -> Crawlers {
        let known = known::find("googlebot").unwrap();
        let networks = ["198.51.100.0/24".parse().unwrap()].into_iter().collect();
        let other =
            Crawler { name: "otherbot".into(), agents: vec!["otherbot".into()], domains: Vec::new(), networks: Networks::default() };
        Crawlers::new(vec![known.crawler(networks), other]).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_agent_claims_the_crawler_that_it_names() {
        let crawlers = fixtures::crawlers();
        let claimed = |agent: &str| crawlers.claimed_by(agent.as_bytes()).map(|crawler| crawler.name.to_string());
        assert_eq!(claimed("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)").as_deref(), Some("googlebot"));
        assert_eq!(claimed("GOOGLEBOT").as_deref(), Some("googlebot"));
        assert_eq!(claimed("otherbot/1").as_deref(), Some("otherbot"));
        for agent in ["", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", "google"] {
            assert_eq!(claimed(agent), None, "{agent}");
        }
        assert!(Crawlers::default().claimed_by(b"Googlebot").is_none());
    }

    /// Names that publishers give as examples, and some that anybody could have.
    #[test]
    fn each_known_crawler_has_the_hosts_that_its_publisher_names() {
        for (crawler, host, is_own) in [
            ("googlebot", "geo-crawl-35-247-243-240.geo.googlebot.com", true),
            ("googlebot", "203.0.113.7.gae.googleusercontent.com", false),
            ("bingbot", "msnbot-157-55-33-18.search.msn.com", true),
            ("bingbot", "host.msn.com", false),
            ("applebot", "17-58-101-179.applebot.apple.com", true),
            ("applebot", "host.apple.com", false),
            ("yandex", "spider-5-255-231-42.yandex.com", true),
            ("yandex", "spider.yandex.example", false),
            ("baidu", "baiduspider-116-179-32-50.crawl.baidu.com", true),
            ("baidu", "BaiduMobaider-119-63-195-254.crawl.baidu.jp", true),
            ("amazonbot", "12-34-56-78.crawl.amazonbot.amazon", true),
            ("amazonbot", "ec2-203-0-113-7.compute.amazonaws.com", false),
        ] {
            assert_eq!(known::find(crawler).unwrap().crawler(Networks::default()).has_host(host), is_own, "{host}");
        }
    }

    #[test]
    fn a_host_is_in_a_domain_and_not_beside_it() {
        let google = known::find("googlebot").unwrap().crawler(Networks::default());
        for host in ["crawl-66-249-66-1.googlebot.com", "rate-limited-proxy-66-249-90-77.google.com.", "A.GoogleBot.com"] {
            assert!(google.has_host(host), "{host}");
        }
        // Anybody may rent a host of Google's cloud, whose name is in googleusercontent.com.
        for host in [
            "evilgooglebot.com",
            "googlebot.com.evil.example",
            "7.2.0.192.bc.googleusercontent.com",
            "google.example",
            "google-proxy-66-249-81-1.google.com",
            "rate-limited-proxy-.google.com.evil.example",
            "",
        ] {
            assert!(!google.has_host(host), "{host}");
        }
    }
}
