//! The crawlers that are known by name: what their publishers say about them.

use std::sync::Arc;

use super::Crawler;
use crate::list::Networks;

/// What a publisher says about its crawlers.
#[derive(Debug)]
pub struct Known {
    pub name: &'static str,
    /// What stands in their User-Agents.
    pub agents: &'static [&'static str],
    /// The domains in which the names of their addresses are; none if the publisher gives networks only.
    pub domains: &'static [&'static str],
}

/// Each with the page on which its publisher says so.
pub const KNOWN: [Known; 8] = [
    // https://developers.google.com/search/docs/crawling-indexing/verifying-googlebot. Not googleusercontent.com, which that page also names:
    // whoever rents a host in Google's cloud gets a name there.
    Known {
        name: "googlebot",
        agents: &[
            "googlebot",
            "google-inspectiontool",
            "googleother",
            "storebot-google",
            "adsbot-google",
            "mediapartners-google",
            "apis-google",
        ],
        // Under google.com are also fetchers that work for users: google-proxy-….
        domains: &["googlebot.com", "rate-limited-proxy-*.google.com"],
    },
    // https://www.bing.com/webmasters/help/how-to-verify-bingbot-3905dc26
    Known { name: "bingbot", agents: &["bingbot", "bingpreview", "adidxbot", "msnbot"], domains: &["search.msn.com"] },
    // https://support.apple.com/en-us/119829
    Known { name: "applebot", agents: &["applebot"], domains: &["applebot.apple.com"] },
    // https://yandex.com/support/webmaster/en/robot-workings/check-yandex-robots
    Known { name: "yandex", agents: &["yandex"], domains: &["yandex.ru", "yandex.net", "yandex.com"] },
    // https://help.baidu.com/question?prod_id=99&class=476&id=2996
    Known { name: "baidu", agents: &["baiduspider"], domains: &["baidu.com", "baidu.jp"] },
    // https://duckduckgo.com/duckduckgo-help-pages/results/duckduckbot: a list of addresses only.
    Known { name: "duckduckbot", agents: &["duckduckbot"], domains: &[] },
    // https://napoveda.seznam.cz/en/full-text-search/seznambot-crawler/
    Known { name: "seznambot", agents: &["seznambot"], domains: &["seznam.cz"] },
    // https://ahrefs.com/robot
    Known { name: "ahrefsbot", agents: &["ahrefsbot", "ahrefssiteaudit"], domains: &["ahrefs.com", "ahrefs.net"] },
];

#[must_use]
pub fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

impl Known {
    /// The crawler, with its published networks.
    #[must_use]
    pub fn crawler(&self, networks: Networks) -> Crawler {
        let agents = self.agents.iter().map(|&agent| agent.to_owned()).collect();
        Crawler { name: Arc::from(self.name), agents, domains: self.domains.to_vec(), networks }
    }
}

/// A crawler by its name: a known one, or one whose User-Agent holds that name.
#[must_use]
pub fn crawler(name: &str, networks: Networks) -> Crawler {
    find(name).map_or_else(
        || Crawler { name: name.into(), agents: vec![name.to_owned()], domains: Vec::new(), networks: networks.clone() },
        |known| known.crawler(networks.clone()),
    )
}
