//! Asks the local API.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use ureq::Agent;

use super::body::{self, Part, WireDecision};
use crate::config::crowdsec::CrowdsecConfig;
use crate::config::secret::first_line;
use crate::control::answer::one_line;
use crate::control::unit::explained;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the answer may take to begin: before its first byte, CrowdSec 1.4 collects all decisions.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long everything may take.
const TIMEOUT: Duration = Duration::from_secs(180);
/// How CrowdSec wants a bouncer to name itself: a name and a version.
const USER_AGENT: &str = concat!("crowdsec-strikeout-bouncer/v", env!("CARGO_PKG_VERSION"));
/// Maximum number of characters of a fault that are shown.
const MAX_FAULT: usize = 300;

/// Asks for all decisions that are in force, or for what has changed since the last question, and calls `take` with each.
///
/// # Errors
/// There was no whole answer, for this reason. `take` may have been called all the same.
pub fn ask(config: &CrowdsecConfig, all: bool, take: impl FnMut(Part, WireDecision)) -> Result<(), String> {
    // Read each time, so that a new key needs no restart.
    let asked = first_line(&config.key_file).map_err(|error| error.to_string()).and_then(|key| get(config, &key, all, take));
    asked.map_err(|fault| one_line(&format!("CrowdSec at {}: {fault}", config.url.as_str())).chars().take(MAX_FAULT).collect())
}

fn get(config: &CrowdsecConfig, key: &str, all: bool, take: impl FnMut(Part, WireDecision)) -> Result<(), String> {
    // Without `dedup=false` only the decision about a target that ends last is reported. All scopes are asked for, so that those that cannot be
    // taken are counted.
    let url = format!("{}/v1/decisions/stream?startup={all}&dedup=false&scopes=ip,range,as,country", config.url.as_str());
    let agent: Agent = Agent::config_builder()
        .proxy(None)
        // The key would go along.
        .max_redirects(0)
        .http_status_as_error(false)
        .user_agent(USER_AGENT)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_global(Some(TIMEOUT))
        .build()
        .into();
    let answer = agent.get(&url).header("X-Api-Key", key).call().map_err(|error| match error {
        // The URL is checked, so it is the key that cannot be sent. The error would quote it.
        ureq::Error::Http(_) => format!("found a key that cannot be sent in {}", config.key_file.display()),
        error => explained(error.to_string()),
    })?;
    match answer.status().as_u16() {
        200 => body::read(answer.into_body().into_reader(), max_answer(config), take),
        401 | 403 => Err(format!("it refuses the key in {}; for a new one: cscli bouncers add NAME", config.key_file.display())),
        status if (300..400).contains(&status) => {
            Err(format!("found a redirect (status {status}), which is not followed: the key would go along"))
        }
        status => Err(format!("found the status {status}, expected 200")),
    }
}

/// Maximum length of an answer, in bytes: far more than the decisions that are taken need.
fn max_answer(config: &CrowdsecConfig) -> u64 {
    (config.decisions.get() as u64 * 1024).max(64 << 20)
}

/// Whether every user of this machine can read the key.
pub fn is_public(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|found| found.mode() & 0o004 != 0)
}
