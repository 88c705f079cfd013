//! All checks of one Squid, in the order in which a request meets them.

use std::path::Path;

use super::external::External;
use super::{access, forwarded, telling_log};
use crate::doctor::facts::{Facts, HelperFacts, PrefilterFacts, ServerFacts, SquidFacts, is_same_path};
use crate::doctor::report::{Finding, Level};
use crate::doctor::server;
use crate::prefilter::files::commands;

/// The oldest Squid that the examples work with.
const OLDEST: u32 = 5;

/// The findings about all Squids that run.
pub fn check(facts: &Facts) -> Vec<Finding> {
    if facts.squids.is_empty() {
        return vec![match &facts.stopped.squid {
            Some(config) => {
                let text = format!("no Squid runs here, although {} asks Strikeout", config.display());
                Finding::warning("squid", text, "systemctl start squid; journalctl -u squid -n 20")
            }
            None => Finding::ok("squid", "no Squid runs here"),
        }];
    }
    facts.squids.iter().flat_map(|squid| of_one(squid, facts)).collect()
}

fn of_one(squid: &SquidFacts, facts: &Facts) -> Vec<Finding> {
    let ServerFacts { pid, config, version, .. } = &squid.server;
    let version = version.as_deref().unwrap_or_default();
    let mut findings = vec![match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major < OLDEST => {
            Finding::fault("squid", format!("Squid {version} runs (pid {pid}), expected {OLDEST} or newer"), "install a newer Squid")
        }
        _ => Finding::ok("squid", format!("Squid {version} runs (pid {pid}) with {}", config.display()).replace("  ", " ")),
    }];
    if let Some(unread) = squid.config.unread.first() {
        findings.push(Finding::warning(
            "squid-config",
            format!("a part of Squid's configuration cannot be read: {unread}"),
            "sudo strikeout doctor",
        ));
    }
    let lines = External::all(&squid.config);
    if lines.is_empty() {
        let text = format!("{} does not name {}, so Squid asks about nothing", config.display(), super::external::PROGRAM);
        findings.push(Finding::fault(
            "squid-helper",
            text,
            "follow /usr/share/doc/strikeout/install-squid.md: copy squid-failopen.conf into conf.d, then: systemctl restart squid",
        ));
        return findings;
    }
    findings.push(helper(squid, facts));
    findings.extend(socket(&lines, facts));
    if lines.iter().any(|line| line.table().is_some()) {
        findings.extend(server::group(&squid.server, &facts.socket, "squid", "squid"));
    }
    findings.extend(format(&lines));
    findings.extend(cache(&lines));
    findings.extend(fast_form(squid));
    findings.extend(access::check(&squid.config, &lines));
    findings.extend(server::is_current(&squid.server, squid.newest.as_ref(), "squid", "squid -k reconfigure"));
    if let Ok(config) = &facts.config {
        findings.extend(forwarded::check(&squid.config, &config.lists));
        let followed = facts.daemon.as_ref().map(|status| status.logs.as_slice()).unwrap_or_default();
        findings.push(telling_log::check(&squid.config, &config.logs, followed));
    }
    let is_blamed = findings.iter().any(explains_no_attachment);
    if let Ok(status) = &facts.daemon {
        findings.extend(attached(squid, &lines, status.subscribers, status.asked.squid, is_blamed));
    }
    findings
}

/// Whether a finding says why no helper is attached to the daemon.
fn explains_no_attachment(finding: &Finding) -> bool {
    finding.level != Level::Ok && ["squid-socket", "squid-group", "squid-helper"].contains(&finding.check.as_str())
}

/// The files by which Squid itself knows what it need not ask about: without them it asks about nothing.
fn fast_form(squid: &SquidFacts) -> Vec<Finding> {
    const CHECK: &str = "squid-prefilter";
    let of_prefilter = |prefilter: &PrefilterFacts| {
        let remedy = commands(&prefilter.directory);
        match (&prefilter.fault, &prefilter.stale) {
            (Some(fault), _) => Finding::fault(CHECK, format!("{fault}, so Squid does not know what to ask about"), remedy),
            (None, Some(stale)) => Finding::warning(CHECK, stale.clone(), remedy),
            (None, None) => Finding::ok(CHECK, format!("the expressions in {} are there", prefilter.directory.display())),
        }
    };
    let missing = squid.unread_expressions.iter().map(|(place, fault)| {
        let text = format!("{place} names a file that cannot be read, so it matches nothing: {fault}");
        Finding::fault(CHECK, text, "correct its path or write the file, then: squid -k reconfigure")
    });
    squid.prefilters.iter().map(of_prefilter).chain(missing).collect()
}

