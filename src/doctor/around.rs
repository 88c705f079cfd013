//! What is checked around the verdicts: logs, lists, the operator's own address, who makes most of the traffic, fleet, hook, metrics.

use std::path::Path;

use super::facts::Facts;
use super::report::Finding;
use crate::control::status::{CrawlerStatus, FleetStatus, HostStatus, PrefilterStatus};
use crate::list::ListSource;
use crate::prefilter::files::commands;

/// How many bytes of a log may wait.
const MAX_LAG: u64 = 1 << 20;
/// Networks of fewer bits than these on a never-ban list are hardly meant.
const SHORTEST: (u8, u8) = (8, 16);
const RELOAD: &str = "strikeout reload";

/// Whether each log is there, readable, understood, in time.
pub fn logs(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "logs";
    let Some((status, _)) = facts.running() else { return Vec::new() };
    let findings = status.logs.iter().map(|log| {
        let path = &log.path;
        match &log.fault {
            Some(fault) if log.missing => Finding::fault(
                CHECK,
                format!("{path}: {fault}"),
                format!("correct its path, or write optional = true in its [[log]], then: {RELOAD}"),
            ),
            Some(fault) if fault.contains("denied") => Finding::fault(
                CHECK,
                format!("{path}: {fault}"),
                format!("add the group of {path} to SupplementaryGroups= (systemctl edit strikeout), then: systemctl restart strikeout"),
            ),
            Some(fault) => Finding::fault(
                CHECK,
                format!("{path}: {fault}"),
                format!("strikeout test LINE shows how one is read; change its [[log]], then: {RELOAD}"),
            ),
            None if log.lag > MAX_LAG => {
                Finding::warning(CHECK, format!("{path}: {} KiB are not read yet", log.lag >> 10), "strikeout status --watch")
            }
            None if log.missing => Finding::ok(CHECK, format!("{path} is not there yet")),
            None => Finding::ok(CHECK, format!("{path} is read and understood")),
        }
    });
    findings.collect()
}

/// Whether the never-ban lists spare those who must be spared, and nobody else.
pub fn lists(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "lists";
    let Ok(config) = &facts.config else { return Vec::new() };
    let lists = &config.lists;
    let networks = |sources: &[ListSource]| sources.iter().map(|source| source.networks().len()).sum::<usize>();
    let spared = lists.ignoreip().iter().chain(lists.trusted_proxies());
    let broad = spared
        .flat_map(|source| source.networks().iter())
        .find(|network| network.prefix_len() < if network.addr().is_ipv4() { SHORTEST.0 } else { SHORTEST.1 });
    let mut findings = vec![match broad {
        Some(network) => Finding::warning(
            CHECK,
            format!("{network} is on a never-ban list, so hardly anybody can be banned"),
            format!("remove it from ignoreip or trusted_proxies, then: {RELOAD}"),
        ),
        None => {
            let (ignored, proxies, denied) = (networks(lists.ignoreip()), networks(lists.trusted_proxies()), networks(lists.deny()));
            Finding::ok(CHECK, format!("{ignored} networks are never banned, {proxies} are trusted proxies, {denied} are always refused"))
        }
    }];
    findings.extend(facts.running().into_iter().flat_map(|(status, _)| &status.hosts).map(host));
    findings.extend(facts.running().into_iter().flat_map(|(status, _)| &status.crawlers).map(crawler));
    findings.extend(session(facts));
    findings
}

/// A crawler of `verified_crawlers`.
fn crawler(crawler: &CrawlerStatus) -> Finding {
    const CHECK: &str = "crawlers";
    let CrawlerStatus { name, verified, refuted, unknown, .. } = crawler;
    if *unknown > 0 {
        let text = format!("{unknown} clients that say they are {name} could not be looked up, so they are judged like everybody");
        return Finding::fault(CHECK, text, "look at /etc/resolv.conf and: getent hosts 66.249.66.1");
    }
    Finding::ok(CHECK, format!("{name}: {verified} clients are verified, {refuted} only said so"))
}

/// A host name in `ignoreip`.
fn host(host: &HostStatus) -> Finding {
    const CHECK: &str = "hosts";
    let HostStatus { name, addresses, answered_ago, fault, .. } = host;
    let known = match answered_ago {
        Some(age) => {
            format!("{} {} never banned, as answered {age} s ago", addresses.join(" "), if addresses.len() == 1 { "is" } else { "are" })
        }
        None => "none of its addresses is known, so it can be banned".to_owned(),
    };
    match fault {
        Some(fault) => Finding::fault(
            CHECK,
            format!("{name} in ignoreip: {fault}; {known}"),
            format!("look at: getent ahosts {name}; or write addresses instead, then: {RELOAD}"),
        ),
        None if answered_ago.is_none() => Finding::warning(CHECK, format!("{name} in ignoreip is being looked up"), "strikeout doctor"),
        None => Finding::ok(CHECK, format!("{name} in ignoreip: {known}")),
    }
}

