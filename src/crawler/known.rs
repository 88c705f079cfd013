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
pub const KNOWN: [Known; 13] = [
    // https://developers.google.com/crawling/docs/crawlers-fetchers/verify-google-requests: crawl-….googlebot.com and
    // geo-crawl-….geo.googlebot.com for common crawlers, rate-limited-proxy-….google.com for special ones. Not googleusercontent.com, which that
    // page names for what users trigger: whoever rents a host in Google's cloud gets a name there.
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
    // https://www.bing.com/webmasters/help/how-to-verify-bingbot-3905dc26: names that end with search.msn.com.
    Known { name: "bingbot", agents: &["bingbot", "bingpreview", "adidxbot", "msnbot"], domains: &["search.msn.com"] },
    // https://support.apple.com/en-us/119829: names in applebot.apple.com, and a list of networks.
    Known { name: "applebot", agents: &["applebot"], domains: &["applebot.apple.com"] },
    // https://yandex.com/support/webmaster/en/robot-workings/check-yandex-robots: names that end in one of these three.
    Known { name: "yandex", agents: &["yandex"], domains: &["yandex.ru", "yandex.net", "yandex.com"] },
    // https://help.baidu.com/question?prod_id=99&class=476&id=2996: *.baidu.com or *.baidu.jp, such as baiduspider-….crawl.baidu.com.
    Known { name: "baidu", agents: &["baiduspider"], domains: &["baidu.com", "baidu.jp"] },
    // https://duckduckgo.com/duckduckgo-help-pages/results/duckduckbot: a list of addresses only.
    Known { name: "duckduckbot", agents: &["duckduckbot"], domains: &[] },
    // https://developer.amazon.com/amazonbot: names such as 12-34-56-789.crawl.amazonbot.amazon.
    Known { name: "amazonbot", agents: &["amazonbot"], domains: &["crawl.amazonbot.amazon"] },
    // https://developers.openai.com/api/docs/bots: lists of networks only, https://openai.com/gptbot.json and https://openai.com/searchbot.json.
    Known { name: "gptbot", agents: &["gptbot"], domains: &[] },
    Known { name: "oai-searchbot", agents: &["oai-searchbot"], domains: &[] },
    // https://support.claude.com/en/articles/8896518: a list of networks only, https://claude.com/crawling/bots.json.
    Known { name: "claudebot", agents: &["claudebot", "claude-searchbot"], domains: &[] },
    // https://developers.facebook.com/docs/sharing/webmasters/web-crawlers: the networks of AS32934, as the routing registry has them.
    Known { name: "meta", agents: &["facebookexternalhit", "facebookcatalog", "meta-externalagent"], domains: &[] },
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