/// The helper's program.
fn helper(squid: &SquidFacts, facts: &Facts) -> Finding {
    const CHECK: &str = "squid-helper";
    let faulty = squid.helpers.iter().find_map(|HelperFacts { program, version }| Some((program, version.as_ref().err()?)));
    if let Some((program, fault)) = faulty {
        return Finding::fault(CHECK, format!("{} cannot be run: {fault}", program.display()), "apt-get install --reinstall strikeout");
    }
    let other = squid
        .helpers
        .iter()
        .find_map(|HelperFacts { program, version }| Some((program, version.as_ref().ok().filter(|version| **version != facts.version)?)));
    if let Some((program, version)) = other {
        let text = format!("{} has the version {version}, this program {}", program.display(), facts.version);
        return Finding::warning(CHECK, text, "apt-get install --reinstall strikeout");
    }
    if squid.helper_is_replaced {
        let text = "Squid still runs the helper of an earlier installation";
        return Finding::warning(CHECK, text, "squid -k reconfigure");
    }
    let programs: Vec<String> = squid.helpers.iter().map(|helper| helper.program.display().to_string()).collect();
    Finding::ok(CHECK, format!("the helper is {}", programs.join(", ")))
}

/// Whether the helper asks the daemon whose socket the configuration names.
fn socket(lines: &[External<'_>], facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "squid-socket";
    let socket = &facts.socket.path;
    if facts.socket.is_guessed {
        return Vec::new();
    }
    let other = lines.iter().find_map(|line| Some((line, line.table().filter(|table| !is_same_path(table, socket))?)));
    if let Some((line, table)) = other {
        let text = format!("{} asks on {}, and the daemon listens on {}", line.line.place(), table.display(), socket.display());
        return vec![Finding::fault(CHECK, text, format!("write --table {} there, then: squid -k reconfigure", socket.display()))];
    }
    let alone = lines.iter().find(|line| line.table().is_none());
    match alone {
        Some(line) if facts.daemon.is_ok() => {
            let text = format!("{} starts a helper with a table of its own, so it knows no ban of the daemon's", line.line.place());
            vec![Finding::warning(CHECK, text, format!("write --table {} there, then: squid -k reconfigure", socket.display()))]
        }
        Some(_) => vec![Finding::ok(CHECK, "the helper has a table of its own")],
        None => vec![Finding::ok(CHECK, format!("the helper asks on {}", socket.display()))],
    }
}

/// The fields that the helper reads by their position.
fn format(lines: &[External<'_>]) -> Option<Finding> {
    /// What is expected at each position, and what it is called.
    const FIELDS: [(&[&str], &str); 3] =
        [(&["%>a", "%SRC"], "the address, %>a"), (&["%>rm", "%METHOD"], "the method, %>rm"), (&["%>ru", "%URI"], "the URL, %#>ru")];
    const EXPECTED: &str = "%>a %>rm %#>ru %#.300{User-Agent}>h %#{Sec-Fetch-Site}>h";
    let remedy = |line: &External<'_>| format!("write {EXPECTED} in {}, then: squid -k reconfigure", line.line.place());
    for line in lines {
        let wrong = line.format.iter().zip(FIELDS).find(|(found, (expected, _))| !expected.contains(&found.replace('#', "").as_str()));
        if let Some((found, (_, expected))) = wrong {
            let text = format!("{} gives {found} where the helper expects {expected}", line.line.place());
            return Some(Finding::fault("squid-format", text, remedy(line)));
        }
        if line.format.is_empty() {
            return Some(Finding::fault("squid-format", format!("{} gives the helper no address", line.line.place()), remedy(line)));
        }
        if line.format.get(2).is_some_and(|url| !url.contains('#')) {
            let text = format!("{} gives the URL without #, so that %20 and a space look the same to the rules", line.line.place());
            return Some(Finding::warning("squid-format", text, remedy(line)));
        }
        if line.asks_about_request() && line.format.len() < 5 {
            let text = format!(
                "{} gives the helper {} of 5 fields: without Sec-Fetch-Site a page of a stranger's can get its visitors banned",
                line.line.place(),
                line.format.len()
            );
            return Some(Finding::warning("squid-format", text, remedy(line)));
        }
        if let Some(text) = wrong_headers(line) {
            let remedy = format!(
                "give --headers the names behind the Referer in {}, in the same order, then: squid -k reconfigure",
                line.line.place()
            );
            return Some(Finding::fault("squid-format", text, remedy));
        }
    }
    None
}

/// What is wrong with the headers behind the Referer, of which the helper knows the names by its `--headers` alone.
fn wrong_headers(line: &External<'_>) -> Option<String> {
    /// Where the headers begin.
    const HEADERS: usize = 6;
    let name = |code: &&str| {
        code.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or_else(String::new, |(name, _)| name.to_lowercase())
    };
    let given: Vec<String> = line.format.iter().skip(HEADERS).map(name).collect();
    let named = line.argument("--headers").unwrap_or_default().to_lowercase();
    let named: Vec<&str> = named.split(',').filter(|name| !name.is_empty()).collect();
    if given == named {
        return None;
    }
    let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(",") };
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    Some(format!("{} gives the headers {} and names {} to the helper", line.line.place(), list(&given), list(&named)))
}

/// Whether each request reaches the helper, many at a time.
fn cache(lines: &[External<'_>]) -> Option<Finding> {
    let finding = |line: &External<'_>, text: &str, options: &str| {
        let remedy = format!("write {options} in {}, then: squid -k reconfigure", line.line.place());
        Some(Finding::warning("squid-cache", format!("{}: {text}", line.line.place()), remedy))
    };
    for line in lines {
        let is_zero = |name| line.option(name) == Some("0");
        if line.asks_about_request() && !(is_zero("ttl") && is_zero("cache") && line.option("negative_ttl").is_none_or(|ttl| ttl == "0")) {
            return finding(
                line,
                "Squid answers repeated requests from its cache, so they count once",
                "ttl=0 negative_ttl=0 grace=0 cache=0",
            );
        }
        let ttl = |name| line.option(name).map_or(3600, |ttl: &str| ttl.parse().unwrap_or(0));
        if !line.asks_about_request() && ttl("ttl").max(line.option("negative_ttl").map_or(ttl("ttl"), |ttl| ttl.parse().unwrap_or(0))) > 60
        {
            return finding(line, "Squid keeps an answer for more than a minute, so bans and unbans come late", "ttl=1 negative_ttl=1");
        }
        if line.option("concurrency").is_none_or(|concurrency| concurrency == "0") {
            return finding(line, "without concurrency each request waits for the one before", "concurrency=500 queue-size=5000");
        }
        if line.option("queue-size").is_none() {
            return finding(line, "without queue-size only two requests for each helper may wait, and more are denied", "queue-size=5000");
        }
    }
    None
}

/// Whether helpers are attached to the daemon, and when one asked last.
fn attached(squid: &SquidFacts, lines: &[External<'_>], subscribers: usize, last: Option<u64>, is_blamed: bool) -> Option<Finding> {
    const CHECK: &str = "squid-attached";
    lines.iter().any(|line| line.table().is_some()).then_some(())?;
    let text = match (subscribers, squid.running_helpers) {
        (0, 0) => "Squid has started no helper yet: the first request does".to_owned(),
        // What keeps it away is a finding of its own.
        (0, _) if is_blamed => return None,
        (0, running) => {
            let text = format!("{running} of Squid's helpers run, and none is attached to the daemon");
            return Some(Finding::fault(
                CHECK,
                text,
                "look for `cannot be reached` in /var/log/squid/cache.log, then: squid -k reconfigure",
            ));
        }
        (attached, _) => format!("{attached} of Squid's helpers are attached"),
    };
    Some(Finding::ok(CHECK, format!("{text}; {}", server::last_asked("Squid", last))))
}

/// The programs that a configuration names as our helper, each once.
pub fn programs(config: &crate::doctor::squid_config::SquidConfig) -> Vec<&Path> {
    let mut programs: Vec<&Path> = External::all(config).iter().map(|line| line.program).collect();
    programs.sort_unstable();
    programs.dedup();
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_keeps_a_helper_away_silences_that_none_is_attached() {
        let blames = |check: &str| explains_no_attachment(&Finding::fault(check, "", ""));
        assert!(["squid-socket", "squid-group", "squid-helper"].into_iter().all(blames));
        assert!(!["squid-log", "squid-clients", "squid-format", "squid-reload"].into_iter().any(blames));
        assert!(!explains_no_attachment(&Finding::ok("squid-group", "")));
    }

    #[test]
    fn expressions_that_cannot_be_read_are_a_fault_and_old_ones_a_warning() {
        let found = |fault: Option<&str>, stale: Option<&str>, unread: &[(&str, &str)]| {
            let prefilter = PrefilterFacts { directory: "/d".into(), fault: fault.map(str::to_owned), stale: stale.map(str::to_owned) };
            let unread_expressions = unread.iter().map(|(place, fault)| ((*place).to_owned(), (*fault).to_owned())).collect();
            let squid = SquidFacts { prefilters: vec![prefilter], unread_expressions, ..SquidFacts::default() };
            fast_form(&squid).into_iter().map(|finding| (finding.level, finding.text)).collect::<Vec<_>>()
        };
        let ok = (Level::Ok, "the expressions in /d are there".to_owned());
        assert_eq!(found(None, None, &[]), std::slice::from_ref(&ok));
        let missing = found(Some("/d/path.regex: No such file"), Some("stale"), &[]);
        assert_eq!(missing, [(Level::Fault, "/d/path.regex: No such file, so Squid does not know what to ask about".to_owned())]);
        assert_eq!(found(None, Some("older than the rule one"), &[]), [(Level::Warning, "older than the rule one".to_owned())]);
        let other = found(None, None, &[("/s:3", "/x: No such file")]);
        assert!(other[0] == ok && other[1].0 == Level::Fault && other[1].1.contains("/s:3 names a file"), "{other:?}");
    }
}