/// Whether the operator's own address can be banned.
fn session(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "your-address";
    let session = facts.session.as_ref()?;
    let address = session.address;
    let remedy = format!("echo 'defaults.ignoreip = [\"{address}\"]' > /etc/strikeout/conf.d/office.toml && {RELOAD}");
    Some(match &session.never_banned {
        Some(reason) => Finding::ok(CHECK, format!("your own address {address} is never banned: {reason}")),
        None if session.is_refused => {
            Finding::fault(CHECK, format!("your own address {address} is refused now"), format!("strikeout unban {address}; {remedy}"))
        }
        None => Finding::warning(CHECK, format!("your own address {address} (of this SSH session) is on no never-ban list"), remedy),
    })
}

/// Whether one client makes most of the traffic: perhaps a balancer that nobody named.
pub fn traffic(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "traffic";
    let Some((status, _)) = facts.running() else { return Vec::new() };
    let findings = status.heaviest.iter().map(|heavy| {
        let text = heavy.to_string();
        match &heavy.never_banned {
            Some(_) => Finding::warning(
                CHECK,
                text,
                "let the server learn its clients' addresses from it: /usr/share/doc/strikeout/load-balancer.md",
            ),
            None => {
                let piece =
                    format!("echo 'defaults.trusted_proxies = [\"{0}\"]' > /etc/strikeout/conf.d/balancer.toml && {RELOAD}", heavy.client);
                let remedy = format!(
                    "if it is a load balancer or a mail gateway of yours: {piece}; and read /usr/share/doc/strikeout/load-balancer.md"
                );
                if heavy.is_banned { Finding::fault(CHECK, text, remedy) } else { Finding::warning(CHECK, text, remedy) }
            }
        }
    });
    findings.collect()
}

/// Fleet, hook and metrics, where they are configured.
pub fn services(facts: &Facts) -> Vec<Finding> {
    let Some((status, config)) = facts.running() else { return Vec::new() };
    let mut findings = Vec::new();
    match &status.fleet {
        Some(FleetStatus::Ok) => findings.push(Finding::ok("fleet", "bans are shared with the fleet")),
        Some(FleetStatus::CutOff(reason)) => {
            findings.push(Finding::fault(
                "fleet",
                format!("no bans are shared with the fleet: {reason}"),
                "look at the server that [fleet] url names, and its password: /usr/share/doc/strikeout/fleet.md",
            ));
        }
        None if config.fleet.is_some() => {
            findings.push(Finding::warning("fleet", "[fleet] is not in force yet", "systemctl restart strikeout"))
        }
        None => {}
    }
    let runs = status.hook.unwrap_or_default();
    match &facts.hook {
        Some(Err(fault)) => findings.push(Finding::fault(
            "hook",
            format!("the hook's program cannot be run: {fault}"),
            format!("correct [hook] command, then: {RELOAD}"),
        )),
        Some(Ok(())) if runs.failed + runs.killed + runs.dropped > 0 => {
            let text = format!(
                "{} runs of the hook failed, {} were killed, for {} changes it was not run",
                runs.failed, runs.killed, runs.dropped
            );
            findings.push(Finding::warning("hook", text, "journalctl -u strikeout | grep hook"));
        }
        Some(Ok(())) => findings.push(Finding::ok("hook", format!("the hook has run {} times without a fault", runs.done))),
        None => {}
    }
    match &facts.metrics {
        Some(Err(fault)) => findings.push(Finding::fault(
            "metrics",
            format!("the metrics are not served: {fault}"),
            "systemctl restart strikeout; journalctl -u strikeout -n 20",
        )),
        Some(Ok(())) => findings.push(Finding::ok("metrics", "the metrics are served")),
        None => {}
    }
    findings.extend(status.prefilters.iter().map(prefilter));
    findings
}

/// The expressions of a Squid in the fast form.
fn prefilter(status: &PrefilterStatus) -> Finding {
    match &status.stale {
        Some(stale) => Finding::warning("prefilter", stale.clone(), commands(Path::new(&status.directory))),
        None => Finding::ok("prefilter", format!("the expressions in {} cover all rules in force", status.directory)),
    }
}
