//! What Squid can see by itself: expressions for its own acls that match every request which a rule may match. A request that none of them
//! matches is certainly innocent, and Squid need not ask the helper about it.
//!
//! Of each rule over requests, one part of the request is taken, and of its pattern what every match holds: texts, or a simpler expression.
//! Whatever could hide such a text from Squid, which decodes a URL once and knows nothing of other spellings, always asks: see
//! [`hiding`]. What Squid sees of a request is described in [`seen`].

mod cost;
mod expressions;
pub mod files;
mod hiding;
mod necessary;
mod posix;
mod seen;
pub mod stamp;

use std::fmt;
use std::sync::Arc;

use crate::rule::{RequestPattern, Rule, Trigger};
use expressions::{EVERYTHING, NOTHING, Place};
use necessary::Needs;
use seen::Field;
pub use stamp::Stamp;

/// The methods whose requests the expressions decide about. conf-examples/squid-fast.conf asks about all others.
pub const ORDINARY_METHODS: [&str; 3] = ["GET", "HEAD", "POST"];

/// Maximum number of expressions for one acl. Squid may take 8 MB for each, and tries one after the other.
const MAX_EXPRESSIONS: usize = 8;

/// The expressions for Squid, and what they do not cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefilter {
    /// For `url_regex`, each at most 2,040 characters, to be matched regardless of case; one from 0x80 on is a byte.
    pub path: Vec<String>,
    /// The same as few expressions for a line of Squid's configuration, for `urlpath_regex` beside `host`.
    pub long_path: Vec<String>,
    /// For `dstdom_regex`, where the path alone is seen by `urlpath_regex`.
    pub host: Vec<String>,
    /// For `browser`, for a file as `path` is.
    pub agent: Vec<String>,
    /// The same for a line of the configuration.
    pub long_agent: Vec<String>,
    /// Number of rules that the expressions cover.
    pub rules: usize,
    /// The rules over headers, which the fast form does not hand over: Squid does not ask because of them.
    pub over_headers: Vec<Arc<str>>,
    /// Why every request is asked about; empty if only some are.
    pub unexpressed: Vec<Unexpressed>,
    /// What identifies the rules that the expressions are made of.
    pub stamp: Stamp,
}

/// A rule that no expression covers, so that Squid must ask about every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unexpressed {
    /// The name; `None` if it is all rules together.
    pub rule: Option<Arc<str>>,
    pub because: &'static str,
}

impl fmt::Display for Unexpressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "rule {rule}: {}", self.because),
            None => f.write_str(self.because),
        }
    }
}

impl Prefilter {
    /// The expressions for these rules, those in shadow mode included.
    #[must_use]
    pub fn of(rules: &[Arc<Rule>]) -> Self {
        let (mut urls, mut agents) = (Needs::default(), Needs::default());
        let (mut unexpressed, mut covered, mut over_headers) = (Vec::new(), 0, Vec::new());
        for rule in rules {
            if rule.is_about_headers() {
                over_headers.push(Arc::clone(&rule.name));
                continue;
            }
            let part = match &rule.trigger {
                Trigger::Request(pattern) => part(pattern),
                // Squid's log does not say of an unasked request that it carried no password.
                Trigger::Response(pattern) if pattern.credentials == Some(false) => {
                    Err("whether an unasked request carried no password is not in Squid's log")
                }
                // What counts all requests or statuses is told by Squid's log; what counts refusals, by those refusals.
                _ => continue,
            };
            covered += 1;
            match part {
                Ok(Part::Method) => {}
                Ok(Part::Url(needs)) => urls.add(needs),
                Ok(Part::Agent(needs)) => agents.add(needs),
                Err(because) => unexpressed.push(Unexpressed { rule: Some(Arc::clone(&rule.name)), because }),
            }
        }
        urls.texts.extend(hiding::texts().map(|text| (text, 0.0)));
        let hosts = std::mem::take(&mut urls.hosts).into_iter().chain(hiding::in_host());
        let hosts = Needs { texts: hosts.map(|text| (text, 0.0)).collect(), ..Needs::default() };
        let host = expressions::of(expressions::IN_HOST, hosts, Place::Line);
        let mut long_path = expressions::of(expressions::IN_URL, urls.clone(), Place::Line);
        let mut path = expressions::of(expressions::IN_URL, urls, Place::File);
        let mut long_agent = expressions::of(expressions::IN_AGENT, agents.clone(), Place::Line);
        let mut agent = expressions::of(expressions::IN_AGENT, agents, Place::File);
        if [&path, &host, &agent].iter().any(|expressions| expressions.len() > MAX_EXPRESSIONS) {
            unexpressed.push(Unexpressed {
                rule: None,
                because: "the rules are too many for Squid's expressions, which would take longer than asking",
            });
        }
        if !unexpressed.is_empty() {
            (path, agent) = (vec![EVERYTHING.to_owned()], Vec::new());
            (long_path, long_agent) = (path.clone(), Vec::new());
        }
        if agent.is_empty() {
            agent.push(NOTHING.to_owned());
            long_agent.push(NOTHING.to_owned());
        }
        Self { path, long_path, host, agent, long_agent, rules: covered, over_headers, unexpressed, stamp: Stamp::of(rules) }
    }
}

/// The part of a request by which Squid knows that a rule may match.
enum Part {
    /// The method: Squid asks about every request with such a one.
    Method,
    Url(Needs),
    Agent(Needs),
}

/// The part that costs Squid least. All patterns of a rule must match, so one of them is enough.
fn part(pattern: &RequestPattern) -> Result<Part, &'static str> {
    let is_unusual = |method: &String| !ORDINARY_METHODS.contains(&method.as_str());
    if !pattern.methods.is_empty() && pattern.methods.iter().all(is_unusual) {
        return Ok(Part::Method);
    }
    let fields =
        [(Field::Path, &pattern.path), (Field::Query, &pattern.query), (Field::Url, &pattern.url), (Field::Agent, &pattern.user_agent)];
    if fields.iter().all(|(_, text)| text.is_none()) {
        return Err("it matches an ordinary method whatever the request is");
    }
    let needs = fields.into_iter().filter_map(|(field, text)| Some((field, necessary::of(text.as_deref()?, field)?)));
    let cheapest = needs.min_by(|(_, one), (_, other)| one.cost().total_cmp(&other.cost()));
    match cheapest {
        Some((_, needs)) if needs.cost() > cost::OF_ASKING / 2.0 => Err("half of all requests have what its pattern is certain to hold"),
        Some((Field::Agent, needs)) => Ok(Part::Agent(needs)),
        Some((_, needs)) => Ok(Part::Url(needs)),
        None => Err("nothing is certain to be in what its pattern matches"),
    }
}
